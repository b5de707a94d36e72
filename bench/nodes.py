"""Random LSTM, GRU and RNN nodes beside onnxruntime: of which sizes and options is it ahead?

    python -m bench.nodes --nodes 300

A seed gives the same nodes again. Outputs are compared before anything is timed; the table shows the nodes at which we are slowest beside it.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from math import sqrt
from statistics import geometric_mean
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import fastlstm
from bench.blocks import interleaved
from bench.graphs import compare, onnxruntime_session
from fastlstm.converters.from_onnx import from_onnx
from fastlstm.errors import FastLSTMError, InputError

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OTHERS = {"LSTM": ["HardSigmoid", "Tanh", "Tanh"], "GRU": ["HardSigmoid", "Tanh"], "RNN": ["Relu"]}
ROWS = (1, 1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
STEPS = (1, 1, 5, 10, 20, 50, 100)
INPUTS = (1, 3, 8, 16, 40, 64, 80, 128, 256, 512)
UNITS = (4, 8, 10, 16, 24, 32, 40, 48, 50, 64, 80, 100, 128, 150, 200, 256, 300, 384, 512)
MOST = 300_000_000  # about: multiply-adds of a call
SECONDS = 0.3
SHOWN = 20


@dataclass(frozen=True)
class Node:
    """One recurrent node without an initial state; `lengths` says whether its rows have lengths, `variant` what else it has."""

    op: str
    B: int
    T: int
    I: int
    H: int
    direction: str
    lengths: bool
    variant: str

    def file(self, rng: np.random.Generator) -> bytes:
        """Return the node as a graph with random weights: X (T, B, I), and lengths (B,) if it has them."""
        directions, gates = 1 + (self.direction == "bidirectional"), GATES[self.op]
        draw = lambda *shape: (rng.standard_normal(shape) / sqrt(shape[-1])).astype(np.float32)
        weights = {"W": draw(directions, gates * self.H, self.I), "R": draw(directions, gates * self.H, self.H)}
        weights["B"] = draw(directions, 2 * gates * self.H)
        infos = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "B", self.I])]
        infos += [helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"])] * self.lengths
        options: dict[str, Any] = (
            {"activations": OTHERS[self.op] * directions} if self.variant == "other activations" else {}
        )
        if self.op == "GRU":
            options["linear_before_reset"] = int(self.variant == "reset after")
        names = ["X", *weights, *["lengths"] * self.lengths]
        node = helper.make_node(
            self.op, names, ["Y"], hidden_size=self.H, direction=self.direction, name="node", **options
        )
        result = helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["T", directions, "B", self.H])
        kept = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        graph = helper.make_graph([node], "node", infos, [result], kept)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=9)
        return model.SerializeToString()

    def inputs(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        arrays = {"X": rng.standard_normal((self.T, self.B, self.I), np.float32)}
        return arrays | ({"lengths": rng.integers(1, self.T + 1, self.B).astype(np.int32)} if self.lengths else {})


def drawn(seed: int) -> Iterator[Node]:
    """Yield random nodes without end."""
    choose = random.Random(seed)
    while True:
        op = choose.choice(("LSTM", "LSTM", "GRU", "GRU", "RNN"))
        B, T, I, H = (choose.choice(sizes) for sizes in (ROWS, STEPS, INPUTS, UNITS))
        direction = choose.choice(("forward", "forward", "reverse", "bidirectional"))
        lengths = choose.random() < 0.1
        variant = "other activations" if choose.random() < 0.1 else ""
        if op == "GRU" and not variant:
            variant = choose.choice(("reset after", "reset before"))
        if B * T * (I + H) * H * GATES[op] <= MOST:
            yield Node(op, B, T, I, H, direction, lengths, variant)


def timed(node: Node, seed: int, threads: int = 1, seconds: float = SECONDS) -> tuple[float, float]:
    """Return the medians of the seconds of our call and of onnxruntime's. Raise FastLSTMError where outputs differ."""
    rng = np.random.default_rng(seed)
    file, given = node.file(rng), node.inputs(rng)
    session, other = fastlstm.Session(from_onnx(file, {}), threads=threads), onnxruntime_session(file, threads)
    x = given if node.lengths else given["X"]
    ours, theirs = lambda: session.run(x), lambda: other.run(None, given)
    compare(f"{node}", ours(), {"Y": theirs()[0]})
    times = interleaved({"ours": ours, "theirs": theirs}, seconds, threads=threads, rounds=3)
    return times.median("ours"), times.median("theirs")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.nodes", description="Random nodes beside onnxruntime.")
    parser.add_argument("--nodes", type=int, default=300, help="how many (300)")
    parser.add_argument("--seed", type=int, default=1, help="which (1)")
    parser.add_argument("--threads", type=int, default=1, help="of both engines (1)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time of a node, both engines ({SECONDS:g})")
    given = parser.parse_args(arguments)
    try:
        if given.nodes < 1:
            raise InputError(f"--nodes {given.nodes}: expected at least 1")
        found = []
        for k, node in zip(range(given.nodes), drawn(given.seed), strict=False):
            ours, theirs = timed(node, k, given.threads, given.seconds)
            found.append((theirs / ours, ours, theirs, node))
    except FastLSTMError as error:
        print(f"bench.nodes: {error}", file=sys.stderr)
        return 2
    found.sort(key=lambda each: each[0])
    print("| node (B, T, I, H) | fastlstm | onnxruntime | onnxruntime / ours |")
    print("|---|---:|---:|---:|")
    for ratio, ours, theirs, node in found[:SHOWN]:
        op, *dims, direction, lengths, variant = astuple(node)
        words = ", ".join(word for word in (direction, "lengths" if lengths else "", variant) if word)
        print(f"| {op} {tuple(dims)} {words} | {ours * 1e6:.1f} | {theirs * 1e6:.1f} | {ratio:.2f} |")
    ratios = [each[0] for each in found]
    behind = sum(ratio < 1 for ratio in ratios)
    print(f"\nonnxruntime over ours, geometric mean of {len(ratios)}: {geometric_mean(ratios):.2f}; below 1: {behind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

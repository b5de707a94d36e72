"""Damaged ONNX graphs: whatever the bytes, a load gives a model or one line of our error, soon, in little memory, and does nothing else; so does a run.

`PYTHONPATH=tests python [-O] tests/converters/hostile_onnx.py --count 100000 --nodes --run [FILE ...]` mutates random recurrent nodes, graphs with functions and data outside,
the node tests of the installed `onnx` package and the files given, loads each, runs what loads, and ends with exit code 1 and what went wrong at the
first that breaks a rule. Every mutation is known by its seed and number.
"""

import argparse
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hostile import Results, Watch
from node_tests import node_tests
from onnx import TensorProto, helper, parser
from random_onnx import draw

import fastlstm
from fastlstm.converters.from_onnx import from_onnx, walk
from fastlstm.converters.onnx_graph import handlers
from fastlstm.errors import FastLSTMError
from fastlstm.verify import random_inputs

SCRATCH = 64 << 20  # buffers of a run
RUN_SECONDS = 60.0  # of which a kernel that is compiled takes most
INTS = (0, 1, 2, 3, -1, -2, 7, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-30, 3e38, -3e38, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "x",
    "../x",
    "forward",
    "reverse",
    "bidirectional",
    "constant",
    "Tanh",
    "Affine",
    "ai.onnx",
    "mine",
    "é" * 50,
    "ij,jk->ik",
    "...i->i",
)
KEPT = 64  # bytes of weights beyond which only their number is of interest

FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "mine": 1]>
whole (float[n, 3] x, int64 count) => (float[n, 3] y, float last) {
    twice = mine.Twice <slope = 0.5> (x)
    one = Constant <value = bool {1}> ()
    y, all = Loop (count, one, twice) <body = each (int64 i, bool go, float[n, 3] v) => (bool on, float[n, 3] w, float s) {
        on = Identity (go)
        w = mine.Twice (v)
        s = ReduceSum <keepdims = 0> (w)
    }>
    zero = Constant <value = int64 {0}> ()
    last = Gather (all, zero)
}
<domain: "mine", opset_import: ["": 17]>
Twice <slope> (a) => (c) {
    b = LeakyRelu <alpha: float = @slope> (a)
    c = Add (b, b)
}
"""


# ---- what is mutated --------------------------------------------------------------------------------------
def outside() -> Any:
    """Return a graph whose weight lies in another file."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "w.bin"), ("offset", "0"), ("length", "12")):
        w.external_data.add(key=key, value=text)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "outside", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def sources(files: list[Path], nodes: bool) -> list[dict[str, Any]]:
    """Return the graphs to mutate, by name: groups that are mutated equally often."""
    graphs = {f"recurrent {k}": draw(np.random.default_rng([k, 7])).proto() for k in range(12)}
    groups = [graphs | {"functions": parser.parse_model(FUNCTIONS), "outside": outside()}]
    groups += (
        [{path.parent.name + "/" + path.name: onnx.load_model_from_string(path.read_bytes()) for path in files}]
        if files
        else []
    )
    return groups + ([{case.name: case.model for case in node_tests()}] if nodes else [])


# ---- mutations --------------------------------------------------------------------------------------------
def mutated_bytes(data: bytes, spared: list[bytes], rng: random.Random) -> bytes:
    """Return a copy with a few bytes changed, cut out or put in, outside of the large weights; or cut short."""
    if rng.random() < 0.05:
        return data[: rng.randrange(len(data))]
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(len(out))
        for weights in spared:
            start = out.find(weights)
            if start <= at < start + len(weights):
                at = max(0, start - 1 - rng.randrange(40))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and len(out) > 8:
            del out[at : at + rng.randrange(1, 5)]
        else:
            out[at:at] = bytes(rng.choice((0, 1, 8, 127, 128, 255)) for _ in range(rng.randrange(1, 4)))
    return bytes(out)


def places(message: Any) -> list[tuple[Any, Any]]:
    """Return every set field of a message and of those within it, as (message, field)."""
    found, waiting = [], [message]
    while waiting:
        one = waiting.pop()
        for field, value in one.ListFields():
            found.append((one, field))
            if field.type == field.TYPE_MESSAGE:
                waiting.extend(value if field.is_repeated else [value])
    return found


def junk(field: Any, names: list[str], rng: random.Random) -> Any:
    """Return a value of a scalar field's type that is seldom right."""
    if field.type == field.TYPE_STRING:
        return rng.choice(names if rng.random() < 0.7 else TEXTS)
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\0" * 4, b"\xff" * 8, *(text.encode() for text in TEXTS)))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == field.TYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    return rng.choice(INTS[:11] if field.type in (field.TYPE_INT32, field.TYPE_UINT32) else INTS)


def mutated_graph(proto: Any, other: Any, rng: random.Random) -> bytes:
    """Replace, remove, repeat, exchange or borrow one to three parts of a graph."""
    changed = type(proto)()
    changed.CopyFrom(proto)
    for _ in range(rng.randrange(1, 4)):
        everywhere = places(changed)
        message, field = rng.choice(everywhere)
        names = [n for one in walk(changed.graph.node) for n in (*one.input, *one.output, one.op_type)] + [
            rng.choice(list(handlers))
        ]
        value = getattr(message, field.name)
        if field.type == field.TYPE_MESSAGE:
            _change_message(message, field, value, [*everywhere, *places(other)], rng)
        elif not field.is_repeated:
            try:
                setattr(message, field.name, junk(field, names, rng))
            except ValueError:  # a number that the field cannot hold
                message.ClearField(field.name)
        else:
            _change_list(value, field, names, rng)
    return changed.SerializeToString()


def _change_message(message: Any, field: Any, value: Any, everywhere: list, rng: random.Random) -> None:
    """Remove a message, repeat it or exchange it with its neighbour where it is one of several, or put another of its type in its place."""
    kind = rng.randrange(4)
    at = rng.randrange(len(value)) if field.is_repeated else 0
    if kind == 0 and field.is_repeated:
        del value[at]
    elif kind == 0:
        message.ClearField(field.name)
    elif kind == 1 and field.is_repeated:
        value.add().CopyFrom(value[at])
    elif kind == 2 and field.is_repeated:
        value.reverse()
    else:
        twins = [(m, f) for m, f in everywhere if f.message_type is field.message_type]
        owner, twin = rng.choice(twins)
        found = getattr(owner, twin.name)
        copy = type(found[0] if twin.is_repeated else found)()
        copy.CopyFrom(rng.choice(list(found)) if twin.is_repeated else found)
        (value[at] if field.is_repeated else value).CopyFrom(copy)


def _change_list(value: Any, field: Any, names: list[str], rng: random.Random) -> None:
    kind, at = rng.randrange(3), rng.randrange(len(value))
    try:
        if kind == 0:
            del value[at]
        elif kind == 1:
            value.insert(at, junk(field, names, rng))
        else:
            value[at] = junk(field, names, rng)
    except ValueError:
        del value[at:]


def mutation(proto: Any, others: dict[str, Any], rng: random.Random) -> bytes:
    """Return the bytes of a mutated graph, into which parts of others may come."""
    if rng.random() < 0.3:
        spared = [one.raw_data for one in proto.graph.initializer if len(one.raw_data) > KEPT]
        return mutated_bytes(proto.SerializeToString(), spared, rng)
    return mutated_graph(proto, others[rng.choice(list(others))], rng)


# ---- the program --------------------------------------------------------------------------------------------
def run(model: fastlstm.Model, seed: int) -> None:
    """Run a model on random inputs. Raise FastLSTMError."""
    session = fastlstm.Session(model, threads=1, max_scratch=SCRATCH)
    session.run(random_inputs(model, 2, 3, seed))


class Runs:
    """What the runs of loaded models gave so far."""

    def __init__(self) -> None:
        self.done = self.refused = 0

    def run(self, model: fastlstm.Model, seed: int, about: str) -> None:
        """Run a model. Raise SystemExit, saying which, where a rule is broken."""
        began, fault = time.process_time(), ""
        try:
            run(model, seed)
            self.done += 1
        except FastLSTMError as error:
            self.refused += 1
            fault = f"an error of several lines: {error}" if "\n" in str(error) else ""
        except BaseException as error:
            fault = f"a foreign exception in a run: {type(error).__name__}: {error}"
        took = time.process_time() - began
        if fault or took > RUN_SECONDS:
            raise SystemExit(f"{about}: {fault or f'a run of {took:.1f} s'}")

    def __str__(self) -> str:
        return f"{self.done + self.refused} runs: {self.done} results, {self.refused} refused"


def main(arguments: list[str] | None = None) -> None:
    """Load so many mutations, run what loads where asked to, and print what they gave."""
    given = _arguments(arguments)
    groups = sources(given.files, given.nodes)
    everything = {name: proto for group in groups for name, proto in group.items()}
    for name, proto in everything.items():  # what is imported once is imported before
        try:
            from_onnx(proto.SerializeToString(), {})
        except FastLSTMError as error:
            if name in ("functions", "recurrent 0"):
                raise SystemExit(f"{name}: {error}") from error
    Watch.begin()
    results, runs, end = Results(), Runs(), time.monotonic() + given.seconds
    for k in range(given.first, given.first + given.count) if given.only is None else [given.only]:
        if time.monotonic() > end:
            break
        rng, group = random.Random(f"{given.seed}/{k}"), groups[k % len(groups)]
        name = rng.choice(list(group))
        data = mutation(group[name], everything, rng)
        about = f"{name}, seed {given.seed}, number {k}"
        model = results.load(partial(from_onnx, data, {}), len(data), about)
        if model is not None and given.run:
            runs.run(model, k, about)
    print(results, f"; {runs}" if given.run else "", sep="")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    taking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    taking.add_argument("files", type=Path, nargs="*")
    taking.add_argument("--count", type=int, default=100_000, help="mutations (default: 100,000)")
    taking.add_argument("--run", action="store_true", help="run the models that load")
    taking.add_argument("--nodes", action="store_true", help="mutate onnx's node tests too")
    taking.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    taking.add_argument("--seed", type=int, default=1)
    taking.add_argument("--first", type=int, default=0, help="the number of the first mutation")
    taking.add_argument("--only", type=int, help="the number of the one mutation to load")
    return taking.parse_args(arguments)


if __name__ == "__main__":
    main()

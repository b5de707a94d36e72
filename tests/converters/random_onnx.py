"""Random ONNX graphs of one recurrent node, with the outputs that the operators' specification gives them.

A `Case` holds arrays in ONNX's own layout; `expected()` brings them to the oracle's (tests/naive.py) direction by direction:

    LSTM  W (D, 4H, I)  R (D, 4H, H)  B (D, 8H)  P (D, 3H)   rows i o f c, peepholes i o f
    GRU   W (D, 3H, I)  R (D, 3H, H)  B (D, 6H)              rows z r h
    RNN   W (D, H, I)   R (D, H, H)   B (D, 2H)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import naive
import numpy as np
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
INPUTS = {
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
}
OUTPUTS = {"LSTM": ("Y", "Y_h", "Y_c"), "GRU": ("Y", "Y_h"), "RNN": ("Y", "Y_h")}
STATES = ("initial_h", "initial_c")
# name: (default alpha, default beta) of the operators, None where the function has no such coefficient
COEFFICIENTS: dict[str, tuple[float | None, float | None]] = {
    "Sigmoid": (None, None), "Tanh": (None, None), "Relu": (None, None), "Softsign": (None, None), "Softplus": (None, None),
    "Affine": (1.0, 0.0), "ScaledTanh": (1.0, 1.0), "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01, None), "ThresholdedRelu": (1.0, None), "Elu": (1.0, None),
}  # fmt: skip
BOUNDED = ("Sigmoid", "Tanh", "Softsign", "HardSigmoid", "ScaledTanh")  # recurrences of the others may grow
Array = np.ndarray


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[Any, Sequence[Any]]],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    opset: int = 22,
) -> Any:
    """Return a ModelProto: inputs name -> (dtype, shape), where a shape may hold names; outputs without shapes."""
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        for name, (dtype, shape) in inputs.items()
    ]
    results = [helper.make_value_info(name, helper.make_tensor_type_proto(TensorProto.FLOAT, None)) for name in outputs]
    held = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "test", given, results, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, 3 + opset // 2))


@dataclass
class Case:
    """One recurrent node: every input in ONNX's layout, those in `run_time` passed at each run, the others constants."""

    op: str
    arrays: dict[str, Array]
    attributes: dict[str, Any] = field(default_factory=dict)
    run_time: tuple[str, ...] = ("X",)
    outputs: tuple[str, ...] = ()
    opset: int = 22
    free: bool = False  # whether steps and batch are names in the declared shape of X

    def __post_init__(self) -> None:
        self.outputs = self.outputs or OUTPUTS[self.op]

    def proto(self) -> Any:
        """Return the graph."""
        names = [name if name in self.arrays else "" for name in INPUTS[self.op]]
        while not names[-1]:
            names.pop()
        wanted = [name if name in self.outputs else "" for name in OUTPUTS[self.op]]
        while not wanted[-1]:
            wanted.pop()
        node = helper.make_node(self.op, names, wanted, "node", **self.attributes)
        inputs = {name: (self.arrays[name].dtype, self.arrays[name].shape) for name in self.run_time}
        if self.free:
            inputs["X"] = (inputs["X"][0], ("s0", "s1", self.arrays["X"].shape[2]))
        held = {name: array for name, array in self.arrays.items() if name not in self.run_time}
        return model([node], inputs, [name for name in wanted if name], held, self.opset)

    def feeds(self) -> dict[str, Array]:
        """Return the inputs of a run."""
        return {name: self.arrays[name] for name in self.run_time}

    def activations(self, directions: int) -> list[tuple]:
        """Return (name, alpha, beta) of every function: coefficients go, in order, to the functions that have them."""
        names = self.attributes.get("activations", DEFAULTS[self.op] * directions)
        given = [list(self.attributes.get(f"activation_{role}", ())) for role in ("alpha", "beta")]
        result = []
        for name in names:
            name = next(known for known in COEFFICIENTS if known.lower() == name.lower())
            usual = COEFFICIENTS[name]
            values = [
                None if default is None else rest.pop(0) if rest else default
                for default, rest in zip(usual, given, strict=True)
            ]
            result.append((name, *values))
        return result

    def expected(self, dtype: Any = np.float64) -> dict[str, Array]:
        """Return the outputs by the specification, computed in `dtype`."""
        a, count = self.arrays, len(DEFAULTS[self.op])
        layout = self.attributes.get("layout", 0)
        x = a["X"].swapaxes(0, 1) if layout else a["X"]
        direction = self.attributes.get("direction", "forward")
        runs = ["forward", "reverse"] if direction == "bidirectional" else [direction]
        functions = self.activations(len(runs))
        results = [
            self._direction(d, run == "reverse", x, layout, functions[d * count : (d + 1) * count], dtype)
            for d, run in enumerate(runs)
        ]
        stacked = {"Y": np.stack([ys for ys, *_ in results], 1)}
        for k, name in enumerate(OUTPUTS[self.op][1:], 1):
            stacked[name] = np.stack([result[k] for result in results], 0)
        if layout:
            stacked = {k: v.transpose(2, 0, 1, 3) if k == "Y" else v.swapaxes(0, 1) for k, v in stacked.items()}
        return {name: stacked[name] for name in self.outputs}

    def _direction(self, d, reverse, x, layout, functions, dtype):
        a, gates = self.arrays, GATES[self.op]
        W, R = a["W"][d], a["R"][d]
        H = R.shape[1]
        order = [0, 2, 3, 1] if self.op == "LSTM" else list(range(gates))  # i o f c -> i f c o
        W, R = (
            np.concatenate(np.split(m, gates)[:] if gates == 1 else [np.split(m, gates)[g] for g in order]).T
            for m in (W, R)
        )
        B = a["B"][d] if "B" in a else np.zeros(2 * gates * H, x.dtype)
        Wb, Rb = ([np.split(half, gates)[g] for g in order] for half in np.split(B, 2))
        options: dict[str, Any] = {
            "reverse": reverse, "activations": functions, "clip": self.attributes.get("clip"), "dtype": dtype, "masked": "zero",
        }  # fmt: skip
        if "sequence_lens" in a:
            options |= {"mask": naive.lengths_mask(a["sequence_lens"], len(x)), "length0": "zero"}
        for name in STATES:
            if name in a:
                options[name[-1] + "0"] = a[name][:, d] if layout else a[name][d]
        if self.op == "LSTM":
            if "P" in a:
                options["P"] = a["P"][d].reshape(3, H)[[0, 2, 1]]  # i o f -> i f o
            options["input_forget"] = bool(self.attributes.get("input_forget", 0))
        b = np.concatenate(Wb).astype(dtype)
        if self.op == "GRU":
            b[: 2 * H] += np.concatenate(Rb[:2])
            options["reset"] = "after" if self.attributes.get("linear_before_reset", 0) else "before"
            return naive.gru(x, W, R, b, Rb[2], **options)
        b += np.concatenate(Rb)
        return naive.lstm(x, W, R, b, **options) if self.op == "LSTM" else naive.rnn(x, W, R, b, **options)


def draw_sizes(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return T, B, I, H: mostly small and odd, now and then wider than a vector."""
    return tuple(int(rng.integers(1, high)) for high in (9, 6, 7, 40 if rng.random() < 0.2 else 9))  # type: ignore[return-value]


def draw(rng: np.random.Generator, op: str | None = None, engine: bool = False) -> Case:
    """Return a random case that float32 can compute: unbounded functions, as gates too, make recurrences that grow without end.

    `engine` leaves out what ONNX Runtime refuses, or computes otherwise than the specification.
    """
    while True:
        case = _draw(rng, op, engine)
        with np.errstate(over="ignore", invalid="ignore"):
            exact, rounded = case.expected(), case.expected(np.float32)
            off = [np.abs(rounded[k] - y) / np.maximum(1, np.abs(y)) for k, y in exact.items()]
            if all(np.all(part < 1e-6) for part in off):
                return case


def _draw(rng: np.random.Generator, op: str | None, engine: bool) -> Case:
    op = op or str(rng.choice(["LSTM", "GRU", "RNN"]))
    gates, count = GATES[op], len(DEFAULTS[op])
    T, B, I, H = draw_sizes(rng)
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D = 2 if direction == "bidirectional" else 1
    dtype = "f8" if not engine and rng.random() < 0.15 else "f4"
    opset = int(rng.choice([7, 14, 22]))
    attributes: dict[str, Any] = {} if direction == "forward" and rng.random() < 0.5 else {"direction": direction}
    if engine or rng.random() < 0.7:
        attributes["hidden_size"] = H

    def array(*shape: int, gain: float = 0.6) -> Array:
        return (gain * rng.standard_normal(shape)).astype(dtype)

    arrays = {
        "X": array(T, B, I, gain=1),
        "W": array(D, gates * H, I),
        "R": array(D, gates * H, H, gain=min(0.6, 1 / H**0.5)),
    }
    if rng.random() < 0.8:
        arrays["B"] = array(D, 2 * gates * H)
    if rng.random() < 0.4:
        arrays["sequence_lens"] = rng.integers(0, T + 1, B).astype(np.int32)
    for name in STATES[: 2 if op == "LSTM" else 1]:
        kind = rng.random()
        if kind < 0.5:
            arrays[name] = np.zeros((D, B, H), dtype) if kind < 0.15 else array(D, B, H)
    if op == "LSTM" and rng.random() < 0.4:
        arrays["P"] = array(D, 3 * H)
    if op == "LSTM" and rng.random() < 0.2:
        attributes["input_forget"] = 1
    if op == "GRU" and rng.random() < 0.7:
        attributes["linear_before_reset"] = int(rng.integers(0, 2))
    if rng.random() < 0.25 and not (engine and op == "LSTM"):
        attributes["clip"] = float(np.float32(rng.uniform(0.1, 2)))
    if rng.random() < 0.6:
        attributes |= draw_activations(rng, count * D, engine)
    if opset >= 14 and not engine and rng.random() < 0.4:
        attributes["layout"] = 1
        arrays |= {name: arrays[name].swapaxes(0, 1).copy() for name in ("X", *STATES) if name in arrays}
    run_time = ["X"] + [name for name in arrays if name != "X" and rng.random() < 0.25]
    kept = [name for name in OUTPUTS[op] if rng.random() < 0.7]
    return Case(
        op, arrays, attributes, tuple(run_time), tuple(kept) or (OUTPUTS[op][-1],), opset, bool(rng.random() < 0.5)
    )


def draw_activations(rng: np.random.Generator, count: int, explicit: bool) -> dict[str, Any]:
    """Return activations for a node, their coefficients, a part of them, or none; names in any case."""
    names = [str(rng.choice(list(COEFFICIENTS) if rng.random() < 0.4 else list(BOUNDED))) for _ in range(count)]
    attributes: dict[str, Any] = {}
    for place, role in enumerate(("alpha", "beta")):
        need = sum(COEFFICIENTS[name][place] is not None for name in names)
        given = need if explicit or rng.random() < 0.6 else int(rng.integers(0, need + 1))
        if given:
            attributes[f"activation_{role}"] = [float(np.float32(v)) for v in rng.uniform(0.1, 0.9, given)]
    style = rng.integers(0, 3)
    attributes["activations"] = [(name, name.lower(), name.upper())[style] for name in names]
    return attributes

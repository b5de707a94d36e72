"""Small random models for tests, each next to the equations (tests/naive.py) that it must follow.

`Recurrence` is one recurrent node with all its options: `.model()`, `.feeds()`, and `.expected(dtype)`, the oracle's
outputs. `network(kind, rng)` builds the small stacks that share a promise. Data are drawn in float32 or float64 once;
oracle and kernels start from the same numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import naive
import numpy as np

from fastlstm import Model
from fastlstm.graph import Graph, Node, TensorSpec
from fastlstm.ops.activations import ACTIVATIONS

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OUTPUTS = {"LSTM": ("Y", "h", "c", "last"), "GRU": ("Y", "h", "last"), "RNN": ("Y", "h", "last")}
STATES = {"LSTM": ("h", "c"), "GRU": ("h",), "RNN": ("h",)}
USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
Array = np.ndarray
Activation = tuple[str, float, float]

# The activations of fastlstm that naive.py does not spell, or spells otherwise.
for _name, _function in {
    "Exp": lambda x, a, b: naive.exponential(x),
    "Celu": lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0) / a), x),
    "LogSigmoid": lambda x, a, b: -naive.softplus(-x),
    "HardTanh": lambda x, a, b: np.clip(x, -1, 1),
    "Squareplus": lambda x, a, b: (x + np.sqrt(x * x + a)) / 2,
}.items():
    naive.ACTIVATIONS.setdefault(_name, _function)


def default(name: str) -> Activation:
    """Return an activation with the defaults of its coefficients."""
    return name, ACTIVATIONS[name].alpha, ACTIVATIONS[name].beta


def draw_activation(rng: np.random.Generator, name: str) -> Activation:
    """Return an activation with random alpha and beta where it has them."""
    known = ACTIVATIONS[name]
    low, high = {"Celu": (0.3, 2), "Squareplus": (0.5, 5), "ThresholdedRelu": (-0.5, 1)}.get(name, (-1.2, 1.2))
    alpha = float(np.float32(rng.uniform(low, high))) if known.has_alpha else known.alpha
    beta = float(np.float32(rng.uniform(-1, 1))) if known.has_beta else known.beta
    return name, alpha, beta


def model(nodes: Sequence[Node], inputs: Sequence[tuple], outputs: Sequence[str], weights: Mapping[str, Any]) -> Model:
    """Return a model from (name, dtype, shape) inputs and output names."""
    specs = tuple(TensorSpec(*spec) for spec in inputs)
    return Model(Graph(tuple(nodes), specs, tuple(TensorSpec(name, "float32", None) for name in outputs)), weights)


def weights(
    rng: np.random.Generator, kind: str, I: int, H: int, dtype: str = "float32", prefix: str = "", gain: float = 1.0
) -> dict[str, Array]:
    """Return W, U, b (and bn, P) of one node, every element distinct, scaled so that gates neither die nor saturate."""
    G = GATES[kind] * H
    shapes = {"W": (I, G), "U": (H, G), "b": (G,)}
    shapes |= {"bn": (H,)} if kind == "GRU" else {"P": (3, H)} if kind == "LSTM" else {}
    scales = {"W": 1.5 / np.sqrt(I), "U": gain / np.sqrt(H)}
    return {prefix + k: (rng.standard_normal(s) * scales.get(k, 0.5)).astype(dtype) for k, s in shapes.items()}


@dataclass(frozen=True)
class Recurrence:
    """One recurrent node with all its options, and its oracle."""

    kind: str
    T: int
    B: int
    I: int
    H: int
    seed: int
    dtype: str = "float32"
    reverse: bool = False
    batch_first: bool = False
    bias: bool = True
    bn: bool = True
    peepholes: bool = False
    states: tuple[str, ...] = ("", "")  # of h0 and c0: "" absent, "input", "constant"
    mask: str = ""  # "", "lengths", "mask", "constant"
    masked_output: str = "zero"
    empty_state: str = "carry"
    clip: float = 0.0
    input_forget: bool = False
    reset: str = "after"
    activations: tuple[Activation, ...] = ()
    outputs: tuple[str, ...] = ("Y", "h")
    runtime_weights: bool = False
    static: bool = False
    gain: float = 1.0  # of the recurrent weights: unbounded activations need less than 1

    @property
    def data(self) -> dict[str, Array]:
        """Every array of the case, by name: weights, x, h0, c0, lengths and the mask (T, B)."""
        rng = np.random.default_rng(self.seed)
        T, B, H = self.T, self.B, self.H
        data = weights(rng, self.kind, self.I, H, self.dtype, gain=self.gain)
        data["x"] = rng.standard_normal((T, B, self.I)).astype(self.dtype)
        data |= {k: rng.uniform(-1, 1, (B, H)).astype(self.dtype) for k in ("h0", "c0")}
        data["lengths"] = rng.integers(0, T + 1, B)
        data["mask"] = (
            np.arange(T)[:, None] < data["lengths"]
            if self.mask == "lengths"
            else rng.random((T, B)) < rng.choice([0.2, 0.6, 0.9])
        )
        return data

    def attributes(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "direction": "reverse" if self.reverse else "forward",
            "batch_first": self.batch_first,
            "masked_output": self.masked_output,
            "empty_state": self.empty_state,
            "clip": self.clip,
        }
        if self.activations:
            names, alphas, betas = zip(*self.activations, strict=True)
            options |= {"activations": names, "alphas": alphas, "betas": betas}
        options |= {"input_forget": self.input_forget} if self.kind == "LSTM" else {}
        return options | ({"reset": self.reset} if self.kind == "GRU" else {})

    def model(self) -> Model:
        """Return the model: the node, and a SequenceMask before it where there are lengths."""
        data, dtype = self.data, self.dtype
        B, T = (self.B, self.T) if self.static else ("B", "T")
        order = (B, T) if self.batch_first else (T, B)
        constants, inputs, nodes = {}, [("x", dtype, (*order, self.I))], []
        slots = {"X": "x", "W": "W", "U": "U"}
        slots |= {"b": "b"} if self.bias else {}
        slots |= {"bn": "bn"} if self.kind == "GRU" and self.bn else {}
        slots |= {"P": "P"} if self.kind == "LSTM" and self.peepholes else {}
        for name in slots.values():
            if name != "x":
                if self.runtime_weights:
                    inputs.append((name, dtype, data[name].shape))
                else:
                    constants[name] = data[name]
        for name, origin in zip(("h0", "c0")[: len(STATES[self.kind])], self.states, strict=False):
            slots |= {name: name} if origin else {}
            if origin == "input":
                inputs.append((name, dtype, (B, self.H)))
            elif origin == "constant":
                constants[name] = data[name]
        if self.mask == "lengths":
            inputs.append(("lengths", "int64", (B,)))
            nodes.append(Node("lens", "SequenceMask", ("lengths", "x"), ("m",), {"batch_first": self.batch_first}))
        elif self.mask == "mask":
            inputs.append(("m", "bool", order))
        elif self.mask == "constant":
            constants["m"] = np.ascontiguousarray(data["mask"].T) if self.batch_first else data["mask"]
        slots |= {"mask": "m"} if self.mask else {}
        schema = {"LSTM": "X W U b h0 c0 P mask", "GRU": "X W U b bn h0 mask", "RNN": "X W U b h0 mask"}[
            self.kind
        ].split()
        outs = tuple(name if name in self.outputs else "" for name in OUTPUTS[self.kind])
        nodes.append(Node("net", self.kind, tuple(slots.get(k, "") for k in schema), outs, self.attributes()))
        return model(nodes, inputs, self.outputs, constants)

    def feeds(self) -> dict[str, Array]:
        """Return the inputs of the model, by name."""
        data = self.data
        turn = (lambda a: np.ascontiguousarray(a.swapaxes(0, 1))) if self.batch_first else (lambda a: a)
        given = {
            "x": turn(data["x"]),
            "m": turn(data["mask"]),
            **{k: v for k, v in data.items() if k not in ("x", "mask")},
        }
        return {spec.name: given[spec.name] for spec in self.model().graph.inputs}

    def expected(self, dtype: type = np.float64, **changed: Array) -> dict[str, Array]:
        """Return the oracle's outputs, in the model's axis order; `changed` replaces arrays of `data` (x is (T, B, I))."""
        data = self.data | changed
        options: dict[str, Any] = {
            "mask": data["mask"] if self.mask else None,
            "reverse": self.reverse,
            "masked": self.masked_output,
            "length0": self.empty_state,
            "activations": self.activations or tuple(default(name) for name in USUAL[self.kind]),
            "clip": self.clip or None,
            "dtype": dtype,
        }
        options |= {
            k: data[k]
            for k, origin in zip(("h0", "c0"), self.states, strict=False)
            if origin and k[0] in STATES[self.kind]
        }
        b = data["b"] if self.bias else np.zeros_like(data["b"])
        arrays = (data["x"], data["W"], data["U"], b)
        with np.errstate(all="ignore"):
            if self.kind == "LSTM":
                P = data["P"] if self.peepholes else None
                ys, *finals = naive.lstm(*arrays, P=P, input_forget=self.input_forget, **options)
            elif self.kind == "GRU":
                bn = data["bn"] if self.bn else np.zeros_like(data["bn"])
                ys, *finals = naive.gru(*arrays, bn, reset=self.reset, **options)
            else:
                ys, *finals = naive.rnn(*arrays, **options)
        results = dict(zip(("Y", *STATES[self.kind]), (ys, *finals), strict=True))
        if self.T:
            results["last"] = ys[0 if self.reverse else -1]
        results["Y"] = ys.swapaxes(0, 1) if self.batch_first else ys
        return {name: results[name] for name in self.outputs if name in results}


@contextmanager
def watch_jumps() -> Iterator[list[float]]:
    """Collect how near the oracle's pre-activations come to a jump of a discontinuous activation."""
    nearest = [np.inf]
    kept = naive.ACTIVATIONS["ThresholdedRelu"]

    def watched(x: Array, alpha: float, beta: float) -> Array:
        if x.size and alpha != 0:
            nearest[0] = min(nearest[0], float(np.abs(x - alpha).min()))
        return kept(x, alpha, beta)

    naive.ACTIVATIONS["ThresholdedRelu"] = watched
    try:
        yield nearest
    finally:
        naive.ACTIVATIONS["ThresholdedRelu"] = kept


def draw_recurrence(rng: np.random.Generator, kind: str, most: int = 12, **fixed: Any) -> Recurrence:
    """Return a random configuration with sizes up to `most`; `fixed` options are kept."""
    coin = lambda p=0.5: bool(rng.random() < p)
    size = lambda: int(rng.integers(1, most + 1))
    mask = str(rng.choice(["", "lengths", "mask"]))
    masked = str(rng.choice(["carry", "zero"]))
    names = sorted(ACTIVATIONS)
    bounded = [n for n in names if n not in ("Exp", "Affine")]
    activations = tuple(draw_activation(rng, str(rng.choice(bounded))) for _ in USUAL[kind]) if coin(0.3) else ()
    case = Recurrence(
        kind, size(), size(), size(), size(), int(rng.integers(2**31)),
        reverse=coin(), batch_first=coin(), bias=coin(0.8), bn=coin(0.8), peepholes=coin(0.3),
        states=tuple(str(s) for s in rng.choice(["", "input"], 2)), mask=mask, masked_output=masked,
        empty_state=str(rng.choice(["carry", "zero"])), clip=float(np.float32(rng.uniform(0.3, 2))) if coin(0.2) else 0.0,
        input_forget=coin(0.2), reset=str(rng.choice(["after", "before"])), activations=activations,
        outputs=("Y", *STATES[kind]),
    )  # fmt: skip
    case = replace(case, **fixed)
    if case.mask and case.masked_output == "zero":
        case = replace(case, outputs=tuple(name for name in case.outputs if name != "last"))
    return case


# ---- networks: small stacks that share the promises ---------------------------------------------------
def _recurrent(
    rng: np.random.Generator, kind: str, name: str, x: str, I: int, H: int, ws: dict, mask: str = "", **attributes: Any
) -> Node:
    mine = weights(rng, kind, I, H, prefix=f"{name}.")
    mine.pop(f"{name}.P", None)
    ws |= mine
    states = {"LSTM": ("", "", ""), "GRU": ("",), "RNN": ("",)}[kind]
    outs = tuple(f"{name}.{out}" for out in ("y", *STATES[kind]))
    return Node(name, kind, (x, *mine, *states, *([mask] if mask else [])), outs, {"batch_first": True} | attributes)


def _single(kind: str, I: int = 5, H: int = 19, **attributes: Any) -> Callable:
    def build(rng, mask):
        ws: dict = {}
        node = _recurrent(rng, kind, "a", "x", I, H, ws, mask, **attributes)
        return [node], ("float32", I), [out for out in node.outputs if out], ws

    return build


def _stacked(rng, mask):
    ws: dict = {"d.W": rng.standard_normal((18, 7)).astype("f4") / 4, "d.b": rng.standard_normal(7).astype("f4")}
    nodes = [
        _recurrent(rng, "LSTM", "a", "x", 5, 21, ws, mask),
        _recurrent(rng, "GRU", "b", "a.y", 21, 18, ws, mask),
        Node("d", "Dense", ("b.y", "d.W", "d.b"), ("y",), {"activation": "Gelu"}),
    ]
    return nodes, ("float32", 5), ["y", "b.h"], ws


def _bidirectional(rng, mask):
    ws: dict = {}
    nodes = [
        _recurrent(rng, "LSTM", "f", "x", 5, 9, ws, mask),
        _recurrent(rng, "GRU", "r", "x", 5, 17, ws, mask, direction="reverse", reset="before"),
        Node("join", "Concat", ("f.y", "r.y"), ("y",), {"axis": 2}),
    ]
    return nodes, ("float32", 5), ["y", "f.h", "r.h"], ws


def _conv_front(rng, mask):
    ws: dict = {"c.W": rng.standard_normal((3, 4, 11)).astype("f4") / 3, "c.b": rng.standard_normal(11).astype("f4")}
    nodes = [
        Node("c", "Conv1D", ("x", "c.W", "c.b"), ("c.y",), {"pads": (4, 0), "dilation": 2, "activation": "Relu"}),
        _recurrent(rng, "LSTM", "a", "c.y", 11, 16, ws, mask),
        Node("s", "Softmax", ("a.y",), ("y",), {}),
    ]
    return nodes, ("float32", 4), ["y", "a.h", "a.c"], ws


def _embedded(rng, mask):
    ws: dict = {
        "e.table": rng.standard_normal((30, 6)).astype("f4"),
        "d.W": rng.standard_normal((13, 70)).astype("f4") / 3,
    }
    nodes = [
        Node("e", "Embedding", ("x", "e.table"), ("e.y",), {}),
        _recurrent(rng, "GRU", "a", "e.y", 6, 13, ws, mask, reset="after"),
        Node("d", "Dense", ("a.y", "d.W"), ("z",), {}),
        Node("s", "Softmax", ("z",), ("y",), {}),
    ]
    return nodes, ("int64", 0), ["y", "a.h"], ws


def _normalised(rng, mask):
    ws: dict = {"n.scale": rng.standard_normal(33).astype("f4"), "n.shift": rng.standard_normal(33).astype("f4")}
    nodes = [
        _recurrent(rng, "RNN", "a", "x", 5, 33, ws, mask),
        Node("n", "LayerNormalization", ("a.y", "n.scale", "n.shift"), ("n.y",), {}),
        Node("g", "Silu", ("n.y",), ("y",), {}),
    ]
    return nodes, ("float32", 5), ["y", "a.h"], ws


NETWORKS: dict[str, Callable] = {
    "lstm": _single("LSTM"),
    "lstm_general": _single("LSTM", activations=("HardSigmoid", "Softsign", "Tanh"), alphas=(0.3, 0.0, 0.0), betas=(0.4, 0.0, 0.0), clip=1.5),
    "gru_after": _single("GRU", reset="after"),
    "gru_before": _single("GRU", reset="before"),
    "rnn": _single("RNN"),
    "stacked": _stacked,
    "bidirectional": _bidirectional,
    "conv_front": _conv_front,
    "embedded": _embedded,
    "normalised": _normalised,
}  # fmt: skip


def _wide_stacked(rng, mask):
    ws: dict = {"d.W": rng.standard_normal((70, 250)).astype("f4") / 8, "d.b": rng.standard_normal(250).astype("f4")}
    nodes = [
        _recurrent(rng, "LSTM", "a", "x", 5, 48, ws, mask),
        _recurrent(rng, "GRU", "b", "a.y", 48, 70, ws, mask),
        Node("d", "Dense", ("b.y", "d.W", "d.b"), ("y",), {"activation": "Gelu"}),
    ]
    return nodes, ("float32", 5), ["y", "b.h"], ws


def _wide_front(rng, mask):
    ws: dict = {"c.W": rng.standard_normal((3, 30, 200)).astype("f4") / 9, "c.b": rng.standard_normal(200).astype("f4")}
    nodes = [
        Node("c", "Conv1D", ("x", "c.W", "c.b"), ("c.y",), {"pads": (2, 0), "activation": "Relu"}),
        _recurrent(rng, "RNN", "a", "c.y", 200, 65, ws, mask),
    ]
    return nodes, ("float32", 30), ["a.y", "a.h"], ws


# Large enough for the arithmetic that narrow weights get: see ops/narrow.py.
WIDE: dict[str, Callable] = {
    "wide_lstm": _single("LSTM", 70, 37),
    "wide_lstm_general": _single("LSTM", 7, 33, activations=("HardSigmoid", "Softsign", "Tanh"), alphas=(0.3, 0.0, 0.0), betas=(0.4, 0.0, 0.0), clip=1.5),
    "wide_gru_after": _single("GRU", 5, 50, reset="after"),
    "wide_gru_before": _single("GRU", 40, 35, reset="before"),
    "wide_reverse": _single("GRU", 21, 70, reset="before", direction="reverse"),
    "wide_stacked": _wide_stacked,
    "wide_front": _wide_front,
    "widest_lstm": _single("LSTM", 40, 300),
}  # fmt: skip
STREAMING = tuple(name for name in NETWORKS if name != "bidirectional")


def network(name: str, seed: int = 0, lengths: bool = False, mask: bool = False) -> Model:
    """Return a batch-first network with input x (B, T, ...), and `lengths` (B,) or a mask m (B, T) where asked for."""
    rng = np.random.default_rng(seed)
    nodes, (dtype, features), outputs, ws = (NETWORKS | WIDE)[name](rng, "m" if lengths or mask else "")
    inputs: list[tuple] = [("x", dtype, ("B", "T", features) if features else ("B", "T"))]
    if lengths:
        inputs.append(("lengths", "int64", ("B",)))
        nodes = [Node("lens", "SequenceMask", ("lengths", "x"), ("m",), {"batch_first": True}), *nodes]
    elif mask:
        inputs.append(("m", "bool", ("B", "T")))
    used = {value for node in nodes for value in node.inputs}
    return model(nodes, inputs, outputs, {k: v for k, v in ws.items() if k in used})


def inputs_for(net: Model, rng: np.random.Generator, B: int, T: int) -> Array:
    """Return x for a network: features, or ids."""
    spec = net.graph.inputs[0]
    if spec.dtype == "int64":
        return rng.integers(0, 30, (B, T))
    return rng.standard_normal((B, T, spec.shape[2])).astype("f4")


def same_bits(a: Array, b: Array) -> bool:
    """Tell whether two arrays agree in shape, dtype and every bit."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()

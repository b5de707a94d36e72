"""Random ONNX graphs of one LSTM or GRU cell spelled out in products, slices and activations, as exporters and people write them.

x (B, I), h (B, H), c (B, H) -> h' (B, H), c' (B, H)
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from random_onnx import model

Array = np.ndarray
B, I, H, T = 3, 5, 7, 4


@dataclass
class Spelling:
    """Nodes under construction, and the generator that chooses how each formula is written."""

    rng: np.random.Generator
    dtype: type = np.float32
    opset: int = 17
    nodes: list = field(default_factory=list)
    held: dict[str, Array] = field(default_factory=dict)
    width: int = I  # of x
    peepholes: bool = True
    prefix: str = ""  # of names, so that those of a body differ from those around it

    def chance(self, p: float = 0.5) -> bool:
        return bool(self.rng.random() < p)

    def one_of(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def constant(self, array: Array) -> str:
        name = f"w{len(self.held)}"
        self.held[name] = np.asarray(array)
        return name

    def weight(self, *shape: int) -> Array:
        return (0.5 * self.rng.standard_normal(shape)).astype(self.dtype)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{self.prefix}v{len(self.nodes)}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, f"{self.prefix}n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def swapped(self, op: str, a: str, b: str) -> str:
        """Add an operator whose operands may stand either way round."""
        return self.add(op, a, b) if self.chance() else self.add(op, b, a)

    # ---- parts of a cell ----------------------------------------------------------------------------------
    def product(self, x: str, W: Array, b: Array | None) -> str:
        """x W + b."""
        if self.chance():
            turned = self.chance()
            given = [x, self.constant(W.T.copy() if turned else W)]
            inside = b is not None and self.chance()
            y = self.add("Gemm", *given, *([self.constant(b)] if inside else []), transB=int(turned))
            b = None if inside else b
        else:
            y = self.add("MatMul", x, self.constant(W))
        if b is None:
            return y
        return self.swapped("Add", y, self.constant(b if self.chance() else b[None]))

    def affine(self, x: str, h: str, gates: int) -> str:
        """x W + h U + b for so many gates, from one product or from two."""
        n = gates * H
        W, U = self.weight(self.width, n), self.weight(H, n)
        b = self.weight(n) if self.chance(0.8) else None
        if self.chance():
            x_first = self.chance()
            both = self.add("Concat", *((x, h) if x_first else (h, x)), axis=self.one_of(1, -1))
            return self.product(both, np.concatenate([W, U] if x_first else [U, W]), b)
        second = self.weight(n) if b is not None and self.chance() else None
        return self.swapped("Add", self.product(x, W, b), self.product(h, U, second))

    def cut(self, y: str, count: int) -> list[str]:
        """Gates side by side, apart."""
        if count == 1:
            return [y]
        if self.chance():
            sizes = [self.constant(np.full(count, H, np.int64))] if self.opset >= 13 and self.chance() else []
            attributes = {"num_outputs": count} if self.opset >= 18 and not sizes else {}
            return self.add("Split", y, *sizes, outputs=count, axis=self.one_of(1, -1), **attributes)
        axis = self.one_of(1, -1)
        bounds = [[k * H, (k + 1) * H] for k in range(count)]
        if self.chance():
            bounds[-1][1] = 2**31 - 1
        ints = lambda value: self.constant(np.array([value], np.int64))
        return [
            self.add("Slice", y, ints(a), ints(b), ints(axis), *([ints(1)] if self.chance() else [])) for a, b in bounds
        ]

    def gates(self, x: str, h: str, activations: dict[str, str]) -> dict[str, str]:
        """The values of gates, in one product or one for each, cut apart before their activation or after it."""
        names = list(activations)
        self.rng.shuffle(names)
        if self.chance(0.25):
            return {name: self.add(activations[name], self.affine(x, h, 1)) for name in names}
        y = self.affine(x, h, len(names))
        if len(set(activations.values())) == 1 and self.chance():
            return dict(zip(names, self.cut(self.add(activations[names[0]], y), len(names)), strict=True))
        parts = self.cut(y, len(names))
        return {name: self.add(activations[name], part) for name, part in zip(names, parts, strict=True)}

    def complement(self, z: str) -> str:
        """1 - z."""
        one = self.constant(np.array(1.0 if self.chance() else [1.0], self.dtype))
        return self.add("Sub", one, z) if self.chance(0.7) else self.swapped("Add", one, self.add("Neg", z))

    def blend(self, p: str, q: str, z: str) -> str:
        """(1 - z) p + z q."""
        form = self.rng.integers(4)
        if form == 0:
            return self.swapped("Add", self.swapped("Mul", self.complement(z), p), self.swapped("Mul", z, q))
        if form == 1:
            return self.swapped("Add", p, self.swapped("Mul", z, self.add("Sub", q, p)))
        if form == 2:
            return self.add("Sub", p, self.swapped("Mul", z, self.add("Sub", p, q)))
        return self.swapped("Add", q, self.swapped("Mul", self.complement(z), self.add("Sub", p, q)))

    def gates_of_each(self, x: str, h: str, count: int) -> tuple[list[str], list[str]]:
        """The parts of x W + b and those of h U + b, cut apart before they are added."""
        sides = []
        for value, rows in ((x, self.width), (h, H)):
            b = self.weight(count * H) if self.chance(0.8) else None
            sides.append(self.cut(self.product(value, self.weight(rows, count * H), b), count))
        return sides[0], sides[1]

    # ---- cells ----------------------------------------------------------------------------------------------
    def lstm(self, x: str, h: str, c: str) -> tuple[str, str]:
        gate, new, shown = (
            self.one_of(*names) for names in (("Sigmoid", "HardSigmoid"), ("Tanh", "Softsign"), ("Tanh", "Relu"))
        )
        coupled = self.one_of("", "", "i", "f") if gate == "Sigmoid" else ""
        kinds = {name: gate for name in "ifo" if not coupled or name != {"i": "f", "f": "i"}[coupled]}
        if self.chance(0.3):
            v = {**self.gates(x, h, kinds), **self.gates(x, h, {"g": new})}
        elif self.chance(0.3):
            sides = self.gates_of_each(x, h, len(kinds) + 1)
            sums = [self.swapped("Add", *pair) for pair in zip(*sides, strict=True)]
            v = {name: self.add(op, one) for (name, op), one in zip({**kinds, "g": new}.items(), sums, strict=True)}
        else:
            v = self.gates(x, h, {**kinds, "g": new})
        if self.peepholes and self.chance(0.2) and not coupled:
            peephole = self.swapped("Mul", c, self.constant(self.weight(H)))
            v["f"] = self.add(gate, self.swapped("Add", self.affine(x, h, 1), peephole))
        if coupled:
            next_c = self.blend(c, v["g"], v["i"]) if coupled == "i" else self.blend(v["g"], c, v["f"])
        else:
            next_c = self.swapped("Add", self.swapped("Mul", v["f"], c), self.swapped("Mul", v["i"], v["g"]))
        return self.swapped("Mul", v["o"], self.add(shown, next_c)), next_c

    def gru(self, x: str, h: str) -> str:
        gate, new = self.one_of("Sigmoid", "HardSigmoid"), self.one_of("Tanh", "Softsign")
        if self.chance(0.4):
            order = [int(k) for k in self.rng.permutation(3)]
            of_x, of_h = ([side[k] for k in order] for side in self.gates_of_each(x, h, 3))
            z, r = (self.add(gate, self.swapped("Add", of_x[k], of_h[k])) for k in range(2))
            n = self.swapped("Add", of_x[2], self.swapped("Mul", r, of_h[2]))
        else:
            v = self.gates(x, h, {"z": gate, "r": gate})
            z = v["z"]
            if self.chance():
                n = self.affine(x, self.swapped("Mul", v["r"], h), 1)
            else:
                b, bn = (self.weight(H) if self.chance(0.7) else None for _ in range(2))
                after = self.swapped("Mul", v["r"], self.product(h, self.weight(H, H), bn))
                n = self.swapped("Add", self.product(x, self.weight(self.width, H), b), after)
        n = self.add(new, n)
        return self.blend(n, h, z) if gate != "Sigmoid" or self.chance(0.7) else self.blend(h, n, z)

    def zeros(self, time: int) -> str:
        """A state of zeros for as many rows as x has, whose axis of steps is `time`."""
        rows = self.add("Gather", self.add("Shape", "x"), self.constant(np.array(1 - time)), axis=0)
        rows = self.add("Unsqueeze", rows, self.constant(np.array([0])))
        return self.add("ConstantOfShape", self.add("Concat", rows, self.constant(np.array([H])), axis=0))

    # ---- graphs ---------------------------------------------------------------------------------------------
    def proto(self, inputs: dict[str, tuple], outputs: dict[str, str]) -> Any:
        """The graph with outputs by the names of their values."""
        names = {value: name for name, value in outputs.items()}
        for node in self.nodes:
            for side in (node.input, node.output):
                side[:] = [names.get(name, name) for name in side]
        given = {name: (self.dtype, shape) for name, shape in inputs.items()}
        return model(self.nodes, given, list(outputs), self.held, self.opset)

    def feeds(self, **shapes: tuple[int, ...]) -> dict[str, Array]:
        return {name: self.rng.standard_normal(shape).astype(self.dtype) for name, shape in shapes.items()}


def loop(kind: str, seed: int) -> tuple[Any, dict[str, Array]]:
    """Return a graph of cells over the steps of x (T, B, I) or (B, T, I), in a Loop or a Scan, with the outputs ys and h_n (and c_n)."""
    spelled = Spelling(np.random.default_rng(seed))
    axis, backwards, free = int(spelled.rng.integers(2)), spelled.chance(), spelled.chance()
    shape = (T, B, I) if axis == 0 else (B, T, I)
    declared = ("steps", "batch", I) if axis == 0 else ("batch", "steps", I)
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    given = {"x": declared if free else shape}
    if spelled.chance():  # states of the caller, else zeros of the shape that x has
        given |= dict.fromkeys(states, ("batch" if free else B, H))
        starts = states
    else:
        starts = [spelled.zeros(axis)] * len(states)
    body = Spelling(spelled.rng, nodes=[], held=spelled.held, prefix="b")
    build = _scan if spelled.chance() else _loop
    results = build(spelled, body, kind, starts, axis, backwards)
    names = ["ys", *(f"{name}_n" for name in states)]
    proto = spelled.proto(given, dict(zip(names, results, strict=True)))
    shapes = {"x": shape, "h": (B, H), "c": (B, H)}
    return proto, spelled.feeds(**{name: shapes[name] for name in given})


def unrolled(kind: str, seed: int, layers: int = 1) -> tuple[Any, dict[str, Array]]:
    """Return a graph of T cells of the same weights for each layer, written out one after the other, with the outputs ys and h_n (and c_n)."""
    spelled = Spelling(np.random.default_rng(seed))
    axis, backwards, free, stacked = (
        int(spelled.rng.integers(2)),
        spelled.chance(),
        spelled.chance(),
        int(spelled.rng.integers(2)),
    )
    shape = (T, B, I) if axis == 0 else (B, T, I)
    rows = "batch" if free else B
    given: dict[str, tuple] = {"x": tuple(rows if k == 1 - axis else size for k, size in enumerate(shape))}
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    ints = lambda *values: spelled.constant(np.array(values, np.int64))
    cut = spelled.one_of("Gather", "Split", "Slice")
    if cut == "Gather":
        elements = [spelled.add("Gather", "x", spelled.constant(np.array(t)), axis=axis) for t in range(T)]
    else:
        parts = spelled.add("Split", "x", ints(*[1] * T), outputs=T, axis=axis) if cut == "Split" else [
            spelled.add("Slice", "x", ints(t), ints(t + 1), ints(axis)) for t in range(T)]  # fmt: skip
        elements = [spelled.add("Squeeze", part, ints(axis)) for part in parts]
    if backwards:
        elements = elements[::-1]
    for layer in range(layers):
        if layer == 0 and spelled.chance():
            given |= dict.fromkeys(states, (rows, H))
            values = list(states)
        else:
            zeros = spelled.zeros(axis) if free else spelled.constant(np.zeros((B, H), spelled.dtype))
            values = [zeros] * len(states)
        width, form = I if layer == 0 else H, int(spelled.rng.integers(1 << 30))
        for t in range(T):  # the same choices and weights in every step, each under names of its own
            step = Spelling(
                np.random.default_rng(form), width=width, peepholes=False, nodes=spelled.nodes, held=spelled.held
            )
            values = list(step.lstm(elements[t], *values)) if kind == "LSTM" else [step.gru(elements[t], *values)]
            elements[t] = values[0]
    raised = [spelled.add("Unsqueeze", element, ints(stacked)) for element in elements]
    results = [spelled.add("Concat", *raised, axis=stacked), *(spelled.add("Identity", value) for value in values)]
    names = ["ys", *(f"{name}_n" for name in states)]
    proto = spelled.proto(given, dict(zip(names, results, strict=True)))
    shapes = {"x": shape, "h": (B, H), "c": (B, H)}
    return proto, spelled.feeds(**{name: shapes[name] for name in given})


def _step(body: Spelling, kind: str, x: str, states: list[str]) -> tuple[list[str], str]:
    """One trip: the states after it, and what is stacked of it."""
    after = list(body.lstm(x, *states)) if kind == "LSTM" else [body.gru(x, *states)]
    if body.chance():
        return after, body.add("Identity", after[0])
    y = body.add("MatMul", after[0], body.constant(body.weight(H, 2)))
    return after, body.add("Relu", body.swapped("Add", y, body.constant(body.weight(2))))


def _info(name: str, kind: int = TensorProto.FLOAT, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _scan(spelled: Spelling, body: Spelling, kind: str, starts: list[str], axis: int, backwards: bool) -> list[str]:
    inside = [f"{name}_in" for name in ("h", "c")[: len(starts)]]
    after, y = _step(body, kind, "x_t", inside)
    after = [body.add("Identity", name) for name in after]
    graph = helper.make_graph(
        body.nodes, "body", [_info(name) for name in (*inside, "x_t")], [_info(n) for n in (*after, y)]
    )
    *finals, ys = spelled.add("Scan", *starts, "x", outputs=len(starts) + 1, body=graph, num_scan_inputs=1, scan_input_axes=[axis],
        scan_input_directions=[int(backwards)], scan_output_directions=[int(backwards)])  # fmt: skip
    return [ys, *finals]


def _loop(spelled: Spelling, body: Spelling, kind: str, starts: list[str], axis: int, backwards: bool) -> list[str]:
    steps = spelled.add("Gather", spelled.add("Shape", "x"), spelled.constant(np.array(axis)), axis=0)
    last = spelled.add("Sub", steps, spelled.constant(np.array(1)))
    inside = [f"{name}_in" for name in ("h", "c")[: len(starts)]]
    index = body.add("Sub", last, "i") if backwards else "i"
    after, y = _step(body, kind, body.add("Gather", "x", index, axis=axis), inside)
    after = [body.add("Identity", name) for name in after]
    on = body.add("Identity", "on")
    inputs = [_info("i", TensorProto.INT64, []), _info("on", TensorProto.BOOL, []), *map(_info, inside)]
    graph = helper.make_graph(body.nodes, "body", inputs, [_info(on, TensorProto.BOOL, []), *map(_info, (*after, y))])
    *finals, ys = spelled.add(
        "Loop", steps, spelled.constant(np.array(True)), *starts, outputs=len(starts) + 1, body=graph
    )
    return [ys, *finals]


def cell(kind: str, seed: int) -> tuple[Any, dict[str, Array]]:
    """Return a graph of one cell, with inputs x, h (and c) and outputs h1 (and c1), and values for its inputs."""
    spelled = Spelling(np.random.default_rng(seed))
    spelled.opset = int(spelled.one_of(11, 13, 17, 18, 22))
    rows = spelled.one_of("batch", B)
    shapes = {"x": (rows, I), "h": (rows, H)}
    if kind == "LSTM":
        shapes["c"] = (rows, H)
        h1, c1 = spelled.lstm("x", "h", "c")
        outputs = {"h1": h1, "c1": c1}
    else:
        outputs = {"h1": spelled.gru("x", "h")}
    return spelled.proto(shapes, outputs), spelled.feeds(**{name: (B, width) for name, (_, width) in shapes.items()})

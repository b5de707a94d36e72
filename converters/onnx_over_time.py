"""Loops over time whose bodies are cells become what the body is over all steps at once: one recurrent node for each cell.

A value of the body is fixed (the same in every trip), a sequence (of each trip another: X[t], the h' of a cell, and what is computed of these alone),
or carried. A cell may read what is carried from trip to trip if that is its own state, and nothing else may: so the trips of everything else
are apart, and a value around the loop with time as its first axis holds them all.
"""

from collections.abc import Sequence

import numpy as np

from fastlstm.converters.onnx_formulas import Unlike
from fastlstm.converters.onnx_graph import is_zero
from fastlstm.converters.onnx_sizes import sizes
from fastlstm.graph import Dim, Graph, Node
from fastlstm.layers import Build, Tensor
from fastlstm.ops.elementwise import ActivationOp, Elementwise
from fastlstm.ops.op import find
from fastlstm.ops.recurrent import Recurrent

MOST_NODES = 512  # of a body that is tried
TRIP, ONE = "the number of the trip", "one"
Linear = dict[str, int]  # an integer as multiples of symbols, of the number of the trip and of one


def over_time(
    build: Build, trips: Tensor | None, body: Graph, carried: Sequence[Tensor], given: Sequence[Tensor]
) -> list[Tensor | None] | None:
    """Return the outputs of a loop that starts: final values and stacked ones, None for a counter that only the loop computes.

    Return None where the body is not made of cells over the steps of sequences, or may end the loop.
    """
    held = dict(zip([spec.name for spec in body.inputs[2 + len(carried) :]], given, strict=True))
    going = held.get(body.outputs[0].name)
    endless = going is not None and going.value.data is not None and bool(going.value.data.all())
    if trips is None or not endless or len(body.nodes) > MOST_NODES:
        return None
    if not any(isinstance(find(node.op), Recurrent) for node in body.nodes):
        return None
    try:
        return _Trips(build, trips, body, carried, held).outputs()
    except Unlike:
        return None  # nodes that were added have no readers


class _Trips:
    """All trips of a loop at once."""

    def __init__(self, build: Build, trips: Tensor, body: Graph, carried: Sequence[Tensor], held: dict[str, Tensor]):
        self.build, self.start, self.fixed = build, list(carried), dict(held)
        self.count = _only(sizes(build, trips))
        self.producers = {name: node for node in body.nodes for name in node.outputs if name}
        names = [spec.name for spec in body.inputs]
        self.number, self.carried = names[0], {name: k for k, name in enumerate(names[2 : 2 + len(carried)])}
        self.after = [self.plain(spec.name) for spec in body.outputs[1 : 1 + len(carried)]]
        self.stacked = [spec.name for spec in body.outputs[1 + len(carried) :]]
        self.fixed |= {name: self.start[k] for name, k in self.carried.items() if self.after[k] == name}
        self.sequences: dict[str, Tensor] = {}
        self.finals: dict[str, Tensor] = {}  # of the states of cells

    def outputs(self) -> list[Tensor | None]:
        stacked = [self.sequence(name) for name in self.stacked]
        return [*(self._final(k, name) for k, name in enumerate(self.after)), *stacked]

    def _final(self, k: int, name: str) -> Tensor | None:
        """Return a carried value after the last trip."""
        if name in self.fixed:
            return self.fixed[name]
        if self.start[k].value.dtype.kind != "f":
            return None
        node = self.producers.get(name)
        if node is not None and isinstance(find(node.op), Recurrent):
            self._run(node)
        if name in self.finals:
            return self.finals[name]
        if not isinstance(self.count, int) or self.count < 1:  # without trips it would be what it starts from
            raise Unlike
        return self.build.node(f"{name}/last", "Gather", [self.sequence(name), _number(self.build, -1)], axis=0)

    # ---- values of the body ---------------------------------------------------------------------------
    def plain(self, name: str) -> str:
        """Return the value that another one is but for an axis of one element that is put in and taken out again."""
        while name in self.producers:
            node = self.producers[name]
            inner = self.producers.get(node.inputs[0])
            if node.op == "Identity":
                name = node.inputs[0]
            elif (
                inner is not None and self._taken_out(node) is not None and self._taken_out(node) == self._put_in(inner)
            ):
                name = inner.inputs[0]
            else:
                break
        return name

    def _taken_out(self, node: Node) -> int | None:
        """Return the axis of one element that a node takes out, were it the only one of its place."""
        if node.op not in ("Squeeze", "Gather") or len(node.inputs) < 2:
            return None
        if node.op == "Squeeze":
            return _only(self._ints(node.inputs[1]))
        return int(find("Gather").get(node, "axis")) if self._ints(node.inputs[1], rank=0) == (0,) else None

    def _put_in(self, node: Node) -> int | None:
        """Return the axis of one element that a node puts in."""
        return _only(self._ints(node.inputs[1])) if node.op == "Unsqueeze" else None

    def _ints(self, name: str, rank: int | None = None) -> tuple[int, ...] | None:
        """Return the integers that a constant holds."""
        data = self.fixed[name].value.data if name in self.fixed else None
        if data is None or data.dtype.kind not in "iu" or (rank is not None and data.ndim != rank):
            return None
        return tuple(int(one) for one in data.ravel())

    def sequence(self, name: str) -> Tensor:
        """Return a value of all trips, stacked along a first axis. Raise Unlike where a trip needs the one before."""
        name = self.plain(name)
        if name not in self.sequences:
            node = self.producers.get(name)
            if node is None:
                raise Unlike
            if isinstance(find(node.op), Recurrent):
                self._run(node)
            else:
                self.sequences[name] = self._computed(node)
        if name not in self.sequences:  # the c of a cell
            raise Unlike
        return self.sequences[name]

    def _computed(self, node: Node) -> Tensor:
        op = find(node.op)
        if node.op == "Gather":
            return self._steps(node, op.get(node, "axis"))
        if node.op == "Unsqueeze":
            axis = self._put_in(node)
            if axis is None:
                raise Unlike
            axes = self.build.ints(f"{node.name}.axes", axis if axis < 0 else axis + 1)
            return self.build.node(node.name, "Unsqueeze", [self.sequence(node.inputs[0]), axes])
        if not isinstance(op, ActivationOp | Elementwise) and node.op not in ("Dense", "MatMul"):
            raise Unlike
        inputs = [self.fixed[name] if name in self.fixed else self.sequence(name) for name in node.inputs]
        if not self._keeps_trips_apart(node, inputs):
            raise Unlike
        return self.build.node(node.name, node.op, inputs, **node.attributes)  # type: ignore[arg-type]

    def _keeps_trips_apart(self, node: Node, inputs: Sequence[Tensor]) -> bool:
        """Tell whether a node does to all trips at once what it does to each: time stays in front of what is broadcast."""
        fixed, apart = (
            [len(x.shape) for name, x in zip(node.inputs, inputs, strict=True) if (name in self.fixed) == whether]
            for whether in (True, False)
        )
        if node.op == "Dense" or (node.op == "MatMul" and fixed == [2]):
            return node.inputs[0] not in self.fixed and len(apart) == 1
        return node.op != "MatMul" and len(set(apart)) == 1 and all(rank < apart[0] for rank in fixed)

    # ---- steps ------------------------------------------------------------------------------------------
    def _steps(self, node: Node, axis: int) -> Tensor:
        """Return X[0], X[1] ... along an axis, or from the end where the index counts down."""
        x = self.fixed.get(node.inputs[0])
        if x is None or x.value.shape is None or self.count is None:
            raise Unlike
        axis %= len(x.shape)
        size, index = x.shape[axis], self._index(node.inputs[1])
        down = index == _joined(_size(size), {TRIP: 1, ONE: 1}, -1)
        if not down and index != {TRIP: 1}:
            raise Unlike
        if axis:
            order = (axis, *(k for k in range(len(x.shape)) if k != axis))
            x = self.build.node(f"{node.name}/first", "Transpose", [x], perm=order)
        if down:
            x = reversed_steps(f"{node.name}/reverse", x)
        if self.count == size:
            return x
        if not (isinstance(size, int) and isinstance(self.count, int) and 0 <= self.count < size):
            raise Unlike
        bounds = [self.build.ints(f"{node.name}.bound", value) for value in (0, self.count, 0)]
        return self.build.node(f"{node.name}/steps", "Slice", [x, *bounds])

    def _index(self, name: str) -> Linear:
        """Return an integer of the body. Raise Unlike where it is no sum of the number of the trip, sizes and constants."""
        name = self.plain(name)
        if name == self.number:
            return {TRIP: 1}
        if name in self.fixed:
            return _linear(self.fixed[name])
        node = self.producers.get(self.after[self.carried[name]] if name in self.carried else name)
        if node is None or node.op not in ("Add", "Sub"):
            raise Unlike
        a, b = node.inputs
        sign = -1 if node.op == "Sub" else 1
        if name not in self.carried:
            return _joined(self._index(a), self._index(b), sign)
        if self.plain(a) != name or (step := _only(self._ints(b))) is None:
            raise Unlike
        return _joined(_linear(self.start[self.carried[name]]), {TRIP: sign * step})

    # ---- cells --------------------------------------------------------------------------------------------
    def _run(self, node: Node) -> None:
        """Let a recurrent node of one step in the body be one of all steps around it."""
        op = find(node.op)
        assert isinstance(op, Recurrent)
        if any(name in self.finals for name in node.outputs):
            return
        names = [self.plain(name) if name else "" for name in (*node.inputs, *[""] * len(op.inputs))[: len(op.inputs)]]
        outputs = dict(zip(op.outputs, node.outputs, strict=False))
        x = self._step(op, node)
        slots = range(op.h_slot, op.h_slot + len(op.states))
        if names[op.h_slot] not in self.carried and x in self.carried and node.op != "GRU":
            # which factor is x and which is h is all the same to one step
            x, names[op.h_slot] = names[op.h_slot], x
            names[op.w_slot], names[op.u_slot] = names[op.u_slot], names[op.w_slot]
        for slot, role in zip(slots, op.states, strict=True):
            k = self.carried.get(names[slot])
            if k is None or not outputs.get(role) or self.after[k] != outputs[role]:
                raise Unlike
        if names[op.mask_slot] or op.get(node, "direction") != "forward":
            raise Unlike
        others = {k: name for k, name in enumerate(names) if name and k != op.x_slot and k not in slots}
        if any(name not in self.fixed for name in others.values()):
            raise Unlike
        given = {k: self.fixed[name] for k, name in others.items()}
        given |= {k: self.start[self.carried[names[k]]] for k in slots}
        self._add(op, node, self.sequence(x), given, outputs)

    def _step(self, op: Recurrent, node: Node) -> str:
        """Return the value of which a node's X is the only step."""
        made = self.producers.get(node.inputs[op.x_slot])
        if made is None or self._put_in(made) != op.time_axis(node):
            raise Unlike
        return self.plain(made.inputs[0])

    def _add(self, op: Recurrent, node: Node, x: Tensor, given: dict[int, Tensor], outputs: dict[str, str]) -> None:
        build, made = self.build, self.build.producers.get(x.name)
        backwards = made is not None and made.op == "Reverse" and find("Reverse").get(made, "axis") == 0
        given = {k: tensor for k, tensor in given.items() if k < op.h_slot or not is_zero(build, tensor)}
        inputs = [reversed_steps(node.name, x) if backwards else x, *(given.get(k) for k in range(1, len(op.inputs)))]
        attributes = {**node.attributes, "batch_first": False, "direction": "reverse" if backwards else "forward"}
        y, *finals = build.node(node.name, node.op, inputs, [True] * (1 + len(op.states)), **attributes)
        self.sequences[outputs["h"]] = reversed_steps(f"{node.name}/order", y) if backwards else y
        self.finals |= {outputs[role]: tensor for role, tensor in zip(op.states, finals, strict=True)}
        if outputs.get("Y"):
            axes = build.ints(f"{node.name}.axes", 1 + op.time_axis(node))
            h = self.sequences[outputs["h"]]
            self.sequences[outputs["Y"]] = build.node(f"{node.name}/Y", "Unsqueeze", [h, axes])


def reversed_steps(name: str, x: Tensor) -> Tensor:
    """Return x with its first axis backwards."""
    node = x.build.producers.get(x.name)
    if node is not None and node.op == "Reverse" and find("Reverse").get(node, "axis") == 0:
        return Tensor(x.build, node.inputs[0])
    return x.build.node(name, "Reverse", [x], axis=0)


def _linear(tensor: Tensor) -> Linear:
    """Return an integer around the loop. Raise Unlike where it is no sum of sizes and constants."""
    known = sizes(tensor.build, tensor)
    if known is not None:
        return _size(_only(known))
    node = tensor.build.producers.get(tensor.name)
    if node is None or node.op not in ("Add", "Sub"):
        raise Unlike
    a, b = (sizes(tensor.build, Tensor(tensor.build, name)) for name in node.inputs)
    return _joined(_size(_only(a)), _size(_only(b)), -1 if node.op == "Sub" else 1)


def _size(dim: Dim | None) -> Linear:
    if dim is None:
        raise Unlike
    return {ONE: dim} if isinstance(dim, int) else {dim: 1}


def _joined(a: Linear, b: Linear, sign: int = 1) -> Linear:
    """Return a + sign * b."""
    total = {name: a.get(name, 0) + sign * b.get(name, 0) for name in (*a, *b)}
    return {name: count for name, count in total.items() if count}


def _number(build: Build, value: int) -> Tensor:
    return build.weight("number", np.array(value, np.int64))


def _only(values: Sequence | None):
    """Return the element of a sequence of one, else None."""
    return values[0] if values is not None and len(values) == 1 else None

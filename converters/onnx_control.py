"""Handlers of ONNX's control flow: If, Loop and Scan.

An If whose condition is known at import leaves its branch alone. A Scan is a Loop that reads one element of its inputs in each trip.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, SequenceValue, handler
from fastlstm.converters.onnx_over_time import over_time, reversed_steps
from fastlstm.converters.onnx_scope import Known, Scope
from fastlstm.converters.onnx_sequences import stack
from fastlstm.errors import ModelFileError
from fastlstm.graph import Graph
from fastlstm.layers import Tensor


@handler("If")
def _if(node: OnnxNode):
    condition = node.input(0)
    bodies = {role: node.attribute(f"{role}_branch") for role in ("then", "else")}
    if any(body is None or len(body.output) < len(node.outputs) for body in bodies.values()):
        raise ModelFileError(f"node {node.name!r}: If lacks a branch, or a branch lacks outputs")
    if condition.value.data is not None:
        chosen = bodies["then" if condition.value.data.ravel()[0] else "else"]
        return node.scope.inside().run(chosen)
    return _choice(node, condition, bodies)


def _choice(node: OnnxNode, condition: Tensor, bodies: dict[str, Any]) -> list[Known]:
    """Return the outputs of an If that the run decides: both branches take all that either takes."""
    before = len(node.scope.document.refusals)
    scopes, outputs = {}, {}
    for role, body in bodies.items():
        scopes[role] = node.scope.body()
        outputs[role] = scopes[role].run(body)[: len(node.outputs)]
    if len(node.scope.document.refusals) > before:
        return [None] * len(node.outputs)
    sequences = [
        all(isinstance(value, SequenceValue) for value in pair) for pair in zip(*outputs.values(), strict=True)
    ]
    for role, scope in scopes.items():
        inner = OnnxNode(scope, node.op_type, node.name, node.opset, [], node.outputs, {})
        outputs[role] = [
            stack(inner, value) if several and isinstance(value, SequenceValue) else value
            for value, several in zip(outputs[role], sequences, strict=True)
        ]
    taken: dict[str, Tensor] = {}
    for role, scope in scopes.items():
        taken |= {tensor.name: tensor for tensor in scope.closed([], _tensors(node, outputs[role]))[1]}
    graphs = {}
    for role, scope in scopes.items():
        inputs = [scope.entry(tensor) for tensor in taken.values()]
        graphs[role] = scope.closed(inputs, _tensors(node, outputs[role]))[0]
    wanted = [node.wants(k) for k in range(len(node.outputs))]
    # an output that nobody names is computed all the same
    made = node.build.node(node.name, "If", [condition, *taken.values()], [True] * len(wanted), graphs)
    return [
        SequenceValue(one.value.dtype.name, stacked=one) if several else one
        for one, several in zip(made, sequences, strict=True)
    ]


def _tensors(node: OnnxNode, values: Sequence[Known]) -> list[Tensor]:
    """Return the outputs of a subgraph, which must be tensors."""
    for k, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise node.refuse(f"output {k} of a subgraph", "a sequence")
    return list(values)  # type: ignore[arg-type]


@handler("Loop")
def _loop(node: OnnxNode):
    body = node.attribute("body")
    start = list(node.values[2:])
    if body is None or len(body.input) != 2 + len(start) or len(body.output) != 1 + len(node.outputs):
        raise ModelFileError(f"node {node.name!r}: Loop has a body that does not fit its inputs and outputs")
    trips, condition = node.optional(0), node.optional(1)
    if condition is not None and condition.value.data is not None and condition.value.data.all():
        condition = None
    return _Looping(node, trips, condition, start).outputs(body)


class _Looping:
    """A Loop being imported: its values at the start, of which sequences that only grow become stacked outputs."""

    def __init__(self, node: OnnxNode, trips: Tensor | None, condition: Tensor | None, start: Sequence[Known]):
        self.node, self.trips, self.condition, self.start = node, trips, condition, list(start)
        self.carried = [value for value in start if isinstance(value, Tensor)]

    def outputs(self, body: Any, extra: Sequence[tuple[str, Tensor]] = ()) -> list[Known]:
        """Return the loop's outputs: what it carries, then what it stacks.

        `extra` are names of the body and stacked values around the loop of which each trip sees one element.
        """
        shapes = [value.value.shape for value in self.carried]
        before = len(self.node.scope.document.refusals)
        for attempt in range(3):
            scope, inputs, results = self._body(body, shapes, extra)
            if len(self.node.scope.document.refusals) > before:
                return [None] * len(self.node.outputs)
            carried, grown, stacked = self._sorted(results)
            made = [value.value.shape for value in carried]
            if attempt == 2 or made == shapes:
                break
            shapes = [_blurred(scope, *pair, attempt) for pair in zip(shapes, made, strict=True)]
        graph, given = scope.closed(inputs, [results[0], *carried, *grown, *stacked])  # type: ignore[list-item]
        count = len(carried) + len(grown) + len(stacked)
        known = None if self.condition else over_time(self.node.build, self.trips, graph, self.carried, given)
        made = [one for one in known or () if one is not None]
        if len(made) < count:  # what the loop alone computes
            loop = self._node(graph, [*self.carried, *given], count)
            made = [old if new is None else new for old, new in zip(loop, known or loop, strict=True)]
        return self._named(made, len(carried), len(grown))

    def _body(self, body: Any, shapes: Sequence[Any], extra: Sequence[tuple[str, Tensor]]):
        """Return the body's scope, inputs and outputs for carried values of these shapes."""
        scope = self.node.scope.body()
        number = scope.build.input(f"{self.node.name}.trip", "int64", ())
        condition = scope.build.input(f"{self.node.name}.going", "bool", ())
        inputs = [number, condition]
        names = [value.name for value in body.input]
        # a body runs where the condition held
        going = scope.build.weight(f"{self.node.name}.true", np.array(True))
        scope.values |= dict(zip(names, (number, going), strict=False)) if not extra else {}
        known = iter(shapes)
        for name, value in zip(names[0 if extra else 2 :], self.start, strict=False):
            if isinstance(value, SequenceValue):
                scope.values[name] = SequenceValue(value.dtype, carried=value)
                continue
            tensor = scope.build.input(f"{self.node.name}.{name}", value.value.dtype.name, next(known))  # type: ignore[union-attr, arg-type]
            scope.values[name] = tensor
            inputs.append(tensor)
        for name, whole in extra:
            inner = scope.taking(whole)
            scope.values[name] = scope.build.node(f"{self.node.name}/element", "Gather", [inner, number], axis=0)
        results = scope.run(body)
        return scope, inputs, [going, *results] if extra else results

    def _sorted(self, results: Sequence[Known]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the carried values after a trip, what each growing sequence has more, and the elements of what is stacked."""
        carried, grown = [], []
        for value, after in zip(self.start, results[1:], strict=False):
            if isinstance(value, SequenceValue):
                fits = isinstance(after, SequenceValue) and after.carried is value and len(after.items) == 1
                if not fits:
                    raise self.node.refuse(
                        "a sequence that a loop carries", "changed otherwise than by one element at its end"
                    )
                grown.append(after.items[0])  # type: ignore[union-attr]
                continue
            if isinstance(after, SequenceValue) or after is None or after.value.dtype != value.value.dtype:  # type: ignore[union-attr]
                raise ModelFileError(f"node {self.node.name!r}: a value that it carries changes its type")
            carried.append(after)
        return carried, grown, _tensors(self.node, results[1 + len(self.start) :])

    def _node(self, graph: Graph, given: Sequence[Tensor], count: int) -> list[Tensor]:
        inputs = [self.trips, self.condition, *given]
        made = self.node.build.node(
            self.node.name, "Loop", inputs, [True] * count, {"body": graph}, carried=len(self.carried)
        )
        return list(made)

    def _named(self, made: list[Tensor], carried: int, grown: int) -> list[Known]:
        """Return the outputs in ONNX's order, sequences among them."""
        values, sequences = iter(made[:carried]), iter(made[carried : carried + grown])
        outputs: list[Known] = []
        for value in self.start:
            if isinstance(value, SequenceValue):
                longer = next(sequences)
                if value.items or value.stacked is not None:
                    longer = self.node.emit("Concat", [stack(self.node, value), longer], suffix="/sequence", axis=0)
                outputs.append(SequenceValue(value.dtype, stacked=longer))
            else:
                outputs.append(next(values))
        return [*outputs, *made[carried + grown :]]


def _blurred(scope: Scope, shape: Any, made: Any, attempt: int) -> Any:
    """Return a shape for a carried value that trips change: symbols for the dims that differ, in the end nothing known."""
    if shape == made or shape is None or made is None or len(shape) != len(made) or attempt:
        return shape if shape == made else None
    return tuple(p if p == q else scope.build.unique("size") for p, q in zip(shape, made, strict=True))


@handler("Scan")
def _scan(node: OnnxNode):
    body, count = node.attribute("body"), int(node.attribute("num_scan_inputs", 0))
    inputs = node.inputs
    if node.opset < 9:
        return _scan_of_rows(node, body, count)
    return _scanned(node, body, inputs, count, _directions(node, count))


def _directions(node: OnnxNode, count: int) -> dict[str, list[int]]:
    """Return the axes and directions of the scanned inputs and outputs."""
    given = {
        name: [int(v) for v in node.attribute(name) or []]
        for name in ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions")
    }
    return given


def _scanned(
    node: OnnxNode, body: Any, inputs: Sequence[Tensor | None], count: int, given: dict[str, list[int]]
) -> list[Known]:
    if body is None or not 0 < count <= len(inputs) or len(body.input) != len(inputs) or any(x is None for x in inputs):
        raise ModelFileError(f"node {node.name!r}: Scan has a body that does not fit its inputs")
    states, scanned = list(inputs[:-count]), list(inputs[-count:])
    if len(body.output) != len(node.outputs):
        raise ModelFileError(f"node {node.name!r}: Scan has a body that does not fit its outputs")
    names = [value.name for value in body.input][len(states) :]
    extra, trips = [], None
    for k, x in enumerate(scanned):
        assert x is not None
        axis = (given["scan_input_axes"] or [0] * count)[k]
        x = _first(node, x, axis)
        if trips is None:
            trips = node.emit("Gather", [node.emit("Shape", [x], suffix="/shape"), _scalar(node, 0)], suffix="/trips")
        if (given["scan_input_directions"] or [0] * count)[k]:
            x = reversed_steps(f"{node.name}/reverse", x)
        extra.append((names[k], x))
    results = _Looping(node, trips, None, states).outputs(body, extra)
    finals, stacked = results[: len(states)], results[len(states) :]
    for k, y in enumerate(stacked):
        if not isinstance(y, Tensor):
            continue
        if (given["scan_output_directions"] or [0] * len(stacked))[k]:
            y = reversed_steps(f"{node.name}/reverse", y)
        stacked[k] = _last(node, y, (given["scan_output_axes"] or [0] * len(stacked))[k])
    return [*finals, *stacked]


def _scalar(node: OnnxNode, value: int) -> Tensor:
    return node.build.weight(f"{node.name}.{value}", np.array(value, np.int64))


def _first(node: OnnxNode, x: Tensor, axis: int) -> Tensor:
    """Return x with an axis as its first."""
    if axis == 0:
        return x
    rank = len(x.shape)
    axis %= rank
    return node.emit("Transpose", [x], suffix="/first", perm=(axis, *(k for k in range(rank) if k != axis)))


def _last(node: OnnxNode, y: Tensor, axis: int) -> Tensor:
    """Return y with its first axis at another place."""
    if axis == 0:
        return y
    rank = len(y.shape)
    order = list(range(1, rank))
    order.insert(axis % rank, 0)
    return node.emit("Transpose", [y], suffix="/last", perm=tuple(order))


def _scan_of_rows(node: OnnxNode, body: Any, count: int) -> list[Known]:
    """The Scan of opset 8: every input has a batch axis first, and each row is scanned by itself: a Scan over rows around one over steps.

    A row with a length is scanned for so many steps; what it stacks has zeros after them.
    """
    lengths = node.optional(0)
    directions = [int(v) for v in node.attribute("directions") or []]
    inputs = [node.input(k) for k in range(1, len(node.values))]
    given = {
        "scan_input_axes": [],
        "scan_input_directions": directions,
        "scan_output_axes": [],
        "scan_output_directions": [],
    }
    rows = node.emit("Gather", [node.emit("Shape", [inputs[0]], suffix="/shape"), _scalar(node, 0)], suffix="/rows")
    scope = node.scope.body()
    number = scope.build.input(f"{node.name}.row", "int64", ())
    going = scope.build.input(f"{node.name}.going", "bool", ())
    true = scope.build.weight(f"{node.name}.true", np.array(True))
    row = [scope.build.node(f"{node.name}/row", "Gather", [scope.taking(x), number], axis=0) for x in inputs]
    inner = OnnxNode(scope, node.op_type, f"{node.name}/row", 9, row, node.outputs, {})
    before = len(node.scope.document.refusals)
    if lengths is None:
        results = _scanned(inner, body, row, count, given)
    else:
        valid = scope.build.node(f"{node.name}/length", "Gather", [scope.taking(lengths), number], axis=0)
        results = _scanned_in_part(inner, body, row, count, given, valid)
    if len(node.scope.document.refusals) > before:
        return [None] * len(node.outputs)
    graph, taken = scope.closed([number, going], [true, *_tensors(node, results)])
    made = node.build.node(node.name, "Loop", [rows, None, *taken], [True] * len(results), {"body": graph}, carried=0)
    return list(made)


def _scanned_in_part(
    node: OnnxNode, body: Any, row: list[Tensor], count: int, given: dict[str, list[int]], valid: Tensor
) -> list[Known]:
    """Return what a Scan over the first `valid` steps gives, stacked outputs with zeros up to the number of all steps."""
    states, whole = row[:-count], row[-count:]
    stop = node.emit("Reshape", [valid, node.ints("shape", [1])], suffix="/stop")
    parts = [
        node.emit("Slice", [x, node.ints("from", [0]), stop, node.ints("axes", [0])], suffix="/valid") for x in whole
    ]
    results = _scanned(node, body, [*states, *parts], count, given)
    steps = node.emit("Shape", [whole[0]], suffix="/steps", end=1)
    after = node.emit("Sub", [steps, node.cast(stop, "int64")], suffix="/after")
    pads = node.emit("Concat", [node.ints("none", [0]), after], suffix="/pads", axis=0)
    padded = lambda y: node.emit("Pad", [y, pads, None, node.ints("axes", [0])], suffix="/padded")
    stacked = [padded(y) if isinstance(y, Tensor) else y for y in results[len(states) :]]
    return [*results[: len(states)], *stacked]

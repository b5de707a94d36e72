"""Which axis of each value is the batch and which is time, and which nodes mix rows or steps.

Found by inference with symbols: the axes of the graph's inputs that reach the time and batch axes of the recurrent nodes are
named, and an axis of a value is time while its dim is that symbol. An op says along which axes it mixes elements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastlstm.errors import FastLSTMError, StreamError
from fastlstm.graph import Graph, Node, TensorSpec, Weight
from fastlstm.ops import inference
from fastlstm.ops.convolution import Conv1D
from fastlstm.ops.masks import SequenceMask
from fastlstm.ops.op import NeedsValue, Op, Value, find
from fastlstm.ops.recurrent import Recurrent

BATCH, TIME = "«batch»", "«time»"


@dataclass(frozen=True)
class Axes:
    """Input axes (input name -> axis) and every value's shape with BATCH and TIME for those dims."""

    graph: Graph
    batch: Mapping[str, int]
    time: Mapping[str, int]
    values: Mapping[str, Value]

    def axis(self, name: str, symbol: str) -> int | None:
        """Return the axis of a value that is BATCH or TIME, None if there is none."""
        shape = self.values[name].shape
        return shape.index(symbol) if shape is not None and symbol in shape else None

    def mixing(self, symbol: str) -> Node | None:
        """Return the first node that mixes elements along an axis, None if every node keeps them apart."""
        for node in self.graph.nodes:
            args = inference.arguments(node, self.values)
            if _mixes(find(node.op), node, args, [self.values[n] for n in node.outputs if n], symbol):
                return node
        return None

    def rows_are_apart(self) -> bool:
        """Tell whether every input and output has a batch axis and no node mixes rows."""
        ends = [spec.name for spec in (*self.graph.inputs, *self.graph.outputs)]
        return all(self.axis(name, BATCH) is not None for name in ends) and self.mixing(BATCH) is None


def _mentions(value: Value | None, symbol: str) -> bool:
    return value is not None and (value.shape is None or any(isinstance(d, str) and symbol in d for d in value.shape))


def _mixes(op: Op, node: Node, args: list[Value | None], outs: list[Value], symbol: str) -> bool:
    if not any(_mentions(arg, symbol) for arg in args):
        return False
    if any(arg is not None and arg.shape is None and arg.data is None for arg in args):
        return True
    try:
        mixed = op.mixed(node, args)
    except NeedsValue:
        return True
    for k, axis in mixed:
        shape = args[k].shape if k < len(args) and args[k] is not None else None  # type: ignore[union-attr]
        if shape is not None and axis < len(shape) and isinstance(shape[axis], str) and symbol in shape[axis]:  # type: ignore[operator]
            return True
    return any(
        out.shape is None or any(isinstance(d, str) and symbol in d and d != symbol for d in out.shape) for out in outs
    )


def _claims(op: Op, node: Node) -> list[tuple[int, int, str]]:
    """Return (input, axis, BATCH or TIME) for what an op says of its inputs' axes."""
    if isinstance(op, Recurrent):
        time = op.time_axis(node)
        places = [(k, axis, TIME if axis == time else BATCH) for k in (0, op.mask_slot) for axis in (0, 1)]
        return places + [(op.h_slot + k, 0, BATCH) for k in range(len(op.states))]
    if isinstance(op, Conv1D):
        return [(0, 0, BATCH), (0, 1, TIME)]
    return [(0, 0, BATCH)] if isinstance(op, SequenceMask) else []


def _numbered(graph: Graph) -> list[TensorSpec]:
    """Return the inputs with a symbol of its own for every axis."""
    shapes = [
        None if s.shape is None else tuple(f"«{n}.{k}»" for k in range(len(s.shape)))
        for n, s in enumerate(graph.inputs)
    ]
    return [TensorSpec(spec.name, spec.dtype, shape) for spec, shape in zip(graph.inputs, shapes, strict=True)]


def _claimed(graph: Graph, values: Mapping[str, Value], inputs: Sequence[TensorSpec]) -> dict[tuple[str, int], str]:
    """Return the input axes, (name, axis) -> BATCH or TIME, that nodes claim or that share a symbol with such an axis."""
    kinds: dict[str, str] = {}
    for node in graph.nodes:
        for k, axis, kind in _claims(find(node.op), node):
            shape = values[node.inputs[k]].shape if k < len(node.inputs) and node.inputs[k] else None
            if shape is not None and axis < len(shape) and isinstance(shape[axis], str):
                kinds.setdefault(str(shape[axis]), kind)
    places = [(spec.name, k, dim) for spec in inputs for k, dim in enumerate(spec.shape or ()) if isinstance(dim, str)]
    return {(name, k): kinds[dim] for name, k, dim in places if dim in kinds}


def find_axes(graph: Graph, weights: Mapping[str, Weight]) -> Axes:
    """Return the axes of a graph. Inputs that reach no node which claims an axis keep their declared dims."""
    claimed: dict[tuple[str, int], str] = {}
    for inputs in (_numbered(graph), graph.inputs):
        try:
            claimed |= _claimed(graph, inference.infer(graph, weights, inputs), inputs)
        except FastLSTMError:
            continue  # arithmetic that needs the declared sizes
    specs = [
        TensorSpec(
            s.name,
            s.dtype,
            None if s.shape is None else tuple(claimed.get((s.name, k), d) for k, d in enumerate(s.shape)),
        )
        for s in graph.inputs
    ]
    try:
        values = inference.infer(graph, weights, specs)
    except FastLSTMError:
        claimed, values = {}, inference.infer(graph, weights)
    batch, time = ({name: k for (name, k), kind in claimed.items() if kind == wanted} for wanted in (BATCH, TIME))
    return Axes(graph, batch, time, values)


def check_streams(axes: Axes) -> None:
    """Raise StreamError, naming the node, unless outputs of a prefix never change as more steps arrive."""
    if not axes.time:
        raise StreamError("the model cannot stream: no input has a time axis that reaches a recurrent node or a Conv1D")
    for spec in axes.graph.inputs:
        if spec.name not in axes.time:
            raise StreamError(f"the model cannot stream: input {spec.name!r} has no time axis")
        if spec.name not in axes.batch:
            raise StreamError(f"the model cannot stream: input {spec.name!r} has no batch axis")
    summaries: set[str] = set()  # values of the whole prefix: final states
    for node in axes.graph.nodes:
        op = find(node.op)
        args = inference.arguments(node, axes.values)
        sequence = [name for name in node.inputs if name and axes.axis(name, TIME) is not None]
        summary = [name for name in node.inputs if name in summaries]
        outs = [axes.values[n] for n in node.outputs if n]
        if isinstance(op, Recurrent) and op.get(node, "direction") == "reverse":
            raise StreamError(f"the model cannot stream: node {node.name!r} runs backwards over all of time")
        if _mixes(op, node, args, outs, TIME):
            raise StreamError(f"the model cannot stream: node {node.name!r} ({node.op}) needs all of time at once")
        if sequence and summary:
            raise StreamError(
                f"the model cannot stream: node {node.name!r} joins {summary[0]!r}, a result over all of time, with steps"
            )
        if isinstance(op, Recurrent):
            summaries.update(name for name in node.outputs[1:] if name)
        if summary:
            summaries.update(name for name in node.outputs if name)

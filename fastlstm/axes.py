"""Which axis of each value is the batch and which is time, and which nodes mix rows or steps.

Found by inference with symbols: the axes of the graph's inputs that reach the time and batch axes of the recurrent nodes are
named, and an axis of a value is time while its dim is that symbol. An op says along which axes it mixes elements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fastlstm.errors import FastLSTMError, StreamError
from fastlstm.graph import Graph, Node, TensorSpec, Weight
from fastlstm.ops import dims, inference
from fastlstm.ops.convolution import Conv1D
from fastlstm.ops.masks import SequenceMask
from fastlstm.ops.op import HostOp, NeedsValue, Op, Value, find
from fastlstm.ops.recurrent import Recurrent
from fastlstm.ops.shape_values import ShapeOp

BATCH, TIME = "«batch»", "«time»"
BOTH = dims.product((BATCH, TIME))  # the axis of what is applied to every step of every row


@dataclass(frozen=True)
class Axes:
    """Input axes (input name -> axis) and every value's shape with BATCH and TIME for those dims."""

    graph: Graph
    weights: Mapping[str, Weight]
    batch: Mapping[str, int]
    time: Mapping[str, int]
    values: Mapping[str, Value]

    def axis(self, name: str, symbol: str) -> int | None:
        """Return the axis of a value that is BATCH or TIME, None if there is none."""
        shape = self.values[name].shape
        return shape.index(symbol) if shape is not None and symbol in shape else None

    def mixing(self, symbol: str) -> Node | None:
        """Return the first node that mixes elements along an axis, None if every node keeps them apart."""
        return next((node for node in self.graph.nodes if self.mixes(node, symbol)), None)

    def mixes(self, node: Node, symbol: str) -> bool:
        """Tell whether a node's elements depend on others along an axis, or on how many there are."""
        op, outs = find(node.op), [self.values[name] for name in node.outputs if name]
        if node.name in self._counting[symbol] and any(out.dtype.kind == "f" for out in outs):
            return True
        return _mixes(op, node, inference.arguments(node, self.values), outs, symbol)

    @cached_property
    def _counting(self) -> dict[str, set[str]]:
        """The nodes that read the size of an axis as a number, and not only as a shape to give to a value."""
        counting: dict[str, set[str]] = {}
        for symbol in (BATCH, TIME):
            sizes: set[str] = set()
            counting[symbol] = set()
            for node in self.graph.nodes:
                op = find(node.op)
                if isinstance(op, ShapeOp):
                    x = self.values[node.inputs[0]]
                    start, end = op.get(node, "start"), op.get(node, "end")
                    part = Value(x.dtype, None if x.shape is None else x.shape[start:end])
                    sizes.update(node.outputs if _mentions(part, symbol) else ())
                elif any(name in sizes for k, name in enumerate(node.inputs) if op.slot(k).name != "shape"):
                    counting[symbol].add(node.name)
                    sizes.update(name for name in node.outputs if name)
        return counting

    @cached_property
    def rows_are_apart(self) -> bool:
        """Whether every input and output has a batch axis, no node mixes rows, and any number of rows fits."""
        ends = [spec.name for spec in (*self.graph.inputs, *self.graph.outputs)]
        if any(self.axis(name, BATCH) is None for name in ends) or self.mixing(BATCH) is not None:
            return False
        try:
            self.infer_at({BATCH: 1})
        except FastLSTMError:
            return False
        return True

    def infer_at(self, sizes: Mapping[str, int]) -> None:
        """Infer every shape with these sizes for BATCH or TIME. Raise our errors where one does not fit."""
        specs = []
        for spec in self.graph.inputs:
            dims = self.values[spec.name].shape
            shape = None if dims is None else tuple(sizes.get(d, d) if isinstance(d, str) else d for d in dims)
            specs.append(TensorSpec(spec.name, spec.dtype, shape))
        inference.infer(self.graph, self.weights, specs)


def _mentions(value: Value | None, symbol: str) -> bool:
    return value is not None and (value.shape is None or any(isinstance(d, str) and symbol in d for d in value.shape))


def _mixes(op: Op, node: Node, args: list[Value | None], outs: list[Value], symbol: str) -> bool:
    if isinstance(op, Recurrent):
        # a state that nothing is known of can only be (B, H)
        states = range(op.h_slot, op.h_slot + len(op.states))
        args = [None if k in states and arg is not None and arg.shape is None else arg for k, arg in enumerate(args)]
    if not any(_mentions(arg, symbol) for arg in args):
        return False
    if any(arg is not None and arg.shape is None and arg.data is None for arg in args):
        return True
    try:
        mixed = [*op.mixed(node, args), *_order(op, node, symbol)]
    except NeedsValue:
        return True
    for k, axis in mixed:
        shape = args[k].shape if k < len(args) and args[k] is not None else None  # type: ignore[union-attr]
        if shape is not None and axis < len(shape) and isinstance(shape[axis], str) and symbol in shape[axis]:  # type: ignore[operator]
            return True
    kept = (symbol, BOTH)
    if any(
        out.shape is None or any(isinstance(d, str) and symbol in d and d not in kept for d in out.shape)
        for out in outs
    ):
        return True
    # an axis that is dropped, meets one of a fixed size, or crosses itself, is not kept apart
    count = lambda out: sum(dim in kept for dim in out.shape or ())
    return not isinstance(op, Recurrent | ShapeOp) and any(count(out) != 1 for out in outs)


def _order(op: Op, node: Node, symbol: str) -> list[tuple[int, int]]:
    """Return the (input, axis) that may not be an axis of this kind: a recurrence over rows, or one row for each step."""
    if not isinstance(op, Recurrent | Conv1D):
        return []
    time = op.time_axis(node) if isinstance(op, Recurrent) else 1
    return [(0, time if symbol == BATCH else 1 - time)]


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
        x = values[node.inputs[0]].shape if node.inputs and node.inputs[0] else None
        if isinstance(find(node.op), Recurrent | Conv1D) and any("*" in str(dim) for dim in (x or ())[:2]):
            continue  # applied to every step: its time lies within a step
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
    if not claimed:
        # a model without time: its batch is the free axis that all inputs start with
        first = {spec.shape[0] if spec.shape else 0 for spec in graph.inputs}
        if len(first) == 1 and all(isinstance(dim, str) for dim in first):
            claimed = {(spec.name, 0): BATCH for spec in graph.inputs}
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
    return Axes(graph, weights, batch, time, values)


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
    fixed = _known_ahead(axes)
    for node in axes.graph.nodes:
        op = find(node.op)
        sequence = [name for name in node.inputs if name and axes.axis(name, TIME) is not None]
        summary = [name for name in node.inputs if name in summaries]
        if isinstance(op, Recurrent) and op.get(node, "direction") == "reverse":
            raise StreamError(f"the model cannot stream: node {node.name!r} runs backwards over all of time")
        if axes.mixes(node, TIME):
            raise StreamError(f"the model cannot stream: node {node.name!r} ({node.op}) needs all of time at once")
        if sequence and summary:
            raise StreamError(
                f"the model cannot stream: node {node.name!r} joins {summary[0]!r}, a result over all of time, with steps"
            )
        if _carries(op, node, axes) and not sequence:
            raise StreamError(
                f"the model cannot stream: node {node.name!r} ({node.op}) runs over other steps than the input's"
            )
        if isinstance(op, Recurrent):
            starts = [name for name in node.inputs[op.h_slot : op.h_slot + len(op.states)] if name]
            computed = [name for name in starts if name not in fixed]
            if computed:
                raise StreamError(
                    f"the model cannot stream: node {node.name!r} starts from {computed[0]!r}, which is computed"
                )
            summaries.update(name for name in node.outputs[1:] if name)
        if summary:
            summaries.update(name for name in node.outputs if name)
    try:
        axes.infer_at({BATCH: 1, TIME: 1})
    except FastLSTMError as error:
        raise StreamError(f"the model cannot stream: {error}") from error


def _carries(op: Op, node: Node, axes: Axes) -> bool:
    """Tell whether a node leaves a state for the next step."""
    if isinstance(op, Conv1D):
        return op.get(node, "pads")[0] > 0 and (0, 1) not in op.mixed(node, inference.arguments(node, axes.values))
    return isinstance(op, Recurrent)


def _known_ahead(axes: Axes) -> set[str]:
    """Return the values that are known once the shapes of the inputs are: weights, and what is made of them by copying."""
    fixed = set(axes.weights)
    for node in axes.graph.nodes:
        op = find(node.op)
        if isinstance(op, ShapeOp) or (isinstance(op, HostOp) and all(name in fixed for name in node.inputs if name)):
            fixed.update(name for name in node.outputs if name)
    return fixed

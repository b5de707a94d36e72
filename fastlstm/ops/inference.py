"""Walk a graph and infer what is known of every value: shapes with sizes or symbols, and the contents of constants."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from fastlstm.errors import DTypeError, FastLSTMError, GraphError, LimitError
from fastlstm.graph import Graph, Node, TensorSpec, Weight
from fastlstm.ops.dims import known
from fastlstm.ops.op import HostOp, NeedsValue, Value, find

KERNEL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
FOLD_LIMIT = 1 << 26  # elements of an output that is computed ahead of time
KNOWN_LIMIT = 1 << 8  # the same where only shapes are asked for: contents that matter then are sizes, axes and bounds
MAX_RANK = 16
MAX_LOOPS = 4  # one within the other
MAX_SYMBOLS = 1 << 12  # characters of a dim: an expression of symbols can double at each node
MAX_BYTES = 1 << 62  # of a value, its empty axes left out: what NumPy can address


def arguments(node: Node, values: Mapping[str, Value]) -> list[Value | None]:
    """Return what is known of a node's inputs, None for the absent ones."""
    return [values[name] if name else None for name in node.inputs]


def infer_node(node: Node, args: Sequence[Value | None], limit: int = FOLD_LIMIT) -> list[Value]:
    """Return what is known of a node's outputs. Raise NeedsValue, or our errors whatever the graph is.

    Constant inputs give constant outputs of up to `limit` elements.
    """
    op = find(node.op, node.name)
    first = args[0] if args else None
    if not isinstance(op, HostOp) and not op.any_dtype and first is not None and first.dtype not in KERNEL_DTYPES:
        raise DTypeError(f"node {node.name!r}: {node.op} runs on float32 or float64, its input is {first.dtype}")
    try:
        _check_symbols(node, args)
        outs = op.infer(node, args)[: len(node.outputs)]
        for out in outs:
            _check_value(node, out)
        small = all(known(out.shape) and prod(out.shape) <= limit for out in outs)  # type: ignore[arg-type]
        constant = all(arg is None or arg.data is not None for arg in args)
        if small and any(out.data is None for out in outs) and constant:
            arrays = op.evaluate(node, [None if arg is None else arg.data for arg in args])
            if arrays is not None:
                outs = [Value.constant(np.ascontiguousarray(a).reshape(a.shape)) for a in arrays[: len(node.outputs)]]
        return outs
    except (FastLSTMError, NeedsValue):
        raise
    except Exception as error:  # what NumPy raises for inputs that make no sense is not ours to list
        raise GraphError(f"node {node.name!r}: {node.op} cannot take these inputs: {error}") from error


def _check_symbols(node: Node, args: Sequence[Value | None]) -> None:
    dims = (dim for arg in args if arg is not None for dim in arg.shape or ())
    if sum(len(dim) for dim in dims if isinstance(dim, str)) > 16 * MAX_SYMBOLS:
        raise LimitError(f"node {node.name!r}: the sizes of its inputs depend on too many symbols")


def _check_value(node: Node, value: Value) -> None:
    if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8 or not value.dtype.isnative:
        raise GraphError(f"node {node.name!r}: its output has dtype {value.dtype}")
    shape = value.shape or ()
    if len(shape) > MAX_RANK:
        raise LimitError(f"node {node.name!r}: its output has {len(shape)} axes, more than {MAX_RANK}")
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if any(size < 0 for size in sizes):
        raise GraphError(f"node {node.name!r}: its output has shape {shape}")
    if prod(size for size in sizes if size) * value.dtype.itemsize >= MAX_BYTES:
        raise LimitError(f"node {node.name!r}: its output has more elements than can be addressed")
    if any(isinstance(dim, str) and len(dim) > MAX_SYMBOLS for dim in shape):
        raise LimitError(f"node {node.name!r}: the sizes of its output depend on too many symbols")


def weight_values(weights: Mapping[str, Weight]) -> dict[str, Value]:
    """Return the values of weights; narrow storage counts as float32 and its contents are not widened here."""
    values = {}
    for name, weight in weights.items():
        if isinstance(weight, np.ndarray) and weight.dtype != np.float16:
            values[name] = Value.constant(weight)
        else:
            values[name] = Value(np.dtype(np.float32), tuple(weight.shape))
    return values


def infer(
    graph: Graph,
    weights: Mapping[str, Weight],
    inputs: Sequence[TensorSpec] | None = None,
    constants: Mapping[str, Value] | None = None,
) -> dict[str, Value]:
    """Return what is known of every value of a graph for inputs of these shapes (default: the declared ones), or of these contents.

    An output whose shape depends on contents that are not known has shape None.
    """
    values = weight_values(weights)
    for spec in graph.inputs if inputs is None else inputs:
        values[spec.name] = Value(np.dtype(spec.dtype), spec.shape)
    values.update(constants or {})
    for node in graph.nodes:
        args = arguments(node, values)
        try:
            outs = infer_node(node, args, KNOWN_LIMIT)
        except NeedsValue:
            outs = find(node.op).unknown(node, args)
        for name, out in zip(node.outputs, outs, strict=False):
            if name:
                values[name] = out
        missing = [name for name in node.outputs if name and name not in values]
        if missing:
            raise GraphError(f"node {node.name!r}: {node.op} has no output for {missing[0]!r}")
    return values


def check(graph: Graph, weights: Mapping[str, Weight]) -> None:
    """Raise one of our errors unless every node fits its op, and every weight its node."""
    graph.check(weights)
    if loops_within(graph) > MAX_LOOPS:
        raise LimitError(f"more than {MAX_LOOPS} loops stand one within the other")
    for node in graph.walk():
        find(node.op, node.name).check(node)
    infer(graph, weights)


def loops_within(graph: Graph) -> int:
    """Return how many loops stand one within the other at most: each may be inferred three times for one inference around it."""
    inner = [(node.op == "Loop") + loops_within(body) for node in graph.nodes for body in node.subgraphs.values()]
    return max(inner, default=0)


def matrices(graph: Graph) -> set[str]:
    """Return the weights that may be stored in float16 or int8: those that every consumer reads as a matrix."""
    narrow, wide = _read(graph)
    return narrow - wide


def _read(graph: Graph) -> tuple[set[str], set[str]]:
    """Return the values that some consumer reads as a matrix, and those that some consumer reads otherwise."""
    narrow, wide = set(), {spec.name for spec in graph.outputs}
    for node in graph.nodes:
        op = find(node.op, node.name)
        for k, name in enumerate(node.inputs if not node.subgraphs else ()):
            (narrow if op.slot(k).matrix else wide).add(name)
        for body in node.subgraphs.values():
            inside = _read(body)
            skip = len(node.inputs) - len(body.inputs)  # what the node takes before its subgraph's inputs
            wide.update(node.inputs[: max(skip, 0)])
            for name, spec in zip(node.inputs[max(skip, 0) :], body.inputs[max(-skip, 0) :], strict=True):
                for found, names in zip((narrow, wide), inside, strict=True):
                    found.update([name] if spec.name in names else [])
    return narrow, wide

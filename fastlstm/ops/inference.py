"""Walk a graph and infer what is known of every value: shapes with sizes or symbols, and the contents of constants."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from fastlstm.errors import FastLSTMError, GraphError, UnsupportedError
from fastlstm.graph import Graph, Node, TensorSpec, Weight
from fastlstm.ops.dims import known
from fastlstm.ops.op import NeedsValue, Value, find

FOLD_LIMIT = 1 << 26  # elements of an output that is computed ahead of time


def arguments(node: Node, values: Mapping[str, Value]) -> list[Value | None]:
    """Return what is known of a node's inputs, None for the absent ones."""
    return [values[name] if name else None for name in node.inputs]


def infer_node(node: Node, args: Sequence[Value | None]) -> list[Value]:
    """Return what is known of a node's outputs; constant inputs give constant outputs. Raise NeedsValue, or our errors."""
    op = find(node.op, node.name)
    try:
        outs = op.infer(node, args)[: len(node.outputs)]
        small = all(known(out.shape) and prod(out.shape) <= FOLD_LIMIT for out in outs)  # type: ignore[arg-type]
        constant = all(arg is None or arg.data is not None for arg in args)
        if small and any(out.data is None for out in outs) and constant:
            arrays = op.evaluate(node, [None if arg is None else arg.data for arg in args])
            if arrays is not None:
                outs = [Value.constant(np.ascontiguousarray(a).reshape(a.shape)) for a in arrays[: len(node.outputs)]]
        return outs
    except (FastLSTMError, NeedsValue):
        raise
    except (
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
        AttributeError,
        AssertionError,
        KeyError,
        ZeroDivisionError,
    ) as error:
        raise GraphError(f"node {node.name!r}: {node.op} cannot take these inputs: {error}") from error


def weight_values(weights: Mapping[str, Weight]) -> dict[str, Value]:
    """Return the values of weights; narrow storage counts as float32 and its contents are not widened here."""
    values = {}
    for name, weight in weights.items():
        if isinstance(weight, np.ndarray) and weight.dtype != np.float16:
            values[name] = Value.constant(weight)
        else:
            values[name] = Value(np.dtype(np.float32), tuple(weight.shape))
    return values


def infer(graph: Graph, weights: Mapping[str, Weight], inputs: Sequence[TensorSpec] | None = None) -> dict[str, Value]:
    """Return what is known of every value of a graph for inputs of these shapes (default: the declared ones).

    An output whose shape depends on contents that are not known has shape None.
    """
    values = weight_values(weights)
    for spec in graph.inputs if inputs is None else inputs:
        values[spec.name] = Value(np.dtype(spec.dtype), spec.shape)
    for node in graph.nodes:
        if node.subgraphs:
            raise UnsupportedError(f"node {node.name!r}: {node.op} with a subgraph cannot run yet")
        args = arguments(node, values)
        try:
            outs = infer_node(node, args)
        except NeedsValue:
            first = next(arg for arg in args if arg is not None)
            outs = [Value(first.dtype, None) for _ in node.outputs]
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
    for node in graph.walk():
        find(node.op, node.name).check(node)
    infer(graph, weights)


def matrices(graph: Graph) -> set[str]:
    """Return the weights that may be stored in float16 or int8: those that every consumer reads as a matrix."""
    wide, narrow = set(), set()
    for node in graph.walk():
        op = find(node.op, node.name)
        for k, name in enumerate(node.inputs):
            (narrow if op.slot(k).matrix else wide).add(name)
    return narrow - wide - {spec.name for spec in graph.outputs}

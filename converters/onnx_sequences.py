"""Handlers of ONNX's sequences: lists of tensors while the graph is imported, or one tensor that stacks what a loop gave."""

from dataclasses import replace

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, SequenceValue, handler, onnx_dtype
from fastlstm.errors import ModelFileError
from fastlstm.layers import Tensor


def stack(node: OnnxNode, sequence: SequenceValue) -> Tensor:
    """Return the elements along a first axis. Raise UnsupportedError unless they are known to have one shape."""
    if sequence.carried is not None:
        raise node.refuse("a sequence that a loop carries", "read before the loop ends")
    if sequence.stacked is not None:
        return sequence.stacked
    shapes = {item.value.shape for item in sequence.items}
    if len(shapes) != 1 or None in shapes:
        raise node.refuse("a sequence of tensors of different shapes", sorted(map(str, shapes)))
    axes = node.ints("axes", [0])
    raised = [node.emit("Unsqueeze", [item, axes], suffix="/element") for item in sequence.items]
    return node.emit("Concat", raised, suffix="/stacked", axis=0)


@handler("SequenceEmpty")
def _empty(node: OnnxNode):
    dtype = onnx_dtype(int(node.attribute("dtype", 1)))
    if dtype is None:
        raise node.refuse("attribute dtype", node.attribute("dtype"))
    return SequenceValue(dtype)


@handler("SequenceConstruct")
def _construct(node: OnnxNode):
    items = tuple(node.input(k) for k in range(len(node.values)))
    return SequenceValue(items[0].value.dtype.name, items)


@handler("SequenceInsert")
def _insert(node: OnnxNode):
    sequence, item, place = node.sequence(0), node.input(1), node.optional(2)
    if sequence.stacked is not None:
        raise node.refuse("a sequence whose number of elements the run decides", "changed")
    size = len(sequence.items)
    if place is not None:
        if place.value.data is None or sequence.carried is not None:
            raise node.refuse("input position", "a value of the run")
        at = int(place.value.data.ravel()[0])
        at += size if at < 0 else 0
        if not 0 <= at <= size:
            raise ModelFileError(f"node {node.name!r}: position {at} in a sequence of {size}")
        return replace(sequence, items=(*sequence.items[:at], item, *sequence.items[at:]))
    return replace(sequence, items=(*sequence.items, item))


@handler("SequenceErase")
def _erase(node: OnnxNode):
    sequence, place = node.sequence(0), node.constant(1)
    if sequence.stacked is not None or sequence.carried is not None:
        raise node.refuse("a sequence whose number of elements the run decides", "changed")
    at = -1 if place is None else int(place.ravel()[0])
    at += len(sequence.items) if at < 0 else 0
    if not 0 <= at < len(sequence.items):
        raise ModelFileError(f"node {node.name!r}: position {at} in a sequence of {len(sequence.items)}")
    return replace(sequence, items=sequence.items[:at] + sequence.items[at + 1 :])


@handler("SequenceAt")
def _at(node: OnnxNode):
    sequence, place = node.sequence(0), node.input(1)
    if sequence.items and sequence.carried is None and place.value.data is not None:
        at = int(place.value.data.ravel()[0])
        if not -len(sequence.items) <= at < len(sequence.items):
            raise ModelFileError(f"node {node.name!r}: position {at} in a sequence of {len(sequence.items)}")
        return sequence.items[at]
    number = node.emit("Reshape", [place, node.ints("shape", ())], suffix="/place")
    return node.emit("Gather", [stack(node, sequence), number], axis=0)


@handler("SequenceLength")
def _length(node: OnnxNode):
    sequence = node.sequence(0)
    if sequence.stacked is None and sequence.carried is None:
        return node.build.weight(f"{node.name}.length", np.array(len(sequence.items), np.int64))
    sizes = node.emit("Shape", [stack(node, sequence)], suffix="/shape")
    return node.emit("Gather", [sizes, node.build.weight(f"{node.name}.0", np.array(0, np.int64))])


@handler("SplitToSequence")
def _split(node: OnnxNode):
    """Parts of one size become one stacked value, others items."""
    x, split, axis = node.input(0), node.optional(1), node.axis("axis", 0)
    keepdims, dtype = bool(node.attribute("keepdims", 1)), x.value.dtype.name
    if split is None:
        order = (axis, *(k for k in range(node.rank(0)) if k != axis))
        stacked = node.emit("Transpose", [x], suffix="/first", perm=order)
        if keepdims:
            stacked = node.emit("Unsqueeze", [stacked, node.ints("axes", [axis + 1])], suffix="/kept")
        return SequenceValue(dtype, stacked=stacked)
    sizes, whole = node.constant(1), x.shape[axis]
    assert sizes is not None
    if sizes.ndim == 0:
        if not isinstance(whole, int):
            raise node.refuse("input split of an axis of unknown size", int(sizes))
        step = int(sizes)
        if step <= 0:
            raise ModelFileError(f"node {node.name!r}: parts of {step} elements")
        sizes = np.array([min(step, whole - at) for at in range(0, whole, step)])
    parts = node.emit("Split", [x, node.ints("split", sizes.tolist())], len(sizes), suffix="/parts", axis=axis)
    return SequenceValue(dtype, tuple(parts) if isinstance(parts, tuple) else (parts,))


@handler("ConcatFromSequence")
def _concat(node: OnnxNode):
    sequence, new = node.sequence(0), bool(node.attribute("new_axis", 0))
    axis = int(node.attribute("axis", 0))
    if sequence.items and sequence.carried is None:
        items = list(sequence.items)
        if new:
            axes = node.ints("axes", [axis])
            items = [node.emit("Unsqueeze", [item, axes], suffix="/element") for item in items]
        return node.emit("Concat", items, axis=axis)
    stacked = stack(node, sequence)
    rank = len(stacked.shape)
    axis %= rank if new else rank - 1
    order = list(range(1, rank))
    order.insert(axis, 0)
    y = node.emit("Transpose", [stacked], suffix="/turned", perm=tuple(order))
    if new:
        return y
    # (..., n, size, ...) -> (..., n * size, ...)
    sizes = node.emit("Shape", [y], suffix="/shape")
    start, joined = (node.emit("Slice", [sizes, node.ints("from", [a]), node.ints("to", [b])], suffix="/sizes") for a, b in ((0, axis), (axis + 2, rank)))  # fmt: skip
    shape = node.emit("Concat", [start, node.ints("rest", [-1]), joined], suffix="/shape", axis=0)
    return node.emit("Reshape", [y, shape])

"""OneHot: a row for each index, all off but at the index. Before a recurrent node it stands for the number of a row instead."""

from collections.abc import Sequence
from functools import cached_property
from math import prod

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops.lookups import INT64, NUMPY_IDS, emit_numbers, in_three
from fastlstm.ops.mapping import emit_map_into, size_kind
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    Back,
    Emit,
    HostOp,
    Slot,
    TableRows,
    Value,
    axis_of,
    contents,
    expect_shape,
    register,
    required,
    shape_error,
)


class OneHotTable(Value):
    """The rows that a OneHot of constant values gives, (depth + 1, depth): the last is all off. Made where something reads it."""

    def __init__(self, depth: int, values: np.ndarray):
        self.values = values
        self.dtype, self.shape = values.dtype, (depth + 1, depth)

    @cached_property
    def array(self) -> np.ndarray:  # type: ignore[override]
        off, on = self.values
        table = np.full(self.shape, off, self.dtype)  # type: ignore[arg-type]
        np.fill_diagonal(table, on)
        return table


@register
class OneHot(HostOp):
    """`values` [off, on] along a new axis of `depth` elements: on where it is the index, all off where no element is.

    Negative indices count from the end unless `from_end` is False (ONNX before opset 11, and Keras); floats are cut off.
    """

    name = "OneHot"
    inputs = (Slot("indices"), Slot("depth"), Slot("values"))
    attributes = {"axis": Attribute(int, -1), "from_end": Attribute(bool, True)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        indices, values = required(args), required(args, 2)
        expect_shape(node, args, 2, "input values", (2,))
        depth = self._depth(node, contents(args, 1))
        if indices.shape is None:
            return [Value(values.dtype, None)]
        axis = self._axis(node, len(indices.shape))
        return [Value(values.dtype, (*indices.shape[:axis], depth, *indices.shape[axis:]))]

    def unknown(self, node: Node, args: Args) -> list[Value]:
        return [Value(required(args, 2).dtype, None)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        indices, depth, values = arrays
        assert indices is not None and values is not None
        size = self._depth(node, depth)
        hot = self._rows(node, indices, size)[..., None] == np.arange(size)
        return [np.moveaxis(np.where(hot, values[1], values[0]), -1, self._axis(node, indices.ndim))]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        indices, values, out = required(args), required(args, 2), outs[0]
        assert values.array is not None and out is not None and out.shape is not None
        axis = self._axis(node, len(indices.shape or ()))
        depth = int(out.shape[axis])
        rows = self._emit_rows(node, indices, depth, emit)
        if rows is None:
            super().lower(node, args, outs, emit)
        elif emit.looks_up(node):
            assert values.data is not None
            out.rows = TableRows(rows, OneHotTable(depth, values.data))
        else:
            shape = prod(rows.shape[:axis]), depth, prod(rows.shape[axis:])
            y = in_three(emit.output(out, lambda place: in_three(place, shape) is not None), shape)
            assert y is not None
            if y.size:
                strides = tuple(stride // y.itemsize for stride in y.strides[:2])
                pair = emit.contiguous(values.array)
                emit.kernel("one_hot_forward", rows, pair, y, strides, shape, kind=size_kind(y.dtype))

    def _emit_rows(self, node: Node, indices: Value, depth: int, emit: Emit) -> np.ndarray | None:
        """Return the row of the table for each index, int64 and contiguous; None where NumPy must find it."""
        if indices.data is not None:
            return np.ascontiguousarray(self._rows(node, indices.data, depth))
        array = indices.array
        assert array is not None
        if array.dtype in NUMPY_IDS:
            return None
        if array.dtype.kind == "f":
            whole = emit.scratch(array.shape, INT64)
            emit_map_into(emit, "convert_forward", whole, [array], (), array.dtype, INT64)
            array = whole
        return emit_numbers(emit, array, self._low(node, depth), depth, spare=depth)

    def _rows(self, node: Node, indices: np.ndarray, depth: int) -> np.ndarray:
        """Return the row of the table for each index: `depth`, the last, where no element is on."""
        with np.errstate(invalid="ignore"):
            whole = indices if indices.dtype.kind in "iu" else indices.astype(INT64)
        inside = (whole >= self._low(node, depth)) & (whole < depth)
        rows = np.where(inside, whole, 0).astype(INT64)
        return np.where(inside, np.where(rows < 0, rows + depth, rows), depth)

    def _low(self, node: Node, depth: int) -> int:
        return -depth if self.get(node, "from_end") else 0

    def _axis(self, node: Node, rank: int) -> int:
        return axis_of(node, self.get(node, "axis"), rank + 1)

    def _depth(self, node: Node, depth: np.ndarray | None) -> int:
        """Return the size of the new axis. Raise ShapeError unless it is one number of at least 1."""
        assert depth is not None
        if depth.size != 1 or depth.ndim > 1:
            raise shape_error(node, "input depth", depth.shape, "() or (1,)")
        size = int(depth.item())
        if size < 1:
            raise shape_error(node, "input depth", size, "a size of at least 1")
        return size

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient of off, and that of on, sums what reaches their copies."""
        (indices, depth, _), (d,) = back.x, back.dy
        both = back.node("Concat", [back.node("Unsqueeze", [back.number(v), back.ints(0)]) for v in (0.0, 1.0)], axis=0)
        on = back.node(self.name, [indices, depth, both], 1, **node.attributes)
        off = back.node("Sub", [back.number(1.0), on])
        sums = [back.node("ReduceSum", [back.node("Mul", [d, part])]) for part in (off, on)]
        return [None, None, back.node("Concat", [back.node("Unsqueeze", [v, back.ints(0)]) for v in sums], axis=0)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(1, 0), (2, 0)]

"""Ops that look rows up by index, Gather and Embedding, and ScatterAdd, their adjoint."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from fastlstm.errors import InputError
from fastlstm.graph import Node
from fastlstm.ops.mapping import size_kind
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    Back,
    Emit,
    HostOp,
    Op,
    Slot,
    TableRows,
    Value,
    axis_of,
    expect_dtypes,
    expect_shape,
    register,
    required,
    shape_error,
)
from fastlstm.ops.strides import in_elements

INT64 = np.dtype(np.int64)
NUMPY_IDS = (np.dtype(np.uint64), np.dtype(np.float16))  # dtypes of ids that no kernel reads


def emit_rows(emit: Emit, ids: Value, low: int, size: int, refuses: Callable[[], None]) -> np.ndarray | None:
    """Return the row numbers that ids in [low, size) stand for, int64 and contiguous; None where a NumPy step must check them."""
    if ids.data is not None:
        refuses()
        rows = ids.data.astype(np.int64)
        return np.where(rows < 0, rows + size, rows)
    assert ids.array is not None
    if ids.dtype in NUMPY_IDS or not emit.can_refuse():
        return None
    return emit_numbers(emit, ids.array, low, size, refuses=refuses)


def emit_numbers(
    emit: Emit, ids: np.ndarray, low: int, size: int, spare: int = -1, refuses: Callable[[], None] | None = None
) -> np.ndarray:
    """Emit the row numbers that ids in [low, size) stand for. All others stand for the row `spare`, or else `refuses` raises."""
    array = ids.view(np.uint8) if ids.dtype == bool else ids
    rows = emit.scratch(array.shape, INT64)
    if array.size:
        if in_elements([array], 2) is None:
            array = emit.contiguous(array)
        sizes, strides = in_elements([array], 2) or ((), ())
        verdict = (emit.scratch((1,), INT64),) if refuses is None else ()  # the kernel's own word where it refuses
        emit.kernel(
            "rows_forward", *verdict, array, strides, rows, sizes, low, size, spare,
            kind=array.dtype, narrow=INT64, refuses=refuses,
        )  # fmt: skip
    return rows


def in_three(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    """Return the array with its axes joined to three, the last contiguous, where that needs no copy."""
    view = array.reshape(shape)
    lies = view.size == 0 or np.may_share_memory(view, array)
    whole = all(stride % array.itemsize == 0 for stride in view.strides)
    return view if lies and whole and (shape[2] <= 1 or view.strides[2] == array.itemsize) else None


def emit_gather(emit: Emit, x: np.ndarray, rows: np.ndarray, axis: int, out: Value) -> None:
    """Emit out = x with the rows chosen along `axis`."""
    O, size, n = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :])
    source = in_three(x, (O, size, n))
    if source is None:
        source = emit.contiguous(x).reshape(O, size, n)
    R = rows.size
    whole = emit.output(out, lambda place: in_three(place, (O, R, n)) is not None)
    y = in_three(whole, (O, R, n))
    assert y is not None
    if y.size:
        at, to = ([s // x.itemsize for s in array.strides[:2]] for array in (source, y))
        emit.kernel("gather_forward", source, *at, rows, y, *to, O, R, n, kind=size_kind(x.dtype))


@register
class Gather(HostOp):
    """X indexed by an integer array along `axis`; negative indices count from the end."""

    name = "Gather"
    refuses = True
    inputs = (Slot("X", matrix=True), Slot("indices"))
    attributes = {"axis": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, indices = required(args), args[1]
        assert indices is not None
        if x.shape is None or indices.shape is None:
            return [Value(x.dtype, None)]
        axis = axis_of(node, self.get(node, "axis"), len(x.shape))
        return [Value(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, indices = arrays
        assert x is not None and indices is not None
        axis = self.get(node, "axis")
        self._check(node, indices, x.shape[axis])
        whole = indices.astype(np.int64) if indices.dtype.kind == "f" else indices
        return [np.take(x, whole, axis=axis)]

    def _check(self, node: Node, indices: np.ndarray, size: int) -> None:
        if indices.size and not (np.all(indices >= -size) and np.all(indices < size)):
            bad = indices[~((indices >= -size) & (indices < size))].ravel()[0]
            raise InputError(f"node {node.name!r}: index {bad} is out of range for {size} entries (0 to {size - 1})")

    def table(self, node: Node, args: Args) -> tuple[Value, Value, int, bool]:
        """Return X, the indices, the axis, and whether they may count from the end."""
        x, indices = required(args), required(args, 1)
        return x, indices, self.get(node, "axis") % len(x.shape or ()), True

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, indices, axis, from_end = self.table(node, args)
        array, out = indices.array, outs[0]
        assert x.array is not None and array is not None and out is not None
        size = x.array.shape[axis]
        rows = emit_rows(emit, indices, -size if from_end else 0, size, lambda: self._check(node, array, size))
        if rows is None:
            super().lower(node, args, outs, emit)
        elif emit.looks_up(node):
            out.rows = TableRows(rows, x)
        elif indices.data is not None and rows.ndim == 0:
            emit.alias(out, x.array[(slice(None),) * axis + (int(rows), ...)])
        else:
            emit_gather(emit, x.array, rows, axis, out)

    def adjoint(self, node: Node, back: Back) -> list:
        """Each row of X sums the gradients of the outputs that are copies of it."""
        x, indices = back.x
        return [_scattered(back, indices, x, self.get(node, "axis")), None]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []


@register
class Embedding(Gather):
    """The rows of a table (vocabulary, E) for ids (...,); ids may be whole numbers held as floats, as Keras passes them."""

    name = "Embedding"
    inputs = (Slot("ids"), Slot("table", matrix=True))
    attributes = {}

    def infer(self, node: Node, args: Args) -> list[Value]:
        ids, table = required(args), args[1]
        assert table is not None
        if table.shape is None or len(table.shape) != 2:
            raise shape_error(node, "weight table", table.shape, "(vocabulary, E)")
        return [Value(table.dtype, None if ids.shape is None else (*ids.shape, table.shape[1]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        ids, table = arrays
        assert ids is not None and table is not None
        self._check(node, ids, table.shape[0])
        return [table[ids.astype(np.int64)]]

    def _check(self, node: Node, indices: np.ndarray, size: int) -> None:
        good = (indices >= 0) & (indices < size)
        if not np.all(good):
            raise InputError(
                f"node {node.name!r}: id {indices[~good].ravel()[0]} is out of range for {size} entries (0 to {size - 1})"
            )

    def table(self, node: Node, args: Args) -> tuple[Value, Value, int, bool]:
        return required(args, 1), required(args), 0, False

    def adjoint(self, node: Node, back: Back) -> list:
        """Each row of the table sums the gradients of the outputs that are copies of it."""
        ids, table = back.x
        return [None, _scattered(back, ids, table, 0)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(1, 0), (1, 1)]


def _scattered(back: Back, rows: Any, like: Any, axis: int) -> Any:
    if rows.value.dtype != INT64:
        rows = back.node("Cast", [rows], to="int64")
    return back.node("ScatterAdd", [back.dy[0], rows, like], axis=axis)


@register
class ScatterAdd(Op):
    """Zeros of the shape of another value, with X added to its rows `indices` (int64) along `axis`: what Gather would read there.

    Sums are in the order of the indices; one out of range adds nothing.
    """

    name = "ScatterAdd"
    inputs = (Slot("X"), Slot("indices"), Slot("like"))
    attributes = {"axis": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, indices, like = required(args), required(args, 1), required(args, 2)
        expect_dtypes(node, args, INT64, [1])
        if like.shape is not None and indices.shape is not None:
            axis = axis_of(node, self.get(node, "axis"), len(like.shape))
            expect_shape(node, args, 0, "input X", (*like.shape[:axis], *indices.shape, *like.shape[axis + 1 :]))
        return [Value(x.dtype, like.shape)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, rows, out = required(args).array, required(args, 1).array, outs[0]
        assert x is not None and rows is not None and out is not None and out.shape is not None
        shape = tuple(int(d) for d in out.shape)
        axis = self.get(node, "axis") % len(shape)
        O, size, n = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
        y = emit.output(out)
        if y.size:
            emit.kernel(
                "scatter_adjoint", emit.contiguous(x), emit.contiguous(rows), y, O, rows.size, size, n, kind=x.dtype
            )

    def adjoint(self, node: Node, back: Back) -> list:
        """The rows of the gradient that X was added to."""
        return [back.node("Gather", [back.dy[0], back.x[1]], axis=self.get(node, "axis")), None, None]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        x = required(args)
        return [(0, axis) for axis in range(len(x.shape or ()))] + [
            (1, axis) for axis in range(len(required(args, 1).shape or ()))
        ]

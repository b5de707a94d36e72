"""Ops that contract: Dense, MatMul and Gemm, all on the one register tile.

No BLAS: each output element is one chain of multiply-adds in a fixed order, so a row's bits depend on that row alone.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from fastlstm.graph import Node, Quantized
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.adjoints import reshaped, summed_rows
from fastlstm.ops.dims import Dim, Shape, agree, known
from fastlstm.ops.elementwise import broadcast
from fastlstm.ops.mapping import emit_map_into
from fastlstm.ops.narrow import DENSE_PARTS, DTYPES, FLOAT16, FLOAT32, QUANTISED, SCALED, dense_form
from fastlstm.ops.op import (
    Attribute,
    Back,
    Emit,
    Op,
    Slot,
    Stored,
    Value,
    at,
    expect_shape,
    register,
    rows_in_place,
    shape_error,
)
from fastlstm.ops.packing import pack_columns, pack_quantised, pack_scaled, tail_of_columns

PLAIN = ("Identity", 0.0, 0.0)
MOST_ROWS = 6  # of a register tile
LONG_SUM = 1024  # from here on, a panel of a matrix that is used once does not stay in a near cache
_KERNELS = {
    FLOAT32: "dense_forward",
    FLOAT16: "dense_forward",
    QUANTISED: "dense_quantised_forward",
    SCALED: "dense_scaled_forward",
}


def emit_dense(
    emit: Emit,
    x: np.ndarray,
    W: Value,
    b: Value | None,
    y: np.ndarray,
    sizes: tuple[int, int, int, int],
    *,
    x_at: tuple[int, int, int] | None = None,
    y_at: tuple[int, int, int] | None = None,
    accumulate: bool = False,
    activation: tuple[str, float, float] = PLAIN,
    part: tuple = (),
    take=lambda w: w,
    whole: bool = True,
) -> None:
    """Emit y[o, m] = activation(b + x[o, m] W) for sizes (O, M, K, N).

    `x_at`, `y_at`: start (of a contiguous array), outer stride and row stride in elements. `take(W)`, named by `part`, is the (K, N) matrix;
    `whole`: with all elements of W in their order.
    """
    O, M, K, N = sizes
    L, dtype = emit.lanes(x.dtype), x.dtype
    form = dense_form(W, dtype, O * M, K, N, emit.near_bytes) if whole else FLOAT32
    tail = tail_of_columns(N, L) if form in (FLOAT32, FLOAT16) else 0

    def pack(matrix) -> np.ndarray:
        if not isinstance(matrix, Quantized):
            return pack_columns(L, take(matrix).astype(DTYPES.get(form, dtype)), tail)
        values, scale = pack_columns(L, take(matrix.values), 0), pack_columns(L, matrix.scale[None], 0)
        if form == QUANTISED:
            return pack_quantised(emit.group(state=False), L, 4, values, scale)
        return pack_scaled(L, values, scale)

    packed = packed_now(emit, W, take, dtype, N, tail)
    if packed is None:
        packed = emit.packed(("columns", L, form, *part), [W], pack, narrow=form != FLOAT32)
    width = -(-N // (4 * L)) * 4 * L

    def pad(*bias: np.ndarray) -> np.ndarray:
        row = np.zeros(width, dtype)
        if bias:
            row[:N] = take(bias[0].reshape(1, -1)) if part and part[0] == "columns of group" else bias[0].reshape(-1)
        return row

    bias = emit.packed(("bias", width, N, dtype.str, *part), [] if b is None else [b], pad)
    x_start, *x_strides = x_at or (0, M * K, K)
    y_start, *y_strides = y_at or (0, M * N, N)
    name, alpha, beta = activation
    z, copies, copies_size = emit.workspace(dtype), y, 0
    if form == QUANTISED:
        rows, workers = O * M, len(z)
        copies_size = rows * emit.row_bytes(K, DENSE_PARTS)
        # few rows are read by every worker, each has copies of its own
        few = rows < 2 * MOST_ROWS * workers**2
        copies = emit.scratch((workers if few else 1, copies_size), np.dtype(np.uint8))
    emit.kernel(
        _KERNELS[form], x.reshape(-1)[x_start:] if x_start else x, *x_strides, packed, bias, int(accumulate),
        y.reshape(-1)[y_start:] if y_start else y, *y_strides, z, copies, copies_size, DENSE_PARTS, sizes, tail,
        emit.activation(name), float(alpha), float(beta), kind=dtype, narrow=DTYPES.get(form, dtype),
    )  # fmt: skip


def packed_now(
    emit: Emit, W: Value, take: Callable[[np.ndarray], np.ndarray], dtype: np.dtype, N: int, tail: int
) -> np.ndarray | None:
    """Return the panels of a matrix of the run that each run packs, None where `take(W)` (K, N) is constant or no view of it."""
    if isinstance(W, Stored) or W.data is not None or W.array is None or W.array.dtype != dtype:
        return None
    matrix = take(W.array)
    if matrix.ndim != 2 or not np.may_share_memory(matrix, W.array) or any(s % dtype.itemsize for s in matrix.strides):
        return None
    (K, _), L = matrix.shape, emit.lanes(dtype)
    whole = N // (4 * L) if tail else -(-N // (4 * L))
    packed = emit.scratch((K * (whole * 4 + tail) * L,), dtype)
    strides = tuple(stride // dtype.itemsize for stride in matrix.strides)
    emit.kernel("pack_forward", matrix, *strides, packed, K, N, tail)
    return packed


def emit_products(emit: Emit, a: np.ndarray, b: np.ndarray, y: np.ndarray, accumulate: bool = False) -> None:
    """Emit y = a b for matrices of the run (..., M, K), (..., K, N) of any strides and y of contiguous rows; the axes before are broadcast.

    To `accumulate` goes on with the sums in y: the bits of one product over all k.
    """
    dtype, outer, (M, N), K = y.dtype, y.shape[:-2], y.shape[-2:], a.shape[-1]
    if any(stride % dtype.itemsize for stride in (*a.strides, *b.strides)):
        a, b = emit.contiguous(a), emit.contiguous(b)
    a, b = np.broadcast_to(a, (*outer, M, K)), np.broadcast_to(b, (*outer, K, N))
    width = 4 * emit.lanes(dtype)
    panels, depth = -(-N // width), min(emit.depth, max(K, 1))
    workers = len(emit.workspace(dtype))
    steps = lambda array: tuple(stride // dtype.itemsize for stride in array.strides)
    with emit.passing():
        # a worker that does a product by itself has a place of its own
        z = emit.scratch((workers, panels * M * width), dtype)
        # panels of b, then tiles of a and what the last vector of them writes past it
        packed = emit.scratch((workers, depth * (width * min(panels, emit.panels_together) + M) + width), dtype)
        # pairs along the last of the axes before are one step of the program
        O = outer[-1] if outer else 1
        for index in np.ndindex(outer[:-1]):
            p, q, r = ((v[index] if outer else v[None]) for v in (a, b, y))
            emit.kernel(
                "product_forward", p, steps(p), q, steps(q), r, steps(r)[:2], z, z.shape[1], packed, packed.shape[1],
                int(accumulate), depth, O, M, K, N,
            )  # fmt: skip


def emit_dense_rows(
    emit: Emit, x: np.ndarray, W: Value, b: Value | None, out: Value, K: int, N: int, **options
) -> None:
    """Emit `out` (..., N) from x (..., K), both where they are if their rows allow it."""
    x_rows = rows_in_place(x)
    if x_rows is None:
        x, x_rows = emit.contiguous(x), (1, prod(x.shape[:-1]), 0, K)
    O, M, x_outer, x_row = x_rows
    y = emit.output(out, lambda place: _strides(place, O, M) is not None)
    y_strides = _strides(y, O, M)
    assert y_strides is not None
    emit_dense(emit, x, W, b, y, (O, M, K, N), x_at=(0, x_outer, x_row), y_at=(0, *y_strides), **options)


def _strides(array: np.ndarray, O: int, M: int) -> tuple[int, int] | None:
    """Return the strides of rows taken as O blocks of M, None if they do not lie so."""
    rows = rows_in_place(array)
    if rows is None:
        return None
    if rows[:2] == (O, M):
        return rows[2:]
    return (M * rows[3], rows[3]) if rows[0] == 1 and rows[1] == O * M else None


@register
class Dense(Op):
    """activation(X W + b) over the last axis of X (..., I), W (I, N), b (N,)."""

    name = "Dense"
    inputs = (Slot("X"), Slot("W", matrix=True), Slot("b", optional=True))
    attributes = {
        "activation": Attribute(str, "Identity", choices=tuple(ACTIVATIONS)),
        "alpha": Attribute(float, 0.0),
        "beta": Attribute(float, 0.0),
    }

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x, W = args[0], args[1]
        assert x is not None and W is not None
        if W.shape is None or len(W.shape) != 2:
            raise shape_error(node, "weight W", W.shape, "(I, N)")
        expect_shape(node, args, 2, "bias b", (W.shape[1],))
        if x.shape is None:
            return [Value(x.dtype, None)]
        if not x.shape or not agree(x.shape[-1], W.shape[0]):
            raise shape_error(node, "input X", x.shape, f"(..., I) with I = {W.shape[0]}")
        return [Value(x.dtype, (*x.shape[:-1], W.shape[1]))]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        x, W = args[0], args[1]
        assert x is not None and x.array is not None and W is not None and W.shape is not None
        activation = (self.get(node, "activation"), self.get(node, "alpha"), self.get(node, "beta"))
        K, N = (int(d) for d in W.shape)
        emit_dense_rows(emit, x.array, W, at(args, 2), outs[0], K, N, activation=activation)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = dY W', dW = X' dY, db = sum dY over the rows; an activation is a node of its own in graphs that are trained."""
        if self.get(node, "activation") != "Identity":
            return list(super().adjoint(node, back))
        x, W, d = back.x[0], back.x[1], back.dy[0]
        dx = back.node("MatMul", [d, turned(back, W)]) if back.wants[0] else None
        dW = over_rows(back, x, d, W.shape) if back.wants[1] else None
        db = summed_rows(back, d) if len(back.x) > 2 and back.wants[2] else None
        return [dx, dW, db]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(0, rank - 1), (1, 0), (1, 1), (2, 0)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 2 * prod(outs[0].shape) * int(args[1].shape[0])  # type: ignore


def turned(back: Back, x: Any) -> Any:
    """Return x with its last two axes exchanged."""
    rank = len(x.shape)
    return back.node("Transpose", [x], perm=(*range(rank - 2), rank - 1, rank - 2))


def over_rows(back: Back, x: Any, d: Any, shape: Shape) -> Any:
    """Return x' d for x (..., K) and d (..., N), summed over all rows; `shape` is (K, N)."""
    rows, columns = (back.node("Reshape", [v, back.ints(-1, n)]) for v, n in zip((x, d), shape, strict=True))
    return back.node("MatMul", [turned(back, rows), columns])


@register
class MatMul(Op):
    """NumPy's matmul of A (..., M, K) and B (..., K, N)."""

    name = "MatMul"
    inputs = (Slot("A", matrix=True), Slot("B", matrix=True))

    def _shapes(self, node: Node, args: Sequence[Value | None]) -> tuple[Shape, Shape] | None:
        a, b = args[0], args[1]
        assert a is not None and b is not None
        if a.shape is None or b.shape is None:
            return None
        if not a.shape or not b.shape:
            raise shape_error(node, "an input", (), "at least one axis")
        left = (1, *a.shape) if len(a.shape) == 1 else a.shape
        right = (*b.shape, 1) if len(b.shape) == 1 else b.shape
        if not agree(left[-1], right[-2]):
            raise shape_error(node, "input B", b.shape, f"(..., K, N) with K = {left[-1]}")
        return left, right

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        shapes = self._shapes(node, args)
        a, b = args[0], args[1]
        assert a is not None and b is not None
        if shapes is None:
            return [Value(a.dtype, None)]
        left, right = shapes
        outer = broadcast(node, [left[:-2], right[:-2]])
        assert outer is not None and a.shape is not None and b.shape is not None
        rows = () if len(a.shape) == 1 else (left[-2],)
        columns = () if len(b.shape) == 1 else (right[-1],)
        return [Value(a.dtype, (*outer, *rows, *columns))]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        shapes = self._shapes(node, args)
        a, b = args[0], args[1]
        assert shapes is not None and a is not None and b is not None and a.array is not None
        left, right = (tuple(int(d) for d in shape) for shape in shapes)
        M, K, N = left[-2], left[-1], right[-1]
        if self._of_the_run(a, b, left, right):
            assert b.array is not None
            outer = tuple(int(d) for d in broadcast(node, [left[:-2], right[:-2]]) or ())
            y = emit.output(outs[0])
            if y.size:
                emit_products(emit, a.array.reshape(left), b.array.reshape(right), y.reshape(*outer, M, N))
            return
        if prod(right[:-2]) == 1 and len(right) <= max(len(left), 2) and len(b.shape or ()) > 1:
            matrix = b
            if not isinstance(b, Stored):
                matrix = Value(b.dtype, (K, N), None if b.data is None else b.data.reshape(K, N), b.array)
            x = a.array.reshape(left) if len(a.shape or ()) == 1 else a.array
            emit_dense_rows(emit, x, matrix, None, outs[0], K, N, part=("matrix",), take=lambda w: w.reshape(K, N))
            return
        y = emit.output(outs[0])
        x = emit.contiguous(a.array)
        if y.size == 0:
            return
        outer = tuple(int(d) for d in broadcast(node, [left[:-2], right[:-2]]) or ())
        a_index = np.broadcast_to(np.arange(prod(left[:-2])).reshape(left[:-2]), outer).ravel()
        b_index = np.broadcast_to(np.arange(prod(right[:-2])).reshape(right[:-2]), outer).ravel()
        for k, (i, j) in enumerate(zip(a_index.tolist(), b_index.tolist(), strict=True)):
            matrix, part, take = b, ("slice", j), lambda w, j=j: w.reshape(-1, K, N)[j]
            if b.data is None:
                assert b.array is not None
                one = (
                    b.array.reshape(right)[np.unravel_index(j, right[:-2])] if len(right) > 2 else b.array.reshape(K, N)
                )
                matrix, part, take = Value(b.dtype, (K, N), None, one), ("matrix",), lambda w: w
            emit_dense(
                emit, x, matrix, None, y, (1, M, K, N), x_at=(i * M * K, 0, K), y_at=(k * M * N, 0, N),
                part=part, take=take, whole=False,
            )  # fmt: skip

    def _of_the_run(self, a: Value, b: Value, left: tuple[int, ...], right: tuple[int, ...]) -> bool:
        """Tell whether both are values of the run that are best packed block by block: B read once, or A in no order of rows."""
        if isinstance(b, Stored) or b.data is not None or b.dtype != a.dtype or a.array is None:
            return False
        by_columns = a.array.ndim > 1 and a.array.strides[-1] != a.array.itemsize
        return prod(right[:-2]) > 1 or (len(left) == 2 and (by_columns or left[-1] >= LONG_SUM > left[-2]))

    def adjoint(self, node: Node, back: Back) -> list:
        """dA = dY B', dB = A' dY, summed over the axes that were broadcast; a vector is a matrix of one row or column."""
        (a, b), (d,) = back.x, back.dy
        left, right = a, b
        if len(b.shape) == 1:
            right, d = (back.node("Unsqueeze", [v, back.ints(-1)]) for v in (b, d))
        if len(a.shape) == 1:
            left, d = (back.node("Unsqueeze", [v, back.ints(-2)]) for v in (a, d))
        da = db = None
        if back.wants[0]:
            whole = back.sum_to(back.node("MatMul", [d, turned(back, right)]), left)
            da = reshaped(back, whole, a)
        if back.wants[1]:
            if len(right.shape) == 2 and len(left.shape) >= 2 and known(right.shape):
                whole = over_rows(back, left, d, right.shape)
            else:
                whole = back.sum_to(back.node("MatMul", [turned(back, left), d]), right)
            db = reshaped(back, whole, b)
        return [da, db]

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
        a, b = arrays
        assert a is not None and b is not None
        return None if np.issubdtype(a.dtype, np.floating) else [a @ b]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        a, b = (len(arg.shape or ()) if arg is not None else 0 for arg in args)
        return [(0, a - 1), (1, max(b - 2, 0)), (1, b - 1)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 2 * prod(outs[0].shape) * int(args[0].shape[-1])  # type: ignore


@register
class Gemm(Op):
    """alpha A' B' + beta C, with A' and B' transposed where the attributes say so; alpha scales B', beta scales C."""

    name = "Gemm"
    inputs = (Slot("A"), Slot("B", matrix=True), Slot("C", optional=True))
    attributes = {
        "alpha": Attribute(float, 1.0),
        "beta": Attribute(float, 1.0),
        "transA": Attribute(bool, False),
        "transB": Attribute(bool, False),
    }

    def _dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim]:
        a, b = args[0], args[1]
        assert a is not None and b is not None
        if a.shape is None or len(a.shape) != 2 or b.shape is None or len(b.shape) != 2:
            raise shape_error(node, "input A or B", a.shape if b.shape and len(b.shape) == 2 else b.shape, "two axes")
        M, K = a.shape[::-1] if self.get(node, "transA") else a.shape
        rows, N = b.shape[::-1] if self.get(node, "transB") else b.shape
        if not agree(K, rows):
            raise shape_error(node, "input B", b.shape, f"K = {K} to match A {a.shape}")
        if len(args) > 2 and args[2] is not None:
            whole = broadcast(node, [args[2].shape, (M, N)])
            if whole is not None and not (len(whole) == 2 and agree(whole[0], M) and agree(whole[1], N)):
                raise shape_error(node, "input C", args[2].shape, f"a shape that broadcasts to ({M}, {N})")
        return M, K, N

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        M, _, N = self._dims(node, args)
        assert args[0] is not None
        return [Value(args[0].dtype, (M, N))]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        M, K, N = (int(d) for d in self._dims(node, args))
        a, b, c = args[0], args[1], at(args, 2)
        assert a is not None and b is not None and a.array is not None
        y = emit.output(outs[0])
        alpha, beta, transposed = self.get(node, "alpha"), self.get(node, "beta"), self.get(node, "transB")
        plain = c is None and alpha == 1.0 and self.get(node, "transA") and b.data is None and b.dtype == a.dtype
        if plain and not isinstance(b, Stored):
            assert b.array is not None
            emit_products(emit, a.array.T, b.array.T if transposed else b.array, y)
            return
        x = emit.contiguous(a.array.T if self.get(node, "transA") else a.array)
        if c is not None:
            assert c.array is not None
            if beta == 1.0:
                emit.copy(y, c.array)
            else:
                head = (emit.operation("Mul"),)
                emit_map_into(emit, "combine_forward", y, [c.array, np.asarray(beta, a.dtype)], head, a.dtype)
        emit_dense(
            emit, x, b, None, y, (1, M, K, N), accumulate=c is not None, part=("gemm", alpha, transposed),
            take=lambda w: _scaled_matrix(w.T if transposed else w, alpha, a.dtype), whole=not transposed and alpha == 1.0,
        )  # fmt: skip

    def adjoint(self, node: Node, back: Back) -> list:
        """dA = alpha dY B, dB = alpha dY' A, each as transposed as the input is; dC = beta dY summed to C."""
        a, b, (d,) = back.x[0], back.x[1], back.dy
        alpha, trans_a, trans_b = (self.get(node, key) for key in ("alpha", "transA", "transB"))
        gemm = lambda p, q, **turns: back.node("Gemm", [p, q], alpha=alpha, **turns)
        da = db = dc = None
        if back.wants[0]:
            da = gemm(b, d, transA=trans_b, transB=True) if trans_a else gemm(d, b, transB=not trans_b)
        if back.wants[1]:
            db = gemm(d, a, transA=True, transB=trans_a) if trans_b else gemm(a, d, transA=not trans_a)
        if len(back.x) > 2 and back.wants[2]:
            scaled = back.node("Mul", [d, back.number(self.get(node, "beta"))])
            dc = back.sum_to(scaled, back.x[2])
        return [da, db, dc]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return [(0, 0 if self.get(node, "transA") else 1), (1, 0), (1, 1)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 2 * prod(outs[0].shape) * int(self._dims(node, args)[1])  # type: ignore[arg-type]


def _scaled_matrix(matrix: np.ndarray, alpha: float, dtype: np.dtype) -> np.ndarray:
    if alpha == 1.0:
        return matrix
    with np.errstate(all="ignore"):
        return matrix * np.asarray(alpha, dtype)

"""Ops that normalise: Softmax and LayerNormalization within a row, BatchNormalization with the statistics given, Moments that gives them."""

from collections.abc import Sequence
from math import prod

import numpy as np

from fastlstm.errors import DTypeError
from fastlstm.graph import Node
from fastlstm.ops.adjoints import expanded, size_of, with_axes
from fastlstm.ops.mapping import emit_map, emit_map_into
from fastlstm.ops.op import (
    Attribute,
    Back,
    Emit,
    HostOp,
    Op,
    Slot,
    Value,
    at,
    axis_of,
    expect_dtypes,
    expect_shape,
    register,
)
from fastlstm.ops.reductions import emit_reduction

KERNEL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


@register
class Softmax(Op):
    """e^(x - max) / sum e^(x - max) along one axis."""

    name = "Softmax"
    inputs = (Slot("X"),)
    attributes = {"axis": Attribute(int, -1)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        assert args[0] is not None
        if args[0].shape is not None:
            axis_of(node, self.get(node, "axis"), len(args[0].shape))
        return [Value(args[0].dtype, args[0].shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        assert args[0] is not None and args[0].array is not None
        x = args[0].array
        axis = axis_of(node, self.get(node, "axis"), x.ndim)
        rows = x.size // max(1, x.shape[axis])
        if axis == x.ndim - 1:
            emit.kernel("softmax_forward", emit.contiguous(x), emit.output(outs[0]), rows, x.shape[axis])
            return
        moved = emit.scratch(np.moveaxis(x, axis, -1).shape, x.dtype)
        emit.copy(moved, np.moveaxis(x, axis, -1))
        emit.kernel("softmax_forward", moved, moved, rows, x.shape[axis])
        emit.alias(outs[0], np.moveaxis(moved, -1, axis))

    def adjoint(self, node: Node, back: Back) -> list:
        return [back.node("SoftmaxAdjoint", [back.y[0], back.dy[0]], axis=self.get(node, "axis"))]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(0, self.get(node, "axis") % rank)] if rank else []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 12 * prod(outs[0].shape)  # type: ignore[arg-type]


def _rows_last(emit: Emit, x: np.ndarray, axis: int) -> np.ndarray:
    """Return contiguous x with an axis as its last."""
    return emit.contiguous(np.moveaxis(x, axis, -1))


@register
class SoftmaxAdjoint(Op):
    """Y (dY - sum dY Y) along one axis: the gradient of what Softmax made Y of."""

    name = "SoftmaxAdjoint"
    inputs = (Slot("Y"), Slot("dY"))
    attributes = {"axis": Attribute(int, -1)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        y = args[0]
        assert y is not None
        expect_dtypes(node, args, y.dtype)
        if y.shape is not None:
            axis_of(node, self.get(node, "axis"), len(y.shape))
            expect_shape(node, args, 1, "gradient dY", y.shape)
        return [Value(y.dtype, y.shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        y, dy = (arg.array for arg in args)  # type: ignore[union-attr]
        assert y is not None and dy is not None
        axis = axis_of(node, self.get(node, "axis"), y.ndim)
        rows, n = y.size // max(1, y.shape[axis]), y.shape[axis]
        last = axis == y.ndim - 1
        dx = emit.output(outs[0]) if last else emit.scratch(np.moveaxis(y, axis, -1).shape, y.dtype)
        emit.kernel("softmax_adjoint", _rows_last(emit, y, axis), _rows_last(emit, dy, axis), dx, rows, n)
        if not last:
            emit.alias(outs[0], np.moveaxis(dx, -1, axis))

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(k, self.get(node, "axis") % rank) for k in range(2)] if rank else []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 4 * prod(outs[0].shape)  # type: ignore[arg-type]


@register
class LayerNormalization(Op):
    """(X - mean) / sqrt(variance + epsilon) * scale + shift over the axes from `axis` to the last."""

    name = "LayerNormalization"
    inputs = (Slot("X"), Slot("scale", optional=True), Slot("shift", optional=True))
    attributes = {"axis": Attribute(int, -1), "epsilon": Attribute(float, 1e-5)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = args[0]
        assert x is not None
        if x.shape is not None:
            axis = axis_of(node, self.get(node, "axis"), len(x.shape))
            for k, role in ((1, "scale"), (2, "shift")):
                expect_shape(node, args, k, f"weight {role}", x.shape[axis:])
        return [Value(x.dtype, x.shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        assert args[0] is not None and args[0].array is not None
        x = args[0].array
        axis = axis_of(node, self.get(node, "axis"), x.ndim)
        n = prod(x.shape[axis:])
        weights = [_weight_row(emit, at(args, k), neutral, n, x.dtype) for k, neutral in ((1, 1.0), (2, 0.0))]
        y, epsilon = emit.output(outs[0]), float(self.get(node, "epsilon"))
        emit.kernel("normalise_forward", emit.contiguous(x), *weights, y, prod(x.shape[:axis]), n, epsilon)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX of the kernel; dscale = sum dY (X - mean) / s and dshift = sum dY over the rows."""
        x, (d,) = back.x[0], back.dy
        given = lambda k: len(back.x) > k and back.x[k] is not None and back.wants[k]
        attributes = {key: self.get(node, key) for key in self.attributes}
        inputs = [x, d, *back.x[1:2]]
        dx, dn = back.node("LayerNormalizationAdjoint", inputs, (True, True), **attributes)
        rows = tuple(range(self.get(node, "axis") % len(x.shape)))
        over_rows = lambda v: back.node("ReduceSum", [v], axes=rows) if rows else v
        return [dx, over_rows(dn) if given(1) else None, over_rows(d) if given(2) else None]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(0, axis) for axis in range(self.get(node, "axis") % rank, rank)] if rank else []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 8 * prod(outs[0].shape)  # type: ignore[arg-type]


def _weight_row(emit: Emit, value: Value | None, neutral: float, n: int, dtype: np.dtype) -> np.ndarray:
    """Return a weight of n elements, `neutral` where it is absent."""
    return emit.packed(
        ("normalise", n, neutral, dtype.str),
        [] if value is None else [value],
        lambda *w: np.full(n, neutral, dtype) if not w else w[0].astype(dtype),
    )


@register
class LayerNormalizationAdjoint(Op):
    """The gradient of what LayerNormalization made Y of, and dY times the normalised X."""

    name = "LayerNormalizationAdjoint"
    inputs = (Slot("X"), Slot("dY"), Slot("scale", optional=True))
    outputs = ("dX", "dN")
    attributes = LayerNormalization.attributes

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = args[0]
        assert x is not None
        expect_dtypes(node, args, x.dtype, [0, 1])
        if x.shape is not None:
            axis = axis_of(node, self.get(node, "axis"), len(x.shape))
            expect_shape(node, args, 1, "gradient dY", x.shape)
            expect_shape(node, args, 2, "weight scale", x.shape[axis:])
        return [Value(x.dtype, x.shape), Value(x.dtype, x.shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, d = (arg.array for arg in args[:2])  # type: ignore[union-attr]
        assert x is not None and d is not None
        axis = axis_of(node, self.get(node, "axis"), x.ndim)
        n = prod(x.shape[axis:])
        scale = _weight_row(emit, at(args, 2), 1.0, n, x.dtype)
        dx, dn = (None if out is None else emit.output(out) for out in (outs[0], at(outs, 1)))
        if dx is None:
            dx = emit.scratch(x.shape, x.dtype)
        emit.kernel(
            "normalise_adjoint", emit.contiguous(x), scale, emit.contiguous(d), dx, dx if dn is None else dn,
            int(dn is not None), prod(x.shape[:axis]), n, float(self.get(node, "epsilon")),
        )  # fmt: skip

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(k, axis) for k in range(2) for axis in range(self.get(node, "axis") % rank, rank)] if rank else []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 16 * prod(outs[0].shape)  # type: ignore[arg-type]


@register
class BatchNormalization(HostOp):
    """(X - mean) / sqrt(variance + epsilon) * scale + shift with stored statistics of each channel along `axis`."""

    name = "BatchNormalization"
    inputs = (Slot("X"), Slot("scale", optional=True), Slot("shift", optional=True), Slot("mean"), Slot("variance"))
    attributes = {"axis": Attribute(int, 1), "epsilon": Attribute(float, 1e-5)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = args[0]
        assert x is not None
        if x.dtype.kind != "f":
            raise DTypeError(f"node {node.name!r}: BatchNormalization runs on floats, its input is {x.dtype}")
        if x.shape is not None:
            channels = x.shape[axis_of(node, self.get(node, "axis"), len(x.shape))]
            for k, slot in enumerate(self.inputs[1:], 1):
                expect_shape(node, args, k, f"weight {slot.name}", (channels,))
        return [Value(x.dtype, x.shape)]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        x, scale, shift, mean, variance = arrays
        assert x is not None and mean is not None and variance is not None
        shape = [1] * x.ndim
        shape[self.get(node, "axis")] = -1
        factor = self._factor(node, x.dtype, variance, scale)
        with np.errstate(all="ignore"):
            y = (x - mean.astype(x.dtype).reshape(shape)) * factor.reshape(shape)
            return [y if shift is None else y + shift.astype(x.dtype).reshape(shape)]

    def _factor(self, node: Node, dtype: np.dtype, variance: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        with np.errstate(all="ignore"):
            factor = 1 / np.sqrt(variance.astype(dtype) + dtype.type(self.get(node, "epsilon")))
            return factor if scale is None else factor * scale.astype(dtype)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, scale, shift, mean, variance = args
        assert x is not None and x.array is not None and mean is not None and variance is not None
        assert outs[0] is not None
        if x.dtype not in KERNEL_DTYPES:
            super().lower(node, args, outs, emit)
            return
        dtype, shape = x.dtype, [1] * x.array.ndim
        shape[self.get(node, "axis")] = -1
        epsilon = self.get(node, "epsilon")
        vector = lambda value: emit.packed(("vector", dtype.str), [value], lambda v: v.astype(dtype)).reshape(shape)
        factor = emit.packed(
            ("factor", epsilon, dtype.str, scale is None), [variance] if scale is None else [variance, scale],
            lambda *given: self._factor(node, dtype, *given),
        ).reshape(shape)  # fmt: skip
        head = (emit.operation("Scale"),)
        y = emit_map(emit, "combine_forward", outs[0], [x.array, vector(mean), factor], head, dtype)
        if shift is not None:
            emit_map_into(emit, "combine_forward", y, [y, vector(shift)], (emit.operation("Add"),), dtype)

    def adjoint(self, node: Node, back: Back) -> list:
        """With r = 1 / sqrt(variance + epsilon) and c = X - mean:

        dX = dY scale r, dscale = r sum dY c, dshift = sum dY, dmean = -scale r sum dY, dvariance = -scale r^3 / 2 sum dY c
        """
        x, scale, _, mean, variance = back.x
        (d,), rank = back.dy, len(x.shape)
        axis = self.get(node, "axis") % rank
        others = tuple(k for k in range(rank) if k != axis)
        whole = lambda v: back.node("Unsqueeze", [v, back.ints(*others)]) if others else v
        over_rows = lambda v: back.node("ReduceSum", [v], axes=others) if others else v
        times = lambda a, b: a if b is None else back.node("Mul", [a, b])
        root = back.node("Sqrt", [back.node("Add", [variance, back.number(self.get(node, "epsilon"))])])
        r = back.node("Div", [back.number(1.0), root])
        factor = times(r, scale)
        wants_x, wants_scale, wants_shift, wants_mean, wants_variance = back.wants
        total = moment = None
        if wants_shift or wants_mean:
            total = over_rows(d)
        if wants_scale or wants_variance:
            moment = back.node("Mul", [r, over_rows(back.node("Mul", [d, back.node("Sub", [x, whole(mean)])]))])
        dvariance = None
        if wants_variance:
            half = back.node("Mul", [back.node("Mul", [factor, r]), back.number(-0.5)])
            dvariance = back.node("Mul", [half, moment])
        return [
            back.node("Mul", [d, whole(factor)]) if wants_x else None,
            moment if wants_scale else None,
            total if wants_shift else None,
            back.node("Neg", [back.node("Mul", [factor, total])]) if wants_mean else None,
            dvariance,
        ]

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        return self.compute(node, arrays)

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return [(k, 0) for k in range(1, 5)]


@register
class Moments(HostOp):
    """The mean of X over `axes` and its variance, the mean of (X - mean)^2; both without those axes."""

    name = "Moments"
    inputs = (Slot("X"),)
    outputs = ("mean", "variance")
    attributes = {"axes": Attribute(int, many=True, required=True)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = args[0]
        assert x is not None
        if x.dtype not in KERNEL_DTYPES:
            raise DTypeError(f"node {node.name!r}: Moments runs on float32 or float64, its input is {x.dtype}")
        if x.shape is None:
            return [Value(x.dtype, None)] * 2
        axes = {axis_of(node, axis, len(x.shape)) for axis in self.get(node, "axes")}
        shape = tuple(dim for axis, dim in enumerate(x.shape) if axis not in axes)
        return [Value(x.dtype, shape), Value(x.dtype, shape)]

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:  # type: ignore[override]
        return None

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        assert args[0] is not None and args[0].array is not None
        x, dtype = args[0].array, args[0].dtype
        axes = tuple(sorted(axis % x.ndim for axis in self.get(node, "axes")))
        whole = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
        mean, variance = (None if out is None else emit.output(out) for out in (outs[0], at(outs, 1)))
        if mean is None:
            mean = emit.scratch(shape, dtype)
        emit_reduction(emit, "ReduceMean", x, axes, mean)
        if variance is not None:
            squares = emit.scratch(x.shape, dtype)
            for name, operands in (("Sub", [x, mean.reshape(whole)]), ("Mul", [squares, squares])):
                emit_map_into(emit, "combine_forward", squares, operands, (emit.operation(name),), dtype)
            emit_reduction(emit, "ReduceMean", squares, axes, variance)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = (dmean + 2 (X - mean) dvariance) / n."""
        (x,), mean, (dmean, dvariance) = back.x, back.y[0], [*back.dy, None][:2]
        axes = sorted(axis % len(x.shape) for axis in self.get(node, "axes"))
        over_x = lambda v: expanded(back, with_axes(back, v, axes), x)
        if dvariance is not None:
            if mean is None:
                mean = back.node("ReduceMean", [x], axes=tuple(axes))
            twice = back.node("Add", [dvariance, dvariance])
            total = back.node("Mul", [back.node("Sub", [x, over_x(mean)]), over_x(twice)])
            total = total if dmean is None else back.node("Add", [total, over_x(dmean)])
        else:
            total = over_x(dmean)
        return [back.node("Div", [total, size_of(back, x, axes)])]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(0, axis % rank) for axis in self.get(node, "axes")] if rank else []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 4 * prod(args[0].shape)  # type: ignore

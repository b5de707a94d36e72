"""Ops that reduce along axes: sums, means, products and extremes, in an order that depends on the sizes of the reduced axes alone."""

from collections.abc import Callable, Sequence
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops.adjoints import expanded, size_of, with_axes
from fastlstm.ops.dims import Dim
from fastlstm.ops.op import Attribute, Back, Emit, HostOp, Slot, Value, axis_of, register, required

KERNEL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def reduced_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the axes counted from the front, in order; none named: all."""
    return tuple(sorted({axis % rank for axis in axes})) if axes else tuple(range(rank))


def _in_turn(emit: Emit, x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return x with neighbouring axes joined so that kept and reduced ones take turns: (K0, R0, K1, R1) or (K0, R0, K1).

    Which axes are joined depends on their places alone, never on sizes or strides: so does the order of a sum.
    """
    runs = [(reduced, list(run)) for reduced, run in groupby(range(x.ndim), lambda axis: axis in axes)]
    if len(runs) > 4 or (len(runs) == 4 and runs[0][0]):
        left = [axis for axis in range(x.ndim) if axis not in axes]
        x = x.transpose([*left, *axes])
        runs = [(False, list(range(len(left)))), (True, list(range(len(left), x.ndim)))]
    sizes = [prod(x.shape[axis] for axis in run) for _, run in runs]
    if not runs or runs[0][0]:
        sizes.insert(0, 1)
    if len(sizes) < 3:
        sizes = [sizes[0], 1, 1, *(sizes[1:] or [1])]
    view = x.reshape(sizes)
    lies = view.size == 0 or np.may_share_memory(view, x)
    whole = all(stride % x.itemsize == 0 for stride in view.strides)
    if not (lies and whole and (view.shape[-1] == 1 or view.strides[-1] == x.itemsize)):
        view = emit.contiguous(x).reshape(sizes)
    return view


def emit_reduction(emit: Emit, name: str, x: np.ndarray, axes: Sequence[int], y: np.ndarray) -> None:
    """Emit a reduction of floats over `axes` into contiguous y."""
    if y.size == 0:
        return
    view = _in_turn(emit, x, axes)
    along = view.ndim == 4
    sizes = view.shape if along else (*view.shape, 1)
    strides = tuple(stride // x.itemsize for stride in view.strides[:3])
    count = float(prod(x.shape[axis] for axis in axes))
    part = y if along else emit.scratch(y.shape, y.dtype)
    emit.kernel("reduce_forward", view, y, part, emit.operation(name), int(along), sizes, strides, count)


class Reduction(HostOp):
    """A reduction over `axes` (none: all). Floats have a kernel; integers and booleans, for which no order matters, a NumPy step."""

    inputs = (Slot("X"),)
    attributes = {"axes": Attribute(int, (), many=True), "keepdims": Attribute(bool, False)}
    reduction: Callable[..., Any]

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        for axis in self.get(node, "axes"):
            axis_of(node, axis, len(x.shape))
        axes = reduced_axes(self.get(node, "axes"), len(x.shape))
        kept = self.get(node, "keepdims")
        shape: list[Dim] = [1 if axis in axes else dim for axis, dim in enumerate(x.shape) if kept or axis not in axes]
        return [Value(x.dtype, tuple(shape))]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        (x,) = arrays
        assert x is not None
        axes = reduced_axes(self.get(node, "axes"), x.ndim)
        return [np.asarray(type(self).reduction(x, axis=axes, keepdims=self.get(node, "keepdims")), x.dtype)]

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:  # type: ignore[override]
        assert arrays[0] is not None
        return None if arrays[0].dtype in KERNEL_DTYPES else self.compute(node, arrays)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None
        if x.dtype in KERNEL_DTYPES:
            emit_reduction(emit, self.name, x, reduced_axes(self.get(node, "axes"), x.ndim), emit.output(out))
        else:
            super().lower(node, args, outs, emit)

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        x = required(args)
        return [(0, axis) for axis in reduced_axes(self.get(node, "axes"), len(x.shape or ()))]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return prod(required(args).shape or ())  # type: ignore[arg-type]

    def _over_x(self, node: Node, back: Back, value: Any) -> Any:
        """Return an output, or its gradient, with the shape of X."""
        x = back.x[0]
        axes = reduced_axes(self.get(node, "axes"), len(x.shape))
        return expanded(back, value if self.get(node, "keepdims") else with_axes(back, value, axes), x)


@register
class ReduceSum(Reduction):
    """The sum over axes."""

    name = "ReduceSum"
    reduction = staticmethod(np.sum)

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient of a sum reaches every element that was added."""
        return [self._over_x(node, back, back.dy[0])]


@register
class ReduceMean(Reduction):
    """The mean over axes."""

    name = "ReduceMean"
    reduction = staticmethod(np.mean)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = dY / n, n being the elements of which one is made."""
        axes = reduced_axes(self.get(node, "axes"), len(back.x[0].shape))
        return [self._over_x(node, back, back.node("Div", [back.dy[0], size_of(back, back.x[0], axes)]))]


@register
class ReduceProd(Reduction):
    """The product over axes."""

    name = "ReduceProd"
    reduction = staticmethod(np.prod)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = dY Y / X: NaN where X is 0."""
        (x,), (y,), (d,) = back.x, back.y, back.dy
        return [back.node("Div", [self._over_x(node, back, back.node("Mul", [d, y])), x])]


class Extreme(Reduction):
    """The largest or smallest element over axes; NaN wins."""

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient is shared by the elements that are the extreme, as TensorFlow and torch's amax do."""
        (x,), (y,), (d,) = back.x, back.y, back.dy
        hits = back.node("Cast", [back.node("Equal", [x, self._over_x(node, back, y)])], to=d.value.dtype.name)
        axes = reduced_axes(self.get(node, "axes"), len(x.shape))
        count = back.node("ReduceSum", [hits], axes=axes, keepdims=self.get(node, "keepdims"))
        return [back.node("Mul", [self._over_x(node, back, back.node("Div", [d, count])), hits])]


@register
class ReduceMax(Extreme):
    """The largest element over axes."""

    name = "ReduceMax"
    reduction = staticmethod(np.max)


@register
class ReduceMin(Extreme):
    """The smallest element over axes."""

    name = "ReduceMin"
    reduction = staticmethod(np.min)

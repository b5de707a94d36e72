"""Ops that reduce along axes: sums, means, products and extremes, in an order that depends on the sizes of the reduced axes alone."""

from collections.abc import Callable, Sequence
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.graph import Node
from fastlstm.ops.adjoints import expanded, size_of, with_axes
from fastlstm.ops.dims import Dim
from fastlstm.ops.op import (
    Attribute,
    Back,
    Emit,
    HostOp,
    Slot,
    Value,
    axis_of,
    contents,
    integers,
    register,
    required,
)

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
    """A reduction over `axes`, an attribute or an input (none named: all, or with `noop` nothing).

    Floats have a kernel; integers and booleans, for which no order matters, a NumPy step.
    """

    inputs = (Slot("X"), Slot("axes", optional=True))
    attributes = {
        "axes": Attribute(int, (), many=True),
        "keepdims": Attribute(bool, False),
        "noop": Attribute(bool, False),
    }
    reduction: Callable[..., Any]

    def _axes(self, node: Node, rank: int, given: np.ndarray | None = None) -> tuple[int, ...]:
        """Return the reduced axes, counted from the front."""
        named = self.get(node, "axes") if given is None else integers(given) or []
        for axis in named:
            axis_of(node, axis, rank)
        return () if not named and self.get(node, "noop") else reduced_axes(named, rank)

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x, given = required(args), contents(args, 1)
        if x.shape is None:
            return [Value(x.dtype, None)]
        axes = self._axes(node, len(x.shape), given)
        kept = self.get(node, "keepdims")
        shape: list[Dim] = [1 if axis in axes else dim for axis, dim in enumerate(x.shape) if kept or axis not in axes]
        return [Value(x.dtype, tuple(shape))]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        axes = self._axes(node, x.ndim, arrays[1] if len(arrays) > 1 else None)
        return [np.asarray(type(self).reduction(x, axis=axes, keepdims=self.get(node, "keepdims")), x.dtype)]

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:  # type: ignore[override]
        assert arrays[0] is not None
        return None if arrays[0].dtype in KERNEL_DTYPES else self.compute(node, arrays)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None
        if x.dtype in KERNEL_DTYPES:
            axes = self._axes(node, x.ndim, contents(args, 1))
            emit_reduction(emit, self.name, x, axes, emit.output(out))
        else:
            super().lower(node, args, outs, emit)

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        x = required(args)
        return [(0, axis) for axis in self._axes(node, len(x.shape or ()), contents(args, 1))]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return prod(required(args).shape or ())  # type: ignore[arg-type]

    def _axes_back(self, node: Node, back: Back) -> tuple[int, ...]:
        """Return the reduced axes, which must not be a value of the run. Raise UnsupportedError."""
        if len(back.x) > 1 and back.x[1] is not None:
            raise UnsupportedError(f"node {node.name!r}: the gradient of {self.name} needs axes that are constant")
        return self._axes(node, len(back.x[0].shape))

    def _over_x(self, node: Node, back: Back, value: Any) -> Any:
        """Return an output, or its gradient, with the shape of X."""
        x = back.x[0]
        axes = self._axes_back(node, back)
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
        axes = self._axes_back(node, back)
        return [self._over_x(node, back, back.node("Div", [back.dy[0], size_of(back, back.x[0], axes)]))]


@register
class ReduceProd(Reduction):
    """The product over axes."""

    name = "ReduceProd"
    reduction = staticmethod(np.prod)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = dY times the product of the other elements, which is 0 where another one is."""
        x, (d,) = back.x[0], back.dy
        axes, kept = self._axes_back(node, back), self.get(node, "keepdims")
        over = lambda name, value: self._over_x(node, back, back.node(name, [value], axes=axes, keepdims=kept))
        zero = back.node("Equal", [x, back.number(0.0)])
        rest = back.node("Where", [zero, back.number(1.0), x])
        ones = back.node("Cast", [zero], to=d.value.dtype.name)
        another = back.node("Greater", [back.node("Sub", [over("ReduceSum", ones), ones]), back.number(0.0)])
        others = back.node("Div", [over("ReduceProd", rest), rest])
        slope = back.node("Where", [another, back.number(0.0), others])
        return [back.node("Mul", [self._over_x(node, back, d), slope])]


def _extreme(ufunc: np.ufunc) -> Callable[..., Any]:
    """Return the reduction by np.maximum or np.minimum, of no elements the least or the greatest there is."""

    def reduction(x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> Any:
        start: Any = -np.inf if ufunc is np.maximum else np.inf
        if x.dtype.kind in "iu":
            start = np.iinfo(x.dtype).min if ufunc is np.maximum else np.iinfo(x.dtype).max
        elif x.dtype.kind == "b":
            start = ufunc is np.minimum
        return ufunc.reduce(x, axis=axis, keepdims=keepdims, initial=start)

    return reduction


class Extreme(Reduction):
    """The largest or smallest element over axes; NaN wins."""

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient is shared by the elements that are the extreme, as TensorFlow and torch's amax do."""
        (x,), (y,), (d,) = back.x, back.y, back.dy
        hits = back.node("Cast", [back.node("Equal", [x, self._over_x(node, back, y)])], to=d.value.dtype.name)
        axes = self._axes_back(node, back)
        count = back.node("ReduceSum", [hits], axes=axes, keepdims=self.get(node, "keepdims"))
        return [back.node("Mul", [self._over_x(node, back, back.node("Div", [d, count])), hits])]


@register
class ReduceMax(Extreme):
    """The largest element over axes."""

    name = "ReduceMax"
    reduction = staticmethod(_extreme(np.maximum))


@register
class ReduceMin(Extreme):
    """The smallest element over axes."""

    name = "ReduceMin"
    reduction = staticmethod(_extreme(np.minimum))

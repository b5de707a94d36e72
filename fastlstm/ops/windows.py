"""Overlapping windows along an axis, what convolutions multiply and poolings reduce, and their inverse."""

from collections.abc import Sequence
from math import prod

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.dims import Dim
from fastlstm.ops.op import (
    Attribute,
    Back,
    Emit,
    Op,
    Slot,
    Value,
    axis_of,
    expect_shape,
    register,
    required,
    shape_error,
)

WINDOW = {
    "stride": Attribute(int, 1),
    "dilation": Attribute(int, 1),
    "pads": Attribute(int, (0, 0), many=True),
}
FILLS = ("zero", "lowest")  # what stands before and after the steps: nothing to a sum, nothing to a maximum


def check_window(op: Op, node: Node, *sizes: str) -> None:
    """Raise ShapeError unless the attributes of WINDOW, and those of `sizes`, make sense."""
    pads = op.get(node, "pads")
    if len(pads) != 2 or min(pads) < 0:
        raise shape_error(node, "attribute 'pads'", pads, "two counts of zeros, before and after")
    for name in ("stride", "dilation", *sizes):
        if op.get(node, name) < 1:
            raise shape_error(node, f"attribute {name!r}", op.get(node, name), "at least 1")


def count_windows(node: Node, T: Dim, size: int, stride: int, dilation: int, pads: tuple[int, int]) -> Dim:
    """Return how many windows of `size` steps there are in T. Raise ShapeError where there is none."""
    span, padding = (size - 1) * dilation, sum(pads)
    if isinstance(T, int):
        left = T + padding - span
        if left < 1 and T > 0:
            raise shape_error(node, "input X", T, f"at least {span + 1 - padding} steps")
        return max(0, (left + stride - 1) // stride) if T else 0
    if padding == span and stride == 1:
        return T
    return dims.apply(f"conv{size}.{stride}.{span}.{padding}", T)


def window_of(op: Op, node: Node) -> tuple[int, int, tuple[int, int]]:
    """Return (stride, dilation, pads) of a node."""
    stride, dilation, pads = (op.get(node, key) for key in WINDOW)
    return stride, dilation, pads


@register
class Windows(Op):
    """X (..., T, ...) as overlapping windows (..., steps, size, ...) along `axis`. A view, but for padding."""

    name = "Windows"
    inputs = (Slot("X"),)
    attributes = {
        "size": Attribute(int, required=True),
        "axis": Attribute(int, 1),
        **WINDOW,
        "fill": Attribute(str, "zero", choices=FILLS),
    }

    def check(self, node: Node) -> None:
        super().check(node)
        check_window(self, node, "size")

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x, size = required(args), self.get(node, "size")
        if x.shape is None:
            raise shape_error(node, "input X", x.shape, "a known number of axes")
        axis = axis_of(node, self.get(node, "axis"), len(x.shape))
        steps = count_windows(node, x.shape[axis], size, *window_of(self, node))
        return [Value(x.dtype, (*x.shape[:axis], steps, size, *x.shape[axis + 1 :]))]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None and out.shape is not None
        axis = self.get(node, "axis") % x.ndim
        stride, dilation, (before, after) = window_of(self, node)
        if before or after:
            T = x.shape[axis]
            source = emit.scratch((*x.shape[:axis], before + T + after, *x.shape[axis + 1 :]), x.dtype, lasts=True)
            source[...] = 0.0 if self.get(node, "fill") == "zero" else -np.inf
            emit.copy(source[(slice(None),) * axis + (slice(before, before + T),)], x)
            x = source
        step = x.strides[axis]
        strides = (*x.strides[:axis], step * stride, step * dilation, *x.strides[axis + 1 :])
        emit.alias(out, np.lib.stride_tricks.as_strided(x, out.shape, strides, writeable=False))  # type: ignore[arg-type]

    def adjoint(self, node: Node, back: Back) -> list:
        """A step sums the gradients of its places in windows."""
        window = {key: self.get(node, key) for key in ("axis", *WINDOW)}
        return [back.node("OverlapAdd", [back.dy[0], back.x[0]], **window)]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return [(0, self.get(node, "axis") % len(required(args).shape or (0,)))]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 0


@register
class OverlapAdd(Op):
    """Windows (..., steps, size, ...) added up where they came from, for a value of the shape of `like` (..., T, ...)."""

    name = "OverlapAdd"
    inputs = (Slot("X"), Slot("like"))
    attributes = {"axis": Attribute(int, 1), **WINDOW}

    def check(self, node: Node) -> None:
        super().check(node)
        check_window(self, node)

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x, like = required(args), required(args, 1)
        if like.shape is None or x.shape is None:
            return [Value(x.dtype, None)]
        if len(x.shape) != len(like.shape) + 1:
            raise shape_error(node, "input X", x.shape, "(..., steps, size, ...), and `like` (..., T, ...)")
        axis = axis_of(node, self.get(node, "axis"), len(like.shape))
        size = x.shape[axis + 1]
        if not isinstance(size, int) or size < 1:
            raise shape_error(node, "input X", x.shape, "windows of a known size")
        steps = count_windows(node, like.shape[axis], size, *window_of(self, node))
        expect_shape(node, args, 0, "input X", (*like.shape[:axis], steps, size, *like.shape[axis + 1 :]))
        return [Value(x.dtype, like.shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None
        y = emit.output(out)
        axis = self.get(node, "axis") % y.ndim
        B, T, C = prod(y.shape[:axis]), y.shape[axis], prod(y.shape[axis + 1 :])
        stride, dilation, pads = window_of(self, node)
        steps, size = x.shape[axis : axis + 2]
        emit.kernel("overlap_forward", emit.contiguous(x), y, B, T, C, steps, size, stride, dilation, pads[0])

    def adjoint(self, node: Node, back: Back) -> list:
        """The windows of the gradient."""
        window = {key: self.get(node, key) for key in ("axis", *WINDOW)}
        size = back.x[0].shape[window["axis"] % len(back.x[1].shape) + 1]
        return [back.node("Windows", [back.dy[0]], size=size, **window), None]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        axis = self.get(node, "axis") % len(required(args, 1).shape or (0,))
        return [(0, axis), (0, axis + 1)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return prod(required(args).shape or ())  # type: ignore[arg-type]

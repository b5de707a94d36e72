"""Ops that reduce along axes: sums and means, in an order that depends on the sizes of the reduced axes alone."""

from collections.abc import Sequence

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops.dims import Dim
from fastlstm.ops.op import Attribute, Back, HostOp, Slot, Value, register, required


def reduced_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the axes counted from the front, in order; none named: all."""
    return tuple(sorted({axis % rank for axis in axes})) if axes else tuple(range(rank))


class Reduction(HostOp):
    """A NumPy reduction over `axes` (none: all)."""

    inputs = (Slot("X"),)
    attributes = {"axes": Attribute(int, (), many=True), "keepdims": Attribute(bool, False)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        axes = reduced_axes(self.get(node, "axes"), len(x.shape))
        kept = self.get(node, "keepdims")
        shape: list[Dim] = [
            1 if axis in axes else dim for axis, dim in enumerate(x.shape) if kept or axis not in axes
        ]
        return [Value(x.dtype, tuple(shape))]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        x = required(args)
        return [(0, axis) for axis in reduced_axes(self.get(node, "axes"), len(x.shape or ()))]


@register
class ReduceSum(Reduction):
    name = "ReduceSum"

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        (x,) = arrays
        assert x is not None
        axes = reduced_axes(self.get(node, "axes"), x.ndim)
        return [np.sum(x, axis=axes, keepdims=self.get(node, "keepdims"), dtype=x.dtype)]

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient of a sum reaches every element that was added."""
        (x,), (d,) = back.x, back.dy
        axes = reduced_axes(self.get(node, "axes"), len(x.shape))
        if not self.get(node, "keepdims") and axes:
            d = back.node("Unsqueeze", [d, back.ints(*axes)])
        return [back.node("Add", [d, back.zeros_like(x)])]

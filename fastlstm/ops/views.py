"""Ops that show X under another shape: they move nothing and cost nothing."""

from collections.abc import Sequence

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.adjoints import reshaped
from fastlstm.ops.dims import Dim, Shape, agree
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    Back,
    NeedsValue,
    Slot,
    Value,
    ViewOp,
    axis_of,
    contents,
    integers,
    register,
    required,
    shape_error,
)


class ReshapingOp(ViewOp):
    """X with all of its elements in their order under another shape."""

    reshapes = True

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient takes the way back."""
        return [reshaped(back, back.dy[0], back.x[0])]


def _mixed_by_reshaping(x: Shape, out: Shape) -> list[tuple[int, int]]:
    """Return the axes of input 0 that do not survive whole."""
    front = 0
    while front < min(len(out), len(x)) and out[front] == x[front]:
        front += 1
    back = 0
    while back < min(len(out), len(x)) - front and out[-1 - back] == x[-1 - back]:
        back += 1
    # an axis whose symbol is one dim of the output still stands alone there
    whole = {d for d in out if isinstance(d, str) and "*" not in d}
    middle = range(front, len(x) - back)
    return [(0, axis) for axis in middle if x[axis] not in whole and x[axis] != 1]


@register
class Reshape(ReshapingOp):
    """X under the shape given: 0 copies the dim at its place (unless allowzero), one -1 takes what is left."""

    name = "Reshape"
    inputs = (Slot("X"), Slot("shape"))
    attributes = {"allowzero": Attribute(bool, False)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, wanted = required(args), integers(contents(args, 1))
        assert wanted is not None
        if any(v < -1 for v in wanted) or wanted.count(-1) > 1:
            raise shape_error(node, "input shape", tuple(wanted), "sizes, and at most one -1")
        if x.shape is None:
            return [Value(x.dtype, tuple(v if v > 0 else f"({node.name}.{k})" for k, v in enumerate(wanted)))]
        keep = not self.get(node, "allowzero")
        if keep and any(v == 0 and k >= len(x.shape) for k, v in enumerate(wanted)):
            raise shape_error(node, "input shape", tuple(wanted), f"0 only where X {x.shape} has a dim")
        shape: list[Dim] = [x.shape[k] if v == 0 and keep else v for k, v in enumerate(wanted)]
        total = dims.product(x.shape)
        if -1 in wanted:
            place = wanted.index(-1)
            left = dims.quotient(total, dims.product(d for k, d in enumerate(shape) if k != place))
            if left is None and isinstance(total, int) and all(isinstance(d, int) for d in shape):
                if total or 0 not in shape:
                    raise shape_error(node, "input X", x.shape, f"a size that fills {tuple(wanted)}")
                left = 0
            shape[place] = dims.apply("reshape", *x.shape, *shape[:place]) if left is None else left
        elif not agree(dims.product(shape), total):
            raise shape_error(node, "input X", x.shape, f"as many elements as {tuple(shape)}")
        return [Value(x.dtype, tuple(shape))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, wanted = arrays[0], integers(arrays[1])
        assert x is not None and wanted is not None
        keep = not self.get(node, "allowzero")
        return [x.reshape([x.shape[k] if v == 0 and keep else v for k, v in enumerate(wanted)])]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        """Axes that survive whole at the front or the back are not mixed."""
        x = required(args)
        if x.shape is None:
            return []
        try:
            out = self.infer(node, args)[0].shape
        except NeedsValue:
            return [(0, axis) for axis in range(len(x.shape))]
        assert out is not None
        return _mixed_by_reshaping(x.shape, out)


@register
class ReshapeLike(ReshapingOp):
    """X under the shape of another value."""

    name = "ReshapeLike"
    inputs = (Slot("X"), Slot("like"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, like = required(args), required(args, 1)
        if (
            x.shape is not None
            and like.shape is not None
            and not agree(dims.product(x.shape), dims.product(like.shape))
        ):
            raise shape_error(node, "input X", x.shape, f"as many elements as {like.shape}")
        return [Value(x.dtype, like.shape)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, like = arrays
        assert x is not None and like is not None
        return [x.reshape(like.shape)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        x, like = required(args), required(args, 1)
        return [] if x.shape is None or like.shape is None else _mixed_by_reshaping(x.shape, like.shape)


@register
class Flatten(ReshapingOp):
    """X as a matrix: the axes before `axis`, and those from it on."""

    name = "Flatten"
    inputs = (Slot("X"),)
    attributes = {"axis": Attribute(int, 1)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        axis = self.get(node, "axis")
        axis = axis if axis == len(x.shape) else axis_of(node, axis, len(x.shape))
        return [Value(x.dtype, (dims.product(x.shape[:axis]), dims.product(x.shape[axis:])))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        shape = self.infer(node, [Value.constant(x)])[0].shape
        return [x.reshape(shape)]  # type: ignore[arg-type]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        axis = self.get(node, "axis") % rank if rank and self.get(node, "axis") != rank else rank
        groups = (range(axis), range(axis, rank))
        return [(0, k) for group in groups if len(group) > 1 for k in group]


@register
class MergeAxes(ReshapingOp):
    """X with `axis` and the one after it as one: (..., M, N, ...) to (..., M N, ...)."""

    name = "MergeAxes"
    inputs = (Slot("X"),)
    attributes = {"axis": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, axis = required(args), self.get(node, "axis")
        if x.shape is None or not 0 <= axis < len(x.shape) - 1:
            raise shape_error(node, "input X", x.shape, f"axes {axis} and {axis + 1}")
        whole = dims.product(x.shape[axis : axis + 2])
        return [Value(x.dtype, (*x.shape[:axis], whole, *x.shape[axis + 2 :]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        return [x.reshape(self.infer(node, [Value.constant(x)])[0].shape)]  # type: ignore[arg-type]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class SplitAxis(ReshapingOp):
    """X with `axis` taken apart into that of `like` and the one after it: what MergeAxes made one."""

    name = "SplitAxis"
    inputs = (Slot("X"), Slot("like"))
    attributes = {"axis": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, like, axis = required(args), required(args, 1), self.get(node, "axis")
        if x.shape is None or not 0 <= axis < len(x.shape):
            raise shape_error(node, "input X", x.shape, f"an axis {axis}")
        if like.shape is None or axis > len(like.shape) - 2:
            raise shape_error(node, "input like", like.shape, f"axes {axis} and {axis + 1}")
        parts = like.shape[axis : axis + 2]
        if not agree(dims.product(parts), x.shape[axis]):
            raise shape_error(node, "input X", x.shape, f"{dims.product(parts)} along axis {axis}")
        return [Value(x.dtype, (*x.shape[:axis], *parts, *x.shape[axis + 1 :]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, like = arrays
        assert x is not None and like is not None
        return [x.reshape(self.infer(node, [Value.constant(x), Value.constant(like)])[0].shape)]  # type: ignore[arg-type]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class Squeeze(ReshapingOp):
    """X without the axes given (absent: without every axis of size 1)."""

    name = "Squeeze"
    inputs = (Slot("X"), Slot("axes", optional=True))

    def _axes(self, node: Node, shape: Shape, axes: np.ndarray | None) -> set[int]:
        if axes is None:
            return {k for k, d in enumerate(shape) if d == 1}
        chosen = {axis_of(node, axis, len(shape)) for axis in integers(axes) or []}
        for axis in chosen:
            if not agree(shape[axis], 1):
                raise shape_error(node, "input X", shape, f"size 1 along axis {axis}")
        return chosen

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        axes = self._axes(node, x.shape, contents(args, 1))
        return [Value(x.dtype, tuple(d for k, d in enumerate(x.shape) if k not in axes))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        return [
            x.reshape(
                [
                    d
                    for k, d in enumerate(x.shape)
                    if k not in self._axes(node, x.shape, arrays[1] if len(arrays) > 1 else None)
                ]
            )
        ]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class Unsqueeze(ReshapingOp):
    """X with axes of size 1 inserted where the output has the axes given."""

    name = "Unsqueeze"
    inputs = (Slot("X"), Slot("axes"))

    def _shape(self, node: Node, shape: Shape, axes: Sequence[int]) -> Shape:
        rank = len(shape) + len(axes)
        places = {axis_of(node, axis, rank) for axis in axes}
        if len(places) != len(axes):
            raise shape_error(node, "input axes", tuple(axes), "different axes")
        rest = iter(shape)
        return tuple(1 if k in places else next(rest) for k in range(rank))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, axes = required(args), integers(contents(args, 1))
        assert axes is not None
        return [Value(x.dtype, None if x.shape is None else self._shape(node, x.shape, axes))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, axes = arrays[0], integers(arrays[1])
        assert x is not None and axes is not None
        return [x.reshape(self._shape(node, x.shape, axes))]  # type: ignore[arg-type]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []

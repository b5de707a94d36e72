"""Ops that copy elements to other places: Transpose, Expand, Concat, Split, Slice and its inverse Place, Reverse."""

from collections.abc import Callable, Sequence

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.dims import Dim, Shape, agree
from fastlstm.ops.elementwise import broadcast
from fastlstm.ops.mapping import emit_zeros
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    Back,
    Emit,
    HostOp,
    Slot,
    Value,
    ViewOp,
    axis_of,
    contents,
    expect_shape,
    integers,
    register,
    required,
    shape_error,
)


@register
class Transpose(ViewOp):
    """X with its axes in the order `perm` (empty: reversed)."""

    name = "Transpose"
    inputs = (Slot("X"),)
    attributes = {"perm": Attribute(int, (), many=True)}

    def _perm(self, node: Node, rank: int) -> tuple[int, ...]:
        perm = self.get(node, "perm") or tuple(reversed(range(rank)))
        if sorted(perm) != list(range(rank)):
            raise shape_error(node, "attribute 'perm'", perm, f"an order of {rank} axes")
        return perm

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        return [Value(x.dtype, tuple(x.shape[k] for k in self._perm(node, len(x.shape))))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [arrays[0].transpose(self._perm(node, arrays[0].ndim))]

    def place(self, node: Node, name: str, args: Args, whole: Callable[[], np.ndarray]) -> np.ndarray:
        place = whole()
        return place.transpose(np.argsort(self._perm(node, place.ndim)))

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient takes the way back."""
        (d,) = back.dy
        order = np.argsort(self._perm(node, len(d.shape)))
        return [back.node("Transpose", [d], perm=tuple(int(k) for k in order))]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


class ExpandingOp(ViewOp):
    """X repeated along axes."""

    def adjoint(self, node: Node, back: Back) -> list:
        """What was repeated sums the gradients."""
        return [back.sum_to(back.dy[0], back.x[0])]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class Expand(ExpandingOp):
    """X broadcast against the shape given."""

    name = "Expand"
    inputs = (Slot("X"), Slot("shape"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, wanted = required(args), integers(contents(args, 1))
        assert wanted is not None
        return [Value(x.dtype, broadcast(node, [x.shape, tuple(wanted)]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, wanted = arrays[0], integers(arrays[1])
        assert x is not None and wanted is not None
        return [np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted)))]


@register
class ExpandLike(ExpandingOp):
    """X broadcast against the shape of another value."""

    name = "ExpandLike"
    inputs = (Slot("X"), Slot("like"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, like = required(args), required(args, 1)
        return [Value(x.dtype, broadcast(node, [x.shape, like.shape]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, like = arrays
        assert x is not None and like is not None
        return [np.broadcast_to(x, np.broadcast_shapes(x.shape, like.shape))]


def _same_place(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two arrays of one shape are the same elements; along an axis of size 1 strides mean nothing."""
    steps = [array.strides[k] for array in (a, b) for k, size in enumerate(a.shape) if size > 1]
    same = steps[: len(steps) // 2] == steps[len(steps) // 2 :]
    return same and a.__array_interface__["data"] == b.__array_interface__["data"] and a.dtype == b.dtype


_LAST = 2**31 - 1  # as the end of a Slice: all that is left


@register
class Concat(HostOp):
    """The inputs joined along `axis`."""

    name = "Concat"
    inputs = (Slot("inputs", variadic=True),)
    attributes = {"axis": Attribute(int, required=True)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        values = [arg for arg in args if arg is not None]
        if any(v.shape is None for v in values):
            return [Value(values[0].dtype, None)]
        shapes = [v.shape for v in values if v.shape is not None]
        axis = axis_of(node, self.get(node, "axis"), len(shapes[0]))
        result = list(shapes[0])
        for shape in shapes[1:]:
            if len(shape) != len(result) or any(
                not agree(a, b) for k, (a, b) in enumerate(zip(shape, result, strict=True)) if k != axis
            ):
                raise shape_error(node, "an input", shape, f"{tuple(result)} but for axis {axis}")
            result = [
                b if k == axis or isinstance(b, int) else a for k, (a, b) in enumerate(zip(shape, result, strict=True))
            ]
        result[axis] = dims.add(*(shape[axis] for shape in shapes))
        return [Value(values[0].dtype, tuple(result))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        return [np.concatenate([a for a in arrays if a is not None], axis=self.get(node, "axis"))]

    def _parts(self, node: Node, args: Args, whole: np.ndarray) -> list[np.ndarray]:
        axis = self.get(node, "axis") % whole.ndim
        ends = np.cumsum([arg.shape[axis] for arg in args if arg is not None])  # type: ignore[index]
        return np.split(whole, ends[:-1], axis)

    def place(self, node: Node, name: str, args: Args, whole: Callable[[], np.ndarray]) -> np.ndarray | None:
        if any(arg is None or arg.shape is None for arg in args):
            return None
        return self._parts(node, args, whole())[node.inputs.index(name)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        y = emit.output(outs[0], lambda _: True)  # type: ignore[arg-type]
        for part, arg in zip(self._parts(node, args, y), args, strict=True):
            assert arg is not None and arg.array is not None
            if not _same_place(part, arg.array):
                emit.copy(part, arg.array)

    def adjoint(self, node: Node, back: Back) -> list:
        """Each input gets its part."""
        (d,) = back.dy
        axis, parts = self.get(node, "axis") % len(d.shape), []
        start = back.ints(0)
        for x, wanted in zip(back.x, back.wants, strict=True):
            # sizes are values of the graph: those that are not known now are when it is bound
            end = back.node("Add", [start, back.node("Shape", [x], start=axis, end=axis + 1)])
            part = back.node("Slice", [d, start, end, back.ints(axis)]) if wanted else None
            parts.append(part if part is None or part.value.shape == x.shape else back.node("ReshapeLike", [part, x]))
            start = end
        return parts

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(k, self.get(node, "axis") % rank) for k in range(len(args))] if rank and len(args) > 1 else []


@register
class Split(ViewOp):
    """X cut along `axis` into parts of the sizes given (absent: equal parts, one for each output)."""

    name = "Split"
    inputs = (Slot("X"), Slot("split", optional=True))
    variadic_outputs = True
    attributes = {"axis": Attribute(int, 0)}

    def _sizes(self, node: Node, size: Dim, split: np.ndarray | None) -> list[int]:
        count = len(node.outputs)
        if split is not None:
            sizes = integers(split) or []
            if len(sizes) != count or min(sizes) < 0 or (isinstance(size, int) and sum(sizes) != size):
                raise shape_error(node, "input split", tuple(sizes), f"{count} sizes that add up to {size}")
            return sizes
        if not isinstance(size, int):
            raise shape_error(node, "input X", size, "a known size along the axis that is split")
        part = -(-size // count)
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
        if sizes[-1] < 0:
            raise shape_error(node, "input X", size, f"at least {count} along the axis that is split")
        return sizes

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, split = required(args), contents(args, 1)
        if x.shape is None:
            return [Value(x.dtype, None) for _ in node.outputs]
        axis = axis_of(node, self.get(node, "axis"), len(x.shape))
        sizes = self._sizes(node, x.shape[axis], split)
        return [Value(x.dtype, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in sizes]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        axis = self.get(node, "axis")
        sizes = self._sizes(node, x.shape[axis], arrays[1] if len(arrays) > 1 else None)
        return np.split(x, np.cumsum(sizes)[:-1], axis=axis)

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradients of the parts, joined; zeros for a part that nothing depends on."""
        x, axis, start, parts = back.x[0], self.get(node, "axis"), 0, []
        split = back.x[1].value.data if len(back.x) > 1 else None
        for d, size in zip(back.dy, self._sizes(node, x.shape[axis], split), strict=True):
            bounds = [back.ints(value) for value in (start, start + size, axis)]
            parts.append(back.zeros_like(back.node("Slice", [x, *bounds])) if d is None else d)
            start += size
        return [back.node("Concat", parts, axis=axis)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []


def _clamped(cut: slice, size: int) -> slice:
    """Return a slice as ONNX clamps it: backwards, a start before the first element is the first, an end there is past it."""
    if cut.step > 0:
        return cut
    stop = None if cut.stop is None or cut.stop < -size else cut.stop
    return slice(max(cut.start, -size), stop, cut.step)


def _slices(node: Node, rank: int, starts, ends, axes, steps) -> dict[int, slice]:
    """Return the slice of each axis that a node cuts."""
    starts, ends = integers(starts) or [], integers(ends) or []
    axes = list(range(len(starts))) if axes is None else integers(axes) or []
    steps = [1] * len(starts) if steps is None else integers(steps) or []
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise shape_error(node, "starts, ends, axes and steps", (len(starts), len(ends)), "equal lengths, no step of 0")
    slices = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # "up to and including the first element" has no number in ONNX: a very negative end
        stop = None if step < 0 and end < -(2**31) + 2 else end
        slices[axis_of(node, axis, rank)] = slice(start, stop, step)
    return slices


def _is_whole(cut: slice) -> bool:
    """Tell whether a slice is all of an axis of any size."""
    return cut.start == 0 and cut.step == 1 and cut.stop is not None and cut.stop >= _LAST


def _sliced_shape(shape: Shape, slices: dict[int, slice]) -> Shape:
    """Return the shape of a slice."""
    result = list(shape)
    for axis, cut in slices.items():
        size = result[axis]
        if isinstance(size, int):
            result[axis] = len(range(size)[_clamped(cut, size)])
        elif not _is_whole(cut):
            reverses = cut.step == -1 and cut.start in (-1, 2**31 - 1, 2**63 - 1) and cut.stop is None
            result[axis] = size if reverses else dims.apply(f"slice{cut.start}:{cut.stop}:{cut.step}", size)
    return tuple(result)


def _sliced(x: np.ndarray, slices: dict[int, slice]) -> np.ndarray:
    """Return a slice as a view."""
    index = [slice(None)] * x.ndim
    for axis, cut in slices.items():
        index[axis] = _clamped(cut, x.shape[axis])
    return x[tuple(index)]


@register
class Slice(ViewOp):
    """X[starts:ends:steps] along the axes given, as Python slices; out of range is cut."""

    name = "Slice"
    inputs = (Slot("X"), Slot("starts"), Slot("ends"), Slot("axes", optional=True), Slot("steps", optional=True))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        given = [contents(args, k) for k in range(1, 5)]
        if x.shape is None:
            return [Value(x.dtype, None)]
        return [Value(x.dtype, _sliced_shape(x.shape, _slices(node, len(x.shape), *given)))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        given = [arrays[k] if k < len(arrays) else None for k in range(1, 5)]
        return [_sliced(x, _slices(node, x.ndim, *given))]

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient of what was cut off is zero."""
        return [back.node("Place", [back.dy[0], back.x[0], *back.x[1:]])]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        x = required(args)
        if x.shape is None or any(a is not None and a.data is None for a in args[1:]):
            return [(0, axis) for axis in range(len(x.shape or ()))]
        given = [contents(args, k) for k in range(1, 5)]
        return [(0, axis) for axis, cut in _slices(node, len(x.shape), *given).items() if not _is_whole(cut)]


@register
class Place(HostOp):
    """Zeros of the shape of another value, with X where its Slice would be."""

    name = "Place"
    inputs = (
        Slot("X"),
        Slot("like"),
        Slot("starts"),
        Slot("ends"),
        Slot("axes", optional=True),
        Slot("steps", optional=True),
    )

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, like = required(args), required(args, 1)
        given = [contents(args, k) for k in range(2, 6)]
        if x.shape is not None and like.shape is not None:
            wanted = _sliced_shape(like.shape, _slices(node, len(like.shape), *given))
            expect_shape(node, args, 0, "input X", wanted)
        return [Value(x.dtype, like.shape)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, like = arrays[:2]
        assert x is not None and like is not None
        y = np.zeros(like.shape, x.dtype)
        self._part(node, y, arrays)[...] = x
        return [y]

    def _part(self, node: Node, y: np.ndarray, arrays: Arrays) -> np.ndarray:
        given = [arrays[k] if k < len(arrays) else None for k in range(2, 6)]
        return _sliced(y, _slices(node, y.ndim, *given))

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None
        y = emit.output(out)
        emit_zeros(emit, y)
        emit.copy(self._part(node, y, [None if arg is None else arg.data for arg in args]), x)

    def adjoint(self, node: Node, back: Back) -> list:
        """The Slice that it is the inverse of."""
        return [back.node("Slice", [back.dy[0], *back.x[2:]])]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        like = required(args, 1)
        if like.shape is None or any(a is not None and a.data is None for a in args[2:]):
            return [(0, axis) for axis in range(len(required(args).shape or ()))]
        given = [contents(args, k) for k in range(2, 6)]
        return [(0, axis) for axis in _slices(node, len(like.shape), *given)]


@register
class Reverse(ViewOp):
    """X in reverse order along `axis`."""

    name = "Reverse"
    inputs = (Slot("X"),)
    attributes = {"axis": Attribute(int, required=True)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is not None:
            axis_of(node, self.get(node, "axis"), len(x.shape))
        return [Value(x.dtype, x.shape)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [np.flip(arrays[0], self.get(node, "axis"))]

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient takes the way back."""
        return [back.node("Reverse", [back.dy[0]], axis=self.get(node, "axis"))]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []

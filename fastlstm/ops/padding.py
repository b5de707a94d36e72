"""Ops that enlarge a value with copies of itself or a constant: Pad and Tile."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.adjoints import numbers, reshaped, with_axes
from fastlstm.ops.dims import Dim, Shape
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    Back,
    Emit,
    HostOp,
    Slot,
    Value,
    at,
    axis_of,
    contents,
    integers,
    register,
    required,
    shape_error,
)

MODES = ("constant", "edge", "reflect", "wrap")
Margins = dict[int, tuple[int, int]]  # by axis: elements before and after, negative where some are cut off


def _progressions(places: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first, start, step, count): the places from `first` on are start, start + step ... for `count` of them."""
    first = 0
    while first < len(places):
        step = places[first + 1] - places[first] if first + 1 < len(places) else 1
        last = first + 1
        while last < len(places) and places[last] - places[last - 1] == step:
            last += 1
        yield first, places[first], step, last - first
        first = last


def _along(array: np.ndarray, axis: int, start: int, step: int, count: int) -> np.ndarray:
    """Return `count` elements along an axis, from `start` on, `step` apart (0: the same one), as a view."""
    one = np.moveaxis(array, axis, 0)[start : start + 1]
    strides = (step * array.strides[axis], *one.strides[1:])
    view = np.lib.stride_tricks.as_strided(one, (count, *one.shape[1:]), strides)
    return np.moveaxis(view, 0, axis)


@register
class Pad(HostOp):
    """X with `pads` (before each of the axes, then after each) elements more, or fewer where negative.

    Mode "constant" puts `value` (0) there, "edge" the last element, "reflect" the elements mirrored at the last, "wrap" those of the other end.
    """

    name = "Pad"
    inputs = (Slot("X"), Slot("pads"), Slot("value", optional=True), Slot("axes", optional=True))
    attributes = {"mode": Attribute(str, "constant", choices=MODES)}

    def _margins(self, node: Node, rank: int, pads: np.ndarray | None, axes: np.ndarray | None) -> Margins:
        counts = integers(pads) or []
        chosen = range(rank) if axes is None else [axis_of(node, axis, rank) for axis in integers(axes) or []]
        if len(counts) != 2 * len(chosen):
            raise shape_error(node, "input pads", (len(counts),), f"({2 * len(chosen)},): before and after each axis")
        return {axis: (counts[k], counts[k + len(chosen)]) for k, axis in enumerate(chosen)}

    def _size(self, node: Node, size: Dim, margin: tuple[int, int]) -> Dim:
        if margin == (0, 0):
            return size
        if not isinstance(size, int):
            return dims.apply(f"pad{margin[0]}.{margin[1]}", size)
        whole = size + sum(margin)
        source = size + sum(min(m, 0) for m in margin)
        if whole < 0 or (whole > 0 >= source and self.get(node, "mode") != "constant"):
            raise shape_error(node, "input X", size, f"a size that {margin} can be added to")
        return whole

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        pads, axes = contents(args, 1), contents(args, 3)
        if x.shape is None:
            return [Value(x.dtype, None)]
        margins = self._margins(node, len(x.shape), pads, axes)
        shape = tuple(self._size(node, size, margins.get(k, (0, 0))) for k, size in enumerate(x.shape))
        return [Value(x.dtype, shape)]

    def unknown(self, node: Node, args: Args) -> list[Value]:
        """Sizes along the axes that are padded are not known yet, nor others than those."""
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        padded = self._padded_axes(node, args)
        shape = (dims.apply(f"{node.name}.{k}", size) if k in padded else size for k, size in enumerate(x.shape))
        return [Value(x.dtype, tuple(shape))]

    def _padded_axes(self, node: Node, args: Args) -> list[int]:
        """Return the axes that pads are for: all of them where that is not known."""
        rank, axes = len(required(args).shape or ()), at(args, 3)
        if axes is None or axes.data is None:
            return list(range(rank))
        return [axis_of(node, axis, rank) for axis in integers(axes.data) or []]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, pads, value, axes = (*arrays, None, None)[:4]
        assert x is not None
        margins = self._margins(node, x.ndim, pads, axes)
        x = self._cut(x, margins)
        widths = [tuple(max(m, 0) for m in margins.get(axis, (0, 0))) for axis in range(x.ndim)]
        if self.get(node, "mode") == "constant":
            fill = 0 if value is None else value.ravel()[0]
            return [np.pad(x, widths, constant_values=fill)]
        return [np.pad(x, widths, mode=self.get(node, "mode"))]

    def _cut(self, x: np.ndarray, margins: Margins) -> np.ndarray:
        """Return X without what negative margins cut off, as a view."""
        index = [slice(None)] * x.ndim
        for axis, (before, after) in margins.items():
            index[axis] = slice(max(-before, 0), x.shape[axis] + min(after, 0))
        return x[tuple(index)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, value, out = required(args).array, at(args, 2), outs[0]
        assert x is not None and out is not None
        margins = self._margins(node, x.ndim, contents(args, 1), contents(args, 3))
        y, x = emit.output(out, lambda _: True), self._cut(x, margins)
        if y.size == 0:
            return
        # what of y is filled so far: X, then along one axis after the other what surrounds it
        inner = [slice(max(margins.get(axis, (0, 0))[0], 0), None) for axis in range(x.ndim)]
        inner = [slice(cut.start, cut.start + x.shape[axis]) for axis, cut in enumerate(inner)]
        if x.size:
            emit.copy(y[tuple(inner)], x)
        fill = np.zeros((), y.dtype) if value is None or value.array is None else value.array.reshape(())
        for axis, (before, after) in margins.items():
            inner[axis] = slice(None)
            part = y[tuple(inner)]
            before, after, size = max(before, 0), max(after, 0), x.shape[axis]
            if self.get(node, "mode") == "constant":
                for first, count in ((0, before), (before + size, after)):
                    if count:
                        emit.copy(_along(part, axis, first, 1, count), fill)
                continue
            places = np.pad(np.arange(before, before + size), (before, after), mode=self.get(node, "mode")).tolist()
            for lead, own in ((0, before), (before + size, after)):
                for first, start, step, count in _progressions(places[lead : lead + own]):
                    target = _along(part, axis, lead + first, 1, count)
                    emit.copy(target, _along(part, axis, start, step, count))

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient of what was added is cut off (mode "constant"; that of `value` is its sum), or goes to what was repeated."""
        given: list[Any] = [*back.x, None, None]
        x, pads, value, axes = given[:4]
        if self.get(node, "mode") != "constant":
            return [self._gathered(node, back, x, pads, axes)]
        dx = back.node(self.name, [back.dy[0], back.node("Neg", [pads]), None, axes]) if back.wants[0] else None
        if dx is not None and dx.value.shape != x.shape:
            dx = back.node("ReshapeLike", [dx, x])
        d_value = None
        if value is not None and back.wants[2]:
            added = back.node(self.name, [back.zeros_like(x), pads, back.number(1.0), axes])
            d_value = reshaped(back, back.node("ReduceSum", [back.node("Mul", [back.dy[0], added])]), value)
        return [dx, None, d_value, None]

    def _gathered(self, node: Node, back: Back, x: Any, pads: Any, axes: Any) -> Any:
        """Return the gradient of X, whose elements sum those of their copies, one padded axis after the other."""
        if any(given is not None and given.value.data is None for given in (pads, axes)):
            raise UnsupportedError(
                f"node {node.name!r}: the gradient of {self.name} needs pads and axes that are constant"
            )
        margins = self._margins(node, len(x.shape), pads.value.data, None if axes is None else axes.value.data)
        pad = lambda value, axis, margin: back.node(
            self.name, [value, back.ints(*margin), None, back.ints(axis)], mode=self.get(node, "mode")
        )
        steps: list[Any] = [x]  # X with the first of its axes padded, then with one more each
        for axis, margin in margins.items():
            steps.append(pad(steps[-1], axis, margin))
        d = back.dy[0]
        for like, (axis, margin) in zip(steps[-2::-1], reversed(margins.items()), strict=True):
            if margin != (0, 0):
                size = back.node("Shape", [x], start=axis, end=axis + 1)
                d = back.node("ScatterAdd", [d, pad(numbers(back, size), 0, margin), like], axis=axis)
        return d

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        x = required(args)
        if x.shape is None or any(at(args, k) is not None and required(args, k).data is None for k in (1, 3)):
            return [(0, axis) for axis in self._padded_axes(node, args)]
        margins = self._margins(node, len(x.shape), contents(args, 1), contents(args, 3))
        return [(0, axis) for axis, margin in margins.items() if margin != (0, 0)]


@register
class Tile(HostOp):
    """X repeated along each axis as often as `repeats` says."""

    name = "Tile"
    inputs = (Slot("X"), Slot("repeats"))

    def _repeats(self, node: Node, rank: int, repeats: np.ndarray | None) -> list[int]:
        counts = integers(repeats) or []
        if len(counts) != rank or any(count < 0 for count in counts):
            raise shape_error(node, "input repeats", tuple(counts), f"{rank} counts, one for each axis of X")
        return counts

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, repeats = required(args), contents(args, 1)
        if x.shape is None:
            return [Value(x.dtype, None)]
        counts = self._repeats(node, len(x.shape), repeats)
        shape: Shape = tuple(dims.product((count, size)) for count, size in zip(counts, x.shape, strict=True))
        return [Value(x.dtype, shape)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, repeats = arrays
        assert x is not None
        return [np.tile(x, self._repeats(node, x.ndim, repeats))]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None
        counts = self._repeats(node, x.ndim, contents(args, 1))
        y = emit.output(out)
        if y.size:
            # (count, size) for each axis: the axes of counts repeat
            split = [size for pair in zip(counts, x.shape, strict=True) for size in pair]
            source = x.reshape([size for length in x.shape for size in (1, length)])
            emit.copy(y.reshape(split), np.broadcast_to(source, split))

    def adjoint(self, node: Node, back: Back) -> list:
        """Each element sums the gradients of its copies."""
        x, repeats = back.x
        if repeats.value.data is None:
            raise UnsupportedError(f"node {node.name!r}: the gradient of {self.name} needs repeats that are constant")
        rank, counts = len(x.shape), integers(repeats.value.data) or []
        # (count, size) for each axis: the axes of counts are summed
        of_counts = tuple(range(0, 2 * rank, 2))
        apart = with_axes(back, x, of_counts)
        apart = back.node("Expand", [apart, back.ints(*(size for count in counts for size in (count, 1)))])
        return [
            back.node("ReduceSum", [reshaped(back, back.dy[0], apart)], axes=of_counts) if rank else back.dy[0],
            None,
        ]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        x = required(args)
        if required(args, 1).data is None:
            return [(0, axis) for axis in range(len(x.shape or ()))]
        counts = integers(contents(args, 1)) or []
        return [(0, axis) for axis, count in enumerate(counts) if count != 1]

"""Handlers of ONNX's convolutions and pools: channels come first there; convolutions here have them last, windows lie along any axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, handler
from fastlstm.layers import Tensor


@dataclass(frozen=True)
class Window:
    """Windows along one axis; `past` elements more belong to the last window where sizes are rounded up."""

    size: int
    stride: int
    dilation: int
    pads: tuple[int, int]
    past: int = 0


def _windows(node: OnnxNode, x: Tensor, sizes: Sequence[int]) -> list[Window]:
    """Return the windows along each axis after the channels, from the attributes that convolutions and pools share."""
    axes = len(sizes)
    strides, dilations = (list(node.attribute(name) or [1] * axes) for name in ("strides", "dilations"))
    pads = [int(p) for p in node.attribute("pads") or [0] * 2 * axes]
    auto, up = node.text("auto_pad", "NOTSET"), bool(node.attribute("ceil_mode", 0))
    if auto not in ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise node.refuse("attribute auto_pad", auto)
    for name, values, count, least in (
        ("kernel_shape", sizes, axes, 1),
        ("strides", strides, axes, 1),
        ("dilations", dilations, axes, 1),
        ("pads", pads, 2 * axes, 0),
    ):
        if len(values) != count or min(values) < least:
            raise node.refuse(f"attribute {name}", list(values))
    made = []
    for k, (size, stride, dilation) in enumerate(zip(sizes, strides, dilations, strict=True)):
        span, length, past = (size - 1) * dilation, _length(x, k), 0
        before, after = pads[k], pads[axes + k]
        if auto == "VALID":
            before = after = 0
        elif auto.startswith("SAME"):
            total = span
            if stride > 1:
                length = _known(node, length, "auto_pad")
                total = max(0, (ceil(length / stride) - 1) * stride + span + 1 - length)
            before, after = total // 2, total - total // 2
            before, after = (before, after) if auto == "SAME_UPPER" else (after, before)
        elif up and stride > 1:
            length = _known(node, length, "ceil_mode")
            left = length + before + after - span - 1
            count = ceil(left / stride) + 1
            # a window that would begin past the elements, and the zeros before them, is none
            count -= (count - 1) * stride >= length + before
            past = max(0, (count - 1) * stride - left)
        made.append(Window(int(size), int(stride), int(dilation), (before, after), past))
    return made


def _length(x: Tensor, k: int) -> Any:
    """Return the size of the k-th axis after the channels, None where not even the rank is known."""
    return None if x.value.shape is None else x.value.shape[2 + k]


def _known(node: OnnxNode, size: Any, attribute: str) -> int:
    if not isinstance(size, int):
        raise node.refuse(f"attribute {attribute} over an axis of unknown size", size)
    return size


def _filters(node: OnnxNode) -> list[int]:
    """Return the sizes of W, those of its windows from the third on."""
    shape = node.input(1).value.shape
    if shape is None or not 3 <= len(shape) <= 5 or not all(isinstance(d, int) for d in shape):
        raise node.refuse("shape of W (only convolutions over up to three axes, of known sizes, are supported)", shape)
    sizes = [int(d) for d in shape]
    if list(node.attribute("kernel_shape") or sizes[2:]) != sizes[2:]:
        raise node.refuse("attribute kernel_shape", node.attribute("kernel_shape"))
    return sizes


@handler("Conv")
def _conv(node: OnnxNode):
    x, W, b = node.input(0), node.input(1), node.optional(2)
    shape = _filters(node)
    sizes = shape[2:]
    windows, groups, rank = _windows(node, x, sizes), int(node.attribute("group", 1)), len(shape)
    places = node.emit("Transpose", [x], suffix="/places", perm=(0, *range(2, rank), 1))
    kernel = node.emit("Transpose", [W], suffix="/W", perm=(*range(2, rank), 1, 0))
    if rank == 3:
        (one,) = windows
        options: dict[str, Any] = {"stride": one.stride, "dilation": one.dilation, "pads": one.pads}
    else:
        options = {
            "strides": tuple(w.stride for w in windows),
            "dilations": tuple(w.dilation for w in windows),
            "pads": tuple(w.pads[side] for side in (0, 1) for w in windows),
        }
    y = node.emit(f"Conv{rank - 2}D", [places, kernel, b], **options, groups=groups)
    return node.emit("Transpose", [y], suffix="/channels", perm=(0, rank - 1, *range(1, rank - 1)))


@handler("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: OnnxNode):
    op = "ReduceMean" if node.op_type == "GlobalAveragePool" else "ReduceMax"
    return node.emit(op, [node.input(0)], axes=tuple(range(2, node.rank(0))), keepdims=True)


@handler("MaxPool", "AveragePool")
def _pool(node: OnnxNode):
    """Windows are reduced along one axis after the other."""
    by_columns = bool(node.attribute("storage_order", 0))
    x, averages = node.input(0), node.op_type == "AveragePool"
    sizes = [int(size) for size in node.attribute("kernel_shape") or ()]
    if not sizes or node.rank(0) != len(sizes) + 2:
        raise node.refuse("attribute kernel_shape", sizes)
    windows = _windows(node, x, sizes)
    if node.wants(1):
        return _largest_and_places(node, x, windows, by_columns)
    if averages and node.attribute("count_include_pad", 0):
        pads = [0, 0, *(w.pads[0] for w in windows), 0, 0, *(w.pads[1] for w in windows)]
        x = node.emit("Pad", [x, node.ints("pads", pads)], suffix="/padded") if any(pads) else x
        windows = [Window(w.size, w.stride, w.dilation, (0, 0), w.past) for w in windows]
    for axis, window in enumerate(windows, 2):
        x = _averaged(node, x, axis, window) if averages else _largest(node, x, axis, window)
    return x


def _cut(node: OnnxNode, x: Tensor, axis: int, window: Window, fill: str) -> Tensor:
    """Add the windows of x along an axis, whose elements lie along the axis after it."""
    pads = (window.pads[0], window.pads[1] + window.past)
    options = {"size": window.size, "stride": window.stride, "dilation": window.dilation, "pads": pads, "fill": fill}
    return node.emit("Windows", [x], suffix="/windows", axis=axis, **options)


def _largest(node: OnnxNode, x: Tensor, axis: int, window: Window) -> Tensor:
    return node.emit("ReduceMax", [_cut(node, x, axis, window, "lowest")], axes=(axis + 1,))


def _largest_and_places(node: OnnxNode, x: Tensor, windows: Sequence[Window], by_columns: bool) -> list[Tensor]:
    """Return the largest elements of windows, and where they stand in x laid out as one row; of equal ones the first in order of rows.

    So the last axis is reduced first. With `by_columns` the axes of the windows are laid out the other way round.
    """
    largest, places = x, {}
    for axis, window in reversed(list(enumerate(windows, 2))):
        which = node.emit("ArgMax", [_cut(node, largest, axis, window, "lowest")], suffix="/which", axis=axis + 1)
        parts = {other: _cut(node, place, axis, window, "zero") for other, place in places.items()}
        chosen = {
            other: node.emit("GatherElements", [part, which], suffix="/chosen", axis=axis + 1)
            for other, part in parts.items()
        }
        within = node.emit("Mul", [which, node.ints("dilation", [window.dilation])], suffix="/within")
        start = node.emit("Mul", [_numbers(node, which, axis), node.ints("stride", [window.stride])], suffix="/start")
        start = node.emit("Sub", [start, node.ints("before", [window.pads[0]])], suffix="/start")
        chosen[axis] = node.emit("Add", [start, within], suffix="/place")
        beside = node.ints("axes", [axis + 1])
        places = {other: node.emit("Squeeze", [place, beside], suffix="/place") for other, place in chosen.items()}
        largest = _largest(node, largest, axis, window)
    flat = _numbers(node, places[2], 0)
    places[1] = _numbers(node, places[2], 1)
    for axis in (1, *sorted(set(places) - {1}, reverse=by_columns)):
        size = node.emit("Shape", [x], suffix="/size", start=axis, end=axis + 1)
        flat = node.emit("Add", [node.emit("Mul", [flat, size], suffix="/flat"), places[axis]], suffix="/flat")
    return [largest, flat]


def _numbers(node: OnnxNode, like: Tensor, axis: int) -> Tensor:
    """Return the number of each element along an axis, in the shape of a value."""
    ones = node.cast(node.emit("Equal", [like, like], suffix="/same"), "int64")
    along = node.build.weight(f"{node.name}.axis", np.array(axis))
    return node.emit("CumSum", [ones, along], suffix="/number", exclusive=True)


def _averaged(node: OnnxNode, x: Tensor, axis: int, window: Window) -> Tensor:
    """Add the means of what lies in windows, of what padding did not add."""
    parts = _cut(node, x, axis, window, "zero")
    if window.pads == (0, 0) and not window.past:
        return node.emit("ReduceMean", [parts], axes=(axis + 1,))
    nan = node.emit("NotEqual", [x, x], suffix="/nan")  # the shape of x, no value of it
    whole = node.emit("Or", [nan, node.build.weight(f"{node.name}.true", np.array(True))], suffix="/valid")
    ones = node.emit("Cast", [whole], suffix="/ones", to=x.value.dtype.name)
    sums = [
        node.emit("ReduceSum", [part], suffix="/sum", axes=(axis + 1,))
        for part in (parts, _cut(node, ones, axis, window, "zero"))
    ]
    return node.emit("Div", sums)


# ---- transposed convolutions ------------------------------------------------------------------------
@dataclass(frozen=True)
class Spread:
    """What one axis of a transposed convolution adds up: windows of `size`, cut by `pads`, with `past` zeros after them."""

    size: int
    stride: int
    dilation: int
    pads: tuple[int, int]
    past: int

    def whole(self, count: int) -> int:
        """Return how many elements the sums of so many windows have."""
        return (count - 1) * self.stride + (self.size - 1) * self.dilation + 1 - sum(self.pads)


@handler("ConvTranspose")
def _conv_transpose(node: OnnxNode):
    """A product with all taps, whose windows are added up where they lie, along one axis after the other."""
    x, W, b = node.input(0), node.input(1), node.optional(2)
    shape = _filters(node)
    sizes = shape[2:]
    axes, groups = len(sizes), int(node.attribute("group", 1))
    if node.rank(0) != axes + 2 or groups < 1 or int(shape[0]) % groups:
        raise node.refuse("attribute group", groups)
    spreads = _spreads(node, x, sizes)
    places = node.emit("Transpose", [x], suffix="/places", perm=(0, *range(2, axes + 2), 1))
    kernel = node.emit("Transpose", [W], suffix="/W", perm=(0, *range(2, axes + 2), 1))
    parts = [_spread_out(node, places, kernel, spreads, g, groups) for g in range(groups)]
    y = parts[0] if groups == 1 else node.emit("Concat", parts, suffix="/groups", axis=-1)
    if b is not None:
        y = node.emit("Add", [y, b], suffix="/bias")
    return node.emit("Transpose", [y], perm=(0, axes + 1, *range(1, axes + 1)))


def _spreads(node: OnnxNode, x: Tensor, sizes: Sequence[int]) -> list[Spread]:
    axes = len(sizes)
    strides, dilations = (list(node.attribute(name) or [1] * axes) for name in ("strides", "dilations"))
    more = [int(p) for p in node.attribute("output_padding") or [0] * axes]
    pads = [int(p) for p in node.attribute("pads") or [0] * 2 * axes]
    wanted, auto = list(node.attribute("output_shape") or ()), node.text("auto_pad", "NOTSET")
    lists = (strides, dilations, more, pads[:axes], pads[axes:])
    if any(len(values) != axes for values in lists) or min(strides + dilations) < 1 or min(more + pads) < 0:
        raise node.refuse("attributes strides, dilations, output_padding and pads", lists)
    if auto not in ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise node.refuse("attribute auto_pad", auto)
    made = []
    for k, (size, stride, dilation) in enumerate(zip(sizes, strides, dilations, strict=True)):
        before, after, past = pads[k], pads[axes + k], more[k]
        if wanted or auto.startswith("SAME"):
            length = _known(node, _length(x, k), "output_shape" if wanted else "auto_pad")
            target = int(wanted[-axes:][k]) if wanted else length * stride
            total = (length - 1) * stride + past + (size - 1) * dilation + 1 - target
            less = max(total, 0) // 2
            before, after = (less, max(total, 0) - less) if auto == "SAME_UPPER" else (max(total, 0) - less, less)
            past += max(-total, 0)
        elif auto == "VALID":
            before = after = 0
        # what is added after the sums first takes back what was cut off there
        back = min(after, past)
        made.append(Spread(int(size), int(stride), int(dilation), (before, after - back), past - back))
    return made


def _spread_out(node: OnnxNode, x: Tensor, W: Tensor, spreads: Sequence[Spread], group: int, groups: int) -> Tensor:
    """Return the sums of one group: x (B, s1 ... sn, C), W (C, k1 ... kn, F)."""
    axes, (C, *_, F) = len(spreads), W.shape
    c = int(C) // groups  # type: ignore[arg-type]
    for role, axis in (("x", -1), ("W", 0)) if groups > 1 else ():
        bounds = [node.ints("bound", [v]) for v in (group * c, (group + 1) * c, axis)]
        cut = node.emit("Slice", [x if role == "x" else W, *bounds], suffix=f"/{role}.{group}")
        x, W = (cut, W) if role == "x" else (x, cut)
    taps = prod(spread.size for spread in spreads) * int(F)  # type: ignore[arg-type]
    matrix = node.emit("Reshape", [W, node.ints("shape", [c, taps])], suffix="/taps")
    y = node.emit("MatMul", [x, matrix], suffix="/windows")
    rows = node.emit("Shape", [x], suffix="/shape", end=axes + 1)
    rest = node.ints("shape", [*(spread.size for spread in spreads), int(F)])  # type: ignore[arg-type]
    y = node.emit("Reshape", [y, node.emit("Concat", [rows, rest], suffix="/shape", axis=0)], suffix="/windows")
    # (B, s1, k1, s2, k2 ..., F)
    order = [one for k in range(1, axes + 1) for one in (k, axes + k)]
    y = node.emit("Transpose", [y], suffix="/windows", perm=(0, *order, 2 * axes + 1))
    for axis, spread in enumerate(spreads, 1):
        options = {"axis": axis, "stride": spread.stride, "dilation": spread.dilation, "pads": spread.pads}
        y = node.emit("OverlapAdd", [y, _like(node, x, y, axis, spread)], suffix="/sums", **options)
        if spread.past:
            pads = [node.ints("pads", [0, spread.past]), None, node.ints("axes", [axis])]
            y = node.emit("Pad", [y, *pads], suffix="/past")
    return y


def _like(node: OnnxNode, x: Tensor, y: Tensor, axis: int, spread: Spread) -> Tensor:
    """Return a value of the shape of the sums of y (..., windows, size, ...) along an axis."""
    first = node.emit("Gather", [y, node.build.weight(f"{node.name}.0", np.array(0))], suffix="/one", axis=axis + 1)
    count = x.shape[axis]
    if isinstance(count, int):
        pads: Tensor = node.ints("pads", [0, spread.whole(count) - count])
    else:
        # whole - count = (stride - 1) count + what depends on no size
        size = node.emit("Shape", [x], suffix="/count", start=axis, end=axis + 1)
        scaled = node.emit("Mul", [size, node.ints("stride", [spread.stride - 1])], suffix="/count")
        more = node.emit("Add", [scaled, node.ints("rest", [spread.whole(0)])], suffix="/count")
        pads = node.emit("Concat", [node.ints("none", [0]), more], suffix="/pads", axis=0)
    return node.emit("Pad", [first, pads, None, node.ints("axes", [axis])], suffix="/like")

"""Pooling over time or over images, of everything or of windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.convolution import channels_last, check_rank, sizes_of, with_pads
from fastlstm.layers.layer import Layer

FILLS = {0.0: "zero", -np.inf: "lowest"}  # as Windows names what stands around steps


class GlobalPooling(Layer):
    """What the global poolings share: (B, T, ..., C) to (B, C), or (B, 1, ..., C) with `keepdims`."""

    axes = 1

    def __init__(self, data_format: str | None = None, keepdims: bool = False, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        channels_last(self, data_format)
        self.keepdims = keepdims

    def call(self, x: Tensor) -> Tensor:
        check_rank(self, x, self.axes)
        return self.pooled(x, {"axes": tuple(range(1, 1 + self.axes)), "keepdims": self.keepdims})

    def pooled(self, x: Tensor, over: dict[str, Any]) -> Tensor:
        """Add the nodes of a reduction of x over what `over` says."""
        raise NotImplementedError


class GlobalAveragePooling1D(GlobalPooling):
    """The mean over time, of the valid steps where there is a mask."""

    def pooled(self, x: Tensor, over: dict[str, Any]) -> Tensor:
        build, name = x.build, self.name
        if x.mask is None:
            return build.node(name, "ReduceMean", [x], **over)
        valid = build.node(f"{name}/valid", "Cast", [x.mask], to=x.value.dtype.name)
        column = build.node(f"{name}/column", "Unsqueeze", [valid, build.ints(f"{name}.axes", 2)])
        kept = build.node(f"{name}/kept", "Mul", [x, column])
        sums, counts = (
            build.node(f"{name}/{role}", "ReduceSum", [values], **over)
            for role, values in (("sum", kept), ("count", column))
        )
        return build.node(name, "Div", [sums, counts])


class GlobalAveragePooling2D(GlobalPooling):
    """The mean over an image."""

    axes = 2

    def pooled(self, x: Tensor, over: dict[str, Any]) -> Tensor:
        return x.build.node(self.name, "ReduceMean", [x], **over)


class GlobalMaxPooling1D(GlobalPooling):
    """The largest of each feature over time; masks are not asked."""

    def pooled(self, x: Tensor, over: dict[str, Any]) -> Tensor:
        return x.build.node(self.name, "ReduceMax", [x], **over)


class GlobalMaxPooling2D(GlobalMaxPooling1D):
    """The largest of each channel over an image."""

    axes = 2


class Pooling(Layer):
    """What poolings of windows share: windows of `pool_size`, `strides` apart; padding "valid" or "same".

    Windows over an image are reduced along its height, then along its width.
    """

    axes = 1
    fill = 0.0  # what stands before and after the steps, and changes no reduction

    def __init__(
        self,
        pool_size: int | Sequence[int] = 2,
        strides: int | Sequence[int] | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        channels_last(self, data_format)
        self.sizes = sizes_of(self, "pool_size", pool_size, self.axes)
        self.strides = self.sizes if strides is None else sizes_of(self, "strides", strides, self.axes)
        if padding not in ("valid", "same"):
            raise self.fault(UnsupportedError, f"padding={padding!r} is not supported, only 'valid' and 'same'")
        self.padding = padding

    def call(self, x: Tensor) -> Tensor:
        check_rank(self, x, self.axes)
        x.build.steps_matter |= self.padding == "same" and max(self.strides) > 1
        y = x
        for axis, (size, stride) in enumerate(zip(self.sizes, self.strides, strict=True), 1):
            name = self.name if axis == self.axes else f"{self.name}/rows"
            y = self.along(y, axis, size, stride, name)
        return y

    def along(self, x: Tensor, axis: int, size: int, stride: int, name: str) -> Tensor:
        """Add the reduction of windows of `size` along an axis."""
        raise NotImplementedError

    def windows(self, x: Tensor, axis: int, size: int, stride: int, name: str) -> tuple[Tensor, bool]:
        """Add the windows (..., steps, size, ...) of x along an axis; tell whether they may reach past its ends."""
        padded, pads = with_pads(f"{name}/padded", x, axis, self.padding, size, stride, fill=self.fill)
        window = {"size": size, "stride": stride, "pads": pads, "axis": axis, "fill": FILLS[self.fill]}
        return x.build.node(name, "Windows", [padded], **window), padded is not x or any(pads)


class MaxPooling(Pooling):
    """What MaxPooling1D and MaxPooling2D share: the largest of each window."""

    fill = -np.inf

    def along(self, x: Tensor, axis: int, size: int, stride: int, name: str) -> Tensor:
        build, inside = x.build, axis + 1
        windows, _ = self.windows(x, axis, size, stride, f"{name}/windows")
        if not build.penalised or size == 1:
            return build.node(name, "ReduceMax", [windows], axes=(inside,))
        # in training: of equal elements the first has the gradient, as Max gives it; ReduceMax would share it
        ones, axes = build.ints(f"{name}.sizes", *[1] * size), build.ints(f"{name}.axes", inside)
        parts = build.node(f"{name}/parts", "Split", [windows, ones], size, axis=inside)
        return build.node(name, "Max", [build.node(f"{name}/part", "Squeeze", [part, axes]) for part in parts])


class MaxPooling1D(MaxPooling):
    """The largest of each window of steps."""


class MaxPooling2D(MaxPooling):
    """The largest of each window of an image."""

    axes = 2


class AveragePooling(Pooling):
    """What AveragePooling1D and AveragePooling2D share: the mean of each window, of what padding did not add."""

    def along(self, x: Tensor, axis: int, size: int, stride: int, name: str) -> Tensor:
        build, over = x.build, (axis + 1,)
        windows, reach_past = self.windows(x, axis, size, stride, f"{name}/windows")
        if not reach_past:
            return build.node(name, "ReduceMean", [windows], axes=over)
        always = build.node(f"{name}/same", "NotEqual", [x, x])  # what only NaN is: the shape of x, no value of it
        always = build.node(f"{name}/valid", "Or", [always, build.weight(f"{name}.true", np.array(True))])
        ones = build.node(f"{name}/ones", "Cast", [always], to=x.value.dtype.name)
        counted, _ = self.windows(ones, axis, size, stride, f"{name}/counted")
        total, count = (build.node(f"{name}/sum", "ReduceSum", [part], axes=over) for part in (windows, counted))
        return build.node(name, "Div", [total, count])


class AveragePooling1D(AveragePooling):
    """The mean of each window of steps."""


class AveragePooling2D(AveragePooling):
    """The mean of each window of an image."""

    axes = 2

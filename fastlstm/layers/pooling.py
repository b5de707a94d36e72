"""Pooling over time, of everything or of windows."""

from typing import Any

import numpy as np

from fastlstm.errors import ShapeError, UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.convolution import window_pads
from fastlstm.layers.layer import Layer, size_of


class GlobalPooling(Layer):
    """What the global poolings share: (B, T, C) to (B, C), or (B, 1, C) with `keepdims`."""

    def __init__(self, data_format: str | None = None, keepdims: bool = False, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        _channels_last(self, data_format)
        self.keepdims = keepdims

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) != 3:
            raise self.fault(ShapeError, f"takes inputs (batch, steps, features), got shape {x.shape}")
        return self.pooled(x)

    def pooled(self, x: Tensor) -> Tensor:
        """Add the nodes."""
        raise NotImplementedError


class GlobalAveragePooling1D(GlobalPooling):
    """The mean over time, of the valid steps where there is a mask."""

    def pooled(self, x: Tensor) -> Tensor:
        build, name = x.build, self.name
        if x.mask is None:
            return build.node(name, "ReduceMean", [x], axes=(1,), keepdims=self.keepdims)
        valid = build.node(f"{name}/valid", "Cast", [x.mask], to=x.value.dtype.name)
        column = build.node(f"{name}/column", "Unsqueeze", [valid, build.ints(f"{name}.axes", 2)])
        kept = build.node(f"{name}/kept", "Mul", [x, column])
        sums, counts = (
            build.node(f"{name}/{role}", "ReduceSum", [values], axes=(1,), keepdims=self.keepdims)
            for role, values in (("sum", kept), ("count", column))
        )
        return build.node(name, "Div", [sums, counts])


class GlobalMaxPooling1D(GlobalPooling):
    """The largest of each feature over time; masks are not asked."""

    def pooled(self, x: Tensor) -> Tensor:
        return x.build.node(self.name, "ReduceMax", [x], axes=(1,), keepdims=self.keepdims)


class Pooling1D(Layer):
    """What MaxPooling1D and AveragePooling1D share: windows of `pool_size` steps, `strides` apart; padding "valid" or "same"."""

    fill = "zero"

    def __init__(
        self,
        pool_size: int | tuple[int, ...] = 2,
        strides: int | tuple[int, ...] | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        _channels_last(self, data_format)
        size, stride = (v[0] if isinstance(v, tuple | list) else v for v in (pool_size, strides))
        self.pool_size = size_of(self, "pool_size", size)
        self.stride = self.pool_size if stride is None else size_of(self, "strides", stride)
        if padding not in ("valid", "same"):
            raise self.fault(UnsupportedError, f"padding={padding!r} is not supported, only 'valid' and 'same'")
        self.padding = padding

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) != 3:
            raise self.fault(ShapeError, f"takes inputs (batch, steps, features), got shape {x.shape}")
        x.build.steps_matter |= self.padding == "same" and self.stride > 1
        pads = window_pads(self, self.padding, x.shape[1], self.pool_size, self.stride)
        options = {"size": self.pool_size, "stride": self.stride, "pads": pads, "fill": self.fill}
        return self.reduced(x, x.build.node(f"{self.name}/windows", "Windows", [x], **options), pads)

    def reduced(self, x: Tensor, windows: Tensor, pads: tuple[int, int]) -> Tensor:
        """Add what is left of windows (B, steps, size, C) of x."""
        raise NotImplementedError


class MaxPooling1D(Pooling1D):
    """The largest of each window."""

    fill = "lowest"

    def reduced(self, x: Tensor, windows: Tensor, pads: tuple[int, int]) -> Tensor:
        if self.pool_size == 1:
            return x.build.node(self.name, "ReduceMax", [windows], axes=(2,))
        # of equal steps the first has the gradient, as Max gives it; ReduceMax would share it
        build, ones = x.build, x.build.ints(f"{self.name}.sizes", *[1] * self.pool_size)
        parts = build.node(f"{self.name}/steps", "Split", [windows, ones], self.pool_size, axis=2)
        axes = build.ints(f"{self.name}.axes", 2)
        return build.node(
            self.name, "Max", [build.node(f"{self.name}/step", "Squeeze", [part, axes]) for part in parts]
        )


class AveragePooling1D(Pooling1D):
    """The mean of each window, of the steps that padding did not add."""

    def reduced(self, x: Tensor, windows: Tensor, pads: tuple[int, int]) -> Tensor:
        if pads == (0, 0):
            return x.build.node(self.name, "ReduceMean", [windows], axes=(2,))
        steps = x.shape[1]
        if not isinstance(steps, int):
            raise self.fault(UnsupportedError, "padding='same' needs a known number of steps")
        x.build.steps_matter = True
        starts = np.arange(0, sum(pads) + steps - self.pool_size + 1, self.stride) - pads[0]
        counts = np.minimum(starts + self.pool_size, steps) - np.maximum(starts, 0)
        count = x.build.weight(f"{self.name}.counts", counts[:, None].astype(x.value.dtype))
        total = x.build.node(f"{self.name}/sum", "ReduceSum", [windows], axes=(2,))
        return x.build.node(self.name, "Div", [total, count])


def _channels_last(layer: Layer, data_format: str | None) -> None:
    if data_format not in (None, "channels_last"):
        raise layer.fault(UnsupportedError, f"data_format={data_format!r} is not supported, only 'channels_last'")

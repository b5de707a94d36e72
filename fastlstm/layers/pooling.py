"""Pooling over time, of everything or of windows that do not overlap."""

from typing import Any

from fastlstm.errors import ShapeError, UnsupportedError
from fastlstm.layers.build import Tensor
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
    """What MaxPooling1D and AveragePooling1D share: windows side by side, what is left over dropped or (padding="same") a last, shorter one."""

    op = ""

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
        if stride not in (None, self.pool_size) or padding not in ("valid", "same"):
            raise self.fault(
                UnsupportedError,
                f"strides={strides!r}, padding={padding!r} with pool_size={pool_size!r} is not supported",
            )
        self.padding = padding

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) != 3:
            raise self.fault(ShapeError, f"takes inputs (batch, steps, features), got shape {x.shape}")
        build, name, size = x.build, self.name, self.pool_size
        steps, features = x.shape[1:]
        if not isinstance(steps, int) or not isinstance(features, int):
            raise self.fault(UnsupportedError, f"needs a known number of steps, got shape {x.shape}")
        build.steps_matter = True
        whole = steps // size
        parts = []
        if whole:
            window = self._part(x, 0, whole * size)
            window = build.node(
                f"{name}/windows", "Reshape", [window, build.ints(f"{name}.shape", 0, whole, size, features)]
            )
            parts.append(build.node(name, self.op, [window], axes=(2,)))
        if self.padding == "same" and steps % size:
            parts.append(build.node(name, self.op, [self._part(x, whole * size, steps)], axes=(1,), keepdims=True))
        if not parts:
            raise self.fault(ShapeError, f"pools {size} steps at once, its input has {steps}")
        return parts[0] if len(parts) == 1 else build.node(name, "Concat", parts, axis=1)

    def _part(self, x: Tensor, start: int, stop: int) -> Tensor:
        if (start, stop) == (0, x.shape[1]):
            return x
        bounds = [x.build.ints(f"{self.name}.slice", v) for v in (start, stop, 1)]
        return x.build.node(f"{self.name}/slice", "Slice", [x, *bounds])


class MaxPooling1D(Pooling1D):
    """The largest of each window."""

    op = "ReduceMax"


class AveragePooling1D(Pooling1D):
    """The mean of each window."""

    op = "ReduceMean"


def _channels_last(layer: Layer, data_format: str | None) -> None:
    if data_format not in (None, "channels_last"):
        raise layer.fault(UnsupportedError, f"data_format={data_format!r} is not supported, only 'channels_last'")

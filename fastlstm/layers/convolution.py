"""Convolutions over time and over images: plain, depthwise and separable."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.errors import InputError, ShapeError, UnsupportedError
from fastlstm.layers.activations import activate, is_apart
from fastlstm.layers.build import Tensor
from fastlstm.layers.core import _activation
from fastlstm.layers.layer import Layer, size_of

Pads = list[tuple[int, int]]  # before and after, axis by axis


class Convolution(Layer):
    """What convolutions share: activation(cross-correlation + bias), kernel (K, ..., C / groups, filters), input (B, T, ..., C)."""

    initial = {"kernel": "glorot_uniform", "bias": "zeros"}
    axes = 1
    paddings: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        self.use_bias, self.padding = use_bias, padding
        channels_last(self, data_format)
        sizes = {"kernel_size": kernel_size, "strides": strides, "dilation_rate": dilation_rate}
        self.sizes, self.strides, self.dilations = (
            sizes_of(self, argument, value, self.axes) for argument, value in sizes.items()
        )
        self.activation = _activation(activation, self.name)
        if padding not in self.paddings:
            known = f"{', '.join(map(repr, self.paddings[:-1]))} and {self.paddings[-1]!r}"
            raise UnsupportedError(f"layer {self.name!r}: padding {padding!r} is not supported, only {known}")

    @property
    def input_kind(self) -> str:  # type: ignore[override]
        return "sequences" if self.axes == 1 else "features"

    @property
    def roles(self) -> tuple[str, ...]:
        return ("kernel", "bias") if self.use_bias else ("kernel",)

    def padded(self, x: Tensor) -> tuple[Tensor, Pads]:
        """Return x and the zeros that stand before and after it, axis by axis. Raise ShapeError for an input of another rank."""
        check_rank(self, x, self.axes)
        x.build.steps_matter |= self.padding == "same" and max(self.strides) > 1
        pads = []
        for axis, window in enumerate(zip(self.sizes, self.strides, self.dilations, strict=True), 1):
            x, around = with_pads(f"{self.name}/padded", x, axis, self.padding, *window)
            pads.append(around)
        return x, pads

    def convolved(
        self,
        x: Tensor,
        pads: Pads,
        W: Tensor,
        b: Tensor | None,
        groups: int = 1,
        activation: tuple[str, float, float] | None = None,
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        name: str | None = None,
    ) -> Tensor:
        """Add a convolution of x, by default with the layer's activation, strides and dilations."""
        kind = self.activation if activation is None else activation
        strides, dilations = tuple(strides or self.strides), tuple(dilations or self.dilations)
        fused = {} if is_apart(kind) else dict(zip(("activation", "alpha", "beta"), kind, strict=True))
        name = name or self.name
        if self.axes == 1:
            window: dict[str, Any] = {"stride": strides[0], "dilation": dilations[0], "pads": pads[0]}
            y = x.build.node(name, "Conv1D", [x, W, b], **window, groups=groups, **fused)
        else:
            both = tuple(side for part in zip(*pads, strict=True) for side in part)
            window = {"strides": strides, "dilations": dilations, "pads": both}
            y = x.build.node(name, f"Conv{self.axes}D", [x, W, b], **window, groups=groups, **fused)
        return activate(y, f"{name}/{kind[0].lower()}", kind) if is_apart(kind) else y


class Conv(Convolution):
    """What Conv1D and Conv2D share: kernel (K, ..., C / groups, filters)."""

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, name, **options
        )
        self.filters, self.groups = size_of(self, "filters", filters), groups

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        channels = x[-1] if x else None
        inputs = channels // self.groups if isinstance(channels, int) else channels
        return {"kernel": (*self.sizes, inputs, self.filters), "bias": (self.filters,)}

    def call(self, x: Tensor) -> Tensor:
        W, b = self.add_weight(x.build, "W", "kernel"), self.add_weight(x.build, "b", "bias")
        assert W is not None
        return self.convolved(*self.padded(x), W, b, self.groups)


class Conv1D(Conv):
    """A convolution over time: kernel (K, C / groups, filters), input (B, T, C)."""

    paddings = ("valid", "same", "causal")


class Conv2D(Conv):
    """A convolution over images: kernel (K, L, C / groups, filters), input (B, H, W, C)."""

    axes = 2


class DepthwiseConv(Convolution):
    """What DepthwiseConv1D and DepthwiseConv2D share: each channel by itself; kernel (K, ..., C, multiplier), outputs C * multiplier."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        name: str | None = None,
        depthwise_initializer: Any = "glorot_uniform",
        depthwise_regularizer: Any = None,
        **options: Any,
    ):
        options |= {"kernel_initializer": depthwise_initializer, "kernel_regularizer": depthwise_regularizer}
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, name, **options
        )
        self.depth_multiplier = size_of(self, "depth_multiplier", depth_multiplier)

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        channels = x[-1] if x else None
        outputs = channels * self.depth_multiplier if isinstance(channels, int) else None
        return {"kernel": (*self.sizes, channels, self.depth_multiplier), "bias": (outputs,)}

    def call(self, x: Tensor) -> Tensor:
        W, b = self.add_weight(x.build, "kernel", "kernel"), self.add_weight(x.build, "b", "bias")
        assert W is not None
        return self.convolved(*self.padded(x), by_channel(self, W), b, groups_of(self, x))


class DepthwiseConv1D(DepthwiseConv):
    """A convolution over time of each channel by itself: kernel (K, C, multiplier)."""


class DepthwiseConv2D(DepthwiseConv):
    """A convolution over images of each channel by itself: kernel (K, L, C, multiplier)."""

    axes = 2


class SeparableConv(Convolution):
    """What SeparableConv1D and SeparableConv2D share: each channel by itself, then the channels of each place together.

    depthwise_kernel (K, ..., C, multiplier), pointwise_kernel (1, ..., C * multiplier, filters).
    """

    initial = {"depthwise_kernel": "glorot_uniform", "pointwise_kernel": "glorot_uniform", "bias": "zeros"}

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        for part in ("depthwise", "pointwise"):
            for end in ("initializer", "regularizer", "constraint"):
                if f"{part}_{end}" in options:
                    options[f"{part}_kernel_{end}"] = options.pop(f"{part}_{end}")
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, name, **options
        )
        self.filters = size_of(self, "filters", filters)
        self.depth_multiplier = size_of(self, "depth_multiplier", depth_multiplier)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("depthwise_kernel", "pointwise_kernel", *(("bias",) if self.use_bias else ()))

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        channels = x[-1] if x else None
        inner = channels * self.depth_multiplier if isinstance(channels, int) else None
        return {
            "depthwise_kernel": (*self.sizes, channels, self.depth_multiplier),
            "pointwise_kernel": (*(1 for _ in self.sizes), inner, self.filters),
            "bias": (self.filters,),
        }

    def call(self, x: Tensor) -> Tensor:
        build, one = x.build, (1,) * self.axes
        depthwise, pointwise = (self.add_weight(build, role, role) for role in self.roles[:2])
        assert depthwise is not None and pointwise is not None
        inner = self.convolved(
            *self.padded(x), by_channel(self, depthwise), None, groups_of(self, x), PLAIN, name=f"{self.name}/depthwise"
        )
        b = self.add_weight(build, "b", "bias")
        return self.convolved(inner, [(0, 0)] * self.axes, pointwise, b, strides=one, dilations=one)


class SeparableConv1D(SeparableConv):
    """A separable convolution over time."""

    paddings = ("valid", "same", "causal")


class SeparableConv2D(SeparableConv):
    """A separable convolution over images."""

    axes = 2


PLAIN = ("Identity", 0.0, 0.0)


def by_channel(layer: Convolution, kernel: Tensor) -> Tensor:
    """Return a kernel (K, ..., C, multiplier) as (K, ..., 1, C * multiplier): that of as many groups as channels."""
    shape = kernel.build.ints(f"{layer.name}.shape", *layer.sizes, 1, -1)
    return kernel.build.node(f"{layer.name}/filters", "Reshape", [kernel, shape])


def groups_of(layer: Convolution, x: Tensor) -> int:
    """Return the number of channels. Raise ShapeError where it is not known."""
    channels = x.shape[-1]
    if not isinstance(channels, int):
        raise layer.fault(ShapeError, f"takes a known number of channels, got shape {x.shape}")
    return channels


def with_pads(
    name: str, x: Tensor, axis: int, padding: str, size: int, stride: int, dilation: int = 1, fill: float = 0.0
) -> tuple[Tensor, tuple[int, int]]:
    """Return x and how many steps are added before and after for windows of `size` along an axis, as TensorFlow pads.

    Where that depends on a number of steps that only the run knows, x comes with them, filled with `fill`.
    """
    span, steps = (size - 1) * dilation, x.shape[axis]
    if padding == "valid":
        return x, (0, 0)
    if padding == "causal":
        return x, (span, 0)
    if stride == 1:
        return x, (span // 2, span - span // 2)
    if isinstance(steps, int):
        total = max(0, (-(-steps // stride) - 1) * stride + span + 1 - steps)
        return x, (total // 2, total - total // 2)
    build = x.build
    number = lambda value: build.ints(f"{name}.number", value)
    two = lambda op, a, b: build.node(f"{name}/{op.lower()}", op, [a, b])
    count = build.node(f"{name}/steps", "Shape", [x], start=axis, end=axis + 1)
    # the steps that windows reach: of the last of ceil(steps / stride) windows the last; none where there is no step
    windows = two("Div", two("Add", count, number(stride - 1)), number(stride))
    reached = two("Add", two("Mul", two("Sub", windows, number(1)), number(stride)), number(span + 1))
    total = two("Mul", two("Max", two("Sub", reached, count), number(0)), two("Min", count, number(1)))
    before = two("Div", total, number(2))
    pads = build.node(f"{name}/pads", "Concat", [before, two("Sub", total, before)], axis=0)
    value = build.weight(f"{name}.fill", np.array(fill, x.value.dtype))
    return build.node(name, "Pad", [x, pads, value, build.ints(f"{name}.axis", axis)]), (0, 0)


def check_rank(layer: Layer, x: Tensor, axes: int) -> None:
    """Raise ShapeError unless x has as many axes as (batch, steps, features) or (batch, height, width, channels)."""
    if len(x.shape) != axes + 2:
        names = {1: "steps, features", 2: "height, width, channels", 3: "depth, height, width, channels"}
        wanted = f"(batch, {names[axes]})"
        raise layer.fault(ShapeError, f"takes inputs {wanted}, got shape {x.shape}")


def channels_last(layer: Layer, data_format: str | None) -> None:
    """Raise UnsupportedError unless channels come last."""
    if data_format not in (None, "channels_last"):
        raise layer.fault(UnsupportedError, f"data_format={data_format!r} is not supported, only 'channels_last'")


def sizes_of(layer: Layer, argument: str, value: Any, axes: int) -> tuple[int, ...]:
    """Return one size for each axis: a number stands for all. Raise InputError unless they are whole numbers of at least 1."""
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value] * axes
    if len(values) != axes:
        raise layer.fault(InputError, f"{argument}={value!r}: expected {axes} whole number{'s' if axes > 1 else ''}")
    return tuple(size_of(layer, argument, one) for one in values)

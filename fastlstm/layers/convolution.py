"""Convolution over time."""

from typing import Any

from fastlstm.errors import UnsupportedError
from fastlstm.layers.activations import SOFTMAX, activate
from fastlstm.layers.build import Tensor
from fastlstm.layers.core import _activation
from fastlstm.layers.layer import Layer, size_of


class Conv1D(Layer):
    """activation(cross-correlation over time + bias): kernel (K, C / groups, filters), input (B, T, C)."""

    initial = {"kernel": "glorot_uniform", "bias": "zeros"}
    input_kind = "sequences"

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, ...] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        self.filters, self.groups, self.use_bias = size_of(self, "filters", filters), groups, use_bias
        self.padding = padding
        if data_format not in (None, "channels_last"):
            raise UnsupportedError(
                f"layer {self.name!r}: data_format {data_format!r} is not supported, only 'channels_last'"
            )
        self.kernel_size, self.stride, self.dilation = (_one(v) for v in (kernel_size, strides, dilation_rate))
        self.activation = _activation(activation, self.name)
        if padding not in ("valid", "same", "causal"):
            raise UnsupportedError(
                f"layer {self.name!r}: padding {padding!r} is not supported, only 'valid', 'same' and 'causal'"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        return ("kernel", "bias") if self.use_bias else ("kernel",)

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        channels = x[-1] if x else None
        inputs = channels // self.groups if isinstance(channels, int) else channels
        return {"kernel": (self.kernel_size, inputs, self.filters), "bias": (self.filters,)}

    def call(self, x: Tensor) -> Tensor:
        x.build.steps_matter |= self.padding == "same" and self.stride > 1
        W, b = self.add_weight(x.build, "W", "kernel"), self.add_weight(x.build, "b", "bias")
        attributes = {
            "stride": self.stride,
            "dilation": self.dilation,
            "groups": self.groups,
            "pads": window_pads(self, self.padding, x.shape[1], self.kernel_size, self.stride, self.dilation),
        }
        op, alpha, beta = self.activation
        if self.activation == SOFTMAX:
            return activate(x.build.node(self.name, "Conv1D", [x, W, b], **attributes), f"{self.name}/softmax", SOFTMAX)
        return x.build.node(self.name, "Conv1D", [x, W, b], **attributes, activation=op, alpha=alpha, beta=beta)


def window_pads(
    layer: Layer, padding: str, steps: object, size: int, stride: int, dilation: int = 1
) -> tuple[int, int]:
    """Return how many steps are added before and after for windows of `size`, as TensorFlow pads."""
    span = (size - 1) * dilation
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return span, 0
    if stride == 1:
        return span // 2, span - span // 2
    if not isinstance(steps, int):
        raise UnsupportedError(
            f"layer {layer.name!r}: padding 'same' with strides {stride} needs a known number of steps"
        )
    total = max(0, (-(-steps // stride) - 1) * stride + span + 1 - steps)
    return total // 2, total - total // 2


def _one(value: Any) -> int:
    return int(value[0]) if isinstance(value, list | tuple) else int(value)

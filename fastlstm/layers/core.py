"""Dense, Embedding, activations and masking."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.errors import InputError, UnsupportedError
from fastlstm.layers.activations import activate, activation, is_apart
from fastlstm.layers.build import Tensor
from fastlstm.layers.layer import Layer, size_of


class Dense(Layer):
    """activation(x @ kernel + bias) over the last axis."""

    supports_masking = True
    initial = {"kernel": "glorot_uniform", "bias": "zeros"}

    def __init__(
        self, units: int, activation: Any = None, use_bias: bool = True, name: str | None = None, **options: Any
    ):
        super().__init__(name, **options)
        self.units, self.use_bias = size_of(self, "units", units), use_bias
        self.activation = _activation(activation, self.name)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("kernel", "bias") if self.use_bias else ("kernel",)

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        return {"kernel": (x[-1] if x else None, self.units), "bias": (self.units,)}

    def call(self, x: Tensor) -> Tensor:
        W, b = self.add_weight(x.build, "W", "kernel"), self.add_weight(x.build, "b", "bias")
        op, alpha, beta = self.activation
        if is_apart(self.activation):
            return activate(x.build.node(self.name, "Dense", [x, W, b]), f"{self.name}/{op}", self.activation)
        return x.build.node(self.name, "Dense", [x, W, b], activation=op, alpha=alpha, beta=beta)


class Embedding(Layer):
    """The rows of a table for integer ids; with mask_zero, id 0 is masked."""

    initial = {"embeddings": "uniform"}
    input_kind = "ids"

    def __init__(
        self, input_dim: int, output_dim: int, *, mask_zero: bool = False, name: str | None = None, **options: Any
    ):
        super().__init__(name, **options)
        self.input_dim, self.output_dim = size_of(self, "input_dim", input_dim), size_of(self, "output_dim", output_dim)
        self.mask_zero = mask_zero

    @property
    def roles(self) -> tuple[str, ...]:
        return ("embeddings",)

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        return {"embeddings": (self.input_dim, self.output_dim)}

    def call(self, x: Tensor) -> Tensor:
        table = self.add_weight(x.build, "table", "embeddings")
        y = x.build.node(self.name, "Embedding", [x, table])
        if not self.mask_zero:
            return y
        zero = x.build.weight(f"{self.name}.zero", np.zeros((), x.value.dtype))
        return y.with_mask(x.build.node(f"{self.name}/mask", "NotEqual", [x, zero]))


class Activation(Layer):
    """An activation function by name."""

    supports_masking = True

    def __init__(self, activation: Any, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.activation = _activation(activation, self.name)

    def call(self, x: Tensor) -> Tensor:
        return activate(x, self.name, self.activation)


class Softmax(Layer):
    """Softmax along `axis`, of which there is one."""

    supports_masking = True

    def __init__(self, axis: int | Sequence[int] = -1, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        axes = [axis] if isinstance(axis, int) else list(axis)
        if len(axes) != 1:
            raise self.fault(UnsupportedError, f"axis={axis!r} is not supported, only one axis")
        self.axis = axes[0]

    def call(self, x: Tensor) -> Tensor:
        if x.mask is not None:
            raise UnsupportedError(f"layer {self.name!r}: a Softmax layer over a masked input is not supported")
        return x.build.node(self.name, "Softmax", [x], axis=self.axis)


class Identity(Layer):
    """A layer that does nothing."""

    supports_masking = True

    def call(self, x: Tensor) -> Tensor:
        return x


class Lambda(Layer):
    """Refused: a function of yours cannot be saved, loaded or differentiated."""

    def __init__(self, function: Any = None, *_: Any, name: str | None = None, **__: Any):
        raise UnsupportedError(
            f"layer {name or 'lambda'!r}: Lambda is not supported; use layers, or +, -, *, / and [...] on what Input and layers return"
        )


class Masking(Layer):
    """Mask the steps whose features all equal mask_value, and zero them."""

    supports_masking = True

    def __init__(self, mask_value: float = 0.0, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.mask_value = float(mask_value)

    def call(self, x: Tensor) -> Tensor:
        mask = x.build.node(f"{self.name}/mask", "AnyNotEqual", [x], value=self.mask_value)
        axes = x.build.ints(f"{self.name}.axes", -1)
        column = x.build.node(f"{self.name}/column", "Unsqueeze", [mask, axes])
        zero = x.build.weight(f"{self.name}.zero", np.zeros((), x.value.dtype))
        return x.build.node(self.name, "Where", [column, x, zero]).with_mask(mask)


class ReLU(Layer):
    """x above `threshold`, bounded by `max_value`, and `negative_slope` (x - threshold) below it."""

    supports_masking = True

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        self.max_value = None if max_value is None else float(max_value)
        self.negative_slope, self.threshold = float(negative_slope or 0.0), float(threshold or 0.0)
        for argument in ("max_value", "negative_slope", "threshold"):
            if (getattr(self, argument) or 0.0) < 0:
                raise self.fault(InputError, f"{argument}={getattr(self, argument)}: expected at least 0")

    def call(self, x: Tensor) -> Tensor:
        build, name, slope, threshold = x.build, self.name, self.negative_slope, self.threshold
        number = lambda value: build.weight(f"{name}.number", np.array(value, x.value.dtype))
        if not threshold and self.max_value is None:
            return build.node(name, "LeakyRelu", [x], alpha=slope) if slope else build.node(name, "Relu", [x])
        y = build.node(name, "ThresholdedRelu", [x], alpha=threshold) if threshold else build.node(name, "Relu", [x])
        if self.max_value is not None:
            y = build.node(f"{name}/bounded", "Min", [y, number(self.max_value)])
        if slope:
            below = build.node(f"{name}/below", "Relu", [build.node(f"{name}/off", "Sub", [number(threshold), x])])
            y = build.node(f"{name}/y", "Sub", [y, build.node(f"{name}/sloped", "Mul", [below, number(slope)])])
        return y


class ThresholdedReLU(Activation):
    """x above `theta`, else 0; of Keras 2."""

    def __init__(self, theta: float = 1.0, name: str | None = None, **options: Any):
        super().__init__(("ThresholdedRelu", float(theta), 0.0), name, **options)


class PReLU(Layer):
    """x, and below 0 x times a weight `alpha` of the input's shape, with size 1 along `shared_axes`."""

    supports_masking = True
    initial = {"alpha": "zeros"}

    def __init__(self, shared_axes: int | Sequence[int] | None = None, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.shared_axes = [shared_axes] if isinstance(shared_axes, int) else list(shared_axes or [])

    @property
    def roles(self) -> tuple[str, ...]:
        return ("alpha",)

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        if x is None:
            return {}
        return {"alpha": tuple(1 if axis in self.shared_axes else d for axis, d in enumerate(x) if axis)}

    def call(self, x: Tensor) -> Tensor:
        build, name = x.build, self.name
        alpha = self.add_weight(build, "alpha", "alpha")
        above, turned = build.node(f"{name}/above", "Relu", [x]), build.node(f"{name}/negative", "Neg", [x])
        below = build.node(f"{name}/below", "Mul", [alpha, build.node(f"{name}/below", "Relu", [turned])])
        return build.node(name, "Sub", [above, below])


class LeakyReLU(Activation):
    """x, times `negative_slope` below 0."""

    def __init__(
        self, negative_slope: float = 0.3, name: str | None = None, alpha: float | None = None, **options: Any
    ):
        slope = negative_slope if alpha is None else alpha  # Keras 2's name
        super().__init__(("LeakyRelu", float(slope), 0.0), name, **options)


class ELU(Activation):
    """x, and alpha (e^x - 1) below 0."""

    def __init__(self, alpha: float = 1.0, name: str | None = None, **options: Any):
        super().__init__(("Elu", float(alpha), 0.0), name, **options)


def _activation(name: Any, layer: str):
    return activation(name, layer, apart=True)

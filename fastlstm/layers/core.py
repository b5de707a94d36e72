"""Dense, Embedding, activations, normalisation, masking, and the layers that do nothing once trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.layers.activations import SOFTMAX, activate, activation
from fastlstm.layers.build import Layer, Tensor


class Dense(Layer):
    """activation(x @ kernel + bias) over the last axis."""

    supports_masking = True

    def __init__(self, units: int, activation: Any = None, use_bias: bool = True, name: str | None = None):
        super().__init__(name)
        self.units, self.use_bias = units, use_bias
        self.activation = _activation(activation, self.name)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("kernel", "bias") if self.use_bias else ("kernel",)

    @property
    def weight_shapes(self) -> dict[str, tuple[int | None, ...]]:
        return {"kernel": (None, self.units), "bias": (self.units,)}

    def call(self, x: Tensor) -> Tensor:
        W = self.add_weight(x.build, "W", self.weight("kernel"))
        b = self.add_weight(x.build, "b", self.weight("bias"))
        op, alpha, beta = self.activation
        if self.activation == SOFTMAX:
            return activate(x.build.node(self.name, "Dense", [x, W, b]), f"{self.name}/softmax", SOFTMAX)
        return x.build.node(self.name, "Dense", [x, W, b], activation=op, alpha=alpha, beta=beta)


class Embedding(Layer):
    """The rows of a table for integer ids; with mask_zero, id 0 is masked."""

    def __init__(self, input_dim: int, output_dim: int, mask_zero: bool = False, name: str | None = None):
        super().__init__(name)
        self.input_dim, self.output_dim, self.mask_zero = input_dim, output_dim, mask_zero

    @property
    def roles(self) -> tuple[str, ...]:
        return ("embeddings",)

    @property
    def weight_shapes(self) -> dict[str, tuple[int | None, ...]]:
        return {"embeddings": (self.input_dim, self.output_dim)}

    def call(self, x: Tensor) -> Tensor:
        table = self.add_weight(x.build, "table", self.weight("embeddings"))
        y = x.build.node(self.name, "Embedding", [x, table])
        if not self.mask_zero:
            return y
        zero = x.build.weight(f"{self.name}.zero", np.zeros((), x.value.dtype))
        return y.with_mask(x.build.node(f"{self.name}/mask", "NotEqual", [x, zero]))


class Activation(Layer):
    """An activation function by name."""

    supports_masking = True

    def __init__(self, activation: Any, name: str | None = None):
        super().__init__(name)
        self.activation = _activation(activation, self.name)

    def call(self, x: Tensor) -> Tensor:
        return activate(x, self.name, self.activation)


class Softmax(Layer):
    """Softmax along `axis`."""

    supports_masking = True

    def __init__(self, axis: int = -1, name: str | None = None):
        super().__init__(name)
        self.axis = axis

    def call(self, x: Tensor) -> Tensor:
        if x.mask is not None:
            raise UnsupportedError(f"layer {self.name!r}: a Softmax layer over a masked input is not supported")
        return x.build.node(self.name, "Softmax", [x], axis=self.axis)


class Identity(Layer):
    """A layer that does nothing at inference: Dropout, noise, regularisation."""

    supports_masking = True

    def call(self, x: Tensor) -> Tensor:
        return x


class Masking(Layer):
    """Mask the steps whose features all equal mask_value, and zero them."""

    supports_masking = True

    def __init__(self, mask_value: float = 0.0, name: str | None = None):
        super().__init__(name)
        self.mask_value = float(mask_value)

    def call(self, x: Tensor) -> Tensor:
        mask = x.build.node(f"{self.name}/mask", "AnyNotEqual", [x], value=self.mask_value)
        axes = x.build.ints(f"{self.name}.axes", -1)
        column = x.build.node(f"{self.name}/column", "Unsqueeze", [mask, axes])
        zero = x.build.weight(f"{self.name}.zero", np.zeros((), x.value.dtype))
        return x.build.node(self.name, "Where", [column, x, zero]).with_mask(mask)


class BatchNormalization(Layer):
    """(x - moving_mean) / sqrt(moving_variance + epsilon) * gamma + beta along `axis`."""

    supports_masking = True

    def __init__(
        self, axis: int = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True, name: str | None = None
    ):
        super().__init__(name)
        self.axis, self.epsilon, self.center, self.scale = axis, epsilon, center, scale

    @property
    def roles(self) -> tuple[str, ...]:
        return (
            *(["gamma"] if self.scale else []),
            *(["beta"] if self.center else []),
            "moving_mean",
            "moving_variance",
        )

    def call(self, x: Tensor) -> Tensor:
        weights = [
            self.add_weight(x.build, role, self.weight(role))
            for role in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        return x.build.node(self.name, "BatchNormalization", [x, *weights], axis=self.axis, epsilon=self.epsilon)


class LayerNormalization(Layer):
    """Normalise each row over its last axis."""

    supports_masking = True

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        name: str | None = None,
    ):
        super().__init__(name)
        self.axis = [axis] if isinstance(axis, int) else list(axis)
        self.epsilon, self.center, self.scale = epsilon, center, scale

    @property
    def roles(self) -> tuple[str, ...]:
        return (*(["gamma"] if self.scale else []), *(["beta"] if self.center else []))

    def call(self, x: Tensor) -> Tensor:
        rank = len(x.shape)
        axes = sorted(axis % rank for axis in self.axis)
        if axes != list(range(axes[0], rank)):
            raise UnsupportedError(
                f"layer {self.name!r}: LayerNormalization over axes {self.axis} is not supported, only over the last ones"
            )
        weights = [self.add_weight(x.build, role, self.weight(role)) for role in ("gamma", "beta")]
        return x.build.node(self.name, "LayerNormalization", [x, *weights], axis=axes[0] - rank, epsilon=self.epsilon)


def _activation(name: Any, layer: str):
    return activation(name, layer, softmax=True)

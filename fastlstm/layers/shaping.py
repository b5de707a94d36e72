"""Layers that reshape, repeat, join or combine, and TimeDistributed."""

from collections.abc import Sequence

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.layers.build import Layer, Tensor
from fastlstm.layers.core import Activation, BatchNormalization, Dense, Embedding, Identity, LayerNormalization


class Flatten(Layer):
    """All axes but the batch as one."""

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) == 1:
            return x.build.node(self.name, "Unsqueeze", [x, x.build.ints(f"{self.name}.axes", 1)])
        return x.build.node(self.name, "Flatten", [x], axis=1)


class Reshape(Layer):
    """The axes after the batch under another shape; one size may be -1."""

    def __init__(self, target_shape: Sequence[int], name: str | None = None):
        super().__init__(name)
        self.target_shape = tuple(target_shape)

    def call(self, x: Tensor) -> Tensor:
        return x.build.node(self.name, "Reshape", [x, x.build.ints(f"{self.name}.shape", 0, *self.target_shape)])


class Permute(Layer):
    """The axes after the batch in another order, counted from 1."""

    def __init__(self, dims: Sequence[int], name: str | None = None):
        super().__init__(name)
        self.dims = tuple(dims)

    def call(self, x: Tensor) -> Tensor:
        return x.build.node(self.name, "Transpose", [x], perm=(0, *self.dims))


class RepeatVector(Layer):
    """(B, F) -> (B, n, F)."""

    def __init__(self, n: int, name: str | None = None):
        super().__init__(name)
        self.n = n

    def call(self, x: Tensor) -> Tensor:
        column = x.build.node(f"{self.name}/step", "Unsqueeze", [x, x.build.ints(f"{self.name}.axes", 1)])
        return x.build.node(self.name, "Expand", [column, x.build.ints(f"{self.name}.shape", 1, self.n, 1)])


class Concatenate(Layer):
    """The inputs joined along `axis`."""

    def __init__(self, axis: int = -1, name: str | None = None):
        super().__init__(name)
        self.axis = axis

    def call(self, x: Sequence[Tensor]) -> Tensor:
        y = x[0].build.node(self.name, "Concat", list(x), axis=self.axis)
        masks = [tensor.mask for tensor in x]
        if all(mask is None for mask in masks):
            return y
        rank = len(x[0].shape)
        if self.axis % rank != rank - 1 or rank != 3:
            raise UnsupportedError(
                f"layer {self.name!r}: Concatenate of masked inputs along axis {self.axis} is not supported, only the last of three"
            )
        if any(mask is None for mask in masks):
            return y  # an unmasked input counts as all valid, so every step is
        return y.with_mask(_any_mask([mask for mask in masks if mask is not None], self.name))


class Merge(Layer):
    """An operation folded over the inputs; the mask is that any input is valid, if all have one."""

    op = ""

    def call(self, x: Sequence[Tensor]) -> Tensor:
        y = x[0]
        for k, other in enumerate(x[1:]):
            name = self.name if k == len(x) - 2 else f"{self.name}/{k}"
            y = y.build.node(name, self.op, [y, other])
        masks = [tensor.mask for tensor in x if tensor.mask is not None]
        return y.with_mask(_any_mask(masks, self.name) if len(masks) == len(x) else None)


class Add(Merge):
    """The sum of the inputs."""

    op = "Add"


class Subtract(Merge):
    """The first input less the second."""

    op = "Sub"


class Multiply(Merge):
    """The product of the inputs."""

    op = "Mul"


class Maximum(Merge):
    """The largest of the inputs, element by element."""

    op = "Max"


class Minimum(Merge):
    """The smallest of the inputs, element by element."""

    op = "Min"


class Average(Merge):
    """The mean of the inputs."""

    op = "Add"

    def call(self, x: Sequence[Tensor]) -> Tensor:
        total = super().call(x)
        share = total.build.weight(f"{self.name}.share", np.array(1 / len(x), total.value.dtype))
        return total.build.node(f"{self.name}/mean", "Mul", [total, share]).with_mask(total.mask)


def _any_mask(masks: Sequence[Tensor], name: str) -> Tensor:
    mask = masks[0]
    for other in masks[1:]:
        if other.name != mask.name:
            mask = mask.build.node(f"{name}/mask", "Or", [mask, other])
    return mask


class TimeDistributed(Layer):
    """A layer applied to every step. Layers that act on the last axis alone apply as they are; others on (B * T, ...)."""

    supports_masking = True
    _stepwise = (Dense, Activation, Identity, Embedding, LayerNormalization, BatchNormalization)

    def __init__(self, layer: Layer, name: str | None = None):
        super().__init__(name)
        self.layer = layer

    @property
    def roles(self) -> tuple[str, ...]:
        return self.layer.roles

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        self.layer.set_weights(weights)

    def call(self, x: Tensor) -> Tensor:
        bare = x.with_mask(None)
        stepwise = isinstance(self.layer, self._stepwise)
        axis = getattr(self.layer, "axis", -1)
        if stepwise and axis in (-1, [-1]):
            return self.layer(bare)
        if isinstance(self.layer, Flatten):
            return x.build.node(self.name, "Reshape", [x, x.build.ints(f"{self.name}.shape", 0, 0, -1)])
        if isinstance(self.layer, Reshape):
            return x.build.node(
                self.name, "Reshape", [x, x.build.ints(f"{self.name}.shape", 0, 0, *self.layer.target_shape)]
            )
        raise UnsupportedError(
            f"layer {self.name!r}: TimeDistributed({type(self.layer).__name__}) is not supported yet"
        )

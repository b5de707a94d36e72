"""Layers that reshape, repeat, join or combine, and TimeDistributed."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fastlstm.errors import ShapeError, UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.core import Activation, Dense, Embedding, Identity
from fastlstm.layers.layer import Layer, size_of
from fastlstm.layers.normalisation import BatchNormalization, LayerNormalization
from fastlstm.layers.regularisation import Dropout, Noise


class Flatten(Layer):
    """All axes but the batch as one."""

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) == 1:
            return x.build.node(self.name, "Unsqueeze", [x, x.build.ints(f"{self.name}.axes", 1)])
        return x.build.node(self.name, "Flatten", [x], axis=1)


class Reshape(Layer):
    """The axes after the batch under another shape; one size may be -1."""

    def __init__(self, target_shape: Sequence[int], name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.target_shape = tuple(target_shape)

    def call(self, x: Tensor) -> Tensor:
        return x.build.node(self.name, "Reshape", [x, x.build.ints(f"{self.name}.shape", 0, *self.target_shape)])


class Permute(Layer):
    """The axes after the batch in another order, counted from 1."""

    def __init__(self, dims: Sequence[int], name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.dims = tuple(dims)

    def call(self, x: Tensor) -> Tensor:
        return x.build.node(self.name, "Transpose", [x], perm=(0, *self.dims))


class RepeatVector(Layer):
    """(B, F) -> (B, n, F)."""

    def __init__(self, n: int, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.n = size_of(self, "n", n)

    def call(self, x: Tensor) -> Tensor:
        column = x.build.node(f"{self.name}/step", "Unsqueeze", [x, x.build.ints(f"{self.name}.axes", 1)])
        return x.build.node(self.name, "Expand", [column, x.build.ints(f"{self.name}.shape", 1, self.n, 1)])


class Joining(Layer):
    """A layer of several inputs. Its `mask_rule` says when a step of its output is valid.

    "any": when it is in any input, if all have masks (Keras 3.4 and later). "all": when it is in every input that has a mask
    (Keras 2). None: masked inputs are refused (Keras 3.0 to 3.3 lost masks here).
    """

    several = True
    mask_rule: Literal["any", "all"] | None = "any"

    def masks(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Return the masks of those inputs that have one."""
        masks = [tensor.mask for tensor in x if tensor.mask is not None]
        if masks and self.mask_rule is None:
            raise UnsupportedError(
                f"layer {self.name!r} ({type(self).__name__}): masked inputs as Keras 3.0 to 3.3 joined them are not supported; "
                "save the model with a later Keras"
            )
        return masks

    def joined(self, x: Sequence[Tensor]) -> Tensor | None:
        """Return the mask of the output."""
        masks = self.masks(x)
        if not masks or (self.mask_rule == "any" and len(masks) < len(x)):
            return None
        return self.fold_masks(masks)

    def fold_masks(self, masks: Sequence[Tensor]) -> Tensor:
        mask = masks[0]
        for other in masks[1:]:
            if other.name != mask.name:
                mask = mask.build.node(f"{self.name}/mask", "And" if self.mask_rule == "all" else "Or", [mask, other])
        return mask


class Concatenate(Joining):
    """The inputs joined along `axis`."""

    def __init__(self, axis: int = -1, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.axis = axis

    def call(self, x: Sequence[Tensor]) -> Tensor:
        y = x[0].build.node(self.name, "Concat", list(x), axis=self.axis)
        masks, rank = self.masks(x), len(x[0].shape)
        if not masks:
            return y
        if rank == 3 and self.axis % rank == 1 and len(masks) == len(x):
            return y.with_mask(y.build.node(f"{self.name}/mask", "Concat", masks, axis=1))
        if self.axis % rank != rank - 1 or rank != 3:
            raise UnsupportedError(
                f"layer {self.name!r}: Concatenate of masked inputs along axis {self.axis} is not supported, only the last of three, "
                "or the second if all are masked"
            )
        return y.with_mask(self.joined(x))  # an input without a mask counts as all valid


class Merge(Joining):
    """An operation folded over the inputs."""

    op = ""

    def call(self, x: Sequence[Tensor]) -> Tensor:
        rank = max(len(tensor.shape) for tensor in x)
        mask = self.joined(x)
        y = self.fold([self._raised(tensor, rank) for tensor in x])
        return y.with_mask(mask)

    def _raised(self, x: Tensor, rank: int) -> Tensor:
        """Return a tensor with axes of size 1 after the batch, as Keras merges vectors with sequences."""
        missing = range(1, 1 + rank - len(x.shape))
        if not missing:
            return x
        return x.build.node(f"{self.name}/raised", "Unsqueeze", [x, x.build.ints(f"{self.name}.axes", *missing)])

    def fold(self, x: Sequence[Tensor]) -> Tensor:
        """Return the operation's result over all inputs, each of the same rank."""
        y = x[0]
        for k, other in enumerate(x[1:]):
            name = self.name if k == len(x) - 2 else f"{self.name}/{k}"
            y = y.build.node(name, self.op, [y, other])
        return y

    def column(self, mask: Tensor) -> Tensor:
        """Return a mask with an axis of size 1 for the features."""
        return mask.build.node(f"{self.name}/column", "Unsqueeze", [mask, mask.build.ints(f"{self.name}.axes", -1)])

    def where(self, mask: Tensor, x: Tensor, other: Tensor | float) -> Tensor:
        """Return x at valid steps, elsewhere another value."""
        if not isinstance(other, Tensor):
            other = x.build.weight(f"{self.name}.number", np.array(other, x.value.dtype))
        return x.build.node(f"{self.name}/valid", "Where", [self.column(mask), x, other])


class Add(Merge):
    """The sum of the inputs."""

    op = "Add"


class Subtract(Merge):
    """The first input less the second."""

    op = "Sub"


class Multiply(Merge):
    """The product of the inputs; a masked step of one counts as 1, of all as 0."""

    op = "Mul"

    def fold(self, x: Sequence[Tensor]) -> Tensor:
        masks = [tensor.mask for tensor in x if tensor.mask is not None]
        if not masks or self.mask_rule != "any":
            return super().fold(x)
        y = super().fold([t if t.mask is None else self.where(t.mask, t, 1.0) for t in x])
        return y if len(masks) < len(x) else self.where(self.fold_masks(masks), y, 0.0)


class Extreme(Merge):
    """What Maximum and Minimum share: a step that is masked in one input takes the others' value."""

    def fold(self, x: Sequence[Tensor]) -> Tensor:
        if self.mask_rule != "any" or all(tensor.mask is None for tensor in x):
            return super().fold(x)
        y, mask = x[0], x[0].mask
        for other in x[1:]:
            z = other if other.mask is None else self.where(other.mask, other, y)
            y = y if mask is None else self.where(mask, y, z)
            mask = None if mask is None or other.mask is None else self.fold_masks([mask, other.mask])
            y = y.build.node(self.name, self.op, [y, z])
        return y


class Maximum(Extreme):
    """The largest of the inputs, element by element."""

    op = "Max"


class Minimum(Extreme):
    """The smallest of the inputs, element by element."""

    op = "Min"


class Average(Merge):
    """The mean of the inputs."""

    op = "Add"

    def fold(self, x: Sequence[Tensor]) -> Tensor:
        total = super().fold(x)
        share = total.build.weight(f"{self.name}.share", np.array(1 / len(x), total.value.dtype))
        return total.build.node(f"{self.name}/mean", "Mul", [total, share])


class TimeDistributed(Layer):
    """A layer applied to every step. Layers that act on the last axis alone apply as they are; others on (B * T, ...)."""

    supports_masking = True

    def __init__(self, layer: Layer, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.layer = layer

        self.rename(self.name)

    def rename(self, name: str) -> None:
        super().rename(name)
        if self.layer.auto_named:
            self.layer.rename(name)

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.layer,)

    @property
    def roles(self) -> tuple[str, ...]:
        return self.layer.roles

    def make_weights(self, x: Any, dtype: str) -> None:
        if len(x) < 3:
            raise self.fault(ShapeError, f"takes inputs (batch, steps, ...), got shape {tuple(x)}")
        self._check(len(x) - 1)
        self.layer.make_weights((x[0], *x[2:]), self.layer.dtype or dtype)

    def _check(self, rank: int) -> None:
        """Raise UnsupportedError for a layer that cannot be applied to each step of its inputs of `rank` axes."""
        if getattr(self.layer, "mask_zero", False):
            raise UnsupportedError(
                f"layer {self.name!r}: TimeDistributed(Embedding) with mask_zero=True is not supported"
            )
        if not self._acts_on_last_axis(rank) and not isinstance(self.layer, Flatten | Reshape):
            raise UnsupportedError(
                f"layer {self.name!r}: TimeDistributed({type(self.layer).__name__}) is not supported yet"
            )

    def _acts_on_last_axis(self, rank: int) -> bool:
        """Tell whether the layer, whose own inputs have `rank` axes, acts on the last alone: it then counts from the end."""
        if isinstance(self.layer, LayerNormalization) and [axis % rank for axis in self.layer.axis] == [rank - 1]:
            self.layer.axis = [-1]
            return True
        if isinstance(self.layer, BatchNormalization) and self.layer.axis % rank == rank - 1:
            self.layer.axis = -1
            return True
        return isinstance(self.layer, Dense | Activation | Identity | Embedding | Dropout | Noise)

    def call(self, x: Tensor) -> Tensor:
        bare = x.with_mask(None)
        self._check(len(x.shape) - 1)
        if isinstance(self.layer, Flatten):
            return x.build.node(self.name, "Reshape", [x, x.build.ints(f"{self.name}.shape", 0, 0, -1)])
        if isinstance(self.layer, Reshape):
            return x.build.node(
                self.name, "Reshape", [x, x.build.ints(f"{self.name}.shape", 0, 0, *self.layer.target_shape)]
            )
        return self.layer(bare)

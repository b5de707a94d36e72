"""Layers that act in training alone: dropout, noise, and a penalty on what passes through."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np

from fastlstm.errors import InputError
from fastlstm.layers.build import Shape, Tensor
from fastlstm.layers.layer import Layer, rate_of
from fastlstm.regularizers import L1L2


class Dropout(Layer):
    """In training, x times 0 with probability `rate`, else times 1 / (1 - rate); `noise_shape` has 1 where one draw holds for an axis."""

    supports_masking = True
    seeded = True

    def __init__(
        self,
        rate: float,
        noise_shape: Sequence[int | None] | None = None,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        self.rate, self.noise_shape = rate_of(self, rate, "rate"), noise_shape

    @property
    def differs_in_training(self) -> bool:
        return self.rate > 0

    def drawn(self, shape: Shape) -> Shape:
        """Return the shape of what is drawn."""
        if self.noise_shape is None:
            return shape
        return tuple(d if n is None else n for d, n in zip(shape, self.noise_shape, strict=True))

    def call(self, x: Tensor) -> Tensor:
        if not x.build.training or not self.rate:
            return x
        kept = x.build.drop(f"{self.name}.mask", self.drawn(x.shape), self.rate, x.value.dtype.name, self)
        return x.build.node(self.name, "Mul", [x, kept])


class SpatialDropout1D(Dropout):
    """Dropout of whole channels: one draw for all steps of a row (B, T, C)."""

    def __init__(self, rate: float, name: str | None = None, **options: Any):
        super().__init__(rate, (None, 1, None), name, **options)


class Noise(Layer):
    """What GaussianNoise and GaussianDropout share: normal numbers in training."""

    supports_masking = True
    seeded = True
    stddev = 0.0

    @property
    def differs_in_training(self) -> bool:
        return self.stddev > 0

    def call(self, x: Tensor) -> Tensor:
        if not x.build.training or not self.stddev:
            return x
        return self.disturb(x, x.build.noise(f"{self.name}.noise", x.shape, self.stddev, x.value.dtype.name, self))

    def disturb(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return x with the noise of this batch."""
        raise NotImplementedError


class GaussianNoise(Noise):
    """In training, x plus normal numbers of a standard deviation."""

    def __init__(self, stddev: float, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        if not isinstance(stddev, int | float | np.number) or isinstance(stddev, bool) or stddev < 0:
            raise self.fault(InputError, f"stddev={stddev!r}: expected a number of at least 0")
        self.stddev = float(stddev)

    def disturb(self, x: Tensor, noise: Tensor) -> Tensor:
        return x.build.node(self.name, "Add", [x, noise])


class GaussianDropout(Noise):
    """In training, x times normal numbers around 1, of the standard deviation sqrt(rate / (1 - rate))."""

    def __init__(self, rate: float, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.rate = rate_of(self, rate, "rate")
        self.stddev = sqrt(self.rate / (1 - self.rate))

    def disturb(self, x: Tensor, noise: Tensor) -> Tensor:
        one = x.build.weight(f"{self.name}.one", np.ones((), x.value.dtype))
        return x.build.node(self.name, "Mul", [x, x.build.node(f"{self.name}/factor", "Add", [noise, one])])


class ActivityRegularization(Layer):
    """x itself, whose l1 and l2 penalty adds to the loss."""

    supports_masking = True

    def __init__(self, l1: float = 0.0, l2: float = 0.0, name: str | None = None, **options: Any):
        super().__init__(name, activity_regularizer=L1L2(l1, l2), **options)

    def call(self, x: Tensor) -> Tensor:
        return x

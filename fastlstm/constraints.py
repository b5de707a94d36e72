"""Constraints on weights, which hold after every step of training: Keras's max_norm, non_neg, unit_norm and min_max_norm, by name or as objects.

Norms are those of the columns of a weight along `axis`: 0 for what one unit reads, of kernels and recurrent kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastlstm.errors import InputError, one_of

EPSILON = 1e-7  # Keras's
Axis = int | Sequence[int]


class Constraint:
    """What a weight is held to. Subclass it and write `__call__(w)`, which returns the weight as it should be."""

    def __call__(self, w: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


class _Norm(Constraint):
    """A constraint on the norms along axes."""

    def __init__(self, axis: Axis):
        self.axis = axis

    def desired(self, norms: np.ndarray) -> Any:
        """Return what norms should be."""
        raise NotImplementedError

    def __call__(self, w: np.ndarray) -> np.ndarray:
        axis = self.axis if isinstance(self.axis, int) else tuple(self.axis)
        norms = np.sqrt(np.sum(np.square(w), axis=axis, keepdims=True))
        return w * (self.desired(norms) / (w.dtype.type(EPSILON) + norms))


class MaxNorm(_Norm):
    """Norms of at most `max_value`."""

    def __init__(self, max_value: float = 2, axis: Axis = 0):
        super().__init__(axis)
        self.max_value = _number(self, "max_value", max_value)

    def desired(self, norms: np.ndarray) -> Any:
        return np.clip(norms, 0, self.max_value)


class UnitNorm(_Norm):
    """Norms of 1."""

    def __init__(self, axis: Axis = 0):
        super().__init__(axis)

    def desired(self, norms: np.ndarray) -> Any:
        return norms.dtype.type(1)


class MinMaxNorm(_Norm):
    """Norms from `min_value` to `max_value`; of what they are off, a share of `rate` is mended at each step."""

    def __init__(self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Axis = 0):
        super().__init__(axis)
        self.min_value, self.max_value = _number(self, "min_value", min_value), _number(self, "max_value", max_value)
        self.rate = _number(self, "rate", rate)

    def desired(self, norms: np.ndarray) -> Any:
        return self.rate * np.clip(norms, self.min_value, self.max_value) + (1 - self.rate) * norms


class NonNeg(Constraint):
    """No element below 0."""

    def __call__(self, w: np.ndarray) -> np.ndarray:
        return np.maximum(w, 0)


class _Own(Constraint):
    """A function of a weight as a constraint."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]):
        self.function = function

    def __call__(self, w: np.ndarray) -> np.ndarray:
        return self.function(w)


def _number(constraint: Constraint, name: str, value: Any) -> float:
    if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not value >= 0:
        raise InputError(f"{type(constraint).__name__}: {name}={value!r}: expected a number of at least 0")
    return float(value)


max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm
_KNOWN: dict[str, type[Constraint]] = {
    "MaxNorm": MaxNorm, "MinMaxNorm": MinMaxNorm, "NonNeg": NonNeg, "UnitNorm": UnitNorm,
    "max_norm": MaxNorm, "min_max_norm": MinMaxNorm, "non_neg": NonNeg, "unit_norm": UnitNorm,
}  # fmt: skip


def get(which: Any) -> Constraint | None:
    """Return a constraint of a name, of a configuration {"class_name", "config"}, of a function, or the object itself; None is none. Raise InputError."""
    if which is None or isinstance(which, Constraint):
        return which
    if isinstance(which, type) and issubclass(which, Constraint):
        return which()
    name, config = (which.get("class_name"), which.get("config", {})) if isinstance(which, Mapping) else (which, {})
    if isinstance(name, str) and name in _KNOWN:
        return _KNOWN[name](**config)
    if callable(which):
        function: Any = which
        return _Own(function)
    raise InputError(f"{which!r} is no constraint; known: {one_of(_KNOWN)}")

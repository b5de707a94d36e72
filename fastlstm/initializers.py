"""Initial values of weights: Keras's initializers, by name or as objects.

    VarianceScaling: variance scale / fan, fan = (product of all axes but the last), the last axis, or their mean

A normal distribution is truncated at two standard deviations by drawing again, and widened so that its variance is as stated.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod, sqrt
from typing import Any

import numpy as np

from fastlstm import randomness
from fastlstm.errors import InputError, ShapeError, one_of

TRUNCATED_STDDEV = 0.87962566103423978  # of a unit normal truncated at two standard deviations


class Initializer:
    """Makes the initial values of a weight: `initializer(shape, dtype)`.

    One with a seed gives the same values at every call with the same shape; one without draws new ones.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, shape: Sequence[int], dtype: Any = "float32") -> np.ndarray:
        return np.array(self.values(tuple(shape), randomness.generator(self.seed)), np.dtype(dtype), order="C")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items() if v is not None)})"

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Return the values of a shape."""
        raise NotImplementedError


class Constant(Initializer):
    """One value, or those of an array that broadcasts to the weight."""

    def __init__(self, value: Any = 0.0):
        super().__init__()
        self.value = value

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        value = np.asarray(self.value)
        try:
            return np.broadcast_to(value, shape)
        except ValueError as error:
            raise ShapeError(f"Constant holds an array of shape {value.shape}, the weight has shape {shape}") from error


class Zeros(Constant):
    """All 0."""

    def __init__(self) -> None:
        super().__init__(0.0)


class Ones(Constant):
    """All 1."""

    def __init__(self) -> None:
        super().__init__(1.0)


class Identity(Initializer):
    """The identity matrix times `gain`; for two axes."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = gain

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        if len(shape) != 2:
            raise ShapeError(f"Identity makes matrices, the weight has shape {shape}")
        return self.gain * np.eye(*shape)


class RandomNormal(Initializer):
    """A normal distribution."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.normal(self.mean, self.stddev, shape)


class TruncatedNormal(RandomNormal):
    """A normal distribution without what lies more than two standard deviations from the mean."""

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return self.mean + self.stddev * _truncated(shape, rng)


class RandomUniform(Initializer):
    """A uniform distribution over [minval, maxval)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.minval, self.maxval, shape)


class VarianceScaling(Initializer):
    """A distribution whose variance follows the number of inputs or outputs of a unit.

    mode: "fan_in", "fan_out" or "fan_avg"; distribution: "truncated_normal" (or "normal"), "untruncated_normal" or "uniform".
    """

    MODES = ("fan_in", "fan_out", "fan_avg")
    DISTRIBUTIONS = ("normal", "truncated_normal", "untruncated_normal", "uniform")

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ):
        super().__init__(seed)
        if scale <= 0 or mode not in self.MODES or distribution not in self.DISTRIBUTIONS:
            raise InputError(
                f"VarianceScaling(scale={scale!r}, mode={mode!r}, distribution={distribution!r}): expected a scale above 0, a mode of "
                f"{one_of(self.MODES)} and a distribution of {one_of(self.DISTRIBUTIONS)}"
            )
        self.scale, self.mode, self.distribution = scale, mode, distribution

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = sqrt(3 * variance)
            return rng.uniform(-limit, limit, shape)
        if self.distribution == "untruncated_normal":
            return rng.normal(0.0, sqrt(variance), shape)
        return sqrt(variance) / TRUNCATED_STDDEV * _truncated(shape, rng)


class Orthogonal(Initializer):
    """An orthogonal matrix times `gain`: the Q of the QR decomposition of normal numbers, its signs those that make it uniform.

    More than two axes: all but the last are taken as one. With more columns than rows the rows are orthonormal.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None):
        super().__init__(seed)
        self.gain = gain

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        if len(shape) < 2:
            raise ShapeError(f"Orthogonal makes matrices, the weight has shape {shape}")
        rows, columns = prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.gain * (q.T if rows < columns else q).reshape(shape)


def _scaling(name: str, scale: float, mode: str, distribution: str) -> type[VarianceScaling]:
    """Return VarianceScaling with fixed arguments, under a name of its own."""

    def __init__(self: VarianceScaling, seed: int | None = None) -> None:  # noqa: N807
        VarianceScaling.__init__(self, scale, mode, distribution, seed)

    doc = f"VarianceScaling(scale={scale}, mode={mode!r}, distribution={distribution!r})."
    return type(name, (VarianceScaling,), {"__init__": __init__, "__doc__": doc, "__module__": __name__})


GlorotUniform = _scaling("GlorotUniform", 1.0, "fan_avg", "uniform")
GlorotNormal = _scaling("GlorotNormal", 1.0, "fan_avg", "truncated_normal")
HeUniform = _scaling("HeUniform", 2.0, "fan_in", "uniform")
HeNormal = _scaling("HeNormal", 2.0, "fan_in", "truncated_normal")
LecunUniform = _scaling("LecunUniform", 1.0, "fan_in", "uniform")
LecunNormal = _scaling("LecunNormal", 1.0, "fan_in", "truncated_normal")

_CLASSES: dict[str, Callable[..., Initializer]] = {
    "zeros": Zeros, "ones": Ones, "constant": Constant, "identity": Identity, "random_normal": RandomNormal,
    "truncated_normal": TruncatedNormal, "random_uniform": RandomUniform, "variance_scaling": VarianceScaling,
    "orthogonal": Orthogonal, "glorot_uniform": GlorotUniform, "glorot_normal": GlorotNormal, "he_uniform": HeUniform,
    "he_normal": HeNormal, "lecun_uniform": LecunUniform, "lecun_normal": LecunNormal,
}  # fmt: skip
_OTHER_NAMES = {"zero": "zeros", "one": "ones", "normal": "random_normal", "uniform": "random_uniform"}


def get(which: Any) -> Callable[..., Any]:
    """Return an initializer of a name, of a configuration {"class_name", "config"}, or the object itself. Raise InputError.

    An object is an Initializer, its class, or any function of (shape, dtype) that returns an array.
    """
    if isinstance(which, Mapping):
        return _named(str(which.get("class_name")))(**which.get("config", {}))
    if isinstance(which, str):
        return _named(which)()
    if isinstance(which, type) and issubclass(which, Initializer):
        return which()
    if callable(which):
        return which
    raise InputError(f"{which!r} is no initializer; known: {one_of(_CLASSES)}")


def _named(name: str) -> Callable[..., Initializer]:
    snake = _OTHER_NAMES.get(name, name)
    for known, kind in _CLASSES.items():
        if snake in (known, known.title().replace("_", "")):
            return kind
    raise InputError(f"unknown initializer {name!r}; known: {one_of(_CLASSES)}")


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return (fan in, fan out) of a weight whose last two axes are inputs and outputs; axes before them multiply both."""
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def _truncated(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return unit normal numbers within two standard deviations."""
    values = rng.standard_normal(shape)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = rng.standard_normal(int(beyond.sum()))
    return values


zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
random_normal, truncated_normal, random_uniform = RandomNormal, TruncatedNormal, RandomUniform
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_uniform, glorot_normal, he_uniform, he_normal = GlorotUniform, GlorotNormal, HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal

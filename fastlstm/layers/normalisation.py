"""Layers that normalise: BatchNormalization, LayerNormalization, UnitNormalization, and Normalization and Rescaling of data."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastlstm.errors import InputError, ShapeError, UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.layer import Layer

EPSILON = 1e-7  # Keras's, added to the number of valid steps


class BatchNormalization(Layer):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta along `axis`.

    In training mean and variance are those of the batch, of its valid steps where there is a mask, and move the statistics
    towards them; once trained, or frozen, they are the statistics.
    """

    supports_masking = True
    initial = {"gamma": "ones", "beta": "zeros", "moving_mean": "zeros", "moving_variance": "ones"}
    statistics = ("moving_mean", "moving_variance")
    ignored = ("synchronized",)

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        self.axis, self.momentum, self.epsilon, self.center, self.scale = axis, momentum, epsilon, center, scale

    @property
    def roles(self) -> tuple[str, ...]:
        own = (*(["gamma"] if self.scale else []), *(["beta"] if self.center else []))
        return (*own, "moving_mean", "moving_variance")

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        return dict.fromkeys(self.roles, (x[self.axis] if x else None,))

    @property
    def differs_in_training(self) -> bool:
        return True

    def call(self, x: Tensor) -> Tensor:
        build = x.build
        gamma, beta, mean, variance = (
            self.add_weight(build, role, role) for role in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        assert mean is not None and variance is not None
        if build.training and self.trainable:
            of_batch = self._moments(x)
            for old, new in zip((mean, variance), of_batch, strict=True):
                self._move(old, new)
            mean, variance = of_batch
        return build.node(
            self.name, "BatchNormalization", [x, gamma, beta, mean, variance], axis=self.axis, epsilon=self.epsilon
        )

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (C,) over all axes but the layer's."""
        build, name, rank = x.build, f"{self.name}/moments", len(x.shape)
        axes = tuple(axis for axis in range(rank) if axis != self.axis % rank)
        if x.mask is None:
            mean_of = lambda values: build.node(f"{name}/mean", "ReduceMean", [values], axes=axes, keepdims=True)
        elif self.axis % rank != rank - 1:
            raise self.fault(
                UnsupportedError, f"axis={self.axis} of a masked input is not supported in training, only the last"
            )
        else:
            mean_of = self._mean_of_valid(x, axes)
        mean = mean_of(x)
        off = build.node(f"{name}/off", "Sub", [x, mean])
        variance = mean_of(build.node(f"{name}/square", "Mul", [off, off]))
        flat = build.ints(f"{name}.shape", -1)
        return build.node(name, "Reshape", [mean, flat]), build.node(name, "Reshape", [variance, flat])

    def _mean_of_valid(self, x: Tensor, axes: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Return what adds the mean over the steps that are not masked."""
        build, name, dtype = x.build, f"{self.name}/moments", x.value.dtype
        assert x.mask is not None
        column = build.node(f"{name}/valid", "Unsqueeze", [x.mask, build.ints(f"{name}.axes", -1)])
        numbers = build.node(f"{name}/valid", "Cast", [x.mask], to=dtype.name)
        count = build.node(f"{name}/count", "ReduceSum", [numbers])
        count = build.node(f"{name}/count", "Add", [count, build.weight(f"{name}.epsilon", np.array(EPSILON, dtype))])
        zero = build.weight(f"{name}.zero", np.zeros((), dtype))

        def mean_of(values: Tensor) -> Tensor:
            kept = build.node(f"{name}/kept", "Where", [column, values, zero])
            total = build.node(f"{name}/sum", "ReduceSum", [kept], axes=axes, keepdims=True)
            return build.node(f"{name}/mean", "Div", [total, count])

        return mean_of

    def _move(self, old: Tensor, new: Tensor) -> None:
        """Replace a statistic by momentum times itself plus the rest of that of the batch."""
        build, dtype = old.build, old.value.dtype
        keep, take = (
            build.weight(f"{old.name}.momentum", np.array(m, dtype)) for m in (self.momentum, 1 - self.momentum)
        )
        parts = [build.node(f"{old.name}/moved", "Mul", [value, share]) for value, share in ((old, keep), (new, take))]
        build.replace(old, build.node(f"{old.name}/moved", "Add", parts))


class LayerNormalization(Layer):
    """Normalise each row over its last axis, or over several of the last."""

    supports_masking = True
    initial = {"gamma": "ones", "beta": "zeros"}

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        self.axis = [axis] if isinstance(axis, int) else list(axis)
        self.epsilon, self.center, self.scale = epsilon, center, scale

    @property
    def roles(self) -> tuple[str, ...]:
        return (*(["gamma"] if self.scale else []), *(["beta"] if self.center else []))

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        return {role: tuple(x[axis] for axis in self.axis) for role in self.roles} if x else {}

    def call(self, x: Tensor) -> Tensor:
        rank = len(x.shape)
        axes = sorted(axis % rank for axis in self.axis)
        if axes != list(range(axes[0], rank)):
            raise UnsupportedError(
                f"layer {self.name!r}: LayerNormalization over axes {self.axis} is not supported, only over the last ones"
            )
        weights = [self.add_weight(x.build, role, role) for role in ("gamma", "beta")]
        return x.build.node(self.name, "LayerNormalization", [x, *weights], axis=axes[0] - rank, epsilon=self.epsilon)


def unit(x: Tensor, axes: int | Sequence[int], name: str, floor: float) -> Tensor:
    """Return x divided by its norm along axes, whose square is taken to be `floor` at least."""
    build = x.build
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    square = build.node(f"{name}/square", "Mul", [x, x])
    total = build.node(f"{name}/sum", "ReduceSum", [square], axes=axes, keepdims=True)
    least = build.weight(f"{name}.floor", np.array(floor, x.value.dtype))
    norm = build.node(f"{name}/norm", "Sqrt", [build.node(f"{name}/bounded", "Max", [total, least])])
    return build.node(name, "Div", [x, norm])


class UnitNormalization(Layer):
    """x divided by its norm along `axis`."""

    supports_masking = True
    floor = 1e-24  # of the sum of squares: Keras 3's

    def __init__(self, axis: int | Sequence[int] = -1, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.axis = axis

    def call(self, x: Tensor) -> Tensor:
        return unit(x, self.axis, self.name, self.floor)


class Normalization(Layer):
    """(x - mean) / max(sqrt(variance), 1e-7), or with `invert` the way back; of statistics kept, or given as arguments.

    axis: which axes have statistics of their own; None: none.
    """

    supports_masking = True
    initial = {"mean": "zeros", "variance": "ones", "count": "zeros"}
    statistics = ("mean", "variance", "count")

    def __init__(
        self,
        axis: int | Sequence[int] | None = -1,
        mean: Any = None,
        variance: Any = None,
        invert: bool = False,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        if (mean is None) != (variance is None):
            raise self.fault(InputError, "mean and variance are given together")
        self.axis = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
        self.mean, self.variance, self.invert = mean, variance, invert

    @property
    def roles(self) -> tuple[str, ...]:
        return ("mean", "variance", "count") if self.mean is None else ()

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        if x is None:
            return {"count": ()}
        shape = tuple(x[axis] for axis in self._kept(len(x)))
        return {"mean": shape, "variance": shape, "count": ()}

    def _kept(self, rank: int) -> list[int]:
        return sorted(axis % rank for axis in self.axis)

    def call(self, x: Tensor) -> Tensor:
        build, name, dtype = x.build, self.name, np.dtype(self.dtype or "float32")
        if x.value.dtype.kind == "f":
            dtype = x.value.dtype
        else:
            x = build.node(f"{name}/cast", "Cast", [x], to=dtype.name).with_mask(x.mask)
        kept = self._kept(len(x.shape))
        sizes = tuple(x.shape[axis] for axis in kept)
        if not all(isinstance(size, int) for size in sizes):
            raise self.fault(ShapeError, f"axis={self.axis} of an input {x.shape}: expected known sizes")
        shape = [x.shape[axis] if axis in kept else 1 for axis in range(len(x.shape))]

        def row(statistic: Any) -> np.ndarray:
            """Return a statistic under a shape that broadcasts to x, which numbers of the arguments may have to fill."""
            return np.broadcast_to(np.asarray(statistic, dtype), sizes).reshape(shape)  # type: ignore[arg-type]

        given = (self.mean, self.variance) if self.mean is not None else self.weights[:2]
        mean, variance = map(row, given)
        scale = np.maximum(np.sqrt(variance), np.asarray(EPSILON, dtype))
        centre, spread = build.weight(f"{name}.mean", mean), build.weight(f"{name}.scale", scale)
        if self.invert:
            return build.node(name, "Add", [build.node(f"{name}/scaled", "Mul", [x, spread]), centre])
        return build.node(name, "Div", [build.node(f"{name}/off", "Sub", [x, centre]), spread])


class Rescaling(Layer):
    """x scale + offset."""

    supports_masking = True

    def __init__(self, scale: Any, offset: Any = 0.0, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.scale, self.offset = scale, offset

    def call(self, x: Tensor) -> Tensor:
        build, name = x.build, self.name
        if x.value.dtype.kind != "f":
            x = build.node(f"{name}/cast", "Cast", [x], to=self.dtype or "float32").with_mask(x.mask)
        scale, offset = (
            build.weight(f"{name}.{role}", np.asarray(value, x.value.dtype))
            for role, value in (("scale", self.scale), ("offset", self.offset))
        )
        return build.node(name, "Add", [build.node(f"{name}/scaled", "Mul", [x, scale]), offset])

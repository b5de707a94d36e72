"""Layers that reshape, repeat, pad, crop, join or combine."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fastlstm.errors import InputError, ShapeError, UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.convolution import channels_last, sizes_of
from fastlstm.layers.layer import Layer, size_of
from fastlstm.layers.normalisation import unit

END = 2**31 - 1  # of a slice: all that is left


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
        if rank == 3 and self.axis % rank == 1 and (self.mask_rule == "any" or len(masks) == len(x)):
            parts = [tensor.mask or self._all_valid(tensor) for tensor in x]
            return y.with_mask(y.build.node(f"{self.name}/mask", "Concat", parts, axis=1))
        if self.axis % rank != rank - 1 or rank != 3:
            raise UnsupportedError(
                f"layer {self.name!r}: Concatenate of masked inputs along axis {self.axis} is not supported, only along the last two of three"
            )
        return y.with_mask(self.joined(x))  # an input without a mask counts as all valid

    def _all_valid(self, x: Tensor) -> Tensor:
        """Return the mask (B, T) of steps that all count."""
        build, name = x.build, f"{self.name}/valid"
        one = build.node(name, "Gather", [x, build.weight(f"{self.name}.first", np.array(0, np.int64))], axis=2)
        differs = build.node(name, "NotEqual", [one, one])  # only NaN does: the shape of x, no value of it
        return build.node(name, "Or", [differs, build.weight(f"{self.name}.true", np.array(True))])


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


class Dot(Joining):
    """Products of two inputs row by row, summed over one axis of each: the other axes of the first, then those of the second.

    `normalize`: of each along its axis divided by its norm.
    """

    floor = 1e-14  # of the sums of squares: Keras 3's

    def __init__(self, axes: int | Sequence[int], normalize: bool = False, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.axes = (axes, axes) if isinstance(axes, int) else tuple(axes)
        if len(self.axes) != 2 or not all(isinstance(axis, int) for axis in self.axes):
            raise self.fault(InputError, f"axes={axes!r}: expected a whole number, or one for each of two inputs")
        self.normalize = normalize

    def call(self, x: Sequence[Tensor]) -> Tensor:
        if len(x) != 2:
            raise self.fault(InputError, f"is called on two inputs, got {len(x)}")
        a, b = x
        one, two = (axis % len(t.shape) for axis, t in zip(self.axes, x, strict=True))
        if not one or not two or max(len(a.shape), len(b.shape)) > 3:
            what = f"axes={list(self.axes)} of shapes {a.shape} and {b.shape}"
            raise self.fault(UnsupportedError, f"{what} is not supported, only up to 3 axes, of which not the batch")
        build, name = a.build, self.name
        if self.normalize:
            a, b = (unit(t, axis, f"{name}/unit", self.floor) for t, axis in ((a, one), (b, two)))
        vectors = [len(t.shape) == 2 for t in (a, b)]
        if vectors[0]:
            a = build.node(f"{name}/row", "Unsqueeze", [a, build.ints(f"{name}.axes", 1)])
        elif one == 1:
            a = build.node(f"{name}/turned", "Transpose", [a], perm=(0, 2, 1))
        if vectors[1]:
            b = build.node(f"{name}/column", "Unsqueeze", [b, build.ints(f"{name}.axes", 2)])
        elif two == 2:
            b = build.node(f"{name}/turned", "Transpose", [b], perm=(0, 2, 1))
        y = build.node(name, "MatMul", [a, b])
        if not any(vectors):
            return y
        # two vectors give (B, 1)
        return build.node(f"{name}/squeezed", "Squeeze", [y, build.ints(f"{name}.axes", 1 if vectors[0] else 2)])


class UpSampling(Layer):
    """What UpSampling1D and UpSampling2D share: each step, or each row and column, several times."""

    def repeated(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Repeat along the axes from 1 on."""
        build, name = x.build, self.name
        if len(x.shape) != len(sizes) + 2:
            raise self.fault(ShapeError, f"takes inputs of {len(sizes) + 2} axes, got shape {x.shape}")
        for axis, size in enumerate(sizes, 1):
            apart = build.node(f"{name}/apart", "Unsqueeze", [x, build.ints(f"{name}.axes", axis + 1)])
            times = [1] * len(apart.shape)
            times[axis + 1] = size
            again = build.node(f"{name}/again", "Expand", [apart, build.ints(f"{name}.times", *times)])
            x = build.node(name if axis == len(sizes) else f"{name}/{axis}", "MergeAxes", [again], axis=axis)
        return x


class UpSampling1D(UpSampling):
    """Each step `size` times."""

    def __init__(self, size: int = 2, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.size = size_of(self, "size", size)

    def call(self, x: Tensor) -> Tensor:
        return self.repeated(x, [self.size])


class UpSampling2D(UpSampling):
    """Each row and column as many times as `size` says."""

    def __init__(
        self,
        size: int | Sequence[int] = 2,
        data_format: str | None = None,
        interpolation: str = "nearest",
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        channels_last(self, data_format)
        if interpolation != "nearest":
            raise self.fault(UnsupportedError, f"interpolation={interpolation!r} is not supported, only 'nearest'")
        self.size = sizes_of(self, "size", size, 2)

    def call(self, x: Tensor) -> Tensor:
        return self.repeated(x, self.size)


class Margins(Layer):
    """What zero padding and cropping share: how many steps, or rows and columns, before and after."""

    argument = "padding"
    axes = 1

    def __init__(self, sizes: Any, data_format: str | None = None, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        channels_last(self, data_format)
        if self.axes == 1:
            pairs = [sizes]
        else:
            pairs = [sizes] * self.axes if isinstance(sizes, int) else list(sizes)
        self.margins = [self._pair(pair) for pair in pairs]
        if len(self.margins) != self.axes:
            raise self.fault(InputError, f"{self.argument}={sizes!r}: expected {self.axes} pairs")

    def _pair(self, value: Any) -> tuple[int, int]:
        pair = (value, value) if isinstance(value, int) else tuple(value)
        if len(pair) != 2 or not all(isinstance(n, int) and n >= 0 for n in pair):
            raise self.fault(InputError, f"{self.argument} holds {value!r}: expected counts before and after")
        return pair

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) != self.axes + 2:
            raise self.fault(ShapeError, f"takes inputs of {self.axes + 2} axes, got shape {x.shape}")
        return self.moved(x)

    def moved(self, x: Tensor) -> Tensor:
        """Add the nodes."""
        raise NotImplementedError


class ZeroPadding(Margins):
    """What ZeroPadding1D and ZeroPadding2D share: zeros before and after."""

    def moved(self, x: Tensor) -> Tensor:
        # windows of one step each, which have an axis for it
        for axis, pads in enumerate(self.margins, 1):
            windows = x.build.node(f"{self.name}/padded", "Windows", [x], size=1, axis=axis, pads=pads)
            x = x.build.node(self.name, "Squeeze", [windows, x.build.ints(f"{self.name}.axes", axis + 1)])
        return x


class ZeroPadding1D(ZeroPadding):
    """Steps of zeros before and after."""

    def __init__(self, padding: Any = 1, data_format: str | None = None, name: str | None = None, **options: Any):
        super().__init__(padding, data_format, name, **options)


class ZeroPadding2D(ZeroPadding):
    """Rows and columns of zeros around an image."""

    axes = 2

    def __init__(self, padding: Any = 1, data_format: str | None = None, name: str | None = None, **options: Any):
        super().__init__(padding, data_format, name, **options)


class Cropping(Margins):
    """What Cropping1D and Cropping2D share: what lies at the edges is left out."""

    argument = "cropping"

    def moved(self, x: Tensor) -> Tensor:
        build, name = x.build, self.name
        starts, ends = ([m[side] for m in self.margins] for side in (0, 1))
        for size, before, after in zip(x.shape[1:], starts, ends, strict=False):
            if isinstance(size, int) and before + after >= size:
                raise self.fault(ShapeError, f"leaves nothing of shape {x.shape}")
        last = [-end if end else END for end in ends]
        bounds = [build.ints(f"{name}.{role}", *values) for role, values in (("starts", starts), ("ends", last))]
        return build.node(name, "Slice", [x, *bounds, build.ints(f"{name}.axes", *range(1, 1 + self.axes))])


class Cropping1D(Cropping):
    """All but the first and the last steps."""

    def __init__(self, cropping: Any = (1, 1), name: str | None = None, **options: Any):
        super().__init__(cropping, None, name, **options)


class Cropping2D(Cropping):
    """All but the rows and columns at the edges of an image."""

    axes = 2

    def __init__(
        self, cropping: Any = ((0, 0), (0, 0)), data_format: str | None = None, name: str | None = None, **options: Any
    ):
        super().__init__(cropping, data_format, name, **options)

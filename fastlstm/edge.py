"""The edge where a user's arrays are checked, once: dtype and shape against the model's inputs."""

import numpy as np

from fastlstm.errors import DTypeError, InputError, ShapeError
from fastlstm.graph import TensorSpec

Array = np.ndarray


def kind_of(value: object) -> str:
    """Return what a value is, for a message."""
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def as_input(value: object, spec: TensorSpec) -> Array:
    """Return a value as an array whose dtype can become the input's: floats and integers as floats, integers as integers."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"input {spec.name!r} is no array: {error}; rows of different lengths go in a list of arrays"
        ) from error
    wanted = np.dtype(spec.dtype)
    kinds = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}[wanted.kind]
    if array.dtype.kind not in kinds:
        names = {"f": "floats or integers", "i": "integers", "u": "integers", "b": "booleans"}[wanted.kind]
        raise DTypeError(f"input {spec.name!r} has dtype {array.dtype}, expected {wanted} (or other {names})")
    if wanted.kind in "iu" and array.size and array.dtype != wanted:
        bounds = np.iinfo(wanted)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise InputError(f"input {spec.name!r} holds values outside {wanted}")
    return array


def check_shape(array: Array, spec: TensorSpec, symbols: dict[str, int], free_axis: int | None = None) -> None:
    """Raise ShapeError unless an array fits the input; symbols must have one size each in a call."""
    if spec.shape is None:
        return
    if array.ndim != len(spec.shape):
        raise ShapeError(
            f"input {spec.name!r} has shape {array.shape}, expected {len(spec.shape)} axes: {list(spec.shape)}"
        )
    for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if axis == free_axis:
            continue
        wanted = symbols.setdefault(dim, size) if isinstance(dim, str) else dim
        if size != wanted:
            also = f" ({dim!r} was {wanted} before)" if isinstance(dim, str) else ""
            raise ShapeError(f"input {spec.name!r} has shape {array.shape}, expected {list(spec.shape)}{also}")

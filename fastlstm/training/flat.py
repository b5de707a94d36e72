"""Layout: many named arrays in one flat array, so that an optimizer works on all of them at once."""

from collections.abc import Mapping
from math import prod

import numpy as np

from fastlstm.errors import DTypeError, one_of

LINE = 64  # bytes: every array starts on a cache line of its own


class Layout:
    """Where arrays lie in a flat array of `size` elements: by name a slice, and the shape within it.

    What lies between two arrays is zero and stays so: no gradient reaches it.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        dtypes = {array.dtype for array in arrays.values()}
        if len(dtypes) > 1:
            raise DTypeError(f"weights that are trained together have dtypes {one_of(map(str, dtypes))}, expected one")
        self.dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.slices: dict[str, slice] = {}
        step = LINE // self.dtype.itemsize
        at = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(at, at + prod(shape))
            at += -(-prod(shape) // step) * step
        self.size = at

    def new(self) -> np.ndarray:
        """Return a flat array of zeros, on a cache line."""
        raw = np.zeros(self.size * self.dtype.itemsize + LINE, np.uint8)
        start = -raw.ctypes.data % LINE
        return raw[start : start + self.size * self.dtype.itemsize].view(self.dtype)

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays that lie in a flat array."""
        return {name: flat[self.slices[name]].reshape(shape) for name, shape in self.shapes.items()}

    def gather(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return a flat array that holds copies of these arrays."""
        flat = self.new()
        for name, view in self.views(flat).items():
            np.copyto(view, arrays[name])
        return flat

"""How arrays of one shape lie in memory, for kernels that walk them side by side."""

from collections.abc import Sequence

import numpy as np


def merged_axes(arrays: Sequence[np.ndarray]) -> tuple[list[int], list[list[int]]]:
    """Return the sizes of the axes and each array's strides in bytes; axes that follow each other in all arrays are merged."""
    sizes: list[int] = [1]
    strides = [[array.itemsize] for array in arrays]
    for axis in range(arrays[0].ndim - 1, -1, -1):
        size, steps = arrays[0].shape[axis], [array.strides[axis] for array in arrays]
        if size == 1:
            continue
        if sizes[0] == 1:
            sizes[0] = size
            for mine, step in zip(strides, steps, strict=True):
                mine[0] = step
        elif all(step == mine[0] * sizes[0] for mine, step in zip(strides, steps, strict=True)):
            sizes[0] *= size
        else:
            sizes.insert(0, size)
            for mine, step in zip(strides, steps, strict=True):
                mine.insert(0, step)
    return sizes, strides


def in_elements(arrays: Sequence[np.ndarray], axes: int) -> tuple[tuple[int, ...], ...] | None:
    """Return sizes, then each array's strides in elements, for exactly so many axes; None where they need more or are odd."""
    sizes, strides = merged_axes(arrays)
    if len(sizes) > axes or any(s % a.itemsize for a, mine in zip(arrays, strides, strict=True) for s in mine):
        return None
    missing = axes - len(sizes)
    steps = [[s // a.itemsize for s in mine] for a, mine in zip(arrays, strides, strict=True)]
    return (*missing * (1,), *sizes), *((*missing * (0,), *mine) for mine in steps)

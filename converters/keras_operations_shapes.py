"""Operations of Keras 3 that move elements: what `x[:, -1]`, transpositions, reshapes and joins leave in the file. Filled into `keras_operations`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastlstm.converters.keras_operations import Operation, handler
from fastlstm.layers import Tensor


def _axes(it: Operation, key: str) -> list[int]:
    """Return an option that is one whole number or several."""
    value = it.option(key)
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise it.refuse(f"{key}={value!r}")
    return list(values)


@handler("ExpandDims")
def _expand_dims(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    return it.emit("Unsqueeze", [x, it.build.ints(f"{it.name}.axes", *_axes(it, "axis"))])


@handler("Squeeze")
def _squeeze(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    return it.emit("Squeeze", [x, it.build.ints(f"{it.name}.axes", *_axes(it, "axis"))])


@handler("Transpose")
def _transpose(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    axes = it.option("axes")
    return it.emit("Transpose", [x], perm=tuple(range(len(x.shape)))[::-1] if axes is None else tuple(map(int, axes)))


@handler("Reshape")
def _reshape(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    return it.emit("Reshape", [x, it.build.ints(f"{it.name}.shape", *_axes(it, "newshape"))])


@handler("Flip")
def _flip(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    for axis in _axes(it, "axis"):
        x = it.emit("Reverse", [x], axis=axis)
    return x


@handler("Repeat")
def _repeat(it: Operation) -> Tensor:
    """Each element several times: an axis of its own that is repeated, and joined."""
    (x,) = it.tensors(1)
    (axis,), (count,) = _axes(it, "axis"), _axes(it, "repeats")
    axis %= len(x.shape)
    apart = it.emit("Unsqueeze", [x, it.build.ints(f"{it.name}.axes", axis + 1)], "/apart")
    times = [1] * len(apart.shape)
    times[axis + 1] = count
    again = it.emit("Expand", [apart, it.build.ints(f"{it.name}.times", *times)], "/again")
    return it.emit("MergeAxes", [again], axis=axis)


@handler("Take")
def _take(it: Operation) -> Tensor:
    x, index = it.args if len(it.args) == 2 else (None, None)
    (axis,) = _axes(it, "axis")
    if isinstance(index, int):
        index = it.build.weight(f"{it.name}.index", np.array(index, np.int64))
    if not isinstance(x, Tensor) or not isinstance(index, Tensor) or index.value.dtype.kind != "i":
        raise it.refuse("a call but on a value and whole numbers")
    return it.emit("Gather", [x, index], axis=axis)


@handler("Concatenate")
def _concatenate(it: Operation) -> Tensor:
    it.args = it.args[0] if len(it.args) == 1 and isinstance(it.args[0], list) else it.args
    return it.emit("Concat", it.tensors(len(it.args)), axis=int(it.option("axis", 0)))


@handler("GetItem")
def _get_item(it: Operation) -> Tensor:
    """x[key], where the key holds whole numbers and slices."""
    if len(it.args) != 2 or not isinstance(it.args[0], Tensor):
        raise it.refuse(f"a call with {len(it.args)} arguments")
    x, key = it.args
    axis = 0
    for part in key if isinstance(key, list) else [key]:
        if isinstance(part, int) and not isinstance(part, bool):
            index = it.build.weight(f"{it.name}.index", np.array(part, np.int64))
            x = it.emit("Gather", [x, index], "/index", axis=axis)
        elif isinstance(part, Mapping) and part.get("class_name") == "__slice__":
            x = _sliced(it, x, axis, part["config"])
            axis += 1
        else:
            raise it.refuse(f"the index {part!r}")
    return it.emit("Identity", [x])


def _sliced(it: Operation, x: Tensor, axis: int, cut: Mapping[str, Any]) -> Tensor:
    start, stop, step = (cut.get(name) for name in ("start", "stop", "step"))
    if any(v is not None and not isinstance(v, int) for v in (start, stop, step)) or (step is not None and step <= 0):
        raise it.refuse(f"the slice {start}:{stop}:{step}")
    if (start, stop, step) == (None, None, None):
        return x
    bounds = (start or 0, 2**63 - 1 if stop is None else stop, axis, step or 1)
    return it.emit("Slice", [x, *(it.build.ints(f"{it.name}.slice", v) for v in bounds)], "/slice")

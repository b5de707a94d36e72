"""Layers called on arrays: what they were called on becomes a graph, which is kept with its session and runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastlstm.errors import InputError
from fastlstm.layers.build import Build, Tensor
from fastlstm.layers.layer import Layer
from fastlstm.layers.symbolic import leaves, mapped
from fastlstm.session import Session

KEPT = 16  # kinds of calls of a layer whose sessions are kept


class _Ready:
    """A session for one kind of call, good while the weights are what they were."""

    def __init__(self, layer: Layer, arrays: list[np.ndarray], replay: Any):
        build = Build()
        free = iter(range(sum(array.ndim for array in arrays)))
        tensors = [
            build.input(f"x{k}", array.dtype.name, tuple(_dim(axis, n, array.ndim, next(free)) for axis, n in enumerate(array.shape)))
            for k, array in enumerate(arrays)
        ]
        made = replay(iter(tensors))
        self.weights = layer.get_weights()
        self.outputs: list[str] = []

        def named(tensor: Tensor) -> int:
            self.outputs.append(tensor.name)
            kept.append(tensor)
            return len(kept) - 1

        kept: list[Tensor] = []
        self.structure = mapped(made, named)
        model = build.model(build.distinct(kept))
        self.names = [spec.name for spec in model.graph.outputs]
        self.session = Session(model)
        self.inputs = [spec.name for spec in model.graph.inputs]

    def fits(self, layer: Layer) -> bool:
        weights = layer.weights
        return len(weights) == len(self.weights) and all(map(np.array_equal, weights, self.weights))

    def run(self, arrays: list[np.ndarray]) -> Any:
        results = self.session.run(dict(zip(self.inputs, arrays, strict=True)))
        return mapped(self.structure, lambda k: results[self.names[k]])


def _dim(axis: int, size: int, rank: int, number: int) -> int | str:
    """Leave the batch and, where features follow, the steps open."""
    return "batch" if axis == 0 else f"time{number}" if axis == 1 and rank > 2 else size


def run(layer: Layer, x: Any, mask: Any, training: bool | None, arguments: Mapping[str, Any]) -> Any:
    """Call a layer on arrays and return arrays in the structure of its output. Floats that are not float64 are taken as float32.

    A nested list is one array, but for layers of several inputs, and where arrays of initial states follow the input.
    """
    if layer.several and not isinstance(x, list | tuple | Mapping):
        raise layer.fault(InputError, "is called on a list of inputs")
    given = {"x": _arrays(layer, x), "mask": None if mask is None else mapped(mask, np.asarray), **mapped(dict(arguments), _array)}
    arrays = leaves(list(given.values()))
    if not arrays:
        raise layer.fault(InputError, "called without an array")

    def replay(tensors: Any) -> Any:
        filled = mapped(given, lambda array: array if not isinstance(array, np.ndarray) else next(tensors))
        x, mask, rest = filled["x"], filled["mask"], {key: filled[key] for key in arguments}
        return layer.on_tensors(x, mask, training, rest)

    values = [array for array in arrays if isinstance(array, np.ndarray)]
    options = tuple(array for array in arrays if not isinstance(array, np.ndarray))
    key = (tuple((a.dtype.name, a.ndim, a.shape[1:] if a.ndim < 3 else a.shape[2:]) for a in values), tuple(arguments), options, training)
    kept: dict = layer.__dict__.setdefault("_sessions", {})
    if key not in kept or not kept[key].fits(layer):
        if len(kept) >= KEPT:
            kept.clear()
        kept[key] = _Ready(layer, values, replay)
    return kept[key].run(values)


def _arrays(layer: Layer, x: Any) -> Any:
    if isinstance(x, Mapping):
        return {key: _array(value) for key, value in x.items()}
    several = layer.several or (isinstance(x, list | tuple) and all(isinstance(part, np.ndarray) for part in x))
    return [_array(part) for part in x] if several and isinstance(x, list | tuple) else _array(x)


def _array(value: Any) -> Any:
    """Return a value as an array of float32, float64, whole numbers or booleans; options such as True stay as they are."""
    if isinstance(value, bool | str):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"no array: {error}") from error
    if array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):
        return array.astype(np.float32)
    if array.dtype == np.float64 and not isinstance(value, np.ndarray | np.generic):
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise InputError(f"an array of {array.dtype} is not supported")
    return array

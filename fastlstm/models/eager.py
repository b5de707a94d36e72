"""Layers called on arrays: the call becomes a graph, which is kept with its session, and runs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastlstm.errors import InputError
from fastlstm.layers.build import Build, Tensor
from fastlstm.layers.layer import Layer
from fastlstm.layers.recurrent import RNN, Bidirectional, Recurrent
from fastlstm.layers.symbolic import leaves, mapped
from fastlstm.models.network import Network
from fastlstm.session import Session

KEPT = 16  # kinds of calls of a layer whose sessions are kept
Replay = Callable[[Iterator[Tensor]], Any]


class _Ready:
    """The session of one kind of call, good while the weights are what they were."""

    def __init__(self, layer: Layer, arrays: list[np.ndarray], replay: Replay):
        build, outputs = Build(), list[Tensor]()
        shapes = [_dims(layer, k, array) for k, array in enumerate(arrays)]
        inputs = [
            build.input(f"x{k}", a.dtype.name, shape) for k, (a, shape) in enumerate(zip(arrays, shapes, strict=True))
        ]

        def placed(tensor: Tensor) -> int:
            outputs.append(tensor)
            return len(outputs) - 1

        self.structure = mapped(replay(iter(inputs)), placed)
        self.weights = layer.get_weights()
        model = build.model(build.distinct(outputs))
        self.outputs = [spec.name for spec in model.graph.outputs]
        self.session = Session(model)

    def fits(self, layer: Layer) -> bool:
        weights = layer.weights
        return len(weights) == len(self.weights) and all(map(np.array_equal, weights, self.weights))

    def run(self, arrays: list[np.ndarray]) -> Any:
        results = self.session.run({f"x{k}": array for k, array in enumerate(arrays)})
        return mapped(self.structure, lambda k: results[self.outputs[k]])


def _dims(layer: Layer, k: int, array: np.ndarray) -> tuple[int | str, ...]:
    """Return the shape of an input: the batch is free, and the steps where the layer takes any number of them."""
    if isinstance(layer, Network) and layer.built and k < len(layer.inputs):
        return layer.input_specs[k].shape or ()
    free = array.ndim > 2 and isinstance(layer, Recurrent | RNN | Bidirectional)
    return tuple(
        "batch" if axis == 0 else f"time_{k}" if axis == 1 and free else n for axis, n in enumerate(array.shape)
    )


def run(layer: Layer, x: Any, mask: Any, training: bool | None, arguments: Mapping[str, Any]) -> Any:
    """Call a layer on arrays and return arrays in the structure of its output.

    Floats take the dtype of the layer: that of its weights, else the one it was given, else float32. A nested list is one array, but
    for layers of several inputs. Raise InputError for what is no array.
    """
    if layer.several and not isinstance(x, list | tuple | Mapping):
        raise layer.fault(InputError, "is called on a list of inputs")
    dtype = _dtype(layer)
    array = lambda value: _array(value, dtype)
    nested = isinstance(x, list | tuple) and (layer.several or all(isinstance(part, np.ndarray) for part in x))
    given = {
        "x": mapped(x, array) if isinstance(x, Mapping) else [array(part) for part in x] if nested else array(x),
        "mask": mapped(mask, np.asarray),
        **mapped(dict(arguments), array),
    }
    everything = leaves(list(given.values()))
    arrays = [value for value in everything if isinstance(value, np.ndarray)]
    options = tuple(value for value in everything if not isinstance(value, np.ndarray))
    if not arrays:
        raise layer.fault(InputError, "called without an array")

    def replay(tensors: Iterator[Tensor]) -> Any:
        filled = mapped(given, lambda value: next(tensors) if isinstance(value, np.ndarray) else value)
        return layer.on_tensors(filled.pop("x"), filled.pop("mask"), training, filled)

    shapes = tuple((a.dtype.name, *(d for d in _dims(layer, k, a))) for k, a in enumerate(arrays))
    key = (shapes, mask is None, tuple(arguments), options, training)
    kept: dict[Any, _Ready] = layer.__dict__.setdefault("_sessions", {})
    if key not in kept or not kept[key].fits(layer):
        if len(kept) >= KEPT:
            kept.clear()
        kept[key] = _Ready(layer, arrays, replay)
    return kept[key].run(arrays)


def _dtype(layer: Layer) -> np.dtype:
    floats = [array.dtype for array in layer.weights if array.dtype.kind == "f"]
    return np.dtype(floats[0] if floats else layer.dtype or np.float32)


def _array(value: Any, dtype: np.dtype) -> Any:
    """Return a value as an array, floats of `dtype`; options such as True stay as they are."""
    if isinstance(value, bool | str):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"this is no array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"an array of {array.dtype} is not supported")
    return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array

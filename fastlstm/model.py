"""Model: a graph with its weights, metadata and recorded example; what converters make and files hold."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fastlstm import format
from fastlstm.container import file_error
from fastlstm.errors import FastLSTMError, InputError, one_of
from fastlstm.format import Contents, Example
from fastlstm.graph import Graph, Quantized, Weight, widen
from fastlstm.ops import inference

STORAGE = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Model:
    """A network that can be saved and run. Made by `fastlstm.convert` or `fastlstm.load`.

    `metadata` says where it came from; `example` is a recorded input with the source engine's output.
    """

    graph: Graph
    weights: Mapping[str, Weight]
    metadata: Mapping[str, str] = field(default_factory=dict)
    example: Example | None = None

    def __post_init__(self) -> None:
        inference.check(self.graph, self.weights)

    @property
    def parameters(self) -> int:
        """The number of elements of all weights."""
        return sum(int(np.prod(weight.shape)) for weight in self.weights.values())

    def save(self, path: str | os.PathLike, weights: str | None = None) -> None:
        """Write the model file, atomically and with deterministic bytes.

        `weights` stores matrices as "float32", "float16" or "int8" with one scale per output column; None keeps them as they are.

        >>> model.save("model.safetensors", weights="float16")
        """
        format.write_atomically(path, (self if weights is None else self.narrowed(weights)).to_bytes())

    def export(self, path: str | os.PathLike, opset: int | None = None, right_padded: bool = False) -> None:
        """Write a file for other engines with the same outputs: `.keras`, which Keras 3 loads, or `.onnx`. The name says which.

        opset: of an ONNX graph, 13 to 23; None: 17, or the first later one with an operator for every node.
        right_padded: in masks that the model makes of its inputs the valid steps of every row come first, so that ONNX's lengths stand for them.
        Raise UnsupportedError naming every node that the format lacks.

        >>> fastlstm.convert("old.h5").export("new.keras")
        >>> fastlstm.convert("old.h5").export("new.onnx")
        """
        from fastlstm.converters import exported

        format.write_atomically(path, exported(self, path, opset, right_padded))

    def to_bytes(self) -> bytes:
        """Return the bytes of the model file."""
        return format.to_bytes(Contents(self.graph, dict(self.weights), dict(self.metadata), self.example))

    def narrowed(self, storage: str) -> "Model":
        """Return the model with its matrices in "float32", "float16" or "int8"; vectors stay as they are."""
        if storage not in STORAGE:
            raise InputError(f"weights={storage!r}: expected one of {one_of(STORAGE)}")
        chosen = inference.matrices(self.graph)
        weights = {name: _store(name, w, storage) if name in chosen else w for name, w in self.weights.items()}
        return replace(self, weights=weights)


def _store(name: str, weight: Weight, storage: str) -> Weight:
    wide = widen(weight)
    if wide.dtype.kind != "f" or wide.ndim < 2:
        return weight
    if storage == "float32":
        return wide.astype(np.float32)
    if storage == "float16":
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float16)
        if not np.isfinite(narrow).all():
            raise InputError(
                f"weight {name!r} reaches {np.abs(wide).max():.3g}, more than float16 holds (65504): store it as float32"
            )
        return narrow
    scale = (np.abs(wide).max(axis=tuple(range(wide.ndim - 1)), initial=0) / 127).astype(np.float32)
    steps = wide / np.where(scale == 0, 1, scale)
    return Quantized(np.clip(np.rint(steps), -127, 127).astype(np.int8), scale)


def storage(weights: Mapping[str, Weight]) -> str:
    """Return the narrowest storage among the weights: float32, float16 or int8."""
    if any(isinstance(weight, Quantized) for weight in weights.values()):
        return "int8"
    return (
        "float16" if any(isinstance(w, np.ndarray) and w.dtype == np.float16 for w in weights.values()) else "float32"
    )


def load(path: str | os.PathLike) -> Model:
    """Read a model file that `Model.save` wrote. Raise ModelFileError if it is anything else, or damaged.

    >>> model = fastlstm.load("model.safetensors")
    """
    contents = format.read(path)
    try:
        return Model(contents.graph, contents.weights, contents.metadata, contents.example)
    except FastLSTMError as error:
        raise file_error(path, error) from error

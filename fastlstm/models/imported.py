"""Fine-tuning: a loaded or converted model as a network that training moves, by replaying its graph."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from fastlstm.container import opened
from fastlstm.converters import convert, sniff
from fastlstm.errors import InputError, one_of
from fastlstm.graph import Graph, TensorSpec, widen
from fastlstm.layers.build import Build, Tensor
from fastlstm.model import Model as SavedModel
from fastlstm.model import load
from fastlstm.ops.op import find
from fastlstm.session import Session
from fastlstm.training.trainable import Trainable

# of BatchNormalization, and of Normalization, which subtracts and divides
STATISTICS = {("BatchNormalization", "mean"), ("BatchNormalization", "variance"), ("Sub", "B"), ("Div", "B")}
STATES = ("h0", "c0")


class Imported(Trainable):
    """A network made of a saved model's graph: `compile`, `fit`, `evaluate` and `predict` as any other, `to_model` and `save` give the graph back.

    Weights are known by the names that they have in the model. Matrices and vectors that nodes read as weights are trained, scalars and
    whole numbers are constants; the statistics of a BatchNormalization, and what nodes subtract or divide by, stay as they are, and what dropped in training drops no longer.
    """

    built = True

    def __init__(self, model: SavedModel, freeze: Sequence[str] = ()):
        if not isinstance(model, SavedModel):
            raise InputError(f"trainable takes a fastlstm.Model, as load and convert give, got {type(model).__name__}")
        self._graph, self._metadata = model.graph, dict(model.metadata)
        wide = {name: widen(weight) for name, weight in model.weights.items()}
        read = _read_as_weights(model.graph)
        self.weights = {name: np.array(wide[name]) for name in wide if _moves(wide[name], read.get(name, []))}
        self.constants = {name: array for name, array in wide.items() if name not in self.weights}
        fixed = {name for name, places in read.items() if any(place in STATISTICS for place in places)}
        self.frozen = fixed & set(self.weights) | _matching(freeze, self.weights, model.graph)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self._graph.inputs

    @property
    def output_names(self) -> list[str]:
        """The names of the model's outputs."""
        return [spec.name for spec in self._graph.outputs]

    @property
    def trainable_weights(self) -> list[np.ndarray]:
        """The weights that training moves."""
        return [array for name, array in self.weights.items() if name not in self.frozen]

    @property
    def non_trainable_weights(self) -> list[np.ndarray]:
        """The weights that are frozen."""
        return [array for name, array in self.weights.items() if name in self.frozen]

    def count_params(self) -> int:
        """Return the number of elements of all weights."""
        return sum(array.size for array in self.weights.values())

    def forward(self, build: Build, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Add the model's nodes to a graph and return its outputs."""
        values: dict[str, Tensor] = dict(zip((spec.name for spec in self._graph.inputs), inputs, strict=True))
        self._names: dict[str, str] = {}
        for name, array in self.constants.items():
            values[name] = build.weight(name, array)
        for name, array in self.weights.items():
            values[name] = build.parameter(name, array, name not in self.frozen)
            self._names[values[name].name] = name
        for node in self._graph.nodes:
            given = [values[name] if name else None for name in node.inputs]
            wanted = [bool(name) for name in node.outputs]
            made = build.node(node.name, node.op, given, wanted, node.subgraphs or None, **node.attributes)
            values |= {name: tensor for name, tensor in zip(node.outputs, made, strict=False) if name}
        return [values[spec.name] for spec in self._graph.outputs]

    def adopt(self, weights: Mapping[str, np.ndarray]) -> None:
        """Let the weights of these names, as the last graph for training gave them, be these arrays, which hold the same numbers."""
        for name, array in weights.items():
            self.weights[self._names[name]] = array

    def held(self, name: str) -> np.ndarray:
        """Return the array that the weight of this name, as the last graph for training gave it, is."""
        return self.weights[self._names[name]]

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of the weights, in the order of the model."""
        return [array.copy() for array in self.weights.values()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take copies of the weights, in the order of the model. Raise InputError if there are more or fewer."""
        if len(weights) != len(self.weights):
            raise InputError(f"the model has {len(self.weights)} weights, got {len(weights)}")
        for own, new in zip(self.weights.values(), weights, strict=True):
            np.copyto(own, new)

    def to_model(self) -> SavedModel:
        """Return the model as it is now, with copies of the weights."""
        copies = {name: array.copy() for name, array in self.weights.items()}
        return SavedModel(self._graph, self.constants | copies, self._metadata)

    def save(self, path: str | Path) -> None:
        """Write the model file that `fastlstm.load` reads; to a path that ends in `.keras` the file that Keras 3 loads."""
        self.export(path) if Path(path).suffix == ".keras" else self.to_model().save(path)

    def export(self, path: str | Path) -> None:
        """Write a Keras 3 file of the network as it is now. Raise UnsupportedError naming a node that Keras lacks."""
        self.to_model().export(path)

    def __call__(self, x: Any) -> Any:
        """Run the model on an array, or on arrays by name, as `Session.run`."""
        return Session(self.to_model()).run(x)


def trainable(model: SavedModel, freeze: Sequence[str] = ()) -> Imported:
    """Return a network that `fit` trains, of a model that `load` or `convert` gave; the model itself stays as it is.

    `freeze` names weights, or nodes whose weights stay, with * and ? as in file names. Raise InputError for a name that nothing bears.

    >>> network = fastlstm.models.trainable(fastlstm.load("model.safetensors"), freeze=["lstm*"])
    >>> network.compile("adam", "mse")
    """
    return Imported(model, [freeze] if isinstance(freeze, str) else freeze)


def load_model(path: str | Path, freeze: Sequence[str] = ()) -> Imported:
    """Return a network that runs and trains, of a model file of ours or of a Keras file, told apart by content.

    >>> fastlstm.models.load_model("model.keras").predict(x)
    """
    with opened(path) as (file, _):
        found = sniff(file.read(8))
    return trainable(convert(path) if found == "keras" else load(path), freeze)


def _read_as_weights(graph: Graph) -> dict[str, list[tuple[str, str]]]:
    """Return for each value the (op, slot) pairs that read it."""
    read: dict[str, list[tuple[str, str]]] = {}
    for node in graph.nodes:
        for k, name in enumerate(node.inputs):
            if name:
                read.setdefault(name, []).append((node.op, find(node.op).slot(k).name))
    return read


def _moves(array: np.ndarray, places: Sequence[tuple[str, str]]) -> bool:
    """Tell whether a constant is a weight: a vector or matrix of floats that stands for no state."""
    return array.dtype.kind == "f" and array.ndim > 0 and bool(places) and not any(slot in STATES for _, slot in places)


def _matching(patterns: Sequence[str], weights: Mapping[str, np.ndarray], graph: Graph) -> set[str]:
    """Return the weights whose names, or whose readers' names, match a pattern. Raise InputError for one that matches nothing."""
    found: set[str] = set()
    readers = {name: [node.name for node in graph.nodes if name in node.inputs] for name in weights}
    for pattern in patterns:
        matched = {name for name in weights if any(fnmatchcase(n, pattern) for n in (name, *readers[name]))}
        if not matched:
            nodes = sorted({node for names in readers.values() for node in names})
            raise InputError(
                f"freeze: {pattern!r} names no weight and no node; weights: {one_of(weights)}; nodes: {one_of(nodes)}"
            )
        found |= matched
    return found

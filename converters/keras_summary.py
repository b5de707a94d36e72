"""What a Keras file holds, told without building its model: version, layers, weights, and all that a conversion would refuse."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlstm.converters._keras_config import MODELS, Config, children, layer_name
from fastlstm.converters.from_keras import from_keras
from fastlstm.converters.keras_file import KerasFile, read_keras_file, stored_weights
from fastlstm.converters.keras_layers import Context, is_known, layer_from_config
from fastlstm.converters.keras_operations import check_operation, is_operation
from fastlstm.converters.keras_text import LAYERS as TEXT_LAYERS
from fastlstm.converters.keras_text import vocabulary
from fastlstm.errors import FastLSTMError, UnsupportedError

SHOWN = 200  # characters of a configuration in a stub


@dataclass(frozen=True)
class LayerSummary:
    """A layer: its place among nested models, its class, the shapes of its weights, and why it would be refused."""

    path: str
    class_name: str
    shapes: list[tuple[int, ...]]
    refused: str | None = None
    stub: str | None = None

    @property
    def parameters(self) -> int:
        """The number of elements of its weights."""
        return sum(int(np.prod(shape)) for shape in self.shapes)


@dataclass(frozen=True)
class Summary:
    """A file: its format, versions and layers; `refused` is what no single layer is the cause of."""

    format: str
    keras_version: str
    backend: str | None
    layers: list[LayerSummary] = field(default_factory=list)
    refused: str | None = None


def summarize(data: bytes, architecture: Any = None, where: str = "the file") -> Summary:
    """Return what a Keras file's bytes hold. Raise ModelFileError for a damaged one, UnsupportedError for one that is not read at all.

    A file of weights alone is listed by the names that it has, where no architecture is given.
    """
    alone = stored_weights(data, where) if architecture is None else None
    if alone is not None:
        version, backend, layers = alone
        found = [LayerSummary(name, "", [shape for _, shape in weights]) for name, weights in layers]
        return Summary(
            "h5-weights", version, backend, found, "weights alone: pass architecture=, what model.to_json() gives"
        )
    file = read_keras_file(data, architecture, where)
    layers = list(_layers(file, Context(file.keras_version, {}), file.config, ""))
    refused = None if any(layer.refused for layer in layers) else _refusal(data, architecture, where)
    return Summary(file.format, file.keras_version, file.backend, layers, refused)


def _refusal(data: bytes, architecture: Any, where: str) -> str | None:
    """Return why the model as a whole is refused, None where it is not."""
    try:
        from_keras(data, architecture, where=where)
    except FastLSTMError as error:
        return str(error)
    return None


def _layers(file: KerasFile, context: Context, model: Config, above: str) -> Iterator[LayerSummary]:
    for layer in children(model):
        path = f"{above}{layer_name(layer)}"
        if layer["class_name"] in MODELS:
            yield LayerSummary(path, layer["class_name"], [])
            yield from _layers(file, context, layer, f"{path}/")
        else:
            yield _layer(file, context, layer, path)


def _layer(file: KerasFile, context: Context, layer: Config, path: str) -> LayerSummary:
    shapes: list[tuple[int, ...]] = []
    class_name, refused, stub = str(layer["class_name"]), None, None
    try:
        shapes = [array.shape for _, array in file.layer_weights(path)]
        if is_operation(layer):
            check_operation(layer)
        elif class_name in TEXT_LAYERS:
            vocabulary(layer, None, context, file.words)
        elif class_name != "InputLayer":
            layer_from_config(layer, context)
    except FastLSTMError as error:
        refused = str(error)
        if (
            isinstance(error, UnsupportedError)
            and not is_known(class_name)
            and not is_operation(layer)
            and class_name not in TEXT_LAYERS
        ):
            stub = stub_of(layer, shapes)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        refused = f"layer {path!r}: its configuration is malformed ({type(error).__name__}: {error})"
    return LayerSummary(path, class_name, shapes, refused, stub)


def stub_of(layer: Config, shapes: list[tuple[int, ...]]) -> str:
    """Return the program to fill in for a class of one's own: docs/custom-layers.md has an example."""
    name = "".join(c for c in str(layer["class_name"]).rpartition(">")[2] if c.isidentifier() or c.isdigit()) or "Mine"
    roles = [f"w{k}" for k in range(len(shapes))]
    weights = ", ".join(f'"{role}": {shape}' for role, shape in zip(roles, shapes, strict=True))
    taken = "".join(f'\n        {role} = self.add_weight(x.build, "{role}", "{role}")' for role in roles)
    config = {key: value for key, value in layer["config"].items() if key not in ("name", "trainable", "dtype")}
    return f"""class {name}(fastlstm.layers.Layer):
    roles = {tuple(roles)}

    def weight_shapes(self, x=None):
        return {{{weights}}}  # as in the file; None for sizes that the input decides

    def call(self, x):{taken}
        return ...  # nodes: x.build.node(self.name, op, [x, ...])

fastlstm.convert(path, custom={{{str(layer["class_name"])!r}: lambda config: {name}(config.get("name"))}})
# config: {str(config)[:SHOWN]}"""

"""Network: calls of layers between symbols, replayed into any graph. What Sequential and Model share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastlstm.errors import InputError, one_of
from fastlstm.graph import TensorSpec
from fastlstm.layers.build import Build, Tensor
from fastlstm.layers.layer import Layer
from fastlstm.layers.operations import Operator
from fastlstm.layers.order import ordered
from fastlstm.layers.symbolic import Call, InputLayer, Symbol, leaves
from fastlstm.model import Model as SavedModel
from fastlstm.models.summary import summarize


class Network(Layer):
    """A layer that is made of layers: `connect` says between which symbols; `forward` replays their calls.

    `inputs` and `outputs` are lists of symbols, `layers` stand in Keras's order.
    """

    def __init__(self, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.inputs: list[Symbol] = []
        self.outputs: list[Symbol] = []
        self._layers: list[Any] = []
        self._calls: list[Call] = []
        self._places: dict[str, tuple[Layer, str]] = {}

    def connect(self, inputs: Sequence[Symbol], outputs: Sequence[Symbol]) -> None:
        """Take the calls that lie between these symbols."""
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._calls, self._layers = ordered(self.inputs, self.outputs)
        _name_apart(self._layers)

    @property
    def several(self) -> bool:  # type: ignore[override]
        """Whether it takes several inputs."""
        return len(self.inputs) > 1

    # ---- what it is made of -------------------------------------------------------------------------
    @property
    def layers(self) -> list[Any]:
        """The layers, each once, inputs among them, in Keras's order; operators are none."""
        return [layer for layer in self._layers if not isinstance(layer, Operator)]

    @property
    def parts(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self._layers if isinstance(layer, Layer))

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"{part.name}.{role}" for part in self.parts for role in part.roles)

    @property
    def built(self) -> bool:
        """Whether inputs and outputs are known, and with them every weight."""
        return bool(self.outputs)

    def build(self, input_shape: Any) -> None:
        if not self.built:
            raise self.fault(InputError, "has no inputs yet")

    @property
    def differs_in_training(self) -> bool:
        return any(part.differs_in_training for part in self.parts)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """Return a layer by name, or by its place in `layers`. Raise InputError where there is none."""
        if index is not None:
            if not -len(self.layers) <= index < len(self.layers):
                raise self.fault(InputError, f"has {len(self.layers)} layers, none at {index}")
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise self.fault(InputError, f"has no layer {name!r}; it has {one_of(layer.name for layer in self.layers)}")

    @property
    def input(self) -> Any:
        """The symbol of the input; a list of them for several inputs."""
        self._need_built()
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs

    @property
    def output(self) -> Any:
        """The symbol of the output; a list of them for several outputs."""
        self._need_built()
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs."""
        return [spec.name for spec in self.input_specs]

    @property
    def output_names(self) -> list[str]:
        """The names of the layers that give the outputs; one that gives several is numbered."""
        names: list[str] = []
        for symbol in self.outputs:
            base = symbol.layer.name
            names.append(base if base not in names else f"{base}_{names.count(base)}")
        return names

    @property
    def input_shape(self) -> Any:
        """The shape of the input with None for free sizes; a list of them for several inputs."""
        shapes = [_shape_of(symbol) for symbol in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        """The shape of the output with None for free sizes; a list of them for several outputs."""
        shapes = [symbol.shape for symbol in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """The inputs, the batch first: a symbol, but a number where a layer keeps states between batches."""
        self._need_built()
        return tuple(self._spec(k, symbol, self.stateful) for k, symbol in enumerate(self.inputs))

    def _spec(self, k: int, symbol: Symbol, fixed: bool) -> TensorSpec:
        layer = symbol.layer
        if symbol.call is not None:
            return TensorSpec(layer.name, symbol.dtype, symbol.dims)
        dims = layer.dims(layer.name if k else None)
        batch = layer.batch_shape[0] if fixed else None
        return TensorSpec(layer.name, symbol.dtype, dims if batch is None else (batch, *dims[1:]))

    @property
    def stateful(self) -> bool:
        """Whether a layer keeps states between batches."""
        return any(getattr(part, "stateful", False) for part in self.parts)

    def reset_states(self) -> None:
        """Let stateful layers start from zeros."""
        for part in self.parts:
            part.reset_states()

    def _need_built(self) -> None:
        if not self.built:
            raise self.fault(
                InputError,
                "has no inputs yet: begin with Input(shape), pass input_shape to the first layer, or call build",
            )

    # ---- replay -------------------------------------------------------------------------------------
    def forward(self, build: Build, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Add the network's nodes to a graph and return its outputs, with their masks."""
        self._need_built()
        values: dict[Symbol, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        fill = lambda leaf: values[leaf] if isinstance(leaf, Symbol) else leaf
        for call in self._calls:
            values |= zip(call.outputs, leaves(call.replay(fill)), strict=True)
        self._places |= {tensor.name: place for place, tensor in build.entered.items()}
        return [values[symbol] for symbol in self.outputs]

    def call(self, x: Any) -> Any:
        given = self._in_order(x)
        if len(given) != len(self.inputs):
            raise self.fault(InputError, f"takes {len(self.inputs)} inputs, got {len(given)}")
        outputs = self.forward(given[0].build, given)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _in_order(self, x: Any) -> list[Any]:
        """Return inputs in the order of `inputs`, which a dict has by name."""
        if not isinstance(x, Mapping):
            return leaves(x)
        missing = [name for name in self.input_names if name not in x]
        if missing:
            raise self.fault(InputError, f"lacks its input {missing[0]!r}; it takes {one_of(self.input_names)}")
        return [x[name] for name in self.input_names]

    def on_tensors(
        self, x: Any, mask: Any = None, training: bool | None = None, arguments: Mapping[str, Any] = {}
    ) -> Any:
        if not self.built:
            shapes = [tensor.shape for tensor in leaves(x)]
            self.build(shapes[0] if len(shapes) == 1 else shapes)
        return super().on_tensors(self._in_order(x), mask, training, arguments)

    def adopt(self, weights: Mapping[str, np.ndarray]) -> None:  # type: ignore[override]
        """Let the weights of these names, as the last graph for training gave them, be these arrays, which hold the same numbers."""
        for name, array in weights.items():
            layer, role = self._places[name]
            Layer.adopt(layer, role, array)

    def held(self, name: str) -> np.ndarray:
        """Return the array that the weight of this name, as the last graph for training gave it, is."""
        layer, role = self._places[name]
        return Layer.held(layer, role)

    # ---- what it becomes ----------------------------------------------------------------------------
    def to_model(self) -> SavedModel:
        """Return the model as it is now: a graph with copies of the weights, to save, run and stream."""
        self._need_built()
        build = Build()
        specs = [self._spec(k, symbol, False) for k, symbol in enumerate(self.inputs)]
        outputs = self.forward(build, [build.input(s.name, s.dtype, s.shape or ()) for s in specs])
        model = build.model(build.distinct(outputs), {"source": "fastlstm"})
        weights = {name: array.copy() for name, array in model.weights.items() if isinstance(array, np.ndarray)}
        return SavedModel(model.graph, weights, model.metadata)

    def save(self, path: str | Path) -> None:
        """Write the model file that `fastlstm.load` reads; to a path that ends in `.keras` the file that Keras 3 loads."""
        self.export(path) if Path(path).suffix == ".keras" else self.to_model().save(path)

    def export(self, path: str | Path, opset: int | None = None, right_padded: bool = False) -> None:
        """Write a Keras 3 file or an ONNX graph of the network as it is now, as `fastlstm.Model.export` does."""
        self.to_model().export(path, opset, right_padded)

    def summary(self, line_length: int | None = None, print_fn: Any = None) -> None:
        """Print a table of the layers: output shapes and numbers of parameters. `print_fn` takes it as text instead."""
        self._need_built()
        summarize(self, line_length, print_fn)


def _shape_of(symbol: Symbol) -> tuple[int | None, ...]:
    """Return the declared shape of an input, a fixed batch included."""
    return symbol.layer.batch_shape if isinstance(symbol.layer, InputLayer) else symbol.shape


def _name_apart(layers: Sequence[Any]) -> None:
    """Number layers that were not named by hand, where others of the model bear their names; a name that a model gave stays.

    Raise InputError for two names by hand that are one.
    """
    by_hand = [layer.name for layer in layers if not layer.auto_named]
    repeated = [name for k, name in enumerate(by_hand) if name in by_hand[:k]]
    if repeated:
        raise InputError(f"two layers are named {repeated[0]!r}")
    taken = set(by_hand)
    settled = [layer for layer in layers if layer.auto_named and layer.settled and layer.name not in taken]
    taken |= {layer.name for layer in settled}
    for layer in layers:
        if not layer.auto_named or layer in settled:
            continue
        name, k = layer.name, 0
        while name in taken:
            k += 1
            name = f"{layer.name}_{k}"
        taken.add(name)
        layer.rename(name)
        layer.settled = True

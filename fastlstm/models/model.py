"""Model and Sequential: networks that are trained, saved and run."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastlstm.errors import InputError, ShapeError, UnsupportedError
from fastlstm.layers.layer import Layer
from fastlstm.layers.symbolic import InputLayer, Symbol, leaves
from fastlstm.models.network import Network
from fastlstm.training.trainable import Trainable


class Model(Trainable, Network):
    """A network between symbols: `inputs` and `outputs` are symbols, lists of them, or dicts by name.

    >>> x = fastlstm.Input((None, 8))
    >>> model = fastlstm.models.Model(x, fastlstm.layers.Dense(1)(fastlstm.layers.LSTM(16)(x)))
    """

    def __init__(self, inputs: Any = None, outputs: Any = None, name: str | None = None, **options: Any):
        super().__init__(name or "model", **options)
        self.auto_named = name is None
        if inputs is None and outputs is None:
            raise self.fault(
                UnsupportedError, "is made of inputs and outputs; a class with a call of its own is not supported"
            )
        for role, given in (("inputs", inputs), ("outputs", outputs)):
            if not leaves(given):
                raise self.fault(InputError, f"has no {role}")
            for leaf in leaves(given):
                if not isinstance(leaf, Symbol):
                    raise self.fault(
                        InputError, f"{role} hold {type(leaf).__name__}, expected what Input and layers return"
                    )
        if len(set(leaves(inputs))) < len(leaves(inputs)):
            raise self.fault(InputError, "has one input twice")
        self.connect(leaves(inputs), leaves(outputs))
        self.input_structure, self.output_structure = _names(inputs), _names(outputs)

    @property
    def input_names(self) -> list[str]:
        return self.input_structure or super().input_names

    @property
    def output_names(self) -> Sequence[str]:
        return self.output_structure or super().output_names


def _names(structure: Any) -> list[str] | None:
    """Return the names that a dict gives, None where there is no dict."""
    return list(structure) if isinstance(structure, Mapping) else None


class Sequential(Trainable, Network):
    """Layers one after the other. The first says what comes in: `Input(shape)`, or `input_shape=` on a layer, or the first data.

    >>> model = fastlstm.Sequential([fastlstm.layers.LSTM(16, input_shape=(12, 1)), fastlstm.layers.Dense(1)])
    """

    def __init__(self, layers: Sequence[Any] | None = None, name: str | None = None, **options: Any):
        super().__init__(name or "sequential", **options)
        self.auto_named = name is None
        self._stack: list[Layer] = []
        self._input: Symbol | None = None
        for layer in layers or []:
            self.add(layer)

    @property
    def layers(self) -> list[Any]:
        """The layers in order; as in Keras without the input."""
        return list(self._stack)

    @property
    def parts(self) -> tuple[Layer, ...]:
        return tuple(self._stack)

    def add(self, layer: Any) -> None:
        """Append a layer. Raise InputError for what is none."""
        if isinstance(layer, Symbol | InputLayer):
            symbol = layer.output if isinstance(layer, InputLayer) else layer
            if self._stack or self._input is not None:
                raise self.fault(InputError, "has an input already; Input comes first")
            self._begin(symbol)
            return
        if not isinstance(layer, Layer):
            raise self.fault(InputError, f"cannot add {layer!r}, which is no layer")
        if any(layer is other for other in self._stack):
            raise self.fault(InputError, f"holds layer {layer.name!r} already")
        if self._input is None and not self._stack:
            self._begin(_input_of(layer))
        if self._input is None:
            self._stack.append(layer)
            return
        last = self.outputs[0] if self.outputs else self._input
        y = self._one(layer, layer(last))
        self._stack.append(layer)
        self.connect([self._input], [y])

    def pop(self) -> Layer:
        """Remove the last layer and return it."""
        if not self._stack:
            raise self.fault(InputError, "has no layers")
        last, rest = self._stack[-1], self._stack[:-1]
        self._rebuild(rest)
        return last

    def build(self, input_shape: Any = None) -> None:
        """Create the weights for an input of a shape, the batch first."""
        if self.built:
            return
        if not self._stack:
            raise self.fault(InputError, "has no layers")
        if (
            input_shape is None
            or not isinstance(input_shape, tuple | list)
            or any(isinstance(d, tuple | list) for d in input_shape)
        ):
            raise self.fault(InputError, f"takes one input, of a shape (batch, ...), got {input_shape!r}")
        shape = [None, *(d if isinstance(d, int) else None for d in input_shape[1:])]
        kind = "int32" if self._stack[0].input_kind == "ids" else self._stack[0].dtype or "float32"
        self._begin(InputLayer(batch_shape=shape, dtype=kind).output)
        self._rebuild(self._stack)

    def _begin(self, symbol: Symbol | None) -> None:
        self._input = symbol

    def _rebuild(self, layers: Sequence[Layer]) -> None:
        """Call the layers anew, from the input on."""
        self._stack, self.inputs, self.outputs, self._calls = list(layers), [], [], []
        if self._input is not None and layers:
            y: Symbol = self._input
            for layer in layers:
                y = self._one(layer, layer(y))
            self.connect([self._input], [y])

    def _one(self, layer: Layer, y: Any) -> Symbol:
        if not isinstance(y, Symbol):
            raise self.fault(
                UnsupportedError,
                f"layer {layer.name!r} returns {len(leaves(y))} values; only the last of a functional Model may",
            )
        return y


def _input_of(layer: Layer) -> Symbol | None:
    """Return the input that a first layer declares, or a model that comes first has; None where it says nothing."""
    if isinstance(layer, Network):
        if len(layer.inputs) > 1:
            raise layer.fault(InputError, "takes several inputs, a Sequential has one")
        if not layer.inputs:
            return None
        symbol = layer.inputs[0]
        return InputLayer(batch_shape=symbol.shape, dtype=symbol.dtype).output
    found = layer.first_input()
    if found is None:
        return None
    shape, dtype = found
    if any(d is not None and (not isinstance(d, int) or d < 1) for d in shape):
        raise layer.fault(ShapeError, f"its input has shape {shape}, expected sizes of at least 1, or None")
    return InputLayer(batch_shape=shape, dtype=dtype).output

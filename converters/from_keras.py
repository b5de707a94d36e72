"""Keras files as models: layers of ours, called as the file's Sequential or functional configuration calls them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, BinaryIO

from fastlstm import layers
from fastlstm.axes import find_axes
from fastlstm.converters import keras_operations_shapes
from fastlstm.converters._keras_config import MODELS, Config, layer_name
from fastlstm.converters.keras_file import KerasFile, read_keras_file
from fastlstm.converters.keras_layers import (
    Context,
    Custom,
    check_dtype,
    check_origin,
    layer_from_config,
    time_distributed,
)
from fastlstm.converters.keras_masks import Key, Place, Reader, lost_masks
from fastlstm.converters.keras_operations import is_operation, operate
from fastlstm.converters.keras_text import LAYERS as TEXT_LAYERS
from fastlstm.converters.keras_text import Text, refuse_text, vocabulary
from fastlstm.errors import FastLSTMError, InputError, ModelFileError, UnsupportedError
from fastlstm.format import canonical
from fastlstm.graph import Dim, Graph, TensorSpec
from fastlstm.layers import Build, Layer, Tensor
from fastlstm.layers.convolutional_recurrent import ConvLSTM
from fastlstm.layers.recurrent import Recurrent
from fastlstm.layers.shaping import Joining
from fastlstm.model import Model
from fastlstm.ops.inference import infer
from fastlstm.text import KEY, Vocabulary, kept

assert keras_operations_shapes  # fills the registry of operations


def from_keras(
    data: bytes | BinaryIO,
    architecture: Any = None,
    custom: Custom | None = None,
    where: str = "the file",
    folder: str | PathLike | None = None,
) -> Model:
    """Return the model of a Keras file's bytes, or of an open .keras archive; `where` names it in messages.

    folder: that of the files of an index of weights. Raise ModelFileError, UnsupportedError, MissingExtraError.
    """
    file = read_keras_file(data, architecture, where, folder)
    context = Context(file.keras_version, custom or {})
    build = Build()
    reader = _Reader(file, context, build)
    try:
        outputs = reader.top()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ModelFileError) or type(error).__module__.startswith("fastlstm"):
            raise
        raise ModelFileError(f"the file's configuration is malformed: {type(error).__name__}: {error}") from error
    metadata = {"source": "keras", "source_format": file.format, "keras_version": file.keras_version}
    if reader.vocabularies:
        metadata[KEY] = kept(reader.vocabularies)
    model = build.model(build.distinct(outputs), metadata)
    return model if build.steps_matter else with_free_time(model)


def with_free_time(model: Model) -> Model:
    """Return the model with its steps free where the file fixes their number but the arithmetic does not need it."""
    graph = model.graph
    axes = find_axes(graph, model.weights)
    fixed = {
        s.name: s.shape[k] for s in graph.inputs if s.shape and isinstance(s.shape[k := axes.time.get(s.name, 0)], int)
    }
    fixed = {name: steps for name, steps in fixed.items() if name in axes.time}
    if not fixed:
        return model
    symbols = {name: "time" if len(set(fixed.values())) == 1 else f"time_{name}" for name in fixed}

    def along_time(new: Callable[[str, Dim], Dim]) -> tuple[TensorSpec, ...]:
        """Return the inputs with other sizes along time."""
        return tuple(
            replace(
                s,
                shape=tuple(new(s.name, d) if k == axes.time.get(s.name) else d for k, d in enumerate(s.shape or ())),
            )
            for s in graph.inputs
        )

    longer = along_time(lambda name, d: d + 1 if isinstance(d, int) else d)
    free = along_time(lambda name, d: symbols.get(name, d))
    try:
        infer(graph, model.weights, longer)
        values = infer(graph, model.weights, free)
    except FastLSTMError:
        return model
    outputs = tuple(TensorSpec(s.name, s.dtype, values[s.name].shape) for s in graph.outputs)
    # the source engine still wants the steps that the file fixes
    metadata = {**model.metadata, "source_steps": canonical(fixed)}
    return replace(model, graph=Graph(graph.nodes, free, outputs), metadata=metadata)


class _Reader:
    """Builds the models of one file, nested ones included."""

    def __init__(self, file: KerasFile, context: Context, build: Build):
        self.file, self.context, self.build = file, context, build
        self._layers: dict[str, Layer] = {}
        self.vocabularies: dict[str, Vocabulary] = {}  # of the inputs that were texts

    def top(self) -> list[Tensor]:
        return self.call_model(self.file.config, "", None)

    def layer(self, config: Config, path: str) -> Layer:
        """Return a layer with its weights: one object however often the model calls it."""
        if path not in self._layers:
            if config["class_name"] == "TimeDistributed" and _wrapped(config)["class_name"] in MODELS:
                self._layers[path] = self._model_over_time(config, path)
                return self._layers[path]
            made = layer_from_config(config, self.context)
            weights = [array for _, array in self.file.layer_weights(path)]
            if made.roles and not weights:
                raise UnsupportedError(
                    f"layer {path!r}: the file holds no weights for it; a model that several others share is not supported in .keras "
                    "files, save it as .h5"
                )
            if weights or made.roles:
                made.set_weights(weights)
            self._layers[path] = made
        return self._layers[path]

    def _model_over_time(self, config: Config, path: str) -> Layer:
        """Return the layer that applies a nested model to every step, or to every step of every step."""
        inner, name = config["config"]["layer"], layer_name(config)
        path = f"{path}/{layer_name(inner)}"
        made = _Nested(self, inner, path) if inner["class_name"] in MODELS else self._model_over_time(inner, path)
        return time_distributed(made, name, self.context)

    def input(self, config: Config, dtype: Any, shape: Any) -> Tensor:
        """Add a graph input of a declared shape: no sizes become the symbols batch and time, others symbols of their own."""
        name = layer_name(config)
        if shape is None:
            raise UnsupportedError(f"layer {name!r}: the file does not say the shape of its input")
        dims: list[Dim] = []
        for axis, size in enumerate(shape):
            symbol = (
                "batch"
                if axis == 0
                else ("time" if not self.build.inputs else f"time_{name}")
                if axis == 1
                else f"{name}.{axis}"
            )
            # the batch is free even where the file fixes it: a row does not see the others
            dims.append(symbol if size is None or axis == 0 else int(size))
        if dtype == "string":
            return Text(name, shape)  # type: ignore[return-value]
        check_dtype(name, dtype)
        dtype = dtype if isinstance(dtype, str) else "float32"
        return self.build.input(name, dtype, tuple(dims))

    def _look_up(self, layer: Config, text: Text) -> Tensor:
        """Add the graph input that stands for what a layer makes of texts."""
        check_origin(layer)
        found = vocabulary(layer, text, self.context, self.file.words)
        if text.name in self.vocabularies:
            raise UnsupportedError(
                f"layer {layer_name(layer)!r}: texts {text.name!r} that several layers read are not supported"
            )
        self.vocabularies[text.name] = found
        time = "time" if not self.build.inputs else f"time_{text.name}"
        return self.build.input(text.name, "int64", ("batch", time if found.steps is None else found.steps))

    def call_model(self, model: Config, path: str, given: Sequence[Tensor] | None) -> list[Tensor]:
        """Call a model (given: a nested one) on tensors and return its outputs."""
        check_origin(model)
        if model["class_name"] == "Sequential":
            return [self._sequential(model["config"], path, None if given is None else given[0])]
        return self._functional(model["config"], path, given)

    def _sequential(self, config: Config, path: str, x: Tensor | None) -> Tensor:
        for layer in config["layers"]:
            options = layer["config"]
            if x is None:
                shape = options.get("batch_shape", options.get("batch_input_shape"))
                if shape is None and layer["class_name"] in MODELS:
                    shape = _first_shape(layer)
                shape = config.get("build_input_shape") if shape is None else shape
                x = self.input(
                    layer,
                    options.get("dtype") if layer["class_name"] == "InputLayer" else options.get("input_dtype"),
                    shape,
                )
            if layer["class_name"] == "InputLayer":
                continue
            x = self._call(layer, path, x, {})
            if isinstance(x, tuple):
                x = x[0]
        if x is None:
            raise ModelFileError("the file holds a Sequential model without layers")
        return x

    def _call(self, layer: Config, path: str, x: Any, arguments: dict[str, Any]) -> Any:
        inner = f"{path}/{layer_name(layer)}" if path else layer_name(layer)
        if isinstance(x, Text) and layer["class_name"] in TEXT_LAYERS:
            return self._look_up(layer, x)
        refuse_text(layer, x)
        if is_operation(layer):
            return operate(self.build, layer, x, arguments)
        if layer["class_name"] in MODELS:
            outputs = self.call_model(layer, inner, _masked(x, arguments.get("mask")))
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        made = self.layer(layer, inner)
        if isinstance(made, Recurrent | layers.RNN | layers.Bidirectional | ConvLSTM):
            return self._recur(made, x, arguments)
        if isinstance(x, list | tuple) and len(x) == 1 and not isinstance(made, Joining):
            x = x[0]
        try:
            return made(x, **arguments)
        except InputError as error:  # a call that the layer does not take
            raise UnsupportedError(f"{error}, which is not supported") from error

    def _recur(self, made: Any, x: Any, arguments: dict[str, Any]) -> Any:
        """Call a recurrent layer: Keras 2 passes initial states as further inputs, stacked cells nest theirs."""
        x, *states = _flat(x)
        states += _flat(arguments.get("initial_state", []))
        if not states:
            return made(x, **arguments)
        arguments = arguments | {"initial_state": states}
        if self.context.major >= 3 and "mask" not in arguments and x.mask is not None:
            # Keras 3 gives implicit masks to calls of one tensor alone; the output has it all the same
            return _remasked(made(x.with_mask(None), **arguments), made, x.mask)
        return made(x, **arguments)

    def _functional(self, config: Config, path: str, given: Sequence[Tensor] | None) -> list[Tensor]:
        values: dict[Key, Tensor] = {}
        inputs = [_key(k) for k in _keys(config["input_layers"])]
        if given is not None:
            if len(given) != len(inputs):
                raise ModelFileError(f"model {path!r} takes {len(inputs)} inputs, got {len(given)}")
            values |= dict(zip(inputs, given, strict=True))
        else:
            by_name = {layer_name(layer): layer for layer in config["layers"]}
            for key in inputs:
                layer = by_name[key[0]]
                options = layer["config"]
                values[key] = self.input(
                    layer, options.get("dtype"), options.get("batch_shape", options.get("batch_input_shape"))
                )
        waiting = [
            (layer, k, _node(node, layer))
            for layer in config["layers"]
            for k, node in enumerate(layer.get("inbound_nodes", []))
        ]
        outputs_at = [_key(k) for k in _keys(config["output_layers"])]
        mentioned = {key[:2] for key in (*outputs_at, *(key for *_, node in waiting for key in node.keys))}
        # in Keras 2 the calls of a nested model count from 1: the first was its own making
        waiting = [
            (
                layer,
                k + (layer["class_name"] in MODELS and (layer_name(layer), len(layer["inbound_nodes"])) in mentioned),
                node,
            )
            for layer, k, node in waiting
        ]
        lost = self._lost_masks(waiting)
        while waiting:
            ready = [entry for entry in waiting if all(key in values for key in entry[2].keys)]
            if not ready:
                names = sorted({layer_name(layer) for layer, _, _ in waiting})
                raise ModelFileError(f"the file's model cannot be ordered: layers {names[:5]} wait for each other")
            for layer, k, node in ready:
                seen = _without_masks(layer, (layer_name(layer), k), node, values, lost)
                outputs = self._call(
                    layer, path, node.fill(node.x, seen), {n: node.fill(v, seen) for n, v in node.arguments.items()}
                )
                for i, tensor in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
                    values[layer_name(layer), k, i] = tensor
            done = {id(entry[2]) for entry in ready}
            waiting = [entry for entry in waiting if id(entry[2]) not in done]
        return [values[key] for key in outputs_at]

    def _lost_masks(self, calls: Sequence[tuple[Config, int, "_Node"]]) -> Mapping:
        """Return which calls see a value without its mask, as this version of Keras runs them."""
        if (self.context.major, self.context.minor) < (3, 8):
            return {}
        readers = []
        for layer, k, node in calls:
            attends = layer["class_name"] == "MultiHeadAttention"
            taken = [node.x, *(node.arguments.get(role) for role in ("value", "key"))] if attends else []
            readers.append(Reader((layer_name(layer), k), node.keys, list(_find_keys(taken))))
        return lost_masks(readers)


def _without_masks(layer: Config, place: Place, node: "_Node", values: dict[Key, Tensor], lost: Mapping) -> Any:
    """Return the values that a call reads, without the masks that are lost by then. Raise UnsupportedError where that is not known."""
    if not lost or "mask" in node.arguments:
        return values
    seen = dict(values)
    for key in node.keys:
        fate = lost.get((place, key))
        if fate == "unknown" and values[key].mask is not None:
            raise UnsupportedError(
                f"layer {layer_name(layer)!r} ({layer['class_name']}) reads {key[0]!r}, whose mask a MultiHeadAttention takes off before or "
                "after it, which is not supported; pass the mask to it as mask=, or build the model without masks"
            )
        if fate == "lost":
            seen[key] = values[key].with_mask(None)
    return seen


class _Nested(Layer):
    """A model of the file as a layer, for what wraps it."""

    def __init__(self, reader: _Reader, config: Config, path: str):
        super().__init__(layer_name(config))
        self._reader, self._config, self._path = reader, config, path

    def call(self, x: Tensor) -> Tensor:
        outputs = self._reader.call_model(self._config, self._path, [x])
        if len(outputs) != 1:
            raise UnsupportedError(
                f"model {self._path!r} has {len(outputs)} outputs, which is not supported in TimeDistributed, only one"
            )
        return outputs[0]


def _wrapped(layer: Config) -> Config:
    """Return what TimeDistributed wraps, however often."""
    while layer["class_name"] == "TimeDistributed":
        layer = layer["config"]["layer"]
    return layer


def _first_shape(model: Config) -> Any:
    first = model["config"]["layers"][0]
    options = first["config"]
    return (
        _first_shape(first)
        if first["class_name"] in MODELS
        else options.get("batch_shape", options.get("batch_input_shape"))
    )


def _masked(x: Any, mask: Any) -> list[Tensor]:
    """Return the inputs of a nested model, with the masks that the call gives them."""
    inputs = list(x) if isinstance(x, tuple | list) else [x]
    masks = mask if isinstance(mask, list) else [mask] * len(inputs)
    return [t if m is None else t.with_mask(m) for t, m in zip(inputs, masks, strict=True)]


def _remasked(y: Any, made: Any, mask: Tensor) -> Any:
    """Return the outputs of a recurrent layer, those over time with a mask."""
    part = getattr(made, "forward", made)
    if not part.return_sequences:
        return y
    count = 2 if getattr(made, "merge_mode", "") is None else 1
    return (
        tuple(t.with_mask(mask) if k < count else t for k, t in enumerate(y))
        if isinstance(y, tuple)
        else y.with_mask(mask)
    )


def _flat(value: Any) -> list[Any]:
    """Return the tensors of a structure in order: states of stacked cells come nested."""
    return [inner for part in value for inner in _flat(part)] if isinstance(value, list | tuple) else [value]


def _key(value: Any) -> Key:
    return str(value[0]), int(value[1]), int(value[2])


def _keys(value: Any) -> list[Any]:
    """Return a list of [layer, call, output] out of any structure; Keras writes one bare."""
    if isinstance(value, dict):
        value = list(value.values())
    return [value] if value and isinstance(value[0], str) else [key for part in value for key in _keys(part)]


class _Node:
    """One call of a layer: its input and arguments, with keys where tensors go."""

    def __init__(self, x: Any, arguments: dict[str, Any]):
        self.x, self.arguments = x, arguments
        self.keys = list(_find_keys([x, *arguments.values()]))

    def fill(self, value: Any, values: dict[Key, Tensor]) -> Any:
        """Return a structure with tensors for its keys."""
        if isinstance(value, list):
            return [self.fill(v, values) for v in value]
        return values[value] if isinstance(value, tuple) else value


def _find_keys(value: Any):
    if isinstance(value, tuple):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _find_keys(inner)


def _node(node: Any, layer: Config) -> _Node:
    """Read a call as Keras 3 writes it (args and kwargs) or as Keras 2 does (a list of [layer, call, output, kwargs])."""
    name = layer_name(layer)
    if isinstance(node, dict):
        args = [_tensors(arg) for arg in node.get("args", [])]
        arguments = {k: _tensors(v) for k, v in node.get("kwargs", {}).items()}
        if is_operation(layer):
            return _Node(args, arguments)
        if not args and "inputs" in arguments:
            args = [arguments.pop("inputs")]
        if layer["class_name"] in FURTHER:
            args, arguments = args[:1], dict(zip(FURTHER[layer["class_name"]], args[1:], strict=False)) | arguments
        elif len(args) == 2 and "initial_state" not in arguments:
            args, arguments = args[:1], arguments | {"initial_state": args[1]}
        if len(args) != 1:
            raise UnsupportedError(
                f"layer {name!r} is called with {len(args)} arguments; only one input (or list of inputs) is supported"
            )
        x = args[0]
    else:
        x = _keras2_tensors(node)
        x = x[0] if isinstance(x, list) and len(x) == 1 else x
        arguments = {
            k: _keras2_tensors(v) if k in TENSORS else v
            for entry in _keras2_calls(node)
            for k, v in (entry[3] if len(entry) > 3 and entry[3] else {}).items()
        }
    kept = {k: v for k, v in arguments.items() if v is not None and v is not False and v != []}
    for k, v in kept.items():
        if not (k in TENSORS and list(_find_keys(v))) and not (k in OPTIONS and v is True):
            raise UnsupportedError(f"layer {name!r} is called with {k}={v!r}, which is not supported")
    return _Node(x, kept)


FURTHER = {"MultiHeadAttention": ("value", "key", "query_mask", "value_mask", "key_mask", "attention_mask")}
TENSORS = ("initial_state", "mask", "value", "key", "attention_mask")  # arguments that are tensors
OPTIONS = ("use_causal_mask", "return_attention_scores")


def _keras2_calls(node: Any) -> list[Any]:
    """Return the [layer, call, output, ...] of a structure of Keras 2, in order."""
    if not isinstance(node, list) or not node:
        return []
    return [node] if isinstance(node[0], str) else [entry for part in node for entry in _keras2_calls(part)]


def _keras2_tensors(value: Any) -> Any:
    """Return an argument of Keras 2 with keys for its tensors."""
    if not isinstance(value, list) or not value:
        return value
    return _key(value) if isinstance(value[0], str) else [_keras2_tensors(part) for part in value]


def _tensors(value: Any) -> Any:
    """Return an argument of Keras 3 with keys for its tensors."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        return _key(value["config"]["keras_history"])
    return [_tensors(v) for v in value] if isinstance(value, list | tuple) else value

"""One handler for each Keras layer class: a serialized layer becomes a layer of ours, every key honoured or refused.

A key that no handler honours is refused by layer, key and value, unless it is off (None, False, empty) or only matters in training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastlstm import layers
from fastlstm.converters._keras_config import Config, layer_name
from fastlstm.errors import UnsupportedError, one_of
from fastlstm.layers.recurrent import Recurrent

Custom = Mapping[str, Callable[[dict[str, Any]], Any]]

# What matters in training alone, or repeats what is known from elsewhere.
TRAINING = {
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dtype", "input_length", "seed",
    "dropout", "recurrent_dropout", "implementation", "unroll", "stateful", "unit_forget_bias", "momentum", "rate", "noise_shape",
    "stddev", "l1", "l2", "ragged", "sparse", "synchronized", "lora_rank", "lora_alpha", "autocast", "sparse_labels",
    "kernel_size_multiplier", "renorm_clipping", "renorm_momentum", "build_config", "cache_size", "input_spec", "module", "registered_name",
}  # fmt: skip
TENSORFLOW_FLOOR = 1e-12  # of the sum of squares that TensorFlow's l2_normalize divides by
PACKAGES = ("keras", "keras_core", "tensorflow", "tf_keras")
TRAINING_ENDS = ("_initializer", "_regularizer", "_constraint")


@dataclass(frozen=True)
class Context:
    """What a layer's meaning depends on besides its own configuration."""

    keras_version: str
    custom: Custom

    @property
    def major(self) -> int:
        head = self.keras_version.split(".")[0]
        return int(head) if head.isdigit() else 3

    @property
    def minor(self) -> int:
        """The second number of the version; that of the newest where the file does not say."""
        parts = self.keras_version.split(".")
        return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 999

    @property
    def zeroes_masked_outputs(self) -> bool:
        """Whether Bidirectional gives zeros for masked steps: not in Keras 1 to 2.3 and TensorFlow before 1.13, which say 2.1.6-tf."""
        return (self.major, self.minor) >= (2, 2 if self.keras_version.endswith("-tf") else 4)

    def activation(self, value: Any) -> Any:
        """Return an activation with the meaning it has in the file's version of Keras: hard_sigmoid changed its slope in 3."""
        if isinstance(value, Mapping):
            value = value.get("config", value) if value.get("class_name") == "function" else value
        if value == "hard_sigmoid" and self.major < 3:
            return ("HardSigmoid", 0.2, 0.5)
        return value


Handler = Callable[["Keys", Context], Any]
_handlers: dict[str, Handler] = {}


class Keys:
    """The configuration of one layer, which remembers what was asked of it."""

    def __init__(self, layer: Config, context: Context):
        self.class_name, self.config = str(layer["class_name"]), dict(layer["config"])
        self.name = layer_name(layer) or self.class_name.lower()
        self._context = context
        self._asked: set[str] = set()
        check_dtype(self.name, self.config.get("dtype"))

    def take(self, key: str, default: Any = None) -> Any:
        """Return a value and note that it is honoured."""
        self._asked.add(key)
        value = self.config.get(key, default)
        return self._context.activation(value) if key.endswith("activation") else value

    def options(self, *keys: str) -> dict[str, Any]:
        """Return the values of the keys that are there."""
        return {key: self.take(key) for key in keys if key in self.config}

    def refuse(self, key: str, why: str = "is not supported") -> UnsupportedError:
        return UnsupportedError(f"layer {self.name!r} ({self.class_name}): {key}={self.config.get(key)!r} {why}")

    def finish(self) -> None:
        """Refuse what was not asked for and is not off, all of it."""
        left = []
        for key, value in self.config.items():
            harmless = key in TRAINING or key.endswith(TRAINING_ENDS) or value in (None, False) or value in ([], {}, ())
            if key not in self._asked and not harmless:
                left.append(key)
        if left:
            values = ", ".join(f"{key}={self.config[key]!r}" for key in left[:-1])
            raise (
                self.refuse(left[-1])
                if not values
                else UnsupportedError(
                    f"layer {self.name!r} ({self.class_name}): {values}, {left[-1]}={self.config[left[-1]]!r} are not supported"
                )
            )


def check_dtype(name: str, dtype: Any) -> None:
    """Raise UnsupportedError, naming the layer, for a dtype or a policy that is not supported."""
    while isinstance(dtype, Mapping):
        dtype = dtype.get("config", {}).get("name") if "config" in dtype else dtype.get("name")
    if dtype not in (None, "float32", "float64", "int32", "int64", "int8", "int16", "uint8", "bool"):
        raise UnsupportedError(
            f"layer {name!r}: dtype={dtype!r} is not supported, only float32 and float64; save it with a float32 policy"
        )


def check_origin(layer: Config) -> None:
    """Raise UnsupportedError if a file says that a class with the name of one of Keras's is someone's own."""
    if "module" in layer and str(layer["module"]).split(".")[0] not in PACKAGES:
        name, module = layer.get("registered_name") or layer["class_name"], layer["module"]
        raise UnsupportedError(
            f"layer {layer_name(layer)!r}: class {name!r} of module {module!r} is not Keras's own {layer['class_name']}; pass "
            f"custom={{{layer['class_name']!r}: builder}}, where builder(config) returns a fastlstm.layers layer"
        )


def handler(*class_names: str) -> Callable[[Handler], Handler]:
    """Register a handler for Keras classes."""

    def add(function: Handler) -> Handler:
        for class_name in class_names:
            if class_name in _handlers:
                raise KeyError(f"two handlers for {class_name}")
            _handlers[class_name] = function
        return function

    return add


def is_known(class_name: str) -> bool:
    """Tell whether a class of layers has a handler."""
    return class_name in _handlers


def layer_from_config(layer: Config, context: Context) -> Any:
    """Return our layer for a serialized Keras layer. Raise UnsupportedError, naming class, layer, key and value."""
    keys = Keys(layer, context)
    if keys.class_name in context.custom:
        return context.custom[keys.class_name](keys.config)
    if keys.class_name in _handlers:
        check_origin(layer)
    else:
        raise UnsupportedError(
            f"layer {keys.name!r}: class {keys.class_name!r} is not supported; known: {one_of(_handlers)}. For a class of your own pass "
            f"custom={{{keys.class_name!r}: builder}}, where builder(config) returns a fastlstm.layers layer: of a class with roles, "
            f"weight_shapes(x) and call(x), whose stub `fastlstm info` prints (docs/custom-layers.md)"
        )
    made = _handlers[keys.class_name](keys, context)
    keys.finish()
    return made


@handler("Dense")
def _dense(keys: Keys, context: Context) -> layers.Layer:
    return layers.Dense(name=keys.name, **keys.options("units", "activation", "use_bias"))


@handler("Embedding")
def _embedding(keys: Keys, context: Context) -> layers.Layer:
    return layers.Embedding(name=keys.name, **keys.options("input_dim", "output_dim", "mask_zero"))


@handler("Activation")
def _activation(keys: Keys, context: Context) -> layers.Layer:
    return layers.Activation(keys.take("activation"), name=keys.name)


@handler("ReLU")
def _relu(keys: Keys, context: Context) -> layers.Layer:
    return layers.ReLU(name=keys.name, **keys.options("negative_slope", "threshold", "max_value"))


@handler("ThresholdedReLU")
def _thresholded_relu(keys: Keys, context: Context) -> layers.Layer:
    return layers.ThresholdedReLU(name=keys.name, **keys.options("theta"))


@handler("PReLU")
def _prelu(keys: Keys, context: Context) -> layers.Layer:
    return layers.PReLU(name=keys.name, **keys.options("shared_axes"))


@handler("LeakyReLU")
def _leaky_relu(keys: Keys, context: Context) -> layers.Layer:
    slope = keys.take("negative_slope", keys.take("alpha", 0.3))
    return layers.Activation(("LeakyRelu", float(slope), 0.0), name=keys.name)


@handler("ELU")
def _elu(keys: Keys, context: Context) -> layers.Layer:
    return layers.Activation(("Elu", float(keys.take("alpha", 1.0)), 0.0), name=keys.name)


@handler("Softmax")
def _softmax(keys: Keys, context: Context) -> layers.Layer:
    return layers.Softmax(name=keys.name, **keys.options("axis"))


@handler(
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise", "AlphaDropout",
    "ActivityRegularization", "Identity",
)  # fmt: skip
def _identity(keys: Keys, context: Context) -> layers.Layer:
    keys.take("data_format")  # of a dropout over images: which values it would drop together
    return layers.Identity(name=keys.name)


@handler("Masking")
def _masking(keys: Keys, context: Context) -> layers.Layer:
    return layers.Masking(name=keys.name, **keys.options("mask_value"))


@handler("BatchNormalization")
def _batch_normalization(keys: Keys, context: Context) -> layers.Layer:
    options = keys.options("axis", "epsilon", "center", "scale")
    if isinstance(options.get("axis"), list | tuple):
        if len(options["axis"]) != 1:
            raise keys.refuse("axis")
        options["axis"] = options["axis"][0]
    return layers.BatchNormalization(name=keys.name, **options)


@handler("LayerNormalization")
def _layer_normalization(keys: Keys, context: Context) -> layers.Layer:
    return layers.LayerNormalization(name=keys.name, **keys.options("axis", "epsilon", "center", "scale"))


@handler("UnitNormalization")
def _unit_normalization(keys: Keys, context: Context) -> layers.Layer:
    made = layers.UnitNormalization(name=keys.name, **keys.options("axis"))
    made.floor = made.floor if context.major >= 3 else TENSORFLOW_FLOOR
    return made


@handler("Normalization")
def _normalization(keys: Keys, context: Context) -> layers.Layer:
    return layers.Normalization(name=keys.name, **keys.options("axis", "mean", "variance", "invert"))


@handler("Rescaling")
def _rescaling(keys: Keys, context: Context) -> layers.Layer:
    numbers = {key: _numbers(value) for key, value in keys.options("scale", "offset").items()}
    return layers.Rescaling(name=keys.name, **numbers)


def _numbers(value: Any) -> Any:
    """Return numbers that Keras may have written as a serialized array."""
    return value["config"]["value"] if isinstance(value, Mapping) else value


WINDOWS = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "activation", "use_bias")


@handler("Conv1D", "Convolution1D", "Conv2D")
def _convolution(keys: Keys, context: Context) -> layers.Layer:
    kind = layers.Conv1D if keys.class_name.endswith("1D") else layers.Conv2D
    return kind(name=keys.name, **keys.options("filters", "groups", *WINDOWS))


@handler("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise_convolution(keys: Keys, context: Context) -> layers.Layer:
    # Keras 2 writes what it takes of Conv along
    if keys.take("filters") is not None or keys.take("groups", 1) != 1:
        raise keys.refuse("filters" if keys.take("filters") is not None else "groups")
    return getattr(layers, keys.class_name)(name=keys.name, **keys.options("depth_multiplier", *WINDOWS))


@handler("SeparableConv1D", "SeparableConv2D")
def _separable_convolution(keys: Keys, context: Context) -> layers.Layer:
    if keys.take("groups", 1) != 1:
        raise keys.refuse("groups")
    return getattr(layers, keys.class_name)(name=keys.name, **keys.options("filters", "depth_multiplier", *WINDOWS))


@handler("MaxPooling1D", "AveragePooling1D", "MaxPooling2D", "AveragePooling2D")
def _pooling(keys: Keys, context: Context) -> layers.Layer:
    options = keys.options("pool_size", "strides", "padding", "data_format")
    return getattr(layers, keys.class_name)(name=keys.name, **options)


@handler("GlobalAveragePooling1D", "GlobalMaxPooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling2D")
def _global_pooling(keys: Keys, context: Context) -> layers.Layer:
    return getattr(layers, keys.class_name)(name=keys.name, **keys.options("data_format", "keepdims"))


@handler("UpSampling1D", "UpSampling2D")
def _up_sampling(keys: Keys, context: Context) -> layers.Layer:
    return getattr(layers, keys.class_name)(name=keys.name, **keys.options("size", "data_format", "interpolation"))


@handler("ZeroPadding1D", "ZeroPadding2D")
def _zero_padding(keys: Keys, context: Context) -> layers.Layer:
    return getattr(layers, keys.class_name)(name=keys.name, **keys.options("padding", "data_format"))


@handler("Cropping1D", "Cropping2D")
def _cropping(keys: Keys, context: Context) -> layers.Layer:
    return getattr(layers, keys.class_name)(name=keys.name, **keys.options("cropping", "data_format"))


@handler("Attention", "AdditiveAttention")
def _attention(keys: Keys, context: Context) -> layers.Layer:
    keys.take("dropout")
    made = getattr(layers, keys.class_name)(name=keys.name, **keys.options("use_scale", "score_mode"))
    made.causal = bool(keys.take("causal"))
    return made


@handler("MultiHeadAttention")
def _multi_head_attention(keys: Keys, context: Context) -> layers.Layer:
    for key in ("query_shape", "key_shape", "value_shape"):  # Keras 2 repeats what the call says
        keys.take(key)
    names = ("num_heads", "key_dim", "value_dim", "dropout", "use_bias", "output_shape", "attention_axes")
    made = layers.MultiHeadAttention(name=keys.name, **keys.options(*names))
    made.masked = "unfused" if context.major >= 3 and context.minor >= 10 else "mean"
    return made


@handler("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _conv_lstm(keys: Keys, context: Context) -> layers.Layer:
    if keys.take("zero_output_for_mask"):
        raise keys.refuse("zero_output_for_mask")
    names = ("filters", "recurrent_activation", "return_sequences", "return_state", "go_backwards")
    return getattr(layers, keys.class_name)(name=keys.name, **keys.options(*names, *WINDOWS))


RECURRENT = ("use_bias", "return_sequences", "return_state", "go_backwards", "zero_output_for_mask")


def _recurrent_options(keys: Keys) -> dict[str, Any]:
    if keys.take("time_major"):
        raise keys.refuse("time_major")
    return keys.options("units", "activation", "recurrent_activation", *RECURRENT)


def _unrolled(layer: Any, keys: Keys) -> layers.Layer:
    layer.unroll = bool(keys.take("unroll"))
    return layer


@handler("LSTM", "LSTMCell")
def _lstm(keys: Keys, context: Context) -> layers.Layer:
    return _unrolled(layers.LSTM(name=keys.name, **_recurrent_options(keys)), keys)


@handler("GRU", "GRUCell")
def _gru(keys: Keys, context: Context) -> layers.Layer:
    # files written before reset_after existed mean False
    made = layers.GRU(name=keys.name, reset_after=bool(keys.take("reset_after", False)), **_recurrent_options(keys))
    return _unrolled(made, keys)


@handler("CuDNNLSTM", "CuDNNGRU")
def _cudnn(keys: Keys, context: Context) -> layers.Layer:
    """The layers of CuDNN: their activations are fixed, and a GRU resets after the product."""
    options = keys.options("units", "return_sequences", "return_state", "go_backwards")
    return getattr(layers, keys.class_name.removeprefix("CuDNN"))(name=keys.name, **options)


@handler("SimpleRNN", "SimpleRNNCell")
def _simple_rnn(keys: Keys, context: Context) -> layers.Layer:
    return _unrolled(layers.SimpleRNN(name=keys.name, **_recurrent_options(keys)), keys)


@handler("RNN")
def _rnn(keys: Keys, context: Context) -> layers.Layer:
    cell = keys.take("cell")
    if keys.take("num_constants"):
        raise keys.refuse("num_constants")
    keys.take("time_major")
    cells = cell["config"].get("cells", []) if cell["class_name"] == "StackedRNNCells" else [cell]
    if cell["class_name"] == "StackedRNNCells" and cell["config"].get("reverse_state_order"):
        raise UnsupportedError(f"layer {keys.name!r}: StackedRNNCells with reverse_state_order=True is not supported")
    built = [layer_from_config(one, context) for one in cells]
    for one, made in zip(cells, built, strict=True):
        if not isinstance(made, Recurrent):
            raise UnsupportedError(
                f"layer {keys.name!r}: an RNN over cells of class {one['class_name']!r} is not supported"
            )
        made.name = f"{keys.name}/{made.name}"
    options = keys.options("return_sequences", "return_state", "go_backwards", "zero_output_for_mask")
    return _unrolled(layers.RNN(built, name=keys.name, **options), keys)


@handler("Bidirectional")
def _bidirectional(keys: Keys, context: Context) -> layers.Layer:
    forward = keys.take("layer")
    backward = keys.take("backward_layer") or {
        **forward,
        "config": {**forward["config"], "go_backwards": not forward["config"].get("go_backwards", False)},
    }
    parts = []
    for config, direction in ((forward, "forward"), (backward, "backward")):
        part = layer_from_config(config, context)
        if not isinstance(part, Recurrent | layers.RNN):
            raise UnsupportedError(f"layer {keys.name!r}: Bidirectional({type(part).__name__}) is not supported")
        part.name = f"{keys.name}/{direction}"
        parts.append(part)
    ahead, back = parts
    mode = keys.take("merge_mode", "concat")
    made = layers.Bidirectional(ahead, mode, backward_layer=back, name=keys.name)
    for part in parts:
        part.zero_output_for_mask &= context.zeroes_masked_outputs
    return made


@handler("TimeDistributed")
def _time_distributed(keys: Keys, context: Context) -> layers.Layer:
    inner = layer_from_config(keys.take("layer"), context)
    inner.rename(keys.name)
    return time_distributed(inner, keys.name, context)


def time_distributed(inner: layers.Layer, name: str, context: Context) -> layers.TimeDistributed:
    """Return a layer applied to every step, with the rule that its version of Keras has for masks."""
    made = layers.TimeDistributed(inner, name=name)
    made.mask_rule = "input" if context.major >= 3 else "inner"
    return made


@handler("Flatten")
def _flatten(keys: Keys, context: Context) -> layers.Layer:
    if keys.take("data_format", "channels_last") not in ("channels_last", None):
        raise keys.refuse("data_format")
    return layers.Flatten(name=keys.name)


@handler("Reshape")
def _reshape(keys: Keys, context: Context) -> layers.Layer:
    return layers.Reshape(name=keys.name, **keys.options("target_shape"))


@handler("Permute")
def _permute(keys: Keys, context: Context) -> layers.Layer:
    return layers.Permute(name=keys.name, **keys.options("dims"))


@handler("RepeatVector")
def _repeat_vector(keys: Keys, context: Context) -> layers.Layer:
    return layers.RepeatVector(name=keys.name, **keys.options("n"))


@handler("Concatenate")
def _concatenate(keys: Keys, context: Context) -> layers.Layer:
    return _joining(layers.Concatenate(name=keys.name, **keys.options("axis")), context)


@handler("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
def _merge(keys: Keys, context: Context) -> layers.Layer:
    return _joining(getattr(layers, keys.class_name)(name=keys.name), context)


@handler("Dot")
def _dot(keys: Keys, context: Context) -> layers.Layer:
    made = layers.Dot(name=keys.name, **keys.options("axes", "normalize"))
    made.floor = made.floor if context.major >= 3 else TENSORFLOW_FLOOR
    return made


def _joining(layer: Any, context: Context) -> layers.Layer:
    """Give a layer of several inputs the rule that its version of Keras has for their masks."""
    layer.mask_rule = "all" if context.major < 3 else "any" if context.minor >= 4 else None
    return layer

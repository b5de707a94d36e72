"""What older versions of Keras wrote, brought to the form of Keras 2: layers of Keras 1, and weights of Keras 1, cuDNN and Theano.

Keras 1 named arguments differently, merged models by a layer `Merge`, and kept each gate's weights apart. What is renamed here is
unknown to later versions, so the names decide, not the version that a file states.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastlstm.converters.gates import KERAS1_GRU, KERAS1_LSTM
from fastlstm.errors import ModelFileError, UnsupportedError

Config = dict[str, Any]
Weights = list[tuple[str, np.ndarray]]

# ---- configurations -------------------------------------------------------------------------------------
_DENSE = {"output_dim": "units", "bias": "use_bias"}
_RECURRENT = {"output_dim": "units", "inner_activation": "recurrent_activation", "inner_init": "recurrent_initializer",
              "dropout_W": "dropout", "dropout_U": "recurrent_dropout"}  # fmt: skip
_CONVOLUTION = {"nb_filter": "filters", "border_mode": "padding", "bias": "use_bias", "atrous_rate": "dilation_rate"}
_CONV1D = {**_CONVOLUTION, "filter_length": "kernel_size", "subsample_length": "strides"}
_POOL1D = {"pool_length": "pool_size", "stride": "strides", "border_mode": "padding"}
_POOL2D = {"border_mode": "padding"}
_RATE = {"p": "rate"}
_CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "Dense": ("Dense", _DENSE), "TimeDistributedDense": ("TimeDistributed", _DENSE), "Embedding": ("Embedding", {}),
    "LSTM": ("LSTM", _RECURRENT), "GRU": ("GRU", _RECURRENT), "SimpleRNN": ("SimpleRNN", _RECURRENT),
    "Convolution1D": ("Conv1D", _CONV1D), "AtrousConvolution1D": ("Conv1D", _CONV1D),
    "Convolution2D": ("Conv2D", {**_CONVOLUTION, "subsample": "strides"}),
    "MaxPooling1D": ("MaxPooling1D", _POOL1D), "AveragePooling1D": ("AveragePooling1D", _POOL1D),
    "MaxPooling2D": ("MaxPooling2D", _POOL2D), "AveragePooling2D": ("AveragePooling2D", _POOL2D),
    "UpSampling1D": ("UpSampling1D", {"length": "size"}), "GaussianNoise": ("GaussianNoise", {"sigma": "stddev"}),
    "Dropout": ("Dropout", _RATE), "SpatialDropout1D": ("SpatialDropout1D", _RATE), "GaussianDropout": ("GaussianDropout", _RATE),
    "BatchNormalization": ("BatchNormalization", {"gamma_init": "gamma_initializer", "beta_init": "beta_initializer"}),
}  # fmt: skip
_SHARED = {"init": "kernel_initializer"} | {
    f"{letter}_{end}": f"{word}_{end}"
    for letter, word in (("W", "kernel"), ("U", "recurrent"), ("b", "bias"))
    for end in ("regularizer", "constraint")
}
_GONE = ("consume_less", "forget_bias_init", "weights")  # what changes no number
_MERGES = {"sum": "Add", "mul": "Multiply", "concat": "Concatenate", "ave": "Average", "max": "Maximum", "dot": "Dot"}
_ORDERINGS = {"tf": "channels_last", "th": "channels_first"}


def modern_layer(layer: Config) -> Config:
    """Return a serialized layer with the class and keys of Keras 2; one that has them already comes back as it is."""
    if layer["class_name"] == "Merge":
        return _merge(layer)
    if layer["class_name"] not in _CLASSES or "module" in layer:
        return layer
    class_name, renamed = _CLASSES[layer["class_name"]]
    names = {**_SHARED, **renamed}
    config = {names.get(key, key): value for key, value in layer["config"].items() if key not in _GONE}
    if class_name != "Embedding":
        config.pop("input_dim", None)
    if "nb_row" in config and "nb_col" in config:
        config["kernel_size"] = [config.pop("nb_row"), config.pop("nb_col")]
    if "dim_ordering" in config:
        ordering = config.pop("dim_ordering")
        config["data_format"] = _ORDERINGS.get(ordering, ordering)
    if layer["class_name"] == "TimeDistributedDense":
        inner = {"name": f"{config.get('name')}_dense", **{k: v for k, v in config.items() if k in _INNER}}
        outer = {key: value for key, value in config.items() if key not in _INNER}
        config = outer | {"layer": {"class_name": "Dense", "config": inner}}
    return {**layer, "class_name": class_name, "config": config}


_INNER = ("units", "activation", "use_bias")


def _merge(layer: Config) -> Config:
    """Return the layer that a `Merge` of tensors is."""
    config = layer["config"]
    mode = config.get("mode")
    if config.get("mode_type", "raw") != "raw" or mode not in _MERGES:
        raise UnsupportedError(
            f"layer {config.get('name')!r} (Merge): mode={str(mode)[:80]!r} is not supported, only {', '.join(_MERGES)}"
        )
    made: Config = {"name": config.get("name")}
    if mode == "concat":
        made["axis"] = config.get("concat_axis", -1)
    elif mode == "dot":
        made["axes"] = config.get("dot_axes", -1)
    return {**layer, "class_name": _MERGES[mode], "config": made}


def without_merge(name: Any, layers: list[Any]) -> Config | None:
    """Return the functional model that a Sequential beginning with a `Merge` of branches is; None for any other."""
    if not layers or not isinstance(layers[0], dict) or layers[0].get("class_name") != "Merge":
        return None
    inputs: list[str] = []
    made: list[Config] = []
    end = _chain(layers, made, inputs)
    keys = [[name, 0, 0] for name in inputs]
    config = {"name": name, "layers": made, "input_layers": keys, "output_layers": [[end, 0, 0]]}
    return {"class_name": "Model", "config": config}


def _chain(layers: list[Any], made: list[Config], inputs: list[str]) -> str:
    """Append layers that stand in a row, each called on the one before; return the name of the last."""
    last: list[str] = []
    for k, layer in enumerate(layers):
        config = layer["config"]
        name = str(config.get("name") or f"merge_{len(made)}")
        if k == 0 and layer["class_name"] == "Merge":
            last = [_chain(_layers(branch), made, inputs) for branch in config["layers"]]
            layer = {
                **layer,
                "config": {key: value for key, value in config.items() if key != "layers"} | {"name": name},
            }
        elif k == 0:
            last = [f"{name}_input"]
            shape, dtype = config.get("batch_input_shape"), config.get("input_dtype") or "float32"
            given = {"name": last[0], "batch_input_shape": shape, "dtype": dtype}
            made.append({"class_name": "InputLayer", "config": given, "name": last[0], "inbound_nodes": []})
            inputs += last
        made.append({**layer, "name": name, "inbound_nodes": [[[source, 0, 0] for source in last]]})
        last = [name]
    if not last:
        raise ModelFileError("a Merge of a model without layers")
    return last[0]


def _layers(branch: Any) -> list[Any]:
    """Return the layers of a branch: those of a Sequential, or the one layer that it is."""
    found = branch["config"] if branch["class_name"] == "Sequential" else [branch]
    return found["layers"] if isinstance(found, dict) else found


# ---- weights --------------------------------------------------------------------------------------------
_GATES = {"LSTM": KERAS1_LSTM, "CuDNNLSTM": KERAS1_LSTM, "GRU": KERAS1_GRU, "CuDNNGRU": KERAS1_GRU}
_CONVOLUTIONS = {"Conv1D": 1, "Convolution1D": 1, "Conv2D": 1, "ConvLSTM2D": 2}  # and how many kernels they have


def modern_weights(layer: Config, weights: Weights, backend: str | None) -> Weights:
    """Return a layer's weights as Keras 2 and 3 list them: their shapes tell which layout they have."""
    class_name, config = layer["class_name"], layer["config"]
    if class_name == "Bidirectional" and isinstance(config.get("layer"), dict):
        half = len(weights) // 2
        back = config.get("backward_layer") or config["layer"]
        return modern_weights(config["layer"], weights[:half], backend) + modern_weights(back, weights[half:], backend)
    if class_name in _GATES and weights:
        return _recurrent(class_name, weights)
    if class_name in _CONVOLUTIONS and weights:
        return list(_kernels(layer, weights, backend))
    return weights


def _recurrent(class_name: str, weights: Weights) -> Weights:
    order, names = _GATES[class_name], [name for name, _ in weights]
    arrays = [array for _, array in weights]
    if len(arrays) == 3 * len(order):  # Keras 1: W, U, b of each gate
        joined = [np.concatenate([arrays[3 * gate + role] for gate in order], axis=-1) for role in range(3)]
        return list(zip(names, joined, strict=False))
    if len(arrays) != 3 or arrays[1].ndim != 2 or arrays[2].shape != (2 * len(order) * arrays[1].shape[0],):
        return weights
    # cuDNN: gates in our order, each matrix transposed, two biases a gate
    kernel, recurrent, bias = arrays
    gates = len(order)
    W = np.hstack([part.T.reshape(part.shape, order="F") for part in np.split(kernel, gates, axis=1)])
    U = np.hstack([part.T for part in np.split(recurrent, gates, axis=1)])
    both = bias.reshape(2, -1)
    return list(zip(names, (W, U, both.sum(axis=0) if gates == 4 else both), strict=True))


def _kernels(layer: Config, weights: Weights, backend: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights of a convolution: kernels (..., inputs, filters) of a cross-correlation, then the others."""
    config, count = layer["config"], _CONVOLUTIONS[layer["class_name"]]
    for k, (name, array) in enumerate(weights):
        if k >= count:
            yield name, array
            continue
        if layer["class_name"].endswith("1D") and array.ndim == 4:
            # (length, 1, inputs, filters), before Keras 1.1 (filters, inputs, length, 1)
            first = array.shape[-1] == 1 and array.shape[0] == config.get("filters") and array.shape[1] != 1
            array = (array.transpose(2, 3, 1, 0) if first else array)[:, 0]
        spatial = tuple(range(array.ndim - 2))
        if backend is None and any(array.shape[axis] > 1 for axis in spatial):
            raise UnsupportedError(
                f"layer {config.get('name')!r}: a convolution in a file of Keras 1 that does not name its backend is not supported, as "
                'Theano turned kernels round; pass architecture=, the model\'s JSON with "backend": "tensorflow" or "theano"'
            )
        yield name, np.flip(array, spatial) if backend == "theano" else array

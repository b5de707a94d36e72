"""Keras's activation functions by name, as activations of our ops. Keras 3 meanings; older files say so themselves."""

from collections.abc import Mapping
from typing import Any

from fastlstm.errors import UnsupportedError, one_of
from fastlstm.layers.build import Tensor
from fastlstm.ops.activations import ACTIVATIONS, Activation

KERAS: dict[str, Activation] = {
    "linear": ("Identity", 0.0, 0.0),
    "relu": ("Relu", 0.0, 0.0),
    "relu6": ("Relu6", 0.0, 0.0),
    "leaky_relu": ("LeakyRelu", 0.2, 0.0),
    "elu": ("Elu", 1.0, 0.0),
    "celu": ("Celu", 1.0, 0.0),
    "selu": ("Selu", 0.0, 0.0),
    "sigmoid": ("Sigmoid", 0.0, 0.0),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "log_sigmoid": ("LogSigmoid", 0.0, 0.0),
    "tanh": ("Tanh", 0.0, 0.0),
    "hard_tanh": ("HardTanh", 0.0, 0.0),
    "softsign": ("Softsign", 0.0, 0.0),
    "softplus": ("Softplus", 0.0, 0.0),
    "exponential": ("Exp", 0.0, 0.0),
    "silu": ("Silu", 0.0, 0.0),
    "swish": ("Silu", 0.0, 0.0),
    "hard_silu": ("HardSilu", 0.0, 0.0),
    "hard_swish": ("HardSilu", 0.0, 0.0),
    "gelu": ("Gelu", 0.0, 0.0),
    "mish": ("Mish", 0.0, 0.0),
    "squareplus": ("Squareplus", 4.0, 0.0),
}
SOFTMAX = ("Softmax", 0.0, 0.0)


def activation(name: Any, layer: str, softmax: bool = False) -> Activation:
    """Return the activation of a name (None: linear) or of (op, alpha, beta). Raise UnsupportedError, naming layer and value."""
    if isinstance(name, tuple) and len(name) == 3:
        return name
    if isinstance(name, Mapping) and name.get("class_name") in (None, "function"):
        name = name.get("config", name.get("name"))
    if name is None:
        name = "linear"
    if softmax and name == "softmax":
        return SOFTMAX
    if not isinstance(name, str) or name not in KERAS:
        raise UnsupportedError(f"layer {layer!r}: activation {name!r} is not supported; known: {one_of(KERAS)}")
    return KERAS[name]


def activate(x: Tensor, name: str, kind: Activation) -> Tensor:
    """Add an activation as a node of its own."""
    op, alpha, beta = kind
    if op == "Identity":
        return x
    if op == "Softmax":
        return x.build.node(name, "Softmax", [x], axis=-1)
    known = ACTIVATIONS[op]
    attributes: dict[str, Any] = ({"alpha": alpha} if known.has_alpha else {}) | (
        {"beta": beta} if known.has_beta else {}
    )
    return x.build.node(name, op, [x], **attributes)

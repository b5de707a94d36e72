"""Keras's activation functions by name, as activations of our ops. Keras 3 meanings; older files say so themselves.

Most are functions of one element, which recurrent nodes know too. Those `apart` look at several elements, or are made of several
nodes: layers have them, recurrent cells do not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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
    "sparse_sigmoid": ("HardSigmoid", 0.5, 0.5),
}


def activation(name: Any, layer: str, apart: bool = False) -> Activation:
    """Return the activation of a name (None: linear) or of (op, alpha, beta); with `apart` those that are nodes of their own too.

    Raise UnsupportedError, naming layer and value.
    """
    if isinstance(name, tuple) and len(name) == 3:
        return name
    if isinstance(name, Mapping) and name.get("class_name") in (None, "function"):
        name = name.get("config", name.get("name"))
    if name is None:
        name = "linear"
    if apart and isinstance(name, str) and name in APART:
        return (name, 0.0, 0.0)
    if not isinstance(name, str) or name not in KERAS:
        known = (*KERAS, *APART) if apart else KERAS
        raise UnsupportedError(f"layer {layer!r}: activation {name!r} is not supported; known: {one_of(known)}")
    return KERAS[name]


def is_apart(kind: Activation) -> bool:
    """Tell whether an activation is no function that other nodes know, but nodes of its own."""
    return kind[0] in APART


def activate(x: Tensor, name: str, kind: Activation) -> Tensor:
    """Add an activation as a node of its own, or as several."""
    op, alpha, beta = kind
    if op == "Identity":
        return x
    if op in APART:
        return APART[op](x, name)
    known = ACTIVATIONS[op]
    attributes: dict[str, Any] = ({"alpha": alpha} if known.has_alpha else {}) | (
        {"beta": beta} if known.has_beta else {}
    )
    return x.build.node(name, op, [x], **attributes)


def _softmax(x: Tensor, name: str) -> Tensor:
    return x.build.node(name, "Softmax", [x], axis=-1)


def _log_softmax(x: Tensor, name: str) -> Tensor:
    """x - max - log(sum(e^(x - max)))."""
    build = x.build
    off = build.node(f"{name}/off", "Sub", [x, build.node(f"{name}/max", "ReduceMax", [x], axes=(-1,), keepdims=True)])
    powers = build.node(f"{name}/exp", "Exp", [off])
    total = build.node(f"{name}/sum", "ReduceSum", [powers], axes=(-1,), keepdims=True)
    return build.node(name, "Sub", [off, build.node(f"{name}/log", "Log", [total])])


def _tanh_shrink(x: Tensor, name: str) -> Tensor:
    """x - tanh(x)."""
    return x.build.node(name, "Sub", [x, x.build.node(f"{name}/tanh", "Tanh", [x])])


def _hard_shrink(x: Tensor, name: str) -> Tensor:
    """x, and 0 from -0.5 to 0.5."""
    outside = x.build.node(f"{name}/outside", "Less", [_number(x, name, 0.5), x.build.node(f"{name}/abs", "Abs", [x])])
    return x.build.node(name, "Where", [outside, x, _number(x, name, 0.0)])


def _soft_shrink(x: Tensor, name: str) -> Tensor:
    """x, 0.5 nearer to 0."""
    within = x.build.node(f"{name}/within", "Min", [x, _number(x, name, 0.5)])
    within = x.build.node(f"{name}/within", "Max", [within, _number(x, name, -0.5)])
    return x.build.node(name, "Sub", [x, within])


def _sparse_plus(x: Tensor, name: str) -> Tensor:
    """0 up to -1, (x + 1)^2 / 4 up to 1, then x."""
    build, one = x.build, _number(x, name, 1.0)
    raised = build.node(f"{name}/raised", "Add", [x, one])
    raised = build.node(f"{name}/raised", "Max", [raised, _number(x, name, 0.0)])
    square = build.node(f"{name}/square", "Mul", [raised, raised])
    quarter = build.node(f"{name}/quarter", "Mul", [square, _number(x, name, 0.25)])
    return build.node(name, "Where", [build.node(f"{name}/below", "Less", [x, one]), quarter, x])


def _number(x: Tensor, name: str, value: float) -> Tensor:
    return x.build.weight(f"{name}.number", np.array(value, x.value.dtype))


APART: dict[str, Callable[[Tensor, str], Tensor]] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "tanh_shrink": _tanh_shrink,
    "hard_shrink": _hard_shrink,
    "soft_shrink": _soft_shrink,
    "sparse_plus": _sparse_plus,
}

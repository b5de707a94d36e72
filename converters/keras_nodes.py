"""What nodes with weights, recurrent nodes and activations are in Keras 3: its layers. Filled into the registry of `to_keras`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.converters.to_keras import Call, Tensor, handler
from fastlstm.layers.activations import KERAS
from fastlstm.ops.activations import ACTIVATIONS, Activation
from fastlstm.ops.op import Value
from fastlstm.ops.recurrent import Recurrent

NAMES = {kind: name for name, kind in reversed(KERAS.items())}
HARD = ("HardSigmoid", KERAS["hard_sigmoid"][1], 0.5)


def named(call: Call, kind: Activation) -> str:
    """Return Keras's name of an activation. Raise UnsupportedError where it has none."""
    op, alpha, beta = kind
    known = ACTIVATIONS.get(op)
    if known is not None:
        kind = (op, alpha if known.has_alpha else 0.0, beta if known.has_beta else 0.0)
    for given, name in NAMES.items():
        if given[0] == op and np.allclose(given[1:], kind[1:], rtol=1e-6, atol=0):
            return name
    raise call.refuse(f"the activation {op}(alpha={alpha:g}, beta={beta:g})")


def _scale(kind: Activation) -> float:
    """Return by what the input of a hard sigmoid is multiplied to use Keras 3's, x/6 + 0.5; Keras 2's was 0.2x + 0.5."""
    op, alpha, beta = kind
    return alpha / HARD[1] if op == "HardSigmoid" and beta == 0.5 else 1.0


def _bare(kind: Activation) -> Activation:
    return HARD if kind[0] == "HardSigmoid" and kind[2] == 0.5 else kind


# ---- layers with weights --------------------------------------------------------------------------------
Slope = tuple[str, dict[str, float]]  # a layer and its coefficient


def activated(call: Call) -> tuple[Activation, float, Slope | None]:
    """Return the node's activation as Keras has it, the scale of the weights before it, and what stands for it where it is a layer."""
    kind = (call.get("activation"), call.get("alpha"), call.get("beta"))
    bare = _bare(kind)
    return bare, _scale(kind), _slope(bare)


def variables(*arrays: np.ndarray | None, below: str = "vars") -> dict[str, np.ndarray]:
    """Return the arrays that are there by where a layer keeps them."""
    return {f"{below}/{k}": array for k, array in enumerate(a for a in arrays if a is not None)}


def scaled(array: np.ndarray | None, factor: float | np.ndarray) -> np.ndarray | None:
    """Return the array, if there is one, times a factor, in its own dtype."""
    return None if array is None else (array * np.asarray(factor, array.dtype)).astype(array.dtype)


@handler("Dense")
def _dense(call: Call) -> list[Tensor]:
    W, b = call.weight(1, "a matrix W"), call.weight(2, "a bias")
    assert W is not None
    kind, factor, slope = activated(call)
    config = {"units": W.shape[1], "activation": "linear" if slope else named(call, kind), "use_bias": b is not None}
    y = call.layer("Dense", config, [call.tensor(0)], variables(scaled(W, factor), scaled(b, factor)), shared=(1, 2))
    return sloped(call, y, slope)


def _slope(kind: Activation) -> Slope | None:
    """Return the layer of an activation that Keras has with a coefficient as a layer alone."""
    op, alpha, _ = kind
    if op == "LeakyRelu" and alpha != KERAS["leaky_relu"][1]:
        return "LeakyReLU", {"negative_slope": alpha}
    if op == "Elu" and alpha != 1:
        return "ELU", {"alpha": alpha}
    return None


def sloped(call: Call, y: list[Tensor], slope: Slope | None) -> list[Tensor]:
    """Return y after the layer that stands for its activation, if there is one."""
    return y if slope is None else call.layer(slope[0], slope[1], y, suffix="_activation")


@handler("MatMul")
def _mat_mul(call: Call) -> Tensor | list[Tensor]:
    W = call.constant(1)
    if W is None or W.ndim != 2:
        return call.function("Matmul", [call.argument(0), call.argument(1)])
    config = {"units": W.shape[1], "activation": "linear", "use_bias": False}
    return call.layer("Dense", config, [call.tensor(0)], variables(W), shared=(1,))


@handler("Gemm")
def _gemm(call: Call) -> list[Tensor]:
    W, b = call.weight(1, "a matrix B"), call.weight(2, "a bias")
    if call.get("transA") or W is None or (b is not None and b.ndim != 1):
        raise call.refuse("a product other than x W + b")
    W = W.T if call.get("transB") else W
    kernel, bias = scaled(W, call.get("alpha")), scaled(b, call.get("beta"))
    config = {"units": W.shape[1], "activation": "linear", "use_bias": b is not None}
    return call.layer("Dense", config, [call.tensor(0)], variables(kernel, bias), shared=(1, 2))


@handler("Embedding")
def _embedding(call: Call) -> list[Tensor]:
    table = call.weight(1, "a table")
    assert table is not None
    config = {"input_dim": table.shape[0], "output_dim": table.shape[1], "mask_zero": False}
    return call.layer("Embedding", config, [call.tensor(0)], variables(table), shared=(1,))


@handler("LayerNormalization")
def _layer_normalization(call: Call) -> list[Tensor]:
    gamma, beta = call.weight(1, "a scale"), call.weight(2, "a shift")
    rank = len(call.value().shape or ())
    axes = list(range(call.get("axis") % rank, rank))
    config = {"axis": axes, "epsilon": call.get("epsilon"), "scale": gamma is not None, "center": beta is not None}
    return call.layer("LayerNormalization", config, [call.tensor(0)], variables(gamma, beta), shared=(1, 2))


@handler("BatchNormalization")
def _batch_normalization(call: Call) -> list[Tensor]:
    arrays = [call.weight(k, "a statistic") for k in range(1, 5)]
    config = {
        "axis": call.get("axis"),
        "epsilon": call.get("epsilon"),
        "scale": arrays[0] is not None,
        "center": arrays[1] is not None,
    }
    return call.layer("BatchNormalization", config, [call.tensor(0)], variables(*arrays), shared=(1, 2, 3, 4))


# ---- recurrent layers -----------------------------------------------------------------------------------
@handler("LSTM")
def _lstm(call: Call) -> list[Tensor | None]:
    if call.name_of(6):
        raise call.refuse("P (peepholes)")
    if call.get("input_forget"):
        raise call.refuse("input_forget=True")
    gates, candidate, output = call.activations()
    if candidate != output:
        raise call.refuse("an activation of c that is not that of the candidate")
    factor = _scale(gates)
    return _recurrent(call, "LSTM", (gates, candidate), [factor, factor, 1.0, factor], call.weight(3, "a bias"), {})


@handler("GRU")
def _gru(call: Call) -> list[Tensor | None]:
    gates, candidate = call.activations()
    b, bn = call.weight(3, "a bias"), call.weight(4, "a bias bn")
    after = call.get("reset") == "after"
    U = call.weight(2, "a matrix U")
    assert U is not None
    if after and (b is not None or bn is not None):
        H = U.shape[0]
        rows = np.zeros((2, 3 * H), U.dtype)
        rows[0] = 0 if b is None else b
        rows[1, 2 * H :] = 0 if bn is None else bn
        b = rows
    elif bn is not None:
        b = np.concatenate([np.zeros(2 * len(bn), bn.dtype), bn]) + (0 if b is None else b)
    factor = _scale(gates)
    return _recurrent(call, "GRU", (gates, candidate), [factor, factor, 1.0], b, {"reset_after": after})


@handler("RNN")
def _rnn(call: Call) -> list[Tensor | None]:
    (kind,) = call.activations()
    return _recurrent(call, "SimpleRNN", (kind,), [_scale(kind)], call.weight(3, "a bias"), {})


def _recurrent(
    call: Call, class_name: str, kinds: Sequence[Activation], factors: Sequence[float], b: np.ndarray | None, more: dict[str, Any]
) -> list[Tensor | None]:  # fmt: skip
    """Call a recurrent layer; return its outputs where the node has them: over time, states, the last."""
    op = call.op
    assert isinstance(op, Recurrent)
    W, U = call.weight(1, "a matrix W"), call.weight(2, "a matrix U")
    assert W is not None and U is not None
    if call.get("clip"):
        raise call.refuse(f"clip={call.get('clip')}")
    if call.name_of(op.mask_slot + 1):
        raise call.refuse("a mask of dropout")
    count = len(op.states)
    initial = [slot for slot in range(op.h_slot, op.h_slot + count) if call.name_of(slot)]
    masked, backwards = bool(call.name_of(op.mask_slot)), call.get("direction") == "reverse"
    if masked and call.get("empty_state") != "carry":
        raise call.refuse("empty_state='zero'")
    if initial and len(initial) < count:
        raise call.refuse("one initial state of two")
    batch_first = call.get("batch_first")
    wanted = [bool(name) for name in (*call.node.outputs, *[""] * (count + 2 - len(call.node.outputs)))]
    over_time, states, last = wanted[0], wanted[1 : count + 1], wanted[-1]
    # without a mask h is the last output
    stateful = any(states[1:]) or (states[0] and (over_time or masked))
    sequence, *rest = (call.value(k) for k in range(count + 2))
    sequence = _batch_first(sequence, batch_first)
    x, mask = call.tensor(0), call.tensor(op.mask_slot) if masked else None
    if mask is None and x.carries:  # a function leaves the mask behind
        x = call.function("GetItem", [x, [slice(None)]], Value(np.dtype(x.dtype), x.dims), "_unmasked")
    if not batch_first:
        x = _swapped(call, x, "_x")
        mask = None if mask is None else _swapped(call, mask, "_mask")
    factor = np.repeat(np.asarray(factors, U.dtype), U.shape[0])
    activation = {"activation": named(call, _bare(kinds[-1]))}
    if len(kinds) > 1:
        activation["recurrent_activation"] = named(call, _bare(kinds[0]))
    config = {
        "units": U.shape[0], **activation, "use_bias": b is not None, **more, "go_backwards": backwards,
        "return_sequences": over_time, "return_state": stateful,
        "zero_output_for_mask": masked and call.get("masked_output") == "zero",
    }  # fmt: skip
    weights = variables(*(scaled(array, factor) for array in (W, U, b)), below="cell/vars")
    arguments: dict[str, Any] = {} if mask is None else {"mask": mask}
    if initial:
        given = [call.tensor(slot) for slot in initial]
        arguments["initial_state"] = given if count > 1 else given[0]
    made = [sequence if over_time else rest[-1], *(rest[:-1] if stateful else [])]
    y, *found = call.layer(
        class_name,
        config,
        [x],
        weights,
        made=made,
        shared=(1, 2, 3, 4) if class_name == "GRU" else (1, 2, 3),
        **arguments,
    )
    end = y
    if over_time and last:
        end = call.function("GetItem", [y, [slice(None), -1]], rest[-1], "_last")
    if over_time and backwards:  # Keras returns outputs in the order of processing
        y = call.function("Flip", [y], sequence, "_flip", axis=1)
    if over_time and not batch_first:
        y = call.function("Transpose", [y], call.value(), "_y", axes=[1, 0, 2])
    return [y if over_time else None, *(found or [y, *[None] * (count - 1)]), end]


def _batch_first(value: Value, already: bool) -> Value:
    if already or value.shape is None:
        return value
    return Value(value.dtype, (value.shape[1], value.shape[0], *value.shape[2:]))


def _swapped(call: Call, x: Tensor, suffix: str) -> Tensor:
    """Return a tensor with its first two axes exchanged."""
    value = Value(np.dtype(x.dtype), (x.dims[1], x.dims[0], *x.dims[2:]))
    return call.function("Transpose", [x], value, suffix, axes=[1, 0, *range(2, len(x.dims))])


# ---- activations ----------------------------------------------------------------------------------------
@handler(*(op for op in ACTIVATIONS if op not in ("Identity", "Affine", "ScaledTanh", "ThresholdedRelu", "GeluTanh")))
def _activation(call: Call) -> list[Tensor]:
    known = ACTIVATIONS[call.node.op]
    alpha, beta = (call.get(key) if has else 0.0 for key, has in (("alpha", known.has_alpha), ("beta", known.has_beta)))
    kind = (call.node.op, alpha, beta)
    x, factor = call.tensor(0), _scale(kind)
    if factor != 1:
        x = call.function("Multiply", [x, factor], suffix="_scaled")
    slope = _slope(kind)
    return call.layer(*slope, [x]) if slope else call.layer("Activation", {"activation": named(call, _bare(kind))}, [x])


@handler("Softmax")
def _softmax(call: Call) -> Tensor | list[Tensor]:
    axis = call.get("axis")
    if axis in (-1, len(call.value().shape or ()) - 1):
        return call.layer("Activation", {"activation": "softmax"}, [call.tensor(0)])
    return call.function("Softmax", [call.tensor(0)], module="nn", axis=axis)

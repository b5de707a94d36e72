"""What each node is in Keras 3: a layer where Keras has one, else a function of keras.ops. Filled into the registry of `to_keras`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.converters.to_keras import Call, Tensor, handler, sizes
from fastlstm.layers.activations import KERAS
from fastlstm.graph import Dim
from fastlstm.ops.activations import ACTIVATIONS, Activation
from fastlstm.ops.op import Value
from fastlstm.ops.recurrent import Recurrent

NAMES = {kind: name for name, kind in reversed(KERAS.items())}
HARD = ("HardSigmoid", KERAS["hard_sigmoid"][1], 0.5)


def _name(call: Call, kind: Activation) -> str:
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
def _activated(call: Call) -> tuple[Activation, float]:
    """Return the node's activation as Keras has it, and the scale of the weights before it."""
    kind = (call.get("activation"), call.get("alpha"), call.get("beta"))
    return _bare(kind), _scale(kind)


def _variables(*arrays: np.ndarray | None, below: str = "vars") -> dict[str, np.ndarray]:
    return {f"{below}/{k}": array for k, array in enumerate(a for a in arrays if a is not None)}


def _scaled(array: np.ndarray | None, factor: float | np.ndarray) -> np.ndarray | None:
    return None if array is None else (array * np.asarray(factor, array.dtype)).astype(array.dtype)


@handler("Dense")
def _dense(call: Call) -> list[Tensor]:
    W, b = call.weight(1, "a matrix W"), call.weight(2, "a bias")
    assert W is not None
    kind, factor = _activated(call)
    slope = _slope(kind)
    config = {"units": W.shape[1], "activation": "linear" if slope else _name(call, kind), "use_bias": b is not None}
    y = call.layer("Dense", config, [call.tensor(0)], _variables(_scaled(W, factor), _scaled(b, factor)), shared=(1, 2))
    return _sloped(call, y, slope)


def _slope(kind: Activation) -> tuple[str, dict[str, float]] | None:
    """Return the layer of an activation that Keras has with a coefficient as a layer alone."""
    op, alpha, _ = kind
    if op == "LeakyRelu" and alpha != KERAS["leaky_relu"][1]:
        return "LeakyReLU", {"negative_slope": alpha}
    if op == "Elu" and alpha != 1:
        return "ELU", {"alpha": alpha}
    return None


def _sloped(call: Call, y: list[Tensor], slope: tuple[str, dict[str, float]] | None) -> list[Tensor]:
    return y if slope is None else call.layer(slope[0], slope[1], y, suffix="_activation")


@handler("MatMul")
def _mat_mul(call: Call) -> Tensor | list[Tensor]:
    W = call.constant(1)
    if W is None or W.ndim != 2:
        return call.function("Matmul", [call.argument(0), call.argument(1)])
    config = {"units": W.shape[1], "activation": "linear", "use_bias": False}
    return call.layer("Dense", config, [call.tensor(0)], _variables(W), shared=(1,))


@handler("Gemm")
def _gemm(call: Call) -> list[Tensor]:
    W, b = call.weight(1, "a matrix B"), call.weight(2, "a bias")
    if call.get("transA") or W is None or (b is not None and b.ndim != 1):
        raise call.refuse("a product other than x W + b")
    W = W.T if call.get("transB") else W
    kernel, bias = _scaled(W, call.get("alpha")), _scaled(b, call.get("beta"))
    config = {"units": W.shape[1], "activation": "linear", "use_bias": b is not None}
    return call.layer("Dense", config, [call.tensor(0)], _variables(kernel, bias), shared=(1, 2))


@handler("Embedding")
def _embedding(call: Call) -> list[Tensor]:
    table = call.weight(1, "a table")
    assert table is not None
    config = {"input_dim": table.shape[0], "output_dim": table.shape[1], "mask_zero": False}
    return call.layer("Embedding", config, [call.tensor(0)], _variables(table), shared=(1,))


@handler("Conv1D")
def _conv1d(call: Call) -> list[Tensor]:
    W, b = call.weight(1, "a kernel"), call.weight(2, "a bias")
    assert W is not None
    kind, factor = _activated(call)
    slope = _slope(kind)
    x = call.tensor(0)
    x = _padded(call, x, call.get("pads"))
    config = {
        "filters": W.shape[2], "kernel_size": [W.shape[0]], "strides": [call.get("stride")], "padding": "valid", "groups": call.get("groups"),
        "dilation_rate": [call.get("dilation")], "activation": "linear" if slope else _name(call, kind), "use_bias": b is not None,
    }  # fmt: skip
    y = call.layer("Conv1D", config, [x], _variables(_scaled(W, factor), _scaled(b, factor)), shared=(1, 2))
    return _sloped(call, y, slope)


@handler("LayerNormalization")
def _layer_normalization(call: Call) -> list[Tensor]:
    gamma, beta = call.weight(1, "a scale"), call.weight(2, "a shift")
    rank = len(call.value().shape or ())
    axes = list(range(call.get("axis") % rank, rank))
    config = {"axis": axes, "epsilon": call.get("epsilon"), "scale": gamma is not None, "center": beta is not None}
    return call.layer("LayerNormalization", config, [call.tensor(0)], _variables(gamma, beta), shared=(1, 2))


@handler("BatchNormalization")
def _batch_normalization(call: Call) -> list[Tensor]:
    arrays = [call.weight(k, "a statistic") for k in range(1, 5)]
    config = {
        "axis": call.get("axis"),
        "epsilon": call.get("epsilon"),
        "scale": arrays[0] is not None,
        "center": arrays[1] is not None,
    }
    return call.layer("BatchNormalization", config, [call.tensor(0)], _variables(*arrays), shared=(1, 2, 3, 4))


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
    if not batch_first:
        x = _swapped(call, x, "_x")
        mask = None if mask is None else _swapped(call, mask, "_mask")
    factor = np.repeat(np.asarray(factors, U.dtype), U.shape[0])
    activation = {"activation": _name(call, _bare(kinds[-1]))}
    if len(kinds) > 1:
        activation["recurrent_activation"] = _name(call, _bare(kinds[0]))
    config = {
        "units": U.shape[0], **activation, "use_bias": b is not None, **more, "go_backwards": backwards,
        "return_sequences": over_time, "return_state": stateful,
        "zero_output_for_mask": masked and call.get("masked_output") == "zero",
    }  # fmt: skip
    weights = _variables(*(_scaled(array, factor) for array in (W, U, b)), below="cell/vars")
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
    return call.layer(*slope, [x]) if slope else call.layer("Activation", {"activation": _name(call, _bare(kind))}, [x])


@handler("Softmax")
def _softmax(call: Call) -> Tensor | list[Tensor]:
    axis = call.get("axis")
    if axis in (-1, len(call.value().shape or ()) - 1):
        return call.layer("Activation", {"activation": "softmax"}, [call.tensor(0)])
    return call.function("Softmax", [call.tensor(0)], module="nn", axis=axis)


# ---- functions ------------------------------------------------------------------------------------------
BINARY = {
    "Add": "Add", "Sub": "Subtract", "Mul": "Multiply", "Div": "TrueDivide", "Pow": "Power", "NotEqual": "NotEqual", "Equal": "Equal",
    "Less": "Less", "Greater": "Greater", "And": "LogicalAnd", "Or": "LogicalOr", "Where": "Where", "Max": "Maximum", "Min": "Minimum",
}  # fmt: skip
UNARY = {"Neg": "Negative", "Abs": "Absolute", "Sqrt": "Sqrt", "Log": "Log", "Sign": "Sign", "Not": "LogicalNot"}
REDUCTIONS = {"ReduceSum": "Sum", "ReduceMean": "Mean", "ReduceMax": "Max", "ReduceMin": "Min", "ReduceProd": "Prod"}


@handler(*BINARY)
def _elementwise(call: Call) -> Tensor:
    count = sum(bool(name) for name in call.node.inputs)
    if call.node.op in ("Max", "Min") and count != 2:
        raise call.refuse(f"{count} inputs")
    return call.function(BINARY[call.node.op], [call.argument(k) for k in range(count)])


@handler(*UNARY)
def _unary(call: Call) -> Tensor:
    return call.function(UNARY[call.node.op], [call.tensor(0)])


@handler("Windows")
def _windows(call: Call) -> list[Tensor]:
    """Keep windows for the node that reads them: alone Keras has none."""
    call.writer.windows[call.node.outputs[0]] = call
    return []


def _pooled(call: Call, windows: Call) -> Tensor | list[Tensor]:
    """Return windows over time that are reduced, as the pooling that they are."""
    x, pads, size, stride = windows.tensor(0), tuple(windows.get("pads")), windows.get("size"), windows.get("stride")
    if len(x.dims) != 3 or windows.get("axis") != 1 or windows.get("dilation") != 1 or tuple(call.get("axes")) != (2,) or call.get("keepdims"):
        raise call.refuse("a reduction of windows other than a pooling along time")
    config = {"pool_size": [size], "strides": [stride], "padding": "valid"}
    if call.node.op == "ReduceMax":
        if any(pads) and pads != _same_pads(x.dims[1], size, stride):
            raise call.refuse(f"a maximum of windows with pads {pads}")
        return call.layer("MaxPooling1D", config | {"padding": "same" if any(pads) else "valid"}, [x])
    if call.node.op not in ("ReduceMean", "ReduceSum"):
        raise call.refuse("windows as its input")
    y = call.layer("AveragePooling1D", config, [_padded(call, x, pads)])
    return y if call.node.op == "ReduceMean" else call.function("Multiply", [y[0], float(size)], suffix="_sum")


def _same_pads(steps: Dim, size: int, stride: int) -> tuple[int, int] | None:
    """Return the pads of Keras's padding "same", None where they are not known."""
    if stride > 1 and not isinstance(steps, int):
        return None
    left = size - 1 if not isinstance(steps, int) else max(0, (-(-steps // stride) - 1) * stride + size - steps)
    return left // 2, left - left // 2


def _padded(call: Call, x: Tensor, pads: Sequence[int]) -> Tensor:
    """Return x (B, T, C) with steps of zeros before and after."""
    if not any(pads):
        return x
    steps = x.dims[1] + sum(pads) if isinstance(x.dims[1], int) else "time"
    padded = Value(np.dtype(x.dtype), (x.dims[0], steps, x.dims[2]))
    return call.layer("ZeroPadding1D", {"padding": list(pads)}, [x], made=[padded], suffix="_padding")[0]


@handler(*REDUCTIONS)
def _reduction(call: Call) -> Tensor | list[Tensor]:
    axes = call.get("axes")
    if call.name_of(0) in call.writer.windows:
        return _pooled(call, call.writer.windows[call.name_of(0)])
    return call.function(
        REDUCTIONS[call.node.op], [call.tensor(0)], axis=list(axes) if axes else None, keepdims=call.get("keepdims")
    )


@handler("AnyNotEqual")
def _any_not_equal(call: Call) -> Tensor:
    x = call.tensor(0)
    differs = call.function("NotEqual", [x, call.get("value")], Value(np.dtype(bool), x.dims), "_differs")
    return call.function("Any", [differs], axis=-1, keepdims=False)


@handler("Cast")
def _cast(call: Call) -> Tensor:
    return call.function("Cast", [call.tensor(0)], module="core", dtype=call.get("to"))


@handler("Identity")
def _identity(call: Call) -> Tensor:
    return call.tensor(0)


# ---- shapes ---------------------------------------------------------------------------------------------
@handler("Concat")
def _concat(call: Call) -> Tensor | list[Tensor]:
    parts = [call.argument(k) for k in range(len(call.node.inputs))]
    axis = call.get("axis")
    if all(isinstance(part, Tensor) for part in parts) and axis not in (0, -len(call.value().shape or ())):
        return call.layer("Concatenate", {"axis": axis}, [parts])
    return call.function("Concatenate", [parts], axis=axis)


@handler("Transpose")
def _transpose(call: Call) -> Tensor:
    return call.function("Transpose", [call.tensor(0)], axes=list(call.get("perm") or ()) or None)


@handler("Reverse")
def _reverse(call: Call) -> Tensor:
    return call.function("Flip", [call.tensor(0)], axis=call.get("axis"))


@handler("Unsqueeze")
def _unsqueeze(call: Call) -> Tensor:
    axes = _integers(call, 1, "axes")
    rank = len(call.value().shape or ())
    return call.function("ExpandDims", [call.tensor(0)], axis=sorted(axis % rank for axis in axes))


@handler("Squeeze")
def _squeeze(call: Call) -> Tensor:
    axes = _integers(call, 1, "axes") if call.name_of(1) else None
    windows = call.writer.windows.get(call.name_of(0))
    if windows is not None and (windows.get("size"), windows.get("stride"), windows.get("axis"), axes) == (1, 1, 1, [2]):
        return _padded(call, windows.tensor(0), windows.get("pads"))  # of one step each: what padding added is left
    return call.function("Squeeze", [call.tensor(0)], axis=axes)


@handler("Reshape", "Flatten")
def _reshape(call: Call) -> list[Tensor]:
    """Keras's layer keeps the batch; of the other sizes one may be free."""
    x = call.tensor(0)
    shape = call.value().shape
    if not x.dims or not shape or shape[0] != x.dims[0] or sum(d is None for d in sizes(shape[1:])) > 1:
        raise call.refuse(f"a shape {shape} of {x.dims}")
    return call.layer("Reshape", {"target_shape": [-1 if d is None else d for d in sizes(shape[1:])]}, [x])


@handler("Expand")
def _expand(call: Call) -> Tensor:
    """Repeats along one axis of size 1, as RepeatVector does."""
    x, shape = call.tensor(0), call.value().shape
    grown = [k for k, (a, b) in enumerate(zip(x.dims, shape or (), strict=False)) if a != b]
    if shape is None or len(shape) != len(x.dims) or len(grown) != 1 or not isinstance(shape[grown[0]], int):
        raise call.refuse(f"a shape {shape} of {x.dims}")
    return call.function("Repeat", [x], repeats=shape[grown[0]], axis=grown[0])


@handler("Slice")
def _slice(call: Call) -> Tensor:
    x = call.tensor(0)
    starts, ends = _integers(call, 1, "starts"), _integers(call, 2, "ends")
    axes = _integers(call, 3, "axes") if call.name_of(3) else list(range(len(starts)))
    steps = _integers(call, 4, "steps") if call.name_of(4) else [1] * len(starts)
    key = [slice(None)] * len(x.dims)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise call.refuse(f"a slice of step {step}")
        key[axis] = slice(start, None if end >= 2**31 - 1 else end, step)
    return call.function("GetItem", [x, key])


@handler("Split")
def _split(call: Call) -> list[Tensor]:
    x, axis, start = call.tensor(0), call.get("axis"), 0
    parts = []
    for k, name in enumerate(call.node.outputs):
        value = call.value(k)
        size = (value.shape or ())[axis]
        if not name or not isinstance(size, int):
            raise call.refuse("parts of free sizes")
        key = [slice(None)] * len(x.dims)
        key[axis] = slice(start, start + size)
        parts.append(call.function("GetItem", [x, key], value, f"_{k}"))
        start += size
    return parts


@handler("Gather")
def _gather(call: Call) -> Tensor | list[Tensor]:
    table, index, axis = call.constant(0), call.constant(1), call.get("axis")
    if table is not None and table.ndim == 2 and axis == 0:
        config = {"input_dim": table.shape[0], "output_dim": table.shape[1], "mask_zero": False}
        return call.layer("Embedding", config, [call.tensor(1)], _variables(table), shared=(0,))
    if index is None or index.ndim:
        raise call.refuse("indices other than one number")
    x = call.tensor(0)
    key: list[Any] = [slice(None)] * (axis % len(x.dims) + 1)
    key[-1] = int(index)
    return call.function("GetItem", [x, key])


@handler("OneHot")
def _one_hot(call: Call) -> Tensor:
    depth, values = call.constant(1), call.constant(2)
    if depth is None or values is None or values.tolist() != [0, 1] or call.get("from_end"):
        raise call.refuse("values other than 0 and 1, or indices that count from the end")
    return call.function(
        "OneHot",
        [call.tensor(0)],
        module="nn",
        num_classes=int(depth.reshape(())),
        axis=call.get("axis"),
        dtype=values.dtype.name,
        sparse=False,
    )


def _integers(call: Call, slot: int, what: str) -> list[int]:
    found = call.weight(slot, what)
    return [int(value) for value in np.reshape(0 if found is None else found, -1)]

"""Writers of all ops but the recurrent ones: the same operator where ONNX has it, else what it is made of."""

from functools import partial
from typing import Any

import numpy as np

from fastlstm.converters.onnx_writer import Writing, writes
from fastlstm.ops.control import If, Loop

INT64_LIMIT = 2**31  # what our Shape takes for "to the end"


def element_type(dtype: Any) -> int:
    """Return ONNX's number of a dtype."""
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


# ---- arithmetic and activations ---------------------------------------------------------------------
@writes("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Div", "Equal", "Erf",
        "Expand", "Floor", "Greater", "Less", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Round",
        "Sign", "Sin", "Sinh", "Slice", "Sqrt", "Sub", "Tan", "Tile", "Where")  # fmt: skip
def _same(w: Writing):
    return w.add(w.node.op, w.inputs)


@writes("NotEqual")
def _not_equal(w: Writing):
    return w.add("Not", [w.add("Equal", w.inputs)])


@writes("Mod")
def _mod(w: Writing):
    return w.add("Mod", w.inputs, fmod=int(w.get("fmod")))


@writes("Einsum")
def _einsum(w: Writing):
    return w.add("Einsum", w.inputs, equation=w.get("equation"))


@writes("Cast")
def _cast(w: Writing):
    return w.add("Cast", w.inputs, to=element_type(w.get("to")))


def _gelu(w: Writing, x: str, tanh: bool) -> str:
    number = w.number
    if w.opset >= 20:
        return w.add("Gelu", [x], approximate="tanh" if tanh else "none")
    if tanh:
        cube = w.add("Mul", [w.add("Mul", [x, x]), w.add("Mul", [x, number(0.044715)])])
        inner = w.add("Tanh", [w.add("Mul", [w.add("Add", [x, cube]), number(np.sqrt(2 / np.pi))])])
    else:
        inner = w.add("Erf", [w.add("Mul", [x, number(np.sqrt(0.5))])])
    return w.add("Mul", [w.add("Mul", [x, number(0.5)]), w.add("Add", [inner, number(1)])])


def _mish(w: Writing, x: str) -> str:
    if w.opset >= 18:
        return w.add("Mish", [x])
    return w.add("Mul", [x, w.add("Tanh", [w.add("Softplus", [x])])])


def _squareplus(w: Writing, x: str, b: float) -> str:
    root = w.add("Sqrt", [w.add("Add", [w.add("Mul", [x, x]), w.number(b)])])
    return w.add("Mul", [w.add("Add", [x, root]), w.number(0.5)])


def activated(w: Writing, x: str, name: str, alpha: float, beta: float) -> str:
    """Add an activation; scalars take the dtype of the node's first input."""
    if name in ("Identity", "Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "Exp", "Selu"):
        return w.add(name, [x])
    if name in ("LeakyRelu", "ThresholdedRelu", "Elu", "Celu"):
        return w.add(name, [x], alpha=alpha)
    add, number = w.add, w.number
    return {
        "Affine": lambda: add("Add", [add("Mul", [x, number(alpha)]), number(beta)]),
        "ScaledTanh": lambda: add("Mul", [add("Tanh", [add("Mul", [x, number(beta)])]), number(alpha)]),
        "HardSigmoid": lambda: add("HardSigmoid", [x], alpha=alpha, beta=beta),
        "HardSilu": lambda: add("Mul", [x, add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)]) if w.opset < 14 else add("HardSwish", [x]),
        "HardTanh": lambda: add("Clip", [x, number(-1), number(1)]),
        "Relu6": lambda: add("Clip", [x, number(0), number(6)]),
        "Silu": lambda: add("Mul", [x, add("Sigmoid", [x])]),
        "LogSigmoid": lambda: add("Neg", [add("Softplus", [add("Neg", [x])])]),
        "Gelu": lambda: _gelu(w, x, False),
        "GeluTanh": lambda: _gelu(w, x, True),
        "Mish": lambda: _mish(w, x),
        "Squareplus": lambda: _squareplus(w, x, alpha),
    }[name]()  # fmt: skip


@writes("Identity", "Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "Exp", "Selu", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu",
        "Affine", "ScaledTanh", "HardSigmoid", "HardSilu", "HardTanh", "Relu6", "Silu", "LogSigmoid", "Gelu", "GeluTanh", "Mish",
        "Squareplus")  # fmt: skip
def _activation(w: Writing):
    return activated(w, w.inputs[0], w.node.op, w.attributes.get("alpha", 0.0), w.attributes.get("beta", 0.0))


@writes("Softmax")
def _softmax(w: Writing):
    return w.add("Softmax", w.inputs, axis=w.get("axis"))


# ---- contractions -----------------------------------------------------------------------------------
def _ends_with_activation(w: Writing, x: str) -> str:
    name = w.get("activation")
    return x if name == "Identity" else activated(w, x, name, w.get("alpha"), w.get("beta"))


@writes("Dense")
def _dense(w: Writing):
    y = w.add("MatMul", w.inputs[:2])
    return _ends_with_activation(w, w.add("Add", [y, w.inputs[2]]) if w.given(2) else y)


@writes("Gemm")
def _gemm(w: Writing):
    attributes: dict[str, Any] = {name: w.get(name) for name in ("alpha", "beta")}
    attributes |= {name: int(w.get(name)) for name in ("transA", "transB")}
    return w.add("Gemm", w.inputs, **attributes)


def _convolved(w: Writing, strides, dilations, pads):
    axes = len(strides)
    x = w.transposed(w.inputs[0], 0, axes + 1, *range(1, axes + 1))
    W = w.transposed(w.inputs[1], axes + 1, axes, *range(axes))
    y = w.add(
        "Conv", [x, W, w.inputs[2] if w.given(2) else ""],
        strides=strides, dilations=dilations, pads=pads, group=w.get("groups"),
    )  # fmt: skip
    return w.transposed(_ends_with_activation(w, y), 0, *range(2, axes + 2), 1)


@writes("Conv1D")
def _conv1d(w: Writing):
    return _convolved(w, [w.get("stride")], [w.get("dilation")], w.get("pads"))


@writes("Conv2D", "Conv3D")
def _conv(w: Writing):
    return _convolved(w, w.get("strides"), w.get("dilations"), w.get("pads"))


@writes("Windows")
def _windows(w: Writing):
    """Steps of a Gather whose indices grow with the axis."""
    axis, size, (before, after) = w.get("axis") % w.rank(), w.get("size"), w.get("pads")
    stride, span = w.get("stride"), (size - 1) * w.get("dilation")
    x = w.inputs[0]
    if before or after:
        pads = np.zeros((2, w.rank()), np.int64)
        pads[:, axis] = before, after
        fill = w.number(0.0 if w.get("fill") == "zero" else -np.inf)
        x = w.add("Pad", [x, w.ints(*pads.ravel().tolist()), fill])
    length = w.add("Gather", [w.add("Shape", [x]), w.constant(axis, np.int64)])
    stop = w.add("Sub", [length, w.constant(span, np.int64)])
    starts = w.add("Range", [w.constant(0, np.int64), stop, w.constant(stride, np.int64)])
    offsets = w.ints(*range(0, span + 1, w.get("dilation")))
    return w.add("Gather", [x, w.add("Add", [w.unsqueezed(starts, 1), offsets])], axis=axis)


# ---- reductions and normalisations ------------------------------------------------------------------
@writes("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
def _reduce(w: Writing):
    axes = list(w.get("axes"))
    if w.given(1):
        known = w.value(1).data
        named = w.inputs[1] if known is None else [int(k) for k in known.ravel()]
    else:
        named = axes if axes or w.get("noop") else None
    return w.reduced(w.node.op, w.inputs[0], named, w.get("keepdims"), w.get("noop"))


@writes("AnyNotEqual")
def _any_not_equal(w: Writing):
    differs = w.add("Not", [w.add("Equal", [w.inputs[0], w.number(w.get("value"))])])
    return w.add("Cast", [w.reduced("ReduceMax", _int32(w, differs), [-1], False)], to=element_type(np.bool_))


def _int32(w: Writing, x: str) -> str:
    return w.add("Cast", [x], to=element_type(np.int32))


@writes("Moments")
def _moments(w: Writing):
    mean_of = partial(w.reduced, "ReduceMean", axes=list(w.get("axes")))
    off = w.add("Sub", [w.inputs[0], mean_of(w.inputs[0], keepdims=True)])
    return [mean_of(w.inputs[0], keepdims=False), mean_of(w.add("Mul", [off, off]), keepdims=False)]


@writes("BatchNormalization")
def _batch_normalization(w: Writing):
    rank, channels = w.rank(), w.value(3).shape
    axis, given = w.get("axis") % rank, list(w.inputs)
    if channels is None or not isinstance(channels[0], int):
        raise w.refuse("the number of channels is not known")
    for k, value in ((1, 1.0), (2, 0.0)):
        if not w.given(k):
            given[k] = w.constant(np.full(channels[0], value, w.value().dtype))
    there = [0, axis, *(k for k in range(1, rank) if k != axis)] if axis else [0]
    if axis == 0:
        raise w.refuse("its channels stand along the first axis")
    x = w.transposed(given[0], *there)
    y = w.add("BatchNormalization", [x, *given[1:5]], epsilon=w.get("epsilon"))
    return w.transposed(y, *np.argsort(there).tolist())


@writes("LayerNormalization")
def _layer_normalization(w: Writing):
    rank = w.rank()
    axis, shape = w.get("axis") % rank, w.value().shape
    assert shape is not None
    sizes = [d for d in shape[axis:] if isinstance(d, int)]
    if w.opset >= 17 and (w.given(1) or len(sizes) == rank - axis):
        scale = w.inputs[1] if w.given(1) else w.constant(np.ones(sizes, w.value().dtype))
        return w.add("LayerNormalization", [w.inputs[0], scale, w.inputs[2] if w.given(2) else ""], axis=axis, epsilon=w.get("epsilon"))  # fmt: skip
    mean_of = partial(w.reduced, "ReduceMean", axes=list(range(axis, rank)), keepdims=True)
    off = w.add("Sub", [w.inputs[0], mean_of(w.inputs[0])])
    variance = mean_of(w.add("Mul", [off, off]))
    y = w.add("Div", [off, w.add("Sqrt", [w.add("Add", [variance, w.number(w.get("epsilon"))])])])
    for k, op_type in ((1, "Mul"), (2, "Add")):
        y = w.add(op_type, [y, w.inputs[k]]) if w.given(k) else y
    return y


# ---- look-ups and order -----------------------------------------------------------------------------
@writes("Embedding")
def _embedding(w: Writing):
    ids = w.inputs[0]
    if w.value().dtype.kind not in "iu" or w.value().dtype.itemsize < 4:
        ids = w.add("Cast", [ids], to=element_type(np.int64))
    return w.add("Gather", [w.inputs[1], ids], axis=0)


@writes("Gather", "GatherElements")
def _gather(w: Writing):
    return w.add(w.node.op, w.inputs, axis=w.get("axis"))


@writes("OneHot")
def _one_hot(w: Writing):
    indices = w.inputs[0]
    if not w.get("from_end"):  # a negative index has nothing on: like one that is too large
        negative = w.add("Less", [indices, w.number(0)])
        depth = w.add("Cast", [w.inputs[1]], to=element_type(w.value().dtype))
        indices = w.add("Where", [negative, depth, indices])
    return w.add("OneHot", [indices, *w.inputs[1:]], axis=w.get("axis"))


@writes("ArgMax", "ArgMin")
def _arg(w: Writing):
    return w.add(
        w.node.op, w.inputs, axis=w.get("axis"), keepdims=int(w.get("keepdims")), select_last_index=int(w.get("last"))
    )


@writes("TopK")
def _top_k(w: Writing):
    k = w.add("Reshape", [w.inputs[1], w.ints(1)])
    return w.add("TopK", [w.inputs[0], k], 2, axis=w.get("axis"), largest=int(w.get("largest")))


@writes("CumSum")
def _cum_sum(w: Writing):
    return w.add("CumSum", w.inputs, exclusive=int(w.get("exclusive")), reverse=int(w.get("reverse")))


@writes("Reverse")
def _reverse(w: Writing):
    return w.add("Slice", [w.inputs[0], w.ints(-1), w.ints(-(2**62)), w.ints(w.get("axis")), w.ints(-1)])


@writes("ReverseSequence")
def _reverse_sequence(w: Writing):
    return w.add("ReverseSequence", w.inputs, time_axis=w.get("time_axis"), batch_axis=w.get("batch_axis"))


# ---- shapes -----------------------------------------------------------------------------------------
@writes("Concat", "Flatten")
def _along(w: Writing):
    return w.add(w.node.op, w.inputs, axis=w.get("axis"))


@writes("Transpose")
def _transpose(w: Writing):
    return w.add("Transpose", w.inputs, **({"perm": w.get("perm")} if w.get("perm") else {}))


@writes("Squeeze", "Unsqueeze")
def _squeeze(w: Writing):
    return w.add(w.node.op, w.inputs)


@writes("Reshape")
def _reshape(w: Writing):
    if w.get("allowzero"):
        w.since(14, "Reshape with allowzero")
        return w.add("Reshape", w.inputs, allowzero=1)
    return w.add("Reshape", w.inputs)


@writes("ReshapeLike")
def _reshape_like(w: Writing):
    return w.add("Reshape", [w.inputs[0], w.add("Shape", [w.inputs[1]])])


@writes("ExpandLike")
def _expand_like(w: Writing):
    return w.add("Expand", [w.inputs[0], w.add("Shape", [w.inputs[1]])])


def _sizes(w: Writing, x: str, start: int, end: int = INT64_LIMIT) -> str:
    """Add the sizes of axes start to end."""
    return w.add("Slice", [w.add("Shape", [x]), w.ints(start), w.ints(end)])


@writes("MergeAxes")
def _merge_axes(w: Writing):
    x, axis = w.inputs[0], w.get("axis")
    shape = w.add("Concat", [_sizes(w, x, 0, axis), w.ints(-1), _sizes(w, x, axis + 2)], axis=0)
    return w.add("Reshape", [x, shape])


@writes("SplitAxis")
def _split_axis(w: Writing):
    x, like, axis = *w.inputs, w.get("axis")
    shape = w.add("Concat", [_sizes(w, x, 0, axis), _sizes(w, like, axis, axis + 2), _sizes(w, x, axis + 1)], axis=0)
    return w.add("Reshape", [x, shape])


@writes("Shape")
def _shape(w: Writing):
    start, end = w.get("start"), w.get("end")
    if start == 0 and end >= INT64_LIMIT:
        return w.add("Shape", w.inputs)
    if w.opset >= 15:
        return w.add("Shape", w.inputs, start=start, **({} if end >= INT64_LIMIT else {"end": end}))
    return _sizes(w, w.inputs[0], start, end)


@writes("Split")
def _split(w: Writing):
    count = len(w.node.outputs)
    more: dict[str, Any] = {"num_outputs": count} if w.opset >= 18 and not w.given(1) else {}
    results = w.add("Split", w.inputs, count, axis=w.get("axis"), **more)
    return [results] if count == 1 else results


@writes("Pad")
def _pad(w: Writing):
    if w.get("mode") == "wrap":
        w.since(19, "Pad with mode wrap")
    if not w.given(3) or w.opset >= 18:
        return w.add("Pad", w.inputs, mode=w.get("mode"))
    if w.value(3).data is None:
        w.since(18, "Pad with axes of the run")
    # pads of every axis: the pads that there are, by their numbers, and a zero after them for the other axes
    rank, axes = w.rank(), w.data(3).ravel().tolist()
    places = np.full((2, rank), 2 * len(axes))
    places[:, [axis % rank for axis in axes]] = np.arange(2 * len(axes)).reshape(2, -1)
    pads = w.add(
        "Gather", [w.add("Concat", [w.inputs[1], w.ints(0)], axis=0), w.ints(*places.ravel().tolist())], axis=0
    )
    return w.add("Pad", [w.inputs[0], pads, *w.inputs[2:3]], mode=w.get("mode"))


@writes("ConstantOfShape")
def _constant_of_shape(w: Writing):
    from onnx import numpy_helper

    value = numpy_helper.from_array(np.array([w.get("value")], w.get("dtype")))
    return w.add("ConstantOfShape", w.inputs, value=value)


def _steps_of(w: Writing, x: str, axis: int) -> str:
    """Add 0, 1 ... of the size of an axis."""
    size = w.add("Gather", [w.add("Shape", [x]), w.constant(axis, np.int64)])
    return w.add("Range", [w.constant(0, np.int64), size, w.constant(1, np.int64)])


@writes("CausalMask")
def _causal_mask(w: Writing):
    row, column = (_steps_of(w, w.inputs[0], axis) for axis in (-2, -1))
    return w.add("Not", [w.add("Less", [w.unsqueezed(row, 1), column])])


@writes("SequenceMask")
def _sequence_mask(w: Writing):
    lengths, x = w.inputs
    wide = w.add("Cast", [lengths], to=element_type(np.int64))
    if w.get("batch_first"):
        return w.add("Less", [_steps_of(w, x, 1), w.unsqueezed(wide, 1)])
    return w.add("Less", [w.unsqueezed(_steps_of(w, x, 0), 1), wide])


# ---- control flow -----------------------------------------------------------------------------------
@writes(If.name)
def _if(w: Writing):
    branches = {f"{role}_branch": w.subgraph(w.node.subgraphs[role], w.inputs[1:], w.values[1:]) for role in If.bodies}
    results = w.add("If", w.inputs[:1], len(w.node.outputs), **branches)
    return [results] if len(w.node.outputs) == 1 else results


@writes(Loop.name)
def _loop(w: Writing):
    carried = 2 + w.get("carried")
    body = w.subgraph(w.node.subgraphs["body"], w.inputs[carried:], w.values[carried:], carried, w.values[2:carried])
    # without an upper bound, a condition is what ends a loop
    trips, condition = (w.inputs[k] if w.given(k) else "" for k in (0, 1))
    results = w.add("Loop", [trips, condition, *w.inputs[2:carried]], len(w.node.outputs), body=body)
    return [results] if len(w.node.outputs) == 1 else results

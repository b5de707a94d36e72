"""Handlers of ONNX's other operators, every opset's spelling brought to the newest form: inputs rather than attributes."""

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, handler
from fastlstm.errors import ModelFileError
from fastlstm.layers import Tensor
from fastlstm.ops.elementwise import DTYPES


def onnx_dtype(code: int) -> str | None:
    """Return NumPy's name of an ONNX element type, None if it is none of ours."""
    names = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64"}  # fmt: skip
    return names.get(code)


def _same(node: OnnxNode, **attributes):
    return node.emit(node.op_type, node.inputs, **attributes)


@handler("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "And", "Or")
def _binary(node: OnnxNode):
    if node.opset < 7 and (node.attribute("broadcast", 0) or node.attribute("axis") is not None):
        raise node.refuse("attribute broadcast", 1)
    node.ignore("consumed_inputs")
    return _same(node)


@handler("Max", "Min", "Neg", "Abs", "Sqrt", "Not", "Where", "Range", "Identity")
def _plain(node: OnnxNode):
    node.ignore("consumed_inputs")
    return _same(node)


@handler("Sum")
def _sum(node: OnnxNode):
    total = node.input(0)
    for k in range(1, len(node.inputs)):
        total = node.emit("Add", [total, node.input(k)])
    return total


@handler("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "Exp", "Mish")
def _activation(node: OnnxNode):
    node.ignore("consumed_inputs")
    return _same(node)


@handler("LeakyRelu", "ThresholdedRelu", "Elu", "Celu")
def _activation_alpha(node: OnnxNode):
    node.ignore("consumed_inputs")
    default = {"LeakyRelu": 0.01}.get(node.op_type, 1.0)
    return _same(node, alpha=float(node.attribute("alpha", default)))


@handler("HardSigmoid")
def _hard_sigmoid(node: OnnxNode):
    return _same(node, alpha=float(node.attribute("alpha", 0.2)), beta=float(node.attribute("beta", 0.5)))


@handler("HardSwish")
def _hard_swish(node: OnnxNode):
    return node.emit("HardSilu", node.inputs)


@handler("Selu")
def _selu(node: OnnxNode):
    node.ignore("consumed_inputs")
    old = node.opset < 6  # rounded its defaults
    for name, usual, default in (("alpha", 1.6732632, 1.6732), ("gamma", 1.050701, 1.0507)):
        value = float(node.attribute(name, default if old else usual))
        if abs(value - usual) > 1e-6:
            raise node.refuse(f"attribute {name}", value)
    return _same(node)


@handler("Gelu")
def _gelu(node: OnnxNode):
    approximate = node.attribute("approximate", b"none")
    if approximate not in (b"none", b"tanh"):
        raise node.refuse("attribute approximate", approximate)
    return node.emit("GeluTanh" if approximate == b"tanh" else "Gelu", node.inputs)


@handler("Clip")
def _clip(node: OnnxNode):
    x = node.input(0)
    bounds: list[tuple[str, Tensor | None]] = [("Max", node.optional(1)), ("Min", node.optional(2))]
    if node.opset < 11:
        values = (node.attribute("min"), node.attribute("max"))
        bounds = [
            (op, None if v is None else node.build.weight(f"{node.name}.{op}", np.array(v, x.value.dtype)))
            for (op, _), v in zip(bounds, values, strict=True)
        ]
    for op, bound in bounds:
        x = x if bound is None else node.emit(op, [x, bound])
    return node.emit("Identity", [x]) if x is node.input(0) else x


@handler("Cast")
def _cast(node: OnnxNode):
    node.ignore("saturate")
    code = node.attribute("to")
    to = onnx_dtype(code) if isinstance(code, int) else None
    if to not in DTYPES:
        raise node.refuse("attribute to", code)
    return node.emit("Cast", [node.input(0)], to=to)


@handler("Dropout")
def _dropout(node: OnnxNode):
    node.ignore("ratio", "seed", "is_test", "consumed_inputs")
    if node.wants(1):
        raise node.refuse("output mask", node.outputs[1])
    training = node.constant(2)
    if training is not None and bool(training):
        raise node.refuse("input training_mode", True)
    return node.emit("Identity", [node.input(0)])


@handler("MatMul")
def _matmul(node: OnnxNode):
    return _same(node)


@handler("Gemm")
def _gemm(node: OnnxNode):
    node.ignore("broadcast")
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    transposed = [bool(node.attribute(name, 0)) for name in ("transA", "transB")]
    a, b, c = node.input(0), node.input(1), node.optional(2)
    vector = c is None or (c.value.data is not None and c.value.data.ndim == 1 and c.value.data.size > 1)
    if alpha == beta == 1.0 and not transposed[0] and b.value.data is not None and vector:
        W = node.emit("Transpose", [b], suffix="/W", perm=(1, 0)) if transposed[1] else b
        return node.emit("Dense", [a, W, c])
    return node.emit("Gemm", [a, b, c], alpha=alpha, beta=beta, transA=transposed[0], transB=transposed[1])


@handler("Softmax")
def _softmax(node: OnnxNode):
    x = node.input(0)
    axis = int(node.attribute("axis", -1 if node.opset >= 13 else 1))
    rank = None if x.value.shape is None else len(x.value.shape)
    if node.opset >= 13 or axis == -1 or (rank is not None and axis == rank - 1):
        return node.emit("Softmax", [x], axis=axis)
    # before opset 13 the axes from `axis` on count as one
    flat = node.emit("Flatten", [x], suffix="/flat", axis=axis)
    shape = node.emit("Shape", [x], suffix="/shape")
    return node.emit("Reshape", [node.emit("Softmax", [flat], axis=-1), shape], suffix="/unflat")


@handler("BatchNormalization")
def _batch_normalization(node: OnnxNode):
    node.ignore("momentum", "is_test", "consumed_inputs")
    if not node.attribute("spatial", 1):
        raise node.refuse("attribute spatial", 0)
    if node.attribute("training_mode", 0) or any(node.wants(k) for k in range(1, 5)):
        raise node.refuse("attribute training_mode", 1)
    return node.emit(
        "BatchNormalization", [node.input(k) for k in range(5)], axis=1, epsilon=float(node.attribute("epsilon", 1e-5))
    )


@handler("LayerNormalization")
def _layer_normalization(node: OnnxNode):
    node.ignore("stash_type")
    if node.wants(1) or node.wants(2):
        raise node.refuse("output Mean or InvStdDev", node.outputs[1:])
    axis, epsilon = int(node.attribute("axis", -1)), float(node.attribute("epsilon", 1e-5))
    return node.emit("LayerNormalization", node.inputs, axis=axis, epsilon=epsilon)


@handler("Conv")
def _conv(node: OnnxNode):
    x, W, b = node.input(0), node.input(1), node.optional(2)
    shape = W.value.shape
    if shape is None or len(shape) != 3 or not all(isinstance(d, int) for d in shape):
        raise node.refuse("shape of W (only convolutions over one axis, of known sizes, are supported)", shape)
    K = int(shape[2])
    if list(node.attribute("kernel_shape") or [K]) != [K]:
        raise node.refuse("attribute kernel_shape", node.attribute("kernel_shape"))
    stride, dilation = (int((node.attribute(name) or [1])[0]) for name in ("strides", "dilations"))
    pads = [int(p) for p in node.attribute("pads") or (0, 0)]
    auto_pad = node.attribute("auto_pad", b"NOTSET")
    if auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
        span = (K - 1) * dilation
        if stride != 1:
            raise node.refuse("attribute auto_pad with strides", stride)
        less, more = span // 2, span - span // 2
        pads = [less, more] if auto_pad == b"SAME_UPPER" else [more, less]
    elif auto_pad == b"VALID":
        pads = [0, 0]
    elif auto_pad not in (b"NOTSET", b""):
        raise node.refuse("attribute auto_pad", auto_pad)
    steps = node.emit("Transpose", [x], suffix="/steps", perm=(0, 2, 1))
    kernel = node.emit("Transpose", [W], suffix="/W", perm=(2, 1, 0))
    y = node.emit(
        "Conv1D",
        [steps, kernel, b],
        stride=stride,
        dilation=dilation,
        groups=int(node.attribute("group", 1)),
        pads=tuple(pads),
    )
    return node.emit("Transpose", [y], suffix="/channels", perm=(0, 2, 1))


# ---- shapes -----------------------------------------------------------------------------------------
def _axes(node: OnnxNode, since: int, index: int = 1) -> Tensor | None:
    """Return axes, an attribute before opset `since` and an input from then on."""
    if node.opset >= since:
        return node.optional(index)
    axes = node.attribute("axes")
    return None if axes is None else node.ints("axes", axes)


@handler("Squeeze", "Unsqueeze")
def _squeeze(node: OnnxNode):
    return node.emit(node.op_type, [node.input(0), _axes(node, 13)])


@handler("Reshape")
def _reshape(node: OnnxNode):
    node.ignore("consumed_inputs")
    shape = node.input(1) if node.opset >= 5 else node.ints("shape", node.attribute("shape", ()))
    return node.emit("Reshape", [node.input(0), shape], allowzero=bool(node.attribute("allowzero", 0)))


@handler("Flatten")
def _flatten(node: OnnxNode):
    return _same(node, axis=int(node.attribute("axis", 1)))


@handler("Transpose")
def _transpose(node: OnnxNode):
    return _same(node, perm=tuple(int(k) for k in node.attribute("perm") or ()))


@handler("Concat")
def _concat(node: OnnxNode):
    axis = node.attribute("axis", 1 if node.opset < 4 else None)
    if axis is None:
        raise ModelFileError(f"node {node.name!r}: Concat lacks its attribute axis")
    return _same(node, axis=int(axis))


@handler("Split")
def _split(node: OnnxNode):
    node.ignore("num_outputs")
    sizes = node.optional(1) if node.opset >= 13 or node.opset < 2 else None
    given = node.attribute("split") if node.opset < 13 else None
    if given is not None:
        sizes = node.ints("split", given)
    results = node.emit("Split", [node.input(0), sizes], len(node.outputs), axis=int(node.attribute("axis", 0)))
    return [results] if len(node.outputs) == 1 else list(results)


@handler("Slice")
def _slice(node: OnnxNode):
    if node.opset >= 10:
        return _same(node)
    given = [node.attribute(name) for name in ("starts", "ends", "axes")]
    return node.emit("Slice", [node.input(0), *(None if v is None else node.ints("slice", v) for v in given)])


@handler("Gather")
def _gather(node: OnnxNode):
    return _same(node, axis=int(node.attribute("axis", 0)))


@handler("OneHot")
def _one_hot(node: OnnxNode):
    return _same(node, axis=int(node.attribute("axis", -1)), from_end=node.opset >= 11)


@handler("Expand")
def _expand(node: OnnxNode):
    return _same(node)


@handler("Shape")
def _shape(node: OnnxNode):
    end = node.attribute("end")
    return _same(node, start=int(node.attribute("start", 0)), end=2**31 if end is None else int(end))


@handler("ConstantOfShape")
def _constant_of_shape(node: OnnxNode):
    value = node.attribute("value")
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1 or value.dtype.name not in DTYPES:
        raise node.refuse("attribute value", value)
    number = value.ravel()[0].item()
    if not abs(number) < 2**53:  # held as a float
        raise node.refuse("attribute value", number)
    return _same(node, value=float(number), dtype=value.dtype.name)


@handler("Constant")
def _constant(node: OnnxNode):
    for name, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        value = node.attribute(name)
        if value is not None:
            return node.build.weight(node.outputs[0] if node.outputs else node.name, np.asarray(value, dtype))
    raise node.refuse("attributes", "no value, value_float(s) or value_int(s)")

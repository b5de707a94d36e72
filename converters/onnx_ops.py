"""Handlers of ONNX's arithmetic, comparisons, logic, activations and casts, every opset's spelling brought to the newest form."""

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, SequenceValue, handler, onnx_dtype
from fastlstm.layers import Tensor
from fastlstm.ops.elementwise import DTYPES


def _same(node: OnnxNode, **attributes):
    return node.emit(node.op_type, node.inputs, **attributes)


@handler("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "And", "Or")
def _binary(node: OnnxNode):
    node.ignore("consumed_inputs")
    return node.emit(node.op_type, _operands(node))


def _operands(node: OnnxNode) -> list[Tensor]:
    """Return A and B; before opset 7 the axes of B meet those of A from `axis` on, where `broadcast` says so."""
    a, b = node.input(0), node.input(1)
    if node.opset >= 7:
        return [a, b]
    axis = node.attribute("axis")
    if node.attribute("broadcast", 0):
        after = 0 if axis is None else node.rank(0) - int(axis) % node.rank(0) - node.rank(1)
        if after > 0:
            b = node.emit("Unsqueeze", [b, node.ints("axes", range(-after, 0))], suffix="/B")
    return [a, b]


@handler("Xor")
def _xor(node: OnnxNode):
    return node.emit("NotEqual", _operands(node))


@handler("LessOrEqual", "GreaterOrEqual")
def _or_equal(node: OnnxNode):
    strict = node.emit(node.op_type.removesuffix("OrEqual"), node.inputs, suffix="/strict")
    return node.emit("Or", [strict, node.emit("Equal", node.inputs, suffix="/equal")])


@handler("Mod")
def _mod(node: OnnxNode):
    return _same(node, fmod=bool(node.attribute("fmod", 0)))


@handler("Identity")
def _identity(node: OnnxNode):
    node.ignore("consumed_inputs")
    (value,) = node.values
    return value if isinstance(value, SequenceValue) else _same(node)


@handler("Max", "Min", "Neg", "Abs", "Sqrt", "Not", "Where", "Range", "Log", "Sign", "Floor", "Ceil", "Round",
         "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Erf")  # fmt: skip
def _plain(node: OnnxNode):
    node.ignore("consumed_inputs")
    return _same(node)


@handler("Sum")
def _sum(node: OnnxNode):
    node.ignore("consumed_inputs")
    total = node.input(0)
    for k in range(1, len(node.inputs)):
        total = node.emit("Add", [total, node.input(k)])
    return total


@handler("Mean")
def _mean(node: OnnxNode):
    total = _sum(node)
    return node.emit("Div", [total, node.number(len(node.inputs), total)])


@handler("Reciprocal")
def _reciprocal(node: OnnxNode):
    node.ignore("consumed_inputs")
    x = node.input(0)
    return node.emit("Div", [node.number(1, x), x])


@handler("IsNaN")
def _is_nan(node: OnnxNode):
    return node.emit("NotEqual", [node.input(0), node.input(0)])


@handler("IsInf")
def _is_inf(node: OnnxNode):
    x = node.input(0)
    signs = [sign for sign, name in ((1, "positive"), (-1, "negative")) if node.attribute(f"detect_{name}", 1)]
    found = [node.emit("Equal", [x, node.number(sign * np.inf, x)], suffix="/one") for sign in signs]
    return node.emit("Or", found) if len(found) == 2 else found[0] if found else node.emit("NotEqual", [x, x])


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
    usual, x = (1.6732632, 1.050701), node.input(0)
    # before opset 6 the defaults were rounded
    alpha, gamma = (
        float(node.attribute(name, default))
        for name, default in zip(("alpha", "gamma"), usual if node.opset >= 6 else (1.6732, 1.0507), strict=True)
    )
    if abs(alpha - usual[0]) < 1e-6 and abs(gamma - usual[1]) < 1e-6:
        return _same(node)
    return node.emit("Mul", [node.emit("Elu", [x], suffix="/elu", alpha=alpha), node.number(gamma, x)])


@handler("Gelu")
def _gelu(node: OnnxNode):
    approximate = node.attribute("approximate", b"none")
    if approximate not in (b"none", b"tanh"):
        raise node.refuse("attribute approximate", approximate)
    return node.emit("GeluTanh" if approximate == b"tanh" else "Gelu", node.inputs)


@handler("PRelu")
def _prelu(node: OnnxNode):
    node.ignore("consumed_inputs")
    x, slope = node.input(0), node.input(1)
    if node.opset < 7 and node.rank(1) == 1 and node.rank(0) > 2:  # a slope for each channel
        slope = node.emit("Unsqueeze", [slope, node.ints("axes", range(1, node.rank(0) - 1))], suffix="/slope")
    negative = node.emit("Less", [x, node.number(0, x)], suffix="/negative")
    return node.emit("Where", [negative, node.emit("Mul", [x, slope], suffix="/scaled"), x])


@handler("Swish")
def _swish(node: OnnxNode):
    x, alpha = node.input(0), float(node.attribute("alpha", 1.0))
    if alpha == 1.0:
        return node.emit("Silu", [x])
    scaled = node.emit("Mul", [x, node.number(alpha, x)], suffix="/scaled")
    return node.emit("Mul", [x, node.emit("Sigmoid", [scaled], suffix="/gate")])


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
    node.ignore("consumed_inputs")
    for op, bound in bounds:
        x = x if bound is None else node.emit(op, [x, bound])
    return node.emit("Identity", [x]) if x is node.input(0) else x


@handler("Cast")
def _cast(node: OnnxNode):
    node.ignore("saturate", "round_mode")
    code = node.attribute("to")
    to = onnx_dtype(code) if isinstance(code, int) else None
    if to not in DTYPES:
        raise node.refuse("attribute to", code)
    return node.emit("Cast", [node.input(0)], to=to)


@handler("CastLike")
def _cast_like(node: OnnxNode):
    node.ignore("saturate", "round_mode")
    return node.emit("Cast", [node.input(0)], to=node.input(1).value.dtype.name)


@handler("Dropout")
def _dropout(node: OnnxNode):
    """Nothing is dropped at inference; in training mode with a ratio above 0 it would be at random, which is refused."""
    node.ignore("ratio", "seed", "is_test", "consumed_inputs")
    x = node.input(0)
    training, ratio = node.optional(2), node.optional(1)
    off = ratio is not None and ratio.value.data is not None and not ratio.value.data.any()
    if training is not None and not off:
        if training.value.data is None:
            raise node.refuse("input training_mode", "a value of the run")
        if training.value.data.any():
            raise node.refuse("input training_mode", True)
    y = node.emit("Identity", [x])
    if not node.wants(1):
        return y
    if node.opset < 12:  # what the mask holds at inference is not said there
        raise node.refuse("output mask", node.outputs[1])
    shape = node.emit("Shape", [x], suffix="/shape")
    return [y, node.emit("ConstantOfShape", [shape], suffix="/mask", value=1.0, dtype="bool")]


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

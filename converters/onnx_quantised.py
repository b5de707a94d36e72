"""Handlers of ONNX's quantised operators: what they stand for in numbers of the run, which are exact integers where ONNX's are."""

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, handler, handlers, onnx_dtype
from fastlstm.errors import ModelFileError
from fastlstm.layers import Tensor


def _along(node: OnnxNode, parameter: Tensor, axis: int) -> Tensor:
    """Return a scale or zero point as it broadcasts with input 0: one for all, for each index along `axis`, or for each block."""
    x, shape = node.input(0), parameter.value.shape
    if shape is None:
        raise node.refuse(f"the rank of {parameter.name!r}", "unknown")
    if len(shape) == 0 or shape == (1,):
        return node.emit("Reshape", [parameter, node.ints("shape", ())], suffix="/one")
    rank = node.rank(0)
    if len(shape) == 1:
        after = rank - 1 - axis
        return (
            node.emit("Unsqueeze", [parameter, node.ints("axes", range(1, after + 1))], suffix="/each")
            if after
            else parameter
        )
    block, size = int(node.attribute("block_size", 0)), x.shape[axis]
    if block <= 0 or not isinstance(size, int):
        raise node.refuse("attribute block_size", block)
    # block times the same element: (..., n, 1, ...) -> (..., n, block, ...) -> (..., n * block, ...), cut to size
    raised = node.emit("Unsqueeze", [parameter, node.ints("axes", [axis + 1])], suffix="/block")
    ones = [1] * (rank + 1)
    ones[axis + 1] = block
    wide = node.emit("Expand", [raised, node.ints("shape", ones)], suffix="/block")
    sizes = [0] * rank
    sizes[axis] = -1
    sizes[axis + 1 :] = [int(d) for d in shape[axis + 1 :]]
    whole = node.emit("Reshape", [wide, node.ints("shape", sizes)], suffix="/blocks")
    bounds = [node.ints("bound", [v]) for v in (0, size, axis)]
    return node.emit("Slice", [whole, *bounds], suffix="/blocks")


def _codes(node: OnnxNode, x: Tensor, dtype: str) -> Tensor:
    """Return numbers as codes: within the range of an integer dtype, then cast."""
    info = np.iinfo(dtype)
    low = node.emit("Max", [x, node.number(info.min, x)], suffix="/low")
    return node.emit("Cast", [node.emit("Min", [low, node.number(info.max, x)], suffix="/high")], to=dtype)


def _quantised(node: OnnxNode, x: Tensor, scale: Tensor, zero: Tensor | None, dtype: str) -> Tensor:
    """Return round(x / scale) + zero as codes; halves are rounded to even."""
    scaled = node.emit("Round", [node.emit("Div", [x, scale], suffix="/scaled")], suffix="/round")
    if zero is not None:
        scaled = node.emit("Add", [scaled, node.cast(zero, scaled.value.dtype.name)], suffix="/shifted")
    return _codes(node, scaled, dtype)


@handler("QuantizeLinear")
def _quantize_linear(node: OnnxNode):
    node.ignore("saturate")
    axis = node.axis("axis", 1)
    zero = node.optional(2)
    code = int(node.attribute("output_dtype", 0))
    dtype = onnx_dtype(code) if code else "uint8" if zero is None else zero.value.dtype.name
    if dtype is None or np.dtype(dtype).kind not in "iu":
        raise node.refuse("attribute output_dtype", code)
    precision = int(node.attribute("precision", 0))
    computed = onnx_dtype(precision) if precision else "float32"
    if computed not in ("float32", "float16"):
        raise node.refuse("attribute precision", precision)
    x = node.cast(node.input(0), "float32")
    scale = node.cast(_along(node, node.input(1), axis), "float32")
    zero = None if zero is None else _along(node, zero, axis)
    node.attribute("block_size")
    return _quantised(node, x, scale, zero, dtype)


@handler("DequantizeLinear")
def _dequantize_linear(node: OnnxNode):
    axis = node.axis("axis", 1)
    code = int(node.attribute("output_dtype", 0))
    dtype = onnx_dtype(code) if code else node.input(1).value.dtype.name
    if dtype not in ("float32", "float16"):
        raise node.refuse("attribute output_dtype", code)
    scale = node.cast(_along(node, node.input(1), axis), "float32")
    x, zero = node.cast(node.input(0), "float32"), node.optional(2)
    if zero is not None:
        x = node.emit("Sub", [x, node.cast(_along(node, zero, axis), "float32")], suffix="/shifted")
    node.attribute("block_size")
    return node.cast(node.emit("Mul", [x, scale]), dtype)


@handler("DynamicQuantizeLinear")
def _dynamic_quantize_linear(node: OnnxNode):
    """Codes of 8 bits for all of x with one scale and one zero, by the definition in ONNX's specification."""
    x = node.input(0)
    nought, top = node.number(0, x), node.number(255, x)
    low = node.emit("Min", [node.emit("ReduceMin", [x], suffix="/min"), nought], suffix="/low")
    high = node.emit("Max", [node.emit("ReduceMax", [x], suffix="/max"), nought], suffix="/high")
    scale = node.emit("Div", [node.emit("Sub", [high, low], suffix="/range"), top], suffix="/scale")
    start = node.emit("Div", [node.emit("Sub", [nought, low], suffix="/start"), scale], suffix="/start")
    zero = _codes(node, node.emit("Round", [start], suffix="/zero"), "uint8")
    return [_quantised(node, x, scale, zero, "uint8"), scale, zero]


@handler("MatMulInteger")
def _matmul_integer(node: OnnxNode):
    """Sums of products of codes, exact in float64, as int32."""
    wide = [node.cast(node.input(k), "float64") for k in range(2)]
    for k in range(2):
        zero = node.optional(k + 2)
        if zero is None:
            continue
        zero = node.cast(zero, "float64")
        if k == 0 and zero.value.shape is not None and len(zero.value.shape) == 1 and zero.value.shape != (1,):
            zero = node.emit("Unsqueeze", [zero, node.ints("axes", [-1])], suffix="/rows")  # one for each row of A
        wide[k] = node.emit("Sub", [wide[k], zero], suffix="/shifted")
    return node.emit("Cast", [node.emit("MatMul", wide, suffix="/sums")], to="int32")


@handler("DynamicQuantizeLSTM", domain="com.microsoft")
def _dynamic_quantize_lstm(node: OnnxNode):
    """An LSTM whose W (D, I, 4H) and R (D, H, 4H) are codes: with the weights that they stand for."""
    inputs = list(node.inputs) + [None] * (12 - len(node.inputs))
    for k, scale, zero in ((1, 8, 9), (2, 10, 11)):
        inputs[k] = _weights(node, inputs[k], inputs[scale], inputs[zero])
    twin = node.turned_into("LSTM", inputs[:8])
    results = handlers["LSTM"](twin)
    return results


def _weights(node: OnnxNode, codes: Tensor | None, scale: Tensor | None, zero: Tensor | None) -> Tensor:
    """Return (D, 4H, K) of codes (D, K, 4H), one scale and zero for each direction or for each of its columns."""
    if codes is None or scale is None:
        raise ModelFileError(f"node {node.name!r}: {node.op_type} lacks weights or their scales")
    w = node.cast(codes, "float32")
    for op, value in (("Sub", zero), ("Mul", scale)):
        if value is not None:
            each = node.emit("Unsqueeze", [node.cast(value, "float32"), node.ints("axes", [1])], suffix="/each")
            if len(each.shape) == 2:
                each = node.emit("Unsqueeze", [each, node.ints("axes", [2])], suffix="/each")
            w = node.emit(op, [w, each], suffix="/weights")
    return node.emit("Transpose", [w], suffix="/turned", perm=(0, 2, 1))

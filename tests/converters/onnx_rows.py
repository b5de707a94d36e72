"""One row for each operator and each form of its attributes and inputs, with the opsets that have that form."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper

Array = np.ndarray
rng = np.random.default_rng(0)


def f(*shape: int, gain: float = 1.0) -> Array:
    return (gain * rng.standard_normal(shape)).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def number(value: float) -> Array:
    return np.array(value, np.float32)


def positive(*shape: int) -> Array:
    return np.abs(f(*shape)) + np.float32(0.1)


Row = tuple[str, tuple[int, ...], list[Array | None], int, dict[str, Any]]
ROWS: list[Row] = []
LAST = 2**63 - 1


def row(op: str, opsets: Sequence[int], *inputs: Array | None, outputs: int = 1, **attributes: Any) -> None:
    ROWS.append((op, tuple(opsets), list(inputs), outputs, attributes))


yes = np.array([True, False, True])
row("Add", (7, 13, 14), f(2, 3, 4), f(3, 1))
row("Add", (14,), ints(1, 2), ints(3, 4))
row("Sub", (7, 14), f(4), f(2, 3, 4))
row("Mul", (7, 13), f(2, 1, 4), f(3, 1))
row("Div", (7, 14), f(2, 3), positive(2, 3))
row("Div", (14,), ints(-7, 7, 9, -9), ints(2, -2, 4, 4))
row("Pow", (7, 12, 15), positive(2, 3), f(3))
row("Pow", (12,), f(2, 3), ints(2))
row("Pow", (13,), ints(2, 3), ints(2, 3))
for _op in ("Equal", "Less", "Greater"):
    row(_op, (9, 13), ints(1, 2, 3), ints(3, 2, 1))
for _op in ("Less", "Greater"):
    row(_op, (7, 13), f(2, 3), f(2, 1))
for _op in ("And", "Or"):
    row(_op, (7,), yes, yes[:, None])
row("Not", (1,), yes)
row("Where", (9, 16), yes, f(2, 3), f(1, 3))
for _op in ("Max", "Min", "Sum"):
    row(_op, (8, 13), f(2, 3), f(3), f(2, 1))
    row(_op, (8,), f(2, 3))
for _op in ("Neg", "Abs", "Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "Exp"):
    row(_op, (7, 13), f(2, 3, gain=3))
row("Neg", (13,), ints(-2, 3))
row("Abs", (13,), ints(-2, 3))
row("Sqrt", (7, 13), positive(2, 3))
row("Mish", (18,), f(2, 3, gain=4))
for _op, _opsets in {"LeakyRelu": (6, 16), "ThresholdedRelu": (10, 22), "Elu": (6, 22), "Celu": (12,)}.items():
    row(_op, _opsets, f(2, 3, gain=3))
    row(_op, _opsets, f(2, 3, gain=3), alpha=0.37)
row("HardSigmoid", (6, 22), f(3, 4, gain=3))
row("HardSigmoid", (6,), f(3, 4, gain=3), alpha=0.3, beta=0.4)
row("HardSwish", (14,), f(3, 4, gain=4))
row("Selu", (6, 22), f(3, 4, gain=3))
row("Gelu", (20,), f(3, 4, gain=3))
row("Gelu", (20,), f(3, 4, gain=3), approximate="tanh")
row("Clip", (6,), f(3, 4), min=-0.5, max=0.3)
row("Clip", (6,), f(3, 4), max=0.3)
row("Clip", (6,), f(3, 4))
row("Clip", (11, 13), f(3, 4), number(-0.5), number(0.3))
row("Clip", (12,), f(3, 4), None, number(0.3))
row("Clip", (12,), f(3, 4), number(-0.1))
row("Clip", (12,), f(3, 4))
row("Clip", (12,), ints(1, 5, 9), np.array(2), np.array(7))
for _to in (1, 2, 6, 7, 9, 10, 11):
    row("Cast", (9, 13, 19), positive(3, 4) * 5, to=_to)
row("Cast", (13,), ints(0, 3), to=9)
row("Cast", (13,), ints(0, 3), to=1)
row("Dropout", (7, 10), f(2, 3), ratio=0.3)
row("Dropout", (12, 13), f(2, 3))
row("Dropout", (13,), f(2, 3), number(0.3), np.array(False))
row("MatMul", (9, 13), f(2, 3, 4), f(4, 5))
row("MatMul", (13,), f(4), f(4, 5))
row("MatMul", (13,), f(2, 3, 4), f(4))
row("MatMul", (13,), f(2, 1, 3, 4), f(5, 4, 2))
row("MatMul", (13,), f(3, 4), f(5, 4, 2))
for _a in (0, 1):
    for _b in (0, 1):
        _matrices = f(*((4, 3) if _a else (3, 4))), f(*((5, 4) if _b else (4, 5)))
        row("Gemm", (11,), *_matrices, transA=_a, transB=_b)
        for _c in (f(5), f(3, 1), f(3, 5), f(1), number(0.3)):
            row("Gemm", (7, 13), *_matrices, _c, transA=_a, transB=_b)
            row("Gemm", (13,), *_matrices, _c, transA=_a, transB=_b, alpha=0.5, beta=2.0)
row("Gemm", (11,), f(3, 4), f(4, 1), f(1))
for _axis in (0, 1, 2, -1, -2):
    row("Softmax", (7, 11, 13), f(2, 3, 4), axis=_axis)
row("Softmax", (7, 11, 13), f(2, 3, 4))
row("BatchNormalization", (7, 9, 14, 15), f(2, 3, 4), f(3), f(3), f(3), positive(3), epsilon=1e-3)
row("BatchNormalization", (9,), f(2, 3), f(3), f(3), f(3), positive(3), momentum=0.8)
row("LayerNormalization", (17,), f(2, 3, 4), f(4), f(4))
row("LayerNormalization", (17,), f(2, 3, 4), f(4), epsilon=0.01)
row("LayerNormalization", (17,), f(2, 3, 4), f(3, 4), f(3, 4), axis=1)
row("LayerNormalization", (17,), f(2, 3, 4), f(4), f(4), axis=2)
for _k, _stride, _dilation, _group, _pads in [
    (3, 1, 1, 1, (0, 0)), (3, 2, 1, 1, (1, 1)), (2, 1, 2, 1, (2, 0)), (3, 2, 2, 2, (1, 3)), (1, 1, 1, 4, (0, 0)),
]:  # fmt: skip
    _shape = {"strides": [_stride], "dilations": [_dilation], "group": _group, "pads": list(_pads)}
    row("Conv", (7, 11, 22), f(2, 4, 9), f(8, 4 // _group, _k), f(8), **_shape, kernel_shape=[_k])
    row("Conv", (11,), f(2, 4, 9), f(8, 4 // _group, _k), **_shape)
for _pad in ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"):
    for _k in (2, 3, 4):
        row("Conv", (11,), f(2, 4, 9), f(6, 4, _k), auto_pad=_pad)
row("Conv", (11,), f(2, 4, 9), f(6, 4, 3), auto_pad="VALID", strides=[2])
row("Squeeze", (7, 11), f(1, 3, 1), axes=[0])
row("Squeeze", (11,), f(1, 3, 1), axes=[-1])
row("Squeeze", (11, 13), f(1, 3, 1))
row("Squeeze", (13,), f(1, 3, 1), ints(0, -1))
row("Unsqueeze", (7, 11), f(2, 3), axes=[0, 3])
row("Unsqueeze", (11,), f(2, 3), axes=[-1])
row("Unsqueeze", (13,), f(2, 3), ints(3, 1))
row("Reshape", (5, 13), f(2, 3, 4), ints(0, -1))
row("Reshape", (13,), f(2, 3, 4), ints(4, 6))
row("Reshape", (14,), f(0, 3), ints(3, 0), allowzero=1)
row("Reshape", (14,), f(2, 3, 4), ints(2, 0, 2, -1))
for _axis in (0, 1, 2, 3):
    row("Flatten", (9, 13), f(2, 3, 4), axis=_axis)
row("Flatten", (11, 13), f(2, 3, 4), axis=-1)
row("Transpose", (7, 13), f(2, 3, 4))
row("Transpose", (13,), f(2, 3, 4), perm=[1, 2, 0])
row("Concat", (7, 13), f(2, 3), f(2, 2), axis=1)
row("Concat", (11,), f(2, 3), f(2, 2), axis=-1)
row("Concat", (13,), ints(1), ints(2), axis=0)
row("Split", (7, 11), f(6, 4), outputs=2)
row("Split", (11,), f(6, 4), outputs=2, axis=-1, split=[1, 3])
row("Split", (13,), f(6, 4), outputs=3)
row("Split", (13, 18), f(6, 4), ints(1, 2, 3), outputs=3)
row("Split", (18,), f(7, 4), outputs=3, num_outputs=3)
row("Slice", (7, 9), f(5, 6), starts=[1], ends=[4])
row("Slice", (9,), f(5, 6), starts=[1, -3], ends=[100, -1], axes=[1, 0])
for _start, _end, _axis, _step in [
    (1, 4, 0, 1), (0, LAST, 1, 2), (-1, -LAST - 1, 0, -1), (3, 0, 1, -1), (100, -100, 0, -2), (-100, 100, 0, 1),
    (4, 1, 0, 1), (2, -6, 1, -1), (LAST, -LAST, 0, -1), (0, -1, 1, 1), (0, -1, -1, -1), (-1, -(2**31), 1, -1),
]:  # fmt: skip
    row("Slice", (10, 13), f(5, 6), ints(_start), ints(_end), ints(_axis), ints(_step))
row("Slice", (13,), f(5, 6), ints(-2, -1), ints(0, 1), ints(0, -1), ints(-1, -2))
row("Slice", (11,), f(5, 6), np.array([1], np.int32), np.array([3], np.int32))
row("Slice", (13,), f(5, 6), ints(0), ints(5), None, ints(2))
for _axis in (0, 1, -1):
    row("Gather", (11, 13), f(4, 5), ints(0, -1, 2), axis=_axis)
row("Gather", (7,), f(4, 5), np.array([[0, 1], [3, 3]], np.int32))
row("Gather", (13,), f(4, 5), np.array(-2))
for _axis in (0, 1, -1, 2):
    row("OneHot", (9, 11), np.array([[0, 2, 5], [1, 9, 3]]), np.array(4), f(2), axis=_axis)
    row("OneHot", (11,), np.array([[0, -4, -5], [-1, 9, 3]]), ints(4), f(2), axis=_axis)
row("OneHot", (9, 11), np.array([3, 0], np.int32), np.array(5, np.int32), f(2))
row("OneHot", (11,), ints(1, 2, -2), number(3.7), f(2))
row("OneHot", (11,), np.array([1.7, 2.2, -0.5, -3.6, np.nan, 7], np.float32), np.array(3), ints(-3, 8))
row("Expand", (8, 13), f(3, 1), ints(2, 1, 4))
row("Expand", (13,), f(3, 4), ints(3, 1))
row("Shape", (7, 13), f(2, 3, 4))
row("Shape", (15,), f(2, 3, 4), start=-2, end=-1)
row("Shape", (19,), f(2, 3, 4), start=-9, end=9)
row("ConstantOfShape", (9, 20), ints(2, 3))
row("ConstantOfShape", (9,), np.zeros(0, np.int64))
for _value in (np.array([7], np.int64), np.array([-1.5], np.float32), np.array([True])):
    row("ConstantOfShape", (9,), ints(2, 3), value=numpy_helper.from_array(_value))
row("Range", (11,), np.array(1), np.array(9), np.array(3))
row("Range", (11,), number(1), number(2), number(0.3))
row("Range", (11,), np.array(9), np.array(1), np.array(-3))
row("Identity", (7, 16), f(2, 3))
for _op in ("And", "Or", "Xor"):
    row(_op, (7,), yes, ~yes)
for _op in ("LessOrEqual", "GreaterOrEqual"):
    row(_op, (12, 16), f(2, 3), f(2, 1))
    row(_op, (16,), ints(1, 2, 3), ints(3, 2, 1))
_odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.5], np.float32)
row("LessOrEqual", (16,), _odd, _odd[::-1].copy())
row("IsNaN", (9, 13, 20), _odd)
row("IsInf", (10, 20), _odd)
row("IsInf", (10,), _odd, detect_negative=0)
row("IsInf", (20,), _odd, detect_positive=0)
for _op, _opsets in {"Floor": (7, 13), "Ceil": (7, 13), "Round": (11, 22), "Sin": (7, 22), "Cos": (7, 22), "Tan": (7,), "Sign": (9, 13),
                     "Sinh": (9,), "Cosh": (9,), "Asinh": (9,), "Atan": (7,), "Erf": (9, 13), "Reciprocal": (7, 13)}.items():  # fmt: skip
    row(_op, _opsets, f(3, 4, gain=2))
row("Round", (11,), np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32))
for _op in ("Asin", "Acos", "Atanh"):
    row(_op, (7 if _op != "Atanh" else 9,), np.clip(f(3, 4, gain=0.3), -0.9, 0.9))
row("Acosh", (9,), positive(3, 4) + 1)
row("Log", (7, 13), positive(3, 4))
row("Mean", (8, 13), f(2, 3), f(3), f(2, 1))
row("Mod", (10, 13), ints(-4, 7, 5, 4, -7, 8), ints(2, -3, 8, -2, 3, 5))
row("Mod", (10, 13), f(6, gain=4), f(6), fmod=1)
row("Mod", (10,), ints(-4, 7, 5), ints(3, -3, 8), fmod=1)
row("PRelu", (7, 9, 16), f(2, 3, 4), f(3, 1))
row("Selu", (6,), f(3, 4, gain=3), alpha=1.5, gamma=2.0)
row("CastLike", (15, 19), f(2, 3), ints(1))
for _op in (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
):
    _since = 13 if _op == "ReduceSum" else 18
    for _kept in (0, 1):
        row(_op, (7, 11), f(2, 3, 4), axes=[0, 2], keepdims=_kept)
        row(_op, (_since,), f(2, 3, 4), ints(-1, 0), keepdims=_kept)
    row(_op, (11,), f(2, 3, 4))
    row(_op, (_since,), f(2, 3), ints(1))
row("ReduceSum", (13,), f(2, 3), np.zeros(0, np.int64), noop_with_empty_axes=1)
row("ReduceLogSum", (11,), positive(2, 3, 4), axes=[1])
row("ReduceMax", (13, 18), ints(3, 9, -2))
row("ReduceSum", (13,), np.array([[1, 2], [3, 4]], np.int32), ints(0))
for _op in ("LogSoftmax", "Hardmax"):
    for _axis in (0, 1, 2, -1):
        row(_op, (7, 11, 13), f(2, 3, 4), axis=_axis)
for _op in ("ArgMax", "ArgMin"):
    _ties = np.array([[2, 7, 7], [5, 1, 1]], np.float32)
    row(_op, (7, 11, 13), f(3, 4), axis=1, keepdims=0)
    row(_op, (12, 13), _ties, axis=-1, select_last_index=1)
    row(_op, (12,), _ties, axis=-1)
for _largest in (0, 1):
    row("TopK", (11, 24), f(3, 7), ints(3), outputs=2, largest=_largest)
row("TopK", (10,), f(7, 3), ints(2), outputs=2, axis=0)
row("TopK", (7,), f(3, 7), outputs=2, k=4)
for _exclusive in (0, 1):
    for _reverse in (0, 1):
        row("CumSum", (11, 14), f(3, 5), np.array(1), exclusive=_exclusive, reverse=_reverse)
row("CumSum", (14,), ints(1, 2, 3), np.array([-1], np.int32))
for _equation, _operands in {
    "ij,jk->ik": (f(3, 4), f(4, 5)), "bij,bjk": (f(2, 3, 4), f(2, 4, 5)), "bhid,bhjd->bhij": (f(2, 2, 3, 4), f(2, 2, 5, 4)),
    "...ij->...ji": (f(2, 3, 4),), "ii->i": (f(4, 4),), "ij->": (f(3, 4),), "i,j->ij": (f(3), f(4)), "ij,ij->": (f(3, 4), f(3, 4)),
    "...ij,...jk->...ik": (f(2, 3, 4), f(1, 4, 5)), "i,i,i->": (f(5), f(5), f(5)), "ab,cd,bc->ad": (f(2, 3), f(4, 5), f(3, 4)),
}.items():  # fmt: skip
    row("Einsum", (12,), *_operands, equation=_equation)
row("InstanceNormalization", (6, 22), f(2, 3, 4, 5), f(3), f(3))
row("InstanceNormalization", (6,), f(2, 3, 7), f(3), f(3), epsilon=0.1)
row("LayerNormalization", (17,), f(2, 3, 4), f(4), f(4), outputs=3)
row("LayerNormalization", (17,), f(2, 3, 4), f(1), f(4))
for _mode in ("constant", "edge", "reflect"):
    row("Pad", (7,), f(3, 4), pads=[1, 2, 0, 3], mode=_mode)
    row("Pad", (11, 13), f(3, 4), ints(2, 0, 1, 3), mode=_mode)
    row("Pad", (18, 21), f(3, 5), ints(1, 2), None, ints(-1), mode=_mode)
    row("Pad", (13,), f(4, 5), ints(-1, 2, 1, -2), mode=_mode)
row("Pad", (19,), f(3, 4), ints(2, 1, 1, 3), mode="wrap")
row("Pad", (7,), f(3, 4), pads=[0, 1, 0, 0], value=2.5)
row("Pad", (13,), f(3, 4), ints(2, 0, 1, 3), number(1.5))
row("Pad", (13,), ints(1, 2, 3), ints(1, 1), np.array(7))
row("Tile", (6, 13), f(2, 3), ints(2, 1))
row("Tile", (13,), f(2, 3, 2), ints(1, 3, 2))
row("Size", (7, 13), f(2, 3, 4))
for _axis in (0, 1, -1):
    row("GatherElements", (11, 13), f(3, 4), np.array([[0, -1, 2], [2, 1, 0]]), axis=_axis)
row("ReverseSequence", (10,), f(5, 3, 2), ints(5, 1, 3), time_axis=0, batch_axis=1)
row("ReverseSequence", (10,), f(3, 5), ints(0, 4, 5), time_axis=1, batch_axis=0)
_codes = lambda dtype, *shape: rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)
for _dtype in (np.uint8, np.int8):
    row("QuantizeLinear", (10, 13), f(3, 4, gain=9), number(0.07), np.array(3, _dtype))
    row("QuantizeLinear", (13,), f(3, 4, 2, gain=9), positive(4), _codes(_dtype, 4), axis=1)
    row("DequantizeLinear", (10, 13), _codes(_dtype, 3, 4), number(0.07), np.array(3, _dtype))
    row("DequantizeLinear", (13,), _codes(_dtype, 3, 4), positive(4), _codes(_dtype, 4), axis=-1)
row("QuantizeLinear", (13,), f(3, 4), number(0.02))
row("QuantizeLinear", (21,), f(3, 4, gain=2000), number(0.07), np.array(9, np.int16))
row("DequantizeLinear", (21,), _codes(np.uint8, 3, 6), positive(3, 2), _codes(np.uint8, 3, 2), axis=1, block_size=3)
row("DynamicQuantizeLinear", (11,), f(3, 4, gain=3), outputs=3)
row("DynamicQuantizeLinear", (11,), positive(3, 4), outputs=3)
# of 7 bits: without VNNI the engine's sums of two products of 8 bits overflow
row("MatMulInteger", (10,), _codes(np.uint8, 3, 40) // 2, _codes(np.int8, 40, 5))
row(
    "MatMulInteger",
    (10,),
    _codes(np.uint8, 2, 3, 7),
    _codes(np.uint8, 7, 5),
    np.array(9, np.uint8),
    np.array(200, np.uint8),
)
row(
    "MatMulInteger",
    (10,),
    _codes(np.uint8, 3, 7) // 2,
    _codes(np.int8, 7, 5),
    np.array(9, np.uint8),
    _codes(np.int8, 5),
)
for _op in ("GlobalAveragePool", "GlobalMaxPool"):
    row(_op, (7, 22), f(2, 3, 4, 5))
    row(_op, (7,), f(2, 3, 7))
for _options in ({}, {"strides": [2]}, {"strides": [3], "pads": [1, 2]}, {"dilations": [2], "pads": [1, 0]}, {"strides": [2], "output_padding": [1]},
                 {"strides": [2], "output_padding": [1], "pads": [0, 2]}, {"auto_pad": "SAME_UPPER", "strides": [2]},
                 {"auto_pad": "SAME_LOWER", "strides": [2]}, {"output_shape": [13], "strides": [2]}):  # fmt: skip
    row("ConvTranspose", (7, 11, 22), f(2, 4, 6), f(4, 5, 3), f(5), **_options)
    row("ConvTranspose", (11,), f(2, 4, 6), f(4, 2, 3), group=2, **_options)
row("ConvTranspose", (11,), f(2, 3, 4, 5), f(3, 2, 3, 2), f(2), strides=[2, 1], pads=[1, 0, 0, 1])
row("ConvTranspose", (11,), f(2, 4, 4, 5), f(4, 3, 2, 3), group=2, strides=[1, 3], dilations=[2, 1])
row("ConvTranspose", (11,), f(1, 2, 3, 3, 3), f(2, 2, 2, 2, 2))
row("Dropout", (12, 13), f(2, 3), outputs=2)
row("Dropout", (12,), f(2, 3), number(0.0), np.array(True), outputs=2)

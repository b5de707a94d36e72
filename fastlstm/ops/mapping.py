"""Elementwise ops as kernels: which operations on which dtypes have one, and how operands reach it.

What has no kernel stays a NumPy step: unsigned integers of 64 bits, float16, division of integers, powers other than squares, and operands
of different dtypes.
"""

from collections.abc import Sequence

import numpy as np

from fastlstm.ops.op import Emit, Value
from fastlstm.ops.strides import in_elements

AXES = 4  # of the loops of kernels
OPERANDS = 3

FLOATS = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Abs", "Sqrt", "Sign", "Log", "Erf"})
INTEGERS = FLOATS - {"Div", "Sqrt", "Sign", "Log", "Erf"}
COMPARISONS = frozenset({"Equal", "NotEqual", "Less", "Greater"})
LOGIC = frozenset({"And", "Or", "Not"})
_BITS = {np.dtype(np.float32): (2**31 - 1, 0x7F800000), np.dtype(np.float64): (2**63 - 1, 0x7FF0 << 48)}


def bits_of(dtype: np.dtype) -> tuple[np.dtype, int, int] | None:
    """Return the integer dtype that kernels compare a dtype by, its largest value and infinity's bits (0, 0 for integers); None if none."""
    if dtype in _BITS:
        return np.dtype(f"i{dtype.itemsize}"), *_BITS[dtype]
    if dtype.kind == "b":
        return np.dtype(np.uint8), 0, 0
    return (dtype, 0, 0) if dtype.kind in "iu" and dtype != np.uint64 else None


def size_kind(dtype: np.dtype) -> np.dtype:
    """Return the integer dtype of the same size: what a kernel copies elements as."""
    return np.dtype(f"i{dtype.itemsize}")


def emit_map(
    emit: Emit, name: str, out: Value, operands: Sequence[np.ndarray], head: tuple, kind: np.dtype, narrow=None
) -> np.ndarray:
    """Emit a kernel of kernels/strided.py over operands that broadcast to `out`; return where it writes."""
    y = emit.output(out, lambda place: in_elements([place], AXES) is not None)
    emit_map_into(emit, name, y, operands, head, kind, narrow)
    return y


def emit_map_into(
    emit: Emit, name: str, y: np.ndarray, operands: Sequence[np.ndarray], head: tuple, kind: np.dtype, narrow=None
) -> None:
    """Emit the same into an array of up to AXES axes."""
    if y.size == 0:
        return
    views = [np.broadcast_to(array, y.shape) for array in operands]
    if in_elements([y, *views], AXES) is None:
        views = [emit.contiguous(view) for view in views]
    numbers = in_elements([y, *views], AXES)
    assert numbers is not None
    absent = OPERANDS - len(views)
    rest = absent * ((0,) * AXES,)
    emit.kernel(name, y, *views, *absent * [views[0]], *head, *numbers, *rest, kind=kind, narrow=narrow)


def emit_zeros(emit: Emit, y: np.ndarray) -> None:
    """Emit zeros into a contiguous array."""
    known = bits_of(y.dtype)
    if known is None or y.itemsize < 4:
        emit.copy(y, np.zeros((), y.dtype))
        return
    flat, zero = y.reshape(-1).view(f"f{y.itemsize}"), np.zeros((), f"f{y.itemsize}")
    emit_map_into(emit, "combine_forward", flat, [zero, zero], (emit.operation("Add"),), flat.dtype)


def emit_elementwise(emit: Emit, name: str, args: Sequence[Value], out: Value) -> bool:
    """Emit one of the ops above; return False where it has no kernel for these dtypes."""
    arrays = [arg.array for arg in args if arg.array is not None]
    dtype = arrays[0].dtype
    if any(array.dtype != dtype for array in arrays):
        return False
    if name in COMPARISONS:
        known = bits_of(dtype)
        if known is not None:
            emit_map(emit, "compare_forward", out, arrays, (emit.operation(name), *known[1:]), known[0])
        return known is not None
    if name in LOGIC:
        if dtype.kind == "b":
            emit_map(emit, "logic_forward", out, arrays, (emit.operation(name),), np.dtype(np.uint8))
        return dtype.kind == "b"
    if name == "Pow" and dtype in _BITS and _is_two(args[1], args[0]):
        name, arrays = "Mul", [arrays[0], arrays[0]]
    if name in FLOATS and dtype in _BITS:
        kernel = "combine_forward"
    elif name in INTEGERS and dtype in (np.int32, np.int64):
        kernel = "count_forward"
    else:
        return False
    if len(arrays) == 1 and name in ("Max", "Min"):
        emit.copy(emit.output(out), arrays[0])
        return True
    head = (emit.operation(name),)
    y = emit_map(emit, kernel, out, arrays[:2], head, dtype)
    for array in arrays[2:]:
        emit_map_into(emit, kernel, y, [y, array], head, dtype)
    return True


def _is_two(exponent: Value, base: Value) -> bool:
    """Tell whether an exponent is the number 2, which makes no larger shape of the base's."""
    data = exponent.data
    return data is not None and data.size == 1 and data.ndim <= len(base.shape or ()) and bool(data.ravel()[0] == 2)


def emit_where(emit: Emit, condition: np.ndarray, a: np.ndarray, b: np.ndarray, out: Value) -> bool:
    """Emit a where the condition holds, else b; return False where there is no kernel for it."""
    if condition.dtype != bool or not a.dtype == b.dtype == out.dtype:
        return False
    emit_map(emit, "where_forward", out, [a, b, condition], (), size_kind(out.dtype))
    return True


def emit_cast(emit: Emit, x: np.ndarray, out: Value) -> bool:
    """Emit x as the dtype of `out`; return False where there is no kernel for it."""
    if x.dtype == out.dtype:
        emit.alias(out, x)
        return True
    known = bits_of(x.dtype)
    if out.dtype == bool:
        if known is not None:
            head = (emit.operation("NotEqual"), *known[1:])
            emit_map(emit, "compare_forward", out, [x, np.zeros((), x.dtype)], head, known[0])
        return known is not None
    to_integer, wide = out.dtype.kind in "iu", (np.int32, np.int64)
    if known is None or bits_of(out.dtype) is None or (x.dtype.kind == "f" and to_integer and out.dtype not in wide):
        return False
    kind = np.dtype(np.uint8) if x.dtype == bool else x.dtype
    emit_map(emit, "convert_forward", out, [x], (), kind, out.dtype)
    return True

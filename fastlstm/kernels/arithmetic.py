"""Arithmetic element by element, with broadcasting.

    y = a + b, a - b, a b, a / b, max(a, b), min(a, b), -a, |a|, sqrt a, (a - b) c, sign a, log a, erf a

Each operation but log and erf rounds once, as NumPy's does: the same numbers, but that denormals count as zero. NaN in either operand gives NaN.
"""

from fastlstm.kernels.activations import erf
from fastlstm.kernels.codes import ABS, ADD, DIV, ERF, LOG, MAX, MIN, MUL, NEG, SIGN, SQRT, SUB
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.logarithm import log
from fastlstm.kernels.simd import (
    absolute,
    arguments,
    lanes,
    larger,
    load,
    load_part,
    pointers,
    splat,
    square_root,
    where_less,
    where_nan,
    write_units,
)
from fastlstm.kernels.strided import NUMBERS, make_map


@inline
def combined(code, a, b, c):
    """One vector of results."""
    if code == ADD:
        return a + b
    if code == MUL:
        return a * b
    if code == SUB:
        return a - b
    if code == DIV:
        return a / b
    if code == MAX:
        return where_nan(a, a, larger(a, b))
    if code == MIN:
        return where_nan(a, a, where_less(a, b, a, b))
    if code == NEG:
        return -a
    if code == ABS:
        return absolute(a)
    if code == SQRT:
        return square_root(a)
    if code == SIGN:
        zero, one = splat(a, 0.0), splat(a, 1.0)
        return where_less(a, zero, -one, where_less(zero, a, one, a))
    if code == LOG:
        return log(a)
    if code == ERF:
        return erf(a)
    return (a - b) * c


@inline
def read(x, at, count):
    """`count` elements as a vector; 1 in the other lanes, which is harmless everywhere."""
    return load(x, at) if count == lanes(x) else load_part(x, at, count, 1.0)


@routine
def combine_row(code, y, y0, y_step, a, a0, a_step, b, b0, b_step, c, c0, c_step, n):
    one = load_part(a, a0, n - n, 1.0)
    p, q, r = splat(one, a[a0]), splat(one, b[b0]), splat(one, c[c0])
    vectors = y_step == 1 and 0 <= a_step <= 1 and 0 <= b_step <= 1 and 0 <= c_step <= 1
    width = lanes(y) if vectors else 1
    for k in range(0, n, width):
        count = min(width, n - k)
        if a_step != 0:
            p = read(a, a0 + k * a_step, count)
        if b_step != 0:
            q = read(b, b0 + k * b_step, count)
        if c_step != 0:
            r = read(c, c0 + k * c_step, count)
        write_units(y, y0 + k * y_step, combined(code, p, q, r), count)


combine = make_map(combine_row)


@kernel
def combine_forward(kind, narrow, team, args):
    """Floats. Arguments: y, a, b, c, code, then the numbers of `strided`."""
    (y, a, b, c, code), _ = arguments(args, 0, 5, 0)
    y, a, b, c = pointers(kind, (y, a, b, c))
    combine(code, y, a, b, c, arguments(args, 5, NUMBERS, 0)[0], team)


@routine
def count_row(code, y, y0, y_step, a, a0, a_step, b, b0, b_step, c, c0, c_step, n):
    for k in range(n):
        p, q = a[a0 + k * a_step], b[b0 + k * b_step]
        if code == ADD:
            value = p + q
        elif code == SUB:
            value = p - q
        elif code == MUL:
            value = p * q
        elif code == MAX:
            value = max(p, q)
        elif code == MIN:
            value = min(p, q)
        elif code == NEG:
            value = -p
        else:
            value = p if p > 0 else -p
        y[y0 + k * y_step] = value


count = make_map(count_row)


@kernel
def count_forward(kind, narrow, team, args):
    """Integers, which wrap around; Add, Sub, Mul, Max, Min, Neg and Abs. Arguments: as `combine_forward`."""
    (y, a, b, c, code), _ = arguments(args, 0, 5, 0)
    y, a, b, c = pointers(kind, (y, a, b, c))
    count(code, y, a, b, c, arguments(args, 5, NUMBERS, 0)[0], team)

"""The natural logarithm of a vector.

    log x = e log 2 + log m,  x = 2^e m,  sqrt(1/2) <= m < sqrt 2,  log m = 2 atanh s = 2 (s + s^3/3 + s^5/5 + ...),  s = (m - 1) / (m + 1)

|s| < 0.172, so that eleven terms reach 1e-17. 0 and what counts as 0 give minus infinity, negative numbers NaN.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastlstm.kernels import simd
from fastlstm.kernels.exponential import LN2, MANTISSA
from fastlstm.kernels.jit import routine
from fastlstm.kernels.simd import Vector, fma, splat, where_less, where_nan

_ROOT = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}  # the bits of sqrt(1/2)


@intrinsic
def parts(typingctx, x):
    """Return m and e of positive normal numbers."""
    if not isinstance(x, Vector):
        return None
    pair = types.UniTuple(x, 2)

    def codegen(context, builder, sig, args):
        bits = x.dtype.bitwidth
        integers = ir.VectorType(simd.int_type(x.dtype), x.lanes)
        whole = lambda value: ir.Constant(integers, [value] * x.lanes)
        word = builder.bitcast(args[0], integers)
        e = builder.ashr(builder.sub(word, whole(_ROOT[bits])), whole(MANTISSA[bits]))
        m = builder.bitcast(builder.sub(word, builder.shl(e, whole(MANTISSA[bits]))), simd.llvm_type(x))
        # an integer added to the bits of 1.5 * 2^mantissa is added to the number
        magic = simd.constant(x, 1.5 * 2.0 ** MANTISSA[bits])
        shifted = builder.bitcast(builder.add(builder.bitcast(magic, integers), e), simd.llvm_type(x))
        return context.make_tuple(builder, pair, (m, builder.fsub(shifted, magic)))

    return pair(x), codegen


@intrinsic
def log_two(typingctx, x):
    """Return log 2 in two parts, of which a whole number times the first is exact."""
    pair = types.UniTuple(x, 2)

    def codegen(context, builder, sig, args):
        return context.make_tuple(builder, pair, [simd.constant(x, part) for part in LN2[x.dtype.bitwidth]])

    return pair(x), codegen


@routine
def log(x):
    m, e = parts(x)
    high, low = log_two(x)
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    p = splat(x, 1.0 / 23.0)
    for k in range(10, 0, -1):
        p = fma(p, square, splat(x, 1.0 / (2.0 * k + 1.0)))
    double = s + s
    y = fma(e, high, fma(e, low, fma(double * square, p, double)))
    zero, infinity = splat(x, 0.0), splat(x, float("inf"))
    y = where_less(x, infinity, y, x)
    return where_nan(x, x, where_less(zero, x, y, where_less(x, zero, splat(x, float("nan")), -infinity)))

"""e^x on a vector, the heart of every activation.

    e^x = 2^n e^r,  n = round(x / ln 2),  |r| <= ln(2) / 2,  e^r = 1 + r + r^2 P(r)

P interpolates at Chebyshev nodes: relative error 1.1e-8 for float32 and 1.7e-17 for float64, before rounding.

Inside sigmoid and tanh only the absolute error of the result counts, which lets a gate's exponential be shorter:

    e^(k x) = 2^n 2^r,  n = round(k x / ln 2),  r = k x / ln 2 - n,  2^r = 1 + r Q(r)

with one product for k / ln 2, whose rounding costs e^(k x) a relative 3e-8 |k x|, and the sigmoid less than 1e-8. Q: 2e-7 and 6e-16.
"""

from llvmlite import ir
from numba.extending import intrinsic

from fastlstm.kernels import simd
from fastlstm.kernels.jit import inline
from fastlstm.kernels.simd import Vector

_LN2 = {32: (0.693145751953125, 1.4286068203094172e-6), 64: (0.6931471803691238, 1.9082149292705878e-10)}
_P = {
    32: (1.39261835877134945e-3, 8.36317905272257737e-3, 4.16665546172045742e-2, 0.166665769896987757, 0.5),
    64: (
        2.51003854955103191e-8,
        2.76200884454097482e-7,
        2.75572684599970648e-6,
        2.48015212959543751e-5,
        1.98412698630536169e-4,
        1.38888889172137169e-3,
        8.33333333333006183e-3,
        4.16666666666241279e-2,
        0.166666666666666675,
        0.500000000000000102,
    ),
}
_MANTISSA = {32: 23, 64: 52}
_BIAS = {32: 127, 64: 1023}
_EXP_LOW = {32: -88.0, 64: -709.4}  # below, 2^n is written as 0
_EXP_HIGH = {32: 89.0, 64: 710.0}  # above, 2^n is written as infinity


def _exp(builder, vector: Vector, x, high: float | None):
    bits = vector.dtype.bitwidth
    integers = ir.VectorType(simd.int_type(vector.dtype), vector.lanes)
    whole = lambda value: ir.Constant(integers, [value] * vector.lanes)
    const = lambda value: simd.constant(vector, value)
    x = simd.clamp_low(builder, vector, x, const(_EXP_LOW[bits]))
    x = simd.clamp_high(builder, vector, x, const(_EXP_HIGH[bits] if high is None else high))
    # Adding 1.5 * 2^mantissa leaves round(x / ln 2) in the low bits; converting a NaN to an integer would be poison.
    magic = const(1.5 * 2.0 ** _MANTISSA[bits])
    shifted = simd.call(builder, "fma", x, const(1.4426950408889634), magic)
    n = builder.fsub(shifted, magic)
    r = simd.call(builder, "fma", n, const(-_LN2[bits][0]), x)
    r = simd.call(builder, "fma", n, const(-_LN2[bits][1]), r)
    p = const(_P[bits][0])
    for coefficient in _P[bits][1:]:
        p = simd.call(builder, "fma", p, r, const(coefficient))
    p = simd.call(builder, "fma", builder.fmul(r, r), p, r)
    exponent = builder.add(builder.bitcast(shifted, integers), whole(_BIAS[bits]))
    scale = builder.bitcast(builder.shl(exponent, whole(_MANTISSA[bits])), simd.llvm_type(vector))
    return builder.fmul(builder.fadd(p, const(1.0)), scale)


_Q = {
    32: (
        1.33813025373207962e-3,
        9.66636851538544831e-3,
        5.55038101379645743e-2,
        0.240223490380203614,
        0.693147180559945309,
    ),
    64: (
        7.07097786650813856e-9,
        1.02059054137655958e-7,
        1.32154516332214344e-6,
        1.52526729248507364e-5,
        1.54035304247765276e-4,
        1.33335582007945926e-3,
        9.61812910761866557e-3,
        5.5504108664651672e-2,
        0.240226506959100761,
        0.693147180559946159,
    ),
}


def _exp_gate(builder, vector: Vector, x, k: float, low: float, high: float):
    bits = vector.dtype.bitwidth
    integers = ir.VectorType(simd.int_type(vector.dtype), vector.lanes)
    const = lambda value: simd.constant(vector, value)
    x = simd.clamp_low(builder, vector, x, const(low))
    x = simd.clamp_high(builder, vector, x, const(high))
    # the low bits of `shifted` are n + the exponent's bias: one shift makes 2^n of them
    magic, factor = const(1.5 * 2.0 ** _MANTISSA[bits] + _BIAS[bits]), const(k * 1.4426950408889634)
    shifted = simd.call(builder, "fma", x, factor, magic)
    n = builder.fsub(shifted, magic)
    r = simd.call(builder, "fma", x, factor, builder.fneg(n))
    q = const(_Q[bits][0])
    for coefficient in _Q[bits][1:]:
        q = simd.call(builder, "fma", q, r, const(coefficient))
    places = ir.Constant(integers, [_MANTISSA[bits]] * vector.lanes)
    scale = builder.bitcast(builder.shl(builder.bitcast(shifted, integers), places), simd.llvm_type(vector))
    return simd.call(builder, "fma", builder.fmul(q, r), scale, scale)


@intrinsic
def exp_sigmoid(typingctx, x):
    """Return e^-x for 1 / (1 + e^-x): finite, and so large at the end that the quotient is flushed to 0."""
    if not isinstance(x, Vector):
        return None
    low, high = (-88.37, 87.0) if x.dtype.bitwidth == 32 else (-709.4, 708.0)
    return x(x), lambda context, builder, sig, args: _exp_gate(builder, x, args[0], -1.0, low, high)


@intrinsic
def exp_sigmoid_bounded(typingctx, x):
    """Return e^-x, at most e^40 (float64: e^300): products of such stay finite."""
    if not isinstance(x, Vector):
        return None
    low, high = (-40.0, 87.0) if x.dtype.bitwidth == 32 else (-300.0, 708.0)
    return x(x), lambda context, builder, sig, args: _exp_gate(builder, x, args[0], -1.0, low, high)


@intrinsic
def exp_tanh(typingctx, x):
    """Return e^-2x for (1 - e^-2x) / (1 + e^-2x): bounded to where tanh is -1 or 1."""
    if not isinstance(x, Vector):
        return None
    low, high = (-10.0, 43.0) if x.dtype.bitwidth == 32 else (-20.0, 354.0)
    return x(x), lambda context, builder, sig, args: _exp_gate(builder, x, args[0], -2.0, low, high)


@inline
def times_one_plus(a, e):
    """Return a (1 + e), rounded once."""
    return simd.fma(e, a, a)


@intrinsic
def exp(typingctx, x):
    """Return e^x: 0 below the range of normal numbers, infinity above."""
    if not isinstance(x, Vector):
        return None
    return x(x), lambda context, builder, sig, args: _exp(builder, x, args[0], None)


@intrinsic
def exp_bounded(typingctx, x):
    """Return e^min(x, bound): finite, so that (1 - e) / (1 + e) is -1 and not NaN; the bound rounds that to -1."""
    if not isinstance(x, Vector):
        return None
    return x(x), lambda context, builder, sig, args: _exp(builder, x, args[0], 20.0 if x.dtype.bitwidth == 32 else 40.0)

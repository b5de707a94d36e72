"""e^x on a vector, the heart of every activation.

    e^x = 2^n e^r,  n = round(x / ln 2),  |r| <= ln(2) / 2,  e^r = 1 + r + r^2 P(r)

P interpolates at Chebyshev nodes: relative error 1.1e-8 for float32 and 1.7e-17 for float64, before rounding.

Inside sigmoid and tanh only the absolute error of the result counts, which lets a gate's exponential be shorter:

    e^(k x) = 2^n 2^r,  n = round(k x / ln 2),  r = k x / ln 2 - n,  2^r = 1 + r Q(r)

with one product for k / ln 2, whose rounding costs e^(k x) a relative 3e-8 |k x|, and the sigmoid less than 1e-8. Q: 2e-7 and 6e-16.
"""

from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastlstm.kernels import simd
from fastlstm.kernels.jit import inline
from fastlstm.kernels.simd import Vector

LN2 = {32: (0.693145751953125, 1.4286068203094172e-6), 64: (0.6931471803691238, 1.9082149292705878e-10)}
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
MANTISSA = {32: 23, 64: 52}
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
    magic = const(1.5 * 2.0 ** MANTISSA[bits])
    shifted = simd.call(builder, "fma", x, const(1.4426950408889634), magic)
    n = builder.fsub(shifted, magic)
    r = simd.call(builder, "fma", n, const(-LN2[bits][0]), x)
    r = simd.call(builder, "fma", n, const(-LN2[bits][1]), r)
    p = const(_P[bits][0])
    for coefficient in _P[bits][1:]:
        p = simd.call(builder, "fma", p, r, const(coefficient))
    p = simd.call(builder, "fma", builder.fmul(r, r), p, r)
    exponent = builder.add(builder.bitcast(shifted, integers), whole(_BIAS[bits]))
    scale = builder.bitcast(builder.shl(exponent, whole(MANTISSA[bits])), simd.llvm_type(vector))
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


class Gate(NamedTuple):
    """e^(k x) with x kept within [low, high], by the bits of a float."""

    k: float
    low: dict[int, float]
    high: dict[int, float]


# 1 / (1 + e^-x): finite, and so large at the end that the quotient is flushed to 0
SIGMOID = Gate(-1.0, {32: -88.37, 64: -709.4}, {32: 87.0, 64: 708.0})
# the same, at most e^40 (float64: e^300): products of such stay finite
BOUNDED_SIGMOID = Gate(-1.0, {32: -40.0, 64: -300.0}, {32: 87.0, 64: 708.0})
# (1 - e^-2x) / (1 + e^-2x): bounded to where tanh is -1 or 1
TANH = Gate(-2.0, {32: -10.0, 64: -20.0}, {32: 43.0, 64: 354.0})


def _exp_gates(builder, vector: Vector, xs, gates: Sequence[Gate]):
    """Return e^(k x) of each x, the steps of all side by side: each alone is one long chain."""
    bits = vector.dtype.bitwidth
    integers = ir.VectorType(simd.int_type(vector.dtype), vector.lanes)
    const = lambda value: simd.constant(vector, value)
    fma = lambda x, y, z: simd.call(builder, "fma", x, y, z)
    xs = [simd.clamp_low(builder, vector, x, const(gate.low[bits])) for x, gate in zip(xs, gates, strict=True)]
    xs = [simd.clamp_high(builder, vector, x, const(gate.high[bits])) for x, gate in zip(xs, gates, strict=True)]
    # the low bits of `shifted` are n + the exponent's bias: one shift makes 2^n of them
    magic, factors = const(1.5 * 2.0 ** MANTISSA[bits] + _BIAS[bits]), [const(g.k * 1.4426950408889634) for g in gates]
    shifted = [fma(x, factor, magic) for x, factor in zip(xs, factors, strict=True)]
    ns = [builder.fsub(one, magic) for one in shifted]
    rs = [fma(x, factor, builder.fneg(n)) for x, factor, n in zip(xs, factors, ns, strict=True)]
    qs = [const(_Q[bits][0])] * len(rs)
    for coefficient in _Q[bits][1:]:
        qs = [fma(q, r, const(coefficient)) for q, r in zip(qs, rs, strict=True)]
    places = ir.Constant(integers, [MANTISSA[bits]] * vector.lanes)
    scales = [builder.shl(builder.bitcast(one, integers), places) for one in shifted]
    scales = [builder.bitcast(scale, simd.llvm_type(vector)) for scale in scales]
    products = [builder.fmul(q, r) for q, r in zip(qs, rs, strict=True)]
    return [fma(product, scale, scale) for product, scale in zip(products, scales, strict=True)]


def exp_gates(*gates: Gate):
    """Return the intrinsic that takes as many vectors and returns e^(k x) of each, as a tuple."""

    @intrinsic
    def exponentials(typingctx, xs):
        if not (isinstance(xs, types.UniTuple) and isinstance(xs.dtype, Vector) and len(xs) == len(gates)):
            return None

        def codegen(context, builder, sig, args):
            values = _exp_gates(builder, xs.dtype, cgutils.unpack_tuple(builder, args[0]), gates)
            return context.make_tuple(builder, xs, values)

        return xs(xs), codegen

    return exponentials


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

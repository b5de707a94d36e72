"""Activation functions over vectors, each the equation of its name, and one switch over their codes.

    sigmoid(x) = 1 / (1 + e^-x)          tanh(x) = (1 - e^-2x) / (1 + e^-2x)
    softplus(x) = max(x, 0) + log(1 + e^-|x|)

Absolute error of sigmoid and tanh in float32: below 3e-7. NaN stays NaN; infinities give what the
equation gives (x * 0 is NaN in Silu, Gelu and Mish at minus infinity).

The adjoint is dx = f'(x) dy, with f' from y where `ops/activations.py` says so. Where f has a kink, f' is what Keras on TensorFlow has:
0 at 0 in Relu and at both ends of HardSigmoid and Relu6; the slope of the middle at both ends of HardTanh; that of the negative side at
0 in LeakyRelu and Elu; 0 at the threshold of ThresholdedRelu.
"""

from fastlstm.kernels.codes import (
    AFFINE,
    CELU,
    ELU,
    EXP,
    GELU,
    GELU_TANH,
    HARD_SIGMOID,
    HARD_SILU,
    HARD_TANH,
    IDENTITY,
    LEAKY_RELU,
    LOG_SIGMOID,
    MISH,
    RELU,
    RELU6,
    SCALED_TANH,
    SELU,
    SIGMOID,
    SILU,
    SOFTPLUS,
    SOFTSIGN,
    SQUAREPLUS,
    TANH,
    THRESHOLDED_RELU,
)
from fastlstm.kernels.exponential import exp, exp_bounded
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import (
    absolute,
    arguments,
    clamp,
    fma,
    is_single,
    lanes,
    load,
    load_part,
    pointers,
    splat,
    square_root,
    where_less,
    where_nan,
    words,
    write_units,
)
from fastlstm.kernels.team import share


@inline
def sigmoid(x):
    return 1.0 / (1.0 + exp(-x))


@inline
def tanh(x):
    e = exp_bounded(x * -2.0)
    return (1.0 - e) / (1.0 + e)


@routine
def log1p_unit(u):
    """log(1 + u) for u in [0, 1]: 2 atanh(s) with s = u / (2 + u) <= 1/3, the series to 1e-17."""
    s = u / (u + 2.0)
    square = s * s
    p = splat(u, 1.0 / 33.0)
    for k in range(15, -1, -1):
        p = fma(p, square, splat(u, 1.0 / (2.0 * k + 1.0)))
    return 2.0 * s * p


@routine
def softplus(x):
    zero = splat(x, 0.0)
    return where_less(x, zero, zero, x) + log1p_unit(exp(-absolute(x)))


@routine
def erf(x):
    """2/sqrt(pi) e^-x^2 sum_k 2^k x^(2k+1) / (2k+1)!!, all terms of one sign; 1 beyond |x| = 6."""
    x = clamp(x, -6.0, 6.0)
    square = x * x
    p = splat(x, 1.0)
    for k in range(150, 0, -1):
        p = fma(p, square * (2.0 / (2.0 * k + 1.0)), splat(x, 1.0))
    # where 1 - |erf| is below half a unit, exactly 1: gelu multiplies what is left by x
    y = clamp(x * p * exp(-square) * 1.1283791670955126, -1.0, 1.0)
    y = where_less(splat(x, 5.95), x, splat(x, 1.0), y)
    return where_less(x, splat(x, -5.95), splat(x, -1.0), y)


@routine
def erfc_single(z):
    """1 - erf(z) for z >= 0 in float32: t e^(P(t) - z^2) with t = 1 / (1 + z/2), P interpolating at Chebyshev nodes for z <= 10.5."""
    t = 1.0 / (0.5 * z + 1.0)
    p = splat(z, 0.1522794838)
    for coefficient in (
        -0.7204177114, 1.248708987, -0.8168191284, 0.01766405861, -0.04968026769, 0.05150814697, 0.3832025478, 0.9990203459, -1.26546641,
    ):  # fmt: skip
        p = fma(p, t, splat(z, coefficient))
    return t * exp(fma(-z, z, p))


@routine
def gelu(x):
    """x (1 + erf(x / sqrt 2)) / 2; the tail of a negative x without cancellation."""
    half = 0.5 * x
    if is_single(x):
        tail = erfc_single(absolute(x * 0.7071067811865476))
        return where_less(x, splat(x, 0.0), half * tail, half * (2.0 - tail))
    return half * (erf(x * 0.7071067811865476) + 1.0)


@routine
def expm1_negative(x):
    """e^min(x, 0) - 1."""
    return exp(clamp(x, -1e30, 0.0)) - 1.0


@routine
def activate(code, alpha, beta, x):
    """Apply the activation `code` to a vector."""
    zero = splat(x, 0.0)
    if code == SIGMOID:
        return sigmoid(x)
    if code == TANH:
        return tanh(x)
    if code == RELU:
        return where_less(x, zero, zero, x)
    if code == IDENTITY:
        return x
    if code == AFFINE:
        return x * alpha + beta
    if code == LEAKY_RELU:
        return where_less(x, zero, x * alpha, x)
    if code == THRESHOLDED_RELU:
        return where_less(splat(x, alpha), x, x, clamp(x, 0.0, 0.0))
    if code == SCALED_TANH:
        return tanh(x * beta) * alpha
    if code == HARD_SIGMOID:
        return clamp(x * alpha + beta, 0.0, 1.0)
    if code == ELU:
        return where_less(x, zero, expm1_negative(x) * alpha, x)
    if code == SOFTSIGN:
        # x / (1 + |x|) with infinity / infinity avoided
        bounded = clamp(x, -1e30, 1e30)
        return bounded / (absolute(bounded) + 1.0)
    if code == SOFTPLUS:
        return softplus(x)
    if code == EXP:
        # 2^128 is no float32: the square reaches the largest float
        root = exp(0.5 * x)
        return root * root
    if code == GELU:
        return gelu(x)
    if code == GELU_TANH:
        return 0.5 * x * (tanh(0.7978845608028654 * fma(x * x * x, splat(x, 0.044715), x)) + 1.0)
    if code == SELU:
        return where_less(x, zero, expm1_negative(x) * 1.7580993408473766, x * 1.0507009873554805)
    if code == SILU:
        return x * sigmoid(x)
    if code == RELU6:
        return clamp(x, 0.0, 6.0)
    if code == MISH:
        return x * tanh(softplus(x))
    if code == HARD_SILU:
        return x * clamp(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)
    if code == CELU:
        return where_less(x, zero, expm1_negative(x / splat(x, alpha)) * alpha, x)
    if code == LOG_SIGMOID:
        return -softplus(-x)
    if code == HARD_TANH:
        return clamp(x, -1.0, 1.0)
    return 0.5 * (x + square_root(x * x + splat(x, alpha)))


@kernel
def activate_forward(kind, narrow, team, args):
    """y[k] = activation(x[k]) for k < n; x and y may be the same array. Arguments: x, y, n, code; numbers: alpha, beta."""
    (x, y, n, code), (alpha, beta) = arguments(args, 0, 4, 2)
    x, y = pointers(kind, (x, y))
    L = lanes(x)
    first, last = share((n + L - 1) // L, words(team)[WORKER], words(team)[WORKERS])
    for k in range(first * L, min(n, last * L), L):
        value = load(x, k) if k + L <= n else load_part(x, k, n - k, 0.0)
        write_units(y, k, activate(code, alpha, beta, value), n - k)


@inline
def within(x, low, high, inside):
    """`inside` where low < x < high, else 0."""
    zero = splat(x, 0.0)
    return where_less(splat(x, low), x, where_less(x, splat(x, high), inside, zero), zero)


@routine
def gelu_slope(x):
    """Phi(x) + x phi(x) with the normal distribution Phi and its density phi."""
    density = exp(x * x * -0.5) * 0.3989422804014327
    if is_single(x):
        tail = 0.5 * erfc_single(absolute(x * 0.7071067811865476))
        return fma(clamp(x, -1e18, 1e18), density, where_less(x, splat(x, 0.0), tail, 1.0 - tail))
    return fma(clamp(x, -1e150, 1e150), density, 0.5 * (erf(x * 0.7071067811865476) + 1.0))


@routine
def gelu_tanh_slope(x):
    x = clamp(x, -30.0, 30.0)
    square = x * x
    t = tanh(0.7978845608028654 * x * fma(square, splat(x, 0.044715), splat(x, 1.0)))
    inner = fma(square, splat(x, 0.7978845608028654 * 3.0 * 0.044715), splat(x, 0.7978845608028654))
    return 0.5 * fma(x * (1.0 - t * t), inner, t + 1.0)


@routine
def mish_slope(x):
    x = clamp(x, -100.0, 100.0)
    t = tanh(softplus(x))
    return fma(x * (1.0 - t * t), sigmoid(x), t)


@routine
def silu_slope(x):
    """s (1 + x (1 - s))."""
    x = clamp(x, -1e4, 1e4)
    s = sigmoid(x)
    return s * fma(x, sigmoid(-x), splat(x, 1.0))


@inline
def from_output(code):
    """Tell whether `slope` takes the output of this activation, and not its input."""
    return code in (IDENTITY, SIGMOID, TANH, RELU, EXP, SELU, RELU6)


@routine
def slope(code, alpha, beta, v):
    """Return f' of the activation `code` from its output or input `v`; where v is NaN, anything."""
    zero, one = splat(v, 0.0), splat(v, 1.0)
    if code == SIGMOID:
        return v * (1.0 - v)
    if code == TANH:
        return (1.0 - v) * (1.0 + v)
    if code == RELU:
        return where_less(zero, v, one, zero)
    if code == EXP:
        return v
    if code == SELU:
        return where_less(v, zero, v + 1.7580993408473766, splat(v, 1.0507009873554805))
    if code == RELU6:
        return within(v, 0.0, 6.0, one)
    if code == AFFINE:
        return splat(v, alpha)
    if code == LEAKY_RELU:
        return where_less(zero, v, one, splat(v, alpha))
    if code == THRESHOLDED_RELU:
        return where_less(splat(v, alpha), v, one, zero)
    if code == SCALED_TANH:
        t = tanh(v * beta)
        return (1.0 - t) * (1.0 + t) * (alpha * beta)
    if code == HARD_SIGMOID:
        return within(v * alpha + beta, 0.0, 1.0, splat(v, alpha))
    if code == ELU:
        return where_less(zero, v, one, exp(clamp(v, -1e30, 0.0)) * alpha)
    if code == SOFTSIGN:
        return 1.0 / ((absolute(v) + 1.0) * (absolute(v) + 1.0))
    if code == SOFTPLUS:
        return sigmoid(v)
    if code == GELU:
        return gelu_slope(v)
    if code == GELU_TANH:
        return gelu_tanh_slope(v)
    if code == SILU:
        return silu_slope(v)
    if code == MISH:
        return mish_slope(v)
    if code == HARD_SILU:
        hard = v * (1.0 / 6.0) + 0.5
        return within(hard, 0.0, 1.0, v * (1.0 / 6.0)) + clamp(hard, 0.0, 1.0)
    if code == CELU:
        return where_less(v, zero, exp(clamp(v / splat(v, alpha), -1e30, 0.0)), one)
    if code == LOG_SIGMOID:
        return sigmoid(-v)
    if code == HARD_TANH:
        return where_less(one, absolute(v), zero, one)
    if code == SQUAREPLUS:
        bounded = clamp(v, -1e18, 1e18)
        return 0.5 * (bounded / square_root(bounded * bounded + splat(v, alpha)) + 1.0)
    return one


@kernel
def activate_adjoint(kind, narrow, team, args):
    """dx[k] = f'(v[k]) dy[k] for k < n; any two may be the same array. Arguments: v, dy, dx, n, code; numbers: alpha, beta."""
    (v, dy, dx, n, code), (alpha, beta) = arguments(args, 0, 5, 2)
    v, dy, dx = pointers(kind, (v, dy, dx))
    L = lanes(v)
    first, last = share((n + L - 1) // L, words(team)[WORKER], words(team)[WORKERS])
    for k in range(first * L, min(n, last * L), L):
        count = min(n - k, L)
        value, d = load_part(v, k, count, 0.0), load_part(dy, k, count, 0.0)
        write_units(dx, k, where_nan(value, value, slope(code, alpha, beta, value) * d), count)

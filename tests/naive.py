"""The oracle: every equation of fastlstm in plain NumPy, slow and obvious.

Dims: T steps, B rows, I inputs, H units. Time-major x (T, B, I); weights act as `x @ W + h @ U + b`.

    LSTM  W (I, 4H)  U (H, 4H)  b (4H,)            gates i f g o   peepholes P (3, H) of i, f, o
    GRU   W (I, 3H)  U (H, 3H)  b (3H,)  bn (H,)   gates z r n     bn is the recurrent bias of n
    RNN   W (I, H)   U (H, H)   b (H,)

An activation is a tuple (name, alpha, beta); a function without parameters has None for them.
All functions compute in `dtype`: float64 is the truth, float32 shows what rounding alone does to the same equations.
"""

import itertools
import math

import numpy as np

SIGMOID = ("Sigmoid", None, None)
TANH = ("Tanh", None, None)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def sigmoid(x):
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def elu(x, alpha):
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)


def exponential(x):
    with np.errstate(over="ignore"):  # inf is the right answer
        return np.exp(x)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


# Alpha and beta as the ONNX operators define them. Each function keeps NaN: where() falls through to x.
ACTIVATIONS = {
    "Identity": lambda x, a, b: x,
    "Sigmoid": lambda x, a, b: sigmoid(x),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "ThresholdedRelu": lambda x, a, b: np.where(x <= a, 0, x),
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "Elu": lambda x, a, b: elu(x, a),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "Softplus": lambda x, a, b: softplus(x),
    "Exponential": lambda x, a, b: exponential(x),
    "Gelu": lambda x, a, b: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "GeluTanh": lambda x, a, b: gelu_tanh(x),
    "Selu": lambda x, a, b: SELU_SCALE * elu(x, SELU_ALPHA),
    "Silu": lambda x, a, b: x * sigmoid(x),
    "Swish": lambda x, a, b: x * sigmoid(x),
    "Relu6": lambda x, a, b: np.clip(x, 0, 6),
    "Mish": lambda x, a, b: x * np.tanh(softplus(x)),
    "HardSilu": lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
}


def activate(activation, x, clip=None):
    """Apply an activation tuple to x, whose input is first bounded to [-clip, clip]."""
    name, alpha, beta = activation
    alpha, beta = (None if v is None else float(v) for v in (alpha, beta))  # Python floats never widen a float32 array
    return ACTIVATIONS[name](x if clip is None else np.clip(x, -float(clip), float(clip)), alpha, beta)


def lengths_mask(lengths, T):
    """Return the (T, B) mask of rows that are valid for their first lengths[b] steps."""
    return np.arange(T)[:, None] < np.asarray(lengths)[None, :]


def cast(dtype, *arrays):
    return [np.array(a, dtype) for a in arrays]


def scan(step, x, states, mask, reverse, masked, length0):
    """Run step(x_t, *states) -> states over time; states[0] is h. Return ys, at original positions, and final states.

    A masked step keeps a row's states. Its y is 0 (masked="zero") or the last y computed for that row, which starts
    as zeros even where h0 is not (masked="carry"). A row without any valid step ends with its initial states
    (length0="carry") or zeros (length0="zero").
    """
    T, B = x.shape[:2]
    mask = np.ones((T, B), bool) if mask is None else np.asarray(mask, bool)
    y = np.zeros_like(states[0])
    ys = np.zeros((T, *y.shape), y.dtype)
    for t in reversed(range(T)) if reverse else range(T):
        valid = mask[t]
        new = step(x[t, valid], *[s[valid] for s in states])
        for s, n in zip(states, new, strict=True):
            s[valid] = n
        y[valid] = new[0]
        ys[t] = {"carry": y, "zero": np.where(valid[:, None], y, 0)}[masked]
    for b in range(B):
        if not mask[:, b].any():
            for s in states:
                s[b] = {"carry": s[b], "zero": 0}[length0]
    return ys, *states


def lstm(x, W, U, b, *, h0=None, c0=None, mask=None, P=None, activations=(SIGMOID, TANH, TANH), clip=None,
         input_forget=False, reverse=False, masked="carry", length0="carry", dtype=np.float64):  # fmt: skip
    """Run one direction of an LSTM; activations are ONNX's f (gates), g (candidate), h (cell output)."""
    H = len(U)
    zeros = np.zeros((x.shape[1], H))
    x, W, U, b = cast(dtype, x, W, U, b)
    states = cast(dtype, zeros if h0 is None else h0, zeros if c0 is None else c0)
    (P,) = cast(dtype, np.zeros((3, H)) if P is None else P)
    act_f, act_g, act_h = activations

    def step(x, h, c):
        zi, zf, zg, zo = np.split(x @ W + h @ U + b, 4, axis=1)
        i = activate(act_f, zi + P[0] * c, clip)
        f = 1 - i if input_forget else activate(act_f, zf + P[1] * c, clip)
        g = activate(act_g, zg, clip)
        c = f * c + i * g
        o = activate(act_f, zo + P[2] * c, clip)  # sees the new c
        h = o * activate(act_h, c, clip)
        return h, c

    return scan(step, x, states, mask, reverse, masked, length0)


def gru(x, W, U, b, bn, *, h0=None, mask=None, reset="after", activations=(SIGMOID, TANH), clip=None,
        reverse=False, masked="carry", length0="carry", dtype=np.float64):  # fmt: skip
    """Run one direction of a GRU; activations are ONNX's f (gates), g (candidate)."""
    zeros = np.zeros((x.shape[1], len(U)))
    x, W, U, b, bn, h0 = cast(dtype, x, W, U, b, bn, zeros if h0 is None else h0)
    Uz, Ur, Un = np.split(U, 3, axis=1)
    act_f, act_g = activations

    def step(x, h):
        xz, xr, xn = np.split(x @ W + b, 3, axis=1)
        z = activate(act_f, xz + h @ Uz, clip)
        r = activate(act_f, xr + h @ Ur, clip)
        n = activate(act_g, xn + {"after": r * (h @ Un + bn), "before": (r * h) @ Un + bn}[reset], clip)
        h = z * h + (1 - z) * n
        return (h,)

    return scan(step, x, [h0], mask, reverse, masked, length0)


def rnn(x, W, U, b, *, h0=None, mask=None, activations=(TANH,), clip=None,
        reverse=False, masked="carry", length0="carry", dtype=np.float64):  # fmt: skip
    """Run one direction of a simple RNN; activations is ONNX's (f,)."""
    zeros = np.zeros((x.shape[1], len(U)))
    x, W, U, b, h0 = cast(dtype, x, W, U, b, zeros if h0 is None else h0)
    (act_f,) = activations

    def step(x, h):
        return (activate(act_f, x @ W + h @ U + b, clip),)

    return scan(step, x, [h0], mask, reverse, masked, length0)


def dense(x, W, b, *, dtype=np.float64):
    x, W, b = cast(dtype, x, W, b)
    return x @ W + b


def embedding(ids, table, *, dtype=np.float64):
    return cast(dtype, table)[0][np.asarray(ids)]


def softmax(x, axis=-1, *, dtype=np.float64):
    (x,) = cast(dtype, x)
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def conv1d(x, kernel, b, *, stride=1, dilation=1, groups=1, padding="valid", dtype=np.float64):
    """Cross-correlate x (B, T, C) with kernel (K, C/groups, F) as Keras does: (B, T', F)."""
    x, kernel, b = cast(dtype, x, kernel, b)
    T, span = x.shape[1], dilation * (len(kernel) - 1) + 1
    same = max((math.ceil(T / stride) - 1) * stride + span - T, 0)  # the odd one goes to the right
    before, after = {"valid": (0, 0), "same": (same // 2, same - same // 2), "causal": (span - 1, 0)}[padding]
    x = np.pad(x, [(0, 0), (before, after), (0, 0)])
    steps = range(0, x.shape[1] - span + 1, stride)
    ys = np.zeros((len(x), len(steps), len(b)), dtype)
    for n, t in enumerate(steps):
        window = np.split(x[:, t : t + span : dilation], groups, axis=2)
        kernels = np.split(kernel, groups, axis=2)
        ys[:, n] = np.concatenate([np.einsum("bkc,kcf->bf", *wk) for wk in zip(window, kernels, strict=True)], 1) + b
    return ys


def windows(x, sizes, strides, dilations, pads, fill=0.0):
    """Yield (place, window) of x (B, ..., C): windows (B, *sizes, C) in the order of their places."""
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    counts = [
        (n - (size - 1) * dilation - 1) // stride + 1
        for n, size, stride, dilation in zip(x.shape[1:-1], sizes, strides, dilations, strict=True)
    ]
    for place in np.ndindex(*counts):
        cut = [
            slice(p * stride, p * stride + (size - 1) * dilation + 1, dilation)
            for p, size, stride, dilation in zip(place, sizes, strides, dilations, strict=True)
        ]
        yield place, x[(slice(None), *cut)]


def convolve(x, kernel, b, *, strides, dilations, pads, groups=1, dtype=np.float64):
    """Cross-correlate x (B, ..., C) over any number of axes with kernel (K, ..., C / groups, F): (B, ..., F)."""
    x, kernel, b = cast(dtype, x, kernel, b)
    sizes, ys = kernel.shape[:-2], {}
    for place, window in windows(x, sizes, strides, dilations, pads):
        parts = zip(np.split(window, groups, -1), np.split(kernel, groups, -1), strict=True)
        flat = [w.reshape(len(x), -1) @ k.reshape(-1, k.shape[-1]) for w, k in parts]
        ys[place] = np.concatenate(flat, 1) + b
    counts = [1 + max(axis) for axis in zip(*ys, strict=True)]
    return np.stack(list(ys.values()), 1).reshape(len(x), *counts, len(b))


def attend(q, k, v, *, scale=1.0, counts=None, dtype=np.float64):
    """Return softmax(scale q k') v and the shares, for q (..., Tq, D), k and v (..., Tv, ...); scores that do not count are -1e9."""
    q, k, v = cast(dtype, q, k, v)
    scores = scale * q @ np.swapaxes(k, -1, -2)
    shares = softmax(scores if counts is None else np.where(counts, scores, -1e9), dtype=dtype)
    return shares @ v, shares


def layer_norm(x, gamma, beta, *, axis=-1, eps=1e-3, dtype=np.float64):
    x, gamma, beta = cast(dtype, x, gamma, beta)
    d = x - x.mean(axis, keepdims=True)
    return gamma * d / np.sqrt((d * d).mean(axis, keepdims=True) + float(eps)) + beta


def batch_norm(x, gamma, beta, mean, var, *, eps=1e-3, dtype=np.float64):
    x, gamma, beta, mean, var = cast(dtype, x, gamma, beta, mean, var)
    return gamma * (x - mean) / np.sqrt(var + float(eps)) + beta


def spelled(x, blank=0):
    """Return the chances of all that logits x (T, N) spell, by labels: every path over the steps, repeated classes merged, blanks left out."""
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    chances = {}
    for path in itertools.product(range(x.shape[1]), repeat=len(x)):
        labels = tuple(k for k, _ in itertools.groupby(path) if k != blank)
        chances[labels] = chances.get(labels, 0.0) + math.prod(p[t, k] for t, k in enumerate(path))
    return chances

"""Depthwise convolution: each channel meets weights of its own, so there is no sum over channels and no tile.

    y[b, p, q, c] = activation(bias[c] + sum over k, l of x[b, p stride + k dilation, q stride + l dilation, c] W[k, l, c])

dims: x (B, H, W, C) with its own strides, W (K, L, C), y (B, P, Q, C); the sum runs in the order of k, then l.
"""

from fastlstm.kernels.activations import activate
from fastlstm.kernels.codes import IDENTITY
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import arguments, fma, lanes, load_part, pointers, words, write_units
from fastlstm.kernels.team import share


@kernel
def depthwise_forward(kind, narrow, team, args):
    """Arguments: x, W, bias, y, B, P, Q, K, L, C, x's steps from b, p, q, k and l to the next, code; numbers: alpha, beta."""
    (x, W, bias, y, B, P, Q, K, L, C, x_b, x_p, x_q, x_k, x_l, code), (alpha, beta) = arguments(args, 0, 16, 2)
    x, W, bias, y = pointers(kind, (x, W, bias, y))
    width = lanes(y)
    first, last = share(B * P * Q, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first, last):
        b, p, q = row // (P * Q), row // Q % P, row % Q
        start = b * x_b + p * x_p + q * x_q
        for c in range(0, C, width):
            n = min(C - c, width)
            total = load_part(bias, c, n, 0.0)
            for k in range(K):
                for l in range(L):
                    value = load_part(x, start + k * x_k + l * x_l + c, n, 0.0)
                    total = fma(value, load_part(W, (k * L + l) * C + c, n, 0.0), total)
            if code != IDENTITY:
                total = activate(code, alpha, beta, total)
            write_units(y, row * C + c, total, n)

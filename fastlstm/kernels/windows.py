"""Overlapping windows of steps added up: the adjoint of taking windows.

    y[b, t, :] = sum over k of x[b, s, k, :] with s stride + k dilation - before = t, in the order of k

dims: x (B, steps, size, C), y (B, T, C), both contiguous.
"""

from fastlstm.kernels.jit import kernel
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import arguments, lanes, load_part, pointers, splat, words, write_units
from fastlstm.kernels.team import share


@kernel
def overlap_forward(kind, narrow, team, args):
    """Arguments: x, y, B, T, C, steps, size, stride, dilation, before."""
    (x, y, B, T, C, steps, size, stride, dilation, before), _ = arguments(args, 0, 10, 0)
    x, y = pointers(kind, (x, y))
    L = lanes(y)
    first, last = share(B * T, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first, last):
        b, t = row // T, row % T
        for c in range(0, C, L):
            write_units(y, row * C + c, splat(load_part(y, row * C, 0, 0.0), 0.0), C - c)
        for k in range(size):
            place = t + before - k * dilation
            if place < 0 or place % stride != 0 or place // stride >= steps:
                continue
            at = ((b * steps + place // stride) * size + k) * C
            for c in range(0, C, L):
                n = min(C - c, L)
                write_units(y, row * C + c, load_part(y, row * C + c, n, 0.0) + load_part(x, at + c, n, 0.0), n)

"""Copies between strided places: what Transpose, Concat and the like come to where a consumer cannot read the view."""

from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import arguments, byte_pointer, words
from fastlstm.kernels.team import share


@inline
def copy_run(target, source, count, target_step, source_step, size):
    """Copy `count` elements of `size` bytes; the last axis of a copy."""
    for k in range(count):
        for byte in range(size):
            target[k * target_step + byte] = source[k * source_step + byte]


@kernel
def copy_forward(kind, narrow, team, args):
    """Copy elements of `size` bytes. Arguments: target, source, size, RANK sizes of axes, then their strides in bytes."""
    (target, source, size, a, b, c, d, e, f, ta, tb, tc, td, te, tf, sa, sb, sc, sd, se, sf), _ = arguments(
        args, 0, 21, 0
    )
    whole = tf == size and sf == size
    first, last = share(a, words(team)[WORKER], words(team)[WORKERS])
    for i in range(first, last):
        for j in range(b):
            for k in range(c):
                for m in range(d):
                    for n in range(e):
                        to = target + i * ta + j * tb + k * tc + m * td + n * te
                        at = source + i * sa + j * sb + k * sc + m * sd + n * se
                        if whole:
                            copy_run(byte_pointer(to), byte_pointer(at), f * size, 1, 1, 1)
                        elif size == 4:
                            copy_run(byte_pointer(to), byte_pointer(at), f, tf, sf, 4)
                        else:
                            copy_run(byte_pointer(to), byte_pointer(at), f, tf, sf, size)

"""Operators that reduce over the last axis of each row: softmax and normalisation.

    softmax(x)_k = e^(x_k - max x) / sum_j e^(x_j - max x)
    normalised(x)_k = (x_k - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale_k + shift_k

The order of each sum depends on the row's length alone: lanes first, then across the lanes in order.
"""

from fastlstm.kernels.exponential import exp
from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.simd import (
    arguments,
    fma,
    lane,
    lanes,
    larger,
    load_part,
    pointers,
    splat,
    square_root,
    words,
    write_units,
)
from fastlstm.kernels.team import WORKER, WORKERS, share


@inline
def across_sum(x, L):
    total = lane(x, 0)
    for k in range(1, L):
        total += lane(x, k)
    return total


@inline
def across_max(x, L):
    best = lane(x, 0)
    for k in range(1, L):
        value = lane(x, k)
        # a NaN wins, and stays
        if value > best or value != value:
            best = value
    return best


@kernel
def softmax_forward(kind, narrow, team, args):
    """y[row] = softmax(x[row]) over n elements, for each of `rows` contiguous rows. Arguments: x, y, rows, n."""
    (x, y, rows, n), _ = arguments(args, 0, 4, 0)
    x, y = pointers(kind, (x, y))
    L = lanes(x)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first_row, last_row):
        at = row * n
        best = load_part(x, at, min(L, n), -float("inf"))
        for k in range(L, n, L):
            best = larger(best, load_part(x, at + k, n - k if n - k < L else L, -float("inf")))
        top = across_max(best, L)
        total = splat(best, 0.0)
        for k in range(0, n, L):
            count = n - k if n - k < L else L
            e = exp(load_part(x, at + k, count, -float("inf")) - splat(best, top))
            write_units(y, at + k, e, count)
            total = total + e
        scale = splat(total, across_sum(total, L))
        for k in range(0, n, L):
            count = n - k if n - k < L else L
            write_units(y, at + k, load_part(y, at + k, count, 0.0) / scale, count)


@kernel
def normalise_forward(kind, narrow, team, args):
    """y[row] = normalised(x[row]) over n elements, for each of `rows` contiguous rows.

    Arguments: x, scale, shift, y, rows, n; number: epsilon.
    """
    (x, scale, shift, y, rows, n), (epsilon,) = arguments(args, 0, 6, 1)
    x, scale, shift, y = pointers(kind, (x, scale, shift, y))
    L = lanes(x)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first_row, last_row):
        at = row * n
        total = splat(load_part(x, at, min(L, n), 0.0), 0.0)
        for k in range(0, n, L):
            total = total + load_part(x, at + k, n - k if n - k < L else L, 0.0)
        mean = splat(total, across_sum(total, L) / n)
        squares = splat(total, 0.0)
        for k in range(0, n, L):
            count = n - k if n - k < L else L
            # lanes past the end read the mean, so they add nothing
            off = load_part(x, at + k, count, lane(mean, 0)) - mean
            squares = fma(off, off, squares)
        inverse = 1.0 / square_root(splat(squares, across_sum(squares, L) / n) + epsilon)
        for k in range(0, n, L):
            count = n - k if n - k < L else L
            off = load_part(x, at + k, count, 0.0) - mean
            value = fma(off * inverse, load_part(scale, k, count, 0.0), load_part(shift, k, count, 0.0))
            write_units(y, at + k, value, count)

"""Operators that reduce over the last axis of each row, softmax and normalisation, and their adjoints.

    softmax(x)_k = e^(x_k - max x) / sum_j e^(x_j - max x)
    dx_k = y_k (dy_k - sum_j dy_j y_j)

    normalised(x)_k = n_k scale_k + shift_k        n_k = (x_k - mean) / s        s = sqrt(mean((x - mean)^2) + epsilon)
    dx_k = (g_k - mean g - n_k mean(g n)) / s      g_k = dy_k scale_k            dscale_k = sum dy_k n_k, dshift_k = sum dy_k over rows

The order of each sum depends on the row's length alone: lanes first, then across the lanes in order.
"""

from fastlstm.kernels.exponential import exp
from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.layout import WORKER, WORKERS
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
from fastlstm.kernels.team import share


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
def softmax_adjoint(kind, narrow, team, args):
    """dx[row] from y[row] = softmax and dy[row], for each of `rows` contiguous rows of n. Arguments: y, dy, dx, rows, n."""
    (y, dy, dx, rows, n), _ = arguments(args, 0, 5, 0)
    y, dy, dx = pointers(kind, (y, dy, dx))
    L = lanes(y)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for at in range(first_row * n, last_row * n, n):
        total = splat(load_part(y, at, n - n, 0.0), 0.0)
        for k in range(0, n, L):
            count = min(n - k, L)
            total = fma(load_part(y, at + k, count, 0.0), load_part(dy, at + k, count, 0.0), total)
        total = splat(total, across_sum(total, L))
        for k in range(0, n, L):
            count = min(n - k, L)
            d = load_part(dy, at + k, count, 0.0) - total
            write_units(dx, at + k, load_part(y, at + k, count, 0.0) * d, count)


@inline
def statistics(x, at, n, epsilon):
    """Return the mean of a row and 1 / s, in every lane."""
    L = lanes(x)
    total = splat(load_part(x, at, n - n, 0.0), 0.0)
    for k in range(0, n, L):
        total = total + load_part(x, at + k, min(n - k, L), 0.0)
    mean = splat(total, across_sum(total, L) / n)
    squares = splat(total, 0.0)
    for k in range(0, n, L):
        # lanes past the end read the mean, so they add nothing
        off = load_part(x, at + k, min(n - k, L), lane(mean, 0)) - mean
        squares = fma(off, off, squares)
    return mean, 1.0 / square_root(splat(squares, across_sum(squares, L) / n) + epsilon)


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
        mean, inverse = statistics(x, at, n, epsilon)
        for k in range(0, n, L):
            count = n - k if n - k < L else L
            off = load_part(x, at + k, count, 0.0) - mean
            value = fma(off * inverse, load_part(scale, k, count, 0.0), load_part(shift, k, count, 0.0))
            write_units(y, at + k, value, count)


@kernel
def normalise_adjoint(kind, narrow, team, args):
    """dx[row] and, where asked for, dn[row] = dy n, whose sum over rows is dscale; for each of `rows` contiguous rows of n elements.

    Arguments: x, scale, dy, dx, dn, whether dn is wanted, rows, n; number: epsilon.
    """
    (x, scale, dy, dx, dn, wanted, rows, n), (epsilon,) = arguments(args, 0, 8, 1)
    x, scale, dy, dx, dn = pointers(kind, (x, scale, dy, dx, dn))
    L = lanes(x)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for at in range(first_row * n, last_row * n, n):
        mean, inverse = statistics(x, at, n, epsilon)
        g_total, gn_total = splat(mean, 0.0), splat(mean, 0.0)
        for k in range(0, n, L):
            count = min(n - k, L)
            g = load_part(dy, at + k, count, 0.0) * load_part(scale, k, count, 0.0)
            g_total = g_total + g
            gn_total = fma(g, (load_part(x, at + k, count, lane(mean, 0)) - mean) * inverse, gn_total)
        g_mean = splat(mean, across_sum(g_total, L) / n)
        gn_mean = splat(mean, across_sum(gn_total, L) / n)
        for k in range(0, n, L):
            count = min(n - k, L)
            normal = (load_part(x, at + k, count, 0.0) - mean) * inverse
            d = load_part(dy, at + k, count, 0.0)
            g = d * load_part(scale, k, count, 0.0)
            if wanted:
                write_units(dn, at + k, d * normal, count)
            write_units(dx, at + k, (g - g_mean - normal * gn_mean) * inverse, count)

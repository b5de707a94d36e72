"""Cross-entropies of logits, and their adjoints.

    p = softmax(x)        loss = sum_k t_k (log sum_j e^(x_j - top) - (x_k - top)),  top = max x        dx_k = (p_k sum t - t_k) dloss

with t the targets of a row, or 1 at its class and 0 elsewhere. A class that is none of the row's gives NaN.

    loss = max(x, 0) - x t + log(1 + e^-|x|)        dx = (sigmoid(x) - t) dloss

The order of a sum depends on the length of a row alone.
"""

import numpy as np

from fastlstm.kernels.activations import log1p_unit
from fastlstm.kernels.exponential import exp
from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.logarithm import log
from fastlstm.kernels.rows import across_max, across_sum
from fastlstm.kernels.simd import (
    absolute,
    arguments,
    lanes,
    larger,
    load_part,
    pointers,
    splat,
    where_less,
    words,
    write_units,
)
from fastlstm.kernels.team import share


@inline
def softmax_row(x, p, at, n):
    """Write the softmax of a row; return the largest element and the logarithm of the sum, in every lane."""
    L = lanes(x)
    best = load_part(x, at, min(L, n), -float("inf"))
    for k in range(L, n, L):
        best = larger(best, load_part(x, at + k, min(n - k, L), -float("inf")))
    top = splat(best, across_max(best, L))
    total = splat(best, 0.0)
    for k in range(0, n, L):
        count = min(n - k, L)
        e = exp(load_part(x, at + k, count, -float("inf")) - top)
        write_units(p, at + k, e, count)
        total = total + e
    total = splat(total, across_sum(total, L))
    for k in range(0, n, L):
        count = min(n - k, L)
        write_units(p, at + k, load_part(p, at + k, count, 0.0) / total, count)
    return top, log(total)


@kernel
def cross_entropy_forward(kind, narrow, team, args):
    """loss[row] and p[row] for each of `rows` contiguous rows of n logits.

    Targets are the int64 `classes` (rows,) where `sparse`, else t (rows, n). Arguments: x, t, classes, sparse, loss, p, rows, n.
    """
    (x, t, classes, sparse, loss, p, rows, n), _ = arguments(args, 0, 8, 0)
    (x, t, loss, p), classes = pointers(kind, (x, t, loss, p)), words(classes)
    L = lanes(x)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first_row, last_row):
        at = row * n
        top, rest = softmax_row(x, p, at, n)
        zero = splat(top, 0.0)
        if sparse:
            one = classes[row]
            value = splat(top, float("nan"))
            if one >= 0 and one < n:
                value = rest - (splat(top, x[at + one]) - top)
        else:
            value = zero
            for k in range(0, n, L):
                count = min(n - k, L)
                target = absolute(load_part(t, at + k, count, 0.0))
                term = load_part(t, at + k, count, 0.0) * (rest - (load_part(x, at + k, count, 0.0) - top))
                # a class without a target adds nothing, even where its logit is minus infinity
                value = value + where_less(zero, target, term, target)
            value = splat(top, across_sum(value, L))
        write_units(loss, row, value, 1)


@kernel
def cross_entropy_adjoint(kind, narrow, team, args):
    """dx[row] for each of `rows` contiguous rows. Arguments: p, t, classes, sparse, dloss, dx, rows, n."""
    (p, t, classes, sparse, dloss, dx, rows, n), _ = arguments(args, 0, 8, 0)
    (p, t, dloss, dx), classes = pointers(kind, (p, t, dloss, dx)), words(classes)
    L = lanes(p)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first_row, last_row):
        at, one = row * n, np.int64(-1)
        d = splat(load_part(p, at, 0, 0.0), dloss[row])
        total = splat(d, 1.0)
        if sparse:
            one = classes[row]
            if one < 0 or one >= n:
                total = splat(d, float("nan"))
        else:
            total = splat(d, 0.0)
            for k in range(0, n, L):
                total = total + load_part(t, at + k, min(n - k, L), 0.0)
            total = splat(d, across_sum(total, L))
        for k in range(0, n, L):
            count = min(n - k, L)
            slope = load_part(p, at + k, count, 0.0) * total
            if not sparse:
                slope = slope - load_part(t, at + k, count, 0.0)
            write_units(dx, at + k, slope * d, count)
        if one >= 0 and one < n:
            slope = (splat(d, p[at + one]) - 1.0) * d
            write_units(dx, at + one, slope, 1)


@kernel
def sigmoid_entropy_forward(kind, narrow, team, args):
    """loss[k] for n logits x and targets t. Arguments: x, t, loss, n."""
    (x, t, loss, n), _ = arguments(args, 0, 4, 0)
    x, t, loss = pointers(kind, (x, t, loss))
    L = lanes(x)
    first, last = share((n + L - 1) // L, words(team)[WORKER], words(team)[WORKERS])
    for k in range(first * L, min(n, last * L), L):
        count = min(n - k, L)
        value, target = load_part(x, k, count, 0.0), load_part(t, k, count, 0.0)
        zero = splat(value, 0.0)
        high = where_less(value, zero, zero, value)
        write_units(loss, k, high - value * target + log1p_unit(exp(-absolute(value))), count)

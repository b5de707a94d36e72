"""The mean square of differences along the last axis, and its adjoint.

    loss = sum_k (x_k - t_k)^2 / n        dx_k = 2 (x_k - t_k) / n dloss

The order of a sum depends on the length of a row alone.
"""

from fastlstm.kernels.jit import kernel
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.rows import across_sum
from fastlstm.kernels.simd import arguments, fma, lanes, load_part, pointers, splat, words, write_units
from fastlstm.kernels.steps import load_units
from fastlstm.kernels.team import share


@kernel
def mean_squares_forward(kind, narrow, team, args):
    """loss[row] for each of `rows` contiguous rows of n elements. Arguments: x, t, loss, rows, n; number: 1 / n."""
    (x, t, loss, rows, n), (each,) = arguments(args, 0, 5, 1)
    x, t, loss = pointers(kind, (x, t, loss))
    L = lanes(x)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first_row, last_row):
        total = splat(load_part(x, row * n, n - n, 0.0), 0.0)
        for k in range(0, n, L):
            off = load_units(x, row * n + k, n - k) - load_units(t, row * n + k, n - k)
            total = fma(off, off, total)
        write_units(loss, row, splat(total, across_sum(total, L)) * splat(total, each), 1)


@kernel
def mean_squares_adjoint(kind, narrow, team, args):
    """dx[row] from dloss[row], likewise. Arguments: x, t, dloss, dx, rows, n; number: 2 / n."""
    (x, t, d, dx, rows, n), (each,) = arguments(args, 0, 6, 1)
    x, t, d, dx = pointers(kind, (x, t, d, dx))
    L = lanes(x)
    first_row, last_row = share(rows, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first_row, last_row):
        scale = splat(load_part(x, row * n, n - n, 0.0), d[row] * each)
        for k in range(0, n, L):
            off = load_units(x, row * n + k, n - k) - load_units(t, row * n + k, n - k)
            write_units(dx, row * n + k, off * scale, n - k)

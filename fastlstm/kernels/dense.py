"""Every contraction that is not a recurrence: Dense, MatMul, Gemm, Conv.

    y[o, m, :] = activation(init + sum_k x[o, m, k] W[k, :])

dims: O outer blocks of M rows, each with its own stride, so that a convolution reads its windows in place; W (K, N)
packed as panels of 4 vectors of columns; init is a bias (row stride 0, packed to whole panels) or y itself (accumulate).
"""

import numpy as np

from fastlstm.kernels.activations import IDENTITY, activate
from fastlstm.kernels.floating_point_mode import flush_denormals, restore_mode
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.recurrence import write_units
from fastlstm.kernels.simd import lanes, load, load_part, pointers
from fastlstm.kernels.tile import ROWS, dense_one_source


@kernel
def dense_forward(
    kind, x, x_start, x_outer, x_row, W, b, accumulate, y, y_start, y_outer, y_row, z, sizes, code, alpha, beta
):
    """sizes (O, M, K, N); scratch z (ROWS, 4, L). With `accumulate`, y holds what the sums start from."""
    mode = flush_denormals()
    x, W, b, y, z = pointers(kind, (x, W, b, y, z))
    O, M, K, N = sizes
    L, none = lanes(x), np.intp(0)
    for panel in range((N + 4 * L - 1) // (4 * L)):
        first = panel * 4 * L
        for o in range(O):
            m = 0
            while m < M:
                n = min(ROWS, M - m)
                x0 = x_start + o * x_outer + m * x_row
                y0 = y_start + o * y_outer + m * y_row + first
                if accumulate:
                    for row in range(n):
                        for k in range(4):
                            count = min(N - first - k * L, L)
                            if count > 0:
                                start = load_part(y, y0 + row * y_row + k * L, count, 0.0)
                                write_units(z, (row * 4 + k) * L, start, L)
                    dense_one_source(n, z, none, 4 * L, x, x0, x_row, K, W, first * K, z, none, 4 * L)
                else:
                    dense_one_source(n, b, first, none, x, x0, x_row, K, W, first * K, z, none, 4 * L)
                for row in range(n):
                    for k in range(4):
                        count = N - first - k * L
                        if count <= 0:
                            break
                        value = load(z, (row * 4 + k) * L)
                        if code != IDENTITY:
                            value = activate(code, alpha, beta, value)
                        write_units(y, y0 + row * y_row + k * L, value, count)
                m += n
    restore_mode(mode)

"""Every contraction that is not a recurrence: Dense, MatMul, Gemm, Conv.

    y[o, m, :] = activation(init + sum_k x[o, m, k] W[k, :])

dims: O outer blocks of M rows, each with its own stride, so that a convolution reads its windows in place; W (K, N)
packed as panels of 4 vectors of columns; init is a bias (row stride 0, packed to whole panels) or y itself (accumulate).
"""

import numpy as np

from fastlstm.kernels.activations import activate
from fastlstm.kernels.codes import IDENTITY
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.simd import arguments, lanes, load, load_part, pointers, words, write_units
from fastlstm.kernels.team import PLACE, WORKER, WORKERS, share
from fastlstm.kernels.tile import (
    PANELS,
    ROWS,
    WIDTH,
    dense_rows,
    dense_tail_rows,
    fetch_from,
    is_tail,
    next_panels,
    no_source,
    panels_at_once,
)


@kernel
def dense_forward(kind, narrow, team, args):
    """y = activation(x W + b). With `accumulate`, y holds what the sums start from.

    Arguments: x, x_outer, x_row, W, b, accumulate, y, y_outer, y_row, z, O, M, K, N, tail, code; numbers: alpha, beta of the activation.
    """
    (x, x_outer, x_row, W, b, accumulate, y, y_outer, y_row, z, O, M, K, N, tail, code), (alpha, beta) = arguments(
        args, 0, 16, 2
    )
    x, b, y, z = pointers(kind, (x, b, y, z))
    (W,) = pointers(narrow, (W,))
    worker, workers = words(team)[WORKER], words(team)[WORKERS]
    L, none = lanes(x), np.intp(0)
    width = WIDTH * L
    z0 = words(team)[PLACE] * ROWS * PANELS * width
    panels, blocks, rows = (none, (N + width - 1) // width), (none, O), (none, M)
    if workers <= O:
        blocks = share(O, worker, workers)
    elif 2 * ROWS * workers <= M:
        rows = share(M, worker, workers)
    else:
        panels = share(panels[1], worker, workers)
    count = rows[1] - rows[0]
    tiles = (count + ROWS - 1) // ROWS
    at_once = panels_at_once((count + tiles - 1) // max(tiles, 1))
    tail = tail if panels[1] * width >= N else none
    done = none
    while done < panels[1] - panels[0]:
        panel, p = next_panels(panels, tail, False, done, at_once)
        done += p
        first = panel * width
        for o in range(blocks[0], blocks[1]):
            for tile in range(tiles):
                m = rows[0] + count * tile // tiles
                n = rows[0] + count * (tile + 1) // tiles - m
                y0 = o * y_outer + m * y_row + first
                if accumulate:
                    for row in range(n):
                        for k in range(p * WIDTH):
                            left = min(N - first - k * L, L)
                            if left > 0:
                                start = load_part(y, y0 + row * y_row + k * L, left, 0.0)
                                write_units(z, z0 + row * p * width + k * L, start, L)
                init = (z, z0, p * width) if accumulate else (b, first, none)
                at = fetch_from(W, first * K, (first + width) * K, K, width, o * tiles + tile)
                source = x, o * x_outer + m * x_row, x_row, K, W, first * K, width * K, at
                target = z, z0, p * width
                if is_tail(panels, tail, panel):
                    dense_tail_rows(n, tail, init, source, no_source(x, none, none, W), target)
                else:
                    dense_rows(n, p, init, source, no_source(x, none, none, W), target)
                for row in range(n):
                    for k in range(p * WIDTH):
                        left = N - first - k * L
                        if left <= 0:
                            break
                        value = load(z, z0 + row * p * width + k * L)
                        if code != IDENTITY:
                            value = activate(code, alpha, beta, value)
                        write_units(y, y0 + row * y_row + k * L, value, left)

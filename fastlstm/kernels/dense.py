"""Every contraction that is not a recurrence: Dense, MatMul, Gemm, Conv.

    y[o, m, :] = activation(init + sum_k x[o, m, k] W[k, :])

dims: O outer blocks of M rows, each with its own stride, so that a convolution reads its windows in place; W (K, N)
packed as panels of 4 vectors of columns; init is a bias (row stride 0, packed to whole panels) or y itself (accumulate).
"""

import numpy as np

from fastlstm.kernels.activations import activate
from fastlstm.kernels.codes import IDENTITY
from fastlstm.kernels.jit import kernel, routine
from fastlstm.kernels.layout import PLACE, WORKER, WORKERS
from fastlstm.kernels.quantised import QUANTISED, quantised
from fastlstm.kernels.reading import IN_PLACE, Reading
from fastlstm.kernels.scaled import SCALED, scaled_rows
from fastlstm.kernels.simd import arguments, byte_pointer, lanes, load, load_part, pointers, words, write_units
from fastlstm.kernels.team import row_share, share
from fastlstm.kernels.tile import (
    BLOCK,
    ROWS,
    WIDTH,
    dense_rows,
    dense_tail_rows,
    is_tail,
    next_panels,
    no_source,
    no_tail,
    pace_of,
    panels_at_once,
)


def make_dense(rows, tail_rows, reading: Reading):
    """Return the function that computes y = activation(x W + b); with `accumulate`, y holds what the sums start from."""
    panel_size, row_size, _, _, take_ahead, _ = reading

    @routine
    def dense(kind, narrow, team, args):
        (
            x, x_outer, x_row, W, b, accumulate, y, y_outer, y_row, z, copies, copies_size, parts, O, M, K, N, tail, code
        ), (alpha, beta) = arguments(args, 0, 19, 2)  # fmt: skip
        x, b, y, z = pointers(kind, (x, b, y, z))
        (W,) = pointers(narrow, (W,))
        worker, workers = words(team)[WORKER], words(team)[WORKERS]
        L, none = lanes(y), np.intp(0)
        width = WIDTH * L
        z0 = words(team)[PLACE] * BLOCK * width
        panels, blocks, part = (none, (N + width - 1) // width), (none, O), (none, M)
        to = none
        if workers <= O:
            blocks = share(O, worker, workers)
            to = blocks[0] * M * row_size(K, parts)
        elif 2 * ROWS * workers <= M:
            part = row_share(words(team), M)
        else:
            # every worker reads every row: each has copies of its own
            panels, to = share(panels[1], worker, workers), words(team)[PLACE] * copies_size
        count, size, copies = part[1] - part[0], panel_size(K, width), byte_pointer(copies)
        x, x_outer, x_row = take_ahead(
            x, x_outer, x_row, blocks[0], 1, blocks[1] - blocks[0], part, M, K, parts, copies, to
        )
        at_once = panels_at_once(count)
        pace = pace_of(L, (blocks[1] - blocks[0]) * count)
        tail = tail if panels[1] * width >= N else none
        done = none
        while done < panels[1] - panels[0]:
            panel, p = next_panels(panels, tail, False, done, at_once)
            done += p
            first = panel * width
            for o in range(blocks[0], blocks[1]):
                for m in range(part[0], part[1], BLOCK):
                    n = min(part[1] - m, BLOCK)
                    y0 = o * y_outer + m * y_row + first
                    if accumulate:
                        for row in range(n):
                            for k in range(p * WIDTH):
                                left = min(N - first - k * L, L)
                                if left > 0:
                                    start = load_part(y, y0 + row * y_row + k * L, left, 0.0)
                                    write_units(z, z0 + row * p * width + k * L, start, L)
                    init = (z, z0, p * width) if accumulate else (b, first, none)
                    turn = ((o - blocks[0]) * count + m - part[0]) // ROWS, pace
                    following = min(panel + 1, panels[1] - 1)
                    source = x, o * x_outer + m * x_row, x_row, K, W, panel * size, size, following * size
                    target = z, z0, p * width
                    if is_tail(panels, tail, panel):
                        tail_rows(n, tail, init, source, no_source(x, none, none, W), target)
                    else:
                        rows(n, p, turn, 1, init, source, no_source(x, none, none, W), target)
                    for row in range(n):
                        for k in range(p * WIDTH):
                            left = N - first - k * L
                            if left <= 0:
                                break
                            value = load(z, z0 + row * p * width + k * L)
                            if code != IDENTITY:
                                value = activate(code, alpha, beta, value)
                            write_units(y, y0 + row * y_row + k * L, value, left)

    return dense


whole_dense = make_dense(dense_rows, dense_tail_rows, IN_PLACE)
scaled_dense = make_dense(scaled_rows, no_tail, SCALED)
quantised_dense = make_dense(quantised.rows, no_tail, QUANTISED)


@kernel
def dense_forward(kind, narrow, team, args):
    """y = activation(x W + b).

    Arguments: x, x_outer, x_row, W, b, accumulate, y, y_outer, y_row, z, copies, their bytes for a worker, their parts, O, M, K, N, tail, code;
    numbers: alpha, beta of the activation.
    """
    whole_dense(kind, narrow, team, args)


@kernel
def dense_scaled_forward(kind, narrow, team, args):
    """The same with int8 weights that are widened."""
    scaled_dense(kind, narrow, team, args)


@kernel
def dense_quantised_forward(kind, narrow, team, args):
    """The same with int8 weights and quantised rows of x."""
    quantised_dense(kind, narrow, team, args)

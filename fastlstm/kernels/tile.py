"""The register tile that every contraction runs on: pre-activations of a few rows and a few panels of columns.

    z[m, p, :] = init[m, p, :] + sum_k x[m, k] W[p, k, :] + sum_k h[m, k] U[p, k, :]

Weights are packed as panels [P][K][columns][L]: P panels, K inputs, then the columns' vectors of L lanes. Each output element
is one chain of fused multiply-adds in the order of k, whatever the number of rows and panels in the tile: a row's bits
do not depend on its neighbours, and a projection done ahead (stored, then loaded as `init`) gives the same bits
as one done in place.

A tile holds up to ACCUMULATORS vectors: many rows of one panel, or few rows of several panels, whose chains are as
independent as rows are.
"""

import numpy as np

from fastlstm.kernels import target
from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.simd import lanes
from fastlstm.kernels.tile_intrinsics import tile_fma, tile_load, tile_store

WIDTH = 4  # vectors across a panel: four gates, or four blocks of units
ROWS = target.ROWS
PANELS = 4 if ROWS == 6 else 2  # at most, for one row; half of it for two or three


def _make_accumulate(rows: int, panels: int, x_columns: tuple[int, ...], h_columns: tuple[int, ...]):
    width, x_width, h_width = WIDTH, len(x_columns), len(h_columns)
    vectors = panels * width

    @routine
    def accumulate(init, x, h, z):
        L = lanes(x[0])
        tile = tile_load(init[0], init[1], init[2], rows, vectors)
        source, start, stride, K, W, at, size = x
        for k in range(K):
            tile = tile_fma(tile, source, start + k, stride, W, at + k * (x_width * L), size, panels, width, x_columns)
        source, start, stride, K, W, at, size = h
        for k in range(K):
            tile = tile_fma(tile, source, start + k, stride, W, at + k * (h_width * L), size, panels, width, h_columns)
        tile_store(tile, z[0], z[1], z[2], vectors)

    return accumulate


@inline
def panels_at_once(n):
    """Return how many panels a tile of n rows takes."""
    if n == 1:
        return PANELS
    return PANELS // 2 if n <= ROWS // 2 else 1


def make_rows(x_columns: tuple[int, ...] = (0, 1, 2, 3), h_columns: tuple[int, ...] = (0, 1, 2, 3)):
    """Return the function that runs 1 to ROWS rows by `panels_at_once` panels, or half of them, down to one.

    rows(n, p, init (pointer, start, row stride), x (pointer, start, row stride, K, weights, start, panel size), h (likewise), z
    (pointer, start, row stride)). `columns` place the vectors of a panel's weights in the tile.
    """
    tile = lambda rows, panels: _make_accumulate(rows, panels, x_columns, h_columns)
    one, two, three, one_of_two = tile(1, 1), tile(2, 1), tile(3, 1), tile(1, 2)
    if ROWS == 3:

        @routine
        def few_rows(n, p, init, x, h, z):
            if n == 3:
                three(init, x, h, z)
            elif n == 2:
                two(init, x, h, z)
            elif p == 2:
                one_of_two(init, x, h, z)
            else:
                one(init, x, h, z)

        return few_rows

    four, five, six = tile(4, 1), tile(5, 1), tile(6, 1)
    one_of_four, two_of_two, three_of_two = tile(1, 4), tile(2, 2), tile(3, 2)

    @routine
    def many_rows(n, p, init, x, h, z):
        if n == 6:
            six(init, x, h, z)
        elif n == 5:
            five(init, x, h, z)
        elif n == 4:
            four(init, x, h, z)
        elif p == 4:
            one_of_four(init, x, h, z)
        elif p == 2:
            if n == 3:
                three_of_two(init, x, h, z)
            elif n == 2:
                two_of_two(init, x, h, z)
            else:
                one_of_two(init, x, h, z)
        elif n == 3:
            three(init, x, h, z)
        elif n == 2:
            two(init, x, h, z)
        else:
            one(init, x, h, z)

    return many_rows


@inline
def no_source(x, start, stride, W):
    """Return the second source of a product that has one."""
    # typed as a number and not as the literal 0, for which Numba would compile everything again
    none = np.intp(0)
    return x, start, stride, none, W, none, none


dense_rows = make_rows()

"""The register tile that every contraction runs on: pre-activations of a few rows and one panel of columns.

    z[m, :] = init[m, :] + sum_k x[m, k] W[k, :] + sum_k h[m, k] U[k, :]

Weights are packed as panels [P][K][columns][L]: P panels, K inputs, then the columns' vectors of L lanes. Each output element
is one chain of fused multiply-adds in the order of k, whatever the number of rows in the tile: a row's bits
do not depend on its neighbours, and a projection done ahead (stored, then loaded as `init`) gives the same bits
as one done in place.
"""

import numpy as np

from fastlstm.kernels import target
from fastlstm.kernels.jit import inline
from fastlstm.kernels.simd import lanes
from fastlstm.kernels.tile_intrinsics import tile_fma, tile_load, tile_store

WIDTH = 4  # vectors across a tile: four gates, or four blocks of units
ROWS = target.ROWS


def _make_accumulate(rows: int, x_columns: tuple[int, ...], h_columns: tuple[int, ...]):
    width, x_width, h_width = WIDTH, len(x_columns), len(h_columns)

    @inline
    def accumulate(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride):
        L = lanes(x)
        tile = tile_load(init, i0, i_stride, rows, width)
        for k in range(K):
            tile = tile_fma(tile, x, x0 + k, x_stride, W, w0 + k * (x_width * L), width, x_columns)
        for k in range(H):
            tile = tile_fma(tile, h, h0 + k, h_stride, U, u0 + k * (h_width * L), width, h_columns)
        tile_store(tile, z, z0, z_stride, width)

    return accumulate


def make_rows(x_columns: tuple[int, ...] = (0, 1, 2, 3), h_columns: tuple[int, ...] = (0, 1, 2, 3)):
    """Return the function that runs 1 to ROWS rows; `columns` place the vectors of a panel in the tile."""
    one, two, three = (_make_accumulate(rows, x_columns, h_columns) for rows in (1, 2, 3))
    if ROWS == 3:

        @inline
        def few_rows(n, init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride):
            if n == 1:
                one(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)
            elif n == 2:
                two(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)
            else:
                three(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)

        return few_rows

    four, five, six = (_make_accumulate(rows, x_columns, h_columns) for rows in (4, 5, 6))

    @inline
    def many_rows(n, init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride):
        if n == 6:
            six(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)
        elif n == 1:
            one(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)
        elif n == 2:
            two(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)
        elif n == 3:
            three(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)
        elif n == 4:
            four(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)
        else:
            five(init, i0, i_stride, x, x0, x_stride, K, W, w0, h, h0, h_stride, H, U, u0, z, z0, z_stride)

    return many_rows


def make_one_source(rows):
    """Return `rows` without its second product."""

    @inline
    def one_source(n, init, i0, i_stride, x, x0, x_stride, K, W, w0, z, z0, z_stride):
        # typed as a number and not as the literal 0, for which Numba would compile everything again
        none = np.intp(0)
        rows(n, init, i0, i_stride, x, x0, x_stride, K, W, w0, x, none, none, none, W, none, z, z0, z_stride)

    return one_source


dense_rows = make_rows()
dense_one_source = make_one_source(dense_rows)

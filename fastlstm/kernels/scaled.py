"""Products of float32 rows and int8 weights that are widened in registers: only the weights are rounded.

    z = init + c_n sum_k x_k Q_kn        Q (K, N) int8 with one scale c_n for each column

Each sum is one chain of fused multiply-adds in the order of k. Weights are packed as panels of bytes [P][c: 4 x L float32][K][4][L].
"""

from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.reading import Reading, no_copy, take_ahead_in_place, take_in_place, take_state_in_place
from fastlstm.kernels.simd import lanes
from fastlstm.kernels.tile import WIDTH, make_rows
from fastlstm.kernels.tile_intrinsics import tile_fma, tile_scale, tile_store, tile_zero


@inline
def panel_bytes(K, columns):
    """Return the bytes of a panel of weights: K inputs, `columns` lanes in all."""
    return columns * (4 + K)


def _make_tile(rows: int, panels: int, columns: tuple[int, ...], _: tuple[int, ...]):
    vectors = panels * WIDTH
    count = rows * vectors

    @routine
    def accumulate(init, x, h, z):
        source, start, stride, K, W, at, size, _, _ = x
        L = lanes(source)
        weights = at + WIDTH * L * 4
        tile = tile_zero(source, count)
        for k in range(K):
            tile = tile_fma(tile, source, start + k, stride, W, weights + k * (WIDTH * L), size, panels, WIDTH, columns)
        tile = tile_scale(tile, init[0], init[1], init[2], W, at, size, panels, WIDTH)
        tile_store(tile, z[0], z[1], z[2], vectors)

    return accumulate


scaled_rows = make_rows(make_tile=_make_tile)
SCALED = Reading(panel_bytes, no_copy, take_in_place, take_state_in_place, take_ahead_in_place, 1 << 30)

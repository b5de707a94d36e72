"""Quantised rows: activations as codes of 7, 8 or 16 bits with a scale of each row's own, and their products with int8 weights.

    code_k = round(x_k / s) + zero       s = (max(x, 0) - min(x, 0)) / LEVELS       zero = round(-min(x, 0) / s) + 1
    x W_n  = sum_k (code_k - zero) s Q_kn c_n = (sum_k code_k Q_kn) s c_n - zero s d_n       d_n = c_n sum_k Q_kn

Q (K, N) int8 with one scale c_n for each column. Zero has a code, so that zeros stay zeros; LEVELS and 1 leave room for rounding at both
ends. Codes of 16 bits are two parts of 8: a row of high bytes, whose scale is 256 s, and one of low bytes. States have codes of 7 bits, with
which every CPU multiplies bytes exactly. The sums of a part are exact integers, and what is rounded depends on a row and a column
alone: a row's bits are the same in any tile, on any CPU.

A row with NaN or an infinity in it has the scale NaN: every sum over it is NaN.

Weights are packed as panels of bytes [P][c, d: 2 x columns x L float32][K / group][columns x L x group], K rounded up to a multiple of 4 with
weights that add nothing. How a group stands, kernels/integer_intrinsics.py says; states and inputs may have groups of different sizes.
"""

from functools import cache

import numpy as np

from fastlstm.kernels.integer_intrinsics import (
    added,
    codes_of,
    has_nan,
    lanes_together,
    largest_lane,
    load_count,
    no_sums,
    shifted,
    store_codes,
    store_count,
    store_real,
    sums_add,
    sums_store,
)
from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.layout import GROUP, HEADER, STATE_GROUP, row_bytes
from fastlstm.kernels.reading import Product, Reading
from fastlstm.kernels.simd import fma, lanes, larger, load, load_part, splat
from fastlstm.kernels.tile import ROWS, WIDTH, make_row, make_rows, no_row_with_tail, no_tail

LEVELS, FINE_LEVELS, STATE_LEVELS = 253, 65533, 125  # of one part, of two, of a state
SUMS = 24 if ROWS == 6 else 8  # that the registers hold beside codes and weights
ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in a float32's low bits
SMALLEST = 1e-30  # ranges below count as zero: their reciprocal could overflow

row_size = inline(row_bytes)


@inline
def panel_bytes(K, columns):
    """Return the bytes of a panel of weights: K inputs, `columns` lanes in all."""
    return columns * (8 + (K + 3) // 4 * 4)


@inline
def write_header(rows, to, scale, offset, parts, bias):
    store_real(rows, to, scale)
    store_real(rows, to + 4, offset)
    store_count(rows, to + 8, parts)
    store_count(rows, to + 12, bias)


@inline
def widen_range(value, high, low, poison):
    """Return the bounds of values that include this vector; NaN and infinities leave NaN in `poison`."""
    return larger(value, high), larger(-value, low), fma(value, splat(value, 0.0), poison)


@inline
def write_part(x, at, K, factor, base, rows, to, scale, offset, parts, place, group):
    """Write the row at rows[to] of byte `place` of the codes of x[at : at + K]."""
    L = lanes(x)
    whole = K // L * L
    codes, size, (total,) = to + HEADER, 4 // group, no_sums(1)
    for k in range(0, whole, L):
        found = codes_of(fma(load(x, at + k), factor, base), place)
        store_codes(rows, codes + k * size, found, group)
        total = added(total, found)
    sum_of_codes = lanes_together(total)
    if whole < K:
        found = codes_of(fma(load_part(x, at + whole, K - whole, 0.0), factor, base), place)
        store_codes(rows, codes + whole * size, found, group)
        # lanes past K hold the code of zero
        sum_of_codes += lanes_together(found) - (whole + L - K) * lanes_together(codes_of(base, place)) // L
    write_header(rows, to, scale, offset, parts, 128 * sum_of_codes)


@inline
def measure(x, at, K, levels):
    """Return the scale of a row of so many levels, and the code of zero; then 1 / scale and what makes codes, as vectors."""
    L = lanes(x)
    whole = K // L * L
    zeros = splat(load_part(x, at, 0, 0.0), 0.0)
    high, low, poison = zeros, zeros, zeros
    for k in range(0, whole, L):
        high, low, poison = widen_range(load(x, at + k), high, low, poison)
    if whole < K:
        high, low, poison = widen_range(load_part(x, at + whole, K - whole, 0.0), high, low, poison)
    bottom = largest_lane(low)
    span = largest_lane(high) + bottom
    scale, inverse = np.float32(0), np.float32(0)
    if span > np.float32(SMALLEST):
        scale, inverse = span / levels, levels / span
    first = bottom * inverse + np.float32(ROUND) - np.float32(ROUND) + np.float32(1)
    if has_nan(poison) or not span < np.float32(np.inf):
        scale = np.float32(np.nan)
    return scale, first, splat(zeros, inverse), splat(zeros, first + np.float32(ROUND))


@routine
def quantise(x, at, K, parts, rows, to):
    """Write x[at : at + K] as a quantised row at rows[to], in one part of 8 bits or two."""
    scale, first, factor, base = measure(x, at, K, np.float32(LEVELS) if parts == 1 else np.float32(FINE_LEVELS))
    if parts == 1:
        write_part(x, at, K, factor, base, rows, to, scale, -(first * scale), 1, 0, GROUP)
    else:
        write_part(x, at, K, factor, base, rows, to, scale * np.float32(256), -(first * scale), 2, 1, GROUP)
        write_part(x, at, K, factor, base, rows, to + row_size(K, 1), scale, np.float32(0), 1, 0, GROUP)


@routine
def quantise_state(h, at, H, rows, to):
    """Write h[at : at + H] as a quantised row at rows[to], in 7 bits."""
    scale, first, factor, base = measure(h, at, H, np.float32(STATE_LEVELS))
    write_part(h, at, H, factor, base, rows, to, scale, -(first * scale), 1, 0, STATE_GROUP)


def _make_phase(rows: int, panels: int, columns: tuple[int, ...], group: int):
    """Return the function z = init + x W of so many quantised rows and panels; vectors of z that are not `columns` are init."""
    width = len(columns)

    def of_columns(first: int, last: int):
        count, here, row_step = rows * panels * (last - first), last - first, 16 // group

        def phase(init, x, z):
            L = lanes(z[0])
            source, start, stride, K, W, at, size, _, _ = x
            codes, weights = start + HEADER, at + width * L * 8 + first * L * group
            tile = no_sums(count)
            for k in range((K + 3) // 4):
                now = weights + k * (width * 4 * L)
                tile = sums_add(tile, source, codes + k * row_step, stride, W, now, size, panels, here, group)
                if group == 2:
                    now += width * 2 * L
                    tile = sums_add(tile, source, codes + k * row_step + 4, stride, W, now, size, panels, here, group)
            sums_store(
                tile, init[0], init[1], init[2], source, start, stride, W, at, size, z[0], z[1], z[2], panels, WIDTH, columns,
                first, last, group,
            )  # fmt: skip

        return phase

    if rows * panels * width <= SUMS:
        return of_columns(0, width)
    left, right = inline(of_columns(0, 2)), inline(of_columns(2, width))

    def phase(init, x, z):
        left(init, x, z)
        right(init, x, z)

    return phase


@cache
def _make_tile(rows: int, panels: int, x_columns: tuple[int, ...], h_columns: tuple[int, ...]):
    x_phase = routine(_make_phase(rows, panels, x_columns, GROUP))
    h_phase = inline(_make_phase(rows, panels, h_columns, STATE_GROUP))

    @inline
    def accumulate(init, x, h, z):
        source, start, stride, K, W, at, size, ahead, every = x
        if K > 0:
            x_phase(init, x, z)
            if load_count(source, start + 8) == 2:
                x_phase(z, (source, start + row_size(K, 1), stride, K, W, at, size, ahead, every), z)
            init = z
        if h[3] > 0:
            h_phase(init, h, z)

    return accumulate


@inline
def take(x, at, stride, first, count, K, parts, copies, to):
    """Quantise `count` rows of x[at] from row `first` on; return the pointer, start and stride of quantised rows."""
    size = row_size(K, parts)
    for row in range(first, first + count):
        quantise(x, at + row * stride, K, parts, copies, to + row * size)
    return copies, to, size


@inline
def take_state(h, at, stride, first, count, H, copies, to):
    """Quantise `count` rows of states h[at] from row `first` on; return the pointer, start and stride of quantised rows."""
    size = row_size(H, 1)
    for row in range(first, first + count):
        quantise_state(h, at + row * stride, H, copies, to + row * size)
    return copies, to, size


@inline
def take_ahead(x, x_t, x_b, t, turn, steps, part, B, K, parts, copies, to):
    """Quantise the rows `part` of B at times t, t + turn ...; return the pointer and the strides of time and rows."""
    size = row_size(K, parts)
    for s in range(steps):
        for row in range(part[0], part[1]):
            quantise(x, (t + turn * s) * x_t + row * x_b, K, parts, copies, to + (s * B + row) * size)
    return shifted(copies, to - t * turn * B * size), turn * B * size, size


QUANTISED = Reading(panel_bytes, row_size, take, take_state, take_ahead, 1 << 30)


def make_quantised(x_columns: tuple[int, ...] = (0, 1, 2, 3), h_columns: tuple[int, ...] = (0, 1, 2, 3)) -> Product:
    """Return the product of quantised rows and panels of so many vectors; `columns` as in `tile.make_rows`."""
    rows = make_rows(x_columns, h_columns, _make_tile)
    row = make_row(x_columns, h_columns, no_row_with_tail, _make_tile)
    return Product(rows, no_tail, row, len(x_columns), len(h_columns), QUANTISED)


quantised = make_quantised()

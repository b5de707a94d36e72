"""The register tile that every contraction runs on: pre-activations of a few rows and a few panels of columns.

    z[m, p, :] = init[m, p, :] + sum_k x[m, k] W[p, k, :] + sum_k h[m, k] U[p, k, :]

Weights are packed as panels [P][K][columns][L]: P panels, K inputs, then the columns' vectors of L lanes. Each output element
is one chain of fused multiply-adds in the order of k, whatever the number of rows and panels in the tile: a row's bits
do not depend on its neighbours, and a projection done ahead (stored, then loaded as `init`) gives the same bits
as one done in place.

The last panel may be narrower, a `tail` of one or two vectors in which the columns that exist lie close together.
A tile is several rows of one panel, or one row of two panels, whose chains are as independent as rows are.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from fastlstm.kernels import target
from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.simd import fetch_ahead, lanes
from fastlstm.kernels.tile_intrinsics import tile_fma, tile_keep, tile_load, tile_store

WIDTH, ROWS, PANELS, BLOCK = target.WIDTH, target.ROWS, target.PANELS, target.BLOCK
TAIL_COLUMNS = (0, 1)
TAIL_ROWS = 6
APART = 4  # k between two lines that a tile fetches: more often costs what it gains


@cache
def _make_product(rows: int, panels: int, columns: tuple[int, ...]):
    """Return the loop over k of a tile. On its way it fetches a line of the panel that comes next, every so many k."""
    width, own = WIDTH, len(columns)
    fetches = rows > ROWS // 2  # a tile of fewer rows leaves no time to

    @inline
    def product(tile, x):
        source, start, stride, K, W, at, size, ahead, pace = x
        L = lanes(source)
        done = np.intp(0)
        if fetches:
            done = K // APART * APART
            for first in range(0, done, APART):
                fetch_ahead(W, ahead)
                ahead += pace
                for k in range(first, first + APART):
                    tile = tile_fma(
                        tile, source, start + k, stride, W, at + k * (own * L), size, panels, width, columns
                    )
        for k in range(done, K):
            tile = tile_fma(tile, source, start + k, stride, W, at + k * (own * L), size, panels, width, columns)
        return tile

    return product


@cache
def _make_accumulate(rows: int, panels: int, x_columns: tuple[int, ...], h_columns: tuple[int, ...]):
    vectors = panels * WIDTH
    x_product, h_product = _make_product(rows, panels, x_columns), _make_product(rows, panels, h_columns)

    @inline
    def accumulate(init, x, h, z):
        tile = tile_load(init[0], init[1], init[2], rows, vectors)
        tile_store(h_product(x_product(tile, x), h), z[0], z[1], z[2], vectors)

    return accumulate


@inline
def pace_of(L, rows):
    """Return how far on each line lies that a tile fetches, for a panel of one vector: so all `rows` fetch the panel that comes next together."""
    return L * (ROWS * APART) // max(rows, 1)


@inline
def block_of(rows):
    """Return how many rows to finish together: blocks of whole tiles, as equal as those are."""
    blocks = max((rows + BLOCK - 1) // BLOCK, 1)
    return max(((rows + blocks - 1) // blocks + ROWS - 1) // ROWS, 1) * ROWS


@inline
def pieces_of(inputs, depth):
    """Return in how many pieces of about `depth` inputs rows meet a panel: so each stays in the nearest cache while they do."""
    return max(inputs // depth, 1)


@inline
def panels_at_once(n):
    """Return how many panels a tile of n rows takes: one row alone has too few chains to keep the multipliers busy."""
    return PANELS if n == 1 else 1


def _of_rows(tiles: list[Callable]) -> Callable:
    """Return the function that runs the tile of n rows, of those for 1, 2, ... rows."""
    *fewer, most = tiles
    if not fewer:
        return inline(lambda n, init, x, h, z: most(init, x, h, z))
    count, others = len(tiles), _of_rows(fewer)

    @inline
    def of_rows(n, init, x, h, z):
        if n == count:
            most(init, x, h, z)
        else:
            others(n, init, x, h, z)

    return of_rows


def make_rows(
    x_columns: tuple[int, ...] = (0, 1, 2, 3), h_columns: tuple[int, ...] = (0, 1, 2, 3), make_tile=_make_accumulate
):
    """Return the function that runs any number of rows by one panel, or one row by `panels_at_once` panels.

    rows(n, p, turn, pieces, init (pointer, start, row stride), x (pointer, start, row stride, K, weights, start, panel size, start of the panel
    that comes next), h (likewise), z (pointer, start, row stride)). `columns` place the vectors of a panel's weights in the tile. `turn` says how
    many tiles have met this panel before, and their `pace_of`: they fetch the panel that comes next together, evenly, since lines asked for all
    at once would wait for each other. All tiles meet one of the `pieces` (`pieces_of`) of a panel before the next.
    """
    x_width, h_width = len(x_columns), len(h_columns)
    tile = lambda rows, panels: make_tile(rows, panels, x_columns, h_columns)
    of_rows, one_of_two = _of_rows([tile(n, 1) for n in range(1, ROWS + 1)]), tile(1, 2)

    @inline
    def one_tile(n, p, init, x, h, z):
        if p == 2:
            one_of_two(init, x, h, z)
        else:
            of_rows(n, init, x, h, z)

    @routine
    def rows(n, p, turn, pieces, init, x, h, z):
        L = lanes(z[0])
        x_row, h_row = x_width * L, h_width * L
        tiles = (n + ROWS - 1) // ROWS
        least = n // tiles if tiles > 1 else n
        longer = n - least * tiles
        done, pace = turn
        x_pace, h_pace = x_width * pace, h_width * pace
        K, H, first = x[3], h[3], np.intp(0)
        length = ((K + H) // pieces + APART - 1) // APART * APART
        for piece in range(pieces):
            last = K + H if piece == pieces - 1 else min(first + length, K + H)
            k, k_end, j, j_end = min(first, K), min(last, K), max(first - K, 0), max(last - K, 0)
            first = last
            w, u = x[5] + k * x_row, h[5] + j * h_row
            w_next = (x[7] if k_end == K else w + (k_end - k) * x_row) + done * x_pace * ((k_end - k) // APART)
            u_next = (h[7] if j_end == H else u + (j_end - j) * h_row) + done * h_pace * ((j_end - j) // APART)
            start, at, stride = (init[0], init[1], init[2]) if piece == 0 else (z[0], z[1], z[2])
            x0, h0, z0 = x[1] + k, h[1] + j, z[1]
            for tile in range(tiles):
                count = least + (1 if tile < longer else 0)
                one_tile(
                    count,
                    p,
                    (start, at, stride),
                    (x[0], x0, x[2], k_end - k, x[4], w, x[6], w_next, x_pace),
                    (h[0], h0, h[2], j_end - j, h[4], u, h[6], u_next, h_pace),
                    (z[0], z0, z[2]),
                )
                at += count * stride
                x0 += count * x[2]
                h0 += count * h[2]
                z0 += count * z[2]
                w_next += x_pace * ((k_end - k) // APART)
                u_next += h_pace * ((j_end - j) // APART)

    return rows


class Row(NamedTuple):
    """The product of one row: those of `make_rows` and `make_tail_rows`, with few arguments."""

    one: Callable  # by one panel
    two: Callable  # by two
    with_tail: Callable  # (one or two panels, width of the tail, args): also by the tail, whose chains alone leave the multipliers idle


@cache
def _make_joint_product(panels: int, width: int, columns: tuple[int, ...]):
    """Return the loop over k of one row, its panels and a tail of them, whose weights begin at `behind`."""
    own, tail_columns = len(columns), TAIL_COLUMNS[:width]

    @inline
    def product(tiles, x):
        tile, tail = tiles
        source, start, K, W, at, size, behind = x
        L, none = lanes(source), np.intp(0)
        for k in range(K):
            tile = tile_fma(tile, source, start + k, none, W, at + k * (own * L), size, panels, WIDTH, columns)
            tail = tile_fma(tail, source, start + k, none, W, behind + k * (width * L), none, 1, width, tail_columns)
        return tile, tail

    return product


def _make_row_with_tail(
    panels: int, width: int, x_columns, h_columns, x_leaves: tuple[int, ...], h_leaves: tuple[int, ...]
):
    vectors = panels * WIDTH
    x_product, h_product = (_make_joint_product(panels, width, columns) for columns in (x_columns, h_columns))

    @routine
    def row(init, i0, x, x0, K, W, w0, W_size, w_tail, h, h0, H, U, u0, U_size, u_tail, z, z0, behind):
        none = np.intp(0)
        start = tile_load(init, i0 + behind, none, 1, width)
        tile, tail = x_product((tile_load(init, i0, none, 1, vectors), start), (x, x0, K, W, w0, W_size, w_tail))
        before = tile_keep(tail, start, width, x_leaves)
        tile, tail = h_product((tile, before), (h, h0, H, U, u0, U_size, u_tail))
        tile_store(tile, z, z0, none, vectors)
        tile_store(tile_keep(tail, before, width, h_leaves), z, z0 + behind, none, width)

    return row


def make_row_with_tail(
    x_columns: tuple[int, ...], h_columns: tuple[int, ...], x_leaves: tuple[int, ...], h_leaves: tuple[int, ...]
):
    """Return `Row.with_tail`; `leaves` as in `make_tail_rows`."""
    tile = lambda panels, width: _make_row_with_tail(panels, width, x_columns, h_columns, x_leaves, h_leaves)
    one_and_one, one_and_two, two_and_one, two_and_two = tile(1, 1), tile(1, 2), tile(2, 1), tile(2, 2)

    @inline
    def with_tail(p, width, args):
        if p == 2:
            if width == 1:
                two_and_one(*args)
            else:
                two_and_two(*args)
        elif width == 1:
            one_and_one(*args)
        else:
            one_and_two(*args)

    return with_tail


@inline
def no_row_with_tail(p, width, args):
    """Stand for the product with a tail, where all panels are whole."""


def make_row(
    x_columns: tuple[int, ...], h_columns: tuple[int, ...], with_tail: Callable, make_tile: Callable = _make_accumulate
) -> Row:
    """Return the product of one row; `columns` as in `make_rows`."""

    def by(panels):
        tile = make_tile(1, panels, x_columns, h_columns)

        @routine
        def row(init, i0, x, x0, K, W, w0, W_size, h, h0, H, U, u0, U_size, z, z0):
            none = np.intp(0)
            source, state = (x, x0, none, K, W, w0, W_size, none, none), (h, h0, none, H, U, u0, U_size, none, none)
            tile((init, i0, none), source, state, (z, z0, none))

        return row

    return Row(by(1), by(2), with_tail)


@cache
def _make_tail_product(rows: int, width: int):
    columns = TAIL_COLUMNS[:width]

    @inline
    def product(tile, x):
        source, start, stride, K, W, at, _, _ = x
        L = lanes(source)
        for k in range(K):
            tile = tile_fma(tile, source, start + k, stride, W, at + k * (width * L), 0, 1, width, columns)
        return tile

    return product


def _make_tail(rows: int, width: int, x_leaves: tuple[int, ...], h_leaves: tuple[int, ...]):
    product = _make_tail_product(rows, width)

    @routine
    def accumulate(init, x, h, z):
        start = tile_load(init[0], init[1], init[2], rows, width)
        before = tile_keep(product(start, x), start, width, x_leaves)
        tile_store(tile_keep(product(before, h), before, width, h_leaves), z[0], z[1], z[2], width)

    return accumulate


def make_tail_rows(x_leaves: tuple[int, ...] = (), h_leaves: tuple[int, ...] = ()):
    """Return the function that runs any number of rows of a last panel of one or two vectors: up to six at once, so that there are chains enough.

    The columns of a full panel's four vectors lie close together in it. `x_leaves` and `h_leaves` are the places, of four, that a
    product has no weights for.
    """

    def of_width(width):
        of_rows = _of_rows([_make_tail(n, width, x_leaves, h_leaves) for n in range(1, TAIL_ROWS + 1)])

        @routine
        def rows(n, init, x, h, z):
            tiles = (n + TAIL_ROWS - 1) // TAIL_ROWS
            least, done = n // max(tiles, 1), 0
            longer = n - least * tiles
            for tile in range(tiles):
                some = init[0], init[1] + done * init[2], init[2]
                source = x[0], x[1] + done * x[2], x[2], x[3], x[4], x[5], x[6], x[7]
                other = h[0], h[1] + done * h[2], h[2], h[3], h[4], h[5], h[6], h[7]
                target = z[0], z[1] + done * z[2], z[2]
                count = least + (1 if tile < longer else 0)
                done += count
                of_rows(count, some, source, other, target)

        return rows

    of_one, of_two = of_width(1), of_width(2)

    @inline
    def tail_rows(n, width, init, x, h, z):
        if width == 1:
            of_one(n, init, x, h, z)
        else:
            of_two(n, init, x, h, z)

    return tail_rows


@inline
def no_tail(n, width, init, x, h, z):
    """Stand for the product of a tail, where all panels are whole."""


@inline
def is_tail(panels, tail, panel):
    return tail > 0 and panel == panels[1] - 1


@inline
def tail_stride(tail, L, units):
    """Return how far apart the gates of a unit are in a last panel of `tail` vectors; a panel of units has no gates."""
    return tail * L // 4 if units == 1 else L


@inline
def next_panels(panels, tail, backwards, done, at_once):
    """Return the first panel of the next tile, and how many it takes: a last panel of another width stands alone."""
    left = panels[1] - panels[0] - done
    if backwards:
        p = 1 if tail > 0 and done == 0 else at_once
        while p > left:
            p //= 2
        return panels[1] - done - p, p
    full = left - (1 if tail > 0 else 0)
    p = at_once
    while p > max(full, 1):
        p //= 2
    return panels[0] + done, p


@inline
def panels_together(rows):
    """Return of how many panels the sums of so many rows may lie side by side before they are finished."""
    return max(BLOCK // max(rows, 1), 1)


@inline
def next_group(panels, tail, backwards, done, together):
    """Return the panels [first, last) that are finished together next: at most so many, a last one of another width alone."""
    narrow = 1 if tail > 0 else 0
    if backwards:
        last = panels[1] - done
        return (last - 1 if narrow > done else max(last - together, panels[0])), last
    first = panels[0] + done
    return first, max(min(first + together, panels[1] - narrow), first + 1)


@inline
def no_source(x, start, stride, W):
    """Return the second source of a product that has one."""
    # typed as a number and not as the literal 0, for which Numba would compile everything again
    none = np.intp(0)
    return x, start, stride, none, W, none, none, none


dense_rows, dense_tail_rows = make_rows(), make_tail_rows()

"""Products of two matrices of the run, neither of which is packed ahead: what gradients of weights are, sums over many rows.

    y[m, n] = sum_k a[m, k] b[k, n], or += it        dims: a (M, K), b (K, N), of any strides

In blocks of `depth` of k: some panels of 4 vectors of columns of b are packed, and every tile of rows of a meets each panel while it is in
a near cache. Rows of a whose elements lie apart are packed too, tile by tile: where they lie, their strides would leave them few places of
that cache. Sums wait in z [panel][M][4 L], so that each output is one chain of fused multiply-adds in the order of k, as in
kernels/dense.py: the same bits.
"""

from fastlstm.kernels import layout
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import PLACE, WORKER, WORKERS
from fastlstm.kernels.simd import arguments, lanes, load, load_part, pointers, store, words, write_units
from fastlstm.kernels.team import share
from fastlstm.kernels.tile import ROWS, WIDTH
from fastlstm.kernels.tile_intrinsics import tile_fma, tile_load, tile_store

COLUMNS = (0, 1, 2, 3)
TOGETHER = layout.TOGETHER  # panels that are packed at once: rows of b are read where they lie side by side
TURNED = 64  # of k: columns of b, where those lie side by side, are packed while the part of a panel is in the first-level cache


def _make_tile(rows: int):
    @routine
    def add(a, at, a_row, a_k, K, packed, panel, z, to):
        L = lanes(z)
        sums = tile_load(z, to, WIDTH * L, rows, WIDTH)
        for k in range(K):
            sums = tile_fma(sums, a, at + k * a_k, a_row, packed, panel + k * (WIDTH * L), 0, 1, WIDTH, COLUMNS)
        tile_store(sums, z, to, WIDTH * L, WIDTH)

    return add


_one, _two, _three = (_make_tile(rows) for rows in (1, 2, 3))
if ROWS == 3:

    @routine
    def add_tile(n, a, at, a_row, a_k, K, packed, panel, z, to):
        if n == 3:
            _three(a, at, a_row, a_k, K, packed, panel, z, to)
        elif n == 2:
            _two(a, at, a_row, a_k, K, packed, panel, z, to)
        else:
            _one(a, at, a_row, a_k, K, packed, panel, z, to)

else:
    _four, _five, _six = (_make_tile(rows) for rows in (4, 5, 6))

    @routine
    def add_tile(n, a, at, a_row, a_k, K, packed, panel, z, to):
        if n == 6:
            _six(a, at, a_row, a_k, K, packed, panel, z, to)
        elif n == 5:
            _five(a, at, a_row, a_k, K, packed, panel, z, to)
        elif n == 4:
            _four(a, at, a_row, a_k, K, packed, panel, z, to)
        elif n == 3:
            _three(a, at, a_row, a_k, K, packed, panel, z, to)
        elif n == 2:
            _two(a, at, a_row, a_k, K, packed, panel, z, to)
        else:
            _one(a, at, a_row, a_k, K, packed, panel, z, to)


@routine
def pack_block(b, at, b_k, b_n, K, columns, width, packed, to):
    """packed [panel][K][width] = b[k, n] for `columns` columns from b[at] on, zeros past them; width is a number of whole vectors."""
    L = lanes(b)
    whole = (columns + width - 1) // width * width
    if b_n == 1:
        full = columns // width
        for k in range(K):
            row, place = at + k * b_k, to + k * width
            for panel in range(full):
                for n in range(0, width, L):
                    store(packed, place + panel * (K * width) + n, load(b, row + panel * width + n))
            for n in range(full * width, whole, L):
                part = load_part(b, row + n, min(max(columns - n, 0), L), 0.0)
                store(packed, place + full * (K * width) + n - full * width, part)
        return
    for first in range(0, K, TURNED):
        last = min(first + TURNED, K)
        for n in range(whole):
            place = to + n // width * (K * width) + n % width
            if n < columns:
                for k in range(first, last):
                    packed[place + k * width] = b[at + k * b_k + n * b_n]
            else:
                for k in range(first, last):
                    packed[place + k * width] = 0


@inline
def tile_of(count, tiles, tile):
    """Return the first of the rows of a tile, and how many it has: as even as tiles can be."""
    first = count * tile // tiles
    return first, count * (tile + 1) // tiles - first


@routine
def pack_tiles(a, at, a_row, a_k, K, count, tiles, packed, to):
    """packed [tile][K][rows of the tile] = a[m, k] for `count` rows from a[at] on."""
    L = lanes(a)
    for tile in range(tiles):
        first, n = tile_of(count, tiles, tile)
        start, place = at + first * a_row, to + first * K
        # a whole vector, of which the next one keeps what belongs to the tile
        whole = K if a_row == 1 and first + L <= count else 0
        for k in range(whole):
            store(packed, place + k * n, load(a, start + k * a_k))
        for k in range(whole, K):
            for m in range(n):
                packed[place + k * n + m] = a[start + k * a_k + m * a_row]


@kernel
def pack_forward(kind, narrow, team, args):
    """Pack b (K, N) of any strides as kernels/dense.py reads it: panels of 4 vectors, the last of `tail` vectors if that is not 0.

    Arguments: b, b_k, b_n, packed, K, N, tail.
    """
    (b, b_k, b_n, packed, K, N, tail), _ = arguments(args, 0, 7, 0)
    b, packed = pointers(kind, (b, packed))
    L = lanes(b)
    width = WIDTH * L
    panels = N // width if tail > 0 else (N + width - 1) // width
    first, last = share(panels, words(team)[WORKER], words(team)[WORKERS])
    columns = min(last * width, N) - first * width
    pack_block(b, first * width * b_n, b_k, b_n, K, columns, width, packed, first * K * width)
    if tail > 0 and words(team)[WORKER] == 0:
        done = panels * width
        pack_block(b, done * b_n, b_k, b_n, K, N - done, tail * L, packed, K * done)


@routine
def product(a, a_row, a_k, b, b_k, b_n, y, y_row, z, packed, own, tiled, accumulate, depth, K, N, M, panels, rows, at):
    """Compute some panels and rows of one product, or add it to y; `at` are its places in a, b, y and z, `own` and `tiled` those for packed panels and tiles."""
    L = lanes(y)
    width = WIDTH * L
    count = rows[1] - rows[0]
    tiles = (count + ROWS - 1) // ROWS
    for panel in range(panels[0], panels[1]):
        left = N - panel * width
        for m in range(rows[0], rows[1]):
            for k in range(0, width, L):
                there = max(min(left - k, L), 0) if accumulate else 0
                start = load_part(y, at[2] + m * y_row + panel * width + k, there, 0.0)
                store(z, at[3] + (panel * M + m) * width + k, start)
    for start in range(0, K, depth):
        deep = min(depth, K - start)
        if a_k != 1:
            pack_tiles(a, at[0] + rows[0] * a_row + start * a_k, a_row, a_k, deep, count, tiles, packed, tiled)
        for first in range(panels[0], panels[1], TOGETHER):
            last = min(first + TOGETHER, panels[1])
            columns = min(last * width, N) - first * width
            pack_block(b, at[1] + start * b_k + first * width * b_n, b_k, b_n, deep, columns, width, packed, own)
            for panel in range(first, last):
                part = own + (panel - first) * (deep * width)
                for tile in range(tiles):
                    row, n = tile_of(count, tiles, tile)
                    m = rows[0] + row
                    to = at[3] + (panel * M + m) * width
                    if a_k != 1:
                        add_tile(n, packed, tiled + row * deep, 1, n, deep, packed, part, z, to)
                    else:
                        add_tile(n, a, at[0] + m * a_row + start, a_row, 1, deep, packed, part, z, to)
    for panel in range(panels[0], panels[1]):
        left = N - panel * width
        for m in range(rows[0], rows[1]):
            for k in range(0, min(width, left), L):
                value = load(z, at[3] + (panel * M + m) * width + k)
                write_units(y, at[2] + m * y_row + panel * width + k, value, left - k)


@kernel
def product_forward(kind, narrow, team, args):
    """y[o] = a[o] b[o] for O pairs of matrices. Workers divide the pairs, or where there are few of them the panels, or the rows.

    Arguments: a, its strides of o, m and k, b, its strides of o, k and n, y, its strides of o and m, z, its elements for a worker, packed, likewise,
    whether y is added to, depth, O, M, K, N.
    """
    (
        a, a_o, a_row, a_k, b, b_o, b_k, b_n, y, y_o, y_row, z, z_size, packed, size, accumulate, depth, O, M, K, N
    ), _ = arguments(args, 0, 21, 0)  # fmt: skip
    a, b, y, z, packed = pointers(kind, (a, b, y, z, packed))
    worker, workers = words(team)[WORKER], words(team)[WORKERS]
    width = WIDTH * lanes(y)
    pairs, panels, rows = (O - O, O), (O - O, (N + width - 1) // width), (O - O, M)
    own, z_own = words(team)[PLACE] * size, O - O
    tiled = own + depth * min(panels[1], TOGETHER) * width
    if workers <= O:
        pairs, z_own = share(O, worker, workers), words(team)[PLACE] * z_size
    elif panels[1] >= 2 * workers:
        panels = share(panels[1], worker, workers)
    else:
        rows = share(M, worker, workers)
    for o in range(pairs[0], pairs[1]):
        at = o * a_o, o * b_o, o * y_o, z_own
        product(
            a, a_row, a_k, b, b_k, b_n, y, y_row, z, packed, own, tiled, accumulate, depth, K, N, M, panels, rows, at
        )

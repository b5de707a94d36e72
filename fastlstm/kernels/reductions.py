"""Sums, means, products and extremes along axes.

    y[i, j] = x[i, 0, j, 0] + ... over all r, s of x[i, r, j, s]        and likewise for products and extremes

dims: (K0, R0, K1, R1), kept and reduced in turn; the last, of which the elements lie side by side, is reduced (`along`) or has one
element (`down`, where those of K1 lie side by side).

The order of what is joined depends on R0 and R1 alone: along a row four vectors of lanes for CHUNK vectors each, then across the lanes;
down a column eight at a time, for ROWS rows each. NaN wins.
"""

from fastlstm.kernels.codes import MAX_OF, MEAN, MIN_OF, PROD
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import (
    arguments,
    lane,
    lanes,
    larger,
    load_part,
    pointers,
    splat,
    where_less,
    where_nan,
    words,
    write_units,
)
from fastlstm.kernels.team import share

# what is joined before its total is, steps of four vectors along a row and rows down a column: so float32 loses less
CHUNK, ROWS = 64, 512


@inline
def added(a, b):
    return a + b


@inline
def multiplied(a, b):
    return a * b


@inline
def larger_of(a, b):
    return where_nan(a, a, larger(a, b))


@inline
def smaller_of(a, b):
    return where_nan(a, a, where_less(a, b, a, b))


def make_reduction(join, neutral: float):
    """Return the functions that reduce along rows and down columns; `neutral` joined to a value leaves it."""

    @routine
    def along(x, at, R0, r0, R1, y, to):
        L = lanes(x)
        none = splat(load_part(x, at, R1 - R1, 0.0), neutral)
        total = none
        for r in range(R0):
            row = at + r * r0
            for first in range(0, R1, 4 * CHUNK * L):
                last = min(R1, first + 4 * CHUNK * L)
                a, b, c, d = none, none, none, none
                whole = first + (last - first) // (4 * L) * (4 * L)
                for k in range(first, whole, 4 * L):
                    a = join(a, load_part(x, row + k, L, neutral))
                    b = join(b, load_part(x, row + k + L, L, neutral))
                    c = join(c, load_part(x, row + k + 2 * L, L, neutral))
                    d = join(d, load_part(x, row + k + 3 * L, L, neutral))
                for k in range(whole, last, L):
                    a = join(a, load_part(x, row + k, min(last - k, L), neutral))
                total = join(total, join(join(a, b), join(c, d)))
        result = splat(total, lane(total, 0))
        for k in range(1, L):
            result = join(result, splat(total, lane(total, k)))
        write_units(y, to, result, 1)

    @routine
    def set_neutral(y, at, count):
        for k in range(at, at + count, lanes(y)):
            write_units(y, k, splat(load_part(y, k, 0, 0.0), neutral), at + count - k)

    @routine
    def down(x, at, R0, r0, y, to, part, first, last):
        L = lanes(x)
        set_neutral(y, to + first, last - first)
        for start in range(0, R0, ROWS):
            end = min(R0, start + ROWS)
            eights = start + (end - start) // 8 * 8
            set_neutral(part, to + first, last - first)
            for r in range(start, eights, 8):
                for k in range(first, last, L):
                    n, p = min(last - k, L), at + r * r0 + k
                    a = join(load_part(x, p, n, 0.0), load_part(x, p + r0, n, 0.0))
                    b = join(load_part(x, p + 2 * r0, n, 0.0), load_part(x, p + 3 * r0, n, 0.0))
                    c = join(load_part(x, p + 4 * r0, n, 0.0), load_part(x, p + 5 * r0, n, 0.0))
                    d = join(load_part(x, p + 6 * r0, n, 0.0), load_part(x, p + 7 * r0, n, 0.0))
                    total = join(load_part(part, to + k, n, 0.0), join(join(a, b), join(c, d)))
                    write_units(part, to + k, total, n)
            for r in range(eights, end):
                for k in range(first, last, L):
                    n = min(last - k, L)
                    value = load_part(x, at + r * r0 + k, n, 0.0)
                    write_units(part, to + k, join(load_part(part, to + k, n, 0.0), value), n)
            for k in range(first, last, L):
                n = min(last - k, L)
                write_units(y, to + k, join(load_part(y, to + k, n, 0.0), load_part(part, to + k, n, 0.0)), n)

    return along, down


sum_along, sum_down = make_reduction(added, 0.0)
product_along, product_down = make_reduction(multiplied, 1.0)
max_along, max_down = make_reduction(larger_of, -float("inf"))
min_along, min_down = make_reduction(smaller_of, float("inf"))


@routine
def divide(y, first, last, count):
    for k in range(first, last, lanes(y)):
        n = min(last - k, lanes(y))
        value = load_part(y, k, n, 0.0)
        write_units(y, k, value / splat(value, count), n)


@kernel
def reduce_forward(kind, narrow, team, args):
    """Reduce x to contiguous y (K0, K1).

    Arguments: x, y, room for as many sums of a part, code, whether the last axis is reduced, K0, R0, K1, R1, the strides of the first three in elements; number: how many
    elements are reduced to one.
    """
    (x, y, part, code, is_along, K0, R0, K1, R1, k0, r0, k1), (count,) = arguments(args, 0, 12, 1)
    x, y, part = pointers(kind, (x, y, part))
    worker, workers = words(team)[WORKER], words(team)[WORKERS]
    if is_along:
        first, last = share(K0 * K1, worker, workers)
        for place in range(first, last):
            at = place // K1 * k0 + place % K1 * k1
            if code == PROD:
                product_along(x, at, R0, r0, R1, y, place)
            elif code == MAX_OF:
                max_along(x, at, R0, r0, R1, y, place)
            elif code == MIN_OF:
                min_along(x, at, R0, r0, R1, y, place)
            else:
                sum_along(x, at, R0, r0, R1, y, place)
        if code == MEAN:
            divide(y, first, last, count)
        return
    L = lanes(y)
    rows, columns = share(K0, worker, workers), (K1 - K1, K1)
    if workers > K0:
        vectors = share((K1 + L - 1) // L, worker, workers)
        rows, columns = (K0 - K0, K0), (vectors[0] * L, min(vectors[1] * L, K1))
    for i in range(rows[0], rows[1]):
        if code == PROD:
            product_down(x, i * k0, R0, r0, y, i * K1, part, columns[0], columns[1])
        elif code == MAX_OF:
            max_down(x, i * k0, R0, r0, y, i * K1, part, columns[0], columns[1])
        elif code == MIN_OF:
            min_down(x, i * k0, R0, r0, y, i * K1, part, columns[0], columns[1])
        else:
            sum_down(x, i * k0, R0, r0, y, i * K1, part, columns[0], columns[1])
        if code == MEAN:
            divide(y, i * K1 + columns[0], i * K1 + columns[1], count)

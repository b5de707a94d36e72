"""Rows of different lengths: what a mask says of each row, so that recurrent kernels take only valid steps.

Rows whose valid steps all begin together (right-padded) or all end together (left-padded) are NESTED: sorted by length, the
active rows of any step are the first so many. Any other mask has HOLES, and every step of it is asked for.

Words: KIND, whether rows are PERMUTED, then for each row in ORDER its number, then by number its first valid step and the
one after its last, then for each step how many rows are active. Steps count in processing order.
"""

from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.layout import WORKER
from fastlstm.kernels.simd import arguments, byte_pointer, words

WHOLE, NESTED, HOLES = 0, 1, 2
KIND, PERMUTED, ORDER = 0, 1, 2


@inline
def first_of(ragged, B, row):
    return ragged[ORDER + B + row]


@inline
def last_of(ragged, B, row):
    return ragged[ORDER + 2 * B + row]


@inline
def active_rows(ragged, B, step):
    return ragged[ORDER + 3 * B + step]


def word_count(T: int, B: int) -> int:
    """Return how many words describe T steps of B rows; the last T + 1 of them are scratch for sorting."""
    return ORDER + 3 * B + 2 * T + 1


@kernel
def ragged_forward(kind, narrow, team, args):
    """Write the words of a mask (T, B) of any strides."""
    (mask, mask_t, mask_b, ragged, T, B, reverse), _ = arguments(args, 0, 7, 0)
    if words(team)[WORKER] != 0:
        return
    mask, ragged = byte_pointer(mask), words(ragged)
    starts, ends, whole, holes = True, True, True, False
    for row in range(B):
        first, last, valid = T, 0, 0
        for step in range(T):
            t = T - 1 - step if reverse else step
            if mask[t * mask_t + row * mask_b] != 0:
                first = min(first, step)
                last = step + 1
                valid += 1
        first = min(first, last)
        ragged[ORDER + B + row], ragged[ORDER + 2 * B + row] = first, last
        holes = holes or valid != last - first
        whole = whole and valid == T
        if valid > 0:
            starts, ends = starts and first == 0, ends and last == T
    ragged[PERMUTED] = 0
    ragged[KIND] = WHOLE if whole else NESTED if (starts or ends) and not holes else HOLES
    if ragged[KIND] != NESTED:
        return
    # counting sort, longest first, rows of one length in their order
    counts = ORDER + 3 * B + T
    for length in range(T + 1):
        ragged[counts + length] = 0
    for row in range(B):
        ragged[counts + last_of(ragged, B, row) - first_of(ragged, B, row)] += 1
    place = 0
    for k in range(T + 1):
        here = ragged[counts + T - k]
        ragged[counts + T - k] = place
        place += here
    for row in range(B):
        length = last_of(ragged, B, row) - first_of(ragged, B, row)
        place = ragged[counts + length]
        ragged[counts + length] = place + 1
        ragged[ORDER + place] = row
        if place != row:
            ragged[PERMUTED] = 1
    active = B if starts else 0
    for step in range(T):
        if starts:
            while active > 0 and last_of(ragged, B, ragged[ORDER + active - 1]) <= step:
                active -= 1
        else:
            while active < B and first_of(ragged, B, ragged[ORDER + active]) <= step < last_of(
                ragged, B, ragged[ORDER + active]
            ):
                active += 1
        ragged[ORDER + 3 * B + step] = active

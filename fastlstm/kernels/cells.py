"""Cells, and what ends a step around them: the next h, and masked steps.

dims as in kernels/recurrence.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.ragged import ORDER
from fastlstm.kernels.simd import lanes, load, one_nan, store


class Cell(NamedTuple):
    """What a step does with z of one vector of units of one row.

    cell(options, z, k, stride, h, s, at, unit) is the new h of the vector of units at `unit`: its pre-activations are at z[k],
    z[k + stride] ..., its old state at h[s]; s counts in rows of h, `at` in rows of the caller's order. `options` are what
    `read_options(kind, narrow, args)` reads: each part of a kernel reads them for itself, since a call with all of them as arguments
    costs as much as a cell.
    """

    units: int  # vectors of units in a panel
    read_options: Callable
    is_usual: Callable  # tells of options whether `usual` is enough
    general: Callable  # the cell with any options
    usual: Callable
    # the first half of `usual`: done for all first, it leaves the CPU shorter chains, of which more run at once
    begin: Callable | None = None


def make_finish(cell: Cell):
    """Return the `finish` that ends a step of some rows and panels: the cell, the next h."""
    general, usual = _make_second(cell.general, cell.units, routine), _make_second(cell.usual, cell.units, inline)
    first_half = inline(_nothing) if cell.begin is None else _make_first(cell.begin)
    read_options, is_usual = cell.read_options, cell.is_usual

    @routine
    def finish(kind, narrow, args, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
        options = read_options(kind, narrow, args)
        if is_usual(options):
            first_half(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)
            usual(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)
        else:
            general(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)

    return finish


def make_first_finish(cell: Cell):
    """Return the `finish` of a step's first sweep, where a second product stands between the halves of the cell."""
    first_half, read_options = _make_first(cell.begin), cell.read_options

    @routine
    def finish(kind, narrow, args, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
        options = read_options(kind, narrow, args)
        first_half(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)

    return finish


def _nothing(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
    """Stand for the loop over first halves that are none."""


def _make_first(begin):
    """Return the loop over the first halves of cells; panels hold one vector of units."""

    @inline
    def first_half(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
        h, L = place[0], lanes(z)
        vectors = min(p, (H - first + L - 1) // L)
        position, k = m, np.intp(0)
        # one loop, so that the constants of the cell are fetched once for all
        for _ in range(n * vectors):
            row = ragged[ORDER + position] if permuted else position
            if not (holes and mask[row * mask_b] == 0):
                unit = first + k * L
                z_at = z0 + ((position - m) * p + k) * 4 * L
                begin(options, z, z_at, stride, h, position * S + unit, row * S + unit, unit)
            k += 1
            if k == vectors:
                k = np.intp(0)
                position += 1

    return first_half


def _make_second(cell, units: int, compiled):
    """Return the loop that ends with the next h."""

    @compiled
    def second_half(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
        h, h_next = place
        L = lanes(z)
        vectors = min(p * units, (H - first + L - 1) // L)
        position, k = m, np.intp(0)
        for _ in range(n * vectors):
            row = ragged[ORDER + position] if permuted else position
            unit = first + k * L
            s, at = position * S + unit, row * S + unit
            if holes and mask[row * mask_b] == 0:
                store(h_next, s, load(h, s))
            else:
                z_at = z0 + (position - m) * p * 4 * L + k * (4 // units) * L
                store(h_next, s, one_nan(cell(options, z, z_at, stride, h, s, at, unit)))
            k += 1
            if k == vectors:
                k = np.intp(0)
                position += 1

    return second_half

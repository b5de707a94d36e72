"""The loop over time of a single row, as streams and most sequences are: panels of weights, cells, and nothing between.

Its valid steps have no hole between them; steps before and after those are masked.

Its steps take a microsecond or less, of which each argument of a call costs a nanosecond: a product of one row has few, and one loop
holds all steps that are projected together. The bits are those of the loop for any number of rows.

dims as in kernels/recurrence.py.
"""

from collections.abc import Callable

import numpy as np

from fastlstm.kernels.cells import Cell
from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.layout import ARGUMENTS, CARRY, PLACE, TURN, UNMASKED, WORKER, WORKERS
from fastlstm.kernels.outputs import masked_outputs
from fastlstm.kernels.projections import copy_vectors, look_up, strides_ahead
from fastlstm.kernels.ragged import first_of, last_of
from fastlstm.kernels.reading import Product
from fastlstm.kernels.simd import arguments, byte_pointer, lanes, one_nan, pointers, store, words, write_units
from fastlstm.kernels.team import share, wait_for_all
from fastlstm.kernels.tile import next_panels, panels_at_once, tail_stride


def _make_product(product: Product):
    """Return the product of one row with the panels [panels[0], panels[1]), of which the last may be a tail."""
    _, tail_rows, (one, two, with_tail), _, recurrent_gates, reading = product
    panel_size = reading.panel_size

    @inline
    def of_row(panels, tail, backwards, init, i0, x, x0, K, W, W_size, h, h0, H, U, z, z0):
        L, none = lanes(z), np.intp(0)
        U_size = panel_size(H, recurrent_gates * L)
        whole = panels[1] - panels[0] - (1 if tail > 0 else 0)
        joined = none  # whole panels that meet the row together with the tail
        if tail > 0:
            joined = min(whole, 2 - whole % 2)
        alone = panels[0], panels[0] + whole - joined
        ends = 1 if tail > 0 else 0
        groups, done = (alone[1] - alone[0] + 1) // 2 + ends, none
        for group in range(groups):
            if ends > 0 and group == (0 if backwards else groups - 1):
                at, w, u = alone[1] * 4 * L, alone[1] * W_size, alone[1] * U_size
                w_tail, u_tail, behind = w + joined * W_size, u + joined * U_size, joined * 4 * L
                if joined > 0:
                    with_tail(
                        joined, tail, (init, i0 + at, x, x0, K, W, w, W_size, w_tail, h, h0, H, U, u, U_size, u_tail, z, z0 + at, behind)
                    )  # fmt: skip
                else:
                    source, state = (x, x0, none, K, W, w, none, none), (h, h0, none, H, U, u, none, none)
                    tail_rows(1, tail, (init, i0 + at, none), source, state, (z, z0 + at, none))
                continue
            panel, p = next_panels(alone, none, backwards, done, panels_at_once(1))
            done += p
            at, w, u = panel * 4 * L, panel * W_size, panel * U_size
            if p == 2:
                two(init, i0 + at, x, x0, K, W, w, W_size, h, h0, H, U, u, U_size, z, z0 + at)
            else:
                one(init, i0 + at, x, x0, K, W, w, W_size, h, h0, H, U, u, U_size, z, z0 + at)

    return of_row


def _make_first_half(begin: Callable, units: int):
    """Return the first halves of the cells of one row."""

    @inline
    def first_half(options, panels, tail, z, z0, h, H):
        L = lanes(z)
        unit, k = panels[0] * units * L, z0 + panels[0] * 4 * L
        full = (panels[1] - panels[0] - (1 if tail > 0 else 0)) * units
        short = tail_stride(tail, L, units)
        for vector in range(min((panels[1] - panels[0]) * units, (H - unit + L - 1) // L)):
            begin(options, z, k, L if vector < full else short, h, unit, unit, unit)
            unit += L
            k += (4 // units) * L

    return first_half


def _make_second_half(units_of: Callable, units: int, compiled: Callable):
    """Return the second halves, or the whole cells, of one row."""

    @compiled
    def second_half(options, panels, tail, z, z0, h, h_next, y, y0, has_y, H):
        L = lanes(z)
        unit, k = panels[0] * units * L, z0 + panels[0] * 4 * L
        full = (panels[1] - panels[0] - (1 if tail > 0 else 0)) * units
        short = tail_stride(tail, L, units)
        for vector in range(min((panels[1] - panels[0]) * units, (H - unit + L - 1) // L)):
            value = one_nan(units_of(options, z, k, L if vector < full else short, h, unit, unit, unit))
            store(h_next, unit, value)
            if has_y:
                write_units(y, y0 + unit, value, H - unit)
            unit += L
            k += (4 // units) * L

    return second_half


@inline
def _no_first_half(options, panels, tail, z, z0, h, H):
    """Stand for the first halves of cells that have none."""


def _make_end(cell: Cell):
    """Return what follows the product of a step."""
    first_half = _no_first_half if cell.begin is None else _make_first_half(cell.begin, cell.units)
    is_usual = cell.is_usual
    usual = _make_second_half(cell.usual, cell.units, inline)
    general = _make_second_half(cell.general, cell.units, routine)

    @inline
    def end(options, team, panels, last_panels, tail, backwards, z, z0, h, h_next, y, y0, has_y, H, copies, at):
        if is_usual(options):
            first_half(options, panels, tail, z, z0, h, H)
            usual(options, panels, tail, z, z0, h, h_next, y, y0, has_y, H)
        else:
            general(options, panels, tail, z, z0, h, h_next, y, y0, has_y, H)

    return end


def _make_end_between(cell: Cell, between: Product):
    """Return what follows the first product of a step, where a second one stands between the halves of the cell."""
    second, take_state = _make_product(between), between.reading.take_state
    first_half, is_usual = _make_first_half(cell.begin, 1), cell.is_usual
    usual = _make_second_half(cell.usual, cell.units, inline)
    general = _make_second_half(cell.general, cell.units, routine)

    @inline
    def end(options, team, panels, last_panels, tail, backwards, z, z0, h, h_next, y, y0, has_y, H, copies, at):
        none = np.intp(0)
        first_half(options, panels, tail, z, z0, h, H)
        wait_for_all(team)
        gated, weights, init = options[:3]
        state, at_h, _ = take_state(gated, none, none, none, 1, H, copies, at)
        second(
            last_panels, none, backwards, init, none, state, none, none, weights, none, state, at_h, H, weights, z, z0
        )
        if is_usual(options):
            usual(options, last_panels, none, z, z0, h, h_next, y, y0, has_y, H)
        else:
            general(options, last_panels, none, z, z0, h, h_next, y, y0, has_y, H)

    return end


def make_row_steps(product: Product, cell: Cell, project: Callable, between: Product | None = None):
    """Return the function that runs T steps of one row, maybe with a second product `between` the halves of its cells."""
    of_row = _make_product(product)
    end = _make_end(cell) if between is None else _make_end_between(cell, between)
    read_options, gates, units = cell.read_options, product.gates, 1 if between is not None else cell.units
    panel_size, row_size, take, take_state = product.reading[:4]

    @routine
    def run_steps(kind, narrow, team, args, panels, last_panels, tail, done, steps, h, h_next):
        """Run steps whose projections lie in `ahead`, or all of them, projecting in place."""
        (
            x, x_t, _, W, U, b, _, _, y, y_t, _, _, z, ahead, _, _, _, _, _, _,
            copies, copies_size, parts, T, _, I, H, S, run, reverse, has_y, _, _, z_size, _, _, turn,
        ), _ = arguments(args, 0, ARGUMENTS, 0)  # fmt: skip
        x, b, y, z, ahead = pointers(kind, (x, b, y, z, ahead))
        W, U = pointers(narrow, (W, U))
        options, copies = read_options(kind, narrow, args), byte_pointer(copies)
        L, none = lanes(z), np.intp(0)
        z0, h_copies = words(team)[PLACE] * z_size, words(team)[PLACE] * copies_size
        x_copies = h_copies + row_size(H, 1)
        t, onward = (T - 1 - done, -1) if reverse else (done, 1)
        x0, y0, x_t, y_t = t * x_t, t * y_t, onward * x_t, onward * y_t
        init, i0, i_t, K, here = b, none, none, I, 1
        if run > 0:
            init, i0, i_t, K, here = ahead, none, S // units * 4 + L, none, 0
        W_size = panel_size(I, gates * L)
        for step in range(done, done + steps):
            backwards = (turn + step) % 2
            source, at_x, _ = take(x, x0, none, none, here, I, parts, copies, x_copies)
            state, at_h, _ = take_state(h, none, none, none, 1, H, copies, h_copies)
            of_row(panels, tail, backwards, init, i0, source, at_x, K, W, W_size, state, at_h, H, U, z, z0)
            end(
                options, team, panels, last_panels, tail, backwards, z, z0, h, h_next, y, y0, has_y, H, copies, h_copies
            )
            h, h_next = h_next, h
            x0 += x_t
            y0 += y_t
            i0 += i_t
            wait_for_all(team)

    @routine
    def row_steps(kind, narrow, team, args):
        (
            x, x_t, x_b, W, _, b, h, h_next, y, y_t, _, y_last, _, ahead, _, _, _, ragged, _, _,
            copies, copies_size, parts, T, B, I, H, S, run, reverse, has_y, masked, _, _, tail, looks_up, turn,
        ), _ = arguments(args, 0, ARGUMENTS, 0)  # fmt: skip
        numbers, ragged, copies = words(x), words(ragged), byte_pointer(copies)
        x, b, h, h_next, y, y_last, ahead = pointers(kind, (x, b, h, h_next, y, y_last, ahead))
        (W,) = pointers(narrow, (W,))
        worker, workers = words(team)[WORKER], words(team)[WORKERS]
        L, none = lanes(x), np.intp(0)
        C = S // units * 4 + L
        strides = strides_ahead(B, run, C, L)
        x_copies = words(team)[PLACE] * copies_size + row_size(H, 1)
        part, panels = (none, B), share((H + units * L - 1) // (units * L), worker, workers)
        last_panels = share(S // (4 * L), worker, workers)
        tail = tail if worker == workers - 1 else none
        first, last = none, T
        if masked != UNMASKED:
            first, last = first_of(ragged, B, none), last_of(ragged, B, none)
        if has_y and worker == 0:
            masked_outputs(y, y_t, y_last, none, first, T, reverse, H, masked)
        final, done = h, first
        while done < last:
            steps = min(run, last - done) if run > 0 else last - done
            if looks_up:
                look_up(
                    numbers, x_t, x_b, b, ahead, strides, ragged, False, done, steps, T, B, C, reverse, part, panels
                )
            elif run > 0:
                project(
                    x, x_t, x_b, W, b, ahead, strides, ragged, False, done, steps, T, B, I, reverse, part, panels, tail,
                    parts, copies, x_copies,
                )  # fmt: skip
            run_steps(kind, narrow, team, args, panels, last_panels, tail, done, steps, h, h_next)
            if steps % 2:
                h, h_next = h_next, h
            done += steps
        if worker == 0:
            words(args)[TURN] = (turn + last - first) % 2
            if (last - first) % 2:
                copy_vectors(h, none, final, none, S)
            if masked == CARRY and last > first:
                copy_vectors(h, none, y_last, none, S)
            if has_y:
                masked_outputs(y, y_t, y_last, last, T, T, reverse, H, masked)

    return row_steps

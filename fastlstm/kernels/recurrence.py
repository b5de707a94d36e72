"""The loop over time that every recurrent kernel runs, around its own cell.

A step computes z = b + x W + h U on the register tile, panel by panel, and hands every row and vector of units to the cell. What
the loop decides changes no bit: whether x W is projected ahead for several steps; in which order panels are taken
(backwards every other step, so that what the cache still holds is used first); which rows are still active; who of a team does
which rows, or which panels.

dims: T time, B batch, I input, H hidden, L lanes, S = length of a state row = H rounded up to whole panels' units, C = length of
a row of projections and of z. Steps count in processing order: where the direction is reverse, step s reads time T - 1 - s.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.layout import FROM, PLACE, SHARES, TO, WORKER, WORKERS
from fastlstm.kernels.ragged import HOLES, KIND, NESTED, ORDER, PERMUTED, active_rows, first_of, last_of
from fastlstm.kernels.simd import (
    arguments,
    byte_pointer,
    fetch_to_write,
    lanes,
    load,
    load_part,
    one_nan,
    pointers,
    splat,
    store,
    words,
    write_units,
)
from fastlstm.kernels.target import DEPTH
from fastlstm.kernels.team import note_speed, row_share, share, ticks, wait_for_all
from fastlstm.kernels.tile import (
    BLOCK,
    BOTH_ROWS,
    ROWS,
    is_tail,
    next_panels,
    no_source,
    pace_of,
    panels_at_once,
    tail_stride,
)

# The output of a masked step: none are masked, zeros (ONNX), or the output of the step processed before (Keras).
UNMASKED, ZERO, CARRY = -1, 0, 1
SPLIT_ROWS, SPLIT_PANELS = 0, 1  # what the workers of a team divide
ARGUMENTS = 37  # integers that `make_steps` reads; the cell's own follow
TURN = ARGUMENTS - 1  # the word that says which way the first step takes the panels: each run leaves it for the next
OVERLAPPED = -1  # instead of a number of steps projected at once: x W is projected beside h U


@inline
def copy_vectors(source, at, target, to, n):
    """Copy n elements, whole vectors."""
    for s in range(0, n, lanes(source)):
        store(target, to + s, load(source, at + s))


@routine
def masked_output(y, at, y_last, last_at, H, masked):
    """Write the output of a masked step of one row: zeros, or the last output."""
    L = lanes(y)
    for unit in range(0, H, L):
        last = load(y_last, last_at + unit) if masked == CARRY else splat(load(y_last, 0), 0.0)
        write_units(y, at + unit, last, H - unit)


@routine
def rows_of(ragged, sorted_rows, B, team):
    """Return the rows [first, last) of a worker: of valid steps its share, as near as whole rows allow.

    Rows of like lengths stay together: a step costs more than its rows do, and workers of short rows have fewer steps.
    """
    worker, workers = team[WORKER], team[WORKERS]
    if workers == 1 or not sorted_rows:
        return row_share(team, B)
    total = 0
    for row in range(B):
        total += last_of(ragged, B, row) - first_of(ragged, B, row)
    first, last, done = B, B, 0
    for position in range(B):
        row = ragged[ORDER + position]
        length = last_of(ragged, B, row) - first_of(ragged, B, row)
        # a row belongs where the middle of its steps lies
        middle = (2 * done + length) * SHARES
        if first == B and middle >= 2 * total * team[FROM]:
            first = position
        if last == B and middle >= 2 * total * team[TO]:
            last = position
        done += length
    return (np.intp(0) if worker == 0 else first), (B if worker == workers - 1 else max(first, last))


@routine
def look_up(numbers, x_t, x_b, table, ahead, ragged, sorted_rows, step, steps, T, B, C, reverse, part, panels):
    """ahead[s, position] = table[numbers[step + s]], which is b + x W, for the positions and panels of one worker."""
    first, n = panels[0] * 4 * lanes(table), (panels[1] - panels[0]) * 4 * lanes(table)
    for s in range(steps):
        t = T - 1 - step - s if reverse else step + s
        for position in range(part[0], part[1]):
            row = position
            if sorted_rows:
                row = ragged[ORDER + position]
                if step + s < first_of(ragged, B, row) or step + s >= last_of(ragged, B, row):
                    continue
            at = numbers[t * x_t + row * x_b] * C
            copy_vectors(table, at + first, ahead, (s * B + position) * C + first, n)


class Reading(NamedTuple):
    """How a product reads its rows and weights."""

    panel_size: Callable  # (inputs, lanes of its columns) -> elements of a panel of weights
    row_size: Callable  # (elements, parts) -> bytes of the copy of a row that the product reads
    take: Callable  # where the product reads rows of x: the pointer, start and stride of x or of copies
    take_state: Callable  # likewise rows of h
    take_ahead: Callable  # likewise for some steps: the pointer, and the strides of time and rows
    depth: int  # inputs projected at once


@inline
def panel_elements(K, columns):
    return K * columns


@inline
def no_copy(K, parts):
    return 0


@inline
def take_in_place(x, at, stride, first, count, K, parts, copies, to):
    return x, at, stride


@inline
def take_state_in_place(h, at, stride, first, count, H, copies, to):
    return h, at, stride


@inline
def take_ahead_in_place(x, x_t, x_b, t, turn, steps, part, B, K, parts, copies, to):
    return x, x_t, x_b


IN_PLACE = Reading(panel_elements, no_copy, take_in_place, take_state_in_place, take_ahead_in_place, DEPTH)


def make_sweep(rows, tail_rows, gates: int, recurrent_gates: int, units: int, finish):
    """Return the function that computes one step of some rows and panels: the product of a tile, then its `finish`.

    A panel holds `units` vectors of units; `tail` is the width of the last of `panels` in vectors, 0 where it is a full one.
    """
    finish_row = make_finish_row(finish, units)

    @routine
    def sweep(
        options, place, part, panels, tail, backwards, init, x, h, z, z0, S, H, ragged, permuted, holes, mask, mask_b
    ):
        init, i0, i_stride = init
        x, x0, x_stride, K, W, W_size = x
        h, h0, h_stride, depth, U, U_size = h
        L = lanes(z)
        count = part[1] - part[0]
        at_once = panels_at_once(count)
        pace = pace_of(L, count)
        done, many = np.intp(0), panels[1] - panels[0]
        while done < many:
            panel, p = next_panels(panels, tail, backwards, done, at_once)
            done += p
            after = panel
            if done < many:
                after = panel - p if backwards else panel + p
            for m in range(part[0], part[1], BLOCK):
                n = min(part[1] - m, BLOCK)
                start = init, i0 + m * i_stride + panel * 4 * L, i_stride
                source = x, x0 + m * x_stride, x_stride, K, W, panel * W_size, W_size, after * W_size
                state = h, h0 + m * h_stride, h_stride, depth, U, panel * U_size, U_size, after * U_size
                # the cells of one row wait for each other less when all of a step's come together
                target = z, z0 + panel * 4 * L if count == 1 else z0, p * 4 * L
                stride = L
                if count > 1:
                    fetch_outputs(place, ragged, permuted, m, n, panel * units * L, S)
                if is_tail(panels, tail, panel):
                    tail_rows(n, tail, start, source, state, target)
                    stride = tail_stride(tail, L, units)
                else:
                    rows(n, p, ((m - part[0]) // ROWS, pace), start, source, state, target)
                if count > 1:
                    first = panel * units * L
                    finish(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)
        if count == 1:
            finish_row(options, place, z, z0, part[0], panels, tail, S, H, ragged, permuted, holes, mask, mask_b)

    return sweep


@inline
def fetch_outputs(place, ragged, permuted, m, n, first, S):
    """Ask for the lines that the cells will write: each row's lies far from the others', and a store would wait for it."""
    _, h_next, y, y_0, y_b, _, has_y, _ = place
    for position in range(m, m + n):
        fetch_to_write(h_next, position * S + first)
        if has_y:
            row = ragged[ORDER + position] if permuted else position
            fetch_to_write(y, y_0 + row * y_b + first)


def make_finish_row(finish, units: int):
    """Return the function that finishes all panels of one row, whose pre-activations lie one after the other."""

    @inline
    def finish_row(options, place, z, z0, row, panels, tail, S, H, ragged, permuted, holes, mask, mask_b):
        L = lanes(z)
        full = panels[1] - (1 if tail > 0 else 0)
        at, first, p = z0 + panels[0] * 4 * L, panels[0] * units * L, full - panels[0]
        if p > 0:
            finish(options, place, z, at, L, row, 1, first, p, S, H, ragged, permuted, holes, mask, mask_b)
        if tail > 0:
            at, first, stride = z0 + full * 4 * L, full * units * L, tail_stride(tail, L, units)
            finish(options, place, z, at, stride, row, 1, first, 1, S, H, ragged, permuted, holes, mask, mask_b)

    return finish_row


def make_sweep_both(rows, tail_rows, both, gates: int, recurrent_gates: int, units: int, finish):
    """Return the sweep of one row that also projects a part of the next BOTH_ROWS steps: every BOTH_ROWS-th panel, from `phase` on."""

    finish_row = make_finish_row(finish, units)

    @routine
    def sweep_both(
        options, place, panels, tail, backwards, phase, init, i0, h, later, z, z0, S, H, ragged, never, mask, mask_b
    ):
        h, U, U_size = h
        x, x0, x_stride, K, W, W_size, b, ahead, a0, C = later
        L, none = lanes(z), np.intp(0)
        done, many = none, panels[1] - panels[0]
        while done < many:
            panel, p = next_panels(panels, tail, backwards, done, 2)
            if p == 2 and (panel % BOTH_ROWS == phase or (panel + 1) % BOTH_ROWS == phase):
                panel, p = (panel + 1 if backwards else panel), 1
            done += p
            start = init, i0 + panel * 4 * L, none
            state = h, none, none, H, U, panel * U_size, U_size, none
            target = z, z0 + panel * 4 * L, none
            first = b, panel * 4 * L, none
            source = x, x0, x_stride, K, W, panel * W_size, W_size, none
            place_ahead = ahead, a0 + panel * 4 * L, C
            now = panel % BOTH_ROWS == phase
            if is_tail(panels, tail, panel):
                if now:
                    tail_rows(BOTH_ROWS, tail, first, source, no_source(x, x0, x_stride, W), place_ahead)
                tail_rows(1, tail, start, no_source(h, none, none, U), state, target)
            elif now:
                both(start, source, state, target, first, place_ahead)
            else:
                rows(1, p, (none, none), start, no_source(h, none, none, U), state, target)
        finish_row(options, place, z, z0, none, panels, tail, S, H, ragged, never, never, mask, mask_b)

    return sweep_both


def make_finish(cell, usual_cell, is_usual, units: int, begin=None):
    """Return the `finish` that ends a step of some rows and panels: the cell, the next h, the output.

    cell(options, z, k, stride, h, s, at, unit) is the new h of the vector of units at `unit` of one row: its pre-activations are at
    z[k], z[k + stride] ..., its old state at h[s]; s counts in rows of h, `at` in rows of the caller's order. `usual_cell` is the same
    for the options that `is_usual` tells of. `begin`, with the same arguments, is its first half: done for all before the second half,
    it leaves the CPU shorter chains, of which more run at once.
    """
    general, usual = _make_second(cell, units, routine), _make_second(usual_cell, units, inline)
    first_half = inline(_nothing) if begin is None else _make_first(begin)

    @routine
    def finish(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
        if is_usual(options):
            first_half(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)
            usual(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)
        else:
            general(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b)

    return finish


def _nothing(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
    """Stand for the first half of a cell that has none."""


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
    """Return the loop that ends with the next h and the output."""

    @compiled
    def second_half(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
        h, h_next, y, y_0, y_b, y_last, has_y, masked = place
        L = lanes(z)
        vectors = min(p * units, (H - first + L - 1) // L)
        position, k = m, np.intp(0)
        for _ in range(n * vectors):
            row = ragged[ORDER + position] if permuted else position
            unit = first + k * L
            s, at, y_at = position * S + unit, row * S + unit, y_0 + row * y_b + unit
            if holes and mask[row * mask_b] == 0:
                kept = load(h, s)
                store(h_next, s, kept)
                if has_y:
                    write_units(y, y_at, load(y_last, at) if masked == CARRY else splat(kept, 0.0), H - unit)
            else:
                z_at = z0 + (position - m) * p * 4 * L + k * (4 // units) * L
                value = one_nan(cell(options, z, z_at, stride, h, s, at, unit))
                store(h_next, s, value)
                if has_y:
                    write_units(y, y_at, value, H - unit)
                if masked == CARRY:
                    store(y_last, at, value)
            k += 1
            if k == vectors:
                k = np.intp(0)
                position += 1

    return second_half


def make_steps(
    rows, tail_rows, gates: int, recurrent_gates: int, units: int, read_options, sweep, sweep_both=None, last_sweep=None,
    reading: Reading = IN_PLACE,
):  # fmt: skip
    """Return the function that runs T steps.

    `rows` is the product of `sweep`, with so many vectors of W and of U in a panel that holds `units` vectors of units;
    `read_options(kind, narrow, args)` gives the cell's own arguments as a tuple. A step may have a second sweep (of four vectors of units a
    panel), whose source, weights and init begin that tuple.
    """
    panel_size, row_size, take, take_state, take_ahead, depth = reading

    @routine
    def project(
        x, x_t, x_b, W, b, ahead, a0, ragged, sorted_rows, step, steps, T, B, I, C, reverse, part, panels, tail, parts, copies, c0
    ):  # fmt: skip
        """ahead[a0 + s, position] = b + x[step + s] W for the positions and panels of one worker."""
        L = lanes(x)
        size = panel_size(I, gates * L)
        now, turn = (T - 1 - step, -1) if reverse else (step, 1)
        read = (np.intp(0), B) if sorted_rows else part
        x, x_t, x_b = take_ahead(x, x_t, x_b, now, turn, steps, read, B, I, parts, copies, c0)
        across = part[1] - part[0] >= ROWS and not sorted_rows
        inner = part[1] - part[0] if across else steps
        at_once = panels_at_once(min(inner, ROWS))
        outer = steps if across else part[1] - part[0]
        pace = pace_of(L, outer * inner)
        pieces = (I + depth - 1) // depth
        for piece in range(pieces):
            k, K = I * piece // pieces, I * (piece + 1) // pieces - I * piece // pieces
            done = np.intp(0)
            while done < panels[1] - panels[0]:
                panel, p = next_panels(panels, tail, False, done, at_once)
                done += p
                for o in range(outer):
                    if across:
                        first, last = part[0], part[1]
                        t = T - 1 - step - o if reverse else step + o
                        x0, x_stride, z0, z_stride = t * x_t, x_b, a0 + o * B * C, C
                    else:
                        position = part[0] + o
                        row, first, last = position, np.intp(0), steps
                        if sorted_rows:
                            row = ragged[ORDER + position]
                            first = max(first, first_of(ragged, B, row) - step)
                            last = min(last, last_of(ragged, B, row) - step)
                        t = T - 1 - step if reverse else step
                        x0, x_stride = row * x_b + t * x_t, -x_t if reverse else x_t
                        z0, z_stride = a0 + position * C, B * C
                    z = ahead, z0 + first * z_stride + panel * 4 * L, z_stride
                    init = z if k > 0 else (b, panel * 4 * L, np.intp(0))
                    narrow = is_tail(panels, tail, panel)
                    at = panel * size + k * (tail if narrow else gates) * L
                    following = at + size if done < panels[1] - panels[0] else at
                    source = x, x0 + first * x_stride + k, x_stride, K, W, at, size, following
                    if narrow:
                        tail_rows(last - first, tail, init, source, no_source(x, x0, x_stride, W), z)
                    else:
                        rows(last - first, p, (o * inner // ROWS, pace), init, source, no_source(x, x0, x_stride, W), z)

    @routine
    def steps(kind, narrow, team, args):
        (
            x, x_t, x_b, W, U, b, h, h_next, y, y_t, y_b, y_last, z, ahead, mask, mask_t, mask_b, ragged, sorted_x, spare,
            copies, copies_size, parts, T, B, I, H, S, run, reverse, has_y, masked, split, z_size, tail, looks_up, turn,
        ), _ = arguments(args, 0, ARGUMENTS, 0)  # fmt: skip
        options, numbers = read_options(kind, narrow, args), words(x)
        x, b, h, h_next, y, y_last, z, ahead, sorted_x, spare = pointers(
            kind, (x, b, h, h_next, y, y_last, z, ahead, sorted_x, spare)
        )
        W, U = pointers(narrow, (W, U))
        ragged, copies = words(ragged), byte_pointer(copies)
        worker, workers = words(team)[WORKER], words(team)[WORKERS]
        L, none = lanes(x), np.intp(0)
        C = S // units * 4 + L
        W_size, U_size = panel_size(I, gates * L), panel_size(H, recurrent_gates * L)
        sorted_rows = masked != UNMASKED and ragged[KIND] == NESTED
        permuted = sorted_rows and ragged[PERMUTED] != 0
        holes = masked != UNMASKED and ragged[KIND] == HOLES
        part, panels, last_panels = (none, B), (none, (H + units * L - 1) // (units * L)), (none, S // (4 * L))
        if split == SPLIT_ROWS:
            part = rows_of(ragged, sorted_rows, B, words(team))
        else:
            panels, last_panels = share(panels[1], worker, workers), share(last_panels[1], worker, workers)
            tail = tail if worker == workers - 1 else none
        z0, h_copies = words(team)[PLACE] * z_size, words(team)[PLACE] * copies_size
        x_copies = h_copies + B * row_size(H, 1)
        if permuted:
            if worker == 0:
                for position in range(B):
                    copy_vectors(h, ragged[ORDER + position] * S, spare, position * S, S)
                copy_vectors(spare, none, h, none, B * S)
            wait_for_all(team)
        final, before = h, B
        overlapped = run == OVERLAPPED
        kept = run  # steps that `ahead` holds
        if overlapped:
            run, kept = BOTH_ROWS, 2 * BOTH_ROWS
        began, taken = ticks(), none
        for step in range(T):
            t = T - 1 - step if reverse else step
            # beside the recurrence all is projected but the first steps, and the last ones that are fewer than a sweep takes
            if looks_up and step % run == 0:
                look_up(
                    numbers, x_t, x_b, b, ahead, ragged, sorted_rows, step, min(run, T - step), T, B, C, reverse, part, panels
                )  # fmt: skip
            elif run > 0 and step % run == 0 and (not overlapped or step == 0 or T - step < run):
                project(
                    x, x_t, x_b, W, b, ahead, step % kept * B * C, ragged, sorted_rows, step, min(run, T - step), T, B, I, C, reverse,
                    part, panels, tail, parts, copies, x_copies,
                )  # fmt: skip
            active = active_rows(ragged, B, step) if sorted_rows else B
            for position in range(max(part[0], active), part[1]):
                if split == SPLIT_PANELS and worker > 0:
                    break
                row = ragged[ORDER + position]
                if position < before:
                    copy_vectors(h, position * S, h_next, position * S, S)  # from now on it stays in both
                if has_y:
                    masked_output(y, t * y_t + row * y_b, y_last, row * S, H, masked)
            before = active
            count = min(active, part[1]) - part[0]
            taken += max(count, none)
            source, x0, x_stride = x, t * x_t, x_b
            if permuted and run == 0:
                source, x0, x_stride = sorted_x, none, I
                for position in range(part[0], part[0] + count):
                    row_at = t * x_t + ragged[ORDER + position] * x_b
                    for k in range(0, I, L):
                        write_units(sorted_x, position * I + k, load_part(x, row_at + k, min(L, I - k), 0.0), I - k)
            here = none if run > 0 else count
            taken_x, x0, x_stride = take(source, x0, x_stride, part[0], here, I, parts, copies, x_copies)
            taken_h, h0, h_stride = take_state(h, none, S, part[0], count, H, copies, h_copies)
            init, i0, i_stride, K = b, none, none, I
            if run > 0:
                init, i0, i_stride, K = ahead, step % kept * B * C, C, none
            now = part[0], part[0] + count
            place = h, h_next, y, t * y_t, y_b, y_last, has_y, masked
            row_mask = byte_pointer(mask + t * mask_t)
            later = step // max(run, 1) * run + run
            if sweep_both is not None and overlapped and later + run <= T:
                first = T - 1 - later if reverse else later
                sweep_both(
                    options, place, panels, tail, (turn + step) % 2, step % run, ahead, i0, (h, U, U_size),
                    (x, first * x_t, -x_t if reverse else x_t, I, W, W_size, b, ahead, later % kept * C, C),
                    z, z0, S, H, ragged, permuted, row_mask, mask_b,
                )  # fmt: skip
            else:
                sweep(
                    options, place, now, panels, tail, (turn + step) % 2, (init, i0, i_stride),
                    (taken_x, x0, x_stride, K, W, W_size), (taken_h, h0, h_stride, H, U, U_size),
                    z, z0, S, H, ragged, permuted, holes, row_mask, mask_b,
                )  # fmt: skip
            if last_sweep is not None:
                if split == SPLIT_PANELS:
                    wait_for_all(team)
                gated, weights, n_x = options[:3]
                taken_h, h0, h_stride = take_state(gated, none, S, part[0], count, H, copies, h_copies)
                last_sweep(
                    options, place, now, last_panels, none, (turn + step) % 2, (n_x, none, S),
                    (taken_h, none, none, none, weights, none), (taken_h, h0, h_stride, H, weights, panel_size(H, 4 * L)),
                    z, z0, S, H, ragged, permuted, holes, row_mask, mask_b,
                )  # fmt: skip
            if split == SPLIT_PANELS:
                wait_for_all(team)
            h, h_next = h_next, h
        if split == SPLIT_ROWS:
            note_speed(words(team), began, taken)
        if worker == 0:
            words(args)[TURN] = (turn + T) % 2
        if permuted:
            wait_for_all(team)
            if worker == 0:
                for position in range(B):
                    copy_vectors(h, position * S, spare, ragged[ORDER + position] * S, S)
                copy_vectors(spare, none, final, none, B * S)
        elif T % 2:
            if split == SPLIT_ROWS:
                copy_vectors(h, part[0] * S, final, part[0] * S, (part[1] - part[0]) * S)
            elif worker == 0:
                copy_vectors(h, none, final, none, B * S)

    return steps

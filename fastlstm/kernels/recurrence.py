"""The loop over time that every recurrent kernel runs around its own product and cell, for any number of rows; a single one without holes has its own (one_row.py).

A step computes z = b + x W + h U on the register tile, panel by panel, and hands every row and vector of units to the cell. What
the loop decides changes no bit: whether x W is projected ahead for several steps; in which order panels are taken
(backwards every other step, so that what the cache still holds is used first); which rows are still active; who of a team does
which rows, or which panels.

dims: T time, B batch, I input, H hidden, L lanes, S = length of a state row = H rounded up to whole panels' units, C = length of
a row of projections and of z. Steps count in processing order: where the direction is reverse, step s reads time T - 1 - s.
"""

import numpy as np

from fastlstm.kernels.cells import Cell, make_finish, make_first_finish
from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.layout import (
    ARGUMENTS,
    BATCH,
    FROM,
    MASKED,
    PLACE,
    RAGGED,
    SHARES,
    SPLIT_PANELS,
    SPLIT_ROWS,
    TO,
    TURN,
    UNMASKED,
    WORKER,
    WORKERS,
)
from fastlstm.kernels.one_row import make_row_steps
from fastlstm.kernels.outputs import write_outputs
from fastlstm.kernels.projections import copy_elements, copy_vectors, look_up, make_project, strides_ahead
from fastlstm.kernels.ragged import HOLES, KIND, NESTED, ORDER, PERMUTED, active_rows, first_of, last_of
from fastlstm.kernels.reading import Product
from fastlstm.kernels.simd import (
    arguments,
    byte_pointer,
    fetch_ahead,
    fetch_to_write,
    lanes,
    line_of,
    pointers,
    words,
)
from fastlstm.kernels.team import note_speed, row_share, share, ticks, wait_for_all
from fastlstm.kernels.tile import (
    ROWS,
    block_of,
    is_tail,
    next_group,
    next_panels,
    pace_of,
    panels_at_once,
    panels_together,
    pieces_of,
    tail_stride,
)


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


def make_sweep(product: Product, units: int, finish):
    """Return the function that computes one step of some rows and panels: the product of a tile, then its `finish`.

    A panel holds `units` vectors of units; `tail` is the width of the last of `panels` in vectors, 0 where it is a full one.
    """
    rows, tail_rows, depth = product.rows, product.tail_rows, product.reading.depth

    @routine
    def sweep(
        kind, narrow, args, place, part, panels, tail, backwards, init, x, h, z, z0, S, H, ragged, permuted, holes, mask, mask_b, following, outputs,
    ):  # fmt: skip
        init, i0, i_stride, i_panel = init
        x, x0, x_stride, K, W, W_size = x
        h, h0, h_stride, H_read, U, U_size = h
        L = lanes(z)
        count = part[1] - part[0]
        at_once = panels_at_once(count) if i_panel == 4 * L else 1
        pace, block = pace_of(L, count), block_of(count)
        pieces, together = pieces_of(K + H_read, depth), panels_together(count)
        done, many = np.intp(0), panels[1] - panels[0]
        while done < many:
            begin, end = next_group(panels, tail, backwards, done, together)
            group = end - begin
            narrow_panel = is_tail(panels, tail, begin)
            stride = tail_stride(tail, L, units) if narrow_panel else L
            fetch_rows(following, outputs, part, done, group, many, ragged, permuted)
            done += group
            for m in range(part[0], part[1], block):
                n, taken = min(part[1] - m, block), np.intp(0)
                while taken < group:
                    panel, p = next_panels((begin, end), 0, backwards, taken, at_once)
                    taken += p
                    after = panel
                    if taken < group or done < many:
                        after = panel - p if backwards else panel + p
                    start = init, i0 + m * i_stride + panel * i_panel, i_stride
                    source = x, x0 + m * x_stride, x_stride, K, W, panel * W_size, W_size, after * W_size
                    state = h, h0 + m * h_stride, h_stride, H_read, U, panel * U_size, U_size, after * U_size
                    target = z, z0 + (panel - begin) * 4 * L, group * 4 * L
                    if narrow_panel:
                        tail_rows(n, tail, start, source, state, target)
                    else:
                        rows(n, p, ((m - part[0]) // ROWS, pace), pieces, start, source, state, target)
                finish(
                    kind, narrow, args, place, z, z0, stride, m, n, begin * units * L, group, S, H, ragged, permuted, holes, mask, mask_b,
                )  # fmt: skip

    return sweep


@inline
def fetch_rows(following, outputs, part, done, some, many, ragged, permuted):
    """Ask for the rows of x that the next step reads, and of the outputs that this one writes, with `some` panels of `many` their share.

    A product would wait for them, and so would stores.
    """
    x, start, stride, I = following
    first, count = part[0], part[1] - part[0]
    for position in range(first + count * done // many, first + count * (done + some) // many):
        row = ragged[ORDER + position] if permuted else position
        for k in range(0, I, line_of(x)):
            fetch_ahead(x, start + row * stride + k)
    y, start, stride, width, last = outputs
    count = last - first
    for position in range(first + count * done // many, first + count * (done + some) // many):
        row = ragged[ORDER + position] if permuted else position
        for k in range(0, width, line_of(y)):
            fetch_to_write(y, start + row * stride + k)


def make_recurrence(product: Product, cell: Cell, between: Product | None = None):
    """Return the function that runs T steps.

    `product` is that of a step; a cell may need a second one `between` its halves, of four vectors of units a panel, whose source, weights and
    init begin its options.
    """
    project = make_project(product)
    row_steps = make_row_steps(product, cell, project, between)
    steps = _make_steps(product, cell, project, between)

    @inline
    def recurrence(kind, narrow, team, args):
        if is_single(args):
            row_steps(kind, narrow, team, args)
        else:
            steps(kind, narrow, team, args)

    return recurrence


@inline
def is_single(args):
    """Tell whether there is one row, whose valid steps have no hole between them."""
    (B,), _ = arguments(args, BATCH, 1, 0)
    (masked,), _ = arguments(args, MASKED, 1, 0)
    (ragged,), _ = arguments(args, RAGGED, 1, 0)
    return B == 1 and (masked == UNMASKED or words(ragged)[KIND] != HOLES)


def _make_steps(product: Product, cell: Cell, project, between: Product | None):
    """Return the function that runs T steps of any rows."""
    gates, recurrent_gates, (panel_size, row_size, take, take_state) = (
        product.gates,
        product.recurrent_gates,
        product.reading[:4],
    )
    units, cell_units, read_options = 1 if between is not None else cell.units, cell.units, cell.read_options
    if between is None:
        sweep, last_sweep = make_sweep(product, units, make_finish(cell)), None
    else:
        sweep = make_sweep(product, units, make_first_finish(cell))
        last_sweep = make_sweep(between, cell.units, make_finish(cell._replace(begin=None)))

    @routine
    def steps(kind, narrow, team, args):
        (
            x, x_t, x_b, W, U, b, h, h_next, y, y_t, y_b, y_last, z, ahead, mask, mask_t, mask_b, ragged, sorted_x, spare,
            copies, copies_size, parts, T, B, I, H, S, run, reverse, has_y, masked, split, z_size, tail, looks_up, turn,
        ), _ = arguments(args, 0, ARGUMENTS, 0)  # fmt: skip
        numbers = words(x)
        x, b, h, h_next, y, y_last, z, ahead, sorted_x, spare = pointers(
            kind, (x, b, h, h_next, y, y_last, z, ahead, sorted_x, spare)
        )
        W, U = pointers(narrow, (W, U))
        ragged, copies = words(ragged), byte_pointer(copies)
        worker, workers = words(team)[WORKER], words(team)[WORKERS]
        L, none = lanes(x), np.intp(0)
        C = S // units * 4 + L
        strides = strides_ahead(B, run, C, L)
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
        ends, ending = (panels, units) if last_sweep is None else (last_panels, cell_units)
        units_done = ends[0] * ending * L, min(H, ends[1] * ending * L)
        z0, h_copies = words(team)[PLACE] * z_size, words(team)[PLACE] * copies_size
        x_copies = h_copies + B * row_size(H, 1)
        if permuted:
            if worker == 0:
                for position in range(B):
                    copy_vectors(h, ragged[ORDER + position] * S, spare, position * S, S)
                copy_vectors(spare, none, h, none, B * S)
            wait_for_all(team)
        final, before = h, B
        began, taken = ticks(), none
        for step in range(T):
            t = T - 1 - step if reverse else step
            if looks_up and step % run == 0:
                look_up(
                    numbers, x_t, x_b, b, ahead, strides, ragged, sorted_rows, step, min(run, T - step), T, B, C, reverse, part, panels
                )  # fmt: skip
            elif run > 0 and step % run == 0:
                project(
                    x, x_t, x_b, W, b, ahead, strides, ragged, sorted_rows, step, min(run, T - step), T, B, I, reverse,
                    part, panels, tail, parts, copies, x_copies,
                )  # fmt: skip
            active = active_rows(ragged, B, step) if sorted_rows else B
            resting = (max(part[0], active), part[1]) if split == SPLIT_ROWS or worker == 0 else (none, none)
            for position in range(resting[0], min(before, resting[1])):
                copy_vectors(h, position * S, h_next, position * S, S)  # from now on it stays in both
            before = active
            count = max(min(active, part[1]) - part[0], none)
            taken += count
            source, x0, x_stride = x, t * x_t, x_b
            if permuted and run == 0:
                source, x0, x_stride = sorted_x, none, I
                for position in range(part[0], part[0] + count):
                    row_at = t * x_t + ragged[ORDER + position] * x_b
                    copy_elements(x, row_at, sorted_x, position * I, I)
            here = none if run > 0 else count
            onward = (t - 1 if reverse else t + 1) * x_t
            following = x, onward, x_b, (none if run > 0 or step + 1 == T else I)
            written, last = (units_done[1] - units_done[0] if has_y else none), max(part[0] + count, resting[1])
            outputs = y, t * y_t + units_done[0], y_b, written, last
            taken_x, x0, x_stride = take(source, x0, x_stride, part[0], here, I, parts, copies, x_copies)
            taken_h, h0, h_stride = take_state(h, none, S, part[0], count, H, copies, h_copies)
            init, i0, i_stride, i_panel, K = b, none, none, 4 * L, I
            if run > 0:
                init, i0, i_stride, i_panel, K = ahead, step % run * B * strides[0], strides[0], strides[1], none
            now = part[0], part[0] + count
            place = h, h_next
            row_mask = byte_pointer(mask + t * mask_t)
            sweep(
                kind, narrow, args, place, now, panels, tail, (turn + step) % 2, (init, i0, i_stride, i_panel),
                (taken_x, x0, x_stride, K, W, W_size), (taken_h, h0, h_stride, H, U, U_size),
                z, z0, S, H, ragged, permuted, holes, row_mask, mask_b, following, outputs,
            )  # fmt: skip
            if last_sweep is not None:
                if split == SPLIT_PANELS:
                    wait_for_all(team)
                gated, weights, n_x = read_options(kind, narrow, args)[:3]
                taken_h, h0, h_stride = take_state(gated, none, S, part[0], count, H, copies, h_copies)
                last_sweep(
                    kind, narrow, args, place, now, last_panels, none, (turn + step) % 2, (n_x, none, S, 4 * L),
                    (taken_h, none, none, none, weights, none), (taken_h, h0, h_stride, H, weights, panel_size(H, 4 * L)),
                    z, z0, S, H, ragged, permuted, holes, row_mask, mask_b, (x, none, none, none), (y, none, none, none, none),
                )  # fmt: skip
            write_outputs(
                h_next, now, units_done, S, y, t * y_t, y_b, has_y, y_last, masked, ragged, permuted, holes, row_mask, mask_b,
                resting, H,
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

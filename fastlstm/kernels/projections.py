"""b + x W of several steps, before the steps that need it: projected, or looked up in a table of projections.

dims as in kernels/recurrence.py.
"""

import numpy as np

from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.ragged import ORDER, first_of, last_of
from fastlstm.kernels.reading import Product
from fastlstm.kernels.simd import lanes, load, load_part, store, write_units
from fastlstm.kernels.tile import ROWS, is_tail, next_panels, no_source, pace_of, panels_at_once, pieces_of


@inline
def copy_vectors(source, at, target, to, n):
    """Copy n elements, whole vectors."""
    for s in range(0, n, lanes(source)):
        store(target, to + s, load(source, at + s))


@inline
def copy_elements(source, at, target, to, n):
    """Copy n elements."""
    whole = n // lanes(source) * lanes(source)
    copy_vectors(source, at, target, to, whole)
    if whole < n:
        write_units(target, to + whole, load_part(source, at + whole, n - whole, 0.0), n - whole)


@inline
def strides_ahead(B, run, C, L):
    """Return how far apart the rows and the panels of projections lie.

    Those of several rows and steps lie panel by panel: a tile writes and a step reads what lies together, where a row of all panels for
    each of them would be a page of its own. Those of a single step are the rows of a table.
    """
    return (C, 4 * L) if B == 1 or run == 1 else (4 * L, run * B * 4 * L)


@routine
def look_up(numbers, x_t, x_b, table, ahead, strides, ragged, sorted_rows, step, steps, T, B, C, reverse, part, panels):
    """ahead[s, position] = table[numbers[step + s]], which is b + x W, for the positions and panels of one worker."""
    width = 4 * lanes(table)
    a_row, a_panel = strides
    for s in range(steps):
        t = T - 1 - step - s if reverse else step + s
        for position in range(part[0], part[1]):
            row = position
            if sorted_rows:
                row = ragged[ORDER + position]
                if step + s < first_of(ragged, B, row) or step + s >= last_of(ragged, B, row):
                    continue
            at, to = numbers[t * x_t + row * x_b] * C, (s * B + position) * a_row
            for panel in range(panels[0], panels[1]):
                copy_vectors(table, at + panel * width, ahead, to + panel * a_panel, width)


def make_project(product: Product):
    """Return the function that projects the next steps."""
    rows, tail_rows, _, gates, _, reading = product
    panel_size, take_ahead, depth = reading.panel_size, reading.take_ahead, reading.depth

    @routine
    def project(
        x, x_t, x_b, W, b, ahead, strides, ragged, sorted_rows, step, steps, T, B, I, reverse, part, panels, tail, parts, copies, c0
    ):  # fmt: skip
        """ahead[s, position] = b + x[step + s] W for the positions and panels of one worker."""
        L = lanes(x)
        size = panel_size(I, gates * L)
        now, onward = (T - 1 - step, -1) if reverse else (step, 1)
        read = (np.intp(0), B) if sorted_rows else part
        x, x_t, x_b = take_ahead(x, x_t, x_b, now, onward, steps, read, B, I, parts, copies, c0)
        across = part[1] - part[0] > steps and not sorted_rows
        inner = part[1] - part[0] if across else steps
        a_row, a_panel = strides
        at_once = panels_at_once(min(inner, ROWS)) if a_panel == 4 * L else 1
        outer = steps if across else part[1] - part[0]
        pace, pieces = pace_of(L, outer * inner), pieces_of(I, depth)
        done = np.intp(0)
        while done < panels[1] - panels[0]:
            panel, p = next_panels(panels, tail, False, done, at_once)
            done += p
            after = panel + p if done < panels[1] - panels[0] else panel
            for o in range(outer):
                if across:
                    first, last = part[0], part[1]
                    t = T - 1 - step - o if reverse else step + o
                    x0, x_stride, z0, z_stride = t * x_t, x_b, o * B * a_row, a_row
                else:
                    position = part[0] + o
                    row, first, last = position, np.intp(0), steps
                    if sorted_rows:
                        row = ragged[ORDER + position]
                        first = max(first, first_of(ragged, B, row) - step)
                        last = min(last, last_of(ragged, B, row) - step)
                    t = T - 1 - step if reverse else step
                    x0, x_stride = row * x_b + t * x_t, -x_t if reverse else x_t
                    z0, z_stride = position * a_row, B * a_row
                init = b, panel * 4 * L, np.intp(0)
                z = ahead, z0 + first * z_stride + panel * a_panel, z_stride
                source = x, x0 + first * x_stride, x_stride, I, W, panel * size, size, after * size
                if is_tail(panels, tail, panel):
                    tail_rows(last - first, tail, init, source, no_source(x, x0, x_stride, W), z)
                else:
                    turn = o * inner // ROWS, pace
                    rows(last - first, p, turn, pieces, init, source, no_source(x, x0, x_stride, W), z)

    return project

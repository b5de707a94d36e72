"""b + x W of several steps, before the steps that need it: projected, or looked up in a table of projections.

dims as in kernels/recurrence.py.
"""

import numpy as np

from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.ragged import ORDER, first_of, last_of
from fastlstm.kernels.reading import Product
from fastlstm.kernels.simd import lanes, load, store
from fastlstm.kernels.tile import ROWS, is_tail, next_panels, no_source, pace_of, panels_at_once


@inline
def copy_vectors(source, at, target, to, n):
    """Copy n elements, whole vectors."""
    for s in range(0, n, lanes(source)):
        store(target, to + s, load(source, at + s))


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


def make_project(product: Product):
    """Return the function that projects the next steps."""
    rows, tail_rows, _, gates, _, reading = product
    panel_size, take_ahead, depth = reading.panel_size, reading.take_ahead, reading.depth

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

    return project

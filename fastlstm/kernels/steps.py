"""What the steps of every recurrence share when they are trained: the loops over time, forwards and back, and the products in them.

A worker of a team does rows of its own through all of time: rows do not depend on each other, so there is nothing to wait for.

dims: T time, B batch, H hidden, L lanes, S = H rounded up to whole vectors. What is kept of each step, and states, are (B, S) in the order of
steps: hs and cs (T + 1, B, S) begin with the state before the first step. Steps count in processing order: step s is at time t.
"""

import numpy as np

from fastlstm.kernels.activations import activate, from_output, slope
from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.simd import (
    absolute,
    clamp,
    fetch_ahead,
    lanes,
    load,
    load_part,
    splat,
    store,
    where_less,
    write_units,
)
from fastlstm.kernels.target import BLOCK
from fastlstm.kernels.tile import (
    ROWS,
    dense_rows,
    dense_tail_rows,
    is_tail,
    next_panels,
    no_source,
    pace_of,
    panels_at_once,
)

UNMASKED, ZERO, CARRY = (
    -1,
    0,
    1,
)  # the output of a masked step: none are masked, zeros, or that of the step processed before it


@inline
def load_units(x, at, count):
    """Load one vector, of which `count` lanes exist; 0 in the others."""
    return load(x, at) if count >= lanes(x) else load_part(x, at, count, 0.0)


@inline
def fetch_gates(gates, at, H, count):
    """Ask for one vector of each of `count` gates of the row to come: rows of a step may lie where no hardware expects them."""
    for gate in range(count):
        fetch_ahead(gates, at + gate * H)


@inline
def is_masked(about, t, row):
    """Tell whether a row skips the step at time t; about: mask, its strides of time and rows, masked."""
    mask, mask_t, mask_b, masked = about
    return masked != UNMASKED and mask[t * mask_t + row * mask_b] == 0


def make_walk(rows, tail_rows, gates: int, cells):
    """Return the loop over steps: h U of some rows, panel by panel, each followed by its `cells`.

    cells(tape, about, s, t, z, z0, z_b, stride, m, n, unit, B, H, S) ends step s for the rows m to m + n of the vector of units at `unit`, whose products
    with the gates' columns of U (and b before them) are at z0, rows z_b and gates `stride` apart.
    """

    @routine
    def walk(tape, about, part, hs, U, b, z, z0, T, B, H, S, reverse, tail):
        L, none = lanes(z), np.intp(0)
        panels, size, pace = (none, (H + L - 1) // L), H * gates * L, pace_of(L, part[1] - part[0])
        for s in range(T):
            t = T - 1 - s if reverse else s
            for place in range(panels[1]):
                # backwards every other step, so that what the cache still holds of U is used first
                panel, onward = (panels[1] - 1 - place, -1) if s % 2 else (place, 1)
                following = max(0, min(panel + onward, panels[1] - 1))
                for m in range(part[0], part[1], BLOCK):
                    n = min(part[1] - m, BLOCK)
                    init = b, panel * 4 * L, none
                    source = hs, (s * B + m) * S, S, H, U, panel * size, size, following * size
                    stride = L
                    if is_tail(panels, tail, panel):
                        tail_rows(n, tail, init, no_source(hs, none, none, U), source, (z, z0, 4 * L))
                        stride = tail * L // 4
                    else:
                        turn = (m - part[0]) // ROWS, pace
                        rows(n, 1, turn, 1, init, no_source(hs, none, none, U), source, (z, z0, 4 * L))
                    cells(tape, about, s, t, z, z0, 4 * L, stride, m, n, panel * L, B, H, S)

    return walk


@inline
def write_step(place, about, s, t, row, unit, h, B, H, S):
    """Write h' of one vector of units where the next step reads it, and the output. place: hs, y, its strides, the last output, has_y."""
    hs, y, y_t, y_b, y_last, has_y = place
    at = row * S + unit
    store(hs, (s + 1) * B * S + at, h)
    if about[3] == CARRY:
        store(y_last, at, h)
    if has_y:
        write_units(y, t * y_t + row * y_b + unit, h, H - unit)


@inline
def skip_step(place, about, s, t, row, unit, B, H, S):
    """The same for a row that skips the step: h stays as it is."""
    hs, y, y_t, y_b, y_last, has_y = place
    at = row * S + unit
    h = load(hs, s * B * S + at)
    store(hs, (s + 1) * B * S + at, h)
    if has_y:
        value = load(y_last, at) if about[3] == CARRY else splat(h, 0.0)
        write_units(y, t * y_t + row * y_b + unit, value, H - unit)


@inline
def gradient_of_output(place, about, t, row, unit, dh, H, S):
    """Return the gradient of h' of one vector of units: dh, and what comes from outputs. place: dy, its strides, gradient of the last output, has_dy."""
    dy, y_t, y_b, dy_last, has_dy = place
    at = row * S + unit
    if about[3] == CARRY:
        dh = dh + load(dy_last, at)
        store(dy_last, at, splat(dh, 0.0))
    return dh + load_units(dy, t * y_t + row * y_b + unit, H - unit) if has_dy else dh


@inline
def pass_output(place, about, t, row, unit, H, S):
    """At a masked step the gradient of its output belongs to the step whose output it repeats."""
    dy, y_t, y_b, dy_last, has_dy = place
    at = row * S + unit
    if about[3] == CARRY and has_dy:
        store(dy_last, at, load(dy_last, at) + load_units(dy, t * y_t + row * y_b + unit, H - unit))


@inline
def activated(x, which, clipped, bound):
    """An activation, its input bounded first where the model says so. which: code, alpha, beta."""
    code, alpha, beta = which
    return activate(code, alpha, beta, clamp(x, -bound, bound) if clipped else x)


@inline
def activation_slope(x, y, which, clipped, bound):
    """Its derivative at x, where it is y; 0 where the bound holds."""
    code, alpha, beta = which
    inside = clamp(x, -bound, bound) if clipped else x
    found = slope(code, alpha, beta, y if from_output(code) else inside)
    if clipped:
        zero = splat(x, 0.0)
        found = where_less(absolute(x), splat(x, bound), found, zero)
    return found


@routine
def zero_rows(y, y_stride, part):
    """Zero the rows of one worker, of whole vectors."""
    zero = splat(load(y, 0), 0.0)
    for k in range(part[0] * y_stride, part[1] * y_stride, lanes(y)):
        store(y, k, zero)


@routine
def add_product_at(x, x0, x_stride, K, weights, size, target, y_stride, part, N, tail, step):
    """y[m] += x[m] W for the rows of one worker; W (K, N) as panels of 4 vectors of columns, y of whole vectors. weights, target: array, start.

    Panels are taken backwards every other step, so that what the cache still holds of W is used first.
    """
    backwards = step % 2 == 1
    (W, W0), (y, y0) = weights, target
    L, none = lanes(y), np.intp(0)
    panels = none, (N + 4 * L - 1) // (4 * L)
    count, done = part[1] - part[0], none
    at_once = panels_at_once(count)
    while done < panels[1] and count > 0:
        panel, p = next_panels(panels, tail, backwards, done, at_once)
        done += p
        following = max(panel - 1, none) if backwards else min(panel + p, panels[1] - 1)
        at = y, y0 + part[0] * y_stride + panel * 4 * L, y_stride
        source = x, x0 + part[0] * x_stride, x_stride, K, W, W0 + panel * size, size, W0 + following * size
        if is_tail(panels, tail, panel):
            dense_tail_rows(count, tail, at, source, no_source(x, x0, x_stride, W), at)
        else:
            dense_rows(count, p, (none, pace_of(L, count)), 1, at, source, no_source(x, x0, x_stride, W), at)


@inline
def add_product(x, x0, x_stride, K, W, size, y, y_stride, part, N, tail, step):
    """The same from the starts of both arrays."""
    add_product_at(x, x0, x_stride, K, (W, np.intp(0)), size, (y, np.intp(0)), y_stride, part, N, tail, step)

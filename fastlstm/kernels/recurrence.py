"""What the recurrent kernels share: projecting a run of steps ahead of time, and the bookkeeping of a masked step.

dims: T time, B batch, I input, H hidden, L lanes, S = length of a state row = H rounded up to whole vectors.
"""

import numpy as np

from fastlstm.kernels.jit import inline
from fastlstm.kernels.simd import lanes, load, splat, store, store_part
from fastlstm.kernels.tile import ROWS

# The output of a masked step: none are masked, zeros (ONNX), or the output of the step processed before (Keras).
UNMASKED, ZERO, CARRY = -1, 0, 1


@inline
def write_units(y, at, value, count):
    """Write one vector of outputs, of which `count` lanes exist."""
    if count >= lanes(y):
        store(y, at, value)
    else:
        store_part(y, at, value, count)


@inline
def skip_units(h, h_next, s, y, at, y_last, count, has_y, masked):
    """A masked step of one row and one vector of units: the state stays, the output is zero or the last one."""
    kept = load(h, s)
    store(h_next, s, kept)
    if has_y:
        write_units(y, at, load(y_last, s) if masked == CARRY else splat(kept, 0.0), count)


@inline
def put_units(value, h_next, s, y, at, y_last, count, has_y, masked):
    """A valid step of one row and one vector of units."""
    store(h_next, s, value)
    if has_y:
        write_units(y, at, value, count)
    if masked == CARRY:
        store(y_last, s, value)


def make_project(one_source):
    """Return the function that computes ahead[step, row] = b + x[t + step, row] W, several steps to a tile."""

    @inline
    def project(x, x_t, x_b, t, steps, B, I, W, panels, panel_size, b, ahead):
        L, none = lanes(x), np.intp(0)
        for panel in range(panels):
            for row in range(B):
                step = 0
                while step < steps:
                    n = min(ROWS, steps - step)
                    x0 = row * x_b + (t + step) * x_t if x_t > 0 else row * x_b + (t - step) * -x_t
                    at = (step * B + row) * panels * 4 * L + panel * 4 * L
                    z_stride = B * panels * 4 * L
                    one_source(n, b, panel * 4 * L, none, x, x0, x_t, I, W, panel * panel_size, ahead, at, z_stride)
                    step += n

    return project


@inline
def copy_states(source, target, n):
    """Copy n elements of state, whole vectors."""
    for s in range(0, n, lanes(source)):
        store(target, s, load(source, s))

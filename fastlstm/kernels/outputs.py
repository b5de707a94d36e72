"""The outputs of one step, written row after row when all panels are done: 32 bytes of each row in turn would make stores wait.

dims as in kernels/recurrence.py.
"""

from fastlstm.kernels.jit import routine
from fastlstm.kernels.layout import CARRY
from fastlstm.kernels.ragged import ORDER
from fastlstm.kernels.simd import lanes, load, splat, store, write_units


@routine
def masked_output(y, at, y_last, last_at, units, masked):
    """Write the output of a masked step of one row: zeros, or the last output."""
    L = lanes(y)
    for unit in range(units[0], units[1], L):
        last = load(y_last, last_at + unit) if masked == CARRY else splat(load(y_last, 0), 0.0)
        write_units(y, at + unit, last, units[1] - unit)


@routine
def masked_outputs(y, y_t, y_last, first, last, T, reverse, width, masked):
    """Write the outputs of the masked steps [first, last) of a single row of that width."""
    for step in range(first, last):
        t = T - 1 - step if reverse else step
        masked_output(y, t * y_t, y_last, 0, (0, width), masked)


@routine
def write_outputs(
    h, part, units, S, y, y0, y_b, has_y, y_last, masked, ragged, permuted, holes, mask, mask_b, resting, width
):
    """Write the outputs of one step of some rows and units, and those of the `resting` rows, which are past their end, of that width."""
    L = lanes(y)
    for position in range(part[0], part[1]):
        row = ragged[ORDER + position] if permuted else position
        if holes and mask[row * mask_b] == 0:
            if has_y:
                masked_output(y, y0 + row * y_b, y_last, row * S, units, masked)
            continue
        for unit in range(units[0], units[1], L):
            value = load(h, position * S + unit)
            if has_y:
                write_units(y, y0 + row * y_b + unit, value, units[1] - unit)
            if masked == CARRY:
                store(y_last, row * S + unit, value)
    if has_y:
        for position in range(resting[0], resting[1]):
            row = ragged[ORDER + position]
            masked_output(y, y0 + row * y_b, y_last, row * S, (0, width), masked)

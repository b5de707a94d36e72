"""The steps of a simple recurrent network and their adjoint, for training. Z = x W + b is projected ahead for all steps.

    h' = tau(Z + h U)               dh += dy        dZ = dh tau'(Z + h U)        dh = dZ U'

What goes into tau takes the place of Z, dZ that of it. dims as in steps.py; Z (T, B, H). A masked step keeps h. With recurrent dropout h meets U as in dropped.py.
"""

from fastlstm.kernels.dropped import add_back, add_kept, drop_of
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.simd import arguments, byte_pointer, lanes, load, pointers, splat, store, words, write_units
from fastlstm.kernels.steps import (
    activated,
    activation_slope,
    add_product,
    gradient_of_output,
    is_masked,
    load_units,
    pass_output,
    skip_step,
    write_step,
    zero_rows,
)
from fastlstm.kernels.team import note_speed, row_share, ticks


@inline
def options_of(args, start):
    """Return the activation (code, alpha, beta), whether its input is bounded, and the bound."""
    (code, clipped), (alpha, beta, bound) = arguments(args, start, 2, 3)
    return (code, alpha, beta), clipped, bound


@routine
def cells(options, place, gates, g_t, g_b, sums, width, about, s, t, row, B, H, S):
    for unit in range(0, H, lanes(gates)):
        count, g_at = H - unit, t * g_t + row * g_b + unit
        z = load_units(gates, g_at, count) + load_units(sums, row * width + unit, count)
        write_units(gates, g_at, z, count)
        write_step(place, about, s, t, row, unit, activated(z, *options), B, H, S)


@kernel
def rnn_steps_forward(kind, narrow, team, args):
    """Run T steps. Arguments: Z, its strides of time and rows, U as panels of columns, its tail, sums (B, width), width, y, its strides, hs, last output, mask and
    its strides, masked, T, B, H, S, reverse, has_y, then those of `drop_of` and `options_of`."""
    (
        gates, g_t, g_b, U, tail, sums, width, y, y_t, y_b, hs, y_last, mask, mask_t, mask_b, masked, T, B, H, S, reverse, has_y,
    ), _ = arguments(args, 0, 22, 0)  # fmt: skip
    gates, U, sums, y, hs, y_last = pointers(kind, (gates, U, sums, y, hs, y_last))
    team, L = words(team), lanes(gates)
    place = hs, y, y_t, y_b, y_last, has_y
    about = byte_pointer(mask), mask_t, mask_b, masked
    part, drop, options = row_share(team, B), drop_of(kind, args, 22), options_of(args, 31)
    began = ticks()
    for s in range(T):
        t = T - 1 - s if reverse else s
        zero_rows(sums, width, part)
        if drop[0]:
            add_kept(hs, s * B * S, drop, 0, (sums, H - H), width, part, B, H, S)
        else:
            add_product(hs, s * B * S, S, H, U, H * 4 * L, sums, width, part, H, tail, s)
        for row in range(part[0], part[1]):
            if is_masked(about, t, row):
                for unit in range(0, H, L):
                    skip_step(place, about, s, t, row, unit, B, H, S)
            else:
                cells(options, place, gates, g_t, g_b, sums, width, about, s, t, row, B, H, S)
    note_speed(team, began, (part[1] - part[0]) * T)


@routine
def cells_back(options, place, gates, g_t, g_b, dh, h_b, about, s, t, row, B, H, S):
    skipped = is_masked(about, t, row)
    for unit in range(0, H, lanes(gates)):
        count, h_at, g_at = H - unit, row * h_b + unit, t * g_t + row * g_b + unit
        d = load(dh, h_at)
        if skipped:
            pass_output(place, about, t, row, unit, H, S)
            write_units(gates, g_at, splat(d, 0.0), count)
            continue
        z = load_units(gates, g_at, count)
        d = gradient_of_output(place, about, t, row, unit, d, H, S)
        write_units(gates, g_at, d * activation_slope(z, activated(z, *options), *options), count)
        store(dh, h_at, splat(d, 0.0))


@kernel
def rnn_steps_adjoint(kind, narrow, team, args):
    """Run the adjoint of T steps. Arguments: what went into tau and its strides, U' as panels of columns, its tail, dy, its strides, gradient of the last output, dh and its row
    stride, mask and its strides, masked, T, B, H, S, reverse, has_dy, then those of `drop_of` and `options_of`."""
    (
        gates, g_t, g_b, U, tail, dy, y_t, y_b, dy_last, dh, h_b, mask, mask_t, mask_b, masked, T, B, H, S, reverse, has_dy,
    ), _ = arguments(args, 0, 21, 0)  # fmt: skip
    gates, U, dy, dy_last, dh = pointers(kind, (gates, U, dy, dy_last, dh))
    team, L = words(team), lanes(gates)
    place = dy, y_t, y_b, dy_last, has_dy
    about = byte_pointer(mask), mask_t, mask_b, masked
    part, drop, options = row_share(team, B), drop_of(kind, args, 21), options_of(args, 30)
    began = ticks()
    for step in range(T):
        s = T - 1 - step
        t = T - 1 - s if reverse else s
        for row in range(part[0], part[1]):
            cells_back(options, place, gates, g_t, g_b, dh, h_b, about, s, t, row, B, H, S)
        if drop[0]:
            add_back(gates, t * g_t, g_b, drop, 0, dh, h_b, part, B, H)
        else:
            add_product(gates, t * g_t, g_b, H, U, H * 4 * L, dh, h_b, part, H, tail, s)
    note_speed(team, began, (part[1] - part[0]) * T)

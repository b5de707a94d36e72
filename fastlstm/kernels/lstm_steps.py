"""The steps of an LSTM and their adjoint, for training. z = x W + b is projected ahead for all steps.

    i, f, o = sigma(z_i + h U_i), sigma(z_f + h U_f), sigma(z_o + h U_o)       g = tau(z_g + h U_g)
    c' = f c + i g                                                             h' = o tau(c')

The gates take the place of z; with other options than the usual ones (any activations, a bound on what goes into them, peepholes, f = 1 - i), what goes into
the gates does. The adjoint walks back; dh and dc are the gradients of h' and c', and dz takes the place of the gates:

    dh += dy        do = dh tau(c')        dc += dh o (1 - tau(c')^2)          di = dc g        df = dc c        dg = dc i
    dz = di i (1 - i), df f (1 - f), dg (1 - g^2), do o (1 - o)                dc = dc f        dh = dz U'

dims as in steps.py; z (T, B, 4H) gates i f g o side by side and y (T, B, H) in any axis order; U (H, 4H) as panels of one vector of
units by its four gates, U' (4H, H) as panels of four vectors of columns. A masked step keeps h and c. With recurrent dropout h meets U as in dropped.py.
"""

from fastlstm.kernels.dropped import add_back, drop_of, make_dropped_walk
from fastlstm.kernels.exponential import SIGMOID, TANH, exp_gates
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import PLACE
from fastlstm.kernels.simd import arguments, byte_pointer, lanes, load, pointers, splat, store, words, write_units
from fastlstm.kernels.steps import (
    activated,
    activation_slope,
    add_product,
    fetch_gates,
    gradient_of_output,
    is_masked,
    load_units,
    make_walk,
    pass_output,
    skip_step,
    write_step,
)
from fastlstm.kernels.team import note_speed, row_share, ticks
from fastlstm.kernels.tile import dense_rows, dense_tail_rows

exp_ifg, exp_oc, exp_c = exp_gates(SIGMOID, SIGMOID, TANH), exp_gates(SIGMOID, TANH), exp_gates(TANH)


@routine
def cell_general(options, gates, g_at, i, f, g, o, cs, at, B, H, S, unit, count):
    """h' of one vector of units with any options: what goes into the gates takes the place of z, c' is stored."""
    (
        _,
        P,
        (code_f, code_g, code_h),
        (clipped, coupled, peepholes),
        (alpha_f, beta_f, alpha_g, beta_g, alpha_h, beta_h, bound),
    ) = options
    c = load(cs, at)
    if peepholes:
        i = i + load(P, unit) * c
        f = f + load(P, unit + S) * c
    write_units(gates, g_at, i, count)
    write_units(gates, g_at + H, f, count)
    write_units(gates, g_at + 2 * H, g, count)
    i = activated(i, (code_f, alpha_f, beta_f), clipped, bound)
    f = 1.0 - i if coupled else activated(f, (code_f, alpha_f, beta_f), clipped, bound)
    c = f * c + i * activated(g, (code_g, alpha_g, beta_g), clipped, bound)
    store(cs, at + B * S, c)
    if peepholes:
        o = o + load(P, unit + 2 * S) * c
    write_units(gates, g_at + 3 * H, o, count)
    return activated(o, (code_f, alpha_f, beta_f), clipped, bound) * activated(
        c, (code_h, alpha_h, beta_h), clipped, bound
    )


@inline
def options_of(kind, args, start):
    """Return what the cell computes: plain, P (3, S) of i f o, codes of f g h, (clipped, coupled, peepholes), their numbers and the bound."""
    (plain, P, code_f, code_g, code_h, clipped, coupled, peepholes), numbers = arguments(args, start, 8, 7)
    (P,) = pointers(kind, (P,))
    return plain, P, (code_f, code_g, code_h), (clipped, coupled, peepholes), numbers


@inline
def cells(tape, about, s, t, z, z0, z_b, stride, m, n, unit, B, H, S):
    place, gates, g_t, g_b, cs, options = tape
    count = H - unit
    for row in range(m, m + n):
        at = (s * B + row) * S + unit
        if is_masked(about, t, row):
            store(cs, at + B * S, load(cs, at))
            skip_step(place, about, s, t, row, unit, B, H, S)
            continue
        k, g_at = z0 + (row - m) * z_b, t * g_t + row * g_b + unit
        i = load(z, k) + load_units(gates, g_at, count)
        f = load(z, k + stride) + load_units(gates, g_at + H, count)
        g = load(z, k + 2 * stride) + load_units(gates, g_at + 2 * H, count)
        o = load(z, k + 3 * stride) + load_units(gates, g_at + 3 * H, count)
        if options[0] == 0:
            h = cell_general(options, gates, g_at, i, f, g, o, cs, at, B, H, S, unit, count)
            write_step(place, about, s, t, row, unit, h, B, H, S)
            continue
        e_i, e_f, e_g = exp_ifg((i, f, g))
        i, f, g = 1.0 / (1.0 + e_i), 1.0 / (1.0 + e_f), (1.0 - e_g) / (1.0 + e_g)
        c = f * load(cs, at) + i * g
        e_o, e_c = exp_oc((o, c))
        o = 1.0 / (1.0 + e_o)
        write_units(gates, g_at, i, count)
        write_units(gates, g_at + H, f, count)
        write_units(gates, g_at + 2 * H, g, count)
        write_units(gates, g_at + 3 * H, o, count)
        store(cs, at + B * S, c)
        write_step(place, about, s, t, row, unit, o * ((1.0 - e_c) / (1.0 + e_c)), B, H, S)


walk = make_walk(dense_rows, dense_tail_rows, 4, cells)
dropped_walk = make_dropped_walk((0, 1, 2, 3), cells)


@kernel
def lstm_steps_forward(kind, narrow, team, args):
    """Run T steps. Arguments: z, its strides of time and rows, U, b, y, its strides, hs, cs, last output, workspace and its size for a worker,
    mask and its strides, masked, T, B, H, S, reverse, has_y, tail, then those of `drop_of` and `options_of`."""
    (
        gates, g_t, g_b, U, b, y, y_t, y_b, hs, cs, y_last, z, z_size, mask, mask_t, mask_b, masked, T, B, H, S, reverse, has_y, tail,
    ), _ = arguments(args, 0, 24, 0)  # fmt: skip
    gates, U, b, y, hs, cs, y_last, z = pointers(kind, (gates, U, b, y, hs, cs, y_last, z))
    team = words(team)
    tape = (hs, y, y_t, y_b, y_last, has_y), gates, g_t, g_b, cs, options_of(kind, args, 33)
    about = byte_pointer(mask), mask_t, mask_b, masked
    part = row_share(team, B)
    began = ticks()
    drop = drop_of(kind, args, 24)
    if drop[0]:
        dropped_walk(tape, about, part, hs, drop, T, B, H, S, reverse)
    else:
        walk(tape, about, part, hs, U, b, z, team[PLACE] * z_size, T, B, H, S, reverse, tail)
    note_speed(team, began, (part[1] - part[0]) * T)


@routine
def back_general(options, gates, g_at, cs, dc, d, s, row, unit, B, H, S):
    """dz of one vector of units with any options, and dc of the step before; d is the gradient of h'."""
    (
        _,
        P,
        (code_f, code_g, code_h),
        (clipped, coupled, peepholes),
        (alpha_f, beta_f, alpha_g, beta_g, alpha_h, beta_h, bound),
    ) = options
    count, at = H - unit, row * S + unit
    f_of, g_of, h_of = (code_f, alpha_f, beta_f), (code_g, alpha_g, beta_g), (code_h, alpha_h, beta_h)
    z_i, z_f = load_units(gates, g_at, count), load_units(gates, g_at + H, count)
    z_g, z_o = load_units(gates, g_at + 2 * H, count), load_units(gates, g_at + 3 * H, count)
    c, c_before = load(cs, ((s + 1) * B + row) * S + unit), load(cs, (s * B + row) * S + unit)
    i, g, o = (
        activated(z_i, f_of, clipped, bound), activated(z_g, g_of, clipped, bound), activated(z_o, f_of, clipped, bound),
    )  # fmt: skip
    f = 1.0 - i if coupled else activated(z_f, f_of, clipped, bound)
    squashed = activated(c, h_of, clipped, bound)
    d_o = d * squashed * activation_slope(z_o, o, f_of, clipped, bound)
    d_c = load(dc, at) + d * o * activation_slope(c, squashed, h_of, clipped, bound)
    if peepholes:
        d_c = d_c + d_o * load(P, unit + 2 * S)
    d_i, d_f = d_c * g, d_c * c_before
    if coupled:
        d_i = d_i - d_f
        d_f = splat(d, 0.0)
    d_i = d_i * activation_slope(z_i, i, f_of, clipped, bound)
    if not coupled:
        d_f = d_f * activation_slope(z_f, f, f_of, clipped, bound)
    before = d_c * f
    if peepholes:
        before = before + d_i * load(P, unit) + d_f * load(P, unit + S)
    write_units(gates, g_at, d_i, count)
    write_units(gates, g_at + H, d_f, count)
    write_units(gates, g_at + 2 * H, d_c * i * activation_slope(z_g, g, g_of, clipped, bound), count)
    write_units(gates, g_at + 3 * H, d_o, count)
    store(dc, at, before)


@routine
def cells_back(options, gates, cs, dh, dc, place, about, s, t, row, g_t, g_b, h_b, B, H, S):
    """dz of one row and step in place of the gates; dc of the step before; dh is what goes past the product: nothing, or all of it."""
    L = lanes(dh)
    skipped = is_masked(about, t, row)
    for unit in range(0, H, L):
        count, at, h_at, g_at = H - unit, row * S + unit, row * h_b + unit, t * g_t + row * g_b + unit
        d = load(dh, h_at)
        zero = splat(d, 0.0)
        if skipped:
            pass_output(place, about, t, row, unit, H, S)
            for gate in range(4):
                write_units(gates, g_at + gate * H, zero, count)
            continue
        if options[0] == 0:
            d = gradient_of_output(place, about, t, row, unit, d, H, S)
            back_general(options, gates, g_at, cs, dc, d, s, row, unit, B, H, S)
            store(dh, h_at, zero)
            continue
        fetch_gates(gates, g_at + g_b, H, 4)
        i, f = load_units(gates, g_at, count), load_units(gates, g_at + H, count)
        g, o = load_units(gates, g_at + 2 * H, count), load_units(gates, g_at + 3 * H, count)
        c, c_before = load(cs, ((s + 1) * B + row) * S + unit), load(cs, (s * B + row) * S + unit)
        (e_c,) = exp_c((c,))
        squashed = (1.0 - e_c) / (1.0 + e_c)
        d = gradient_of_output(place, about, t, row, unit, d, H, S)
        d_c = load(dc, at) + d * o * (1.0 - squashed * squashed)
        write_units(gates, g_at, d_c * g * i * (1.0 - i), count)
        write_units(gates, g_at + H, d_c * c_before * f * (1.0 - f), count)
        write_units(gates, g_at + 2 * H, d_c * i * (1.0 - g * g), count)
        write_units(gates, g_at + 3 * H, d * squashed * o * (1.0 - o), count)
        store(dc, at, d_c * f)
        store(dh, h_at, zero)


@kernel
def lstm_steps_adjoint(kind, narrow, team, args):
    """Run the adjoint of T steps. Arguments: the gates and their strides, U' and its tail, dy, its strides, cs, gradient of the last output, dh,
    its row stride (of whole panels), dc, mask and its strides, masked, T, B, H, S, reverse, has_dy, then those of `drop_of` and `options_of`. dh and dc hold the gradients of the final states and
    end as those of the first."""
    (
        gates, g_t, g_b, U, tail, dy, y_t, y_b, cs, dy_last, dh, h_b, dc, mask, mask_t, mask_b, masked, T, B, H, S, reverse, has_dy,
    ), _ = arguments(args, 0, 23, 0)  # fmt: skip
    gates, U, dy, cs, dy_last, dh, dc = pointers(kind, (gates, U, dy, cs, dy_last, dh, dc))
    team = words(team)
    place = dy, y_t, y_b, dy_last, has_dy
    about = byte_pointer(mask), mask_t, mask_b, masked
    part = row_share(team, B)
    began = ticks()
    drop, options = drop_of(kind, args, 23), options_of(kind, args, 32)
    for step in range(T):
        s = T - 1 - step
        t = T - 1 - s if reverse else s
        for row in range(part[0], part[1]):
            cells_back(options, gates, cs, dh, dc, place, about, s, t, row, g_t, g_b, h_b, B, H, S)
        if drop[0]:
            for gate in range(4):
                add_back(gates, t * g_t + gate * H, g_b, drop, gate, dh, h_b, part, B, H)
        else:
            add_product(gates, t * g_t, g_b, 4 * H, U, 16 * lanes(dh) * H, dh, h_b, part, H, tail, s)
    note_speed(team, began, (part[1] - part[0]) * T)

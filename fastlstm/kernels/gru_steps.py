"""The steps of a GRU and their adjoint, for training. Z = x W + b is projected ahead for all steps.

    z, r = sigma(Z_z + h U_z), sigma(Z_r + h U_r)      h' = z h + (1 - z) n
    reset after:  q = h U_n + bn        n = tau(Z_n + r q)
    reset before: q = r h               n = tau(Z_n + q U_n)

z, r and n take the place of Z, and q is kept; with other activations or a bound on what goes into them, what goes into the gates takes the place of Z. The adjoint walks back; dh is the gradient of h', and dZ takes the place of the gates:

    dh += dy         dZ_n = dh (1 - z) (1 - n^2)         dZ_z = dh (h - n) z (1 - z)        dh = dh z + (dZ_z, dZ_r) U_zr' + ...
    reset after:  dq = dZ_n r             dZ_r = dZ_n q r (1 - r)        ... + dq U_n'
    reset before: dq = dZ_n U_n'          dZ_r = dq h r (1 - r)          ... + dq r

dims as in steps.py; Z (T, B, 3H) gates z r n side by side, q (T, B, S). dq takes the place of q where the reset comes after. A masked step keeps h.
With recurrent dropout h meets U as in dropped.py, and before a reset q = r (h * m_n).
"""

from fastlstm.kernels.dropped import add_back, add_kept, drop_of, make_dropped_walk
from fastlstm.kernels.exponential import SIGMOID, TANH, exp_gates
from fastlstm.kernels.gru import after_dense
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
    zero_rows,
)
from fastlstm.kernels.team import note_speed, row_share, ticks

exp_zr, exp_n = exp_gates(SIGMOID, SIGMOID), exp_gates(TANH)


@inline
def options_of(args, start):
    """Return what the cell computes: plain, codes of f g, clipped; numbers: alpha and beta of f g, bound."""
    (plain, code_f, code_g, clipped), (alpha_f, beta_f, alpha_g, beta_g, bound) = arguments(args, start, 4, 5)
    return plain, (code_f, alpha_f, beta_f), (code_g, alpha_g, beta_g), clipped, bound


@inline
def gate_of(options):
    return options[1], options[3], options[4]


@inline
def candidate_of(options):
    return options[2], options[3], options[4]


@routine
def ended(options, gates, g_at, update, candidate, h, H, count):
    """h' of what goes into z and n, any activations; the latter takes its place among the gates."""
    write_units(gates, g_at + 2 * H, candidate, count)
    z = activated(update, *gate_of(options))
    return z * h + (1.0 - z) * activated(candidate, *candidate_of(options))


@inline
def after_cells(tape, about, s, t, z, z0, z_b, stride, m, n, unit, B, H, S):
    place, gates, g_t, g_b, q, options = tape
    hs, count = place[0], H - unit
    for row in range(m, m + n):
        at = (s * B + row) * S + unit
        if is_masked(about, t, row):
            skip_step(place, about, s, t, row, unit, B, H, S)
            continue
        k, g_at = z0 + (row - m) * z_b, t * g_t + row * g_b + unit
        recurrent = load(z, k + 3 * stride)
        if options[0] == 0:
            update = load(z, k) + load_units(gates, g_at, count)
            reset = load(z, k + stride) + load_units(gates, g_at + H, count)
            write_units(gates, g_at, update, count)
            write_units(gates, g_at + H, reset, count)
            candidate = load_units(gates, g_at + 2 * H, count) + activated(reset, *gate_of(options)) * recurrent
            store(q, at, recurrent)
            h = ended(options, gates, g_at, update, candidate, load(hs, at), H, count)
            write_step(place, about, s, t, row, unit, h, B, H, S)
            continue
        e_z, e_r = exp_zr(
            (load(z, k) + load_units(gates, g_at, count), load(z, k + stride) + load_units(gates, g_at + H, count))
        )
        update, reset = 1.0 / (1.0 + e_z), 1.0 / (1.0 + e_r)
        (e_n,) = exp_n((load_units(gates, g_at + 2 * H, count) + reset * recurrent,))
        candidate = (1.0 - e_n) / (1.0 + e_n)
        write_units(gates, g_at, update, count)
        write_units(gates, g_at + H, reset, count)
        write_units(gates, g_at + 2 * H, candidate, count)
        store(q, at, recurrent)
        write_step(place, about, s, t, row, unit, update * load(hs, at) + (1.0 - update) * candidate, B, H, S)


after_walk = make_walk(after_dense.rows, after_dense.tail_rows, 3, after_cells)
dropped_walk = make_dropped_walk((0, 1, 3), after_cells)


@kernel
def gru_after_steps_forward(kind, narrow, team, args):
    """Run T steps. Arguments: Z, its strides of time and rows, U, b (of the recurrent sums: bn), y, its strides, hs, last output, workspace and its
    size for a worker, mask and its strides, masked, T, B, H, S, reverse, has_y, tail, q, then those of `drop_of` and `options_of`."""
    (
        gates, g_t, g_b, U, b, y, y_t, y_b, hs, y_last, z, z_size, mask, mask_t, mask_b, masked, T, B, H, S, reverse, has_y, tail, q,
    ), _ = arguments(args, 0, 24, 0)  # fmt: skip
    gates, U, b, y, hs, y_last, z, q = pointers(kind, (gates, U, b, y, hs, y_last, z, q))
    team = words(team)
    tape = (hs, y, y_t, y_b, y_last, has_y), gates, g_t, g_b, q, options_of(args, 33)
    about = byte_pointer(mask), mask_t, mask_b, masked
    part = row_share(team, B)
    began = ticks()
    drop = drop_of(kind, args, 24)
    if drop[0]:
        dropped_walk(tape, about, part, hs, drop, T, B, H, S, reverse)
    else:
        after_walk(tape, about, part, hs, U, b, z, team[PLACE] * z_size, T, B, H, S, reverse, tail)
    note_speed(team, began, (part[1] - part[0]) * T)


@inline
def kept_state(drop, hs, at, row, unit, B, H):
    """Return h of one vector of units as the candidate sees it."""
    h = load(hs, at)
    return h * load_units(drop[1], (2 * B + row) * H + unit, H - unit) if drop[0] else h


@routine
def gates_before(options, drop, place, gates, g_t, g_b, q, sums, width, r_at, s, t, row, B, H, S):
    """z, r and q = r h of one row; its sums h U_z and h U_r are r_at apart."""
    hs = place[0]
    for unit in range(0, H, lanes(gates)):
        count, at, g_at = H - unit, (s * B + row) * S + unit, t * g_t + row * g_b + unit
        h = kept_state(drop, hs, at, row, unit, B, H)
        z = load_units(sums, row * width + unit, count) + load_units(gates, g_at, count)
        r = load_units(sums, row * width + r_at + unit, count) + load_units(gates, g_at + H, count)
        if options[0] == 0:
            write_units(gates, g_at, z, count)
            write_units(gates, g_at + H, r, count)
            store(q, at, activated(r, *gate_of(options)) * h)
            continue
        e_z, e_r = exp_zr((z, r))
        reset = 1.0 / (1.0 + e_r)
        write_units(gates, g_at, 1.0 / (1.0 + e_z), count)
        write_units(gates, g_at + H, reset, count)
        store(q, at, reset * h)


@routine
def candidates_before(options, place, gates, g_t, g_b, sums, width, about, s, t, row, B, H, S):
    """n and h' of one row; its sums q U_n lie side by side."""
    hs = place[0]
    for unit in range(0, H, lanes(gates)):
        count, at, g_at = H - unit, (s * B + row) * S + unit, t * g_t + row * g_b + unit
        n = load_units(gates, g_at + 2 * H, count) + load_units(sums, row * width + unit, count)
        if options[0] == 0:
            h = ended(options, gates, g_at, load_units(gates, g_at, count), n, load(hs, at), H, count)
            write_step(place, about, s, t, row, unit, h, B, H, S)
            continue
        (e_n,) = exp_n((n,))
        candidate, update = (1.0 - e_n) / (1.0 + e_n), load_units(gates, g_at, count)
        write_units(gates, g_at + 2 * H, candidate, count)
        write_step(place, about, s, t, row, unit, update * load(hs, at) + (1.0 - update) * candidate, B, H, S)


@kernel
def gru_before_steps_forward(kind, narrow, team, args):
    """Run T steps. Arguments: Z, its strides, U_zr and U_n as panels of columns, their tails, sums (B, width) of each, their widths, y, its strides, hs, last
    output, mask and its strides, masked, T, B, H, S, reverse, has_y, q, then those of `drop_of` and `options_of`."""
    (
        gates, g_t, g_b, U, Un, tail, n_tail, sums, n_sums, width, n_width, y, y_t, y_b, hs, y_last, mask, mask_t, mask_b, masked,
        T, B, H, S, reverse, has_y, q,
    ), _ = arguments(args, 0, 27, 0)  # fmt: skip
    gates, U, Un, sums, n_sums, y, hs, y_last, q = pointers(kind, (gates, U, Un, sums, n_sums, y, hs, y_last, q))
    team, L = words(team), lanes(gates)
    place = hs, y, y_t, y_b, y_last, has_y
    about = byte_pointer(mask), mask_t, mask_b, masked
    part, drop, options = row_share(team, B), drop_of(kind, args, 27), options_of(args, 36)
    began = ticks()
    r_at = n_width if drop[0] else H
    for s in range(T):
        t = T - 1 - s if reverse else s
        zero_rows(sums, width, part)
        zero_rows(n_sums, n_width, part)
        if drop[0]:
            for gate in range(2):
                add_kept(hs, s * B * S, drop, gate, (sums, gate * n_width), width, part, B, H, S)
        else:
            add_product(hs, s * B * S, S, H, U, H * 4 * L, sums, width, part, 2 * H, tail, s)
        for row in range(part[0], part[1]):
            if not is_masked(about, t, row):
                gates_before(options, drop, place, gates, g_t, g_b, q, sums, width, r_at, s, t, row, B, H, S)
        add_product(q, s * B * S, S, H, Un, H * 4 * L, n_sums, n_width, part, H, n_tail, s)
        for row in range(part[0], part[1]):
            if is_masked(about, t, row):
                for unit in range(0, H, L):
                    skip_step(place, about, s, t, row, unit, B, H, S)
            else:
                candidates_before(options, place, gates, g_t, g_b, n_sums, n_width, about, s, t, row, B, H, S)
    note_speed(team, began, (part[1] - part[0]) * T)


@routine
def skip_back(place, gates, g_t, g_b, q, about, s, t, row, B, H, S):
    """At a masked step dZ is 0, and so is dq or what stands in its place."""
    for unit in range(0, H, lanes(gates)):
        count, g_at = H - unit, t * g_t + row * g_b + unit
        zero = splat(load_units(gates, g_at, count), 0.0)
        pass_output(place, about, t, row, unit, H, S)
        for gate in range(3):
            write_units(gates, g_at + gate * H, zero, count)
        store(q, (s * B + row) * S + unit, zero)


@routine
def after_back(options, place, gates, g_t, g_b, q, hs, dh, h_b, about, s, t, row, B, H, S):
    """dZ and dq of one row and step; dh is what goes past the products."""
    for unit in range(0, H, lanes(gates)):
        count, at, h_at, g_at = H - unit, (s * B + row) * S + unit, row * h_b + unit, t * g_t + row * g_b + unit
        fetch_gates(gates, g_at + g_b, H, 3)
        z, r, n = (
            load_units(gates, g_at, count),
            load_units(gates, g_at + H, count),
            load_units(gates, g_at + 2 * H, count),
        )
        d = gradient_of_output(place, about, t, row, unit, load(dh, h_at), H, S)
        if options[0] == 0:
            update, reset = activated(z, *gate_of(options)), activated(r, *gate_of(options))
            candidate = activated(n, *candidate_of(options))
            d_n = d * (1.0 - update) * activation_slope(n, candidate, *candidate_of(options))
            d_z = d * (load(hs, at) - candidate) * activation_slope(z, update, *gate_of(options))
            write_units(gates, g_at, d_z, count)
            write_units(gates, g_at + H, d_n * load(q, at) * activation_slope(r, reset, *gate_of(options)), count)
            write_units(gates, g_at + 2 * H, d_n, count)
            store(q, at, d_n * reset)
            store(dh, h_at, d * update)
            continue
        d_n = d * (1.0 - z) * (1.0 - n * n)
        write_units(gates, g_at, d * (load(hs, at) - n) * z * (1.0 - z), count)
        write_units(gates, g_at + H, d_n * load(q, at) * r * (1.0 - r), count)
        write_units(gates, g_at + 2 * H, d_n, count)
        store(q, at, d_n * r)
        store(dh, h_at, d * z)


@kernel
def gru_after_steps_adjoint(kind, narrow, team, args):
    """Run the adjoint of T steps. Arguments: the gates, their strides, U_zr' and U_n' as panels of columns, their tail, dy, its strides, hs, gradient
    of the last output, dh and its row stride, mask and its strides, masked, T, B, H, S, reverse, has_dy, q, then those of `drop_of` and `options_of`."""
    (
        gates, g_t, g_b, U, Un, tail, dy, y_t, y_b, hs, dy_last, dh, h_b, mask, mask_t, mask_b, masked, T, B, H, S, reverse, has_dy, q,
    ), _ = arguments(args, 0, 24, 0)  # fmt: skip
    gates, U, Un, dy, hs, dy_last, dh, q = pointers(kind, (gates, U, Un, dy, hs, dy_last, dh, q))
    team, L = words(team), lanes(gates)
    place = dy, y_t, y_b, dy_last, has_dy
    about = byte_pointer(mask), mask_t, mask_b, masked
    part, drop, options = row_share(team, B), drop_of(kind, args, 24), options_of(args, 33)
    began = ticks()
    for step in range(T):
        s = T - 1 - step
        t = T - 1 - s if reverse else s
        for row in range(part[0], part[1]):
            if is_masked(about, t, row):
                skip_back(place, gates, g_t, g_b, q, about, s, t, row, B, H, S)
            else:
                after_back(options, place, gates, g_t, g_b, q, hs, dh, h_b, about, s, t, row, B, H, S)
        if drop[0]:
            for gate in range(2):
                add_back(gates, t * g_t + gate * H, g_b, drop, gate, dh, h_b, part, B, H)
            add_back(q, s * B * S, S, drop, 2, dh, h_b, part, B, H)
        else:
            add_product(gates, t * g_t, g_b, 2 * H, U, 2 * H * 4 * L, dh, h_b, part, H, tail, s)
            add_product(q, s * B * S, S, H, Un, H * 4 * L, dh, h_b, part, H, tail, s)
    note_speed(team, began, (part[1] - part[0]) * T)


@routine
def before_back(options, place, gates, g_t, g_b, hs, dh, h_b, about, s, t, row, B, H, S):
    """dZ_n and dZ_z of one row and step; dh is what goes past the products."""
    for unit in range(0, H, lanes(gates)):
        count, at, h_at, g_at = H - unit, (s * B + row) * S + unit, row * h_b + unit, t * g_t + row * g_b + unit
        z, n = load_units(gates, g_at, count), load_units(gates, g_at + 2 * H, count)
        d = gradient_of_output(place, about, t, row, unit, load(dh, h_at), H, S)
        if options[0] == 0:
            update, candidate = activated(z, *gate_of(options)), activated(n, *candidate_of(options))
            d_z = d * (load(hs, at) - candidate) * activation_slope(z, update, *gate_of(options))
            d_n = d * (1.0 - update) * activation_slope(n, candidate, *candidate_of(options))
            write_units(gates, g_at, d_z, count)
            write_units(gates, g_at + 2 * H, d_n, count)
            store(dh, h_at, d * update)
            continue
        write_units(gates, g_at, d * (load(hs, at) - n) * z * (1.0 - z), count)
        write_units(gates, g_at + 2 * H, d * (1.0 - z) * (1.0 - n * n), count)
        store(dh, h_at, d * z)


@routine
def reset_back(options, drop, gates, g_t, g_b, hs, dh, h_b, dq, s, t, row, B, H, S):
    """dZ_r of one row and step from dq, and what reaches h through r h."""
    for unit in range(0, H, lanes(gates)):
        count, at, h_at, g_at = H - unit, (s * B + row) * S + unit, row * h_b + unit, t * g_t + row * g_b + unit
        r, d = load_units(gates, g_at + H, count), load(dq, h_at)
        h = load(hs, at)
        if drop[0]:
            # the gradient of h * m_n
            d = d * load_units(drop[1], (2 * B + row) * H + unit, count)
        if options[0] == 0:
            reset = activated(r, *gate_of(options))
            d_r = d * h * activation_slope(r, reset, *gate_of(options))
            write_units(gates, g_at + H, d_r, count)
            store(dh, h_at, load(dh, h_at) + d * reset)
            continue
        write_units(gates, g_at + H, d * h * r * (1.0 - r), count)
        store(dh, h_at, load(dh, h_at) + d * r)


@kernel
def gru_before_steps_adjoint(kind, narrow, team, args):
    """Run the adjoint of T steps; arguments as `gru_after_steps_adjoint`, but for dq (B, as dh) after q."""
    (
        gates, g_t, g_b, U, Un, tail, dy, y_t, y_b, hs, dy_last, dh, h_b, mask, mask_t, mask_b, masked, T, B, H, S, reverse, has_dy, q, dq,
    ), _ = arguments(args, 0, 25, 0)  # fmt: skip
    gates, U, Un, dy, hs, dy_last, dh, q, dq = pointers(kind, (gates, U, Un, dy, hs, dy_last, dh, q, dq))
    team, L = words(team), lanes(gates)
    place = dy, y_t, y_b, dy_last, has_dy
    about = byte_pointer(mask), mask_t, mask_b, masked
    part, drop, options = row_share(team, B), drop_of(kind, args, 25), options_of(args, 34)
    began = ticks()
    for step in range(T):
        s = T - 1 - step
        t = T - 1 - s if reverse else s
        for row in range(part[0], part[1]):
            if is_masked(about, t, row):
                skip_back(place, gates, g_t, g_b, q, about, s, t, row, B, H, S)
            else:
                before_back(options, place, gates, g_t, g_b, hs, dh, h_b, about, s, t, row, B, H, S)
        zero_rows(dq, h_b, part)
        add_product(gates, t * g_t + 2 * H, g_b, H, Un, H * 4 * L, dq, h_b, part, H, tail, s)
        for row in range(part[0], part[1]):
            if not is_masked(about, t, row):
                reset_back(options, drop, gates, g_t, g_b, hs, dh, h_b, dq, s, t, row, B, H, S)
        if drop[0]:
            for gate in range(2):
                add_back(gates, t * g_t + gate * H, g_b, drop, gate, dh, h_b, part, B, H)
        else:
            add_product(gates, t * g_t, g_b, 2 * H, U, 2 * H * 4 * L, dh, h_b, part, H, tail, s)
    note_speed(team, began, (part[1] - part[0]) * T)

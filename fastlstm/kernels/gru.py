"""Gated recurrent unit, one direction.

    z = sigma(x W_z + h U_z + b_z)      r = sigma(x W_r + h U_r + b_r)      h' = z h + (1 - z) n
    reset after:  n = tau(x W_n + b_n + r (h U_n + bn))
    reset before: n = tau(x W_n + b_n + (r h) U_n + bn)

dims as in lstm.py; W (I, 3H) packed by z r n. Reset after: U (H, 3H) likewise, b (S/L, 4, L) holds b_z, b_r, b_n, bn.
Reset before: U holds z r, Un (H, H) is packed as panels of 4 blocks of units, bn is part of b_n, S is a multiple of 4L.
"""

import numpy as np

from fastlstm.kernels.activations import activate
from fastlstm.kernels.exponential import exp, exp_bounded
from fastlstm.kernels.floating_point_mode import flush_denormals, restore_mode
from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.recurrence import UNMASKED, copy_states, make_project, put_units, skip_units
from fastlstm.kernels.simd import byte_pointer, clamp, lanes, load, pointers, store
from fastlstm.kernels.tile import ROWS, dense_one_source, make_one_source, make_rows

after_rows = make_rows((0, 1, 2), (0, 1, 3))
before_rows = make_rows((0, 1, 2), (0, 1))

project = make_project(make_one_source(after_rows))


@inline
def gru_cell(z, r, n_x, n_h, h):
    """h' with sigmoid gates and tanh; z = 1 / (1 + e^-z), so 1 - z = e^-z / (1 + e^-z) without cancellation."""
    e_z = exp_bounded(-z)
    e_n = exp_bounded((n_x + n_h / (1.0 + exp(-r))) * -2.0)
    return (h * (1.0 + e_n) + e_z * (1.0 - e_n)) / ((1.0 + e_z) * (1.0 + e_n))


@inline
def gate(x, code, alpha, beta, clipped, bound):
    """One activation, its input bounded first where the model says so."""
    return activate(code, alpha, beta, clamp(x, -bound, bound) if clipped else x)


@kernel
def gru_after_forward(
    kind, x, x_t, x_b, W, U, b, h, h_next, y, y_t, y_b, y_last, mask, mask_t, mask_b, z, ahead, sizes, options, numbers
):
    """Run T steps, reset after the product. h holds the initial state and receives the final one.

    sizes (T, B, I, H, S, steps projected ahead); options (reverse, has_y, masked, plain, codes of f g, clipped);
    numbers (alpha and beta of f g, bound); scratch z (ROWS, 4, L), ahead (steps, B, 4S).
    """
    mode = flush_denormals()
    x, W, U, b, h, h_next, y, y_last, z, ahead = pointers(kind, (x, W, U, b, h, h_next, y, y_last, z, ahead))
    mask = byte_pointer(mask)
    T, B, I, H, S, run = sizes
    reverse, has_y, masked, plain, code_f, code_g, clipped = options
    alpha_f, beta_f, alpha_g, beta_g, bound = numbers
    L = lanes(x)
    W_size, U_size = I * 3 * L, H * 3 * L
    x_step = -x_t if reverse else x_t
    final, none = h, np.intp(0)
    for step in range(T):
        t = T - 1 - step if reverse else step
        if run > 0 and step % run == 0:
            project(x, x_step, x_b, t, min(run, T - step), B, I, W, S // L, W_size, b, ahead)
        for block in range(S // L):
            unit, count = block * L, H - block * L
            m = 0
            while m < B:
                n = min(ROWS, B - m)
                init, i0, i_stride, K = b, 4 * unit, none, I
                if run > 0:
                    init, i0, i_stride, K = ahead, ((step % run) * B + m) * 4 * S + 4 * unit, 4 * S, none
                after_rows(
                    n, init, i0, i_stride, x, t * x_t + m * x_b, x_b, K, W, block * W_size,
                    h, m * S, S, H, U, block * U_size, z, none, 4 * L,
                )  # fmt: skip
                for row in range(m, m + n):
                    s, at, k = row * S + unit, t * y_t + row * y_b + unit, (row - m) * 4 * L
                    if masked != UNMASKED and mask[t * mask_t + row * mask_b] == 0:
                        skip_units(h, h_next, s, y, at, y_last, count, has_y, masked)
                        continue
                    update, reset, n_x, n_h = load(z, k), load(z, k + L), load(z, k + 2 * L), load(z, k + 3 * L)
                    if plain:
                        value = gru_cell(update, reset, n_x, n_h, load(h, s))
                    else:
                        update = gate(update, code_f, alpha_f, beta_f, clipped, bound)
                        reset = gate(reset, code_f, alpha_f, beta_f, clipped, bound)
                        candidate = gate(n_x + reset * n_h, code_g, alpha_g, beta_g, clipped, bound)
                        value = update * load(h, s) + (1.0 - update) * candidate
                    put_units(value, h_next, s, y, at, y_last, count, has_y, masked)
                m += n
        h, h_next = h_next, h
    if T % 2:
        copy_states(h, final, B * S)
    restore_mode(mode)


@kernel
def gru_before_forward(
    kind,
    x,
    x_t,
    x_b,
    W,
    U,
    Un,
    b,
    h,
    h_next,
    y,
    y_t,
    y_b,
    y_last,
    mask,
    mask_t,
    mask_b,
    z,
    update,
    reset_h,
    n_x,
    sizes,
    options,
    numbers,
):
    """Run T steps, reset before the product: z and r of all units first, then n from r h.

    Arguments as in gru_after_forward; scratch update, reset_h and n_x (B, S) besides.
    """
    mode = flush_denormals()
    x, W, U, Un, b, h, h_next, y, y_last, z, update, reset_h, n_x = pointers(
        kind, (x, W, U, Un, b, h, h_next, y, y_last, z, update, reset_h, n_x)
    )
    mask = byte_pointer(mask)
    T, B, I, H, S, _ = sizes
    reverse, has_y, masked, _, code_f, code_g, clipped = options
    alpha_f, beta_f, alpha_g, beta_g, bound = numbers
    L = lanes(x)
    final, none = h, np.intp(0)
    for step in range(T):
        t = T - 1 - step if reverse else step
        for block in range((H + L - 1) // L):
            unit = block * L
            m = 0
            while m < B:
                n = min(ROWS, B - m)
                before_rows(
                    n, b, 4 * unit, none, x, t * x_t + m * x_b, x_b, I, W, block * I * 3 * L,
                    h, m * S, S, H, U, block * H * 2 * L, z, none, 4 * L,
                )  # fmt: skip
                for row in range(m, m + n):
                    s, k = row * S + unit, (row - m) * 4 * L
                    store(update, s, gate(load(z, k), code_f, alpha_f, beta_f, clipped, bound))
                    store(reset_h, s, gate(load(z, k + L), code_f, alpha_f, beta_f, clipped, bound) * load(h, s))
                    store(n_x, s, load(z, k + 2 * L))
                m += n
        for panel in range(S // (4 * L)):
            m = 0
            while m < B:
                n = min(ROWS, B - m)
                at = m * S + panel * 4 * L
                dense_one_source(n, n_x, at, S, reset_h, m * S, S, H, Un, panel * H * 4 * L, z, none, 4 * L)
                for row in range(m, m + n):
                    for k in range(4):
                        unit = (panel * 4 + k) * L
                        s, at, count = row * S + unit, t * y_t + row * y_b + unit, H - unit
                        if count <= 0:
                            break
                        if masked != UNMASKED and mask[t * mask_t + row * mask_b] == 0:
                            skip_units(h, h_next, s, y, at, y_last, count, has_y, masked)
                            continue
                        candidate = gate(load(z, ((row - m) * 4 + k) * L), code_g, alpha_g, beta_g, clipped, bound)
                        value = load(update, s) * load(h, s) + (1.0 - load(update, s)) * candidate
                        put_units(value, h_next, s, y, at, y_last, count, has_y, masked)
                m += n
        h, h_next = h_next, h
    if T % 2:
        copy_states(h, final, B * S)
    restore_mode(mode)

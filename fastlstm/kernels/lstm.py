"""Long short-term memory, one direction.

    i, f, o = sigma(z_i + P_i c), sigma(z_f + P_f c), sigma(z_o + P_o c')     z = x W + h U + b
    c' = f c + i g                                                           g = tau(z_g)
    h' = o tau'(c')

dims: x (T, B, I) in any axis order (strides x_t, x_b), W (I, 4H), U (H, 4H) packed as panels of one vector of units by
its four gates i f g o, b (S/L, 4, L), P (3, S) for i f o, h and c (B, S), y (T, B, H) in any axis order.
"""

import numpy as np

from fastlstm.kernels.activations import activate
from fastlstm.kernels.exponential import exp, exp_bounded
from fastlstm.kernels.floating_point_mode import flush_denormals, restore_mode
from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.recurrence import UNMASKED, copy_states, make_project, put_units, skip_units
from fastlstm.kernels.simd import byte_pointer, clamp, lanes, load, pointers, store
from fastlstm.kernels.tile import ROWS, make_one_source, make_rows

gate_rows = make_rows()
project = make_project(make_one_source(gate_rows))


@inline
def lstm_cell(i, f, g, o, c):
    """(h', c') with sigmoid gates and tanh: sigma(i) tau(g) and sigma(o) tau(c') each share one division."""
    e_g = exp_bounded(g * -2.0)
    c = c / (1.0 + exp(-f)) + (1.0 - e_g) / ((1.0 + exp(-i)) * (1.0 + e_g))
    e_c = exp_bounded(c * -2.0)
    return (1.0 - e_c) / ((1.0 + exp(-o)) * (1.0 + e_c)), c


@inline
def lstm_cell_general(i, f, g, o, c, P, p, S, options, numbers):
    """(h', c') with any activations, peepholes, a bound on every activation's input, and coupled gates."""
    _, _, _, _, code_f, code_g, code_h, clipped, coupled, peepholes = options
    alpha_f, beta_f, alpha_g, beta_g, alpha_h, beta_h, bound = numbers
    if peepholes:
        i = i + load(P, p) * c
        f = f + load(P, p + S) * c
    if clipped:
        i, f, g = clamp(i, -bound, bound), clamp(f, -bound, bound), clamp(g, -bound, bound)
    i = activate(code_f, alpha_f, beta_f, i)
    f = 1.0 - i if coupled else activate(code_f, alpha_f, beta_f, f)
    c = f * c + i * activate(code_g, alpha_g, beta_g, g)
    if peepholes:
        o = o + load(P, p + 2 * S) * c
    squashed = c
    if clipped:
        o, squashed = clamp(o, -bound, bound), clamp(c, -bound, bound)
    return activate(code_f, alpha_f, beta_f, o) * activate(code_h, alpha_h, beta_h, squashed), c


@kernel
def lstm_forward(
    kind,
    x,
    x_t,
    x_b,
    W,
    U,
    b,
    P,
    h,
    c,
    h_next,
    y,
    y_t,
    y_b,
    y_last,
    mask,
    mask_t,
    mask_b,
    z,
    ahead,
    sizes,
    options,
    numbers,
):
    """Run T steps. h and c hold the initial states and receive the final ones.

    sizes (T, B, I, H, S, steps projected ahead); options (reverse, has_y, masked, plain, codes of f g h, clipped,
    coupled, peepholes); numbers (alpha and beta of f g h, bound); scratch z (ROWS, 4, L), ahead (steps, B, 4S).
    """
    mode = flush_denormals()
    x, W, U, b, P, h, c, h_next, y, y_last, z, ahead = pointers(
        kind, (x, W, U, b, P, h, c, h_next, y, y_last, z, ahead)
    )
    mask = byte_pointer(mask)
    T, B, I, H, S, run = sizes
    reverse, has_y, masked, plain = options[0], options[1], options[2], options[3]
    L = lanes(x)
    W_size, U_size = I * 4 * L, H * 4 * L
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
                gate_rows(
                    n, init, i0, i_stride, x, t * x_t + m * x_b, x_b, K, W, block * W_size,
                    h, m * S, S, H, U, block * U_size, z, none, 4 * L,
                )  # fmt: skip
                for row in range(m, m + n):
                    s, at, k = row * S + unit, t * y_t + row * y_b + unit, (row - m) * 4 * L
                    if masked != UNMASKED and mask[t * mask_t + row * mask_b] == 0:
                        skip_units(h, h_next, s, y, at, y_last, count, has_y, masked)
                        continue
                    i, f, g, o = load(z, k), load(z, k + L), load(z, k + 2 * L), load(z, k + 3 * L)
                    if plain:
                        value, cell = lstm_cell(i, f, g, o, load(c, s))
                    else:
                        value, cell = lstm_cell_general(i, f, g, o, load(c, s), P, unit, S, options, numbers)
                    store(c, s, cell)
                    put_units(value, h_next, s, y, at, y_last, count, has_y, masked)
                m += n
        h, h_next = h_next, h
    if T % 2:
        copy_states(h, final, B * S)
    restore_mode(mode)

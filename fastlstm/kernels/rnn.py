"""The simple recurrent network, one direction.

    h' = tau(x W + h U + b)

dims as in lstm.py; W (I, H) and U (H, H) packed as panels of 4 vectors of units, S a multiple of 4L, b (S,).
"""

import numpy as np

from fastlstm.kernels.activations import TANH, activate, tanh
from fastlstm.kernels.floating_point_mode import flush_denormals, restore_mode
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.recurrence import UNMASKED, copy_states, make_project, put_units, skip_units
from fastlstm.kernels.simd import byte_pointer, clamp, lanes, load, pointers
from fastlstm.kernels.tile import ROWS, dense_one_source, dense_rows

project = make_project(dense_one_source)


@kernel
def rnn_forward(
    kind, x, x_t, x_b, W, U, b, h, h_next, y, y_t, y_b, y_last, mask, mask_t, mask_b, z, ahead, sizes, options, numbers
):
    """Run T steps. h holds the initial state and receives the final one.

    sizes (T, B, I, H, S, steps projected ahead); options (reverse, has_y, masked, code, clipped);
    numbers (alpha, beta, bound); scratch z (ROWS, 4, L), ahead (steps, B, S).
    """
    mode = flush_denormals()
    x, W, U, b, h, h_next, y, y_last, z, ahead = pointers(kind, (x, W, U, b, h, h_next, y, y_last, z, ahead))
    mask = byte_pointer(mask)
    T, B, I, H, S, run = sizes
    reverse, has_y, masked, code, clipped = options
    alpha, beta, bound = numbers
    L = lanes(x)
    W_size, U_size = I * 4 * L, H * 4 * L
    x_step = -x_t if reverse else x_t
    final, none = h, np.intp(0)
    for step in range(T):
        t = T - 1 - step if reverse else step
        if run > 0 and step % run == 0:
            project(x, x_step, x_b, t, min(run, T - step), B, I, W, S // (4 * L), W_size, b, ahead)
        for panel in range(S // (4 * L)):
            first = panel * 4 * L
            m = 0
            while m < B:
                n = min(ROWS, B - m)
                init, i0, i_stride, K = b, first, none, I
                if run > 0:
                    init, i0, i_stride, K = ahead, ((step % run) * B + m) * S + first, S, none
                dense_rows(
                    n, init, i0, i_stride, x, t * x_t + m * x_b, x_b, K, W, panel * W_size,
                    h, m * S, S, H, U, panel * U_size, z, none, 4 * L,
                )  # fmt: skip
                for row in range(m, m + n):
                    for k in range(4):
                        unit = first + k * L
                        s, at, count = row * S + unit, t * y_t + row * y_b + unit, H - unit
                        if count <= 0:
                            break
                        if masked != UNMASKED and mask[t * mask_t + row * mask_b] == 0:
                            skip_units(h, h_next, s, y, at, y_last, count, has_y, masked)
                            continue
                        value = load(z, ((row - m) * 4 + k) * L)
                        if clipped:
                            value = clamp(value, -bound, bound)
                        value = tanh(value) if code == TANH else activate(code, alpha, beta, value)
                        put_units(value, h_next, s, y, at, y_last, count, has_y, masked)
                m += n
        h, h_next = h_next, h
    if T % 2:
        copy_states(h, final, B * S)
    restore_mode(mode)

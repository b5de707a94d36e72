"""Gated recurrent unit, one direction.

    z = sigma(x W_z + h U_z + b_z)      r = sigma(x W_r + h U_r + b_r)      h' = z h + (1 - z) n
    reset after:  n = tau(x W_n + b_n + r (h U_n + bn))
    reset before: n = tau(x W_n + b_n + (r h) U_n + bn)

dims as in lstm.py; W (I, 3H) packed by z r n. Reset after: U (H, 3H) likewise, b (S/L, 4, L) holds b_z, b_r, b_n, bn.
Reset before: U holds z r, Un (H, H) is packed as panels of 4 blocks of units, bn is part of b_n, S is a multiple of 4L.
"""

from fastlstm.kernels.activations import activate, sigmoid, tanh
from fastlstm.kernels.exponential import BOUNDED_SIGMOID, SIGMOID, TANH, exp_gates, times_one_plus
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.quantised import QUANTISED, make_quantised_rows, quantised_rows
from fastlstm.kernels.recurrence import ARGUMENTS, make_finish, make_steps, make_sweep, make_sweep_both
from fastlstm.kernels.scaled import no_tail
from fastlstm.kernels.simd import arguments, clamp, fma, lanes, load, pointers, store
from fastlstm.kernels.tile import dense_rows, dense_tail_rows, make_both, make_rows, make_tail_rows

CODES = ARGUMENTS + 4  # where the words begin that say what the cell of reset before computes


exp_r, exp_zn = exp_gates(SIGMOID), exp_gates(BOUNDED_SIGMOID, TANH)


@inline
def new_h(z, n, h):
    """h' of tanh's argument n; z = 1 / (1 + e^-z), so 1 - z = e^-z / (1 + e^-z) without cancellation, and tanh shares its division."""
    e_z, e_n = exp_zn((z, n))
    one_plus = 1.0 + e_n
    return fma(h, one_plus, e_z * (1.0 - e_n)) / times_one_plus(one_plus, e_z)


@inline
def gate(x, code, alpha, beta, clipped, bound):
    """One activation, its input bounded first where the model says so."""
    return activate(code, alpha, beta, clamp(x, -bound, bound) if clipped else x)


@inline
def after_options(kind, narrow, args):
    """Return what the cell computes: plain, codes of f g, clipped; numbers: alpha and beta of f g, bound."""
    return arguments(args, ARGUMENTS, 4, 5)


@inline
def is_usual(options):
    (plain, _, _, _), _ = options
    return plain != 0


@inline
def after_begin(options, z, k, stride, h, s, at, unit):
    """The first half of one vector of units of one row, reset after the product: tanh's argument takes the place of r."""
    r, n_x, n_h = load(z, k + stride), load(z, k + 2 * stride), load(z, k + 3 * stride)
    (e_r,) = exp_r((r,))
    store(z, k + stride, n_x + n_h / (1.0 + e_r))


@inline
def after_units(options, z, k, stride, h, s, at, unit):
    """The second half, default activations: h'."""
    return new_h(load(z, k), load(z, k + stride), load(h, s))


@routine
def after_units_general(options, z, k, stride, h, s, at, unit):
    """The same with any activations."""
    (_, code_f, code_g, clipped), (alpha_f, beta_f, alpha_g, beta_g, bound) = options
    update, reset, n_x, n_h = load(z, k), load(z, k + stride), load(z, k + 2 * stride), load(z, k + 3 * stride)
    update = gate(update, code_f, alpha_f, beta_f, clipped, bound)
    reset = gate(reset, code_f, alpha_f, beta_f, clipped, bound)
    candidate = gate(n_x + reset * n_h, code_g, alpha_g, beta_g, clipped, bound)
    return update * load(h, s) + (1.0 - update) * candidate


after_rows, after_tail_rows = make_rows((0, 1, 2), (0, 1, 3)), make_tail_rows(3, 2)
after_finish = make_finish(after_units_general, after_units, is_usual, 1, after_begin)
after_sweep = make_sweep(after_rows, after_tail_rows, 3, 3, 1, after_finish)
after_both = make_sweep_both(after_rows, after_tail_rows, make_both((0, 1, 2), (0, 1, 3)), 3, 3, 1, after_finish)
after_steps = make_steps(after_rows, after_tail_rows, 3, 3, 1, after_options, after_sweep, after_both)


@kernel
def gru_after_forward(kind, narrow, team, args):
    """Run T steps, reset after the product; arguments: those of `recurrence.make_steps`, then those of `after_options`."""
    after_steps(kind, narrow, team, args)


after_quantised_rows = make_quantised_rows((0, 1, 2), (0, 1, 3))
after_quantised_sweep = make_sweep(after_quantised_rows, no_tail, 3, 3, 1, after_finish)
after_quantised_steps = make_steps(
    after_quantised_rows, no_tail, 3, 3, 1, after_options, after_quantised_sweep, reading=QUANTISED
)


@kernel
def gru_after_quantised_forward(kind, narrow, team, args):
    """Run T steps with int8 weights and quantised rows of x and h; arguments as `gru_after_forward`."""
    after_quantised_steps(kind, narrow, team, args)


@inline
def before_options(kind, narrow, args):
    """Return r h, Un and n_x for the second sweep, then z, and what the cell computes as in `after_options`."""
    (reset_h, Un, n_x, update), _ = arguments(args, ARGUMENTS, 4, 0)
    reset_h, n_x, update = pointers(kind, (reset_h, n_x, update))
    (Un,) = pointers(narrow, (Un,))
    return reset_h, Un, n_x, update, arguments(args, CODES, 4, 5)


@inline
def before_is_usual(options):
    ((plain, _, _, _), _) = options[4]
    return plain != 0


@routine
def before_gates(options, place, z, z0, stride, m, n, first, p, S, H, ragged, permuted, holes, mask, mask_b):
    """The first sweep of reset before ends with z, r h and x W_n + b_n of every row and vector of units of a tile."""
    reset_h, _, n_x, update, ((plain, code_f, _, clipped), (alpha_f, beta_f, _, _, bound)) = options
    h, L = place[0], lanes(z)
    for position in range(m, m + n):
        for k in range(p):
            s, at = position * S + first + k * L, z0 + ((position - m) * p + k) * 4 * L
            if plain:
                store(update, s, sigmoid(load(z, at)))
                store(reset_h, s, sigmoid(load(z, at + L)) * load(h, s))
            else:
                store(update, s, gate(load(z, at), code_f, alpha_f, beta_f, clipped, bound))
                store(reset_h, s, gate(load(z, at + L), code_f, alpha_f, beta_f, clipped, bound) * load(h, s))
            store(n_x, s, load(z, at + 2 * L))


@inline
def before_units(options, z, k, stride, h, s, at, unit):
    """The second sweep of reset before: h' of one vector of units of one row, tanh."""
    update = load(options[3], s)
    return update * load(h, s) + (1.0 - update) * tanh(load(z, k))


@routine
def before_units_general(options, z, k, stride, h, s, at, unit):
    """The same with any activation."""
    _, _, _, update, ((_, _, code_g, clipped), (_, _, alpha_g, beta_g, bound)) = options
    candidate = gate(load(z, k), code_g, alpha_g, beta_g, clipped, bound)
    return load(update, s) * load(h, s) + (1.0 - load(update, s)) * candidate


before_rows = make_rows((0, 1, 2), (0, 1))
before_finish = make_finish(before_units_general, before_units, before_is_usual, 4)
before_sweep, last_sweep = (
    make_sweep(before_rows, dense_tail_rows, 3, 2, 1, before_gates),
    make_sweep(dense_rows, dense_tail_rows, 4, 4, 4, before_finish),
)
before_steps = make_steps(before_rows, dense_tail_rows, 3, 2, 1, before_options, before_sweep, None, last_sweep)


@kernel
def gru_before_forward(kind, narrow, team, args):
    """Run T steps, reset before the product: z and r of all units first, then n from r h; arguments as `before_options`."""
    before_steps(kind, narrow, team, args)


before_quantised_rows = make_quantised_rows((0, 1, 2), (0, 1))
before_quantised_steps = make_steps(
    before_quantised_rows, no_tail, 3, 2, 1, before_options,
    make_sweep(before_quantised_rows, no_tail, 3, 2, 1, before_gates), None,
    make_sweep(quantised_rows, no_tail, 4, 4, 4, before_finish), QUANTISED,
)  # fmt: skip


@kernel
def gru_before_quantised_forward(kind, narrow, team, args):
    """Run T steps with int8 weights and quantised rows of x, h and r h; arguments as `gru_before_forward`."""
    before_quantised_steps(kind, narrow, team, args)

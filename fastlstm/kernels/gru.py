"""Gated recurrent unit, one direction.

    z = sigma(x W_z + h U_z + b_z)      r = sigma(x W_r + h U_r + b_r)      h' = z h + (1 - z) n
    reset after:  n = tau(x W_n + b_n + r (h U_n + bn))
    reset before: n = tau(x W_n + b_n + (r h) U_n + bn)

dims as in lstm.py; W (I, 3H) packed by z r n. Reset after: U (H, 3H) likewise, b (S/L, 4, L) holds b_z, b_r, b_n, bn.
Reset before: U holds z r, Un (H, H) is packed as panels of 4 blocks of units, bn is part of b_n, S is a multiple of 4L.
"""

from fastlstm.kernels.activations import activate, sigmoid, tanh
from fastlstm.kernels.cells import Cell
from fastlstm.kernels.exponential import BOUNDED_SIGMOID, SIGMOID, TANH, exp_gates, times_one_plus
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import ARGUMENTS
from fastlstm.kernels.quantised import make_quantised, quantised
from fastlstm.kernels.reading import dense, make_product
from fastlstm.kernels.recurrence import make_recurrence
from fastlstm.kernels.simd import arguments, clamp, fma, load, pointers, store

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


after = Cell(1, after_options, is_usual, after_units_general, after_units, after_begin)
after_dense = make_product((0, 1, 2), (0, 1, 3), (3,), (2,))
after_steps = make_recurrence(after_dense, after)
after_quantised_steps = make_recurrence(make_quantised((0, 1, 2), (0, 1, 3)), after)


@kernel
def gru_after_forward(kind, narrow, team, args):
    """Run T steps, reset after the product; arguments: those of `make_recurrence`, then those of `after_options`."""
    after_steps(kind, narrow, team, args)


@kernel
def gru_after_quantised_forward(kind, narrow, team, args):
    """Run T steps with int8 weights and quantised rows of x and h; arguments as `gru_after_forward`."""
    after_quantised_steps(kind, narrow, team, args)


@inline
def before_options(kind, narrow, args):
    """Return r h, Un and n_x for the second product, then z, and what the cell computes as in `after_options`."""
    (reset_h, Un, n_x, update), _ = arguments(args, ARGUMENTS, 4, 0)
    reset_h, n_x, update = pointers(kind, (reset_h, n_x, update))
    (Un,) = pointers(narrow, (Un,))
    return reset_h, Un, n_x, update, arguments(args, CODES, 4, 5)


@inline
def before_is_usual(options):
    ((plain, _, _, _), _) = options[4]
    return plain != 0


@inline
def before_begin(options, z, k, stride, h, s, at, unit):
    """The first half of one vector of units of one row, reset before the product: z, r h, and x W_n + b_n, which the second product adds to."""
    reset_h, _, n_x, update, ((plain, code_f, _, clipped), (alpha_f, beta_f, _, _, bound)) = options
    if plain:
        store(update, s, sigmoid(load(z, k)))
        store(reset_h, s, sigmoid(load(z, k + stride)) * load(h, s))
    else:
        store(update, s, gate(load(z, k), code_f, alpha_f, beta_f, clipped, bound))
        store(reset_h, s, gate(load(z, k + stride), code_f, alpha_f, beta_f, clipped, bound) * load(h, s))
    store(n_x, s, load(z, k + 2 * stride))


@inline
def before_units(options, z, k, stride, h, s, at, unit):
    """The second half: h' of one vector of units of one row, tanh."""
    update = load(options[3], s)
    return update * load(h, s) + (1.0 - update) * tanh(load(z, k))


@routine
def before_units_general(options, z, k, stride, h, s, at, unit):
    """The same with any activation."""
    _, _, _, update, ((_, _, code_g, clipped), (_, _, alpha_g, beta_g, bound)) = options
    candidate = gate(load(z, k), code_g, alpha_g, beta_g, clipped, bound)
    return load(update, s) * load(h, s) + (1.0 - load(update, s)) * candidate


before = Cell(4, before_options, before_is_usual, before_units_general, before_units, before_begin)
before_steps = make_recurrence(make_product((0, 1, 2), (0, 1), (3,), (2, 3)), before, dense)
before_quantised_steps = make_recurrence(make_quantised((0, 1, 2), (0, 1)), before, quantised)


@kernel
def gru_before_forward(kind, narrow, team, args):
    """Run T steps, reset before the product: z and r of all units first, then n from r h; arguments as `before_options`."""
    before_steps(kind, narrow, team, args)


@kernel
def gru_before_quantised_forward(kind, narrow, team, args):
    """Run T steps with int8 weights and quantised rows of x, h and r h; arguments as `gru_before_forward`."""
    before_quantised_steps(kind, narrow, team, args)

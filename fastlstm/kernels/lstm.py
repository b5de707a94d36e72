"""Long short-term memory, one direction.

    i, f, o = sigma(z_i + P_i c), sigma(z_f + P_f c), sigma(z_o + P_o c')     z = x W + h U + b
    c' = f c + i g                                                           g = tau(z_g)
    h' = o tau'(c')

dims: x (T, B, I) in any axis order (strides x_t, x_b), W (I, 4H), U (H, 4H) packed as panels of one vector of units by
its four gates i f g o, b (S/L, 4, L), P (3, S) for i f o, h and c (B, S), y (T, B, H) in any axis order.
"""

from fastlstm.kernels.activations import activate
from fastlstm.kernels.cells import Cell
from fastlstm.kernels.exponential import SIGMOID, TANH, exp_gates, times_one_plus
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import ARGUMENTS
from fastlstm.kernels.quantised import quantised
from fastlstm.kernels.reading import dense
from fastlstm.kernels.recurrence import make_recurrence
from fastlstm.kernels.simd import arguments, clamp, fma, load, one_nan, pointers, store

CODES = ARGUMENTS + 4  # where the words begin that say what the cell computes


exp_ifg, exp_oc = exp_gates(SIGMOID, SIGMOID, TANH), exp_gates(SIGMOID, TANH)


@inline
def new_c(i, f, g, c):
    """c' with sigmoid gates and tanh: sigma(i) tau(g) shares one division.

    Fused where that spares a rounding: c' is then within 3e-7 of the largest of 1, |c| and |c'|.
    """
    e_i, e_f, e_g = exp_ifg((i, f, g))
    return fma(c, 1.0 / (1.0 + e_f), (1.0 - e_g) / times_one_plus(1.0 + e_g, e_i))


@inline
def new_h(o, c):
    """h' of c', likewise."""
    e_o, e_c = exp_oc((o, c))
    return (1.0 - e_c) / times_one_plus(1.0 + e_c, e_o)


@inline
def lstm_cell_general(i, f, g, o, c, P, p, S, options, numbers):
    """(h', c') with any activations, peepholes, a bound on every activation's input, and coupled gates."""
    code_f, code_g, code_h, clipped, coupled, peepholes = options
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


@inline
def lstm_options(kind, narrow, args):
    """Return c, the peepholes, and what the cell computes: after the loop's arguments, in their order."""
    (c, P, S, plain), _ = arguments(args, ARGUMENTS, 4, 0)
    return pointers(kind, (c, P)), S, plain, arguments(args, CODES, 6, 7)


@inline
def is_usual(options):
    return options[2] != 0


@inline
def lstm_begin(options, z, k, stride, h, s, at, unit):
    """The first half of one vector of units of one row, default activations and nothing else: c' is stored."""
    c = options[0][0]
    cell = new_c(load(z, k), load(z, k + stride), load(z, k + 2 * stride), load(c, at))
    store(c, at, one_nan(cell))


@inline
def lstm_units(options, z, k, stride, h, s, at, unit):
    """The second half: h'."""
    return new_h(load(z, k + 3 * stride), load(options[0][0], at))


@routine
def lstm_units_general(options, z, k, stride, h, s, at, unit):
    """The same with any options."""
    (c, P), S, _, (codes, numbers) = options
    i, f, g, o = load(z, k), load(z, k + stride), load(z, k + 2 * stride), load(z, k + 3 * stride)
    value, cell = lstm_cell_general(i, f, g, o, load(c, at), P, unit, S, codes, numbers)
    store(c, at, one_nan(cell))
    return value


cell = Cell(1, lstm_options, is_usual, lstm_units_general, lstm_units, lstm_begin)
steps, quantised_steps = make_recurrence(dense, cell), make_recurrence(quantised, cell)


@kernel
def lstm_forward(kind, narrow, team, args):
    """Run T steps; arguments: those of `make_recurrence`, then c, P, S, plain, codes of f g h, clipped, coupled, peepholes.

    Numbers: alpha and beta of f g h, and the bound.
    """
    steps(kind, narrow, team, args)


@kernel
def lstm_quantised_forward(kind, narrow, team, args):
    """Run T steps with int8 weights and quantised rows of x and h; arguments as `lstm_forward`."""
    quantised_steps(kind, narrow, team, args)

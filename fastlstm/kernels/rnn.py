"""The simple recurrent network, one direction.

    h' = tau(x W + h U + b)

dims as in lstm.py; W (I, H) and U (H, H) packed as panels of 4 vectors of units, S a multiple of 4L, b (S,).
"""

from fastlstm.kernels.activations import TANH, activate, tanh
from fastlstm.kernels.cells import Cell
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import ARGUMENTS
from fastlstm.kernels.quantised import quantised
from fastlstm.kernels.reading import dense
from fastlstm.kernels.recurrence import make_recurrence
from fastlstm.kernels.simd import arguments, clamp, load


@inline
def rnn_options(kind, narrow, args):
    """Return the activation's code, whether its input is bounded, and its numbers."""
    return arguments(args, ARGUMENTS, 2, 3)


@inline
def is_usual(options):
    (code, clipped), _ = options
    return code == TANH and clipped == 0


@inline
def rnn_units(options, z, k, stride, h, s, at, unit):
    """One vector of units of one row: tanh."""
    return tanh(load(z, k))


@routine
def rnn_units_general(options, z, k, stride, h, s, at, unit):
    """The same with any activation, its input bounded where the model says so."""
    (code, clipped), (alpha, beta, bound) = options
    value = load(z, k)
    return activate(code, alpha, beta, clamp(value, -bound, bound) if clipped else value)


cell = Cell(4, rnn_options, is_usual, rnn_units_general, rnn_units)
steps, quantised_steps = make_recurrence(dense, cell), make_recurrence(quantised, cell)


@kernel
def rnn_forward(kind, narrow, team, args):
    """Run T steps; arguments: those of `make_recurrence`, then code and clipped; numbers: alpha, beta, bound."""
    steps(kind, narrow, team, args)


@kernel
def rnn_quantised_forward(kind, narrow, team, args):
    """Run T steps with int8 weights and quantised rows of x and h; arguments as `rnn_forward`."""
    quantised_steps(kind, narrow, team, args)

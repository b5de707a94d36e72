"""The simple recurrent network, one direction.

    h' = tau(x W + h U + b)

dims as in lstm.py; W (I, H) and U (H, H) packed as panels of 4 vectors of units, S a multiple of 4L, b (S,).
"""

from fastlstm.kernels.activations import TANH, activate, tanh
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.quantised import QUANTISED, quantised_rows
from fastlstm.kernels.recurrence import ARGUMENTS, make_finish, make_steps, make_sweep, make_sweep_both
from fastlstm.kernels.scaled import no_tail
from fastlstm.kernels.simd import arguments, clamp, load
from fastlstm.kernels.tile import dense_rows, dense_tail_rows, make_both


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


finish = make_finish(rnn_units_general, rnn_units, is_usual, 4)
sweep, sweep_both = (
    make_sweep(dense_rows, dense_tail_rows, 4, 4, 4, finish),
    make_sweep_both(dense_rows, dense_tail_rows, make_both(), 4, 4, 4, finish),
)
steps = make_steps(dense_rows, dense_tail_rows, 4, 4, 4, rnn_options, sweep, sweep_both)


@kernel
def rnn_forward(kind, narrow, team, args):
    """Run T steps; arguments: those of `recurrence.make_steps`, then code and clipped; numbers: alpha, beta, bound."""
    steps(kind, narrow, team, args)


quantised_sweep = make_sweep(quantised_rows, no_tail, 4, 4, 4, finish)
quantised_steps = make_steps(quantised_rows, no_tail, 4, 4, 4, rnn_options, quantised_sweep, reading=QUANTISED)


@kernel
def rnn_quantised_forward(kind, narrow, team, args):
    """Run T steps with int8 weights and quantised rows of x and h; arguments as `rnn_forward`."""
    quantised_steps(kind, narrow, team, args)

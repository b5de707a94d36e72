"""Weights that are values of the run, packed as constant ones are: a table of runs says where each element goes."""

from fastlstm.kernels.jit import kernel
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import arguments, pointers, words
from fastlstm.kernels.team import share

RUN = 4  # words of a run: its place in y, its start in x, its elements, the stride of x


@kernel
def runs_forward(kind, narrow, team, args):
    """y[to + k] = x[start + k stride] for each run, or += where `add`. Arguments: y, x, runs, how many, add."""
    (y, x, runs, many, add), _ = arguments(args, 0, 5, 0)
    (y, x), runs = pointers(kind, (y, x)), words(runs)
    first, last = share(many, words(team)[WORKER], words(team)[WORKERS])
    for run in range(first, last):
        to, start, count, step = runs[run * RUN], runs[run * RUN + 1], runs[run * RUN + 2], runs[run * RUN + 3]
        if add:
            for k in range(count):
                y[to + k] += x[start + k * step]
        elif step == 1:
            for k in range(count):
                y[to + k] = x[start + k]
        else:
            for k in range(count):
                y[to + k] = x[start + k * step]

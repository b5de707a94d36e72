"""Rows of a table by their numbers: what Gather and Embedding do.

    y[o, r, :] = x[o, rows[r], :]

`rows` are checked and made int64 by a step of their own, which stops the program before anything is read by them.
"""

from fastlstm.kernels.conversion import converted
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.simd import arguments, pointers, words
from fastlstm.kernels.team import WORKER, WORKERS, share


@kernel
def rows_forward(kind, narrow, team, args):
    """Write ids[o, m] of any dtype (`kind`) as int64 `narrow`; below 0 they count from `size`.

    One outside [low, size) becomes the row `spare`, or if that is below 0 row 0, and the verdict is 1.
    Arguments: verdict, ids, outer stride, stride, rows, O, M, low, size, spare.
    """
    (verdict, ids, outer, step, rows, O, M, low, size, spare), _ = arguments(args, 0, 10, 0)
    if words(team)[WORKER] != 0:
        return
    verdict, rows, (ids,) = words(verdict), words(rows), pointers(kind, (ids,))
    for o in range(O):
        for m in range(M):
            value = ids[o * outer + m * step]
            if value >= low and value < size:
                row = converted(narrow, value)
                rows[o * M + m] = row if row >= 0 else row + size
            elif spare >= 0:
                rows[o * M + m] = spare
            else:
                verdict[0], rows[o * M + m] = 1, 0


@kernel
def gather_forward(kind, narrow, team, args):
    """Copy rows of n neighbours; `kind` is an integer of their size. Arguments: x, x_outer, x_row, rows, y, y_outer, y_row, O, R, n."""
    (x, x_outer, x_row, rows, y, y_outer, y_row, O, R, n), _ = arguments(args, 0, 10, 0)
    (x, y), rows = pointers(kind, (x, y)), words(rows)
    first, last = share(R, words(team)[WORKER], words(team)[WORKERS])
    for o in range(O):
        for r in range(first, last):
            to, at = o * y_outer + r * y_row, o * x_outer + rows[r] * x_row
            for k in range(n):
                y[to + k] = x[at + k]

"""Rows of a table by their numbers: what Gather and Embedding do, and their adjoint.

    y[o, r, :] = x[o, rows[r], :]        dx[o, rows[r], :] += dy[o, r, :]

`rows` of the forward pass are checked and made int64 by a step of their own, which stops the program before anything is read by them.
"""

from fastlstm.kernels.conversion import converted
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.simd import arguments, lanes, load_part, pointers, splat, words, write_units
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


@kernel
def scatter_adjoint(kind, narrow, team, args):
    """Fill dx (O, size, n) with the sums of dy (O, R, n), both contiguous, in the order of R. A worker of a team does a part of the rows of dx.

    Rows below 0 count from the end; one outside the table adds nothing. Arguments: dy, rows, dx, O, R, size, n.
    """
    (dy, rows, dx, O, R, size, n), _ = arguments(args, 0, 7, 0)
    (dy, dx), rows = pointers(kind, (dy, dx)), words(rows)
    L = lanes(dx)
    first, last = share(size, words(team)[WORKER], words(team)[WORKERS])
    for o in range(O):
        at, end = (o * size + first) * n, (o * size + last) * n
        for k in range(at, end, L):
            write_units(dx, k, splat(load_part(dx, k, n - n, 0.0), 0.0), end - k)
        for r in range(R):
            row = rows[r]
            if row < 0:
                row += size
            if row < first or row >= last:
                continue
            to, source = (o * size + row) * n, (o * R + r) * n
            for k in range(0, n, L):
                count = min(n - k, L)
                write_units(
                    dx, to + k, load_part(dx, to + k, count, 0.0) + load_part(dy, source + k, count, 0.0), count
                )

"""Rows of a table by their numbers: what Gather and Embedding do, and their adjoint; and the rows of a table that need not exist, OneHot's.

    y[o, r, :] = x[o, rows[r], :]        dx[o, rows[r], :] += dy[o, r, :]        y[o, d, n] = on if d = rows[o, n] else off

`rows` of the forward pass are checked and made int64 by a step of their own, which stops the program before anything is read by them.
"""

from fastlstm.kernels.conversion import converted
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import arguments, lanes, load_part, pointers, splat, words, write_units
from fastlstm.kernels.team import share


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
def one_hot_forward(kind, narrow, team, args):
    """Write one hot for each row number; one of `depth` or more leaves all off. `kind` is an integer of the values' size.

    Arguments: rows, values [off, on], y, y_outer, y_depth, O, depth, N; the last axis of y is contiguous.
    """
    (rows, values, y, y_outer, y_depth, O, depth, N), _ = arguments(args, 0, 8, 0)
    (values, y), rows = pointers(kind, (values, y)), words(rows)
    off, on = values[0], values[1]
    first, last = share(O, words(team)[WORKER], words(team)[WORKERS])
    for o in range(first, last):
        for d in range(depth):
            for n in range(N):
                y[o * y_outer + d * y_depth + n] = off
        for n in range(N):
            row = rows[o * N + n]
            if row < depth:
                y[o * y_outer + row * y_depth + n] = on


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

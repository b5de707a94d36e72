"""The loops of kernels that act element by element on arrays of any strides.

    y[i, j, k, :] = f(a[i, j, k, :], b[i, j, k, :], c[i, j, k, :])

A stride of 0 repeats an operand along an axis: broadcasting.
"""

from fastlstm.kernels.jit import routine
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import words
from fastlstm.kernels.team import share

AXES = 4
NUMBERS = 5 * AXES  # sizes of the axes, then the strides of y, a, b and c in elements


def make_map(row):
    """Return the function that runs `row` over all axes but the last.

    row(code, y, y0, y_step, a, a0, a_step, b, b0, b_step, c, c0, c_step, n) computes n elements.
    """

    @routine
    def over(code, y, a, b, c, numbers, team):
        d, e, f, n, yd, ye, yf, ys, ad, ae, af, as_, bd, be, bf, bs, cd, ce, cf, cs = numbers
        worker, workers = words(team)[WORKER], words(team)[WORKERS]
        rows, elements = share(d * e * f, worker, workers), (n - n, n)
        if d * e * f < workers:
            rows, elements = (n - n, d * e * f), share(n, worker, workers)
        at, count = elements[0], elements[1] - elements[0]
        if count == 0:
            return
        i, j, k = rows[0] // max(e * f, 1), rows[0] // max(f, 1) % max(e, 1), rows[0] % max(f, 1)
        for _ in range(rows[0], rows[1]):
            row(
                code, y, i * yd + j * ye + k * yf + at * ys, ys, a, i * ad + j * ae + k * af + at * as_, as_,
                b, i * bd + j * be + k * bf + at * bs, bs, c, i * cd + j * ce + k * cf + at * cs, cs, count,
            )  # fmt: skip
            k += 1
            if k == f:
                j, k = j + 1, k - k
                if j == e:
                    i, j = i + 1, j - j

    return over

"""What gives truth, and what depends on it: comparisons, logic, and the choice between two values.

    y = a == b, a != b, a < b, a > b        y = a and b, a or b, not a        y = a where c, else b

Floats are compared through their bits: kernels run with denormals switched off, and a mask must not take 1e-40 for 0.
"""

from fastlstm.kernels.codes import AND, EQUAL, LESS, NOT_EQUAL, OR
from fastlstm.kernels.jit import inline, kernel, routine
from fastlstm.kernels.layout import WORKER, WORKERS
from fastlstm.kernels.simd import arguments, byte_pointer, pointers, words
from fastlstm.kernels.strided import NUMBERS, make_map
from fastlstm.kernels.team import share


@inline
def rank_of(bits, largest, infinity):
    """An integer in the order of the floats whose bits these are, 0 for both zeros; beyond +-infinity for NaN.

    `largest` is the largest integer of the float's size. Integers (infinity 0) are their own rank.
    """
    value = bits + (largest - largest)
    if infinity == 0:
        return value
    return value if value >= 0 else (value ^ largest) + 1


@inline
def is_nan(rank, infinity):
    return infinity != 0 and (rank > infinity or rank < -infinity)


@inline
def holds(code, p, q, infinity):
    if is_nan(p, infinity) or is_nan(q, infinity):
        return code == NOT_EQUAL
    if code == EQUAL:
        return p == q
    if code == NOT_EQUAL:
        return p != q
    return p < q if code == LESS else p > q


@routine
def compare_row(options, y, y0, y_step, a, a0, a_step, b, b0, b_step, c, c0, c_step, n):
    code, largest, infinity = options
    for k in range(n):
        p, q = rank_of(a[a0 + k * a_step], largest, infinity), rank_of(b[b0 + k * b_step], largest, infinity)
        y[y0 + k * y_step] = 1 if holds(code, p, q, infinity) else 0


compare = make_map(compare_row)


@kernel
def compare_forward(kind, narrow, team, args):
    """`kind` is an integer of the operands' size. Arguments: y (bool), a, b, c, code, largest, infinity, the numbers of `strided`."""
    (y, a, b, _, code, largest, infinity), _ = arguments(args, 0, 7, 0)
    y, (a, b) = byte_pointer(y), pointers(kind, (a, b))
    compare((code, largest, infinity), y, a, b, b, arguments(args, 7, NUMBERS, 0)[0], team)


@routine
def logic_row(code, y, y0, y_step, a, a0, a_step, b, b0, b_step, c, c0, c_step, n):
    for k in range(n):
        p, q = a[a0 + k * a_step], b[b0 + k * b_step]
        y[y0 + k * y_step] = p & q if code == AND else p | q if code == OR else 1 - p


logic = make_map(logic_row)


@kernel
def logic_forward(kind, narrow, team, args):
    """Booleans. Arguments: y, a, b, c, code, the numbers of `strided`."""
    (y, a, b, _, code), _ = arguments(args, 0, 5, 0)
    y, a, b = byte_pointer(y), byte_pointer(a), byte_pointer(b)
    logic(code, y, a, b, b, arguments(args, 5, NUMBERS, 0)[0], team)


@routine
def where_row(code, y, y0, y_step, a, a0, a_step, b, b0, b_step, c, c0, c_step, n):
    if c_step == 0 and c[c0] != 0:
        for k in range(n):
            y[y0 + k * y_step] = a[a0 + k * a_step]
    elif c_step == 0:
        for k in range(n):
            y[y0 + k * y_step] = b[b0 + k * b_step]
    else:
        for k in range(n):
            y[y0 + k * y_step] = a[a0 + k * a_step] if c[c0 + k * c_step] != 0 else b[b0 + k * b_step]


where = make_map(where_row)


@kernel
def where_forward(kind, narrow, team, args):
    """`kind` is an integer of the values' size: their bits are copied. Arguments: y, a, b, c (bool), the numbers of `strided`."""
    (y, a, b, c), _ = arguments(args, 0, 4, 0)
    (y, a, b), c = pointers(kind, (y, a, b)), byte_pointer(c)
    where(0, y, a, b, c, arguments(args, 4, NUMBERS, 0)[0], team)


@kernel
def any_not_equal_forward(kind, narrow, team, args):
    """y[o, m] = whether any of n neighbours x[o, m, :] differs from a value, given by its rank.

    `kind` is an integer of the size of x. Arguments: x, x_outer, x_row, y (bool), O, M, n, value, largest, infinity.
    """
    (x, x_outer, x_row, y, O, M, n, value, largest, infinity), _ = arguments(args, 0, 10, 0)
    (x,), y = pointers(kind, (x,)), byte_pointer(y)
    first, last = share(O * M, words(team)[WORKER], words(team)[WORKERS])
    for row in range(first, last):
        at, found = row // M * x_outer + row % M * x_row, False
        for k in range(n):
            # a NaN has a rank that no number has
            if rank_of(x[at + k], largest, infinity) != value:
                found = True
                break
        y[row] = 1 if found else 0

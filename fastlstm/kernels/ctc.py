"""Connectionist temporal classification (Graves et al., 2006): the loss of a row's labels, and its slope for the logits.

A path visits the symbols s = 0 ... S-1 of a row in order: its labels, with a blank before, between and after them, S = 2 labels + 1. It may
skip a blank between two labels that differ. p = softmax(x) over the classes, e_t(s) = log p_t(class of s):

    a_t(s) = e_t(s) + log(e^a(s) + e^a(s-1) + [may skip to s] e^a(s-2))                    a = a_(t-1)
    b_t(s) = log(e^z(s) + e^z(s+1) + [may skip to s+2] e^z(s+2))                           z = b_(t+1) + e_(t+1)
    loss = -log(e^a(S-1) + e^a(S-2)),  a at the last step        dx_t(k) = p_t(k) - sum over s of class k of softmax(a_t + b_t)(s)

A path begins at a place before the first symbol and ends at one behind the last. Rows of a and of z are shifted to a largest element of 0,
and the shifts of a summed in float64: so no number grows with the steps. Masked steps are left out.
"""

from fastlstm.kernels.entropy import softmax_row
from fastlstm.kernels.exponential import exp
from fastlstm.kernels.jit import inline, kernel
from fastlstm.kernels.layout import PLACE, WORKER, WORKERS
from fastlstm.kernels.logarithm import log
from fastlstm.kernels.rows import across_max, across_sum
from fastlstm.kernels.simd import (
    arguments,
    byte_pointer,
    lane,
    lanes,
    larger,
    load_part,
    pointers,
    splat,
    where_nan,
    words,
    write_units,
)
from fastlstm.kernels.team import share

NEVER = -float("inf")  # the logarithm of no probability
AROUND = 2  # places before the symbols of a row of a, and behind those of z


@inline
def log_sum(a, b, c):
    """log(e^a + e^b + e^c), minus infinity where all three are."""
    top = larger(larger(a, b), c)
    # what is subtracted from minus infinity is 0; a NaN is found in the sum again
    top = where_nan(top - top, splat(top, 0.0), top)
    return top + log(exp(a - top) + exp(b - top) + exp(c - top))


@inline
def log_total(x, at, n):
    """log sum_k e^x_k over a row of n."""
    L = lanes(x)
    best = load_part(x, at, min(L, n), NEVER)
    for k in range(L, n, L):
        best = larger(best, load_part(x, at + k, min(n - k, L), NEVER))
    top = splat(best, across_max(best, L))
    total = splat(best, 0.0)
    for k in range(0, n, L):
        total = total + exp(load_part(x, at + k, min(n - k, L), NEVER) - top)
    return lane(top + log(splat(total, across_sum(total, L))), 0)


@inline
def fill(y, at, count, value):
    for k in range(count):
        y[at + k] = value


@inline
def largest(y, at, count):
    L = lanes(y)
    best = load_part(y, at, min(L, count), NEVER)
    for k in range(L, count, L):
        best = larger(best, load_part(y, at + k, min(count - k, L), NEVER))
    return across_max(best, L)


@inline
def shift(y, at, count):
    """Subtract the largest element, unless all are minus infinity; return it."""
    L, top = lanes(y), largest(y, at, count)
    if top == NEVER:
        return top
    for k in range(0, count, L):
        part = load_part(y, at + k, min(count - k, L), NEVER)
        write_units(y, at + k, part - splat(part, top), min(count - k, L))
    return top


@inline
def symbol(classes, at, s, blank):
    """Return the class of a symbol."""
    return classes[at + s // 2] if s % 2 == 1 else blank


@inline
def labels_of(classes, at, most, blank, n):
    """Return how many labels stand before the first blank, -1 if one is no class."""
    for k in range(most):
        if classes[at + k] == blank:
            return k
        if classes[at + k] < 0 or classes[at + k] >= n:
            return -1
    return most


@kernel
def ctc_forward(kind, narrow, team, args):
    """loss[row], and where wanted slope[row] = dloss/dx, for B rows x (T, n) of logits and their labels `classes` (most,), int64.

    A label that is no class gives NaN, labels without a path a loss of infinity and a slope of NaN. mask (B, T) is read where `masked`. A worker
    takes `size` elements of `work`. Arguments: x, classes, mask, masked, loss, slope, wanted, work, size, B, T, n, most, blank.
    """
    (x, classes, mask, masked, loss, slope, wanted, work, size, B, T, n, most, blank), _ = arguments(args, 0, 14, 0)
    (x, loss, slope, work), classes, mask = pointers(kind, (x, loss, slope, work)), words(classes), byte_pointer(mask)
    L = lanes(x)
    first, last = share(B, words(team)[WORKER], words(team)[WORKERS])
    # rows of e and a are kept for every step where the slope needs them
    kept = 1 if wanted != 0 else 0
    skips = words(team)[PLACE] * size
    z = skips + 2 * most + 2
    joint = z + 2 * most + 1 + AROUND
    e = joint + 2 * most + 1
    a = e + (kept * T + 1) * (2 * most + 1) + AROUND
    for row in range(first, last):
        label = row * most
        labels = labels_of(classes, label, most, blank, n)
        S = 2 * max(labels, 0) + 1
        pitch = S + AROUND
        fill(work, skips, S + 1, NEVER)
        for s in range(1, S, 2):
            if s == 1 or classes[label + s // 2] != classes[label + s // 2 - 1]:
                work[skips + s] = 0.0
        work[skips + S] = 0.0  # from the last label to the end
        fill(work, a - AROUND, pitch, NEVER)
        work[a - 1] = 0.0
        total, steps = 0.0, 0
        for t in range(T):
            if masked != 0 and mask[row * T + t] == 0:
                continue
            at = (row * T + t) * n
            now = e + kept * steps * S
            norm = log_total(x, at, n)
            for s in range(S):
                work[now + s] = x[at + symbol(classes, label, s, blank)] - norm if labels >= 0 else norm
            before = a + (steps if kept else steps % 2) * pitch
            after = a + (steps + 1 if kept else (steps + 1) % 2) * pitch
            fill(work, after - AROUND, AROUND, NEVER)
            for s in range(0, S, L):
                count = min(S - s, L)
                skipped = load_part(work, before + s - 2, count, NEVER) + load_part(work, skips + s, count, NEVER)
                one, two = load_part(work, before + s, count, NEVER), load_part(work, before + s - 1, count, NEVER)
                value = log_sum(one, two, skipped) + load_part(work, now + s, count, NEVER)
                write_units(work, after + s, value, count)
            total += shift(work, after, S)
            steps += 1
        end = a + (steps if kept else steps % 2) * pitch
        one = load_part(work, end + S - 1, 1, NEVER)
        whole = log_sum(one, load_part(work, end + S - 2, 1, NEVER), splat(one, NEVER))
        loss[row] = -(total + lane(whole, 0)) if labels >= 0 else float("nan")
        if kept == 0:
            continue
        if not loss[row] < float("inf"):
            fill(slope, row * T * n, T * n, float("nan"))
            continue
        fill(work, z, S + AROUND, NEVER)
        work[z + S] = 0.0
        for back in range(T):
            t = T - 1 - back
            at = (row * T + t) * n
            if masked != 0 and mask[row * T + t] == 0:
                fill(slope, at, n, 0.0)
                continue
            steps -= 1
            now, after = e + steps * S, a + (steps + 1) * pitch
            for s in range(0, S, L):
                count = min(S - s, L)
                skipped = load_part(work, z + s + 2, count, NEVER) + load_part(
                    work, skips + s + 2, min(S - 1 - s, L), NEVER
                )
                one, two = load_part(work, z + s, count, NEVER), load_part(work, z + s + 1, count, NEVER)
                value = log_sum(one, two, skipped)
                write_units(work, joint + s, value + load_part(work, after + s, count, NEVER), count)
                # what follows reads from z + s + L on
                write_units(work, z + s, value + load_part(work, now + s, count, NEVER), count)
            work[z + S] = NEVER
            shift(work, z, S)
            softmax_row(x, slope, at, n)
            softmax_row(work, work, joint, S)
            for s in range(S):
                slope[at + symbol(classes, label, s, blank)] -= work[joint + s]

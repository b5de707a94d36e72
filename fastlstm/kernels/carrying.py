"""States carried from call to call: rows of many streams, to and from the buffers in which a program computes them.

The words CARRIED are written for each call: the address of the numbers of its rows, 0 where they are all rows in their order; then for
each state where the rows of all streams are, and their stride in bytes.
"""

from fastlstm.kernels.copy import copy_run
from fastlstm.kernels.jit import kernel
from fastlstm.kernels.layout import CARRIED, NUMBERS, WORKER, WORKERS
from fastlstm.kernels.simd import arguments, byte_pointer, words
from fastlstm.kernels.team import share


@kernel
def carry_forward(kind, narrow, team, args):
    """Copy the rows of one state into a program's buffer, or out of it.

    Arguments: carried words, the state's place among them, buffer, its stride, bytes of a row, rows, whether out.
    """
    (carried, state, buffer, stride, size, B, out), _ = arguments(args, 0, 7, 0)
    carried = words(carried)
    numbers, base, step = carried[NUMBERS], carried[CARRIED + 2 * state], carried[CARRIED + 2 * state + 1]
    first, last = share(B, words(team)[WORKER], words(team)[WORKERS])
    for b in range(first, last):
        row = words(numbers)[b] if numbers != 0 else b
        here, there = byte_pointer(buffer + b * stride), byte_pointer(base + row * step)
        if out:
            copy_run(there, here, size, 1, 1, 1)
        else:
            copy_run(here, there, size, 1, 1, 1)


@kernel
def distinct_forward(kind, narrow, team, args):
    """Write to found[1] whether numbers of rows are distinct and in [0, batch). Arguments: found, numbers, marks, batch.

    found[0] is how many there are; marks has a byte for each row of the batch: 0, before and after.
    """
    (found, numbers, marks, batch), _ = arguments(args, 0, 4, 0)
    found, numbers, marks = words(found), words(numbers), byte_pointer(marks)
    count, distinct = found[0], 1
    for k in range(count):
        row = numbers[k]
        if row < 0 or row >= batch or marks[row] != 0:
            distinct = 0
            count = k  # those after it leave no mark
            break
        marks[row] = 1
    for k in range(count):
        marks[numbers[k]] = 0
    found[1] = distinct

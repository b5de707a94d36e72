"""The words that Python writes and compiled code reads. Imports no Numba.

A program is a table of 64-bit words. Word 0 counts its steps; each step has STEP words from word STEP on: the address of a
kernel, the address of its arguments, its owner (the worker that does it alone, or SHARED), and whether all workers must have
finished what comes before. Its words REFUSED and GATE are explained in kernels/walk.py.
"""

import numpy as np

from fastlstm.kernels import target

STEP = 4
REFUSED, GATE = 1, 2  # words of a program, before its steps
KERNEL, ARGS, OWNER, WAITS = range(STEP)
SHARED = -1
CONTROL_WORDS = 5 * 8  # by which a team is led (kernels/walk.py)
# The number of the job, its program and first step, how many are done, how many sleep: a cache line each.
JOB, PROGRAM, FIRST, DONE, SLEEPING = range(0, CONTROL_WORDS, 8)
RANK = 6  # axes of a copy, at most
NUMBERS, CARRIED = 0, 1  # words of where states are carried (kernels/carrying.py)
TOGETHER = 8  # panels that a product of two values of the run packs at once

# Quantised rows (kernels/quantised.py): a header of HEADER bytes, then 4 bytes for each group of neighbouring codes. A group is four bytes where
# an instruction multiplies those exactly, else two codes of 16 bits. States have shorter codes than inputs, so that more instructions do.
GROUP = 4 if target.DOT else 2
STATE_GROUP = 4 if target.DOT or target.BYTE_PAIRS else 2
HEADER = 16
_LANES = target.lanes(4)

# A recurrence: ARGUMENTS integers, then the cell's own; TURN says which way the first step takes the panels: each run leaves it for the next
ARGUMENTS = 37
RAGGED, BATCH, MASKED, TURN = 17, 24, 31, ARGUMENTS - 1  # words that are read alone
UNMASKED, ZERO, CARRY = -1, 0, 1  # outputs of masked steps: none are masked, zeros (ONNX), or the output before (Keras)
SPLIT_ROWS, SPLIT_PANELS = 0, 1  # what the workers of a team divide

# What a worker of a team knows: its words, explained in kernels/team.py
WORKER, WORKERS, BARRIER, PLACE, ALONE, FROM, TO, SPENT, TAKEN = range(9)
SHARES = 1 << 12  # of all rows: what FROM and TO count
_solo = np.zeros(9, np.int64)
SOLO = _solo[ALONE] = _solo.ctypes.data  # the words of a worker alone
_solo[WORKERS], _solo[TO] = 1, SHARES


def row_bytes(K: int, parts: int) -> int:
    """Return the bytes of the `parts` quantised rows that stand for one of K elements: whole vectors of codes are written."""
    return parts * (HEADER + (K + _LANES - 1) // _LANES * _LANES * 4 // GROUP)

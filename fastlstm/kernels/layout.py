"""The words that Python writes and compiled code reads. Imports no Numba.

A program is a table of 64-bit words. Word 0 counts its steps; each step has STEP words from word STEP on: the address of a
kernel, the address of its arguments, its owner (the worker that does it alone, or SHARED), and whether all workers must have
finished what comes before. Its words REFUSED and GATE are explained in kernels/walk.py.
"""

import numpy as np

STEP = 4
REFUSED, GATE = 1, 2  # words of a program, before its steps
KERNEL, ARGS, OWNER, WAITS = range(STEP)
SHARED = -1
CONTROL_WORDS = 5 * 8  # by which a team is led (kernels/walk.py)
RANK = 6  # axes of a copy, at most

_solo = np.array([0, 1, 0, 0, 0], np.int64)  # in the order of kernels/team.py
SOLO = _solo[4] = _solo.ctypes.data  # the words of a worker alone

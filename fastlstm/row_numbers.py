"""The rows of a stream that a call is for: checked by compiled code, and kept at one address for the kernels that carry states."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from fastlstm.errors import InputError
from fastlstm.program import SOLO, KernelStep, Program, calls

WORD = np.dtype(np.int64)


class RowNumbers:
    """Numbers of rows of `batch`, in the order of a call."""

    def __init__(self, batch: int):
        self._batch = batch
        self._numbers = np.empty(batch, WORD)
        self.address = self._numbers.ctypes.data
        self._found = np.zeros(2, WORD)  # how many there are, whether they are distinct and in range

    @cached_property
    def _check(self) -> tuple[int, int]:
        program = Program()
        marks = np.zeros(self._batch, np.uint8)
        args = [self._found, self._numbers, marks, self._batch]
        program.steps.append(KernelStep("", "distinct_forward", WORD, WORD, args))
        program.seal()
        self._program = program  # it holds the words that the call reads
        assert program.only_call is not None
        return program.only_call

    def take(self, rows: Sequence[int]) -> np.ndarray:
        """Return numbers of rows as int64, until the next call. Raise InputError unless they are distinct numbers of rows."""
        try:
            index = np.asarray(rows)
        except ValueError as error:
            raise InputError(f"rows={rows!r}: expected a list of stream numbers") from error
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise InputError(f"rows={rows!r}: expected a list of stream numbers")
        count = len(index)
        if count <= self._batch:
            self._numbers[:count] = index
            self._found[0] = count
            calls.walk(*self._check, SOLO)
            if self._found[1]:
                return self._numbers[:count]
        index = index.astype(WORD)
        bad = index[(index < 0) | (index >= self._batch)]
        if bad.size:
            raise InputError(f"row {bad[0]} is out of range: this stream has rows 0 to {self._batch - 1}")
        raise InputError(f"rows={rows!r}: a stream appears twice; pass its steps as a chunk, or in two calls")

    def repeat_first(self, count: int, room: int) -> None:
        """Let the numbers from `count` up to `room` be the first."""
        self._numbers[count:room] = self._numbers[0]

"""Cells for RNN: what a recurrent layer does at one step. Here a cell is a layer that leaves the loop over time to RNN.

>>> layers.RNN([layers.LSTMCell(32), layers.LSTMCell(16)], return_sequences=True)
"""

from collections.abc import Sequence
from typing import Any

from fastlstm.errors import InputError, UnsupportedError
from fastlstm.layers.layer import Layer
from fastlstm.layers.recurrent import GRU, LSTM, Recurrent, SimpleRNN

OF_LOOP = (
    "return_sequences", "return_state", "go_backwards", "stateful", "unroll", "zero_output_for_mask", "input_shape", "time_major",
)  # fmt: skip


class Cell(Recurrent):
    """What cells share: they take what decides a step, and RNN calls them."""

    def __init__(self, units: int, *positional: Any, **options: Any):
        for argument in OF_LOOP:
            if argument in options:
                raise InputError(f"{type(self).__name__}: {argument} is an argument of RNN, which calls the cell")
        super().__init__(units, *positional, **options)

    def __call__(self, *given: Any, **options: Any) -> Any:
        raise self.fault(UnsupportedError, f"is called by RNN alone: RNN({type(self).__name__}({self.units}))(x)")


class LSTMCell(Cell, LSTM):
    """The step of an LSTM."""


class GRUCell(Cell, GRU):
    """The step of a GRU."""


class SimpleRNNCell(Cell, SimpleRNN):
    """The step of a SimpleRNN."""


class StackedRNNCells(Layer):
    """Cells one on the other, as one cell; `RNN(StackedRNNCells(cells))` is `RNN(cells)`."""

    def __init__(self, cells: Sequence[Recurrent], name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.cells = list(cells)
        for cell in self.cells:
            if not isinstance(cell, Recurrent):
                raise self.fault(UnsupportedError, f"a cell of class {type(cell).__name__} is not supported")

    @property
    def parts(self) -> tuple[Layer, ...]:
        return tuple(self.cells)

    def call(self, x: Any) -> Any:
        raise self.fault(UnsupportedError, "is called by RNN alone: RNN(StackedRNNCells(cells))(x)")

"""Program: the steps of a frame. Kernels stand in tables that one compiled call walks; NumPy steps stand between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlstm.kernels import activations, copy, dense, gru, lstm, ragged, rnn, rows, team
from fastlstm.kernels.jit import Kernel
from fastlstm.kernels.walk import STEP, walk

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        activations.activate_forward,
        copy.copy_forward,
        dense.dense_forward,
        gru.gru_after_forward,
        gru.gru_before_forward,
        lstm.lstm_forward,
        ragged.ragged_forward,
        rnn.rnn_forward,
        rows.normalise_forward,
        rows.softmax_forward,
    )
}


@dataclass
class KernelStep:
    """A call of a kernel: integers and addresses of arrays, then float64 numbers."""

    node: str
    kernel: str
    kind: np.dtype
    narrow: np.dtype
    args: list[int | float | np.ndarray]


@dataclass
class HostStep:
    """A call of a NumPy function."""

    node: str
    function: Callable[..., None]
    args: tuple[Any, ...]


@dataclass
class Reference:
    """A word of a table that holds an address: where it points to in the buffer it was made for."""

    table: np.ndarray
    word: int
    address: int


@dataclass
class Program:
    """Steps in order; `seal` makes the tables, `run` walks them."""

    steps: list[KernelStep | HostStep] = field(default_factory=list)
    calls: list[tuple[Callable[..., Any], tuple]] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)

    def seal(self) -> None:
        """Make the tables: one for each run of kernels without a NumPy step between them."""
        run: list[KernelStep] = []
        for step in self.steps:
            if isinstance(step, KernelStep):
                run.append(step)
                continue
            self._table(run)
            run = []
            self.calls.append((step.function, step.args))
        self._table(run)

    def _table(self, steps: Sequence[KernelStep]) -> None:
        if not steps:
            return
        at = STEP * (1 + len(steps))
        table = np.zeros(at + sum(len(step.args) for step in steps), np.int64)
        table[0] = len(steps)
        base = _address(table)
        for k, step in enumerate(steps, 1):
            table[k * STEP] = KERNELS[step.kernel].address(step.kind.name, step.narrow.name)
            table[k * STEP + 1] = base + at * table.itemsize
            for arg in step.args:
                if isinstance(arg, np.ndarray):
                    table[at] = _address(arg)
                    self.references.append(Reference(table, at, int(table[at])))
                    self.kept.append(arg)
                elif isinstance(arg, float):
                    table[at : at + 1].view(np.float64)[0] = arg
                else:
                    table[at] = arg
                at += 1
        self.kept.append(table)
        self.calls.append((walk, (base, team.SOLO)))

    def run(self) -> None:
        """Run every step."""
        for call, args in self.calls:
            call(*args)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]

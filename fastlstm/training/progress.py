"""Progress of fit, evaluate and predict on stdout, as Keras prints it: a bar of the library rich on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from fastlstm.callbacks import Callback


class ProgressBar(Callback):
    """Steps, time per step, time left, losses and metrics.

    `verbose` 1: a bar that moves, and a line for each epoch; 2: the lines alone.
    """

    def __init__(self, verbose: int, epochs: int = 1, steps: int | None = None):
        super().__init__()
        self._verbose, self._epochs, self._steps = verbose, epochs, steps
        self._bar: Any = None
        self._task: Any = None
        self._seen, self._start = 0, 0.0
        self._training = False

    # ---- the hooks -----------------------------------------------------------------------------------
    def on_train_begin(self, logs: Mapping | None = None) -> None:
        self._training = True

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        if self._epochs > 1:
            print(f"Epoch {epoch + 1}/{self._epochs}", flush=True)
        self._begin()

    def on_test_begin(self, logs: Mapping | None = None) -> None:
        if not self._training:
            self._begin()

    def on_predict_begin(self, logs: Mapping | None = None) -> None:
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        self._move(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        if not self._training:
            self._move(batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        self._move(batch, None)

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        self._end(logs)

    def on_test_end(self, logs: Mapping | None = None) -> None:
        if not self._training:
            self._end(logs)

    def on_predict_end(self, logs: Mapping | None = None) -> None:
        self._end(None)

    def on_train_end(self, logs: Mapping | None = None) -> None:
        self._stop_bar()

    # ---- what is shown -------------------------------------------------------------------------------
    def _begin(self) -> None:
        self._seen, self._start = 0, perf_counter()
        if self._verbose == 1 and sys.stdout.isatty():
            self._start_bar()

    def _start_bar(self) -> None:
        try:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            return
        self._bar = Progress(
            MofNCompleteColumn(), BarColumn(20), TimeRemainingColumn(), TextColumn("{task.description}"), transient=True
        )
        self._task = self._bar.add_task("", total=self._steps)
        self._bar.start()

    def _move(self, batch: int, logs: Mapping | None) -> None:
        self._seen = batch + 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._seen, description=f"{self._pace()}{_shown(logs)}")

    def _end(self, logs: Mapping | None) -> None:
        self._stop_bar()
        self._steps = self._steps or self._seen
        seconds = perf_counter() - self._start
        print(f"{self._seen}/{self._steps} - {seconds:.0f}s - {self._pace()}{_shown(logs)}", flush=True)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _pace(self) -> str:
        each = (perf_counter() - self._start) / max(1, self._seen)
        if each >= 1:
            return f"{each:.0f}s/step"
        return f"{each * 1e3:.0f}ms/step" if each >= 1e-3 else f"{each * 1e6:.0f}us/step"


def _shown(logs: Mapping | None) -> str:
    number = lambda value: f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"
    return "".join(f" - {name}: {number(float(value))}" for name, value in (logs or {}).items() if _is_number(value))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True

"""Callbacks: what is called while a network trains, with Keras's hooks and names.

`self.model` is the network, `self.params` a dict of verbose, epochs and steps; logs hold losses and metrics by name. A callback ends
training by `self.model.stop_training = True`.
"""

import csv
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from fastlstm.errors import InputError, MissingExtraError, TrainingError

Logs = Mapping[str, Any] | None
# hooks that take logs alone; the others take the number of an epoch or batch first
ABOUT_ALL = {f"on_{call}_{when}" for call in ("train", "test", "predict") for when in ("begin", "end")}


class Callback:
    """The base of callbacks: override the hooks that are of interest."""

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        """Take the network."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Take verbose, epochs and steps."""
        self.params = params

    def on_train_begin(self, logs: Logs = None) -> None: ...
    def on_train_end(self, logs: Logs = None) -> None: ...
    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None: ...
    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None: ...
    def on_batch_begin(self, batch: int, logs: Logs = None) -> None: ...
    def on_batch_end(self, batch: int, logs: Logs = None) -> None: ...
    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None: ...
    def on_test_end(self, logs: Logs = None) -> None: ...
    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None: ...
    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None: ...
    def on_predict_begin(self, logs: Logs = None) -> None: ...
    def on_predict_end(self, logs: Logs = None) -> None: ...
    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None: ...
    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None: ...


class CallbackList:
    """Calls one hook of several callbacks, in order: `callbacks.on_epoch_end(epoch, logs)`."""

    def __init__(self, callbacks: Sequence[Any], model: Any, params: dict[str, Any]):
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if isinstance(callback, type):
                raise InputError(
                    f"callbacks hold the class {callback.__name__}, expected an object: {callback.__name__}(...)"
                )
            if not hasattr(callback, "set_model") or not hasattr(callback, "set_params"):
                raise InputError(f"callbacks hold {callback!r}, expected a Callback")
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(params)
        # hooks that nobody overrides are not called: a step of a small network takes microseconds
        self._heard = {hook: self._listeners(hook) for hook in dir(Callback) if hook.startswith("on_")}

    def _listeners(self, hook: str) -> list[Callable[..., None]]:
        plain = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
        names = {hook, plain.get(hook, hook)}
        own = lambda callback: any(
            n in vars(callback) or getattr(type(callback), n, None) is not getattr(Callback, n) for n in names
        )
        return [getattr(callback, hook) for callback in self.callbacks if hasattr(callback, hook) and own(callback)]

    def hears(self, hook: str) -> bool:
        """Tell whether a callback has this hook."""
        return bool(self._heard[hook])

    def __getattr__(self, hook: str) -> Callable[..., None]:
        heard = self.__dict__.get("_heard", {})
        if hook not in heard:
            raise AttributeError(hook)

        about_all = hook in ABOUT_ALL

        def call(*arguments: Any) -> None:
            logs = () if len(arguments) > 1 or (about_all and arguments) else (None,)
            for listener in heard[hook]:
                listener(*arguments, *logs)

        return call


class LambdaCallback(Callback):
    """Hooks given as functions: `LambdaCallback(on_epoch_end=lambda epoch, logs: ...)`."""

    def __init__(self, **hooks: Callable[..., None]):
        super().__init__()
        for name in hooks:
            if not name.startswith("on_") or not hasattr(Callback, name):
                raise InputError(f"LambdaCallback: no hook {name!r}")
        vars(self).update(hooks)


class History(Callback):
    """Losses and metrics of every epoch: `history` by name, `epoch` their numbers. What `fit` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        with nullcontext() if self.model is None else self.model.uninterrupted:
            self.epoch.append(epoch)
            for name, value in (logs or {}).items():
                self.history.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        return f"History({len(self.epoch)} epochs of {', '.join(self.history)})"

    def plot(self, path: str | os.PathLike | None = None, names: Sequence[str] | None = None) -> Any:
        """Draw losses and metrics over epochs, validation beside training; save the figure to `path` or return it.

        Raise MissingExtraError where matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise MissingExtraError("matplotlib", "plot", "History.plot") from None
        chosen = [n for n in names or self.history if not n.startswith("val_") and n in self.history]
        if not chosen:
            raise InputError("there is nothing to plot: no epoch has ended")
        figure, axes = plt.subplots(1, len(chosen), figsize=(5 * len(chosen), 3.5), squeeze=False, layout="constrained")
        epochs = [epoch + 1 for epoch in self.epoch]
        for ax, name in zip(axes[0], chosen, strict=True):
            for key, label in ((name, "training"), (f"val_{name}", "validation")):
                values = self.history.get(key, [])
                if values:
                    ax.plot(epochs[-len(values) :], values, label=label, marker="." if len(values) < 30 else "")
            ax.set_xlabel("epoch")
            ax.set_ylabel(name)
            ax.legend()
        if path is None:
            return figure
        figure.savefig(path)
        plt.close(figure)
        return None


class _Monitor(Callback):
    """Watches one entry of the logs; in mode "auto" accuracies, precision, recall and AUC are to grow, all else to shrink."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise InputError(f"mode={mode!r} of {type(self).__name__}: expected 'auto', 'min' or 'max'")
        grows = ("acc", "precision", "recall", "auc", "fmeasure", "f1", "r2")
        self.monitor = monitor
        self.grows = mode == "max" or (mode == "auto" and any(word in monitor.lower() for word in grows))
        self.min_delta = abs(min_delta)
        self.best: float | None = None

    def is_better(self, value: float, than: float | None) -> bool:
        """Tell whether a value is better by more than min_delta."""
        if than is None:
            return True
        return value - self.min_delta > than if self.grows else value + self.min_delta < than

    def value(self, logs: Logs) -> float | None:
        """Return the entry, None with a warning where there is none."""
        found = (logs or {}).get(self.monitor)
        if found is None:
            warnings.warn(
                f"{type(self).__name__} watches {self.monitor!r}, which is not there; there are {', '.join(logs or {})}",
                stacklevel=4,
            )
        return None if found is None else float(found)

    def say(self, text: str) -> None:
        """Print a message."""
        print(text, file=sys.stdout, flush=True)


class EarlyStopping(_Monitor):
    """End training once `monitor` has not become better for `patience` epochs; `restore_best_weights` goes back to the best one's."""

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ):
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self.on_train_begin()

    def on_train_begin(self, logs: Logs = None) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best, self.best_weights = None, None

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        current = self.value(logs)
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self.best_weights, self.best_epoch = self.model.snapshot(), epoch
        self.wait += 1
        if self.is_better(current, self.best):
            self.best, self.best_epoch = current, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.snapshot()
            if self.baseline is None or self.is_better(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs = None) -> None:
        if self.stopped_epoch and self.verbose:
            self.say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                self.say(f"Restoring the weights of the best epoch: {self.best_epoch + 1}.")
            self.model.restore(self.best_weights)


class ReduceLROnPlateau(_Monitor):
    """Multiply the learning rate by `factor` once `monitor` has not become better for `patience` epochs."""

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        if not factor < 1:
            raise InputError(f"factor={factor!r} of ReduceLROnPlateau: expected less than 1")
        super().__init__(monitor, mode, min_delta)
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.on_train_begin()

    def on_train_begin(self, logs: Logs = None) -> None:
        self.best, self.wait, self.cooldown_counter = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        optimizer = self.model.optimizer
        if isinstance(logs, dict):
            logs["learning_rate"] = optimizer.learning_rate
        current = self.value(logs)
        if current is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.is_better(current, self.best):
            self.best, self.wait = current, 0
        elif self.cooldown_counter <= 0:
            self.wait += 1
            if self.wait >= self.patience and optimizer.learning_rate > self.min_lr:
                optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
                if self.verbose:
                    self.say(f"Epoch {epoch + 1}: the learning rate is now {optimizer.learning_rate:g}.")
                self.cooldown_counter, self.wait = self.cooldown, 0


class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch to `schedule(epoch, learning_rate)`."""

    def __init__(self, schedule: Callable[..., float], verbose: int = 0):
        super().__init__()
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        optimizer = self.model.optimizer
        try:
            rate = self.schedule(epoch, optimizer.learning_rate)
        except TypeError:  # Keras's first form: a function of the epoch alone
            rate = self.schedule(epoch)
        if not isinstance(rate, float | np.floating):
            raise InputError(f"the schedule of the learning rate gives {rate!r} for epoch {epoch}, expected a float")
        optimizer.learning_rate = float(rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: the learning rate is now {rate:g}.", flush=True)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if isinstance(logs, dict):
            logs["learning_rate"] = self.model.optimizer.learning_rate


class TerminateOnNaN(Callback):
    """End training where a loss is not finite, instead of an error."""

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not np.isfinite(loss):
            print(f"Batch {batch}: Invalid loss, terminating training", flush=True)
            self.model.stop_training = True


class CSVLogger(Callback):
    """Write the logs of every epoch to a CSV file."""

    def __init__(self, filename: str | os.PathLike, separator: str = ",", append: bool = False):
        super().__init__()
        self.filename, self.separator, self.append = filename, separator, append
        self._file: Any = None
        self._keys: list[str] | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self._header = not (self.append and os.path.exists(self.filename) and os.path.getsize(self.filename))
        self._file = open(self.filename, "a" if self.append else "w", newline="", encoding="utf-8")  # noqa: SIM115
        self._keys = None

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = dict(logs or {})
        rows = csv.writer(self._file, delimiter=self.separator, lineterminator="\n")
        if self._keys is None:
            self._keys = sorted(logs)
            if any(key.startswith("val_") for key in self._keys) is False:
                # validation that is not done every epoch gets its columns all the same, as in Keras
                self._keys += [f"val_{key}" for key in self._keys if key != "learning_rate"]
            if self._header:
                rows.writerow(["epoch", *self._keys])
        rows.writerow([epoch, *(logs.get(key, "NA") for key in self._keys)])
        self._file.flush()

    def on_train_end(self, logs: Logs = None) -> None:
        if self._file is not None:
            self._file.close()


class ModelCheckpoint(_Monitor):
    """Save the network after every epoch, or every `save_freq` batches, to `filepath`, which may name {epoch} and logs: "{epoch:02d}-{val_loss:.3f}".

    `save_best_only` saves where `monitor` is better than ever; `save_weights_only` saves weights (`load_weights`), else the network
    (`Model.save`). To go on with training after a stop, see BackupAndRestore.
    """

    def __init__(
        self,
        filepath: str | os.PathLike,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ):
        super().__init__(monitor, mode)
        if save_freq != "epoch" and (not isinstance(save_freq, int) or isinstance(save_freq, bool) or save_freq < 1):
            raise InputError(f"save_freq={save_freq!r} of ModelCheckpoint: expected 'epoch' or a number of batches")
        self.filepath, self.verbose, self.save_freq = os.fspath(filepath), verbose, save_freq
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.best = initial_value_threshold
        self._epoch, self._batches = 0, 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batches += 1
        if isinstance(self.save_freq, int) and self._batches % self.save_freq == 0:
            self._save(self._epoch, batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, None, logs)

    def _save(self, epoch: int, batch: int | None, logs: Logs) -> None:
        if self.save_best_only:
            current = self.value(logs)
            if current is None or not self.is_better(current, self.best):
                return
            self.best = current
        names = {"epoch": epoch + 1, **({} if batch is None else {"batch": batch + 1}), **(logs or {})}
        try:
            path = self.filepath.format(**names)
        except KeyError as error:
            raise InputError(f"filepath {self.filepath!r} of ModelCheckpoint names {error}; there are {', '.join(names)}") from None  # fmt: skip
        if self.verbose:
            print(f"Epoch {epoch + 1}: saving to {path}", flush=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)


class BackupAndRestore(Callback):
    """Keep a checkpoint of the whole training in one file, after every epoch; `fit` goes on from it, bit for bit, if it is there.

    The file is deleted once training has ended by itself. What other callbacks count (the patience of EarlyStopping) starts anew.
    """

    def __init__(self, path: str | os.PathLike, delete_checkpoint: bool = True):
        super().__init__()
        self.path, self.delete_checkpoint = path, delete_checkpoint
        self._failed = False

    def on_train_begin(self, logs: Logs = None) -> None:
        if os.path.exists(self.path):
            self.model.load_checkpoint(self.path)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.model.save_checkpoint(self.path)

    def on_train_end(self, logs: Logs = None) -> None:
        interrupted = isinstance(sys.exc_info()[1], KeyboardInterrupt | TrainingError)
        if self.delete_checkpoint and not interrupted and os.path.exists(self.path):
            os.unlink(self.path)


__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]

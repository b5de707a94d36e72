"""Search for hyper-parameters with Optuna, which ends trials early that do worse than others did: a callback tells it how they go.

Data: yearly sunspot numbers, 1700 to 2008 (NOAA, public domain), which fastlstm's demo brings along.

    pip install "fastlstm[tune]" && python examples/tuning.py
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna

from fastlstm import Input, Sequential, set_random_seed
from fastlstm.callbacks import Callback
from fastlstm.data import timeseries_windows
from fastlstm.demo.series import sunspots
from fastlstm.layers import LSTM, Dense
from fastlstm.optimizers import Adam

STEPS = 12
STOP, HELD_OUT = 1900, 1950  # years before are learnt from; those up to HELD_OUT judge the trials


class Pruning(Callback):
    """Report the validation loss of every epoch to a trial, and end it once Optuna says so."""

    def __init__(self, trial: optuna.Trial):
        super().__init__()
        self.trial = trial

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.trial.report(logs["val_loss"], epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {epoch + 1}")


def main(trials: int = 20, epochs: int = 40, folder: str | Path = "example-output") -> dict[str, float]:
    """Search, draw tuning.png, and return the validation losses of the first and of the best trial, and the errors in sunspots."""
    years, numbers = sunspots()
    x, y = timeseries_windows(numbers / 100, STEPS)
    years = years[STEPS:]
    fit, held_out = years < STOP, years >= HELD_OUT
    stop = ~fit & ~held_out
    models = {}

    def objective(trial: optuna.Trial) -> float:
        """Return the validation loss of a network with the parameters that Optuna suggests."""
        set_random_seed(0)
        model = Sequential([Input((STEPS, 1))])
        layers = trial.suggest_int("layers", 1, 2)
        for k in range(layers):
            model.add(LSTM(trial.suggest_int("units", 8, 64, log=True), return_sequences=k + 1 < layers))
        model.add(Dense(1))
        model.compile(optimizer=Adam(trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True)), loss="mse")
        size = trial.suggest_categorical("batch_size", [8, 16, 32])
        history = model.fit(
            x[fit], y[fit], epochs=epochs, batch_size=size, validation_data=(x[stop], y[stop]), verbose=0,
            callbacks=[Pruning(trial)],
        )  # fmt: skip
        models[trial.number] = model
        return history.history["val_loss"][-1]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, pruner = optuna.samplers.TPESampler(seed=0), optuna.pruners.MedianPruner(5, n_warmup_steps=epochs // 8)
    study = optuna.create_study(direction="minimize", sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=trials)
    pruned = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.PRUNED]
    print(f"best of {trials} trials, {len(pruned)} of them pruned: {study.best_params}")

    forecast = models[study.best_trial.number].predict(x[held_out], verbose=0)
    rmse = lambda guess: 100 * float(np.sqrt(np.mean((guess - y[held_out]) ** 2)))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for trial in study.trials:
        best, ended = trial.number == study.best_trial.number, trial in pruned
        values = trial.intermediate_values
        (line,) = axes.plot([epoch + 1 for epoch in values], list(values.values()), color="0.8" if ended else "0.4")
        if best:
            line.set(color="C0", linewidth=2.5, zorder=3, label="best")
    axes.set(xlabel="epoch (light lines: pruned trials)", ylabel="validation loss", yscale="log")
    axes.legend()
    figure.savefig(folder / "tuning.png")
    plt.close(figure)
    return {
        "first": study.trials[0].value or np.inf,
        "last": study.best_value,
        "pruned": float(len(pruned)),
        "rmse": rmse(forecast),
        "persistence": rmse(x[held_out, -1]),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

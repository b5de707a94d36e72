"""Keep a large network from learning few years by heart: dropout, an l2 penalty, clipped gradients and early stopping.

Data: weekly changes at Mauna Loa, 1990 to 2001 (Keeling and Whorf 2004, public domain), which fastlstm's demo brings along.

    python examples/regularized.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.callbacks import EarlyStopping
from fastlstm.data import timeseries_windows
from fastlstm.demo.series import weekly_changes
from fastlstm.layers import LSTM, Dense, Dropout
from fastlstm.optimizers import Adam
from fastlstm.regularizers import l2

STEPS, AHEAD, UNITS = 26, 4, 64  # weeks


def plain() -> Sequential:
    """Return a network with over a hundred times as many weights as there are weeks to learn from."""
    model = Sequential()
    model.add(LSTM(UNITS, return_sequences=True, input_shape=(STEPS, 1)))
    model.add(LSTM(UNITS))
    model.add(Dense(1))
    model.compile(optimizer=Adam(learning_rate=0.003), loss="mse", metrics=["mse"])
    return model


def regularized() -> Sequential:
    """Return the same network, restrained."""
    model = Sequential()
    model.add(LSTM(UNITS, return_sequences=True, dropout=0.3, kernel_regularizer=l2(1e-3), input_shape=(STEPS, 1)))
    model.add(LSTM(UNITS, dropout=0.3, kernel_regularizer=l2(1e-3)))
    model.add(Dropout(0.3))
    model.add(Dense(1))
    model.compile(optimizer=Adam(learning_rate=0.003, clipvalue=0.5), loss="mse", metrics=["mse"])
    return model


def main(epochs: int = 80, folder: str | Path = "example-output") -> dict[str, float]:
    """Train both, draw regularized.png, and return the losses of the restrained one and the errors in ppm."""
    x, y = timeseries_windows(weekly_changes(), STEPS, horizon=AHEAD)
    y = y.sum(axis=1, keepdims=True)
    # half of it to learn from, a quarter says when to stop; windows that reach from one part into the next are left out
    fit, stop, held_out = slice(0, 300), slice(300 + AHEAD, 450), slice(450 + AHEAD, None)

    set_random_seed(0)
    model, free = regularized(), plain()
    stopping = EarlyStopping(monitor="val_loss", patience=20, restore_best_weights=True)
    validation = x[stop], y[stop]
    history = model.fit(
        x[fit], y[fit], epochs=epochs, batch_size=16, validation_data=validation, callbacks=[stopping], verbose=0
    )
    by_heart = free.fit(x[fit], y[fit], epochs=epochs, batch_size=16, validation_data=validation, verbose=0)

    rmse = lambda guess: float(np.sqrt(np.mean((guess - y[held_out]) ** 2)))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
    for one, name, color in ((by_heart, "plain", "C1"), (history, "regularized", "C0")):
        seen = np.arange(1, len(one.history["mse"]) + 1)
        axes.plot(seen, one.history["mse"], color, ls=":", label=f"{name}, training")
        axes.plot(seen, one.history["val_mse"], color, label=f"{name}, validation")
    axes.axvline(stopping.best_epoch + 1, color="k", lw=0.5)
    axes.set(xlabel="epoch (line: the one whose weights are kept)", ylabel="mean squared error (ppm²)")
    axes.legend()
    figure.savefig(folder / "regularized.png")
    plt.close(figure)
    losses = history.history["loss"]
    return {
        "first": losses[0],
        "last": losses[-1],
        "epochs": float(len(losses)),
        "rmse": rmse(model.predict(x[held_out], verbose=0)),
        "rmse of plain": rmse(free.predict(x[held_out], verbose=0)),
        "gap": history.history["val_mse"][-1] / history.history["mse"][-1],
        "gap of plain": by_heart.history["val_mse"][-1] / by_heart.history["mse"][-1],
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>14} {value:.4f}")

"""Forecast the change of CO2 over the next four weeks from the last half year, with an LSTM that stops early.

Data: weekly changes at Mauna Loa, 1990 to 2001 (Keeling and Whorf 2004, public domain), which fastlstm's demo brings along.

    python examples/forecast.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.callbacks import EarlyStopping
from fastlstm.data import timeseries_windows
from fastlstm.demo.series import weekly_changes
from fastlstm.layers import LSTM, Dense, Dropout

STEPS, AHEAD = 26, 4  # weeks


def main(epochs: int = 100, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, draw forecast.png and forecast-history.png, and return the losses and the errors in ppm."""
    set_random_seed(0)
    x, y = timeseries_windows(weekly_changes(), STEPS, horizon=AHEAD)
    y = y.sum(axis=1, keepdims=True)
    # the last three years are held out, and so is each window that reaches into them
    held_out = len(x) - 3 * 52
    x_fit, y_fit = x[: held_out - AHEAD], y[: held_out - AHEAD]

    model = Sequential()
    model.add(LSTM(32, input_shape=(STEPS, 1)))
    model.add(Dropout(0.1))
    model.add(Dense(1))
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    stopping = EarlyStopping(monitor="val_loss", patience=10, restore_best_weights=True)
    history = model.fit(
        x_fit, y_fit, epochs=epochs, batch_size=16, validation_split=0.2, callbacks=[stopping], verbose=0
    )

    forecast = model.predict(x[held_out:], verbose=0)
    rmse = lambda guess: float(np.sqrt(np.mean((guess - y[held_out:]) ** 2)))
    persistence = x[held_out:, -AHEAD:, 0].sum(axis=1, keepdims=True)  # the next weeks go on as the last ones

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    history.plot(folder / "forecast-history.png")
    figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
    axes.plot(y[held_out:], "k", lw=1, label="measured")
    axes.plot(persistence, "0.7", lw=1, label="the last four weeks again")
    axes.plot(forecast, "C0", label="LSTM")
    axes.set(xlabel="week of the held-out years", ylabel=f"change in {AHEAD} weeks (ppm)")
    axes.legend()
    figure.savefig(folder / "forecast.png")
    plt.close(figure)
    losses = history.history["loss"]
    return {"first": losses[0], "last": losses[-1], "rmse": rmse(forecast), "persistence": rmse(persistence)}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

"""Forecast next year's sunspots with the relu LSTM of the first tutorials, and with the usual tanh beside it.

Data: yearly sunspot numbers, 1700 to 2008 (NOAA, public domain), which fastlstm's demo brings along.

    python examples/forecast_relu.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.data import timeseries_windows
from fastlstm.demo.series import sunspots
from fastlstm.layers import LSTM, Dense

STEPS = 12  # years, a little more than a cycle
HELD_OUT = 1950


def main(epochs: int = 100, folder: str | Path = "example-output") -> dict[str, float]:
    """Train with both activations, draw forecast_relu.png, and return the losses of relu and the errors in sunspots."""
    years, numbers = sunspots()
    x, y = timeseries_windows(numbers / 100, STEPS)
    years = years[STEPS:]
    held_out = years >= HELD_OUT

    losses, forecasts = {}, {}
    for activation in ("relu", "tanh"):
        set_random_seed(0)
        model = Sequential()
        model.add(LSTM(50, activation=activation, input_shape=(STEPS, 1)))
        model.add(Dense(1))
        model.compile(optimizer="adam", loss="mse")
        history = model.fit(x[~held_out], y[~held_out], epochs=epochs, batch_size=16, verbose=0)
        losses[activation] = history.history["loss"]
        forecasts[activation] = model.predict(x[held_out], verbose=0)

    persistence = x[held_out, -1]
    rmse = lambda guess: 100 * float(np.sqrt(np.mean((guess - y[held_out]) ** 2)))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
    axes.plot(years[held_out], 100 * y[held_out], "k", lw=1, label="counted")
    for activation, forecast in forecasts.items():
        axes.plot(years[held_out], 100 * forecast, lw=1, label=f"{activation} LSTM, a year ahead")
    axes.set(xlabel="year", ylabel="sunspots")
    axes.legend()
    figure.savefig(folder / "forecast_relu.png")
    plt.close(figure)
    return {
        "first": losses["relu"][0],
        "last": losses["relu"][-1],
        "rmse": rmse(forecasts["relu"]),
        "rmse of tanh": rmse(forecasts["tanh"]),
        "persistence": rmse(persistence),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

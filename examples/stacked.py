"""Forecast half a year of CO2, week by week, from the year before, with two LSTMs on top of each other.

Data: weekly changes at Mauna Loa, 1990 to 2001 (Keeling and Whorf 2004, public domain), which fastlstm's demo brings along.

    python examples/stacked.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.data import timeseries_windows
from fastlstm.demo.series import weekly_changes
from fastlstm.layers import LSTM, Dense

STEPS, AHEAD = 52, 26  # weeks


def main(epochs: int = 60, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, draw stacked.png, and return the losses and the errors of a weekly change in ppm."""
    set_random_seed(0)
    x, y = timeseries_windows(weekly_changes(), STEPS, horizon=AHEAD)
    # the last three years are held out, and so is each window that reaches into them
    held_out = len(x) - 3 * 52

    model = Sequential()
    model.add(LSTM(32, return_sequences=True, input_shape=(STEPS, 1)))
    model.add(LSTM(32))
    model.add(Dense(AHEAD))
    model.compile(optimizer="adam", loss="mse")
    model.summary()
    history = model.fit(x[: held_out - AHEAD], y[: held_out - AHEAD], epochs=epochs, batch_size=16, verbose=0)

    forecast, truth = model.predict(x[held_out:], verbose=0), y[held_out:]
    last_year = x[held_out:, :AHEAD, 0]  # the same weeks, a year before
    mean = np.full_like(truth, y[: held_out - AHEAD].mean())
    rmse = lambda guess: float(np.sqrt(np.mean((guess - truth) ** 2)))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weeks = np.arange(1, AHEAD + 1)
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
    for axes, k in zip(panels, (0, 17, 34), strict=True):
        axes.plot(weeks, np.cumsum(truth[k]), "k", label="measured")
        axes.plot(weeks, np.cumsum(last_year[k]), "0.7", label="as a year before")
        axes.plot(weeks, np.cumsum(forecast[k]), "C0", label="stacked LSTMs")
        axes.set(title=f"from week {k} of the held-out years", xlabel="weeks ahead")
    panels[0].set_ylabel("change of CO2 since (ppm)")
    panels[0].legend()
    figure.savefig(folder / "stacked.png")
    plt.close(figure)
    losses = history.history["loss"]
    errors = {"rmse": rmse(forecast), "last year": rmse(last_year), "mean": rmse(mean)}
    return {"first": losses[0], "last": losses[-1], **errors}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

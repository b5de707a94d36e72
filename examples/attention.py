"""Forecast next year's sunspots with AdditiveAttention over the states of past years, and see which years it looks at.

The weights follow the cycle but stay close to equal: the last state knows most of it already.

Data: yearly sunspot numbers, 1700 to 2008 (NOAA, public domain), which fastlstm's demo brings along.

    python examples/attention.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Input, set_random_seed
from fastlstm.data import timeseries_windows
from fastlstm.demo.series import sunspots
from fastlstm.layers import LSTM, AdditiveAttention, Concatenate, Dense, Flatten, Reshape
from fastlstm.models import Model

STEPS, UNITS = 24, 32  # years: two cycles
HELD_OUT = 1950


def main(epochs: int = 60, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, draw attention.png, and return the losses, the errors in sunspots and the range of the weights."""
    set_random_seed(0)
    years, numbers = sunspots()
    x, y = timeseries_windows(numbers / 100, STEPS)
    years = years[STEPS:]
    held_out = years >= HELD_OUT

    past = Input(shape=(STEPS, 1))
    sequence, h, _ = LSTM(UNITS, return_sequences=True, return_state=True)(past)
    context, weights = AdditiveAttention()([Reshape((1, UNITS))(h), sequence], return_attention_scores=True)
    forecast = Dense(1)(Concatenate()([Flatten()(context), h]))
    model = Model(past, forecast)
    model.compile(optimizer="adam", loss="mse")
    history = model.fit(x[~held_out], y[~held_out], epochs=epochs, batch_size=16, verbose=0)

    guess = model.predict(x[held_out], verbose=0)
    looks = Model(past, weights).predict(x[held_out], verbose=0)[:, 0]  # (years, STEPS), each row sums to 1
    rmse = lambda guess: 100 * float(np.sqrt(np.mean((guess - y[held_out]) ** 2)))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.5), layout="constrained")
    left.plot(years[held_out], 100 * y[held_out], "k", lw=1, label="counted")
    left.plot(years[held_out], 100 * guess, "C0", label="a year ahead")
    left.set(xlabel="year", ylabel="sunspots")
    left.legend()
    extent = (-STEPS - 0.5, -0.5, years[-1] + 0.5, HELD_OUT - 0.5)
    image = right.imshow(looks, aspect="auto", extent=extent)
    right.set(xlabel="years before", ylabel="forecast of", title="weight of each year's state")
    figure.colorbar(image, ax=right)
    figure.savefig(folder / "attention.png")
    plt.close(figure)
    losses = history.history["loss"]
    return {
        "first": losses[0],
        "last": losses[-1],
        "rmse": rmse(guess),
        "persistence": rmse(x[held_out, -1]),
        "least weight": float(looks.min()),
        "most weight": float(looks.max()),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>14} {value:.4f}")

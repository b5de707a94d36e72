"""Find anomalies with an LSTM autoencoder: what it cannot rebuild as well as what it learnt from is one.

The data are synthetic: noisy waves, and among those that are searched some with a jump, a pause or a spike.

    python examples/autoencoder.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.layers import LSTM, Dense, RepeatVector, TimeDistributed

STEPS = 24


def waves(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return sine waves of one period and any phase, with a little noise: (count, STEPS, 1)."""
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    wave = np.sin(2 * np.pi * np.arange(STEPS) / STEPS + phase) + rng.normal(0, 0.05, (count, STEPS))
    return wave[..., None].astype(np.float32)


def disturb(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return waves with a jump of the second half, a pause, or a spike, in turn."""
    x = x.copy()
    for k, row in enumerate(x):
        at = rng.integers(4, STEPS - 8)
        if k % 3 == 0:
            row[at:] += 1.0
        elif k % 3 == 1:
            row[at : at + 8] = 0.0
        else:
            row[at] += rng.choice([-2.0, 2.0])
    return x


def main(count: int = 2000, epochs: int = 40, folder: str | Path = "example-output") -> dict[str, float]:
    """Train on normal waves, set the threshold, draw autoencoder.png; return losses, share found and false alarms."""
    set_random_seed(0)
    rng = np.random.default_rng(0)
    x, normal = waves(count, rng), waves(300, rng)
    strange = disturb(waves(300, rng), rng)

    model = Sequential()
    model.add(LSTM(24, input_shape=(STEPS, 1)))
    model.add(RepeatVector(STEPS))
    model.add(LSTM(24, return_sequences=True))
    model.add(TimeDistributed(Dense(1)))
    model.compile(optimizer="adam", loss="mse")
    history = model.fit(x, x, epochs=epochs, batch_size=32, validation_split=0.1, verbose=0)

    error = lambda rows: np.mean((model.predict(rows, verbose=0) - rows) ** 2, axis=(1, 2))
    threshold = np.quantile(error(x), 0.99)
    errors = error(normal), error(strange)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    bins = np.geomspace(min(map(np.min, errors)), max(map(np.max, errors)), 50).tolist()
    for values, label in zip(errors, ("normal", "strange"), strict=True):
        left.hist(values, bins, alpha=0.6, label=label)
    left.axvline(float(threshold), color="k", ls="--", label="threshold")
    left.set(xscale="log", xlabel="mean squared error", ylabel="waves")
    left.legend()
    right.plot(strange[0, :, 0], "k", label="a strange wave")
    right.plot(model.predict(strange[:1], verbose=0)[0, :, 0], "C1", label="rebuilt")
    right.legend()
    figure.savefig(folder / "autoencoder.png")
    plt.close(figure)
    losses = history.history["loss"]
    found, alarms = (float(np.mean(values > threshold)) for values in reversed(errors))
    return {"first": losses[0], "last": losses[-1], "found": found, "false alarms": alarms}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

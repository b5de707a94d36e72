"""Look into a cell: the gates of a small LSTM over time, as a picture, after it has learnt to remember.

The data are synthetic: numbers of which a second input marks one at random; the answer, at the end, is the marked number.

    python examples/gates.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.layers import LSTM, Dense
from fastlstm.optimizers import Adam

STEPS, UNITS = 20, 8
NAMES = ("input gate i", "forget gate f", "candidate g", "output gate o", "cell c", "output h")


def marked_numbers(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers beside their marks (count, STEPS, 2), and the marked numbers (count, 1)."""
    numbers = rng.uniform(-1, 1, (count, STEPS)).astype(np.float32)
    marked = rng.integers(2, STEPS // 2, count)
    marks = (marked[:, None] == np.arange(STEPS)).astype(np.float32)
    return np.stack([numbers, marks], axis=-1), numbers[np.arange(count), marked][:, None]


def gates(x: np.ndarray, W: np.ndarray, U: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return i, f, g, o, c and h of one sequence (T, I) at every step: (6, T, H)."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    h = c = np.zeros(len(U), x.dtype)
    steps = []
    for x_t in x:
        i, f, g, o = np.split(x_t @ W + h @ U + b, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append([i, f, g, o, c, h])
    return np.array(steps).transpose(1, 0, 2)


def main(count: int = 4000, epochs: int = 30, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, draw gates.png for one sequence, and return the losses and how far the drawn h is from the layer's own."""
    set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = marked_numbers(count, rng)
    layer = LSTM(UNITS, input_shape=(STEPS, 2))
    model = Sequential([layer, Dense(1)])
    model.compile(optimizer=Adam(0.01), loss="mse")
    history = model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)

    drawn = gates(x[0], *layer.get_weights())
    difference = float(np.abs(drawn[-1, -1] - layer(x[:1])[0]).max())

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(2, 3, figsize=(11, 4.5), sharex=True, layout="constrained")
    for ax, name, values in zip(axes.flat, NAMES, drawn, strict=True):
        low = 0 if "gate" in name else -1
        image = ax.imshow(values.T, aspect="auto", vmin=low, vmax=1, cmap="viridis" if low == 0 else "RdBu")
        ax.axvline(int(x[0, :, 1].argmax()), color="k", ls=":")
        ax.set(title=name, xlabel="step (dotted: the marked one)", ylabel="unit")
        figure.colorbar(image, ax=ax)
    figure.savefig(folder / "gates.png")
    plt.close(figure)
    losses = history.history["loss"]
    return {"first": losses[0], "last": losses[-1], "difference": difference}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4g}")

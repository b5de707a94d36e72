"""LSTM against GRU against SimpleRNN: which predicts the next character of Python's language reference best, and how long it takes.

The text is what `help()` shows, part of the standard library (pydoc_data.topics).

    python examples/lstm_gru.py
"""

from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.data import timeseries_windows
from fastlstm.layers import GRU, LSTM, Dense, Embedding, SimpleRNN
from fastlstm.optimizers import Adam

STEPS, UNITS = 64, 64


def main(characters: int = 40_000, epochs: int = 12, folder: str | Path = "example-output") -> dict[str, float]:
    """Train all three, draw lstm_gru.png, and return the LSTM's losses and what each reaches on a held-out tenth (nats a character)."""
    text = " ".join(" ".join(topics[name].lower().split()) for name in sorted(topics))[:characters]
    alphabet = sorted(set(text))
    ids = np.array([alphabet.index(c) for c in text], np.int32)
    rows, _ = timeseries_windows(ids, STEPS + 1, stride=STEPS // 2)
    rows = rows[:, :, 0]
    # windows overlap by half: the one at the border belongs to neither part
    held_out = len(rows) * 9 // 10
    fit, rest = rows[: held_out - 1], rows[held_out:]

    curves, results = {}, {}
    for layer in (LSTM, GRU, SimpleRNN):
        set_random_seed(0)
        model = Sequential()
        model.add(Embedding(len(alphabet), 32))
        model.add(layer(UNITS, return_sequences=True))
        model.add(Dense(len(alphabet), activation="softmax"))
        model.compile(optimizer=Adam(learning_rate=0.005), loss="sparse_categorical_crossentropy")
        model.build((None, STEPS))
        began = perf_counter()
        history = model.fit(
            fit[:, :-1],
            fit[:, 1:],
            epochs=epochs,
            batch_size=32,
            validation_data=(rest[:, :-1], rest[:, 1:]),
            verbose=0,
        )
        name, seconds = layer.__name__, perf_counter() - began
        curves[name] = history.history
        results[name] = history.history["val_loss"][-1]
        print(f"{name:>10}: {model.count_params():,} parameters, {seconds / epochs:.2f} s an epoch")

    counts = np.bincount(fit.ravel(), minlength=len(alphabet)) + 1
    results["letter frequencies"] = float(-np.mean(np.log(counts / counts.sum())[rest[:, 1:]]))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for k, (name, history) in enumerate(curves.items()):
        axes.plot(range(1, epochs + 1), history["val_loss"], f"C{k}.-", label=name)
    axes.set(xlabel="epoch", ylabel="held-out loss (nats a character)")
    axes.legend()
    figure.savefig(folder / "lstm_gru.png")
    plt.close(figure)
    losses = curves["LSTM"]["loss"]
    return {"first": losses[0], "last": losses[-1], **results}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>18} {value:.4f}")

"""Learn to write like Python's language reference, a character at a time, and write with a temperature from a stream.

The text is what `help()` shows, part of the standard library (pydoc_data.topics).

    python examples/characters.py
"""

from pydoc_data.topics import topics

import numpy as np

from fastlstm import Sequential, Session, set_random_seed
from fastlstm.data import timeseries_windows
from fastlstm.layers import LSTM, Dense, Embedding
from fastlstm.optimizers import Adam

STEPS = 64


def reference(characters: int) -> str:
    """Return the beginning of the reference, lower case, with single spaces."""
    text = " ".join(" ".join(topics[name].lower().split()) for name in sorted(topics))
    return "".join(c for c in text if c.isascii())[:characters]


def write(model: Sequential, alphabet: str, start: str, count: int, temperature: float, seed: int = 0) -> str:
    """Return `count` characters after `start`, each drawn from the predicted chances ** (1 / temperature).

    A stream keeps the states, so that each character costs one time step.
    """
    rng = np.random.default_rng(seed)
    stream = Session(model.to_model()).stream(batch=1)
    after = lambda k: np.asarray(stream.step(np.array([k], np.int32)), np.float64)[0]
    for character in start:
        chances = after(alphabet.index(character))
    written = ""
    for _ in range(count):
        scaled = np.log(np.maximum(chances, 1e-12)) / temperature
        weights = np.exp(scaled - scaled.max())
        k = rng.choice(len(alphabet), p=weights / weights.sum())
        written += alphabet[k]
        chances = after(k)
    return written


def main(characters: int = 80_000, epochs: int = 8, units: int = 128) -> dict[str, float]:
    """Train, print what the model writes at three temperatures, and return the losses (nats a character)."""
    set_random_seed(0)
    text = reference(characters)
    alphabet = "".join(sorted(set(text)))
    ids = np.array([alphabet.index(c) for c in text], np.int32)
    rows, _ = timeseries_windows(ids, STEPS + 1, stride=STEPS // 2)
    rows = rows[:, :, 0]

    model = Sequential()
    model.add(Embedding(len(alphabet), 32))
    model.add(LSTM(units, return_sequences=True))
    model.add(Dense(len(alphabet), activation="softmax"))
    model.compile(loss="sparse_categorical_crossentropy", optimizer=Adam(learning_rate=0.005))
    history = model.fit(rows[:, :-1], rows[:, 1:], epochs=epochs, batch_size=32, verbose=0)

    for temperature in (0.3, 0.7, 1.0):
        print(f"temperature {temperature}: {write(model, alphabet, 'the value of ', 100, temperature)!r}")
    losses = history.history["loss"]
    return {"first": losses[0], "last": losses[-1]}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

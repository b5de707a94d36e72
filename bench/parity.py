"""Training reaches what Keras reaches: from the same initial weights, with the same batches in the same order, validation losses beside each other.

    python -m bench.parity                          three series, five seeds, a table
    python -m bench.parity --series text --seeds 1 --epochs 2

A seed draws the initial weights, which Keras takes over, and the order of the samples in every epoch. Both train in float32, so that they part
slowly: losses are compared, after the last epoch and at their lowest, not weights.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics
from statistics import mean
from typing import Any

import numpy as np

import fastlstm
from fastlstm.data import timeseries_windows, to_categorical
from fastlstm.demo.series import sunspots, weekly_changes

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x and y to fit, x and y to validate
SEEDS = 5
WITHIN = 0.02  # of Keras's mean loss


@dataclass(frozen=True)
class Series:
    """Data, a network (written once for Keras and for us), and how it is trained."""

    data: Callable[[], Data]
    stack: Callable[[Any], list[Any]]
    loss: str
    rate: float
    epochs: int
    batch: int = 16


@dataclass(frozen=True)
class Curves:
    """Validation losses of one seed, an epoch each."""

    ours: list[float]
    theirs: list[float]


def sunspots_ahead() -> Data:
    """Twelve years, and the next; validated from 1900 on."""
    years, numbers = sunspots()
    x, y = timeseries_windows(numbers / 100, 12)
    fit = years[12:] < 1900
    return x[fit], y[fit], x[~fit], y[~fit]


def co2_ahead() -> Data:
    """Half a year of weekly changes of CO2, and the change over the next four weeks; validated on the last third."""
    x, y = timeseries_windows(weekly_changes(), 26, horizon=4)
    y = y.sum(axis=1, keepdims=True)
    return x[:396], y[:396], x[400:], y[400:]


def text_ahead(one_hot: bool = True) -> Data:
    """64 characters of Python's language reference, and each next one; validated on the last tenth."""
    text = " ".join(" ".join(topics[name].lower().split()) for name in sorted(topics))
    text = "".join(c for c in text if c in ALPHABET)[:40_000]
    ids = np.array([ALPHABET.index(c) for c in text], np.int32)
    rows = timeseries_windows(ids, 65, stride=64)[0][:, :, 0]
    read = to_categorical(rows, len(ALPHABET)).astype(np.float32) if one_hot else rows
    border = len(rows) * 9 // 10
    return read[:border, :-1], rows[:border, 1:], read[border:, :-1], rows[border:, 1:]


def forecaster(k: Any) -> list[Any]:
    return [k.Input((12, 1)), k.layers.LSTM(32), k.layers.Dense(1)]


def stacked(k: Any) -> list[Any]:
    return [
        k.Input((26, 1)),
        k.layers.LSTM(32, return_sequences=True),
        k.layers.GRU(16, kernel_regularizer="l2"),
        k.layers.Dense(1),
    ]


def writer(k: Any) -> list[Any]:
    return [
        k.Input((64, len(ALPHABET))),
        k.layers.LSTM(64, return_sequences=True),
        k.layers.Dense(len(ALPHABET), activation="softmax"),
    ]


def embedded(k: Any) -> list[Any]:
    return [k.Input((64,), dtype="int32"), k.layers.Embedding(len(ALPHABET), 32), *writer(k)[1:]]


ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789.,:;()'\"-_=*"
CHARACTERS = "sparse_categorical_crossentropy"
SERIES = {
    "sunspots": Series(sunspots_ahead, forecaster, "mse", 0.003, 100),
    "co2": Series(co2_ahead, stacked, "mse", 0.002, 30),
    "text": Series(text_ahead, writer, CHARACTERS, 0.01, 8),
    "embedded text": Series(lambda: text_ahead(one_hot=False), embedded, CHARACTERS, 0.005, 8),
}
# On TensorFlow Keras's optimizers square the parts of an Embedding's gradient one by one, before they are summed: other steps than on its other
# backends and here. With KERAS_BACKEND=torch the fourth series agrees.
CHOSEN = ("sunspots", "co2", "text")


def train(series: Series, seed: int, epochs: int | None = None) -> Curves:
    """Train a network and its twin in Keras, and return the validation losses of both."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    fastlstm.set_random_seed(seed)
    networks: list[Any] = [fastlstm.Sequential(series.stack(fastlstm)), keras.Sequential(series.stack(keras))]
    networks[1].set_weights(networks[0].get_weights())
    for network, optimizers in zip(networks, (fastlstm.optimizers, keras.optimizers), strict=True):
        network.compile(optimizers.Adam(series.rate), series.loss)
    x, y, *validation = series.data()
    rng = np.random.default_rng(seed)
    losses: tuple[list[float], list[float]] = [], []
    for _ in range(epochs or series.epochs):
        order = rng.permutation(len(x))
        for network, curve in zip(networks, losses, strict=True):
            for rows in np.split(order, range(series.batch, len(x), series.batch)):
                network.train_on_batch(x[rows], y[rows])
            curve.append(float(network.evaluate(*validation, batch_size=256, verbose=0)))
    keras.backend.clear_session()
    return Curves(*losses)


def table(curves: dict[str, list[Curves]]) -> str:
    """Return a Markdown table: for each series and seed the last and the lowest validation losses, and the means with ours / Keras's."""
    lines = ["| series | seed | last: ours | Keras | ratio | lowest: ours | Keras | ratio |", "|---|---|" + "---:|" * 6]
    for name, seeds in curves.items():
        rows = [(c.ours[-1], c.theirs[-1], min(c.ours), min(c.theirs)) for c in seeds]
        for seed, row in [*enumerate(rows), ("mean", tuple(map(mean, zip(*rows, strict=True))))]:
            last, keras_last, lowest, keras_lowest = row
            lines.append(
                f"| {name} | {seed} | {last:.5f} | {keras_last:.5f} | {last / keras_last:.4f} "
                f"| {lowest:.5f} | {keras_lowest:.5f} | {lowest / keras_lowest:.4f} |"
            )
    return "\n".join(lines)


def within(seeds: Sequence[Curves]) -> bool:
    """Tell whether the mean over seeds, of the last and of the lowest loss, is as close to Keras's as promised."""
    last = mean(c.ours[-1] for c in seeds) / mean(c.theirs[-1] for c in seeds)
    lowest = mean(min(c.ours) for c in seeds) / mean(min(c.theirs) for c in seeds)
    return max(abs(last - 1), abs(lowest - 1)) <= WITHIN


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.parity", description=str(__doc__).splitlines()[0])
    parser.add_argument("--series", nargs="+", choices=SERIES, default=CHOSEN)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, help="in place of each series' own")
    given = parser.parse_args()
    curves: dict[str, list[Curves]] = {}
    for name in given.series:
        for seed in range(given.seeds):
            curves.setdefault(name, []).append(train(SERIES[name], seed, given.epochs))
            print(
                f"{name}, seed {seed}: {curves[name][-1].ours[-1]:.5f}, Keras {curves[name][-1].theirs[-1]:.5f}",
                flush=True,
            )
    print(table(curves))
    missed = [name for name, seeds in curves.items() if not within(seeds)]
    print(f"further than {WITHIN:.0%} from Keras: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Recurrent networks trained beside Keras: from the same weights, batches and settings 20 steps end at the same weights.

Keras rounds coefficients to float32 in float64 too: those here are powers of 2. On TensorFlow an Embedding's gradient is sparse, and Keras
squares and clips the parts of a word that comes twice one by one, as on no other backend; a regularizer makes it dense.
"""

import os

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import layers, optimizers, regularizers

STEPS, BATCH = 20, 6


class Ours:
    """Our names where the twin has Keras's: a network is written once for both."""

    layers, regularizers, optimizers = layers, regularizers, optimizers
    Sequential, Input = fastlstm.Sequential, fastlstm.Input


def classifier(k, dtype):
    """Embedding, LSTM and a softmax of 4 classes, over words."""
    return [
        k.Input((9,), dtype="int32"),
        k.layers.Embedding(20, 7, embeddings_regularizer=k.regularizers.L2(2**-10), dtype=dtype),
        k.layers.LSTM(
            11,
            dtype=dtype,
            kernel_regularizer=k.regularizers.L2(2**-7),
            recurrent_regularizer=k.regularizers.L1(2**-10),
        ),
        k.layers.Dense(4, activation="softmax", dtype=dtype),
    ]


def masked(k, dtype):
    """The same in both directions, over padded words."""
    return [
        k.Input((9,), dtype="int32"),
        k.layers.Embedding(20, 7, mask_zero=True, embeddings_regularizer=k.regularizers.L2(2**-10), dtype=dtype),
        k.layers.Bidirectional(k.layers.LSTM(9, return_sequences=True, dtype=dtype), dtype=dtype),
        k.layers.Bidirectional(k.layers.LSTM(5, dtype=dtype), merge_mode="sum", dtype=dtype),
        k.layers.Dense(4, activation="softmax", dtype=dtype),
    ]


def tagger(k, dtype):
    """A class for each padded word: the loss of masked steps does not count."""
    return [
        k.Input((9,), dtype="int32"),
        k.layers.Embedding(20, 7, mask_zero=True, embeddings_regularizer=k.regularizers.L2(2**-10), dtype=dtype),
        k.layers.Bidirectional(k.layers.GRU(6, return_sequences=True, dtype=dtype), dtype=dtype),
        k.layers.TimeDistributed(k.layers.Dense(4, activation="softmax", dtype=dtype), dtype=dtype),
    ]


def forecast(k, dtype):
    """Two GRUs, which reset after and before the product, over a series."""
    return [
        k.Input((9, 3), dtype=dtype),
        k.layers.GRU(13, return_sequences=True, dtype=dtype),
        k.layers.GRU(
            8, reset_after=False, go_backwards=True, dtype=dtype, bias_regularizer=k.regularizers.L1L2(2**-7, 2**-7)
        ),
        k.layers.Dense(1, dtype=dtype),
    ]


def autoencoder(k, dtype):
    """A series through one state and back."""
    return [
        k.Input((9, 3), dtype=dtype),
        k.layers.LSTM(6, dtype=dtype),
        k.layers.RepeatVector(9, dtype=dtype),
        k.layers.SimpleRNN(10, return_sequences=True, dtype=dtype),
        k.layers.TimeDistributed(k.layers.Dense(3, dtype=dtype), dtype=dtype),
    ]


def penalised(k, dtype):
    """Every regularizer on every weight, and on what layers give."""
    r = k.regularizers
    return [
        k.Input((9, 3), dtype=dtype),
        k.layers.LSTM(
            6, return_sequences=True, kernel_regularizer=r.L1(2**-8), recurrent_regularizer=r.L1L2(2**-9, 2**-7),
            bias_regularizer=r.L2(2**-6), activity_regularizer=r.L2(2**-7), dtype=dtype,
        ),
        k.layers.Conv1D(5, 3, kernel_regularizer=r.L2(2**-6), bias_regularizer=r.L1(2**-7), activity_regularizer=r.L1(2**-9), dtype=dtype),
        k.layers.ActivityRegularization(2**-9, 2**-8, dtype=dtype),
        k.layers.GRU(4, kernel_regularizer=r.L1L2(2**-8, 2**-8), recurrent_regularizer=r.L2(2**-7), bias_regularizer=r.L1(2**-8), dtype=dtype),
        k.layers.Dense(1, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer=r.L1L2(2**-8, 2**-8), dtype=dtype),
    ]  # fmt: skip


SPARSE = "sparse_categorical_crossentropy"
CASES = {
    "classifier": (classifier, SPARSE, ("Adam", {"learning_rate": 0.01})),
    "clipnorm": (classifier, SPARSE, ("SGD", {"learning_rate": 0.5, "clipnorm": 2**-4})),
    "global clipnorm": (forecast, "mse", ("Adam", {"learning_rate": 0.01, "global_clipnorm": 2**-3})),
    "masked": (masked, SPARSE, ("RMSprop", {"learning_rate": 0.001})),
    "tagger": (tagger, SPARSE, ("Nadam", {"learning_rate": 0.002})),
    "forecast": (forecast, "mse", ("SGD", {"learning_rate": 0.1, "momentum": 0.9})),
    "penalised": (penalised, "huber", ("Adagrad", {"learning_rate": 0.125})),
    "autoencoder": (autoencoder, "mae", ("SGD", {"learning_rate": 0.05, "clipvalue": 2**-4})),
}


def data(build, rng: np.random.Generator, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return samples of all steps and their targets."""
    rows = STEPS * BATCH
    if build in (forecast, penalised, autoencoder):
        x = rng.standard_normal((rows, 9, 3)).astype(dtype)
        return x, (x if build is autoencoder else x[:, -1, :1] * 0.5)
    x = rng.integers(1, 20, (rows, 9)).astype(np.int32)
    if build is not classifier:
        x[np.arange(9) >= rng.integers(1, 10, (rows, 1))] = 0
    return x, rng.integers(0, 4, (rows, 9) if build is tagger else rows)


# Keras takes seconds to trace each: CI runs two in float32, FASTLSTM_FULL=1 all
SINGLE = list(CASES) if os.environ.get("FASTLSTM_FULL") == "1" else ["masked", "forecast"]


@pytest.mark.parametrize(
    ("case", "dtype"), [(case, "float64") for case in CASES] + [(case, "float32") for case in SINGLE]
)
def test_twenty_steps_end_where_those_of_keras_end(case, dtype):
    k = networks.keras(dtype)
    build, loss, (kind, settings) = CASES[case]
    ours = fastlstm.Sequential(build(Ours, dtype))
    twin = k.Sequential(build(k, dtype))
    twin.set_weights(ours.get_weights())
    settings = networks.rounded(kind, settings)
    ours.compile(getattr(optimizers, kind)(**settings), loss=loss)
    twin.compile(getattr(k.optimizers, kind)(**settings), loss=loss)
    x, y = data(build, np.random.default_rng(5), dtype)
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        found, expected = ours.train_on_batch(x[rows], y[rows]), float(twin.train_on_batch(x[rows], y[rows]))
        if step == 0:
            assert found == pytest.approx(expected, rel=1e-5)
    pairs = list(zip(ours.get_weights(), twin.get_weights(), strict=True))
    distances = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    worst = [float(np.abs(a - b).max()) for a, b in pairs]
    if dtype == "float64":
        assert distances.max() < 1e-8, worst
    else:
        assert np.mean(distances < 1e-4) >= 0.999, worst

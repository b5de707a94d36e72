"""Small networks to train, and the same in Keras."""

import os
from typing import Any

import numpy as np
import pytest
from conftest import set_dtype

import fastlstm
from fastlstm import layers


def keras(dtype: str = "float32") -> Any:
    """Return Keras, with this dtype for what is made from now on."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = pytest.importorskip("keras")
    set_dtype(found, dtype)
    return found


def dense(
    rng: np.random.Generator, dtype: str = "float64", outputs: int = 3, activation: str | None = None
) -> fastlstm.Sequential:
    """Return a network of two Dense layers with random weights, 5 inputs, 7 units."""
    network = fastlstm.Sequential(
        [
            fastlstm.Input((5,), dtype=dtype),
            layers.Dense(7, activation="tanh", dtype=dtype, name="hidden"),
            layers.Dense(outputs, activation=activation, dtype=dtype, name="out"),
        ]
    )
    network.set_weights([rng.standard_normal(w.shape).astype(dtype) * 0.5 for w in network.get_weights()])
    return network


def dense_of_keras(network: fastlstm.Sequential, dtype: str, outputs: int = 3, activation: str | None = None) -> Any:
    """Return the same network in Keras, with the same weights."""
    k = keras(dtype)
    twin = k.Sequential(
        [
            k.Input((5,)),
            k.layers.Dense(7, activation="tanh", name="hidden"),
            k.layers.Dense(outputs, activation=activation, name="out"),
        ]
    )
    twin.set_weights(network.get_weights())
    return twin


def worst(a: Any, b: Any) -> float:
    """Return the largest distance between weights of two networks."""
    return max(float(np.abs(x - y).max()) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


# Keras on TensorFlow rounds constants to float32 in float64 too, so settings are numbers that float32 holds
CONSTANTS = {
    "SGD": {},
    "RMSprop": {"rho": 0.9},
    "Adam": {"beta_1": 0.9, "beta_2": 0.999},
    "AdamW": {"beta_1": 0.9, "beta_2": 0.999},
    "Nadam": {"beta_1": 0.9, "beta_2": 0.999},
    "Adamax": {"beta_1": 0.9, "beta_2": 0.999},
    "Adagrad": {"initial_accumulator_value": 0.1},
    "Adadelta": {"rho": 0.95},
}


def rounded(kind: str, options: dict) -> dict:
    """Return settings of an optimizer, defaults included, as numbers that float32 holds."""
    settings = {"epsilon": 1e-7} | CONSTANTS[kind] | options if kind != "SGD" else options
    return {key: float(np.float32(value)) if type(value) is float else value for key, value in settings.items()}

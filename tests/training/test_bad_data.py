"""What does not fit together is refused before a step, or before a number stands for nothing."""

import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.errors import InputError, ShapeError

rng = np.random.default_rng(0)


def _network() -> fastlstm.Sequential:
    network = fastlstm.Sequential([fastlstm.Input((None, 3)), layers.LSTM(5, return_sequences=True), layers.Dense(1)])
    network.compile("sgd", "mse")
    return network


def test_sequences_and_targets_of_other_lengths_are_refused():
    x = [rng.standard_normal((steps, 3)) for steps in (4, 2, 5)]
    y = [np.zeros((steps, 1)) for steps in (4, 3, 5)]
    with pytest.raises(ShapeError, match="target 1 has 3 steps, its sequence of input 'input_layer' 2"):
        _network().fit(x, y, verbose=0)


def test_no_batches_have_no_loss():
    with pytest.raises(InputError, match="no batches to evaluate"):
        _network().evaluate(iter([]), verbose=0)


def test_validation_batches_that_have_ended_have_no_loss():
    x, y = rng.standard_normal((2, 4, 3)), np.zeros((2, 4, 1))
    with pytest.raises(InputError, match="no batches to evaluate"):
        _network().fit(x, y, epochs=2, validation_data=iter([(x, y)]), verbose=0)

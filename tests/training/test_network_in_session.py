"""A network in a Session; what training computes is what a session computes."""

import numpy as np
import pytest

from fastlstm import Sequential, Session, layers, optimizers

RNG = np.random.default_rng(5)
X, Y = RNG.standard_normal((7, 6, 3)).astype(np.float32), RNG.standard_normal((7, 1)).astype(np.float32)


def test_a_session_takes_a_network_with_the_weights_it_has_then():
    network = Sequential([layers.Input((6, 3)), layers.LSTM(5), layers.Dense(1)])
    session = Session(network)
    np.testing.assert_array_equal(session.run(X), network.predict(X, verbose=0))
    network.set_weights([2 * weight for weight in network.get_weights()])
    assert not np.array_equal(session.run(X), network.predict(X, verbose=0))
    stream = Session(network).stream(batch=7)
    np.testing.assert_array_equal(stream.step(X), Session(network).run(X))


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(5, activation="relu", recurrent_activation="hard_sigmoid"),
        layers.GRU(5, activation="relu"),
        layers.GRU(5, activation="softsign", reset_after=False),
        layers.SimpleRNN(5, activation="relu"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_step_of_training_computes_the_loss_of_evaluation(layer):
    network = Sequential([layers.Input((6, 3)), layer, layers.Dense(1)])
    network.compile(optimizers.SGD(0.0), "mse")
    assert network.train_on_batch(X, Y) == pytest.approx(network.test_on_batch(X, Y), rel=1e-6)

"""Layers that keep their states between batches: training over consecutive windows is truncated backpropagation through time."""

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import layers
from fastlstm.errors import ShapeError

B, T, I, WINDOWS = 3, 4, 2, 4


def stack(L, Input, dtype: str = "float64") -> list:
    """Return layers of which three keep states, one of them backwards in each window."""
    return [
        Input(batch_shape=(B, T, I), dtype=dtype),
        L.LSTM(5, return_sequences=True, stateful=True, dtype=dtype),
        L.GRU(4, return_sequences=True, stateful=True, go_backwards=True, dtype=dtype),
        L.SimpleRNN(6, stateful=True, dtype=dtype),
        L.Dense(1, dtype=dtype),
    ]


@pytest.fixture
def twins():
    keras = networks.keras("float64")
    ours = fastlstm.Sequential(stack(layers, fastlstm.Input))
    theirs = keras.Sequential(stack(keras.layers, keras.Input))
    # Keras counts states among the weights of a layer
    for own, other in zip(ours.layers, theirs.layers, strict=True):
        other.set_weights([*own.get_weights(), *(np.zeros(w.shape) for w in other.non_trainable_weights)])
    ours.compile(fastlstm.optimizers.SGD(0.25), "mse")
    theirs.compile(keras.optimizers.SGD(0.25), "mse")
    return ours, theirs


def reset(theirs) -> None:
    for layer in theirs.layers:
        if getattr(layer, "stateful", False):
            layer.reset_states()


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return windows one after the other: rows k, k + B, ... go on with the same sequence."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((WINDOWS * B, T, I)), rng.standard_normal((WINDOWS * B, 1))


def test_fit_evaluate_and_predict_carry_states_as_in_keras(twins):
    ours, theirs = twins
    x, y = data()
    options = {"batch_size": B, "verbose": 0}

    def same() -> None:
        np.testing.assert_allclose(ours.predict(x, **options), theirs.predict(x, **options), atol=1e-8)

    same()
    same()  # goes on from where the last call ended
    history = ours.fit(x, y, shuffle=False, epochs=2, validation_data=(x, y), **options).history
    expected = theirs.fit(x, y, shuffle=False, epochs=2, validation_data=(x, y), **options).history
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-6)
    same()
    assert ours.evaluate(x, y, **options) == pytest.approx(theirs.evaluate(x, y, **options), rel=1e-6)
    ours.reset_states()
    reset(theirs)
    same()


def network(T: int | None, stateful: bool, units: int = 7) -> fastlstm.Sequential:
    made = fastlstm.Sequential(
        [
            fastlstm.Input(batch_shape=(B, T, I), dtype="float64"),
            layers.LSTM(units, return_sequences=True, stateful=stateful, dtype="float64"),
            layers.Dense(1, dtype="float64"),
        ]
    )
    rng = np.random.default_rng(5)
    made.set_weights([rng.standard_normal(w.shape) * 0.4 for w in made.get_weights()])
    made.compile("sgd", "mse")
    return made


def test_windows_give_what_the_whole_sequence_gives():
    whole = np.random.default_rng(1).standard_normal((B, WINDOWS * T, I))
    expected = network(None, stateful=False).predict(whole, verbose=0)
    by_window = network(T, stateful=True)
    parts = [by_window.predict(part, batch_size=B, verbose=0) for part in np.split(whole, WINDOWS, axis=1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
    by_window.reset_states()
    np.testing.assert_array_equal(by_window.predict(whole[:, :T], batch_size=B, verbose=0), parts[0])


def test_the_gradient_ends_where_the_window_begins():
    """It is that of the window alone, from the states that the windows before left: the sum over windows is not that of the whole."""
    rng = np.random.default_rng(2)
    whole, target = rng.standard_normal((B, 2 * T, I)), rng.standard_normal((B, 2 * T, 1))
    by_window = network(T, stateful=True)
    by_window.predict(whole[:, :T], batch_size=B, verbose=0)
    states = [by_window.layers[0]._arrays[f"state{k}"].copy() for k in range(2)]
    _, found = fastlstm.value_and_grad(by_window, "mse")(whole[:, T:], target[:, T:])

    x, h, c = (
        fastlstm.Input((T, I), dtype="float64"),
        fastlstm.Input((7,), dtype="float64"),
        fastlstm.Input((7,), dtype="float64"),
    )
    lstm, dense = layers.LSTM(7, return_sequences=True, dtype="float64"), layers.Dense(1, dtype="float64")
    fixed = fastlstm.models.Model([x, h, c], dense(lstm(x, initial_state=[h, c])))
    fixed.set_weights(by_window.get_weights())
    _, expected = fastlstm.value_and_grad(fixed, "mse")([whole[:, T:], *states], target[:, T:])
    for got, want in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    _, long = fastlstm.value_and_grad(network(None, stateful=False), "mse")(whole, target)
    first, second = (fastlstm.value_and_grad(network(None, stateful=False), "mse")(whole[:, part], target[:, part])[1] for part in (slice(0, T), slice(T, None)))  # fmt: skip
    assert not np.allclose(next(iter(long.values())), next(iter(first.values())) / 2 + next(iter(second.values())) / 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: n.predict(x[:4], verbose=0), "there are 4 samples: the network keeps states of 3 samples"),
        (lambda n, x: n.fit(x, x[:, :, :1], batch_size=6, verbose=0), "batch_size=6: the network keeps states of 3"),
        (lambda n, x: n.train_on_batch(x, x[:, :, :1]), "a batch has 6 samples: the network keeps states of 3"),
        (
            lambda n, x: n.fit(iter([(x, x[:, :, :1])]), verbose=0),
            "a batch has 6 samples: the network keeps states of 3",
        ),
    ],
)
def test_batches_of_another_size_are_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call(network(T, stateful=True), np.zeros((2 * B, T, I)))

"""Two networks that share layers have one set of weights: what training one does, the other sees."""

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import layers, models

ROWS, STEPS = 6, 5


def _translator(K, Model, Input, dtype="float64"):
    """An encoder-decoder in training, and its decoder as it is used, with the states as inputs."""
    source, target = Input((STEPS, 3), dtype=dtype), Input((STEPS, 2), dtype=dtype)
    _, h, c = K.LSTM(4, return_state=True, dtype=dtype)(source)
    lstm, dense = K.LSTM(4, return_sequences=True, return_state=True, dtype=dtype), K.Dense(2, dtype=dtype)
    y, _, _ = lstm(target, initial_state=[h, c])
    whole = Model([source, target], dense(y))
    states = [Input((4,), dtype=dtype), Input((4,), dtype=dtype)]
    y, *rest = lstm(target, initial_state=states)
    return whole, Model(source, [h, c]), Model([target, *states], [dense(y), *rest])


def _data(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((ROWS, STEPS, 3)), rng.standard_normal((ROWS, STEPS, 2))


def test_an_encoder_and_a_decoder_see_what_training_the_whole_does():
    whole, encoder, decoder = _translator(layers, models.Model, fastlstm.Input)
    whole.compile("adam", "mse")
    x, y = _data()
    for _ in range(3):
        whole.fit([x, y], y, epochs=2, verbose=0)
        states = encoder.predict(x, verbose=0)
        apart, *_ = decoder.predict([y, *states], verbose=0)
        np.testing.assert_allclose(apart, whole.predict([x, y], verbose=0), rtol=1e-12, atol=1e-12)
        session = fastlstm.Session(decoder.to_model())
        ran = session.run(dict(zip(decoder.input_names, [y, *states], strict=True)))
        np.testing.assert_allclose(ran[next(iter(ran))], apart, rtol=1e-12, atol=1e-12)


def test_two_networks_trained_in_turn_move_one_set_of_weights_as_in_keras():
    k = networks.keras("float64")
    ours = _translator(layers, models.Model, fastlstm.Input)
    theirs = _translator(k.layers, k.Model, k.Input)
    for a, b in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        b.set_weights(a.get_weights())
    x, y = _data()
    rates = 2.0**-3, 2.0**-4
    for (whole, _, decoder), kind in ((ours, fastlstm.optimizers), (theirs, k.optimizers)):
        whole.compile(kind.SGD(rates[0], momentum=0.5), "mse")
        decoder.compile(kind.SGD(rates[1]), ["mse", None, None])
        states = [np.full((ROWS, 4), 0.25), np.full((ROWS, 4), -0.5)]
        for _ in range(4):
            whole.train_on_batch([x, y], y)
            decoder.train_on_batch([y, *states], [y, *states])
    for a, b in zip(ours, theirs, strict=True):
        assert networks.worst(a, b) < 1e-8


def test_weights_that_are_set_in_one_network_are_those_of_the_other():
    whole, encoder, _decoder = _translator(layers, models.Model, fastlstm.Input)
    whole.compile("sgd", "mse")
    x, y = _data()
    whole.train_on_batch([x, y], y)
    encoder.predict(x, verbose=0)
    new = [w + 1 for w in encoder.get_weights()]
    encoder.set_weights(new)
    shared = [w for w in whole.get_weights() if any(np.array_equal(w, n) for n in new)]
    assert len(shared) == len(new)
    before = whole.evaluate([x, y], y, verbose=0)
    encoder.set_weights([w - 1 for w in new])
    assert whole.evaluate([x, y], y, verbose=0) != before


def test_a_callback_may_use_the_other_network_while_one_is_trained():
    whole, encoder, _ = _translator(layers, models.Model, fastlstm.Input)
    x, y = _data()
    seen = []

    class Looks(fastlstm.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(encoder.predict(x, verbose=0)[0])

    whole.compile("sgd", "mse")
    start = [w.copy() for w in whole.get_weights()]
    whole.fit([x, y], y, batch_size=2, epochs=2, verbose=0, seed=1, callbacks=[Looks()])
    looked = whole.get_weights()
    whole.set_weights(start)
    whole.compile("sgd", "mse")
    whole.fit([x, y], y, batch_size=2, epochs=2, verbose=0, seed=1)
    for a, b in zip(looked, whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(seen) == 6 and not np.array_equal(seen[0], seen[-1])


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_frozen_part_of_one_network_is_trained_by_another(kind):
    """A generator and what judges it: each trains its own layers alone."""
    first, second = layers.Dense(4, dtype="float64", name="first"), layers.Dense(1, dtype="float64", name="second")
    x = fastlstm.Input((3,), dtype="float64")
    front = models.Model(x, first(x))
    z = fastlstm.Input((4,), dtype="float64")
    back = models.Model(z, second(z))
    both = models.Model(x, second(first(x)))
    front.compile(kind, "mse")
    second.trainable = False
    both.compile(kind, "mse")
    rng = np.random.default_rng(0)
    data, wanted = rng.standard_normal((5, 3)), rng.standard_normal((5, 1))
    kept = [w.copy() for w in back.get_weights()]
    for _ in range(3):
        both.train_on_batch(data, wanted)
        front.train_on_batch(data, rng.standard_normal((5, 4)))
    for a, b in zip(kept, back.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(both.predict(data, verbose=0), back.predict(front.predict(data, verbose=0), verbose=0), rtol=1e-12)  # fmt: skip

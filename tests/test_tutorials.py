"""What programs of tutorials say besides layers, compile and fit: each spelling works as in Keras, or is refused in one line."""

import numpy as np
import pytest

import fastlstm
from fastlstm import layers, losses, models, optimizers
from fastlstm.errors import InputError, UnsupportedError


@pytest.fixture
def model():
    fastlstm.set_random_seed(0)
    model = fastlstm.Sequential()
    model.add(layers.LSTM(5, return_sequences=True, input_shape=(4, 2), name="first"))
    model.add(layers.LSTM(3, name="second"))
    model.add(layers.Dense(1))
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    return model


X = np.random.default_rng(0).random((6, 4, 2)).astype(np.float32)
Y = X[:, -1, :1]


def test_a_model_of_a_hidden_layer_gives_what_the_layer_gives(model):
    hidden = models.Model(inputs=model.input, outputs=model.get_layer("first").output)
    found = hidden.predict(X, verbose=0)
    assert found.shape == (6, 4, 5)
    np.testing.assert_array_equal(found, model.layers[0](X))


def test_a_model_of_a_hidden_layer_sees_what_training_moves(model):
    hidden = models.Model(inputs=model.inputs, outputs=[model.layers[1].output, model.output])
    before = hidden.predict(X, verbose=0)
    model.fit(X, Y, epochs=1, verbose=0)
    after = hidden.predict(X, verbose=0)
    assert (before[0] != after[0]).any()
    np.testing.assert_array_equal(after[1], model.predict(X, verbose=0))


def test_symbols_of_a_layer_are_those_of_its_only_call():
    x = fastlstm.Input((4, 2))
    layer = layers.LSTM(3, return_state=True)
    with pytest.raises(InputError, match=r"'lstm' .* was not called on symbols yet"):
        _ = layer.output
    outputs = layer(x)
    assert layer.input is x
    assert all(a is b for a, b in zip(layer.output, outputs, strict=True))


def test_names_of_metrics_are_those_of_evaluate(model):
    assert model.metrics_names == ["loss"]
    model.fit(X, Y, verbose=0)
    assert model.metrics_names == ["loss", "mae"]
    assert len(model.metrics_names) == len(model.evaluate(X, Y, verbose=0))


@pytest.mark.parametrize("name", ["add", "average", "maximum", "minimum", "multiply", "subtract", "concatenate"])
def test_functions_that_join_are_their_layers(name):
    a, b = (np.random.default_rng(k).random((3, 2)).astype(np.float32) for k in range(2))
    kind = getattr(layers, name.capitalize())
    np.testing.assert_array_equal(getattr(layers, name)([a, b]), kind()([a, b]))


def test_concatenate_and_dot_take_their_axes():
    a, b = (np.random.default_rng(k).random((3, 4, 2)).astype(np.float32) for k in range(2))
    assert layers.concatenate([a, b], axis=1).shape == (3, 8, 2)
    np.testing.assert_allclose(layers.dot([a, b], axes=2), np.einsum("bij,bkj->bik", a, b), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"), [("huber_loss", losses.Huber), ("kullback_leibler_divergence", losses.KLDivergence)]
)
def test_older_names_of_losses(name, kind):
    assert isinstance(losses.get(name), kind)


def test_a_class_of_ones_own_is_refused_in_one_line():
    class Own(models.Model):
        def __init__(self):
            super().__init__()

    with pytest.raises(UnsupportedError, match="a class with a call of its own is not supported"):
        Own()


def test_older_arguments_of_optimizers():
    optimizer = optimizers.SGD(lr=0.5, momentum=0.9, decay=0.25)
    rates = []
    for optimizer.iterations in range(3):
        rates.append(optimizer.learning_rate)
    assert rates == [0.5, 0.5 / 1.25, 0.5 / 1.5]
    with pytest.raises(InputError, match="unknown argument 'rate' of Adam"):
        optimizers.Adam(rate=0.1)

"""Loaded and converted models as networks that training moves."""

import numpy as np
import pytest

import fastlstm
from fastlstm import layers, models
from fastlstm.errors import InputError
from fastlstm.training.unfused import TrainingBuild

T, I = 6, 4


def saved(*parts: layers.Layer) -> fastlstm.Model:
    fastlstm.set_random_seed(5)
    return models.Sequential([layers.Input((None, I)), *parts]).to_model()


def net() -> fastlstm.Model:
    return saved(
        layers.Masking(), layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="ave"), layers.BatchNormalization(),
        layers.LSTM(2), layers.Dense(1),
    )  # fmt: skip


def data(rows: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, T, I)).astype("f4")
    x[:, 4:] = 0
    return x, x.sum((1, 2))[:, None]


def test_a_network_gives_the_model_s_numbers_and_the_model_back():
    model, (x, _) = net(), data()
    network = models.trainable(model)
    want = fastlstm.Session(model).run(x)
    assert np.array_equal(network(x), want) and np.array_equal(network.predict(x, verbose=0), want)
    assert network.to_model().to_bytes() == model.to_bytes()


def test_weights_are_what_nodes_read_as_weights_and_statistics_stay():
    network = models.trainable(net())
    assert {"masking.zero", "bidirectional.half"} <= set(network.constants)
    assert network.frozen == {"batch_normalization.moving_mean", "batch_normalization.moving_variance"}
    build = TrainingBuild()
    network.forward(build, [build.input(s.name, s.dtype, s.shape) for s in network.input_specs])
    assert set(build.statistics) == network.frozen and set(build.parameters) == set(network.weights) - network.frozen
    assert "lstm.W" in build.parameters and "bidirectional/forward.b" in build.parameters


def test_what_a_normalization_subtracts_and_divides_by_stays():
    made = layers.Normalization(mean=np.arange(I, dtype="f4"), variance=np.arange(1, I + 1, dtype="f4"))
    network, (x, y) = models.trainable(saved(made, layers.Dense(1), layers.LSTM(1))), data()
    assert network.frozen == {"normalization.mean", "normalization.scale"}
    before = {name: array.copy() for name, array in network.weights.items()}
    network.compile("sgd", "mse")
    network.fit(x, y, epochs=1, verbose=0)
    still = {name for name, array in network.weights.items() if np.array_equal(array, before[name])}
    assert still == network.frozen


@pytest.mark.parametrize(
    ("freeze", "moved"),
    [
        (["bidirectional*", "batch_normalization*"], {"lstm", "dense"}),
        (["lstm"], {"dense", "bidirectional/forward", "bidirectional/backward", "batch_normalization"}),
        ("*.W", {"lstm", "dense", "bidirectional/forward", "bidirectional/backward", "batch_normalization"}),
        (["*"], set()),
    ],
)
def test_what_is_frozen_by_name_of_a_weight_or_node_stays(freeze, moved):
    network = models.trainable(net(), freeze)
    assert {name.split(".")[0] for name in set(network.weights) - network.frozen} == moved


def test_fitting_moves_what_is_not_frozen_and_leaves_the_model_alone(tmp_path):
    model, (x, y) = saved(layers.LSTM(3), layers.Dense(1)), data()
    bytes_before = model.to_bytes()
    network = models.trainable(model, freeze=["lstm"])
    network.compile("adam", "mse")
    losses = network.fit(x, y, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.to_bytes() == bytes_before
    tuned = network.to_model()
    for name, array in tuned.weights.items():
        assert np.array_equal(array, model.weights[name]) == name.startswith("lstm")
    network.save(tmp_path / "m.safetensors")
    again = fastlstm.Session(fastlstm.load(tmp_path / "m.safetensors")).run(x)
    assert np.array_equal(again, network.predict(x, verbose=0))


@pytest.mark.parametrize("layer", [layers.Dense(1, activation="sigmoid"), layers.Conv1D(1, 2, activation="relu")])
def test_activations_of_a_model_are_trained_through(layer):
    model, (x, _) = saved(layers.Dense(3, activation="tanh"), layers.LSTM(2, return_sequences=True), layer), data()
    network, twin = models.trainable(model), models.Sequential([layers.Input((None, I))])
    for part in (layers.Dense(3, activation="tanh"), layers.LSTM(2, return_sequences=True), layer):
        twin.add(part)
    twin.set_weights(network.get_weights())
    y = np.zeros(network.predict(x, verbose=0).shape)
    for one in (network, twin):
        one.compile("sgd", "mse")
        one.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(network.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_narrow_weights_are_widened():
    model, (x, _) = saved(layers.LSTM(3), layers.Dense(1)).narrowed("float16"), data()
    network = models.trainable(model)
    assert {array.dtype.name for array in network.weights.values()} == {"float32"}
    np.testing.assert_allclose(network(x), fastlstm.Session(model).run(x), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: models.trainable(net(), ["encoder*"]),
            r"'encoder\*' names no weight and no node; weights: .*'lstm.W'",
        ),
        (
            lambda: models.trainable(models.Sequential()),
            "takes a fastlstm.Model, as load and convert give, got Sequential",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()

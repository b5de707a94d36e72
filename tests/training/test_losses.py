"""Losses: values and 20 steps of training as in Keras, weights and masks by its rules, and what is refused."""

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import layers, losses
from fastlstm.errors import InputError, ShapeError

STEPS = 20


def _numbers(rng, rows):
    return rng.standard_normal((rows, 3))


def _positive(rng, rows):
    return rng.random((rows, 3)) + 0.5


def _bits(rng, rows):
    return rng.integers(0, 2, (rows, 3))


def _one_hot(rng, rows):
    return np.eye(3)[rng.integers(0, 3, rows)]


def _classes(rng, rows):
    return rng.integers(0, 3, rows)


LOSSES = {
    "mse": ("MeanSquaredError", {}, None, _numbers),
    "mae": ("MeanAbsoluteError", {}, None, _numbers),
    "mape": ("MeanAbsolutePercentageError", {}, None, _positive),
    "msle": ("MeanSquaredLogarithmicError", {}, "sigmoid", _positive),
    "huber": ("Huber", {"delta": 0.75}, None, _numbers),
    "log cosh": ("LogCosh", {}, None, _numbers),
    "cosine similarity": ("CosineSimilarity", {}, None, _numbers),
    "poisson": ("Poisson", {}, "softplus", _positive),
    "kl divergence": ("KLDivergence", {}, "softmax", _one_hot),
    "hinge of bits": ("Hinge", {}, None, _bits),
    "squared hinge": ("SquaredHinge", {}, None, _bits),
    "bce": ("BinaryCrossentropy", {}, "sigmoid", _bits),
    "bce smoothed": ("BinaryCrossentropy", {"label_smoothing": 0.25}, "sigmoid", _bits),
    "bce from logits": ("BinaryCrossentropy", {"from_logits": True}, None, _bits),
    "bce of another activation": ("BinaryCrossentropy", {}, "hard_sigmoid", _bits),
    "cce": ("CategoricalCrossentropy", {}, "softmax", _one_hot),
    "cce smoothed": ("CategoricalCrossentropy", {"label_smoothing": 0.25}, "softmax", _one_hot),
    "cce from logits": ("CategoricalCrossentropy", {"from_logits": True}, None, _one_hot),
    "cce of another activation": ("CategoricalCrossentropy", {}, "softplus", _one_hot),
    "sparse cce": ("SparseCategoricalCrossentropy", {}, "softmax", _classes),
    "sparse cce from logits": ("SparseCategoricalCrossentropy", {"from_logits": True}, None, _classes),
    "sparse cce of another activation": ("SparseCategoricalCrossentropy", {}, "hard_sigmoid", _classes),
    "sparse cce ignoring a class": ("SparseCategoricalCrossentropy", {"ignore_class": 1}, "softmax", _classes),
    "sum": ("MeanSquaredError", {"reduction": "sum"}, None, _numbers),
    "mean with sample weight": ("MeanSquaredError", {"reduction": "mean_with_sample_weight"}, None, _numbers),
}


def _pair(rng, dtype, kind, options, activation):
    # so small a step of a loss in per cent that no error changes its sign
    rate = 2.0**-9 if kind == "MeanAbsolutePercentageError" else 2.0**-3
    network = networks.dense(rng, dtype, 3, activation)
    twin = networks.dense_of_keras(network, dtype, 3, activation)
    network.compile(fastlstm.optimizers.SGD(rate), getattr(losses, kind)(**options))
    k = networks.keras(dtype)
    twin.compile(k.optimizers.SGD(rate), getattr(k.losses, kind)(**options), run_eagerly=True)
    return network, twin


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-4)])
@pytest.mark.parametrize("name", LOSSES)
def test_twenty_steps_agree_with_keras(name, dtype, tolerance):
    kind, options, activation, targets = LOSSES[name]
    rng = np.random.default_rng(5)
    network, twin = _pair(rng, dtype, kind, options, activation)
    start = [w.copy() for w in network.get_weights()]
    for step in range(STEPS):
        x, y = rng.standard_normal((4, 5)).astype(dtype), targets(rng, 4)
        y = y if y.dtype.kind == "i" and y.ndim == 1 else y.astype(dtype)
        weights = rng.random(4) if step % 2 else None
        ours = network.train_on_batch(x, y, weights)
        theirs = twin.train_on_batch(x, y, None if weights is None else weights.astype(dtype))
        theirs = theirs[0] if isinstance(theirs, list | tuple) else theirs
        assert ours == pytest.approx(float(theirs), rel=10 * tolerance, abs=tolerance)
    assert max(np.abs(a - b).max() for a, b in zip(start, network.get_weights(), strict=True)) > 1e-3
    assert networks.worst(network, twin) < tolerance


def _tagger(dtype="float64", outputs=3, activation="softmax"):
    """A network over steps whose zeros are masked, and its twin in Keras."""
    rng = np.random.default_rng(7)
    network = fastlstm.Sequential(
        [
            fastlstm.Input((None, 4), dtype=dtype),
            layers.Masking(),
            layers.Dense(outputs, activation=activation, dtype=dtype),
        ]
    )
    network.set_weights([rng.standard_normal(w.shape) for w in network.get_weights()])
    k = networks.keras(dtype)
    twin = k.Sequential([k.Input((None, 4)), k.layers.Masking(), k.layers.Dense(outputs, activation=activation)])
    twin.set_weights(network.get_weights())
    return network, twin


def _padded(rng, rows=5, steps=6):
    x = rng.standard_normal((rows, steps, 4))
    for row, length in enumerate(rng.integers(0, steps + 1, rows)):
        x[row, length:] = 0
    return x


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("weighted", ["no", "rows", "steps"])
def test_masked_steps_count_for_nothing_as_in_keras(reduction, weighted):
    network, twin = _tagger()
    k = networks.keras("float64")
    twin.compile("sgd", k.losses.SparseCategoricalCrossentropy(reduction=reduction), weighted_metrics=["accuracy"], run_eagerly=True)  # fmt: skip
    network.compile("sgd", losses.SparseCategoricalCrossentropy(reduction=reduction), weighted_metrics=["accuracy"])
    rng = np.random.default_rng(8)
    for _ in range(3):
        x, y = _padded(rng), rng.integers(0, 3, (5, 6))
        weights = {"no": None, "rows": rng.random((5, 1)), "steps": rng.random((5, 6))}[weighted]
        ours = network.train_on_batch(x, y, weights)
        theirs = twin.train_on_batch(x, y, weights)
        np.testing.assert_allclose(ours, [float(v) for v in theirs], rtol=1e-6)
    assert networks.worst(network, twin) < 1e-8


@pytest.mark.parametrize("name", LOSSES)
def test_twenty_steps_over_masked_steps_agree_with_keras(name):
    kind, options, activation, targets = LOSSES[name]
    network, twin = _tagger(activation=activation)
    k, rate = networks.keras("float64"), 2.0**-9 if kind == "MeanAbsolutePercentageError" else 2.0**-3
    network.compile(fastlstm.optimizers.SGD(rate), getattr(losses, kind)(**options))
    twin.compile(k.optimizers.SGD(rate), getattr(k.losses, kind)(**options), run_eagerly=True)
    rng = np.random.default_rng(9)
    for step in range(STEPS):
        x, y = _padded(rng), targets(rng, 30)
        y = y.reshape(5, 6, *y.shape[1:])
        y = y if y.dtype.kind == "i" and y.ndim == 2 else y.astype("float64")
        weights = rng.random((5, 6)) if step % 2 else None
        ours, theirs = network.train_on_batch(x, y, weights), twin.train_on_batch(x, y, weights)
        assert ours == pytest.approx(float(theirs), rel=1e-6, abs=1e-9)
    assert networks.worst(network, twin) < 1e-8


def test_a_batch_that_is_masked_whole_has_the_loss_0():
    network, _ = _tagger()
    network.compile("sgd", "sparse_categorical_crossentropy")
    before = network.get_weights()
    assert network.train_on_batch(np.zeros((2, 3, 4)), np.zeros((2, 3), int)) == 0
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_saturated_softmax_still_learns():
    rng = np.random.default_rng(1)
    network = networks.dense(rng, "float32", 3, "softmax")
    network.set_weights([w * 0 + (300.0 if k == 3 else 0) * np.eye(3)[0] if w.shape == (3,) else w * 0 for k, w in enumerate(network.get_weights())])  # fmt: skip
    network.compile("sgd", "sparse_categorical_crossentropy")
    assert network.train_on_batch(np.ones((1, 5)), [1]) == pytest.approx(300)
    assert network.get_weights()[3][1] > 0


def test_a_loss_of_your_own_is_a_function_of_tensors():
    rng = np.random.default_rng(2)
    network, twin = networks.dense(rng), networks.dense(np.random.default_rng(2))
    network.compile("sgd", lambda y_true, y_pred: (y_pred - y_true) ** 2)
    twin.compile("sgd", "mse")
    x, y = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    assert network.train_on_batch(x, y) == pytest.approx(twin.train_on_batch(x, y), rel=1e-12)
    assert networks.worst(network, twin) < 1e-14


class TestRefusals:
    def test_unknown_losses_are_listed(self):
        network = networks.dense(np.random.default_rng(0))
        with pytest.raises(InputError, match="unknown loss 'mse2'; known: 'BCE', "):
            network.compile("sgd", "mse2")

    def test_targets_of_another_shape(self):
        network = networks.dense(np.random.default_rng(0))
        network.compile("sgd", "mse")
        with pytest.raises(
            ShapeError, match=r"output 'out': targets have shape \(4, 2\), loss 'mse' expects \(batch, 3\)"
        ):
            network.train_on_batch(np.zeros((4, 5)), np.zeros((4, 2)))

    def test_class_indices_for_a_loss_of_one_hot_targets(self):
        network = networks.dense(np.random.default_rng(0), activation="softmax")
        network.compile("sgd", "categorical_crossentropy")
        with pytest.raises(ShapeError, match="class indices need loss='sparse_categorical_crossentropy'"):
            network.fit(np.zeros((4, 5)), np.zeros(4, int), verbose=0)

    def test_classes_out_of_range(self):
        network = networks.dense(np.random.default_rng(0), activation="softmax")
        network.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.raises(
            InputError, match=r"the target at \(2,\) is 3, expected a class from 0 to 2: the output has 3"
        ):
            network.fit(np.zeros((4, 5)), [0, 1, 3, 2], verbose=0)

    def test_a_reduction_that_gives_no_number(self):
        with pytest.raises(InputError, match="reduction='none' of a loss"):
            losses.MeanSquaredError(reduction="none")

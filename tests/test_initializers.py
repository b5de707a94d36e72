"""Initializers: Keras's distributions, by their moments and bounds over many numbers."""

import os
from typing import Any

import numpy as np
import pytest

import fastlstm
from fastlstm import initializers
from fastlstm.errors import FastLSTMError, InputError, ShapeError

SHAPE = (400, 250)
NAMES = [
    "random_normal", "random_uniform", "truncated_normal", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal",
    "lecun_uniform", "variance_scaling",
]  # fmt: skip


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


def alike(a: np.ndarray, b: np.ndarray) -> None:
    """Compare two large samples: moments, bounds and quantiles, within what chance explains."""
    spread, count = b.std(), b.size**0.5
    assert abs(a.mean() - b.mean()) < 8 * spread / count
    assert abs(a.std() / spread - 1) < 8 / count
    for q in (0.01, 0.1, 0.25, 0.5, 0.9):
        assert abs(np.quantile(a, q) - np.quantile(b, q)) < 20 * spread / count
    assert abs(np.abs(a).max() / np.abs(b).max() - 1) < 0.2


@pytest.mark.parametrize("shape", [SHAPE, (3, 200, 250)], ids=["matrix", "convolution"])
@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_is_keras_s(keras, name, shape):
    ours, theirs = initializers.get(name)(shape), np.asarray(keras.initializers.get(name)(shape))
    assert ours.dtype == np.float32 and ours.shape == shape
    alike(ours, theirs)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["truncated_normal", "untruncated_normal", "uniform"])
def test_variance_scaling_has_the_variance_that_it_states(keras, mode, distribution):
    options = {"scale": 3.0, "mode": mode, "distribution": distribution}
    ours = initializers.VarianceScaling(**options, seed=1)(SHAPE)
    alike(ours, np.asarray(keras.initializers.VarianceScaling(**options, seed=1)(SHAPE)))
    fan = {"fan_in": 400, "fan_out": 250, "fan_avg": 325}[mode]
    assert ours.var() == pytest.approx(3 / fan, rel=0.02)


def test_truncated_normals_lie_within_two_standard_deviations():
    values = initializers.TruncatedNormal(1.0, 0.5, seed=0)(SHAPE)
    assert np.abs(values - 1).max() <= 1.0
    assert values.std() == pytest.approx(0.5 * initializers.TRUNCATED_STDDEV, rel=0.01)


@pytest.mark.parametrize("shape", [(7, 7), (5, 12), (12, 5), (2, 3, 4)])
def test_orthogonal_is_orthonormal_along_its_shorter_side(shape):
    matrix = initializers.Orthogonal(gain=2.0, seed=3)(shape, dtype="float64").reshape(-1, shape[-1])
    product = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(min(matrix.shape)), atol=1e-12)


def test_orthogonal_is_uniform_over_all_rotations():
    """Without the signs of R the diagonal of Q would be negative."""
    diagonals = np.array([np.diag(initializers.Orthogonal(seed=k)((3, 3))) for k in range(300)])
    assert np.abs(diagonals.mean(0)).max() < 0.15


def test_constants():
    assert not initializers.get("zeros")((2, 3)).any() and (initializers.get("ones")((2,)) == 1).all()
    assert (initializers.Constant(0.3)((2, 2)) == np.float32(0.3)).all()
    table = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(initializers.Constant(table)((2, 3)), table)
    assert np.array_equal(initializers.Identity(2.0)((2, 3)), 2 * np.eye(2, 3))
    assert initializers.Zeros()(()).shape == ()


def test_a_seed_gives_the_same_values_each_time_and_none_new_ones():
    for kind in (initializers.GlorotUniform, initializers.Orthogonal, initializers.TruncatedNormal):
        seeded, free = kind(seed=4), kind()
        assert np.array_equal(seeded((5, 6)), seeded((5, 6))) and np.array_equal(seeded((5, 6)), kind(seed=4)((5, 6)))
        assert not np.array_equal(free((5, 6)), free((5, 6)))
        fastlstm.set_random_seed(1)
        first = free((5, 6))
        fastlstm.set_random_seed(1)
        assert np.array_equal(first, free((5, 6)))


def test_the_numbers_of_a_seed_stay_what_they_are():
    """A model that a seed made is made again by later versions."""
    values = initializers.GlorotUniform(seed=0)((2, 2), dtype="float64").ravel()
    rng = np.random.Generator(np.random.Philox(0))
    np.testing.assert_allclose(values, rng.uniform(-(1.5**0.5), 1.5**0.5, (2, 2)).ravel())


@pytest.mark.parametrize(
    "which",
    [
        "he_normal",
        "HeNormal",
        initializers.HeNormal,
        initializers.HeNormal(),
        {"class_name": "HeNormal", "config": {"seed": 2}},
    ],
)
def test_the_ways_to_name_one(which):
    assert isinstance(initializers.get(which), initializers.HeNormal)


def test_a_function_of_shape_and_dtype_is_one():
    assert (
        fastlstm.layers.Dense(2, kernel_initializer=lambda shape, dtype: np.full(shape, 7, dtype))(np.ones((1, 3)))
        == 21
    ).all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: initializers.get("xavier"),
            InputError,
            "unknown initializer 'xavier'; known: 'constant', 'glorot_normal'",
        ),
        (lambda: initializers.get(3), InputError, "3 is no initializer"),
        (lambda: initializers.Orthogonal()((3,)), ShapeError, "Orthogonal makes matrices"),
        (lambda: initializers.Identity()((3, 3, 3)), ShapeError, "Identity makes matrices"),
        (lambda: initializers.Constant([1, 2])((3,)), ShapeError, "Constant holds an array of shape"),
        (lambda: initializers.VarianceScaling(mode="fan"), InputError, "mode='fan'"),
        (lambda: initializers.GlorotUniform(seed=-1)((2, 2)), InputError, "seed=-1"),
        (lambda: fastlstm.set_random_seed("a"), InputError, "seed='a'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, error: Any, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert isinstance(caught.value, FastLSTMError)

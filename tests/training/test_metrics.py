"""Metrics: those of Keras over several batches, with sample weights, and the choice that "accuracy" makes."""

import numpy as np
import pytest
from training import networks

from fastlstm import metrics
from fastlstm.errors import InputError

ROWS = 11


def _scores(rng, *shape):
    return rng.random(shape).astype(np.float32)


def _binary(rng):
    return rng.integers(0, 2, (ROWS, 1)), _scores(rng, ROWS, 1)


def _labels(rng):
    return rng.integers(0, 2, (ROWS, 4)), _scores(rng, ROWS, 4)


def _one_hot(rng):
    p = _scores(rng, ROWS, 7)
    return np.eye(7, dtype=np.float32)[rng.integers(0, 7, ROWS)], p / p.sum(-1, keepdims=True)


def _classes(rng):
    return rng.integers(0, 7, ROWS), _one_hot(rng)[1]


def _steps(rng):
    return rng.integers(0, 7, (ROWS, 3)), _scores(rng, ROWS, 3, 7)


def _numbers(rng):
    return rng.standard_normal((ROWS, 4)).astype(np.float32), rng.standard_normal((ROWS, 4)).astype(np.float32)


def _equal(rng):
    return rng.integers(0, 3, (ROWS, 1)).astype(np.float32), rng.integers(0, 3, (ROWS, 1)).astype(np.float32)


def _coarse(rng):
    y, p = _binary(rng)
    return y, (np.round(p * 10) / 10).astype(np.float32)


METRICS = {
    "accuracy": ("Accuracy", {}, _equal),
    "binary accuracy": ("BinaryAccuracy", {"threshold": 0.3}, _labels),
    "categorical accuracy": ("CategoricalAccuracy", {}, _one_hot),
    "sparse categorical accuracy": ("SparseCategoricalAccuracy", {}, _classes),
    "sparse categorical accuracy of steps": ("SparseCategoricalAccuracy", {}, _steps),
    "top 3": ("TopKCategoricalAccuracy", {"k": 3}, _one_hot),
    "sparse top 3": ("SparseTopKCategoricalAccuracy", {"k": 3}, _classes),
    "mse": ("MeanSquaredError", {}, _numbers),
    "mae": ("MeanAbsoluteError", {}, _numbers),
    "mape": ("MeanAbsolutePercentageError", {}, _numbers),
    "msle": ("MeanSquaredLogarithmicError", {}, _numbers),
    "rmse": ("RootMeanSquaredError", {}, _numbers),
    "bce": ("BinaryCrossentropy", {}, _labels),
    "cce": ("CategoricalCrossentropy", {}, _one_hot),
    "sparse cce": ("SparseCategoricalCrossentropy", {}, _classes),
    "precision": ("Precision", {}, _binary),
    "precision at thresholds": ("Precision", {"thresholds": [0.2, 0.5, 0.9]}, _labels),
    "precision of a class": ("Precision", {"class_id": 2}, _one_hot),
    "precision of the top 2": ("Precision", {"top_k": 2}, _one_hot),
    "recall": ("Recall", {"thresholds": 0.4}, _binary),
    "recall on a threshold": ("Recall", {"thresholds": 0.5}, _coarse),
    "auc": ("AUC", {}, _binary),
    "auc of labels": ("AUC", {}, _labels),
    "auc of few thresholds": ("AUC", {"num_thresholds": 7}, _binary),
    "auc at thresholds": ("AUC", {"thresholds": [0.1, 0.35, 0.8]}, _binary),
    "auc pr": ("AUC", {"curve": "PR"}, _binary),
    "auc minoring": ("AUC", {"summation_method": "minoring"}, _binary),
    "auc pr majoring": ("AUC", {"curve": "PR", "summation_method": "majoring"}, _binary),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", METRICS)
def test_metrics_agree_with_keras(name, weighted):
    kind, options, data = METRICS[name]
    theirs = getattr(networks.keras().metrics, kind)(**options)
    ours = getattr(metrics, kind)(**options)
    assert ours.name == theirs.name.rsplit("_", 1)[0] or ours.name == theirs.name
    rng = np.random.default_rng(4)
    for _ in range(3):
        y_true, y_pred = data(rng)
        weight = rng.random(ROWS).astype(np.float32) if weighted else None
        ours.update_state(y_true, y_pred, weight)
        theirs.update_state(y_true, y_pred, weight)
        np.testing.assert_allclose(ours.result(), np.asarray(theirs.result()), rtol=2e-5)
    ours.reset_state()
    assert np.all(np.asarray(ours.result()) == 0)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "expected"),
    [
        ((8, 1), (8, 1), metrics.BinaryAccuracy),
        ((8,), (8, 5), metrics.SparseCategoricalAccuracy),
        ((8, 1), (8, 5), metrics.SparseCategoricalAccuracy),
        ((8, 3), (8, 3, 5), metrics.SparseCategoricalAccuracy),
        ((8, 5), (8, 5), metrics.CategoricalAccuracy),
    ],
)
def test_accuracy_is_chosen_by_the_shapes_of_targets_and_outputs(y_true, y_pred, expected):
    for name in ("accuracy", "acc"):
        found = metrics.get(name, y_true, y_pred)
        assert type(found) is expected
        assert found.name == name


def test_masked_steps_are_left_out_of_means():
    metric = metrics.SparseCategoricalAccuracy()
    mask = np.array([[True, True, False], [True, False, False]])
    y_pred = np.eye(4)[[[0, 1, 2], [3, 0, 0]]]
    metric.masked(np.array([[0, 2, 3], [3, 1, 1]]), y_pred, None, mask)
    assert metric.result() == pytest.approx(2 / 3)
    metric.masked(np.array([[0, 2, 3], [3, 1, 1]]), y_pred, np.array([0.0, 1.0]), mask)
    assert metric.result() == pytest.approx((2 / 3 + 1 / 3) / (1 + 1 / 3))


def test_a_function_of_two_arrays_is_a_metric():
    def off_by(y_true, y_pred):
        return np.abs(y_true - y_pred).max(axis=-1)

    metric = metrics.get(off_by)
    assert metric.name == "off_by"
    assert metric(np.array([[0.0, 1.0], [2.0, 2.0]]), np.array([[0.5, 1.0], [2.0, 5.0]])) == pytest.approx(1.75)


def test_unknown_metrics_are_listed():
    with pytest.raises(InputError, match="unknown metric 'acuracy'; known: 'AUC', 'Accuracy'"):
        metrics.get("acuracy")
    with pytest.raises(InputError, match=r"AUC\(curve='roc'"):
        metrics.AUC(curve="roc")

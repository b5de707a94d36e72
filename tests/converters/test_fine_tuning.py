"""Random models of Keras 3, converted and trained: loss and gradients are those of Keras.

Weights have other places here: a bias that Keras keeps twice is one, gates may be apart. So what is compared is the norm of all gradients.
FASTLSTM_FULL=1 compares five times as many.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from differential_keras import convert_saved, drawn, engine
from random_keras import KINDS, outputs_of

import fastlstm
from fastlstm import models

COUNT = 5 if os.environ.get("FASTLSTM_FULL") == "1" else 1
FIXED = {"Rescaling", "Normalization"}  # whose vectors a converted model cannot tell from weights


def norm(arrays) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def of_keras(model, arrays: list[np.ndarray], targets: list[np.ndarray]) -> tuple[float, float]:
    """Return the sum of mean squares and the norm of its gradients, as the model is used: nothing is dropped."""
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        outputs = model(arrays if len(arrays) > 1 else arrays[0], training=False)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        loss = sum(tf.reduce_mean((y - t) ** 2) for y, t in zip(outputs, targets, strict=True))
    weights = model.trainable_weights
    found = []
    for weight, gradient in zip(weights, tape.gradient(loss, [weight.value for weight in weights]), strict=True):
        if gradient is None:
            continue
        array = tf.convert_to_tensor(gradient).numpy()
        if "bias" in weight.path and array.ndim == 2 and len(array) == 2:  # of a GRU: only the candidate has two
            array = np.concatenate([array[0], array[1, 2 * array.shape[1] // 3 :]])
        found.append(array)
    return float(loss), norm(found)


@pytest.mark.parametrize("seed", range(COUNT))
@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_has_the_gradients_of_keras(kind, seed, tmp_path: Path):
    pytest.importorskip("keras")
    net = drawn(engine("keras"), kind, seed)
    if net.batch is not None or FIXED & {type(layer).__name__ for layer in net.model.layers}:
        pytest.skip("states, or vectors that are not trained")
    arrays, rng = net.draw(3, net.steps or 5), np.random.default_rng(seed)
    try:
        network = models.trainable(convert_saved(net.model, "keras", tmp_path))
    except fastlstm.UnsupportedError:
        pytest.skip("refused by name")
    one = lambda given: given if len(given) > 1 else given[0]
    targets = [rng.standard_normal(y.shape).astype("f4") for y in outputs_of(net, arrays)]
    loss, gradients = fastlstm.value_and_grad(network, "mse")(one(arrays), one(targets))
    wanted_loss, wanted_norm = of_keras(net.model, arrays, targets)
    assert loss == pytest.approx(wanted_loss, rel=1e-4)
    assert norm(gradients.values()) == pytest.approx(wanted_norm, rel=1e-3, abs=1e-6)

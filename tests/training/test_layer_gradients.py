"""Gradients through whole layers, of their inputs and of their weights, against central differences in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from training import differences

from fastlstm import layers
from fastlstm.layers.build import Tensor
from fastlstm.training.unfused import TrainingBuild

SEQUENCE, IMAGE, VIDEO = (2, 4, 3), (2, 4, 5, 2), (2, 2, 3, 4, 2)
LAYERS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "conv2d": (lambda **o: layers.Conv2D(3, (2, 3), padding="same", activation="tanh", **o), IMAGE),
    "conv2d strides": (lambda **o: layers.Conv2D(4, 2, strides=(2, 1), groups=2, **o), IMAGE),
    "depthwise": (lambda **o: layers.DepthwiseConv2D(2, depth_multiplier=2, **o), IMAGE),
    "depthwise over time": (lambda **o: layers.DepthwiseConv1D(3, padding="same", activation="sigmoid", **o), SEQUENCE),
    "separable": (lambda **o: layers.SeparableConv1D(4, 2, padding="causal", depth_multiplier=2, **o), SEQUENCE),
    "separable over images": (lambda **o: layers.SeparableConv2D(3, 2, **o), IMAGE),
    "max": (lambda **o: layers.MaxPooling2D((2, 3), padding="same", **o), IMAGE),
    "average": (lambda **o: layers.AveragePooling2D(2, strides=1, padding="same", **o), IMAGE),
    "global": (lambda **o: layers.GlobalAveragePooling2D(**o), IMAGE),
    "up sampling": (lambda **o: layers.UpSampling2D((2, 1), **o), IMAGE),
    "zero padding": (lambda **o: layers.ZeroPadding2D(1, **o), IMAGE),
    "cropping": (lambda **o: layers.Cropping1D((1, 1), **o), SEQUENCE),
    "prelu": (lambda **o: layers.PReLU(shared_axes=[1], alpha_initializer="uniform", **o), SEQUENCE),
    "relu": (lambda **o: layers.ReLU(max_value=1.1, negative_slope=0.3, threshold=0.2, **o), SEQUENCE),
    "unit": (lambda **o: layers.UnitNormalization(**o), SEQUENCE),
    "log softmax": (lambda **o: layers.Dense(4, activation="log_softmax", **o), SEQUENCE),
    "conv lstm": (lambda **o: layers.ConvLSTM2D(2, 2, padding="same", return_sequences=True, **o), VIDEO),
    "every step": (lambda **o: layers.TimeDistributed(layers.Conv2D(2, 2, **o), **o), VIDEO),
    "every sequence": (lambda **o: layers.TimeDistributed(layers.GRU(2, **o), **o), IMAGE),
}  # fmt: skip


def distance(call: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> float:
    """Return the largest distance of a gradient from central differences, over x and every weight that training moves."""
    rng, build = np.random.default_rng(7), TrainingBuild()
    x = build.input("x", "float64", shape)
    y = call(x)
    loss = differences.projected(build, y, build.weight("w", rng.standard_normal(y.shape)))
    values = {name: rng.standard_normal(array.shape) / 2 for name, array in build.parameters.items()}
    feeds = {"x": rng.standard_normal(shape), **values}
    return differences.error(build, loss, feeds, [x, *(Tensor(build, name) for name in values)])


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    make, shape = LAYERS[name]
    assert distance(make(dtype="float64"), shape) < 1e-6


@pytest.mark.parametrize("causal", [False, True])
def test_several_heads(causal):
    layer = layers.MultiHeadAttention(2, 3, value_dim=2, dtype="float64")
    assert distance(lambda x: layer(x, x, use_causal_mask=causal), SEQUENCE) < 1e-6


@pytest.mark.parametrize("normalize", [False, True])
def test_dot(normalize):
    assert distance(lambda x: layers.Dot((2, 2), normalize)([x, x]), SEQUENCE) < 1e-6

"""Gradients through whole layers, of their inputs and of their weights, against central differences in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from training import differences

from fastlstm import layers
from fastlstm.layers.build import Tensor
from fastlstm.training.gradient import gradients
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


@pytest.mark.parametrize("name", ["conv1d", "depthwise", "max", "average", "conv2d"])
def test_padding_that_the_run_decides(name):
    make: Callable[..., Any] = {
        "conv1d": lambda: layers.Conv1D(3, 3, strides=2, padding="same", dtype="float64"),
        "depthwise": lambda: layers.DepthwiseConv1D(4, strides=3, padding="same", dtype="float64"),
        "max": lambda: layers.MaxPooling1D(3, strides=2, padding="same"),
        "average": lambda: layers.AveragePooling1D(3, strides=2, padding="same"),
        "conv2d": lambda: layers.Conv2D(2, 3, strides=(2, 3), padding="same", dtype="float64"),
    }[name]
    sizes = (7, 5) if name == "conv2d" else (6,)
    rng, found = np.random.default_rng(2), []
    values: dict[str, np.ndarray] = {}
    x = rng.standard_normal((2, *sizes, 3))
    for dims in (sizes, ("T", "S")[: len(sizes)]):
        build = TrainingBuild()
        given = build.input("x", "float64", (2, *dims, 3))
        y = make()(given)
        values = values or {key: rng.standard_normal(array.shape) for key, array in build.parameters.items()}
        loss = build.node("loss", "ReduceSum", [build.node("square", "Mul", [y, y])])
        wrt = [given, *(Tensor(build, key) for key in build.parameters)]
        feeds = {"x": x, **dict(zip(build.parameters, values.values(), strict=True))}
        found.append(differences.run(build, [d for d in gradients(build, loss, wrt) if d is not None], feeds))
    for free, known in zip(*found[::-1], strict=True):
        np.testing.assert_array_equal(free, known)


@pytest.mark.parametrize("causal", [False, True])
def test_several_heads(causal):
    layer = layers.MultiHeadAttention(2, 3, value_dim=2, dtype="float64")
    assert distance(lambda x: layer(x, x, use_causal_mask=causal), SEQUENCE) < 1e-6


@pytest.mark.parametrize("normalize", [False, True])
def test_dot(normalize):
    assert distance(lambda x: layers.Dot((2, 2), normalize)([x, x]), SEQUENCE) < 1e-6

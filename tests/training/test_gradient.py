"""Gradients of graphs: each op's adjoint against central differences in float64, and how they are put together."""

import numpy as np
import pytest
from training import differences

from fastlstm.errors import UnsupportedError
from fastlstm.layers.build import Build, Tensor
from fastlstm.training.gradient import gradients

TOLERANCE = 1e-6


def _inputs(build: Build, rng: np.random.Generator, **shapes: tuple) -> tuple[list[Tensor], dict[str, np.ndarray]]:
    tensors = [build.input(name, "float64", shape) for name, shape in shapes.items()]
    return tensors, {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("shapes", [((3, 2, 5), (3, 2, 5)), ((3, 2, 5), (5,)), ((2, 1), (3, 1, 4)), ((), (2, 3))])
def test_arithmetic_sums_over_the_axes_that_were_broadcast(op, shapes):
    rng, build = np.random.default_rng(0), Build()
    (a, b), feeds = _inputs(build, rng, a=shapes[0], b=shapes[1])
    y = build.node("y", op, [a, b])
    loss = differences.projected(build, y, build.weight("w", rng.standard_normal(y.shape)))
    assert differences.error(build, loss, feeds, [a, b]) < TOLERANCE


def test_dense_gives_gradients_of_its_input_weights_and_bias():
    rng, build = np.random.default_rng(1), Build()
    (x, W, b), feeds = _inputs(build, rng, x=(3, 2, 5), W=(5, 7), b=(7,))
    y = build.node("y", "Dense", [x, W, b])
    loss = differences.projected(build, y, build.weight("w", rng.standard_normal(y.shape)))
    assert differences.error(build, loss, feeds, [x, W, b]) < TOLERANCE


def test_a_value_that_is_read_twice_sums_what_reaches_it():
    rng, build = np.random.default_rng(2), Build()
    (x,), feeds = _inputs(build, rng, x=(4, 3))
    y = build.node("y", "Mul", [build.node("twice", "Add", [x, x]), x])
    loss = differences.projected(build, y, build.weight("w", rng.standard_normal(y.shape)))
    assert differences.error(build, loss, feeds, [x]) < TOLERANCE


def test_an_op_without_an_adjoint_is_refused_by_node():
    build = Build()
    x = build.input("x", "float64", (3, 4))
    loss = build.node("loss", "ReduceSum", [build.node("slope", "ActivationAdjoint", [x, x], activation="Tanh")])
    with pytest.raises(UnsupportedError, match="node 'slope': ActivationAdjoint"):
        gradients(build, loss, [x])

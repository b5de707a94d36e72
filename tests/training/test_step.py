"""The order of what a step of training computes."""

import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.graph import Node
from fastlstm.layers.build import Tensor
from fastlstm.team import available_threads
from fastlstm.training.gradient import gradients
from fastlstm.training.step import by_level
from fastlstm.training.unfused import TrainingBuild


def bidirectional(units: int = 5) -> fastlstm.Sequential:
    network = fastlstm.Sequential([fastlstm.Input((7, 3))])
    for _ in range(2):
        network.add(layers.Bidirectional(layers.LSTM(units, return_sequences=True)))
    return network


def nodes_of(network: fastlstm.Sequential) -> list[Node]:
    build = TrainingBuild()
    (y,) = network.forward(build, [build.input("x", "float32", (2, 7, 3))])
    loss = build.node("loss", "ReduceSum", [y])
    found = gradients(build, loss, [Tensor(build, name) for name in build.parameters])
    return build.live([loss, *(tensor for tensor in found if tensor is not None)])


def test_by_level_nothing_between_the_two_directions_waits_for_the_first_of_them():
    nodes = nodes_of(bidirectional())
    ordered = by_level(nodes)
    assert sorted(node.name for node in ordered) == sorted(node.name for node in nodes)
    for op in ("LSTMSteps", "LSTMStepsAdjoint"):
        places = [k for k, node in enumerate(ordered) if node.op == op]
        for first, second in (places[:2], places[2:]):
            assert waiting(ordered[first : second + 1]) == 0
    assert waiting(nodes) > 0


def waiting(nodes: list[Node]) -> int:
    """Return how many of the nodes read what the first of them, or others that do, made."""
    found = set(nodes[0].outputs) - {""}
    count = 0
    for node in nodes[1:]:
        if found & set(node.inputs):
            found.update(filter(None, node.outputs))
            count += 1
    return count


def test_by_level_every_value_stands_before_its_readers():
    nodes = nodes_of(bidirectional())
    made = {name for node in nodes for name in node.outputs}
    known: set[str] = set()
    for node in by_level(list(nodes)):
        assert {name for name in node.inputs if name in made} <= known | {""}
        known.update(node.outputs)


@pytest.mark.skipif(available_threads() < 2, reason="one thread")
def test_a_team_gives_a_bidirectional_network_the_gradients_of_one_thread():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((11, 7, 3), np.float32), rng.standard_normal((11, 7, 80), np.float32)
    network = bidirectional(40)
    loss, found = fastlstm.value_and_grad(network, "mse")(x, y)
    for threads in (2, 3):
        gradient = fastlstm.value_and_grad(network, "mse", threads=threads)
        for _ in range(4):  # a frame tries a team and one thread in turn
            again, others = gradient(x, y)
            assert again == loss
            for name, array in found.items():
                np.testing.assert_array_equal(others[name], array, name)


def test_value_and_grad_refuses_threads_that_are_no_number():
    with pytest.raises(fastlstm.FastLSTMError, match="threads=0"):
        fastlstm.value_and_grad(bidirectional(), "mse", threads=0)

"""Subgraphs in graphs that are trained: an If has the gradient of the branch that the run takes; a Loop is refused before the first step."""

import numpy as np
import pytest
from training import differences

import fastlstm
from fastlstm import models
from fastlstm.errors import UnsupportedError
from fastlstm.graph import Graph, Node, TensorSpec
from fastlstm.layers.build import Build, Tensor
from fastlstm.training.gradient import gradients
from fastlstm.training.unfused import TrainingBuild

B, T, I, H = 3, 4, 2, 5
X, W, U, P = (TensorSpec(name, "float64", shape) for name, shape in (("x", (B, T, I)), ("W", (I, 4 * H)), ("U", (H, 4 * H)), ("P", (I, H))))  # fmt: skip
Y = TensorSpec("y", "float64", (B, T, H))
INPUTS = (X, W, U, P)
BRANCHES = {
    "then": Graph((Node("lstm", "LSTM", ("x", "W", "U"), ("y",), {"batch_first": True}),), INPUTS, (Y,)),
    "else": Graph((Node("dense", "Dense", ("x", "P"), ("y",), {"activation": "Tanh"}),), INPUTS, (Y,)),
}


def asked(build: Build) -> Tensor:
    """Add a condition that only the run knows."""
    zero = build.weight("zero", np.zeros(()))
    return build.node("asked", "Greater", [build.input("level", "float64", ()), zero])


@pytest.mark.parametrize("level", [1.0, -1.0])
def test_the_branch_of_the_run_has_the_gradient(level):
    rng, build = np.random.default_rng(0), TrainingBuild()
    condition = asked(build)
    wrt = [build.input(spec.name, spec.dtype, spec.shape) for spec in INPUTS]
    twice = build.node("twice", "Add", [wrt[0], wrt[0]])
    y = build.node("if", "If", [condition, twice, *wrt[1:]], subgraphs=BRANCHES)
    loss = differences.projected(build, y, build.weight("w", rng.standard_normal(y.shape)))
    feeds = {spec.name: rng.standard_normal(spec.shape) for spec in INPUTS} | {"level": np.array(level)}
    assert differences.error(build, loss, feeds, wrt) < 1e-6
    of_W, of_P = differences.run(build, [gradients(build, loss, wrt)[k] for k in (1, 3)], feeds)
    assert of_W.any() == (level > 0) and of_P.any() == (level < 0)


def test_branches_within_branches():
    rng, build = np.random.default_rng(1), TrainingBuild()
    inner = tuple(TensorSpec(name, "float64", (2, 3)) for name in ("a", "b"))
    yes = TensorSpec("yes", "bool", ())
    of = lambda op, names: Graph((Node("n", op, names, ("y",)),), inner, (TensorSpec("y", "float64", (2, 3)),))
    deep = {"then": of("Mul", ("a", "b")), "else": of("Sub", ("b", "a"))}
    node = Node("deep", "If", ("yes", "a", "b"), ("y",), subgraphs=deep)
    outer = {role: Graph((node,), (yes, *inner), (TensorSpec("y", "float64", (2, 3)),)) for role in ("then", "else")}
    condition, xs = asked(build), [build.input(spec.name, spec.dtype, spec.shape) for spec in inner]
    y = build.node("if", "If", [condition, condition, *xs], subgraphs=outer)
    loss = differences.projected(build, y, build.weight("w", rng.standard_normal((2, 3))))
    for level in (1.0, -1.0):
        feeds = {spec.name: rng.standard_normal((2, 3)) for spec in inner} | {"level": np.array(level)}
        assert differences.error(build, loss, feeds, xs) < 1e-6


def saved(node: Node, more: list[Node], weights: dict) -> fastlstm.Model:
    """Return a model of a sum over time that a node makes of an input whose numbers of rows and steps are free."""
    x = TensorSpec("x", "float32", ("B", "T", I))
    total = Node("total", "ReduceSum", ("made",), ("y",), {"axes": (1,)})
    return fastlstm.Model(Graph((*more, node, total), (x,), (TensorSpec("y", "float32", ("B", I)),)), weights)


def test_a_model_whose_branch_depends_on_sizes_is_trained():
    """As torch exports what it writes for one step or several: the condition is known once the batch is."""
    inputs = TensorSpec("x", "float32", None), TensorSpec("w", "float32", (I,))
    of = lambda op: Graph((Node("n", op, ("x", "w"), ("made",)),), inputs, (TensorSpec("made", "float32", None),))
    size = [
        Node("size", "Shape", ("x",), ("size",), {"start": 1, "end": 2}),
        Node("one", "Equal", ("size", "1"), ("one",)),
    ]
    branches = {"then": of("Mul"), "else": of("Add")}
    weights = {"1": np.array([1]), "w": np.array([0.5, 2], np.float32)}
    model = saved(Node("if", "If", ("one", "x", "w"), ("made",), subgraphs=branches), size, weights)
    for steps, slope in ((1, lambda x: x.sum(1)), (3, lambda x: np.full((2, I), 3.0))):
        x = np.random.default_rng(steps).standard_normal((2, steps, I)).astype("f4")
        _, found = fastlstm.value_and_grad(models.trainable(model), lambda t, y: y.build.node("s", "ReduceSum", [y], axes=(1,)))(
            x, np.zeros((2, I))
        )  # fmt: skip
        np.testing.assert_allclose(found["w"], slope(x).mean(0), rtol=1e-5)


def test_a_loop_is_refused_by_node_before_the_first_step():
    state = TensorSpec("state", "float32", None)
    inputs = TensorSpec("k", "int64", ()), TensorSpec("going", "bool", ()), state, TensorSpec("w", "float32", (I,))
    nodes = Node("on", "Identity", ("going",), ("on",)), Node("times", "Mul", ("state", "w"), ("next",))
    body = Graph(nodes, inputs, (TensorSpec("on", "bool", ()), TensorSpec("next", "float32", None)))
    loop = Node("loop", "Loop", ("trips", "", "x", "w"), ("made",), {"carried": 1}, {"body": body})
    network = models.trainable(saved(loop, [], {"trips": np.array(3), "w": np.ones(I, np.float32)}))
    network.compile("sgd", "mse")
    before = network.get_weights()
    with pytest.raises(UnsupportedError, match="node 'loop': Loop"):
        network.fit(np.ones((2, 3, I), np.float32), np.zeros((2, I)), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))

"""Corners of ops where NumPy and ONNX part."""

import models
import numpy as np
import pytest

import fastlstm
from fastlstm.graph import Node


def _run(node: Node, x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    shape = tuple(f"d{k}" for k in range(x.ndim))
    net = models.model([node], [("x", x.dtype.name, shape)], ["y"], weights)
    return fastlstm.Session(net).run({"x": x})["y"]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(-100, -200, [0]), (-1, -(2**62), [4, 3, 2, 1, 0]), (100, 1, [4, 3, 2]), (2, -100, [2, 1, 0]), (1, 3, [])],
)
def test_a_slice_backwards_is_clamped_as_onnx_says(start, end, expected):
    weights = {"start": np.array([start]), "end": np.array([end]), "axes": np.array([0]), "step": np.array([-1])}
    node = Node("cut", "Slice", ("x", "start", "end", "axes", "step"), ("y",))
    assert _run(node, np.arange(5, dtype=np.float32), weights).tolist() == expected


def test_integers_divide_towards_zero_without_passing_through_floats():
    x = np.array([7, -7, 2**53 + 1, -(2**53) - 1, 0], np.int64)
    for divisor in (2, -2, 1, -3):
        got = _run(Node("share", "Div", ("x", "by"), ("y",)), x, {"by": np.array(divisor, np.int64)})
        exact = [abs(v) // abs(divisor) * (1 if (v < 0) == (divisor < 0) else -1) for v in x.tolist()]
        assert got.tolist() == exact


def test_what_reads_a_filled_array_whose_shape_is_an_input_knows_its_dtype():
    nodes = [Node("fill", "ConstantOfShape", ("x",), ("v",), {"value": 0.5}), Node("act", "Tanh", ("v",), ("y",))]
    net = models.model(nodes, [("x", "int64", (2,))], ["y"], {})
    got = fastlstm.Session(net).run({"x": np.array([2, 3])})["y"]
    np.testing.assert_allclose(got, np.full((2, 3), np.tanh(0.5)), atol=1e-6)


def test_one_element_gathered_from_a_vector_of_the_run_is_read_at_each_run():
    nodes = [Node("one", "Gather", ("x", "place"), ("v",)), Node("next", "Add", ("v", "v"), ("y",))]
    net = models.model(nodes, [("x", "int64", (3,))], ["y"], {"place": np.array(1)})
    session = fastlstm.Session(net)
    for value in (5, 7):
        assert session.run({"x": np.array([1, value, 2])})["y"] == 2 * value

"""OneHot against its definition, element by element: any axis, ids of any dtype, views on both sides, depth and values of the run."""

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm.graph import Node

IDS = ("int64", "int32", "uint8", "int16", "bool", "float32", "float64")


def spelled(ids: np.ndarray, depth: int, values: np.ndarray, axis: int, from_end: bool) -> np.ndarray:
    """Return the definition: all off, but on at each index that is in range."""
    whole = np.full((*ids.shape, depth), values[0])
    for place, index in np.ndenumerate(ids):
        if np.isnan(float(index)) or abs(float(index)) > depth + 1:
            continue
        row = int(index)  # cuts off
        if from_end and -depth <= row < 0:
            row += depth
        if 0 <= row < depth:
            whole[place][row] = values[1]
    return np.moveaxis(whole, -1, axis)


def one_hot(
    ids: np.ndarray, held: dict[str, np.ndarray], nodes=(), source: str = "ids", **attributes
) -> fastlstm.Session:
    """Return a session of a OneHot of `source`; depth and values are weights where they are held, else inputs."""
    inputs = [("ids", ids.dtype.name, tuple(f"d{k}" for k in range(ids.ndim)))]
    inputs += [
        (name, dtype, shape)
        for name, dtype, shape in (("depth", "int64", ()), ("values", "float32", (2,)))
        if name not in held
    ]
    nodes = [*nodes, Node("hot", "OneHot", (source, "depth", "values"), ("y",), attributes)]
    return fastlstm.Session(models.model(nodes, inputs, ["y"], held))


@pytest.mark.parametrize("ids_dtype", IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool"])
def test_one_element_along_the_new_axis_is_on(dtype, ids_dtype):
    for number in range(20):
        rng = np.random.default_rng(number)
        shape = tuple(int(d) for d in rng.choice([0, 1, 2, 3, 7], int(rng.integers(0, 4))))
        depth, axis, from_end = (
            int(rng.integers(1, 9)),
            int(rng.integers(-len(shape) - 1, len(shape) + 1)),
            number % 3 > 0,
        )
        ids = rng.uniform(-depth - 2, depth + 3, shape)
        ids = np.abs(ids).astype(ids_dtype) if np.dtype(ids_dtype).kind in "ub" else ids.astype(ids_dtype)
        values = (rng.standard_normal(2) * 50).astype(dtype)
        held = {"depth": np.array(depth), "values": values}
        turned = ids.ndim > 1 and number % 2 == 1
        nodes = [Node("turn", "Transpose", ("ids",), ("turned",))] if turned else []
        session = one_hot(ids, held, nodes, "turned" if turned else "ids", axis=axis, from_end=from_end)
        feeds = {"ids": np.ascontiguousarray(ids.T) if turned else ids}
        got = session.run(feeds)["y"]
        want = spelled(ids, depth, values, axis, from_end)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
        assert programs.numpy_steps(session, feeds) == []


@pytest.mark.parametrize("dtype", ["uint64", "float16"])
def test_ids_that_no_kernel_reads_are_numpys(dtype):
    ids = np.array([0, 3, 5, 2, np.iinfo(np.uint64).max if dtype == "uint64" else -1], dtype)
    held = {"depth": np.array([4]), "values": np.array([0.5, 2], "f4")}
    for from_end in (True, False):
        got = one_hot(ids, held, from_end=from_end).run(ids)
        np.testing.assert_array_equal(got, spelled(ids, 4, held["values"], -1, from_end))


def test_floats_that_are_no_index_leave_all_off():
    ids = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**63, -0.9, 3.9, -4.9, -5.0], "f4")
    held = {"depth": np.array(4), "values": np.array([0, 1], "f4")}
    hot = [-1, -1, -1, -1, -1, -1, 0, 3, 0, -1]
    np.testing.assert_array_equal(one_hot(ids, held).run(ids), np.equal.outer(hot, np.arange(4)).astype("f4"))


def test_depth_and_values_may_be_inputs():
    rng = np.random.default_rng(0)
    ids = rng.integers(-6, 6, (3, 2))
    session = one_hot(ids, {}, axis=1)
    for depth in (4, 1, 6, 4):
        values = rng.standard_normal(2).astype("f4")
        got = session.run({"ids": ids, "depth": np.array(depth), "values": values})["y"]
        np.testing.assert_array_equal(got, spelled(ids, depth, values, 1, True))


def test_what_reads_a_one_hot_whose_depth_is_an_input_knows_its_dtype():
    nodes = [Node("hot", "OneHot", ("ids", "depth", "values"), ("x",)), Node("act", "Tanh", ("x",), ("y",))]
    inputs = [("ids", "int64", ("A",)), ("depth", "int64", ())]
    session = fastlstm.Session(models.model(nodes, inputs, ["y"], {"values": np.array([0, 1], "f4")}))
    got = session.run({"ids": np.array([1, 0, 7]), "depth": np.array(2)})["y"]
    np.testing.assert_allclose(got, np.tanh([[0.0, 1], [1, 0], [0, 0]]), atol=1e-6)


@pytest.mark.parametrize(
    ("depth", "message"), [(np.array(0), "depth has shape 0"), (np.array([2, 3]), r"depth has shape \(2,\)")]
)
def test_a_depth_that_is_no_size_is_refused(depth, message):
    with pytest.raises(fastlstm.FastLSTMError, match=message):
        one_hot(np.zeros(3, int), {"depth": depth, "values": np.zeros(2, "f4")})


def test_rows_are_written_into_the_concat_that_reads_them():
    rng = np.random.default_rng(0)
    x, ids = rng.standard_normal((2, 3, 2)).astype("f4"), rng.integers(-4, 5, (2, 3))
    ws = {"depth": np.array(4), "values": np.array([-1, 1], "f4")}
    nodes = [
        Node("hot", "OneHot", ("ids", "depth", "values"), ("v",)),
        Node("join", "Concat", ("x", "v"), ("y",), {"axis": -1}),
    ]
    inputs = [("x", "float32", ("B", "T", 2)), ("ids", "int64", ("B", "T"))]
    session = fastlstm.Session(models.model(nodes, inputs, ["y"], ws))
    feeds = {"x": x, "ids": ids}
    want = np.concatenate([x, spelled(ids, 4, ws["values"], -1, True)], -1)
    np.testing.assert_array_equal(session.run(feeds)["y"], want)
    kernels = [(step.node, step.kernel) for step in programs.program(session, feeds).steps]
    assert kernels == [("hot", "rows_forward"), ("hot", "one_hot_forward"), ("join", "copy_forward")]

"""Rows by number against NumPy's take: any axis, ids of any dtype, views on both sides, values written into place."""

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm.graph import Node

IDS = ("int64", "int32", "uint8", "int16", "bool", "float32", "float64")


@pytest.mark.parametrize("ids_dtype", IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
def test_gather_takes_rows_along_any_axis(dtype, ids_dtype):
    for number in range(20):
        rng = np.random.default_rng(number)
        shape = tuple(int(rng.choice([2, 3, 5, 16, 33])) for _ in range(int(rng.integers(1, 4))))
        axis = int(rng.integers(-len(shape), len(shape)))
        size = shape[axis]
        low = 0 if np.dtype(ids_dtype).kind in "ub" else -size
        count = tuple(int(rng.choice([0, 1, 2, 7])) for _ in range(int(rng.integers(0, 3))))
        ids = rng.integers(low, min(size, 2) if ids_dtype == "bool" else size, count).astype(ids_dtype)
        x = (rng.standard_normal(shape) * 50).astype(dtype)
        turned = len(shape) > 1 and bool(rng.random() < 0.5)
        nodes = [Node("t", "Transpose", ("x",), ("v",))] if turned else []
        nodes.append(Node("g", "Gather", ("v" if turned else "x", "ids"), ("y",), {"axis": axis}))
        feeds = {"x": np.ascontiguousarray(x.T) if turned else x, "ids": ids}
        inputs = [(name, array.dtype.name, array.shape) for name, array in feeds.items()]
        session = fastlstm.Session(models.model(nodes, inputs, ["y"], {}))
        want = np.take(x, ids.astype(np.int64), axis=axis)
        got = session.run(feeds)["y"]
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
        assert programs.numpy_steps(session, feeds) == []


def test_a_gather_by_a_constant_number_is_a_view_and_by_constant_numbers_a_kernel():
    x = np.random.default_rng(0).standard_normal((4, 5, 6)).astype("f4")
    nodes = [
        Node("one", "Gather", ("x", "k"), ("a",), {"axis": 1}),
        Node("some", "Gather", ("a", "ks"), ("y",), {"axis": -1}),
    ]
    ws = {"k": np.array(-2), "ks": np.array([[5, 0], [-1, 2]])}
    session = fastlstm.Session(models.model(nodes, [("x", "float32", ("A", 5, 6))], ["y"], ws))
    np.testing.assert_array_equal(session.run(x), x[:, -2][:, ws["ks"]])
    assert [step.node for step in programs.program(session, {"x": x}).steps] == ["some"]


def test_a_constant_index_out_of_range_is_refused():
    net = models.model(
        [Node("one", "Gather", ("x", "k"), ("y",), {"axis": 1})],
        [("x", "float32", ("A", 5))],
        ["y"],
        {"k": np.array(5)},
    )
    with pytest.raises(fastlstm.InputError, match="node 'one': index 5 is out of range for 5 entries"):
        fastlstm.Session(net).run(np.zeros((2, 5), "f4"))


def test_rows_are_written_into_the_concat_that_reads_them():
    rng = np.random.default_rng(0)
    table, x = rng.standard_normal((9, 4)).astype("f4"), rng.standard_normal((2, 3, 2)).astype("f4")
    ids = rng.integers(0, 9, (2, 3))
    nodes = [
        Node("e", "Embedding", ("ids", "table"), ("v",)),
        Node("join", "Concat", ("x", "v"), ("y",), {"axis": -1}),
    ]
    inputs = [("x", "float32", ("B", "T", 2)), ("ids", "int64", ("B", "T"))]
    session = fastlstm.Session(models.model(nodes, inputs, ["y"], {"table": table}))
    feeds = {"x": x, "ids": ids}
    np.testing.assert_array_equal(session.run(feeds)["y"], np.concatenate([x, table[ids]], -1))
    kernels = [(step.node, step.kernel) for step in programs.program(session, feeds).steps]
    assert kernels == [("e", "rows_forward"), ("e", "gather_forward"), ("join", "copy_forward")]

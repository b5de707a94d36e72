"""Packing by runs gives what packing gives, for every packing of weights and any strides of the source."""

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm.graph import Node
from fastlstm.ops.packing import pack_bias, pack_columns, pack_panels, pad_units, tail_of_columns, tail_of_gates
from fastlstm.packing_runs import find_runs


def by_runs(pack, sources):
    """Return what a kernel would make of the runs."""
    packed = pack(*sources)
    y = np.zeros(packed.size, packed.dtype)
    runs = find_runs(pack, sources)
    assert runs is not None
    for one in runs:
        source = sources[one.source]
        for to, start, count, step in one.words.tolist():
            for k in range(count):
                place = (
                    np.ndarray((), source.dtype, source, (start + k * step) * source.itemsize)
                    if source.flags.c_contiguous
                    else None
                )
                index = np.unravel_index(np.flatnonzero(_offsets(source) == start + k * step)[0], source.shape)
                value = source[index] if place is None else place[()]
                y[to + k] = y[to + k] + value if one.add else value
    return y, packed.ravel()


def _offsets(source):
    index = np.indices(source.shape).reshape(source.ndim, -1)
    return (index * (np.array(source.strides) // source.itemsize)[:, None]).sum(axis=0)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 16, 17, 35])
def test_runs_do_what_packing_does(size):
    rng = np.random.default_rng(size)
    L, gates = 4, 4
    matrix = rng.standard_normal((5, gates * size)).astype("f4")
    turned = np.ascontiguousarray(matrix.T).T
    tail, columns = tail_of_gates(size, L), tail_of_columns(size, L)
    packings = [
        lambda w: pack_panels(gates, L, (0, 1, 2, 3), (0, 1, 2, 3), w, tail),
        lambda w: pack_panels(gates, L, (0, 1), (0, 3), w),
        lambda w: pack_columns(L, w[:, :size], columns),
        lambda w: pad_units(gates * size + 7, w),
        lambda w: pack_bias(L, w[:4, :size], tail),
    ]
    for pack in packings:
        for source in (matrix, turned, matrix[::-1], np.repeat(matrix, 2, axis=1)[:, ::2]):
            got, want = by_runs(pack, [source])
            np.testing.assert_array_equal(got, want)


def test_two_sources_are_added_where_they_meet():
    def pack(b, bn):
        gates = np.zeros((4, 5), b.dtype)
        gates[:3] = b.reshape(3, 5)
        gates[2] += bn
        return pack_bias(4, gates)

    rng = np.random.default_rng(0)
    got, want = by_runs(pack, [rng.standard_normal(15).astype("f4"), rng.standard_normal(5).astype("f4")])
    np.testing.assert_array_equal(got, want)


def test_a_packing_that_computes_has_no_runs():
    ones = np.ones(7, "f4")
    for pack in (
        lambda w: w * 2,
        lambda w: w + 1,
        lambda w: 1 / np.sqrt(w + 1),
        lambda w: np.abs(w),
        lambda w: w.astype("f8"),
    ):
        assert find_runs(pack, [ones]) is None


def test_attention_of_the_run_is_one_call():
    rng = np.random.default_rng(0)
    nodes = [
        Node("turn", "Transpose", ("k",), ("kt",), {"perm": (0, 2, 1)}),
        Node("scores", "MatMul", ("q", "kt"), ("s",)),
        Node("scaled", "Mul", ("s", "scale"), ("z",)),
        Node("weigh", "Softmax", ("z",), ("p",)),
        Node("mix", "MatMul", ("p", "v"), ("y",)),
    ]
    feeds = {
        name: rng.standard_normal((3, steps, size)).astype("f4")
        for name, steps, size in (("q", 5, 18), ("k", 9, 18), ("v", 9, 70))
    }
    inputs = [(name, "float32", ("B", f"T{name}", array.shape[2])) for name, array in feeds.items()]
    session = fastlstm.Session(models.model(nodes, inputs, ["y"], {"scale": np.float32(0.2)}))
    q, k, v = (feeds[name].astype("f8") for name in "qkv")
    p = np.exp(q @ k.transpose(0, 2, 1) * 0.2)
    want = p / p.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(session.run(feeds)["y"], want, rtol=0, atol=3e-6)
    assert programs.is_one_call(session, feeds)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_weights_of_the_run_are_packed_by_kernels(kind):
    rng = np.random.default_rng(3)
    for number in range(12):
        case = models.draw_recurrence(
            np.random.default_rng(number), kind, runtime_weights=True, peepholes=bool(rng.random() < 0.5)
        )
        session = fastlstm.Session(case.model())
        assert programs.numpy_steps(session, case.feeds()) == []
        constant = fastlstm.Session(models.replace(case, runtime_weights=False).model())
        for name, got in session.run(case.feeds()).items():
            feeds = {spec.name: case.feeds()[spec.name] for spec in constant.inputs}
            assert models.same_bits(got, constant.run(feeds)[name])

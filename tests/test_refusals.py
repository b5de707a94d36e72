"""Inputs that only a running step can refuse: ids and lengths out of range give one error, name the value, and change nothing."""

import threading

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm.graph import Node

VOCABULARY = 30


def embedded(dtype: str = "int64", mask: bool = False, threads: int = 1) -> fastlstm.Session:
    """Return embedding, LSTM and a dense layer over ids (B, T)."""
    rng = np.random.default_rng(0)
    ws = {"table": rng.standard_normal((VOCABULARY, 6)).astype("f4"), "d.W": rng.standard_normal((9, 4)).astype("f4")}
    ws |= models.weights(rng, "LSTM", 6, 9)
    ws.pop("P")
    nodes = [
        Node("embedding", "Embedding", ("x", "table"), ("e",)),
        Node("net", "LSTM", ("e", "W", "U", "b"), ("y", "h", "c"), {"batch_first": True}),
        Node("dense", "Dense", ("y", "d.W"), ("z",)),
    ]
    net = models.model(nodes, [("x", dtype, ("B", "T"))], ["z"], ws)
    return fastlstm.Session(net, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "bad"), [("int64", 30), ("int64", -1), ("int32", 2**31 - 1), ("float32", np.nan), ("float32", -0.5), ("float32", 3e9)])  # fmt: skip
def test_an_id_out_of_range_is_named_with_its_node_and_the_next_call_is_right(dtype, bad, threads):
    session = embedded(dtype, threads=threads)
    good = np.random.default_rng(1).integers(0, VOCABULARY, (3, 7)).astype(dtype)
    ids = good.copy()
    ids[2, 5] = bad
    wanted = session.run(good)
    assert programs.is_one_call(session, {"x": good})
    for _ in range(3):
        with pytest.raises(fastlstm.InputError) as refusal:
            session.run(ids)
        assert f"node 'embedding': id {ids[2, 5]} is out of range for 30 entries (0 to 29)" == str(refusal.value)
        assert models.same_bits(session.run(good), wanted)


def test_a_large_array_that_is_read_in_place_is_refused_by_its_own_values():
    session = embedded()
    good = np.random.default_rng(1).integers(0, VOCABULARY, (100, 200))  # 160,000 bytes
    session.run(good)
    ids = good.copy()
    ids[99, 199] = 77
    with pytest.raises(fastlstm.InputError, match="id 77 is out of range"):
        session.run(ids)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_refused_step_leaves_a_stream_as_it_was(batch):
    stream, twin = embedded().stream(batch), embedded().stream(batch)
    rng = np.random.default_rng(2)
    for k in range(6):
        ids = rng.integers(0, VOCABULARY, (batch,))
        before = stream.state.copy()
        bad = ids.copy()
        bad[-1] = VOCABULARY + k
        for given in (bad, bad[:, None], np.stack([ids, bad], axis=1)):
            with pytest.raises(fastlstm.InputError, match=f"id {VOCABULARY + k} is out of range"):
                stream.step(given)
        with pytest.raises(fastlstm.InputError, match="out of range"):
            stream.step(bad[-1:], rows=[0])
        assert stream.state == before
        assert models.same_bits(stream.step(ids), twin.step(ids))


def test_ids_that_another_layer_makes_are_refused_before_any_state_changes():
    rng = np.random.default_rng(0)
    ws = models.weights(rng, "RNN", 2, 5) | {"table": rng.standard_normal((9, 5)).astype("f4")}
    nodes = [
        Node("net", "RNN", ("x", "W", "U", "b"), ("y", "h"), {"batch_first": True}),
        Node("whole", "Cast", ("k",), ("ids",), {"to": "int32"}),
        Node("pick", "Gather", ("table", "ids"), ("g",)),
        Node("sum", "Add", ("y", "g"), ("z",)),
    ]
    inputs = [("x", "float32", ("B", "T", 2)), ("k", "float32", ("B", "T"))]
    stream = fastlstm.Session(models.model(nodes, inputs, ["z"], ws)).stream(2)
    x, k = rng.standard_normal((2, 1, 2)).astype("f4"), np.array([[8.5], [-9.5]], "f4")
    stream.step({"x": x, "k": k})
    before = stream.state.copy()
    for bad in (9.0, -10.0):
        with pytest.raises(fastlstm.InputError, match=f"node 'pick': index {int(bad)} is out of range for 9 entries"):
            stream.step({"x": x, "k": np.array([[0], [bad]], "f4")})
        assert stream.state == before


def test_an_index_that_depends_on_a_state_is_refused_too_and_leaves_a_stream_as_it_was():
    rng = np.random.default_rng(0)
    ws = models.weights(rng, "RNN", 2, 1) | {
        "table": rng.standard_normal((9, 5)).astype("f4"),
        "ten": np.float32([[[10]]]),
    }
    nodes = [
        Node("net", "RNN", ("x", "W", "U", "b"), ("y", "h"), {"batch_first": True, "activations": ("Relu",)}),
        Node("times", "Mul", ("y", "ten"), ("large",)),
        Node("whole", "Cast", ("large",), ("ids",), {"to": "int32"}),
        Node("pick", "Gather", ("table", "ids"), ("z",)),
    ]
    session = fastlstm.Session(models.model(nodes, [("x", "float32", ("B", "T", 2))], ["z"], ws))
    stream = session.stream(1)
    x = np.zeros((1, 1, 2), "f4")
    stream.step(x * 0 - 1)
    before = stream.state.copy()
    with pytest.raises(fastlstm.InputError, match="node 'pick'"):
        stream.step(ws["W"][:, 0][None, None] * 100)
    assert stream.state == before


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_a_length_out_of_range_is_named(dtype, batch_first):
    net = models.network("lstm", lengths=True) if batch_first else None
    if net is None:
        ws = models.weights(np.random.default_rng(0), "GRU", 5, 4)
        nodes = [
            Node("lens", "SequenceMask", ("lengths", "x"), ("m",)),
            Node("net", "GRU", ("x", "W", "U", "b", "bn", "", "m"), ("y",)),
        ]
        net = models.model(nodes, [("x", "float32", ("T", "B", 5)), ("lengths", dtype, ("B",))], ["y"], ws)
    session = fastlstm.Session(net)
    x = np.zeros((3, 6, 5) if batch_first else (6, 3, 5), "f4")
    kind = session.inputs[1].dtype
    feeds = {"x": x, "lengths": np.array([6, 0, 3], kind)}
    session.run(feeds)
    assert programs.is_one_call(session, feeds)
    for bad in (7, *([-1] if np.dtype(kind).kind == "i" else [])):
        with pytest.raises(fastlstm.InputError, match=rf"node 'lens': a sequence length is {bad}, expected 0 to 6"):
            session.run(feeds | {"lengths": np.array([6, bad, 3], kind)})


def test_threads_that_refuse_and_threads_that_run_do_not_meet():
    session = embedded()
    good = np.random.default_rng(1).integers(0, VOCABULARY, (3, 7))
    bad = good + 30
    wanted, wrong = session.run(good), []

    def work(ids):
        for _ in range(200):
            try:
                same = models.same_bits(session.run(ids), wanted)
                wrong.extend([] if same and ids is good else ["a result"])
            except fastlstm.InputError as error:
                wrong.extend([] if ids is bad and f"id {bad[0, 0]} " in str(error) else [str(error)])

    threads = [threading.Thread(target=work, args=(ids,)) for ids in (good, bad, good, bad)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("order", [("ids", "lengths"), ("lengths", "ids"), ("more", "ids")])
def test_of_several_inputs_each_is_refused_whatever_the_others_hold(order):
    """One that is right does not make up for one that is wrong, and what comes between reads nothing out of range."""
    rng = np.random.default_rng(0)
    ws = models.weights(rng, "GRU", 12, 5) | {"table": rng.standard_normal((9, 6)).astype("f4")}
    nodes = {
        "ids": Node("pick", "Embedding", ("ids", "table"), ("e",)),
        "more": Node("other", "Gather", ("table", "more"), ("f",)),
        "lengths": Node("mask", "SequenceMask", ("lengths", "ids3"), ("m",), {"batch_first": True}),
    }
    front = [Node("three", "Unsqueeze", ("ids", "axis"), ("ids3",)), *(nodes[name] for name in order)]
    front += [node for name, node in nodes.items() if name not in order]
    back = [
        Node("join", "Concat", ("e", "f"), ("x",), {"axis": 2}),
        Node("net", "GRU", ("x", "W", "U", "b", "bn", "", "m"), ("y",), {"batch_first": True}),
    ]
    inputs = [("ids", "int64", ("B", "T")), ("more", "int32", ("B", "T")), ("lengths", "int64", ("B",))]
    session = fastlstm.Session(models.model([*front, *back], inputs, ["y"], ws | {"axis": np.array([2])}))
    good = {"ids": rng.integers(0, 9, (2, 4)), "more": rng.integers(0, 9, (2, 4), "int32"), "lengths": np.array([4, 2])}
    assert programs.is_one_call(session, good)
    want = session.run(good)["y"]
    for name, bad, said in (
        ("ids", 2**40, "node 'pick': id"),
        ("more", -(2**30), "'other': index"),
        ("lengths", 5, "length is 5"),
    ):
        wrong = {key: array.copy() for key, array in good.items()}
        wrong[name].reshape(-1)[-1] = bad
        for _ in range(3):
            with pytest.raises(fastlstm.InputError, match=said):
                session.run(wrong)
            assert models.same_bits(session.run(good)["y"], want)

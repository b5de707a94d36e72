"""Rows of different lengths: `run(lengths=...)` and lists. Each row is computed as if alone, to the bit, whatever pads it."""

import models
import numpy as np
import pytest
from test_stream import RandomGraph

import fastlstm
from fastlstm import layers
from fastlstm.graph import Node

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(list(shape)).standard_normal(shape) / 2).astype("f4")


def rnn(name: str, x: str, *outputs: str, I: int = 4, kind: str = "RNN", **attributes) -> tuple[Node, dict]:
    gates = models.GATES[kind] * 4
    ws = {f"{name}.W": weights(I, gates), f"{name}.U": weights(4, gates)}
    return Node(name, kind, (x, *ws), outputs, {"batch_first": True} | attributes), ws


def bits(a: np.ndarray, b: np.ndarray) -> bool:
    return models.same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b))


# ---- as if alone ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", models.NETWORKS)
def test_a_row_with_a_length_is_computed_as_if_alone(name, threads):
    """Also of no steps; also ids that no table holds, and NaN, past a row's end."""
    session, rng = fastlstm.Session(models.network(name, 1), threads=threads), np.random.default_rng(3)
    for k in range(10):
        B, T = int(rng.integers(1, 16)), int(rng.integers(0, 12))
        x = models.inputs_for(session.model, rng, B, T)
        lengths = np.full(B, T) if k == 0 else rng.integers(0, T + 1, B)
        padded = x.copy()
        padded[np.arange(T) >= lengths[:, None]] = -1 if x.dtype.kind == "i" else np.nan
        kept = padded.copy()
        together = session.run({"x": padded}, lengths=lengths)
        assert bits(padded, kept)
        listed = session.run([x[b, :n] for b, n in enumerate(lengths)])
        for b, n in enumerate(lengths):
            for key, want in session.run({"x": x[b : b + 1, :n]}).items():
                got = together[key][b]
                assert bits(got[:n] if want.ndim == 3 else got, want[0]), (k, b, n, key)
                assert bits(listed[b][key], want[0]), (k, b, n, key)


def test_what_joins_before_a_recurrent_node_joins_where_rows_have_lengths_too():
    """A MatMul and an Add are one Dense, whose bias begins the sum; a OneHot stands for numbers of rows."""
    node, ws = rnn("net", "s", "y", I=6)
    nodes = [Node("m", "MatMul", ("x", "V"), ("z",)), Node("add", "Add", ("z", "v"), ("s",)), node]
    dense = models.model(nodes, [("x", "float32", ("B", "T", 5))], ["y"], ws | {"V": weights(5, 6), "v": weights(6)})
    node, ws = rnn("net", "s", "y", I=9, kind="LSTM")
    ws |= {"depth": np.array(9), "values": np.array([0, 1])}
    nodes = [
        Node("hot", "OneHot", ("x", "depth", "values"), ("n",)),
        Node("cast", "Cast", ("n",), ("s",), {"to": "float32"}),
        node,
    ]
    hot = models.model(nodes, [("x", "int32", ("B", "T"))], ["y"], ws)
    for net, x in ((dense, RNG.standard_normal((4, 7, 5)).astype("f4")), (hot, RNG.integers(-9, 9, (4, 7), "int32"))):
        session, lengths = fastlstm.Session(net), [7, 3, 0, 6]
        want = [session.run(x[b : b + 1, :n])[0] for b, n in enumerate(lengths)]
        together, listed = session.run(x, lengths=lengths), session.run([x[b, :n] for b, n in enumerate(lengths)])
        for b, n in enumerate(lengths):
            assert bits(together[b, :n], want[b]) and bits(listed[b], want[b])


def test_a_list_of_ids_is_not_refused_for_what_a_buffer_held_before():
    nodes = [Node("look", "Embedding", ("x", "table"), ("e",))]
    node, ws = rnn("net", "e", "y", I=3)
    net = models.model([*nodes, node], [("x", "int32", ("B", "T"))], ["y"], ws | {"table": weights(11, 3)})
    session, rng = fastlstm.Session(net), np.random.default_rng(0)
    for _ in range(20):
        rows = [rng.integers(0, 11, n) for n in rng.integers(0, 40, 5)]
        assert all(bits(y, session.run(row[None])[0]) for row, y in zip(rows, session.run(rows), strict=True))
    with pytest.raises(fastlstm.InputError, match="id 11 is out of range"):
        session.run([np.array([1, 11]), np.array([2])])
    with pytest.raises(fastlstm.InputError, match="id -1 is out of range"):
        session.run(np.array([[1, -1, 5], [1, 2, -1]]), lengths=[2, 2])


@pytest.mark.parametrize("kind", models.GATES)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_without_steps_ends_with_the_states_it_starts_with(kind, reverse):
    """Whatever the node says of rows that a mask leaves no step."""
    for empty in ("carry", "zero"):
        case = models.Recurrence(
            kind, 6, 4, 3, 5, 2, batch_first=True, reverse=reverse, outputs=("Y", *models.STATES[kind]), states=("input", "input"), empty_state=empty,
        )  # fmt: skip
        session, feeds = fastlstm.Session(case.model()), case.feeds()
        got = session.run(feeds, lengths=[6, 0, 2, 0])
        for role in models.STATES[kind]:
            assert bits(got[role][[1, 3]], feeds[f"{role}0"][[1, 3]])


@pytest.mark.parametrize("kind", models.GATES)
@pytest.mark.parametrize("named", ["last alone", "h and last"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_row_without_steps_has_the_state_it_starts_with_as_its_last_output(kind, named, backwards):
    """`last` is what Keras's layers give; as of a row alone, not the zeros of a row that a model's own mask leaves no step."""
    states = tuple(f"{role}0" for role in models.STATES[kind])
    outputs = ("", "h" if named == "h and last" else "", *("" for _ in states[1:]), "last")
    gates = 4 * models.GATES[kind]
    slots = ("x", "W", "U", "", *([""] if kind == "GRU" else []), *states)
    attributes = {"batch_first": True, "direction": "reverse" if backwards else "forward"}
    net = models.model(
        [Node("net", kind, slots, outputs, attributes)],
        [("x", "float32", ("B", "T", 3)), *((state, "float32", ("B", 4)) for state in states)],
        [name for name in outputs if name],
        {"W": weights(3, gates), "U": weights(4, gates)},
    )
    session, x, lengths = fastlstm.Session(net), weights(5, 6, 3), [6, 0, 2, 0, 1]
    given = {state: weights(5, 4) + k for k, state in enumerate(states)}
    got = session.run({"x": x, **given}, lengths=lengths)
    assert bits(got["last"][[1, 3]], given["h0"][[1, 3]])
    for b, n in enumerate(lengths):
        alone = session.run({"x": x[b : b + 1, :n], **{name: value[b : b + 1] for name, value in given.items()}})
        assert all(bits(got[name][b], alone[name][0]) for name in got), b


def test_keras_layers_that_give_final_states_only():
    build = layers.Build()
    x, parts = build.input("x", "float32", ("batch", "time", 3)), []
    for backwards in (False, True):
        part = layers.LSTM(4, go_backwards=backwards)
        part.set_weights([weights(3, 16), weights(4, 16), weights(16)])
        parts.append(part)
    session = fastlstm.Session(build.model([layers.Bidirectional(parts[0], backward_layer=parts[1])(x)]))
    rows = [RNG.standard_normal((n, 3)).astype("f4") for n in (5, 1, 7, 5)]
    want = [session.run(row[None])[0] for row in rows]
    padded = np.full((4, 7, 3), np.inf, "f4")
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
    got = session.run(padded, lengths=[len(row) for row in rows])
    assert all(bits(a, b) for a, b in zip(got, want, strict=True))
    assert all(bits(a, b) for a, b in zip(session.run(rows), want, strict=True))


def test_a_list_frees_the_steps_that_a_model_fixes():
    node, ws = rnn("net", "x", "y")
    make = lambda steps: fastlstm.Session(models.model([node], [("x", "float32", ("B", steps, 4))], ["y"], ws))
    rows = [RNG.standard_normal((n, 4)).astype("f4") for n in (3, 7)]
    assert all(bits(a, b) for a, b in zip(make(5).run(rows), make("T").run(rows), strict=True))


def test_out_receives_what_rows_with_lengths_give():
    session, x = fastlstm.Session(models.network("rnn")), RNG.standard_normal((3, 6, 5)).astype("f4")
    out = np.empty((3, 6, 19), "f4")
    assert session.run({"x": x}, out={"a.y": out}, lengths=(1, 6, 3))["a.y"] is out
    assert bits(out[2, :3], session.run({"x": x[2:, :3]})["a.y"][0])


def test_rows_of_random_graphs_are_computed_as_if_alone_or_refused():
    """What is found of axes decides which nodes may stand before and after a recurrence; a wrong finding is a wrong row."""
    rows, refused = 0, 0
    for seed in range(400):
        rng, net = np.random.default_rng(seed), RandomGraph(seed).model()
        session, x = fastlstm.Session(net, threads=1 + seed % 2), rng.standard_normal((6, 5, 3)).astype("f4")
        lengths = rng.integers(0, 6, 6)
        lengths[rng.integers(6)] = 5
        padded = x.copy()
        padded[np.arange(5) >= lengths[:, None]] = (np.nan, np.inf, 1e30)[seed % 3]
        try:
            together = session.run(padded, lengths=lengths)
        except fastlstm.UnsupportedError:
            refused += 1
            continue
        listed = session.run([x[b, :n] for b, n in enumerate(lengths)])
        batch, time = (session.axes.axis(net.graph.outputs[0].name, s) for s in ("«batch»", "«time»"))
        for b, n in enumerate(lengths):
            try:
                want = session.run(x[b : b + 1, :n])
            except fastlstm.FastLSTMError:
                continue  # a constant fixes the steps of a call
            got = together.take([b], axis=batch)
            got = got if time is None else got.take(range(n), axis=time)
            what = seed, b, lengths, [(n.op, n.inputs, dict(n.attributes)) for n in net.graph.nodes]
            assert bits(got, want) and bits(listed[b], want.take(0, axis=batch)), what
            rows += 1
    assert rows > 500 and refused > 50


def test_a_list_whose_rows_cannot_all_be_padded_to_the_longest_runs_by_lengths():
    node, ws = rnn("net", "x", "y")
    net = models.model([node], [("x", "float32", ("B", "T", 4))], ["y"], ws)
    session = fastlstm.Session(net, max_scratch=1 << 20)
    rows = [RNG.standard_normal((n, 4)).astype("f4") for n in (*[2] * 99, 5000)]
    with pytest.raises(fastlstm.LimitError):
        session.run(np.zeros((100, 5000, 4), "f4"), lengths=[2] * 100)
    assert all(bits(y, session.run(row[None])[0]) for row, y in zip(rows, session.run(rows), strict=True))
    with pytest.raises(fastlstm.LimitError):
        session.run([np.zeros((50_000, 4), "f4"), rows[0]])


# ---- a convolution in front ---------------------------------------------------------------------------
@pytest.mark.parametrize("pads", [(2, 0), (1, 1), (0, 0), (3, 0), (0, 2)])
def test_only_a_convolution_that_looks_back_lets_rows_have_lengths(pads):
    """A list runs in any case: rows of one length together."""
    node, ws = rnn("a", "c", "y", "h", I=11)
    nodes = [Node("conv", "Conv1D", ("x", "k"), ("c",), {"pads": pads}), node]
    session = fastlstm.Session(
        models.model(nodes, [("x", "float32", ("B", "T", 4))], ["y", "h"], ws | {"k": weights(3, 4, 11)})
    )
    rows = [RNG.standard_normal((n, 4)).astype("f4") for n in (5, 3, 5, 8)]
    for row, got in zip(rows, session.run(rows), strict=True):
        assert all(bits(got[key], want[0]) for key, want in session.run({"x": row[None]}).items())
    x = np.stack([np.concatenate([rows[1], np.full((2, 4), np.nan, "f4")]), rows[0]])
    if pads == (2, 0):
        got = session.run(x, lengths=[3, 5])
        assert bits(got["h"][0], session.run(rows[1][None])["h"][0])
    else:
        with pytest.raises(fastlstm.UnsupportedError, match=r"node 'conv' \(Conv1D\) needs all of time"):
            session.run(x, lengths=[3, 5])


# ---- what lengths are ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", ">i4", "i8", "u8", ">u8"])
def test_lengths_of_any_integer_dtype(kind):
    session, x = fastlstm.Session(models.network("rnn")), RNG.standard_normal((3, 6, 5)).astype("f4")
    want = session.run(x, lengths=[1, 6, 0])
    for lengths in (np.array([1, 6, 0], kind), np.array([1, 9, 6, 9, 0], kind)[::2]):
        got = session.run(x, lengths=lengths)
        assert all(bits(got[k], want[k]) for k in want)


def test_no_rows_and_no_steps():
    session = fastlstm.Session(models.network("gru_after"))
    for lengths in ([], np.zeros(0, int)):
        for steps in (0, 5):
            assert session.run(np.zeros((0, steps, 5), "f4"), lengths=lengths)["a.y"].shape == (0, steps, 19)
    got = session.run(np.zeros((2, 0, 5), "f4"), lengths=[0, 0])
    assert got["a.y"].shape == (2, 0, 19) and not got["a.h"].any()
    assert [y["a.y"].shape for y in session.run([np.zeros((0, 5), "f4")] * 2)] == [(0, 19)] * 2


WRONG = [
    ([1, 2], r"lengths is an array of int64 \(2,\), expected 3 integers, one for each row"),
    ([[1, 2, 3]], "expected 3 integers"), ([1.0, 2.0, 3.0], "expected 3 integers"), ([True, False, True], "expected 3 integers"),
    ("abc", "expected 3 integers"), (5, "expected 3 integers"), ([None] * 3, "expected 3 integers"), ({1, 2, 3}, "expected 3 integers"),
    ([[1], [2, 3], [4]], "expected one number of steps for each row"), ([], "expected 3 integers"),
    ([1, 2, 7], "a length is 7, expected 0 to 6"), ([-1, 2, 3], "a length is -1"), (np.array([1, 2, 2**63], "u8"), "a length is 9223372036854775808"),
]  # fmt: skip


@pytest.mark.parametrize(("lengths", "words"), WRONG)
def test_lengths_that_make_no_sense_are_refused(lengths, words):
    session = fastlstm.Session(models.network("rnn"))
    with pytest.raises(fastlstm.InputError, match=words):
        session.run(np.zeros((3, 6, 5), "f4"), lengths=lengths)


def test_models_whose_rows_can_have_no_lengths_say_why():
    case = models.Recurrence("LSTM", 6, 3, 4, 5, 1, mask="mask", batch_first=True)
    with pytest.raises(fastlstm.UnsupportedError, match=r"node 'net' \(LSTM\) has a mask already"):
        fastlstm.Session(case.model()).run(case.feeds(), lengths=[1, 2, 3])
    dense = models.model(
        [Node("d", "Dense", ("x", "k"), ("y",))], [("x", "float32", ("B", 4))], ["y"], {"k": weights(4, 2)}
    )
    with pytest.raises(fastlstm.UnsupportedError, match="the model has no time axis"):
        fastlstm.Session(dense).run(np.zeros((3, 4), "f4"), lengths=[1, 2, 3])
    with pytest.raises(fastlstm.InputError, match="the sequences of a list have theirs"):
        fastlstm.Session(models.network("rnn")).run([np.zeros((3, 5), "f4")], lengths=[3])


def test_inputs_with_batches_of_their_own_have_lengths_where_they_agree():
    (a, ws), (b, more) = rnn("a", "x", "y"), rnn("b", "z", "v")
    inputs = [("x", "float32", ("B", "T", 4)), ("z", "float32", ("N", "S", 4))]
    session = fastlstm.Session(models.model([a, b], inputs, ["y", "v"], ws | more))
    x, z = weights(3, 5, 4), weights(3, 5, 4) / 2
    got = session.run({"x": x, "z": z}, lengths=[1, 2, 5])
    assert bits(got["v"][1, :2], session.run({"x": x[1:2, :2], "z": z[1:2, :2]})["v"][0])
    for other in (z[:2], z[:, :4]):
        for lengths in ([1, 2], [1, 2, 3], [1, 2, 5]):
            with pytest.raises(fastlstm.ShapeError, match=r"input .z. has \d (rows|steps) where another has"):
                session.run({"x": x, "z": other}, lengths=lengths)


def test_a_list_is_written_row_after_row_whatever_the_model_s_order_of_axes():
    node, constants = rnn("r", "x", "y", batch_first=False)
    model = models.model([node], [("x", "float32", ("time", "batch", 4))], ["y"], constants)
    session = fastlstm.Session(model)
    rows = [weights(steps, 4) for steps in (5, 2, 7)]
    first, again = session.run(rows), session.run(rows)
    for row, y, same in zip(rows, first, again, strict=True):
        assert bits(y, session.run(row[:, None])[:, 0]) and bits(y, same)
    ((frame,),) = session._lengths_plan._frames.values()  # the second call took it again
    steps, batch, _ = frame.inputs["x"].buffer.strides
    assert batch > steps
    padded = np.zeros((7, 3, 4), "f4")
    session.run(padded, lengths=[5, 2, 7])
    ordinary = session._lengths_plan.borrow(((7, 3, 4), (7, 3)))
    assert ordinary.inputs["x"].buffer.flags.c_contiguous

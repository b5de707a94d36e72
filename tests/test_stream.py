"""Stream: after any steps it has given what `run` gives on the prefix, to the bit; states; what cannot stream, by name."""

import copy
import itertools
import json
import pickle
import struct
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress

import models
import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

import fastlstm
from fastlstm import layers
from fastlstm.graph import Node
from fastlstm.layers import Build, Tensor

B, T, I, H = 3, 9, 3, 7
Array = np.ndarray


def weights(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) / 2).astype("f4")


def of(layer: layers.Layer, *shapes: tuple[int, ...]) -> layers.Layer:
    """Return the layer with random weights of these shapes; variances are positive."""
    layer.set_weights(
        [
            abs(w) + 0.5 if "variance" in r else w
            for r, w in zip(layer.roles, (weights(*s) for s in shapes), strict=True)
        ]
    )
    return layer


def lstm(i: int = I, h: int = H, **options) -> layers.Layer:
    return of(layers.LSTM(h, **{"return_sequences": True} | options), (i, 4 * h), (h, 4 * h), (4 * h,))


def gru(i: int = I, h: int = H, reset_after: bool = True, **options) -> layers.Layer:
    bias = (2, 3 * h) if reset_after else (3 * h,)
    options = {"return_sequences": True} | options
    return of(layers.GRU(h, reset_after=reset_after, **options), (i, 3 * h), (h, 3 * h), bias)


def rnn(i: int = I, h: int = H, **options) -> layers.Layer:
    return of(layers.SimpleRNN(h, **{"return_sequences": True} | options), (i, h), (h, h), (h,))


def dense(i: int, n: int, **options) -> layers.Layer:
    return of(layers.Dense(n, **options), (i, n), (n,))


def conv(i: int, n: int, kernel: int, **options) -> layers.Layer:
    return of(layers.Conv1D(n, kernel, **options), (kernel, i // options.get("groups", 1), n), (n,))


def sequential(*stack: layers.Layer, dtype: str = "float32", steps: object = "time") -> fastlstm.Model:
    """Return the layers in a row on x (B, T, 3), or ids (B, T) for an integer dtype."""
    build = Build()
    x: object = build.input("x", dtype, ("batch", steps) if "int" in dtype else ("batch", steps, I))
    for layer in stack:
        x = layer(x)
    return build.model(list(x) if isinstance(x, tuple) else [x])


def functional(build_on: Callable[[Build, Tensor], Sequence[Tensor]], steps: object = "time") -> fastlstm.Model:
    build = Build()
    return build.model(build_on(build, build.input("x", "float32", ("batch", steps, I))))


def graph(nodes: Sequence[Node], outputs: Sequence[str], **constants: Array) -> fastlstm.Model:
    """Return nodes on x (B, T, 3); the recurrent ones find W, U of an LSTM I -> H, and W2, U2 of one H -> H."""
    constants |= {
        "W": weights(I, 4 * H),
        "U": weights(H, 4 * H),
        "W2": weights(H, 4 * H, seed=1),
        "U2": weights(H, 4 * H, seed=2),
    }
    used = {name for node in nodes for name in node.inputs}
    return models.model(
        nodes, [("x", "float32", ("B", "T", I))], outputs, {k: v for k, v in constants.items() if k in used}
    )


FIRST = Node("first", "LSTM", ("x", "W", "U"), ("s", "h", "c"), {"batch_first": True})


def inputs_of(net: fastlstm.Model, rng: np.random.Generator, rows: int = B, steps: int = T) -> Array:
    """Return x for a network; a third of the ids, and of the steps, are what Embedding and Masking mask."""
    spec = net.graph.inputs[0]
    if np.dtype(spec.dtype).kind == "i":
        return rng.integers(0, 9, (rows, steps)) * (rng.random((rows, steps)) < 0.7)
    x = rng.standard_normal((rows, steps, I)).astype("f4")
    x[rng.random((rows, steps)) < 0.3] = 0
    return x


def assert_stream_equals_run(net: fastlstm.Model, x: Array, cuts: Sequence[int], time: int = 1) -> None:
    """Cut the steps there (single steps go without the time axis) and compare each chunk with run on the prefix."""
    session = fastlstm.Session(net)
    stream = session.stream(batch=len(x))
    for start, end in itertools.pairwise((0, *cuts, x.shape[1])):
        single = end == start + 1
        got = stream.step({"x": x[:, start] if single else x[:, start:end]})
        for name, whole in session.run({"x": x[:, :end]}).items():
            in_time = session.axes.axis(name, "«time»") is not None
            want = whole.take(start if single else range(start, end), axis=time) if in_time else whole
            assert models.same_bits(got[name], np.ascontiguousarray(want)), (name, start, end)


# ---- the same as run ----------------------------------------------------------------------------------
STREAMING: dict[str, Callable[[], fastlstm.Model]] = {
    "lstm": lambda: sequential(lstm()),
    "lstm hard": lambda: sequential(lstm(activation="relu", recurrent_activation="hard_sigmoid")),
    "gru reset after": lambda: sequential(gru()),
    "gru reset before": lambda: sequential(gru(reset_after=False)),
    "rnn": lambda: sequential(rnn()),
    "wide lstm": lambda: sequential(lstm(h=65)),
    "stacked": lambda: sequential(lstm(), gru(H, 5), gru(5, 18, reset_after=False), rnn(18, 4)),
    "with dense": lambda: sequential(dense(I, 5, activation="relu"), lstm(5, 6), dense(6, 4, activation="softmax")),
    "last output": lambda: sequential(gru(), lstm(H, 6, return_sequences=False), dense(6, 2)),
    "last output and states": lambda: sequential(lstm(return_sequences=False, return_state=True)),
    "outputs and states": lambda: sequential(gru(return_state=True)),
    "cells": lambda: sequential(
        of(layers.RNN([lstm(), gru(H, 5)], return_sequences=True), (I, 4 * H), (H, 4 * H), (4 * H,), (H, 15), (5, 15), (2, 15))
    ),
    "masking": lambda: sequential(layers.Masking(), lstm(), gru(H, 5)),
    "masking, last output": lambda: sequential(layers.Masking(), lstm(), lstm(H, 5, return_sequences=False), dense(5, 2)),
    "masking, zeros": lambda: sequential(layers.Masking(), gru(zero_output_for_mask=True)),
    "embedding": lambda: sequential(of(layers.Embedding(9, I), (9, I)), lstm(), dtype="int32"),
    "embedding, masked": lambda: sequential(of(layers.Embedding(9, I, mask_zero=True), (9, I)), gru(), rnn(H, 5), dtype="int32"),
    "embedding, masked, last": lambda: sequential(
        of(layers.Embedding(9, I, mask_zero=True), (9, I)), lstm(return_sequences=False), dtype="int64"
    ),
    "time distributed": lambda: sequential(lstm(), layers.TimeDistributed(dense(H, 4)), layers.TimeDistributed(layers.Reshape((2, 2)))),
    "normalisations": lambda: sequential(
        of(layers.BatchNormalization(), *[(I,)] * 4), lstm(), of(layers.LayerNormalization(), (H,), (H,)), rnn(H, 5)
    ),
    "activations": lambda: sequential(lstm(), layers.Activation("gelu"), layers.Softmax(), layers.Identity()),
    "functional": lambda: functional(
        lambda b, x: [layers.Concatenate()([y := lstm()(x), layers.Add()([y, rnn()(x)])]), layers.Multiply()([y, y])]
    ),
    "convolution alone": lambda: sequential(conv(I, 5, 3, padding="causal")),
    "pointwise": lambda: sequential(conv(I, 5, 1, activation="relu")),
    "mixed causal stack": lambda: sequential(conv(I, 6, 2, padding="causal", dilation_rate=4, groups=3), lstm(6, 5), conv(5, 4, 3, padding="causal")),
}  # fmt: skip
STREAMING |= {
    f"convolution {kernel}/{dilation}": lambda k=kernel, d=dilation: sequential(
        conv(I, 5, k, padding="causal", dilation_rate=d), gru(5, 4), dense(4, 2)
    )
    for kernel, dilation in ((1, 1), (2, 1), (2, 3), (3, 2), (5, 1), (4, 5))
}


@pytest.mark.parametrize("name", STREAMING)
def test_chunks_of_any_size_give_the_bits_of_run_on_the_prefix(name):
    net = STREAMING[name]()
    x = inputs_of(net, np.random.default_rng(4))
    assert_stream_equals_run(net, x, range(1, T))  # one step at a time
    assert_stream_equals_run(net, x, ())
    for seed in range(3):
        assert_stream_equals_run(net, x, np.sort(np.random.default_rng(seed).integers(0, T + 1, 4)))


@pytest.mark.parametrize("name", ["stacked", "masking", "convolution 3/2"])
def test_a_bare_array_gives_a_bare_array_with_the_time_axis_only_for_chunks(name):
    net = STREAMING[name]()
    x, session = inputs_of(net, np.random.default_rng(4)), fastlstm.Session(net)
    want, stream = session.run(x), session.stream(batch=B)
    assert models.same_bits(stream.step(x[:, 0]), want[:, 0].copy())
    assert models.same_bits(stream.step(x[:, 1:2]), want[:, 1:2].copy())
    assert models.same_bits(stream.step(x[:, 2:]), want[:, 2:].copy())
    alone = session.stream()
    assert models.same_bits(alone.step(x[:1, 0]), want[:1, 0].copy())


def test_a_model_whose_time_comes_first_streams():
    net = models.model(
        [Node("net", "GRU", ("x", "W", "U"), ("y", "h"))], [("x", "float32", ("T", "B", I))], ["y", "h"],
        {"W": weights(I, 3 * H), "U": weights(H, 3 * H)},
    )  # fmt: skip
    session, x = fastlstm.Session(net), weights(T, B, I)
    stream, want = session.stream(batch=B), session.run({"x": x})
    one, rest = stream.step({"x": x[0]}), stream.step({"x": x[1:]})
    assert models.same_bits(one["y"], want["y"][0]) and models.same_bits(rest["y"], want["y"][1:])
    assert models.same_bits(rest["h"], want["h"]) and models.same_bits(want["h"], want["y"][-1])


def test_several_inputs_advance_together():
    ws = {"W": weights(I, 4 * H), "U": weights(H, 4 * H)}
    nodes = [
        Node("net", "LSTM", ("x", "W", "U"), ("s",), {"batch_first": True}),
        Node("sum", "Add", ("a", "s"), ("y",)),
    ]
    net = models.model(nodes, [("a", "float32", ("B", "T", H)), ("x", "float32", ("B", "T", I))], ["y"], ws)
    session, a, x = fastlstm.Session(net), weights(B, T, H), weights(B, T, I)
    want, stream = session.run({"a": a, "x": x})["y"], session.stream(batch=B)
    got = [stream.step({"x": x[:, t], "a": a[:, t]})["y"] for t in range(4)]
    got.extend(stream.step({"a": a[:, 4:], "x": x[:, 4:]})["y"].swapaxes(0, 1))
    assert models.same_bits(np.stack(got, 1), want)
    for given, error, words in (
        (
            {"a": a[:, 0], "x": x},
            fastlstm.ShapeError,
            "9 steps where another has 1",
        ),
        ({"a": a[:, :2], "x": x[:, :3]}, fastlstm.ShapeError, "3 steps where another has 2"),
        ({"a": a}, fastlstm.InputError, "input 'x' is missing"),
        ({"a": a, "x": x, "z": x}, fastlstm.InputError, "unknown input 'z'"),
        (x, fastlstm.InputError, "pass a dict with 'a', 'x'"),
    ):
        with pytest.raises(error, match=words):
            stream.step(given)


@pytest.mark.parametrize("through", ["Expand", "weight of one row"])
def test_learned_initial_states_are_where_streams_start(through):
    h0, one, width = weights(1, H, seed=5), np.array([0]), np.array([H])
    nodes = [
        Node("shape", "Shape", ("x",), ("sizes",)),
        Node("rows", "Gather", ("sizes", "one"), ("B",)),
        Node("both", "Concat", ("B", "width"), ("wanted",), {"axis": 0}),
        Node("start", "Expand", ("h0", "wanted"), ("state",)),
        Node("net", "LSTM", ("x", "W", "U", "", "state", "state"), ("y", "h", "c"), {"batch_first": True}),
    ]
    rows = B
    if through == "weight of one row":
        nodes, rows = [Node("net", "LSTM", ("x", "W", "U", "", "h0", "h0"), ("y", "h", "c"), {"batch_first": True})], 1
    net, x = graph(nodes, ["y", "h", "c"], h0=h0, one=one, width=width), weights(rows, T, I)
    assert_stream_equals_run(net, x, range(1, T))
    stream = fastlstm.Session(net).stream(batch=rows)
    assert models.same_bits(stream.state["net.h"].copy(), np.tile(h0, (rows, 1)))
    first = stream.step(x[:, 0])
    stream.reset()
    assert models.same_bits(stream.state["net.c"].copy(), np.tile(h0, (rows, 1)))
    assert models.same_bits(stream.step(x[:, 0])["y"], first["y"])


@pytest.mark.parametrize("kind", models.GATES)
def test_a_row_without_a_valid_step_so_far_has_the_state_that_run_gives_it(kind):
    """empty_state="zero": the learned start is kept for the steps to come, while the state given out is zeros."""
    states = ("constant",) * len(models.STATES[kind])
    case = models.Recurrence(
        kind, 6, 1, I, H, 0, batch_first=True, mask="mask", empty_state="zero", states=states, outputs=("Y", "h")
    )
    session, x = fastlstm.Session(case.model()), case.feeds()["x"]
    for valid in ("000000", "001100", "110000", "000001"):
        stream, m = session.stream(), np.array([[v == "1" for v in valid]])
        for start, end in ((0, 1), (1, 3), (3, 4), (4, 6)):
            got = stream.step({"x": x[:, start:end], "m": m[:, start:end]})
            want = session.run({"x": x[:, :end], "m": m[:, :end]})
            assert models.same_bits(got["Y"], want["Y"][:, start:end].copy()), (valid, end)
            assert models.same_bits(got["h"], want["h"]), (valid, end)
            saved = fastlstm.State.from_bytes(stream.state.to_bytes())
            stream.reset()
            stream.state = saved


# ---- rows ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["stacked", "masking", "convolution 4/5"])
def test_only_the_rows_that_arrive_advance_in_the_order_given(name):
    net = STREAMING[name]()
    x, session = inputs_of(net, np.random.default_rng(6), 5), fastlstm.Session(net)
    want, stream, done = session.run(x), session.stream(batch=5), [0] * 5
    for rows in (
        [4, 0],
        [2],
        np.array([1, 3, 0], "u1"),
        range(5),
        (3,),
        [0, 1, 2, 3, 4],
        np.array([4], ">i8"),
        [3, 2, 4, 1, 0],
    ):
        got = stream.step(np.stack([x[row, done[row]] for row in rows]), rows=rows)
        for row, y in zip(rows, got, strict=True):
            assert models.same_bits(y, want[row, done[row]])
            done[row] += 1


@pytest.mark.parametrize(
    "name", ["stacked", "masking", "embedding, masked, last", "convolution 3/2", "last output and states"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_rows_arrives_and_a_nan_stays_in_its_row(name, threads):
    """Frames have room for more rows than some of these numbers, and compute the first row in it."""
    net, rng, rows = STREAMING[name](), np.random.default_rng(7), 150
    x = inputs_of(net, rng, rows, 3)
    if x.dtype.kind == "f":
        x[17, 0] = np.nan
    session = fastlstm.Session(net, threads=threads)
    stream, done = session.stream(batch=rows), np.zeros(rows, int)
    want = [session.run({"x": x[:, :end]}) for end in range(1, 4)]
    in_time = {key: session.axes.axis(key, "«time»") is not None for key in want[0]}
    for count in (150, 1, 33, 47, 66, 131, 97, 0):
        arrived = rng.permutation(np.flatnonzero(done < 3))[:count]
        if 17 in arrived:
            arrived = np.concatenate([[17], arrived[arrived != 17]])
        for key, y in stream.step({"x": x[arrived, done[arrived]]}, rows=arrived).items():
            for place, row in enumerate(arrived):
                whole = want[done[row]][key][row]
                assert models.same_bits(y[place], whole[done[row]] if in_time[key] else whole), (key, count, row)
        done[arrived] += 1


def test_few_frames_serve_any_number_of_rows(monkeypatch):
    session = fastlstm.Session(STREAMING["lstm"]())
    stream, bound, bind = session.stream(batch=128), [], session._plan.bind
    monkeypatch.setattr(session._plan, "bind", lambda *given: bound.append(given) or bind(*given))
    for count in np.random.default_rng(1).permutation(np.arange(65, 128)).tolist():
        stream.step(weights(count, I), rows=range(count))
    assert len(bound) <= 16


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("wired", [False, True])
def test_a_stream_is_not_copied_since_a_copy_would_change_its_state(duplicate, wired):
    if wired:
        case = models.Recurrence("RNN", 1, 1, 2, 3, 0, states=("input", ""), outputs=("Y", "h"))
        stream = fastlstm.Session(case.model()).stream(wiring={"h0": "h"})
    else:
        stream = fastlstm.Session(models.network("lstm")).stream()
    with pytest.raises(fastlstm.StreamError, match="a stream is not copied or pickled: make another"):
        duplicate(stream)


def test_streams_of_one_session_keep_their_states_apart():
    """They take turns with the frames of the session."""
    session, x = fastlstm.Session(STREAMING["stacked"]()), weights(4, 2, T, I)
    streams, want = [session.stream(batch=4) for _ in range(2)], [session.run(x[:, k]) for k in range(2)]
    rows = np.array([2, 0, 3])
    for t in range(T):
        for k, stream in enumerate(streams):
            assert models.same_bits(stream.step(x[rows, k, t], rows=rows), want[k][rows, t])
        assert models.same_bits(session.run(x[:3, 0, :1]), want[0][:3, :1])


def test_no_rows_is_a_step_that_changes_nothing():
    session = fastlstm.Session(STREAMING["stacked"]())
    stream = session.stream(batch=2)
    stream.step(weights(2, I))
    before = stream.state.to_bytes()
    assert stream.step(np.zeros((0, I), "f4"), rows=[]).shape == (0, 4)
    assert stream.step(np.zeros((0, 3, I), "f4"), rows=np.array([], int)).shape == (0, 3, 4)
    assert stream.step(np.zeros((2, 0, I), "f4")).shape == (2, 0, 4)
    assert stream.state.to_bytes() == before


BAD_ROWS = {
    "twice": ([1, 1], "a stream appears twice"),
    "past the end": ([0, 3], "row 3 is out of range: this stream has rows 0 to 2"),
    "negative": ([-1, 0], "row -1 is out of range"),
    "a number": (1, "expected a list of stream numbers"),
    "a mask": ([True, False], "expected a list of stream numbers"),
    "floats": ([0.0, 1.0], "expected a list of stream numbers"),
    "text": ("01", "expected a list of stream numbers"),
    "nested": ([[0, 1]], "expected a list of stream numbers"),
    "ragged": ([[0], [1, 2]], "expected a list of stream numbers"),
    "None inside": ([0, None], "expected a list of stream numbers"),
    "huge": ([0, 2**70], "expected a list of stream numbers"),
    "beyond int64": (np.array([2**63, 0], "u8"), "out of range"),
    "a set": ({0, 1}, "expected a list of stream numbers"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_make_no_sense_are_refused_and_leave_the_state(case):
    rows, words = BAD_ROWS[case]
    stream = fastlstm.Session(STREAMING["lstm"]()).stream(batch=3)
    stream.step(weights(3, I))
    before = stream.state.to_bytes()
    with pytest.raises(fastlstm.InputError, match=words):
        stream.step(weights(2, I), rows=rows)
    with pytest.raises(fastlstm.InputError, match=words):
        stream.reset(rows=rows)
    assert stream.state.to_bytes() == before
    assert stream.step(weights(3, I), rows=[1, 0, 2]).shape == (3, H)  # what was refused left no mark


def test_as_many_rows_of_input_as_are_named():
    stream = fastlstm.Session(STREAMING["lstm"]()).stream(batch=3)
    for x, rows in (
        (weights(3, I), [0, 1]),
        (weights(1, I), [0, 1]),
        (weights(2, I), None),
        (weights(1, I), None),
        (weights(1, I), []),
    ):
        with pytest.raises(fastlstm.ShapeError, match="input 'x' has shape"):
            stream.step(x, rows=rows)


# ---- what a step takes and refuses --------------------------------------------------------------------
class Like:
    """An array that is no ndarray, as other libraries have them."""

    def __init__(self, array: Array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


@pytest.mark.parametrize("single", [True, False])
def test_any_layout_and_dtype_gives_the_same_bits(single):
    session, whole = fastlstm.Session(STREAMING["lstm"]()), np.random.default_rng(0).integers(0, 9, (B, 4, I))
    x = whole[:, 0] if single else whole
    fresh = lambda given: session.stream(batch=B).step(given)
    want = fresh(x.astype("f4"))
    for given in (
        x.astype("f8"), x.astype("f2"), x.astype(">f4"), x, x.astype("u1"), np.asfortranarray(x.astype("f4")), x.tolist(),
        np.repeat(x, 2, axis=-1).astype("f4")[..., ::2], np.flip(np.flip(x.astype("f4")).copy()), Like(x.astype("f4")), {"x": x},
    ):  # fmt: skip
        y = fresh(given)
        assert models.same_bits(y["lstm:0"] if isinstance(given, dict) else y, want)
    stream = session.stream(batch=B)
    for _ in range(3):  # a kind of call that is known is not checked again
        stream.reset()
        assert models.same_bits(stream.step(x.astype("f4")), want)
        stream.reset()
        assert models.same_bits(stream.step(Like(x.astype("f4"))), want)


class Strange:
    shape, dtype = [B, I], np.dtype("f4")


BAD_INPUTS = {
    "no axes": (np.float32(1), fastlstm.ShapeError),
    "one axis": (np.zeros(I, "f4"), fastlstm.ShapeError),
    "four axes": (np.zeros((B, 2, I, 1), "f4"), fastlstm.ShapeError),
    "features": (np.zeros((B, I + 1), "f4"), fastlstm.ShapeError),
    "features of a chunk": (np.zeros((B, 2, I + 1), "f4"), fastlstm.ShapeError),
    "rows": (np.zeros((B + 1, I), "f4"), fastlstm.ShapeError),
    "None": (None, fastlstm.DTypeError),
    "text": ("abc", fastlstm.DTypeError),
    "complex": (np.zeros((B, I), "c8"), fastlstm.DTypeError),
    "objects": (np.zeros((B, I), object), fastlstm.DTypeError),
    "ragged": ([[1.0], [2.0, 3.0]], fastlstm.InputError),
    "a strange shape": (Strange(), fastlstm.DTypeError),
    "unknown name": ({"y": np.zeros((B, I), "f4")}, fastlstm.InputError),
    "no name": ({}, fastlstm.InputError),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_refused_step_leaves_the_state_and_the_stream_goes_on(case):
    given, error = BAD_INPUTS[case]
    net = STREAMING["stacked"]()
    x, session = weights(B, 2, I), fastlstm.Session(net)
    want, stream = session.run(x), session.stream(batch=B)
    stream.step(x[:, 0])
    before = stream.state.to_bytes()
    with pytest.raises(error, match=r"input '?[xy]"):
        stream.step(given)
    assert stream.state.to_bytes() == before
    assert models.same_bits(stream.step(x[:, 1]), want[:, 1].copy())


def test_a_step_that_fails_half_way_leaves_the_state():
    """The id is looked up after a recurrent node has already moved on."""
    ws = {"table": weights(9, I), "W": weights(I, 3 * H), "U": weights(H, 3 * H)}
    nodes = [
        Node("one", "Embedding", ("x", "table"), ("e",)),
        Node("first", "GRU", ("e", "W", "U"), ("y",), {"batch_first": True}),
        Node("two", "Embedding", ("z", "table"), ("f",)),
        Node("second", "GRU", ("f", "W", "U"), ("v",), {"batch_first": True}),
    ]
    net = models.model(nodes, [("x", "int32", ("B", "T")), ("z", "int32", ("B", "T"))], ["y", "v"], ws)
    session, stream = fastlstm.Session(net), fastlstm.Session(net).stream(batch=2)
    ids = np.arange(8).reshape(2, 4)
    stream.step({"x": ids[:, :2], "z": ids[:, :2]})
    before, bad = stream.state.to_bytes(), ids[:, 2:].copy()
    bad[1, 0] = 9
    for rows in (None, [1, 0]):
        with pytest.raises(fastlstm.InputError, match="node 'two': id 9 is out of range"):
            stream.step({"x": ids[:, 2:], "z": bad}, rows=rows)
    assert stream.state.to_bytes() == before
    got, want = stream.step({"x": ids[:, 2:], "z": ids[:, 2:]}), session.run({"x": ids, "z": ids})
    assert all(models.same_bits(got[k], want[k][:, 2:].copy()) for k in want)


def test_results_are_fresh_and_inputs_are_left_alone():
    stream, x = fastlstm.Session(STREAMING["outputs and states"]()).stream(batch=B), weights(B, I)
    kept = x.copy()
    first = stream.step({"x": x})
    copies = {k: v.copy() for k, v in first.items()}
    second = stream.step({"x": x})
    assert models.same_bits(x, kept)
    for name, array in first.items():
        assert models.same_bits(array, copies[name])
        assert not np.shares_memory(array, second[name])
        assert not any(np.shares_memory(array, state) for state in stream.state.values())


# ---- states -------------------------------------------------------------------------------------------
def test_the_state_is_read_by_name_and_cannot_be_written():
    net = STREAMING["mixed causal stack"]()
    stream = fastlstm.Session(net).stream(batch=2)
    assert {k: v.shape for k, v in stream.state.items()} == {
        "conv1d.history": (2, 4, I), "lstm.h": (2, 5), "lstm.c": (2, 5), "conv1d_1.history": (2, 2, 5),
    } | {}  # fmt: skip
    assert not any(array.any() for array in stream.state.values())
    results = stream.step(weights(2, I))
    assert stream.state["lstm.h"].any() and results.shape == (2, 4)
    for array in stream.state.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert len(stream.state) == 4 and "lstm.h: [2, 5]" in repr(stream.state)
    with pytest.raises(KeyError):
        stream.state["lstm.z"]


def test_a_copy_stays_as_later_steps_go_on_and_takes_the_stream_back():
    session, x = fastlstm.Session(STREAMING["stacked"]()), weights(B, 4, I)
    stream = session.stream(batch=B)
    stream.step(x[:, 0])
    kept = stream.state.copy()
    saved = kept.to_bytes()
    one = stream.step(x[:, 1])
    assert kept.to_bytes() == saved != stream.state.to_bytes()
    stream.state = kept
    assert models.same_bits(stream.step(x[:, 1]), one)
    assert kept.to_bytes() == saved  # it was copied in
    other = session.stream(batch=B)
    other.state = stream.state
    stream.step(x[:, 2])
    assert models.same_bits(other.step(x[:, 2]), session.run(x[:, :3])[:, 2].copy())
    other.state = dict(kept)
    assert models.same_bits(other.step(x[:, 1]), one)


def test_states_equal_when_their_bits_do():
    session = fastlstm.Session(STREAMING["lstm"]())
    a, b = session.stream(batch=2), session.stream(batch=2)
    assert a.state == b.state and a.state == a.state.copy()
    a.step(np.full((2, I), np.nan, "f4"))
    assert a.state != b.state and a.state == a.state.copy()
    assert a.state != session.stream(batch=1).state and a.state != 3


def test_reset_puts_only_the_rows_named_back():
    net = STREAMING["mixed causal stack"]()
    session, x = fastlstm.Session(net), inputs_of(net, np.random.default_rng(0))
    stream, want = session.stream(batch=B), session.run(x)
    stream.step(x[:, :5])
    stream.reset(rows=[2, 0])
    got = stream.step(x[:, 5:])
    again = session.run(x[:, 5:])
    assert models.same_bits(got[1], want[1, 5:])
    assert models.same_bits(got[[0, 2]], again[[0, 2]])
    stream.reset(rows=[])
    stream.reset()
    assert models.same_bits(stream.step(x), want)


def test_bytes_of_a_state_are_deterministic_and_bring_it_back():
    session, x = fastlstm.Session(STREAMING["stacked"]()), weights(B, 4, I)
    stream = session.stream(batch=B)
    stream.step(x[:, :2])
    data = stream.state.to_bytes()
    assert data == stream.state.to_bytes() == stream.state.copy().to_bytes()
    assert fastlstm.State(dict(reversed(list(stream.state.items())))).to_bytes() == data
    for given in (data, bytearray(data), memoryview(data)):
        state = fastlstm.State.from_bytes(given)
        assert state == stream.state and state.to_bytes() == data
    other = fastlstm.Session(STREAMING["stacked"]()).stream(batch=B)
    other.state = fastlstm.State.from_bytes(data)
    assert models.same_bits(other.step(x[:, 2:]), session.run(x)[:, 2:].copy())
    (length,) = struct.unpack("<Q", data[:8])
    assert json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["fastlstm_state"]) == {"version": 1}


def test_a_stream_that_carries_nothing_has_an_empty_state():
    stream = fastlstm.Session(STREAMING["pointwise"]()).stream(batch=2)
    assert len(stream.state) == 0
    stream.state = fastlstm.State.from_bytes(stream.state.to_bytes())
    stream.reset()


def state_bytes() -> bytes:
    stream = fastlstm.Session(sequential(gru(h=2))).stream(batch=1)
    stream.step(weights(1, I))
    return stream.state.to_bytes()


def read(data: object) -> str:
    """Read bytes as a state and try to use it; return what came of it. Any other error fails the test."""
    stream = fastlstm.Session(sequential(gru(h=2))).stream(batch=1)
    try:
        stream.state = fastlstm.State.from_bytes(data)
    except fastlstm.StreamError as error:
        return "refused" if "state" in str(error) else f"refused without saying what: {error}"
    return "read"


def test_a_state_cut_anywhere_is_refused():
    data = state_bytes()
    assert read(data) == "read"
    assert {read(data[:n]) for n in range(len(data))} == {"refused"}
    assert read(data + b"\0") == read(data[8:]) == read(data + data) == "refused"


def test_a_flipped_bit_is_refused_or_read_and_nothing_else():
    data = state_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    session = fastlstm.Session(sequential(gru(h=2)))
    refused = 0
    for place, bit in itertools.product(range(len(data)), range(8)):
        bad = bytearray(data)
        bad[place] ^= 1 << bit
        try:
            session.stream(batch=1).state = fastlstm.State.from_bytes(bytes(bad))
        except fastlstm.StreamError:
            refused += 1
    assert refused > 0.8 * 8 * (8 + length)  # all but spaces and the like; numbers have no check sum


def header(document: object, tail: bytes = b"", **changed) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", changed.get("length", len(text))) + text + tail


OURS = {"fastlstm_state": '{"version": 1}'}
HOSTILE: dict[str, object] = {
    "nothing": b"",
    "zeros": b"\0" * 64,
    "text": b"hello, this is no state at all",
    "None": None,
    "str": "state",
    "int": 10**9,
    "list": [1, 2],
    "foreign": save_tensors({"gru.h": weights(1, 2)}),
    "foreign with metadata": save_tensors({"gru.h": weights(1, 2)}, {"format": "np"}),
    "a later version": save_tensors({"gru.h": weights(1, 2)}, {"fastlstm_state": '{"version": 2}'}),
    "no version": save_tensors({"gru.h": weights(1, 2)}, {"fastlstm_state": "{}"}),
    "version as text": save_tensors({"gru.h": weights(1, 2)}, {"fastlstm_state": '{"version": "1"}'}),
    "metadata no object": save_tensors({"gru.h": weights(1, 2)}, {"fastlstm_state": "[1]"}),
    "metadata no JSON": save_tensors({"gru.h": weights(1, 2)}, {"fastlstm_state": "{"}),
    "metadata deep": save_tensors({"gru.h": weights(1, 2)}, {"fastlstm_state": "[" * 100_000}),
    "metadata a list": header({"__metadata__": [1]}),
    "metadata null": header({"__metadata__": None}),
    "header a list": header([1]),
    "header null": header(None),
    "header deep": header(b"[" * 100_000),
    "header of a huge number": header(b"9" * 10_000),
    "header no unicode": header(b"\xff\xfe\xfd"),
    "length of 2**63": header({}, length=2**63),
    "length beyond": header({}, length=10**6),
    "offsets beyond": header({"__metadata__": OURS, "gru.h": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}),
    "offsets backwards": header({"__metadata__": OURS, "gru.h": {"dtype": "F32", "shape": [1, 2], "data_offsets": [8, 0]}}, b"\0" * 8),
    "shape of 2**80": header({"__metadata__": OURS, "gru.h": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, b"\0" * 8),
    "empty of 2**62": header({"__metadata__": OURS, "gru.h": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
    "many axes": header({"__metadata__": OURS, "gru.h": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}, b"\0" * 4),
    "unknown dtype": header({"__metadata__": OURS, "gru.h": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "BF16": header({"__metadata__": OURS, "gru.h": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}, b"\0" * 4),
    "F8": header({"__metadata__": OURS, "gru.h": {"dtype": "F8_E4M3", "shape": [1, 2], "data_offsets": [0, 2]}}, b"\0" * 2),
    "other dtype": save_tensors({"gru.h": np.zeros((1, 2), "f8")}, OURS),
    "other rows": save_tensors({"gru.h": np.zeros((2, 2), "f4")}, OURS),
    "other units": save_tensors({"gru.h": np.zeros((1, 3), "f4")}, OURS),
    "another node": save_tensors({"lstm.h": np.zeros((1, 2), "f4")}, OURS),
    "a node more": save_tensors({"gru.h": np.zeros((1, 2), "f4"), "gru.c": np.zeros((1, 2), "f4")}, OURS),
    "a node less": save_tensors({}, OURS),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_a_stream_error(case):
    assert read(HOSTILE[case]) == "refused"


def test_a_model_file_is_no_state():
    assert read(sequential(gru(h=2)).to_bytes()) == "refused"


@pytest.mark.parametrize("state", [None, 3, b"bytes", [1], "text"], ids=str)
def test_what_is_no_state_cannot_be_assigned(state):
    stream = fastlstm.Session(STREAMING["lstm"]()).stream()
    with pytest.raises(fastlstm.StreamError, match="a state is a State or a dict of arrays"):
        stream.state = state


def test_the_state_of_another_model_is_refused_and_told():
    session = fastlstm.Session(STREAMING["lstm"]())
    stream = session.stream(batch=2)
    before = stream.state.to_bytes()
    for other, words in (
        (
            fastlstm.Session(STREAMING["rnn"]()).stream(batch=2),
            "the state holds 'simplernn.h', expected 'lstm.c', 'lstm.h'|expected 'lstm.c'",
        ),
        (fastlstm.Session(STREAMING["stacked"]()).stream(batch=2), "is it of another model"),
        (
            fastlstm.Session(STREAMING["wide lstm"]()).stream(batch=2),
            r"is float32 \(2, 65\), expected float32 \(2, 7\)",
        ),
        (session.stream(batch=3), r"is float32 \(3, 7\), expected float32 \(2, 7\)"),
    ):
        with pytest.raises(fastlstm.StreamError, match=words):
            stream.state = other.state
    with pytest.raises(fastlstm.StreamError, match="float64"):
        stream.state = {k: v.astype("f8") for k, v in stream.state.items()}
    assert stream.state.to_bytes() == before


# ---- what cannot stream -------------------------------------------------------------------------------
def decoder(build: Build, x: Tensor) -> Sequence[Tensor]:
    """A second LSTM that starts where the first has ended, fed with the same steps."""
    _, *states = lstm(return_sequences=False, return_state=True, name="encoder")(x)
    return [lstm(name="decoder")(x, initial_state=states)]


def attention(build: Build, x: Tensor) -> Sequence[Tensor]:
    y = lstm()(x)
    return [build.node("scores", "MatMul", [y, build.node("turned", "Transpose", [y], perm=(0, 2, 1))])]


def last_step(build: Build, x: Tensor) -> Sequence[Tensor]:
    return [build.node("last", "Gather", [lstm()(x), build.weight("index", np.array(-1))], axis=1)]


def joined_with_last(build: Build, x: Tensor) -> Sequence[Tensor]:
    h = lstm(return_sequences=False)(x)
    return [
        build.node("joined", "Add", [lstm(name="other")(x), build.node("u", "Unsqueeze", [h, build.ints("axes", 1)])])
    ]


def two(*outputs: str) -> dict[str, Array]:
    return {"one": np.array(1), "rows": weights(6, H), "steps": weights(T, H)} | {
        name: np.array([0]) for name in outputs
    }


TURNED = Node("turned", "Transpose", ("s",), ("t",), {"perm": (1, 0, 2)})
REFUSED: dict[str, tuple[Callable[[], fastlstm.Model], str]] = {
    "reverse": (lambda: sequential(lstm(go_backwards=True, name="back")), "node 'back' runs backwards"),
    "Bidirectional": (
        lambda: sequential(of(layers.Bidirectional(gru(name="ahead"), backward_layer=gru(go_backwards=True, name="back")), *[(I, 21), (7, 21), (2, 21)] * 2)),
        "node 'back' runs backwards",
    ),
    "Flatten": (lambda: sequential(lstm(), layers.Flatten("flat"), dense(T * H, 2), steps=T), "node 'flat'"),
    "Conv1D same": (lambda: sequential(conv(I, 4, 3, padding="same", name="wide"), lstm(4)), "node 'wide'"),
    "Conv1D valid": (lambda: sequential(conv(I, 4, 3, padding="valid", name="wide"), lstm(4)), "node 'wide'"),
    "Conv1D strides": (lambda: sequential(conv(I, 4, 1, strides=2, name="wide"), lstm(4)), "node 'wide'"),
    "Softmax over time": (lambda: sequential(lstm(), layers.Softmax(axis=1, name="soft")), "node 'soft'"),
    "LayerNormalization over time": (
        lambda: sequential(lstm(), of(layers.LayerNormalization([1, 2], name="norm"), (T, H), (T, H)), steps=T), "node 'norm'",
    ),
    "BatchNormalization over time": (
        lambda: sequential(lstm(), of(layers.BatchNormalization(axis=1, name="norm"), *[(T,)] * 4), steps=T), "node 'norm'",
    ),
    "Permute and Dense over time": (lambda: sequential(lstm(), layers.Permute((2, 1)), dense(T, 2, name="mix"), steps=T), "node 'mix'"),
    "Reshape of time": (lambda: sequential(lstm(), layers.Reshape((-1,), name="flat")), "node 'flat'"),
    "RepeatVector and a decoder": (
        lambda: sequential(lstm(return_sequences=False), layers.RepeatVector(4), gru(H, 5, name="decoder")), "node 'decoder'",
    ),
    "encoder-decoder": (lambda: functional(decoder), "node 'decoder'"),
    "attention": (lambda: functional(attention), "node 'scores'"),
    "the step of an index": (lambda: functional(last_step), "node 'last'"),
    "steps and the last output": (lambda: functional(joined_with_last), "node 'joined'"),
    "steps in reverse": (lambda: functional(lambda b, x: [b.node("turn", "Reverse", [lstm()(x)], axis=1)]), "node 'turn'"),
    "steps cut": (
        lambda: graph([FIRST, Node("cut", "Slice", ("s", "zero", "five", "one"), ("y",))], ["y"], zero=np.array([0]), five=np.array([5]), one=np.array([1])),
        "node 'cut'",
    ),
    "steps one after the other": (lambda: graph([FIRST, Node("twice", "Concat", ("s", "s"), ("y",), {"axis": 1})], ["y"]), "node 'twice'"),
    "a table of positions": (lambda: graph([FIRST, Node("place", "Add", ("s", "steps"), ("y",))], ["y"], steps=weights(T, H)), "node 'place'"),
    "the number of steps": (
        lambda: graph(
            [FIRST, Node("n", "Shape", ("x",), ("n",), {"start": 1, "end": 2}), Node("f", "Cast", ("n",), ("f",), {"to": "float32"}),
             Node("mean", "Div", ("s", "f"), ("y",))], ["y"],
        ),
        "node 'f'",
    ),
    "a computed initial state": (
        lambda: graph([Node("squash", "Tanh", ("h0",), ("start",)), Node("net", "LSTM", ("x", "W", "U", "", "start"), ("y",), {"batch_first": True})],
                      ["y"], h0=weights(1, H)),
        "node 'net' starts from 'start'",
    ),
    "initial states of a fixed batch": (
        lambda: graph([Node("net", "LSTM", ("x", "W", "U", "", "h0"), ("y",), {"batch_first": True})], ["y"], h0=weights(6, H)), "node 'net'",
    ),
    "a constant mask": (
        lambda: graph([Node("net", "LSTM", ("x", "W", "U", "", "", "", "", "m"), ("y",), {"batch_first": True})], ["y"], m=np.ones((2, T), bool)),
        "node 'net'",
    ),
    "a recurrence over rows": (lambda: graph([FIRST, Node("across", "LSTM", ("s", "W2", "U2"), ("y",))], ["y"]), "node 'across'"),
    "a convolution over rows": (
        lambda: graph([FIRST, TURNED, Node("across", "Conv1D", ("t", "k"), ("y",), {"pads": (2, 0)})], ["y"], k=weights(3, H, 2)), "node 'across'",
    ),
    "a convolution over other steps": (
        lambda: graph([FIRST, Node("u", "Unsqueeze", ("h", "one"), ("u",)), Node("again", "Conv1D", ("u", "k"), ("y",), {"pads": (2, 0)})], ["y"],
                      one=np.array([1]), k=weights(3, H, 2)),
        "node 'again'",
    ),
    "rows and steps as one": (lambda: graph([FIRST, Node("flat", "Reshape", ("s", "all"), ("y",))], ["y"], all=np.array([-1, H])), "node 'flat'"),
    "no recurrence": (lambda: sequential(dense(I, 2)), "no input has a time axis"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_all_of_time_is_refused_by_the_name_of_its_node(case):
    build, words = REFUSED[case]
    session = fastlstm.Session(build())
    for batch in (1, 3):
        with pytest.raises(fastlstm.StreamError, match=f"the model cannot stream: .*{words}"):
            session.stream(batch=batch)


MIXES = {
    "softmax over rows": [FIRST, Node("mix", "Softmax", ("s",), ("y",), {"axis": 0})],
    "some of the rows": [
        FIRST,
        Node("mix", "Slice", ("s", "one", "many", "zero"), ("z",)),
        Node("net", "LSTM", ("z", "W2", "U2"), ("y",), {"batch_first": True}),
    ],
    "one row for all": [FIRST, Node("mix", "Squeeze", ("s", "zero"), ("y",))],
}


@pytest.mark.parametrize("case", MIXES)
def test_rows_that_a_model_mixes_stream_one_at_a_time_or_not_at_all(case):
    net = graph(MIXES[case], ["y"], zero=np.array([0]), one=np.array([0]), many=np.array([2]))
    session, x = fastlstm.Session(net), weights(1, T, I)
    with pytest.raises(
        fastlstm.StreamError, match=r"cannot stream several rows: node 'mix' .* mixes them; use batch=1"
    ):
        session.stream(batch=2)
    stream = session.stream()
    got = np.concatenate([stream.step(x[:, :4]), stream.step(x[:, 4:])], axis=-2)
    assert models.same_bits(got, session.run(x))


def test_an_input_without_time_is_refused_by_its_name():
    ws = {"W": weights(I, 4 * H), "U": weights(H, 4 * H)}
    nodes = [FIRST, Node("other", "Concat", ("z", "z"), ("y",), {"axis": 1})]
    aside = models.model(nodes, [("x", "float32", ("B", "T", I)), ("z", "float32", ("B", I))], ["s", "y"], ws)
    start = models.Recurrence(
        "LSTM", T, B, I, H, 0, states=("input", ""), outputs=("Y",)
    ).model()  # nothing leads back to h0
    for net, name in ((aside, "z"), (start, "h0")):
        with pytest.raises(fastlstm.StreamError, match=f"the model cannot stream: input '{name}' has no time axis"):
            fastlstm.Session(net).stream()


def test_an_input_that_reaches_no_recurrence_streams_by_the_symbols_it_shares():
    ws = {"W": weights(I, 4 * H), "U": weights(H, 4 * H)}
    nodes = [FIRST, Node("other", "Neg", ("z",), ("y",))]
    net = models.model(nodes, [("x", "float32", ("B", "T", I)), ("z", "float32", ("B", "T", 2, 2))], ["s", "y"], ws)
    x, z, session = weights(B, T, I), weights(B, T, 2, 2), fastlstm.Session(net)
    stream, want = session.stream(batch=B), session.run({"x": x, "z": z})
    for t in range(T):
        got = stream.step({"x": x[:, t], "z": z[:, t]})
        assert all(models.same_bits(got[k], want[k][:, t].copy()) for k in want)


@pytest.mark.parametrize("batch", [0, -1, 1.0, "3", None, True, np.int64(2)], ids=repr)
def test_a_stream_has_a_whole_number_of_rows(batch):
    with pytest.raises(fastlstm.StreamError, match=r"batch=.*: expected a whole number of at least 1"):
        fastlstm.Session(STREAMING["lstm"]()).stream(batch=batch)


def test_states_beyond_max_scratch_are_refused_before_they_are_allocated():
    session = fastlstm.Session(STREAMING["lstm"](), max_scratch=1 << 20)
    session.stream(batch=100)
    tracemalloc.start()
    try:
        for batch in (10**5, 10**12, 10**30):
            with pytest.raises(fastlstm.LimitError, match=f"batch={batch}.*max_scratch"):
                session.stream(batch=batch)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# ---- one thread at a time -----------------------------------------------------------------------------
class During:
    """An input that runs something while the step reads it."""

    def __init__(self, array: Array, action: Callable[[], object]):
        self.array, self.action, self.raised = array, action, None

    def __array__(self, dtype=None, copy=None):
        def act() -> None:
            try:
                self.action()
            except BaseException as error:  # a thread's error must reach the test
                self.raised = error

        thread = threading.Thread(target=act)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "waits for the stream instead of an error"
        return self.array


def assign(stream: fastlstm.Stream) -> None:
    stream.state = stream.state.copy()


@pytest.mark.parametrize(
    "action", [lambda s: s.step(weights(B, I)), lambda s: s.step(weights(1, I), rows=[2]), lambda s: s.reset(), assign]
)
def test_a_second_thread_is_refused_and_the_first_goes_on(action):
    session, x = fastlstm.Session(STREAMING["stacked"]()), weights(B, 3, I)
    stream, want = session.stream(batch=B), session.run(x)
    stream.step(x[:, 0])
    meanwhile = During(x[:, 1], lambda: action(stream))
    y = stream.step(meanwhile)
    assert isinstance(meanwhile.raised, fastlstm.StreamError) and "another thread" in str(meanwhile.raised)
    assert models.same_bits(y, want[:, 1].copy())
    assert models.same_bits(stream.step(x[:, 2]), want[:, 2].copy())


def test_a_step_that_fails_frees_the_stream():
    stream = fastlstm.Session(STREAMING["lstm"]()).stream(batch=B)
    for _ in range(2):
        with pytest.raises(fastlstm.ShapeError):
            stream.step(np.zeros(4, "f4"))
    stream.step(weights(B, I))


def test_streams_of_one_session_know_nothing_of_each_other():
    session, x = fastlstm.Session(STREAMING["stacked"]()), weights(4, T, I)
    want, streams = session.run(x), [session.stream() for _ in range(4)]
    for t, (k, stream) in itertools.product(range(T), enumerate(streams)):
        assert models.same_bits(stream.step(x[k : k + 1, t]), want[k : k + 1, t].copy())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("kind", models.GATES)
def test_whatever_is_done_to_streams_in_between_each_row_s_step_has_the_bits_of_a_run(kind, short, seed):
    """Steps, chunks, some rows, resets, states kept and brought back, in turns, on two streams of a session that also runs.

    `short`: one input and one output, whose step of all rows is one call into compiled code.
    """
    rng = np.random.default_rng(seed)
    B, I, H = int(rng.integers(1, 15)), 5, int(rng.integers(1, 40))
    case = models.Recurrence(
        kind, 1, B, I, H, seed, outputs=("Y",) if short else ("Y", "h"), batch_first=bool(seed % 2)
    )
    turn = (lambda a: a) if case.batch_first else (lambda a: np.swapaxes(a, 0, 1))
    session = fastlstm.Session(case.model())
    streams = [session.stream(batch=B) for _ in range(2)]
    assert (streams[0]._own is not None and bool(streams[0]._own.views)) == short
    past: list[list[list[Array]]] = [[[] for _ in range(B)] for _ in streams]  # the steps since each row's start
    kept: list[tuple] = []

    def step(which: int, x: Array, rows, single: bool) -> None:
        given = x[:, 0] if single else turn(x)
        y = streams[which].step(given, rows=rows)
        y = y if short else y["Y"]
        for place, row in enumerate(range(B) if rows is None else rows):
            past[which][row] += list(x[place])
            if not x.shape[1]:
                continue
            want = session.run({"x": turn(np.stack(past[which][row])[None])})["Y"]
            got = y[place][None] if single else turn(y)[place]
            assert models.same_bits(got.copy(), turn(want)[0, -x.shape[1] :].copy()), (seed, which, row)

    for _ in range(40):
        which, action = (
            int(rng.integers(2)),
            str(rng.choice(["one", "one", "one", "chunk", "rows", "reset", "keep", "bring", "run"])),
        )
        stream, some = streams[which], rng.permutation(B)[: rng.integers(0, B + 1)]
        if action in ("one", "chunk", "rows"):
            steps = int(rng.integers(0, 12)) if action == "chunk" else 1
            rows = some if action == "rows" else None
            step(
                which,
                rng.standard_normal((B if rows is None else len(rows), steps, I)).astype("f4"),
                rows,
                action == "one",
            )
        elif action == "reset":
            everyone = rng.random() < 0.2
            stream.reset(None if everyone else some)
            for row in range(B) if everyone else some:
                past[which][row] = []
        elif action == "keep":
            state = stream.state.copy() if rng.random() < 0.5 else fastlstm.State.from_bytes(stream.state.to_bytes())
            kept.append((state, [list(row) for row in past[which]]))
        elif action == "bring" and kept:
            state, before = kept[rng.integers(len(kept))]
            stream.state, past[which] = state, [list(row) for row in before]
        elif action == "run":
            session.run(rng.standard_normal((B, 1, I) if case.batch_first else (1, B, I)).astype("f4"))


# ---- random graphs ------------------------------------------------------------------------------------
class RandomGraph:
    """A GRU over x (6, 5, 3) and up to four random nodes after it, with the sizes that every value has."""

    def __init__(self, seed: int):
        self.rng, self.nodes, self.constants = np.random.default_rng(seed), [], {}
        self.sizes: dict[str, tuple[int, ...]] = {"x": (6, 5, 3)}
        self.recurrent("x", True)
        for _ in range(self.rng.integers(1, 5)):
            x = str(self.rng.choice(list(self.sizes)[-4:]))
            with suppress(ValueError, IndexError):  # sizes that this op cannot take
                self.grow(x, self.sizes[x])

    def weight(self, *shape: int) -> str:
        return self.constant((self.rng.standard_normal(shape) / 2).astype("f4"))

    def constant(self, array: Array) -> str:
        name = f"w{len(self.constants)}"
        self.constants[name] = abs(array) if array.ndim == 1 and array.dtype.kind == "f" else array
        return name

    def node(self, op: str, inputs: Sequence[str], *shapes: Sequence[int], **attributes) -> None:
        name = f"n{len(self.nodes)}"
        outs = tuple(f"{name}.{k}" for k in range(len(shapes)))
        self.nodes.append(Node(name, op, tuple(inputs), outs, attributes))
        self.sizes |= {out: tuple(map(int, shape)) for out, shape in zip(outs, shapes, strict=True)}

    def recurrent(self, x: str, batch_first: bool) -> None:
        a, b, i = self.sizes[x]
        h = int(self.rng.integers(2, 5))
        shapes = (a, b, h), ((a if batch_first else b), h)
        direction = "reverse" if self.rng.random() < 0.1 else "forward"
        self.node(
            "GRU",
            [x, self.weight(i, 3 * h), self.weight(h, 3 * h)],
            *shapes,
            batch_first=batch_first,
            direction=direction,
        )

    def grow(self, x: str, s: tuple[int, ...]) -> None:
        rng, axis = self.rng, int(self.rng.integers(len(s)))
        some = tuple(d if rng.random() < 0.4 else 1 for d in s)[axis:]
        other = str(rng.choice(list(self.sizes)))
        put = lambda n: (*s[:axis], n, *s[axis + 1 :])
        match rng.integers(15):
            case 0:
                self.recurrent(x, bool(rng.random() < 0.6))
            case 1:
                self.node("Add", [x, self.weight(*some)], s)
            case 2:
                self.node("Mul", [x, other], np.broadcast_shapes(s, self.sizes[other]))
            case 3:
                perm = tuple(int(k) for k in rng.permutation(len(s)))
                self.node("Transpose", [x], [s[k] for k in perm], perm=perm)
            case 4:
                self.node("Concat", [x, x], put(2 * s[axis]), axis=axis)
            case 5:
                start, end = int(rng.integers(2)), int(rng.choice([1, 3, -1, 2**31]))
                bounds = [self.constant(np.array([k])) for k in (start, end, axis)]
                self.node("Slice", [x, *bounds], put(len(range(s[axis])[start:end])))
            case 6:
                self.node("Softmax", [x], s, axis=axis)
            case 7:
                self.node("LayerNormalization", [x], s, axis=axis)
            case 8:
                wanted = [(0, -1), (-1, s[-1]), (0, 0, -1, 1), s][int(rng.integers(4))]
                sizes = [s[k] if d == 0 else d for k, d in enumerate(wanted)]
                self.node("Reshape", [x, self.constant(np.array(wanted))], np.empty(s).reshape(sizes).shape)
            case 9:
                self.node("Reverse", [x], s, axis=axis)
            case 10:
                self.node("Unsqueeze", [x, self.constant(np.array([axis]))], (*s[:axis], 1, *s[axis:]))
            case 11:
                self.node("MatMul", [x, other], np.matmul(np.empty(s), np.empty(self.sizes[other])).shape)
            case 12 if len(s) == 3:
                kernel = int(rng.integers(1, 4))
                self.node("Conv1D", [x, self.weight(kernel, s[2], 2)], (*s[:2], 2), pads=(kernel - 1, 0))
            case 13:
                self.node("BatchNormalization", [x, "", "", self.weight(s[axis]), self.weight(s[axis])], s, axis=axis)
            case 14:
                count = len(self.nodes)
                self.node("Shape", [x], (1,), start=axis, end=axis + 1)
                self.node("Cast", [f"n{count}.0"], (1,), to="float32")
                del self.sizes[f"n{count}.0"], self.sizes[f"n{count + 1}.0"]
                self.node("Div", [x, f"n{count + 1}.0"], s)

    def model(self) -> fastlstm.Model:
        used = {name for node in self.nodes for name in node.inputs}
        constants = {name: array for name, array in self.constants.items() if name in used}
        return models.model(self.nodes, [("x", "float32", ("B", "T", 3))], [list(self.sizes)[-1]], constants)


def test_random_graphs_split_list_and_stream_as_they_run_or_are_refused():
    """What is found of axes (`fastlstm/axes.py`) decides what may be split, stacked and cut; a wrong finding is a wrong result."""
    x, did = np.random.default_rng(1).standard_normal((6, 5, 3)).astype("f4"), {"split": 0, "streamed": 0, "refused": 0}
    for seed in range(400):
        try:
            net = RandomGraph(seed).model()
            session = fastlstm.Session(net)
            want = session.run(x)
        except fastlstm.FastLSTMError:
            continue
        what = (seed, [(n.op, n.inputs, dict(n.attributes)) for n in net.graph.nodes])
        did["split"] += session.axes.rows_are_apart
        assert models.same_bits(fastlstm.Session(net, threads=3).run(x), want), what
        name, alone = net.graph.outputs[0].name, session.run(x[1:2]) if session.axes.rows_are_apart else None
        if alone is not None:
            assert models.same_bits(session.run(list(x))[1], alone.take(0, axis=session.axes.axis(name, "«batch»"))), (
                what
            )
        try:
            stream = session.stream(batch=6)
        except fastlstm.StreamError:
            did["refused"] += 1
            continue
        did["streamed"] += 1
        time = session.axes.axis(name, "«time»")
        for start, end in ((0, 1), (1, 3), (3, 5)):
            got, whole = stream.step(x[:, start:end]), session.run(x[:, :end])
            assert models.same_bits(got, whole if time is None else whole.take(range(start, end), axis=time)), what
    assert min(did.values()) > 50, did  # each was met

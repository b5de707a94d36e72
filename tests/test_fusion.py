"""Fusion: what joins what, and that a fused model gives the bits of its twin, in which a second reader keeps the parts apart."""

from collections.abc import Sequence
from typing import Any

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm import fusion
from fastlstm.graph import Node

VOCABULARY = 23
KINDS = {
    "LSTM": {},
    "GRU": {"reset": "after"},
    "GRU before": {"reset": "before"},
    "RNN": {},
    "LSTM general": {"activations": ("HardSigmoid", "Softsign", "Tanh"), "alphas": (0.3, 0.0, 0.0), "betas": (0.4, 0.0, 0.0)},
}  # fmt: skip


def session(
    nodes: Sequence[Node], inputs, outputs: Sequence[str], ws: dict[str, Any], **options: Any
) -> fastlstm.Session:
    return fastlstm.Session(models.model(nodes, inputs, outputs, ws), **options)


def kernels(one: fastlstm.Session, feeds: dict[str, np.ndarray]) -> list[str]:
    """Return the kernels of a call, copies and the words of masks left out."""
    steps = programs.program(one, feeds).steps
    return [step.kernel for step in steps if step.kernel not in ("copy_forward", "ragged_forward")]  # type: ignore[union-attr]


# ---- look-ups of projections --------------------------------------------------------------------------
def embedded(
    kind: str, H: int, I: int = 9, mask: str = "", both: bool = False, apart: bool = False, dtype: str = "float32",
    time_first: bool = False, **options: Any,
) -> fastlstm.Session:  # fmt: skip
    """Return an embedding before one recurrent node or two; `apart`: the rows are an output too, so they are looked up."""
    rng = np.random.default_rng(H)
    op = kind.split()[0]
    ws: dict[str, Any] = {"table": rng.standard_normal((VOCABULARY, I)).astype(dtype), "zero": np.array(0, "int32")}
    nodes = [Node("embedding", "Embedding", ("ids", "table"), ("rows",))]
    inputs = [("ids", "int32", ("B", "T"))]
    if mask == "zero":
        nodes.append(Node("mask", "NotEqual", ("ids", "zero"), ("m",)))
    elif mask:
        inputs.append(("m", "bool", ("B", "T")))
    x = "rows"
    if time_first:
        nodes += [Node("turn", "Transpose", ("rows",), ("x",), {"perm": (1, 0, 2)})]
        x = "x"
        if mask:
            nodes.append(Node("turn mask", "Transpose", ("m",), ("mt",)))
    m = "" if not mask else "mt" if time_first else "m"
    outs = []
    for name in ("f", "r") if both else ("f",):
        mine = models.weights(rng, op, I, H, dtype, f"{name}.")
        mine.pop(f"{name}.P", None)
        ws |= mine
        states = ("", "", "") if op == "LSTM" else ("",)
        attributes = {"batch_first": not time_first, "direction": "reverse" if name == "r" else "forward"} | KINDS[kind]
        outs += [f"{name}.y", f"{name}.h"]
        nodes.append(Node(name, op, (x, *mine, *states, m), tuple(outs[-2:]), attributes))
    used = {value for node in nodes for value in node.inputs}
    outputs = [*outs, *(["rows"] if apart else [])]
    return session(nodes, inputs, outputs, {k: v for k, v in ws.items() if k in used}, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_up_of_projections_gives_the_bits_of_projecting(kind):
    for number, H in enumerate((1, 3, 8, 16, 19, 33, 70)):
        rng = np.random.default_rng(number)
        mask = ("", "zero", "holes")[number % 3]
        options = {"mask": mask, "both": number % 2 == 1, "dtype": "float64" if number == 4 else "float32"}
        options |= {"time_first": number in (3, 5)}
        fused, twin = embedded(kind, H, **options), embedded(kind, H, apart=True, **options)
        for B, T in ((1, 1), (1, 40), (2, 7), (5, 1), (13, 9), (33, 4)):
            ids = rng.integers(0, VOCABULARY, (B, T), "int32")
            if mask == "zero":
                ids[np.arange(T) >= rng.integers(0, T + 1, (B, 1))] = 0  # padded
            feeds = {"ids": ids} | ({"m": rng.random((B, T)) < 0.6} if mask == "holes" else {})
            got, want = fused.run(feeds), twin.run(feeds)
            for name in got:
                assert models.same_bits(got[name], want[name]), (H, B, T, name)
        assert "gather_forward" not in kernels(fused, feeds)
        assert "gather_forward" in kernels(twin, feeds)
        assert programs.is_one_call(fused, feeds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_of_ids_gives_the_bits_of_a_run(kind):
    rng = np.random.default_rng(0)
    one = embedded(kind, 19, mask="zero")
    ids = rng.integers(0, VOCABULARY, (3, 12), "int32")
    want = one.run({"ids": ids})["f.y"]
    stream = one.stream(3)
    chunks = [stream.step({"ids": ids[:, k : k + n]})["f.y"] for k, n in ((0, 1), (1, 4), (5, 1), (6, 6))]
    assert models.same_bits(np.concatenate(chunks, axis=1), want)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_team_gives_the_same_look_ups(kind):
    rng = np.random.default_rng(0)
    one, two = embedded(kind, 130, both=True), embedded(kind, 130, both=True, threads=2)
    for B, T in ((1, 50), (4, 30), (40, 12)):
        ids = rng.integers(0, VOCABULARY, (B, T), "int32")
        want = one.run({"ids": ids})
        for _ in range(3):
            for name, got in two.run({"ids": ids}).items():
                assert models.same_bits(got, want[name])


def test_a_table_of_infinities_and_a_gather_are_looked_up_alike():
    rng = np.random.default_rng(0)
    ws = models.weights(rng, "GRU", 8, 5) | {"table": rng.standard_normal((6, 8)).astype("f4")}
    ws["table"][1, 2], ws["table"][2] = np.inf, -np.inf
    nodes = [
        Node("pick", "Gather", ("table", "ids"), ("rows",)),
        Node("net", "GRU", ("rows", "W", "U", "b", "bn"), ("y",), {"batch_first": True}),
    ]
    inputs = [("ids", "int64", ("B", "T"))]
    ids = np.array([[0, 1, 2, -1, -6], [3, 2, 1, 0, 5]])
    got = session(nodes, inputs, ["y"], ws).run({"ids": ids})["y"]
    assert models.same_bits(got, session(nodes, inputs, ["y", "rows"], ws).run({"ids": ids})["y"])


@pytest.mark.parametrize(
    ("rows", "inputs", "hidden", "pays"),
    [
        (5000, 64, 128, True),
        (40_000, 64, 128, False),
        (100, 2, 16, True),
        (30_000, 4, 32, False),
        (8000, 3000, 128, False),
    ],
)
def test_what_is_looked_up_depends_on_sizes_alone(rows, inputs, hidden, pays):
    ws = {
        "table": np.zeros((rows, inputs), "f4"),
        "W": np.zeros((inputs, 4 * hidden), "f4"),
        "U": np.zeros((hidden, 4 * hidden), "f4"),
    }
    nodes = [
        Node("e", "Embedding", ("ids", "table"), ("x",)),
        Node("net", "LSTM", ("x", "W", "U"), ("y",), {"batch_first": True}),
    ]
    net = models.model(nodes, [("ids", "int64", ("B", "T"))], ["y"], ws)
    assert fusion.fuse(net.graph, net.weights).looked_up == (frozenset({"e"}) if pays else frozenset())


# ---- Dense and what comes after it --------------------------------------------------------------------
def test_an_activation_joins_the_dense_or_convolution_before_it_to_the_bit():
    rng = np.random.default_rng(0)
    for number, name in enumerate(sorted(fusion.ACTIVATIONS)):
        if name == "Identity":
            continue
        _, alpha, beta = models.draw_activation(rng, name)
        known = fusion.ACTIVATIONS[name]
        numbers = ({"alpha": alpha} if known.has_alpha else {}) | ({"beta": beta} if known.has_beta else {})
        convolves = number % 2 == 1
        W = rng.standard_normal((3, 5, 21) if convolves else (5, 21)).astype("f4")
        op = Node("d", "Conv1D" if convolves else "Dense", ("x", "W"), ("z",))
        nodes = [op, Node("drop", "Identity", ("z",), ("i",)), Node("a", name, ("i",), ("y",), numbers)]
        inputs, feeds = [("x", "float32", ("B", "T", 5))], {"x": rng.standard_normal((2, 7, 5)).astype("f4")}
        fused, twin = session(nodes, inputs, ["y"], {"W": W}), session(nodes, inputs, ["y", "z"], {"W": W})
        assert models.same_bits(fused.run(feeds)["y"], twin.run(feeds)["y"])
        assert kernels(fused, feeds) == ["dense_forward"]
        assert kernels(twin, feeds) == ["dense_forward", "activate_forward"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_matmul_and_the_bias_after_it_are_one_dense(turned):
    rng = np.random.default_rng(0)
    ws = {"W": rng.standard_normal((5, 21)).astype("f4"), "b": rng.standard_normal(21).astype("f4")}
    nodes = [
        Node("m", "MatMul", ("x", "W"), ("z",)),
        Node("p", "Add", ("b", "z") if turned else ("z", "b"), ("s",)),
        Node("a", "Tanh", ("s",), ("y",)),
    ]
    dense = [Node("d", "Dense", ("x", "W", "b"), ("y",), {"activation": "Tanh"})]
    for shape in ((5,), (4, 5), (2, 3, 5)):
        inputs, x = [("x", "float32", shape)], rng.standard_normal(shape).astype("f4")
        fused = session(nodes, inputs, ["y"], ws)
        assert models.same_bits(fused.run(x), session(dense, inputs, ["y"], ws).run(x))
        assert kernels(fused, {"x": x}) == ["dense_forward"]
        np.testing.assert_allclose(fused.run(x), np.tanh(x @ ws["W"] + ws["b"]), atol=1e-5)


@pytest.mark.parametrize("row", [(1, 21), (1,), (3, 1, 21), (4, 21)])
def test_what_is_added_and_is_no_row_stays_apart(row):
    rng = np.random.default_rng(0)
    ws = {"W": rng.standard_normal((5, 21)).astype("f4"), "b": rng.standard_normal(row).astype("f4")}
    nodes = [Node("m", "MatMul", ("x", "W"), ("z",)), Node("p", "Add", ("z", "b"), ("y",))]
    x = rng.standard_normal((4, 5)).astype("f4")
    one = session(nodes, [("x", "float32", ("A", 5))], ["y"], ws)
    assert kernels(one, {"x": x}) == ["dense_forward", "combine_forward"]
    np.testing.assert_allclose(one.run(x), x @ ws["W"] + ws["b"], atol=1e-5)


def test_a_value_with_a_second_reader_or_that_is_an_output_stays():
    rng = np.random.default_rng(0)
    ws = {"W": rng.standard_normal((5, 7)).astype("f4"), "b": rng.standard_normal(7).astype("f4")}
    nodes = [
        Node("m", "MatMul", ("x", "W"), ("z",)),
        Node("p", "Add", ("z", "b"), ("s",)),
        Node("a", "Relu", ("s",), ("r",)),
        Node("j", "Add", ("z", "r"), ("y",)),
    ]
    x = rng.standard_normal((4, 5)).astype("f4")
    one = session(nodes, [("x", "float32", ("A", 5))], ["y", "s"], ws)
    z = x @ ws["W"]
    got = one.run({"x": x})
    np.testing.assert_allclose(got["s"], z + ws["b"], atol=1e-5)
    np.testing.assert_allclose(got["y"], z + np.maximum(z + ws["b"], 0), atol=1e-5)
    assert kernels(one, {"x": x}) == ["dense_forward", "combine_forward", "activate_forward", "combine_forward"]


def test_a_chain_of_identities_between_inputs_and_outputs_keeps_its_ends():
    nodes = [
        Node("i", "Identity", ("x",), ("a",)),
        Node("j", "Identity", ("a",), ("b",)),
        Node("k", "Identity", ("b",), ("y",)),
    ]
    x = np.arange(6, dtype="f4").reshape(2, 3)
    got = session(nodes, [("x", "float32", ("A", 3))], ["y", "a"], {}).run({"x": x})
    assert models.same_bits(got["y"], x) and models.same_bits(got["a"], x)


def test_long_chains_are_fused_in_time_and_memory_that_grow_with_their_length():
    count = 5000
    nodes = [Node(f"n{k}", "Neg", (f"v{k}",), (f"v{k + 1}",)) for k in range(count)]
    nodes.append(Node("last", "SequenceMask", (f"v{count}", f"v{count}"), ("y",)))
    net = models.model(nodes[:-1], [("v0", "float32", ("A",))], [f"v{count}"], {})
    fused = fusion.fuse(net.graph, {})
    assert len(fused.graph.nodes) == count

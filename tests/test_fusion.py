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
    time_first: bool = False, values: Sequence[float] | None = None, **options: Any,
) -> fastlstm.Session:  # fmt: skip
    """Return an embedding before one recurrent node or two; `apart`: the rows are an output too, so they are looked up.

    With `values`, off and on, a OneHot of I elements stands in the embedding's place.
    """
    rng = np.random.default_rng(H)
    op = kind.split()[0]
    ws: dict[str, Any] = {"table": rng.standard_normal((VOCABULARY, I)).astype(dtype), "zero": np.array(0, "int32")}
    nodes = [Node("embedding", "Embedding", ("ids", "table"), ("rows",))]
    if values is not None:
        ws |= {"depth": np.array(I), "values": np.array(values, dtype)}
        nodes = [Node("hot", "OneHot", ("ids", "depth", "values"), ("rows",))]
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
def test_a_look_up_in_place_of_a_one_hot_gives_the_bits_of_projecting(kind):
    """Ids beyond the depth, of which nothing is on, and below 0 among them; I of one, few, and more than a table makes at once."""
    for number, (I, H) in enumerate(((1, 1), (9, 3), (30, 8), (5, 16), (520, 19), (64, 33), (27, 70))):
        rng = np.random.default_rng(number)
        mask = ("", "zero", "holes")[number % 3]
        options = {"I": I, "mask": mask, "both": number % 2 == 1, "dtype": "float64" if number == 3 else "float32"}
        options |= {"time_first": number in (2, 5), "values": ((0, 1), (-0.3, 0.7))[number % 4 // 3]}
        fused, twin = embedded(kind, H, **options), embedded(kind, H, apart=True, **options)
        for B, T in ((1, 1), (1, 40), (2, 7), (5, 1), (13, 9), (33, 4)):
            ids = rng.integers(-I - 2, I + 3, (B, T), "int32")
            if mask == "zero":
                ids[np.arange(T) >= rng.integers(0, T + 1, (B, 1))] = 0  # padded
            feeds = {"ids": ids} | ({"m": rng.random((B, T)) < 0.6} if mask == "holes" else {})
            got, want = fused.run(feeds), twin.run(feeds)
            for name in got:
                assert models.same_bits(got[name], want[name]), (I, H, B, T, name)
        assert "one_hot_forward" not in kernels(fused, feeds)
        assert "one_hot_forward" in kernels(twin, feeds)
        assert programs.is_one_call(fused, feeds)


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_one_hot_before_narrow_weights_is_looked_up_alike(storage, tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.integers(-2, 40, (5, 9), "int32")
    for kind in ("LSTM", "GRU", "GRU before", "RNN"):
        got, want = (
            fastlstm.Session(_narrow(embedded(kind, 48, 37, values=(0, 1), apart=apart).model, storage, tmp_path))
            for apart in (False, True)
        )
        assert "one_hot_forward" not in kernels(got, {"ids": ids})
        assert models.same_bits(got.run({"ids": ids})["f.y"], want.run({"ids": ids})["f.y"])


def _narrow(model: fastlstm.Model, storage: str, folder) -> fastlstm.Model:
    """Return a model with its weights as they are stored."""
    model.save(folder / "model.safetensors", weights=storage)
    return fastlstm.load(folder / "model.safetensors")


def test_zeros_of_either_sign_and_weights_that_are_no_numbers_are_looked_up_alike():
    """0 W is -0, or NaN where W is infinite: Identity shows the bits of b + x W."""
    weird = np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan, 1e-40, -1e-40], "f4")
    for seed in range(30):
        rng = np.random.default_rng(seed)
        finite = weird[[0, 1, 2, 3, 7, 8] if seed % 3 else [1, 3, 8]]
        W = rng.choice(weird if seed % 2 else finite, (6, 11))
        ws = {"W": W, "U": np.zeros((11, 11), "f4"), "b": rng.choice(finite, 11)}
        ws |= {"depth": np.array(6), "values": np.array([0, 1], "f4")}
        nodes = [
            Node("hot", "OneHot", ("ids", "depth", "values"), ("x",)),
            Node("net", "RNN", ("x", "W", "U", "b"), ("y",), {"batch_first": True, "activations": ("Identity",)}),
        ]
        inputs = [("ids", "int64", ("B", "T"))]
        ids = np.arange(-8, 8)[:, None]
        got = session(nodes, inputs, ["y"], ws).run({"ids": ids})["y"]
        want = session(nodes, inputs, ["y", "x"], ws).run({"ids": ids})["y"]
        assert models.same_bits(got, want), seed


def test_an_index_that_is_out_of_range_gives_the_bias():
    rng = np.random.default_rng(0)
    ws = models.weights(rng, "RNN", 5, 7) | {"depth": np.array(5), "values": np.array([0, 1], "f4")}
    nodes = [
        Node("hot", "OneHot", ("ids", "depth", "values"), ("x",)),
        Node("net", "RNN", ("x", "W", "U", "b"), ("y",), {"batch_first": True, "activations": ("Identity",)}),
    ]
    y = session(nodes, [("ids", "int64", ("B", "T"))], ["y"], ws).run(np.array([[5], [-6], [4], [-1]]))
    assert models.same_bits(y[:2, 0], np.stack([ws["b"], ws["b"]]))
    np.testing.assert_allclose(y[2:, 0], np.stack(2 * [ws["b"] + ws["W"][4]]), rtol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_a_cast_after_a_one_hot_casts_its_values(turned):
    """As PyTorch exports one_hot(x, n).float(): the numbers 0 and 1 as int64, cast, and turned to steps and rows."""
    rng = np.random.default_rng(0)
    ws = models.weights(rng, "GRU", 9, 13) | {"depth": np.array(9), "values": np.array([0, 1])}
    nodes = [
        Node("hot", "OneHot", ("ids", "depth", "values"), ("n",)),
        Node("cast", "Cast", ("n",), ("x",), {"to": "float32"}),
        *([Node("turn", "Transpose", ("x",), ("xt",), {"perm": (1, 0, 2)})] if turned else []),
        Node("net", "GRU", ("xt" if turned else "x", "W", "U", "b", "bn"), ("y",), {"batch_first": not turned}),
    ]
    inputs, feeds = [("ids", "int64", ("B", "T"))], {"ids": rng.integers(-10, 10, (4, 6))}
    fused, twin = session(nodes, inputs, ["y"], ws), session(nodes, inputs, ["y", "n"], ws)
    assert models.same_bits(fused.run(feeds)["y"], twin.run(feeds)["y"])
    assert kernels(fused, feeds) == ["rows_forward", "gru_after_forward"]
    assert kernels(twin, feeds) == ["rows_forward", "one_hot_forward", "convert_forward", "gru_after_forward"]


@pytest.mark.parametrize(
    ("axis", "held", "pays"),
    [(-1, True, True), (2, True, True), (1, True, False), (0, True, False), (-1, False, False), (-1, None, False)],
)
def test_a_one_hot_is_looked_up_along_the_last_axis_and_where_it_is_constant(axis, held, pays):
    ws = {
        "W": np.zeros((4, 20), "f4"),
        "U": np.zeros((5, 20), "f4"),
        "values": np.array([0, 1], "f4"),
        "depth": np.array(4),
    }
    inputs = [("ids", "int64", (4, 4))]
    for name, dtype, shape in (("depth", "int64", ()), ("values", "float32", (2,))):
        if held is False or (held is None and name == "values"):
            inputs.append((name, dtype, shape))
            ws.pop(name)
    nodes = [
        Node("hot", "OneHot", ("ids", "depth", "values"), ("x",), {"axis": axis}),
        Node("net", "LSTM", ("x", "W", "U"), ("y",)),
    ]
    net = models.model(nodes, inputs, ["y"], ws)
    assert fusion.fuse(net.graph, net.weights).looked_up == (frozenset({"hot"}) if pays else frozenset())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", [None, (0, 1)])
def test_a_stream_of_ids_gives_the_bits_of_a_run(kind, values):
    rng = np.random.default_rng(0)
    one = embedded(kind, 19, mask="zero", values=values)
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

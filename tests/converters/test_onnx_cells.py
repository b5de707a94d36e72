"""Cells that a graph spells out: recognised however they are written, left alone where they are anything else; against ONNX Runtime."""

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402
from random_onnx import model  # noqa: E402
from spelled_cells import B, H, I, cell, loop, unrolled  # noqa: E402

import fastlstm  # noqa: E402
from fastlstm.converters.from_onnx import from_onnx  # noqa: E402

SEEDS = range(400 if os.environ.get("FASTLSTM_FULL") else 10)
runtime.set_default_logger_severity(4)


def converted(proto: Any) -> fastlstm.Model:
    return from_onnx(proto.SerializeToString(), {})


def operators(model: fastlstm.Model) -> Counter:
    return Counter(node.op for node in model.graph.nodes)


def agrees(proto: Any, feeds: dict[str, np.ndarray]) -> fastlstm.Model:
    """Compare every output with ONNX Runtime's; return the model."""
    engine = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    model = converted(proto)
    got = fastlstm.Session(model).run(feeds)
    for spec, want in zip(engine.get_outputs(), engine.run(None, feeds), strict=True):
        mine = got[spec.name] if isinstance(got, dict) else got
        assert mine.shape == want.shape, spec.name
        assert np.all(np.abs(mine - want) <= 1e-5 * np.maximum(1, np.abs(want))), spec.name
    return model


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_cell_is_one_node_however_it_is_spelled(kind):
    for seed in SEEDS:
        model = agrees(*cell(kind, seed))
        assert operators(model)[kind] == 1, f"seed {seed}: {operators(model)}"
        assert not {"Dense", "MatMul", "Gemm", "Sigmoid", "Tanh", "Mul"} & set(operators(model)), f"seed {seed}"


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_loop_over_time_of_a_cell_is_one_node(kind):
    for seed in SEEDS:
        model = agrees(*loop(kind, seed))
        assert operators(model)[kind] == 1, f"seed {seed}: {operators(model)}"
        assert not {"Loop", "Gather", "Sigmoid", "Tanh", "Mul"} & set(operators(model)), (
            f"seed {seed}: {operators(model)}"
        )


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2])
def test_cells_written_out_for_each_step_are_one_node_a_layer(kind, layers):
    for seed in SEEDS[::2]:
        model = agrees(*unrolled(kind, seed, layers))
        assert operators(model)[kind] == layers, f"seed {seed}: {operators(model)}"
        assert not {"Gather", "Concat", "Sigmoid", "Tanh", "Mul"} & set(operators(model)), (
            f"seed {seed}: {operators(model)}"
        )


# ---- near misses --------------------------------------------------------------------------------------------
class Written:
    """An LSTM or GRU cell written plainly, line by line, so that a test can change one of them."""

    LSTM = """
        xh = Concat(x, h); z = MatMul(xh, W); a = Add(z, b); ai, af, ag, ao = Split(a)
        i = Sigmoid(ai); f = Sigmoid(af); g = Tanh(ag); o = Sigmoid(ao)
        fc = Mul(f, c); ig = Mul(i, g); c1 = Add(fc, ig); t = Tanh(c1); h1 = Mul(o, t)
    """
    GRU = """
        xh = Concat(x, h); zr = MatMul(xh, W); a = Add(zr, b); az, ar = Split(a); z = Sigmoid(az); r = Sigmoid(ar)
        xn = MatMul(x, Wn); hn = MatMul(h, Un); hb = Add(hn, bn); rh = Mul(r, hb); an = Add(xn, rh); n = Tanh(an)
        rest = Sub(one, z); new = Mul(rest, n); old = Mul(z, h); h1 = Add(new, old)
    """
    SLOTS = {"Concat": {"axis": 1}, "Split": {"axis": 1}}

    def __init__(self, kind: str, *changes: tuple[str, str], outputs: str = "", **shapes: tuple):
        text = getattr(self, kind)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        rng, gates = np.random.default_rng(5), 4 if kind == "LSTM" else 2
        weight = lambda *shape: (0.5 * rng.standard_normal(shape)).astype(np.float32)
        held = {"W": weight(I + H, gates * H), "b": weight(gates * H), "Wn": weight(I, H), "Un": weight(H, H), "bn": weight(H),
                "one": np.float32(1), "two": np.float32(2), "table": weight(B, gates * H)}  # fmt: skip
        nodes = []
        for line in filter(None, (part.strip() for part in text.replace("\n", ";").split(";"))):
            made, call = line.split(" = ")
            op, given = call.rstrip(")").split("(")
            attributes = {**self.SLOTS.get(op, {}), **({"alpha": 0.2, "beta": 0.4} if op == "HardSigmoid" else {})}
            nodes.append(helper.make_node(op, given.split(", "), made.split(", "), made, **attributes))
        usual = {"x": (B, I), "h": (B, H), "c": (B, H)}
        used = {name for node in nodes for name in node.input}
        inputs = {name: shapes.get(name, shape) for name, shape in usual.items() if name in used}
        results = ["h1", *(["c1"] if kind == "LSTM" else []), *outputs.split()]
        held = {name: array for name, array in held.items() if name in used}
        self.feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}
        given = {name: (np.float32, shape) for name, shape in inputs.items()}
        self.proto = model(nodes, given, results, held, opset=17)


SAME = [
    ("LSTM", []),
    ("LSTM", [("Mul(i, g)", "Mul(o, g)"), ("Mul(o, t)", "Mul(i, t)")]),  # two gates exchanged: a cell of other weights
    ("LSTM", [("g = Tanh", "g = Sigmoid")]),
    ("LSTM", [("Mul(f, c)", "Mul(f, h)")]),  # c is h: a cell that starts from h twice
    ("GRU", []),
    ("GRU", [("Mul(rest, n)", "Mul(z, n)"), ("Mul(z, h)", "Mul(rest, h)")]),  # z is the share of n
    ("GRU", [("Mul(r, hb)", "Mul(z, hb)")]),  # one gate serves twice
]
OTHER: list[tuple[str, list, dict[str, Any]]] = [
    ("LSTM", [("o = Sigmoid", "o = HardSigmoid")], {}),
    ("LSTM", [("f = Sigmoid", "f = Tanh")], {}),
    ("LSTM", [("Add(fc, ig)", "Sub(fc, ig)")], {}),
    ("LSTM", [("t = Tanh(c1)", "t = Tanh(c)")], {}),
    ("LSTM", [("t = Tanh(c1)", "t = Tanh(ig)")], {}),
    ("LSTM", [("Mul(o, t)", "Mul(t, t)")], {}),
    ("LSTM", [("Mul(f, c)", "Mul(f, o)")], {}),
    ("LSTM", [("Tanh(ag)", "Tanh(twice)"), ("i = Sig", "twice = Mul(ag, two); i = Sig")], {}),
    ("LSTM", [("Add(z, b)", "Add(z, table)")], {}),  # a bias for each row
    ("LSTM", [], {"outputs": "f"}),
    ("LSTM", [], {"outputs": "ag"}),
    ("LSTM", [], {"outputs": "xh"}),
    ("LSTM", [("t = Tanh", "twice = Mul(i, two); t = Tanh")], {"outputs": "twice"}),
    ("LSTM", [], {"c": (1, H)}),  # one state for all rows
    ("GRU", [("Mul(r, hb)", "Mul(rest, hb)"), ("xn =", "rest = Sub(one, z); xn ="), ("        rest = Sub(one, z); new", "        new")], {}),
    ("GRU", [("r = Sigmoid", "r = Tanh")], {}),
    ("GRU", [("Mul(z, h)", "Mul(r, h)")], {}),
    ("GRU", [("Add(xn, rh)", "Sub(xn, rh)")], {}),
    ("GRU", [("Sub(one, z)", "Sub(two, z)")], {}),
    ("GRU", [("MatMul(h, Un)", "MatMul(n0, Un)"), ("xn =", "n0 = Tanh(h); xn =")], {}),
    ("GRU", [("z = Sigmoid", "z = HardSigmoid"), ("r = Sigmoid", "r = HardSigmoid"), ("Mul(rest, n)", "Mul(z, n)"), ("Mul(z, h)", "Mul(rest, h)")], {}),
    ("GRU", [], {"outputs": "n"}),
    ("GRU", [], {"outputs": "hn"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), SAME)
def test_a_cell_of_other_weights_is_a_cell(kind, changes):
    written = Written(kind, *changes)
    assert operators(agrees(written.proto, written.feeds)) == {kind: 1, "Unsqueeze": 1}


@pytest.mark.parametrize(("kind", "changes", "more"), OTHER)
def test_what_is_almost_a_cell_stays_as_it_is(kind, changes, more):
    written = Written(kind, *changes, **more)
    assert kind not in operators(agrees(written.proto, written.feeds))

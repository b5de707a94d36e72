"""Cells that a graph spells out: recognised however they are written, left alone where they are anything else; against ONNX Runtime."""

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from random_onnx import model  # noqa: E402
from spelled_cells import B, H, I, cell, loop, unrolled  # noqa: E402

import fastlstm  # noqa: E402
from fastlstm.converters.from_onnx import from_onnx  # noqa: E402

SEEDS = range(200 if os.environ.get("FASTLSTM_FULL") else 6)
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
    SLOTS = {"Concat": {"axis": 1}, "Split": {"axis": 1}, "ReduceSum": {"keepdims": 0}}

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
    (  # a gate that sees what is made of the new c
        "LSTM",
        [("o = Sigmoid(ao)", "i = Sigmoid(ai)"), ("i = Sigmoid(ai); f", "f"), ("t = Tanh(c1)", "u = Softsign(c1); up = MatMul(u, Un); s = Add(ao, up); o = Sigmoid(s); t = Tanh(c1)")],
        {},
    ),
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


# ---- loops that are almost over time ---------------------------------------------------------------------------
def looping(body: str, outputs: str, trips: int | None = None, **more: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a Loop over x (T, B, I) whose body is written line by line around an LSTM cell; it carries h and c, and stacks `outputs`."""
    lines = "".join(body.split("\n")).replace("CELL", Written.LSTM.replace("\n", ";").replace("x, h", "xt, h"))
    written = Written("LSTM")
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.proto.graph.initializer}
    rng = np.random.default_rng(0)
    held |= {
        "V": rng.standard_normal((H, H)).astype(np.float32),
        "one": np.array(1),
        "five": np.float32(5),
        "zero": np.array(0),
    }
    nodes = []
    for line in filter(None, (part.strip() for part in lines.split(";"))):
        made, call = line.split(" = ")
        op, given = call.rstrip(")").split("(")
        nodes.append(helper.make_node(op, given.split(", "), made.split(", "), made, **Written.SLOTS.get(op, {})))
    info = lambda name, kind=TensorProto.FLOAT, shape=None: helper.make_tensor_value_info(name, kind, shape)
    inputs = [info("trip", TensorProto.INT64, []), info("on", TensorProto.BOOL, []), info("h"), info("c")]
    results = [
        info("go", TensorProto.BOOL, []),
        info(more.get("h", "h1")),
        info(more.get("c", "c1")),
        *map(info, outputs.split()),
    ]
    inner = helper.make_graph(nodes, "body", inputs, results)
    shape = helper.make_node("Shape", ["x"], ["shape"])
    count = helper.make_node("Gather", ["shape", "zero"], ["T"])
    names = ["h_n", "c_n", *(f"all_{name}" for name in outputs.split())]
    held |= {"trips": np.array(trips or 0), "true": np.array(True)}
    loop_node = helper.make_node(
        "Loop", ["T" if trips is None else "trips", "true", "h0", "c0"], names, "loop", body=inner
    )
    used = {name for node in (*nodes, shape, count, loop_node) for name in node.input}
    given = {"x": (np.float32, ("steps", B, I)), "h0": (np.float32, (B, H)), "c0": (np.float32, (B, H))}
    proto = model(
        [shape, count, loop_node], given, names, {name: array for name, array in held.items() if name in used}, 17
    )
    feeds = {"x": (6, B, I), "h0": (B, H), "c0": (B, H)}
    return proto, {name: rng.standard_normal(size).astype(np.float32) for name, size in feeds.items()}


STEP = "go = Identity(on); xt = Gather(x, trip);"
LOOPS: list[tuple[str, str, dict[str, Any]]] = [
    (STEP + "CELL; y = Identity(c1)", "y", {}),  # c of every step, which the kernel does not give
    (STEP + "CELL; y = Identity(h)", "y", {}),  # h before the step
    (STEP + "CELL; y = Add(h1, h)", "y", {}),
    (STEP + "CELL; y = MatMul(h1, V)", "y", {"h": "y"}),  # the next step starts from something else
    (STEP + "CELL; h2 = Identity(h)", "h1", {"h": "c1", "c": "h1"}),  # the states change places
    ("go = Identity(on); xt = Gather(x, zero); CELL", "h1", {}),  # the same step over and over
    ("go = Identity(on); u = Mul(trip, trip); v = Sub(u, u); w = Add(v, one); xt = Gather(x, w); CELL", "h1", {}),
    (STEP + "CELL", "h1", {"trips": 3}),  # fewer trips than the free axis may have
    ("s = ReduceSum(h); go = Less(s, five); xt = Gather(x, trip); CELL", "h1", {}),  # the body may end the loop
]


@pytest.mark.parametrize(("body", "outputs", "more"), LOOPS)
def test_what_is_almost_a_loop_over_time_still_runs_trip_by_trip(body, outputs, more):
    made = operators(agrees(*looping(body, outputs, **more)))
    assert made["Loop"] == 1 and made["LSTM"] == 0  # a cell of one step may stand inside


@pytest.mark.parametrize("outputs", ["h1", "h1 y", "y q"])
def test_what_a_trip_makes_of_h_alone_is_made_of_all_steps_at_once(outputs):
    proto, feeds = looping(STEP + "CELL; v = MatMul(h1, V); y = Relu(v); q = Mul(h1, y)", outputs)
    made = operators(agrees(proto, feeds))
    assert made["LSTM"] == 1 and "Loop" not in made


def test_a_loop_of_no_trips_gives_the_states_it_starts_from():
    proto, feeds = looping(STEP + "CELL", "h1")
    feeds["x"] = feeds["x"][:0]
    got = fastlstm.Session(converted(proto)).run(feeds)
    np.testing.assert_array_equal(got["h_n"], feeds["h0"])
    np.testing.assert_array_equal(got["c_n"], feeds["c0"])
    assert got["all_h1"].shape == (0, B, H)


def test_a_step_past_the_end_is_refused_as_it_is_trip_by_trip():
    proto, feeds = looping(STEP + "CELL", "h1", trips=7)
    with pytest.raises(fastlstm.FastLSTMError):
        fastlstm.Session(converted(proto)).run(feeds)

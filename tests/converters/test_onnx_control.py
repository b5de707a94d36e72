"""Control flow of ONNX: If, Loop, Scan, sequences, functions, and data outside, against NumPy and ONNX Runtime."""

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

import fastlstm
from fastlstm.converters import onnx_scope
from fastlstm.converters.from_onnx import from_onnx
from fastlstm.errors import FastLSTMError, InputError, LimitError, ModelFileError, UnsupportedError
from fastlstm.ops import control

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
rng = np.random.default_rng(0)


def value(name: str, kind: int = FLOAT, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes: list, inputs: list, outputs: list, **held: np.ndarray) -> Any:
    return helper.make_graph(nodes, "body", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in held.items()])


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), outputs.split()[0], **attributes)


def proto_of(nodes: list, inputs: list, outputs: list, opset: int = 16, **held: np.ndarray) -> Any:
    made = helper.make_model(graph(nodes, inputs, outputs, **held), opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def session(proto: Any, **inputs: Any) -> fastlstm.Session:
    made = from_onnx(proto.SerializeToString(), inputs)
    again = fastlstm.load_bytes(made.to_bytes()) if hasattr(fastlstm, "load_bytes") else made
    return fastlstm.Session(again)


def agrees(proto: Any, feeds: dict[str, np.ndarray], **bound: Any) -> dict[str, np.ndarray]:
    """Compare with ONNX Runtime; return our outputs."""
    runtime = pytest.importorskip("onnxruntime")
    runtime.set_default_logger_severity(4)
    engine = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    want = dict(zip([o.name for o in engine.get_outputs()], engine.run(None, feeds), strict=True))
    given = {name: array for name, array in feeds.items() if name not in bound}
    got = session(proto, **bound).run(given)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    return got


# ---- If ---------------------------------------------------------------------------------------------
def choice(condition: list, **more: Any) -> Any:
    """y = relu(x W) if the condition holds, else x V summed over its rows; W, V and a constant are read by one branch each."""
    then = graph([node("MatMul", "x W", "a"), node("Relu", "a", "y1")], [], [value("y1")])
    other = graph(
        [node("MatMul", "x V", "b"), node("Add", "b bias", "y2")], [], [value("y2")], bias=np.array([1, 2, 3], "f4")
    )
    chosen = helper.make_node("If", ["is"], ["y"], "choice", then_branch=then, else_branch=other)
    held = {"W": rng.standard_normal((4, 3)).astype("f4"), "V": rng.standard_normal((4, 3)).astype("f4")}
    inputs = [value("x", FLOAT, ["n", 4]), *more.pop("inputs", [])]
    return proto_of([*condition, chosen], inputs, [value("y", FLOAT, ["n", 3])], **held, **more)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_an_if_on_a_value_of_the_run_takes_the_branch_that_it_chooses(rate):
    proto = choice([node("Equal", "rate wide", "is")], inputs=[value("rate", INT64, [])], wide=np.array(16000))
    x = rng.standard_normal((5, 4)).astype("f4")
    free = agrees(proto, {"x": x, "rate": np.array(rate)})
    bound = agrees(proto, {"x": x, "rate": np.array(rate)}, rate=rate)
    np.testing.assert_array_equal(free["y"], bound["y"])


def test_a_frame_of_a_graph_with_an_if_goes_back_to_where_it_came_from():
    proto = choice([node("Equal", "rate wide", "is")], inputs=[value("rate", INT64, [])], wide=np.array(16000))
    plan, shapes = session(proto)._plan, ((5, 4), ())
    frame = plan.borrow(shapes, outermost=(1, 0))
    plan.give_back(shapes, frame)
    assert plan.borrow(shapes) is not frame
    assert plan.borrow(shapes, outermost=(1, 0)) is frame


def test_a_bound_condition_leaves_one_branch_and_its_weights():
    proto = choice([node("Equal", "rate wide", "is")], inputs=[value("rate", INT64, [])], wide=np.array(16000))
    made = from_onnx(proto.SerializeToString(), {"rate": 8000})
    assert "If" not in {one.op for one in made.graph.nodes}
    assert len([array for array in made.weights.values() if array.shape == (4, 3)]) == 1


def test_a_condition_of_shapes_is_decided_anew_for_each_shape():
    sizes = [node("Shape", "x", "shape"), node("Gather", "shape first", "rows"), node("Greater", "rows three", "is")]
    proto = choice(sizes, first=np.array(0), three=np.array(3))
    for rows in (5, 2, 7, 3):
        agrees(proto, {"x": rng.standard_normal((rows, 4)).astype("f4")})


def test_one_session_takes_both_branches_in_turn_with_the_same_bits():
    proto = choice([node("Equal", "rate wide", "is")], inputs=[value("rate", INT64, [])], wide=np.array(16000))
    both, x = session(proto), rng.standard_normal((5, 4)).astype("f4")
    first = [both.run({"x": x, "rate": np.array(rate)})["y"] for rate in (16000, 8000)]
    for _ in range(3):
        for rate, want in zip((16000, 8000), first, strict=True):
            np.testing.assert_array_equal(both.run({"x": x, "rate": np.array(rate)})["y"], want)


def test_branches_within_branches_give_shapes_of_different_ranks():
    """As torch exports squeeze(): an axis goes where its size is 1."""
    squeezed = graph([node("Squeeze", "x axis", "a")], [], [value("a")])
    kept = graph([node("Identity", "x", "b")], [], [value("b")])
    inner = helper.make_node("If", ["one"], ["y2"], "inner", then_branch=squeezed, else_branch=kept)
    outer_else = graph([node("Neg", "x", "n"), node("ReduceSum", "n axis", "y3", keepdims=1)], [], [value("y3")])
    outer = helper.make_node(
        "If", ["go"], ["y"], "outer", then_branch=graph([inner], [], [value("y2")]), else_branch=outer_else
    )
    nodes = [node("Shape", "x", "s"), node("Gather", "s last", "n1"), node("Equal", "n1 unit", "one"), outer]
    held = {"axis": np.array([2]), "last": np.array(2), "unit": np.array(1)}
    proto = proto_of(nodes, [value("x", FLOAT, ["a", "b", "c"]), value("go", BOOL, [])], [value("y")], **held)
    for shape in ((2, 3, 1), (2, 3, 4)):
        for go in (True, False):
            agrees(proto, {"x": rng.standard_normal(shape).astype("f4"), "go": np.array(go)})


def test_a_model_with_an_if_is_saved_and_loaded(tmp_path):
    proto = choice([node("Equal", "rate wide", "is")], inputs=[value("rate", INT64, [])], wide=np.array(16000))
    made = from_onnx(proto.SerializeToString(), {})
    made.save(tmp_path / "choice.safetensors", weights="float16")
    loaded = fastlstm.load(tmp_path / "choice.safetensors")
    narrow = [weight for weight in loaded.weights.values() if weight.dtype == np.float16]
    assert len(narrow) == 2  # W and V, which subgraphs read as matrices
    x = {"x": rng.standard_normal((5, 4)).astype("f4"), "rate": np.array(8000)}
    np.testing.assert_allclose(fastlstm.Session(loaded).run(x)["y"], fastlstm.Session(made).run(x)["y"], atol=1e-2)


# ---- Loop and Scan ------------------------------------------------------------------------------------
def running_sum(trips: str, condition: str, stop: bool = False, **more: Any) -> Any:
    """Carry s = 2 s + x, stack s^2; with `stop` end once s exceeds 100."""
    body = [node("Add", "s s", "d"), node("Add", "d x", "s2"), node("Mul", "s2 s2", "square")]
    body += (
        [node("ReduceMax", "s2", "most", keepdims=0), node("Less", "most hundred", "on")]
        if stop
        else [node("Identity", "go", "on")]
    )
    inner = graph(body, [value("i", INT64, []), value("go", BOOL, []), value("s", FLOAT, [3])],
                  [value("on", BOOL, []), value("s2", FLOAT, [3]), value("square", FLOAT, [3])], hundred=np.array(100, "f4"))  # fmt: skip
    loop = helper.make_node("Loop", [trips, condition, "x"], ["last", "all"], "loop", body=inner)
    inputs = [value("x", FLOAT, [3]), *more.pop("inputs", [])]
    return proto_of([loop], inputs, [value("last", FLOAT, [3]), value("all", FLOAT, ["n", 3])], **more)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_a_loop_of_known_trips_stacks_and_carries(count):
    proto = running_sum("m", "", m=np.array(count))
    got = agrees(proto, {"x": np.array([1, 2, 3], "f4")})
    assert got["all"].shape == (count, 3)


@pytest.mark.parametrize("count", [0, 2, 50])
def test_a_loop_ends_by_the_count_and_the_condition_of_the_run(count):
    inputs = [value("m", INT64, []), value("c", BOOL, [])]
    proto = running_sum("m", "c", stop=True, inputs=inputs)
    for start in (True, False):
        feeds = {"x": np.array([1, 2, 3], "f4"), "m": np.array(count), "c": np.array(start)}
        assert len(agrees(proto, feeds)["all"]) == (min(count, 5) if start else 0)


def test_what_follows_a_loop_of_unknown_trips_sees_its_shape():
    proto = running_sum("", "c", stop=True, inputs=[value("c", BOOL, [])])
    proto.graph.node.append(node("ReduceSum", "all axes", "total", keepdims=0))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    proto.graph.output.append(value("total", FLOAT, [3]))
    made = session(proto)
    for x in ([1, 2, 3], [60, 1, 1], [1, 2, 3]):
        feeds = {"x": np.array(x, "f4"), "c": np.array(True)}
        np.testing.assert_allclose(made.run(feeds)["total"], agrees(proto, feeds)["all"].sum(0), rtol=1e-6)


def test_carried_values_may_grow():
    body = graph([node("Identity", "go", "on"), node("Concat", "s x", "s2", axis=0)],
                 [value("i", INT64, []), value("go", BOOL, []), value("s", FLOAT, ["k"])],
                 [value("on", BOOL, []), value("s2", FLOAT, ["j"])])  # fmt: skip
    loop = helper.make_node("Loop", ["m", "", "x"], ["y"], "loop", body=body)
    proto = proto_of([loop], [value("x", FLOAT, [2])], [value("y", FLOAT, ["n"])], m=np.array(3))
    assert agrees(proto, {"x": np.array([1, 2], "f4")})["y"].tolist() == [1, 2] * 4


def cell(step: str = "x_t") -> tuple[list, dict[str, np.ndarray]]:
    """Nodes of h' = tanh(x W + h U + b), whose weights stand outside."""
    nodes = [node("MatMul", f"{step} W", "xw"), node("MatMul", "h U", "hu"), node("Add", "xw hu", "z"), node("Add", "z b", "zb"), node("Tanh", "zb", "h2")]  # fmt: skip
    shapes = {"W": (2, 4), "U": (4, 4), "b": (4,)}
    return nodes, {name: (0.5 * rng.standard_normal(shape)).astype("f4") for name, shape in shapes.items()}


@pytest.mark.parametrize("backwards", [0, 1])
def test_a_scan_over_time_is_a_recurrence(backwards):
    nodes, held = cell()
    body = graph([*nodes, node("Identity", "h2", "y")], [value("h", FLOAT, ["b", 4]), value("x_t", FLOAT, ["b", 2])],
                 [value("h2", FLOAT, ["b", 4]), value("y", FLOAT, ["b", 4])])  # fmt: skip
    scan = helper.make_node(
        "Scan", ["h0", "x"], ["last", "all"], "scan", body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
        scan_input_directions=[backwards], scan_output_directions=[backwards],
    )  # fmt: skip
    inputs = [value("h0", FLOAT, ["b", 4]), value("x", FLOAT, ["b", "t", 2])]
    outputs = [value("last", FLOAT, ["b", 4]), value("all", FLOAT, ["b", "t", 4])]
    proto = proto_of([scan], inputs, outputs, **held)
    for batch, steps in ((3, 5), (1, 1), (2, 8)):
        h0, x = rng.standard_normal((batch, 4)).astype("f4"), rng.standard_normal((batch, steps, 2)).astype("f4")
        got = agrees(proto, {"h0": h0, "x": x})
        alone = session(proto).run({"h0": h0[:1], "x": x[:1]})
        np.testing.assert_array_equal(got["all"][:1], alone["all"])  # a row's bits are its own


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("lengths", [None, [5, 3, 2], [5, 0, 2]])
def test_the_scan_of_opset_8_scans_each_row_for_its_steps(backwards, lengths):
    """Against NumPy and onnxruntime, which takes no row without steps."""
    body = graph([node("Mul", "s s", "d"), node("Add", "d x_t", "s2"), node("Neg", "s2", "y")],
                 [value("s", FLOAT, [2]), value("x_t", FLOAT, [2])], [value("s2", FLOAT, [2]), value("y", FLOAT, [2])])  # fmt: skip
    scan = helper.make_node(
        "Scan", ["" if lengths is None else "lens", "s0", "x"], ["last", "all"], "scan", body=body, num_scan_inputs=1, directions=[backwards]
    )  # fmt: skip
    inputs = [value("s0", FLOAT, ["b", 2]), value("x", FLOAT, ["b", "t", 2])]
    feeds = {"s0": rng.uniform(-1, 1, (3, 2)).astype("f4"), "x": rng.uniform(-1, 1, (3, 5, 2)).astype("f4")}
    if lengths is not None:
        inputs.append(value("lens", INT64, ["b"]))
        feeds["lens"] = np.array(lengths)
    proto = proto_of([scan], inputs, [value("last", FLOAT, ["b", 2]), value("all", FLOAT, ["b", "t", 2])], opset=8)
    got = session(proto).run(feeds)
    last, every = feeds["s0"].copy(), np.zeros((3, 5, 2), "f4")
    for k, length in enumerate(lengths or [5, 5, 5]):
        steps = feeds["x"][k, :length]
        for t, x_t in enumerate(steps[::-1] if backwards else steps):
            last[k] = last[k] * last[k] + x_t
            every[k, t] = -last[k]
    np.testing.assert_allclose(got["last"], last, rtol=1e-5)
    np.testing.assert_allclose(got["all"], every, rtol=1e-5)
    if 0 not in (lengths or []):
        agrees(proto, feeds)


def test_a_nan_in_a_loop_stays_in_its_row():
    nodes, held = cell()
    body = graph(nodes, [value("h", FLOAT, ["b", 4]), value("x_t", FLOAT, ["b", 2])], [value("h2", FLOAT, ["b", 4])])
    scan = helper.make_node("Scan", ["h0", "x"], ["last"], "scan", body=body, num_scan_inputs=1)
    proto = proto_of([scan], [value("h0", FLOAT, ["b", 4]), value("x", FLOAT, ["t", "b", 2])], [value("last")], **held)
    made, h0, x = session(proto), np.zeros((3, 4), "f4"), rng.standard_normal((5, 3, 2)).astype("f4")
    clean = made.run({"h0": h0, "x": x})["last"]
    x[2, 1, 0] = np.nan
    dirty = made.run({"h0": h0, "x": x})["last"]
    assert np.isnan(dirty[1]).all()
    np.testing.assert_array_equal(dirty[[0, 2]], clean[[0, 2]])


def test_loops_of_one_call_make_no_more_trips_than_the_cap(monkeypatch):
    monkeypatch.setattr(control, "MAX_TRIPS", 10)
    feeds = {"x": np.array([1, 2, 3], "f4")}
    session(running_sum("m", "", m=np.array(10))).run(feeds)
    with pytest.raises(LimitError, match=r"'loop'.*10"):
        session(running_sum("m", "", m=np.array(11)))
    forever = session(running_sum("", "c", inputs=[value("c", BOOL, [])]))
    for _ in range(2):
        with pytest.raises(LimitError, match=r"'loop'.*10 trips"):
            forever.run({**feeds, "c": np.array(True)})
    assert forever.run({**feeds, "c": np.array(False)})["last"].tolist() == [1, 2, 3]


def test_loops_within_loops_are_limited():
    inner = graph([node("Identity", "c", "d"), node("Neg", "v", "w")], [value("i", INT64, []), value("c", BOOL, []), value("v", FLOAT, [1])],
                  [value("d", BOOL, []), value("w", FLOAT, [1])])  # fmt: skip
    for depth in range(6):
        loop = helper.make_node("Loop", ["m", "", "v"], ["w"], f"loop{depth}", body=inner)
        inner = graph([node("Identity", "c", "d"), loop], [value("i", INT64, []), value("c", BOOL, []), value("v", FLOAT, [1])],
                      [value("d", BOOL, []), value("w", FLOAT, [1])])  # fmt: skip
    loop = helper.make_node("Loop", ["m", "", "x"], ["y"], "all", body=inner)
    with pytest.raises(LimitError, match="loops"):
        session(proto_of([loop], [value("x", FLOAT, [1])], [value("y", FLOAT, [1])], m=np.array(2)))


# ---- sequences ----------------------------------------------------------------------------------------
def test_a_loop_that_fills_a_sequence_gives_one_tensor():
    """As torch.jit exports a list that a loop appends to."""
    nodes, held = cell()
    body = graph(
        [node("Gather", "x i", "x_t"), *nodes, node("SequenceInsert", "seq h2", "seq2"), node("Identity", "go", "on")],
        [value("i", INT64, []), value("go", BOOL, []), value("h", FLOAT, ["b", 4]), helper.make_tensor_sequence_value_info("seq", FLOAT, None)],
        [value("on", BOOL, []), value("h2", FLOAT, ["b", 4]), helper.make_tensor_sequence_value_info("seq2", FLOAT, None)],
    )  # fmt: skip
    nodes = [
        node("SequenceEmpty", "", "empty"), node("Shape", "x", "s"), node("Gather", "s zero", "trips"),
        helper.make_node("Loop", ["trips", "", "h0", "empty"], ["last", "filled"], "loop", body=body),
        node("ConcatFromSequence", "filled", "stacked", axis=1, new_axis=1), node("ConcatFromSequence", "filled", "joined", axis=0),
        node("SequenceLength", "filled", "count"), node("SequenceAt", "filled minus", "final"),
    ]  # fmt: skip
    outputs = [value("stacked"), value("joined"), value("count", INT64, []), value("final")]
    inputs = [value("x", FLOAT, ["t", "b", 2]), value("h0", FLOAT, ["b", 4])]
    proto = proto_of(nodes, inputs, outputs, **held, zero=np.array(0), minus=np.array(-1))
    got = agrees(proto, {"x": rng.standard_normal((5, 3, 2)).astype("f4"), "h0": np.zeros((3, 4), "f4")})
    assert got["stacked"].shape == (3, 5, 4)


def test_sequences_of_known_items():
    nodes = [
        node("SequenceConstruct", "x x2", "two"), node("Neg", "x", "x2"), node("SequenceInsert", "two x place", "three"),
        node("SequenceErase", "three one", "again"), node("SequenceAt", "again one", "item"), node("SequenceLength", "three", "count"),
        node("ConcatFromSequence", "three", "all", axis=1), node("SplitToSequence", "all split", "parts", axis=1), node("SequenceAt", "parts one", "part"),
        node("SplitToSequence", "x", "rows", keepdims=0), node("SequenceAt", "rows one", "row"),
    ]  # fmt: skip
    nodes[0], nodes[1] = nodes[1], nodes[0]
    outputs = [value("item"), value("count", INT64, []), value("all"), value("part"), value("row")]
    held = {"place": np.array(0), "one": np.array(1), "split": np.array([2, 5, 2])}
    got = agrees(
        proto_of(nodes, [value("x", FLOAT, [2, 3])], outputs, **held), {"x": rng.standard_normal((2, 3)).astype("f4")}
    )
    assert got["count"] == 3


def sequence(name: str, shape: Any = None) -> Any:
    return helper.make_tensor_sequence_value_info(name, FLOAT, shape)


def test_a_sequence_enters_and_leaves_a_graph_as_one_array():
    """Its elements, of one shape, lie along the first axis; their number is free."""
    body = graph(
        [node("SequenceAt", "given i", "x_t"), node("Add", "h x_t", "h2"), node("SequenceInsert", "seq h2", "seq2"), node("Identity", "go", "on")],
        [value("i", INT64, []), value("go", BOOL, []), value("h", FLOAT, ["b", 2]), sequence("seq")],
        [value("on", BOOL, []), value("h2", FLOAT, ["b", 2]), sequence("seq2")],
    )  # fmt: skip
    nodes = [
        node("SequenceEmpty", "", "empty"), node("SequenceLength", "given", "trips"),
        helper.make_node("Loop", ["trips", "", "h0", "empty"], ["last", "sums"], "loop", body=body),
        node("SequenceConstruct", "last h0", "both"), node("Identity", "given", "same"),
    ]  # fmt: skip
    outputs = [sequence("sums"), value("last", FLOAT, ["b", 2]), sequence("both"), sequence("same")]
    made = session(proto_of(nodes, [sequence("given", ["b", 2]), value("h0", FLOAT, ["b", 2])], outputs))
    for count in (4, 1):
        given, h0 = rng.standard_normal((count, 3, 2)).astype("f4"), rng.standard_normal((3, 2)).astype("f4")
        got = made.run({"given": list(given), "h0": h0})
        np.testing.assert_allclose(got["sums"], h0 + np.cumsum(given, 0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got["both"], np.stack([got["last"], h0]))
        np.testing.assert_array_equal(got["same"], given)
    with pytest.raises(InputError, match="'given'"):
        made.run({"given": [np.zeros((3, 2), "f4"), np.zeros((3, 1), "f4")], "h0": h0})


def test_a_branch_may_give_a_sequence():
    branch = lambda op: graph([node(op, "x", "a"), node("SequenceConstruct", "a x", "s")], [], [sequence("s")])
    chosen = helper.make_node("If", ["c"], ["y"], "it", then_branch=branch("Neg"), else_branch=branch("Exp"))
    made = session(proto_of([chosen], [value("x", FLOAT, [3]), value("c", BOOL, [])], [sequence("y")]))
    x = np.array([1, -2, 3], "f4")
    for c, first in ((True, -x), (False, np.exp(x))):
        np.testing.assert_allclose(made.run({"x": x, "c": np.array(c)})["y"], np.stack([first, x]), rtol=1e-6)


@pytest.mark.parametrize("elements", ["x y", ""])
def test_a_sequence_that_is_no_array_does_not_leave_a_graph(elements):
    nodes = [node("SequenceConstruct" if elements else "SequenceEmpty", elements, "s")]
    proto = proto_of(nodes, [value("x", FLOAT, [2]), value("y", FLOAT, [3])], [sequence("s")])
    with pytest.raises(UnsupportedError, match="output 's': a sequence"):
        session(proto)


# ---- functions ----------------------------------------------------------------------------------------
def with_function(
    nodes: list, inputs: list[str], outputs: list[str], attributes: list[str], call: Any, name: str = "Twice"
) -> Any:
    made = proto_of([call], [value("x", FLOAT, [3])], [value("y", FLOAT, [3])])
    opsets = [helper.make_opsetid("", 16), helper.make_opsetid("mine", 1)]
    made.functions.append(helper.make_function("mine", name, inputs, outputs, nodes, opsets, attributes))
    made.opset_import.append(helper.make_opsetid("mine", 1))
    return made


def test_functions_are_inlined_with_their_attributes_and_absent_inputs():
    leaky = node("LeakyRelu", "a", "b")
    reference = leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    assert reference.ref_attr_name == "slope"
    clipped = helper.make_node("Clip", ["b", "low", "high"], ["c"], "clip")
    call = helper.make_node("Twice", ["x", "", "x"], ["y"], "call", domain="mine", slope=0.5)
    proto = with_function([leaky, clipped, node("Add", "c c", "d")], ["a", "low", "more"], ["d"], ["slope"], call)
    proto.functions[0].node[1].input[2] = ""
    got = session(proto).run(np.array([-2, 0, 3], "f4"))
    assert got.tolist() == [-2, 0, 6]


def test_a_function_that_calls_itself_is_refused():
    call = helper.make_node("Twice", ["x"], ["y"], "call", domain="mine")
    with pytest.raises(ModelFileError, match="calls itself"):
        session(
            with_function([helper.make_node("Twice", ["a"], ["b"], "again", domain="mine")], ["a"], ["b"], [], call)
        )


def test_functions_that_multiply_their_nodes_end_in_time(monkeypatch):
    monkeypatch.setattr(onnx_scope, "MAX_NODES", 2000)
    call = helper.make_node("F0", ["x"], ["y"], "call", domain="mine")
    proto = with_function([node("Neg", "a", "b")], ["a"], ["b"], [], call, "F9")
    opsets = [helper.make_opsetid("", 16), helper.make_opsetid("mine", 1)]
    for k in range(9):
        nodes = [helper.make_node(f"F{k + 1}", [f"v{j}"], [f"v{j + 1}"], f"n{j}", domain="mine") for j in range(20)]
        proto.functions.append(helper.make_function("mine", f"F{k}", ["v0"], ["v20"], nodes, opsets))
    with pytest.raises(LimitError, match="2000 nodes"):
        session(proto)


# ---- data outside -------------------------------------------------------------------------------------
W = np.arange(3, dtype="f4")


def outside(location: str, offset: Any = 0, length: Any = 12) -> Any:
    proto = proto_of([node("Add", "x w", "y")], [value("x", FLOAT, [3])], [value("y", FLOAT, [3])], w=W)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(text))
    return proto


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "w.bin").write_bytes(b"head" + W.tobytes())
    (tmp_path / "secret").write_bytes(W.tobytes())
    os.symlink(tmp_path / "secret", inside / "link")
    os.link(tmp_path / "secret", inside / "hard")
    os.mkfifo(inside / "pipe")
    (inside / "nested").mkdir()
    return inside


def test_external_data_is_read_from_the_folder_that_is_named(folder, tmp_path):
    made = from_onnx(outside("w.bin", 4).SerializeToString(), {}, folder)
    assert fastlstm.Session(made).run(np.ones(3, "f4")).tolist() == [1, 2, 3]
    path = tmp_path / "model.onnx"
    path.write_bytes(outside("w.bin", 4).SerializeToString())
    assert fastlstm.Session(fastlstm.convert(path, external_data=folder)).run(np.ones(3, "f4")).tolist() == [1, 2, 3]
    with pytest.raises(UnsupportedError, match="external_data="):
        fastlstm.convert(path)
    with pytest.raises(InputError, match="external_data"):
        fastlstm.convert(folder / "w.keras" if (folder / "w.keras").exists() else _keras(folder), external_data=folder)


def _keras(folder: Any) -> Any:
    path = folder / "some.keras"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    return path


@pytest.mark.parametrize(
    "place",
    [
        ("../secret",), ("/etc/passwd",), ("nested/../w.bin", 4), ("link",), ("hard",), ("pipe",), ("nested",), ("",), (".",), ("..",), ("w.bin\0",),
        ("C:w.bin",), ("..\\secret",), ("missing",), ("w.bin", 5), ("w.bin", 2**60), ("w.bin", -4), ("w.bin", "0x4"), ("w.bin", 4, 11), ("w.bin", 4, 2**40),
    ],
)  # fmt: skip
def test_external_data_is_one_plain_file_and_its_range(folder, place):
    with pytest.raises(ModelFileError, match="initializer 'w'"):
        from_onnx(outside(*place).SerializeToString(), {}, folder)


def test_external_data_larger_than_all_memory_is_refused_before_it_is_read(folder):
    proto = outside("w.bin")
    proto.graph.initializer[0].dims[:] = [2**40]
    with pytest.raises(LimitError, match="external data"):
        from_onnx(proto.SerializeToString(), {}, folder)


# ---- hostile control flow -----------------------------------------------------------------------------
def broken() -> dict[str, Any]:
    then = graph([node("Neg", "x", "a")], [], [value("a")])
    inputs, outputs = [value("x", FLOAT, [3]), value("c", BOOL, [])], [value("y", FLOAT, [3])]
    make = lambda *nodes, **held: proto_of(list(nodes), inputs, outputs, **held)
    chosen = lambda **branches: helper.make_node("If", ["c"], ["y"], "it", **branches)
    whole = graph([node("Cast", "x", "b", to=INT64)], [], [value("b")])
    body = graph([node("Neg", "v", "w")], [value("i", INT64, []), value("go", BOOL, []), value("v")], [value("w")])
    looped = lambda body: helper.make_node("Loop", ["m", "", "x"], ["y"], "it", body=body)
    other = graph([node("Identity", "go", "on"), node("Cast", "v", "w", to=INT64)],
                  [value("i", INT64, []), value("go", BOOL, []), value("v")], [value("on", BOOL, []), value("w")])  # fmt: skip
    unknown = graph([node("Add", "x nothing", "a")], [], [value("a")])
    return {
        "an If without a branch": make(chosen(then_branch=then)),
        "branches of two dtypes": make(chosen(then_branch=then, else_branch=whole)),
        "a branch that gives nothing": make(
            chosen(then_branch=then, else_branch=graph([node("Neg", "x", "a")], [], []))
        ),
        "a branch that uses what is nowhere": make(chosen(then_branch=then, else_branch=unknown)),
        "a Loop without a body": make(helper.make_node("Loop", ["m", "", "x"], ["y"], "it"), m=np.array(3)),
        "a body that gives no condition": make(looped(body), m=np.array(3)),
        "a body that changes a dtype": make(looped(other), m=np.array(3)),
        "a Scan without inputs": make(helper.make_node("Scan", ["x"], ["y"], "it", body=body, num_scan_inputs=0)),
        "a condition of floats": make(helper.make_node("If", ["x"], ["y"], "it", then_branch=then, else_branch=then)),
    }


@pytest.mark.parametrize("name", broken())
def test_malformed_control_flow_ends_in_one_clear_error(name):
    feeds = {"x": np.ones(3, "f4"), "c": np.array(False)}
    with pytest.raises(FastLSTMError) as caught:
        session(broken()[name]).run(feeds)
    assert "\n" not in str(caught.value)


def test_branches_as_deep_as_a_protobuf_can_be_end_in_time():
    then = least = graph([node("Neg", "x", "a")], [], [value("a")])
    for k in range(20):
        inner = helper.make_node("If", ["c"], ["a"], f"if{k}", then_branch=then, else_branch=least)
        then = graph([inner], [], [value("a")])
    chosen = helper.make_node("If", ["c"], ["y"], "it", then_branch=then, else_branch=then)
    proto = proto_of([chosen], [value("x", FLOAT, [3]), value("c", BOOL, [])], [value("y", FLOAT, [3])])
    with pytest.raises(LimitError):
        session(proto)

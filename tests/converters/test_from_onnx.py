"""ONNX graphs: every attribute of the recurrent operators by the specification, everything else as ONNX Runtime does it.

What is not honoured is refused by name, and what is damaged ends in one of our errors. FASTLSTM_FULL=1 runs larger samples.
"""

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
import random_onnx
from onnx import TensorProto, helper
from onnx_rows import LAST, ROWS, Row, ints
from random_onnx import INPUTS, OUTPUTS, Case, draw, model

import fastlstm
from fastlstm.converters.from_onnx import from_onnx
from fastlstm.errors import FastLSTMError, InputError, ModelFileError, UnsupportedError

FULL = os.environ.get("FASTLSTM_FULL", "") not in ("", "0")
RECURRENT = ("LSTM", "GRU", "RNN")
Array = np.ndarray


def bytes_of(proto: Any) -> bytes:
    return proto.SerializeToString()


def session(proto: Any, **inputs: Any) -> fastlstm.Session:
    return fastlstm.Session(from_onnx(bytes_of(proto), inputs))


def assert_close(name: str, got: Array, want: Array) -> float:
    """Compare within 1e-5 * max(1, |want|); return the largest difference of that measure."""
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    wide = want.astype(np.float64)
    off = np.abs(got - wide) / np.maximum(1, np.abs(wide))
    worst = float(np.max(off, initial=0))
    assert worst <= 1e-5, f"{name}: off by {worst:.3g}"
    return worst


def check(case: Case) -> None:
    """Run a case and compare it with the specification."""
    results = session(case.proto()).run(case.feeds())
    assert set(results) == set(case.outputs)
    for name, want in case.expected().items():
        assert results[name].dtype == case.arrays["X"].dtype
        assert_close(f"{case.op} {name}", results[name], want)


def case(op: str, seed: int = 0, **attributes: Any) -> Case:
    """Return a plain case with bias and distinct random weights: T=5, B=3, I=2, H=7."""
    rng = np.random.default_rng([seed, RECURRENT.index(op)])
    D, G, T, B, I, H = 2 if attributes.get("direction") == "bidirectional" else 1, random_onnx.GATES[op], 5, 3, 2, 7
    shapes = {"X": (T, B, I), "W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H)}
    arrays = {name: (0.5 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    return Case(op, arrays, {"hidden_size": H, **attributes})


def state(case: Case, *names: str, seed: int = 1) -> dict[str, Array]:
    """Return random initial states for a case."""
    shape = (len(case.arrays["W"]), case.arrays["X"].shape[1], case.arrays["R"].shape[2])
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name in names}


# ---- recurrent operators, one attribute at a time -----------------------------------------------------
@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_every_direction_gives_outputs_in_time_order(op, direction):
    check(case(op, direction=direction))


@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lengths_stop_each_row_and_reverse_flips_only_valid_steps(op, direction):
    it = case(op, direction=direction)
    it.arrays["sequence_lens"] = np.array([5, 0, 2], np.int32)
    for run_time in (("X",), ("X", "sequence_lens")):
        it.run_time = run_time
        check(it)
        results = session(it.proto()).run(it.feeds())
        assert not results["Y"][:, :, 1].any() and not results["Y_h"][:, 1].any()


@pytest.mark.parametrize("op", RECURRENT)
def test_a_row_of_length_zero_ends_in_zeros_whatever_its_initial_state(op):
    it = case(op)
    it.arrays |= state(it, *(name for name in ("initial_h", "initial_c") if name in INPUTS[op]))
    it.arrays["sequence_lens"] = np.array([0, 5, 0], np.int32)
    check(it)
    for y in session(it.proto()).run(it.feeds()).values():
        assert not y[..., 0, :].any()


@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_layout_1_is_batch_major_in_inputs_states_and_outputs(op, direction):
    it = case(op, direction=direction, layout=1)
    it.arrays |= state(it, *(name for name in ("initial_h", "initial_c") if name in INPUTS[op]))
    it.arrays["sequence_lens"] = np.array([4, 5, 1], np.int32)
    it.arrays |= {name: it.arrays[name].swapaxes(0, 1).copy() for name in it.arrays if name == "X" or "initial" in name}
    check(it)


@pytest.mark.parametrize("op", RECURRENT)
def test_hidden_size_may_be_absent(op):
    it = case(op)
    del it.attributes["hidden_size"]
    check(it)


@pytest.mark.parametrize("op", RECURRENT)
def test_hidden_size_that_contradicts_r_is_an_error(op):
    with pytest.raises(ModelFileError, match="hidden_size is 8"):
        session(case(op, hidden_size=8).proto())


@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("name", list(random_onnx.COEFFICIENTS))
def test_every_activation_name_in_any_case_with_default_and_given_coefficients(op, name):
    count = len(random_onnx.DEFAULTS[op])
    alpha, beta = random_onnx.COEFFICIENTS[name]
    for spelled in (name, name.lower(), name.upper()):
        it = case(op, activations=[spelled] * count)
        it.arrays["X"] = it.arrays["X"][:2]  # functions without bound may grow
        check(it)
        given = {} if alpha is None else {"activation_alpha": [0.3 + 0.2 * k for k in range(count)]}
        given |= {} if beta is None else {"activation_beta": [0.4 - 0.1 * k for k in range(count)]}
        it.attributes |= given
        check(it)


def test_coefficients_go_in_order_to_the_functions_that_have_them():
    functions = ["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "ScaledTanh", "Elu"]
    coefficients = {"activation_alpha": [0.3, 0.05, 0.8, 0.7], "activation_beta": [0.4, 0.6]}
    check(case("LSTM", direction="bidirectional", activations=functions, **coefficients))


def test_missing_coefficients_are_the_operators_defaults():
    functions = ["HardSigmoid", "ThresholdedRelu", "LeakyRelu", "HardSigmoid", "ScaledTanh", "Elu"]
    check(case("LSTM", direction="bidirectional", activations=functions, activation_alpha=[0.3], activation_beta=[0.4]))


def test_one_directions_functions_serve_both_unless_coefficients_are_given():
    it = case("GRU", direction="bidirectional", activations=["HardSigmoid", "Softsign"])
    it.attributes["activations"] *= 2
    want = it.expected()
    it.attributes["activations"] = it.attributes["activations"][:2]
    assert_close("Y", session(it.proto()).run(it.feeds())["Y"], want["Y"])
    it.attributes["activation_alpha"] = [0.3]
    with pytest.raises(UnsupportedError, match=r"'node': GRU.*activations"):
        session(it.proto())


@pytest.mark.parametrize("op", RECURRENT)
def test_clip_bounds_the_input_of_every_activation(op):
    it = case(op, clip=0.3)
    it.arrays["X"] *= 5
    check(it)
    free = case(op)
    free.arrays["X"] *= 5
    assert np.abs(it.expected()["Y"] - free.expected()["Y"]).max() > 0.05


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_clip_that_bounds_nothing_is_refused(value):
    with pytest.raises(UnsupportedError, match=r"'node': LSTM .*clip="):
        session(case("LSTM", clip=value).proto())


def test_input_forget_couples_the_gates():
    check(case("LSTM", input_forget=1))


@pytest.mark.parametrize("coupled", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_peepholes_are_i_o_f_and_the_output_gate_sees_the_new_cell(coupled, direction):
    it = case("LSTM", direction=direction, input_forget=coupled)
    it.arrays["P"] = np.random.default_rng(3).standard_normal((len(it.arrays["W"]), 21)).astype(np.float32)
    check(it)
    it.run_time = ("X", "P")
    check(it)


@pytest.mark.parametrize("lbr", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_before_reset_chooses_between_two_networks(lbr, bias):
    it = case("GRU", linear_before_reset=lbr)
    if not bias:
        del it.arrays["B"]
    check(it)


@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("kind", ["constant", "zero", "run time"])
def test_initial_states_constant_zero_and_given_at_run_time(op, kind):
    it = case(op, direction="bidirectional")
    names = [name for name in ("initial_h", "initial_c") if name in INPUTS[op]]
    it.arrays |= {name: array * (kind != "zero") for name, array in state(it, *names).items()}
    if kind == "run time":
        it.run_time = ("X", *names)
    check(it)
    for name in names[1:]:  # one state without the other
        it.run_time = tuple(n for n in it.run_time if n != name)
        del it.arrays[name]
        check(it)


@pytest.mark.parametrize("op", RECURRENT)
def test_zero_states_that_bake_in_a_batch_size_leave_the_batch_free(op):
    it = case(op)
    names = [name for name in ("initial_h", "initial_c") if name in INPUTS[op]]
    it.arrays |= {name: np.zeros_like(array[:, :1]) for name, array in state(it, *names).items()}
    it.free = True
    results = session(it.proto()).run(it.feeds())
    for name in names:
        del it.arrays[name]
    for name, want in it.expected().items():
        assert_close(name, results[name], want)


@pytest.mark.parametrize("op", RECURRENT)
def test_any_subset_of_outputs_may_be_left_out(op):
    names = OUTPUTS[op]
    for chosen in range(1, 2 ** len(names)):
        it = case(op, direction="bidirectional")
        it.outputs = tuple(name for k, name in enumerate(names) if chosen >> k & 1)
        check(it)


@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_weights_may_be_values_of_the_run(op, direction):
    it = case(op, direction=direction)
    it.run_time = ("X", "W", "R", "B")
    check(it)


@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("opset", [7, 14, 22])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_opset_and_both_dtypes(op, opset, dtype):
    it = case(op, direction="bidirectional")
    it.arrays = {name: array.astype(dtype) for name, array in it.arrays.items()}
    it.opset = opset
    check(it)


def test_random_recurrent_nodes_follow_the_specification():
    for seed in range(1500 if FULL else 150):
        try:
            check(draw(np.random.default_rng([seed, 0])))
        except AssertionError as error:
            raise AssertionError(f"case {seed}: {error}") from error


# ---- what is refused, and how -------------------------------------------------------------------------
def refuse(node: Any, *words: str, opset: int = 22, error: type = UnsupportedError, **constants: Array) -> None:
    """Assert that a graph of one node over x (2, 3) is refused with these words in the message."""
    held = {name: np.asarray(array) for name, array in constants.items()}
    proto = model([node], {"x": ("f4", (2, 3))}, [name for name in node.output if name], held, opset)
    with pytest.raises(error) as caught:
        session(proto)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_names_node_operator_attribute_and_value():
    pads = np.zeros(4, np.int64)
    refuse(helper.make_node("Fo\no", ["x"], ["y"], "foreign"), r"Fo\no", "'foreign'")
    refuse(helper.make_node("Pad", ["x", "p"], ["y"], "pad", mode="mirror"), "'pad'", "Pad", "mode", "mirror", p=pads)
    refuse(helper.make_node("Gelu", ["x"], ["y"], "act", approximate="exact"), "'act'", "Gelu", "approximate", "exact")
    refuse(helper.make_node("Relu", ["x"], ["y"], "act", bound=3), "'act'", "Relu", "bound", "3")
    refuse(helper.make_node("Cast", ["x"], ["y"], "text", to=TensorProto.STRING), "'text'", "Cast", "to", "8")
    refuse(helper.make_node("Cast", ["x"], ["y"], "half", to=TensorProto.BFLOAT16), "'half'", "Cast", "to", "16")
    split = helper.make_node("Split", ["x"], ["y", "z"], "cut", num_outputs=3)
    refuse(split, "'cut'", "Split", "num_outputs", "3")
    training = np.array(True)
    refuse(
        helper.make_node("Dropout", ["x", "", "t"], ["y"], "d"), "'d'", "Dropout", "training_mode", "True", t=training
    )


@pytest.mark.parametrize("op", RECURRENT)
def test_recurrent_refusals_name_node_operator_attribute_and_value(op):
    count = len(random_onnx.DEFAULTS[op])
    wrong = {
        "direction": "sideways", "activations": ["Swish"] * count, "clip": -1.0, "unknown_attribute": 3,
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(UnsupportedError) as caught:
            session(case(op, **{name: value}).proto())
        shown = value[0] if isinstance(value, list) else value
        assert all(word in str(caught.value) for word in ("'node'", op, name, str(shown))), str(caught.value)
    with pytest.raises(UnsupportedError, match=f"'node': {op} .*activations"):
        session(case(op, activations=["Tanh"] * (count + 1)).proto())


def test_before_opset_7_the_second_operand_is_aligned_at_an_axis():
    x, b = np.arange(24, dtype="f4").reshape(2, 3, 4), np.array([10, 20, 30], "f4")
    node = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)
    got = session(model([node], {"x": ("f4", (2, 3, 4))}, ["y"], {"b": b}, opset=6)).run(x)
    np.testing.assert_array_equal(got, x + b[:, None])
    node = helper.make_node("Mul", ["x", "b"], ["y"], broadcast=1)
    got = session(model([node], {"x": ("f4", (2, 3, 4))}, ["y"], {"b": np.arange(4, dtype="f4")}, opset=6)).run(x)
    np.testing.assert_array_equal(got, x * np.arange(4, dtype="f4"))


def test_sums_of_codes_are_exact_where_sixteen_bits_overflow():
    """The engine's are not, without VNNI."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (3, 40), np.uint8), rng.integers(-128, 128, (40, 5)).astype(np.int8)
    proto = model(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])], {"a": ("u1", (3, 40)), "b": ("i1", (40, 5))}, ["y"]
    )
    got = session(proto).run({"a": a, "b": b})["y"]
    np.testing.assert_array_equal(got, a.astype(np.int64) @ b.astype(np.int64))


def test_all_that_is_not_supported_is_named_in_one_message():
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], "one"),
        helper.make_node("Gelu", ["x"], ["b"], "two", approximate="exact"),
        helper.make_node("Pad", ["x", "p"], ["c"], "three", mode="mirror"),
        helper.make_node("Add", ["b", "c"], ["y"], "four"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        session(model(nodes, {"x": ("f4", (2,))}, ["y"], {"p": np.zeros(2, np.int64)}, opset=20))
    message = str(caught.value)
    assert all(word in message for word in ("Foo", "'one'", "'two'", "exact", "'three'", "mirror", "opset 20"))
    assert "'four'" not in message


def test_unknown_operators_are_all_named_at_once():
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], "one"),
        helper.make_node("Bar", ["a"], ["y"], "two", domain="my.domain"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        session(model(nodes, {"x": ("f4", (2,))}, ["y"]))
    assert all(word in str(caught.value) for word in ("Foo", "'one'", "my.domain.Bar", "'two'"))


def test_control_flow_sparse_and_external_data_are_refused():
    node = helper.make_node("Add", ["x", "w"], ["y"], "add")
    proto = model([node], {"x": ("f4", (2,))}, ["y"], {"w": np.ones(2, "f4")})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(UnsupportedError, match="'w': external data"):
        session(proto)
    constant = helper.make_node("Constant", [], ["w"], "held", value=tensor)
    with pytest.raises(UnsupportedError, match=r"'held'.*external data"):
        session(model([constant, node], {"x": ("f4", (2,))}, ["y"]))
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "body", [], [proto.graph.output[0]])
    branch = helper.make_node("Identity", ["x"], ["y"], "branch", then_branch=body)
    with pytest.raises(UnsupportedError, match=r"'branch': Identity .*attribute then_branch"):
        session(model([branch], {"x": ("f4", (2,))}, ["y"]))


@pytest.mark.parametrize("code", [8, 14, 16, 17])
def test_element_types_that_are_not_ours_are_refused(code):
    proto = model([helper.make_node("Identity", ["x"], ["y"])], {"x": ("f4", (2,))}, ["y"])
    proto.graph.input[0].type.tensor_type.elem_type = code
    with pytest.raises(UnsupportedError, match="input 'x'"):
        session(proto)


# ---- inputs= binds and folds --------------------------------------------------------------------------
def bound_proto(dtype: Any = "i8", shape: Sequence[Any] = ()) -> Any:
    """y = x * (rate == 16000 ? 2 : 3)."""
    held = {"wide": np.array(16000, dtype), "two": np.array(2, "f4"), "three": np.array(3, "f4")}
    nodes = [
        helper.make_node("Equal", ["rate", "wide"], ["is_wide"]),
        helper.make_node("Where", ["is_wide", "two", "three"], ["factor"]),
        helper.make_node("Mul", ["x", "factor"], ["y"], "scale"),
    ]
    return model(nodes, {"x": ("f4", ("n",)), "rate": (dtype, shape)}, ["y"], held)


@pytest.mark.parametrize(("rate", "factor"), [(16000, 2), (8000, 3), (np.int32(16000), 2)])
def test_a_bound_input_folds_away(rate, factor):
    made = from_onnx(bytes_of(bound_proto()), {"rate": rate})
    assert [spec.name for spec in made.graph.inputs] == ["x"]
    assert [node.op for node in made.graph.nodes] == ["Mul"]
    x = np.arange(3, dtype="f4")
    np.testing.assert_array_equal(fastlstm.Session(made).run(x), factor * x)


def test_one_number_fills_a_bound_input_of_ones():
    assert session(bound_proto(shape=(1,)), rate=16000).run(np.ones(2, "f4")).tolist() == [2, 2]


@pytest.mark.parametrize("value", [16000.5, "16000", [16000, 8000], np.ones((2, 2), "i8"), None, 1 << 70])
def test_a_bound_value_that_does_not_fit_is_an_input_error(value):
    with pytest.raises(InputError, match="'rate'"):
        session(bound_proto(), rate=value)


def test_binding_an_unknown_input_lists_what_exists():
    with pytest.raises(InputError, match=r"'speed'.*'rate'"):
        session(bound_proto(), speed=3)


def test_a_default_of_an_input_can_be_bound_to_another_value():
    node = helper.make_node("Add", ["x", "w"], ["y"])
    proto = model([node], {"x": ("f4", (2,)), "w": ("f4", (2,))}, ["y"], {"w": np.array([1, 2], "f4")})
    x = np.zeros(2, "f4")
    assert session(proto).run(x).tolist() == [1, 2]
    assert session(proto, w=[5.0, 6.0]).run(x).tolist() == [5, 6]


# ---- every other operator, as ONNX Runtime computes it ------------------------------------------------
@pytest.fixture(scope="module")
def ort():
    runtime = pytest.importorskip("onnxruntime")
    runtime.set_default_logger_severity(4)
    return runtime


def engine_outputs(ort: Any, data: bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    engine = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in engine.get_outputs()], engine.run(None, dict(feeds)), strict=True))


def shown(part: Row) -> str:
    op, _, inputs, _, attributes = part
    shapes = ",".join("-" if a is None else "x".join(map(str, a.shape)) for a in inputs)
    return f"{op}({shapes})" + "".join(f" {k}={v}" for k, v in attributes.items() if not hasattr(v, "raw_data"))


@pytest.mark.parametrize(("opset", "hot"), [(9, [0, -1, -1]), (10, [0, -1, -1]), (11, [0, 3, -1])])
def test_a_negative_index_of_a_one_hot_counts_from_the_end_since_opset_11(opset, hot):
    node = helper.make_node("OneHot", ["i", "depth", "values"], ["y"])
    held = {"depth": np.array(4), "values": np.array([0, 1], np.float32)}
    proto = model([node], {"i": (np.dtype(np.int64), (3,))}, ["y"], held, opset)
    want = np.equal.outer(hot, np.arange(4)).astype(np.float32)
    np.testing.assert_array_equal(session(proto).run({"i": ints(0, -1, -5)})["y"], want)


@pytest.mark.parametrize("part", ROWS, ids=shown)
def test_an_operator_agrees_with_onnx_runtime_in_every_opset(ort, part):
    """Side inputs as constants, and as values of the run; declared sizes, names of sizes, and no declared shape at all."""
    op, opsets, inputs, count, attributes = part
    names = ["" if array is None else f"i{k}" for k, array in enumerate(inputs)]
    arrays = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    outputs = [f"o{k}" for k in range(count)]
    node = helper.make_node(op, names, outputs, "node", **attributes)
    for opset in opsets:
        for declared in ("constants", "run time", "names", "nothing"):
            run_time = list(arrays)[: 1 if declared == "constants" else None]
            given = {
                name: (arrays[name].dtype, [f"{name}.{k}" for k in range(arrays[name].ndim)] if declared == "names" else arrays[name].shape)
                for name in run_time
            }  # fmt: skip
            held = {name: array for name, array in arrays.items() if name not in run_time}
            proto = model([node], given, outputs, held, opset)
            for spec in proto.graph.output:
                spec.type.Clear()
            for spec in proto.graph.input if declared == "nothing" else ():
                spec.type.tensor_type.ClearField("shape")
            feeds = {name: arrays[name] for name in run_time}
            want = engine_outputs(ort, bytes_of(proto), feeds)
            try:
                results = session(proto).run(feeds)
            except FastLSTMError as error:
                # sizes that an operator needs may be unknown; then it says so
                if declared == "constants" or "'node'" not in str(error):
                    raise
                continue
            for name in outputs:
                assert results[name].dtype == want[name].dtype, f"opset {opset}, {declared}"
                if want[name].dtype.kind == "f":
                    assert_close(f"opset {opset}, {declared}", results[name], want[name])
                else:
                    np.testing.assert_array_equal(results[name], want[name])


def test_random_recurrent_nodes_agree_with_onnx_runtime(ort, capsys):
    """Every attribute, but for what departures_onnxruntime.py lists: there onnxruntime is another network, and we are compared with the specification."""
    compared, refused, worst = Counter(), 0, 0.0
    for seed in range(3000 if FULL else 300):
        it = draw(np.random.default_rng([seed, 1]), engine=True)
        data = bytes_of(it.proto())
        try:
            want = engine_outputs(ort, data, it.feeds())
        except Exception as error:
            if "activation" not in str(error):  # its RNN knows fewer functions
                raise
            refused += 1
            check(it)
            continue
        results = session(it.proto()).run(it.feeds())
        worst = max(
            worst,
            *(assert_close(f"case {seed}: {it.op} {name}", results[name], engine) for name, engine in want.items()),
        )
        compared[it.op] += 1
    with capsys.disabled():
        print(f"\nagainst onnxruntime: {dict(compared)}, {refused} refused by it, largest difference {worst:.2g}")
    assert compared.total() >= (2000 if FULL else 200)


# ---- what PyTorch exports -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


SHAPES = [(3, 5), (1, 1), (4, 9), (2, 3)]  # batch, steps; the first is exported
MODULES = {
    "lstm": ("LSTM", {}),
    "lstm_batch_first": ("LSTM", {"batch_first": True}),
    "lstm_stacked": ("LSTM", {"num_layers": 3, "batch_first": True}),
    "lstm_bidirectional": ("LSTM", {"bidirectional": True}),
    "lstm_all": ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3}),
    "lstm_without_bias": ("LSTM", {"bias": False}),
    "gru": ("GRU", {}),
    "gru_all": ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu", "batch_first": True}),
    "rnn_all": ("RNN", {"num_layers": 2, "bidirectional": True}),
}


def build_module(torch: Any, kind: str, options: dict[str, Any], states: bool, packed: bool) -> Any:
    """Return a recurrent module with a head over its outputs; it also gives the final states."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(torch.nn, kind)(4, 6, **options)
            self.head = torch.nn.Linear(12 if options.get("bidirectional") else 6, 3)

        def forward(self, x, *more):
            if packed:
                utils, batch_first = torch.nn.utils.rnn, options.get("batch_first", False)
                y, h = self.rnn(utils.pack_padded_sequence(x, more[0], batch_first))
                y, _ = utils.pad_packed_sequence(y, batch_first)
            else:
                y, h = self.rnn(x, (more if kind == "LSTM" else more[0]) if states else None)
            return (self.head(y), *(h if isinstance(h, tuple) else (h,)))

    torch.manual_seed(hash_of(kind, options))
    return Net().eval()


def hash_of(kind: str, options: dict[str, Any]) -> int:
    return sum(map(ord, kind + repr(sorted(options.items()))))


def module_inputs(torch, kind, options, states, packed, batch, steps):
    x = torch.randn(*((batch, steps) if options.get("batch_first") else (steps, batch)), 4)
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    more = [torch.randn(layers, batch, 6) for _ in range(2 if kind == "LSTM" else 1)] if states else []
    if packed:
        lengths = torch.randint(1, steps + 1, (batch,))
        lengths[0] = steps
        more = [lengths.sort(descending=True)[0]]  # unsorted ones are exported as TopK and ScatterElements
    return (x, *more)


def compare_export(torch: Any, data: bytes, net: Any, make: Any, shapes: Sequence[tuple[int, int]]) -> None:
    ours = fastlstm.Session(from_onnx(data, {}))
    for batch, steps in shapes:
        given = make(batch, steps)
        with torch.no_grad():
            want = [part.numpy() for part in net(*given)]
        feeds = {spec.name: array.numpy() for spec, array in zip(ours.inputs, given, strict=True)}
        results = ours.run(feeds)
        for spec, array in zip(ours.outputs, want, strict=True):
            assert_close(f"batch {batch}, steps {steps}: {spec.name}", results[spec.name], array)


@pytest.mark.parametrize("extra", ["", "states", "packed"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore")
def test_torchscript_exports_run_at_every_batch_and_length(torch, name, extra):
    kind, options = MODULES[name]
    states, packed = extra == "states", extra == "packed"
    net = build_module(torch, kind, options, states, packed)

    def make(batch, steps):
        return module_inputs(torch, kind, options, states, packed, batch, steps)

    given = make(*SHAPES[0])
    free = {0: "batch", 1: "time"} if options.get("batch_first") else {0: "time", 1: "batch"}
    names = ["x", *[f"more{k}" for k in range(len(given) - 1)]]
    axes = {"x": free} | {n: {1: "batch"} if states else {0: "batch"} for n in names[1:]}
    buffer = io.BytesIO()
    for opset in (9, 17) if FULL else (17,):
        buffer.seek(0)
        torch.onnx.export(
            net, given, buffer, input_names=names, dynamic_axes=axes, opset_version=opset, dynamo=False
        )  # fmt: skip
        compare_export(torch, buffer.getvalue(), net, make, SHAPES)


@pytest.mark.parametrize("name", MODULES if FULL else ["lstm_all", "gru_all", "rnn_all"])
@pytest.mark.filterwarnings("ignore")
def test_dynamo_exports_run(torch, name):
    """Its exporter bakes the number of steps into some graphs; then only that one is compared."""
    pytest.importorskip("onnxscript")
    kind, options = MODULES[name]
    net = build_module(torch, kind, options, False, False)

    def make(batch, steps):
        return module_inputs(torch, kind, options, False, False, batch, steps)

    given = make(*SHAPES[0])
    axis = 0 if options.get("batch_first") else 1
    program = torch.onnx.export(
        net, given, dynamo=True, dynamic_shapes=({axis: torch.export.Dim("batch", max=64)},), verbose=False
    )
    compare_export(torch, bytes_of(program.model_proto), net, make, [(batch, SHAPES[0][1]) for batch, _ in SHAPES])


# ---- damaged and hostile graphs -----------------------------------------------------------------------
def ours_or_a_model(data: bytes) -> fastlstm.Model | None:
    try:
        return from_onnx(data, {})
    except FastLSTMError:
        return None


def add(*names: str) -> Any:
    return helper.make_node("Add", list(names[:2]), [names[2]], names[2])


def broken_graphs() -> dict[str, Any]:
    x = {"x": ("f4", (2, 3))}
    one = model([add("x", "x", "y")], x, ["y"])
    graphs = {
        "a cycle": model([add("b", "x", "a"), add("a", "x", "b")], x, ["b"]),
        "a node that feeds itself": model([add("y", "x", "y")], x, ["y"]),
        "nodes out of order": model([add("a", "x", "y"), add("x", "x", "a")], x, ["y"]),
        "an unknown value": model([add("nothing", "x", "y")], x, ["y"]),
        "an output that no node computes": model([add("x", "x", "y")], x, ["z"]),
        "an output named twice": model([add("x", "x", "y")], x, ["y", "y"]),
        "a value computed twice": model([add("x", "x", "y"), helper.make_node("Neg", ["x"], ["y"])], x, ["y"]),
        "an input that a node overwrites": model([add("x", "x", "y"), helper.make_node("Neg", ["y"], ["x"])], x, ["x"]),
        "a missing input": model([helper.make_node("Add", ["x"], ["y"])], x, ["y"]),
        "an empty required input": model([helper.make_node("Add", ["", "x"], ["y"])], x, ["y"]),
        "too many inputs": model([helper.make_node("Add", ["x"] * 5, ["y"])], x, ["y"]),
        "too many outputs": model([helper.make_node("Add", ["x", "x"], ["y", "z"])], x, ["z"]),
        "no outputs of a node": model([helper.make_node("Add", ["x", "x"], [])], x, ["x"]),
        "sizes that do not fit": model([add("x", "w", "y")], x, ["y"], {"w": np.ones(5, "f4")}),
        "booleans for a matrix product": model([helper.make_node("MatMul", ["i", "i"], ["y"])], {"i": ("?", (2, 2))}, ["y"]),
        "a huge shape": model([helper.make_node("Expand", ["x", "s"], ["y"])], x, ["y"], {"s": ints(2**40, 2**40, 1)}),
        "a huge constant": model([helper.make_node("ConstantOfShape", ["s"], ["y"])], x, ["y"], {"s": ints(2**31, 2**31)}),
        "a negative size": model([helper.make_node("ConstantOfShape", ["s"], ["y"])], x, ["y"], {"s": ints(-3)}),
        "an endless range": model(
            [helper.make_node("Range", ["a", "b", "c"], ["y"])], x, ["y"],
            {"a": np.array(0), "b": np.array(LAST), "c": np.array(1)},
        ),
        "a range without a step": model(
            [helper.make_node("Range", ["a", "b", "a"], ["y"])], x, ["y"], {"a": np.array(0), "b": np.array(5)}
        ),
        "an axis out of range": model([helper.make_node("Concat", ["x", "x"], ["y"], axis=7)], x, ["y"]),
        "an index out of range": model([helper.make_node("Gather", ["x", "i"], ["y"])], x, ["y"], {"i": np.array(9)}),
        "a permutation that is none": model([helper.make_node("Transpose", ["x"], ["y"], perm=[0, 0])], x, ["y"]),
        "W of a wrong size": Case("LSTM", case("LSTM").arrays | {"W": np.ones((1, 28, 3), "f4")}).proto(),
        "R that is no cube": Case("LSTM", case("LSTM").arrays | {"R": np.ones((28, 7), "f4")}).proto(),
        "B of a wrong size": Case("GRU", case("GRU").arrays | {"B": np.ones((1, 41), "f4")}).proto(),
        "P of a wrong size": Case("LSTM", case("LSTM").arrays | {"P": np.ones((1, 20), "f4")}).proto(),
        "a state of a wrong size": Case("RNN", case("RNN").arrays | {"initial_h": np.ones((1, 3, 6), "f4")}).proto(),
        "lengths of a wrong size": Case("RNN", case("RNN").arrays | {"sequence_lens": np.ones(4, "i4")}).proto(),
        "lengths past the end": Case("RNN", case("RNN").arrays | {"sequence_lens": np.full(3, 9, "i4")}).proto(),
        "weights of two directions for one": Case(
            "RNN", case("RNN", direction="bidirectional").arrays, {"direction": "forward"}
        ).proto(),
    }  # fmt: skip
    for name, dims in {
        "negative": [-2, 3],
        "larger than the data": [2, 4],
        "beyond all memory": [2**40, 2**40],
    }.items():
        proto = model([add("x", "w", "y")], x, ["y"], {"w": np.ones((2, 3), "f4")})
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(dims)
        graphs[f"an initializer of a size {name}"] = proto
    attribute = type(one)()
    attribute.CopyFrom(one)
    attribute.graph.node[0].attribute.add(name="axis")
    graphs["an attribute without a type"] = attribute
    return graphs


@pytest.mark.parametrize("name", broken_graphs())
def test_a_malformed_graph_ends_in_one_clear_error(name):
    proto = broken_graphs()[name]
    feeds = {
        spec.name: np.ones([d.dim_value for d in spec.type.tensor_type.shape.dim], "f4") for spec in proto.graph.input
    }
    with pytest.raises(FastLSTMError):
        session(proto).run(feeds)


@pytest.mark.parametrize("data", [b"", b"\x08", b"not a graph", b"\x08\x0a" * 50, bytes(range(256))])
def test_bytes_that_are_no_graph_are_a_file_error(data):
    with pytest.raises(ModelFileError):
        from_onnx(data, {})


def test_truncated_and_mutated_files_end_in_our_errors_or_a_model(demo_models):
    data = (demo_models / "co2_season.onnx").read_bytes()
    for size in range(0, len(data), 97 if FULL else 997):
        ours_or_a_model(data[:size])
    draw_byte = np.random.default_rng(0)
    proto = onnx.load_model_from_string(data)
    for tensor in proto.graph.initializer:  # few weights, so that bytes of the structure are hit
        if len(tensor.raw_data) > 64:
            tensor.raw_data = bytes(len(tensor.raw_data))
    skeleton = bytes_of(proto)
    places = [k for k in range(len(skeleton)) if skeleton[k] or draw_byte.random() < 0.05]
    made = 0
    for _ in range(20000 if FULL else 1500):
        changed = bytearray(skeleton)
        for _ in range(int(draw_byte.integers(1, 4))):
            place = places[int(draw_byte.integers(len(places)))] % len(changed)
            kind = draw_byte.integers(3)
            if kind == 0:
                changed[place] = int(draw_byte.integers(256))
            elif kind == 1:
                changed[place] ^= 1 << int(draw_byte.integers(8))
            else:
                del changed[place : place + int(draw_byte.integers(1, 5))]
        made += ours_or_a_model(bytes(changed)) is not None
    assert made  # some changes do no harm: names, comments, weights

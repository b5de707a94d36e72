"""Models written as ONNX graphs: onnx's checker takes them, onnxruntime computes the same, and read again they give the same bits."""

from dataclasses import replace

import models
import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.converters import to_onnx
from fastlstm.converters.onnx_writer import writers
from fastlstm.errors import InputError, UnsupportedError
from fastlstm.graph import Node
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.op import registered

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx_written import compare  # noqa: E402

F = np.float32


# ---- recurrent nodes --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_nodes_of_every_sort(kind):
    """onnxruntime bounds not all that the specification bounds, so there is no clip; an infinite alpha is not drawn."""
    usable = {"Relu", "Tanh", "Sigmoid", "LeakyRelu", "ScaledTanh", "HardSigmoid", "Softsign"}
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng([seed, len(kind)])
        case = models.draw_recurrence(rng, kind, most=9, clip=0.0, empty_state="zero")
        if not {name for name, _, _ in case.activations} <= usable:
            case = replace(case, activations=())
        if case.mask == "mask":
            case = replace(case, mask="lengths")
        if case.mask and case.masked_output == "carry":
            case = replace(case, outputs=("Y", *models.STATES[kind]))
        seen.add((case.mask, case.masked_output, case.reverse, case.batch_first))
        feeds = case.feeds()
        compare(case.model(), feeds)
    assert len(seen) > 8


def sequential(*stack: layers.Layer, features: tuple = (4,), dtype: str = "float32") -> fastlstm.Model:
    build = fastlstm.Sequential([fastlstm.Input((None, *features), dtype=dtype), *stack])
    return build.to_model()


def padded(rng: np.random.Generator, lengths: list[int], T: int, I: int) -> np.ndarray:
    x = rng.standard_normal((len(lengths), T, I)).astype(F)
    for row, length in enumerate(lengths):
        x[row, length:] = 0
    return x


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_masks_become_lengths_where_rows_are_right_padded(layer, sequences):
    rng = np.random.default_rng(0)
    stacks = [
        [layers.Masking(), layer(5, return_sequences=sequences)],
        [layers.Masking(), layers.Bidirectional(layer(5, return_sequences=sequences))],
        [layers.Masking(), layer(6, return_sequences=True), layer(3, return_sequences=sequences, go_backwards=True)],
    ]
    for stack in stacks:
        model = sequential(*stack)
        feeds = {model.graph.inputs[0].name: padded(rng, [7, 3, 1, 5, 0], 7, 4)}
        compare(model, feeds, right_padded=True)
        with pytest.raises(UnsupportedError, match="right_padded=True"):
            to_onnx.to_onnx(model)


def test_embedded_ids_with_a_mask():
    model = sequential(
        layers.Embedding(11, 6, mask_zero=True), layers.LSTM(5), layers.Dense(3, activation="softmax"), features=()
    )
    ids = np.array([[1, 4, 10, 0, 0], [2, 0, 0, 0, 0], [3, 3, 3, 3, 3]], F)
    compare(model, {model.graph.inputs[0].name: ids}, right_padded=True)


def test_recurrent_activations_that_onnx_lacks_are_refused_with_all_else():
    ws = models.weights(np.random.default_rng(0), "RNN", 3, 4)
    nodes = [
        Node("one", "RNN", ("x", *ws), ("a", "", ""), {"activations": ("Gelu",)}),
        Node("two", "RNN", ("x", *ws), ("z", "", ""), {"activations": ("Mish",)}),
    ]
    model = models.model(nodes, [("x", "float32", ("T", "B", 3))], ["a", "z"], ws)
    with pytest.raises(UnsupportedError, match=r"'one' \(RNN\).*Gelu.*'two' \(RNN\).*Mish"):
        to_onnx.to_onnx(model)


# ---- other nodes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("opset", to_onnx.OPSETS)
def test_every_opset_has_the_same_outputs(opset):
    rng = np.random.default_rng(opset)
    names = [name for name in ACTIVATIONS if name not in ("Softplus",)]
    stack = [layers.Conv1D(7, 3, padding="causal"), layers.LayerNormalization(), layers.GRU(6, return_sequences=True)]
    if opset < 17:
        stack.pop(1)  # spelled out it rounds otherwise
    model = sequential(*stack, layers.BatchNormalization(), layers.LSTM(5), layers.Dense(4, activation="tanh"))
    compare(model, {model.graph.inputs[0].name: rng.standard_normal((3, 6, 4)).astype(F)}, opset)
    nodes, outputs = [], []
    for name in names:
        nodes.append(Node(name, name, ("x",), (f"y_{name}",)))
        outputs.append(f"y_{name}")
    elementwise = models.model(nodes, [("x", "float32", ("N",))], outputs, {})
    x = rng.uniform(-4, 4, 50).astype(F)
    data = to_onnx.to_onnx(elementwise, opset)
    want = fastlstm.Session(elementwise).run(x)
    engine = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for name, got in zip(outputs, engine.run(outputs, {"x": x}), strict=True):
        np.testing.assert_allclose(got, want[name], rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(("name", "opset"), [("gelu", 20), ("mish", 18), ("tanh", 17)])
def test_without_an_opset_the_first_that_has_every_operator_is_taken(name, opset):
    model = sequential(layers.LSTM(5), layers.Dense(4, activation=name))
    assert onnx.load_model_from_string(to_onnx.to_onnx(model)).opset_import[0].version == opset
    compare(model, {model.graph.inputs[0].name: np.random.default_rng(0).standard_normal((3, 6, 4)).astype(F)})


def single(op: str, shape: tuple, weights: dict | None = None, x: np.ndarray | None = None, **attributes) -> None:
    """Compare one node of known input x."""
    x = np.random.default_rng(1).standard_normal(shape).astype(F) if x is None else x
    given = weights or {}
    free = (*(f"d{k}" for k in range(x.ndim - 1)), x.shape[-1])
    model = models.model([Node("n", op, ("x", *given), ("y",), attributes)], [("x", x.dtype.name, free)], ["y"], given)
    compare(model, {"x": x})


def test_ops_that_onnx_spells_otherwise():
    ints = lambda *values: np.array(values, np.int64)
    like = np.zeros((2, 3, 4), F)
    single("Reverse", (3, 4), axis=1)
    single("AnyNotEqual", (2, 3, 4), x=np.array([[[0, 0], [0, 1], [2, 2]]], F))
    single("MergeAxes", (2, 3, 4), axis=1)
    single("SplitAxis", (6, 4), {"like": like}, axis=0)
    single("ReshapeLike", (6, 4), {"like": like})
    single("ExpandLike", (3, 1), {"like": like})
    single("CausalMask", (2, 3, 4))
    single("NotEqual", (3, 4), {"b": np.zeros(4, F)})
    single("Shape", (2, 3, 4), start=1, end=2)
    single("ReduceSum", (2, 3, 4), axes=(0, 2))
    single("ReduceMean", (2, 3, 4), axes=(1,), keepdims=True)
    single("ReduceMax", (2, 3, 4))
    single("Softmax", (2, 3, 4), axis=1)
    single("LayerNormalization", (2, 3, 4))
    single("Pad", (2, 3), {"pads": ints(1, 0, 0, 2)}, mode="reflect")
    single("Pad", (2, 3), {"pads": ints(1, 2), "value": np.array(0.5, F), "axes": ints(-1)})
    single(
        "OneHot", (4,), {"depth": np.array(5), "values": np.array([0, 1], F)}, x=np.array([1, -1, 4, 9]), from_end=False
    )
    single("Embedding", (2, 3), {"table": np.arange(12, dtype=F).reshape(4, 3)}, x=np.array([[0, 3], [1, 1]], F))
    for stride, dilation, pads, fill in ((1, 1, (0, 0), "zero"), (2, 1, (1, 2), "lowest"), (1, 2, (0, 1), "zero")):
        single("Windows", (2, 9, 3), size=3, axis=1, stride=stride, dilation=dilation, pads=pads, fill=fill)
    W = np.random.default_rng(2).standard_normal((3, 4, 5)).astype(F)
    single("Conv1D", (2, 7, 4), {"W": W, "b": np.arange(5, dtype=F)}, activation="Tanh", pads=(2, 0))


def test_every_op_of_inference_has_a_writer():
    """What is left belongs to training alone."""
    training = {"CTC", "MeanSquares", "OverlapAdd", "Place", "ScatterAdd", "SigmoidCrossEntropy", "SoftmaxCrossEntropy"}
    training |= {f"{kind}{part}" for kind in ("LSTM", "GRU", "RNN") for part in ("Steps", "Checkpointed")}
    assert {name for name in registered() if not name.endswith("Adjoint")} - set(writers) == training
    assert set(writers) <= set(registered())


def test_what_has_no_operator_is_refused_by_name():
    x = ("x", "float32", (2, 3))
    model = models.model([Node("slope", "SoftmaxAdjoint", ("x", "x"), ("y",))], [x], ["y"], {})
    with pytest.raises(UnsupportedError, match=r"node 'slope'.*SoftmaxAdjoint"):
        to_onnx.to_onnx(model)


def test_an_opset_outside_the_range_is_refused():
    model = sequential(layers.LSTM(3))
    for opset in (12, 24, "17"):
        with pytest.raises(InputError, match="opset"):
            to_onnx.to_onnx(model, opset)


def test_narrow_weights_are_written_as_what_they_stand_for():
    model = sequential(layers.LSTM(33), layers.Dense(2)).narrowed("float16")
    proto = onnx.load_model_from_string(to_onnx.to_onnx(model))
    assert {tensor.data_type for tensor in proto.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}

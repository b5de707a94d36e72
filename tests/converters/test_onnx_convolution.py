"""Convolutions and pools of ONNX over one to three axes, against onnxruntime."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime as ort

import fastlstm
from fastlstm.converters.from_onnx import from_onnx
from fastlstm.errors import UnsupportedError

Array = np.ndarray


def graph(op: str, x: Array, weights: dict[str, Array], outputs: int = 1, free: bool = False, **attributes) -> bytes:
    """Return a model of one node, with every size of x after the channels left open where asked for."""
    shape = ["B", x.shape[1], *(f"S{k}" if free else d for k, d in enumerate(x.shape[2:]))]
    value = lambda name, dims: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
    names = ["y", "z"][:outputs]
    node = onnx.helper.make_node(op, ["x", *weights], names, "it", **attributes)
    given = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    results = [value("y", None), onnx.helper.make_tensor_value_info("z", onnx.TensorProto.INT64, None)][:outputs]
    made = onnx.helper.make_graph([node], "g", [value("x", shape)], results, given)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    return model.SerializeToString()


def both(data: bytes, x: Array) -> tuple[Array, Array]:
    """Return our output and onnxruntime's."""
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    return fastlstm.Session(from_onnx(data, {})).run(x), np.asarray(want)


def window(rng: np.random.Generator, axes: int) -> dict:
    """Return random attributes of windows; half of them pad as auto_pad says."""
    options: dict = {"strides": rng.integers(1, 4, axes).tolist(), "kernel_shape": rng.integers(1, 4, axes).tolist()}
    padding = rng.integers(4)
    if padding == 0:
        options["pads"] = [int(rng.integers(0, size)) for size in options["kernel_shape"] * 2]
    elif padding < 3:
        options["auto_pad"] = ("SAME_UPPER", "SAME_LOWER")[padding - 1]
        # onnxruntime cannot pad by fewer than no elements, which windows further apart than their size come to
        options["strides"] = [min(pair) for pair in zip(options["strides"], options["kernel_shape"], strict=True)]
    return options


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_agree(axes):
    rng = np.random.default_rng(axes)
    for _ in range(12):
        groups, c, f = (int(n) for n in rng.integers(1, 4, 3))
        options = window(rng, axes)
        options |= {"dilations": rng.integers(1, 3, axes).tolist()} if "auto_pad" not in options else {}
        x = rng.standard_normal((2, groups * c, *rng.integers(7, 10, axes))).astype("f4")
        weights = {"W": rng.standard_normal((groups * f, c, *options["kernel_shape"])).astype("f4")}
        weights |= {"b": rng.standard_normal(groups * f).astype("f4")} if rng.random() < 0.5 else {}
        got, want = both(graph("Conv", x, weights, group=groups, **options), x)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5, err_msg=str(options))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("free", [False, True])
def test_places_of_the_largest_agree_the_first_of_equal_ones(axes, order, free):
    """Few different numbers, so that most windows have several largest."""
    rng = np.random.default_rng([axes, order])
    for _ in range(8):
        options = window(rng, axes)
        if "auto_pad" not in options:
            options |= {"dilations": rng.integers(1, 3, axes).tolist()}
            options |= {} if free else {"ceil_mode": int(rng.integers(2))}
        elif free:
            del options["auto_pad"]
        x = rng.integers(0, 4, (2, 3, *rng.integers(7, 10, axes))).astype("f4")
        data = graph("MaxPool", x, {}, outputs=2, free=free, storage_order=order, **options)
        want = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        got = fastlstm.Session(from_onnx(data, {})).run({"x": x})
        for name, array in zip(("y", "z"), want, strict=True):
            assert got[name].dtype == array.dtype, name
            np.testing.assert_array_equal(got[name], array, err_msg=f"{name} {options}")


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_agree(op, axes):
    rng = np.random.default_rng([axes, op == "MaxPool"])
    for _ in range(20):
        options = window(rng, axes)
        options |= {"ceil_mode": int(rng.integers(2))} if "auto_pad" not in options else {}
        options |= (
            {"count_include_pad": int(rng.integers(2))} if op == "AveragePool" and "auto_pad" not in options else {}
        )
        x = rng.standard_normal((2, 3, *rng.integers(6, 10, axes))).astype("f4")
        got, want = both(graph(op, x, {}, **options), x)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=str(options))


def test_sizes_may_be_open_where_padding_does_not_ask_for_them():
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 8)).astype("f4")
    for options in ({"pads": [1, 0, 0, 1]}, {"auto_pad": "SAME_UPPER", "strides": [1, 1]}, {"strides": [2, 3]}):
        data = graph("MaxPool", x, {}, free=True, kernel_shape=[2, 3], **options)
        got, want = both(data, x)
        np.testing.assert_array_equal(got, want)


def test_what_is_not_honoured_is_refused_by_node_and_attribute():
    x = np.zeros((1, 2, 5, 6), "f4")
    cases = [
        (graph("MaxPool", x, {}, free=True, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), "ceil_mode"),
        (graph("MaxPool", x, {}, free=True, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"), "auto_pad"),
        (graph("AveragePool", x, {}, kernel_shape=[2, 2, 2]), "kernel_shape"),
    ]
    for data, words in cases:
        with pytest.raises(UnsupportedError, match=rf"'it': .*{words}"):
            from_onnx(data, {})

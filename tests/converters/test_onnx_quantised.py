"""DynamicQuantizeLSTM: an LSTM whose weights are codes, with the weights that they stand for."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import helper
from random_onnx import Case, draw, model

import fastlstm
from fastlstm.converters.from_onnx import from_onnx
from fastlstm.errors import ModelFileError, UnsupportedError

Array = np.ndarray
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P", "W_scale", "W_zero", "R_scale", "R_zero")


def quantised(weights: Array, dtype: str, by_column: bool, even: bool) -> tuple[Array, Array, Array]:
    """Return codes (D, K, 4H) of weights (D, 4H, K), with scales and zeros (D,) or (D, 4H); `even` codes are those of -63 to 63 around 0."""
    turned = weights.swapaxes(1, 2)
    axes = (1,) if by_column else (1, 2)
    each = (lambda a: a[:, None, :]) if by_column else (lambda a: a[:, None, None])
    if even:
        scale = (np.abs(turned).max(axes) / 63).astype(np.float32)
        return np.round(turned / each(scale)).astype(dtype), scale, np.zeros(scale.shape, dtype)
    low, high = np.minimum(turned.min(axes), 0), np.maximum(turned.max(axes), 0)
    info = np.iinfo(dtype)
    scale = ((high - low) / 255).astype(np.float32)
    zero = np.clip(np.round(info.min - low / scale), info.min, info.max).astype(dtype)
    codes = np.clip(np.round(turned / each(scale)) + each(zero.astype(int)), info.min, info.max).astype(dtype)
    return codes, scale, zero


def meant(codes: Array, scale: Array, zero: Array) -> Array:
    """Return the weights (D, 4H, K) that codes stand for."""
    each = lambda a: a.reshape(len(a), 1, -1).astype(np.float32)
    return ((codes.astype(np.float32) - each(zero)) * each(scale)).swapaxes(1, 2)


def drawn(seed: int, dtype: str, by_column: bool, even: bool = False) -> tuple[Any, Case]:
    """Return a graph of one DynamicQuantizeLSTM, and the LSTM that it stands for."""
    rng = np.random.default_rng(seed)
    while True:
        it = draw(rng, "LSTM", engine=True)
        if "X" in it.arrays and not it.attributes.get("activations"):
            break
    it.run_time, it.opset = ("X",), 14
    parts = {}
    for name in ("W", "R"):
        parts[name], parts[f"{name}_scale"], parts[f"{name}_zero"] = quantised(it.arrays[name], dtype, by_column, even)
        it.arrays[name] = meant(parts[name], parts[f"{name}_scale"], parts[f"{name}_zero"])
    held = {name: array for name, array in (it.arrays | parts).items() if name != "X"}
    names = [name if name in held or name == "X" else "" for name in INPUTS]
    wanted = [name if name in it.outputs else "" for name in ("Y", "Y_h", "Y_c")]
    node = helper.make_node("DynamicQuantizeLSTM", names, wanted, "node", domain="com.microsoft", **it.attributes)
    proto = model([node], {"X": ("f4", it.arrays["X"].shape)}, [name for name in wanted if name], held, it.opset)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto, it


def run(proto: Any, feeds: dict[str, Array]) -> dict[str, Array]:
    return fastlstm.Session(from_onnx(proto.SerializeToString(), {})).run(feeds)


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_it_is_the_lstm_of_the_weights_that_codes_stand_for(dtype, by_column):
    for seed in range(15):
        proto, it = drawn(seed, dtype, by_column)
        got = run(proto, it.feeds())
        assert set(got) == set(it.outputs)
        for name, want in it.expected().items():
            np.testing.assert_array_less(
                np.abs(got[name] - want) / np.maximum(1, np.abs(want)), 1e-5, err_msg=f"{seed}: {name}"
            )


@pytest.mark.parametrize("by_column", [False, True])
def test_onnxruntime_agrees_but_for_the_codes_of_its_inputs(by_column):
    """It quantises x and h too, to 8 bits with one scale a batch; larger codes overflow its sums of 16 bits on some CPUs, zeros beside 0 it refuses."""
    runtime = pytest.importorskip("onnxruntime")
    runtime.set_default_logger_severity(4)
    for seed in range(15):
        proto, it = drawn(seed, "int8", by_column, even=True)
        engine = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        want = dict(zip([one.name for one in engine.get_outputs()], engine.run(None, it.feeds()), strict=True))
        for name, got in run(proto, it.feeds()).items():
            np.testing.assert_allclose(got, want[name], atol=0.05, err_msg=f"{seed}: {name}")


def test_what_is_missing_or_odd_is_an_error_that_names_the_node():
    proto, it = drawn(0, "int8", True)
    for change, error in (
        (lambda node: node.input.__setitem__(8, ""), ModelFileError),
        (lambda node: node.attribute.add(name="odd", i=1, type=2), UnsupportedError),
    ):
        changed = type(proto)()
        changed.CopyFrom(proto)
        change(changed.graph.node[0])
        with pytest.raises(error, match="'node': DynamicQuantizeLSTM"):
            run(changed, it.feeds())

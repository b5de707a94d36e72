"""What holds for a model written as an ONNX graph."""

import models
import numpy as np
import onnx
import onnxruntime as runtime

import fastlstm
from fastlstm.converters import to_onnx
from fastlstm.converters.from_onnx import from_onnx

runtime.set_default_logger_severity(4)


def by_name(results, session) -> dict[str, np.ndarray]:
    return results if isinstance(results, dict) else {session.outputs[0].name: results}


def compare(model: fastlstm.Model, feeds: dict, opset: int | None = None, atol: float = 1e-5, **options) -> None:
    """Check one model: the checker, onnxruntime to `atol` times the largest of 1 and the value, and the bits after reading it again."""
    data = to_onnx.to_onnx(model, opset, **options)
    proto = onnx.load_model_from_string(data)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset or (opset is None and proto.opset_import[0].version >= to_onnx.OPSET)
    session, again = fastlstm.Session(model), fastlstm.Session(from_onnx(data, {}))
    assert [spec.name for spec in again.inputs] == [spec.name for spec in session.inputs]
    want, bits = (by_name(one.run(feeds), one) for one in (session, again))
    for name in want:
        assert models.same_bits(want[name], bits[name]), name
    engine = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in engine.get_outputs()]
    got = engine.run(names, {s.name: np.asarray(feeds[s.name]).astype(s.dtype) for s in session.inputs})
    for name, array in zip(names, got, strict=True):
        assert array.shape == want[name].shape and array.dtype == want[name].dtype, name
        a, b = array.astype(np.float64), want[name].astype(np.float64)
        off = np.abs(np.subtract(a, b, where=a != b, out=np.zeros_like(a)))
        np.testing.assert_array_less(off / np.maximum(1, np.abs(b)), atol, err_msg=name)

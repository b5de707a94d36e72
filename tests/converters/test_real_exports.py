"""Real models are written as ONNX graphs that onnxruntime runs with the same outputs, and that give the same bits when they are read again."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_written import compare
from test_real_cases import CASES, converted, named, params, recorded

import fastlstm
from fastlstm.errors import UnsupportedError


@pytest.mark.parametrize(("case", "model"), params("file", "ok"))
def test_what_is_imported_is_exported_and_read_again(case, model, monkeypatch):
    """A Keras file whose masks become lengths has rows that are padded at their end."""
    imported, records = converted(case, model, monkeypatch)
    options = {"right_padded": True} if needs_lengths(imported) else {}
    compared = 0
    for record in records:
        if record.startswith("io"):
            feeds = named(recorded(CASES / case["id"] / record, "in_"), imported.graph.inputs, case)
            compare(imported, feeds, atol=max(1e-5, case["atol"]), **options)
            compared += 1
    assert compared


def needs_lengths(model: fastlstm.Model) -> bool:
    from fastlstm.converters.to_onnx import to_onnx

    try:
        to_onnx(model)
    except UnsupportedError as error:
        assert "right_padded=True" in str(error)
        return True
    return False

"""Cells that a graph spells out: recognised however they are written, left alone where they are anything else; against ONNX Runtime."""

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from spelled_cells import cell  # noqa: E402

import fastlstm  # noqa: E402
from fastlstm.converters.from_onnx import from_onnx  # noqa: E402

SEEDS = range(1500 if os.environ.get("FASTLSTM_FULL") else 60)
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

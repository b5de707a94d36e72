"""The node tests of ONNX's own backend suite, as the installed `onnx` package makes them, for every operator that docs/supported.md lists.

Each passes, or is refused for what docs/supported.md says; none fails. FASTLSTM_FULL=1 runs them all, else a seeded third.
"""

import os
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import numpy_helper

import fastlstm
from fastlstm.converters.from_onnx import from_onnx, walk
from fastlstm.converters.onnx_graph import full_name, handlers
from fastlstm.errors import UnsupportedError

FULL = os.environ.get("FASTLSTM_FULL", "") not in ("", "0")
SHARE = 1 if FULL else 3
# what docs/supported.md says is refused; a refusal that names none of these is a failure
REFUSED = (
    "BFLOAT16", "FLOAT8", "FLOAT4", "INT4", "INT2", "STRING", "to=16", "to=17", "to=18", "to=19", "to=20", "to=21", "to=22", "to=23", "to=24",
    "to=25", "to=26", "sequence", "optional", "training_mode", "output Indices", "Optional", "its input 'split' must be a constant",
)  # fmt: skip
# outputs of several values in float16, each rounded once here, and once in every step there
HALVES = {"test_attention_4d_causal_fp16_expanded"}


def node_tests() -> list[Any]:
    """Return the cases whose operators are all ours, those that spell out a function among them."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    ours = lambda case: all(full_name(n.domain, n.op_type) in handlers for n in walk(case.model.graph.node))
    return [case for case in cases if ours(case) and case.name not in HALVES]


def run(case: Any) -> None:
    """Run a case and compare its outputs within the tolerance that it comes with."""
    session = fastlstm.Session(from_onnx(case.model.SerializeToString(), {}))
    array = lambda value: numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    for inputs, outputs in case.data_sets:
        feeds = {spec.name: array(value) for spec, value in zip(case.model.graph.input, inputs, strict=True)}
        results = session.run(feeds)
        for spec, value in zip(case.model.graph.output, outputs, strict=True):
            got, want = results[spec.name], array(value)
            assert (got.dtype, got.shape) == (want.dtype, want.shape), f"{case.name}: {got.dtype} {got.shape}"
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol, err_msg=case.name)


def test_every_node_test_of_our_operators_passes_or_is_refused_as_documented(capsys):
    counts: Counter[str] = Counter()
    failed, covered = [], set()
    for number, case in enumerate(node_tests()):
        if number % SHARE:
            continue
        try:
            run(case)
            counts["passed"] += 1
            covered |= {full_name(n.domain, n.op_type) for n in walk(case.model.graph.node)}
        except UnsupportedError as error:
            counts["refused"] += 1
            if not any(word in str(error) for word in REFUSED):
                failed.append(f"{case.name} is refused: {error}")
        except Exception as error:
            failed.append(f"{case.name}: {type(error).__name__}: {error}")
    with capsys.disabled():
        print(f"\nONNX node tests: {counts['passed']} passed, {counts['refused']} refused, {len(failed)} failed")
    assert not failed, "\n".join(failed)
    assert counts["passed"] >= (1000 if FULL else 300)
    if FULL:
        missing = set(handlers) - covered - UNTESTED
        assert not missing, f"no node test passed for {sorted(missing)}"


# operators without a node test of tensors alone in onnx 1.23: tests/converters/test_onnx_control.py and test_from_onnx.py have them
UNTESTED = {
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence",
    "com.microsoft.DynamicQuantizeLSTM",
}  # fmt: skip

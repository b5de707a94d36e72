"""The node tests of ONNX's own backend suite whose operators are ours."""

import warnings
from typing import Any

from fastlstm.converters.from_onnx import walk
from fastlstm.converters.onnx_graph import full_name, handlers


def node_tests() -> list[Any]:
    """Return the cases of the installed `onnx` package whose operators are all ours, those that spell out a function among them."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return [
        case for case in cases if all(full_name(n.domain, n.op_type) in handlers for n in walk(case.model.graph.node))
    ]

"""Damaged and hostile ONNX graphs: mutations in processes of their own, and graphs of thousands of nodes in time linear in them.

CI loads a sample; FASTLSTM_FULL=1 loads 100,000 mutations. The harness is a script: hostile_onnx.py.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import hostile_onnx
from onnx import TensorProto, helper
from random_onnx import model

from fastlstm.converters.from_onnx import from_onnx
from fastlstm.errors import FastLSTMError

FULL = os.environ.get("FASTLSTM_FULL", "") not in ("", "0")
SCRIPT = Path(hostile_onnx.__file__)


def harness(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["", "-O"])
def test_mutated_graphs_give_a_model_or_our_error_and_nothing_else(option, demo_models):
    size = ["--count", "100000", "--nodes"] if FULL else ["--count", "800", "--seconds", "8"]
    seed = ["--seed", "2" if option else "1"]
    done = harness(*filter(None, [option]), str(SCRIPT), *size, *seed, str(demo_models / "co2_season.onnx"))
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    print(done.stdout)
    loads, models = (int(done.stdout.split()[k]) for k in (0, 2))
    assert loads >= 100 and models >= 5


def test_the_harness_sees_a_rule_broken():
    """What loads is replaced; test_keras_hostile.py breaks each of the rules, which are those of hostile.py."""
    program = (
        f"import sys; sys.path[:0] = [{str(SCRIPT.parent)!r}]\n"
        "import hostile_onnx\n"
        "left, real = [0] * 14, hostile_onnx.from_onnx\n"
        "def broken(data, *rest):\n"
        "    if left: left.pop(); return real(data, *rest)\n"
        "    raise ValueError('odd')\n"
        "hostile_onnx.from_onnx = broken\n"
        "hostile_onnx.main(['--count', '1'])\n"
    )
    done = harness("-c", program)
    assert done.returncode != 0
    assert "seed 1, number 0: a foreign exception: ValueError: odd" in done.stderr


# ---- time ---------------------------------------------------------------------------------------------------
def chain(count: int) -> Any:
    nodes = [helper.make_node("Add", [f"v{k - 1}" if k else "x", "x"], [f"v{k}"], "same") for k in range(count)]
    return model(nodes, {"x": ("f4", ("t", "b", 4))}, [f"v{count - 1}"])


def constants(count: int) -> Any:
    nodes = [helper.make_node("Add", [f"v{k - 1}" if k else "one", "one"], [f"v{k}"]) for k in range(count)]
    nodes.append(helper.make_node("Mul", ["x", f"v{count - 1}"], ["y"]))
    return model(nodes, {"x": ("f4", ("t", "b", 4))}, ["y"], {"one": np.ones(4, "f4")})


def recurrences(count: int) -> Any:
    """LSTMs whose zero states are made of shapes, as exporters do."""
    nodes = []
    for k in range(count // 6):
        x = f"y{k - 1}" if k else "x"
        nodes += [
            helper.make_node("Shape", [x], [f"s{k}"]),
            helper.make_node("Gather", [f"s{k}", "1"], [f"b{k}"]),
            helper.make_node("Concat", ["1", f"b{k}", "4"], [f"c{k}"], axis=0),
            helper.make_node("ConstantOfShape", [f"c{k}"], [f"h{k}"]),
            helper.make_node("LSTM", [x, "W", "R", "", "", f"h{k}", f"h{k}"], [f"Y{k}"], hidden_size=4),
            helper.make_node("Squeeze", [f"Y{k}", "1"], [f"y{k}"]),
        ]
    held = {"1": np.array([1]), "4": np.array([4]), "W": np.ones((1, 16, 4), "f4"), "R": np.ones((1, 16, 4), "f4")}
    return model(nodes, {"x": ("f4", ("t", "b", 4))}, [f"y{count // 6 - 1}"], held)


def branches(count: int) -> Any:
    nodes = []
    for k in range(count // 3):
        x = f"y{k - 1}" if k else "x"
        result = [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)]
        then, other = (helper.make_graph([helper.make_node(op, [x], ["a"])], op, [], result) for op in ("Neg", "Abs"))
        nodes.append(helper.make_node("If", ["c"], [f"y{k}"], then_branch=then, else_branch=other))
    return model(nodes, {"x": ("f4", ("t", 4)), "c": ("?", ())}, [f"y{count // 3 - 1}"])


def functions(count: int) -> Any:
    """Functions each of which calls the next: refused for their depth, after all were looked at."""
    proto = model([helper.make_node("F0", ["x"], ["y"], domain="mine")], {"x": ("f4", (3,))}, ["y"])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    proto.opset_import.append(opsets[1])
    for k in range(count):
        node = (
            helper.make_node(f"F{k + 1}", ["a"], ["b"], domain="mine")
            if k + 1 < count
            else helper.make_node("Neg", ["a"], ["b"])
        )
        proto.functions.append(helper.make_function("mine", f"F{k}", ["a"], ["b"], [node], opsets))
    return proto


def seconds(data: bytes) -> float:
    """Return the seconds of a conversion, without the collector's: that goes through what all tests before this one left."""
    gc.disable()
    began = time.process_time()
    try:
        from_onnx(data, {})
    except FastLSTMError as error:
        assert "one within the other" in str(error)
    finally:
        gc.enable()
    return time.process_time() - began


@pytest.mark.parametrize("make", [chain, constants, recurrences, branches, functions])
def test_time_is_linear_in_nodes(make: Callable[[int], Any]):
    """Ten times the nodes take about ten times as long, where time in their square would be a hundred times."""
    few, many = (make(count).SerializeToString() for count in ((1000, 10_000) if FULL else (200, 2000)))
    seconds(few)
    assert min(seconds(many) for _ in range(2)) < 30 * min(seconds(few) for _ in range(2))

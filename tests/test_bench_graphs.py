"""`python -m bench.graphs`: what it times agrees first; a recorded stream is stepped, other files are called."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if not pytest.importorskip("importlib.util").find_spec("bench"):
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

import onnx
from onnx import TensorProto, helper

from bench import graphs
from bench.networks import Network
from bench.onnx_files import sequence_file, step_file
from fastlstm.errors import FastLSTMError

BRIEF = 1e-3


@pytest.fixture
def step(tmp_path):
    path = tmp_path / "step.onnx"
    path.write_bytes(step_file(Network(1, 1, 3, 5, dense=2)))
    return path


def test_a_graph_with_states_is_stepped(step):
    row = graphs.timed(step, seconds=BRIEF)
    assert (row.name, row.what) == ("step", "step")
    assert row.ours > 0 and row.theirs > 0


def test_a_recorded_case_is_called_with_its_inputs_or_stepped_from_its_stream(step, tmp_path):
    (tmp_path / "model.onnx").write_bytes(step.read_bytes())
    x, state = np.ones((1, 1, 3), np.float32), np.ones((1, 1, 5), np.float32)
    np.savez(tmp_path / "io.npz", in_X=x, in_h=state, in_c=state)
    assert graphs.timed(tmp_path, seconds=BRIEF).what == "call"
    np.savez(tmp_path / "stream.npz", seqin_X=np.stack([x, x]), init_h=state, init_c=state)
    assert graphs.timed(tmp_path, seconds=BRIEF).what == "step"


def test_outputs_that_differ_are_not_timed(step, monkeypatch):
    monkeypatch.setattr(graphs, "_stepped", lambda *_: lambda: {"Y": np.full((1, 1, 2), 9, np.float32)})
    with pytest.raises(FastLSTMError, match=r"step\.onnx: output 'Y' differs from onnxruntime's by more than 0\.0009"):
        graphs.timed(step, seconds=BRIEF)


def test_the_command_says_what_it_cannot_time_and_times_the_rest(step, tmp_path, capsys):
    node = helper.make_node("Identity", ["n"], ["m"])
    given, made = (helper.make_tensor_value_info(name, TensorProto.INT64, [2]) for name in "nm")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [given], [made]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "integers.onnx")  # fmt: skip
    (tmp_path / "sequence.onnx").write_bytes(sequence_file(Network(2, 3, 3, 5)))
    names = ("integers.onnx", "absent.onnx", "sequence.onnx")
    assert graphs.main([*(str(tmp_path / name) for name in names), "--seconds", str(BRIEF)]) == 2
    said = capsys.readouterr()
    assert "input 'n' has tensor(int64): pass --inputs FILE.npz" in said.err
    assert "absent.onnx: cannot be read" in said.err
    assert "| sequence | call |" in said.out and "geometric mean" in said.out

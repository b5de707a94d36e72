"""`python -m bench.nodes`: a seed gives the same nodes, each agrees with onnxruntime before it is timed."""

from itertools import islice

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if not pytest.importorskip("importlib.util").find_spec("bench"):
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from bench import graphs, nodes
from fastlstm.errors import FastLSTMError

SMALL = nodes.Node("GRU", 2, 3, 5, 4, "bidirectional", True, "reset before")


def test_a_seed_gives_the_same_nodes_and_every_kind():
    first, again = (list(islice(nodes.drawn(seed), 200)) for seed in (3, 3))
    assert first == again != list(islice(nodes.drawn(4), 200))
    assert {node.op for node in first} == set(nodes.GATES)
    assert {node.variant for node in first} == {"", "reset after", "reset before", "other activations"}
    assert {node.direction for node in first} == {"forward", "reverse", "bidirectional"}
    assert all(node.B * node.T * (node.I + node.H) * node.H * nodes.GATES[node.op] <= nodes.MOST for node in first)


def test_both_are_timed():
    ours, theirs = nodes.timed(SMALL, 0, seconds=1e-3)
    assert ours > 0 and theirs > 0


def test_what_differs_is_not_timed(monkeypatch):
    monkeypatch.setattr(graphs, "WITHIN", -1.0)
    with pytest.raises(FastLSTMError, match="differs from onnxruntime"):
        nodes.timed(SMALL, 0, seconds=1e-3)


def test_the_table_counts_nodes_and_refuses_none(capsys, monkeypatch):
    monkeypatch.setattr(nodes, "drawn", lambda seed: iter([SMALL, SMALL]))
    assert nodes.main(["--nodes", "2", "--seconds", "0.001"]) == 0
    assert "geometric mean of 2:" in capsys.readouterr().out
    assert nodes.main(["--nodes", "0"]) == 2
    assert "expected at least 1" in capsys.readouterr().err

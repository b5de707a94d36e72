"""The table's rows beside onnxruntime, one thread: outputs compared first, the two interleaved in one process.

`python -m pytest bench` times each row and fails where onnxruntime is faster. Only ratios within a run count.
"""

import pytest

from bench.measure import OURS, measure
from bench.peers import installed
from bench.rows import MORE, TABLE, Row

pytest.importorskip("onnxruntime")
SECONDS = 2.0


@pytest.fixture(scope="module")
def peers():
    return installed(1, [OURS, "onnxruntime"])


@pytest.mark.parametrize("row", [*TABLE, *MORE], ids=lambda row: row.name)
def test_at_least_as_fast_as_onnxruntime(row: Row, peers, benchmark):
    facts = measure(row, peers, SECONDS, threads=1)
    assert facts["absent"] == {}, "not timed where outputs differ"
    benchmark.extra_info.update({key: facts[key] for key in ("us", "difference", "ratio", "limit", "share")})
    benchmark(row.runners(peers[OURS])[OURS].call)
    assert facts["ratio"] >= 1.0, f"{facts['best_peer']} is faster: {facts['ratio']:.2f}x"

"""A sample of `differential_torch`, which says what is compared."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

from differential_torch import KINDS, differential


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_gives_what_torch_gives(exporter):
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    seen = differential(2 * len(KINDS), exporter, seed=1)
    agreed, refused, left = (
        sum(count for what, count in seen.items() if word in what)
        for word in (": agreed", ": refused", ": not exported")
    )
    assert refused == 0, seen
    assert agreed + left == 2 * len(KINDS)
    assert agreed > 0
    assert left == 0 or exporter == "dynamo"  # which torch itself fails in for many recurrent modules

"""A sample of `differential_torch`, which says what is compared."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

from differential_torch import KINDS, differential  # noqa: E402


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_gives_what_torch_gives(exporter):
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    seen = differential(2 * len(KINDS), exporter, seed=1)
    refused = {what: count for what, count in seen.items() if "refused" in what or "because" in what}
    assert not refused
    assert sum(count for what, count in seen.items() if what.endswith("agreed")) >= len(KINDS)

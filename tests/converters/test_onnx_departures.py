"""Where onnxruntime departs from the specification: we do not, it still does, and docs/supported.md says so with the numbers."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from departures_onnxruntime import INEXACT, departures, table


@pytest.mark.parametrize("one", departures(), ids=lambda one: one.about)
def test_ours_is_the_number_of_the_specification_and_onnxruntimes_is_not(one):
    assert one.ours() == pytest.approx(one.specified, rel=1e-6, nan_ok=True)
    theirs = one.onnxruntime()
    departs = isinstance(theirs, str) or not np.isclose(theirs, one.specified, rtol=1e-4, equal_nan=True)
    assert departs or one.about.startswith(INEXACT)


def test_the_documented_table_is_this_one():
    """But for what depends on the CPU."""
    documented = (Path(__file__).parents[2] / "docs" / "supported.md").read_text()
    for row in table():
        told = row if INEXACT not in row else row[: row.rindex("|", 0, -2)]
        assert told in documented, row

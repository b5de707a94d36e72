"""The study that trains beside Keras: its data do not leak, its table tells a miss, and its first epochs agree."""

import numpy as np
import pytest
from training import networks

from bench import parity
from bench.parity import Curves


@pytest.mark.parametrize("name", parity.SERIES)
def test_nothing_that_is_validated_was_learnt(name):
    x, y, x_validated, y_validated = parity.SERIES[name].data()
    assert len(x) == len(y)
    assert len(x_validated) == len(y_validated)
    assert len(x) > len(x_validated) > 40
    # text repeats itself; numbers do not
    if name in ("sunspots", "co2"):
        seen = {row.tobytes() for row in x}
        assert not [row for row in x_validated if row.tobytes() in seen]


@pytest.mark.parametrize(("ours", "close"), [([0.5, 0.509], True), ([0.5, 0.511], False), ([0.489, 0.5], False)])
def test_two_percent_of_the_last_and_of_the_lowest_loss_count(ours, close):
    assert parity.within([Curves(ours, [0.5, 0.5])]) is close


def test_its_table_has_a_row_for_each_seed_and_the_means():
    rows = parity.table({"sunspots": [Curves([0.4, 0.3], [0.4, 0.2]), Curves([0.1, 0.2], [0.2, 0.2])]}).splitlines()
    assert rows[2:] == [
        "| sunspots | 0 | 0.30000 | 0.20000 | 1.5000 | 0.30000 | 0.20000 | 1.5000 |",
        "| sunspots | 1 | 0.20000 | 0.20000 | 1.0000 | 0.10000 | 0.20000 | 0.5000 |",
        "| sunspots | mean | 0.25000 | 0.20000 | 1.2500 | 0.20000 | 0.20000 | 1.0000 |",
    ]


@pytest.mark.parametrize("name", ["sunspots", "co2"])
def test_the_first_epochs_are_those_of_keras(name):
    networks.keras("float32")
    curves = parity.train(parity.SERIES[name], seed=0, epochs=2)
    np.testing.assert_allclose(curves.ours, curves.theirs, rtol=1e-3)

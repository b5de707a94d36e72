"""Constraints hold after each step, as Keras's do."""

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import constraints, layers, regularizers
from fastlstm.errors import InputError

CONSTRAINTS = {
    "max norm": ("MaxNorm", {"max_value": 0.5}),
    "max norm of rows": ("MaxNorm", {"max_value": 0.25, "axis": 1}),
    "max norm of all": ("MaxNorm", {"max_value": 0.75, "axis": [0, 1]}),
    "non neg": ("NonNeg", {}),
    "unit norm": ("UnitNorm", {}),
    "min max norm": ("MinMaxNorm", {"min_value": 0.5, "max_value": 0.75, "rate": 0.5}),
}


def _network(k, constraint, dtype):
    return [
        k.Input((6, 3), dtype=dtype),
        k.layers.LSTM(5, kernel_constraint=constraint, recurrent_constraint=constraint, dtype=dtype),
        k.layers.Dense(2, kernel_constraint=constraint, bias_constraint="non_neg", dtype=dtype),
    ]


class Ours:
    layers, regularizers, constraints = layers, regularizers, constraints
    Sequential, Input = fastlstm.Sequential, fastlstm.Input


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_twenty_steps_agree_with_keras(name):
    k = networks.keras("float64")
    kind, options = CONSTRAINTS[name]
    made = [m.Sequential(_network(m, getattr(m.constraints, kind)(**options), "float64")) for m in (Ours, k)]
    network, twin = made
    twin.set_weights(network.get_weights())
    network.compile(fastlstm.optimizers.SGD(2.0**-3), "mse")
    twin.compile(k.optimizers.SGD(2.0**-3), "mse")
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = rng.standard_normal((4, 6, 3)), rng.standard_normal((4, 2))
        network.train_on_batch(x, y)
        twin.train_on_batch(x, y)
    assert networks.worst(network, twin) < 1e-8


def test_what_constraints_say_holds_after_a_step():
    network = fastlstm.Sequential(
        [
            fastlstm.Input((4,)),
            layers.Dense(3, kernel_constraint="unit_norm", bias_constraint=lambda w: np.clip(w, 0.25, 0.5)),
            layers.Dense(2, kernel_constraint=constraints.non_neg(), trainable=False),
        ]
    )
    frozen = network.get_weights()[2]
    network.compile("sgd", "mse")
    network.fit(np.ones((8, 4)), np.zeros((8, 2)), verbose=0)
    W, b, kept, _ = network.get_weights()
    np.testing.assert_allclose(np.linalg.norm(W, axis=0), 1, rtol=1e-6)
    assert (b >= 0.25).all() and (b <= 0.5).all()
    np.testing.assert_array_equal(kept, frozen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(2, kernel_constraint="max"), "'max' is no constraint; known: 'MaxNorm'"),
        (lambda: layers.Dense(2, kernel_constraint=3), "3 is no constraint"),
        (lambda: constraints.MaxNorm(-1), "MaxNorm: max_value=-1: expected a number of at least 0"),
    ],
)
def test_what_is_no_constraint_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

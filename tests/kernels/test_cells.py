"""The cells with default activations against float64, through a session: one step whose pre-activations are the inputs themselves.

W is the identity and b and U are zero, so that b + x W + h U is x to the bit: what differs from float64 is the cell's own rounding.
"""

from collections.abc import Mapping

import models
import numpy as np
import pytest

import fastlstm
from fastlstm.graph import Node

BOUND = 3e-7
H = 11  # a whole vector of units and a part of one, or less than one
SCALES = (0.01, 0.1, 0.5, 1, 2, 3, 5, 10, 30, 100)
ROWS = 4000
DIFFERENT = np.array(
    [0.0, 1e-40, 1e-30, 1e-7, 1e-3, 0.5, 1, 8.4, 15, 43, 88.4, 1e4, 1e38], "f4"
)  # and with either sign
Array = np.ndarray


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x.astype(np.float64)))
    return np.where(x < 0, e, 1) / (1 + e)


def tanh(x: Array) -> Array:
    return np.tanh(x.astype(np.float64))


def step(kind: str, gates: list[Array], states: Mapping[str, Array], **ws: Array) -> list[Array]:
    """Return the final states after one step, given the pre-activations of each gate (rows, H)."""
    n = len(gates)
    inputs = [("x", "float32", ("B", 1, n * H)), *((f"{role}0", "float32", ("B", H)) for role in states)]
    ws = {"W": np.eye(n * H, dtype="f4"), "U": np.zeros((H, n * H), "f4")} | ws
    biases = ("", "bn" if "bn" in ws else "") if kind == "GRU" else ("",)
    node = Node(
        "n", kind, ("x", "W", "U", *biases, *(f"{role}0" for role in states)), ("", *states), {"batch_first": True}
    )
    session = fastlstm.Session(models.model([node], inputs, list(states), ws))
    results = session.run({"x": np.concatenate(gates, 1)[:, None], **{f"{role}0": v for role, v in states.items()}})
    return [results[role] for role in states]


def lstm(i, f, g, o, c) -> tuple[Array, Array]:
    """Return h and c, in float32."""
    h, c = step("LSTM", [i, f, g, o], {"h": np.zeros_like(c), "c": c})
    return h, c


def off_by(now: Array, i: Array, f: Array, g: Array, c: Array) -> Array:
    """Return the error of the cell state after a step, in units of 1 or the state before or after, whichever is largest.

    The state before counts: where most of it is forgotten or taken off, the rounding of float32 is that of what was there.
    """
    want = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return np.abs(now - want) / np.maximum(np.maximum(1, np.abs(c)), np.abs(want))


def full(value: float, like: Array) -> Array:
    return np.full_like(like, value)


def draws(count: int, scale: float, seed: int) -> list[Array]:
    rng = np.random.default_rng([seed, int(scale * 100)])
    return [(rng.standard_normal((ROWS, H)) * scale).astype("f4") for _ in range(count)]


def every(count: int) -> list[Array]:
    """Return values of every magnitude and sign beside each other, at random."""
    rng = np.random.default_rng(0)
    return [rng.choice(np.concatenate([DIFFERENT, -DIFFERENT]), (ROWS, H)) for _ in range(count)]


def grid() -> Array:
    """Return values dense around 0, up to where float32's sigmoid is 0, and in every binade."""
    x = np.concatenate(
        [np.linspace(-20, 20, 40 * ROWS), np.linspace(-120, 120, 10 * ROWS), np.geomspace(1e-40, 1e38, ROWS)]
    )
    x = np.concatenate([x, -x])
    return x[: len(x) // H * H].reshape(-1, H).astype("f4")


def test_each_sigmoid_and_tanh_of_an_lstm_is_within_3e_7():
    """Saturated gates let one function alone through: sigma(-200) and tanh(0) are 0, sigma(200) and tanh(20) are 1."""
    x = grid()
    zero, off, on = full(0, x), full(-200, x), full(200, x)
    for name, got, want in (
        ("i", lstm(x, off, full(20, x), on, zero)[1], sigmoid(x)),
        ("f", lstm(off, x, zero, on, full(1, x))[1], sigmoid(x)),
        ("g", lstm(on, off, x, on, zero)[1], tanh(x)),
        ("o", lstm(off, on, zero, x, full(30, x))[0], sigmoid(x)),
        ("c", lstm(off, on, zero, on, x)[0], tanh(x)),
    ):
        assert np.abs(got - want).max() <= BOUND, name


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("state", [0.3, 1, 10, 1e3, 1e6])
def test_the_cell_state_is_within_3e_7_of_the_larger_of_1_and_the_state(scale, state):
    """And h within 3e-7 of what float64 makes of that cell state."""
    i, f, g, o, unit = draws(5, scale, 0)
    c = (unit / np.float32(scale) * np.float32(state)).astype("f4")
    h, now = lstm(i, f, g, o, c)
    assert off_by(now, i, f, g, c).max() <= BOUND
    assert np.all(np.abs(h - sigmoid(o) * tanh(now)) <= BOUND)


def test_the_cell_state_is_within_3e_7_where_roundings_count_most():
    """A state near 1 that is kept, and nearly 1 added or taken off: every rounding is as large as it can be beside 1."""
    rng = np.random.default_rng(2)
    bounds = (5, 9), (4, 7), (5, 9), (0.9, 1.2)
    i, f, g, c = (rng.uniform(low, high, (20 * ROWS, H)).astype("f4") for low, high in bounds)
    for sign in (np.float32(1), np.float32(-1)):
        now = lstm(i, f, sign * g, f, c)[1]
        assert off_by(now, i, f, sign * g, c).max() <= BOUND


def test_an_lstm_of_every_magnitude_at_once_is_within_3e_7():
    i, f, g, o, c = every(5)
    h, now = lstm(i, f, g, o, c)
    assert off_by(now, i, f, g, c).max() <= BOUND
    assert np.all(np.abs(h - sigmoid(o) * tanh(now)) <= BOUND)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("state", [0.3, 1, 10])
def test_h_of_a_gru_is_within_3e_7_of_the_larger_of_1_and_h_before(scale, state):
    """n_h is bn, h U being zero."""
    z, r, n, unit = draws(4, scale, 1)
    h = (unit / np.float32(scale) * np.float32(state)).astype("f4")
    for bn in (None, np.linspace(-1, 1, H).astype("f4")):
        ws = {} if bn is None else {"bn": bn}
        (got,) = step("GRU", [z, r, n], {"h": h}, **ws)
        want = sigmoid(z) * h + sigmoid(-z) * tanh(n + sigmoid(r) * (0 if bn is None else bn))
        assert np.all(np.abs(got - want) <= BOUND * np.maximum(1, np.abs(h)))


def test_each_sigmoid_and_tanh_of_a_gru_is_within_3e_7():
    x = grid()
    zero, off, on = full(0, x), full(-200, x), full(200, x)
    one = np.ones(H, "f4")
    for name, got, want in (
        ("z", step("GRU", [x, zero, zero], {"h": full(1, x)})[0], sigmoid(x)),
        ("r", step("GRU", [off, x, zero], {"h": zero}, bn=one)[0], tanh(sigmoid(x))),
        ("n", step("GRU", [off, on, x], {"h": zero})[0], tanh(x)),
    ):
        assert np.abs(got - want).max() <= BOUND, name


def test_h_of_an_rnn_is_within_3e_7():
    x = grid()
    assert np.abs(step("RNN", [x], {"h": full(0, x)})[0] - tanh(x)).max() <= BOUND

"""Dropout inside recurrent layers, beside Keras: where both draw the same masks, steps of training end at the same weights.

A recurrent layer of Keras 3 with recurrent dropout draws a mask for each gate, of h and of x; without it one of x for all gates, unless
`implementation` is 1. SimpleRNN has one gate.
"""

from zlib import crc32

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import layers
from fastlstm.errors import InputError
from fastlstm.training import step
from fastlstm.training.unfused import TrainingBuild

B, T, I, H = 4, 7, 3, 5
OF_X, OF_H = 0.25, 0.5  # rates, by which masks are told apart; both kept shares are powers of 2 or near


def mask(layer: str, role: str, gate: int, shape: tuple[int, int], rate: float) -> np.ndarray:
    """Return what a gate of a layer multiplies x or h by, the same for both sides."""
    rng = np.random.default_rng(crc32(f"{layer} {role} {gate}".encode()))
    return np.where(rng.random(shape) < rate, 0.0, float(np.float32(1 / (1 - rate))))


def drawn(draw, sizes, dtype, random):
    """In place of `step.drawn`."""
    shape = tuple(sizes.get(dim, dim) for dim in draw.shape)
    layer, role = draw.name.rsplit(".", 1)
    return (
        np.stack([mask(layer, role, k, (shape[1], shape[-1]), draw.rate) for k in range(shape[0])])
        .reshape(shape)
        .astype(dtype)
    )


def patch(monkeypatch, keras, cells: dict) -> None:
    """Let both draw the masks that `mask` gives; `cells` of Keras by the name of our layer."""
    from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

    names = {id(cell): name for name, cell in cells.items()}

    def create(cell, like, rate):
        count = getattr(cell, "dropout_mask_count", None)
        role = "dropout" if rate == OF_X else "recurrent_dropout"
        arrays = [
            keras.ops.convert_to_tensor(mask(names[id(cell)], role, k, (B, like.shape[-1]), rate), like.dtype)
            for k in range(count or 1)
        ]
        return arrays if count else arrays[0]

    monkeypatch.setattr(DropoutRNNCell, "_create_dropout_mask", create)
    monkeypatch.setattr(step, "drawn", drawn)


BOTH = {"dropout": OF_X, "recurrent_dropout": OF_H}
CASES = {
    "lstm": lambda L: L.LSTM(H, name="r", **BOTH),
    "lstm, of h alone": lambda L: L.LSTM(H, name="r", recurrent_dropout=OF_H, return_sequences=True, go_backwards=True),
    "lstm, of x alone": lambda L: L.LSTM(H, name="r", dropout=OF_X),
    "lstm, implementation 1": lambda L: L.LSTM(H, name="r", dropout=OF_X, implementation=1, use_cudnn=False),
    "gru": lambda L: L.GRU(H, name="r", return_sequences=True, **BOTH),
    "gru, reset before": lambda L: L.GRU(H, name="r", reset_after=False, **BOTH),
    "simple": lambda L: L.SimpleRNN(H, name="r", **BOTH),
    "both ways": lambda L: L.Bidirectional(
        L.LSTM(H, name="r", return_sequences=True, **BOTH), backward_layer=L.LSTM(H, name="back", return_sequences=True, go_backwards=True, **BOTH)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_same_masks_give_the_steps_of_keras(case, monkeypatch):
    keras = networks.keras("float64")
    make = CASES[case]
    # the masking layer leaves some rows steps without values
    ours = fastlstm.Sequential([fastlstm.Input((T, I), dtype="float64"), layers.Masking(9.0), make(layers)])
    twin = keras.Sequential([keras.Input((T, I)), keras.layers.Masking(9.0), make(keras.layers)])
    twin.set_weights(ours.get_weights())
    layer = twin.layers[-1]
    parts = {"r": layer.forward_layer, "back": layer.backward_layer} if case == "both ways" else {"r": layer}
    patch(monkeypatch, keras, {name: part.cell for name, part in parts.items()})
    ours.compile(fastlstm.optimizers.SGD(0.5), "mse")
    twin.compile(keras.optimizers.SGD(0.5), "mse")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((B, T, I))
    x[1, 4:], x[2, :2] = 9.0, 9.0
    y = rng.standard_normal((B, *(T if d is None else d for d in ours.output_shape[1:])))
    for _ in range(4):
        assert ours.train_on_batch(x, y) == pytest.approx(float(twin.train_on_batch(x, y)), rel=1e-6)
    assert networks.worst(ours, twin) < 1e-8
    np.testing.assert_allclose(ours.predict(x, verbose=0), twin.predict(x, verbose=0), atol=1e-8)  # which drops nothing


def test_a_mask_for_each_gate_is_drawn_anew_for_each_batch():
    model = fastlstm.Sequential([layers.Input((None, I)), layers.LSTM(H, **BOTH), layers.Dense(1)])
    seen: list[dict] = []

    def noting(draw, sizes, dtype, random):
        found = usual(draw, sizes, dtype, random)
        seen[-1][draw.name] = found
        return found

    usual, step.drawn = step.drawn, noting
    try:
        model.compile("sgd", "mse")
        for _ in range(2):
            seen.append({})
            model.train_on_batch(np.zeros((64, T, I)), np.zeros((64, 1)))
    finally:
        step.drawn = usual
    first, second = seen
    of_h = first["lstm.recurrent_dropout"]
    assert of_h.shape == (4, 64, H) and first["lstm.dropout"].shape == (4, 64, 1, I)
    assert set(np.unique(of_h)) == {0.0, 2.0} and abs(np.mean(of_h == 0) - OF_H) < 0.06
    assert not any(np.array_equal(of_h[0], other) for other in of_h[1:])
    assert not np.array_equal(of_h, second["lstm.recurrent_dropout"])


@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_an_even_mask_of_ones_drops_nothing(make):
    """At the bits of one: products gate by gate have the chains that products of all gates have."""
    results = []
    for rate in (0.0, 1e-12):
        model = fastlstm.Sequential([layers.Input((T, I)), make(19, recurrent_dropout=rate, name="r")])
        rng = np.random.default_rng(0)
        model.set_weights([rng.standard_normal(w.shape).astype("f4") * 0.5 for w in model.get_weights()])
        gradient = fastlstm.value_and_grad(model, "mse")
        results.append(gradient(rng.standard_normal((B, T, I)), rng.standard_normal((B, 19))))
    (loss, plain), (other, dropped) = results
    assert loss == other
    for name, gradient in plain.items():
        np.testing.assert_allclose(dropped[name], gradient, rtol=2e-5, atol=1e-6)


def test_rates_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"'lstm' \(LSTM\): recurrent_dropout=1.0: expected a rate"):
        layers.LSTM(H, recurrent_dropout=1.0, name="lstm")


def test_nothing_is_drawn_outside_of_training():
    model = fastlstm.Sequential([layers.Input((T, I)), layers.GRU(H, recurrent_dropout=0.3)])
    build = TrainingBuild()
    model.forward(build, [build.input(s.name, s.dtype, s.shape) for s in model.input_specs])
    assert len(build.draws) == 1
    x = np.random.default_rng(0).standard_normal((B, T, I))
    np.testing.assert_array_equal(model.predict(x, verbose=0), model(x))

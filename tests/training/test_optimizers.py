"""Optimizers: 20 steps from the same weights, batches and settings end where Keras's end."""

import numpy as np
import pytest
from training import networks

from fastlstm import optimizers
from fastlstm.errors import FastLSTMError, InputError
from fastlstm.training.flat import Layout

STEPS = 20
OPTIMIZERS = {
    "sgd": ("SGD", {"learning_rate": 0.1}),
    "momentum": ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    "nesterov": ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop with momentum": ("RMSprop", {"learning_rate": 0.01, "momentum": 0.5, "rho": 0.8}),
    "rmsprop centered": ("RMSprop", {"learning_rate": 0.01, "centered": True, "momentum": 0.3}),
    "adam": ("Adam", {"learning_rate": 0.01}),
    "amsgrad": ("Adam", {"learning_rate": 0.01, "amsgrad": True, "beta_1": 0.8}),
    "adamw": ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.1}),
    "adam with decay": ("Adam", {"weight_decay": 0.05}),
    "adagrad": ("Adagrad", {"learning_rate": 0.1}),
    "adadelta": ("Adadelta", {"learning_rate": 1.0}),
    "nadam": ("Nadam", {"learning_rate": 0.01}),
    "adamax": ("Adamax", {"learning_rate": 0.01}),
    "clipvalue": ("SGD", {"learning_rate": 0.1, "clipvalue": 0.02}),
    "clipnorm": ("SGD", {"learning_rate": 0.1, "clipnorm": 0.1}),
    "global clipnorm": ("Adam", {"learning_rate": 0.01, "global_clipnorm": 0.1}),
    "accumulation": ("Adam", {"learning_rate": 0.01, "gradient_accumulation_steps": 3}),
    "accumulation, clipped": ("SGD", {"learning_rate": 0.1, "gradient_accumulation_steps": 4, "clipnorm": 0.1}),
    "mean of weights": (
        "SGD",
        {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
    ),
}


def _trained(dtype: str, kind: str, options: dict) -> float:
    """Return how far weights are from Keras's after some steps."""
    options = networks.rounded(kind, options)
    rng = np.random.default_rng(3)
    network = networks.dense(rng, dtype)
    twin = networks.dense_of_keras(network, dtype)
    x, y = rng.standard_normal((60, 5)), rng.standard_normal((60, 3))
    x, y = x.astype(dtype), y.astype(dtype)
    network.compile(getattr(optimizers, kind)(**options), "mse")
    twin.compile(getattr(networks.keras(dtype).optimizers, kind)(**options), "mse", run_eagerly=True)
    start = [w.copy() for w in network.get_weights()]
    for step in range(STEPS):
        rows = slice(3 * step, 3 * step + 3)
        network.train_on_batch(x[rows], y[rows])
        twin.train_on_batch(x[rows], y[rows])
    moved = max(np.abs(a - b).max() for a, b in zip(start, network.get_weights(), strict=True))
    assert moved > 1e-3
    return networks.worst(network, twin)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_agree_with_keras_in_float64(name):
    assert _trained("float64", *OPTIMIZERS[name]) < 1e-8


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_agree_with_keras_in_float32(name):
    assert _trained("float32", *OPTIMIZERS[name]) < 1e-4


SCHEDULES = {
    "exponential": ("ExponentialDecay", (0.1, 7, 0.5), {}),
    "exponential staircase": ("ExponentialDecay", (0.1, 7, 0.5), {"staircase": True}),
    "inverse time": ("InverseTimeDecay", (0.1, 7, 0.5), {}),
    "polynomial": ("PolynomialDecay", (0.1, 7, 0.01), {"power": 2.0}),
    "polynomial cycle": ("PolynomialDecay", (0.1, 7, 0.01), {"cycle": True}),
    "cosine": ("CosineDecay", (0.1, 15), {"alpha": 0.1}),
    "cosine with warmup": ("CosineDecay", (0.01, 15), {"warmup_target": 0.1, "warmup_steps": 5}),
    "cosine restarts": ("CosineDecayRestarts", (0.1, 5), {"t_mul": 2.0, "m_mul": 0.8}),
    "cosine restarts of one length": ("CosineDecayRestarts", (0.1, 5), {"t_mul": 1.0}),
    "piecewise": ("PiecewiseConstantDecay", ([5, 11], [0.1, 0.01, 0.001]), {}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_keras_s(name):
    kind, arguments, options = SCHEDULES[name]
    ours = getattr(optimizers.schedules, kind)(*arguments, **options)
    theirs = getattr(networks.keras().optimizers.schedules, kind)(*arguments, **options)
    for step in range(30):
        assert ours(step) == pytest.approx(float(theirs(step)), rel=2e-5, abs=1e-8)


# Each optimizer with each way to bound a gradient, and each to move the learning rate, on gradients that are given. Keras computes schedules in
# float32 in float64 too.
KINDS = ("SGD", "RMSprop", "Adam", "AdamW", "Adamax", "Nadam", "Adagrad", "Adadelta")
CLIPS = ({}, {"clipvalue": 0.5}, {"clipnorm": 0.75}, {"global_clipnorm": 1.25})
RATES = {
    "number": lambda s: 2.0**-6,
    "exponential": lambda s: s.ExponentialDecay(2.0**-6, 8, 0.5),
    "exponential staircase": lambda s: s.ExponentialDecay(2.0**-6, 8, 0.5, staircase=True),
    "inverse time": lambda s: s.InverseTimeDecay(2.0**-6, 8, 0.5),
    "polynomial": lambda s: s.PolynomialDecay(2.0**-6, 16, 2.0**-9, power=2.0, cycle=True),
    "cosine": lambda s: s.CosineDecay(2.0**-9, 16, warmup_target=2.0**-6, warmup_steps=4),
    "cosine restarts": lambda s: s.CosineDecayRestarts(2.0**-6, 8, t_mul=2.0, m_mul=0.5),
    "piecewise": lambda s: s.PiecewiseConstantDecay([5, 11], [2.0**-6, 2.0**-7, 2.0**-8]),
}
SHAPES = {"kernel": (7, 5), "bias": (5,), "table": (3, 2)}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("decay", [None, 2.0**-4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_clip_and_schedule_of_every_optimizer_agrees_with_keras(kind, decay, dtype, monkeypatch):
    k = networks.keras(dtype)
    # Keras passes its constants, such as Nadam's 0.96, through float32 on their way to float64
    cast, tensor = k.src.ops.cast, k.ops.convert_to_tensor
    monkeypatch.setattr(
        k.src.ops, "cast", lambda x, dtype: tensor(x, dtype) if isinstance(x, float) else cast(x, dtype)
    )
    pairs = [*((clip, "number") for clip in CLIPS), *(({}, name) for name in RATES if name != "number")]
    for clip, name in pairs:
        rate = RATES[name]
        options = networks.rounded(kind, clip if decay is None else {"weight_decay": decay, **clip})
        rng = np.random.default_rng(1)
        arrays = {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}
        layout = Layout(arrays)
        flat = layout.gather(arrays)
        variables = [k.Variable(array, dtype=dtype) for array in arrays.values()]
        ours = getattr(optimizers, kind)(learning_rate=rate(optimizers.schedules), **options)
        theirs = getattr(k.optimizers, kind)(learning_rate=rate(k.optimizers.schedules), **options)
        ours.build(layout)
        for _ in range(STEPS):
            gradients = {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}
            theirs.apply([k.ops.convert_to_tensor(g) for g in gradients.values()], variables)
            ours.apply(flat, layout.gather(gradients))
        worst = max(np.abs(a - np.array(b)).max() for a, b in zip(layout.views(flat).values(), variables, strict=True))
        assert worst < (1e-8 if dtype == "float64" else 1e-4), (clip, name)


def test_a_schedule_moves_the_learning_rate_of_each_step():
    networks.keras()
    options = {"learning_rate": optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)}
    optimizer = optimizers.SGD(**options)
    rates = []
    for step in range(4):
        optimizer.iterations = step
        rates.append(optimizer.learning_rate)
    assert rates == pytest.approx([0.1, 0.1 * 0.5**0.5, 0.05, 0.1 * 0.5**1.5])
    with pytest.raises(InputError, match=r"follows ExponentialDecay: it cannot be set to 0\.3"):
        optimizer.learning_rate = 0.3


def test_what_an_optimizer_does_not_take_is_refused():
    with pytest.raises(InputError, match="clipnorm and clipvalue: an optimizer takes one of them"):
        optimizers.Adam(clipnorm=1.0, clipvalue=0.5)
    with pytest.raises(InputError, match="learning_rate=nan: expected a number of at least 0"):
        optimizers.Adam("fast")
    with pytest.raises(InputError, match=r"unknown optimizer 'lion'; known: 'adadelta', 'adagrad'"):
        optimizers.get("lion")
    with pytest.raises(InputError, match=r"unknown argument .rho. of Adam"):
        optimizers.Adam(rho=0.5)


def test_biases_can_be_left_out_of_weight_decay():
    rng = np.random.default_rng(3)
    network = networks.dense(rng)
    before = network.get_weights()
    optimizer = optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(["b$", "bias"])
    network.compile(optimizer, "mse")
    x = np.zeros((4, 5))
    y = network.predict(x, verbose=0)  # a loss of 0: weights move by their decay alone
    network.train_on_batch(x, y)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_allclose(new, old if old.ndim == 1 else old * (1 - 0.5 * 0.01), rtol=1e-12)


def test_the_mean_of_weights_is_what_fit_ends_with_as_in_keras():
    rng = np.random.default_rng(4)
    network = networks.dense(rng)
    twin = networks.dense_of_keras(network, "float64")
    x, y = rng.standard_normal((12, 5)), rng.standard_normal((12, 3))
    options = {"learning_rate": 0.125, "use_ema": True, "ema_momentum": 0.75}
    network.compile(optimizers.SGD(**options), "mse")
    twin.compile(networks.keras("float64").optimizers.SGD(**options), "mse", run_eagerly=True)
    for one in (network, twin):
        one.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    assert networks.worst(network, twin) < 1e-8


def test_a_checkpoint_goes_on_within_an_accumulation(tmp_path):
    def trained(stop):
        network = networks.dense(np.random.default_rng(5))
        network.compile(optimizers.Adam(0.01, gradient_accumulation_steps=3, use_ema=True), "mse")
        rng = np.random.default_rng(6)
        for step in range(7):
            network.train_on_batch(rng.standard_normal((4, 5)), rng.standard_normal((4, 3)))
            if step == stop:
                network.save_checkpoint(tmp_path / "c")
                network = networks.dense(np.random.default_rng(7))
                network.compile(optimizers.Adam(0.01, gradient_accumulation_steps=3, use_ema=True), "mse")
                network.load_checkpoint(tmp_path / "c")
        return network

    assert networks.worst(trained(None), trained(4)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_scale_factor": 2.0}, "loss_scale_factor=2.0 of Adam is not supported"),
        (
            {"gradient_accumulation_steps": 1},
            "gradient_accumulation_steps=1 of Adam: expected a whole number of at least 2",
        ),
        ({"ema_momentum": 1.5}, "ema_momentum=1.5 of Adam: expected a number from 0 to 1"),
        ({"ema_overwrite_frequency": 0}, "ema_overwrite_frequency=0 of Adam"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(FastLSTMError, match=message):
        optimizers.Adam(**options)

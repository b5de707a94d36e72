"""Checkpoints over time: the gradients of a recurrence that keeps everything, from a few parts in a hundred of its memory."""

import os
from pathlib import Path

import command
import numpy as np
import pytest
from training import differences
from training.test_steps import Configuration

import fastlstm
from fastlstm import layers
from fastlstm.errors import InputError
from fastlstm.kernels import target
from fastlstm.kernels.layout import TOGETHER
from fastlstm.ops.checkpoints import steps_of_segment
from fastlstm.plan import Plan
from fastlstm.team import available_threads

FULL = os.environ.get("FASTLSTM_FULL") == "1"
COUNT = 256 if FULL else 48
TESTS = Path(__file__).parents[1]
TOLERANCE = {"float64": 1e-13, "float32": 2e-5}


def segments(number: int) -> int:
    """Return steps that leave a last segment of other length, or one of one step, or one of all."""
    return 1 + number % 5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("number", range(COUNT))
def test_gradients_are_those_of_a_recurrence_that_keeps_everything(number, dtype):
    expected = Configuration(number).gradients(dtype)
    found = Configuration(number).gradients(dtype, checkpoint_every=segments(number))
    for got, want in zip(found, expected, strict=True):
        assert np.linalg.norm(got - want) <= TOLERANCE[dtype] * max(np.linalg.norm(want), 1e-2), Configuration(number)


@pytest.mark.parametrize("number", range(0, COUNT, 3))
def test_the_length_of_segments_changes_no_bit(number):
    """0 is the root of all; what is longer than all is one segment."""
    one, *others = (Configuration(number).gradients("float32", checkpoint_every=every) for every in (1000, 1, 0, 3))
    for other in others:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(available_threads() < 2, reason="one thread")
@pytest.mark.parametrize("number", range(0, COUNT, 7))
def test_two_threads_give_the_bits_of_one(number):
    made = Configuration(number)
    T, B, I, H = made.sizes
    made.sizes = T + 20, B + 30, I, H + 32
    for one, two in zip(*(made.gradients("float32", threads, checkpoint_every=7) for threads in (1, 2)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("number", range(0, COUNT, 6))
def test_adjoint_agrees_with_central_differences(number):
    made = Configuration(number)
    made.sizes = tuple(min(n, most) for n, most in zip(made.sizes, (5, 3, 4, 19), strict=True))
    build, loss, wrt, feeds = made.build("float64", segments(number))
    assert differences.error(build, loss, feeds, wrt) < 1e-6


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_dropped_units_are_dropped_again(kind):
    results = []
    for every in (None, 3):
        stack = [
            layers.Masking(9.0),
            layers.Bidirectional(getattr(layers, kind)(5, dropout=0.2, recurrent_dropout=0.4, return_sequences=True)),
            getattr(layers, kind)(6, dropout=0.3),
        ]
        network = fastlstm.Sequential([fastlstm.Input((8, 2)), *stack])
        rng = np.random.default_rng(1)
        network.set_weights([rng.standard_normal(w.shape).astype("f4") * 0.5 for w in network.get_weights()])
        x, y = rng.standard_normal((4, 8, 2)), rng.standard_normal((4, 6))
        x[1, 5:] = 9.0
        results.append(fastlstm.value_and_grad(network, "mse", checkpoint_every=every)(x, y, seed=4))
    (loss, whole), (other, parts) = results
    assert loss == other
    for name, gradient in whole.items():
        np.testing.assert_allclose(parts[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_fit_learns_the_same():
    losses = []
    for every in (None, "sqrt", 4):
        fastlstm.set_random_seed(0)
        network = fastlstm.Sequential([fastlstm.Input((None, 3)), layers.GRU(9), layers.Dense(1)])
        network.compile("adam", "mse", checkpoint_every=every)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((32, 21, 3))
        losses.append(network.fit(x, x[:, -1, :1], epochs=3, batch_size=8, verbose=0, seed=1).history["loss"])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)


# ---- memory ----------------------------------------------------------------------------------------------
B, T, H = 32, 1000, 128


def network(sequences: bool, kind: str = "LSTM") -> fastlstm.Sequential:
    return fastlstm.Sequential([fastlstm.Input((None, H)), getattr(layers, kind)(H, return_sequences=sequences)])


def batch(sequences: bool, steps: int = T) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (B, steps, H) if sequences else (B, H)
    return rng.standard_normal((B, steps, H), np.float32), rng.standard_normal(shape, np.float32)


def per_unit_and_step(size: int) -> float:
    """Return bytes as floats of a unit and step."""
    return size / 4 / (B * T * H)


def floats(sequences: bool, checkpoint_every: str | None, kind: str = "LSTM") -> float:
    """Return the floats of a unit and step that all buffers of a training step take: input, target, weights and gradients included."""
    model = network(sequences, kind)
    model.compile("sgd", "mse", checkpoint_every=checkpoint_every)
    return per_unit_and_step(model.buffer_bytes(*batch(sequences)))


def tape(sequences: bool, checkpoint_every: str | None, monkeypatch) -> float:
    """Return the floats of a unit and step of what the forward pass of an LSTM makes and its adjoint reads."""
    frames, bind = [], Plan.bind
    monkeypatch.setattr(Plan, "bind", lambda *args, **more: frames.append(bind(*args, **more)) or frames[-1])
    floats(sequences, checkpoint_every)
    adjoint = [one for one in frames[-1].lowered if one.node.name.startswith("d/lstm")]
    made = {name for one in frames[-1].lowered if one.node.name.startswith("lstm") for name in one.node.outputs}
    read = {
        name: arg
        for one in adjoint
        for name, arg in zip(one.node.inputs, one.inputs, strict=True)
        if name and name in made
    }
    return per_unit_and_step(sum(arg.array.nbytes for arg in read.values()))


@pytest.mark.parametrize("sequences", [False, True])
def test_the_tape_is_under_twelve_floats_and_with_checkpoints_under_a_quarter(sequences, monkeypatch):
    whole, parts = (tape(sequences, every, monkeypatch) for every in (None, "sqrt"))
    print(f"tape, floats a unit and step: {whole:.2f}, with checkpoints {parts:.2f}")
    assert 6 <= whole < 12 and 0 < parts < whole / 4
    # of all buffers those of x, and of the target of all outputs, are the caller's arrays
    given = 2 if sequences else 1
    whole, parts = (floats(sequences, every) - given for every in (None, "sqrt"))
    print(f"all buffers but those of x and the target: {whole:.2f}, with checkpoints {parts:.2f}")
    assert whole < 12 and parts < whole / 4


RESIDENT = """
import sys, numpy as np, fastlstm
from training.test_checkpoints import batch, network

def status(field):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

sequences, every = sys.argv[1] == "True", None if sys.argv[2] == "None" else sys.argv[2]
gradient = fastlstm.value_and_grad(network(sequences), "mse", checkpoint_every=every)
gradient(*batch(sequences, 64))  # what compiles does so now
x, y = batch(sequences)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
gradient(x, y)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not FULL or not Path("/proc/self/clear_refs").exists(), reason="FASTLSTM_FULL=1, on Linux")
@pytest.mark.parametrize("sequences", [False, True])
def test_the_memory_that_a_step_makes_resident(sequences):
    said = lambda every: command.run(command.python(RESIDENT, str(sequences), str(every)), TESTS).stdout
    whole, parts = (per_unit_and_step(int(said(every))) for every in (None, "sqrt"))
    print(f"peak beyond x and the target, floats a unit and step: {whole:.2f}, with checkpoints {parts:.2f}")
    assert whole < 12 and parts < whole / 4


def test_products_of_a_segment_pack_in_one_place_after_another(monkeypatch):
    taken = []
    for depth in (256, 1024):  # of AVX2 and of AVX-512: so many rows are packed at once
        monkeypatch.setattr(target, "DEPTH", depth)
        taken.append(floats(False, "sqrt"))
    one = 1024 * (4 * target.lanes(4) * TOGETHER + 128) / (32 * 1000 * 128)
    assert taken[1] - taken[0] < 1.5 * one


@pytest.mark.parametrize("kind", ["GRU", "SimpleRNN"])
def test_checkpoints_leave_a_small_part_of_the_tape_of_each_kind(kind):
    assert floats(False, "sqrt", kind) < 1 + (floats(False, None, kind) - 1) / 4  # 1: the input


@pytest.mark.parametrize(
    ("T", "every", "expected"), [(1000, 0, 32), (1, 0, 1), (0, 0, 1), (100, 0, 10), (101, 0, 11), (50, 7, 7)]
)
def test_steps_of_a_segment(T, every, expected):
    assert steps_of_segment(every, T) == expected


# ---- what is refused -------------------------------------------------------------------------------------
@pytest.mark.parametrize("every", [0, -1, 2.5, True, "log"])
def test_other_lengths_are_refused(every):
    with pytest.raises(InputError, match=r"checkpoint_every=.*: expected a number of steps, 'sqrt' or None"):
        fastlstm.Sequential([fastlstm.Input((4, 2)), layers.LSTM(3)]).compile("sgd", "mse", checkpoint_every=every)

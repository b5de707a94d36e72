"""Denormals are flushed inside kernels, and the caller's floating-point mode is the same after every call."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import models
import numpy as np
import pytest
from numba import njit

import fastlstm
from fastlstm.graph import Node
from fastlstm.kernels import target
from fastlstm.kernels.floating_point_mode import flush_denormals, read_mode, restore_mode
from fastlstm.ops.activations import ACTIVATIONS

pytestmark = pytest.mark.skipif(not (target.X86 or target.ARM), reason="no mode register that we know")
STATUS = 0x3F if target.X86 else 0  # sticky exception flags of MXCSR, which any operation may raise
DOWN = 0x2000 if target.X86 else 1 << 23  # round towards minus infinity
FLUSH = 0x8040 if target.X86 else 1 << 24
PATH = os.pathsep.join(path for path in sys.path if path)
TINY = float(np.finfo(np.float32).smallest_subnormal)


@njit
def mode():
    return read_mode()


@njit
def set_mode(value):
    restore_mode(value)


@njit
def flushed_inside():
    before = flush_denormals()
    inside = read_mode()
    restore_mode(before)
    return before, inside, read_mode()


def control() -> int:
    return mode() & ~STATUS


def halved() -> float:
    """Return half of the smallest normal double, by the mode of this thread."""
    return float(np.multiply(np.array([sys.float_info.min]), 0.5)[0])


def flushed(a: np.ndarray) -> np.ndarray:
    return np.where(np.abs(a) < np.finfo(a.dtype).tiny, 0, a)


def failing_model() -> fastlstm.Model:
    """A recurrence, then an Embedding whose ids may be out of range: an error in the middle of a run."""
    rng = np.random.default_rng(0)
    ws = models.weights(rng, "LSTM", 3, 9)
    ws.pop("P")
    ws["table"] = rng.standard_normal((5, 4)).astype("f4")
    nodes = [Node("a", "LSTM", ("x", "W", "U", "b"), ("y",)), Node("e", "Embedding", ("ids", "table"), ("z",))]
    nodes += [Node("b", "Sigmoid", ("z",), ("s",))]
    return models.model(nodes, [("x", "float32", ("T", "B", 3)), ("ids", "int64", ("N",))], ["y", "s"], ws)


def test_flush_denormals_sets_both_bits_and_restore_mode_takes_them_back():
    before, inside, after = flushed_inside()  # pyright: ignore
    assert inside & FLUSH == FLUSH and after == before


@pytest.mark.parametrize("name", list(models.NETWORKS))
def test_the_mode_is_the_same_after_a_run_and_a_stream(name):
    net = models.network(name)
    session, x = fastlstm.Session(net), models.inputs_for(net, np.random.default_rng(0), 5, 6)
    before = control()
    session.run({"x": x})
    assert control() == before
    if name in models.STREAMING:
        session.stream(batch=5).step({"x": x[:, 0]})
    assert control() == before and halved() != 0


def test_denormals_are_flushed_inside_every_recurrent_and_row_kernel():
    """h after one step of weights 1 is a denormal if it is not flushed: an RNN with Identity; others by their inputs."""
    one = np.ones((1, 1), "f4")
    rnn = models.model(
        [Node("a", "RNN", ("x", "W", "U"), ("y",), {"activations": ("Identity",)})],
        [("x", "float32", (1, 1, 1))],
        ["y"],
        {"W": one, "U": one},
    )
    assert fastlstm.Session(rnn).run(np.full((1, 1, 1), TINY * 1000, "f4"))[0, 0, 0] == 0
    small = float(np.finfo(np.float32).tiny) * 1.5
    halving = models.model([Node("d", "Dense", ("x", "W"), ("y",))], [("x", "float32", (1, 1))], ["y"], {"W": one / 4})
    assert fastlstm.Session(halving).run(np.full((1, 1), small, "f4"))[0, 0] == 0  # normal in, denormal out: FTZ
    large = models.model([Node("d", "Dense", ("x", "W"), ("y",))], [("x", "float32", (1, 1))], ["y"], {"W": one * 1e30})
    assert fastlstm.Session(large).run(np.full((1, 1), TINY * 1000, "f4"))[0, 0] == 0  # denormal in, normal out: DAZ


@pytest.mark.parametrize("kind", models.GATES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denormals_in_x_states_and_weights_give_what_zeros_give(kind, dtype):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        activations = tuple(
            models.draw_activation(rng, str(rng.choice(sorted(ACTIVATIONS)))) for _ in models.USUAL[kind]
        )
        case = models.draw_recurrence(rng, kind, 9, dtype=dtype, gain=0.3, states=("input", "input"), runtime_weights=True,
                                      activations=activations if seed % 3 == 0 else ())  # fmt: skip
        feeds = case.feeds()
        tiny, zero = {}, {}
        for name, array in feeds.items():
            if array.dtype.kind == "f":
                chosen = rng.random(array.shape) < 0.5
                small = (
                    np.finfo(dtype).smallest_subnormal
                    * rng.integers(1, 10**6, array.shape)
                    * rng.choice([-1, 1], array.shape)
                )
                tiny[name] = np.where(chosen, small, array).astype(dtype)
                zero[name] = np.where(chosen, np.copysign(0, small), array).astype(dtype)
        session = fastlstm.Session(case.model())
        got, want = session.run(feeds | tiny), session.run(feeds | zero)
        for name in want:  # a state that every step of its row masks is copied, and a copy is no arithmetic
            assert np.array_equal(flushed(got[name]), flushed(want[name]), equal_nan=True), (name, case)


def test_the_mode_is_the_same_after_an_error_in_the_middle_of_a_run():
    session = fastlstm.Session(failing_model())
    x, before = np.ones((4, 2, 3), "f4"), control()
    for _ in range(3):
        with pytest.raises(fastlstm.InputError):
            session.run({"x": x, "ids": np.array([1, 9])})
        assert control() == before and halved() != 0
    assert session.run({"x": x, "ids": np.array([1, 4])})["s"].shape == (2, 4)
    assert control() == before


def test_the_mode_is_kept_in_every_thread_also_where_the_caller_chose_another():
    """Each thread sets a rounding mode of its own and flushing on or off; a run leaves both alone."""
    net = models.network("stacked")
    sessions = [fastlstm.Session(net), fastlstm.Session(net, threads=2)]
    x, wrong = models.inputs_for(net, np.random.default_rng(0), 6, 5), []

    def work(extra: int) -> None:
        before = mode()
        chosen = before | extra
        set_mode(chosen)
        for session in sessions * 3:
            session.run({"x": x})
            session.stream(batch=6).step({"x": x})
            if mode() & ~STATUS != chosen & ~STATUS:
                wrong.append((extra, mode(), chosen))
        set_mode(before)

    extras = [0, FLUSH, DOWN]  # nothing, flushing, rounding down
    threads = [threading.Thread(target=work, args=(extra,)) for extra in extras * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work(0)
    assert not wrong


def test_bits_do_not_depend_on_the_rounding_mode_of_the_caller():
    """Same call, same bits: kernels round to nearest whatever the thread that calls them has set."""
    net = models.network("lstm")
    session, x = fastlstm.Session(net), models.inputs_for(net, np.random.default_rng(0), 3, 5)
    want, before = session.run({"x": x}), mode()
    set_mode(before | DOWN)
    got = session.run({"x": x})
    set_mode(before)
    assert all(models.same_bits(got[k], want[k]) for k in want)


def test_a_session_of_two_threads_keeps_the_mode_of_every_thread_that_calls_it():
    net = models.network("lstm_general")
    session, x = fastlstm.Session(net, threads=2), models.inputs_for(net, np.random.default_rng(0), 8, 5)

    def call(_: int) -> tuple[int, float]:
        session.run({"x": x})
        return control(), halved()

    with ThreadPoolExecutor(4) as pool:
        modes = list(pool.map(call, range(8)))
    assert {m for m, _ in modes} == {control()} and all(h != 0 for _, h in modes)


@pytest.mark.parametrize(
    "code", ["", "import numpy as np; fastlstm.Session(models.network('lstm')).run(np.ones((2, 3, 5), 'f4'))"]
)
def test_import_and_run_leave_denormals_alone_in_a_fresh_process(code):
    check = "import sys, models, fastlstm; fastlstm.Session; {}; assert sys.float_info.min / 2 != 0; print('kept')"
    result = subprocess.run(
        [sys.executable, "-c", check.format(code or "pass")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": PATH},
    )
    assert result.stdout == "kept\n", result.stderr

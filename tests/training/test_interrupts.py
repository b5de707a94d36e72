"""Ctrl-C at any line of training: weights, moments, statistics and history are those after some number of whole steps."""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.callbacks import LambdaCallback
from fastlstm.interrupts import Interrupts

FULL = os.environ.get("FASTLSTM_FULL") == "1"
HERE = Path(fastlstm.__file__).parent
LOOP = [HERE / "callbacks.py", HERE / "training" / "trainable.py", *(HERE / "optimizers").glob("*.py")]
OURS = {str(path) for path in LOOP}  # the files whose lines change what lasts
ROWS, BATCH, EPOCHS = 16, 4, 2
STEPS = ROWS // BATCH * EPOCHS

rng = np.random.default_rng(20)
X, Y = rng.standard_normal((ROWS, 5)), rng.standard_normal((ROWS, 3))


def made(optimizer: str) -> fastlstm.Sequential:
    """Return a network, always the same, with statistics and moments."""
    rng = np.random.default_rng(2)
    stack = [layers.Dense(6, activation="tanh"), layers.BatchNormalization(), layers.Dense(3)]
    network = fastlstm.Sequential([fastlstm.Input((5,)), *stack])
    network.set_weights([rng.random(w.shape) * 0.5 for w in network.get_weights()])
    network.compile(optimizer, "mse")
    network.optimizer.build(network._weights.parameters)
    return network


def state(network: fastlstm.Sequential) -> list[np.ndarray]:
    moments = network.optimizer.get_state()
    return [*network.get_weights(), *(moments[name] for name in sorted(moments))]


def trained(network: fastlstm.Sequential, callbacks=()) -> None:
    network.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=list(callbacks))


class Tracer:
    """Counts the lines of the loop that run, and sends Ctrl-C at one of them."""

    def __init__(self, line: int = 0):
        self.line, self.seen = line, 0

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename not in OURS:
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.line:
                signal.raise_signal(signal.SIGINT)
        return self

    def __enter__(self) -> "Tracer":
        sys.settrace(self)
        return self

    def __exit__(self, *exception) -> None:
        sys.settrace(None)


@pytest.fixture(scope="module", params=["adam", "sgd"])
def steps(request):
    """Return the optimizer, the state after each number of steps, and how many lines of the loop run."""
    whole, after = made(request.param), []
    after.append(state(whole))
    trained(whole, [LambdaCallback(on_train_batch_end=lambda batch, logs: after.append(state(whole)))])
    assert len(after) == STEPS + 1
    other = made(request.param)
    with Tracer() as tracer:
        trained(other)
    return request.param, after, tracer.seen


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="needs signals")
@pytest.mark.parametrize("number", range(200 if FULL else 40))
def test_ctrl_c_at_any_line_leaves_whole_steps(steps, number):
    optimizer, after, lines = steps
    network = made(optimizer)
    with pytest.raises(KeyboardInterrupt), Tracer(int(np.random.default_rng(number).integers(1, lines))):
        trained(network)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    done = network.optimizer.iterations
    for got, expected in zip(state(network), after[done], strict=True):
        np.testing.assert_array_equal(got, expected)
    if hasattr(network, "history"):
        ended = network.history.epoch
        assert ended == list(range(len(ended))) and len(ended) in (done * BATCH // ROWS, done * BATCH // ROWS - 1)
        assert all(len(values) == len(ended) for values in network.history.history.values())
        assert network._epoch == len(ended)
    trained(network)
    assert np.isfinite(network.evaluate(X, Y, verbose=0))


class TestInterrupts:
    def test_what_is_held_ends_first(self):
        interrupts, done = Interrupts(), []

        def work():
            with interrupts, interrupts.held:
                signal.raise_signal(signal.SIGINT)
                done.append("all of it")

        with pytest.raises(KeyboardInterrupt):
            work()
        assert done == ["all of it"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_handler_of_the_user_is_called_and_comes_back(self):
        called = []
        handler = lambda number, frame: called.append(number)
        usual = signal.signal(signal.SIGINT, handler)
        try:
            interrupts = Interrupts()
            with interrupts, interrupts:
                with interrupts.held:
                    signal.raise_signal(signal.SIGINT)
                    assert called == []
                assert called == [signal.SIGINT]
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, usual)

    def test_another_thread_changes_no_handler(self):
        seen = []

        def work():
            interrupts = Interrupts()
            with interrupts, interrupts.held:
                seen.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [signal.default_int_handler]

"""One session in many threads and in other processes gives the bits it gives alone; nothing waits for ever.

What forks or could hang runs in a process of its own with a time limit, so that a deadlock fails and does not hang the tests.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

import fastlstm
from fastlstm.graph import Node

HERE = Path(__file__).parent
LIMIT = 60  # seconds, where a second is usual


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(list(shape)).standard_normal(shape) / 2).astype("f4")


# ---- threads of a session -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", models.NETWORKS)
def test_the_bits_do_not_depend_on_the_number_of_threads(name):
    net = models.network(name)
    x = models.inputs_for(net, np.random.default_rng(0), 7, 6)
    want = fastlstm.Session(net).run(x)
    for threads in (2, 3, 16):
        session = fastlstm.Session(net, threads=threads)
        for rows in (7, 1, 2, 0, 7):
            got = session.run(x[:rows])
            assert all(models.same_bits(got[k], want[k][:rows]) for k in want), (threads, rows)


def lstm(name: str, x: str, y: str = "y", *start: str, **attributes) -> Node:
    return Node(
        name,
        "LSTM",
        (x, "W", "U", *(("", *start) if start else ())),
        (y, f"{name}.h"),
        {"batch_first": True} | attributes,
    )


MIXING = {
    "a recurrence over rows": ([lstm("a", "x", "s"), lstm("b", "s", batch_first=False)], {}),
    "a convolution over rows": (
        [lstm("a", "x", "s"), Node("t", "Transpose", ("s",), ("t",), {"perm": (1, 0, 2)}), Node("c", "Conv1D", ("t", "k"), ("u",), {"pads": (2, 0)}),
         Node("v", "Transpose", ("u",), ("y",), {"perm": (1, 0, 2)})], {"k": weights(3, 4, 4)},
    ),
    "an initial state for each row": ([lstm("a", "x", "y", "h0", "h0")], {"h0": weights(6, 4)}),
    "statistics for each row": ([lstm("a", "x", "s"), Node("n", "BatchNormalization", ("s", "", "", "m", "v"), ("y",), {"axis": 0})], {"m": weights(6), "v": abs(weights(6))}),
    "a table for each row": ([lstm("a", "x", "s"), Node("n", "Add", ("s", "p"), ("y",))], {"p": weights(6, 1, 4)}),
    "softmax over rows": ([lstm("a", "x", "s"), Node("n", "Softmax", ("s",), ("y",), {"axis": 0})], {}),
    "rows in reverse": ([lstm("a", "x", "s"), Node("n", "Reverse", ("s",), ("y",), {"axis": 0})], {}),
    "normalised over everything": ([lstm("a", "x", "s"), Node("n", "LayerNormalization", ("s", "g"), ("y",), {"axis": 0})], {"g": weights(6, 5, 4)}),
    "rows times rows": ([lstm("a", "x", "s"), Node("t", "Transpose", ("s",), ("t",), {"perm": (1, 2, 0)}), Node("r", "Transpose", ("s",), ("r",), {"perm": (1, 0, 2)}),
                         Node("m", "MatMul", ("r", "t"), ("u",)), Node("b", "Transpose", ("u",), ("y",), {"perm": (1, 0, 2)})], {}),
    "the number of rows": ([lstm("a", "x", "s"), Node("n", "Shape", ("x",), ("n",), {"end": 1}), Node("f", "Cast", ("n",), ("f",), {"to": "float32"}),
                            Node("d", "Div", ("s", "f"), ("y",))], {}),
    "rows and steps as one": ([lstm("a", "x", "s"), Node("r", "Reshape", ("s", "z"), ("y",))], {"z": np.array([-1, 4])}),
}  # fmt: skip


@pytest.mark.parametrize("case", MIXING)
def test_a_model_that_mixes_rows_is_not_split_over_threads(case):
    nodes, constants = MIXING[case]
    constants = constants | {"W": weights(4, 16), "U": weights(4, 16)}
    net = models.model(nodes, [("x", "float32", ("B", "T", 4))], ["y"], constants)
    x = weights(6, 5, 4)
    want = fastlstm.Session(net).run(x)
    for threads in (2, 3):
        session = fastlstm.Session(net, threads=threads)
        assert not session.axes.rows_are_apart
        assert models.same_bits(session.run(x), want)


def test_inputs_with_batches_of_their_own_are_not_split_at_one_s_bounds():
    nodes = [lstm("a", "x"), Node("b", "LSTM", ("z", "W", "U"), ("v",), {"batch_first": True})]
    net = models.model(
        nodes,
        [("x", "float32", ("B", "T", 4)), ("z", "float32", ("N", "S", 4))],
        ["y", "v"],
        {"W": weights(4, 16), "U": weights(4, 16)},
    )
    for rows in ((8, 16), (16, 8), (3, 0)):
        given = {"x": weights(rows[0], 5, 4), "z": weights(rows[1], 3, 4)}
        want, got = fastlstm.Session(net).run(given), fastlstm.Session(net, threads=2).run(given)
        assert all(models.same_bits(got[k], want[k]) for k in want)


def test_an_error_in_one_thread_reaches_the_caller_and_the_session_goes_on():
    session = fastlstm.Session(models.network("embedded"), threads=3)
    x = models.inputs_for(session.model, np.random.default_rng(0), 6, 4)
    want = session.run(x)
    for row in range(6):
        bad = x.copy()
        bad[row, 2] = 30
        with pytest.raises(fastlstm.InputError, match="node 'e': id 30 is out of range"):
            session.run(bad)
        got = session.run(x)
        assert all(models.same_bits(got[k], want[k]) for k in want)


def test_threads_end_with_their_session():
    before = threading.active_count()
    for _ in range(5):
        fastlstm.Session(models.network("rnn"), threads=3).run(weights(6, 4, 5))
    gc.collect()
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before


# ---- many threads, one session ------------------------------------------------------------------------
def together(work: Callable[[int], object], count: int = 8) -> list:
    """Return what work(0) ... give in threads that start at once; raise what one raises, fail if one does not end."""
    results: list = [None] * count
    start = threading.Barrier(count)

    def run(seed: int) -> None:
        try:
            start.wait(LIMIT)
            results[seed] = work(seed)
        except BaseException as error:  # a thread's error must reach the test
            results[seed] = error

    threads = [threading.Thread(target=run, args=(seed,), daemon=True) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "a thread hangs"
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_at_once_get_the_bits_of_one(threads):
    """Arrays, lists, out and streams, of a few shapes, at the same time."""
    net = models.network("stacked")
    session, x = fastlstm.Session(net, threads=threads), weights(6, 5, 5)
    shapes = [(rows, steps) for rows in (1, 3, 6) for steps in (1, 4, 5)]
    want = {shape: fastlstm.Session(net).run(x[: shape[0], : shape[1]]) for shape in shapes}

    def work(seed: int) -> list:
        rng, wrong = np.random.default_rng(seed), []
        for _ in range(30):
            rows, steps = shapes[rng.integers(len(shapes))]
            part, way = x[:rows, :steps], ("plain", "list", "out", "stream")[rng.integers(4)]
            if way == "list":
                results = session.run(list(part))
                got = {k: np.stack([row[k] for row in results]) for k in results[0]}
            elif way == "out":
                got = session.run({"x": part}, out={"y": np.empty((rows, steps, 7), "f4")})
            elif way == "stream":
                stream = session.stream(batch=rows)
                pieces = [stream.step({"x": part[:, t]}) for t in range(steps)]
                got = {"y": np.stack([piece["y"] for piece in pieces], 1), "b.h": pieces[-1]["b.h"]}
            else:
                got = session.run(part)
            wrong += [(way, rows, steps, k) for k, w in want[rows, steps].items() if not models.same_bits(got[k], w)]
        return wrong

    assert not [one for wrong in together(work) for one in wrong]


def test_eight_threads_may_make_the_first_call_together():
    net, x = models.network("conv_front"), weights(5, 6, 4)
    want = fastlstm.Session(net).run(x)
    for _ in range(10):
        session = fastlstm.Session(net, threads=2)
        for got in together(lambda _, session=session: session.run(x)):
            assert all(models.same_bits(got[k], want[k]) for k in want)


def test_one_stream_in_eight_threads_refuses_or_steps_and_is_never_wrong():
    """Each step that is not refused moves the state by one: the number of these steps tells the state."""
    session, x = fastlstm.Session(models.network("lstm")), weights(1, 5)
    stream = session.stream()

    def work(_: int) -> int:
        done = 0
        for _ in range(60):
            try:
                stream.step(x)
                done += 1
            except fastlstm.StreamError:
                pass
        return done

    done = sum(together(work))
    assert done
    want = session.run(np.repeat(x[:, None], done + 1, 1))
    assert models.same_bits(stream.step(x)["a.h"], want["a.h"])


def test_a_team_serves_one_of_eight_threads_and_an_interrupt_frees_it():
    """Every program goes to the team, where it is free; calls are interrupted at any moment, also while they wait for its lock."""
    assert "team" in run_apart("""
        import signal
        from fastlstm import plan, program, session as sessions

        def run(frame, resume):
            frame.program.run(resume, frame.program.threads > 1)

        plan.Frame._run = run
        program.SMALL_WORK = 0
        sessions.available_threads = lambda: 2
        alone, session = fastlstm.Session(net), fastlstm.Session(net, threads=2)
        rng, led = np.random.default_rng(0), []
        xs = [rng.standard_normal((B, T, 5)).astype("f4") for B, T in ((1, 12), (13, 7), (40, 150), (3, 1), (12, 5))]
        want = [alone.run(x) for x in xs]
        lengths = [np.arange(len(x)) % (x.shape[1] + 1) for x in xs]
        shorter = [alone.run({"x": x}, lengths=n)["b.h"] for x, n in zip(xs, lengths)]
        lead = program.run_together
        def counted(*args):
            refused = lead(*args)
            led.append(refused is not None)
            return refused
        program.run_together = counted
        wrong = []

        def work(seed):
            rng = np.random.default_rng(seed)
            try:
                for _ in range(30):
                    k = int(rng.integers(len(xs)))
                    if rng.random() < 0.5:
                        ok = same(session.run(xs[k]), want[k])
                    else:
                        ok = models.same_bits(session.run({"x": xs[k]}, lengths=lengths[k])["b.h"], shorter[k])
                    if not ok:
                        wrong.append(k)
            except BaseException as error:
                wrong.append(repr(error))

        workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        [worker.start() for worker in workers]
        [worker.join(40) for worker in workers]
        assert not wrong and not any(worker.is_alive() for worker in workers), wrong
        assert True in led and in_child(lambda: same(session.run(xs[1]), want[1]))

        stop, done, interrupted, end = threading.Event(), 0, 0, time.monotonic() + 2
        def interrupt():
            rng = np.random.default_rng(1)
            while not stop.is_set():
                time.sleep(float(rng.random()) * 0.004)
                os.kill(os.getpid(), signal.SIGINT)
        worker = threading.Thread(target=interrupt)
        worker.start()
        while time.monotonic() < end:
            try:
                while time.monotonic() < end:
                    k = int(rng.integers(len(xs)))
                    assert same(session.run(xs[k]), want[k])
                    done += 1
            except KeyboardInterrupt:
                interrupted += 1
        while worker.is_alive():
            try:
                stop.set()
                worker.join()
                time.sleep(0.1)
            except KeyboardInterrupt:
                pass
        assert done and interrupted
        before = led.count(True)
        assert same(session.run(xs[1]), want[1]) and led.count(True) > before
        print("team")
    """)


# ---- processes ----------------------------------------------------------------------------------------
def run_apart(script: str) -> str:
    """Run a script in a process of its own; fail if it fails or takes too long. Return what it prints."""
    head = f"import sys; sys.path[:0] = [{str(HERE.parent)!r}, {str(HERE)!r}]\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + COMMON + textwrap.dedent(script)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        kill_group(process)
        output, _ = process.communicate()
        pytest.fail(f"it hangs, after printing: {output}")
    assert process.returncode == 0, output
    return output


def kill_group(process: subprocess.Popen) -> None:
    """End a process and its children, which it leads as a session of their own."""
    os.killpg(process.pid, signal.SIGKILL)


COMMON = """
import multiprocessing, os, threading, time, warnings
import numpy as np
import fastlstm, models
warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside threads
net = models.network("stacked")
x = np.random.default_rng(0).standard_normal((6, 5, 5)).astype("f4")
fork = multiprocessing.get_context("fork")

def same(a, b):
    return all(models.same_bits(a[k], b[k]) for k in b)

def in_child(action):
    '''Return what action() gives in a forked child.'''
    ours, theirs = fork.Pipe()
    child = fork.Process(target=lambda: theirs.send(action()))
    child.start()
    assert ours.poll(40), "the child does not answer"
    result = ours.recv()
    child.join(40)
    assert child.exitcode == 0, child.exitcode
    return result
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_works_before_and_after_a_fork(threads):
    """The child may be the first to run it, or come when its pool of threads is already there; parent and child go on."""
    run_apart(f"""
        session = fastlstm.Session(net, threads={threads})
        fresh = in_child(lambda: session.run(x))                  # never run before
        want = session.run(x)
        assert same(fresh, want)
        assert same(in_child(lambda: session.run(x)), want)       # run before
        assert same(in_child(lambda: in_child(lambda: session.run(x))), want)
        assert same(session.run(x), want)
        new = fastlstm.Session(net, threads={threads})
        assert same(in_child(lambda: new.run(x)), want) and same(new.run(x), want)
        assert same(in_child(lambda: fastlstm.Session(net, threads=3).run(x)), want)
    """)


def test_a_stream_goes_on_in_parent_and_child():
    run_apart("""
        session = fastlstm.Session(net)
        want, stream = session.run(x), session.stream(batch=6)
        stream.step(x[:, :2])
        rest = lambda: stream.step(x[:, 2:])
        child, parent = in_child(rest), rest()
        assert same(child, parent) and models.same_bits(parent["y"], want["y"][:, 2:].copy())
    """)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_in_the_midst_of_calls_of_other_threads(threads):
    run_apart(f"""
        session = fastlstm.Session(net, threads={threads})
        want, stop, wrong = session.run(x), threading.Event(), []

        def work():
            while not stop.is_set():
                if not same(session.run(x), want):
                    wrong.append(1)

        workers = [threading.Thread(target=work) for _ in range(3)]
        [worker.start() for worker in workers]
        try:
            for _ in range(15):
                assert same(in_child(lambda: session.run(x)), want)
        finally:
            stop.set()
        [worker.join() for worker in workers]
        assert not wrong and same(session.run(x), want)
    """)


def test_a_pool_of_forked_workers_shares_a_session():
    run_apart("""
        session = fastlstm.Session(net, threads=2)
        want = session.run(x)

        def row(k):
            return session.run(x[k:k + 1])

        with fork.Pool(3) as pool:
            for k, got in enumerate(pool.map(row, list(range(6)) * 5)):
                assert all(models.same_bits(got[n], want[n][k % 6:k % 6 + 1]) for n in want)
    """)


def test_a_process_ends_while_its_threads_wait():
    assert "done" in run_apart("""
        session = fastlstm.Session(net, threads=3)
        session.run(x)
        stream = session.stream()
        stream.step(x[:1, 0])
        print("done")
    """)


def run_elsewhere(session: fastlstm.Session, x: np.ndarray) -> Any:
    return session.run(x)


def test_a_session_travels_to_a_spawned_process():
    net = models.network("stacked").narrowed("int8")
    session, x = fastlstm.Session(net, threads=2), weights(6, 5, 5)
    want = session.run(x)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        got = pool.submit(run_elsewhere, session, x).result(LIMIT)
    assert all(models.same_bits(got[k], want[k]) for k in want)

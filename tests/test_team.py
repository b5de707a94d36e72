"""How a team divides rows: by the speed that its workers' cores have shown, to the same bits; and which cores it wakes on."""

import gc
import os
import time
import weakref

import numpy as np
import pytest

import fastlstm
from fastlstm import layers, plan, team
from fastlstm.kernels.layout import FROM, SHARES, SLEEPING, SPENT, STEP, TAKEN, TO

B, T, I, H = 33, 7, 5, 19
CELLS = [layers.LSTM, layers.GRU, layers.SimpleRNN]


@pytest.fixture
def three():
    one = team.Team(3)
    yield one
    one.stop()


def parts(of: team.Team) -> list[tuple[int, int]]:
    return [(int(of._words[place + FROM]), int(of._words[place + TO])) for place in of._places]


def report(of: team.Team, spent, taken) -> None:
    for place, ticks, rows in zip(of._places, spent, taken, strict=True):
        of._words[place + SPENT], of._words[place + TAKEN] = ticks, rows
    of._learn()


def test_rows_are_divided_equally_at_first(three):
    assert parts(three) == [
        (0, round(SHARES / 3)),
        (round(SHARES / 3), round(2 * SHARES / 3)),
        (round(2 * SHARES / 3), SHARES),
    ]


def test_a_slow_core_gets_fewer_rows_until_all_take_as_long(three):
    speed = np.array([4.0, 4.0, 2.0])
    for _ in range(30):
        rows = np.array([last - first for first, last in parts(three)])
        report(three, (rows * 1000 / speed).astype(int), rows)
    shares = [last - first for first, last in parts(three)]
    np.testing.assert_allclose(shares, SHARES * np.array([0.4, 0.4, 0.2]), atol=3)
    assert parts(three)[0][0] == 0 and parts(three)[-1][1] == SHARES


def test_a_moment_does_not_starve_a_worker(three):
    for _ in range(20):
        report(three, [10, 10, 1_000_000_000], [100, 100, 100])
    first, last = parts(three)[2]
    assert (last - first) / SHARES > 0.14  # of an equal third
    assert [int(three._words[place + SPENT]) for place in three._places] == [0, 0, 0]


def test_jobs_without_rows_teach_nothing(three):
    before = parts(three)
    report(three, [0, 0, 0], [0, 0, 0])
    report(three, [10, 0, 10], [5, 0, 5])
    assert parts(three) == before


@pytest.fixture
def uneven(monkeypatch):
    """Let every call be a team's, of which one worker has three quarters of the rows; return how often a team ran."""
    runs = []

    def run(self, program, first):
        runs.append(program)
        self._speeds = [0.75, 0.25]
        self._divide()
        return lead(self, program, first)

    lead = team.Team.run
    monkeypatch.setattr(plan.Pace, "note", lambda self, together, seconds: None)
    monkeypatch.setattr(team.Team, "_learn", lambda self: None)
    monkeypatch.setattr(team.Team, "run", run)
    return runs


@pytest.mark.parametrize("kind", CELLS)
def test_bits_do_not_depend_on_how_rows_are_divided(kind, uneven):
    model = fastlstm.Sequential([fastlstm.Input((None, I)), kind(H, return_sequences=True), layers.Dense(3)])
    x = np.random.default_rng(0).standard_normal((B, 40 * T, I), np.float32)
    lengths = np.random.default_rng(1).integers(0, 40 * T + 1, B)
    alone, together = (fastlstm.Session(model, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(together.run(x), alone.run(x))
    assert len(uneven) == 1
    ours, one = together.run(x, lengths=lengths), alone.run(x, lengths=lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(ours[row, :length], one[row, :length])
    assert len(uneven) == 2


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_do_not_depend_on_how_rows_are_divided(kind, uneven):
    model = fastlstm.Sequential([fastlstm.Input((40, I)), kind(H, return_sequences=True)])
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((B, 40, I), np.float32), rng.standard_normal((B, 40, H), np.float32)
    found = [fastlstm.value_and_grad(model, "mse", threads=threads)(x, target) for threads in (1, 2)]
    assert uneven and found[0][0] == found[1][0]
    for name, gradient in found[0][1].items():
        np.testing.assert_array_equal(gradient, found[1][1][name])


def test_workers_tell_their_speed():
    model = fastlstm.Sequential([fastlstm.Input((None, I)), layers.LSTM(H)])
    session = fastlstm.Session(model, threads=2)
    x = np.zeros((64, 400, I), np.float32)
    seen, learn = [], team.Team._learn

    def look(self):
        seen.append([(int(self._words[place + SPENT]), int(self._words[place + TAKEN])) for place in self._places])
        learn(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan.Pace, "note", lambda self, together, seconds: None)
        session.run(x)  # what earlier calls left is counted here
        patch.setattr(team.Team, "_learn", look)
        session.run(x)
    ((first, second),) = seen
    assert first[0] > 0 and second[0] > 0
    assert first[1] + second[1] == 64 * 400


def test_a_team_takes_the_short_way_of_small_calls(monkeypatch):
    """A call that was made before goes past the checks, whoever runs it: the bits and the states are those of one thread."""
    ran, lead = [], team.Team.run
    monkeypatch.setattr(team.Team, "run", lambda *args: ran.append(args) or lead(*args))
    monkeypatch.setattr(fastlstm.Session, "_run_once", _refuse_again(fastlstm.Session._run_once))
    monkeypatch.setattr(fastlstm.stream.Stream, "_step", _refuse_again(fastlstm.stream.Stream._step, allowed=0))
    model = fastlstm.Sequential([fastlstm.Input((None, 40)), layers.LSTM(400, return_sequences=True)])
    rng = np.random.default_rng(0)
    xs, steps = rng.standard_normal((9, 1, 4, 40), np.float32), rng.standard_normal((9, 1, 40), np.float32)
    one, two = (fastlstm.Session(model, threads=threads) for threads in (1, 2))
    kept = [session.stream(batch=1) for session in (one, two)]
    for x, step in zip(xs, steps, strict=True):
        np.testing.assert_array_equal(two.run(x), one.run(x))
        np.testing.assert_array_equal(kept[1].step(step), kept[0].step(step))
    assert len(ran) > 4
    assert kept[0].state == kept[1].state


def _refuse_again(way, allowed: int = 1):
    """Return the long way of a call, which each caller may go `allowed` times."""
    gone: dict[int, int] = {}

    def once(self, *args, **kwargs):
        gone[id(self)] = gone.get(id(self), 0) + 1
        assert gone[id(self)] <= allowed
        return way(self, *args, **kwargs)

    return once


def asleep(of: team.Team) -> bool:
    """Wait until all workers sleep."""
    end = time.monotonic() + 10
    while of._numbers[SLEEPING] < of.size - 1 and time.monotonic() < end:
        time.sleep(0.001)
    return bool(of._numbers[SLEEPING] == of.size - 1)


def test_a_team_that_is_gone_leaves_its_words_to_its_workers():
    """A worker that sleeps when its team ends wakes later, and reads them then."""
    one = team.Team(2)
    words, control, (helper,) = weakref.ref(one._words), one._control, one._helpers
    del one
    gc.collect()
    assert words() is not None and helper.is_alive()
    team.calls.dismiss(control)
    helper.join(10)
    assert not helper.is_alive() and words() is None


@pytest.mark.skipif(team.available_threads() < 2, reason="one core")
def test_teams_of_several_sizes_take_turns():
    """Each ends the one before it, whose workers may be asleep."""
    for turn in range(200):
        assert team.run_together(2 + turn % 2, PROGRAM_OF_NOTHING, 0) == 0
        if turn % 4 == 0:
            assert asleep(team._team)


NOTHING = np.zeros(STEP, np.int64)  # a program without steps
PROGRAM_OF_NOTHING = NOTHING.ctypes.data


@pytest.mark.skipif(team.current_core is None, reason="the system has no cores to keep off")
class TestCores:
    def test_workers_that_wake_are_kept_off_the_core_that_wakes_them_and_apart(self, three, monkeypatch):
        kept: dict[int, list] = {helper.native_id: [] for helper in three._helpers}
        monkeypatch.setattr(team.os, "sched_getaffinity", lambda thread: {2, 3, 5, 7, 11})
        monkeypatch.setattr(team.os, "sched_setaffinity", lambda thread, cores: kept[thread].append(cores))
        monkeypatch.setattr(team, "current_core", lambda: 5)
        assert asleep(three)
        assert three.run(PROGRAM_OF_NOTHING, 0) == 0
        assert list(kept.values()) == [[{2, 7}, {2, 3, 5, 7, 11}], [{3, 11}, {2, 3, 5, 7, 11}]]

    def test_more_workers_than_cores_share_them(self, three, monkeypatch):
        kept = []
        monkeypatch.setattr(team.os, "sched_getaffinity", lambda thread: {0, 1})
        monkeypatch.setattr(team.os, "sched_setaffinity", lambda thread, cores: kept.append(cores))
        monkeypatch.setattr(team, "current_core", lambda: 0)
        assert asleep(three)
        three.run(PROGRAM_OF_NOTHING, 0)
        assert kept == [{1}, {1}, {0, 1}, {0, 1}]

    def test_one_core_runs_alone(self, three, monkeypatch):
        monkeypatch.setattr(team.os, "sched_getaffinity", lambda thread: {4})
        monkeypatch.setattr(team, "current_core", lambda: 4)
        assert asleep(three)
        assert three.run(PROGRAM_OF_NOTHING, 0) is None

    def test_a_system_that_refuses_is_no_error(self, three, monkeypatch):
        def refuse(thread, cores):
            raise OSError("not permitted")

        monkeypatch.setattr(team.os, "sched_setaffinity", refuse)
        assert asleep(three)
        if len(os.sched_getaffinity(0)) > 1:
            assert three.run(PROGRAM_OF_NOTHING, 0) == 0

    def test_workers_may_run_everywhere_afterwards(self, three):
        assert asleep(three)
        three.run(PROGRAM_OF_NOTHING, 0)
        assert [os.sched_getaffinity(helper.native_id) for helper in three._helpers] == [os.sched_getaffinity(0)] * 2

    def test_what_runs_after_a_pause_has_the_same_bits(self):
        if len(os.sched_getaffinity(0)) < 2:
            pytest.skip("one core")
        network = fastlstm.Sequential([fastlstm.Input((40, 16)), layers.LSTM(48, return_sequences=True)])
        x = np.random.default_rng(0).standard_normal((8, 40, 16)).astype("f4")
        expected, together = fastlstm.Session(network, threads=1).run(x), fastlstm.Session(network, threads=2)
        for _ in range(12):
            time.sleep(0.005)
            np.testing.assert_array_equal(together.run(x), expected)

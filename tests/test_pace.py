"""Which calls a team runs, by the seconds that calls take."""

import pytest

from fastlstm import program
from fastlstm.program import Pace


def calls(pace: Pace, count: int, team, alone=1.0, changed=1.0) -> list[bool]:
    """Return whether a team ran each of `count` calls; `team` and `alone` are the seconds of call k, or the same for all.

    A call after one of the other way takes `changed` times as long.
    """
    chosen: list[bool] = []
    for k in range(count):
        together = pace.together
        seconds = team if together else alone
        seconds = seconds(k) if callable(seconds) else seconds
        pace.note(together, seconds * changed if chosen and chosen[-1] != together else seconds)
        chosen.append(together)
    return chosen


def test_both_are_tried_first():
    """Long calls in turn; short ones one way after the other, each with a first call that does not count."""
    assert calls(Pace(), 6, 0.5) == [True, False] * 3
    assert calls(Pace(), 8, 5e-6, 1e-5) == [True] * 4 + [False] * 4


@pytest.mark.parametrize(("second", "count", "few"), [(1.0, 650, 10), (4e-4, 650, 18), (1e-5, 8000, 38)])
def test_a_fast_team_runs_nearly_all_calls(second, count, few):
    """One thread runs one of 64 long calls, two of 64 short ones, of those of microseconds two in some 4 ms."""
    pace = Pace()
    calls(pace, 8, 0.5 * second, second)
    assert count - sum(calls(pace, count, 0.5 * second, second)) == few


@pytest.mark.parametrize(
    ("team", "second", "count", "few"),
    [(1.1, 1.0, 720, 44), (2, 1.0, 720, 24), (2, 4e-4, 720, 30), (5, 4e-4, 720, 12), (2, 1e-5, 8000, 92)],
)
def test_a_slow_team_runs_few_calls(team, second, count, few):
    """The more it costs the fewer, whichever is less: one of 16, or what costs 1/32 of the time."""
    pace = Pace()
    calls(pace, 8, team * second, second)
    assert sum(calls(pace, count, team * second, second)) == few


@pytest.mark.parametrize("second", [1.0, 1e-5])
def test_a_burst_costs_few_calls(second):
    pace = Pace()
    calls(pace, 100, 0.5 * second, second)
    assert not all(calls(pace, 5, 2 * second, second))  # three slow calls are enough to leave the team
    after = calls(pace, 30, 0.5 * second, second)
    assert all(after[5:])


@pytest.mark.parametrize(("second", "within"), [(1.0, 34), (4e-4, 66), (1e-5, 430)])
def test_a_team_that_becomes_fast_is_found(second, within):
    pace = Pace()
    calls(pace, 2000, 2 * second, second)
    assert all(calls(pace, within + 20, 0.5 * second, second)[within:])


def test_what_a_change_costs_decides_nothing():
    """One thread that finds half of its weights in another core's cache is slow once; so is a team that sleeps."""
    for team, often in ((1.2e-5, False), (0.8e-5, True)):
        pace = Pace()
        calls(pace, 8, team, 1e-5, changed=3.0)
        assert (sum(calls(pace, 500, team, 1e-5, changed=3.0)) > 400) == often


class Clock:
    """Seconds that pass as a test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, clock: Clock, count: int, team: float, alone: float, gap: float) -> int:
    """Let calls run `gap` seconds apart, and return how many a team ran."""
    ran: list[bool] = []

    def work(together):
        ran.append(together)
        clock.now += team if together else alone

    for _ in range(count):
        clock.now += gap
        pace.run(work)
    return sum(ran)


def test_a_short_call_wakes_no_team_that_was_slower(monkeypatch):
    """Until calls follow each other so closely that its workers stay awake."""
    clock = Clock()
    monkeypatch.setattr(program, "perf_counter", clock)
    pace = Pace()
    assert run(pace, clock, 8, 9e-5, 3e-5, 8e-3) == 4
    assert run(pace, clock, 3000, 9e-5, 3e-5, 8e-3) == 0
    assert run(pace, clock, 100, 2e-5, 3e-5, 1e-6) > 90


def test_a_long_call_does(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(program, "perf_counter", clock)
    pace = Pace()
    run(pace, clock, 8, 3e-4, 2e-4, 8e-3)
    assert run(pace, clock, 3000, 3e-4, 2e-4, 8e-3) > 100
    assert run(pace, clock, 3000, 1e-4, 2e-4, 8e-3) > 2900

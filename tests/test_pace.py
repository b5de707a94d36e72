"""Which calls a team runs, by the seconds that calls take."""

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
    first = calls(Pace(), 8, 0.5)
    assert sum(first) == 4


def test_a_fast_team_runs_nearly_all_calls():
    pace = Pace()
    calls(pace, 8, 0.5)
    assert 628 <= sum(calls(pace, 650, 0.5)) <= 632


def test_a_slow_team_runs_few_calls():
    pace = Pace()
    calls(pace, 8, 2.0)
    assert 76 <= sum(calls(pace, 720, 2.0)) <= 86


def test_a_burst_costs_few_calls():
    pace = Pace()
    calls(pace, 100, 0.5)
    assert not all(calls(pace, 5, 2.0))  # three slow calls are enough to leave the team
    after = calls(pace, 30, 0.5)
    assert all(after[5:])


def test_a_team_that_becomes_fast_is_found():
    pace = Pace()
    calls(pace, 200, 2.0)
    assert all(calls(pace, 40, 0.5)[18:])


def test_what_a_change_costs_decides_nothing():
    """One thread that finds half of its weights in another core's cache is slow once; so is a team that sleeps."""
    for team, often in ((1.2, False), (0.8, True)):
        pace = Pace()
        calls(pace, 8, team, changed=3.0)
        assert (sum(calls(pace, 500, team, changed=3.0)) > 400) == often

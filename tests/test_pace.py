"""Which calls a team runs, by the seconds that calls take."""

from fastlstm.program import Pace


def calls(pace: Pace, count: int, team, alone=1.0) -> list[bool]:
    """Return whether a team ran each of `count` calls; `team` and `alone` are the seconds of call k, or the same for all."""
    chosen = []
    for k in range(count):
        together = pace.together
        seconds = team if together else alone
        pace.note(together, seconds(k) if callable(seconds) else seconds)
        chosen.append(together)
    return chosen


def test_both_are_tried_first():
    first = calls(Pace(), 6, 0.5)
    assert sum(first) == 3


def test_a_fast_team_runs_nearly_all_calls():
    pace = Pace()
    calls(pace, 6, 0.5)
    assert sum(calls(pace, 650, 0.5)) == 640


def test_a_slow_team_runs_few_calls():
    pace = Pace()
    calls(pace, 6, 2.0)
    assert 80 <= sum(calls(pace, 720, 2.0)) <= 84


def test_a_burst_costs_few_calls():
    pace = Pace()
    calls(pace, 100, 0.5)
    assert not all(calls(pace, 5, 2.0))  # three slow calls are enough to leave the team
    after = calls(pace, 30, 0.5)
    assert all(after[3:])


def test_a_team_that_becomes_fast_is_found():
    pace = Pace()
    calls(pace, 200, 2.0)
    assert all(calls(pace, 40, 0.5)[9:])

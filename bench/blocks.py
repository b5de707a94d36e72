"""Interleaved timing in blocks.

The engines take turns in blocks of calls, in a random order each round. A call after another engine's would find that one's weights in
the caches and its workers still spinning for a next call (onnxruntime's do so for 35 ms), as it never does in use; so a block
waits until all workers sleep, and settles before it counts. A drift of the machine's speed still meets all engines alike, since a round is short beside it; probes of
the machine's limits run in every round.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

ROUNDS = 5  # at least
BLOCK = 0.03  # seconds that count in a block
SETTLING = 0.004  # seconds that do not, and at least one call
SPINNING = 0.045  # seconds to wait where engines have workers: longer than any of them spins


@dataclass
class Times:
    """Seconds of every call that counts, by round; and what the probes found in each round."""

    rounds: list[dict[str, list[float]]] = field(default_factory=list)
    rates: list[dict[str, float]] = field(default_factory=list)

    def calls(self, name: str) -> list[float]:
        return [seconds for each in self.rounds for seconds in each[name]]

    def median(self, name: str) -> float:
        return median(self.calls(name))


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    probes: Mapping[str, Callable[[], float]] | None = None,
    rounds: int = ROUNDS,
    threads: int = 1,
) -> Times:
    """Time the calls for about `seconds`, but for `rounds` rounds at least; probes run once a round among them.

    `threads` is how many the engines have.
    """
    waiting = 0 if threads == 1 else SPINNING
    probes = probes or {}
    times, turns, order = Times(), [*calls, *probes], random.Random(0)
    stop = time.perf_counter() + seconds
    while len(times.rounds) < rounds or time.perf_counter() < stop:
        order.shuffle(turns)
        found, rates = {}, {}
        for name in turns:
            time.sleep(waiting)
            if name in calls:
                found[name] = block(calls[name])
            else:
                rates[name] = probes[name]()
        times.rounds.append(found)
        times.rates.append(rates)
    return times


def apart(
    calls: Mapping[str, Callable[[], object]], gap: float, count: int, rounds: int = ROUNDS, threads: int = 1
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time blocks of `count` calls, `gap` seconds from one's begin to the next one's.

    Return by name the seconds of every call, and the cores that this process kept busy meanwhile, workers that spin included.
    """
    turns, order, spent = list(calls), random.Random(0), dict.fromkeys(calls, 0.0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        order.shuffle(turns)
        for name in turns:
            time.sleep(0 if threads == 1 else SPINNING)
            calls[name]()  # does not count: the caches hold another engine's data
            begin, due = time.process_time(), time.perf_counter()
            for _ in range(count):
                due += gap
                time.sleep(max(0.0, due - time.perf_counter()))
                start = time.perf_counter()
                calls[name]()
                times[name].append(time.perf_counter() - start)
            spent[name] += time.process_time() - begin
    return times, {name: seconds / (rounds * count * gap) for name, seconds in spent.items()}


def block(call: Callable[[], object], seconds: float = BLOCK) -> list[float]:
    """Return the seconds of each call of one block."""
    clock = time.perf_counter
    settled = clock() + SETTLING
    call()
    while clock() < settled:
        call()
    times: list[float] = []
    start = clock()
    stop = start + seconds
    while start < stop:
        call()
        end = clock()
        times.append(end - start)
        start = end
    return times

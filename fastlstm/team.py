"""Teams of threads that run one program together.

The workers are Python threads that stay in compiled code, without the GIL: they spin for a moment after a job, then sleep. A process
has one team at work at a time; a call that finds it at work runs alone, so requests in parallel never oversubscribe the machine. A fork
leaves the workers behind: the child makes a team of its own when it first needs one.

Linux may wake a worker on the core of the thread that wakes it, and leave it there for milliseconds: each would wait for the
other. So those that sleep are kept off that core, and apart, for the job that wakes them.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from fastlstm.kernels import calls
from fastlstm.kernels.layout import (
    ALONE,
    BARRIER,
    CONTROL_WORDS,
    FROM,
    PLACE,
    SHARES,
    SLEEPING,
    SPENT,
    TAKEN,
    TO,
    WORKER,
    WORKERS,
)

_WORKER_WORDS = 16  # of each worker, alone and together, and of the barrier: whole cache lines


def available_threads() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _find_core() -> Callable[[], int] | None:
    """Return what tells the core that this thread runs on, None where threads are not kept off cores."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.PyDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None


current_core = _find_core()


def _serve(words: np.ndarray, serve: Callable[[int, int], int], control: int, member: int) -> None:
    """Be a worker, and keep a team's words until it has left them: it may do so after the team is gone."""
    serve(control, member)


class Team:
    """`size` workers, the caller's thread being one of them."""

    def __init__(self, size: int):
        self.size = size
        places = range(0, (2 * size + 1) * _WORKER_WORDS, _WORKER_WORDS)
        self._words = np.zeros(CONTROL_WORDS + len(places) * _WORKER_WORDS, np.int64)
        self._numbers = self._words.data  # the same, quicker to read
        self._control = self._words.ctypes.data
        *members, barrier = (CONTROL_WORDS + place for place in places)
        address = lambda at: self._control + at * self._words.itemsize
        for worker, (together, alone) in enumerate(zip(members[:size], members[size:], strict=True)):
            for place, number, of in ((together, worker, size), (alone, 0, 1)):
                self._words[place + WORKER], self._words[place + WORKERS] = number, of
                self._words[place + BARRIER] = address(barrier) if of > 1 else 0
                self._words[place + PLACE], self._words[place + ALONE] = worker, address(alone)
                self._words[place + TO] = SHARES
        self._speeds = [1 / size] * size
        self._places = members[:size]
        self._divide()
        self._members = [address(at) for at in members[:size]]
        # its function is compiled before it starts: it must not wait for the lock of a compilation
        serve = calls.serve
        self._helpers = [
            threading.Thread(
                target=_serve, args=(self._words, serve, self._control, member), name="fastlstm", daemon=True
            )
            for member in self._members[1:]
        ]
        for helper in self._helpers:
            helper.start()

    def run(self, program: int, first: int) -> int | None:
        """Run the program at this address together; return whether it refused an input, None if there is only one core to run on."""
        if not self._numbers[SLEEPING] or current_core is None:
            refused = calls.lead(program, first, self._control, self._members[0])
        else:
            cores = os.sched_getaffinity(0)
            others = sorted(cores - {current_core()})
            if not others:
                return None
            apart = min(len(others), len(self._helpers))
            self._keep_on([set(others[k % apart :: apart]) for k in range(len(self._helpers))])
            try:
                refused = calls.lead(program, first, self._control, self._members[0])
            finally:
                self._keep_on([cores] * len(self._helpers))
        self._learn()
        return refused

    def _keep_on(self, cores: list[set[int]]) -> None:
        """Let each worker but the caller run on some cores only."""
        for helper, allowed in zip(self._helpers, cores, strict=True):
            assert helper.native_id is not None  # it has started
            with suppress(OSError):  # then it runs where the system likes
                os.sched_setaffinity(helper.native_id, allowed)

    def _divide(self) -> None:
        """Give each worker the share of rows that fits its speed."""
        done = 0.0
        for place, speed in zip(self._places, self._speeds, strict=True):
            self._words[place + FROM] = round(done * SHARES)
            done += speed
            self._words[place + TO] = round(done * SHARES)

    def _learn(self) -> None:
        """Learn from a job that divided rows: who shares a core with others is slower than the rest, for a while."""
        words = self._numbers
        spent = [words[place + SPENT] for place in self._places]
        if not any(spent):
            return
        taken = [words[place + TAKEN] for place in self._places]
        for place in self._places:
            words[place + SPENT] = words[place + TAKEN] = 0
        if not all(spent) or not all(taken):
            return
        rates = [rows / time for rows, time in zip(taken, spent, strict=True)]
        # half of what is new, and within half of an equal share: a moment may mislead
        least, most = 0.5 / self.size, 1.5 / self.size
        speeds = [
            min(max((speed + rate / sum(rates)) / 2, least), most)
            for speed, rate in zip(self._speeds, rates, strict=True)
        ]
        self._speeds = [speed / sum(speeds) for speed in speeds]
        self._divide()

    def stop(self) -> None:
        """Let the workers end."""
        calls.dismiss(self._control)


_lock = threading.Lock()
_team: Team | None = None


def _start_afresh() -> None:
    global _lock, _team
    _lock, _team = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def run_together(size: int, program: int, first: int) -> int | None:
    """Run a program with a team of `size` and return whether it refused an input; None if the process's team is at work, or there
    is only one core to run on."""
    global _team
    lock = _lock
    if not lock.acquire(blocking=False):
        return None
    try:
        if _team is None or _team.size != size:
            if _team is not None:
                _team.stop()
            _team = Team(size)
        return _team.run(program, first)
    finally:
        lock.release()

"""Program: the steps of a frame. Kernels stand in tables that one compiled call walks; NumPy steps stand between them."""

import ctypes
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NoReturn, TypeVar

import numpy as np

from fastlstm.errors import GraphError
from fastlstm.kernels import calls, library
from fastlstm.kernels.layout import GATE, REFUSED, SHARED, SOLO, STEP
from fastlstm.team import run_together

Result = TypeVar("Result")
SMALL_WORK = 100_000  # floating-point operations that are not worth sharing
DIRECT_BYTES = 1 << 16  # from here on pointing the tables to an array is cheaper than copying it
VERDICT = object()  # as an argument: the address of the word by which a kernel refuses an input


@dataclass
class KernelStep:
    """A call of a kernel: integers and addresses of arrays, then float64 numbers.

    `refuses`, of a kernel that can refuse its input, raises the error that says why.
    """

    node: str
    kernel: str
    kind: np.dtype
    narrow: np.dtype
    args: list[Any]
    owner: int = SHARED
    waits: bool = False
    refuses: Callable[[], None] | None = None


@dataclass
class HostStep:
    """A call of a NumPy function."""

    node: str
    function: Callable[..., None]
    args: tuple[Any, ...]


def schedule(
    steps: Sequence[KernelStep | HostStep], ancestors: Mapping[str, Set[str]], work: Mapping[str, int], threads: int
):
    """Decide which workers of a team do which kernels.

    Neighbouring nodes that do not depend on each other are given to one worker each where that divides the work well; every other
    node is shared, its parts being the kernel's business, or where it is too small for that, done by the first worker.
    """
    kernels = [step for step in steps if isinstance(step, KernelStep)]
    groups: list[list[str]] = []
    for step in kernels:
        if groups and step.node in groups[-1]:
            continue
        if groups and not ancestors.get(step.node, set()) & set(groups[-1]):
            groups[-1].append(step.node)
        else:
            groups.append([step.node])
    owners: dict[str, int] = {}
    for group in groups:
        loads = [0] * threads
        for node in sorted(group, key=lambda node: -work.get(node, 0)):
            owners[node] = loads.index(min(loads))
            loads[owners[node]] += work.get(node, 0)
        if max(loads) > 0.75 * sum(loads):
            owners.update((node, SHARED if work.get(node, 0) > SMALL_WORK else 0) for node in group)
    place = {node: k for k, group in enumerate(groups) for node in group}
    for before, step in zip([None, *kernels], kernels, strict=False):
        step.owner = owners[step.node]
        # the first waits for the starts of states
        together = before is None or place[before.node] != place[step.node]
        step.waits = together or before.owner == SHARED or step.owner == SHARED  # type: ignore[union-attr]


class Pace:
    """Whether a team runs a program faster than one thread here and now: both are tried, and the slower one again from time to time.

    A team is slow while others use the machine. That may last a moment: so it is tried again after 1, 2, 4, 8 calls, then every 16, or as
    seldom as tries cost 1/32 of the time; one thread every 64; either, of calls of microseconds, not before a PERIOD is over. A try of a
    short call is two calls: the first, whose weights lie in other cores' caches and whose workers are asleep, does not count. Where a call
    comes so long after the last that workers sleep, and takes less time than to wake them, a team that was slower is not tried.
    """

    SAMPLES, TEAM_AGAIN, ALONE_AGAIN, TRIES_COST = 3, 16, 64, 1 / 32
    SHORT, PERIOD, AWAKE, WAKING = 1e-3, 4e-3, 1e-4, 1e-4  # seconds

    def __init__(self) -> None:
        self._team, self._alone = deque[float](maxlen=self.SAMPLES), deque[float](maxlen=self.SAMPLES)
        self._team_is_faster = True
        self._slower_best = 0.0  # seconds, of the slower way's samples
        self._patience = self._left = 1  # calls from one try of the slower one to the next, and those that are left
        self._last: bool | None = None  # how the last call ran
        self._ended = 0.0  # when
        self.together = True

    def run(self, work: Callable[[bool], Result]) -> Result:
        """Do the work of a call, together or alone, and learn from how long it takes."""
        together, start = self.together, perf_counter()
        if together and not self._team_is_faster and start - self._ended > self.AWAKE:
            together = min(self._alone) > self.WAKING
        result = work(together)
        self._ended = perf_counter()
        self.note(together, self._ended - start)
        return result

    def note(self, together: bool, seconds: float) -> None:
        """Count a call and decide for the next."""
        own = self._team if together else self._alone
        if (
            seconds < self._slower_best
            and self._left > 1
            and together is self._team_is_faster
            and together is self._last
        ):
            own.append(seconds)  # as expected
            self._left -= 1
            return
        cold, self._last = together is not self._last and seconds < self.SHORT, together
        self.together = together
        if cold:
            return
        own.append(seconds)
        if len(self._alone) < self.SAMPLES or len(self._team) < self.SAMPLES:
            stays = seconds < self.SHORT and len(own) < self.SAMPLES
            self.together = together if stays else not together
            return
        alone, team = min(self._alone), min(self._team)
        before, self._team_is_faster = self._team_is_faster, team < alone
        self._slower_best = max(alone, team)
        period = int(self.PERIOD / max(min(seconds, self.SHORT), 1e-6))  # calls
        if self._team_is_faster:
            self._patience = max(self.ALONE_AGAIN, period)
        elif before:
            self._patience = 1
        elif together:
            price = (team / alone - 1) * (2 if seconds < self.SHORT else 1)  # of a try, in calls
            self._patience = min(2 * self._patience, max(self.TEAM_AGAIN, period, int(price / self.TRIES_COST)))
        tried = together != self._team_is_faster
        self._left = self._patience if tried or before != self._team_is_faster else self._left - 1
        self.together = self._team_is_faster == (self._left > 0)


class Port:
    """Where a program reads an input or writes an output: its own buffer, or the caller's array in its place.

    A caller's array takes the place of a large buffer that only kernels use: their tables are pointed to it for the call.
    """

    def __init__(self, buffer: np.ndarray):
        self.buffer = buffer
        self.direct = buffer.nbytes >= DIRECT_BYTES and buffer.flags.c_contiguous
        self._words: list[tuple[memoryview, int, int]] = []  # table, place, offset from the buffer's start
        self._at = self._home = _address(buffer)

    def connect(self, tables: Sequence[np.ndarray], references: Sequence[Sequence[int]]) -> None:
        """Note which words of the tables point into the buffer."""
        first, last = self._home, self._home + self.buffer.nbytes
        for table, places in zip(tables, references, strict=True):
            inside = [place for place in places if first <= table[place] < last]
            self._words += [(table.data, place, int(table[place]) - first) for place in inside]

    def forbid(self) -> None:
        """Let no caller's array take the buffer's place."""
        self.direct = False

    def admits(self, array: np.ndarray) -> bool:
        """Tell whether kernels can use this array in place of the buffer."""
        return self.direct and array.dtype == self.buffer.dtype and array.flags.c_contiguous and array.flags.aligned

    def point(self, address: int) -> None:
        """Let the tables point to the array at this address."""
        if address != self._at:
            for table, place, offset in self._words:
                table[place] = address + offset
            self._at = address

    def fetch(self) -> None:
        """Copy what the tables point to into the buffer."""
        if self._at != self._home:
            ctypes.memmove(self._home, self._at, self.buffer.nbytes)

    def point_home(self) -> None:
        """Let the tables point to the buffer."""
        self.point(self._home)

    def feed(self, array: np.ndarray) -> None:
        """Take an input."""
        if self.admits(array):
            self.point(_address(array))
        else:
            self.point(self._home)
            self.buffer[...] = array

    def overlaps(self, array: np.ndarray) -> bool:
        """Tell whether an array lies in the buffer's memory."""
        return np.may_share_memory(self.buffer, array)

    def reaches_past(self, array: np.ndarray) -> bool:
        """Tell whether an array lies in the buffer's memory, and beyond it: the buffer is only a part of what a kernel uses."""
        if not self.overlaps(array):
            return False
        low = high = _address(array)
        for size, stride in zip(array.shape, array.strides, strict=True):
            low, high = low + min(0, (size - 1) * stride), high + max(0, (size - 1) * stride)
        return low < self._home or high + array.itemsize > self._home + self.buffer.nbytes


class Program:
    """Steps in order; `seal` makes the tables, `run` walks them.

    `starts` are the steps that give states their start: a stream leaves them out. A worker of a team does a step alone where other
    nodes that do not depend on it have as much work, else all share it.
    """

    def __init__(self, threads: int = 1):
        self.threads = threads
        self.starts: list[KernelStep] = []
        self.steps: list[KernelStep | HostStep] = []
        self.calls: list[
            tuple[int, int] | HostStep
        ] = []  # address of a table and its steps for starts, or a NumPy step
        self.tables: list[np.ndarray] = []
        self.references: list[list[int]] = []  # by table: the words that hold addresses of arrays
        self._kept: list[np.ndarray] = []
        self._ports: Sequence[Port] = ()

    def seal(self, ports: Sequence[Port] = ()) -> None:
        """Make the tables, one for each run of kernels without a NumPy step between them."""
        self._ports = ports
        run: list[KernelStep] = []
        starts = self.starts
        for step in self.steps:
            if isinstance(step, KernelStep):
                run.append(step)
                continue
            self._table(starts, run)
            starts, run = [], []
            self.calls.append(step)
        self._table(starts, run)
        used_by_numpy = [a for step in self.steps if isinstance(step, HostStep) for a in _arrays(step.args)]
        steps = [*self.starts, *self.steps]
        used_by_kernels = [a for step in steps if isinstance(step, KernelStep) for a in _arrays(step.args)]
        for port in ports:
            port.connect(self.tables, self.references)
            others = [other.buffer for other in ports if other is not port]
            if port.direct and (
                any(port.overlaps(array) for array in used_by_numpy + others)
                or any(port.reaches_past(array) for array in used_by_kernels)
            ):
                port.forbid()

    def _table(self, starts: Sequence[KernelStep], run: Sequence[KernelStep]) -> None:
        steps = [*starts, *run]
        if not steps:
            return
        at = STEP * (1 + len(steps))
        table = np.zeros(at + sum(len(step.args) for step in steps), np.int64)
        table[0] = len(steps)
        base, references = _address(table), []
        gate = max((k for k, step in enumerate(steps, 2) if step.refuses is not None), default=0)
        if gate and gate <= len(steps):
            table[GATE] = gate
            steps[gate - 1].waits = True
        for k, step in enumerate(steps, 1):
            address = library.address(step.kernel, step.kind.name, step.narrow.name)
            table[k * STEP : k * STEP + STEP] = address, base + at * table.itemsize, step.owner, step.waits
            for arg in step.args:
                if isinstance(arg, np.ndarray):
                    table[at] = _address(arg)
                    references.append(at)
                    self._kept.append(arg)
                elif arg is VERDICT:
                    table[at] = base + REFUSED * table.itemsize
                elif isinstance(arg, float):
                    table[at : at + 1].view(np.float64)[0] = arg
                else:
                    table[at] = arg
                at += 1
        self.tables.append(table)
        self.references.append(references)
        self.calls.append((base, len(starts)))

    @property
    def only_call(self) -> tuple[int, int] | None:
        """The one table's address and its steps for starts, if the program is one call into compiled code."""
        return self.calls[0] if len(self.calls) == 1 and isinstance(self.calls[0], tuple) else None

    def run(self, resume: bool = False, together: bool = False) -> None:
        """Run every step, alone or with a team if none is at work; `resume` leaves states as they are. Raise what `refuse` does."""
        for call in self.calls:
            if isinstance(call, HostStep):
                call.function(*call.args)
                continue
            if self._walk(call[0], call[1] if resume else 0, together):
                self.refuse()

    def _walk(self, address: int, first: int, together: bool) -> int:
        """Run a table from step `first` on and return whether it refused an input."""
        refused = run_together(self.threads, address, first) if together else None
        return calls.walk(address, first, SOLO) if refused is None else refused

    def only_walk(self, resume: bool, pace: Pace | None) -> Callable[[], int]:
        """Return what runs a program that is one call into compiled code, and returns whether that refused an input."""
        assert self.only_call is not None
        address, states = self.only_call
        first = states if resume else 0
        return (
            partial(calls.walk, address, first, SOLO)
            if pace is None
            else partial(pace.run, partial(self._walk, address, first))
        )

    def refuse(self) -> NoReturn:
        """Raise the error of the first step that refuses its input, after a run that was refused."""
        for table in self.tables:
            table[REFUSED] = 0
        for port in self._ports:
            port.fetch()
        for step in self.steps:
            if isinstance(step, KernelStep) and step.refuses is not None:
                step.refuses()
        raise GraphError("a step of the model refused its input")


def _arrays(args: Any) -> list[np.ndarray]:
    """Return the arrays among the arguments of a NumPy step."""
    if isinstance(args, np.ndarray):
        return [args]
    if isinstance(args, list | tuple):
        return [array for arg in args for array in _arrays(arg)]
    return []


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]

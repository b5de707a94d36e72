"""What an engine offers the benchmarks.

Each method prepares one task and returns runners by variant: an engine may have more than one good way, and the table takes its
best. Whatever can be prepared before the call is: the engine's own arrays, packing, compilation, buffers for outputs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.networks import Network


@dataclass(frozen=True)
class Runner:
    """`call` is timed; `outputs` runs the same from the start and returns what is compared, in one layout for all engines."""

    call: Callable[[], Any]
    outputs: Callable[[], np.ndarray]


Runners = dict[str, Runner]
NO_WAY = "has no way to do it"  # why an engine is left out that raises NotImplementedError
Ticks = Sequence[tuple[np.ndarray, np.ndarray]]


class Peer:
    """An engine limited to a number of threads. A method that raises NotImplementedError is a task that it has no way to do."""

    name = ""

    def __init__(self, threads: int):
        self.threads = threads

    @property
    def version(self) -> str:
        raise NotImplementedError

    def run(self, network: Network, x: np.ndarray) -> Runners:
        """Whole sequences x (T, B, I); outputs (T, B, width or dense)."""
        raise NotImplementedError

    def step(self, network: Network, xs: np.ndarray) -> Runners:
        """One step of running streams, x (B, I) each time; outputs of the steps xs (S, B, I): (S, B, H or dense)."""
        raise NotImplementedError

    def ragged(self, network: Network, x: np.ndarray, lengths: np.ndarray) -> Runners:
        """Sequences x (T, B, I) of which the first lengths[b] steps are valid; outputs (T, B, H), zero where not valid."""
        raise NotImplementedError

    def arrivals(self, network: Network, ticks: Ticks) -> Runners:
        """B streams; each tick brings x (n, I) for some rows (n,). Outputs of all ticks (S, n, H)."""
        raise NotImplementedError

    def train(self, network: Network, x: np.ndarray, target: np.ndarray) -> Runners:
        """Loss of a batch x (T, B, I), mean (y - target)^2 with target (T, B, width), and the gradients of all weights; outputs are
        those in the order of `Network.trained`, as one vector."""
        raise NotImplementedError


def stepping(reset: Callable[[], None], step: Callable[[Any], Any], inputs: Iterable, shape: tuple[int, ...]) -> Runner:
    """Return the runner of something that carries its own states: the timed calls go through the inputs again and again.

    `step` returns an array that the engine may overwrite at its next step; `shape` is that of one compared output.
    """
    given, place = list(inputs), 0

    def outputs() -> np.ndarray:
        reset()
        return np.stack([np.array(step(x)).reshape(shape) for x in given])

    def call() -> Any:
        nonlocal place
        place = place + 1 if place + 1 < len(given) else 0
        return step(given[place])

    return Runner(call, outputs)

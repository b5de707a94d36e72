"""The rows of the table: a network, and how it is called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import gradients, limits, reference
from bench.networks import Network
from bench.peers import Peer, Runners
from fastlstm.errors import InputError, one_of

STEPS = 5  # steps whose outputs are compared


@dataclass(frozen=True)
class Row:
    """Whole sequences through a network."""

    name: str
    network: Network
    group: str = "table"

    @property
    def dims(self) -> str:
        return self.network.dims

    def runners(self, peer: Peer) -> Runners:
        return peer.run(self.network, self.network.x())

    def expected(self) -> np.ndarray:
        """Return the outputs in float64."""
        return reference.run(self.network, self.network.x())

    def scale(self, expected: np.ndarray) -> np.ndarray | float:
        """Return what differences from the expected outputs are measured in."""
        return 1.0

    def work(self, threads: int) -> limits.Work:
        """Return what a call must do."""
        return limits.work(self.network, threads)


class Step(Row):
    """One time step of running streams, their states carried by whatever the engine has for it."""

    def _inputs(self) -> np.ndarray:
        return replace(self.network, T=STEPS).x()

    def runners(self, peer: Peer) -> Runners:
        return peer.step(self.network, self._inputs())

    def expected(self) -> np.ndarray:
        return reference.run(self.network, self._inputs())


class Ragged(Row):
    """Sequences of different lengths, at most T: ours as a list, others as they take them."""

    least = 5

    @property
    def dims(self) -> str:
        return self.network.dims.replace(f" {self.network.T},", f" {self.least} to {self.network.T},")

    def lengths(self) -> np.ndarray:
        lengths = np.random.default_rng(3).integers(self.least, self.network.T + 1, self.network.B)
        lengths[:2] = self.network.T, self.least
        return lengths

    def runners(self, peer: Peer) -> Runners:
        return peer.ragged(self.network, self.network.x(), self.lengths())

    def expected(self) -> np.ndarray:
        return reference.run(self.network, self.network.x(), self.lengths())

    def work(self, threads: int) -> limits.Work:
        return limits.work(self.network, threads, rows=self.lengths().sum() / self.network.T)


class Arrivals(Row):
    """B streams of which a random tenth arrives each tick."""

    @property
    def dims(self) -> str:
        return self.network.dims.replace(f"({self.network.B},", f"({self.network.B // 10} of {self.network.B},")

    def ticks(self) -> list[tuple[np.ndarray, np.ndarray]]:
        rng, network = np.random.default_rng(4), self.network
        count = network.B // 10
        return [
            (rng.permutation(network.B)[:count], rng.standard_normal((count, network.I), np.float32))
            for _ in range(4 * STEPS)
        ]

    def runners(self, peer: Peer) -> Runners:
        return peer.arrivals(self.network, self.ticks())

    def expected(self) -> np.ndarray:
        return reference.arrivals(self.network, self.ticks())

    def work(self, threads: int) -> limits.Work:
        return limits.work(self.network, threads, rows=self.network.B // 10)


class Training(Row):
    """The loss of a batch, mean (y - target)^2 over all outputs of all steps, and its gradient with respect to every weight (not to x).

    Outputs are all gradients, one after the other in the order of `Network.trained`; differences count beside the largest element of a weight's.
    """

    def runners(self, peer: Peer) -> Runners:
        return peer.train(self.network, self.network.x(), self.network.target())

    def expected(self) -> np.ndarray:
        found = gradients.gradients(self.network, self.network.x(), self.network.target())
        return np.concatenate([array.ravel() for array in found])

    def scale(self, expected: np.ndarray) -> np.ndarray:
        parts = [part for layer in self.network.weights() for part in layer]
        sizes = [array.size for part in parts for array in self.network.trained(part)]
        pieces = np.split(expected, np.cumsum(sizes)[:-1])
        return np.concatenate([np.full(piece.shape, np.abs(piece).max()) for piece in pieces])

    def work(self, threads: int) -> limits.Work:
        return limits.training(self.network, threads)


def _training(name: str, network: Network) -> Row:
    return Training(f"training {name}", network, "training")


def _more(kind: type[Row], name: str, network: Network) -> Row:
    return kind(name, network, "more")


TABLE: list[Row] = [
    Step("step 64", Network(1, 1, 64, 64)),
    Step("step 128", Network(1, 1, 128, 128)),
    Step("step 256", Network(1, 1, 256, 256)),
    Row("series", Network(1, 50, 1, 50)),
    Row("sentence", Network(1, 100, 128, 128)),
    Row("2 bidirectional layers", Network(1, 100, 128, 128, layers=2, bidirectional=True)),
    Row("batch of series", Network(32, 50, 5, 64)),
    Row("batch of sentences", Network(32, 100, 128, 128)),
    Row("video", Network(32, 30, 2048, 256)),
    Row("large batch", Network(64, 50, 512, 512)),
    Row("large", Network(1, 100, 512, 512)),
    Row("wide batch", Network(256, 20, 128, 128)),
    Row("batch, 2 bidirectional layers", Network(8, 100, 256, 256, layers=2, bidirectional=True)),
]
MORE: list[Row] = [
    _more(Row, "one call 64", Network(1, 1, 64, 64)),
    _more(Row, "one call 128", Network(1, 1, 128, 128)),
    _more(Row, "one call 256", Network(1, 1, 256, 256)),
    _more(Row, "in L2", Network(1, 100, 192, 192)),
    _more(Row, "GRU", Network(32, 100, 128, 128, cell="GRU")),
    _more(Ragged, "ragged batch", Network(32, 100, 128, 128)),
    _more(Step, "step with Dense", Network(1, 1, 64, 64, dense=1)),
    _more(Arrivals, "arrivals", Network(1000, 1, 64, 64)),
]
TRAINING: list[Row] = [
    _training("series", Network(1, 50, 1, 50)),
    _training("2 layers", Network(1, 50, 5, 64, layers=2)),
    _training("batch of series", Network(32, 50, 5, 64)),
    _training("batch of sentences", Network(32, 100, 128, 128)),
    _training("wide batch", Network(256, 20, 128, 128)),
    _training("batch, 2 bidirectional layers", Network(8, 100, 256, 256, layers=2, bidirectional=True)),
    _training("GRU", Network(32, 100, 128, 128, cell="GRU")),
]
GROUPS = {"table": TABLE, "more": MORE, "training": TRAINING}


def slug(name: str) -> str:
    """Return a name as a command line takes it."""
    return "-".join(name.lower().replace(",", "").split())


def chosen(names: Sequence[str], others: Sequence[str] = ()) -> tuple[list[Row], list[str]]:
    """Return the rows of these names or groups, and which of `others` are named. Raise InputError for an unknown name."""
    rows = {slug(row.name): row for group in GROUPS.values() for row in group}
    picked: dict[str, Row] = {}
    also = []
    for name in names:
        key = slug(name)
        if key in GROUPS:
            picked |= {slug(row.name): row for row in GROUPS[key]}
        elif key in rows:
            picked[key] = rows[key]
        elif key in others:
            also.append(key)
        else:
            raise InputError(f"--rows {name}: expected one of {one_of([*GROUPS, *rows, *others])}")
    return list(picked.values()), also

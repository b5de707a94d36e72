"""The limit that binds a row: multiply-adds, or the weights' way from the cache that holds them.

A call cannot end before its multiply-adds are done at the machine's peak, nor before its weights have been read: each W once a
call, each U once a step (rows of a batch share what is read), at the bandwidth of the level that holds them. The larger time binds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.machine import level_of
from bench.networks import Network


@dataclass(frozen=True)
class Work:
    """What a call must do: floating-point operations, and bytes of weights read by the level that holds them.

    `swept` are the bytes of a U that no core's own caches hold, read again at every step: taken back and forth, part of it is still
    in a nearer cache, so that more than the level's bandwidth can be reached.
    """

    flops: int
    reads: Mapping[str, int]
    swept: int = 0

    @property
    def bytes_read(self) -> int:
        return sum(self.reads.values())


def work(network: Network, threads: int = 1, rows: float | None = None) -> Work:
    """Return the work of a call, of `rows` of the batch's rows if not all (a share of one where its sequence is shorter).

    W is read once a call, after all the others: from the level that holds all weights. So is U where there is but one step; else
    it is read again at the next step: from the level that holds one U. A level that is just large enough counts as holding them.
    """
    parts = network.layers * network.directions
    everything = network.input_bytes + parts * network.recurrent_bytes
    far = level_of(everything, threads)
    near = far if network.T == 1 else level_of(network.recurrent_bytes, threads)
    reads = {far: network.input_bytes}
    reads[near] = reads.get(near, 0) + parts * network.T * network.recurrent_bytes
    share = 1 if rows is None else rows / network.B
    swept = network.recurrent_bytes if network.T > 1 and near in ("L3", "memory") else 0
    return Work(round(network.flops * share), reads, swept)


def training(network: Network, threads: int = 1) -> Work:
    """Return the work of the loss of a batch and its gradient with respect to the weights.

    The adjoint of a product is two of its size, of which the first layer has no use for dx; weights are read once more, on the way back.
    """
    forward = work(network, threads)
    unused = 2 * network.B * network.T * network.I * network.gates * network.H * network.directions
    return Work(3 * forward.flops - unused, {level: 2 * size for level, size in forward.reads.items()}, forward.swept)


def binding(work: Work, rates: Mapping[str, float]) -> tuple[str, float]:
    """Return what binds ("FMA" or a level) and the seconds that it takes at least.

    rates: "FMA" in operations a second, each level in bytes a second.
    """
    parts = {level: size / rates[level] for level, size in work.reads.items()}
    compute, reading = work.flops / rates["FMA"], sum(parts.values())
    return ("FMA", compute) if compute >= reading else (max(parts, key=lambda level: parts[level]), reading)

"""What the machine can do: multiply-adds a second, and bytes a second read from each level of its caches.

A slow probe would flatter us, so each rate is the best of several loops; it runs in every round of a row.
"""

import threading
import time
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from bench import probe_kernels
from bench.machine import cache_sizes
from fastlstm.kernels import target

ACCUMULATORS = 4 * target.ROWS  # of the kernels' tile: 24, or 12 where there are 16 registers
LEVELS = ("L1", "L2", "L3", "memory")
PROBE_SECONDS = 0.002
REPEATS = 3  # of which the best counts
LOOKS = 3
READS = ((8, 1, 0), (8, 2, 0), (16, 1, 1024), (16, 4, 4096))  # accumulators, streams, prefetch distance
PAD = 16 << 10  # elements past the end, that prefetches may name
SMALL = 32 << 10  # bytes of the loops that multiply


def sizes(level: str) -> tuple[int, ...]:
    """Return the bytes that each core reads over and over to meet a level: well inside it, and well outside the one before."""
    caches = cache_sizes()
    return {
        "L1": (caches["L1"] // 2,),
        "L2": (caches["L2"] // 2,),
        "L3": (2 * caches["L2"], 4 * caches["L2"]),
        "memory": (min(2 * caches["L3"], 512 << 20),),
    }[level]


def lanes() -> int:
    return target.lanes(4)


@cache
def _buffer(size: int, core: int) -> np.ndarray:
    """Return `size` bytes that start on a page, one buffer for each core."""
    raw = np.empty(size // 4 + PAD, np.float32)
    array = raw[-raw.ctypes.data % 4096 // 4 :]
    array[:] = 1e-3
    return array


@cache
def _reads(turning: bool = False) -> list[Callable]:
    return [probe_kernels.make_read(*variant, turning=turning) for variant in READS]


@cache
def _multiply() -> Callable:
    return probe_kernels.make_multiply(ACCUMULATORS)


@cache
def _tile() -> Callable:
    return probe_kernels.make_tile(target.ROWS)


def _at_once(threads: int, work: Callable[[int], None]) -> float:
    """Return the seconds from the first start to the last end of `work(core)` on each of `threads` threads."""
    if threads == 1:
        start = time.perf_counter()
        work(0)
        return time.perf_counter() - start
    spans, barrier = [(0.0, 0.0)] * threads, threading.Barrier(threads)

    def run(core: int) -> None:
        barrier.wait()
        start = time.perf_counter()
        work(core)
        spans[core] = start, time.perf_counter()

    workers = [threading.Thread(target=run, args=(core,)) for core in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _rate(threads: int, amount: int, run: Callable[[int, int], None]) -> float:
    """Return `amount` a second and thread of run(core, repeats), the repeats chosen to last PROBE_SECONDS."""
    run(0, 1)  # compiles it, and touches the memory
    seconds = lambda repeats: _at_once(threads, lambda core: run(core, repeats))
    repeats = 1
    while (once := seconds(repeats)) < PROBE_SECONDS / 2:
        repeats = max(repeats + 1, min(repeats * 8, int(repeats * PROBE_SECONDS / max(once, 1e-7))))
    best = min(once, *(seconds(repeats) for _ in range(REPEATS - 1)))
    return threads * repeats * amount / best


def registers(threads: int = 1) -> float:
    """Return floating-point operations a second with operands in registers."""
    loop = _multiply()
    run = lambda core, n: loop(_buffer(SMALL, core).ctypes.data, n)
    return _rate(threads, ACCUMULATORS * lanes() * 2, run)


def tile(threads: int = 1) -> float:
    """Return floating-point operations a second of the kernels' tile: loads and broadcasts from the first-level cache."""
    L, loop = lanes(), _tile()
    run = lambda core, n: loop(_buffer(SMALL, core).ctypes.data, L, n)
    return _rate(threads, 32 * ACCUMULATORS * L * 2, run)


def flops(threads: int = 1) -> float:
    """Return the most floating-point operations a second."""
    return max(registers(threads), tile(threads))


def read(level: str, threads: int = 1) -> float:
    """Return the most bytes a second that `threads` cores read together from a level of the caches."""
    return max(_read(size, threads, _reads()) for size in sizes(level))


def read_turning(size: int, threads: int = 1) -> float:
    """Return the most bytes a second of reading `size` bytes back and forth, of which `threads` cores have a share each."""
    return _read(size // threads, threads, _reads(turning=True))


def _read(size: int, threads: int, loops: list[Callable]) -> float:
    L = lanes()
    count = size // 4 // (64 * L) * (64 * L)  # whole rounds of every loop
    best = 0.0
    for loop in loops:
        run = lambda core, n, loop=loop: loop(_buffer(size, core).ctypes.data, L, count, n)
        best = max(best, _rate(threads, count * 4, run))
    return best


def machine(threads: int = 1) -> dict[str, float]:
    """Return all rates: operations a second in registers and in the tile, bytes a second by level; the best of a few looks at each."""
    looks = {"FMA, registers": registers, "FMA, tile": tile, **{level: partial(read, level) for level in LEVELS}}
    return {name: max(look(threads) for _ in range(LOOKS)) for name, look in looks.items()}

"""The machine: its name, its caches, the versions of what runs on it."""

import os
import platform
import time
from pathlib import Path

import numba
import numpy as np

from fastlstm.kernels import target
from fastlstm.kernels.caches import cache_sizes


def level_of(size: int, threads: int = 1) -> str:
    """Return the level that holds `size` bytes, read by `threads` cores with a share each: L1, L2, L3 or memory."""
    for level, bytes_ in cache_sizes().items():
        if size <= bytes_ * (threads if level != "L3" else 1):
            return level
    return "memory"


def name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Others:
    """How many cores other processes, and the host's other machines, keep busy: from its making until `cores` is asked."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        """Return seconds on the clock, and of all cores' work that is not this process's."""
        try:
            words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:
            return time.perf_counter(), 0.0
        # user, nice, system, idle, iowait, irq, softirq, steal
        ticks = [int(word) for word in words[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - time.process_time()

    def cores(self) -> float:
        (start, before), (end, after) = self._start, self._now()
        return max(0.0, (after - before) / (end - start))


def describe() -> dict:
    """Return what a reader needs to judge the times by."""
    return {
        "processor": name(),
        "cores": os.cpu_count(),
        "caches": cache_sizes(),
        "vector bytes": target.BYTES,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }

"""The data caches that one core sees, and how much of the second-level one weights may fill. Imports no Numba."""

from functools import cache
from pathlib import Path

USUAL = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}  # where the system does not say


@cache
def cache_sizes() -> dict[str, int]:
    """Return bytes by level."""
    sizes = dict(USUAL)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction" and f"L{level}" in sizes:
                sizes[f"L{level}"] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
        except (OSError, ValueError):
            continue
    return sizes


def near_bytes() -> int:
    """Return how many bytes of weights stay in the second-level cache beside what else a step touches."""
    return cache_sizes()["L2"] * 3 // 4

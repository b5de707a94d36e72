"""Packing of weights that are values of the run: found out once from what packing does to numbered elements.

A packing moves elements to places, fills with zeros, and may add two sources; each is a run of neighbours in the packed array and a fixed
stride in its source, so that a kernel can do it. A packing that does anything else stays a NumPy step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MAX_NUMBERED = 1 << 24  # elements that float32 can number


@dataclass(frozen=True)
class Runs:
    """What one source gives: (n, 4) words of kernels/runs.py; `add` to what other sources gave."""

    source: int
    words: np.ndarray
    add: bool


def find_runs(pack: Callable[..., np.ndarray], sources: Sequence[np.ndarray]) -> list[Runs] | None:
    """Return the runs that pack arrays which lie in memory as `sources` do, in order; None where there are none."""
    dtypes = {source.dtype for source in sources}
    if len(dtypes) != 1 or any(source.size > MAX_NUMBERED for source in sources):
        return None
    zeros = [np.zeros(source.shape, source.dtype) for source in sources]
    packed = pack(*zeros)
    if packed.dtype not in dtypes or packed.any():
        return None
    places = []
    for k, source in enumerate(sources):
        numbered = np.arange(1, source.size + 1, dtype=source.dtype).reshape(source.shape)
        places.append(pack(*zeros[:k], numbered, *zeros[k + 1 :]).ravel())
        if not all(0 <= place <= source.size for place in (places[-1].min(initial=0), places[-1].max(initial=0))):
            return None
    places = [place.astype(np.int64) for place in places]
    if not _explained(pack, sources, places):
        return None
    found, taken = [], np.zeros(packed.size, bool)
    for k, (source, place) in enumerate(zip(sources, places, strict=True)):
        given = place > 0
        for add, chosen in ((False, given & ~taken), (True, given & taken)):
            if chosen.any():
                found.append(Runs(k, _runs(np.flatnonzero(chosen), _offsets(source)[place[chosen] - 1]), add))
        taken |= given
    return found


def _explained(pack: Callable[..., np.ndarray], sources: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> bool:
    """Tell whether packing moves and adds random elements as it moved the numbered ones."""
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal(source.shape).astype(source.dtype) for source in sources]
    packed = pack(*samples).ravel()
    total = np.zeros_like(packed)
    for sample, place in zip(samples, places, strict=True):
        total += np.concatenate([np.zeros(1, sample.dtype), sample.ravel()])[place]
    return bool(np.array_equal(total, packed))


def _offsets(source: np.ndarray) -> np.ndarray:
    """Return where each element lies, in elements from the first."""
    offsets = np.zeros((), np.int64)
    for size, stride in zip(source.shape, source.strides, strict=True):
        offsets = offsets[..., None] + np.arange(size) * (stride // source.itemsize)
    return offsets.ravel()


def _runs(targets: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return runs of targets that follow each other and whose offsets have the usual distance."""
    steps = np.diff(offsets)[np.diff(targets) == 1]
    values, counts = np.unique(steps, return_counts=True)
    usual = int(values[counts.argmax()]) if len(values) else 1
    broken = (np.diff(targets) != 1) | (np.diff(offsets) != usual)
    first = np.concatenate([[0], np.flatnonzero(broken) + 1])
    count = np.diff(np.concatenate([first, [len(targets)]]))
    return np.stack([targets[first], offsets[first], count, np.full(len(first), usual)], axis=1).astype(np.int64)

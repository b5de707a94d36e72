"""Random numbers: NumPy's Philox, from a seed or from one generator of the process."""

import numpy as np

from fastlstm.errors import InputError

_shared = np.random.Generator(np.random.Philox())


def set_random_seed(seed: int) -> None:
    """Start the generator from which everything draws that has no seed of its own: initial weights, shuffling, dropout.

    >>> fastlstm.set_random_seed(1)
    """
    global _shared
    _shared = _seeded(seed)


def generator(seed: int | None = None) -> np.random.Generator:
    """Return a new generator of a seed, or the one of the process. Raise InputError for a seed that is no whole number from 0 on."""
    return _shared if seed is None else _seeded(seed)


def random_stream(seed: int, purpose: int, index: int, place: int = 0) -> np.random.Generator:
    """Return the random numbers of one epoch or step: they depend on nothing but these four, so that training can go on anywhere."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, place, index]))


def _seeded(seed: int) -> np.random.Generator:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed={seed!r}: expected a whole number of at least 0, or None")
    return np.random.Generator(np.random.Philox(int(seed)))

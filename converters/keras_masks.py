"""Masks that Keras loses on the way: from 3.8 on MultiHeadAttention takes them off its inputs, and what runs after it sees none.

Keras 3 runs the calls of a functional model by depth, the longest way to an output; what is as deep as the attention may run before
it or after. Calls that are given a mask as an argument keep it.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Place = tuple[str, int]  # a layer's name and the number of the call
Key = tuple[str, int, int]  # and of the output


@dataclass(frozen=True)
class Reader:
    """A call of a layer: where it stands, all that it reads, and what it takes the masks off."""

    place: Place
    reads: Sequence[Key]
    takes: Sequence[Key] = ()


def lost_masks(readers: Sequence[Reader]) -> Mapping[tuple[Place, Key], Literal["lost", "unknown"]]:
    """Return for calls and values that they read whether the value's mask is lost by then, or that the order is not known."""
    takers = [reader for reader in readers if reader.takes]
    if not takers:
        return {}
    depths = _depths(readers)
    calls = Counter(reader.place[0] for reader in readers)
    ordered = max(calls.values()) == 1  # a layer that is called twice moves in the order
    lost: dict[tuple[Place, Key], Literal["lost", "unknown"]] = {}
    for taker in takers:
        after = _after(taker.place, readers)
        for reader in readers:
            for key in set(reader.reads) & set(taker.takes):
                if reader.place == taker.place:
                    continue
                apart = depths[reader.place] - depths[taker.place]
                if reader.place in after or (ordered and apart < 0):
                    lost[reader.place, key] = "lost"
                elif not ordered or apart == 0:
                    lost.setdefault((reader.place, key), "unknown")
    return lost


def _depths(readers: Sequence[Reader]) -> dict[Place, int]:
    """Return the length of the longest way from each call to one whose outputs nobody reads."""
    depths = dict.fromkeys((reader.place for reader in readers), 0)
    for _ in readers:
        moved = False
        for reader in readers:
            for name, call, _ in reader.reads:
                if (name, call) in depths and depths[name, call] <= depths[reader.place]:
                    depths[name, call], moved = depths[reader.place] + 1, True
        if not moved:
            break
    return depths


def _after(place: Place, readers: Sequence[Reader]) -> set[Hashable]:
    """Return the calls that depend on one."""
    following: dict[Place, set[Place]] = defaultdict(set)
    for reader in readers:
        for name, call, _ in reader.reads:
            following[name, call].add(reader.place)
    found: set[Hashable] = set()
    stack = [place]
    while stack:
        fresh = following[stack.pop()] - found
        found |= fresh
        stack += fresh
    return found

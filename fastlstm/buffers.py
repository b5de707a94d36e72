"""Buffers: the memory of a frame, in which values that are read no more give way to later ones.

Nodes are lowered in the order in which they run: what no later node reads when a node has been lowered is dead once it has run. A block is
lent to a node, is held by every value that lies in it, and goes back when none of them is left. Where nodes run at the same time on
several threads, it goes only to nodes that depend on all that used it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np

from fastlstm.graph import Graph, Node

SMALL = 4096  # bytes that are not worth it
MOST_WASTE = 1.5  # how many times as large as what is asked for a block may be


class Block:
    """A piece of memory, the values that lie in it, and the nodes that have used it."""

    def __init__(self, memory: np.ndarray, node: str):
        self.memory = memory
        self.values: set[str] = set()
        self.users = {node}


class Readers:
    """Which nodes read each value of a graph, and which is the last; outputs are read for ever."""

    def __init__(self, graph: Graph):
        self.of: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.of.setdefault(name, []).append(node)
        self._kept = frozenset(spec.name for spec in graph.outputs)

    def ends_with(self, node: Node) -> set[str]:
        """Return the values that no node after this one reads."""
        names = {name for name in (*node.inputs, *node.outputs) if name and name not in self._kept}
        return {name for name in names if not self.of.get(name) or self.of[name][-1] is node}


class Buffers:
    """The blocks of one frame. `ancestors`: for each node those it depends on, where threads share a program, else None."""

    def __init__(self, readers: Readers, ancestors: Mapping[str, Set[str]] | None):
        self._readers, self._ancestors = readers, ancestors
        self._blocks: list[Block] = []  # by address
        self._addresses: list[int] = []
        self._lent: list[Block] = []  # to the node that is being lowered
        self._free: list[Block] = []
        self._holding: dict[str, list[Block]] = {}

    def take(self, size: int, node: str) -> np.ndarray | None:
        """Return at least `size` bytes that are free for a node, None where there are none."""
        fits = [
            block for block in self._free if size <= block.memory.size <= MOST_WASTE * size and self._may(block, node)
        ]
        if not fits:
            return None
        block = min(fits, key=lambda one: one.memory.size)
        self._free.remove(block)
        block.users = {node}
        self._lent.append(block)
        return block.memory

    def add(self, memory: np.ndarray, node: str) -> None:
        """Take new memory, lent to a node."""
        block = Block(memory, node)
        at = bisect_right(self._addresses, memory.ctypes.data)
        self._addresses.insert(at, memory.ctypes.data)
        self._blocks.insert(at, block)
        self._lent.append(block)

    def hold(self, name: str, arrays: Iterable[np.ndarray]) -> None:
        """Note where a value lies, or will."""
        for array in arrays:
            block = self._block_of(array)
            if block is not None:
                block.values.add(name)
                block.users |= {reader.name for reader in self._readers.of.get(name, ())}
                self._holding.setdefault(name, []).append(block)

    def gives_way(self, array: np.ndarray | None, name: str, node: Node) -> bool:
        """Tell whether a value lies alone in its block, and nothing reads it after a node nor while that runs."""
        block = None if array is None else self._block_of(array)
        alone = block is not None and block.values == {name} and self._may(block, node.name)
        return alone and name in self._readers.ends_with(node) and node.inputs.count(name) == 1

    def keep(self, arrays: Iterable[np.ndarray]) -> None:
        """Never let others have the memory of these arrays."""
        for array in arrays:
            block = self._block_of(array)
            if block is not None:
                block.values.add("")  # a value that is never read for the last time

    def mark(self) -> int:
        """Return how much is lent to the node that is being lowered, for `free_since`."""
        return len(self._lent)

    def free_since(self, mark: int) -> None:
        """Take back what the node was lent since, where no value lies: its own steps run one after the other."""
        back = [block for block in self._lent[mark:] if not block.values]
        self._lent = [block for block in self._lent if block not in back]
        self._free += back

    def lowered(self, node: Node) -> None:
        """Take back what a node was lent and what it read for the last time."""
        blocks = self._lent
        for name in self._readers.ends_with(node):
            for block in self._holding.pop(name, ()):
                block.values.discard(name)
                block.users.add(node.name)
                blocks.append(block)
        self._free += [block for block in dict.fromkeys(blocks) if not block.values and block not in self._free]
        self._lent = []

    def _may(self, block: Block, node: str) -> bool:
        return self._ancestors is None or block.users - {node} <= self._ancestors[node]

    def _block_of(self, array: np.ndarray) -> Block | None:
        first = first_byte(array)
        at = bisect_right(self._addresses, first) - 1
        if at < 0 or first >= self._addresses[at] + self._blocks[at].memory.size:
            return None
        return self._blocks[at]


def first_byte(array: np.ndarray) -> int:
    """Return the lowest address of an array, whose strides may be negative."""
    steps: Sequence[tuple[int, int]] = tuple(zip(array.shape, array.strides, strict=True))
    return array.__array_interface__["data"][0] + sum(min(0, (size - 1) * stride) for size, stride in steps if size)

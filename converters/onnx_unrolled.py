"""Cells written out one after the other for so many steps become one recurrent node over the steps.

A chain are nodes of one step with the same weights, each of which starts from the states of the one before and takes the next element of one value
along one axis (X[0], X[1] ..., or backwards), or of what another chain gives: so the layers of a stack are one chain each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fastlstm.converters.onnx_cell_nodes import in_order
from fastlstm.graph import Node
from fastlstm.layers import Build, Tensor
from fastlstm.ops.op import Value, find
from fastlstm.ops.recurrent import Recurrent


@dataclass(eq=False)
class Chain:
    """Nodes of one step each, and what they take: elements of a value, or of what another chain gives, along an axis."""

    source: "str | Chain"
    axis: int
    first: int
    nodes: list[Node] = field(default_factory=list)
    step: int = 0  # from one element to the next, 1 or -1; known from the second node on
    h: str = ""  # of all nodes in their order, once the chain is one node


def join_unrolled(build: Build, outputs: Sequence[Tensor]) -> None:
    """Let one node stand for each chain of cells among the nodes that these outputs depend on."""
    nodes = build.live(outputs)
    if sum(isinstance(find(node.op), Recurrent) for node in nodes) > 1:
        _Chains(build, nodes, {tensor.name for tensor in outputs}).join()


class _Chains:
    """The chains of one build."""

    def __init__(self, build: Build, nodes: Sequence[Node], outputs: set[str]):
        self.build, self.nodes = build, nodes
        self.readers: dict[str, list[Node | None]] = {name: [None] for name in outputs}
        for node in nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.places: dict[str, tuple[Chain, int]] = {}  # by each h'
        self.made: list[Node] = []

    def join(self) -> None:
        found = dict.fromkeys(chain for node in self.nodes if (chain := self._chain(node)) is not None)
        chains = [chain for chain in found if len(chain.nodes) > 1]
        if not chains:
            return
        for chain in chains:
            self._join(chain)
        for node in self.nodes:
            self._join_stack(node)
        given = {name for node in self.made for name in node.outputs}
        replaced = {node.name for chain in chains for node in chain.nodes}
        kept = [one for one in self.build.nodes if one.name not in replaced and not given.intersection(one.outputs)]
        self.build.nodes = in_order([*kept, *self.made])
        self.build.producers |= {name: node for node in self.made for name in node.outputs if name}

    # ---- finding chains -------------------------------------------------------------------------------
    def _chain(self, node: Node) -> Chain | None:
        """Return the chain that a node goes on with or begins, None where it is no node of one step."""
        op, made = find(node.op), self._producer(node.inputs[0]) if node.inputs else None
        if not isinstance(op, Recurrent) or node.outputs[0] or made is None or made.op != "Unsqueeze":
            return None
        masked = len(node.inputs) > op.mask_slot
        if self._ints(made.inputs[1]) != [0] or op.get(node, "batch_first") or masked or len(node.outputs) < 2:
            return None
        element = self._element(made.inputs[0])
        if element is None or op.get(node, "direction") != "forward":
            return None
        start = node.inputs[op.h_slot] if len(node.inputs) > op.h_slot else ""
        chain, place = self.places.get(start, (None, 0))
        if chain is None or place != len(chain.nodes) - 1 or not self._goes_on(chain, op, node, element):
            chain = Chain(*element)
        chain.nodes.append(node)
        self.places[node.outputs[1]] = chain, len(chain.nodes) - 1
        return chain

    def _goes_on(self, chain: Chain, op: Recurrent, node: Node, element: tuple[str | Chain, int, int]) -> bool:
        """Tell whether a node that starts from the last h of a chain is its next node; if so the chain knows its step."""
        last, (source, axis, index) = chain.nodes[-1], element
        step = index - chain.first if len(chain.nodes) == 1 else chain.step
        if (
            (source, axis) != (chain.source, chain.axis)
            or abs(step) != 1
            or index != chain.first + step * len(chain.nodes)
        ):
            return False
        for k in range(len(op.states)):
            if node.inputs[op.h_slot + k] != last.outputs[1 + k] or (k and self.readers[last.outputs[1 + k]] != [node]):
                return False
        if (last.op, last.attributes) != (node.op, node.attributes):
            return False
        slots = [k for k in range(1, len(op.inputs)) if not op.h_slot <= k < op.h_slot + len(op.states)]
        alike = all(self._alike(op, chain, k, _at(last, k), _at(node, k)) for k in slots)
        chain.step = step if alike else chain.step
        return alike

    def _alike(self, op: Recurrent, chain: Chain, slot: int, a: str, b: str) -> bool:
        """Tell whether two weights are the same; a first step from zeros may have any U."""
        if a == b:
            return True
        mine, theirs = (self.build.values[name].data if name else None for name in (a, b))
        if mine is None or theirs is None or mine.shape != theirs.shape:
            return False
        free = slot == op.u_slot and len(chain.nodes) == 1 and not _at(chain.nodes[0], op.h_slot) and not mine.any()
        return free or np.array_equal(mine, theirs)

    def _element(self, name: str) -> tuple[str | Chain, int, int] | None:
        """Return of which value, along which axis and at which place a value is one element."""
        if name in self.places:
            chain, place = self.places[name]
            return chain, 0, place
        node = self._producer(name)
        if node is None:
            return None
        if node.op == "Gather":
            index = self.build.values[node.inputs[1]].data
            number = None if index is None or index.ndim else int(index)
            return self._placed(node.inputs[0], int(find("Gather").get(node, "axis")), number)
        if node.op != "Squeeze" or len(node.inputs) < 2:
            return None
        cut, axes = self._producer(node.inputs[0]), self._ints(node.inputs[1])
        if cut is None or axes is None or len(axes) != 1:
            return None
        return self._placed(cut.inputs[0], axes[0], self._start(cut, node.inputs[0], axes[0]))

    def _start(self, cut: Node, name: str, axis: int) -> int | None:
        """Return where a part that Split or Slice cuts out along an axis begins."""
        if cut.op == "Split" and find("Split").get(cut, "axis") == axis:
            sizes = [self._size(one, axis) for one in cut.outputs[: cut.outputs.index(name)] if one]
            whole = len(sizes) == cut.outputs.index(name) and all(isinstance(size, int) for size in sizes)
            return sum(sizes) if whole else None  # type: ignore[arg-type]
        if cut.op == "Slice" and len(cut.inputs) > 3 and self._ints(cut.inputs[3]) == [axis]:
            start, step = self._ints(cut.inputs[1]), self._ints(cut.inputs[4]) if len(cut.inputs) > 4 else [1]
            return start[0] if start is not None and step == [1] else None
        return None

    def _placed(self, source: str, axis: int, index: int | None) -> tuple[str, int, int] | None:
        """Return a place within a value (T, B, I) or (B, T, I) of so many steps, counted from the front."""
        shape = self.build.values[source].shape
        if index is None or shape is None or len(shape) != 3:
            return None
        axis %= 3
        size = shape[axis]
        # where a value had fewer steps than are written out, the graph would be wrong, and has to say so
        if axis == 2 or not isinstance(size, int) or not -size <= index < size:
            return None
        return source, axis, index % size

    def _producer(self, name: str) -> Node | None:
        return self.build.producers.get(name)

    def _ints(self, name: str) -> list[int] | None:
        data = self.build.values[name].data if name else None
        return None if data is None else data.ravel().tolist()

    def _size(self, name: str, axis: int):
        shape = self.build.values[name].shape
        return None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]

    # ---- joining ----------------------------------------------------------------------------------------
    def _join(self, chain: Chain) -> None:
        """Add the node of a chain, which gives the last states under their names, and the h of every other step."""
        build, first, last = self.build, chain.nodes[0], chain.nodes[-1]
        op = find(first.op)
        assert isinstance(op, Recurrent)
        x = self._steps(chain)
        inputs = [x.name, *(_at(last if k == op.u_slot else first, k) for k in range(1, len(first.inputs)))]
        direction = "reverse" if chain.step < 0 else "forward"
        y = build.unique(f"{first.name}/steps")
        T, B, _ = x.shape
        H = build.values[last.outputs[1]].shape[1]  # type: ignore[index]
        build.values[y] = Value(x.value.dtype, (T, B, H))
        node = Node(
            build.unique(f"{first.name}/steps", build._node_names), first.op, tuple(inputs), (y, *last.outputs[1:]),
            {**first.attributes, "direction": direction},
        )  # fmt: skip
        self.made.append(node)
        chain.h = y if chain.step > 0 else build.node(f"{first.name}/order", "Reverse", [Tensor(build, y)], axis=0).name
        for k, one in enumerate(chain.nodes[:-1]):
            place = build.weight(f"{one.name}.place", np.array(k)).name
            name = build.unique(f"{one.name}/h", build._node_names)
            self.made.append(Node(name, "Gather", (chain.h, place), (one.outputs[1],), {"axis": 0}))

    def _steps(self, chain: Chain) -> Tensor:
        """Return the elements that a chain takes, (T, B, I) in the order in which they lie."""
        build, count = self.build, len(chain.nodes)
        x = Tensor(build, chain.source if isinstance(chain.source, str) else chain.source.h)
        name = chain.nodes[0].name
        if chain.axis:
            x = build.node(f"{name}/first", "Transpose", [x], perm=(1, 0, 2))
        start = min(chain.first, chain.first + chain.step * (count - 1))
        if (start, count) == (0, x.shape[0]):
            return x
        bounds = [build.ints(f"{name}.bound", value) for value in (start, start + count, 0)]
        return build.node(f"{name}/part", "Slice", [x, *bounds])

    def _join_stack(self, node: Node) -> None:
        """Let a Concat of the h of all steps of a chain be the h that its node gives."""
        if node.op != "Concat":
            return
        raised = [self._producer(name) for name in node.inputs]
        axis = find("Concat").get(node, "axis")
        if any(one is None or one.op != "Unsqueeze" or self._ints(one.inputs[1]) != [axis] for one in raised):
            return
        places = [self.places.get(one.inputs[0]) for one in raised if one is not None]
        chain = places[0][0] if places[0] is not None else None
        if chain is None or not chain.h or axis not in (0, 1):
            return
        if places != [(chain, k) for k in range(len(chain.nodes))]:
            return
        op, attributes = ("Transpose", {"perm": (1, 0, 2)}) if axis else ("Identity", {})
        self.made.append(Node(node.name, op, (chain.h,), node.outputs, attributes))


def _at(node: Node, slot: int) -> str:
    return node.inputs[slot] if slot < len(node.inputs) else ""

"""Passes over a graph before it is bound: what joins what, each a rule that keeps the meaning of every output.

| rule | bits |
|---|---|
| an Identity disappears | the same |
| a MatMul by a constant matrix, and the Add of a constant row after it, are one Dense | the bias begins the sum instead of ending it |
| an activation whose only input is a Dense or a convolution, read by nothing else, belongs to it | the same |
| a Cast after a OneHot casts its two values instead | the same |
| a Transpose of batch and time after a look-up transposes the ids instead | the same |
| a look-up that only recurrent nodes read, as X, gives them numbers of rows projected once | the same |
| nodes that refuse inputs stand in front | the same |

What a rule does depends on the graph and the sizes of weights alone, never on a call: so a model's arithmetic is fixed when it is loaded.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np

from fastlstm.graph import Graph, Node, Quantized, Weight
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.op import find
from fastlstm.ops.recurrent import Recurrent

TABLE_BYTES = 64 << 20  # of the projections of a table, at most
TABLE_WORK = 1 << 32  # multiply-adds that make them, at most: some tenths of a second
SMALL_TABLE = 256 << 10  # bytes that stay in a core's second-level cache
FEW_INPUTS = 8  # below, projecting takes less time than reading a projection from memory


@dataclass
class Fused:
    """A graph after all passes, and what they found out."""

    graph: Graph
    first: frozenset[str] = frozenset()  # nodes that stand before every change of a state
    looked_up: frozenset[str] = frozenset()  # nodes whose output is numbers of rows
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)  # weights that the passes made
    notes: dict[str, list[str]] = field(default_factory=dict)  # by node: what became part of it


def fuse(graph: Graph, weights: Mapping[str, Weight]) -> Fused:
    """Apply every rule."""
    notes: dict[str, list[str]] = {}
    constants: dict[str, np.ndarray] = {}
    graph = without_identities(graph)
    graph = dense_of_matmul(graph, weights, notes)
    graph = activations_joined(graph, notes)
    graph = one_hots_cast(graph, weights, constants, notes)
    weights = {**weights, **constants}
    graph = lookups_transposed(graph, weights, notes)
    graph, first = checks_first(graph)
    known = looked_up(graph, weights)
    for node in graph.nodes:
        if node.name in known:
            notes.setdefault(node.name, []).append("numbers of rows alone: their projections are looked up")
    return Fused(graph, first, known, constants, notes)


def _uses(graph: Graph) -> Counter[str]:
    """Count the readers of each value, the caller of the graph being one of its outputs'."""
    return Counter([name for node in graph.nodes for name in node.inputs] + [spec.name for spec in graph.outputs])


def _producers(nodes: list[Node]) -> dict[str, Node]:
    return {name: node for node in nodes for name in node.outputs if name}


def _taken(graph: Graph, weights: Mapping[str, Weight]) -> set[str]:
    """Return the names of all values."""
    return set(weights) | {spec.name for spec in graph.inputs} | {name for node in graph.nodes for name in node.outputs}


def _fresh(name: str, taken: set[str]) -> str:
    """Return a name that no value has, and take it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _with(graph: Graph, nodes: list[Node]) -> Graph:
    return Graph(tuple(nodes), graph.inputs, graph.outputs)


def without_identities(graph: Graph) -> Graph:
    """Return the graph without the Identity nodes that no output of the graph names."""
    outputs, renamed, kept = {spec.name for spec in graph.outputs}, {}, []
    for node in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        if node.op == "Identity" and node.outputs[0] not in outputs:
            renamed[node.outputs[0]] = inputs[0]
        else:
            kept.append(Node(node.name, node.op, inputs, node.outputs, node.attributes, node.subgraphs))
    return _with(graph, kept)


def _is_float(weight: Weight | None, rank: int) -> bool:
    """Tell whether a weight is there, has so many axes, and holds floats."""
    if weight is None or len(weight.shape) != rank:
        return False
    return isinstance(weight, Quantized) or weight.dtype.kind == "f"


def dense_of_matmul(graph: Graph, weights: Mapping[str, Weight], notes: dict[str, list[str]]) -> Graph:
    """Return the graph with a Dense for each MatMul by a constant matrix, and with it the constant row that is added next."""
    uses, nodes = _uses(graph), []
    dense: dict[str, int] = {}  # where the Dense without a bias stands that computes a value
    for node in graph.nodes:
        if node.op == "MatMul" and _is_float(weights.get(node.inputs[1]), 2):
            node = Node(node.name, "Dense", node.inputs, node.outputs)
        if node.op == "Add":
            for value, row in (node.inputs, node.inputs[::-1]):
                place = dense.get(value)
                if place is None or uses[value] != 1 or not _fits(weights, nodes[place].inputs[1], row):
                    continue
                before = nodes[place]
                nodes[place] = Node(before.name, "Dense", (*before.inputs, row), node.outputs)
                notes.setdefault(before.name, []).append(f"+ bias {node.name!r}")
                break
            else:
                nodes.append(node)
            continue
        if node.op == "Dense" and len(node.inputs) == 2 and node.attributes.get("activation", "Identity") == "Identity":
            dense[node.outputs[0]] = len(nodes)
        nodes.append(node)
    return _with(graph, nodes)


def _fits(weights: Mapping[str, Weight], W: str, row: str) -> bool:
    """Tell whether a value is a constant row of the columns of W, and of its dtype."""
    matrix, bias = weights.get(W), weights.get(row)
    if not isinstance(bias, np.ndarray) or matrix is None or not _is_float(bias, 1):
        return False
    wide = np.dtype(np.float32) if isinstance(matrix, Quantized) or matrix.dtype == np.float16 else matrix.dtype
    return bias.shape == matrix.shape[1:] and bias.dtype == wide


def activations_joined(graph: Graph, notes: dict[str, list[str]]) -> Graph:
    """Return the graph with activations as part of the Dense and convolution nodes before them."""
    uses, nodes = _uses(graph), []
    bare: dict[str, int] = {}  # where the Dense or convolution without an activation stands that computes a value
    for node in graph.nodes:
        known = ACTIVATIONS.get(node.op) if node.op != "Identity" else None
        place = bare.get(node.inputs[0]) if known is not None else None
        if known is not None and place is not None and uses[node.inputs[0]] == 1:
            before, op = nodes[place], find(node.op)
            numbers = {
                "alpha": op.get(node, "alpha") if known.has_alpha else known.alpha,
                "beta": op.get(node, "beta") if known.has_beta else known.beta,
            }
            attributes = {**before.attributes, "activation": node.op, **numbers}
            nodes[place] = Node(before.name, before.op, before.inputs, node.outputs, attributes)
            notes.setdefault(before.name, []).append(f"+ activation {node.op} {node.name!r}")
            continue
        if (
            node.op in ("Dense", "Conv1D", "Conv2D", "Conv3D")
            and node.attributes.get("activation", "Identity") == "Identity"
        ):
            bare[node.outputs[0]] = len(nodes)
        nodes.append(node)
    return _with(graph, nodes)


def one_hots_cast(
    graph: Graph, weights: Mapping[str, Weight], constants: dict[str, np.ndarray], notes: dict[str, list[str]]
) -> Graph:
    """Return the graph with the two values of a OneHot cast, and added to `constants`, instead of all that is made of them."""
    uses, nodes, taken = _uses(graph), [], _taken(graph, weights)
    hot: dict[str, int] = {}  # where the OneHot of constant values stands that computes a value
    for node in graph.nodes:
        place = hot.get(node.inputs[0]) if node.op == "Cast" else None
        if place is not None and uses[node.inputs[0]] == 1:
            before = nodes[place]
            ids, depth, values = before.inputs
            name = _fresh(f"{node.name}/values", taken)
            (constants[name],) = find("Cast").evaluate(node, [weights[values]])  # type: ignore[list-item, misc]
            nodes[place] = Node(before.name, before.op, (ids, depth, name), node.outputs, before.attributes)
            notes.setdefault(before.name, []).append(f"+ Cast {node.name!r}, of its two values")
            continue
        if node.op == "OneHot" and isinstance(weights.get(node.inputs[2]), np.ndarray):
            hot[node.outputs[0]] = len(nodes)
        nodes.append(node)
    return _with(graph, nodes)


class Lookup(NamedTuple):
    """What a node looks up: rows of a constant table (rows, size), a weight or what a OneHot of constant values gives."""

    ids: str
    rows: int
    size: int


def _lookup(node: Node, weights: Mapping[str, Weight]) -> Lookup | None:
    """Return what a node looks up, None if it is no look-up or gives its rows along another axis than the last of three."""
    if node.op == "OneHot":
        ids, depth, values = node.inputs
        size = weights.get(depth)
        whole = isinstance(size, np.ndarray) and size.size == 1 and _is_float(weights.get(values), 1)
        if not whole or ids in weights or find("OneHot").get(node, "axis") not in (-1, 2):
            return None
        return Lookup(ids, int(size.item()) + 1, int(size.item()))  # type: ignore[union-attr]
    if node.op == "Embedding":
        ids, table = node.inputs
    elif node.op == "Gather" and find("Gather").get(node, "axis") == 0:
        table, ids = node.inputs
    else:
        return None
    if not _is_float(weights.get(table), 2) or ids in weights:
        return None
    return Lookup(ids, *(int(size) for size in weights[table].shape))


def lookups_transposed(graph: Graph, weights: Mapping[str, Weight], notes: dict[str, list[str]]) -> Graph:
    """Return the graph with ids transposed instead of the rows they stand for: ids are small, and recurrent nodes then see a look-up."""
    uses, nodes = _uses(graph), []
    producers = _producers(list(graph.nodes))
    taken = _taken(graph, weights)
    dropped: dict[str, Node] = {}  # by the name of a look-up: the Transpose that becomes part of it
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if node.op == "Transpose" else None
        swaps = before is not None and find("Transpose").get(node, "perm") == (1, 0, 2)
        if swaps and before is not None and uses[node.inputs[0]] == 1 and _lookup(before, weights):
            dropped[before.name] = node
    for node in graph.nodes:
        if node.name in dropped:
            turn = dropped[node.name]
            ids = _lookup(node, weights).ids  # type: ignore[union-attr]
            turned = _fresh(f"{turn.name}/ids", taken)
            nodes.append(Node(turn.name, "Transpose", (ids,), (turned,), {"perm": (1, 0)}))
            inputs = tuple(turned if value == ids else value for value in node.inputs)
            nodes.append(Node(node.name, node.op, inputs, turn.outputs, node.attributes))
            notes.setdefault(node.name, []).append(f"+ Transpose {turn.name!r}, of the ids")
        elif not any(node is turn for turn in dropped.values()):
            nodes.append(node)
    return _with(graph, nodes)


def looked_up(graph: Graph, weights: Mapping[str, Weight]) -> frozenset[str]:
    """Return the nodes whose rows need not be looked up, since recurrent nodes alone read them, and project constant tables well ahead."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    outputs, found = {spec.name for spec in graph.outputs}, set()
    for node in graph.nodes:
        known = _lookup(node, weights)
        value = node.outputs[0]
        if known is None or value in outputs or not readers.get(value):
            continue
        if all(_projects(reader, value, known.rows, known.size, weights) for reader in readers[value]):
            found.add(node.name)
    return frozenset(found)


def _projects(node: Node, value: str, rows: int, inputs: int, weights: Mapping[str, Weight]) -> bool:
    """Tell whether a reader is a recurrent node for which a table of projections pays, by the sizes alone."""
    op = find(node.op)
    if not isinstance(op, Recurrent) or node.inputs.count(value) != 1 or node.inputs[0] != value:
        return False
    constants = node.inputs[1 : op.h_slot]  # W, U and biases
    if any(name and name not in weights for name in constants):
        return False
    U = weights[node.inputs[op.u_slot]]
    columns = int(U.shape[0]) * (1 if op.gates == 1 else 4)
    wide = 4 if isinstance(U, Quantized) or U.dtype == np.float16 else U.dtype.itemsize
    size = prod((rows, columns, wide))
    fast = inputs >= FEW_INPUTS or size <= SMALL_TABLE
    return fast and size <= TABLE_BYTES and prod((rows, inputs, columns)) <= TABLE_WORK


def checks_first(graph: Graph) -> tuple[Graph, frozenset[str]]:
    """Return the graph with the nodes in front that refuse inputs, and the names of the nodes in front.

    With them go the nodes they depend on, unless one of those changes a state: so a call that is refused leaves every state as it was.
    """
    producers = _producers(list(graph.nodes))
    stateless: set[str] = set()  # nodes that depend on no state
    for node in graph.nodes:
        apart = all(producers[name].name in stateless for name in node.inputs if name in producers)
        if apart and not find(node.op, node.name).changes_state:
            stateless.add(node.name)
    first = {node.name for node in graph.nodes if node.name in stateless and find(node.op).refuses}
    for node in reversed(graph.nodes):
        if node.name in first:
            first.update(producers[name].name for name in node.inputs if name in producers)
    return _with(graph, sorted(graph.nodes, key=lambda node: node.name not in first)), frozenset(first)

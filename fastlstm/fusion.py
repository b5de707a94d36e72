"""Passes over a graph before it is bound: each is a rule that keeps every output's meaning."""

from fastlstm.graph import Graph, Node
from fastlstm.ops.op import find


def checks_first(graph: Graph) -> tuple[Graph, frozenset[str]]:
    """Return the graph with the nodes in front that refuse inputs, and the names of the nodes in front.

    With them go the nodes they depend on, unless one of those changes a state: so a call that is refused leaves every state as it was.
    """
    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    needed: dict[
        str, set[str] | None
    ] = {}  # the nodes that a node depends on, itself included; None where one has a state
    first: set[str] = set()
    for node in graph.nodes:
        op = find(node.op, node.name)
        parents = [needed[producers[name].name] for name in node.inputs if name in producers]
        known = {node.name}.union(*(parent for parent in parents if parent is not None))
        needed[node.name] = None if op.changes_state or None in parents else known
        if op.refuses and needed[node.name] is not None:
            first |= known
    nodes: tuple[Node, ...] = tuple(sorted(graph.nodes, key=lambda node: node.name not in first))
    return Graph(nodes, graph.inputs, graph.outputs), frozenset(first)

"""A graph as JSON and back: the closed vocabulary of types that a model file's graph is made of.

Normative: docs/FORMAT.md. Which ops and attributes exist is the ops' own business, checked once the graph is whole.
"""

import json
from math import isfinite
from typing import Any

from fastlstm.container import DTYPES, MAX_RANK, brief
from fastlstm.errors import ModelFileError
from fastlstm.graph import AttributeValue, Graph, Node, TensorSpec

MAX_SIZE = 2**48  # a declared size
MAX_SYMBOL = 256  # characters
NODE_KEYS = {"attributes", "inputs", "name", "op", "outputs", "subgraphs"}
GRAPH_KEYS = {"inputs", "nodes", "outputs"}


def canonical(document: object) -> str:
    """Return the one JSON text of a document: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def require(condition: bool, what: str) -> None:
    """Raise ModelFileError unless a rule holds."""
    if not condition:
        raise ModelFileError(what)


def is_text(value: object) -> bool:
    """Tell whether a value is a string of whole characters, which half a surrogate pair is not."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


# ---- writing ----------------------------------------------------------------------------------------
def to_json(graph: Graph) -> dict[str, Any]:
    """Return the JSON document of a graph."""
    return {
        "inputs": [_spec_json(spec) for spec in graph.inputs],
        "nodes": [_node_json(node) for node in graph.nodes],
        "outputs": [_spec_json(spec) for spec in graph.outputs],
    }


def _spec_json(spec: TensorSpec) -> list:
    return [spec.name, spec.dtype, None if spec.shape is None else list(spec.shape)]


def _node_json(node: Node) -> dict[str, Any]:
    return {
        "attributes": {k: list(v) if isinstance(v, tuple) else v for k, v in node.attributes.items()},
        "inputs": list(node.inputs),
        "name": node.name,
        "op": node.op,
        "outputs": list(node.outputs),
        "subgraphs": {k: to_json(body) for k, body in node.subgraphs.items()},
    }


# ---- reading ----------------------------------------------------------------------------------------
def from_json(value: Any) -> Graph:
    """Return the graph of a JSON document. Raise ModelFileError unless every part is of the type it must be."""
    require(isinstance(value, dict) and set(value) == GRAPH_KEYS, f"a graph has not the keys {sorted(GRAPH_KEYS)}")
    for key in sorted(GRAPH_KEYS):
        require(isinstance(value[key], list), f"the graph's {key} are {brief(value[key])}, expected a list")
    nodes = tuple(_node(node) for node in value["nodes"])
    inputs, outputs = (tuple(_spec(v, kind) for v in value[f"{kind}s"]) for kind in ("input", "output"))
    return Graph(nodes, inputs, outputs)


def _node(value: Any) -> Node:
    require(isinstance(value, dict) and set(value) == NODE_KEYS, f"a node has not the keys {sorted(NODE_KEYS)}")
    name, op = value["name"], value["op"]
    require(is_text(name) and name != "", f"a node's name is {brief(name)}, expected text")
    where = f"node {brief(name)}"
    require(is_text(op), f"{where}: op is {brief(op)}, expected text")
    for key in ("attributes", "subgraphs"):
        require(isinstance(value[key], dict), f"{where}: {key} is {brief(value[key])}, expected an object")
    return Node(
        name,
        op,
        _names(value["inputs"], f"{where}: inputs"),
        _names(value["outputs"], f"{where}: outputs"),
        {k: _attribute(v, f"{where}: attribute {brief(k)}") for k, v in value["attributes"].items()},
        {k: from_json(body) for k, body in value["subgraphs"].items()},
    )


def _names(value: Any, where: str) -> tuple[str, ...]:
    require(
        isinstance(value, list) and all(map(is_text, value)), f"{where} is {brief(value)}, expected a list of names"
    )
    return tuple(value)


def _spec(value: Any, kind: str) -> TensorSpec:
    require(isinstance(value, list) and len(value) == 3, f"an {kind} is {brief(value)}, expected [name, dtype, shape]")
    name, dtype, shape = value
    require(is_text(name) and name != "", f"an {kind}'s name is {brief(name)}, expected text")
    known = isinstance(dtype, str) and dtype in DTYPES.values()
    require(known, f"{kind} {brief(name)} has dtype {brief(dtype)}, expected one of {', '.join(DTYPES.values())}")
    if shape is None:
        return TensorSpec(name, dtype, None)
    good = isinstance(shape, list) and len(shape) <= MAX_RANK and all(map(_is_dim, shape))
    require(good, f"{kind} {brief(name)} has shape {brief(shape)}, expected up to {MAX_RANK} sizes and symbols")
    return TensorSpec(name, dtype, tuple(shape))


def _is_dim(value: Any) -> bool:
    if isinstance(value, str):
        return is_text(value) and 0 < len(value) <= MAX_SYMBOL
    return type(value) is int and 0 <= value < MAX_SIZE


def _attribute(value: Any, where: str) -> AttributeValue:
    parts = value if isinstance(value, list) else [value]
    require(
        all(map(_is_scalar, parts)),
        f"{where} is {brief(value)}, expected text, a boolean, a number or a list of one kind",
    )
    kinds = {float if type(v) is int else type(v) for v in parts}
    require(len(kinds) <= 1, f"{where} is {brief(value)}: its elements are not of one kind")
    return tuple(parts) if isinstance(value, list) else value


def _is_scalar(value: Any) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return is_text(value) or type(value) is bool or (type(value) is float and isfinite(value))

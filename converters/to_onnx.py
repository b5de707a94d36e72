"""Models as ONNX graphs: every node of ours becomes nodes of the default domain, weights become float32 or float64 initializers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastlstm.converters import onnx_write_ops, onnx_write_recurrent
from fastlstm.converters.onnx_write_ops import element_type
from fastlstm.converters.onnx_writer import Document, Writing, writers
from fastlstm.errors import InputError, MissingExtraError, UnsupportedError
from fastlstm.graph import Graph, Node, TensorSpec, widen
from fastlstm.model import Model
from fastlstm.ops import inference
from fastlstm.ops.op import NeedsValue, Value, find
from fastlstm.version import VERSION

# they fill the registry of writers
__all__ = ["OPSET", "OPSETS", "onnx_write_ops", "onnx_write_recurrent", "to_onnx"]

OPSET = 17  # where nothing in the model asks for a later one
OPSETS = range(13, 24)  # that graphs are written in
LATER = {"Gelu": 20, "GeluTanh": 20, "Mish": 18}  # opsets in which what was spelled out became an operator
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


def to_onnx(model: Model, opset: int | None = None, right_padded: bool = False) -> bytes:
    """Return the bytes of an ONNX file of the model.

    opset: the version of the default domain, 13 to 23; None: 17, or the first later one that has an operator for every node. In an earlier
    one such a node is spelled out, and rounds otherwise.
    right_padded: the valid steps of every row come first in every mask that the model makes of its inputs, so that masks are lengths.
    Raise UnsupportedError naming every node that ONNX has no operators for.
    """
    try:
        from onnx import helper, numpy_helper
    except ImportError:
        raise MissingExtraError("onnx", "onnx", "writing ONNX graphs") from None
    if opset is None:
        opset = max(
            OPSET,
            *(
                LATER.get(str(name), OPSET)
                for node in model.graph.walk()
                for name in (node.op, node.attributes.get("activation"))
            ),
        )
    if opset not in OPSETS:
        raise InputError(f"opset={opset!r}: expected {OPSETS[0]} to {OPSETS[-1]}")
    graph = model.graph
    taken = {spec.name for spec in (*graph.inputs, *graph.outputs)} | {o for node in graph.nodes for o in node.outputs}
    document = Document(opset, right_padded, taken | set(model.weights))
    # a weight in float16 or int8 is a float32 value that is stored narrow
    document.constants.update((name, np.asarray(widen(weight))) for name, weight in model.weights.items())
    values = {name: Value.constant(array) for name, array in document.constants.items()}
    values.update((spec.name, Value(np.dtype(spec.dtype), spec.shape)) for spec in graph.inputs)
    nodes = _nodes(document, graph, values, {name: name for name in values}, keep=True)
    if document.refusals:
        raise UnsupportedError("; ".join(document.refusals))
    nodes = _live(nodes, {spec.name for spec in graph.outputs})
    used = {name for node in nodes for name in _read(node)} | {spec.name for spec in graph.outputs}
    constants = [numpy_helper.from_array(a, name) for name, a in document.constants.items() if name in used]
    inputs = [_info(spec) for spec in graph.inputs]
    outputs = [_info(_known(spec, values[spec.name])) for spec in graph.outputs]
    proto = helper.make_model(
        helper.make_graph(nodes, "fastlstm", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="fastlstm",
        producer_version=VERSION,
        ir_version=IR_VERSIONS[opset],
    )
    return proto.SerializeToString()


def _known(spec: TensorSpec, value: Value) -> TensorSpec:
    """Return an output's spec with what inference knows of it: checkers want at least the number of axes."""
    return TensorSpec(spec.name, value.dtype.name, value.shape if spec.shape is None else spec.shape)


def _info(spec: TensorSpec) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(spec.name, element_type(np.dtype(spec.dtype)), spec.shape)


def _nodes(document: Document, graph: Graph, values: dict[str, Value], names: dict[str, str], keep: bool) -> list[Any]:
    """Return the ONNX nodes of a graph; `names` says what values of ours are called there, and is filled.

    `keep` gives the outputs of nodes our names, which are those of the model.
    """
    from onnx import helper

    nodes: list[Any] = []
    for node in graph.nodes:
        args = inference.arguments(node, values)
        try:
            outs = inference.infer_node(node, args, inference.KNOWN_LIMIT)
        except NeedsValue:
            outs = find(node.op).unknown(node, args)
        values.update((name, out) for name, out in zip(node.outputs, outs, strict=False) if name)
        given = [names[name] if name else "" for name in node.inputs]
        writing = _writing(document, node, given, args, outs)
        try:
            if node.op not in writers:
                raise UnsupportedError(f"node {node.name!r}: cannot be written as ONNX: it has nothing like {node.op}")
            made = writers[node.op](writing)
        except UnsupportedError as error:
            document.refusals.append(str(error))
            made = [document.unique(name) for name in node.outputs]
        made = [made] if isinstance(made, str) else list(made)
        rename = {}
        for ours, theirs in zip(node.outputs, made, strict=False):
            produced = any(theirs in one.output for one in writing.nodes)
            if not ours:
                continue
            if keep and produced and theirs not in rename:
                rename[theirs] = ours
            elif keep and any(spec.name == ours for spec in graph.outputs):
                writing.nodes.append(
                    helper.make_node("Identity", [theirs], [ours], document.unique(f"{node.name}/output"))
                )
                theirs = ours
            names[ours] = rename.get(theirs, theirs)
            if node.op == "SequenceMask":
                document.lengths[names[ours]] = given[0]
        nodes += [_renamed(one, rename) for one in writing.nodes]
    return nodes


def _writing(document: Document, node: Node, given: Sequence[str], args: Sequence[Any], outs: Sequence[Any]) -> Writing:
    op = find(node.op)
    attributes = {name: op.get(node, name) for name in op.attributes}

    def subgraph(
        body: Graph, outer: Sequence[str], known: Sequence[Value], own: int = 0, carried: Sequence[Value] = ()
    ):
        """Return a body as a GraphProto: its first `own` inputs stay its own, the others are values from outside."""
        from onnx import helper

        inner = replace_names(document, body)
        specs = inner.inputs
        values = {spec.name: value for spec, value in zip(specs[own:], known, strict=True)}
        for k, spec in enumerate(specs[:own]):
            shape = carried[k - 2].shape if k >= 2 else ()
            values[spec.name] = Value(np.dtype(spec.dtype), None if shape is None or k >= 2 else shape)
        names = {spec.name: spec.name for spec in specs[:own]} | dict(
            zip((spec.name for spec in specs[own:]), outer, strict=True)
        )
        nodes = _nodes(document, inner, values, names, keep=True)
        results = []
        for spec in inner.outputs:
            if names[spec.name] != spec.name:
                nodes.append(
                    helper.make_node(
                        "Identity", [names[spec.name]], [spec.name], document.unique(f"{node.name}/result")
                    )
                )
            results.append(helper.make_tensor_value_info(spec.name, element_type(np.dtype(spec.dtype)), None))
        nodes = _live(nodes, {spec.name for spec in inner.outputs})
        own_inputs = [_info(replace(spec, shape=() if k < 2 else None)) for k, spec in enumerate(specs[:own])]
        return helper.make_graph(nodes, document.unique(f"{node.name}/graph"), own_inputs, results)

    return Writing(document, node, given, args, outs, attributes, subgraph)


def replace_names(document: Document, body: Graph) -> Graph:
    """Return a subgraph under names that nothing else has."""
    names: dict[str, str] = {"": ""}
    fresh = lambda name: names.setdefault(name, document.unique(name))
    specs = lambda given: tuple(replace(spec, name=fresh(spec.name)) for spec in given)
    inputs = specs(body.inputs)
    nodes = tuple(
        replace(node, inputs=tuple(map(fresh, node.inputs)), outputs=tuple(map(fresh, node.outputs)))
        for node in body.nodes
    )
    return Graph(nodes, inputs, specs(body.outputs))


def _renamed(node: Any, rename: Mapping[str, str]) -> Any:
    for names in (node.input, node.output):
        for k, name in enumerate(names):
            names[k] = rename.get(name, name)
    return node


def _read(node: Any) -> set[str]:
    """Return the values that a node reads, those of its subgraphs among them."""
    found = set(node.input)
    for attribute in node.attribute:
        for one in attribute.g.node:
            found |= _read(one)
        found |= {value.name for value in attribute.g.output}
    return found


def _live(nodes: list[Any], wanted: set[str]) -> list[Any]:
    """Return the nodes that the wanted values need."""
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= _read(node)
    return kept[::-1]

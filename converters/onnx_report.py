"""What an ONNX file asks for: its operators, counted, its inputs and outputs, and whatever of it is not supported."""

import os
from collections import Counter
from typing import Any

from fastlstm.converters.from_onnx import from_onnx, functions_of, malformed, opsets_of, parsed, walk
from fastlstm.converters.onnx_graph import full_name
from fastlstm.converters.onnx_scope import type_name
from fastlstm.errors import FastLSTMError


def report(data: bytes, external_data: str | os.PathLike | None = None) -> dict[str, Any]:
    """Return the facts of an ONNX file's bytes, as plain data; `external_data` is the folder of tensors outside. Raise ModelFileError for damage.

    `operators` counts the nodes of the graph, of its branches and bodies, and of its functions; `refused` is what an import would say.
    """
    proto = parsed(data)
    with malformed():
        functions = functions_of(proto)
        nodes = [*walk(proto.graph.node), *(node for one in functions.values() for node in walk(one.node))]
        counted = Counter(full_name(node.domain, node.op_type) for node in nodes)
        initial = {tensor.name for tensor in proto.graph.initializer}
        facts = {
            "opsets": opsets_of(proto),
            "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
            "inputs": [_value(value) for value in proto.graph.input if value.name not in initial],
            "outputs": [_value(value) for value in proto.graph.output],
            "operators": dict(sorted(counted.items())),
            "functions": sorted(functions),
        }
    try:
        from_onnx(data, {}, external_data)
    except FastLSTMError as error:
        return {**facts, "refused": str(error)}
    return {**facts, "refused": None}


def _value(value: Any) -> dict[str, Any]:
    kind = value.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    tensor = value.type.HasField("tensor_type")
    name = type_name(kind.elem_type).lower() if tensor else str(value.type.WhichOneof("value"))
    return {"name": value.name, "dtype": name, "shape": shape}


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts for a person."""
    operators = ", ".join(f"{op} x{n}" if n > 1 else op for op, n in facts["operators"].items())
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in facts["opsets"].items())
    rows = [("opset", opsets), ("producer", facts["producer"] or "not said")]
    rows += [(role[:-1], _shown(value)) for role in ("inputs", "outputs") for value in facts[role]]
    rows.append(("operators", f"{sum(facts['operators'].values())} nodes: {operators}"))
    if facts["functions"]:
        rows.append(("functions", ", ".join(facts["functions"])))
    rows.append(("supported", "yes" if facts["refused"] is None else f"no: {facts['refused']}"))
    return "\n".join(" ".join(f"{key:<14} {value}".split("\n")) for key, value in rows)


def _shown(value: dict[str, Any]) -> str:
    shape = "unknown rank" if value["shape"] is None else "[" + ", ".join(map(str, value["shape"])) + "]"
    return f"{value['name']}  {value['dtype']}  {shape}"

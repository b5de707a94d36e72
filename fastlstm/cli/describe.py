"""What `info` tells of a model: inputs, outputs, nodes, weights, streaming, and the nodes that mix rows."""

from collections import Counter
from typing import Any

import numpy as np

from fastlstm.axes import BATCH, Axes, check_streams, find_axes
from fastlstm.cli.progress import one_line
from fastlstm.converters.keras_summary import Summary
from fastlstm.errors import StreamError
from fastlstm.graph import Quantized
from fastlstm.model import Model, storage


def describe(model: Model) -> dict[str, Any]:
    """Return everything `info` shows, as plain data."""
    axes = find_axes(model.graph, model.weights)
    return {
        "inputs": [_spec(spec) for spec in model.graph.inputs],
        "outputs": [_spec(spec) for spec in model.graph.outputs],
        "nodes": [{"name": n.name, "op": n.op, "attributes": dict(n.attributes)} for n in model.graph.nodes],
        "operators": dict(sorted(Counter(node.op for node in model.graph.nodes).items())),
        "parameters": model.parameters,
        "weight_bytes": sum(w.nbytes for w in model.weights.values() if isinstance(w, np.ndarray | Quantized)),
        "storage": storage(model.weights),
        "streams": _streams(axes),
        "mixes_rows": _mixing(axes),
        "example": None if model.example is None else model.example.engine,
        "metadata": dict(model.metadata),
    }


def _spec(spec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def _streams(axes: Axes) -> str:
    try:
        check_streams(axes)
    except StreamError as error:
        return f"no: {str(error).removeprefix('the model cannot stream: ')}"
    return "yes"


def _mixing(axes: Axes) -> str | None:
    if not axes.batch:
        return None
    node = axes.mixing(BATCH)
    return None if node is None else node.name


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts for a person."""
    operators = ", ".join(f"{op} x{n}" if n > 1 else op for op, n in facts["operators"].items())
    rows = [(role[:-1], _shown(spec)) for role in ("inputs", "outputs") for spec in facts[role]]
    rows += [
        ("nodes", f"{len(facts['nodes'])}: {operators}"),
        ("weights", f"{facts['parameters']:,} parameters, {facts['weight_bytes']:,} bytes, {facts['storage']}"),
        ("streams", facts["streams"]),
    ]
    if facts["mixes_rows"]:
        rows.append(("mixes rows", f"at node {facts['mixes_rows']}: a row's result there depends on the batch"))
    rows.append(("example", facts["example"] or "none recorded"))
    rows += facts["metadata"].items()
    # names and metadata are a stranger's text
    return "\n".join(one_line(f"{key:<14} {value}") for key, value in rows)


def _shown(spec: dict[str, Any]) -> str:
    shape = "unknown rank" if spec["shape"] is None else "[" + ", ".join(map(str, spec["shape"])) + "]"
    return f"{spec['name']}  {spec['dtype']}  {shape}"


def describe_keras(summary: Summary) -> dict[str, Any]:
    """Return everything `info` shows of a Keras file, as plain data."""
    layers = [
        {
            "name": layer.path,
            "class": layer.class_name,
            "shapes": [list(shape) for shape in layer.shapes],
            "parameters": layer.parameters,
            "refused": layer.refused,
            "stub": layer.stub,
        }
        for layer in summary.layers
    ]
    return {
        "format": summary.format,
        "keras_version": summary.keras_version,
        "backend": summary.backend,
        "layers": layers,
        "parameters": sum(layer.parameters for layer in summary.layers),
        "refused": [r for r in (*(layer.refused for layer in summary.layers), summary.refused) if r],
    }


def keras_as_text(facts: dict[str, Any]) -> str:
    """Return the facts about a Keras file for a person."""
    written = f"Keras {facts['keras_version']}" + (f" on {facts['backend']}" if facts["backend"] else "")
    rows = [("format", f"{facts['format']}, written by {written}")]
    width = max([len(layer["name"]) for layer in facts["layers"]], default=0)
    for layer in facts["layers"]:
        shapes = " ".join(str(tuple(shape)) for shape in layer["shapes"])
        rows.append(
            ("layer", f"{layer['name']:<{width}}  {layer['class']:<20} {layer['parameters']:>10,}  {shapes}".rstrip())
        )
    rows.append(("parameters", f"{facts['parameters']:,}"))
    rows += [("refused", reason) for reason in facts["refused"]] or [("refused", "nothing: it converts")]
    lines = [one_line(f"{key:<14} {value}") for key, value in rows]
    stubs = {layer["class"]: layer["stub"] for layer in reversed(facts["layers"]) if layer["stub"]}
    for stub in stubs.values():
        lines += ["", *(one_line(line) for line in stub.splitlines())]
    return "\n".join(lines)

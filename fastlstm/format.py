"""The model file: a safetensors file whose one metadata key, `fastlstm`, holds canonical JSON. Normative: docs/FORMAT.md.

Writing is deterministic and atomic. Reading validates every rule before it allocates, runs no code, and raises
ModelFileError for whatever is not a well-formed model file.
"""

import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastlstm.errors import GraphError, ModelFileError
from fastlstm.graph import Graph, Node, Quantized, TensorSpec, Weight

VERSION = 1
KEY = "fastlstm"
MAX_HEADER = 16 << 20
MAX_NODES = 100_000
MAX_DEPTH = 64
MAX_RANK = 16
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
WEIGHT, SCALE, EXAMPLE_IN, EXAMPLE_OUT = "weight.", "scale.", "example.input.", "example.output."


@dataclass(frozen=True)
class Example:
    """A recorded input and the source engine's output, with that engine's name and version; never our own output."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    engine: str


@dataclass(frozen=True)
class Contents:
    """What a model file holds."""

    graph: Graph
    weights: dict[str, Weight]
    metadata: dict[str, str]
    example: Example | None


def has_nan(weight: Weight) -> bool:
    """Tell whether a weight holds NaN, which no trained model does on purpose."""
    values = weight.scale if isinstance(weight, Quantized) else weight
    return values.dtype.kind == "f" and bool(np.isnan(values).any())


# ---- writing ----------------------------------------------------------------------------------------
def _spec_json(spec: TensorSpec) -> list:
    return [spec.name, spec.dtype, None if spec.shape is None else list(spec.shape)]


def _graph_json(graph: Graph) -> dict:
    return {
        "inputs": [_spec_json(spec) for spec in graph.inputs],
        "nodes": [
            {
                "attributes": {k: list(v) if isinstance(v, tuple) else v for k, v in node.attributes.items()},
                "inputs": list(node.inputs),
                "name": node.name,
                "op": node.op,
                "outputs": list(node.outputs),
                "subgraphs": {k: _graph_json(body) for k, body in node.subgraphs.items()},
            }
            for node in graph.nodes
        ],
        "outputs": [_spec_json(spec) for spec in graph.outputs],
    }


def canonical(document: object) -> str:
    """Return the one JSON text of a document: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def to_bytes(contents: Contents) -> bytes:
    """Return the bytes of the model file; the same contents give the same bytes."""
    tensors: dict[str, np.ndarray] = {}
    for name, weight in contents.weights.items():
        if has_nan(weight):
            raise ModelFileError(f"weight {name!r} holds NaN: such a model is not saved")
        if isinstance(weight, Quantized):
            tensors[WEIGHT + name], tensors[SCALE + name] = weight.values, weight.scale
        else:
            tensors[WEIGHT + name] = weight
    document: dict[str, Any] = {
        "example": None,
        "graph": _graph_json(contents.graph),
        "metadata": dict(contents.metadata),
        "version": VERSION,
    }
    if contents.example is not None:
        document["example"] = {"engine": contents.example.engine}
        tensors |= {EXAMPLE_IN + k: v for k, v in contents.example.inputs.items()}
        tensors |= {EXAMPLE_OUT + k: v for k, v in contents.example.outputs.items()}
    ordered = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in sorted(tensors.items())}
    return save(ordered, {KEY: canonical(document)})


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write a temporary sibling, flush it to disk, and rename it over `path`: readers see the old file or the new."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- reading ----------------------------------------------------------------------------------------
def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ModelFileError("a JSON object of the file has the same key twice")
    return document


def _forbidden_constant(name: str) -> None:
    raise ModelFileError(f"the JSON of the file holds {name}, which is no number")


def _parse(text: str | bytes, what: str) -> Any:
    depth = 0
    for character in text if isinstance(text, str) else text.decode("utf-8", "replace"):
        depth += (character in "[{") - (character in "]}")
        if depth > MAX_DEPTH:
            raise ModelFileError(f"{what} nests deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_forbidden_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is no valid JSON: {error}") from error


def _read_header(path: Path) -> dict[str, Any]:
    """Check the container by itself: exact cover of the file, no duplicate keys, bounded header, known dtypes."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise ModelFileError(f"{path}: {size} bytes are too few for a model file; is it truncated?")
            (length,) = struct.unpack("<Q", prefix)
            if length > min(MAX_HEADER, size - 8):
                raise ModelFileError(
                    f"{path}: not a fastlstm model file, or truncated: its header claims {length} bytes of {size}"
                )
            header = _parse(file.read(length), f"{path}: the header")
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path}: the header is no JSON object")
    end = 0
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        spans.append(_check_entry(path, name, entry))
    for begin, stop in sorted(spans):
        if begin != end:
            raise ModelFileError(f"{path}: the tensors leave a gap or overlap at byte {min(begin, end)}")
        end = stop
    if end != size - 8 - length:
        raise ModelFileError(
            f"{path}: the tensors take {end} bytes where the file has {size - 8 - length}; is it truncated?"
        )
    return header


def _check_entry(path: Path, name: str, entry: Any) -> tuple[int, int]:
    try:
        dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(v) is int and v >= 0 for v in (*shape, begin, stop))
    except (KeyError, TypeError, ValueError):
        raise ModelFileError(f"{path}: tensor {name!r} has no proper dtype, shape and data_offsets") from None
    if not whole or not isinstance(dtype, str) or not isinstance(shape, list) or len(shape) > MAX_RANK or begin > stop:
        raise ModelFileError(f"{path}: tensor {name!r} has an improper shape or place: {shape}, {begin} to {stop}")
    if dtype not in DTYPES:
        raise ModelFileError(f"{path}: tensor {name!r} has dtype {dtype}, expected one of {', '.join(sorted(DTYPES))}")
    count = 1
    for dim in shape:
        count *= dim
    if count * np.dtype(DTYPES[dtype]).itemsize != stop - begin:
        raise ModelFileError(f"{path}: tensor {name!r} of shape {shape} does not fit its {stop - begin} bytes")
    return begin, stop


def _require(condition: bool, path: Path, what: str) -> None:
    if not condition:
        raise ModelFileError(f"{path}: {what}")


def _strings(value: Any, path: Path, what: str) -> tuple[str, ...]:
    _require(isinstance(value, list) and all(isinstance(v, str) for v in value), path, f"{what} is no list of names")
    return tuple(value)


def _spec(value: Any, path: Path) -> TensorSpec:
    _require(isinstance(value, list) and len(value) == 3, path, "an input or output is not [name, dtype, shape]")
    name, dtype, shape = value
    _require(isinstance(name, str) and dtype in DTYPES.values(), path, f"input or output {name!r} has dtype {dtype!r}")
    if shape is None:
        return TensorSpec(name, dtype, None)
    good = isinstance(shape, list) and len(shape) <= MAX_RANK
    good = good and all(isinstance(d, str) or (type(d) is int and 0 <= d < 2**48) for d in shape)
    _require(good, path, f"input or output {name!r} has shape {shape!r}")
    return TensorSpec(name, dtype, tuple(shape))


def _attribute(value: Any, path: Path, where: str) -> Any:
    if isinstance(value, list):
        _require(all(isinstance(v, bool | int | float | str) for v in value), path, f"{where} is {value!r}")
        return tuple(value)
    _require(isinstance(value, bool | int | float | str), path, f"{where} is {value!r}")
    return value


def _graph(value: Any, path: Path) -> Graph:
    _require(
        isinstance(value, dict) and set(value) == {"inputs", "nodes", "outputs"},
        path,
        "the graph has no inputs, nodes and outputs",
    )
    _require(all(isinstance(value[k], list) for k in value), path, "the graph's inputs, nodes or outputs are no list")
    _require(len(value["nodes"]) <= MAX_NODES, path, f"the graph has more than {MAX_NODES} nodes")
    nodes = []
    for node in value["nodes"]:
        keys = {"attributes", "inputs", "name", "op", "outputs", "subgraphs"}
        _require(isinstance(node, dict) and set(node) == keys, path, f"a node has not the keys {sorted(keys)}")
        name, op = node["name"], node["op"]
        _require(isinstance(name, str) and isinstance(op, str), path, "a node's name or op is no text")
        _require(
            isinstance(node["attributes"], dict) and isinstance(node["subgraphs"], dict),
            path,
            f"node {name!r} is malformed",
        )
        nodes.append(
            Node(
                name,
                op,
                _strings(node["inputs"], path, f"node {name!r}: inputs"),
                _strings(node["outputs"], path, f"node {name!r}: outputs"),
                {k: _attribute(v, path, f"node {name!r}: attribute {k!r}") for k, v in node["attributes"].items()},
                {k: _graph(body, path) for k, body in node["subgraphs"].items()},
            )
        )
    inputs, outputs = (tuple(_spec(v, path) for v in value[k]) for k in ("inputs", "outputs"))
    return Graph(tuple(nodes), inputs, outputs)


def _weights(tensors: dict[str, np.ndarray], path: Path) -> dict[str, Weight]:
    weights: dict[str, Weight] = {}
    scales = {name.removeprefix(SCALE): array for name, array in tensors.items() if name.startswith(SCALE)}
    for name, array in tensors.items():
        if not name.startswith(WEIGHT):
            continue
        name = name.removeprefix(WEIGHT)
        scale = scales.pop(name, None)
        if scale is None:
            weights[name] = array
            continue
        fits = (
            array.dtype == np.int8 and array.ndim >= 1 and scale.dtype == np.float32 and scale.shape == array.shape[-1:]
        )
        _require(fits, path, f"weight {name!r}: its scale does not fit: int8 (..., N) takes float32 (N,)")
        weights[name] = Quantized(array, scale)
    _require(not scales, path, f"a scale has no weight: {sorted(scales)[:1]}")
    for name, weight in weights.items():
        _require(not has_nan(weight), path, f"weight {name!r} holds NaN")
    return weights


def read(path: str | os.PathLike) -> Contents:
    """Return the contents of a model file. Raise ModelFileError; the graph's ops are not checked here."""
    path = Path(path)
    header = _read_header(path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or set(metadata) != {KEY} or not isinstance(metadata[KEY], str):
        raise ModelFileError(
            f"{path}: a safetensors file, but not of fastlstm (no metadata key {KEY!r}); convert the source model instead"
        )
    document = _parse(metadata[KEY], f"{path}: the metadata")
    keys = {"example", "graph", "metadata", "version"}
    _require(isinstance(document, dict) and "version" in document, path, "the metadata has no version")
    _require(
        document["version"] == VERSION,
        path,
        f"version {document['version']!r} of the format; this fastlstm reads {VERSION}",
    )
    _require(set(document) == keys, path, f"the metadata has not the keys {sorted(keys)}")
    prefixes = (WEIGHT, SCALE, EXAMPLE_IN, EXAMPLE_OUT)
    for name in header:
        _require(
            name == "__metadata__" or name.startswith(prefixes), path, f"tensor {name!r} has no place in a model file"
        )
    graph = _graph(document["graph"], path)
    info = document["metadata"]
    _require(
        isinstance(info, dict) and all(isinstance(v, str) for v in info.values()), path, "metadata values are no text"
    )
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: not a valid safetensors file: {error}") from error
    weights = _weights(tensors, path)
    try:
        graph.check(weights)
    except GraphError as error:
        raise ModelFileError(f"{path}: {error}") from error
    return Contents(graph, weights, dict(info), _example(document["example"], tensors, path))


def _example(value: Any, tensors: dict[str, np.ndarray], path: Path) -> Example | None:
    inputs, outputs = (
        {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        for prefix in (EXAMPLE_IN, EXAMPLE_OUT)
    )
    if value is None:
        _require(not inputs and not outputs, path, "example tensors without an example")
        return None
    good = isinstance(value, dict) and set(value) == {"engine"} and isinstance(value["engine"], str)
    _require(good and bool(inputs) and bool(outputs), path, "the example has no engine, inputs or outputs")
    return Example(inputs, outputs, value["engine"])

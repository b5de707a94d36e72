"""The model file: a safetensors file whose one metadata key, `fastlstm`, holds canonical JSON. Normative: docs/FORMAT.md.

Writing is deterministic and atomic, and writes nothing that reading would refuse. Reading validates every rule before it
allocates, runs no code, opens the one file once, and raises ModelFileError for whatever is not a well-formed model file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from fastlstm.container import DTYPES, Entry, brief, opened, parse_json, read_header, read_tensors, write_atomically
from fastlstm.errors import ModelFileError
from fastlstm.graph import Graph, Quantized, TensorSpec, Weight
from fastlstm.graph_json import canonical, from_json, is_text, require, to_json

__all__ = ["Contents", "Example", "has_nan", "read", "to_bytes", "write_atomically"]

VERSION = 1
KEY = "fastlstm"
DOCUMENT_KEYS = {"example", "graph", "metadata", "version"}
WEIGHT, SCALE, EXAMPLE_IN, EXAMPLE_OUT = PREFIXES = ("weight.", "scale.", "example.input.", "example.output.")


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
    """Tell whether a weight holds NaN, which no trained model does on purpose, or a scale that makes one of a zero."""
    if isinstance(weight, Quantized):
        return not np.isfinite(weight.scale).all()
    return weight.dtype.kind == "f" and bool(np.isnan(weight).any())


# ---- writing ----------------------------------------------------------------------------------------
def to_bytes(contents: Contents) -> bytes:
    """Return the bytes of the model file; the same contents give the same bytes. Raise ModelFileError if none can hold them."""
    example = contents.example
    document = {
        "example": None if example is None else {"engine": example.engine},
        "graph": to_json(contents.graph),
        "metadata": dict(contents.metadata),
        "version": VERSION,
    }
    try:
        data = save(_tensors(contents), {KEY: canonical(document)})
        # what is saved can be loaded: the header, and with it every rule but those on the tensors' elements
        _decode(*read_header(BytesIO(data), len(data)))
    except (ModelFileError, SafetensorError, TypeError, ValueError) as error:
        raise ModelFileError(f"the model cannot be saved: {error}") from error
    return data


def _tensors(contents: Contents) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, weight in contents.weights.items():
        require(not has_nan(weight), f"weight {name!r} holds NaN")
        if isinstance(weight, Quantized):
            tensors[WEIGHT + name], tensors[SCALE + name] = weight.values, weight.scale
        else:
            tensors[WEIGHT + name] = weight
    if contents.example is not None:
        tensors |= {EXAMPLE_IN + k: v for k, v in contents.example.inputs.items()}
        tensors |= {EXAMPLE_OUT + k: v for k, v in contents.example.outputs.items()}
    for name, array in tensors.items():
        require(array.dtype.name in DTYPES.values(), f"tensor {name!r} has dtype {array.dtype}")
    return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in sorted(tensors.items())}


# ---- reading ----------------------------------------------------------------------------------------
def read(path: str | os.PathLike) -> Contents:
    """Return the contents of a model file. Raise ModelFileError; whether the graph is whole is not checked here."""
    with opened(path) as (file, size):
        metadata, entries = read_header(file, size)
        graph, info, engine = _decode(metadata, entries)
        tensors = read_tensors(file, entries)
        weights = {name: _weight(name, tensors) for name in _named(WEIGHT, tensors)}
    if engine is None:
        return Contents(graph, weights, info, None)
    return Contents(graph, weights, info, Example(_named(EXAMPLE_IN, tensors), _named(EXAMPLE_OUT, tensors), engine))


def _decode(metadata: Any, entries: dict[str, Entry]) -> tuple[Graph, dict[str, str], str | None]:
    """Return the graph, the metadata and the example's engine, with everything checked that needs no tensor's elements."""
    ours = isinstance(metadata, dict) and isinstance(metadata.get(KEY), str)
    require(
        ours, f"a safetensors file, but not of fastlstm: no metadata key {KEY!r}; fastlstm.convert the source model"
    )
    require(set(metadata) == {KEY}, f"the metadata has keys besides {KEY!r}: {brief(sorted(set(metadata) - {KEY}))}")
    document = _document(metadata[KEY])
    for name in entries:
        require(name.startswith(PREFIXES), f"tensor {brief(name)} has no place in a model file")
    info = document["metadata"]
    texts = isinstance(info, dict) and all(is_text(v) for pair in info.items() for v in pair)
    require(texts, f"metadata is {brief(info)}, expected an object of texts")
    graph = from_json(document["graph"])
    _check_scales(entries)
    return graph, info, _check_example(document["example"], graph, entries)


def _document(text: str) -> dict[str, Any]:
    require(text.isascii(), "the metadata is not ASCII")
    document = parse_json(text, "the metadata")
    require(isinstance(document, dict) and "version" in document, "the metadata has no version")
    version = document["version"]
    known = type(version) is int and version == VERSION
    require(known, f"version {brief(version)} of the format; this fastlstm reads {VERSION}: is there a newer one?")
    require(set(document) == DOCUMENT_KEYS, f"the metadata has not the keys {sorted(DOCUMENT_KEYS)}")
    require(canonical(document) == text, "the metadata is not canonical JSON: sorted keys, no spaces, shortest numbers")
    return document


def _named(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_scales(entries: dict[str, Entry]) -> None:
    weights = _named(WEIGHT, entries)
    for name, scale in _named(SCALE, entries).items():
        require(name in weights, f"scale {brief(name)} has no weight")
        weight = weights[name]
        fits = weight.dtype == np.int8 and len(weight.shape) > 0 and scale.dtype == np.float32
        fits = fits and scale.shape == weight.shape[-1:]
        found = f"{weight.dtype} {weight.shape} with {scale.dtype} {scale.shape}"
        require(
            fits, f"the scale of weight {brief(name)} does not fit: {found}, expected int8 (..., N) with float32 (N,)"
        )


def _weight(name: str, tensors: dict[str, np.ndarray]) -> Weight:
    values, scale = tensors[WEIGHT + name], tensors.get(SCALE + name)
    weight = values if scale is None else Quantized(values, scale)
    require(
        not has_nan(weight),
        f"weight {brief(name)} holds NaN" if scale is None else f"scale {brief(name)} is not finite",
    )
    return weight


def _check_example(value: Any, graph: Graph, entries: dict[str, Entry]) -> str | None:
    """Return the engine of the example, None if there is none."""
    given, expected = _named(EXAMPLE_IN, entries), _named(EXAMPLE_OUT, entries)
    if value is None:
        require(not given and not expected, "example tensors without an example")
        return None
    good = isinstance(value, dict) and set(value) == {"engine"} and is_text(value["engine"])
    require(good, f"the example is {brief(value)}, expected its engine alone")
    inputs, outputs = ({spec.name: spec for spec in specs} for specs in (graph.inputs, graph.outputs))
    require(
        set(given) == set(inputs), f"the example has inputs {brief(sorted(given))}, the graph {brief(sorted(inputs))}"
    )
    known = bool(expected) and set(expected) <= set(outputs)
    require(known, f"the example has outputs {brief(sorted(expected))}, the graph {brief(sorted(outputs))}")
    for specs, found in ((inputs, given), (outputs, expected)):
        for name, entry in found.items():
            _check_fit(specs[name], entry)
    return value["engine"]


def _check_fit(spec: TensorSpec, entry: Entry) -> None:
    fits = spec.shape is None or len(spec.shape) == len(entry.shape)
    fits = fits and all(
        isinstance(d, str) or d == n for d, n in zip(spec.shape or entry.shape, entry.shape, strict=True)
    )
    fits = fits and np.can_cast(entry.dtype, spec.dtype, "same_kind")
    require(
        fits, f"the example's {brief(spec.name)} is {entry.dtype} {brief(entry.shape)}, declared is {brief(str(spec))}"
    )

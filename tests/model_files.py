"""Model files to take apart: one small valid model, and a writer that checks nothing.

A `File` is a model file as its parts: the JSON document, the tensors in order, and what else a header may claim.
`File.bytes()` writes whatever it holds, so a test states one broken rule and nothing else.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlstm import Example, Model
from fastlstm.graph import Graph, Node, TensorSpec

CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
DTYPES = {code: name for name, code in CODES.items()}
B, T, I, H, N = 3, 5, 2, 7, 4


def small_model(example: bool = True, seed: int = 0) -> Model:
    """Return LSTM, Dense, Reshape and Softmax over x (B, 5, 2), every weight element distinct."""
    rng = np.random.default_rng(seed)
    weights = {
        "W": rng.standard_normal((I, 4 * H)).astype(np.float32),
        "U": rng.standard_normal((H, 4 * H)).astype(np.float32),
        "b": rng.standard_normal(4 * H).astype(np.float32),
        "V": rng.standard_normal((H, N)).astype(np.float32),
        "shape": np.array([0, N // 2, 2], np.int64),
    }
    nodes = (
        Node("lstm", "LSTM", ("x", "W", "U", "b"), ("", "h"), {"batch_first": True, "clip": 2.5}),
        Node("dense", "Dense", ("h", "V"), ("d",), {"activation": "Relu"}),
        Node("pairs", "Reshape", ("d", "shape"), ("r",), {}),
        Node("softmax", "Softmax", ("r",), ("y",), {"axis": -1}),
    )
    graph = Graph(nodes, (TensorSpec("x", "float32", ("B", T, I)),), (TensorSpec("y", "float32", ("B", N // 2, 2)),))
    x, y = rng.standard_normal((B, T, I)).astype(np.float32), rng.random((B, N // 2, 2)).astype(np.float32)
    recorded = Example({"x": x}, {"y": y}, "onnxruntime 1.20") if example else None
    return Model(graph, weights, {"source": "test", "überschrift": "ein «Satz»"}, recorded)


@dataclass
class File:
    """The parts of a model file. `tensors` are [name, dtype code, shape, bytes]; None among the overrides is no override."""

    document: Any
    tensors: list[list] = field(default_factory=list)
    metadata: Any = None  # instead of {"fastlstm": the document}
    text: str | None = None  # instead of the document's canonical JSON
    edit: Callable[[dict], Any] | None = None  # changes the header
    header: bytes | None = None  # instead of the header's JSON
    length: int | None = None  # instead of the header's length
    tail: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> "File":
        (length,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        text = header.pop("__metadata__")["fastlstm"]
        ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        tensors = [[name, e["dtype"], e["shape"], body[slice(*e["data_offsets"])]] for name, e in ordered]
        return cls(json.loads(text), tensors)

    @property
    def graph(self) -> dict[str, Any]:
        return self.document["graph"]

    def node(self, name: str) -> dict[str, Any]:
        return next(node for node in self.graph["nodes"] if node["name"] == name)

    def tensor(self, name: str) -> list:
        return next(tensor for tensor in self.tensors if tensor[0] == name)

    def put(self, name: str, array: np.ndarray) -> None:
        """Replace a tensor, or add it."""
        self.tensors = [tensor for tensor in self.tensors if tensor[0] != name]
        self.tensors.append([name, CODES[array.dtype.name], list(array.shape), array.tobytes()])

    def drop(self, name: str) -> None:
        self.tensors.remove(self.tensor(name))

    def bytes(self) -> bytes:
        text = self.text
        if text is None:
            text = json.dumps(self.document, sort_keys=True, separators=(",", ":"))
        header: dict[str, Any] = {"__metadata__": {"fastlstm": text} if self.metadata is None else self.metadata}
        place = 0
        for name, code, shape, raw in self.tensors:
            header[name] = {"dtype": code, "shape": shape, "data_offsets": [place, place + len(raw)]}
            place += len(raw)
        if self.edit is not None:
            self.edit(header)
        encoded = json.dumps(header, separators=(",", ":")).encode() if self.header is None else self.header
        encoded += b" " * (-len(encoded) % 8)
        length = len(encoded) if self.length is None else self.length
        return struct.pack("<Q", length) + encoded + b"".join(t[3] for t in self.tensors) + self.tail


def small_file(example: bool = True, storage: str | None = None) -> File:
    """Return the parts of a valid file of the small model."""
    model = small_model(example)
    return File.of((model if storage is None else model.narrowed(storage)).to_bytes())

"""ONNX graphs as models: a protobuf is read as data (no checker, no shape inference, no inliner), node by node."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from fastlstm.converters import (
    onnx_control,
    onnx_convolution,
    onnx_normalisation,
    onnx_ops,
    onnx_quantised,
    onnx_recurrent,
    onnx_reductions,
    onnx_sequences,
    onnx_shapes,
)
from fastlstm.converters.onnx_cell_nodes import join_cells
from fastlstm.converters.onnx_external import External
from fastlstm.converters.onnx_graph import OnnxNode, SequenceValue, full_name, handlers, onnx_dtype
from fastlstm.converters.onnx_scope import GRAPH, MAX_NODES, Document, Scope, type_name
from fastlstm.converters.onnx_unrolled import join_unrolled
from fastlstm.errors import FastLSTMError, InputError, MissingExtraError, ModelFileError, UnsupportedError, one_of
from fastlstm.format import canonical
from fastlstm.graph import Dim, Graph, Node, TensorSpec
from fastlstm.layers import Build, Tensor
from fastlstm.model import Model

# they fill the registry of handlers
__all__ = [
    "from_onnx",
    "onnx_control",
    "onnx_convolution",
    "onnx_normalisation",
    "onnx_ops",
    "onnx_quantised",
    "onnx_recurrent",
    "onnx_reductions",
    "onnx_sequences",
    "onnx_shapes",
]


def from_onnx(data: bytes, inputs: Mapping[str, Any], external_data: str | os.PathLike | None = None) -> Model:
    """Return the model of an ONNX file's bytes. `inputs` binds graph inputs to constants, `external_data` is the folder of tensors outside.

    Raise ModelFileError for damage, UnsupportedError naming every operator, attribute and value that is not supported.
    """
    proto = parsed(data)
    external = None if external_data is None else External(external_data)
    with malformed():
        return _Importer(proto, inputs, external).model()


def parsed(data: bytes) -> Any:
    """Return the ModelProto of a file's bytes. Raise ModelFileError, MissingExtraError."""
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "onnx", "reading ONNX graphs") from None
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError and whatever else its parser raises
        raise ModelFileError(f"not a readable ONNX graph: {error}") from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelFileError("not an ONNX graph: it has no nodes or no outputs")
    return proto


@contextmanager
def malformed() -> Iterator[None]:
    """Raise ModelFileError for whatever a graph that makes no sense leads to."""
    try:
        yield
    except FastLSTMError:
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        AssertionError,
        ZeroDivisionError,
        UnicodeDecodeError,
        RecursionError,
    ) as error:
        raise ModelFileError(f"a malformed ONNX graph: {type(error).__name__}: {error}") from error


def opsets_of(proto: Any) -> dict[str, int]:
    """Return the versions of a model's or function's domains."""
    return {entry.domain: int(entry.version) for entry in proto.opset_import}


def functions_of(proto: Any) -> dict[str, Any]:
    """Return a model's local functions by the name of their operator. Raise ModelFileError where one calls itself."""
    functions = {full_name(one.domain, one.name): one for one in proto.functions}
    calls = {
        name: {called for n in walk(one.node) if (called := full_name(n.domain, n.op_type)) in functions}
        for name, one in functions.items()
    }
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        raise ModelFileError(f"function {error.args[1][0]!r} calls itself") from error
    return functions


def walk(nodes: Any) -> Iterator[Any]:
    """Yield nodes and those of their subgraphs."""
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting.extend(one.g.node for one in node.attribute if one.type == GRAPH)


def unknown_operators(proto: Any, functions: Mapping[str, Any]) -> dict[str, str]:
    """Return the operators that are not supported, each with the name of a node of it. Raise ModelFileError for too many nodes."""
    unknown: dict[str, str] = {}
    everything = [proto.graph.node, *(one.node for one in functions.values())]
    count = 0
    for nodes in everything:
        for node in walk(nodes):
            count += 1
            if count > MAX_NODES:
                raise ModelFileError(f"the graph has more than {MAX_NODES} nodes")
            name = full_name(node.domain, node.op_type)
            if name not in handlers and name not in functions:
                unknown.setdefault(name, node.name or next((output for output in node.output if output), ""))
    return unknown


class _Importer:
    def __init__(self, proto: Any, bound: Mapping[str, Any], external: External | None):
        self.proto, self.graph, self.build = proto, proto.graph, Build()
        self.functions = functions_of(proto)
        self.document = Document(self.functions, external)
        self.scope = Scope(self.document, opsets_of(proto), self.build)
        self.opset, self.values = self.scope.opset, self.scope.values
        self._bound = dict(bound)
        self.constants: dict[str, list] = {}
        # the graph's own names stay the model's
        self.build._value_names |= {value.name for value in (*self.graph.input, *self.graph.output)}

    def model(self) -> Model:
        unknown = unknown_operators(self.proto, self.functions)
        repeated = [name for name, count in Counter(self._produced()).items() if count > 1]
        if repeated:
            raise ModelFileError(f"value {repeated[0]!r} is defined twice")
        initial = {tensor.name for tensor in self.graph.initializer}
        names = [value.name for value in self.graph.input if value.name not in initial or value.name in self._bound]
        missing = [name for name in self._bound if name not in names]
        if missing:
            raise InputError(f"inputs: the graph has no input {missing[0]!r}; it has {one_of(names)}")
        refused = self.document.refusals
        self.scope.add_initializers(self.graph, frozenset(self._bound))
        for value in self.graph.input:
            if value.name not in names:
                continue
            try:
                self._input(value)
            except UnsupportedError as error:
                refused.append(str(error))
                self.values[value.name] = None
        self.scope.add_nodes(self.graph.node)
        if unknown:
            # an operator's name is a stranger's text: it stays on one line
            listed = ", ".join(f"{repr(op)[1:-1]} (node {name!r})" for op, name in sorted(unknown.items()))
            refused.insert(0, f"operators that are not supported (opset {self.opset}): {listed}")
        if refused:
            raise UnsupportedError("; ".join(dict.fromkeys(refused)))
        return self._finish()

    def _produced(self) -> Iterator[str]:
        """Yield the names of all values. An initializer may be the default of an input."""
        inputs = {value.name for value in self.graph.input}
        yield from (value.name for value in self.graph.input)
        yield from (tensor.name for tensor in self.graph.initializer if tensor.name not in inputs)
        yield from (name for node in self.graph.node for name in node.output if name)

    def _input(self, value: Any) -> None:
        """Add an input, or the constant that it is bound to; a sequence is one tensor of its elements."""
        several = value.type.HasField("sequence_type")
        inner = value.type.sequence_type.elem_type if several else value.type
        kind = inner.tensor_type
        dtype = onnx_dtype(kind.elem_type)
        if not inner.HasField("tensor_type") or dtype is None:
            what = type_name(kind.elem_type) if inner.HasField("tensor_type") else inner.WhichOneof("value")
            raise UnsupportedError(
                f"input {value.name!r}: its type {what} is not supported, only tensors of numbers or booleans, and sequences of them"
            )
        if several and value.name in self._bound:
            raise UnsupportedError(f"input {value.name!r}: a sequence, which cannot be bound")
        if value.name in self._bound:
            array = self._bind(value.name, dtype, kind)
            self.constants[value.name] = [dtype, array.tolist()]
            self.values[value.name] = self.build.weight(f"{value.name}.bound", array)
            return
        shape: tuple[Dim, ...] | None = None
        if kind.HasField("shape"):
            shape = tuple(
                int(d.dim_value)
                if d.HasField("dim_value") and d.dim_value >= 0
                else (d.dim_param or f"{value.name}.{k}")
                for k, d in enumerate(kind.shape.dim)
            )
        if several and shape is not None:
            shape = (f"{value.name}.count", *shape)
        self.build._value_names.discard(value.name)
        tensor = self.build.input(value.name, dtype, shape)  # type: ignore[arg-type]
        self.values[value.name] = SequenceValue(dtype, stacked=tensor) if several else tensor

    def _bind(self, name: str, dtype: str, kind: Any) -> np.ndarray:
        """Return the value given for an input as an array of its dtype and shape; one number fills any shape of ones."""
        given = np.asarray(self._bound[name])
        if given.dtype.kind not in {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}[np.dtype(dtype).kind]:
            raise InputError(f"inputs: {name!r} is {self._bound[name]!r}, expected {dtype}")
        array = given.astype(dtype)
        if array.dtype.kind in "iu" and not np.array_equal(array, given):
            raise InputError(f"inputs: {name!r} is {self._bound[name]!r}, which {dtype} does not hold")
        if kind.HasField("shape"):
            shape = [int(d.dim_value) if d.HasField("dim_value") else None for d in kind.shape.dim]
            if array.size == 1 and all(d in (None, 1) for d in shape):
                array = array.reshape((1,) * len(shape))
            if len(shape) != array.ndim or any(
                d not in (None, size) for d, size in zip(shape, array.shape, strict=True)
            ):
                raise InputError(f"inputs: {name!r} has shape {array.shape}, expected {shape}")
        return array

    def _finish(self) -> Model:
        outputs, rename = [], {}
        for value in self.graph.output:
            if value.name not in self.values:
                raise ModelFileError(f"output {value.name!r} is computed by no node")
            tensor = self._output(value.name)
            if tensor.name in rename or any(spec.name == tensor.name for spec in self.build.inputs):
                tensor = self.build.node(f"{value.name}/output", "Identity", [tensor])
            rename[tensor.name] = value.name
            outputs.append(tensor)
        metadata = {
            "source": "onnx",
            "opset": str(self.opset),
            "producer": f"{self.proto.producer_name} {self.proto.producer_version}".strip(),
        }
        if self.constants:
            metadata["bound"] = canonical(self.constants)
        join_cells(self.build, outputs)
        join_unrolled(self.build, outputs)
        return _renamed(self.build, outputs, rename, self._declared(), metadata)

    def _output(self, name: str) -> Tensor:
        """Return an output; a sequence leaves the graph as one tensor of its elements."""
        value = self.values[name]
        if isinstance(value, Tensor):
            return value
        node = OnnxNode(self.scope, "Identity", name, self.opset, [value], [name], {})
        try:
            return onnx_sequences.stack(node, node.sequence(0))
        except UnsupportedError as error:
            raise UnsupportedError(
                f"output {name!r}: a sequence whose elements are not known to have one shape"
            ) from error

    def _declared(self) -> dict[str, TensorSpec]:
        declared = {}
        for value in self.graph.output:
            kind = value.type.tensor_type
            if kind.HasField("shape"):
                shape = tuple(
                    int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or f"{value.name}.{k}")
                    for k, d in enumerate(kind.shape.dim)
                )
                declared[value.name] = TensorSpec(value.name, onnx_dtype(kind.elem_type) or "float32", shape)
        return declared


def _renamed(
    build: Build,
    outputs: list[Tensor],
    rename: dict[str, str],
    declared: dict[str, TensorSpec],
    metadata: dict[str, str],
) -> Model:
    """Return the build as a model whose outputs have the names that the ONNX graph gives them."""
    nodes = [
        replace(
            node,
            inputs=tuple(rename.get(n, n) for n in node.inputs),
            outputs=tuple(rename.get(n, n) for n in node.outputs),
        )
        for node in build.live(outputs)
    ]
    specs = []
    for tensor in outputs:
        name, shape = rename[tensor.name], tensor.value.shape
        if shape is None and name in declared:
            shape = declared[name].shape
        specs.append(TensorSpec(name, tensor.value.dtype.name, shape))
    used = {n for node in nodes for n in node.inputs} | {spec.name for spec in specs}
    weights = {rename.get(n, n): array for n, array in build.weights.items() if rename.get(n, n) in used}
    casts = []
    for name in [name for name, array in weights.items() if array.dtype == np.float16]:
        # a weight in float16 is a float32 value that is stored narrow: these stay what they are by a cast
        wide = build.unique(f"{name}.wide")
        weights[wide] = weights.pop(name).astype(np.float32)
        casts.append(Node(build.unique(f"{name}/cast", build._node_names), "Cast", (wide,), (name,), {"to": "float16"}))
    return Model(Graph((*casts, *nodes), tuple(build.inputs), tuple(specs)), weights, metadata)

"""ONNX graphs as models: a protobuf is read as data (no checker, no shape inference, no external files), node by node."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastlstm.converters import (
    onnx_convolution,
    onnx_normalisation,
    onnx_ops,
    onnx_quantised,
    onnx_recurrent,
    onnx_reductions,
    onnx_shapes,
)
from fastlstm.converters.onnx_graph import OnnxNode, full_name, handlers
from fastlstm.converters.onnx_ops import onnx_dtype
from fastlstm.errors import FastLSTMError, InputError, MissingExtraError, ModelFileError, UnsupportedError, one_of
from fastlstm.format import canonical
from fastlstm.graph import Dim, Graph, TensorSpec
from fastlstm.layers import Build, Tensor
from fastlstm.model import Model

MAX_NODES = 100_000
# they fill the registry of handlers
__all__ = [
    "from_onnx",
    "onnx_convolution",
    "onnx_normalisation",
    "onnx_ops",
    "onnx_quantised",
    "onnx_recurrent",
    "onnx_reductions",
    "onnx_shapes",
]


def from_onnx(data: bytes, inputs: Mapping[str, Any]) -> Model:
    """Return the model of an ONNX file's bytes. `inputs` binds graph inputs to constants.

    Raise ModelFileError for damage, UnsupportedError naming every operator or the attribute that is not supported.
    """
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
    try:
        return _Importer(proto, inputs).model()
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
    ) as error:
        raise ModelFileError(f"a malformed ONNX graph: {type(error).__name__}: {error}") from error


class _Importer:
    def __init__(self, proto: Any, bound: Mapping[str, Any]):
        self.proto, self.graph, self.build = proto, proto.graph, Build()
        domains = {entry.domain: entry.version for entry in proto.opset_import}
        self.opset = int(domains.get("", domains.get("ai.onnx", 1)))
        self.values: dict[str, Tensor] = {}
        self._bound = dict(bound)
        self.constants: dict[str, list] = {}
        # the graph's own names stay the model's
        self._reserved = {value.name for value in (*self.graph.input, *self.graph.output)}
        self.build._value_names |= self._reserved

    def model(self) -> Model:
        self._refuse_unknown()
        initial = {tensor.name: tensor for tensor in self.graph.initializer}
        if self.graph.sparse_initializer:
            raise UnsupportedError("sparse initializers are not supported")
        repeated = [name for name, count in Counter(self._produced()).items() if count > 1]
        if repeated:
            raise ModelFileError(f"value {repeated[0]!r} is defined twice")
        names = [value.name for value in self.graph.input if value.name not in initial or value.name in self._bound]
        unknown = [name for name in self._bound if name not in names]
        if unknown:
            raise InputError(f"inputs: the graph has no input {unknown[0]!r}; it has {one_of(names)}")
        for name, tensor in initial.items():
            if name not in self._bound:
                self.values[name] = self.build.weight(f"{name}", self._array(tensor, f"initializer {name!r}"))
        for value in self.graph.input:
            if value.name in names:
                self._input(value)
        for proto in self.graph.node:
            self._node(proto)
        return self._finish()

    def _refuse_unknown(self) -> None:
        if len(self.graph.node) > MAX_NODES:
            raise ModelFileError(f"the graph has {len(self.graph.node)} nodes, the limit is {MAX_NODES}")
        unknown: dict[str, str] = {}
        for node in self.graph.node:
            known = full_name(node.domain, node.op_type) in handlers
            if not known:
                unknown.setdefault(
                    f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
                    node.name or (node.output[0] if node.output else ""),
                )
        if unknown:
            listed = ", ".join(f"{op} (node {name!r})" for op, name in sorted(unknown.items()))
            raise UnsupportedError(f"operators that are not supported (opset {self.opset}): {listed}")

    def _produced(self) -> Iterator[str]:
        """Yield the names of all values. An initializer may be the default of an input."""
        inputs = {value.name for value in self.graph.input}
        yield from (value.name for value in self.graph.input)
        yield from (tensor.name for tensor in self.graph.initializer if tensor.name not in inputs)
        yield from (name for node in self.graph.node for name in node.output if name)

    def _array(self, tensor: Any, where: str) -> np.ndarray:
        """Return the contents of a TensorProto, its size checked first."""
        from onnx import numpy_helper

        if tensor.data_location or tensor.external_data:
            raise UnsupportedError(f"{where}: external data is not loaded; save the model as one file")
        if onnx_dtype(tensor.data_type) is None:
            raise UnsupportedError(f"{where}: element type {tensor.data_type} is not supported")
        if any(d < 0 for d in tensor.dims):
            raise ModelFileError(f"{where}: shape {list(tensor.dims)}")
        held = max(len(tensor.raw_data), 1) * 8 + sum(
            len(f)
            for f in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        )
        count = 1
        for dim in tensor.dims:
            count *= dim
        if count > held:
            raise ModelFileError(f"{where}: shape {list(tensor.dims)} claims more elements than the file holds")
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelFileError(f"{where}: {error}") from error
        return np.ascontiguousarray(array).reshape(array.shape)

    def _input(self, value: Any) -> None:
        kind = value.type.tensor_type
        dtype = onnx_dtype(kind.elem_type)
        if not value.type.HasField("tensor_type") or dtype is None:
            raise UnsupportedError(
                f"input {value.name!r}: its type is not supported, only tensors of numbers or booleans"
            )
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
        self.build._value_names.discard(value.name)
        self.values[value.name] = self.build.input(value.name, dtype, shape)  # type: ignore[arg-type]

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

    def _node(self, proto: Any) -> None:
        from onnx import helper

        attributes: dict[str, Any] = {}
        for attribute in proto.attribute:
            if attribute.type in (5, 10, 11, 12):  # GRAPH, GRAPHS, SPARSE_TENSOR(S)
                raise UnsupportedError(
                    f"node {proto.name!r}: {proto.op_type}: attribute {attribute.name!r} is a graph or a sparse tensor"
                )
            if attribute.type == 4:
                attributes[attribute.name] = self._array(
                    attribute.t, f"node {proto.name!r}: attribute {attribute.name!r}"
                )
            else:
                attributes[attribute.name] = helper.get_attribute_value(attribute)
        inputs = []
        for name in proto.input:
            if name and name not in self.values:
                raise ModelFileError(
                    f"node {proto.name or proto.op_type!r} uses {name!r} before it is computed: a cycle, or nodes out of order"
                )
            inputs.append(self.values[name] if name else None)
        node = OnnxNode(self.build, proto.op_type, proto.name, self.opset, inputs, list(proto.output), attributes)
        results = handlers[full_name(proto.domain, proto.op_type)](node)
        node.finish()
        for name, tensor in zip(proto.output, results if isinstance(results, list) else [results], strict=False):
            if name and tensor is not None:
                self.values[name] = tensor
        for name in proto.output:
            if name and name not in self.values:
                raise UnsupportedError(f"node {node.name!r}: {proto.op_type}: its output {name!r} is not supported")

    def _finish(self) -> Model:
        outputs, rename = [], {}
        for value in self.graph.output:
            if value.name not in self.values:
                raise ModelFileError(f"output {value.name!r} is computed by no node")
            tensor = self.values[value.name]
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
        return _renamed(self.build, outputs, rename, self._declared(), metadata)

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
    return Model(Graph(tuple(nodes), tuple(build.inputs), tuple(specs)), weights, metadata)

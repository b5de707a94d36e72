"""Scopes of an ONNX graph: the nodes of a graph, of a branch or body within it, or of a function, and the values they see.

A branch that is chosen at import and a function add their nodes to the build around them. A branch or body that runs has a build of its own,
and what it takes from outside becomes an input of it: weights too, so that it is a function of its inputs and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastlstm.converters.onnx_cell_nodes import join_cells
from fastlstm.converters.onnx_external import External
from fastlstm.converters.onnx_graph import OnnxNode, SequenceValue, full_name, handlers, onnx_dtype
from fastlstm.converters.onnx_unrolled import join_unrolled
from fastlstm.errors import LimitError, ModelFileError, UnsupportedError
from fastlstm.graph import Graph, TensorSpec
from fastlstm.layers import Build, Tensor
from fastlstm.ops.op import Value

MAX_NODES = 100_000
MAX_DEPTH = 12  # of branches, bodies and functions one within the other
GRAPH, TENSOR = 5, 4  # types of attributes
REFUSED_TYPES = (10, 11, 12)  # GRAPHS, SPARSE_TENSOR, SPARSE_TENSORS
Known = Tensor | SequenceValue | None  # None: what a refused node would have given


@dataclass
class Document:
    """What holds for a whole ONNX file: its functions, its data outside, what was refused so far, and how much was read."""

    functions: Mapping[str, Any]
    external: External | None
    refusals: list[str] = field(default_factory=list)
    nodes: int = 0

    def count(self) -> None:
        """Count a node. Raise LimitError where functions that call functions make too many."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise LimitError(
                f"the graph has more than {MAX_NODES} nodes, those of functions and branches counted where they stand"
            )


class Scope:
    """The values that the nodes of one graph see, by name."""

    def __init__(
        self, document: Document, opsets: Mapping[str, int], build: Build, around: "Scope | None" = None, depth: int = 0
    ):
        if depth > MAX_DEPTH:
            raise LimitError(f"more than {MAX_DEPTH} branches, bodies or functions stand one within the other")
        self.document, self.opsets, self.build = document, dict(opsets), build
        self.around, self.depth = around, depth
        self.values: dict[str, Known] = {}
        self.absent: frozenset[str] = frozenset()  # inputs of a function that its call leaves out
        self.taken: dict[str, Tensor] = {}  # of a body: its inputs that are values from outside, by their name there

    @property
    def opset(self) -> int:
        """The version of the default domain."""
        return int(self.opsets.get("", self.opsets.get("ai.onnx", 1)))

    # ---- values -------------------------------------------------------------------------------------
    def knows(self, name: str) -> bool:
        """Tell whether a value of that name is there or around."""
        return name in self.values or (self.around is not None and self.around.knows(name))

    def find(self, name: str) -> Known:
        """Return a value; one from outside of a body becomes an input of it."""
        if name in self.values:
            return self.values[name]
        assert self.around is not None
        found = self.around.find(name)
        self.values[name] = found if self.build is self.around.build else self._taken(found)
        return self.values[name]

    def _taken(self, outer: Known) -> Known:
        if isinstance(outer, SequenceValue):
            items = tuple(self._taken(item) for item in outer.items)
            return replace(outer, items=items, stacked=self._taken(outer.stacked))  # type: ignore[arg-type]
        if outer is None:
            return None
        data = outer.value.data
        if data is not None:  # closing the body makes an input of it where a node of the run reads it
            self.build.weights[outer.name], self.build.values[outer.name] = data, outer.value
            return Tensor(self.build, outer.name)
        inner = self.build.input(outer.name + ".in", outer.value.dtype.name, outer.value.shape)  # type: ignore[arg-type]
        self.taken[inner.name] = outer
        return inner

    def taking(self, outer: Tensor) -> Tensor:
        """Return a value around a body as one of the body's own."""
        inner = self._taken(outer)
        assert isinstance(inner, Tensor)
        return inner

    def entry(self, outer: Tensor) -> Tensor:
        """Return the input of a closed body that stands for a value around it, whether or not the body reads it."""
        name = next((name for name, tensor in self.taken.items() if tensor.name == outer.name), outer.name)
        if name not in self.build.values:
            self.build.values[name] = Value(outer.value.dtype, outer.value.shape)
        return Tensor(self.build, name)

    def body(self) -> "Scope":
        """Return the scope of a body within this one, with a build of its own; all names differ."""
        build = Build()
        build._value_names, build._node_names = self.build._value_names, self.build._node_names
        return Scope(self.document, self.opsets, build, self, self.depth + 1)

    def inside(self) -> "Scope":
        """Return the scope of a branch that stands in this one's place."""
        return Scope(self.document, self.opsets, self.build, self, self.depth + 1)

    def closed(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
        """Return a body's graph and the values around it that it takes after `inputs`."""
        assert self.around is not None
        join_cells(self.build, outputs)
        join_unrolled(self.build, outputs)
        nodes, outer = self.build.live(outputs), self.around.build
        used = {name for node in nodes for name in node.inputs} | {tensor.name for tensor in outputs}
        specs = [TensorSpec(tensor.name, tensor.value.dtype.name, tensor.value.shape) for tensor in inputs]
        given = []
        named = {spec.name for spec in specs}
        for name, tensor in self.taken.items():
            if name in used - named:
                specs.append(TensorSpec(name, tensor.value.dtype.name, tensor.value.shape))
                given.append(tensor)
        for name in [name for name in self.build.weights if name in used - named]:
            if name not in outer.values:
                outer.weights[name], outer.values[name] = self.build.weights[name], self.build.values[name]
            specs.append(TensorSpec(name, self.build.values[name].dtype.name, self.build.values[name].shape))
            given.append(Tensor(outer, name))
        results = tuple(TensorSpec(one.name, one.value.dtype.name, one.value.shape) for one in outputs)
        return Graph(tuple(nodes), tuple(specs), results), given

    # ---- nodes --------------------------------------------------------------------------------------
    def run(self, graph: Any) -> list[Known]:
        """Add the initializers and nodes of a subgraph, whose inputs are known, and return its outputs."""
        self.add_initializers(graph)
        self.add_nodes(graph.node)
        for value in graph.output:
            if not self.knows(value.name):
                raise ModelFileError(f"output {value.name!r} of a subgraph is computed by no node")
        return [self.find(value.name) for value in graph.output]

    def add_initializers(self, graph: Any, without: frozenset[str] = frozenset()) -> None:
        """Add the constants that a graph declares."""
        if graph.sparse_initializer:
            self.document.refusals.append("sparse initializers are not supported")
        for tensor in graph.initializer:
            if tensor.name in without:
                continue
            try:
                array = self.array(tensor, f"initializer {tensor.name!r}")
                self.values[tensor.name] = self.build.weight(tensor.name, array)
            except UnsupportedError as error:
                self.document.refusals.append(str(error))
                self.values[tensor.name] = None

    def add_nodes(self, nodes: Sequence[Any], attributes: Mapping[str, Any] | None = None) -> None:
        """Add nodes in order. `attributes` are those of the call of a function, which its nodes may refer to."""
        for proto in nodes:
            self.document.count()
            self._add(proto, attributes or {})

    def _add(self, proto: Any, outer: Mapping[str, Any]) -> None:
        inputs, names = [], ["" if name in self.absent else name for name in proto.input]
        for name in names:
            if name and not self.knows(name):
                raise ModelFileError(
                    f"node {proto.name or proto.op_type!r} uses {name!r} before it is computed: a cycle, or nodes out of order"
                )
            inputs.append(self.find(name) if name else None)
        made: list[Known] = [None] * len(proto.output)
        refused = any(name and value is None for name, value in zip(names, inputs, strict=True))
        refusals = self.document.refusals
        before, known = len(refusals), self._knows_operator(full_name(proto.domain, proto.op_type))
        if known and not refused:  # `unknown_operators` has named the others
            try:
                results = self._results(proto, names, inputs, self._attributes(proto, outer))
                made[: len(results)] = results[: len(made)]
                for name, value in zip(proto.output, made, strict=True):
                    if name and value is None and len(refusals) == before:
                        raise UnsupportedError(
                            f"node {proto.name or name!r}: {proto.op_type}: its output {name!r} is not supported"
                        )
            except UnsupportedError as error:
                # all that is not supported is named in one message
                refusals.append(str(error))
                made = [None] * len(proto.output)
        self.values.update((name, value) for name, value in zip(proto.output, made, strict=True) if name)

    def _knows_operator(self, name: str) -> bool:
        return name in handlers or name in self.document.functions

    def _results(self, proto: Any, names: list[str], inputs: list[Known], attributes: dict[str, Any]) -> list[Known]:
        name = full_name(proto.domain, proto.op_type)
        if name in self.document.functions and name not in handlers:
            given = {k: value for k, value in enumerate(inputs) if names[k]}
            return self._call(self.document.functions[name], given, attributes)
        node = OnnxNode(self, proto.op_type, proto.name, self.opset, inputs, list(proto.output), attributes)
        results = handlers[name](node)
        node.finish()
        return results if isinstance(results, list) else [results]

    def _call(self, function: Any, inputs: Mapping[int, Known], attributes: Mapping[str, Any]) -> list[Known]:
        """Add the nodes of a function in place of its call."""
        opsets = {entry.domain: entry.version for entry in function.opset_import} or self.opsets
        scope = Scope(self.document, opsets, self.build, None, self.depth + 1)
        for k, name in enumerate(function.input):
            scope.values[name] = inputs.get(k)
        scope.absent = frozenset(name for k, name in enumerate(function.input) if k not in inputs)
        given = {one.name: self.attribute(one, f"function {function.name!r}") for one in function.attribute_proto}
        scope.add_nodes(function.node, given | dict(attributes))
        missing = [name for name in function.output if name not in scope.values]
        if missing:
            raise ModelFileError(f"output {missing[0]!r} of function {function.name!r} is computed by no node")
        return [scope.values[name] for name in function.output]

    # ---- attributes and tensors ---------------------------------------------------------------------
    def _attributes(self, proto: Any, outer: Mapping[str, Any]) -> dict[str, Any]:
        attributes = {}
        for one in proto.attribute:
            if one.ref_attr_name:
                if one.ref_attr_name in outer:
                    attributes[one.name] = outer[one.ref_attr_name]
            else:
                attributes[one.name] = self.attribute(one, f"node {proto.name!r}: {proto.op_type}")
        return attributes

    def attribute(self, one: Any, where: str) -> Any:
        """Return the value of an AttributeProto: a graph as it is, a tensor as an array."""
        from onnx import helper

        if one.type in REFUSED_TYPES:
            raise UnsupportedError(
                f"{where}: attribute {one.name!r} is a list of graphs or a sparse tensor, which is not supported"
            )
        if one.type == GRAPH:
            return one.g
        return (
            self.array(one.t, f"{where}: attribute {one.name!r}")
            if one.type == TENSOR
            else helper.get_attribute_value(one)
        )

    def array(self, tensor: Any, where: str) -> np.ndarray:
        """Return the contents of a TensorProto, its size checked first."""
        from onnx import numpy_helper

        if onnx_dtype(tensor.data_type) is None:
            raise UnsupportedError(f"{where}: element type {type_name(tensor.data_type)} is not supported")
        if any(d < 0 for d in tensor.dims):
            raise ModelFileError(f"{where}: shape {list(tensor.dims)}")
        if tensor.data_location or tensor.external_data:
            if self.document.external is None:
                raise UnsupportedError(
                    f"{where}: external data is not loaded; save the model as one file, or name the folder with external_data= (--external-data)"
                )
            return self.document.external.array(tensor, where, np.dtype(onnx_dtype(tensor.data_type)))
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


def type_name(code: int) -> str:
    """Return ONNX's name of an element type."""
    from onnx import TensorProto

    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else str(code)

"""What an ONNX importer's handlers work with: the values so far, the node at hand, and the registry of handlers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlstm.errors import ModelFileError, UnsupportedError
from fastlstm.layers import Build, Tensor
from fastlstm.ops.op import HostOp, find
from fastlstm.ops.ordering import CumSum
from fastlstm.ops.reductions import Reduction

Handler = Callable[["OnnxNode"], Any]
handlers: dict[str, Handler] = {}

# Ops whose output is all zeros when their first input is (Concat: when all are).
_KEEP_ZERO = {
    "Expand",
    "Slice",
    "Unsqueeze",
    "Squeeze",
    "Transpose",
    "Reshape",
    "Gather",
    "Identity",
    "Cast",
    "Flatten",
    "Split",
}


def onnx_dtype(code: int) -> str | None:
    """Return NumPy's name of an ONNX element type, None if it is none of ours."""
    names = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64"}  # fmt: skip
    return names.get(code)


def full_name(domain: str, op_type: str) -> str:
    """Return the name of an operator in the registry: that of the default domain stands alone."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}.{op_type}"


def handler(*op_types: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a handler for ONNX operators."""

    def add(function: Handler) -> Handler:
        for op_type in op_types:
            name = full_name(domain, op_type)
            if name in handlers:
                raise KeyError(f"two handlers for {name}")
            handlers[name] = function
        return function

    return add


@dataclass(frozen=True)
class SequenceValue:
    """A sequence of tensors while a graph is imported.

    Either `items`, or `stacked`: elements of one shape along a first axis. Where a loop carries it, `carried` stands for what it held before
    the trip, and `items` follow that.
    """

    dtype: str
    items: tuple[Tensor, ...] = ()
    stacked: Tensor | None = None
    carried: object | None = None


class OnnxNode:
    """One ONNX node: its inputs as tensors, its attributes as they are asked for, and the build that it adds to."""

    def __init__(
        self,
        scope: Any,
        op_type: str,
        name: str,
        opset: int,
        inputs: Sequence["Tensor | SequenceValue | None"],
        outputs: Sequence[str],
        attributes: dict[str, Any],
    ):
        self.scope, self.build, self.op_type, self.opset = scope, scope.build, op_type, opset
        self.name = name or next((output for output in outputs if output), op_type)
        self.outputs = list(outputs)
        self._inputs, self._attributes = list(inputs), attributes
        self._asked: set[str] = set()
        self._read: set[int] = set()

    @property
    def inputs(self) -> list[Tensor | None]:
        """The inputs, all of them tensors or absent."""
        return [self.optional(k) for k in range(len(self._inputs))]

    @property
    def values(self) -> list["Tensor | SequenceValue | None"]:
        """The inputs, sequences among them."""
        self._read.update(range(len(self._inputs)))
        return list(self._inputs)

    def input(self, index: int) -> Tensor:
        """Return a required input."""
        tensor = self.optional(index)
        if tensor is None:
            raise ModelFileError(f"node {self.name!r}: {self.op_type} lacks its input {index}")
        return tensor

    def optional(self, index: int) -> Tensor | None:
        """Return an input, None where it is absent."""
        self._read.add(index)
        value = self._inputs[index] if index < len(self._inputs) else None
        if isinstance(value, SequenceValue):
            raise self.refuse(f"input {index}", "a sequence")
        return value

    def sequence(self, index: int) -> "SequenceValue":
        """Return an input that must be a sequence."""
        self._read.add(index)
        value = self._inputs[index] if index < len(self._inputs) else None
        if not isinstance(value, SequenceValue):
            raise ModelFileError(f"node {self.name!r}: {self.op_type}: its input {index} is no sequence")
        return value

    def wants(self, index: int) -> bool:
        """Tell whether an output is used."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute and note that it is honoured."""
        self._asked.add(name)
        return self._attributes.get(name, default)

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a text."""
        value = self.attribute(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def ignore(self, *names: str) -> None:
        """Note attributes that change nothing at inference."""
        self._asked.update(names)

    def refuse(self, what: str, value: Any) -> UnsupportedError:
        """Return the error for something that is not honoured."""
        shown = " ".join(repr(value).split())
        shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
        return UnsupportedError(
            f"node {self.name!r}: {self.op_type} (opset {self.opset}): {what}={shown} is not supported"
        )

    def finish(self) -> None:
        """Refuse attributes that no one asked for, and inputs that no one read."""
        for k, value in enumerate(self._inputs):
            if value is not None and k not in self._read:
                raise ModelFileError(f"node {self.name!r}: {self.op_type} (opset {self.opset}) takes no input {k}")
        for name, value in self._attributes.items():
            if name not in self._asked:
                raise self.refuse(f"attribute {name}", value)

    def constant(self, index: int) -> np.ndarray | None:
        """Return the contents of an input that must be constant, None where it is absent."""
        tensor = self.optional(index)
        if tensor is None:
            return None
        if tensor.value.data is None:
            raise UnsupportedError(f"node {self.name!r}: {self.op_type}: its input {tensor.name!r} must be a constant")
        return tensor.value.data

    def ints(self, role: str, values: Sequence[int]) -> Tensor:
        """Return a vector of integers as a weight."""
        return self.build.ints(f"{self.name}.{role}", *(int(v) for v in values))

    def emit(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        outputs: int | Sequence[bool] = 1,
        suffix: str = "",
        **attributes: Any,
    ) -> Any:
        """Add a node of ours for (a part of) this one.

        What has kernels for float32 and float64 alone computes float16 in float32 and integers in float64, and rounds its results once.
        """
        first = inputs[0].value.dtype if inputs and inputs[0] is not None else None
        wide = None if first is None else _computed_in(op, first)
        if wide is None:
            return self.build.node(self.name + suffix, op, inputs, outputs, **attributes)
        given = [x if x is None or x.value.dtype != first else self.cast(x, wide) for x in inputs]
        results = self.build.node(self.name + suffix, op, given, outputs, **attributes)
        back = lambda y: y if y is None or y.value.dtype != wide else self.cast(y, str(first))
        return tuple(back(y) for y in results) if isinstance(results, tuple) else back(results)

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """Return a value as another dtype."""
        return x if x.value.dtype == dtype else self.build.node(f"{self.name}/cast", "Cast", [x], to=dtype)

    def number(self, value: float, like: Tensor) -> Tensor:
        """Return a scalar of the dtype of another value."""
        return self.build.weight(f"{self.name}.number", np.array(value, like.value.dtype))

    def turned_into(self, op_type: str, inputs: Sequence[Tensor | None]) -> "OnnxNode":
        """Return a node of another operator with the same outputs and attributes; what it asks for is honoured here too."""
        twin = OnnxNode(self.scope, op_type, self.name, self.opset, inputs, self.outputs, self._attributes)
        twin._asked, self._read = self._asked, set(range(len(self._inputs)))
        return twin

    def axis(self, name: str, default: int) -> int:
        """Return an attribute that names an axis of input 0, counted from the front where the rank is known."""
        axis, shape = int(self.attribute(name, default)), self.input(0).value.shape
        return axis if shape is None or not -len(shape) <= axis < 0 else axis + len(shape)

    def rank(self, index: int = 0) -> int:
        """Return the number of an input's axes. Raise UnsupportedError where it is not known."""
        shape = self.input(index).value.shape
        if shape is None:
            raise self.refuse(f"the rank of input {self.input(index).name!r}", "unknown")
        return len(shape)


def _computed_in(op: str, dtype: np.dtype) -> str | None:
    """Return the dtype that an op computes values of another one in, None where it takes them as they are."""
    if isinstance(find(op), HostOp) and not (dtype == np.float16 and isinstance(find(op), Reduction | CumSum)):
        return None
    return {"f": "float32" if dtype == np.float16 else None, "i": "float64", "u": "float64"}.get(dtype.kind)


def is_zero(build: Build, tensor: Tensor) -> bool:
    """Tell whether a value is all zeros whatever the inputs are: exporters make zero states by Shape, Concat and Expand."""
    waiting, seen = [tensor.name], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        data = build.values[name].data
        if data is not None:
            if data.any() or np.signbit(data).any():
                return False
            continue
        node = build.producers.get(name)
        if node is None:
            return False
        if node.op == "ConstantOfShape":
            if node.attributes.get("value", 0.0) != 0.0:
                return False
        elif node.op == "Concat":
            waiting.extend(node.inputs)
        elif node.op in _KEEP_ZERO:
            waiting.append(node.inputs[0])
        else:
            return False
    return True

"""What an ONNX importer's handlers work with: the values so far, the node at hand, and the registry of handlers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastlstm.errors import ModelFileError, UnsupportedError
from fastlstm.layers import Build, Tensor

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


def handler(*op_types: str) -> Callable[[Handler], Handler]:
    """Register a handler for ONNX operators of the default domain."""

    def add(function: Handler) -> Handler:
        for op_type in op_types:
            if op_type in handlers:
                raise KeyError(f"two handlers for {op_type}")
            handlers[op_type] = function
        return function

    return add


class OnnxNode:
    """One ONNX node: its inputs as tensors, its attributes as they are asked for, and the build that it adds to."""

    def __init__(
        self,
        build: Build,
        op_type: str,
        name: str,
        opset: int,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[str],
        attributes: dict[str, Any],
    ):
        self.build, self.op_type, self.opset = build, op_type, opset
        self.name = name or next((output for output in outputs if output), op_type)
        self.outputs = list(outputs)
        self._inputs, self._attributes = list(inputs), attributes
        self._asked: set[str] = set()

    @property
    def inputs(self) -> list[Tensor | None]:
        return self._inputs

    def input(self, index: int) -> Tensor:
        """Return a required input."""
        tensor = self.optional(index)
        if tensor is None:
            raise ModelFileError(f"node {self.name!r}: {self.op_type} lacks its input {index}")
        return tensor

    def optional(self, index: int) -> Tensor | None:
        """Return an input, None where it is absent."""
        return self._inputs[index] if index < len(self._inputs) else None

    def wants(self, index: int) -> bool:
        """Tell whether an output is used."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute and note that it is honoured."""
        self._asked.add(name)
        return self._attributes.get(name, default)

    def ignore(self, *names: str) -> None:
        """Note attributes that change nothing at inference."""
        self._asked.update(names)

    def refuse(self, what: str, value: Any) -> UnsupportedError:
        """Return the error for something that is not honoured."""
        return UnsupportedError(
            f"node {self.name!r}: {self.op_type} (opset {self.opset}): {what}={value!r} is not supported"
        )

    def finish(self) -> None:
        """Refuse attributes that no one asked for."""
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
        """Add a node of ours for (a part of) this one."""
        return self.build.node(self.name + suffix, op, inputs, outputs, **attributes)


def is_zero(build: Build, tensor: Tensor) -> bool:
    """Tell whether a value is all zeros whatever the inputs are: exporters make zero states by Shape, Concat and Expand."""
    producers = {name: node for node in build.nodes for name in node.outputs}
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
        node = producers.get(name)
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

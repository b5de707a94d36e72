"""What writes our nodes as ONNX nodes work with: names, constants, the opset, and the registry of writers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.graph import Node
from fastlstm.ops.op import Value

Write = Callable[["Writing"], str | Sequence[str]]
writers: dict[str, Write] = {}


def writes(*ops: str) -> Callable[[Write], Write]:
    """Register the function that adds the ONNX nodes of an op, and returns the names of its outputs."""

    def add(function: Write) -> Write:
        for op in ops:
            if op in writers:
                raise KeyError(f"two writers of {op}")
            writers[op] = function
        return function

    return add


# what rearranges constants does so when a graph is written
_FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "Transpose": lambda x, perm=None: np.ascontiguousarray(np.transpose(x, perm)),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes.tolist())),
    "Squeeze": lambda x, axes: np.squeeze(x, tuple(axes.tolist())),
    "Gather": lambda x, indices, axis=0: np.take(x, indices, axis=axis),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis=axis),
}


class Document:
    """An ONNX graph in the making: nodes, constants and names."""

    def __init__(self, opset: int, right_padded: bool, taken: set[str]):
        self.opset, self.right_padded = opset, right_padded
        self.constants: dict[str, np.ndarray] = {}
        self.refusals: list[str] = []
        self.lengths: dict[str, str] = {}  # of the rows that a mask was made for, by the mask's name
        self._taken = set(taken)
        self._shared: dict[tuple, str] = {}

    def unique(self, wanted: str) -> str:
        """Return a name that no value has."""
        name, k = wanted, 1
        while name in self._taken:
            k += 1
            name = f"{wanted}.{k}"
        self._taken.add(name)
        return name

    def constant(self, array: np.ndarray, hint: str) -> str:
        """Return the name of an initializer of these contents."""
        array = np.asarray(array)  # not ascontiguousarray, which would give a scalar an axis
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._shared:
            return self._shared[key]
        name = self.unique(hint)
        self.constants[name] = array
        if key is not None:
            self._shared[key] = name
        return name


class Writing:
    """One node of ours being written: the ONNX names of its inputs, what is known of them, and the nodes that it becomes."""

    def __init__(
        self,
        document: Document,
        node: Node,
        inputs: Sequence[str],
        values: Sequence[Value | None],
        results: Sequence[Value | None],
        attributes: Mapping[str, Any],
        subgraph: Callable[..., Any],
    ):
        self.document, self.node, self.opset = document, node, document.opset
        self.inputs, self.values, self.results = tuple(inputs), tuple(values), tuple(results)
        self.attributes, self.subgraph = attributes, subgraph
        self.nodes: list[Any] = []

    def get(self, name: str) -> Any:
        """Return an attribute of our node."""
        return self.attributes[name]

    def wants(self, k: int) -> bool:
        """Tell whether the node's output k is read."""
        return k < len(self.node.outputs) and bool(self.node.outputs[k])

    def given(self, k: int) -> bool:
        """Tell whether the node has its input k."""
        return k < len(self.inputs) and bool(self.inputs[k])

    def value(self, k: int = 0) -> Value:
        """Return what is known of input k."""
        value = self.values[k]
        assert value is not None
        return value

    def rank(self, k: int = 0) -> int:
        """Return the number of axes of input k. Raise UnsupportedError where that is not known."""
        shape = self.value(k).shape
        if shape is None:
            raise self.refuse(f"the number of axes of input {k} is not known")
        return len(shape)

    def data(self, k: int) -> np.ndarray:
        """Return the contents of input k. Raise UnsupportedError where they are of the run."""
        data = self.value(k).data
        if data is None:
            raise self.refuse(f"input {k} is a value of the run")
        return data

    def since(self, opset: int, what: str) -> None:
        """Raise UnsupportedError where ONNX has something from a later opset on only."""
        if self.opset < opset:
            raise self.refuse(f"{what} is in ONNX from opset {opset} on, asked for was {self.opset}")

    def refuse(self, why: str) -> UnsupportedError:
        return UnsupportedError(f"node {self.node.name!r} ({self.node.op}): cannot be written as ONNX: {why}")

    def add(self, op_type: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add an ONNX node; return the name of its output, or of all where there are several."""
        from onnx import helper

        inputs = list(inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        if op_type in _FOLDED and all(name in self.document.constants for name in inputs):
            arrays = [self.document.constants[name] for name in inputs]
            return self.document.constant(_FOLDED[op_type](*arrays, **attributes), f"{self.node.name}.{op_type}")
        names = [self.document.unique(f"{self.node.name}/{op_type}") for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op_type, inputs, names, self.document.unique(self.node.name), domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Return the name of a constant."""
        return self.document.constant(np.asarray(array, dtype), f"{self.node.name}.constant")

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def number(self, value: float, k: int = 0) -> str:
        """Return a scalar of the dtype of input k."""
        return self.constant(np.array(value, self.value(k).dtype))

    def squeezed(self, x: str, *axes: int) -> str:
        return self.add("Squeeze", [x, self.ints(*axes)])

    def unsqueezed(self, x: str, *axes: int) -> str:
        return self.add("Unsqueeze", [x, self.ints(*axes)])

    def transposed(self, x: str, *perm: int) -> str:
        return x if perm == tuple(range(len(perm))) else self.add("Transpose", [x], perm=perm)

    def reduced(
        self, op_type: str, x: str, axes: Sequence[int] | str | None, keepdims: bool, noop: bool = False
    ) -> str:
        """Add a reduction; its axes are an attribute before opset 18 (ReduceSum: 13) and an input from then on."""
        more: dict[str, Any] = {"keepdims": int(keepdims)}
        if self.opset >= (13 if op_type == "ReduceSum" else 18):
            named = axes if isinstance(axes, str) or axes is None else self.ints(*axes)
            return self.add(op_type, [x, named or ""], noop_with_empty_axes=int(noop), **more)
        if isinstance(axes, str):
            raise self.refuse(f"axes of {op_type} are a value of the run, which ONNX has from opset 18 on")
        if axes is not None and len(axes) == 0 and noop:
            return self.add("Identity", [x])
        if axes:
            more["axes"] = list(axes)
        return self.add(op_type, [x], **more)

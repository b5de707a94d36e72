"""Ops whose results are shapes and counts: known as soon as shapes are, so they fold away."""

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    HostOp,
    Slot,
    Value,
    contents,
    integers,
    register,
    required,
    shape_error,
)


@register
class ShapeOp(HostOp):
    """The shape of X as an int64 vector, from axis `start` to axis `end`."""

    name = "Shape"
    inputs = (Slot("X"),)
    attributes = {"start": Attribute(int, 0), "end": Attribute(int, 2**31)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is None:
            return [Value(np.dtype(np.int64), None)]
        part = x.shape[self.get(node, "start") : self.get(node, "end")]
        data = np.array(part, np.int64) if dims.known(part) else None
        return [Value(np.dtype(np.int64), (len(part),), data)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [np.array(arrays[0].shape[self.get(node, "start") : self.get(node, "end")], np.int64)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class CausalMask(HostOp):
    """Booleans (M, N) for X (..., M, N): true up to the column of the row's number."""

    name = "CausalMask"
    inputs = (Slot("X"),)

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is None or len(x.shape) < 2:
            raise shape_error(node, "input X", x.shape, "(..., M, N)")
        sizes = x.shape[-2:]
        data = np.tri(*sizes, dtype=bool) if dims.known(sizes) else None  # type: ignore[arg-type]
        return [Value(np.dtype(bool), sizes, data)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [np.tri(*arrays[0].shape[-2:], dtype=bool)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or (0, 0))
        return [(0, rank - 2), (0, rank - 1)]


@register
class ConstantOfShape(HostOp):
    """An array of the shape given, filled with `value`."""

    name = "ConstantOfShape"
    inputs = (Slot("shape"),)
    attributes = {"value": Attribute(float, 0.0), "dtype": Attribute(str, "float32")}

    def infer(self, node: Node, args: Args) -> list[Value]:
        wanted = integers(contents(args, 0))
        assert wanted is not None
        if any(v < 0 for v in wanted):
            raise shape_error(node, "input shape", tuple(wanted), "sizes of at least 0")
        return [Value(np.dtype(self.get(node, "dtype")), tuple(wanted))]

    def unknown(self, node: Node, args: Args) -> list[Value]:
        return [Value(np.dtype(self.get(node, "dtype")), None)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        shape = integers(arrays[0])
        assert shape is not None
        return [np.full(shape, self.get(node, "value"), self.get(node, "dtype"))]


@register
class Range(HostOp):
    """start, start + delta, ... below limit."""

    name = "Range"
    inputs = (Slot("start"), Slot("limit"), Slot("delta"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        start, limit, delta = (contents(args, k) for k in range(3))
        assert start is not None and limit is not None and delta is not None
        if delta == 0:
            raise shape_error(node, "input delta", 0, "a step other than 0")
        count = max(0, int(np.ceil((limit.item() - start.item()) / delta.item())))
        return [Value(start.dtype, (count,))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        start, limit, delta = (a.item() for a in arrays if a is not None)
        assert arrays[0] is not None
        count = max(0, int(np.ceil((limit - start) / delta)))
        return [(start + delta * np.arange(count)).astype(arrays[0].dtype)]

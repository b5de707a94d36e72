"""Ops that look rows up by index: Gather and Embedding."""

import numpy as np

from fastlstm.errors import InputError
from fastlstm.graph import Node
from fastlstm.ops.op import Args, Arrays, Attribute, HostOp, Slot, Value, axis_of, register, required, shape_error


@register
class Gather(HostOp):
    """X indexed by an integer array along `axis`; negative indices count from the end."""

    name = "Gather"
    inputs = (Slot("X", matrix=True), Slot("indices"))
    attributes = {"axis": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, indices = required(args), args[1]
        assert indices is not None
        if x.shape is None or indices.shape is None:
            return [Value(x.dtype, None)]
        axis = axis_of(node, self.get(node, "axis"), len(x.shape))
        return [Value(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, indices = arrays
        assert x is not None and indices is not None
        axis = self.get(node, "axis")
        size = x.shape[axis]
        whole = indices.astype(np.int64) if indices.dtype.kind == "f" else indices
        if indices.size and not (np.all(indices >= -size) and np.all(indices < size)):
            bad = indices[~((indices >= -size) & (indices < size))].ravel()[0]
            raise InputError(f"node {node.name!r}: index {bad} is out of range for {size} entries (0 to {size - 1})")
        return [np.take(x, whole, axis=axis)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []


@register
class Embedding(Gather):
    """The rows of a table (vocabulary, E) for ids (...,); ids may be whole numbers held as floats, as Keras passes them."""

    name = "Embedding"
    inputs = (Slot("ids"), Slot("table", matrix=True))
    attributes = {}

    def infer(self, node: Node, args: Args) -> list[Value]:
        ids, table = required(args), args[1]
        assert table is not None
        if table.shape is None or len(table.shape) != 2:
            raise shape_error(node, "weight table", table.shape, "(vocabulary, E)")
        return [Value(table.dtype, None if ids.shape is None else (*ids.shape, table.shape[1]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        ids, table = arrays
        assert ids is not None and table is not None
        size = table.shape[0]
        good = (ids >= 0) & (ids < size)
        if not np.all(good):
            raise InputError(
                f"node {node.name!r}: id {ids[~good].ravel()[0]} is out of range for {size} entries (0 to {size - 1})"
            )
        return [table[ids.astype(np.int64)]]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(1, 0), (1, 1)]

"""Ops that make the masks of recurrent nodes: from lengths, and from values that stand for padding."""

import numpy as np

from fastlstm.errors import InputError
from fastlstm.graph import Node
from fastlstm.ops.dims import agree
from fastlstm.ops.op import Args, Arrays, Attribute, HostOp, Slot, Value, register, required, shape_error


@register
class SequenceMask(HostOp):
    """The mask of right-padded rows: lengths (B,) -> (T, B), or (B, T) where `batch_first`; T is that of X."""

    name = "SequenceMask"
    inputs = (Slot("lengths"), Slot("X"))
    attributes = {"batch_first": Attribute(bool, False)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        lengths, x = required(args), args[1]
        assert x is not None
        if x.shape is None:
            return [Value(np.dtype(bool), None)]
        batch_first = self.get(node, "batch_first")
        B = x.shape[0 if batch_first else 1]
        if lengths.shape is not None and not (len(lengths.shape) == 1 and agree(lengths.shape[0], B)):
            raise shape_error(node, "lengths", lengths.shape, f"({B},), one for each row of the batch")
        return [Value(np.dtype(bool), tuple(x.shape[:2]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        lengths, x = arrays
        assert lengths is not None and x is not None
        batch_first = self.get(node, "batch_first")
        T = x.shape[1 if batch_first else 0]
        if lengths.size and not (lengths.min() >= 0 and lengths.max() <= T):
            bad = lengths[(lengths < 0) | (lengths > T)][0]
            raise InputError(f"node {node.name!r}: a sequence length is {bad}, expected 0 to {T}, the steps of X")
        steps = np.arange(T)
        return [steps < lengths[:, None] if batch_first else steps[:, None] < lengths]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(1, 1 if self.get(node, "batch_first") else 0)]


@register
class AnyNotEqual(HostOp):
    """Whether any element along the last axis differs from `value`: the mask of Keras's Masking layer."""

    name = "AnyNotEqual"
    inputs = (Slot("X"),)
    attributes = {"value": Attribute(float, 0.0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        return [Value(np.dtype(bool), None if x.shape is None else x.shape[:-1])]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        with np.errstate(over="ignore"):
            return [(arrays[0] != arrays[0].dtype.type(self.get(node, "value"))).any(axis=-1)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(0, len(required(args).shape or ()) - 1)]

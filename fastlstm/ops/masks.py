"""Ops that make the masks of recurrent nodes: from lengths, and from values that stand for padding."""

from collections.abc import Sequence
from math import prod

import numpy as np

from fastlstm.errors import InputError
from fastlstm.graph import Node
from fastlstm.ops.dims import agree
from fastlstm.ops.mapping import bits_of
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    Emit,
    HostOp,
    Slot,
    Value,
    register,
    required,
    rows_in_place,
    shape_error,
)


@register
class SequenceMask(HostOp):
    """The mask of right-padded rows: lengths (B,) -> (T, B), or (B, T) where `batch_first`; T is that of X."""

    name = "SequenceMask"
    refuses = True
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
        self._check(node, lengths, T)
        steps = np.arange(T)
        return [steps < lengths[:, None] if batch_first else steps[:, None] < lengths]

    def _check(self, node: Node, lengths: np.ndarray, T: int) -> None:
        if lengths.size and not (lengths.min() >= 0 and lengths.max() <= T):
            bad = lengths[(lengths < 0) | (lengths > T)][0]
            raise InputError(f"node {node.name!r}: a sequence length is {bad}, expected 0 to {T}, the steps of X")

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        lengths, out = required(args).array, outs[0]
        assert lengths is not None and out is not None and out.shape is not None
        if lengths.dtype.kind not in "iu" or lengths.dtype == np.uint64 or not emit.can_refuse():
            super().lower(node, args, outs, emit)
            return
        y = emit.output(out)
        T, B = (int(d) for d in (out.shape[::-1] if self.get(node, "batch_first") else out.shape))
        strides = (1, T) if self.get(node, "batch_first") else (B, 1)
        emit.kernel(
            "sequence_mask_forward", lengths, lengths.strides[0] // lengths.itemsize, y, strides, T, B,
            kind=lengths.dtype, refuses=lambda: self._check(node, lengths, T),
        )  # fmt: skip

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

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None
        known = bits_of(x.dtype)
        if known is None:
            super().lower(node, args, outs, emit)
            return
        kind, largest, infinity = known
        if rows_in_place(x) is None:
            x = emit.contiguous(x)
        O, M, outer, row = rows_in_place(x) or (1, prod(x.shape[:-1]), 0, x.shape[-1])
        with np.errstate(over="ignore"):
            bits = int(np.asarray(self.get(node, "value")).astype(x.dtype).view(kind))
        # in the order of the floats, as the kernel has it
        rank = bits if infinity == 0 or bits >= 0 else (bits ^ largest) + 1
        emit.kernel(
            "any_not_equal_forward",
            x,
            outer,
            row,
            emit.output(out),
            O,
            M,
            x.shape[-1],
            rank,
            largest,
            infinity,
            kind=kind,
        )

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(0, len(required(args).shape or ()) - 1)]

"""CTC: the loss of labels whose places in time are not known."""

from collections.abc import Sequence
from math import prod

import numpy as np

from fastlstm.errors import DTypeError, UnsupportedError
from fastlstm.graph import Node
from fastlstm.ops.op import (
    Args,
    Attribute,
    Back,
    Emit,
    Op,
    Slot,
    Value,
    at,
    expect_dtypes,
    expect_shape,
    register,
    required,
    shape_error,
)


@register
class CTC(Op):
    """Minus the logarithm of the chance that logits X (B, T, N) spell labels (B, L), int64, which end at the first `blank`; and its slope.

    Steps without a mask (B, T) are left out. The loss is infinite where the labels need more steps than there are, NaN where one is no class.
    """

    name = "CTC"
    inputs = (Slot("X"), Slot("labels"), Slot("mask", optional=True))
    outputs = ("loss", "slope")
    attributes = {"blank": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, labels, mask = required(args), required(args, 1), at(args, 2)
        if x.dtype.kind != "f":
            raise DTypeError(f"node {node.name!r}: input X is {x.dtype}, expected floats")
        expect_dtypes(node, args, np.dtype(np.int64), [1])
        if mask is not None:
            expect_dtypes(node, args, np.dtype(bool), [2])
        if x.shape is None:
            return [Value(x.dtype, None), Value(x.dtype, None)]
        if len(x.shape) != 3:
            raise shape_error(node, "input X", x.shape, "(batch, steps, classes)")
        blank, classes = self.get(node, "blank"), x.shape[2]
        if blank < 0 or (isinstance(classes, int) and blank >= classes):
            raise shape_error(node, "input X", x.shape, f"a class {blank}, the blank")
        if labels.shape is not None:
            expect_shape(node, args, 1, "input labels", (x.shape[0], *labels.shape[1:][:1]))
        expect_shape(node, args, 2, "input mask", x.shape[:2])
        return [Value(x.dtype, x.shape[:1]), Value(x.dtype, x.shape)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, labels, mask = required(args).array, required(args, 1).array, at(args, 2)
        assert x is not None and labels is not None
        (B, T, N), most = x.shape, labels.shape[1]
        wanted = len(outs) > 1 and outs[1] is not None
        loss = emit.scratch((B,), x.dtype) if outs[0] is None else emit.output(outs[0])
        slope = emit.output(outs[1]) if wanted else loss  # type: ignore[arg-type]
        S = 2 * most + 1
        kept = T if wanted else 1
        work = emit.workspace(x.dtype, 4 * (S + 2) + (kept + 1) * S + (kept + 1) * (S + 2))
        labels = emit.contiguous(labels)
        places = labels if mask is None else emit.contiguous(mask.array)  # type: ignore[arg-type]
        emit.kernel(
            "ctc_forward", emit.contiguous(x), labels, places, int(mask is not None), loss, slope, int(wanted), work, work.shape[1],
            B, T, N, most, self.get(node, "blank"), kind=x.dtype,
        )  # fmt: skip

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = slope dloss."""
        if len(back.dy) > 1 and back.dy[1] is not None:
            raise UnsupportedError(
                f"node {node.name!r}: {self.name} has a gradient of its logits through its loss alone"
            )
        slope = back.y[1] if len(back.y) > 1 and back.y[1] is not None else None
        if slope is None:
            slope = back.node(self.name, [*back.x], [False, True], **node.attributes)[1]
        rows = back.node("Unsqueeze", [back.dy[0], back.ints(1, 2)])
        return [back.node("Mul", [slope, rows]), None, None]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(0, 1), (0, 2), (1, 1), *([(2, 1)] if at(args, 2) is not None else [])]

    def flops(self, node: Node, args: Args, outs: Sequence[Value]) -> int:
        B, T, N = required(args).shape or (0, 0, 0)
        S = 2 * (required(args, 1).shape or (0, 0))[1] + 1  # type: ignore[operator]
        return prod((B, T)) * (32 * N + 200 * S)  # type: ignore[arg-type, operator]

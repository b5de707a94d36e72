"""Losses of logits in one step: they are exact where a softmax or sigmoid and a logarithm after it would lose what is left."""

from collections.abc import Sequence
from math import prod

import numpy as np

from fastlstm.errors import DTypeError
from fastlstm.graph import Node
from fastlstm.ops.op import (
    Args,
    Back,
    Emit,
    Op,
    Slot,
    Value,
    expect_dtypes,
    expect_shape,
    register,
    required,
    shape_error,
)

INT64 = np.dtype(np.int64)


def _sparse(node: Node, x: Value, target: Value) -> bool:
    """Tell whether targets are classes (int64, one a row) and not a row of numbers each. Raise DTypeError, ShapeError."""
    if target.dtype not in (INT64, x.dtype):
        raise DTypeError(f"node {node.name!r}: the target is {target.dtype}, expected {x.dtype}, or int64 for classes")
    if x.shape == ():
        raise shape_error(node, "input X", x.shape, "at least one axis, the classes")
    return target.dtype == INT64


def _check_target(node: Node, args: Args, logits: int, target: int) -> tuple[Value, bool]:
    """Return the logits (or what has their shape) and whether the target is classes, once both fit."""
    x, t = required(args, logits), required(args, target)
    sparse = _sparse(node, x, t)
    if x.shape is not None:
        expect_shape(node, args, target, "input target", x.shape[:-1] if sparse else x.shape)
    return x, sparse


def _classes_and_numbers(
    emit: Emit, target: np.ndarray, sparse: bool, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return t and classes as kernels take them: one is the target, the other is not read."""
    target = emit.contiguous(target)
    return (other, target) if sparse else (target, target)


@register
class SoftmaxCrossEntropy(Op):
    """The cross-entropy of softmax(X) over the last axis of logits X (..., N), and the softmax.

    The target is a row of numbers for each (..., N), or its class, int64 (...,); a class out of range gives NaN.
    """

    name = "SoftmaxCrossEntropy"
    inputs = (Slot("X"), Slot("target"))
    outputs = ("loss", "softmax")

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, _ = _check_target(node, args, 0, 1)
        return [Value(x.dtype, None if x.shape is None else x.shape[:-1]), Value(x.dtype, x.shape)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, target = required(args).array, required(args, 1).array
        assert x is not None and target is not None
        sparse = target.dtype == INT64
        rows, n = prod(x.shape[:-1]), x.shape[-1]
        loss, p = (
            emit.scratch(shape, x.dtype) if k >= len(outs) or outs[k] is None else emit.output(outs[k])  # type: ignore[arg-type]
            for k, shape in enumerate((x.shape[:-1], x.shape))
        )
        x = emit.contiguous(x)
        t, classes = _classes_and_numbers(emit, target, sparse, x)
        emit.kernel("cross_entropy_forward", x, t, classes, int(sparse), loss, p, rows, n, kind=x.dtype)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = (softmax sum t - t) dloss, and that of the softmax; dt = -log softmax dloss."""
        (x, target), (d, dp) = back.x, (*back.dy, None)[:2]
        p = back.y[1] if len(back.y) > 1 and back.y[1] is not None else back.node("Softmax", [x])
        parts = []
        if d is not None:
            parts.append(back.node("SoftmaxCrossEntropyAdjoint", [p, target, d]))
        if dp is not None:
            parts.append(back.node("SoftmaxAdjoint", [p, dp]))
        dt = None
        if back.wants[1] and d is not None:
            below = back.node("Sub", [x, back.node("ReduceMax", [x], axes=(-1,), keepdims=True)])
            total = back.node("ReduceSum", [back.node("Exp", [below])], axes=(-1,), keepdims=True)
            surprise = back.node("Sub", [back.node("Log", [total]), below])
            dt = back.node("Mul", [surprise, back.node("Unsqueeze", [d, back.ints(-1)])])
        return [parts[0] if len(parts) == 1 else back.node("Add", parts), dt]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return _last_axes(args, 2)

    def flops(self, node: Node, args: Args, outs: Sequence[Value]) -> int:
        return 16 * prod(required(args).shape or ())  # type: ignore[arg-type]


def _last_axes(args: Args, count: int) -> list[tuple[int, int]]:
    """Return the last axis of the logits and of targets that have it."""
    rank = len(required(args).shape or ())
    return [(k, rank - 1) for k in range(count) if len(required(args, k).shape or ()) == rank and rank]


@register
class SoftmaxCrossEntropyAdjoint(Op):
    """(P sum t - t) dloss for each row: the gradient of the logits whose softmax P is."""

    name = "SoftmaxCrossEntropyAdjoint"
    inputs = (Slot("P"), Slot("target"), Slot("dloss"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        p, _ = _check_target(node, args, 0, 1)
        expect_dtypes(node, args, p.dtype, [2])
        if p.shape is not None:
            expect_shape(node, args, 2, "gradient dloss", p.shape[:-1])
        return [Value(p.dtype, p.shape)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        p, target, d = (required(args, k).array for k in range(3))
        assert p is not None and target is not None and d is not None and outs[0] is not None
        sparse = target.dtype == INT64
        rows, n = prod(p.shape[:-1]), p.shape[-1]
        p = emit.contiguous(p)
        t, classes = _classes_and_numbers(emit, target, sparse, p)
        dx = emit.output(outs[0])
        emit.kernel("cross_entropy_adjoint", p, t, classes, int(sparse), emit.contiguous(d), dx, rows, n, kind=p.dtype)

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return _last_axes(args, 2)

    def flops(self, node: Node, args: Args, outs: Sequence[Value]) -> int:
        return 3 * prod(required(args).shape or ())  # type: ignore[arg-type]


@register
class SigmoidCrossEntropy(Op):
    """-t log sigmoid(x) - (1 - t) log sigmoid(-x) for each logit x and target t of the same place."""

    name = "SigmoidCrossEntropy"
    inputs = (Slot("X"), Slot("target"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        expect_dtypes(node, args, x.dtype)
        if x.shape is not None:
            expect_shape(node, args, 1, "input target", x.shape)
        return [Value(x.dtype, x.shape)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, t = required(args).array, required(args, 1).array
        assert x is not None and t is not None and outs[0] is not None
        loss = emit.output(outs[0])
        emit.kernel("sigmoid_entropy_forward", emit.contiguous(x), emit.contiguous(t), loss, loss.size)

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = (sigmoid(X) - t) dloss, dt = -X dloss."""
        (x, t), (d,) = back.x, back.dy
        off = back.node("Sub", [back.node("Sigmoid", [x]), t]) if back.wants[0] else None
        return [
            back.node("Mul", [off, d]) if off is not None else None,
            back.node("Neg", [back.node("Mul", [x, d])]) if back.wants[1] else None,
        ]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []

    def flops(self, node: Node, args: Args, outs: Sequence[Value]) -> int:
        return 20 * prod(required(args).shape or ())  # type: ignore[arg-type]

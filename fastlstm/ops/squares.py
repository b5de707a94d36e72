"""The mean square of differences, in one step: the loss of regressions, and its adjoint."""

from collections.abc import Sequence
from math import prod

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


class _Rows(Op):
    """What a function of the rows of X (..., N) and a target of its shape shares with its adjoint."""

    def check_rows(self, node: Node, args: Args) -> Value:
        """Return X once the target fits. Raise DTypeError, ShapeError."""
        x = required(args)
        expect_dtypes(node, args, x.dtype)
        if x.shape == ():
            raise shape_error(node, "input X", x.shape, "at least one axis")
        if x.shape is not None:
            expect_shape(node, args, 1, "input target", x.shape)
        return x

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(k, rank - 1) for k in range(2)]

    def flops(self, node: Node, args: Args, outs: Sequence[Value]) -> int:
        return 3 * prod(required(args).shape or ())  # type: ignore[arg-type]


@register
class MeanSquares(_Rows):
    """The mean of (X - target)^2 over the last axis of X (..., N)."""

    name = "MeanSquares"
    inputs = (Slot("X"), Slot("target"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = self.check_rows(node, args)
        return [Value(x.dtype, None if x.shape is None else x.shape[:-1])]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, t = (emit.contiguous(required(args, k).array) for k in range(2))  # type: ignore[arg-type]
        assert outs[0] is not None
        loss, n = emit.output(outs[0]), x.shape[-1]
        emit.kernel("mean_squares_forward", x, t, loss, loss.size, n, 1 / n if n else float("nan"))

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = 2 (X - target) / N dloss, dtarget = -dX."""
        dx = back.node("MeanSquaresAdjoint", [*back.x, back.dy[0]])
        return [dx, back.node("Neg", [dx]) if back.wants[1] else None]


@register
class MeanSquaresAdjoint(_Rows):
    """2 (X - target) / N dloss for each row."""

    name = "MeanSquaresAdjoint"
    inputs = (Slot("X"), Slot("target"), Slot("dloss"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = self.check_rows(node, args)
        if x.shape is not None:
            expect_shape(node, args, 2, "gradient dloss", x.shape[:-1])
        return [Value(x.dtype, x.shape)]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        x, t, d = (emit.contiguous(required(args, k).array) for k in range(3))  # type: ignore[arg-type]
        assert outs[0] is not None
        if x is required(args).array and emit.gives_way(0):
            # a prediction of every step of a long sequence is as large as what gradients need of it
            emit.alias(outs[0], x)
            dx = x
        else:
            dx = emit.output(outs[0])
        n = x.shape[-1]
        emit.kernel("mean_squares_adjoint", x, t, d, dx, d.size, n, 2 / n if n else 0.0)

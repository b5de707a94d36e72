"""Conv1D, a convolution over time on the tile of dense layers, and the windows of steps that it and pooling see."""

from collections.abc import Sequence
from math import prod

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.adjoints import reshaped, summed_rows
from fastlstm.ops.contractions import PLAIN, emit_dense, over_rows, turned
from fastlstm.ops.dims import Dim, agree
from fastlstm.ops.op import (
    Attribute,
    Back,
    Emit,
    Op,
    Slot,
    Value,
    at,
    expect_shape,
    register,
    required,
    shape_error,
)

WINDOW = {
    "stride": Attribute(int, 1),
    "dilation": Attribute(int, 1),
    "pads": Attribute(int, (0, 0), many=True),
}


def _check_window(op: Op, node: Node, *sizes: str) -> None:
    pads = op.get(node, "pads")
    if len(pads) != 2 or min(pads) < 0:
        raise shape_error(node, "attribute 'pads'", pads, "two counts of zeros, before and after")
    for name in ("stride", "dilation", *sizes):
        if op.get(node, name) < 1:
            raise shape_error(node, f"attribute {name!r}", op.get(node, name), "at least 1")


def _steps(op: Op, node: Node, T: Dim, size: int) -> Dim:
    """Return how many windows of `size` steps there are in T. Raise ShapeError where there is none."""
    span, pads, stride = (size - 1) * op.get(node, "dilation"), sum(op.get(node, "pads")), op.get(node, "stride")
    if isinstance(T, int):
        left = T + pads - span
        if left < 1 and T > 0:
            raise shape_error(node, "input X", T, f"at least {span + 1 - pads} steps")
        return max(0, (left + stride - 1) // stride) if T else 0
    if pads == span and stride == 1:
        return T
    return dims.apply(f"conv{size}.{stride}.{span}.{pads}", T)


@register
class Conv1D(Op):
    """Cross-correlation over time: X (B, T, C), W (K, C / groups, F), b (F,); `pads` zeros before and after.

    Where all padding comes before, (K - 1) * dilation steps at stride 1, it is causal, and a stream carries its history.
    """

    name = "Conv1D"
    changes_state = True
    inputs = (Slot("X"), Slot("W", matrix=True), Slot("b", optional=True))
    attributes = {
        **WINDOW,
        "groups": Attribute(int, 1),
        "activation": Attribute(str, "Identity", choices=tuple(ACTIVATIONS)),
        "alpha": Attribute(float, 0.0),
        "beta": Attribute(float, 0.0),
    }

    def check(self, node: Node) -> None:
        super().check(node)
        _check_window(self, node, "groups")

    def causal(self, node: Node, kernel: int) -> bool:
        """Tell whether an output step sees no later input step and the output has the input's steps."""
        span = (kernel - 1) * self.get(node, "dilation")
        return self.get(node, "stride") == 1 and tuple(self.get(node, "pads")) == (span, 0)

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x, W = args[0], args[1]
        assert x is not None and W is not None
        groups = self.get(node, "groups")
        if W.shape is None or len(W.shape) != 3:
            raise shape_error(node, "weight W", W.shape, "(K, C / groups, F)")
        K, C, F = (int(d) for d in W.shape)
        if F % groups or groups > max(F, 1):
            raise shape_error(node, "weight W", W.shape, f"F a multiple of groups = {groups}")
        expect_shape(node, args, 2, "bias b", (F,))
        if x.shape is None or len(x.shape) != 3 or not agree(x.shape[2], C * groups):
            raise shape_error(node, "input X", x.shape, f"(B, T, C) with C = {C * groups}")
        return [Value(x.dtype, (x.shape[0], _steps(self, node, x.shape[1], K), F))]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        x, W, b = args[0], args[1], at(args, 2)
        assert x is not None and x.array is not None and W is not None
        B, T, C = (int(d) for d in x.shape or ())
        K, c, F = (int(d) for d in W.shape or ())
        steps = int(outs[0].shape[1])  # type: ignore[index]
        stride, dilation, groups = (self.get(node, name) for name in ("stride", "dilation", "groups"))
        before, after = self.get(node, "pads")
        span = (K - 1) * dilation
        rows = before + T + after
        source = x.array
        if before or after:
            source = emit.scratch((B, rows, C), x.dtype, lasts=True)
            if self.causal(node, K) and span:
                history = emit.state(node, "history", (B, span, C), x.dtype, None, C)
                emit.copy(source[:, :before], history)
                emit.copy(source[:, before : before + T], x.array)
                emit.copy(history, source[:, T:])
            else:
                source[:] = 0
                emit.copy(source[:, before : before + T], x.array)
        source = emit.contiguous(source)
        y = emit.output(outs[0])
        activation = (self.get(node, "activation"), self.get(node, "alpha"), self.get(node, "beta"))
        if groups == 1 and dilation == 1:
            # a window of K steps is K * C neighbouring elements: no copy
            emit_dense(
                emit, source, W, b, y, (B, steps, K * C, F), x_at=(0, rows * C, stride * C), y_at=(0, steps * F, F),
                activation=activation, part=("taps",), take=lambda w: w.reshape(K * C, F),
            )  # fmt: skip
            return
        f = F // groups
        for group in range(groups):
            columns = slice(group * f, (group + 1) * f)
            for tap in range(K):
                emit_dense(
                    emit, source, W, b if tap == 0 else None, y, (B, steps, c, f),
                    x_at=(tap * dilation * C + group * c, rows * C, stride * C), y_at=(group * f, steps * F, F),
                    accumulate=tap > 0, activation=activation if tap == K - 1 else PLAIN,
                    part=("columns of group", group, groups, tap),
                    take=lambda w, tap=tap, columns=columns: w[tap if w.ndim == 3 else 0, ..., columns].reshape(-1, f),
                    whole=False,
                )  # fmt: skip

    def adjoint(self, node: Node, back: Back) -> list:
        """With V the windows of X: dW = V' dY over all windows, dX the overlapping windows dY W' added up, db = sum dY."""
        if self.get(node, "activation") != "Identity":
            return list(super().adjoint(node, back))
        x, W, d = back.x[0], back.x[1], back.dy[0]
        (K, c, F), G = W.shape, self.get(node, "groups")
        f, window = F // G, {key: self.get(node, key) for key in WINDOW}
        windows = back.node("Windows", [x], size=K, **window)
        # everything by groups: (G, rows, K c), (G, rows, f) and (G, K c, f)
        by_group = lambda v, *sizes: back.node(
            "Transpose", [back.node("Reshape", [v, back.ints(*sizes)])], perm=(2, 0, 1, 3)
        )
        d_groups = d if G == 1 else by_group(d, -1, 1, G, f)
        dx = dW = None
        if back.wants[1] and G == 1:
            dW = reshaped(back, over_rows(back, back.node("Reshape", [windows, back.ints(-1, K * c)]), d), W)
        elif back.wants[1]:
            v = back.node("Reshape", [by_group(windows, -1, K, G, c), back.ints(G, -1, K * c)])
            dW = back.node("MatMul", [turned(back, v), back.node("Reshape", [d_groups, back.ints(G, -1, f)])])
            dW = back.node("Transpose", [back.node("Reshape", [dW, back.ints(G, K, c, f)])], perm=(1, 2, 0, 3))
            dW = reshaped(back, dW, W)
        if back.wants[0] and G == 1:
            matrix = back.node("Reshape", [W, back.ints(K * c, F)])
            dx = back.node("MatMul", [d, turned(back, matrix)])
        elif back.wants[0]:
            matrix = back.node("Reshape", [by_group(W, K, c, G, f), back.ints(G, K * c, f)])
            dx = back.node("MatMul", [back.node("Reshape", [d_groups, back.ints(G, -1, f)]), turned(back, matrix)])
            dx = back.node("Transpose", [back.node("Reshape", [dx, back.ints(G, -1, K, c)])], perm=(1, 2, 0, 3))
        if dx is not None:
            dx = back.node("OverlapAdd", [reshaped(back, dx, windows), x], **window)
        db = summed_rows(back, d) if len(back.x) > 2 and back.wants[2] else None
        return [dx, dW, db]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        kernel = int(args[1].shape[0]) if args[1] is not None and args[1].shape else 1  # type: ignore[arg-type]
        axes = [(0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
        pointwise = kernel == 1 and self.get(node, "stride") == 1
        return axes if pointwise or self.causal(node, kernel) else [(0, 1), *axes]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        K, c, _ = args[1].shape  # type: ignore
        return 2 * prod(outs[0].shape) * int(K) * int(c)  # type: ignore[arg-type]


FILLS = ("zero", "lowest")  # what stands before and after the steps: nothing to a sum, nothing to a maximum


@register
class Windows(Op):
    """X (B, T, C) as overlapping windows (B, steps, size, C): what Conv1D multiplies and pooling reduces. A view, but for padding."""

    name = "Windows"
    inputs = (Slot("X"),)
    attributes = {"size": Attribute(int, required=True), **WINDOW, "fill": Attribute(str, "zero", choices=FILLS)}

    def check(self, node: Node) -> None:
        super().check(node)
        _check_window(self, node, "size")

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x, size = required(args), self.get(node, "size")
        if x.shape is None or len(x.shape) != 3:
            raise shape_error(node, "input X", x.shape, "(B, T, C)")
        B, T, C = x.shape
        return [Value(x.dtype, (B, _steps(self, node, T, size), size, C))]

    def _view(self, node: Node, source: np.ndarray, steps: int) -> np.ndarray:
        stride, dilation, size = (self.get(node, key) for key in ("stride", "dilation", "size"))
        B, _, C = source.shape
        b, t, c = source.strides
        strides = (b, t * stride, t * dilation, c)
        return np.lib.stride_tricks.as_strided(source, (B, steps, size, C), strides, writeable=False)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None and out.shape is not None
        before, after = self.get(node, "pads")
        if before or after:
            B, T, C = x.shape
            source = emit.scratch((B, before + T + after, C), x.dtype, lasts=True)
            source[...] = 0.0 if self.get(node, "fill") == "zero" else -np.inf
            emit.copy(source[:, before : before + T], x)
            x = source
        emit.alias(out, self._view(node, x, int(out.shape[1])))

    def adjoint(self, node: Node, back: Back) -> list:
        """A step sums the gradients of its places in windows."""
        window = {key: self.get(node, key) for key in WINDOW}
        return [back.node("OverlapAdd", [back.dy[0], back.x[0]], **window)]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return [(0, 1)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 0


@register
class OverlapAdd(Op):
    """Windows (B, steps, size, C) added up where they came from, for a value of the shape of `like` (B, T, C)."""

    name = "OverlapAdd"
    inputs = (Slot("X"), Slot("like"))
    attributes = WINDOW

    def check(self, node: Node) -> None:
        super().check(node)
        _check_window(self, node)

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x, like = required(args), required(args, 1)
        if like.shape is None or len(like.shape) != 3 or x.shape is None or len(x.shape) != 4:
            raise shape_error(node, "input X", x.shape, "(B, steps, size, C), and `like` (B, T, C)")
        B, T, C = like.shape
        size = x.shape[2]
        if not isinstance(size, int) or size < 1:
            raise shape_error(node, "input X", x.shape, "windows of a known size")
        expect_shape(node, args, 0, "input X", (B, _steps(self, node, T, size), size, C))
        return [Value(x.dtype, like.shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, out = required(args).array, outs[0]
        assert x is not None and out is not None
        y = emit.output(out)
        B, T, C = y.shape
        stride, dilation, pads = (self.get(node, key) for key in WINDOW)
        emit.kernel(
            "overlap_forward", emit.contiguous(x), y, B, T, C, x.shape[1], x.shape[2], stride, dilation, pads[0]
        )

    def adjoint(self, node: Node, back: Back) -> list:
        """The windows of the gradient."""
        window = {key: self.get(node, key) for key in WINDOW}
        return [back.node("Windows", [back.dy[0]], size=back.x[0].shape[2], **window), None]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return [(0, 1), (0, 2)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return prod(required(args).shape or ())  # type: ignore[arg-type]

"""Conv1D: a convolution over time, on the tile of dense layers."""

from collections.abc import Sequence
from math import prod

from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.contractions import PLAIN, emit_dense
from fastlstm.ops.dims import Dim, agree
from fastlstm.ops.op import Attribute, Emit, Op, Slot, Value, at, expect_shape, register, shape_error


@register
class Conv1D(Op):
    """Cross-correlation over time: X (B, T, C), W (K, C / groups, F), b (F,); `pads` zeros before and after.

    Where all padding comes before, (K - 1) * dilation steps at stride 1, it is causal, and a stream carries its history.
    """

    name = "Conv1D"
    changes_state = True
    inputs = (Slot("X"), Slot("W", matrix=True), Slot("b", optional=True))
    attributes = {
        "stride": Attribute(int, 1),
        "dilation": Attribute(int, 1),
        "groups": Attribute(int, 1),
        "pads": Attribute(int, (0, 0), many=True),
        "activation": Attribute(str, "Identity", choices=tuple(ACTIVATIONS)),
        "alpha": Attribute(float, 0.0),
        "beta": Attribute(float, 0.0),
    }

    def check(self, node: Node) -> None:
        super().check(node)
        pads = self.get(node, "pads")
        if len(pads) != 2 or min(pads) < 0:
            raise shape_error(node, "attribute 'pads'", pads, "two counts of zeros, before and after")
        for name in ("stride", "dilation", "groups"):
            if self.get(node, name) < 1:
                raise shape_error(node, f"attribute {name!r}", self.get(node, name), "at least 1")

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
        span = (K - 1) * self.get(node, "dilation")
        T, stride = x.shape[1], self.get(node, "stride")
        if isinstance(T, int):
            left = T + sum(self.get(node, "pads")) - span
            if left < 1 and T > 0:
                raise shape_error(node, "input X", x.shape, f"at least {span + 1 - sum(self.get(node, 'pads'))} steps")
            steps: Dim = max(0, (left + stride - 1) // stride) if T else 0
        elif sum(self.get(node, "pads")) == span and stride == 1:
            steps = T
        else:
            steps = dims.apply(f"conv{K}.{stride}.{span}.{sum(self.get(node, 'pads'))}", T)
        return [Value(x.dtype, (x.shape[0], steps, F))]

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
            source = emit.scratch((B, rows, C), x.dtype)
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

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        kernel = int(args[1].shape[0]) if args[1] is not None and args[1].shape else 1  # type: ignore[arg-type]
        axes = [(0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
        pointwise = kernel == 1 and self.get(node, "stride") == 1
        return axes if pointwise or self.causal(node, kernel) else [(0, 1), *axes]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        K, c, _ = args[1].shape  # type: ignore
        return 2 * prod(outs[0].shape) * int(K) * int(c)  # type: ignore[arg-type]

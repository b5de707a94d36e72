"""Convolutions on the tile of dense layers; one of each channel by itself has a kernel of its own."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.adjoints import reshaped, summed_rows
from fastlstm.ops.contractions import PLAIN, emit_dense, over_rows, turned
from fastlstm.ops.dims import agree
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
from fastlstm.ops.windows import WINDOW, check_window, count_windows, window_of

PATCH_BYTES = (
    4 << 20
)  # of the patches of an image that are copied at once: what stays in a cache that a core has to itself


class Convolution(Op):
    """What convolutions share: W (..., C / groups, F) meets windows of X, bias b (F,) and an activation follow."""

    inputs = (Slot("X"), Slot("W", matrix=True), Slot("b", optional=True))
    attributes = {
        "groups": Attribute(int, 1),
        "activation": Attribute(str, "Identity", choices=tuple(ACTIVATIONS)),
        "alpha": Attribute(float, 0.0),
        "beta": Attribute(float, 0.0),
    }
    axes = 1  # of windows

    def infer_filters(self, node: Node, args: Sequence[Value | None]) -> tuple[tuple[int, ...], int, int]:
        """Return (sizes of windows, channels of X, F). Raise ShapeError where X, W and b do not fit."""
        x, W, groups = required(args), required(args, 1), self.get(node, "groups")
        names = ("K", "K, L", "K, L, M")[self.axes - 1]
        if W.shape is None or len(W.shape) != self.axes + 2:
            raise shape_error(node, "weight W", W.shape, f"({names}, C / groups, F)")
        *sizes, c, F = (int(d) for d in W.shape)
        if F % groups or groups > max(F, 1):
            raise shape_error(node, "weight W", W.shape, f"F a multiple of groups = {groups}")
        expect_shape(node, args, 2, "bias b", (F,))
        wanted = ("(B, T, C)", "(B, H, W, C)", "(B, D, H, W, C)")[self.axes - 1]
        if x.shape is not None and (len(x.shape) != self.axes + 2 or not agree(x.shape[-1], c * groups)):
            raise shape_error(node, "input X", x.shape, f"{wanted} with C = {c * groups}")
        return tuple(sizes), c * groups, F

    def activation(self, node: Node) -> tuple[str, float, float]:
        """Return the activation of a node."""
        return self.get(node, "activation"), self.get(node, "alpha"), self.get(node, "beta")

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        *window, _ = args[1].shape  # type: ignore
        return 2 * prod(outs[0].shape) * prod(window)  # type: ignore[arg-type]

    def windows(self, node: Node, back: Back) -> Any:
        """Add the windows of X: (B, positions, ..., sizes, ..., C) with the sizes of W before C."""
        raise NotImplementedError

    def overlap(self, node: Node, back: Back, d: Any, windows: Any) -> Any:
        """Add the gradient of X from that of its windows, which may have another shape."""
        raise NotImplementedError

    def adjoint(self, node: Node, back: Back) -> list:
        """With V the windows of X: dW = V' dY over all windows, dX the overlapping windows dY W' added up, db = sum dY."""
        if self.get(node, "activation") != "Identity":
            return list(super().adjoint(node, back))
        W, d = back.x[1], back.dy[0]
        (*sizes, c, F), G = W.shape, self.get(node, "groups")
        f, K = F // G, prod(sizes)
        windows = self.windows(node, back)
        # everything by groups: (G, rows, K c), (G, rows, f) and (G, K c, f)
        by_group = lambda v, *shape: back.node(
            "Transpose", [back.node("Reshape", [v, back.ints(*shape)])], perm=(2, 0, 1, 3)
        )
        d_groups = d if G == 1 else by_group(d, -1, 1, G, f)
        dx = dW = None
        if back.wants[1] and G == 1:
            dW = reshaped(back, over_rows(back, windows, d, (K * c, F)), W)
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
            dx = self.overlap(node, back, dx, windows)
        db = summed_rows(back, d) if len(back.x) > 2 and back.wants[2] else None
        return [dx, dW, db]


def emit_depthwise(
    emit: Emit,
    x: np.ndarray,
    W: Value,
    b: Value | None,
    y: np.ndarray,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    activation: tuple[str, float, float],
) -> None:
    """Emit a convolution of each channel by itself: contiguous x (B, H, W, C), W (K, L, 1, F), y (B, P, Q, F), F a multiple of C."""
    assert W.shape is not None
    B, H, w, C = x.shape
    K, L, _, F = (int(d) for d in (1, *W.shape)[-4:])
    if F > C:  # the filters of a channel lie together: each gets a copy of it
        x = emit.contiguous(np.broadcast_to(x[..., None], (*x.shape, F // C))).reshape(B, H, w, F)
    flat = lambda v: np.ascontiguousarray(v, x.dtype).reshape(-1)
    packed = emit.packed(("depthwise", x.dtype.str), [W], flat)
    row_of = lambda *rows: flat(rows[0]) if rows else np.zeros(F, x.dtype)
    bias = emit.packed(("depthwise bias", F, x.dtype.str), [] if b is None else [b], row_of)
    name, alpha, beta = activation
    row = w * F
    steps = (H * row, strides[0] * row, strides[1] * F, dilations[0] * row, dilations[1] * F)
    emit.kernel(
        "depthwise_forward", x, packed, bias, y, *y.shape[:3], K, L, F, *steps,
        emit.activation(name), float(alpha), float(beta), kind=x.dtype,
    )  # fmt: skip


@register
class Conv1D(Convolution):
    """Cross-correlation over time: X (B, T, C), W (K, C / groups, F), b (F,); `pads` zeros before and after.

    Where all padding comes before, (K - 1) * dilation steps at stride 1, it is causal, and a stream carries its history.
    """

    name = "Conv1D"
    changes_state = True
    attributes = {**WINDOW, **Convolution.attributes}

    def check(self, node: Node) -> None:
        super().check(node)
        check_window(self, node, "groups")

    def causal(self, node: Node, kernel: int) -> bool:
        """Tell whether an output step sees no later input step and the output has the input's steps."""
        span = (kernel - 1) * self.get(node, "dilation")
        return self.get(node, "stride") == 1 and tuple(self.get(node, "pads")) == (span, 0)

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        (K,), _, F = self.infer_filters(node, args)
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        B, T, _ = x.shape
        return [Value(x.dtype, (B, count_windows(node, T, K, *window_of(self, node)), F))]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        x, W, b = args[0], args[1], at(args, 2)
        assert x is not None and x.array is not None and W is not None
        B, T, C = (int(d) for d in x.shape or ())
        K, c, F = (int(d) for d in W.shape or ())
        steps = int(outs[0].shape[1])  # type: ignore[index]
        stride, dilation, (before, after) = window_of(self, node)
        groups, span = self.get(node, "groups"), (K - 1) * dilation
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
        activation = self.activation(node)
        if c == 1 and groups > 1:
            image = y.reshape(B, 1, steps, F)
            emit_depthwise(emit, source[:, None], W, b, image, (1, stride), (1, dilation), activation)
            return
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

    def windows(self, node: Node, back: Back) -> Any:
        window = {key: self.get(node, key) for key in WINDOW}
        return back.node("Windows", [back.x[0]], size=back.x[1].shape[0], **window)

    def overlap(self, node: Node, back: Back, d: Any, windows: Any) -> Any:
        window = {key: self.get(node, key) for key in WINDOW}
        return back.node("OverlapAdd", [reshaped(back, d, windows), back.x[0]], **window)

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        kernel = int(args[1].shape[0]) if args[1] is not None and args[1].shape else 1  # type: ignore[arg-type]
        axes = [(0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
        pointwise = kernel == 1 and self.get(node, "stride") == 1
        return axes if pointwise or self.causal(node, kernel) else [(0, 1), *axes]


class ConvOverSpace(Convolution):
    """Cross-correlation over images or volumes: X (B, H, W, C) or (B, D, H, W, C), W (K, ..., C / groups, F), b (F,).

    `pads` counts zeros before each axis, then after each, as ONNX does. What windows see is copied side by side, some images at a time.
    """

    def check(self, node: Node) -> None:
        super().check(node)
        for name, count, least in (("strides", self.axes, 1), ("dilations", self.axes, 1), ("pads", 2 * self.axes, 0)):
            given = self.get(node, name)
            if len(given) != count or min(given) < least:
                raise shape_error(node, f"attribute {name!r}", given, f"{count} numbers of at least {least}")
        if self.get(node, "groups") < 1:
            raise shape_error(node, "attribute 'groups'", self.get(node, "groups"), "at least 1")

    def window(self, node: Node, k: int) -> tuple[int, int, tuple[int, int]]:
        """Return (stride, dilation, pads) along one of the axes of windows."""
        pads = self.get(node, "pads")
        return self.get(node, "strides")[k], self.get(node, "dilations")[k], (pads[k], pads[k + self.axes])

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        sizes, _, F = self.infer_filters(node, args)
        x = required(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        B, *image, _ = x.shape
        places = (count_windows(node, image[k], sizes[k], *self.window(node, k)) for k in range(self.axes))
        return [Value(x.dtype, (B, *places, F))]

    def _padded(self, node: Node, x: np.ndarray, emit: Emit) -> np.ndarray:
        """Return x with its zeros around it."""
        pads = self.get(node, "pads")
        if not any(pads):
            return x
        margins = [(0, 0), *((pads[k], pads[k + self.axes]) for k in range(self.axes)), (0, 0)]
        shape = tuple(before + size + after for size, (before, after) in zip(x.shape, margins, strict=True))
        whole = emit.scratch(shape, x.dtype, lasts=True)
        whole[...] = 0
        emit.copy(whole[tuple(slice(m[0], m[0] + size) for size, m in zip(x.shape, margins, strict=True))], x)
        return whole

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        x, W, b = args[0], args[1], at(args, 2)
        assert x is not None and x.array is not None and W is not None
        *sizes, c, F = (int(d) for d in W.shape or ())
        y, groups, activation = emit.output(outs[0]), self.get(node, "groups"), self.activation(node)
        if y.size == 0:
            return
        source = self._padded(node, x.array, emit)
        strides, dilations = self.get(node, "strides"), self.get(node, "dilations")
        if c == 1 and groups > 1 and self.axes == 2:
            emit_depthwise(emit, emit.contiguous(source), W, b, y, strides, dilations, activation)
            return
        B, *places, _ = y.shape
        at_b, *at_axes, at_c = source.strides
        steps = [[step * n for step, n in zip(at_axes, numbers, strict=True)] for numbers in (strides, dilations)]
        patches = np.lib.stride_tricks.as_strided(
            source, (B, *places, *sizes, source.shape[-1]), (at_b, *steps[0], *steps[1], at_c), writeable=False
        )
        f, rows, K = F // groups, prod(places), prod(sizes) * c
        images = max(1, PATCH_BYTES // (rows * K * y.itemsize))
        scratch = emit.scratch((min(images, B), *places, *sizes, c), y.dtype)
        for group in range(groups):
            columns = slice(group * f, (group + 1) * f)
            for first in range(0, B, images):
                count = min(images, B - first)
                emit.copy(scratch[:count], patches[first : first + count, ..., group * c : (group + 1) * c])
                emit_dense(
                    emit, scratch, W, b, y[first:], (1, count * rows, K, f), y_at=(group * f, 0, F),
                    activation=activation, part=("taps",) if groups == 1 else ("columns of group", group, groups),
                    take=lambda w, columns=columns: w.reshape(-1, w.shape[-1])[:, columns], whole=groups == 1,
                )  # fmt: skip

    def _along(self, node: Node, k: int) -> dict[str, Any]:
        """Return the attributes of Windows along one axis, once those before it have an axis for what lies in a window."""
        stride, dilation, pads = self.window(node, k)
        return {"axis": 1 + 2 * k, "stride": stride, "dilation": dilation, "pads": pads}

    def _in_turn(self, node: Node, back: Back) -> list[Any]:
        """Add X, its windows along the first axis (B, P, K, W, ..., C), along the first two (B, P, K, Q, L, ..., C), and so on."""
        made = [back.x[0]]
        for k in range(self.axes):
            made.append(back.node("Windows", [made[-1]], size=back.x[1].shape[k], **self._along(node, k)))
        return made

    def windows(self, node: Node, back: Back) -> Any:
        places, sizes = (tuple(range(first, 1 + 2 * self.axes, 2)) for first in (1, 2))
        return back.node("Transpose", [self._in_turn(node, back)[-1]], perm=(0, *places, *sizes, 1 + 2 * self.axes))

    def overlap(self, node: Node, back: Back, d: Any, windows: Any) -> Any:
        pairs = [axis for k in range(1, 1 + self.axes) for axis in (k, k + self.axes)]
        d = back.node("Transpose", [reshaped(back, d, windows)], perm=(0, *pairs, 1 + 2 * self.axes))
        made = self._in_turn(node, back)
        for k in reversed(range(self.axes)):
            d = back.node("OverlapAdd", [d, made[k]], **self._along(node, k))
        return d

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        inner = range(1, self.axes + 2)
        return [*((0, k) for k in inner), *((1, k) for k in range(self.axes + 2)), (2, 0)]


def _over_space(axes: int) -> dict[str, Attribute]:
    """Return the attributes of a convolution over so many axes."""
    ones, none = (1,) * axes, (0,) * 2 * axes
    return {
        "strides": Attribute(int, ones, many=True),
        "dilations": Attribute(int, ones, many=True),
        "pads": Attribute(int, none, many=True),
        **Convolution.attributes,
    }


@register
class Conv2D(ConvOverSpace):
    """A convolution over images: X (B, H, W, C), W (K, L, C / groups, F)."""

    name = "Conv2D"
    attributes = _over_space(2)
    axes = 2


@register
class Conv3D(ConvOverSpace):
    """A convolution over volumes: X (B, D, H, W, C), W (K, L, M, C / groups, F)."""

    name = "Conv3D"
    attributes = _over_space(3)
    axes = 3

"""Ops that normalise: Softmax and LayerNormalization within a row, BatchNormalization with stored statistics."""

from collections.abc import Sequence
from math import prod

import numpy as np

from fastlstm.errors import DTypeError
from fastlstm.graph import Node
from fastlstm.ops.mapping import emit_map, emit_map_into
from fastlstm.ops.op import Attribute, Emit, HostOp, Op, Slot, Value, at, axis_of, expect_shape, register

KERNEL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


@register
class Softmax(Op):
    """e^(x - max) / sum e^(x - max) along one axis."""

    name = "Softmax"
    inputs = (Slot("X"),)
    attributes = {"axis": Attribute(int, -1)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        assert args[0] is not None
        if args[0].shape is not None:
            axis_of(node, self.get(node, "axis"), len(args[0].shape))
        return [Value(args[0].dtype, args[0].shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        assert args[0] is not None and args[0].array is not None
        x = args[0].array
        axis = axis_of(node, self.get(node, "axis"), x.ndim)
        rows = x.size // max(1, x.shape[axis])
        if axis == x.ndim - 1:
            emit.kernel("softmax_forward", emit.contiguous(x), emit.output(outs[0]), rows, x.shape[axis])
            return
        moved = emit.scratch(np.moveaxis(x, axis, -1).shape, x.dtype)
        emit.copy(moved, np.moveaxis(x, axis, -1))
        emit.kernel("softmax_forward", moved, moved, rows, x.shape[axis])
        emit.alias(outs[0], np.moveaxis(moved, -1, axis))

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(0, self.get(node, "axis") % rank)] if rank else []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 12 * prod(outs[0].shape)  # type: ignore[arg-type]


@register
class LayerNormalization(Op):
    """(X - mean) / sqrt(variance + epsilon) * scale + shift over the axes from `axis` to the last."""

    name = "LayerNormalization"
    inputs = (Slot("X"), Slot("scale", optional=True), Slot("shift", optional=True))
    attributes = {"axis": Attribute(int, -1), "epsilon": Attribute(float, 1e-5)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = args[0]
        assert x is not None
        if x.shape is not None:
            axis = axis_of(node, self.get(node, "axis"), len(x.shape))
            for k, role in ((1, "scale"), (2, "shift")):
                expect_shape(node, args, k, f"weight {role}", x.shape[axis:])
        return [Value(x.dtype, x.shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        assert args[0] is not None and args[0].array is not None
        x = args[0].array
        axis = axis_of(node, self.get(node, "axis"), x.ndim)
        n = prod(x.shape[axis:])
        weights = []
        for k, neutral in ((1, 1.0), (2, 0.0)):
            value = at(args, k)
            weights.append(
                emit.packed(
                    ("normalise", n, neutral, x.dtype.str),
                    [] if value is None else [value],
                    lambda *w, neutral=neutral: np.full(n, neutral, x.dtype) if not w else w[0].astype(x.dtype),
                )
            )
        y = emit.output(outs[0])
        emit.kernel(
            "normalise_forward",
            emit.contiguous(x),
            *weights,
            y,
            prod(x.shape[:axis]),
            n,
            float(self.get(node, "epsilon")),
        )

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        rank = len(args[0].shape or ()) if args[0] is not None else 0
        return [(0, axis) for axis in range(self.get(node, "axis") % rank, rank)] if rank else []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 8 * prod(outs[0].shape)  # type: ignore[arg-type]


@register
class BatchNormalization(HostOp):
    """(X - mean) / sqrt(variance + epsilon) * scale + shift with stored statistics of each channel along `axis`."""

    name = "BatchNormalization"
    inputs = (Slot("X"), Slot("scale", optional=True), Slot("shift", optional=True), Slot("mean"), Slot("variance"))
    attributes = {"axis": Attribute(int, 1), "epsilon": Attribute(float, 1e-5)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        x = args[0]
        assert x is not None
        if x.dtype.kind != "f":
            raise DTypeError(f"node {node.name!r}: BatchNormalization runs on floats, its input is {x.dtype}")
        if x.shape is not None:
            channels = x.shape[axis_of(node, self.get(node, "axis"), len(x.shape))]
            for k, slot in enumerate(self.inputs[1:], 1):
                expect_shape(node, args, k, f"weight {slot.name}", (channels,))
        return [Value(x.dtype, x.shape)]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        x, scale, shift, mean, variance = arrays
        assert x is not None and mean is not None and variance is not None
        shape = [1] * x.ndim
        shape[self.get(node, "axis")] = -1
        factor = self._factor(node, x.dtype, variance, scale)
        with np.errstate(all="ignore"):
            y = (x - mean.astype(x.dtype).reshape(shape)) * factor.reshape(shape)
            return [y if shift is None else y + shift.astype(x.dtype).reshape(shape)]

    def _factor(self, node: Node, dtype: np.dtype, variance: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        with np.errstate(all="ignore"):
            factor = 1 / np.sqrt(variance.astype(dtype) + dtype.type(self.get(node, "epsilon")))
            return factor if scale is None else factor * scale.astype(dtype)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        x, scale, shift, mean, variance = args
        assert x is not None and x.array is not None and mean is not None and variance is not None
        assert outs[0] is not None
        if x.dtype not in KERNEL_DTYPES:
            super().lower(node, args, outs, emit)
            return
        dtype, shape = x.dtype, [1] * x.array.ndim
        shape[self.get(node, "axis")] = -1
        epsilon = self.get(node, "epsilon")
        vector = lambda value: emit.packed(("vector", dtype.str), [value], lambda v: v.astype(dtype)).reshape(shape)
        factor = emit.packed(
            ("factor", epsilon, dtype.str, scale is None), [variance] if scale is None else [variance, scale],
            lambda *given: self._factor(node, dtype, *given),
        ).reshape(shape)  # fmt: skip
        head = (emit.operation("Scale"),)
        y = emit_map(emit, "combine_forward", outs[0], [x.array, vector(mean), factor], head, dtype)
        if shift is not None:
            emit_map_into(emit, "combine_forward", y, [y, vector(shift)], (emit.operation("Add"),), dtype)

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        return self.compute(node, arrays)

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return [(k, 0) for k in range(1, 5)]

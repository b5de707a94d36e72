"""Ops that move elements and compute nothing: reshapes, slices, joins, look-ups, and the arithmetic of shapes."""

from collections.abc import Sequence

import numpy as np

from fastlstm.errors import InputError
from fastlstm.graph import Node
from fastlstm.ops import dims
from fastlstm.ops.dims import Dim, Shape, agree
from fastlstm.ops.elementwise import broadcast
from fastlstm.ops.normalisation import axis_of
from fastlstm.ops.op import Attribute, Emit, HostOp, NeedsValue, Slot, Value, ViewOp, contents, register, shape_error

INT64 = np.dtype(np.int64)
Args = Sequence[Value | None]
Arrays = Sequence[np.ndarray | None]


def _x(args: Args) -> Value:
    assert args[0] is not None
    return args[0]


def _ints(array: np.ndarray | None) -> list[int] | None:
    return None if array is None else [int(v) for v in np.asarray(array).ravel()]


# ---- views ------------------------------------------------------------------------------------------
@register
class Reshape(ViewOp):
    """X under the shape given: 0 copies the dim at its place (unless allowzero), one -1 takes what is left."""

    name = "Reshape"
    inputs = (Slot("X"), Slot("shape"))
    attributes = {"allowzero": Attribute(bool, False)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, wanted = _x(args), _ints(contents(args, 1))
        assert wanted is not None
        if any(v < -1 for v in wanted) or wanted.count(-1) > 1:
            raise shape_error(node, "input shape", tuple(wanted), "sizes, and at most one -1")
        if x.shape is None:
            return [Value(x.dtype, tuple(v if v > 0 else f"({node.name}.{k})" for k, v in enumerate(wanted)))]
        keep = not self.get(node, "allowzero")
        if keep and any(v == 0 and k >= len(x.shape) for k, v in enumerate(wanted)):
            raise shape_error(node, "input shape", tuple(wanted), f"0 only where X {x.shape} has a dim")
        shape: list[Dim] = [x.shape[k] if v == 0 and keep else v for k, v in enumerate(wanted)]
        total = dims.product(x.shape)
        if -1 in wanted:
            place = wanted.index(-1)
            left = dims.quotient(total, dims.product(d for k, d in enumerate(shape) if k != place))
            if left is None and isinstance(total, int) and all(isinstance(d, int) for d in shape):
                if total or 0 not in shape:
                    raise shape_error(node, "input X", x.shape, f"a size that fills {tuple(wanted)}")
                left = 0
            shape[place] = dims.apply("reshape", *x.shape, *shape[:place]) if left is None else left
        elif not agree(dims.product(shape), total):
            raise shape_error(node, "input X", x.shape, f"as many elements as {tuple(shape)}")
        return [Value(x.dtype, tuple(shape))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, wanted = arrays[0], _ints(arrays[1])
        assert x is not None and wanted is not None
        keep = not self.get(node, "allowzero")
        return [x.reshape([x.shape[k] if v == 0 and keep else v for k, v in enumerate(wanted)])]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        """Axes that survive whole at the front or the back are not mixed."""
        x = _x(args)
        if x.shape is None:
            return []
        try:
            out = self.infer(node, args)[0].shape
        except NeedsValue:
            return [(0, axis) for axis in range(len(x.shape))]
        assert out is not None
        front = 0
        while front < min(len(out), len(x.shape)) and out[front] == x.shape[front]:
            front += 1
        back = 0
        while back < min(len(out), len(x.shape)) - front and out[-1 - back] == x.shape[-1 - back]:
            back += 1
        # an axis whose symbol is one dim of the output still stands alone there
        whole = {d for d in out if isinstance(d, str) and "*" not in d}
        middle = range(front, len(x.shape) - back)
        return [(0, axis) for axis in middle if x.shape[axis] not in whole and x.shape[axis] != 1]


@register
class Flatten(ViewOp):
    """X as a matrix: the axes before `axis`, and those from it on."""

    name = "Flatten"
    inputs = (Slot("X"),)
    attributes = {"axis": Attribute(int, 1)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = _x(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        axis = self.get(node, "axis")
        axis = axis if axis == len(x.shape) else axis_of(node, axis, len(x.shape))
        return [Value(x.dtype, (dims.product(x.shape[:axis]), dims.product(x.shape[axis:])))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        shape = self.infer(node, [Value.constant(x)])[0].shape
        return [x.reshape(shape)]  # type: ignore[arg-type]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(_x(args).shape or ())
        axis = self.get(node, "axis") % rank if rank and self.get(node, "axis") != rank else rank
        groups = (range(axis), range(axis, rank))
        return [(0, k) for group in groups if len(group) > 1 for k in group]


@register
class Squeeze(ViewOp):
    """X without the axes given (absent: without every axis of size 1)."""

    name = "Squeeze"
    inputs = (Slot("X"), Slot("axes", optional=True))

    def _axes(self, node: Node, shape: Shape, axes: np.ndarray | None) -> set[int]:
        if axes is None:
            return {k for k, d in enumerate(shape) if d == 1}
        chosen = {axis_of(node, axis, len(shape)) for axis in _ints(axes) or []}
        for axis in chosen:
            if not agree(shape[axis], 1):
                raise shape_error(node, "input X", shape, f"size 1 along axis {axis}")
        return chosen

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = _x(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        axes = self._axes(node, x.shape, contents(args, 1))
        return [Value(x.dtype, tuple(d for k, d in enumerate(x.shape) if k not in axes))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        return [
            x.reshape(
                [
                    d
                    for k, d in enumerate(x.shape)
                    if k not in self._axes(node, x.shape, arrays[1] if len(arrays) > 1 else None)
                ]
            )
        ]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class Unsqueeze(ViewOp):
    """X with axes of size 1 inserted where the output has the axes given."""

    name = "Unsqueeze"
    inputs = (Slot("X"), Slot("axes"))

    def _shape(self, node: Node, shape: Shape, axes: Sequence[int]) -> Shape:
        rank = len(shape) + len(axes)
        places = {axis_of(node, axis, rank) for axis in axes}
        if len(places) != len(axes):
            raise shape_error(node, "input axes", tuple(axes), "different axes")
        rest = iter(shape)
        return tuple(1 if k in places else next(rest) for k in range(rank))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, axes = _x(args), _ints(contents(args, 1))
        assert axes is not None
        return [Value(x.dtype, None if x.shape is None else self._shape(node, x.shape, axes))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, axes = arrays[0], _ints(arrays[1])
        assert x is not None and axes is not None
        return [x.reshape(self._shape(node, x.shape, axes))]  # type: ignore[arg-type]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


# ---- copies -----------------------------------------------------------------------------------------
@register
class Transpose(HostOp):
    """X with its axes in the order `perm` (empty: reversed)."""

    name = "Transpose"
    inputs = (Slot("X"),)
    attributes = {"perm": Attribute(int, (), many=True)}

    def _perm(self, node: Node, rank: int) -> tuple[int, ...]:
        perm = self.get(node, "perm") or tuple(reversed(range(rank)))
        if sorted(perm) != list(range(rank)):
            raise shape_error(node, "attribute 'perm'", perm, f"an order of {rank} axes")
        return perm

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = _x(args)
        if x.shape is None:
            return [Value(x.dtype, None)]
        return [Value(x.dtype, tuple(x.shape[k] for k in self._perm(node, len(x.shape))))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [arrays[0].transpose(self._perm(node, arrays[0].ndim))]

    def lower(self, node: Node, args: Args, outs: Sequence[Value], emit: Emit) -> None:
        array = _x(args).array
        assert array is not None
        perm = [k for k in self._perm(node, array.ndim) if array.shape[k] != 1]
        if perm == sorted(perm):
            emit.alias(outs[0], array.reshape(outs[0].shape))  # type: ignore[arg-type]
        else:
            super().lower(node, args, outs, emit)

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class Expand(HostOp):
    """X broadcast against the shape given."""

    name = "Expand"
    inputs = (Slot("X"), Slot("shape"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, wanted = _x(args), _ints(contents(args, 1))
        assert wanted is not None
        return [Value(x.dtype, broadcast(node, [x.shape, tuple(wanted)]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, wanted = arrays[0], _ints(arrays[1])
        assert x is not None and wanted is not None
        return [np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted)))]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class Concat(HostOp):
    """The inputs joined along `axis`."""

    name = "Concat"
    inputs = (Slot("inputs", variadic=True),)
    attributes = {"axis": Attribute(int, required=True)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        values = [arg for arg in args if arg is not None]
        if any(v.shape is None for v in values):
            return [Value(values[0].dtype, None)]
        shapes = [v.shape for v in values if v.shape is not None]
        axis = axis_of(node, self.get(node, "axis"), len(shapes[0]))
        result = list(shapes[0])
        for shape in shapes[1:]:
            if len(shape) != len(result) or any(
                not agree(a, b) for k, (a, b) in enumerate(zip(shape, result, strict=True)) if k != axis
            ):
                raise shape_error(node, "an input", shape, f"{tuple(result)} but for axis {axis}")
            result = [
                b if k == axis or isinstance(b, int) else a for k, (a, b) in enumerate(zip(shape, result, strict=True))
            ]
        result[axis] = dims.add(*(shape[axis] for shape in shapes))
        return [Value(values[0].dtype, tuple(result))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        return [np.concatenate([a for a in arrays if a is not None], axis=self.get(node, "axis"))]

    def _step(self, node: Node, arrays: list[np.ndarray | None], buffers: list[np.ndarray]) -> None:
        np.concatenate(arrays, axis=self.get(node, "axis"), out=buffers[0])  # type: ignore[arg-type]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(_x(args).shape or ())
        return [(k, self.get(node, "axis") % rank) for k in range(len(args))] if rank and len(args) > 1 else []


@register
class Split(HostOp):
    """X cut along `axis` into parts of the sizes given (absent: equal parts, one for each output)."""

    name = "Split"
    inputs = (Slot("X"), Slot("split", optional=True))
    variadic_outputs = True
    attributes = {"axis": Attribute(int, 0)}

    def _sizes(self, node: Node, size: Dim, split: np.ndarray | None) -> list[int]:
        count = len(node.outputs)
        if split is not None:
            sizes = _ints(split) or []
            if len(sizes) != count or min(sizes) < 0 or (isinstance(size, int) and sum(sizes) != size):
                raise shape_error(node, "input split", tuple(sizes), f"{count} sizes that add up to {size}")
            return sizes
        if not isinstance(size, int):
            raise shape_error(node, "input X", size, "a known size along the axis that is split")
        part = -(-size // count)
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
        if sizes[-1] < 0:
            raise shape_error(node, "input X", size, f"at least {count} along the axis that is split")
        return sizes

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, split = _x(args), contents(args, 1)
        if x.shape is None:
            return [Value(x.dtype, None) for _ in node.outputs]
        axis = axis_of(node, self.get(node, "axis"), len(x.shape))
        sizes = self._sizes(node, x.shape[axis], split)
        return [Value(x.dtype, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in sizes]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        axis = self.get(node, "axis")
        sizes = self._sizes(node, x.shape[axis], arrays[1] if len(arrays) > 1 else None)
        return np.split(x, np.cumsum(sizes)[:-1], axis=axis)

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(_x(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []


@register
class Slice(HostOp):
    """X[starts:ends:steps] along the axes given, as Python slices; out of range is cut."""

    name = "Slice"
    inputs = (Slot("X"), Slot("starts"), Slot("ends"), Slot("axes", optional=True), Slot("steps", optional=True))

    def _slices(self, node: Node, rank: int, starts, ends, axes, steps) -> dict[int, slice]:
        starts, ends = _ints(starts) or [], _ints(ends) or []
        axes = list(range(len(starts))) if axes is None else _ints(axes) or []
        steps = [1] * len(starts) if steps is None else _ints(steps) or []
        if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
            raise shape_error(
                node, "starts, ends, axes and steps", (len(starts), len(ends)), "equal lengths, no step of 0"
            )
        slices = {}
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            # "up to and including the first element" has no number in ONNX: a very negative end
            stop = None if step < 0 and end < -(2**31) + 2 else end
            slices[axis_of(node, axis, rank)] = slice(start, stop, step)
        return slices

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = _x(args)
        given = [contents(args, k) for k in range(1, 5)]
        if x.shape is None:
            return [Value(x.dtype, None)]
        shape = list(x.shape)
        for axis, cut in self._slices(node, len(shape), *given).items():
            size = shape[axis]
            if isinstance(size, int):
                lowest = -size - 1 if cut.stop is not None and cut.step < 0 and cut.stop < -size else cut.stop
                shape[axis] = len(range(*slice(cut.start, lowest, cut.step).indices(size)))
            elif not (cut.start == 0 and cut.step == 1 and cut.stop is not None and cut.stop >= 2**31 - 1):
                reverses = cut.step == -1 and cut.start in (-1, 2**31 - 1, 2**63 - 1) and cut.stop is None
                shape[axis] = size if reverses else dims.apply(f"slice{cut.start}:{cut.stop}:{cut.step}", size)
        return [Value(x.dtype, tuple(shape))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        index = [slice(None)] * x.ndim
        given = [arrays[k] if k < len(arrays) else None for k in range(1, 5)]
        for axis, cut in self._slices(node, x.ndim, *given).items():
            stop = cut.stop
            if stop is not None and cut.step < 0 and stop < -x.shape[axis]:
                stop = None
            index[axis] = slice(cut.start, stop, cut.step)
        return [x[tuple(index)]]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        x = _x(args)
        if x.shape is None or any(a is not None and a.data is None for a in args[1:]):
            return [(0, axis) for axis in range(len(x.shape or ()))]
        given = [contents(args, k) for k in range(1, 5)]
        return [(0, axis) for axis in self._slices(node, len(x.shape), *given)]


@register
class Gather(HostOp):
    """X indexed by an integer array along `axis`; negative indices count from the end."""

    name = "Gather"
    inputs = (Slot("X", matrix=True), Slot("indices"))
    attributes = {"axis": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, indices = _x(args), args[1]
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
        rank = len(_x(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []


@register
class Embedding(Gather):
    """The rows of a table (vocabulary, E) for ids (...,); ids may be whole numbers held as floats, as Keras passes them."""

    name = "Embedding"
    inputs = (Slot("ids"), Slot("table", matrix=True))
    attributes = {}

    def infer(self, node: Node, args: Args) -> list[Value]:
        ids, table = _x(args), args[1]
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


@register
class SequenceMask(HostOp):
    """The mask of right-padded rows: lengths (B,) -> (T, B), or (B, T) where `batch_first`; T is that of X."""

    name = "SequenceMask"
    inputs = (Slot("lengths"), Slot("X"))
    attributes = {"batch_first": Attribute(bool, False)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        lengths, x = _x(args), args[1]
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
        x = _x(args)
        return [Value(np.dtype(bool), None if x.shape is None else x.shape[:-1])]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [(arrays[0] != arrays[0].dtype.type(self.get(node, "value"))).any(axis=-1)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(0, len(_x(args).shape or ()) - 1)]


# ---- shapes as values -------------------------------------------------------------------------------
@register
class ShapeOp(HostOp):
    """The shape of X as an int64 vector, from axis `start` to axis `end`."""

    name = "Shape"
    inputs = (Slot("X"),)
    attributes = {"start": Attribute(int, 0), "end": Attribute(int, 2**31)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = _x(args)
        if x.shape is None:
            return [Value(INT64, None)]
        part = x.shape[self.get(node, "start") : self.get(node, "end")]
        data = np.array(part, np.int64) if dims.known(part) else None
        return [Value(INT64, (len(part),), data)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [np.array(arrays[0].shape[self.get(node, "start") : self.get(node, "end")], np.int64)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return []


@register
class ConstantOfShape(HostOp):
    """An array of the shape given, filled with `value`."""

    name = "ConstantOfShape"
    inputs = (Slot("shape"),)
    attributes = {"value": Attribute(float, 0.0), "dtype": Attribute(str, "float32")}

    def infer(self, node: Node, args: Args) -> list[Value]:
        wanted = _ints(contents(args, 0))
        assert wanted is not None
        if any(v < 0 for v in wanted):
            raise shape_error(node, "input shape", tuple(wanted), "sizes of at least 0")
        return [Value(np.dtype(self.get(node, "dtype")), tuple(wanted))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        shape = _ints(arrays[0])
        assert shape is not None
        return [np.full(shape, self.get(node, "value"), self.get(node, "dtype"))]


@register
class Range(HostOp):
    """start, start + delta, ... below limit."""

    name = "Range"
    inputs = (Slot("start"), Slot("limit"), Slot("delta"))

    def infer(self, node: Node, args: Args) -> list[Value]:
        start, limit, delta = (contents(args, k) for k in range(3))
        assert start is not None and limit is not None and delta is not None
        if delta == 0:
            raise shape_error(node, "input delta", 0, "a step other than 0")
        count = max(0, int(np.ceil((limit.item() - start.item()) / delta.item())))
        return [Value(start.dtype, (count,))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        start, limit, delta = (a.item() for a in arrays if a is not None)
        assert arrays[0] is not None
        count = max(0, int(np.ceil((limit - start) / delta)))
        return [(start + delta * np.arange(count)).astype(arrays[0].dtype)]


@register
class Reverse(HostOp):
    """X in reverse order along `axis`."""

    name = "Reverse"
    inputs = (Slot("X"),)
    attributes = {"axis": Attribute(int, required=True)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = _x(args)
        if x.shape is not None:
            axis_of(node, self.get(node, "axis"), len(x.shape))
        return [Value(x.dtype, x.shape)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [np.flip(arrays[0], self.get(node, "axis"))]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(_x(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []

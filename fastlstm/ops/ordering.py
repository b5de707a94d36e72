"""Ops that compare or gather along one axis: ArgMax, ArgMin, TopK, CumSum, GatherElements, ReverseSequence."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastlstm.errors import InputError
from fastlstm.graph import Node
from fastlstm.ops.adjoints import returned
from fastlstm.ops.dims import Dim
from fastlstm.ops.op import (
    Args,
    Arrays,
    Attribute,
    Back,
    HostOp,
    Slot,
    Value,
    axis_of,
    contents,
    expect_shape,
    register,
    required,
    shape_error,
)

INT64 = np.dtype(np.int64)


class ExtremePlace(HostOp):
    """Where along `axis` the extreme stands: the first such place, or with `last` the last. NaN wins."""

    inputs = (Slot("X"),)
    attributes = {
        "axis": Attribute(int, 0),
        "keepdims": Attribute(bool, True),
        "last": Attribute(bool, False),
    }
    place: Callable[..., Any]

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is None:
            return [Value(INT64, None)]
        axis = axis_of(node, self.get(node, "axis"), len(x.shape))
        if x.shape[axis] == 0:
            raise shape_error(node, "input X", x.shape, f"at least one element along axis {axis}")
        kept: tuple[Dim, ...] = (1,) if self.get(node, "keepdims") else ()
        return [Value(INT64, (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x = arrays[0]
        assert x is not None
        axis, keepdims = self.get(node, "axis"), self.get(node, "keepdims")
        if self.get(node, "last"):
            found = x.shape[axis] - 1 - type(self).place(np.flip(x, axis), axis=axis, keepdims=keepdims)
        else:
            found = type(self).place(x, axis=axis, keepdims=keepdims)
        return [np.asarray(found, INT64)]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []


@register
class ArgMax(ExtremePlace):
    """Where the largest element along an axis stands."""

    name = "ArgMax"
    place = staticmethod(np.argmax)


@register
class ArgMin(ExtremePlace):
    """Where the smallest element along an axis stands."""

    name = "ArgMin"
    place = staticmethod(np.argmin)


@register
class TopK(HostOp):
    """The k largest (or smallest) elements along `axis`, in order, and where they stand; of equal ones the first comes first."""

    name = "TopK"
    inputs = (Slot("X"), Slot("k"))
    outputs = ("values", "indices")
    attributes = {"axis": Attribute(int, -1), "largest": Attribute(bool, True)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, k = required(args), contents(args, 1)
        if x.shape is None:
            return [Value(x.dtype, None), Value(INT64, None)]
        axis = axis_of(node, self.get(node, "axis"), len(x.shape))
        count = self._count(node, k)
        size = x.shape[axis]
        if count < 0 or (isinstance(size, int) and count > size):
            raise shape_error(node, "input k", count, f"0 to {size}, the elements along axis {axis}")
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        return [Value(x.dtype, shape), Value(INT64, shape)]

    def unknown(self, node: Node, args: Args) -> list[Value]:
        return [Value(required(args).dtype, None), Value(INT64, None)]

    def _count(self, node: Node, k: np.ndarray | None) -> int:
        if k is None or k.size != 1:
            raise shape_error(node, "input k", None if k is None else k.shape, "one number")
        return int(k.ravel()[0])

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, k = arrays
        assert x is not None
        axis, count = self.get(node, "axis"), self._count(node, k)
        if self.get(node, "largest"):
            # backwards and back again, so that a stable sort has equal elements in their order
            order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
        else:
            order = np.argsort(x, axis=axis, kind="stable")
        order = np.take(order, np.arange(count), axis=axis)
        return [np.take_along_axis(x, order, axis), order.astype(INT64)]

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient of a value goes to where it stood."""
        (x, k), places = back.x, back.y[1] if len(back.y) > 1 else None
        if places is None:
            places = back.node(self.name, [x, k], [False, True], **node.attributes)[1]
        take = lambda values: back.node("GatherElements", [values, places], axis=self.get(node, "axis"))
        return [returned(back, back.dy[0], take, x), None]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        rank = len(required(args).shape or ())
        return [(0, self.get(node, "axis") % rank)] if rank else []


@register
class CumSum(HostOp):
    """The sums of the elements so far along an axis, in order; `exclusive` leaves out the element itself, `reverse` begins at the end."""

    name = "CumSum"
    inputs = (Slot("X"), Slot("axis"))
    attributes = {"exclusive": Attribute(bool, False), "reverse": Attribute(bool, False)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        axis = required(args, 1).data
        if axis is not None:
            self._axis(node, axis, None if x.shape is None else len(x.shape))
        return [Value(x.dtype, x.shape)]

    def _axis(self, node: Node, axis: np.ndarray, rank: int | None) -> int:
        if axis.size != 1:
            raise shape_error(node, "input axis", axis.shape, "one number")
        value = int(axis.ravel()[0])
        return value if rank is None else axis_of(node, value, rank)

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, axis = arrays
        assert x is not None and axis is not None
        along = self._axis(node, axis, x.ndim)
        x = np.flip(x, along) if self.get(node, "reverse") else x
        y = np.empty(x.shape, x.dtype)
        with np.errstate(all="ignore"):
            if self.get(node, "exclusive"):
                moved, source = np.moveaxis(y, along, 0), np.moveaxis(x, along, 0)
                moved[:1] = 0
                np.add.accumulate(source[:-1], axis=0, out=moved[1:], dtype=x.dtype)
            else:
                np.add.accumulate(x, axis=along, out=y, dtype=x.dtype)
        return [np.flip(y, along) if self.get(node, "reverse") else y]

    def adjoint(self, node: Node, back: Back) -> list:
        """The sums from the other end."""
        attributes = {"exclusive": self.get(node, "exclusive"), "reverse": not self.get(node, "reverse")}
        return [back.node(self.name, [back.dy[0], back.x[1]], **attributes), None]


@register
class GatherElements(HostOp):
    """Y[i, j, ...] = X with the index along `axis` replaced by indices[i, j, ...]; negative indices count from the end."""

    name = "GatherElements"
    inputs = (Slot("X"), Slot("indices"))
    attributes = {"axis": Attribute(int, 0)}

    def infer(self, node: Node, args: Args) -> list[Value]:
        x, indices = required(args), required(args, 1)
        if x.shape is not None:
            axis_of(node, self.get(node, "axis"), len(x.shape))
            if indices.shape is not None and len(indices.shape) != len(x.shape):
                raise shape_error(node, "input indices", indices.shape, f"as many axes as X {x.shape}")
        return [Value(x.dtype, indices.shape)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, indices = arrays
        assert x is not None and indices is not None
        axis = self.get(node, "axis") % x.ndim
        size = x.shape[axis]
        if indices.size and not (indices.min() >= -size and indices.max() < size):
            raise InputError(f"node {node.name!r}: an index is out of range for {size} entries (0 to {size - 1})")
        # other axes of indices may be shorter than those of X
        place: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
        place[axis] = np.where(indices < 0, indices + size, indices)
        return [x[tuple(place)]]

    def adjoint(self, node: Node, back: Back) -> list:
        """Each element of X sums the gradients of its copies."""
        x, indices = back.x
        take = lambda values: back.node(self.name, [values, indices], axis=self.get(node, "axis"))
        return [returned(back, back.dy[0], take, x), None]


@register
class ReverseSequence(HostOp):
    """X whose first `lengths[b]` steps are in reverse order in each row b; axes `time_axis` and `batch_axis` are the first two."""

    name = "ReverseSequence"
    refuses = True
    inputs = (Slot("X"), Slot("lengths"))
    attributes = {"time_axis": Attribute(int, 0), "batch_axis": Attribute(int, 1)}

    def check(self, node: Node) -> None:
        super().check(node)
        if {self.get(node, "time_axis"), self.get(node, "batch_axis")} != {0, 1}:
            raise shape_error(node, "time_axis and batch_axis", "others", "0 and 1")

    def infer(self, node: Node, args: Args) -> list[Value]:
        x = required(args)
        if x.shape is not None:
            if len(x.shape) < 2:
                raise shape_error(node, "input X", x.shape, "two axes or more")
            expect_shape(node, args, 1, "input lengths", (x.shape[self.get(node, "batch_axis")],))
        return [Value(x.dtype, x.shape)]

    def compute(self, node: Node, arrays: Arrays) -> list[np.ndarray]:
        x, lengths = arrays
        assert x is not None and lengths is not None
        time = self.get(node, "time_axis")
        T = x.shape[time]
        if lengths.size and not (lengths.min() >= 0 and lengths.max() <= T):
            raise InputError(f"node {node.name!r}: a sequence length is outside 0 to {T}, the steps of X")
        steps, valid = np.arange(T)[:, None], lengths.astype(INT64)[None, :]
        source = np.where(steps < valid, valid - 1 - steps, steps)
        rows = np.arange(x.shape[1 - time])[None, :]
        return [x[source, rows] if time == 0 else x[rows.T, source.T]]

    def adjoint(self, node: Node, back: Back) -> list:
        """Steps go back to where they were, by the same reversal."""
        axes = {"time_axis": self.get(node, "time_axis"), "batch_axis": self.get(node, "batch_axis")}
        return [back.node(self.name, [back.dy[0], back.x[1]], **axes), None]

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        return [(0, self.get(node, "time_axis"))]

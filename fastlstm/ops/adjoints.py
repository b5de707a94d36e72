"""What adjoints have in common: gradients under the shape of the value that they belong to, whether its sizes are numbers or symbols."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from fastlstm.ops import dims
from fastlstm.ops.op import Back


def reshaped(back: Back, d: Any, like: Any) -> Any:
    """Return the elements of d, in their order, under the shape of `like`."""
    if like.value.shape is None:
        return back.node("ReshapeLike", [d, like])
    if d.shape == like.shape:
        return d
    sizes = [dim if isinstance(dim, int) else -1 for dim in like.shape]
    if sizes.count(-1) > 1 or 0 in sizes:
        return back.node("ReshapeLike", [d, like])
    return back.node("Reshape", [d, back.ints(*sizes)])


def expanded(back: Back, d: Any, like: Any) -> Any:
    """Return d broadcast to the shape of `like`."""
    if d.shape == like.shape:
        return d
    if dims.known(like.shape):
        return back.node("Expand", [d, back.ints(*like.shape)])
    return back.node("ExpandLike", [d, like])


def with_axes(back: Back, d: Any, axes: Sequence[int]) -> Any:
    """Return d with axes of size 1 where a reduction took them."""
    return back.node("Unsqueeze", [d, back.ints(*axes)]) if axes else d


def size_of(back: Back, x: Any, axes: Sequence[int]) -> Any:
    """Return how many elements the axes of x have, as a number of the dtype of the gradients."""
    sizes = [x.shape[axis] for axis in axes]
    if dims.known(tuple(sizes)):
        return back.number(float(prod(sizes)))
    chosen = back.node("Gather", [back.node("Shape", [x]), back.ints(*axes)])
    return back.node("Cast", [back.node("ReduceProd", [chosen])], to=x.value.dtype.name)


def numbers(back: Back, count: Any) -> Any:
    """Return 0, 1, 2 ... for as many as a value (1,) says, int64."""
    return back.node("Range", [back.ints(0), count, back.ints(1)])


def returned(back: Back, d: Any, take: Callable[[Any], Any], x: Any) -> Any:
    """Return what of d reaches the elements of x, d being the gradient of elements that `take` takes of a value of x's shape."""
    count = back.node("ReduceProd", [back.node("Shape", [x])], keepdims=True)
    places = take(back.node("ReshapeLike", [numbers(back, count), x]))
    flat = lambda value: back.node("Reshape", [value, back.ints(-1)])
    return reshaped(back, back.node("ScatterAdd", [flat(d), flat(places), flat(x)]), x)


def summed_rows(back: Back, d: Any) -> Any:
    """Return d (..., N) summed over all axes but the last: the gradient of a row that was added to each."""
    return back.node("ReduceSum", [d], axes=tuple(range(len(d.shape) - 1))) if len(d.shape) > 1 else d

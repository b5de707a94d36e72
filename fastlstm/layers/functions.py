"""Layers that join, as functions of lists of symbols or arrays: `concatenate([a, b])` is `Concatenate()([a, b])`."""

from collections.abc import Sequence
from typing import Any

from fastlstm.layers.shaping import Add, Average, Concatenate, Dot, Maximum, Minimum, Multiply, Subtract


def add(inputs: Sequence[Any], **options: Any) -> Any:
    """Return the sum."""
    return Add(**options)(inputs)


def average(inputs: Sequence[Any], **options: Any) -> Any:
    """Return the mean."""
    return Average(**options)(inputs)


def concatenate(inputs: Sequence[Any], axis: int = -1, **options: Any) -> Any:
    """Return the inputs joined along an axis."""
    return Concatenate(axis, **options)(inputs)


def dot(inputs: Sequence[Any], axes: Any, **options: Any) -> Any:
    """Return the products of two inputs, summed over an axis of each."""
    return Dot(axes, **options)(inputs)


def maximum(inputs: Sequence[Any], **options: Any) -> Any:
    """Return the largest, element by element."""
    return Maximum(**options)(inputs)


def minimum(inputs: Sequence[Any], **options: Any) -> Any:
    """Return the smallest, element by element."""
    return Minimum(**options)(inputs)


def multiply(inputs: Sequence[Any], **options: Any) -> Any:
    """Return the product."""
    return Multiply(**options)(inputs)


def subtract(inputs: Sequence[Any], **options: Any) -> Any:
    """Return the first less the second."""
    return Subtract(**options)(inputs)

"""The vocabulary of nodes: one object for each op, one registry, filled by these imports."""

from fastlstm.ops import (
    contractions,
    convolution,
    einsum,
    elementwise,
    entropy,
    lookups,
    masks,
    normalisation,
    one_hot,
    ordering,
    padding,
    rearranging,
    recurrent,
    reductions,
    shape_values,
    steps,
    views,
)
from fastlstm.ops.op import find, registered

__all__ = [
    "contractions",
    "convolution",
    "einsum",
    "elementwise",
    "entropy",
    "find",
    "lookups",
    "masks",
    "normalisation",
    "one_hot",
    "ordering",
    "padding",
    "rearranging",
    "recurrent",
    "reductions",
    "registered",
    "shape_values",
    "steps",
    "views",
]

"""The vocabulary of nodes: one object for each op, one registry, filled by these imports."""

from fastlstm.ops import (
    contractions,
    convolution,
    elementwise,
    lookups,
    masks,
    normalisation,
    one_hot,
    rearranging,
    recurrent,
    shape_values,
    views,
)
from fastlstm.ops.op import find, registered

__all__ = [
    "contractions",
    "convolution",
    "elementwise",
    "find",
    "lookups",
    "masks",
    "normalisation",
    "one_hot",
    "rearranging",
    "recurrent",
    "registered",
    "shape_values",
    "views",
]

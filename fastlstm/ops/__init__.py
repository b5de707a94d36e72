"""The vocabulary of nodes: one object for each op, one registry, filled by these imports."""

from fastlstm.ops import (
    contractions,
    convolution,
    elementwise,
    entropy,
    lookups,
    masks,
    normalisation,
    one_hot,
    rearranging,
    recurrent,
    reductions,
    shape_values,
    squares,
    steps,
    views,
)
from fastlstm.ops.op import find, registered

__all__ = [
    "contractions",
    "convolution",
    "elementwise",
    "entropy",
    "find",
    "lookups",
    "masks",
    "normalisation",
    "one_hot",
    "rearranging",
    "recurrent",
    "reductions",
    "registered",
    "shape_values",
    "squares",
    "steps",
    "views",
]

"""The vocabulary of nodes: one object for each op, one registry, filled by these imports."""

from fastlstm.ops import contractions, elementwise, normalisation, recurrent, shapes
from fastlstm.ops.op import find, registered

__all__ = ["contractions", "elementwise", "find", "normalisation", "recurrent", "registered", "shapes"]

"""Penalties on weights and outputs that add to the loss: Keras's l1, l2 and l1_l2, by name or as objects.

L1: l1 sum |w|        L2: l2 sum w^2        L1L2: both
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastlstm.errors import InputError, one_of


class Regularizer:
    """A penalty: called on a value of a graph (`layers.Tensor`), it adds nodes and returns a scalar."""

    def __call__(self, x: Any) -> Any:
        raise NotImplementedError


class L1L2(Regularizer):
    """l1 times the sum of absolute values plus l2 times the sum of squares."""

    def __init__(self, l1: float = 0.0, l2: float = 0.0):
        for name, value in (("l1", l1), ("l2", l2)):
            if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not 0 <= value < np.inf:
                raise InputError(f"{type(self).__name__}: {name}={value!r}: expected a number of at least 0")
        self.l1, self.l2 = float(l1), float(l2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items() if value)})"

    def __call__(self, x: Any) -> Any:
        name = f"{x.name}/penalty"
        parts = []
        if self.l1:
            parts.append((self.l1, x.build.node(f"{name}.abs", "Abs", [x])))
        if self.l2:
            parts.append((self.l2, x.build.node(f"{name}.square", "Mul", [x, x])))
        total = x.build.weight(f"{name}.none", np.zeros((), x.value.dtype)) if not parts else None
        for factor, terms in parts:
            rate = x.build.weight(f"{name}.rate", np.array(factor, x.value.dtype))
            amount = x.build.node(name, "Mul", [x.build.node(f"{name}.sum", "ReduceSum", [terms]), rate])
            total = amount if total is None else x.build.node(name, "Add", [total, amount])
        return total


class L1(L1L2):
    """l1 times the sum of absolute values."""

    def __init__(self, l1: float = 0.01):
        super().__init__(l1=l1)


class L2(L1L2):
    """l2 times the sum of squares."""

    def __init__(self, l2: float = 0.01):
        super().__init__(l2=l2)


l1, l2, l1_l2 = L1, L2, L1L2
_KNOWN = {"l1": L1, "L1": L1, "l2": L2, "L2": L2, "l1_l2": L1L2, "L1L2": L1L2}


def get(which: Any) -> Regularizer | None:
    """Return a regularizer of a name, of a configuration {"class_name", "config"}, or the object itself; None is none. Raise InputError.

    By name alone every rate is 0.01.
    """
    if which is None or isinstance(which, Regularizer):
        return which
    if which in ("l1_l2", "L1L2"):
        return L1L2(0.01, 0.01)
    name, config = (which.get("class_name"), which.get("config", {})) if isinstance(which, Mapping) else (which, {})
    if isinstance(name, str) and name in _KNOWN:
        return _KNOWN[name](**config)
    raise InputError(f"{which!r} is no regularizer; known: {one_of(_KNOWN)}")

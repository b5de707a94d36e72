"""What Python's operators on symbols mean: x + y, 2 * x, -x, x[:, -1]. Each is a layer without weights, so that models replay it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.errors import InputError, UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.layer import Layer

NAMES = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Neg": "negative"}
END = 2**63 - 1


class Operator(Layer):
    """What stands for an operator: no layer that anyone made."""


class Operation(Operator):
    """An operator of NumPy's meaning on one or two values; a number takes the dtype of the other."""

    several = True

    def __init__(self, op: str):
        super().__init__()
        self.op, self.name = op, NAMES[op]

    def call(self, x: Sequence[Any]) -> Tensor:
        for part in x:
            if not isinstance(part, Tensor | int | float | np.number) or isinstance(part, bool):
                raise self.fault(InputError, f"takes values of a model and numbers, got {type(part).__name__}")
        one = next(part for part in x if isinstance(part, Tensor))
        build, dtype = one.build, one.value.dtype
        given = [
            part if isinstance(part, Tensor) else build.weight(f"{self.name}.number", np.array(part, dtype))
            for part in x
        ]
        return build.node(self.name, self.op, given).with_mask(one.mask)


class GetItem(Operator):
    """x[key], where the key holds whole numbers and slices of positive step."""

    def __init__(self, key: Any):
        super().__init__()
        self.key = key if isinstance(key, tuple) else (key,)

    def call(self, x: Tensor) -> Tensor:
        build, axis = x.build, 0
        parts = self.key
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            missing = len(x.shape) - (len(parts) - 1)
            parts = (*parts[:at], *(slice(None),) * missing, *parts[at + 1 :])
        for part in parts:
            if isinstance(part, int) and not isinstance(part, bool):
                index = build.weight(f"{self.name}.index", np.array(part, np.int64))
                x = build.node(self.name, "Gather", [x, index], axis=axis)
                continue
            if not isinstance(part, slice) or any(
                v is not None and not isinstance(v, int) for v in (part.start, part.stop, part.step)
            ):
                raise self.fault(
                    UnsupportedError, f"the index {part!r} is not supported, only whole numbers and slices"
                )
            if (part.step or 1) < 1:
                raise self.fault(UnsupportedError, f"the step {part.step} is not supported, only those above 0")
            if part != slice(None):
                bounds = (part.start or 0, END if part.stop is None else part.stop, axis, part.step or 1)
                x = build.node(self.name, "Slice", [x, *(build.ints(f"{self.name}.slice", v) for v in bounds)])
            axis += 1
        return x

"""Gradients: the adjoint of a graph, as more nodes of it.

    dv = sum over the readers n of v of (d y_n / d v)' dy_n        for every value v, from the loss backwards

Each op adds the nodes of its own adjoint (`Op.adjoint`), in the vocabulary that models are made of: so the plan runs forward and
adjoint as one program, and a gradient can be differentiated, streamed to float64 and printed like any other value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.graph import Node
from fastlstm.layers.build import Build, Tensor
from fastlstm.ops.adjoints import expanded
from fastlstm.ops.op import find


class _Back:
    """What one node's adjoint sees: see `ops.op.Back`."""

    def __init__(self, build: Build, node: Node, dy: Sequence[Tensor | None], wants: Sequence[bool]):
        self._build, self._name = build, f"d/{node.name}"
        self.x = [Tensor(build, name) if name else None for name in node.inputs]
        self.y = [Tensor(build, name) if name else None for name in node.outputs]
        self.dy, self.wants = list(dy), list(wants)

    def node(
        self, op: str, inputs: Sequence[Tensor | None], outputs: int | Sequence[bool] = 1, **attributes: Any
    ) -> Any:
        return self._build.node(self._name, op, inputs, outputs, **attributes)

    def ints(self, *values: int) -> Tensor:
        return self._build.ints(f"{self._name}.ints", *values)

    def number(self, value: float) -> Tensor:
        dtype = next(d.value.dtype for d in self.dy if d is not None)
        return self._build.weight(f"{self._name}.number", np.array(value, dtype))

    def zeros_like(self, x: Tensor) -> Tensor:
        return expanded(self, self.number(0.0), x)

    def sum_to(self, d: Tensor, like: Tensor) -> Tensor:
        missing = len(d.shape) - len(like.shape)
        axes = [
            axis for axis, dim in enumerate(d.shape) if axis < missing or (like.shape[axis - missing] == 1 and dim != 1)
        ]
        if not axes:
            return d
        summed = self.node("ReduceSum", [d], axes=tuple(axes), keepdims=missing == 0)
        # where axes are missing and others were 1, the latter come back
        if missing and len(axes) > missing:
            ones = [axis - missing for axis in axes if axis >= missing]
            summed = self.node("Unsqueeze", [summed, self.ints(*ones)])
        return summed


def gradients(build: Build, loss: Tensor, wrt: Sequence[Tensor]) -> list[Tensor | None]:
    """Add the adjoint of `loss`, a scalar, to the graph; return the gradient of each of `wrt`, None where loss does not depend on it.

    Raise UnsupportedError, naming the node, where an op on the way has no adjoint.
    """
    if loss.shape != ():
        raise UnsupportedError(f"the loss {loss.name!r} has shape {loss.shape}, expected a scalar ()")
    nodes = list(build.nodes)
    wanted = {tensor.name for tensor in wrt}
    for node in nodes:  # what depends on a wanted value
        if wanted & set(node.inputs):
            wanted.update(name for name in node.outputs if name and build.values[name].dtype.kind == "f")
    found: dict[str, list[Tensor]] = {loss.name: [build.weight("d/loss.one", np.ones((), loss.value.dtype))]}
    for node in reversed(nodes):
        dy = [_total(build, name, found) for name in node.outputs]
        wants = [name in wanted for name in node.inputs]
        if not any(d is not None for d in dy) or not any(wants):
            continue
        back = _Back(build, node, dy, wants)
        results = find(node.op, node.name).adjoint(node, back)
        for name, want, gradient in zip(node.inputs, wants, results, strict=False):
            if want and gradient is not None:
                found.setdefault(name, []).append(gradient)
    return [_total(build, tensor.name, found) for tensor in wrt]


def _total(build: Build, name: str, found: Mapping[str, list[Tensor]]) -> Tensor | None:
    """Return the sum of what reached a value, in the order in which it came; it is added up once."""
    parts = found.get(name, [])
    while len(parts) > 1:
        first, second = parts[0], parts[1]
        parts[:2] = [build.node(f"d/{name}", "Add", [first, second])]
    return parts[0] if parts else None

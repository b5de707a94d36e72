"""Gradients: the adjoint of a graph, as more nodes of it.

    dv = sum over the readers n of v of (d y_n / d v)' dy_n        for every value v, from the loss backwards

Each op adds the nodes of its own adjoint (`Op.adjoint`), in the vocabulary that models are made of: so the plan runs forward and
adjoint as one program, and a gradient can be differentiated, streamed to float64 and printed like any other value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.graph import Graph, Node, TensorSpec
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

    def adjoints_of(self, graphs: Mapping[str, Graph]) -> tuple[dict[str, Graph], list[Tensor]]:
        given = [x for x in self.x if x is not None]
        given = given[len(given) - len(next(iter(graphs.values())).inputs) :]
        branches = {
            role: _Branch(self._build, graph, given, self.dy, self.wants[-len(given) :])
            for role, graph in graphs.items()
        }
        constants = [
            self._build.weight(self._name, array) for one in branches.values() for array in one.constants.values()
        ]
        # every branch takes the constants of all
        specs = [
            replace(spec, name=f"{role}/{spec.name}") for role, one in branches.items() for spec in one.constant_specs
        ]
        return {role: one.graph(role, specs) for role, one in branches.items()}, constants


class _Branch:
    """The adjoint of a subgraph, which computes the subgraph again: from its inputs and the gradients of its outputs to those of the inputs
    that are wanted, zeros where an output does not depend on one."""

    def __init__(
        self, outer: Build, graph: Graph, given: Sequence[Tensor], dy: Sequence[Tensor | None], wants: Sequence[bool]
    ):
        build = self.build = outer.another()
        inputs = []
        for spec, x in zip(graph.inputs, given, strict=True):
            inputs.append(build.input(spec.name, spec.dtype, x.shape))
            build.values[inputs[-1].name] = x.value
        values = dict(zip((spec.name for spec in graph.inputs), inputs, strict=True))
        for node in graph.nodes:
            read, named = [values.get(name) for name in node.inputs], [bool(name) for name in node.outputs]
            made = build.node(node.name, node.op, read, named, node.subgraphs or None, **node.attributes)
            values |= {name: tensor for name, tensor in zip(node.outputs, made, strict=False) if name}
        found: dict[str, list[Tensor]] = {}
        for spec, d in zip(graph.outputs, dy, strict=False):
            if d is not None:
                seed = build.input(f"d/{spec.name}", spec.dtype, values[spec.name].shape)
                found.setdefault(values[spec.name].name, []).append(seed)
        wanted = [x for x, want in zip(inputs, wants, strict=True) if want]
        results = [_like(build, d, x) for d, x in zip(_backwards(build, found, wanted), wanted, strict=True)]
        self.results = build.distinct(results)
        self.nodes = build.live(self.results)
        read = {name for node in self.nodes for name in node.inputs} | {tensor.name for tensor in self.results}
        self.constants = {name: array for name, array in build.weights.items() if name in read}

    @property
    def constant_specs(self) -> list[TensorSpec]:
        return [TensorSpec(name, array.dtype.name, array.shape) for name, array in self.constants.items()]

    def graph(self, role: str, constants: Sequence[TensorSpec]) -> Graph:
        """Return the graph, whose last inputs are the constants of all branches."""
        own = {name: f"{role}/{name}" for name in self.constants}
        renamed = lambda names: tuple(own.get(name, name) for name in names)
        nodes = tuple(replace(node, inputs=renamed(node.inputs)) for node in self.nodes)
        outputs = (TensorSpec(own.get(t.name, t.name), t.value.dtype.name, t.value.shape) for t in self.results)
        return Graph(nodes, (*self.build.inputs, *constants), tuple(outputs))


def _like(build: Build, d: Tensor | None, x: Tensor) -> Tensor:
    """Return the gradient of x, zeros where there is none."""
    if d is None:
        return build.node("d/none", "ExpandLike", [build.weight("zero", np.zeros((), x.value.dtype)), x])
    return d if d.value.shape == x.shape else build.node("d/like", "ReshapeLike", [d, x])


def gradients(build: Build, loss: Tensor, wrt: Sequence[Tensor]) -> list[Tensor | None]:
    """Add the adjoint of `loss`, a scalar, to the graph; return the gradient of each of `wrt`, None where loss does not depend on it.

    Raise UnsupportedError, naming the node, where an op on the way has no adjoint.
    """
    if loss.shape != ():
        raise UnsupportedError(f"the loss {loss.name!r} has shape {loss.shape}, expected a scalar ()")
    return _backwards(build, {loss.name: [build.weight("d/loss.one", np.ones((), loss.value.dtype))]}, wrt)


def _backwards(build: Build, found: dict[str, list[Tensor]], wrt: Sequence[Tensor]) -> list[Tensor | None]:
    """Add the adjoint of all nodes; return the gradients of `wrt`. `found` are those that are known, by the name of a value."""
    nodes = list(build.nodes)
    wanted = {tensor.name for tensor in wrt}
    for node in nodes:  # what depends on a wanted value
        if wanted & set(node.inputs):
            wanted.update(name for name in node.outputs if name and build.values[name].dtype.kind == "f")
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

"""Graph and Node: what a model computes, frozen, independent of the machine and of where it came from.

A *value* is a name. Graph inputs, weights and node outputs share one namespace; a node's inputs are values in the order
of its op's schema, the empty name for an absent one. Nodes stand in topological order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from fastlstm.errors import GraphError

Dim = int | str
AttributeValue = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True)
class TensorSpec:
    """The name, dtype and shape of a graph input or output; a shape holds sizes and symbols, None if its rank is unknown."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{'[?]' if self.shape is None else list(self.shape)}"


@dataclass(frozen=True)
class Node:
    """One step: an op applied to values. `subgraphs` are the bodies of control flow, functions of their own inputs alone."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    subgraphs: Mapping[str, "Graph"] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order between named inputs and outputs."""

    nodes: tuple[Node, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check(self, weights: Mapping[str, object]) -> None:
        """Raise GraphError unless every value has one producer that stands before its consumers.

        Subgraphs are closed: they name no value from outside.
        """
        known: set[str] = set()
        for name in (*(spec.name for spec in self.inputs), *weights):
            if not name or name in known:
                raise GraphError(f"value {name!r} is defined twice" if name else "an input or a weight has no name")
            known.add(name)
        later = {name for node in self.nodes for name in node.outputs if name}
        names: set[str] = set()
        for node in self.nodes:
            if node.name in names:
                raise GraphError(f"two nodes are named {node.name!r}")
            names.add(node.name)
            for value in node.inputs:
                if value and value not in known:
                    raise GraphError(
                        f"node {node.name!r} uses value {value!r} before it is computed: a cycle, or nodes out of order"
                        if value in later
                        else f"node {node.name!r} uses value {value!r}, which is no input, weight or node output"
                    )
            for body in node.subgraphs.values():
                body.check({})
            for value in node.outputs:
                if value in known:
                    raise GraphError(f"value {value!r} is defined twice, the second time by node {node.name!r}")
                if value:
                    known.add(value)
        if not self.outputs:
            raise GraphError("the graph has no outputs")
        for spec in self.outputs:
            if spec.name not in known:
                raise GraphError(f"output {spec.name!r} is computed by no node")

    def walk(self) -> Iterator[Node]:
        """Yield every node, those of subgraphs included."""
        for node in self.nodes:
            yield node
            for body in node.subgraphs.values():
                yield from body.walk()


@dataclass(frozen=True)
class Quantized:
    """An int8 weight: values (..., N) times one float32 scale per output column (N,)."""

    values: np.ndarray
    scale: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    def widen(self) -> np.ndarray:
        """Return the float32 weight."""
        return self.values.astype(np.float32) * self.scale


Weight = np.ndarray | Quantized


def widen(weight: Weight) -> np.ndarray:
    """Return a weight as an array that arithmetic runs on: narrow storage becomes float32."""
    if isinstance(weight, Quantized):
        return weight.widen()
    return weight.astype(np.float32) if weight.dtype == np.float16 else weight

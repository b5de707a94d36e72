"""What a step draws anew for each batch: masks of dropout, and noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastlstm.graph import Dim, Node, TensorSpec
from fastlstm.ops import inference
from fastlstm.ops.op import NeedsValue, Value
from fastlstm.randomness import random_stream
from fastlstm.training.unfused import Draw

DRAWING = 2  # what these streams of random numbers are for; 1 is shuffling


@dataclass
class Source:
    """Where the draws of one step come from: the seed of the network, the number of the step."""

    seed: int
    step: int

    def __post_init__(self) -> None:
        self._shared: np.random.Generator | None = None

    def of(self, draw: Draw) -> np.random.Generator:
        """Return the stream that a draw is taken from: the network's, one draw after the other, or that of a layer's own seed."""
        if draw.seed is not None:
            return random_stream(draw.seed, DRAWING, self.step, 1 + draw.place)
        if self._shared is None:
            self._shared = random_stream(self.seed, DRAWING, self.step)
        return self._shared


def drawn(draw: Draw, sizes: Mapping[str, int], dtype: np.dtype, source: Source) -> np.ndarray:
    """Return a mask of a dropout, 0 with probability `rate`, else 1 / (1 - rate), or normal numbers."""
    shape, random = resolved(draw.shape, sizes), source.of(draw)
    if draw.stddev is not None:
        return random.normal(0.0, draw.stddev, shape).astype(dtype)
    kept = random.random(shape, np.float32) >= draw.rate
    return kept.astype(dtype) * dtype.type(1 / (1 - draw.rate))


def resolved(shape: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a shape with the sizes of its symbols."""
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)


class Sizes:
    """The sizes of the symbols of a graph, for a batch: those of the inputs, and what nodes make of them, such as "64*time"."""

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        draws: Iterable[Draw],
        nodes: Sequence[Node],
        values: Mapping[str, Value],
    ):
        self._specs, self._draws = specs, {draw.name: draw for draw in draws}
        known = {dim for spec in specs for dim in spec.shape or ()}
        made = any(isinstance(dim, str) and dim not in known for draw in self._draws.values() for dim in draw.shape)
        self._nodes, self._values = (list(nodes), dict(values)) if made else ([], {})
        computed = {name for node in self._nodes for name in node.outputs}
        self._given = {name: value for name, value in self._values.items() if name not in computed}

    def of(self, inputs: Sequence[np.ndarray]) -> dict[str, int]:
        """Return the size of each symbol for these arrays."""
        sizes: dict[str, int] = {}
        for spec, array in zip(self._specs, inputs, strict=True):
            sizes.update((d, n) for d, n in zip(spec.shape or (), array.shape, strict=True) if isinstance(d, str))
        if not self._nodes:
            return sizes
        found = dict(self._given)
        for spec, array in zip(self._specs, inputs, strict=True):
            found[spec.name] = Value(array.dtype, array.shape)
        for node in self._nodes:
            for name in node.inputs:
                if name in self._draws:
                    found[name] = Value(self._values[name].dtype, resolved(self._draws[name].shape, sizes))
            try:
                outs = inference.infer_node(node, inference.arguments(node, found))
            except NeedsValue:
                continue
            for name, out in zip(node.outputs, outs, strict=False):
                if name:
                    found[name] = out
                    pairs = zip(self._values[name].shape or (), out.shape or (), strict=False)
                    sizes.update((dim, n) for dim, n in pairs if isinstance(dim, str) and isinstance(n, int))
        return sizes

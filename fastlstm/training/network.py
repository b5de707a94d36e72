"""Network: what the training loop asks of a model."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from fastlstm.graph import TensorSpec
from fastlstm.layers.build import Build, Tensor


class Network(Protocol):
    """Something that can be replayed into a graph, with weights that training moves."""

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """The inputs; the first axis is the batch."""
        ...

    def forward(self, build: Build, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Add the network's nodes to a graph and return its outputs."""
        ...

    def adopt(self, weights: Mapping[str, np.ndarray]) -> None:
        """Let the weights of these names be these arrays, which hold the same numbers: training moves them in place."""
        ...

    def held(self, name: str) -> np.ndarray:
        """Return the array that a weight is: the one that was adopted, or that of another network which shares the weight."""
        ...

"""The networks that are timed, with random weights of a trained network's size, and their cost.

Dims: B rows, T steps, I inputs, H units, G gates. Weights are kept in Keras's layout and order of gates (LSTM i f g o, GRU z r n);
each peer reorders them as it wants. The GRU applies the reset gate after the product (Keras's and PyTorch's form).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

FLOAT = 4  # bytes of a float32
GATES = {"LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class Direction:
    """One direction of one layer: W (I, G*H), U (H, G*H), biases b and bu (G*H,) of the two products."""

    W: np.ndarray
    U: np.ndarray
    b: np.ndarray
    bu: np.ndarray


@dataclass(frozen=True)
class Network:
    """Recurrent layers of one size, maybe bidirectional, maybe followed by a Dense layer at every step."""

    B: int
    T: int
    I: int
    H: int
    cell: str = "LSTM"
    layers: int = 1
    bidirectional: bool = False
    dense: int = 0

    @property
    def dims(self) -> str:
        return f"({self.B}, {self.T}, {self.I}, {self.H})"

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    @property
    def directions(self) -> int:
        return 1 + self.bidirectional

    @property
    def width(self) -> int:
        """The size of the recurrent layers' output."""
        return self.directions * self.H

    def inputs_of(self, layer: int) -> int:
        return self.I if layer == 0 else self.width

    @property
    def input_bytes(self) -> int:
        """Bytes of all W: each is read once a call."""
        parts = [self.inputs_of(layer) * self.gates * self.H * self.directions for layer in range(self.layers)]
        return FLOAT * (sum(parts) + self.dense * self.width)

    @property
    def recurrent_bytes(self) -> int:
        """Bytes of one U: each is read once a step."""
        return FLOAT * self.H * self.gates * self.H

    @property
    def flops(self) -> int:
        """Floating-point operations of the products of one call; a multiply-add counts two."""
        rows = self.B * self.T
        sizes = sum(self.inputs_of(layer) + self.H for layer in range(self.layers))
        return 2 * rows * (sizes * self.gates * self.H * self.directions + self.dense * self.width)

    def x(self, seed: int = 1) -> np.ndarray:
        """Return random inputs (T, B, I)."""
        return np.random.default_rng(seed).standard_normal((self.T, self.B, self.I), np.float32)

    def weights(self) -> list[list[Direction]]:
        """Return the weights of each direction of each layer."""
        return _weights(self.cell, self.I, self.H, self.layers, self.directions)

    def target(self, seed: int = 2) -> np.ndarray:
        """Return what the outputs (T, B, width) of a network in training are compared with."""
        return np.random.default_rng(seed).standard_normal((self.T, self.B, self.width), np.float32)

    def trained(self, part: Direction) -> tuple[np.ndarray, ...]:
        """Return the weights of a direction as Keras has them: those of an LSTM have one bias, those of a GRU b and bu as its rows."""
        return (part.W, part.U, part.b if self.cell == "LSTM" else np.stack([part.b, part.bu]))

    def dense_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the Dense layer's kernel (width, dense) and bias (dense,)."""
        rng = np.random.default_rng(7)
        return _draw(rng, self.width**-0.5, self.width, self.dense), _draw(rng, 0.1, self.dense)


def _draw(rng: np.random.Generator, scale: float, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


@lru_cache(maxsize=4)
def _weights(cell: str, I: int, H: int, layers: int, directions: int) -> list[list[Direction]]:
    rng, columns, result = np.random.default_rng(0), GATES[cell] * H, []
    for layer in range(layers):
        inputs = I if layer == 0 else directions * H
        result.append(
            [
                Direction(
                    _draw(rng, inputs**-0.5, inputs, columns),
                    _draw(rng, H**-0.5, H, columns),
                    _draw(rng, 0.1, columns),
                    _draw(rng, 0.1, columns),
                )
                for _ in range(directions)
            ]
        )
    return result


def reordered(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Return an array whose last axis holds its blocks of gates in another order."""
    blocks = np.split(array, len(order), axis=-1)
    return np.concatenate([blocks[k] for k in order], axis=-1)


def keras_arrays(part: Direction, cell: str) -> list[np.ndarray]:
    """Return the weights of a direction as a layer of Keras's takes them."""
    return [part.W, part.U, part.b + part.bu if cell == "LSTM" else np.stack([part.b, part.bu])]

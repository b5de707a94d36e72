"""Weights as kernels read them: panels of whole vectors, padded with zeros. L lanes, S units rounded up."""

from collections.abc import Sequence

import numpy as np


def pack_panels(gates: int, lanes: int, columns: Sequence[int], slots: int, matrix: np.ndarray) -> np.ndarray:
    """(K, gates * H) -> panels (S/L, K, slots, L) with the gates `columns` in the first slots, zeros elsewhere."""
    K, H = matrix.shape[0], matrix.shape[1] // gates
    blocks = -(-H // lanes)
    padded = np.zeros((K, slots, blocks * lanes), matrix.dtype)
    padded[:, : len(columns), :H] = matrix.reshape(K, gates, H)[:, list(columns)]
    return padded.reshape(K, slots, blocks, lanes).transpose(2, 0, 1, 3)


def pack_columns(lanes: int, matrix: np.ndarray) -> np.ndarray:
    """(K, N) -> panels (N / 4L, K, 4, L), zeros past N."""
    K, N = matrix.shape
    panels = -(-N // (4 * lanes))
    padded = np.zeros((K, panels * 4 * lanes), matrix.dtype)
    padded[:, :N] = matrix
    return padded.reshape(K, panels, 4, lanes).transpose(1, 0, 2, 3)


def pad_units(S: int, matrix: np.ndarray) -> np.ndarray:
    """(n, H) -> (n, S), zeros past H."""
    padded = np.zeros((matrix.shape[0], S), matrix.dtype)
    padded[:, : matrix.shape[1]] = matrix
    return padded

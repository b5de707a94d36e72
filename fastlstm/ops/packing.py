"""Weights as kernels read them: panels of whole vectors, padded with zeros. L lanes, S units rounded up."""

from collections.abc import Sequence

import numpy as np


def tail_of_gates(H: int, lanes: int) -> int:
    """Return the width in vectors of a last panel of H % lanes units by four gates, 0 where that takes a whole panel."""
    left = H % lanes
    return 0 if left == 0 or 2 * left > lanes else 1 if 4 * left <= lanes else 2


def tail_of_columns(N: int, lanes: int) -> int:
    """Return the width in vectors of a last panel of N % 4 lanes columns, 0 where that takes a whole panel."""
    vectors = -(-(N % (4 * lanes)) // lanes)
    return vectors if vectors in (1, 2) else 0


def pack_panels(
    gates: int, lanes: int, columns: Sequence[int], places: Sequence[int], matrix: np.ndarray, tail: int = 0
) -> np.ndarray:
    """(K, gates * H) -> flat panels (S/L, K, len(columns), L) of the gates `columns`, zeros past H.

    A `tail` is a last panel (K, 4, tail * L / 4) with the gates at their `places` of four.
    """
    K, H = matrix.shape[0], matrix.shape[1] // gates
    chosen = matrix.reshape(K, gates, H)[:, list(columns)]
    blocks = H // lanes if tail else -(-H // lanes)
    padded = np.zeros((K, len(columns), blocks * lanes), matrix.dtype)
    whole = min(H, blocks * lanes)
    padded[:, :, :whole] = chosen[:, :, :whole]
    panels = padded.reshape(K, len(columns), blocks, lanes).transpose(2, 0, 1, 3).ravel()
    last = np.zeros((K, 4, tail * lanes // 4), matrix.dtype)
    last[:, list(places), : H - whole] = chosen[:, :, whole:]
    return np.concatenate([panels, last.ravel()])


def pack_bias(lanes: int, gates: np.ndarray, tail: int = 0) -> np.ndarray:
    """(4, H) -> flat (S/L, 4, L), zeros past H; in a tail's part of it the gates are tail * L / 4 apart."""
    H = gates.shape[1]
    blocks = -(-H // lanes)
    whole = H // lanes * lanes if tail else H
    packed = pack_panels(4, lanes, (0, 1, 2, 3), (0, 1, 2, 3), gates[:, :whole].reshape(1, -1))
    packed = np.concatenate([packed, np.zeros(blocks * 4 * lanes - len(packed), gates.dtype)])
    if tail:
        last = np.zeros((4, tail * lanes // 4), gates.dtype)
        last[:, : H - whole] = gates[:, whole:]
        packed[whole * 4 : whole * 4 + last.size] = last.ravel()
    return packed


def pack_columns(lanes: int, matrix: np.ndarray, tail: int) -> np.ndarray:
    """(K, N) -> flat panels (N / 4L, K, 4, L), zeros past N, the last one (K, tail, L) where it is a tail."""
    K, N = matrix.shape
    whole = N // (4 * lanes) * 4 * lanes if tail else N
    panels = -(-whole // (4 * lanes))
    padded = np.zeros((K, panels * 4 * lanes), matrix.dtype)
    padded[:, :whole] = matrix[:, :whole]
    last = np.zeros((K, tail * lanes), matrix.dtype)
    last[:, : N - whole] = matrix[:, whole:]
    return np.concatenate([padded.reshape(K, panels, 4, lanes).transpose(1, 0, 2, 3).ravel(), last.ravel()])


def pack_quantised(group: int, lanes: int, width: int, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Flat panels (P, K, width, L) of int8 and flat scales (P, width, L) -> bytes (P, n) as kernels/quantised.py reads them."""
    scale = scale.reshape(-1, width, lanes)
    panels = values.reshape(len(scale), -1, width, lanes)
    P, K, _, _ = panels.shape
    padded = np.zeros((P, -(-K // 4) * 4, width, lanes), np.int8)
    padded[:, :K] = panels
    if group == 2:
        padded[:, :K, : width - 1 : 2] ^= -128
    turned = padded.reshape(P, -1, group, width, lanes).transpose(0, 1, 3, 4, 2)
    if group == 2:
        groups, paired = turned.shape[1], width // 2 * 2
        pairs = turned[:, :, :paired].reshape(P, groups, -1, 2, lanes, 2).transpose(0, 1, 2, 4, 5, 3)
        parts = pairs, turned[:, :, paired:]
        turned = np.concatenate([part.reshape(P, groups, -1) for part in parts], axis=2)
    sums = scale * panels.sum(axis=1, dtype=np.int64).astype(np.float64)
    factors = np.stack([scale, sums.astype(np.float32)], axis=1)
    return np.concatenate([factors.reshape(P, -1).view(np.int8), turned.reshape(P, -1)], axis=1)


def pack_scaled(lanes: int, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Flat panels (P, K, 4, L) of int8 and flat scales (P, 4, L) -> bytes (P, n) as kernels/scaled.py reads them."""
    scale = np.ascontiguousarray(scale).reshape(-1, 4 * lanes)
    return np.concatenate([scale.view(np.int8), values.reshape(len(scale), -1)], axis=1)


def pad_units(S: int, matrix: np.ndarray) -> np.ndarray:
    """(n, H) -> (n, S), zeros past H."""
    padded = np.zeros((matrix.shape[0], S), matrix.dtype)
    padded[:, : matrix.shape[1]] = matrix
    return padded

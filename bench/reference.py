"""The networks in float64, one line per equation: what every engine is compared with before it is timed."""

import numpy as np

from bench.networks import Direction, Network


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def step(cell: str, x, h, c, part: Direction):
    """Return the next h and c of rows x (B, I); the GRU has no c and hands it on."""
    a, d = x @ part.W + part.b, h @ part.U + part.bu
    if cell == "LSTM":
        i, f, g, o = np.split(a + d, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (az, ar, an), (dz, dr, dn) = np.split(a, 3, axis=1), np.split(d, 3, axis=1)
    z = sigmoid(az + dz)
    return z * h + (1 - z) * np.tanh(an + sigmoid(ar + dr) * dn), c


def wide(part: Direction) -> Direction:
    """Return the weights in float64."""
    return Direction(*(np.asarray(array, np.float64) for array in (part.W, part.U, part.b, part.bu)))


def _layer(network: Network, x: np.ndarray, part: Direction, valid: np.ndarray, reverse: bool) -> np.ndarray:
    part, (T, B, _) = wide(part), x.shape
    h, c = np.zeros((B, network.H)), np.zeros((B, network.H))
    ys = np.zeros((T, B, network.H))
    for t in reversed(range(T)) if reverse else range(T):
        after = step(network.cell, x[t], h, c, part)
        h, c = (np.where(valid[t][:, None], new, old) for new, old in zip(after, (h, c), strict=True))
        ys[t] = np.where(valid[t][:, None], h, 0)
    return ys


def run(network: Network, x: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Return the outputs (T, B, width or dense) of x (T, B, I), zero past each row's length."""
    T, B = x.shape[:2]
    valid = np.arange(T)[:, None] < (np.full(B, T) if lengths is None else lengths)
    y = x.astype(np.float64)
    for parts in network.weights():
        y = np.concatenate([_layer(network, y, part, valid, d == 1) for d, part in enumerate(parts)], axis=2)
    if network.dense:
        kernel, bias = network.dense_weights()
        y = y @ kernel.astype(np.float64) + bias
    return y


def arrivals(network: Network, ticks) -> np.ndarray:
    """Return the outputs (S, n, H) of streams of which each tick advances some."""
    part = wide(network.weights()[0][0])
    h, c = np.zeros((network.B, network.H)), np.zeros((network.B, network.H))
    ys = []
    for rows, x in ticks:
        h[rows], c[rows] = step(network.cell, x, h[rows], c[rows], part)
        ys.append(h[rows])
    return np.stack(ys)

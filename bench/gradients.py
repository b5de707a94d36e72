"""Gradients of the networks in float64, one line per equation: what every engine's are compared with before they are timed.

loss = mean (y - target)^2        over all outputs of all steps
"""

from typing import NamedTuple

import numpy as np

from bench.networks import Direction, Network
from bench.reference import sigmoid, wide


class Tape(NamedTuple):
    """What the adjoint of one direction reads: its input (T, B, I) and, by step in processing order, times, states before and after, gates."""

    x: np.ndarray
    steps: list[tuple]


def _forward(cell: str, x: np.ndarray, part: Direction, reverse: bool) -> tuple[np.ndarray, Tape]:
    T, B, _ = x.shape
    H = len(part.U)
    h, c, ys, steps = np.zeros((B, H)), np.zeros((B, H)), np.zeros((T, B, H)), []
    for t in reversed(range(T)) if reverse else range(T):
        a, d, before = x[t] @ part.W + part.b, h @ part.U + part.bu, (h, c)
        if cell == "LSTM":
            i, f, g, o = np.split(a + d, 4, axis=1)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c + i * g
            h, gates = o * np.tanh(c), (i, f, g, o)
        else:
            (az, ar, an), (dz, dr, dn) = np.split(a, 3, axis=1), np.split(d, 3, axis=1)
            z, r = sigmoid(az + dz), sigmoid(ar + dr)
            n = np.tanh(an + r * dn)
            h, gates = z * h + (1 - z) * n, (z, r, n, dn)
        ys[t] = h
        steps.append((t, *before, c, gates))
    return ys, Tape(x, steps)


def _adjoint(cell: str, tape: Tape, dy: np.ndarray, part: Direction) -> tuple[np.ndarray, Direction]:
    """Return dx, and the gradients of the weights."""
    dx, (_, B, H) = np.zeros(tape.x.shape), dy.shape
    total = Direction(*(np.zeros(array.shape) for array in (part.W, part.U, part.b, part.bu)))
    dh, dc = np.zeros((B, H)), np.zeros((B, H))
    for t, h, c, c_after, gates in reversed(tape.steps):
        dh = dh + dy[t]
        past = 0.0
        if cell == "LSTM":
            i, f, g, o = gates
            tanh_c = np.tanh(c_after)
            dc = dc + dh * o * (1 - tanh_c**2)
            parts = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)
            da = dd = np.concatenate(parts, axis=1)
            dc = dc * f
        else:
            z, r, n, dn = gates
            d_n = dh * (1 - z) * (1 - n**2)
            d_z, d_r = dh * (h - n) * z * (1 - z), d_n * dn * r * (1 - r)
            da, dd = np.concatenate((d_z, d_r, d_n), axis=1), np.concatenate((d_z, d_r, d_n * r), axis=1)
            past = dh * z
        for array, grown in zip(
            (total.W, total.U, total.b, total.bu), (tape.x[t].T @ da, h.T @ dd, da.sum(0), dd.sum(0)), strict=True
        ):
            array += grown
        dx[t], dh = da @ part.W.T, past + dd @ part.U.T
    return dx, total


def gradients(network: Network, x: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """Return the gradients of the weights in the order of `Network.trained`, for x (T, B, I) and target (T, B, width)."""
    tapes, y = [], x.astype(np.float64)
    layers = [[wide(part) for part in parts] for parts in network.weights()]
    for parts in layers:
        runs = [_forward(network.cell, y, part, k == 1) for k, part in enumerate(parts)]
        y = np.concatenate([ys for ys, _ in runs], axis=2)
        tapes.append([tape for _, tape in runs])
    dy, found = 2 * (y - target) / y.size, []
    for parts, tape in zip(reversed(layers), reversed(tapes), strict=True):
        shares = np.split(dy, network.directions, axis=2)
        results = [_adjoint(network.cell, *each, part) for *each, part in zip(tape, shares, parts, strict=True)]
        dy = sum(dx for dx, _ in results)
        found = [array for _, total in results for array in network.trained(total)] + found
    return found

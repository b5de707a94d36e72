"""Central differences in float64: the oracle of every adjoint."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fastlstm import Session
from fastlstm.layers.build import Build, Tensor
from fastlstm.training.gradient import gradients

STEP = 1e-6


def run(build: Build, outputs: Sequence[Tensor], feeds: Mapping[str, np.ndarray], threads: int = 1) -> list[np.ndarray]:
    """Return these values of a graph for these inputs."""
    results = Session(build.model(outputs), threads=threads).run(dict(feeds))
    return [results[tensor.name] for tensor in outputs]


def projected(build: Build, y: Tensor, weight: Tensor) -> Tensor:
    """Return the scalar sum of y times constant weights: a loss that sees every element of y apart."""
    return build.node("loss", "ReduceSum", [build.node("loss.product", "Mul", [y, weight])])


def central(call: Callable[[dict], float], feeds: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return d call / d feeds[name], element by element."""
    result = np.zeros(feeds[name].shape)
    for index in np.ndindex(result.shape):
        values = []
        for side in (1.0, -1.0):
            moved = {key: array.copy() for key, array in feeds.items()}
            moved[name][index] += side * STEP
            values.append(call(moved))
        result[index] = (values[0] - values[1]) / (2 * STEP)
    return result


def error(build: Build, loss: Tensor, feeds: Mapping[str, np.ndarray], wrt: Sequence[Tensor]) -> float:
    """Return the largest distance of the adjoint from central differences, relative to the norm of each gradient."""
    found = run(build, [loss, *(d for d in gradients(build, loss, wrt) if d is not None)], feeds)
    session = Session(build.model([loss]))
    worst = 0.0
    for tensor, got in zip(wrt, found[1:], strict=True):
        assert got.shape == feeds[tensor.name].shape
        expected = central(lambda moved: float(session.run(moved)[loss.name]), feeds, tensor.name)
        worst = max(worst, float(np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-3)))
    return worst

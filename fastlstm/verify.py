"""Verification: a model's outputs against a recorded example, or against the engine that it comes from."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastlstm import engines
from fastlstm.errors import VerificationError
from fastlstm.format import Example
from fastlstm.graph import Graph, Quantized, Weight
from fastlstm.model import Model
from fastlstm.session import Session

# What rounding in float32, and narrower storage of the weights, may change, times max(1, |y|).
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "int8": 1e-1}


@dataclass(frozen=True)
class Report:
    """What a verification found: the largest difference, of max(1, |y|), and where; `passed` is within the tolerance."""

    engine: str
    difference: float
    output: str
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "verified" if self.passed else "NOT verified"
        return f"{verdict} against {self.engine}: largest difference {self.difference:.2g} (output {self.output!r}, tolerance {self.tolerance:g})"


def storage(weights: Mapping[str, Weight]) -> str:
    """Return the narrowest storage among the weights: float32, float16 or int8."""
    if any(isinstance(weight, Quantized) for weight in weights.values()):
        return "int8"
    return (
        "float16" if any(isinstance(w, np.ndarray) and w.dtype == np.float16 for w in weights.values()) else "float32"
    )


def compare(model: Model, example: Example, session: Session | None = None) -> Report:
    """Run the model on the example's inputs and return the largest difference from its outputs.

    Raise VerificationError where an output has another shape.
    """
    results = (session or Session(model)).run(dict(example.inputs))
    worst, where = -1.0, ""
    for name, expected in example.outputs.items():
        got = results[name]
        if got.shape != expected.shape:
            raise VerificationError(f"output {name!r} has shape {got.shape}, {example.engine} gave {expected.shape}")
        wide, wanted = got.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.abs(wide - wanted) / np.maximum(1, np.abs(wanted))
        same = (wide == wanted) | (np.isnan(wide) & np.isnan(wanted))
        largest = float(np.where(same, 0, np.where(np.isnan(difference), np.inf, difference)).max(initial=0.0))
        if largest > worst:
            worst, where = largest, name
    return Report(example.engine, worst, where, TOLERANCE[storage(model.weights)])


def verify(model: Model) -> Report | None:
    """Compare a model with its recorded example; None if it has none."""
    return None if model.example is None else compare(model, model.example)


def verify_against(model: Model, source: str | os.PathLike, batch: int = 3, steps: int = 7) -> tuple[Report, Example]:
    """Rerun the source model in its engine, on the recorded inputs or on random ones, and compare.

    Return the report and the engine's outputs as an example. Raise VerificationError where no engine runs the source.
    """
    inputs = random_inputs(model, batch, steps) if model.example is None else model.example.inputs
    bound = {
        name: np.array(value, dtype) for name, (dtype, value) in json.loads(model.metadata.get("bound", "{}")).items()
    }
    example = engines.rerun(source, {**inputs, **bound}, [spec.name for spec in model.graph.outputs])
    example = Example(inputs, example.outputs, example.engine)
    return compare(model, example), example


def random_inputs(model: Model, batch: int = 3, steps: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random inputs that fit the model: ids within their tables, lengths within the steps, else normal values."""
    rng = np.random.default_rng(seed)
    axes = Session(model).axes
    arrays = {}
    for spec in model.graph.inputs:
        shape = []
        for k, dim in enumerate(spec.shape or ()):
            free = batch if axes.batch.get(spec.name) == k or (k == 0 and spec.name not in axes.batch) else steps
            shape.append(free if isinstance(dim, str) else dim)
        limit = _id_limit(model.graph, model.weights, spec.name)
        if limit is not None:
            array = rng.integers(0, limit, shape)
        elif spec.dtype == "bool":
            array = rng.random(shape) < 0.7
        elif np.dtype(spec.dtype).kind in "iu":
            array = rng.integers(1, steps + 1, shape)
        else:
            array = rng.standard_normal(shape)
        arrays[spec.name] = array.astype(spec.dtype)
    return arrays


def _id_limit(graph: Graph, weights: Mapping[str, Weight], name: str) -> int | None:
    """Return the number of entries of the table that an input indexes, None if it indexes none."""
    for node in graph.nodes:
        if name not in node.inputs:
            continue
        table = {"Embedding": (0, 1), "Gather": (1, 0)}.get(node.op)
        if table and node.inputs[table[0]] == name and node.inputs[table[1]] in weights:
            return int(weights[node.inputs[table[1]]].shape[int(node.attributes.get("axis", 0))])  # type: ignore[arg-type]
        if node.op in ("Cast", "Identity", "Transpose", "Reshape"):
            found = _id_limit(graph, weights, node.outputs[0])
            if found is not None:
                return found
    return None

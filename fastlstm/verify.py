"""Verification: a model's outputs against a recorded example, or against the engine that it comes from."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from fastlstm import engines
from fastlstm.errors import LimitError, VerificationError
from fastlstm.format import Example
from fastlstm.graph import Graph, Weight
from fastlstm.model import Model, storage
from fastlstm.session import Session

# What rounding in float32, and narrower storage of the weights, may change, times max(1, |y|).
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "int8": 1e-1}
MAX_ELEMENTS = 1 << 28  # of a random input


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


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference of two arrays of one shape, of max(1, |wanted|); infinite where one alone is NaN."""
    wide, reference = got.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(wide - reference) / np.maximum(1, np.abs(reference))
    same = (wide == reference) | (np.isnan(wide) & np.isnan(reference))
    return float(np.where(same, 0, np.where(np.isnan(apart), np.inf, apart)).max(initial=0.0))


def compare(model: Model, example: Example, session: Session | None = None) -> Report:
    """Run the model on the example's inputs and return the largest difference from its outputs.

    Raise VerificationError where an output is absent or has another shape.
    """
    if not example.outputs:
        raise VerificationError(f"the example of {example.engine} has no outputs to compare with")
    results = (session or Session(model)).run(dict(example.inputs))
    worst = []
    for name, expected in example.outputs.items():
        got = results.get(name)
        if got is None or got.shape != expected.shape:
            ours = "is absent" if got is None else f"has shape {got.shape}"
            raise VerificationError(f"output {name!r} {ours}, {example.engine} gave {expected.shape}")
        worst.append((difference(got, expected), name))
    largest, where = max(worst, key=lambda pair: pair[0])
    return Report(example.engine, largest, where, TOLERANCE[storage(model.weights)])


def check_agree(runners: Mapping[str, Callable[[], Mapping[str, np.ndarray]]], tolerance: float = 1e-4) -> float:
    """Return the largest difference of the outputs of runners from the first's. Raise VerificationError beyond the tolerance."""
    (first, ours), *others = ((name, run()) for name, run in runners.items())
    worst = 0.0
    for other, theirs in others:
        for name, expected in theirs.items():
            if name not in ours or np.shape(ours[name]) != np.shape(expected):
                raise VerificationError(f"{first} and {other} do not run one model: output {name!r} differs in shape")
            apart = difference(ours[name], expected)
            if not apart <= tolerance:
                raise VerificationError(f"{first} and {other} differ by {apart:.2g} in output {name!r}: not timed")
            worst = max(worst, apart)
    return worst


def verify(model: Model) -> Report | None:
    """Compare a model with its recorded example; None if it has none."""
    return None if model.example is None else compare(model, model.example)


def reference(model: Model, source: str | os.PathLike, batch: int = 3, steps: int = 7) -> Example:
    """Run the source model in its own engine, on the recorded inputs or on random ones.

    Raise NoReferenceError where no installed engine runs it.
    """
    inputs = source_inputs(model, batch, steps) if model.example is None else model.example.inputs
    names = [spec.name for spec in model.graph.outputs]
    arrays, engine = engines.rerun(source, {**inputs, **bound_inputs(model)})
    if len(arrays) != len(names):
        raise VerificationError(f"{engine} gives {len(arrays)} outputs, the converted model has {len(names)}")
    return Example(inputs, dict(zip(names, arrays, strict=True)), engine)


def verify_against(model: Model, source: str | os.PathLike, batch: int = 3, steps: int = 7) -> tuple[Report, Example]:
    """Rerun the source model in its engine and compare; return the report and the engine's outputs as an example.

    Raise NoReferenceError where no installed engine runs it.
    """
    example = reference(model, source, batch, steps)
    return compare(model, example), example


def bound_inputs(model: Model) -> dict[str, np.ndarray]:
    """Return the inputs of the source that became constants of the model, which its engine still takes."""
    bound = json.loads(model.metadata.get("bound", "{}"))
    return {name: np.array(value, dtype) for name, (dtype, value) in bound.items()}


def source_inputs(model: Model, batch: int = 3, steps: int = 7) -> dict[str, np.ndarray]:
    """Return random inputs that the source engine takes too: with the number of steps that its file fixes."""
    return random_inputs(model, batch, steps, fixed=json.loads(model.metadata.get("source_steps", "{}")))


def random_inputs(
    model: Model, batch: int = 3, steps: int = 7, seed: int = 0, fixed: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Return random inputs that fit the model: ids within their tables, lengths within the steps, else normal values.

    `fixed` gives inputs a number of steps of their own. Raise LimitError beyond MAX_ELEMENTS.
    """
    rng = np.random.default_rng(seed)
    axes = Session(model).axes
    arrays = {}
    for spec in model.graph.inputs:
        shape = []
        for k, dim in enumerate(spec.shape or ()):
            along = steps if fixed is None or axes.time.get(spec.name) != k else fixed.get(spec.name, steps)
            free = batch if axes.batch.get(spec.name) == k or (k == 0 and spec.name not in axes.batch) else along
            shape.append(free if isinstance(dim, str) else dim)
        if prod(shape) > MAX_ELEMENTS:
            raise LimitError(f"input {spec.name!r} would have shape {shape}: more than {MAX_ELEMENTS:,} elements")
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
    """Return the number of entries of what an input indexes, None if it indexes nothing."""
    for node in graph.nodes:
        if name not in node.inputs:
            continue
        table = {"Embedding": (0, 1), "Gather": (1, 0)}.get(node.op)
        if table and node.inputs[table[0]] == name and node.inputs[table[1]] in weights:
            return int(weights[node.inputs[table[1]]].shape[int(node.attributes.get("axis", 0))])  # type: ignore[arg-type]
        depth = weights.get(node.inputs[1]) if node.op == "OneHot" and node.inputs[0] == name else None
        if isinstance(depth, np.ndarray):
            return int(depth.item())
        if node.op in ("Cast", "Identity", "Transpose", "Reshape"):
            found = _id_limit(graph, weights, node.outputs[0])
            if found is not None:
                return found
    return None

"""The documentation says what the code does."""

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import fenced

from fastlstm import callbacks, layers, losses, metrics, optimizers
from fastlstm.converters import from_onnx, keras_layers, onnx_graph
from fastlstm.layers.activations import KERAS
from fastlstm.ops import registered
from fastlstm.optimizers import schedules

DOCS = Path(__file__).parents[1] / "docs"
NO_LAYERS = {"Build", "Input", "InputLayer", "Lambda", "Layer", "Symbol", "Tensor"}
assert from_onnx  # fills the registry of handlers


def _listed(after: str) -> set[str]:
    text = (DOCS / "supported.md").read_text()
    paragraph = text[text.index(after) + len(after) :].split("\n\n")[0].split(". ")[0].split(";")[0]
    return set(re.findall(r"`([^`]+)`", paragraph))


def _classes(module: ModuleType, base: type) -> set[str]:
    """Return the names of the module's public classes of a kind, but the kind itself."""
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name for name, value in found.items() if isinstance(value, type) and issubclass(value, base)} - {
        base.__name__
    }


@pytest.mark.parametrize(
    ("after", "names"),
    [
        ("Layers: ", set(keras_layers._handlers)),
        ("Activations: ", set(KERAS)),
        ("Built from: ", {name for name in layers.__all__ if name not in NO_LAYERS and not name.islower()}),
        ("As functions: ", {name for name in layers.__all__ if name.islower()}),
        ("Operators: ", set(onnx_graph.handlers)),
        ("The ops of a fastlstm file: ", set(registered())),
        ("Layers to train: ", _classes(layers, layers.Layer) - {"Lambda"}),
        ("Optimizers: ", _classes(optimizers, optimizers.Optimizer)),
        ("Schedules: ", _classes(schedules, schedules.LearningRateSchedule)),
        ("Losses: ", _classes(losses, losses.Loss)),
        ("Metrics: ", _classes(metrics, metrics.Metric) - {"Mean", "MeanMetricWrapper"}),
        ("Callbacks: ", _classes(callbacks, callbacks.Callback)),
    ],
    ids=[
        "layers",
        "activations",
        "models",
        "functions",
        "onnx",
        "ops",
        "trained layers",
        "optimizers",
        "schedules",
        "losses",
        "metrics",
        "callbacks",
    ],
)
def test_the_lists_of_what_is_supported_are_the_registries(after, names):
    assert _listed(after) == names


def _programs(engine: str) -> list[str]:
    return fenced("from-keras.md", f"python {engine}")


def test_programs_for_keras_and_for_fastlstm_differ_in_their_imports_alone():
    theirs, ours = _programs("keras"), _programs("fastlstm")
    assert len(ours) == 3
    for a, b in zip(theirs, ours, strict=True):
        (a_imports, a_body), (b_imports, b_body) = (text.split("\n\n", 1) for text in (a, b))
        assert a_body == b_body
        assert all(line.startswith("from keras") for line in a_imports.splitlines())
        assert all(line.startswith("from fastlstm") for line in b_imports.splitlines())


def test_programs_from_keras_run():
    rng = np.random.default_rng(0)
    names = {
        "reviews": [rng.integers(1, 1000, rng.integers(3, 30)).tolist() for _ in range(80)],
        "sentiments": rng.integers(0, 2, 80),
        "windows": rng.normal(size=(80, 12, 1)).astype(np.float32),
        "following": rng.normal(size=(80, 1)).astype(np.float32),
        "sentences": rng.integers(1, 50, (64, 7)),
        "translations": rng.integers(1, 60, (64, 9)),
    }
    for program in _programs("fastlstm"):
        exec(compile(program, "from-keras.md", "exec"), names)
    assert 0 <= names["accuracy"] <= 1
    assert names["forecast"].shape == (10, 1)
    assert names["chances"].shape == (1, 1, 60)
    assert names["h"].shape == (1, 32)


def test_links_between_documents_lead_somewhere():
    root = DOCS.parent
    for page in [*root.glob("*.md"), *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"

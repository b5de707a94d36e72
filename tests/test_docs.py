"""The documentation says what the code does."""

import re
from pathlib import Path

import pytest

from fastlstm import layers
from fastlstm.converters import from_onnx, keras_layers, onnx_graph
from fastlstm.layers.activations import KERAS
from fastlstm.ops import registered

DOCS = Path(__file__).parents[1] / "docs"
NO_LAYERS = {"Build", "Input", "InputLayer", "Lambda", "Layer", "Symbol", "Tensor"}
assert from_onnx  # fills the registry of handlers


def _listed(after: str) -> set[str]:
    text = (DOCS / "supported.md").read_text()
    paragraph = text[text.index(after) + len(after) :].split("\n\n")[0].split(". ")[0].split(";")[0]
    return set(re.findall(r"`([^`]+)`", paragraph))


@pytest.mark.parametrize(
    ("after", "names"),
    [
        ("Layers: ", set(keras_layers._handlers)),
        ("Activations: ", set(KERAS)),
        ("Built from: ", {name for name in layers.__all__ if name not in NO_LAYERS}),
        ("Operators: ", set(onnx_graph.handlers)),
        ("The ops of a fastlstm file: ", set(registered())),
    ],
    ids=["layers", "activations", "models", "onnx", "ops"],
)
def test_the_lists_of_what_is_supported_are_the_registries(after, names):
    assert _listed(after) == names


def test_links_between_documents_lead_somewhere():
    root = DOCS.parent
    for page in [*root.glob("*.md"), *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"

"""Keras's layers that read texts: a model takes the numbers that they gave instead, and keeps how they made them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastlstm.converters._keras_config import Config, layer_name
from fastlstm.converters.keras_layers import Context, Keys
from fastlstm.errors import UnsupportedError
from fastlstm.text import SPLITS, STANDARDS, Vocabulary

LAYERS = ("TextVectorization", "StringLookup")


@dataclass(frozen=True)
class Text:
    """An input of texts, until the layer that reads it says what numbers stand for them."""

    name: str
    shape: Sequence[object]
    mask: None = None


def vocabulary(
    layer: Config, of: Text | None, context: Context, words: Callable[[Config], list[str] | None]
) -> Vocabulary:
    """Return what a layer made of texts of a shape (None: not asked); `words(layer)` finds its vocabulary in the file where the configuration has none.

    Raise UnsupportedError, naming layer, key and value.
    """
    keys = Keys({**layer, "config": {**layer["config"], "dtype": None}}, context)
    text = keys.class_name == "TextVectorization"
    shape = [None, 1] if of is None else list(of.shape)
    if shape[1:] not in ([], [1]) if text else len(shape) != 2:
        raise UnsupportedError(
            f"layer {keys.name!r} ({keys.class_name}): texts of shape {tuple(shape)} are not supported"
        )
    for key in ("ragged", "sparse"):
        if keys.take(key):
            raise keys.refuse(key)
    for key in (
        "max_tokens",
        "pad_to_max_tokens",
        "vocabulary_size",
        "batch_input_shape",
        "oov_method",
        "has_input_vocabulary",
    ):
        keys.take(key)
    for key, known in (
        ("output_mode", ("int",)),
        ("encoding", ("utf-8",)),
        ("num_oov_indices", (1,)),
        ("mask_token", ("", None)),
    ):
        if keys.take(key, known[0]) not in known:
            raise keys.refuse(key)
    standardize, split = (keys.take(key) if text else None for key in ("standardize", "split"))
    if standardize not in STANDARDS:
        raise keys.refuse("standardize")
    if split not in SPLITS or (text and split is None):
        raise keys.refuse("split")
    steps, unknown = keys.take("output_sequence_length"), str(keys.take("oov_token", "[UNK]"))
    given = keys.take("vocabulary")
    tokens = words(layer) if given is None else given
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens) or not tokens:
        raise UnsupportedError(
            f"layer {keys.name!r} ({keys.class_name}): the file does not hold its vocabulary, which is not supported; save it as .keras"
        )
    before = ["", unknown] if text or layer["config"].get("mask_token") == "" else [unknown]
    tokens = tokens if tokens[: len(before)] == before else before + tokens
    keys.finish()
    return Vocabulary(tokens, before.index(unknown), standardize, split, steps)


def refuse_text(layer: Config, x: Any) -> None:
    """Raise UnsupportedError if a layer that is none of these reads texts."""
    parts = x if isinstance(x, list | tuple) else [x]
    if any(isinstance(part, Text) for part in parts):
        raise UnsupportedError(
            f"layer {layer_name(layer)!r} ({layer['class_name']}) reads texts, which is not supported, only by {' and '.join(LAYERS)}"
        )

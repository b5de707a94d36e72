"""Texts for models whose first layer looked words up: what Keras's TextVectorization and StringLookup did, kept beside the model.

A graph holds numbers alone. Such a model takes the numbers of words, and its metadata says how texts become them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fastlstm.errors import InputError, ModelFileError, one_of
from fastlstm.format import canonical
from fastlstm.model import Model

KEY = "text"  # of the metadata
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}  # as TensorFlow does without an encoding
_PUNCTUATION = re.compile(r"[!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~']")
_SPACES = re.compile(r"[ \t\n\v\f\r]+")
STANDARDS = ("lower_and_strip_punctuation", "lower", "strip_punctuation", None)
SPLITS = ("whitespace", "character", None)


@dataclass(frozen=True)
class Vocabulary:
    """Turns texts into the numbers of their words; what it does not know has the number `unknown`.

    tokens: the words, a word's number being its place.
    split: "whitespace", "character", or None where texts come as lists of words.
    steps: how many numbers a row has, longer texts being cut; None: as many as the longest text. Rows are filled with 0.
    """

    tokens: Sequence[str]
    unknown: int
    standardize: str | None = None
    split: str | None = None
    steps: int | None = None
    _numbers: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "_numbers", {token: k for k, token in enumerate(self.tokens)})

    def __call__(self, texts: Sequence[Any]) -> np.ndarray:
        """Return the numbers (B, T) of texts, int64; of a list of words each, where nothing splits them. Raise InputError for anything else.

        >>> vocabulary(["the cat sat", "a dog"])
        """
        wanted = "a list of texts" if self.split else "a list of lists of words of one length"
        if isinstance(texts, str):
            raise InputError(f"texts={texts!r}: expected {wanted}")
        rows = [[self._numbers.get(token, self.unknown) for token in self._tokens(text, wanted)] for text in texts]
        steps = max(map(len, rows), default=0) if self.steps is None else self.steps
        if self.split is None and any(len(row) != steps for row in rows):
            raise InputError(f"texts of {sorted({len(row) for row in rows})} words: expected {wanted}")
        return np.array([(row + [0] * (steps - len(row)))[:steps] for row in rows], np.int64).reshape(len(rows), steps)

    def _tokens(self, text: Any, wanted: str) -> Sequence[str]:
        if self.split is None:
            if isinstance(text, str) or not all(isinstance(token, str) for token in text):
                raise InputError(f"a text {text!r}: expected {wanted}")
            return text
        if not isinstance(text, str):
            raise InputError(f"a text {text!r}: expected {wanted}")
        if self.standardize in ("lower", "lower_and_strip_punctuation"):
            text = text.translate(_LOWER)
        if self.standardize in ("strip_punctuation", "lower_and_strip_punctuation"):
            text = _PUNCTUATION.sub("", text)
        return list(text) if self.split == "character" else [token for token in _SPACES.split(text) if token]


def kept(vocabularies: Mapping[str, Vocabulary]) -> str:
    """Return the vocabularies of inputs as the text that metadata holds."""
    return canonical(
        {name: {k: v for k, v in asdict(one).items() if k[0] != "_"} for name, one in vocabularies.items()}
    )


def vocabularies(model: Model) -> dict[str, Vocabulary]:
    """Return the vocabularies of a model's inputs by name, none where it takes no texts. Raise ModelFileError for damaged ones.

    >>> texts = fastlstm.text.vocabularies(model)
    >>> session.run({name: vocabulary(["the cat sat"]) for name, vocabulary in texts.items()})
    """
    if KEY not in model.metadata:
        return {}
    try:
        return {name: _checked(**given) for name, given in json.loads(model.metadata[KEY]).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"the model's vocabularies are damaged: {error}") from error


def _checked(tokens: list[str], unknown: int, standardize: Any, split: Any, steps: Any) -> Vocabulary:
    good: list[Callable[[], bool]] = [
        lambda: isinstance(tokens, list) and all(isinstance(token, str) for token in tokens),
        lambda: type(unknown) is int and unknown >= 0,
        lambda: standardize in STANDARDS and split in SPLITS,
        lambda: steps is None or (type(steps) is int and 0 < steps < 2**31),
    ]
    if not all(check() for check in good):
        raise ValueError(
            f"expected texts, numbers, one of {one_of(map(str, STANDARDS))} and one of {one_of(map(str, SPLITS))}"
        )
    return Vocabulary(tokens, unknown, standardize, split, steps)

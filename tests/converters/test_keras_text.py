"""Texts for models whose first layer looked words up. What is expected here is what Keras 3.15 gave."""

import io
import json
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyfive")
pytest.importorskip("h5py")

from test_keras_file import keras_file, layer, sequential

import fastlstm
from fastlstm.converters.from_keras import from_keras
from fastlstm.errors import InputError, ModelFileError, UnsupportedError
from fastlstm.text import Vocabulary, vocabularies

WORDS = ["", "[UNK]", "the", "dog", "cat", "a", "sat", "ran", "away"]
TEXTS = ["the cat sat", "the dog ran away", "a cat, a dog!", "zebra cat"]
NUMBERS = [[2, 4, 6, 0, 0], [2, 3, 7, 8, 0], [5, 4, 5, 3, 0], [1, 4, 0, 0, 0]]
TABLE = np.random.default_rng(0).standard_normal((9, 3)).astype("f4")


def text_layer(class_name: str = "TextVectorization", **more: Any) -> dict[str, Any]:
    common = {"trainable": True, "dtype": "float32", "max_tokens": None, "output_mode": "int", "sparse": False,
              "pad_to_max_tokens": False, "idf_weights": None, "vocabulary": None, "encoding": "utf-8", "vocabulary_size": 9}  # fmt: skip
    own: dict[str, Any] = {"invert": False, "num_oov_indices": 1, "oov_token": "[UNK]", "mask_token": None}
    if class_name == "TextVectorization":
        own = {"standardize": "lower_and_strip_punctuation", "split": "whitespace", "ngrams": None, "output_sequence_length": 5, "ragged": False}  # fmt: skip
    return layer(class_name, "words", **{**common, **own, **more})


def file_of(
    one: dict[str, Any],
    shape: tuple = (),
    words: list[str] | None = None,
    folder: str = "text_vectorization/_lookup_layer",
) -> bytes:
    """Return a .keras file of a text input, its layer and an Embedding; `words` become its asset."""
    config = sequential(
        layer("InputLayer", "texts", batch_shape=[None, *shape], dtype="string"),
        one,
        layer("Embedding", "table", trainable=True, dtype="float32", input_dim=9, output_dim=3),
    )
    data = keras_file({"layers/embedding/vars/0": TABLE}, config)
    if words is None:
        return data
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(f"assets/layers/{folder}/vocabulary.txt", "\n".join(words))
    return buffer.getvalue()


@pytest.mark.parametrize("data", [file_of(text_layer(), words=WORDS), file_of(text_layer(vocabulary=WORDS[2:]), (1,))])
def test_a_model_of_texts_takes_the_numbers_of_words(data, tmp_path):
    """The vocabulary stands beside the weights, or in the configuration, there without the tokens that Keras adds."""
    from_keras(data).save(tmp_path / "model.safetensors")
    model = fastlstm.load(tmp_path / "model.safetensors")
    (vocabulary,) = vocabularies(model).values()
    assert vocabulary(TEXTS).tolist() == NUMBERS
    session = fastlstm.Session(model)
    np.testing.assert_array_equal(session.run(vocabulary(TEXTS)), TABLE[np.array(NUMBERS)])


def test_words_that_nothing_splits_come_as_lists():
    model = from_keras(file_of(text_layer("StringLookup", vocabulary=["a", "b"]), (None,)))
    vocabulary = vocabularies(model)["texts"]
    assert vocabulary([["a", "z"]]).tolist() == [[1, 0]]
    masked = from_keras(file_of(text_layer("StringLookup", mask_token=""), (2,), ["", "[UNK]", "a"], "string_lookup"))
    assert vocabularies(masked)["texts"]([["a", "z"], ["", "a"]]).tolist() == [[2, 1], [0, 2]]
    with pytest.raises(InputError, match="lists of words"):
        vocabulary(["a b"])
    with pytest.raises(InputError, match="of one length"):
        vocabulary([["a"], ["a", "b"]])


@pytest.mark.parametrize(
    ("standardize", "split", "text", "tokens"),
    [
        ("lower_and_strip_punctuation", "whitespace", "It's  A-B,\tÉté!\n", ["its", "ab", "Été"]),
        ("lower", "whitespace", "It's A-B", ["it's", "a-b"]),
        ("strip_punctuation", "whitespace", "It's A_B c", ["Its", "AB", "c"]),
        (None, "character", "Aé ", ["A", "é", " "]),
    ],
)
def test_texts_are_split_as_tensorflow_does(standardize, split, text, tokens):
    """Only the letters A to Z get lower, and only ASCII's spaces part words."""
    vocabulary = Vocabulary(["", "[UNK]", *tokens], 1, standardize, split)
    assert vocabulary([text]).tolist() == [list(range(2, 2 + len(tokens)))]


def test_rows_are_filled_up_to_the_longest_or_cut_to_a_length():
    assert Vocabulary(WORDS, 1, None, "whitespace")(["a", "the cat"]).tolist() == [[5, 0], [2, 4]]
    assert Vocabulary(WORDS, 1, None, "whitespace", 1)(["a", "the cat"]).tolist() == [[5], [2]]
    assert Vocabulary(WORDS, 1, None, "whitespace", 3)([]).shape == (0, 3)
    with pytest.raises(InputError, match="a list of texts"):
        Vocabulary(WORDS, 1, None, "whitespace")("a")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (file_of(text_layer()), "does not hold its vocabulary"),
        (file_of(text_layer(ngrams=2), words=WORDS), "ngrams=2"),
        (file_of(text_layer(output_mode="count"), words=WORDS), "output_mode='count'"),
        (file_of(text_layer(ragged=True), words=WORDS), "ragged=True"),
        (file_of(text_layer(split="sentences"), words=WORDS), "split='sentences'"),
        (file_of(text_layer(standardize={"class_name": "function", "config": "mine"}), words=WORDS), "standardize="),
        (file_of(text_layer("StringLookup", vocabulary=["a"], num_oov_indices=2), (None,)), "num_oov_indices=2"),
        (file_of(text_layer("StringLookup", vocabulary=["a"], invert=True), (None,)), "invert=True"),
        (file_of(text_layer("StringLookup", vocabulary=["a"])), "shape"),
        (file_of(layer("Flatten", "flat")), "reads texts"),
    ],
)
def test_what_is_not_honoured_is_refused_by_layer_key_and_value(data, words):
    with pytest.raises(UnsupportedError, match=f"layer '.*{words}"):
        from_keras(data)


def test_a_damaged_vocabulary_is_a_clear_error():
    model = from_keras(file_of(text_layer(), words=WORDS))
    for damage in (
        "{",
        "[]",
        '{"texts": 1}',
        json.dumps({"texts": {"tokens": [1], "unknown": 1, "standardize": None, "split": None, "steps": None}}),
    ):
        with pytest.raises(ModelFileError, match="vocabular"):
            vocabularies(replace(model, metadata={**model.metadata, "text": damage}))
    data = io.BytesIO(file_of(text_layer()))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("assets/layers/text_vectorization/_lookup_layer/vocabulary.txt", b"\xff\xfe")
    with pytest.raises(ModelFileError, match="vocabulary of layer 'words' is damaged"):
        from_keras(data.getvalue())

"""Data helpers that programs for Keras lean on: padded sequences, sliding windows, one-hot classes, a tokenizer of words or characters, and
the labels that CTC's logits spell."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fastlstm.decoding import ctc_decode
from fastlstm.errors import InputError, ModelFileError, ShapeError
from fastlstm.randomness import generator

__all__ = [
    "FILTERS", "Tokenizer", "ctc_decode", "pad_sequences", "timeseries_windows", "to_categorical", "tokenizer_from_json",
]  # fmt: skip

FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: Any = 0.0,
) -> np.ndarray:
    """Return sequences (T, ...) as one array (B, maxlen, ...); without `maxlen` as long as the longest.

    What is too short is filled with `value` in front ("pre") or behind ("post"), what is too long cut there. Raise InputError, ShapeError.

    >>> pad_sequences([[1, 2], [3]])
    array([[1, 2],
           [0, 3]], dtype=int32)
    """
    for argument, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise InputError(f"{argument}={given!r}: expected 'pre' or 'post'")
    if any(np.ndim(one) == 0 for one in sequences):
        raise InputError("pad_sequences takes a list of sequences, each a list or an array")
    rows = [np.asarray(one) for one in sequences]
    rest = next((row.shape[1:] for row in rows if len(row)), ())
    longest = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    padded = np.full((len(rows), longest, *rest), value, dtype)
    for k, row in enumerate(rows):
        if not len(row) or not longest:
            continue
        if row.shape[1:] != rest:
            raise ShapeError(f"sequence {k} has steps of shape {row.shape[1:]}, the others {rest}")
        kept = row[-longest:] if truncating == "pre" else row[:longest]
        place = slice(longest - len(kept), None) if padding == "pre" else slice(len(kept))
        padded[k, place] = kept.astype(dtype)
    return padded


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """Return classes (...) as one-hot rows (..., num_classes), float64 as in Keras; a last axis of size 1 is left out.

    Raise InputError for what is no class from 0 to num_classes - 1.
    """
    given = np.asarray(x)
    classes = given.astype(np.int64)
    if (classes != given).any():
        raise InputError("to_categorical takes whole numbers")
    if classes.ndim > 1 and classes.shape[-1] == 1:
        classes = classes[..., 0]
    count = num_classes or (int(classes.max()) + 1 if classes.size else 0)
    if classes.size and (classes.min() < 0 or classes.max() >= count):
        bad = classes.min() if classes.min() < 0 else classes.max()
        raise InputError(f"to_categorical: a class is {bad}, expected 0 to {count - 1}")
    return (classes[..., None] == np.arange(count)).astype(np.float64)


def timeseries_windows(
    series: Any, steps: int, horizon: int = 1, stride: int = 1, targets: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return windows x (N, steps, F) of a series (T,) or (T, F), and what comes next: y (N, horizon), of several columns (N, horizon, F).

    For a horizon of 1 y is (N, F). `stride` is the distance of two windows; `targets` another series of T, or a column number, to predict in
    place of the series. x shares the memory of the series. Raise InputError where no window fits.

    >>> x, y = timeseries_windows([1, 2, 3, 4], steps=2)
    >>> x[:, :, 0], y
    (array([[1, 2],
           [2, 3]]), array([[3],
           [4]]))
    """
    for argument, number in (("steps", steps), ("horizon", horizon), ("stride", stride)):
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
            raise InputError(f"{argument}={number!r}: expected a whole number of at least 1")
    values = np.asarray(series)
    if values.ndim not in (1, 2):
        raise ShapeError(f"the series has shape {values.shape}, expected (T,) or (T, F)")
    rows = values[:, None] if values.ndim == 1 else values
    if targets is None:
        wanted = values
    elif isinstance(targets, int | np.integer):
        wanted = rows[:, targets]
    else:
        wanted = np.asarray(targets)
        if len(wanted) != len(rows):
            raise ShapeError(f"targets have {len(wanted)} steps, the series {len(rows)}")
    count = len(rows) - steps - horizon + 1
    if count < 1:
        raise InputError(
            f"a window of {steps} steps and {horizon} to predict need {steps + horizon} steps, the series has {len(rows)}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(rows, steps, axis=0)
    x = np.moveaxis(windows, -1, 1)[:count:stride]
    ahead = np.lib.stride_tricks.sliding_window_view(wanted[steps:], horizon, axis=0)[:count:stride]
    if wanted.ndim == 1:
        return x, np.ascontiguousarray(ahead)
    y = np.moveaxis(ahead, -1, 1)
    return x, np.ascontiguousarray(y[:, 0] if horizon == 1 else y)


class TimeseriesGenerator:
    """Batches (x, y) of windows of a series, for `fit`: x (batch_size, length, ...) steps of `data`, y the step of `targets` that follows.

    Arguments and numbers are Keras's. Of each window every `sampling_rate`-th step is taken, in order or with `reverse` the other way; `stride` is
    the distance of two windows. With `shuffle` windows are drawn at random.

    >>> model.fit(TimeseriesGenerator(series, series, length=12, batch_size=16), epochs=5)
    """

    def __init__(
        self,
        data: Any,
        targets: Any,
        length: int,
        sampling_rate: int = 1,
        stride: int = 1,
        start_index: int = 0,
        end_index: int | None = None,
        shuffle: bool = False,
        reverse: bool = False,
        batch_size: int = 128,
    ):
        self.data, self.targets = np.asarray(data), np.asarray(targets)
        if len(self.data) != len(self.targets):
            raise ShapeError(f"the data have {len(self.data)} steps, the targets {len(self.targets)}")
        self.length, self.sampling_rate, self.stride = length, sampling_rate, stride
        self.start_index, self.end_index = start_index + length, len(self.data) - 1 if end_index is None else end_index
        self.shuffle, self.reverse, self.batch_size = shuffle, reverse, batch_size
        if self.start_index > self.end_index:
            raise InputError(
                f"no window of {length} steps and one to predict fits between steps {start_index} and {self.end_index}"
            )

    def __len__(self) -> int:
        span = self.batch_size * self.stride
        return (self.end_index - self.start_index + span) // span

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self.shuffle:
            ends = generator().integers(self.start_index, self.end_index + 1, self.batch_size)
        else:
            first = self.start_index + self.batch_size * self.stride * index
            ends = np.arange(first, min(first + self.batch_size * self.stride, self.end_index + 1), self.stride)
        x = np.array([self.data[end - self.length : end : self.sampling_rate] for end in ends])
        return x[:, ::-1] if self.reverse else x, self.targets[ends]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[index] for index in range(len(self)))


class Tokenizer:
    """Words, or characters with `char_level`, as numbers from 1 on, the most frequent first; 0 is for padding.

    `num_words` keeps the words with numbers below it; others are left out, or become `oov_token` if that is given, which has number 1.
    Meanings, attributes and JSON are Keras's.

    >>> tokenizer = Tokenizer(num_words=1000, oov_token="<unknown>")
    >>> tokenizer.fit_on_texts(texts)
    >>> x = pad_sequences(tokenizer.texts_to_sequences(texts), maxlen=100)
    """

    def __init__(
        self,
        num_words: int | None = None,
        filters: str = FILTERS,
        lower: bool = True,
        split: str = " ",
        char_level: bool = False,
        oov_token: str | None = None,
    ):
        self.num_words, self.filters, self.lower, self.split = num_words, filters, lower, split
        self.char_level, self.oov_token = char_level, oov_token
        self.document_count = 0
        self.word_counts: dict[str, int] = {}
        self.word_docs: dict[str, int] = {}
        self.index_docs: dict[int, int] = {}
        self.word_index: dict[str, int] = {}
        self.index_word: dict[int, str] = {}

    def fit_on_texts(self, texts: Iterable[str | Sequence[str]]) -> None:
        """Count words of texts, or of lists of words; later calls add to earlier ones."""
        if isinstance(texts, str):
            raise InputError("fit_on_texts takes a list of texts, got one text")
        for text in texts:
            self.document_count += 1
            words = self._words(text)
            for word in words:
                self.word_counts[word] = self.word_counts.get(word, 0) + 1
            for word in dict.fromkeys(words):
                self.word_docs[word] = self.word_docs.get(word, 0) + 1
        ordered = sorted(self.word_counts, key=lambda word: -self.word_counts[word])
        known = ordered if self.oov_token is None else [self.oov_token, *ordered]
        # a text that holds the token itself moves it to the place of that word, as in Keras
        self.word_index = dict(zip(known, range(1, len(known) + 1), strict=True))
        self.index_word = {number: word for word, number in self.word_index.items()}
        self.index_docs = {self.word_index[word]: count for word, count in self.word_docs.items()}

    def _words(self, text: str | Sequence[str]) -> list[str]:
        if self.char_level or not isinstance(text, str):
            return [one.lower() for one in text] if self.lower else list(text)
        text = text.lower() if self.lower else text
        return [
            word for word in text.translate(dict.fromkeys(map(ord, self.filters), self.split)).split(self.split) if word
        ]

    def _known(self, number: int | None) -> int | None:
        """Return a number that is kept, that of the token for unknown words in place of another, None where there is none."""
        if number is not None and not (self.num_words and number >= self.num_words):
            return number
        return None if self.oov_token is None else self.word_index.get(self.oov_token)

    def texts_to_sequences(self, texts: Iterable[str | Sequence[str]]) -> list[list[int]]:
        """Return texts as lists of numbers."""
        if isinstance(texts, str):
            raise InputError("texts_to_sequences takes a list of texts, got one text")
        found = ([self._known(self.word_index.get(word)) for word in self._words(text)] for text in texts)
        return [[number for number in numbers if number is not None] for numbers in found]

    def sequences_to_texts(self, sequences: Iterable[Iterable[int]]) -> list[str]:
        """Return the words of sequences of numbers with spaces between."""
        found = (
            (self._known(int(n) if int(n) in self.index_word else None) for n in sequence) for sequence in sequences
        )
        return [" ".join(self.index_word[n] for n in numbers if n is not None) for numbers in found]

    def texts_to_matrix(self, texts: Iterable[str | Sequence[str]], mode: str = "binary") -> np.ndarray:
        """Return texts as rows (words,): which words are there ("binary"), how often ("count", "freq"), or "tfidf"."""
        return self.sequences_to_matrix(self.texts_to_sequences(texts), mode)

    def sequences_to_matrix(self, sequences: Sequence[Sequence[int]], mode: str = "binary") -> np.ndarray:
        """Return sequences of numbers as rows, as `texts_to_matrix` does. Raise InputError before texts were seen."""
        if mode not in ("binary", "count", "freq", "tfidf"):
            raise InputError(f"mode={mode!r}: expected 'binary', 'count', 'freq' or 'tfidf'")
        if not self.num_words and not self.word_index:
            raise InputError("a Tokenizer without num_words has to see texts first: fit_on_texts")
        size = self.num_words or len(self.word_index) + 1
        counts = np.zeros((len(sequences), size))
        for row, sequence in zip(counts, sequences, strict=True):
            np.add.at(row, [n for n in sequence if n < size], 1)
        if mode == "count":
            return counts
        if mode == "binary":
            return (counts > 0).astype(np.float64)
        if mode == "freq":
            lengths = np.array([max(1, len(sequence)) for sequence in sequences])
            return counts / lengths[:, None]
        documents = np.array([self.index_docs.get(n, 0) for n in range(size)])
        weights = np.log(1 + self.document_count / (1 + documents))
        return np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * weights

    def to_json(self) -> str:
        """Return all of it as JSON, as Keras writes it: `Tokenizer.from_json` reads it, and what Keras wrote."""
        numbers = {
            name: json.dumps(getattr(self, name))
            for name in ("word_counts", "word_docs", "index_docs", "index_word", "word_index")
        }
        options = {name: getattr(self, name) for name in ("num_words", "filters", "lower", "split", "char_level", "oov_token")}  # fmt: skip
        config = {**options, "document_count": self.document_count, **numbers}
        return json.dumps({"class_name": "Tokenizer", "config": config})

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Return the tokenizer of a JSON text. Raise ModelFileError where it is of none."""
        try:
            config = dict(json.loads(text)["config"])
            tables = {name: json.loads(config.pop(name)) for name in ("word_counts", "word_docs", "index_docs", "index_word", "word_index")}  # fmt: skip
            count = int(config.pop("document_count"))
            config.pop("analyzer", None)
            tokenizer = cls(**config)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"this is no JSON of a tokenizer: {error!r}") from error
        tokenizer.document_count = count
        for name, table in tables.items():
            setattr(
                tokenizer, name, {int(k): v for k, v in table.items()} if name.startswith("index_") else dict(table)
            )
        return tokenizer


def tokenizer_from_json(text: str) -> Tokenizer:
    """Return the tokenizer of a JSON text, as `Tokenizer.from_json`."""
    return Tokenizer.from_json(text)

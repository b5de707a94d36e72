"""Every error that fastlstm raises on purpose.

    FastLSTMError
    ├── ModelFileError      a file that is damaged, hostile, or not what it claims to be
    ├── GraphError          a graph that is not well formed: a cycle, an unknown op, a missing weight
    ├── UnsupportedError    legal in the source, not honoured here: names node, attribute and value
    ├── ShapeError          an array or weight of the wrong shape (also a ValueError)
    ├── DTypeError          an array of the wrong dtype (also a TypeError)
    ├── InputError          a wrong name, value or argument of a call (also a ValueError)
    ├── StreamError         a model that cannot stream, or a stream used wrongly
    ├── TrainingError       training that cannot go on: a loss that is not finite
    ├── LimitError          a cap on memory or work that would be exceeded, known before allocation
    ├── MissingExtraError   an optional package that is needed and absent (also an ImportError)
    └── VerificationError   outputs that do not agree with the reference

Messages say what, where, got, wanted, and what to do.
"""

from collections.abc import Iterable


class FastLSTMError(Exception):
    """The root of the tree: `except fastlstm.FastLSTMError` catches whatever fastlstm raises on purpose."""


class ModelFileError(FastLSTMError):
    """A model file is damaged, hostile, or not of the kind it claims to be."""


class GraphError(FastLSTMError):
    """A graph is not well formed."""


class UnsupportedError(FastLSTMError):
    """Something legal in the source model is not honoured by fastlstm, so it is refused by name."""


class ShapeError(FastLSTMError, ValueError):
    """An array or a weight has the wrong shape."""


class DTypeError(FastLSTMError, TypeError):
    """An array has a dtype that cannot be used."""


class InputError(FastLSTMError, ValueError):
    """A call names an unknown input, lacks one, or passes a value out of range."""


class StreamError(FastLSTMError):
    """A model cannot stream, or a stream is used wrongly."""


class TrainingError(FastLSTMError):
    """Training cannot go on: the loss is NaN or infinite."""

    def __init__(self, message: str, loss: float = float("nan")):
        super().__init__(message)
        self.loss = loss


class LimitError(FastLSTMError):
    """A documented cap on memory or work would be exceeded."""


class MissingExtraError(FastLSTMError, ImportError):
    """An optional package is needed; the message holds the exact install line."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package '{package}': pip install 'fastlstm[{extra}]'")


class VerificationError(FastLSTMError):
    """The outputs of a model do not agree with its recorded reference."""


def one_of(names: Iterable[str]) -> str:
    """List what exists, for a message about something that does not."""
    return ", ".join(repr(name) for name in sorted(names))

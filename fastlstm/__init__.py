"""fastlstm: recurrent networks on a CPU, right, fast and small.

>>> model = fastlstm.convert("model.keras")
>>> session = fastlstm.Session(model)
>>> y = session.run(x)
"""

from importlib import import_module

from fastlstm.errors import (
    DTypeError,
    FastLSTMError,
    GraphError,
    InputError,
    LimitError,
    MissingExtraError,
    ModelFileError,
    ShapeError,
    StreamError,
    TrainingError,
    UnsupportedError,
    VerificationError,
)
from fastlstm.version import VERSION

TYPE_CHECKING = False  # a type checker takes it for typing's, which is slow to import
if TYPE_CHECKING:
    from typing import Any

    from fastlstm import (
        callbacks,
        constraints,
        data,
        initializers,
        layers,
        losses,
        metrics,
        models,
        optimizers,
        regularizers,
        text,
    )
    from fastlstm.ahead import warmup
    from fastlstm.converters import convert
    from fastlstm.format import Example
    from fastlstm.model import Model, load
    from fastlstm.models import Input, Sequential, ctc, gru, lstm, rnn
    from fastlstm.randomness import set_random_seed
    from fastlstm.session import Session
    from fastlstm.stream import State, Stream
    from fastlstm.training.trainable import value_and_grad

__version__ = VERSION

# Everything but the errors is imported when it is first used: NumPy and the file format, converters, kernels.
_LATER = {
    "Example": "fastlstm.format",
    "Input": "fastlstm.layers.symbolic",
    "Model": "fastlstm.model",
    "Sequential": "fastlstm.models.model",
    "Session": "fastlstm.session",
    "State": "fastlstm.stream",
    "Stream": "fastlstm.stream",
    "convert": "fastlstm.converters",
    "ctc": "fastlstm.models.functions",
    "gru": "fastlstm.models.functions",
    "load": "fastlstm.model",
    "value_and_grad": "fastlstm.training.trainable",
    "lstm": "fastlstm.models.functions",
    "rnn": "fastlstm.models.functions",
    "set_random_seed": "fastlstm.randomness",
    "warmup": "fastlstm.ahead",
}
_NAMESPACES = (
    "callbacks",
    "constraints",
    "data",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "regularizers",
    "text",
)


def __getattr__(name: str) -> "Any":
    if name in _NAMESPACES:
        return import_module(f"fastlstm.{name}")
    if name not in _LATER:
        raise AttributeError(f"module 'fastlstm' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "DTypeError",
    "Example",
    "FastLSTMError",
    "GraphError",
    "Input",
    "InputError",
    "LimitError",
    "MissingExtraError",
    "Model",
    "ModelFileError",
    "Sequential",
    "Session",
    "ShapeError",
    "State",
    "Stream",
    "StreamError",
    "TrainingError",
    "UnsupportedError",
    "VerificationError",
    "callbacks",
    "constraints",
    "convert",
    "ctc",
    "data",
    "gru",
    "initializers",
    "layers",
    "load",
    "losses",
    "lstm",
    "metrics",
    "models",
    "optimizers",
    "regularizers",
    "rnn",
    "set_random_seed",
    "text",
    "value_and_grad",
    "warmup",
]

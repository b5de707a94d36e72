"""Converters: trained Keras files and ONNX graphs become models. Installed as `fastlstm.converters`."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

if __name__ != "fastlstm.converters":
    raise ImportError(
        f"import this package as fastlstm.converters, not as {__name__}: its registries would exist twice"
    )

from fastlstm.container import opened
from fastlstm.converters.keras_shards import is_index
from fastlstm.errors import (
    DTypeError,
    FastLSTMError,
    GraphError,
    InputError,
    LimitError,
    ModelFileError,
    ShapeError,
    UnsupportedError,
    one_of,
)
from fastlstm.format import Example
from fastlstm.model import Model

MAX_BYTES = 2 << 30
ZIP = b"PK\x03\x04"


def sniff(data: bytes) -> str | None:
    """Tell by its bytes what a file is: "keras", "onnx", "fastlstm", or None."""
    if data.startswith((b"\x89HDF\r\n\x1a\n", ZIP)) or is_index(data):
        return "keras"
    if len(data) > 16 and int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{":
        return "fastlstm"
    # a ModelProto starts with its ir_version (field 1, a small number), or with any other of its fields
    return "onnx" if data[:1] in (b"\x08", b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42") else None


def convert(
    path: str | os.PathLike,
    inputs: Mapping[str, Any] | None = None,
    architecture: Any = None,
    example: Example | str | os.PathLike | None = None,
    custom: Mapping[str, Callable[[dict[str, Any]], Any]] | None = None,
    external_data: str | os.PathLike | None = None,
) -> Model:
    """Return the model of a trained Keras file (.keras, .h5) or an ONNX graph, told apart by content, not by name.

    inputs: values for graph inputs, which become constants and are folded, such as {"sr": 16000}.
    architecture: for a weights-only Keras file, what `model.to_json()` gave: a dict, JSON text or its path.
    example: a recorded input and the source engine's output, or an .npz with in_<name> and out_<name> arrays.
    custom: builders for Keras classes of your own: {"Name": builder}, builder(config) returning a fastlstm.layers layer.
    external_data: the folder of the files that an ONNX graph, or an index of Keras weights, keeps tensors in; without it such a one is refused.
    Raise UnsupportedError naming what is not honoured, ModelFileError for a damaged file, MissingExtraError.

    >>> model = fastlstm.convert("model.keras")
    """
    path = Path(path)
    if path.is_dir():
        raise UnsupportedError(
            f"{path} is a folder; if it is a SavedModel, load it where it was made and model.save('model.keras')"
        )
    if architecture is not None:
        from fastlstm.converters.keras_file import read_architecture

        architecture = read_architecture(architecture)
    with opened(path) as (file, size):
        if size > MAX_BYTES:
            raise ModelFileError(f"has {size} bytes, the limit is {MAX_BYTES}")
        source = file if file.peek(4).startswith(ZIP) else file.read()  # of an archive only its members are kept
        model = _attempt(source, inputs or {}, architecture, custom or {}, str(path), external_data)
    if isinstance(model, FastLSTMError):
        raise model
    model = replace(model, metadata={**model.metadata, "source_name": path.name})
    return model if example is None else replace(model, example=read_example(example, model))


def read_source(path: Path) -> bytes:
    """Return the bytes of a source file. Raise ModelFileError if there are too many."""
    with opened(path) as (file, size):
        if size > MAX_BYTES:
            raise ModelFileError(f"has {size} bytes, the limit is {MAX_BYTES}")
        return file.read()


def _attempt(source: bytes | BinaryIO, *given: Any) -> Model | FastLSTMError:
    """Return the model, or the error, which names the file and keeps its kind when it is raised after the file is closed."""
    where = given[3]
    try:
        return _convert(source, *given)
    except (DTypeError, GraphError, LimitError, ModelFileError, ShapeError, UnsupportedError) as error:
        if str(error).startswith(where):
            return error
        named = type(error)(f"{where}: {error}")
        named.__cause__ = error
        return named
    except FastLSTMError as error:  # of the call, or of what is installed, not of the file
        return error


def _convert(
    source: bytes | BinaryIO,
    inputs: Mapping[str, Any],
    architecture: Any,
    custom: Mapping[str, Callable],
    where: str,
    external_data: str | os.PathLike | None,
) -> Model:
    kind = sniff(source) if isinstance(source, bytes) else "keras"
    if kind == "keras":
        from fastlstm.converters.from_keras import from_keras

        if inputs:
            raise InputError(f"inputs={dict(inputs)!r}: only inputs of ONNX graphs can be bound")
        if external_data is not None and not (isinstance(source, bytes) and is_index(source)):
            raise InputError("external_data is for ONNX graphs and indices of Keras weights; this is a Keras file")
        return from_keras(source, architecture, custom, where, external_data)
    assert isinstance(source, bytes)
    if kind == "fastlstm":
        raise ModelFileError("a safetensors file, not a Keras file or ONNX graph; fastlstm.load opens fastlstm's own")
    if kind is None:
        raise ModelFileError(f"neither a Keras file nor an ONNX graph: it starts with {source[:8]!r}")
    from fastlstm.converters.from_onnx import from_onnx

    if architecture is not None or custom:
        raise InputError("architecture and custom are for Keras files; this is an ONNX graph")
    return from_onnx(source, inputs, external_data)


EXPORTS = (".keras", ".onnx")


def exported(model: Model, path: str | os.PathLike, opset: int | None = None, right_padded: bool = False) -> bytes:
    """Return the bytes of a model as a Keras 3 file or an ONNX graph, as the suffix of `path` says; what is meant by the rest, `Model.export`."""
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        from fastlstm.converters.to_onnx import to_onnx

        return to_onnx(model, opset, right_padded)
    if suffix != ".keras":
        raise InputError(f"export to {path}: the name ends in none of {one_of(EXPORTS)}")
    if opset is not None or right_padded:
        raise InputError("opset and right_padded are for ONNX graphs; a .keras file has masks")
    from fastlstm.converters.to_keras import keras_bytes

    return keras_bytes(model)


def read_example(example: Example | str | os.PathLike, model: Model) -> Example:
    """Return a recorded example whose names and shapes are the model's; positions (in_0, out_0) become names."""
    if not isinstance(example, Example):
        path = Path(example)
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"example {path}: not a readable .npz file: {error}") from error
        except Exception as error:  # zipfile and zlib have errors of their own
            raise InputError(f"example {path}: damaged: {error}") from error
        engine = str(arrays.pop("engine", f"the outputs in {path.name}"))
        given, expected = (
            {n.removeprefix(p): a for n, a in arrays.items() if n.startswith(p)} for p in ("in_", "out_")
        )
        example = Example(given, expected, engine)
    given = _by_name(example.inputs, [spec.name for spec in model.graph.inputs], "input")
    expected = _by_name(example.outputs, [spec.name for spec in model.graph.outputs], "output")
    if not expected:
        raise InputError("the example has no outputs: out_<name> or out_0")
    return Example(given, expected, example.engine)


def _by_name(arrays: Mapping[str, np.ndarray], names: Sequence[str], role: str) -> dict[str, np.ndarray]:
    if set(arrays) <= set(names) and (role == "output" or set(arrays) == set(names)):
        return dict(arrays)
    if arrays and set(arrays) == {str(k) for k in range(len(arrays))} and len(arrays) == len(names):
        return {name: arrays[str(k)] for k, name in enumerate(names)}
    raise InputError(f"the example has the {role}s {one_of(arrays) or 'none'}; the model has {one_of(names)}")

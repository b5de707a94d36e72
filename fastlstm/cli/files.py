"""The files of the commands: models told apart by content, arrays in .npy and .npz, outputs that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np

import fastlstm
from fastlstm.container import MAX_HEADER, opened, write_atomically
from fastlstm.converters import MAX_BYTES, sniff
from fastlstm.errors import InputError, ModelFileError
from fastlstm.model import Model

if TYPE_CHECKING:
    from fastlstm.converters.keras_summary import Summary

HEAD = 256  # bytes that tell what a file is


def check_output(path: Path, *sources: Path) -> None:
    """Raise InputError, before long work, where a file cannot be written or would replace what it is made from."""
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file to write, such as {path / 'output'}")
    if not folder.is_dir():
        raise InputError(f"{path}: the folder {folder} does not exist: create it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: the folder {folder} cannot be written: choose another with --output")
    if any(path.exists() and source.exists() and path.samefile(source) for source in sources):
        raise InputError(f"{path} is the file that is read: choose another name with --output")


def kind(path: Path) -> str:
    """Tell what a model file is by its first bytes: "keras", "onnx" or "fastlstm"."""
    with opened(path) as (file, size):
        head = file.read(HEAD)
        if not head:
            raise ModelFileError("the file is empty")
        # a fastlstm file is known by its header's length, which is less than its own
        found = sniff(head + bytes(max(0, min(size, MAX_HEADER * 2) - HEAD)))
        if found is None and head[8:9] != b"{":
            raise ModelFileError(f"no fastlstm file, Keras file or ONNX graph: it starts with {head[:8]!r}")
        return found or "fastlstm"


def open_model(path: Path, external_data: Path | None = None) -> Model:
    """Return the model of a fastlstm file, or of a source file converted on the way."""
    return fastlstm.load(path) if kind(path) == "fastlstm" else fastlstm.convert(path, external_data=external_data)


def keras_summary(path: Path, architecture: Path | None) -> Summary:
    """Return what a Keras file holds. Raise ModelFileError naming it for a damaged one."""
    from fastlstm.converters.keras_summary import summarize

    with opened(path) as (file, size):
        if size > MAX_BYTES:
            raise ModelFileError(f"has {size} bytes, the limit is {MAX_BYTES}")
        data = file.read()
    return summarize(data, architecture, str(path))


def check_source(path: Path, wanted: Sequence[str], purpose: str) -> None:
    """Raise InputError unless a file is of one of the kinds of source."""
    if (found := kind(path)) not in wanted:
        names = {"keras": "a Keras file", "onnx": "an ONNX graph", "fastlstm": "a fastlstm file"}
        raise InputError(f"{path} is {names[found]}; {purpose} {' or '.join(names[k] for k in wanted)}")


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the model's inputs by name: the only one from an .npy file, all from an .npz file."""
    with opened(path) as (file, _):
        start = file.peek(6)[:6]
        if not start.startswith((b"\x93NUMPY", b"PK")):
            raise InputError(
                f"not an .npy or .npz file: it starts with {start!r}; numpy.save and numpy.savez write them"
            )
        try:
            content: Any = np.load(file, allow_pickle=False)
            if not isinstance(content, np.ndarray):
                return {name: np.asarray(content[name]) for name in content.files}
        except Exception as error:  # numpy, zipfile and zlib each have their own for damaged files
            raise InputError(f"not a readable .npy or .npz file: {error}") from error
    if len(names) != 1:
        raise InputError(
            f"{path} holds one array, the model has {len(names)} inputs: pass an .npz with {', '.join(names)}"
        )
    return {names[0]: content}


def check_archive(path: Path) -> None:
    """Raise InputError unless a file is an .npz archive by its first bytes."""
    with opened(path) as (file, _):
        if file.read(2) != b"PK":
            raise InputError("not an .npz file: numpy.savez writes one from arrays in_<name> and out_<name>")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one array as .npy, or any number by name as .npz."""
    if path.suffix != ".npz":
        if len(arrays) != 1:
            raise InputError(f"the model has {len(arrays)} outputs: write them to an .npz file")
        return write_atomically(path, _npy(next(iter(arrays.values()))))
    buffer = BytesIO()
    # numpy.savez takes the names as keywords, and an output may have the name of one of its own
    with ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", _npy(array))
    write_atomically(path, buffer.getvalue())


def _npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()

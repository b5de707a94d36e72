"""Tensors of an ONNX graph that lie in other files: read from one folder, and only where its owner named it."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastlstm.converters.external_files import open_beside
from fastlstm.errors import LimitError, ModelFileError

MAX_BYTES = 2 << 30  # of all external tensors of a graph
KEYS = {"location", "offset", "length", "checksum", "basepath"}


class External:
    """The folder that holds a graph's external data.

    A tensor names one file in it, by a plain name: no folders, no links, nothing that other names lead to; the range it names lies within the file.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder, self._left = Path(folder), MAX_BYTES

    def array(self, tensor: Any, where: str, dtype: np.dtype) -> np.ndarray:
        """Return the contents of a TensorProto. Raise ModelFileError, LimitError."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        unknown = sorted(set(entries) - KEYS)
        if unknown or len(entries) != len(tensor.external_data):
            raise ModelFileError(f"{where}: external data with keys {[entry.key for entry in tensor.external_data]}")
        size = dtype.itemsize
        for dim in tensor.dims:
            size *= dim
        if size > self._left:
            raise LimitError(f"{where}: the external data of this graph is larger than {MAX_BYTES >> 20} MiB")
        self._left -= size
        offset, length = (
            _number(entries.get(key, str(usual)), key, where) for key, usual in (("offset", 0), ("length", size))
        )
        if length != size:
            raise ModelFileError(
                f"{where}: {length} bytes of external data for shape {list(tensor.dims)} of {dtype}, expected {size}"
            )
        data = self._read(entries.get("location", ""), offset, size, where)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(tuple(tensor.dims))

    def _read(self, name: str, offset: int, size: int, where: str) -> bytes:
        file, whole = open_beside(self.folder, name, where)
        with file:
            if offset + size > whole:
                raise ModelFileError(
                    f"{where}: external data from byte {offset} on, {size} bytes, in a file of {whole}"
                )
            file.seek(offset)
            return file.read(size)


def _number(text: str, key: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ModelFileError(f"{where}: external data with {key} {text[:40]!r}, expected a number of bytes")
    return int(text)

"""The container of a model file: safetensors, read strictly through one handle and written atomically.

Normative: docs/FORMAT.md. Every check runs on the header, before any tensor is allocated; the header itself is bounded.
"""

import errno
import json
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from math import isfinite, prod
from typing import Any, BinaryIO

import numpy as np

from fastlstm.errors import FastLSTMError, ModelFileError

MAX_HEADER = 4 << 20  # bytes
MAX_MARKS = 150_000  # characters [ { , of a JSON text: bounds its objects, hence the memory they take
MAX_DEPTH = 64
MAX_RANK = 16
MAX_EMPTY = 1 << 20  # product of the other sizes of a tensor without elements: no byte of the file pays for them
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
METADATA = "__metadata__"
NOT_OURS = "not a fastlstm model file; fastlstm.convert reads Keras and ONNX files"


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its dtype and shape, and its first and past-the-end byte, counted from the end of the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    stop: int


def file_error(path: object, what: object) -> ModelFileError:
    """Return the error for a file: one line, of bounded length whatever the file holds."""
    name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else repr(path)
    text = f"{name}: {what}"
    line = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return ModelFileError(line if len(line) <= 1000 else f"{line[:800]} ... {line[-100:]}")


def brief(value: object) -> str:
    """Return what a file holds where something else was expected, cut to fit a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


# ---- JSON -------------------------------------------------------------------------------------------
def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ModelFileError(f"a JSON object has the key {brief(key)} twice")
        found[key] = value
    return found


def _constant(name: str) -> None:
    raise ModelFileError(f"the JSON holds {name}, which is no number")


def _number(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ModelFileError(f"the JSON holds {brief(text)}, more than a float64 can")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or text == "-0":
        raise ModelFileError(f"the JSON holds {brief(text)}, no integer of 64 bits")
    return int(text)


def _check_nesting(text: str, what: str) -> None:
    depth, quoted = 0, False
    # a backslash takes the next character with it, so an escaped quote is no quote
    for match in re.finditer(r'\\.|["\[\]{}]', text, re.DOTALL):
        mark = match[0]
        if mark == '"':
            quoted = not quoted
        elif not quoted and mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ModelFileError(f"{what} nests deeper than {MAX_DEPTH} levels")
        elif not quoted and mark in "]}":
            depth -= 1


def parse_json(text: str, what: str) -> Any:
    """Return the document of a JSON text: bounded size and depth, no key twice, finite numbers, whole Unicode."""
    marks = sum(text.count(mark) for mark in "[{,")
    if marks > MAX_MARKS:
        raise ModelFileError(f"{what} has {marks} of the characters [ {{ and comma, more than {MAX_MARKS}")
    _check_nesting(text, what)
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_number, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is no valid JSON: {error}") from error


# ---- reading ----------------------------------------------------------------------------------------
def _open(path: str | os.PathLike) -> int:
    try:
        # without waiting: a pipe may have no other end
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"is no path of a file: {error}") from error


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file, once; yield it and its size. Errors of what is done with it come out with the file's name."""
    try:
        with open(_open(path), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
                raise ModelFileError(f"is {kind}, not a file")
            yield file, status.st_size
    except FastLSTMError as error:
        raise file_error(path, error) from error
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise file_error(path, "its tensors take more memory than there is") from error


def read_header(file: BinaryIO, size: int) -> tuple[Any, dict[str, Entry]]:
    """Return the metadata of a file of `size` bytes and where each tensor lies; the tensors cover the rest exactly."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ModelFileError(f"{size} bytes are too few for a model file; is it truncated?")
    (length,) = struct.unpack("<Q", prefix)
    if length > size - 8:
        raise ModelFileError(f"{NOT_OURS}, or it is truncated: its header claims {length} bytes, the file has {size}")
    if length > MAX_HEADER:
        raise ModelFileError(f"the header takes {length} bytes, more than {MAX_HEADER}")
    header = _parse_header(file.read(length))
    metadata = header.pop(METADATA, None)
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    _check_cover(entries, size - 8 - length)
    return metadata, entries


def _parse_header(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise ModelFileError(f"{NOT_OURS}: its header is no JSON object")
    try:
        header = parse_json(raw.decode("utf-8"), "the header")
        # serde, which reads safetensors elsewhere, refuses half a surrogate pair
        "".join(header).encode("utf-8")
    except UnicodeError as error:
        raise ModelFileError(f"the header is no UTF-8: {error}") from error
    return header


def _entry(name: str, entry: Any) -> Entry:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"tensor {brief(name)} has not the keys dtype, shape and data_offsets alone")
    code, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ModelFileError(f"tensor {brief(name)} has dtype {brief(code)}, expected one of {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > MAX_RANK:
        raise ModelFileError(f"tensor {brief(name)} has shape {brief(shape)}, expected up to {MAX_RANK} sizes")
    if not _sizes(place) or len(place) != 2 or place[0] > place[1]:
        raise ModelFileError(f"tensor {brief(name)} has data_offsets {brief(place)}, expected [begin, end]")
    dtype = np.dtype(DTYPES[code])
    if 0 in shape and prod(d for d in shape if d) > MAX_EMPTY:
        raise ModelFileError(f"tensor {brief(name)} is empty but has shape {brief(shape)}")
    needed = prod(shape) * dtype.itemsize
    if needed != place[1] - place[0]:
        raise ModelFileError(
            f"tensor {brief(name)} of shape {brief(shape)} takes {needed} bytes, its place has {place[1] - place[0]}"
        )
    return Entry(dtype, tuple(shape), *place)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _check_cover(entries: dict[str, Entry], size: int) -> None:
    end = 0
    for begin, stop in sorted((entry.begin, entry.stop) for entry in entries.values()):
        if begin != end:
            raise ModelFileError(f"the tensors {'overlap' if begin < end else 'leave a gap'} at byte {min(begin, end)}")
        end = stop
    if end != size:
        hint = "is it truncated?" if end > size else "is something appended to it?"
        raise ModelFileError(f"the tensors take {end} bytes where the file has {size}; {hint}")


def read_tensors(file: BufferedReader, entries: dict[str, Entry]) -> dict[str, np.ndarray]:
    """Return the tensors of a file that stands past its header, each in memory of its own."""
    arrays = {}
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].stop)):
        # as bytes first: a boolean is 0 or 1, and any other byte would make one that is neither
        raw = np.empty(entry.stop - entry.begin, np.uint8)
        if file.readinto(raw.data) != raw.size:
            raise ModelFileError(f"it ends within tensor {brief(name)}; was it changed while it was read?")
        if entry.dtype == np.bool_ and raw.size and raw.max() > 1:
            raise ModelFileError(f"tensor {brief(name)} is of booleans but holds {raw.max()}")
        arrays[name] = raw.view(entry.dtype.newbyteorder("<")).reshape(entry.shape).astype(entry.dtype, copy=False)
    return arrays


# ---- writing ----------------------------------------------------------------------------------------
def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write a temporary sibling, flush it to disk, and rename it over `path`: readers see the old file or the new.

    A link stays a link: the file it leads to is replaced. Raise ModelFileError where the system refuses.
    """
    try:
        _replace(os.path.realpath(os.fsdecode(path)), data)
    except OSError as error:
        raise file_error(path, f"cannot be written: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:
        raise file_error(path, f"is no path of a file: {error}") from error


def _replace(target: str, data: bytes) -> None:
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "there is something that is not a file")
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    with suppress(OSError):  # not every system opens a directory
        _flush_folder(folder)


def _flush_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Weights that Keras 3 wrote in several files, `save_weights("model.weights.json", max_shard_size=)`: an index, and HDF5 files beside it.

The index maps the path of a layer's variables to the names of the files that hold them; each file is a part of one tree.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastlstm.converters._keras_config import parse_json
from fastlstm.converters.external_files import open_beside
from fastlstm.errors import ModelFileError, UnsupportedError

if TYPE_CHECKING:
    from fastlstm.converters._hdf5 import Group

MAX_BYTES = 2 << 30  # of all files together
MAX_FILES = 1000


def is_index(data: bytes) -> bool:
    """Tell whether a file's bytes are an index of weights in several files."""
    return data[:1] == b"{" and b'"weight_map"' in data


def read_shards(index: bytes, folder: str | os.PathLike | None, where: str) -> "Group":
    """Return the tree of weights that the files of an index hold together. Raise ModelFileError, UnsupportedError without a folder."""
    from fastlstm.converters import _hdf5

    names = _file_names(index, where)
    if folder is None:
        raise UnsupportedError(
            f"{where}: an index of weights in {len(names)} files, which is not supported without the folder that they lie in: pass external_data= (--external-data)"
        )
    left, parts = MAX_BYTES, []
    for name in names:
        file, size = open_beside(Path(folder), name, where)
        with file:
            left -= size
            if left < 0:
                raise ModelFileError(f"{where}: its files have more than {MAX_BYTES} bytes")
            parts.append(_hdf5.open_hdf5(file.read(size), f"{where}: {name}", MAX_BYTES))
    return _merged(parts, where)


def _file_names(index: bytes, where: str) -> list[str]:
    """Return the names of the files, each once, in order."""
    parsed = parse_json(index, where)
    mapped = parsed.get("weight_map") if isinstance(parsed, dict) else None
    values = list(mapped.values()) if isinstance(mapped, dict) else [None]
    found = [name for value in values for name in (value if isinstance(value, list) else [value])]
    names = sorted({name for name in found if isinstance(name, str)})
    if not 0 < len(names) <= MAX_FILES or not all(isinstance(name, str) for name in found):
        raise ModelFileError(f"{where}: an index of weights whose weight_map does not name 1 to {MAX_FILES} files")
    return names


def _merged(parts: Sequence["Group"], where: str) -> "Group":
    """Return one group of what the groups of one path hold in several files."""
    from fastlstm.converters._hdf5 import Group

    attributes: dict = {}
    groups: dict[str, list[Group]] = {}
    datasets: dict = {}
    for part in parts:
        twice = datasets.keys() & part.datasets.keys()
        if twice:
            raise ModelFileError(f"{where}: {part.name}/{min(twice)} is in two of its files")
        attributes |= part.attributes
        datasets |= part.datasets
        for name, group in part.groups.items():
            groups.setdefault(name, []).append(group)
    return Group(parts[0].name, attributes, {name: _merged(found, where) for name, found in groups.items()}, datasets)

"""Checkpoints: all that training depends on in one safetensors file, so that it goes on bit for bit.

Tensors `parameter.<name>`, `statistic.<name>`, `optimizer.<slot>`, `history.<name>`; the one metadata key, `fastlstm.training`, holds JSON:
the kind of the optimizer, the epoch and batch to go on with, the seed of shuffling and dropout. No code, no pickle.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import save

from fastlstm.container import brief, opened, parse_json, read_header, read_tensors, write_atomically
from fastlstm.errors import ModelFileError
from fastlstm.graph_json import canonical

KEY = "fastlstm.training"
VERSION = 1
GROUPS = ("parameter", "statistic", "optimizer", "history")


@dataclass
class Checkpoint:
    """What a checkpoint holds; `epoch` and `batch` are those to go on with, `seed` None where no optimizer is kept."""

    parameters: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)
    kind: str = ""
    epoch: int = 0
    seed: int = 0
    history: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def _groups(self) -> dict[str, Mapping[str, np.ndarray]]:
        return dict(zip(GROUPS, (self.parameters, self.statistics, self.optimizer, self.history), strict=True))

    def save(self, path: str | os.PathLike) -> None:
        """Write the file atomically; the same contents give the same bytes."""
        document = {
            "version": VERSION, "optimizer": self.kind, "epoch": self.epoch, "seed": str(self.seed)
        }  # fmt: skip
        tensors = {f"{group}.{name}": a for group, arrays in self._groups.items() for name, a in arrays.items()}
        data = save({name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in sorted(tensors.items())}, {KEY: canonical(document)})  # fmt: skip
        write_atomically(path, data)


def load(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint. Raise ModelFileError if it is anything else, or damaged."""
    with opened(path) as (file, size):
        metadata, entries = read_header(file, size)
        document = _document(metadata)
        for name in entries:
            if name.split(".")[0] not in GROUPS:
                raise ModelFileError(f"tensor {brief(name)} has no place in a checkpoint")
        tensors = read_tensors(file, entries)
    group = lambda prefix: {
        name.removeprefix(f"{prefix}."): array for name, array in tensors.items() if name.startswith(f"{prefix}.")
    }
    parameters, statistics, optimizer, history = map(group, GROUPS)
    seed, kind, epoch = document["seed"], document["optimizer"], document["epoch"]
    return Checkpoint(parameters, statistics, optimizer, kind, epoch, int(seed), history)


def _document(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, dict) or set(metadata) != {KEY} or not isinstance(metadata[KEY], str):
        raise ModelFileError("a safetensors file, but not a checkpoint of fastlstm's training")
    document = parse_json(metadata[KEY], "the metadata")
    kinds = {"version": int, "optimizer": str, "epoch": int, "seed": str}
    good = isinstance(document, dict) and {key: type(value) for key, value in document.items()} == kinds
    if not good or document["version"] != VERSION or not (document["seed"].isdecimal() and len(document["seed"]) < 40):
        raise ModelFileError(f"the metadata is {brief(document)}, expected {', '.join(kinds)} of version {VERSION}")
    return document

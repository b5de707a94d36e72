"""Read what Keras 1, 2 and 3 write: `.h5`, weights-only `.h5` and `.keras`, told apart by their bytes.

A file becomes a `KerasFile`: the configuration as plain data, and for each layer its weights in Keras's own order.
Nothing of Keras is imported or run. What the data means is not decided here, except where a file keeps a weight:

- `.h5`: attribute `layer_names` of `model_weights` (or of the root), then `weight_names` of each layer, in order.
- `.keras`: a zip of config.json, metadata.json and model.weights.h5, where a weight lies at
  `layers/<class in snake case>[_k]/.../vars/<n>`, k counting the layers of one class in model order.
- `.weights.h5` of Keras 3: that same inner tree, bare; in several files where it came with an index, `.weights.json`.
"""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from fastlstm.converters._keras_config import MODELS, Config, children, layer_name, model_config, parse_json
from fastlstm.converters.keras_legacy import modern_weights
from fastlstm.converters.keras_shards import is_index, read_shards
from fastlstm.errors import InputError, ModelFileError, UnsupportedError, one_of

if TYPE_CHECKING:
    from fastlstm.converters._hdf5 import Dataset, Group

MAX_BYTES = 2 << 30  # of the file, of what it unpacks to, and of all weights
MAX_EXPANSION = 100  # of an archive, once it is over the floor
EXPANSION_FLOOR = 16 << 20
MAX_MEMBERS = 10_000
# Sub-objects of one layer in the order of its weights; the file keeps them in alphabetical order.
PARTS = ("forward_layer", "backward_layer", "layer", "cell", "query_dense", "key_dense", "value_dense", "output_dense")

Weights = list[tuple[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class KerasFile:
    """A model as Keras stored it.

    format: "keras-zip", "h5" (a whole model) or "h5-weights" (its architecture came from elsewhere).
    keras_version: of the writer; "1" where the file does not say.
    config: {"class_name": "Sequential" | "Functional" | "Model", "config": {"layers": [...], ...}}; the bare lists of
        layers that Keras wrote before 2.2.3 are wrapped in such a dict, in nested models too.
    """

    format: Literal["keras-zip", "h5", "h5-weights"]
    keras_version: str
    backend: str | None
    config: Config
    _weights: Callable[[list[Config]], Weights] = field(repr=False)
    _vocabularies: Mapping[str, bytes] = field(repr=False, default_factory=dict)

    @property
    def layer_names(self) -> list[str]:
        """Names of the top-level layers, in order, input layers included."""
        return [layer_name(layer) for layer in self.config["config"]["layers"]]

    def words(self, layer: Config) -> list[str] | None:
        """Return the vocabulary that a .keras file keeps for a layer of the top level, None where it keeps none."""
        snake = _snake(layer["class_name"])
        same = [other for other in self.config["config"]["layers"] if _snake(other["class_name"]) == snake]
        k = next((k for k, other in enumerate(same) if other is layer), None)
        inner = "/_lookup_layer" if layer["class_name"] == "TextVectorization" else ""
        found = self._vocabularies.get(f"assets/layers/{snake}{f'_{k}' if k else ''}{inner}/vocabulary.txt")
        if found is None or k is None:
            return None
        try:
            return found.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ModelFileError(f"the vocabulary of layer {layer_name(layer)!r} is damaged: {error}") from error

    def layer_weights(self, path: str) -> Weights:
        """Return [(name in the file, array), ...] of a layer, in the order of Keras's `layer.weights`.

        `path` is a layer's name, or names joined by "/" for a layer inside a nested model or wrapped model:
        "encoder/lstm", "time_distributed/cnn/conv1d". A wrapper gives the weights of what it wraps (Bidirectional:
        forward, then backward); a nested model those of its layers, layer by layer. A layer without weights gives [].
        Arrays may be views of the file, which cannot be written. The state of random number generators is left out. `.h5` and `.keras` of one model give equal arrays. Layouts of
        Keras 1, cuDNN and Theano are brought to that of Keras 2; what was several arrays has the name of the first.
        Raises InputError for a name that the configuration lacks, ModelFileError for damage.
        """
        chain = [self.config]
        rest = path
        while rest or len(chain) == 1:
            names = {layer_name(child): child for child in children(chain[-1])}
            fits = [name for name in names if rest == name or rest.startswith(f"{name}/")]
            if not fits:
                raise InputError(f"no layer {rest!r} in {layer_name(chain[-1])!r}, which has {_few(names)}")
            name = max(fits, key=len)
            chain.append(names[name])
            rest = rest[len(name) + 1 :]
        return self._collect(chain[1:])

    def _collect(self, chain: list[Config]) -> Weights:
        """Return the weights of the last layer of a chain, those of a nested model layer by layer."""
        layer = chain[-1]
        if layer["class_name"] in (*MODELS, "TimeDistributed") and children(layer):
            return [weight for child in children(layer) for weight in self._collect([*chain, child])]
        later = not self.keras_version.startswith("1")  # Keras 1 did not always name its backend
        return modern_weights(layer, self._weights(chain), self.backend or ("tensorflow" if later else None))


def sniff(data: bytes) -> Literal["keras-zip", "hdf5", "index"] | None:
    """Tell by its bytes what a Keras file is; None if it is none."""
    if is_index(data):
        return "index"
    if data.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    return "keras-zip" if data.startswith(b"PK\x03\x04") else None


def read_keras_file(
    source: str | Path | bytes | BinaryIO,
    architecture: Config | str | Path | None = None,
    where: str = "the bytes given",
    folder: str | PathLike | None = None,
) -> KerasFile:
    """Read a Keras file, given as its path, its bytes, or an archive open for reading; `where` names the latter two in messages.

    architecture: what `model.to_json()` gave, as text, as data or as the path of a file: needed where the file holds
    weights only, and taken instead of the file's own where given. folder: that of the files of an index. Raises ModelFileError, UnsupportedError, and
    MissingExtraError without pyfive.

    >>> file = read_keras_file("model.keras")
    >>> for name in file.layer_names: print(name, [array.shape for _, array in file.layer_weights(name)])
    """
    from fastlstm.converters import _hdf5

    if isinstance(source, str | Path):
        where, source = str(source), _read(Path(source))
    given = None if architecture is None else read_architecture(architecture)
    with _hdf5.guarded(where):
        if not isinstance(source, bytes):
            return _from_zip(source, where, given)
        kind = sniff(source)
        if kind == "keras-zip":
            return _from_zip(io.BytesIO(source), where, given)
        if kind == "hdf5":
            return _from_hdf5(_hdf5.open_hdf5(source, where, MAX_BYTES), where, given)
        if kind == "index":
            return _from_hdf5(read_shards(source, folder, where), where, given)
    raise ModelFileError(f"{where}: neither HDF5 nor a zip archive, so no Keras file; it starts with {source[:8]!r}")


def stored_weights(
    data: bytes, where: str
) -> tuple[str, str | None, list[tuple[str, list[tuple[str, tuple[int, ...]]]]]] | None:
    """Return (Keras's version, backend, [(layer, [(weight, shape), ...]), ...]) of an .h5 file of weights alone, None of any other.

    Raises ModelFileError for damage.
    """
    from fastlstm.converters import _hdf5

    if sniff(data) != "hdf5":
        return None
    with _hdf5.guarded(where):
        root = _hdf5.open_hdf5(data, where, MAX_BYTES)
        names = _strings(root, "layer_names", where)
        if "model_config" in root.attributes or names is None:
            return None
        layers = []
        for name in names:
            listed = _strings(_at(root, name, where), "weight_names", where) or []
            layers.append((name, [(one, _dataset(root, f"{name}/{one}", where).shape) for one in listed]))
        version, backend = (root.attributes.get(key) for key in ("keras_version", "backend"))
        return str(version or "1"), str(backend) if backend else None, layers


def _read(path: Path) -> bytes:
    if path.is_dir():
        if (path / "saved_model.pb").exists() or (path / "keras_metadata.pb").exists():
            raise UnsupportedError(f"{path} is a SavedModel folder; load it in TensorFlow, then model.save('m.keras')")
        raise ModelFileError(f"{path} is a folder, expected a .keras or .h5 file")
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError(f"{path} has {path.stat().st_size} bytes, the limit is {MAX_BYTES}")
    return path.read_bytes()


def _from_zip(file: BinaryIO, where: str, given: Config | None) -> KerasFile:
    from fastlstm.converters import _hdf5

    with _open_zip(file, where) as archive:
        names = set(archive.namelist())
        if any(name.rpartition("/")[2] in ("saved_model.pb", "keras_metadata.pb") for name in names):
            raise UnsupportedError(
                f"{where} is an archive of a SavedModel; load it in TensorFlow, then model.save('m.keras')"
            )
        if "config.json" not in names and given is None:
            raise ModelFileError(f"{where}: a zip archive without config.json, so no Keras file; it has {_few(names)}")
        if "model.weights.h5" not in names:
            weights = [name for name in names if "weights" in name]
            raise UnsupportedError(
                f"{where}: its weights are in {_few(weights)}, expected model.weights.h5 (.npz holds pickles, .json "
                "names shards); load it in Keras and model.save('model.keras')"
            )
        about = _member(archive, "metadata.json") if "metadata.json" in names else b"{}"
        metadata = parse_json(about, f"{where}: metadata.json")
        config = given or parse_json(_member(archive, "config.json"), f"{where}: config.json")
        root = _hdf5.open_hdf5(_member(archive, "model.weights.h5"), f"{where}: model.weights.h5", MAX_BYTES)
        words = {n: _member(archive, n) for n in names if n.startswith("assets/") and n.endswith("/vocabulary.txt")}
    model = model_config(config, where)
    version = str(metadata.get("keras_version", "3"))
    return KerasFile("keras-zip", version, None, model, _tree_weights(root, model, where), words)


def _from_hdf5(root: "Group", where: str, given: Config | None) -> KerasFile:
    about = dict(given) if isinstance(given, dict) else {}
    own = root.attributes.get("model_config")
    if given is None:
        if not isinstance(own, str):
            raise ModelFileError(
                f"{where} holds weights only, no model_config; pass architecture=... (what model.to_json() gives)"
            )
        given = parse_json(own.encode(), f"{where}: model_config")
    base = root.groups.get("model_weights", root)
    for attributes in (base.attributes, root.attributes):
        about |= {key: attributes[key] for key in ("keras_version", "backend") if key in attributes}
    names = _strings(base, "layer_names", where)
    model = model_config(given, where, names)
    if names is not None:
        weights = _listed_weights(base, names, model, where)
    elif base.groups.keys() & {"layers", "_layer_checkpoint_dependencies"}:
        weights = _tree_weights(base, model, where)
        about.setdefault("keras_version", "3")
    else:
        raise ModelFileError(f"{where}: HDF5, but without layer_names or layers; was it written by Keras?")
    backend = about.get("backend")
    kind = "h5" if isinstance(own, str) else "h5-weights"
    return KerasFile(kind, str(about.get("keras_version", "1")), backend and str(backend), model, weights)


# Weights listed by name: .h5


def _listed_weights(base: "Group", names: list[str], model: Config, where: str) -> Callable[[list[Config]], Weights]:
    """Find weights by the names that the file lists, position by position where an architecture names layers anew."""
    from fastlstm.converters import _hdf5

    layers = model["config"]["layers"]
    stored = {layer_name(layer): layer_name(layer) for layer in layers}
    if not set(names) <= set(stored):
        for candidates in (layers, [layer for layer in layers if layer["class_name"] != "InputLayer"]):
            if len(candidates) == len(names):
                stored = dict(zip(map(layer_name, candidates), names, strict=True))
                break
        else:
            raise ModelFileError(f"{where} has the layers {_few(names)}; the architecture has {_few(stored)}")

    @_hdf5.guarded(where)
    def weights(chain: list[Config]) -> Weights:
        top = stored.get(layer_name(chain[0]))
        if top not in names:
            return []
        listed = _strings(_at(base, top, where), "weight_names", where) or []
        listed = [name for name in listed if "seed_generator" not in name]
        for outer, inner in pairwise(chain):
            listed = _split(listed, outer, where)[layer_name(inner)]
        return [(name, _dataset(base, f"{top}/{name}", where).read()) for name in listed]

    return weights


def _split(listed: list[str], outer: Config, where: str) -> dict[str, list[str]]:
    """Give each weight of a nested model to the layer whose name it holds: `outer/lstm/lstm_cell/kernel:0` to lstm.

    Keras 2 leaves out the names of models in between, so the names of all layers below count; Keras 1 wrote lstm_1_W_i.
    """
    parts: dict[str, list[str]] = {layer_name(child): [] for child in children(outer)}
    if len(parts) == 1:
        return {next(iter(parts)): listed}
    owners: dict[str, set[str]] = {}
    for child in children(outer):
        for name in _names_below(child):
            owners.setdefault(name, set()).add(layer_name(child))
    for weight in listed:
        path = (
            weight.split("/")[:-1] or sorted((name for name in owners if weight.startswith(f"{name}_")), key=len)[-1:]
        )
        steps = path[1:] if len(path) > 1 and path[0] == layer_name(outer) and path[1] in owners else path
        named = next(({step} if step in parts else owners[step] for step in steps if step in owners), set())
        if len(named) != 1:
            raise ModelFileError(
                f"{where}: weight {weight!r} could be of {len(named)} layers of {layer_name(outer)!r}, which has "
                f"{_few(parts)}; load the model in Keras and save it as .keras"
            )
        parts[next(iter(named))].append(weight)
    return parts


def _names_below(layer: Config) -> Iterator[str]:
    yield layer_name(layer)
    for inner in children(layer):
        yield from _names_below(inner)
    if layer["class_name"] == "Bidirectional":
        for inner in filter(None, map(layer["config"].get, ("layer", "backward_layer"))):
            yield from (f"{prefix}{layer_name(inner)}" for prefix in ("", "forward_", "backward_"))


# Weights placed by class: .keras


def _tree_weights(root: "Group", model: Config, where: str) -> Callable[[list[Config]], Weights]:
    """Find weights by their place among the layers of one class."""
    from fastlstm.converters import _hdf5

    @_hdf5.guarded(where)
    def weights(chain: list[Config]) -> Weights:
        group: Group | None = root
        outer = model
        for layer in chain:
            if group is None:
                return []
            if outer["class_name"] in MODELS:
                group = next(found for child, found in _members(group, outer["config"]["layers"]) if child is layer)
            else:
                group = group.groups.get("layer")
            outer = layer
        return [(at, dataset.read()) for at, dataset in _flatten(group, outer, where)]

    return weights


def _members(
    group: "Group", layers: list[Config], container: str = "layers"
) -> Iterator[tuple[Config, "Group | None"]]:
    """Pair each layer with its group in the container, by class and count; Keras 3 adds names, which then decide."""
    old = group.groups.get("_layer_checkpoint_dependencies") if container == "layers" else None
    folder = old or group.groups.get(container)
    found = folder.groups if folder else {}
    named = {_own(member).attributes.get("name"): member for member in found.values()}
    used: Counter[str] = Counter()
    for layer in layers:
        snake = _snake(layer["class_name"])
        key = f"{snake}_{used[snake]}" if used[snake] else snake
        if old:  # TF 2.13 counted some layers twice, leaving gaps
            ranked = sorted((k for k in found if re.fullmatch(rf"{snake}(_\d+)?", k)), key=lambda k: (len(k), k))
            key = ranked[used[snake]] if used[snake] < len(ranked) else key
        used[snake] += 1
        member = found.get(key)
        yield layer, named.get(layer_name(layer), member) if container == "layers" else member


def _own(group: "Group") -> "Group":
    """Return where a layer keeps its own variables, apart from those of its parts."""
    return group.groups.get("vars") or replace(group, attributes={}, groups={}, datasets={})


def _flatten(group: "Group | None", layer: Config, where: str) -> Iterator[tuple[str, "Dataset"]]:
    """Yield the weights below a layer's group in the order of Keras's `layer.weights`."""
    if group is None:
        return
    config = layer.get("config") or {}
    own = _own(group).datasets
    if not all(key.isdecimal() for key in own):
        raise UnsupportedError(f"{where}: {group.name} stores weights by names of its own: {_few(own)}")
    for key in sorted(own, key=int):
        yield own[key].name.lstrip("/"), own[key]
    container = "layers" if layer.get("class_name") in MODELS else "cells"
    for child, found in _members(group, config.get(container) or [], container):
        yield from _flatten(found, child, where)
    if container in group.groups:
        return
    parts = {name.lstrip("_"): part for name, part in group.groups.items() if name != "vars" and _has_weights(part)}
    unknown = parts.keys() - set(PARTS)
    if unknown and len(parts) > 1:
        raise UnsupportedError(f"{where}: {group.name} has parts of unknown order, {_few(unknown)}")
    for name in [*PARTS, *unknown]:
        inner = config.get(name) or (config.get("layer") if name.endswith("_layer") else None)
        yield from _flatten(parts.get(name), inner if isinstance(inner, dict) else {}, where)


def _has_weights(group: "Group") -> bool:
    if "seed_generator" in group.name:
        return False
    return bool(group.datasets) or any(map(_has_weights, group.groups.values()))


def _snake(class_name: str) -> str:
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name.rpartition(">")[2]))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def read_architecture(source: Config | str | Path) -> Config:
    """Return what `model.to_json()` gave, from data, text or the path of a file. Raise OSError, ModelFileError."""
    if isinstance(source, dict):
        return source
    text = source if isinstance(source, str) and source.lstrip()[:1] in ("{", "[") else None
    return parse_json(text.encode() if text else _read(Path(source)), "the architecture" if text else str(source))


# Small readers


def _few(names: Iterable[str]) -> str:
    """List names for a message, the first dozen of them."""
    names = list(names)
    return one_of(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _strings(group: "Group", name: str, where: str) -> list[str] | None:
    """Return a list attribute, joined from name0, name1, ... where Keras split it; None if there is none."""
    found: list[str] = []
    keys = [name] if name in group.attributes else []
    while not keys or keys[-1] != name:
        key = f"{name}{len(keys)}"
        if key not in group.attributes:
            break
        keys.append(key)
    for key in keys:
        value = group.attributes[key]
        if isinstance(value, np.ndarray) and value.size == 0:
            continue
        if not isinstance(value, list):
            raise ModelFileError(f"{where}: attribute {key} of {group.name} is no list of names")
        found += value
    return found if keys else None


def _at(base: "Group", path: str, where: str) -> "Group":
    group = base
    for step in path.split("/"):
        if step not in group.groups:
            raise ModelFileError(f"{where}: no group {path!r} in {base.name}, which {group.name} should hold")
        group = group.groups[step]
    return group


def _dataset(base: "Group", path: str, where: str) -> "Dataset":
    folder, _, name = path.rpartition("/")
    group = _at(base, folder, where)
    if name not in group.datasets:
        raise ModelFileError(f"{where}: weight {path!r} is listed but not in the file")
    return group.datasets[name]


def _open_zip(file: BinaryIO, where: str) -> zipfile.ZipFile:
    """Open a zip archive whose names, count and declared sizes are safe; reading checks them against the data."""
    size, entries = _scan(file, b"PK\x01\x02")
    if entries > MAX_MEMBERS:
        raise ModelFileError(f"{where}: a zip archive of more than {MAX_MEMBERS} members")
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    limit = min(MAX_BYTES, max(EXPANSION_FLOOR, MAX_EXPANSION * size))
    total = sum(member.file_size for member in members)
    if total > limit:
        raise ModelFileError(f"{where}: a zip archive that would unpack to {total} bytes, the limit is {limit}")
    for member in members:
        steps = member.filename.replace("\\", "/").split("/")
        if ".." in steps or steps[0] == "" or ":" in steps[0]:
            raise ModelFileError(f"{where}: zip member {member.filename!r} leads out of the archive")
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelFileError(f"{where}: zip member {member.filename!r} is encrypted or packed in an unknown way")
    repeated = [name for name, count in Counter(archive.namelist()).items() if count > 1]
    if repeated:
        raise ModelFileError(f"{where}: zip member {repeated[0]!r} is there twice")
    return archive


def _scan(file: BinaryIO, mark: bytes) -> tuple[int, int]:
    """Return a file's size and how often it holds a mark, read piece by piece."""
    size = count = 0
    rest = b""
    file.seek(0)
    while piece := file.read(1 << 18):
        size += len(piece)
        count += (rest + piece).count(mark)
        rest = piece[1 - len(mark) :]
    return size, count


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one member, never more than it declared."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as stream:
        data = stream.read(size + 1)
    if len(data) != size:
        raise ModelFileError(f"{archive.filename or 'the archive'}: {name} has {len(data)} bytes, declared {size}")
    return data

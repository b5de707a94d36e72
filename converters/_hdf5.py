"""Read HDF5 bytes as a small frozen tree, refusing whatever could mislead, leak or exhaust.

A guard over pyfive: the whole tree is walked, and what every header claims is checked, before any value is read. Only
hard links, values kept in the dataset itself, and the filters deflate, shuffle and fletcher32 are followed.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from fastlstm.converters._hdf5_format import (
    STRING,
    Attribute,
    Header,
    Meter,
    Refused,
    btree,
    dtype_of,
    guarded,
    root_address,
    shape_of,
    without_fletcher32,
)
from fastlstm.errors import UnsupportedError

MAX_BYTES = 2 << 30  # of all values together
MAX_DEPTH = 64
UNDEFINED = (1 << 64) - 1
DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Dataset:
    """An array in the file; `read` returns it, as a view of the file where its values lie in order, or raises ModelFileError."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    attributes: dict[str, Attribute]
    read: Callable[[], np.ndarray] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Group:
    """A folder in the file. An object linked twice is one object here too, under its first name."""

    name: str
    attributes: dict[str, Attribute]
    groups: dict[str, "Group"]
    datasets: dict[str, Dataset]


def open_hdf5(data: bytes, where: str, max_bytes: int = MAX_BYTES) -> Group:
    """Return the root group of an HDF5 file given as bytes; `where` names the file in messages.

    Raises ModelFileError for damage, links other than hard ones, values kept outside the dataset, unknown filters, and
    sizes over the limits: `max_bytes` for all values together, and 100 times the file or 16 MiB, the larger. Raises
    UnsupportedError for values that are neither numbers nor text; attributes of such types are left out.
    """
    with guarded(where):
        meter = Meter(data, max_bytes)
        root = _Walk(meter, where).visit(root_address(meter), "/", 0)
        if not isinstance(root, Group):
            raise Refused("its root is not a group")
        return root


class _Walk:
    """Build the tree: each object once, by its address."""

    def __init__(self, meter: Meter, where: str):
        self.meter = meter
        self.where = where
        self.seen: dict[int, Group | Dataset | None] = {}  # None while its members are being visited

    def visit(self, address: int, path: str, depth: int) -> Group | Dataset:
        if address in self.seen:
            known = self.seen[address]
            if known is None:
                raise Refused(f"{path} links back to a group that holds it")
            return known
        self.seen[address] = None
        with guarded(f"{self.where}: {path}"):
            if depth > MAX_DEPTH:
                raise Refused(f"groups nested deeper than {MAX_DEPTH}")
            self.meter.charge(256)
            made = self._make(Header(self.meter, address), path)
        if isinstance(made, Dataset):
            self.seen[address] = made
            return made
        attributes, links = made
        group = Group(path, attributes, {}, {})
        for name, target in links.items():
            member = self.visit(target, f"{path.rstrip('/')}/{name}", depth + 1)
            if isinstance(member, Group):
                group.groups[name] = member
            else:
                group.datasets[name] = member
        self.seen[address] = group
        return group

    def _make(self, header: Header, path: str) -> Dataset | tuple[dict[str, Attribute], dict[str, int]]:
        attributes = header.attributes()
        if header.is_dataset:
            return _dataset(self.meter, header, f"{self.where}: {path}", path, attributes)
        if not any(message["type"] in (0x02, 0x06, 0x11) for message in header.msgs):
            raise Refused("it is neither a group nor a dataset")
        return attributes, header.links()


def _dataset(meter: Meter, header: Header, where: str, name: str, attributes: dict[str, Attribute]) -> Dataset:
    """Check everything that the header says of an array; its values are read later."""
    if header.find_msg_type(0x07):
        raise Refused("its values lie in another file (external storage)")
    shape = shape_of(meter.data, header.one(0x01, "dataspace"))
    if shape is None or len(shape) > 32:
        raise Refused("it has no values (a null dataspace), or more than 32 dimensions")
    dtype = dtype_of(meter.data, header.one(0x03, "datatype"))
    if dtype is None or attributes.get("dtype") == "bfloat16":
        kind = attributes.get("dtype", "another type")
        raise UnsupportedError(f"{where} holds {kind}, not float16/32/64, integers or text; save it as float32")
    itemsize = 16 if dtype == STRING else dtype.itemsize
    load = _layout(meter, header, shape, itemsize)

    def read() -> np.ndarray:
        with guarded(where):
            fresh = Meter(meter.data, meter.max_bytes)
            raw = load(fresh)
            if dtype != STRING:
                return np.frombuffer(raw, dtype).reshape(shape) if prod(shape) else np.empty(shape, dtype)
            texts = np.empty(prod(shape), object)
            texts[:] = [fresh.text(raw, i) for i in range(texts.size)]
            return texts.reshape(shape)

    return Dataset(name, shape, dtype, attributes, read)


def _layout(meter: Meter, header: Header, shape: tuple[int, ...], itemsize: int) -> Callable[[Meter], memoryview]:
    """Return a function that gives the values' bytes in C order, not copied where they lie so, having checked that they are there and fit."""
    at = header.one(0x08, "layout")
    version, kind = meter.data[at], meter.data[at + 1]
    size = prod(shape) * itemsize
    if kind == 3:
        raise Refused("its values are a view of other datasets (virtual layout)")
    if version not in (3, 4) or kind > 3 or (version == 4 and kind == 2):
        raise Refused(f"layout version {version} class {kind} is not known; save the model again with Keras")
    if kind == 2:
        return _chunks(meter, header, at, shape, itemsize)
    if kind == 0:
        address, stored = at + 4, struct.unpack_from("<H", meter.data, at + 2)[0]
    else:
        address, stored = struct.unpack_from("<QQ", meter.data, at + 2)
    meter.claim(size, size)
    if size and (address == UNDEFINED or stored < size or address + size > len(meter.data)):
        raise Refused(f"shape {shape} needs {size} bytes, the file stores {stored} at {address} of {len(meter.data)}")
    return lambda fresh: memoryview(fresh.data)[address : address + size]


def _chunks(
    meter: Meter, header: Header, at: int, shape: tuple[int, ...], itemsize: int
) -> Callable[[Meter], memoryview]:
    """Check a chunked layout: known filters, and chunks whose inflated sizes together stay in the limits."""
    filters = [entry["filter_id"] for entry in header.filter_pipeline or []]
    unknown = sorted(set(filters) - {DEFLATE, SHUFFLE, FLETCHER32})
    if unknown or len(filters) != len(set(filters)):
        raise Refused(f"filters {filters}: only deflate (1), shuffle (2) and fletcher32 (3) are read, each once")
    rank, address = struct.unpack_from("<BQ", meter.data, at + 2)
    *chunk, element = struct.unpack_from(f"<{rank}I", meter.data, at + 11)
    if len(chunk) != len(shape) or element != itemsize or not all(chunk):
        raise Refused(f"damaged file: chunks of shape {chunk} x {element} bytes for shape {shape} x {itemsize}")
    grid = [-(-extent // step) for extent, step in zip(shape, chunk, strict=True)]
    count, chunk_size, key_size = prod(grid), prod(chunk) * itemsize, 16 + 8 * len(shape)
    meter.claim(count * key_size, count * chunk_size)

    def load(fresh: Meter) -> memoryview:
        values = np.empty((*shape, itemsize), np.uint8)
        seen = bytearray(count)
        for key, start in btree(fresh, address, 1, key_size) if count else ():
            stored, mask = struct.unpack_from("<II", fresh.data, key)
            corner = struct.unpack_from(f"<{len(shape)}Q", fresh.data, key + 8)
            raw = _unfilter(fresh.data[start : start + stored], filters, mask, itemsize, chunk_size)
            index = 0
            for c, step, cells in zip(corner, chunk, grid, strict=True):
                index = index * cells + (c // step if c % step == 0 and c // step < cells else count)
            if index >= count or seen[index] or len(raw) != chunk_size:
                raise Refused(f"damaged file: the chunk at {corner} is there twice, out of place or of a wrong size")
            seen[index] = 1
            block = np.frombuffer(raw, np.uint8).reshape(*chunk, itemsize)
            room = [min(step, extent - c) for step, extent, c in zip(chunk, shape, corner, strict=True)]
            values[tuple(slice(c, c + n) for c, n in zip(corner, room, strict=True))] = block[tuple(map(slice, room))]
        if not all(seen):
            raise Refused(f"damaged file: {seen.count(0)} of {count} chunks are missing")
        return values.reshape(-1).data

    return load


def _unfilter(raw: bytes, filters: list[int], mask: int, itemsize: int, size: int) -> bytes:
    for i in reversed(range(len(filters))):
        if mask >> i & 1:
            continue
        if filters[i] == DEFLATE:
            inflate = zlib.decompressobj()
            raw = inflate.decompress(raw, size + 5)
            if len(raw) > size + 4 or not inflate.eof:
                raise Refused(f"damaged file: a compressed chunk does not end at its {size} bytes")
        elif filters[i] == SHUFFLE:
            whole = len(raw) // itemsize * itemsize
            raw = np.frombuffer(raw, np.uint8, whole).reshape(itemsize, -1).T.tobytes() + raw[whole:]
        else:
            raw = without_fletcher32(raw)
    return raw

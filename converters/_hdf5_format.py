"""Decode HDF5 metadata: object headers, links, attributes, types and b-trees, with work bounded by the file's size.

pyfive parses what needs a format expert (dense link and attribute storage, filter descriptions) and sees the file only
through `Meter`, which charges every read against a budget, so cycles and self-copying structures end. What pyfive would
copy without bound, or trust, is decoded here by slices of the one buffer. No assert is relied on: `python -O` drops
them. Format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

import io
import struct
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from math import prod

import numpy as np

from fastlstm.errors import FastLSTMError, MissingExtraError, ModelFileError

try:
    from pyfive.btree import BTreeV1RawDataChunks
    from pyfive.dataobjects import DataObjects, determine_data_shape
    from pyfive.misc_low_level import SuperBlock
except ImportError as error:
    raise MissingExtraError("pyfive", "keras", "reading Keras files") from error

MAX_EXPANSION = 100  # of all values, against the file's size, once they are over the floor
EXPANSION_FLOOR = 16 << 20
MAX_NAME = 1024
MAX_BLOCKS = 256  # of one object header
MAX_MESSAGES = 1 << 14  # of one object header
MAX_HEAP_BLOCKS = 1024
MAX_TREE = 16
IEEE = {  # size: precision, exponent location and size, mantissa location and size, bias
    2: (16, 10, 5, 0, 10, 15),
    4: (32, 23, 8, 0, 23, 127),
    8: (64, 52, 11, 0, 52, 1023),
}
DENSE = frozenset(mark + b"\0" for mark in (b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTIN", b"BTLF"))  # and version 0
STRING = np.dtype(object)  # variable-length text

Attribute = str | list[str] | int | float | np.ndarray


class Refused(Exception):
    """What is wrong, without where: `guarded` adds that."""


@contextmanager
def guarded(where: str) -> Iterator[None]:
    """Turn whatever a parser raises into one line of ModelFileError; our own errors pass."""
    try:
        yield
    except FastLSTMError:
        raise
    except Refused as error:
        raise ModelFileError(f"{where}: {error}") from error
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelFileError(f"{where}: damaged file ({detail}); save or download it again") from error


class Meter(io.BytesIO):
    """The file as pyfive sees it: reads are charged, and structures that would make it loop are refused at the seek."""

    def __init__(self, data: bytes, max_bytes: int):
        super().__init__(data)
        self.data = data
        self.max_bytes = max_bytes
        self.budget = 2 * len(data) + (4 << 20)
        self.stored = self.values = self.blocks = 0
        self.expected: frozenset[bytes] = frozenset()  # what seeks must land on; nothing: anything
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}

    def charge(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise Refused("damaged file: its structures refer to each other without end")

    def claim(self, stored: int, values: int) -> None:
        """Count declared bytes: what is stored plainly must fit in the file, all values in the limits."""
        self.stored += stored
        self.values += values
        if self.stored > len(self.data):
            raise Refused(f"its arrays claim {self.stored} bytes, the file has {len(self.data)}")
        limit = min(self.max_bytes, max(EXPANSION_FLOOR, MAX_EXPANSION * len(self.data)))
        if self.values > limit:
            raise Refused(f"its arrays would need {self.values} bytes, the limit is {limit}")

    def read(self, size: int | None = -1) -> bytes:
        got = super().read(size)
        self.charge(256 + 2 * len(got))
        return got

    def seek(self, offset: int, whence: int = 0) -> int:
        signature = self.data[offset : offset + 4]
        if self.expected and self.data[offset : offset + 5] not in self.expected:
            raise Refused("damaged file (or an attribute over 64 KB): no heap or b-tree where one should be")
        if signature == b"BTHD" and struct.unpack_from("<H", self.data, offset + 12)[0] > MAX_TREE:
            raise Refused(f"damaged file: a b-tree deeper than {MAX_TREE}")
        if signature == b"FRHP":
            self.blocks = 0
            width, rows = struct.unpack_from("<H28xH", self.data, offset + 110)
            if width > 64 or rows > 64:
                raise Refused(f"damaged file: a heap of {rows} rows of {width} blocks")
        self.blocks += signature == b"FHDB"
        if self.blocks > MAX_HEAP_BLOCKS:
            raise Refused("damaged file: a heap of too many blocks")
        return super().seek(offset, whence)

    def text(self, raw: bytes | memoryview, i: int) -> str:
        """Return element i of an array of variable-length strings, from the global heap."""
        length, address, index = struct.unpack_from("<IQI", raw, 16 * i)
        if address == 0:
            return ""
        if address not in self.heaps:
            self.heaps[address] = dict(self._heap(address))
        at, size = self.heaps[address][index]
        if length > size:
            raise Refused(f"damaged file: a string of {length} bytes in {size}")
        self.charge(64 + length)
        return self.data[at : at + length].decode()

    def _heap(self, address: int) -> Iterator[tuple[int, tuple[int, int]]]:
        signature, size = struct.unpack_from("<4s4xQ", self.data, address)
        end = address + size
        if signature != b"GCOL" or end > len(self.data):
            raise Refused("damaged file: a string points to no heap")
        at = address + 16
        while at + 16 <= end:
            index, length = struct.unpack_from("<H6xQ", self.data, at)
            if index == 0:
                break
            self.charge(128)
            if at + 16 + length > end:
                raise Refused("damaged file: a heap object runs past its heap")
            yield index, (at + 16, length)
            at += 16 + (length + 7) // 8 * 8


class Header(DataObjects):
    """One object header; `msg_data` is the whole file and messages keep their place in it."""

    fh: Meter

    def __init__(self, fh: Meter, address: int):
        fh.expected = frozenset()
        super().__init__(fh, address)
        fh.expected = DENSE

    @staticmethod
    def _parse_v1_objects(fh: Meter):
        version, size = struct.unpack_from("<B7xI", fh.data, fh.tell())
        if version != 1:
            raise Refused("damaged file: no object header")
        return list(Header._messages(fh, [(fh.tell() + 16, size)], "<HHB", 8)), fh.data, OrderedDict()

    def _parse_v2_objects(self, fh: Meter):
        at = fh.tell()
        signature, version, flags = struct.unpack_from("<4sBB", fh.data, at)
        if signature != b"OHDR" or version != 2:
            raise Refused("damaged file: no object header")
        at += 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16)
        width = 1 << (flags & 3)
        size = int.from_bytes(fh.data[at : at + width], "little")
        skip = 4 + 2 * bool(flags & 4)
        return list(self._messages(fh, [(at + width, size)], "<BHB", skip)), fh.data, OrderedDict()

    @staticmethod
    def _messages(fh: Meter, blocks: list[tuple[int, int]], head: str, skip: int) -> Iterator[dict[str, int]]:
        left = MAX_MESSAGES
        for at, size in blocks:  # grows as continuations are met
            end = at + size
            if size < 0 or end > len(fh.data) or len(blocks) > MAX_BLOCKS:
                raise Refused("damaged file: an object header outside of the file")
            while at + skip <= end:
                kind, length, flags = struct.unpack_from(head, fh.data, at)
                at += skip
                left -= 1
                fh.charge(32)
                if at + length > end or left < 0:
                    raise Refused("damaged file: a header message runs past its block, or there are too many")
                if flags & 2:
                    raise Refused("a header message shared with other objects; save the model again with Keras")
                if kind == 0x10:
                    start, room = struct.unpack_from("<QQ", fh.data, at)
                    blocks.append((start, room) if head == "<HHB" else (start + 4, room - 8))
                elif kind:
                    yield {"type": kind, "size": length, "flags": flags, "offset_to_message": at}
                at += length

    def one(self, kind: int, what: str) -> int:
        """Return where the only message of this kind is."""
        found = self.find_msg_type(kind)
        if len(found) != 1:
            raise Refused(f"damaged file: {len(found)} {what} messages, expected 1")
        return found[0]["offset_to_message"]

    def attributes(self) -> dict[str, Attribute]:
        pairs: list[tuple[str, Attribute | None]] = []
        for message in self.find_msg_type(0x0C):
            at = message["offset_to_message"]
            pairs.append(self._parse_attribute_msg(self.msg_data[at : at + message["size"]], 0))
        dense = self.find_msg_type(0x15)
        if dense:
            pairs += self._get_attributes_from_attr_info({}, dense).items()
        return {name: value for name, value in pairs if value is not None}

    def _parse_attribute_msg(self, buffer: bytes, offset: int) -> tuple[str, Attribute | None]:
        self.fh.charge(256 + len(buffer))
        version, flags, name_size, type_size, space_size = struct.unpack_from("<BBHHH", buffer)
        if version not in (1, 3) or (version == 3 and flags & 3):
            raise Refused("an attribute of an unknown version or shared type")
        pad = 8 if version == 1 else 1
        at = 8 if version == 1 else 9
        name = buffer[at : at + name_size].partition(b"\0")[0].decode()
        at += -(-name_size // pad) * pad
        dtype = dtype_of(buffer, at)
        at += -(-type_size // pad) * pad
        shape = shape_of(buffer, at)
        at += -(-space_size // pad) * pad
        if dtype is None or shape is None:
            return name, None
        return name, _value(self.fh, dtype, shape, buffer[at:])

    def links(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, target in self.iter_links():
            self.fh.charge(128)
            if not isinstance(target, int):
                raise Refused(f"{name!r} is a soft link")
            if name in found or name in ("", ".", "..") or "/" in name:
                raise Refused(f"damaged file: {name[:80]!r} is twice in one group, or no name")
            found[name] = target
        return found

    def _iter_links_btree_v1(self, btree_address: int, heap_address: int) -> Generator[tuple[str, int | str]]:
        data = self.msg_data
        signature, size, start = struct.unpack_from("<4s4xQ8xQ", data, heap_address)
        if signature != b"HEAP":
            raise Refused("damaged file: a group without a heap of names")
        for _, node in btree(self.fh, btree_address, 0, 8):
            signature, count = struct.unpack_from("<4s2xH", data, node)
            if signature != b"SNOD":
                raise Refused("damaged file: a group without a table of members")
            for i in range(count):
                name_at, target, kind = struct.unpack_from("<QQI", data, node + 8 + 40 * i)
                at = start + name_at
                end = data.find(b"\0", at, min(start + size, at + MAX_NAME + 1))
                if end < 0 or kind not in (0, 1, 2):
                    raise Refused("damaged file: a member without a name or kind")
                yield data[at:end].decode(), "" if kind == 2 else target

    @staticmethod
    def _decode_link_msg(data: bytes, offset: int):
        flags = data[offset + 1]
        at = offset + 2 + bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
        width = 1 << (flags & 3)
        length = int.from_bytes(data[at : at + width], "little")
        if data[offset] != 1 or length > MAX_NAME or (offset == 0 and len(data) > 4 * MAX_NAME):
            raise Refused("damaged file: a link of an unknown version or with an endless name")
        if flags & 8 and data[offset + 2]:
            kind = {1: "a soft", 64: "an external"}.get(data[offset + 2], "no hard")
            raise Refused(f"{data[at + width : at + width + length]!r} is {kind} link; only hard links are followed")
        return DataObjects._decode_link_msg(data, offset)


def root_address(meter: Meter) -> int:
    """Return where the header of the root group is, from the superblock."""
    superblock = SuperBlock(meter, 0)
    contents = superblock._contents
    if contents["base_address"]:
        raise Refused("its base address is not 0")
    if contents["end_of_file_address"] > len(meter.data):
        raise Refused(f"truncated: {contents['end_of_file_address']} bytes expected, {len(meter.data)} found")
    return superblock.offset_to_dataobjects


def shape_of(raw: bytes, at: int) -> tuple[int, ...] | None:
    """Return the shape of a dataspace message; None if it is a null dataspace."""
    return determine_data_shape(raw, at)[0]


def without_fletcher32(raw: bytes) -> bytes:
    """Verify the checksum at the end of a chunk and cut it off."""
    BTreeV1RawDataChunks._verify_fletcher32(raw)
    return raw[:-4]


def dtype_of(raw: bytes, at: int) -> np.dtype | None:
    """Return the NumPy dtype of a datatype message, STRING, or None if it is neither number nor text."""
    kind, bits, _, size = struct.unpack_from("<BBHI", raw, at)
    order = ">" if bits & 1 else "<"
    if kind & 15 == 0 and size in (1, 2, 4, 8):
        return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
    if kind & 15 == 1 and not bits & 64:
        offset, *layout = struct.unpack_from("<HHBBBBI", raw, at + 8)
        return np.dtype(f"{order}f{size}") if offset == 0 and IEEE.get(size) == tuple(layout) else None
    if kind & 15 == 3 and 0 < size < 1 << 16:
        return np.dtype(f"S{size}")
    if kind & 15 == 8:  # an enumeration, h5py's bool: its integers
        return dtype_of(raw, at + 8)
    return STRING if kind & 15 == 9 and bits & 15 == 1 else None


def _value(meter: Meter, dtype: np.dtype, shape: tuple[int, ...], raw: bytes) -> Attribute:
    count = prod(shape)
    if count * (16 if dtype == STRING else dtype.itemsize) > len(raw):
        raise Refused(f"damaged file: an attribute of shape {shape} in {len(raw)} bytes")
    if dtype.kind in "SO":
        meter.charge(64 * count)
        if dtype == STRING:
            texts = [meter.text(raw, i) for i in range(count)]
        else:
            texts = [text.decode() for text in np.frombuffer(raw, dtype, count).tolist()] if count else []
        return texts if shape else texts[0]
    values = np.frombuffer(raw, dtype, count).copy() if count else np.empty(0, dtype)
    return values.reshape(shape) if shape else values[0].item()


def btree(meter: Meter, address: int, kind: int, key_size: int, level: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield (where the key is, what it points to) of each leaf entry of a version 1 b-tree."""
    signature, node_kind, node_level, count = struct.unpack_from("<4sBBH", meter.data, address)
    if signature != b"TREE" or node_kind != kind or level not in (None, node_level):
        raise Refused("damaged file: a b-tree node of the wrong kind")
    if node_level > MAX_TREE:
        raise Refused(f"damaged file: a b-tree deeper than {MAX_TREE}")
    meter.charge(64)
    for key in range(address + 24, address + 24 + count * (key_size + 8), key_size + 8):
        meter.charge(16)
        (child,) = struct.unpack_from("<Q", meter.data, key + key_size)
        if node_level:
            yield from btree(meter, child, kind, key_size, node_level - 1)
        else:
            yield key, child

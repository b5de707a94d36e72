"""Write arrays as an HDF5 file: groups by path, contiguous values, nothing else. What `_hdf5` and h5py read.

Version 0 superblock, version 1 object headers with link messages, version 3 contiguous layouts: the plainest forms that the format has,
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

UNDEFINED = (1 << 64) - 1
DATASPACE, LINK_INFO, DATATYPE, FILL_VALUE, LINK, LAYOUT, GROUP_INFO = 0x01, 0x02, 0x03, 0x05, 0x06, 0x08, 0x0A
SUPERBLOCK_SIZE = 96
FLOATS = {4: (31, 23, 8, 23, 127), 8: (63, 52, 11, 52, 1023)}  # sign, exponent at and bits, mantissa bits, bias

Tree = dict[str, Any]


def hdf5_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of a file that holds float32 and float64 arrays by their paths, such as "layers/lstm/cell/vars/0".

    Raise ValueError for another dtype.
    """
    root: Tree = {}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        group = root
        for folder in folders:
            group = group.setdefault(folder, {})
        group[name] = np.asarray(array, order="C")
    out = bytearray(SUPERBLOCK_SIZE)
    address = _write_group(out, root)
    # leaf and internal node sizes are of old groups, which are not used; the root's entry caches nothing
    entry = struct.pack("<QQII16x", 0, address, 0, 0)
    out[:SUPERBLOCK_SIZE] = (
        b"\x89HDF\r\n\x1a\n" + struct.pack("<BBBBBBBBHHI", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 0)
        + struct.pack("<QQQQ", 0, UNDEFINED, len(out), UNDEFINED) + entry
    )  # fmt: skip
    return bytes(out)


def _write_group(out: bytearray, group: Tree) -> int:
    """Append a group after its members and return where its header is."""
    links = []
    for name, member in group.items():
        address = _write_group(out, member) if isinstance(member, dict) else _write_dataset(out, member)
        text = name.encode()
        links.append((LINK, struct.pack("<BBB", 1, 0, len(text)) + text + struct.pack("<Q", address)))
    info = struct.pack("<BBQQ", 0, 0, UNDEFINED, UNDEFINED)
    return _write_header(out, [(LINK_INFO, info), (GROUP_INFO, b"\0\0"), *links])


def _write_dataset(out: bytearray, array: np.ndarray) -> int:
    """Append an array's values and header, and return where the header is."""
    if array.dtype.kind != "f" or array.dtype.itemsize not in FLOATS:
        raise ValueError(f"an array of {array.dtype}, expected float32 or float64")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    start = _align(out) if array.size else UNDEFINED
    out += array.tobytes()
    sign, mantissa, exponent, at, bias = FLOATS[array.dtype.itemsize]
    kind = struct.pack(
        "<BBBBIHHBBBBI", 0x11, 0x20, sign, 0, array.itemsize, 0, 8 * array.itemsize, at, exponent, 0, mantissa, bias
    )
    space = struct.pack(f"<BBB5x{array.ndim}Q", 1, array.ndim, 0, *array.shape)
    layout = struct.pack("<BBQQ", 3, 1, start, array.nbytes)
    fill = struct.pack("<BBBB", 2, 2, 0, 0)  # space allocated late, nothing written there, no value
    return _write_header(out, [(DATASPACE, space), (DATATYPE, kind), (FILL_VALUE, fill), (LAYOUT, layout)])


def _write_header(out: bytearray, messages: list[tuple[int, bytes]]) -> int:
    """Append an object header of version 1 and return where it is."""
    packed = bytearray()
    for kind, body in messages:
        size = -(-len(body) // 8) * 8
        packed += struct.pack("<HHB3x", kind, size, 0) + body.ljust(size, b"\0")
    start = _align(out)
    out += struct.pack("<BxHII4x", 1, len(messages), 1, len(packed)) + packed
    return start


def _align(out: bytearray) -> int:
    """Fill up to a multiple of 8 bytes and return the length."""
    out += bytes(-len(out) % 8)
    return len(out)

"""The guard over HDF5: real files read as h5py reads them, hostile and damaged ones end in one clear error."""

import io
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyfive")

from hostile_keras import mutated_bytes

from fastlstm.converters import _hdf5
from fastlstm.errors import FastLSTMError, ModelFileError, UnsupportedError

CASES = Path(os.environ.get("FASTLSTM_CASES", Path(__file__).parents[3] / "shared" / "cases"))
FILES = sorted(path for pattern in ("*/*.h5", "*/*.hdf5", "*/*.keras") for path in CASES.glob(pattern))
MUTATIONS = int(os.environ.get("FASTLSTM_FUZZ", "300"))


def hdf5_bytes(path):
    data = path.read_bytes()
    return data if data[:2] != b"PK" else zipfile.ZipFile(path).read("model.weights.h5")


def written(build, **options):
    """Return the bytes of a file that `build(file)` filled through h5py."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        build(file)
    return buffer.getvalue()


def refused(data: bytes, match: str, error: type[FastLSTMError] = ModelFileError) -> None:
    """Check that opening and reading everything ends in one line of the error, quickly and in little memory."""
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match) as caught:
            read_all(_hdf5.open_hdf5(data, "x.h5"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and str(caught.value).startswith("x.h5")
    assert time.process_time() - started < 5
    assert peak < 2 * len(data) + (64 << 20)


def read_all(group, seen=None):
    seen = set() if seen is None else seen
    if id(group) not in seen:
        seen.add(id(group))
        for dataset in group.datasets.values():
            dataset.read()
        for inner in group.groups.values():
            read_all(inner, seen)


def same_as_h5py(ours, theirs):
    h5py = pytest.importorskip("h5py")
    assert list(theirs) == list({**dict.fromkeys(theirs), **ours.groups, **ours.datasets})
    same_attributes(ours, theirs)
    for name, item in theirs.items():
        if isinstance(item, h5py.Group):
            same_as_h5py(ours.groups[name], item)
            continue
        same_attributes(ours.datasets[name], item)
        values = ours.datasets[name].read()
        expected = item[()]
        if item.dtype == object:
            expected = np.vectorize(bytes.decode, otypes=[object])(expected)
        assert values.shape == item.shape == ours.datasets[name].shape
        assert values.dtype == item.dtype == ours.datasets[name].dtype
        assert values.tobytes() == expected.tobytes() if item.dtype != object else np.array_equal(values, expected)


def same_attributes(ours, theirs):
    assert set(ours.attributes) == set(theirs.attrs)
    for name, expected in theirs.attrs.items():
        if isinstance(expected, bytes):
            expected = expected.decode()
        elif isinstance(expected, np.ndarray) and expected.dtype.kind in "SO":
            expected = [text.decode() if isinstance(text, bytes) else text for text in expected.tolist()]
        assert np.array_equal(ours.attributes[name], expected)


@pytest.mark.skipif(not FILES, reason="no folder of cases")
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_real_file_reads_as_h5py_reads_it(path):
    h5py = pytest.importorskip("h5py")
    data = hdf5_bytes(path)
    same_as_h5py(_hdf5.open_hdf5(data, path.name), h5py.File(io.BytesIO(data)))


def build_rich(file):
    """Dense links and attributes, chunks with every filter, text, scalars, empty arrays, deep paths."""
    rng = np.random.default_rng(1)
    many = file.create_group("many", track_order=True)
    for i in range(40):
        many.create_group(f"k{99 - i}").create_dataset("v", data=rng.random((3, 2)).astype("f4"))
        many.attrs[f"a{i}"] = "t" * i
    many.attrs["numbers"] = np.arange(500)
    many.attrs["bytes"] = [b"a", b"bcd"]
    many.attrs["text"] = ["ä", "bcd"]
    many.attrs["no"] = []
    file["deep/er/scalar"] = np.float64(3)
    file["half"] = rng.random(7).astype(np.float16)
    file["big_endian"] = np.arange(5, dtype=">i8")
    file["flags"] = np.arange(4, dtype=np.uint8)
    file["empty"] = np.empty((0, 3), "f4")
    file["words"] = [f"x{i}" for i in range(50)]
    file["fixed"] = np.array([b"ab", b"c"])


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_dense_storage_and_every_type_read_as_h5py_reads_them(libver):
    h5py = pytest.importorskip("h5py")
    data = written(build_rich, libver=(libver, "latest"))
    same_as_h5py(_hdf5.open_hdf5(data, "x.h5"), h5py.File(io.BytesIO(data)))


@pytest.mark.parametrize("filters", [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}])
@pytest.mark.parametrize("fletcher32", [False, True])
def test_chunks_read_as_h5py_reads_them(filters, fletcher32):
    h5py = pytest.importorskip("h5py")

    def build(file):
        values = np.random.default_rng(2).random((50, 33)).round(2)
        file.create_dataset("odd", data=values, chunks=(7, 11), fletcher32=fletcher32, **filters)
        file.create_dataset("small", data=values[0].astype("f4"), chunks=(5,), fletcher32=fletcher32, **filters)
        file.create_dataset("many", data=np.arange(5000), chunks=(10,), fletcher32=fletcher32, **filters)

    data = written(build)
    same_as_h5py(_hdf5.open_hdf5(data, "x.h5"), h5py.File(io.BytesIO(data)))


def test_values_that_lie_in_order_are_not_copied_and_cannot_be_written():
    dataset = _hdf5.open_hdf5(written(lambda file: file.create_dataset("v", data=np.ones(3))), "x.h5").datasets["v"]
    assert not dataset.read().flags.writeable
    assert np.shares_memory(dataset.read(), dataset.read())


def test_object_linked_twice_is_one_object():
    def build(file):
        file["a/v"] = np.ones(3)
        file["b"] = file["a"]

    root = _hdf5.open_hdf5(written(build), "x.h5")
    assert root.groups["a"] is root.groups["b"]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("link", ["SoftLink('/v')", "ExternalLink('/etc/hostname', '/')"])
@pytest.mark.parametrize("count", [1, 20])
def test_soft_and_external_links_are_refused(libver, link, count):
    h5py = pytest.importorskip("h5py")

    def build(file):
        file["v"] = np.ones(3)
        for i in range(count):
            file[f"link{i}"] = eval(f"h5py.{link}", {"h5py": h5py})

    refused(written(build, libver=libver), r"'link\d+' is an? (soft|external) link")


def test_external_storage_is_refused_not_read_as_zeros(tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 64)
    external = [(str(tmp_path / "secret"), 0, 64)]
    data = written(lambda file: file.create_dataset("v", (16,), "f4", external=external))
    refused(data, "/v: its values lie in another file")


def test_virtual_dataset_is_refused_not_read_as_nothing():
    h5py = pytest.importorskip("h5py")
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "v", (3,))
    refused(written(lambda file: file.create_virtual_dataset("v", layout)), "/v: its values are a view of other")


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"scaleoffset": 3}])
def test_unknown_filters_are_refused(options):
    data = written(lambda file: file.create_dataset("v", data=np.arange(1000), chunks=(100,), **options))
    refused(data, r"/v: filters \[.*only deflate")


@pytest.mark.parametrize("values", [np.ones(3, "c8"), np.ones(3, [("a", "f4"), ("b", "i4")]), np.void(b"abc")])
def test_values_neither_number_nor_text_are_refused(values):
    refused(written(lambda file: file.create_dataset("v", data=values)), "/v holds", UnsupportedError)


def test_bfloat16_is_refused_by_name():
    def build(file):
        file["layers/dense/vars/0"] = np.ones(3, np.uint16)
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"

    refused(written(build), "/layers/dense/vars/0 holds bfloat16", UnsupportedError)


def test_foreign_float_format_is_refused_not_misread():
    data = written(lambda file: file.create_dataset("v", data=np.ones(3, "f4")))
    bias = struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 127)
    assert data.count(bias) == 1
    refused(data.replace(bias, struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 126)), "/v holds", UnsupportedError)


def test_unknown_attribute_types_are_left_out():
    def build(file):
        file.attrs["pair"] = np.ones((), [("a", "f4"), ("b", "i4")])
        file.attrs["name"] = "kept"

    assert _hdf5.open_hdf5(written(build), "x.h5").attributes == {"name": "kept"}


@pytest.mark.parametrize("extent", [1 << 30, 1 << 40, (1 << 63) - 1])
def test_shape_bombs_are_refused_before_allocation(extent):
    plain = written(lambda file: file.create_dataset("v", data=np.ones(12345, "f4")))
    refused(plain.replace(struct.pack("<Q", 12345), struct.pack("<Q", extent)), "/v: its arrays claim")
    chunks = written(lambda file: file.create_dataset("v", (extent,), "f4", chunks=(1 << 20,), compression="gzip"))
    refused(chunks, "/v: its arrays (claim|would need)")


def test_many_arrays_over_the_same_bytes_are_refused():
    def build(file):
        for i in range(64):
            file[f"v{i}"] = np.full(1024, i + 1, "f4")

    data = written(build)
    places = [data.find(np.full(1024, i + 1, "f4").tobytes()) for i in range(64)]
    for place in places[1:]:
        data = data.replace(struct.pack("<QQ", place, 4096), struct.pack("<QQ", places[0], 4096))
    grown = data.replace(struct.pack("<Q", 1024), struct.pack("<Q", 2048)).replace(
        struct.pack("<QQ", places[0], 4096), struct.pack("<QQ", places[0], 8192)
    )
    refused(grown, "its arrays claim")


def test_compressed_bombs_are_refused():
    zeros = written(
        lambda file: file.create_dataset("v", data=np.zeros(1 << 23), chunks=(1 << 20,), compression="gzip")
    )
    assert len(zeros) * 100 < 1 << 26
    refused(zeros, "/v: its arrays would need 67")


def test_cap_on_all_values_together_holds():
    data = written(lambda file: file.create_dataset("v", data=np.ones(1000)))
    with pytest.raises(ModelFileError, match="limit is 7999"):
        _hdf5.open_hdf5(data, "x.h5", max_bytes=7999)


def test_chunk_missing_or_twice_is_refused():
    def build(file):
        file.create_dataset("v", (40,), "f4", chunks=(10,))[:20] = 1

    refused(written(build), "/v: damaged file: 2 of 4 chunks are missing")


def test_values_never_written_are_refused_not_invented():
    refused(written(lambda file: file.create_dataset("v", (40,), "f4")), "/v: shape .* needs 160 bytes")


def test_link_cycles_are_refused():
    def build(file):
        file["a/b/v"] = np.ones(3)
        file["a/b/back"] = file["a"]

    refused(written(build), "/a/b/back links back to a group that holds it")


def test_nesting_is_bounded():
    refused(written(lambda file: file.create_group("/".join("g" * 70))), "nested deeper than 64")


def test_btree_that_holds_itself_ends():
    data = bytearray(written(lambda file: file.create_dataset("v", data=np.arange(9000), chunks=(10,))))
    at = data.find(b"TREE\x01")
    while at >= 0:
        struct.pack_into("<B", data, at + 5, 3)
        for entry in range(struct.unpack_from("<H", data, at + 6)[0]):
            struct.pack_into("<Q", data, at + 24 + 32 * entry + 24, at)
        at = data.find(b"TREE\x01", at + 1)
    refused(bytes(data), "damaged file")


def test_header_that_continues_in_itself_ends():
    data = bytearray(written(lambda file: file.attrs.__setitem__("name", "x" * 500)))
    header = struct.unpack_from("<Q", data, 64)[0]
    struct.pack_into("<HHB3xQQ", data, header + 16, 0x10, 16, 0, header + 16, 24)
    refused(bytes(data), "/: damaged file: an object header outside of the file")


def test_strings_of_a_hostile_heap_stay_bounded():
    """Every element of an array points to one long string, which would multiply it."""
    data = bytearray(written(lambda file: file.create_dataset("v", data=["x" * 200_000] + ["y"] * 4000)))
    at = data.find(struct.pack("<I", 200_000))
    data[at : at + 16 * 4001] = data[at : at + 16] * 4001
    refused(bytes(data), "/v: damaged file: its structures refer to each other without end")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_truncation_is_refused(libver):
    data = written(build_rich, libver=libver)
    for percent in range(100):
        with pytest.raises(ModelFileError):
            _hdf5.open_hdf5(data[: len(data) * percent // 100], "x.h5")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_mutated_file_gives_values_or_our_error_in_bounded_time_and_memory(libver):
    rng = random.Random(7)
    data = written(build_rich, libver=libver)
    for _ in range(MUTATIONS):
        started = time.process_time()
        try:
            read_all(_hdf5.open_hdf5(mutated_bytes(data, rng), "x.h5"))
        except FastLSTMError as error:
            assert "\n" not in str(error)
        assert time.process_time() - started < 5


def test_nothing_relies_on_asserts(tmp_path):
    """The same files are refused under `python -O`, where the asserts of pyfive are gone."""
    h5py = pytest.importorskip("h5py")
    data = written(build_rich, libver="latest")
    for i, mark in enumerate((b"OHDR", b"FRHP", b"BTLF", b"FHDB")):
        (tmp_path / f"{i}.h5").write_bytes(data.replace(mark, b"\0\0\0\0"))
    linked = written(lambda file: file.__setitem__("x", h5py.ExternalLink("a", "/b")), libver="latest")
    (tmp_path / "link.h5").write_bytes(linked)
    script = (
        "import sys, pathlib\n"
        "from fastlstm.errors import FastLSTMError\n"
        "from fastlstm.converters._hdf5 import open_hdf5\n"
        "for path in sys.argv[1:]:\n"
        "    try: open_hdf5(pathlib.Path(path).read_bytes(), path)\n"
        "    except FastLSTMError: print('refused')\n"
    )
    paths = sorted(map(str, tmp_path.glob("*.h5")))
    result = subprocess.run([sys.executable, "-O", "-c", script, *paths], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["refused"] * 5

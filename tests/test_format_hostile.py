"""One hostile file, at least, for each rule of docs/FORMAT.md: a ModelFileError of one clear line, and little allocated."""

import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hostile_files import HOSTILE, MIB, Hostile, append
from model_files import small_file, small_model
from safetensors.numpy import save

import fastlstm
from fastlstm import ModelFileError

RULES = re.findall(r"^- \*\*([A-Z]\d+)\*\*", (Path(__file__).parents[1] / "docs" / "FORMAT.md").read_text(), re.M)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hostile.safetensors"


def refused(path: Path | str) -> str:
    """Load a file that must be refused; return the message."""
    with pytest.raises(ModelFileError) as caught:
        fastlstm.load(path)
    message = str(caught.value)
    assert type(caught.value) is ModelFileError
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) <= 1000 + len(str(path))
    return message


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: f"{hostile.rule}-{hostile.name}")
def test_a_file_that_breaks_a_rule_is_refused_in_one_line_and_allocates_little(path, hostile: Hostile):
    file = small_file()
    hostile.break_it(file)
    path.write_bytes(file.bytes())
    size = path.stat().st_size
    tracemalloc.start()
    began = time.perf_counter()
    try:
        found = refused(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert hostile.message in found
    assert time.perf_counter() - began < 10  # traced allocation is several times slower
    assert peak <= 3 * size + 64 * MIB


def test_every_rule_of_the_specification_has_a_hostile_file():
    broken = {hostile.rule for hostile in HOSTILE} | {"C1"}  # C1: the tests of paths below
    assert len(RULES) == len(set(RULES))
    assert set(RULES) == broken


def test_the_file_that_the_hostile_ones_are_made_of_loads(path):
    path.write_bytes(small_file().bytes())
    assert fastlstm.load(path).to_bytes() == small_model().to_bytes() == path.read_bytes()


@pytest.mark.parametrize("elements", [256, 2**26, 2**60])
def test_constants_that_a_graph_asks_for_are_not_computed_when_it_is_loaded(path, elements):
    file = small_file(example=False)
    file.put("weight.many", np.array([elements]))
    nodes = [append(file, "ConstantOfShape", ["many"], dtype="int8") for _ in range(1000)]
    path.write_bytes(file.bytes())
    tracemalloc.start()
    try:
        model = fastlstm.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(model.graph.nodes) == 4 + len(nodes)
    assert peak <= 3 * path.stat().st_size + 64 * MIB


# ---- damage -----------------------------------------------------------------------------------------
def test_a_file_cut_at_any_byte_is_refused(path):
    whole = small_file(storage="int8").bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert "truncated" in refused(path)


def test_a_file_that_lost_any_byte_is_refused(path):
    whole = small_file(example=False, storage="int8").bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + whole[place + 1 :])
        refused(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "fastlstm.convert reads Keras and ONNX files"),
        (b"PK\x03\x04" + b"\0" * 100, "fastlstm.convert reads Keras and ONNX files"),
        (b"\x08\x07\x12\x05keras:" + b"\0" * 100, "fastlstm.convert reads Keras and ONNX files"),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR." + b"\0" * 100, "not a fastlstm model file"),
        (b"GGUF" + b"\0" * 100, "not a fastlstm model file"),
        (b"\0" * 4096, "no JSON object"),
        (b"\xff" * 4096, "not a fastlstm model file"),
        (b"{}" * 8, "not a fastlstm model file"),
        (struct.pack("<Q", 2) + b"{}", "not of fastlstm"),
        (save({"layer.weight": np.ones((2, 3))}), "not of fastlstm"),
        (save({"layer.weight": np.ones((2, 3))}, {"format": "pt"}), "not of fastlstm"),
        (save({"layer.weight": np.ones((2, 3))}, {"fastlstm": "{}"}), "no version"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_to_do(path, data, message):
    path.write_bytes(data)
    assert message in refused(path)


# ---- the path (rule C1) -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "No such file"),
        ("", "No such file"),
        ("folder", "Is a directory"),
        ("pipe", "pipe or socket, not a file"),
        ("loop", "cannot be read"),
        ("nul\0", "no path of a file"),
        ("x" * 5000, "cannot be read"),
        ("file/inside", "cannot be read"),
        ("/dev/null", "a device"),
        ("/dev/zero", "a device"),
        (None, "no path of a file"),
        (3, "no path of a file"),
        (3.5, "no path of a file"),
        (["model"], "no path of a file"),
    ],
)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError) as caught:
        fastlstm.load(name)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_name_that_cannot_be_printed_is_escaped(tmp_path):
    with pytest.raises(ModelFileError) as caught:
        fastlstm.load(os.fsencode(tmp_path) + b"/a\nb\xff\x1b[31m")
    assert str(caught.value).isprintable()
    assert "a\\nb\\udcff\\x1b[31m: cannot be read: No such file" in str(caught.value)


@pytest.mark.parametrize("number", [13, 5])
def test_a_file_that_cannot_be_opened_is_refused(path, monkeypatch, number):
    path.write_bytes(small_file().bytes())

    def fail(*args):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        assert os.strerror(number) in refused(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(path):
    path.write_bytes(small_file().bytes())
    path.chmod(0)
    assert "Permission denied" in refused(path)


def test_a_file_cut_while_it_is_read_is_refused(path, monkeypatch):
    path.write_bytes(small_file().bytes())
    original = np.empty

    def cut_first(*args, **kwargs):
        os.truncate(path, 8)
        return original(*args, **kwargs)

    big = np.ones((500, 500), np.float32)  # past what is buffered already
    file = small_file()
    file.put("weight.big", big)
    path.write_bytes(file.bytes())
    with monkeypatch.context() as patched:
        patched.setattr(np, "empty", cut_first)
        assert "was it changed while it was read?" in refused(path)


def test_tensors_larger_than_memory_are_refused(path):
    resource = pytest.importorskip("resource")
    file = small_file(example=False)
    size = 1 << 42
    file.tensors = [["weight.w", "U8", [size], b""]]
    file.edit = lambda h: h["weight.w"].update(data_offsets=[0, size])
    data = file.bytes()
    path.write_bytes(data)
    os.truncate(path, len(data) + size)  # sparse: nothing on the disk
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 36, before[1]))
    try:
        assert "more memory than there is" in refused(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ---- what a load does besides -----------------------------------------------------------------------
AUDIT = """
import sys
from pathlib import Path
import numpy, fastlstm
folder = Path(sys.argv[1])
files = sorted(folder.iterdir())
fastlstm.load(folder / "valid")  # loads the modules that loading needs
events = []
watching = False
QUIET = {"object.__getattr__", "sys._getframe", "os.fspath", "gc.get_objects"}
def watch(event, args):
    if watching and event not in QUIET:
        events.append((event, str(args[0]) if args else ""))
sys.addaudithook(watch)
for file in files:
    events.clear()
    watching = True
    try:
        fastlstm.load(file)
    except fastlstm.ModelFileError:
        pass
    watching = False
    extra = [e for e in events if e != ("open", str(file)) and not (e[0] == "open" and e[1].isdigit())]
    if extra:
        print(file, extra)
print("done", len(files))
"""


def test_loading_opens_only_its_file_and_runs_imports_or_compiles_nothing(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "valid").write_bytes(small_file().bytes())
    for k, hostile in enumerate(HOSTILE):
        file = small_file()
        hostile.break_it(file)
        (folder / f"{k:04}").write_bytes(file.bytes())
    search = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(folder)],
        env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == f"done {len(HOSTILE) + 1}\n"


def process_state() -> tuple:
    descriptors = Path("/proc/self/fd")
    files = sorted(os.listdir(descriptors)) if descriptors.exists() else []
    return os.getcwd(), dict(os.environ), sys.getrecursionlimit(), np.geterr(), files


@pytest.mark.parametrize("data", [small_file().bytes(), b"{}" * 8], ids=["valid", "hostile"])
def test_loading_leaves_the_process_as_it_was(path, data):
    path.write_bytes(data)
    before = process_state()
    with suppress(ModelFileError):
        fastlstm.load(path)
    assert process_state() == before

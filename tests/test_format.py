"""The model file: what is saved comes back, the same model gives the same bytes, and a failed save loses nothing."""

import errno
import os
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_files import CODES, small_model
from safetensors import safe_open

import fastlstm
from fastlstm import Example, Model, ModelFileError
from fastlstm.graph import Graph, Node, Quantized, TensorSpec

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def passing(weights: dict, attributes: dict | None = None, op: str = "Identity") -> Model:
    """Return a model that hands its input on, with weights that nothing reads."""
    node = Node("n", op, ("x",), ("y",), attributes or {})
    shape = ("B", "T", 3)
    return Model(Graph((node,), (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),)), weights)


def assert_same(a: np.ndarray | Quantized, b: np.ndarray | Quantized) -> None:
    if isinstance(a, Quantized):
        assert isinstance(b, Quantized)
        assert_same(a.values, b.values)
        assert_same(a.scale, b.scale)
        return
    assert isinstance(b, np.ndarray)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


# ---- round trips ------------------------------------------------------------------------------------
@pytest.mark.parametrize("storage", [None, "float32", "float16", "int8"])
def test_everything_saved_comes_back_bit_for_bit(path, storage):
    model = small_model()
    model.save(path, weights=storage)
    stored, loaded = model if storage is None else model.narrowed(storage), fastlstm.load(path)
    assert loaded.graph == stored.graph
    assert dict(loaded.metadata) == dict(stored.metadata)
    assert set(loaded.weights) == set(stored.weights)
    for name, weight in stored.weights.items():
        assert_same(weight, loaded.weights[name])
    assert stored.example is not None
    assert loaded.example is not None
    assert loaded.example.engine == stored.example.engine
    assert_same(loaded.example.inputs["x"], stored.example.inputs["x"])
    assert_same(loaded.example.outputs["y"], stored.example.outputs["y"])


def test_a_model_without_example_metadata_or_weights_comes_back(path):
    passing({}).save(path)
    loaded = fastlstm.load(path)
    assert (loaded.example, dict(loaded.metadata), dict(loaded.weights)) == (None, {}, {})


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (2, 3, 4)])
def test_weights_of_every_dtype_and_rank_come_back(path, dtype, shape):
    weight = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    passing({"w": weight}).save(path)
    assert_same(weight, fastlstm.load(path).weights["w"])


def test_weights_that_are_views_or_big_endian_come_back_by_value(path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    passing({"strided": base[::2, ::-1], "turned": base.T, "big": base.astype(">f4")}).save(path)
    loaded = fastlstm.load(path).weights
    for name, wanted in (("strided", base[::2, ::-1]), ("turned", base.T), ("big", base)):
        assert_same(np.ascontiguousarray(wanted), loaded[name])


def test_infinities_and_negative_zeros_are_weights_like_any(path):
    weight = np.array([np.inf, -np.inf, -0.0, 5e-324])
    passing({"w": weight}).save(path)
    assert_same(weight, fastlstm.load(path).weights["w"])


def test_attributes_keep_their_types_and_order(path):
    attributes = {"activations": ("Sigmoid", "Tanh"), "alphas": (0.1, -1e-300), "clip": 3.0, "batch_first": True}
    rng = np.random.default_rng(2)
    weights = {"W": rng.standard_normal((3, 6)), "U": rng.standard_normal((2, 6))}
    node = Node("gru", "GRU", ("x", "W", "U"), ("y",), attributes)
    specs = (TensorSpec("x", "float64", ("B", "T", 3)),), (TensorSpec("y", "float64", None),)
    Model(Graph((node,), *specs), weights).save(path)
    loaded = fastlstm.load(path).graph.nodes[0].attributes
    assert dict(loaded) == attributes
    assert [type(v) for _, v in sorted(loaded.items())] == [type(v) for _, v in sorted(attributes.items())]
    assert fastlstm.load(path).graph.outputs[0].shape is None


def test_names_may_be_any_text(path):
    weird = ['a"b\\c', "«é»", "emoji 🎉", "[[[{{{", "a/b:0", "__metadata__", "x\ny", "weight.weight.", "\x00"]
    passing({name: np.float32([k]) for k, name in enumerate(weird)}).save(path)
    assert sorted(fastlstm.load(path).weights) == sorted(weird)


def test_a_thousand_nodes_come_back(path):
    nodes = tuple(Node(f"n[{k}", "Identity", (f"v{k}",), (f"v{k + 1}",)) for k in range(1000))
    graph = Graph(nodes, (TensorSpec("v0", "float32", ("B", 3)),), (TensorSpec("v1000", "float32", ("B", 3)),))
    Model(graph, {}).save(path)
    assert fastlstm.load(path).graph == graph


# ---- narrow storage ---------------------------------------------------------------------------------
def test_float16_stores_matrices_rounded_to_nearest_and_leaves_vectors():
    model = small_model()
    narrow = model.narrowed("float16")
    for name in ("W", "U", "V"):
        assert_same(narrow.weights[name], np.asarray(model.weights[name]).astype(np.float16))
    assert_same(narrow.weights["b"], model.weights["b"])
    assert_same(narrow.weights["shape"], model.weights["shape"])


def test_int8_is_within_half_a_step_of_each_column_and_leaves_vectors():
    model = small_model()
    narrow = model.narrowed("int8")
    for name in ("W", "U", "V"):
        quantized, wide = narrow.weights[name], np.asarray(model.weights[name])
        assert isinstance(quantized, Quantized)
        assert quantized.scale.shape == wide.shape[-1:]
        assert np.all(np.abs(quantized.widen() - wide) <= quantized.scale * 0.5001)
    assert_same(narrow.weights["b"], model.weights["b"])


def test_narrower_files_are_smaller(path):
    node = Node("dense", "Dense", ("x", "W"), ("y",))
    specs = (TensorSpec("x", "float32", ("B", 64)),), (TensorSpec("y", "float32", ("B", 64)),)
    model = Model(Graph((node,), *specs), {"W": np.random.default_rng(4).standard_normal((64, 64), np.float32)})
    sizes = []
    for storage in ("float32", "float16", "int8"):
        model.save(path, weights=storage)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)


def test_narrowing_an_empty_matrix_is_no_error():
    weights = {"W": np.zeros((0, 4), np.float32)}
    node = Node("dense", "Dense", ("x", "W"), ("y",))
    model = Model(Graph((node,), (TensorSpec("x", "float32", ("B", 0)),), (TensorSpec("y", "float32", None),)), weights)
    assert model.narrowed("int8").weights["W"].shape == (0, 4)


# ---- deterministic bytes ----------------------------------------------------------------------------
def test_the_same_model_gives_the_same_bytes_whatever_the_order_of_its_dicts():
    model = small_model()
    turned = replace(
        model,
        weights=dict(reversed(list(model.weights.items()))),
        metadata=dict(reversed(list(model.metadata.items()))),
        graph=replace(
            model.graph,
            nodes=tuple(replace(n, attributes=dict(reversed(list(n.attributes.items())))) for n in model.graph.nodes),
        ),
    )
    assert turned.to_bytes() == model.to_bytes()


def test_the_same_model_gives_the_same_bytes_in_every_process():
    code = "import hashlib, model_files as m; print(hashlib.sha256(m.small_model().to_bytes()).hexdigest())"
    folder = Path(__file__).parent
    digests = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_saving_what_was_loaded_gives_the_same_bytes(path, storage):
    small_model().save(path, weights=storage)
    assert fastlstm.load(path).to_bytes() == path.read_bytes()


def test_the_safetensors_library_reads_the_file(path):
    small_model().save(path, weights="int8")
    with safe_open(path, framework="np") as file:
        assert set(file.metadata()) == {"fastlstm"}
        names = {*file.keys()}
        assert names == {
            *(f"weight.{name}" for name in ("W", "U", "V", "b", "shape")),
            *(f"scale.{name}" for name in ("W", "U", "V")),
            "example.input.x",
            "example.output.y",
        }
        loaded = fastlstm.load(path)
        assert_same(file.get_tensor("weight.b"), loaded.weights["b"])


# ---- what cannot be saved ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"w": np.float32([1, np.nan])}}, "weight 'w' holds NaN"),
        ({"weights": {"w": Quantized(np.ones((2, 2), np.int8), np.float32([1, np.inf]))}}, "weight 'w' holds NaN"),
        ({"weights": {"w": Quantized(np.ones((2, 2), np.int8), np.float32([1]))}}, "scale of weight 'w' does not fit"),
        ({"weights": {"w": np.array(["text"])}}, "dtype <U4"),
        ({"weights": {"w": np.array([1j])}}, "dtype complex128"),
        ({"weights": {"w": np.array([None])}}, "dtype object"),
        ({"weights": {"w": np.zeros((1,) * 17)}}, "expected up to 16 sizes"),
        ({"weights": {"half \ud800": np.float32([1])}}, "surrogates not allowed"),
        ({"metadata": {"epochs": 3}}, "expected an object of texts"),
        ({"metadata": {"half": "\ud800"}}, "expected an object of texts"),
        ({"metadata": {"long": "x" * (5 << 20)}}, "more than 4194304"),
        ({"example": Example({"x": np.float32([1])}, {}, "e")}, "the example has outputs"),
        ({"example": Example({}, {"y": np.float32([1])}, "e")}, "the example has inputs"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(path, change, message):
    model = replace(passing({}), **change)
    path.write_bytes(b"old")
    with pytest.raises(ModelFileError, match="cannot be saved") as caught:
        model.save(path)
    assert message in str(caught.value)
    assert path.read_bytes() == b"old"


def test_an_attribute_that_is_no_json_is_not_saved(path):
    model = passing({}, {"axis": np.int32(1)}, "Softmax") if False else None
    node = Node("n", "Cast", ("x",), ("y",), {"to": "float32"})
    graph = Graph((node,), (TensorSpec("x", "float32", (np.int64(3),)),), (TensorSpec("y", "float32", None),))  # type: ignore[arg-type]
    model = Model(graph, {})
    with pytest.raises(ModelFileError, match="cannot be saved"):
        model.save(path)


# ---- atomic writing ---------------------------------------------------------------------------------
def files_beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.mark.parametrize("call", ["open", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failed_system_call_leaves_the_old_file_and_nothing_else(path, monkeypatch, call, number):
    small_model(seed=1).save(path)
    old = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(ModelFileError, match=f"model.safetensors: cannot be written: {os.strerror(number)}"):
            small_model(seed=2).save(path)
    assert path.read_bytes() == old
    assert files_beside(path) == [path.name]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    small_model(seed=1).save(path)
    old = path.read_bytes()

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            small_model(seed=2).save(path)
    assert path.read_bytes() == old
    assert files_beside(path) == [path.name]


RUN = """
import os, signal, sys
from pathlib import Path
import model_files
path, mode = Path(sys.argv[1]), sys.argv[2]
"""


def start(code: str, *args: object) -> subprocess.Popen:
    search = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", RUN + code, *map(str, args)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search}, stdout=subprocess.PIPE, text=True)


def test_a_write_cut_short_by_the_system_leaves_the_old_file(path):
    pytest.importorskip("resource")
    small_model(seed=1).save(path)
    old = path.read_bytes()
    code = """
import resource, fastlstm
model = model_files.small_model(seed=2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    model.save(path)
except fastlstm.ModelFileError as error:
    print(error)
"""
    process = start(code, path, "")
    assert "cannot be written" in process.communicate(timeout=120)[0]
    assert path.read_bytes() == old
    assert files_beside(path) == [path.name]


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new(path):
    models = [small_model(seed=1), small_model(seed=2)]
    models[0].save(path)
    code = """
models = [model_files.small_model(seed=1), model_files.small_model(seed=2)]
print("ready", flush=True)
while True:
    for model in models:
        model.save(path)
"""
    rng = np.random.default_rng(3)
    for _ in range(4):
        process = start(code, path, "")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert path.read_bytes() in [model.to_bytes() for model in models]
        fastlstm.load(path)


def test_a_kill_between_writing_and_renaming_leaves_the_old_file(path):
    small_model(seed=1).save(path)
    old = path.read_bytes()
    code = """
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
model_files.small_model(seed=2).save(path)
"""
    assert start(code, path, "").wait(timeout=120) == -9
    assert path.read_bytes() == old


def test_writers_at_the_same_time_leave_one_whole_file(path):
    models = [small_model(seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda model: [model.save(path) for _ in range(10)], models))
    assert path.read_bytes() in [model.to_bytes() for model in models]
    assert files_beside(path) == [path.name]


def test_the_old_files_mode_and_a_link_are_kept(path, tmp_path):
    small_model().save(path)
    path.chmod(0o640)
    link = tmp_path / "current"
    link.symlink_to(path.name)
    small_model(seed=1).save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == small_model(seed=1).to_bytes()


def test_a_new_file_has_the_mode_that_the_umask_gives(path):
    before = os.umask(0o027)
    try:
        small_model().save(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_names_can_be_is_written(tmp_path):
    path = tmp_path / ("m" * 255)
    small_model().save(path)
    assert files_beside(path) == [path.name]


@pytest.mark.parametrize("name", ["", "no/such/folder/m", "folder", "nul\0", "pipe"])
def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError) as caught:
        small_model().save(name)
    assert "\n" not in str(caught.value)
    assert files_beside(tmp_path / "x") == ["folder", "pipe"]


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_paths_may_be_text_path_or_bytes(path, kind):
    small_model().save(kind(path))
    assert fastlstm.load(kind(path)).parameters == small_model().parameters


# ---- memory -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_loading_takes_at_most_three_times_the_file_and_64_mib(path, dtype):
    passing({"w": np.ones((4096, 4096), dtype)}).save(path)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        loaded = fastlstm.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded.parameters == 4096 * 4096
    assert peak <= 3 * size + 64 * MIB
    assert peak <= 1.6 * size + 4 * MIB  # what it takes today: the tensors, and one boolean for each element

"""What an import loads, and what it does not."""

import shutil
import sys
from pathlib import Path

import pytest
from command import python, run

import fastlstm
from fastlstm.kernels import cache

FOREIGN = {
    "onnx", "onnxruntime", "pyfive", "h5py", "keras", "tf_keras", "tensorflow", "torch", "matplotlib", "rich", "google.protobuf",
}  # fmt: skip
NUMBA = {"numba", "llvmlite"}
LOADED = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules} | {'google.protobuf', 'fastlstm.converters'} & set(sys.modules)))"


def _loaded(code: str, folder: Path, hidden: tuple[str, ...] = ()) -> set[str]:
    done = run(python(f"{code}\n{LOADED}", hidden=hidden), folder)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def saved(tmp_path_factory, demo_models) -> Path:
    """A folder with the saved model m.safetensors."""
    pytest.importorskip("pyfive")
    folder = tmp_path_factory.mktemp("saved")
    fastlstm.convert(demo_models / "sunspots.keras").save(folder / "m.safetensors")
    return folder


def test_importing_fastlstm_loads_next_to_nothing(tmp_path):
    for module in ("fastlstm", "fastlstm.cli"):
        loaded = _loaded(f"import {module}", tmp_path)
        assert "fastlstm" in loaded
        assert not loaded & (FOREIGN | NUMBA | {"numpy", "safetensors", "argparse", "dataclasses", "typing"})


def test_loading_and_saving_a_model_loads_no_numba_and_no_converter(saved):
    loaded = _loaded("import fastlstm\nfastlstm.load('m.safetensors').save('again', weights='int8')", saved)
    assert not loaded & (FOREIGN | NUMBA | {"fastlstm.converters"})


def test_running_a_saved_model_needs_no_foreign_package_and_no_converter_and_to_compile_it_numba(
    saved, tmp_path, monkeypatch
):
    code = "import fastlstm, numpy as np\nm = fastlstm.load('m.safetensors')\ns = fastlstm.Session(m)\ns.run(np.zeros((1, 12, 1)))\ns.stream().step(np.zeros((1, 1)))"
    fastlstm.warmup(fastlstm.load(saved / "m.safetensors"))
    here = cache.folder()
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path))
    shutil.copytree(here, cache.folder())
    (cache.folder() / "walk").unlink()
    hidden = tuple(name.split(".")[0] for name in FOREIGN)
    for hide, compiles in (((), True), (hidden, False)):
        loaded = _loaded(code, saved, hide)
        assert ("numba" in loaded) == compiles
        assert not loaded & (FOREIGN | {"fastlstm.converters"})


def test_the_command_line_loads_llvm_only_for_a_command_that_runs(saved):
    for arguments in (["--version"], ["info", "m.safetensors"]):
        code = f"from fastlstm.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
        assert not _loaded(code, saved) & (FOREIGN | NUMBA)


@pytest.mark.parametrize(
    ("name", "allowed"), [("sunspots.keras", "pyfive"), ("chars.h5", "pyfive"), ("co2_season.onnx", "onnx")]
)
def test_converting_loads_the_reader_of_that_format_alone(tmp_path, demo_models, name, allowed):
    pytest.importorskip(allowed)
    loaded = _loaded(f"import fastlstm\nfastlstm.convert({str(demo_models / name)!r})", tmp_path)
    assert {allowed, "fastlstm.converters"} <= loaded
    unwanted = FOREIGN - {allowed, "google.protobuf", "h5py"}
    assert not loaded & (unwanted | NUMBA)


def test_the_converters_cannot_be_imported_under_another_name(tmp_path):
    folder = Path(fastlstm.__file__).parent / "converters"
    (tmp_path / "converters").symlink_to(folder.resolve())
    done = run(python("import sys; sys.path.insert(0, '')\nimport converters"), tmp_path)
    assert done.returncode != 0
    assert "import this package as fastlstm.converters, not as converters" in done.stderr


def test_no_file_is_loaded_under_two_names():
    import fastlstm.converters.from_keras
    import fastlstm.converters.from_onnx

    names: dict[Path, list[str]] = {}
    home = Path(fastlstm.__file__).resolve().parent
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name != "__main__":
            names.setdefault(Path(file).resolve(), []).append(name)
    ours = {path: found for path, found in names.items() if home in path.parents or path.parent.name == "converters"}
    assert any(path.name == "from_onnx.py" for path in ours)
    assert {path.name: found for path, found in ours.items() if len(found) > 1} == {}


def test_every_public_name_is_there():
    for name in fastlstm.__all__:
        assert getattr(fastlstm, name) is not None
    assert fastlstm.__version__
    assert dir(fastlstm) == sorted(fastlstm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sesion'"):
        fastlstm.sesion  # noqa: B018


def test_every_public_name_is_there_after_importing_fastlstm_alone(tmp_path):
    assert {"callbacks", "data", "losses", "metrics", "optimizers", "value_and_grad"} <= set(fastlstm.__all__)
    done = run(python("import fastlstm\nfor name in fastlstm.__all__: getattr(fastlstm, name)"), tmp_path)
    assert done.returncode == 0, done.stderr

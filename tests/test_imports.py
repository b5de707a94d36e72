"""What an import loads, and what it does not."""

import sys
from pathlib import Path

import pytest
from command import python, run

import fastlstm

FOREIGN = {"onnx", "onnxruntime", "pyfive", "h5py", "keras", "tf_keras", "tensorflow", "torch", "matplotlib", "rich", "google.protobuf"}
LOADED = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules} | {'google.protobuf'} & set(sys.modules)))"


def _loaded(code: str, folder: Path) -> set[str]:
    done = run(python(f"{code}\n{LOADED}"), folder)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_fastlstm_loads_neither_foreign_packages_nor_numba(tmp_path):
    loaded = _loaded("import fastlstm", tmp_path)
    assert "fastlstm" in loaded
    assert not loaded & (FOREIGN | {"numba", "llvmlite"})


def test_running_a_saved_model_loads_no_foreign_package(tmp_path, demo_models):
    fastlstm.convert(demo_models / "sunspots.keras").save(tmp_path / "m.safetensors")
    code = "import fastlstm, numpy as np\nm = fastlstm.load('m.safetensors')\nfastlstm.Session(m).run(np.zeros((1, 12, 1)))"
    loaded = _loaded(code, tmp_path)
    assert "numba" in loaded
    assert not loaded & FOREIGN


@pytest.mark.parametrize(("name", "allowed"), [("sunspots.keras", "pyfive"), ("chars.h5", "pyfive"), ("co2_season.onnx", "onnx")])
def test_converting_loads_the_reader_of_that_format_alone(tmp_path, demo_models, name, allowed):
    loaded = _loaded(f"import fastlstm\nfastlstm.convert({str(demo_models / name)!r})", tmp_path)
    assert allowed in loaded
    unwanted = FOREIGN - {allowed, "google.protobuf", "h5py"}
    assert not loaded & unwanted
    assert "numba" not in loaded


def test_the_converters_cannot_be_imported_under_another_name(tmp_path):
    root = Path(fastlstm.__file__).resolve().parents[1]
    if not (root / "converters").is_dir():
        pytest.skip("an installed package has no folder of that name")
    done = run(python("import converters"), root)
    assert done.returncode != 0
    assert "fastlstm.converters" in done.stderr


def test_every_public_name_is_there():
    for name in fastlstm.__all__:
        assert getattr(fastlstm, name) is not None
    assert sys.modules["fastlstm"].__version__
    with pytest.raises(AttributeError, match="no attribute 'sesion'"):
        fastlstm.sesion  # noqa: B018

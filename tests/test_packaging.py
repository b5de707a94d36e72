"""The source distribution builds, and the wheel made from it works in a bare environment from another folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from command import run

ROOT = Path(__file__).parents[1]
if not (ROOT / "pyproject.toml").exists():
    pytest.skip("the tests run beside an installed package", allow_module_level=True)
build = pytest.importorskip("build")

TOP = {
    "pyproject.toml", "setup.py", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in",
    "docs", "fastlstm", "converters", "tests", "bench",
}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the sdist from the tracked files, then the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "build", "dist", "demo-output")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignore)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(source)], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """Install the wheel alone in a fresh environment."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True, capture_output=True)
    return python


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


def test_the_top_level_is_what_it_should_be():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} == TOP
    link = subprocess.run(["git", "ls-files", "-s", "fastlstm/converters"], cwd=ROOT, capture_output=True, text=True).stdout
    assert link.startswith("120000")


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"fastlstm", f"{wheel.name.split('-py3')[0]}.dist-info"}
    wanted = ("converters/from_keras.py", "converters/from_onnx.py", "demo/models/sunspots.keras", "demo/models/models.json", "py.typed", "cli/__init__.py")
    assert {f"fastlstm/{name}" for name in wanted} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "test" in name]


def test_the_sdist_holds_tests_docs_and_one_copy_of_the_converters(wheel):
    (sdist,) = wheel.parent.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    assert {"converters/from_keras.py", "tests/naive.py", "docs/FORMAT.md", "bench/models.py", "LICENSE"} <= names
    assert not [name for name in names if name.startswith("fastlstm/converters/")]


def test_a_bare_installation_pulls_three_packages_and_runs_a_model(bare, tmp_path, demo_models):
    import fastlstm

    listed = subprocess.run([bare, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    names = {line.split("==")[0].lower() for line in listed.splitlines()} - {"pip", "setuptools", "wheel"}
    assert names == {"fastlstm", "numpy", "numba", "llvmlite", "safetensors"}
    fastlstm.convert(demo_models / "sunspots.keras").save(tmp_path / "m.safetensors")
    code = "import fastlstm, numpy as np; print(fastlstm.Session(fastlstm.load('m.safetensors')).run(np.zeros((1, 12, 1))).shape)"
    done = run([str(bare), "-c", code], tmp_path, env=_clean())
    assert done.stdout.strip() == "(1, 1)", done.stderr
    done = run([str(bare.parent / "fastlstm"), "convert", str(demo_models / "sunspots.keras"), "-o", "x"], tmp_path, env=_clean())
    assert done.returncode == 1
    assert "pip install 'fastlstm[keras]'" in done.stderr


def test_the_installed_wheel_passes_tests_from_another_folder(bare, tmp_path):
    subprocess.run([bare, "-m", "pip", "install", "-q", "pytest", "pytest-benchmark", "hypothesis", "pyfive", "onnx"], check=True, capture_output=True)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    chosen = ["tests/test_format.py", "tests/test_session.py", "tests/test_imports.py", "tests/test_stream.py"]
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=tests"]
    done = run([str(bare), "-m", "pytest", *options, *chosen], tmp_path, env=_clean(), timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]

"""The source distribution builds, and the wheel made from it works in a bare environment, from another folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from command import run

import fastlstm

ROOT = Path(__file__).parents[1]
if not (ROOT / "pyproject.toml").exists():
    pytest.skip("the tests run beside an installed package", allow_module_level=True)
pytest.importorskip("build")
pytest.importorskip("pyfive")

TOP = {
    "pyproject.toml", "setup.py", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "examples",
    "docs", "fastlstm", "converters", "tests", "bench",
}  # fmt: skip
UNTRACKED = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "build",
    "dist",
    "demo-output",
)
SUBSET = ("test_format.py", "test_verify.py")


def done(*command: object, cwd: Path | None = None, **options) -> str:
    """Run a command that must succeed, without the path on which these tests found fastlstm; return its stdout."""
    words = [str(word) for word in command]
    finished = run(words, cwd or ROOT, **{"env": clean(), "timeout": 600} | options)
    assert finished.returncode == 0, f"{words}: {finished.stdout[-3000:]}{finished.stderr[-3000:]}"
    return finished.stdout


def clean(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more


def environment(folder: Path) -> Path:
    """Make a fresh environment; return its python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the tree without what git does not track."""
    folder = tmp_path_factory.mktemp("tree") / "source"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*UNTRACKED))
    (folder / "fastlstm" / "__pycache__").mkdir()
    (folder / "fastlstm" / "__pycache__" / "old.cpython-311.pyc").write_bytes(b"old")
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """Build the sdist, then the wheel from the sdist; return the wheel, beside which lies the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "build", "--outdir", folder, source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """Install the wheel alone in a fresh environment; return its python."""
    python = environment(tmp_path_factory.mktemp("bare") / "env")
    done(python, "-m", "pip", "install", "-q", wheel)
    return python


@pytest.fixture
def elsewhere(tmp_path, demo_models) -> Path:
    """A folder far from the tree, with a saved model and a Keras file."""
    fastlstm.convert(demo_models / "sunspots.keras").save(tmp_path / "m.safetensors")
    shutil.copy(demo_models / "sunspots.keras", tmp_path / "model.keras")
    return tmp_path


def test_the_top_level_is_what_it_should_be():
    tracked = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    modes = {line.split("\t")[1]: line.split()[0] for line in tracked.stdout.splitlines()}
    assert {top for top in {path.split("/")[0] for path in modes} if not top.startswith(".")} == TOP
    assert {path for path, mode in modes.items() if mode == "120000"} == {"fastlstm/converters"}
    assert os.readlink(ROOT / "fastlstm" / "converters") == "../converters"


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel, source):
    archive = zipfile.ZipFile(wheel)
    info = f"{wheel.name.split('-py3')[0]}.dist-info/"
    held = {name for name in archive.namelist() if not name.startswith(info)}
    package = {str(path.relative_to(source)) for path in (source / "fastlstm").rglob("*.py")}
    package |= {f"fastlstm/{path.relative_to(source)}" for path in (source / "converters").rglob("*.py")}
    package |= {str(path.relative_to(source)) for path in (source / "fastlstm/demo/models").iterdir()}
    assert held == package | {"fastlstm/py.typed"}
    assert {"fastlstm/converters/from_keras.py", "fastlstm/cli/app.py", "fastlstm/demo/models/sunspots.keras"} <= held
    for entry in archive.infolist():
        assert (entry.external_attr >> 16) & 0o170000 != 0o120000, f"{entry.filename} is a link"
    assert f"{info}licenses/LICENSE" in archive.namelist()


def test_the_wheel_needs_three_packages_and_states_its_python(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    always = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {re.match(r"[\w-]+", line)[0] for line in always} == {"numba", "numpy", "safetensors"}
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Version"] == fastlstm.__version__
    assert "**right, fast, small**" in metadata.get_payload()


def test_the_sdist_holds_tests_docs_and_one_copy_of_the_converters(wheel):
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert {"converters/from_keras.py", "tests/naive.py", "docs/FORMAT.md", "bench/rows.py", "LICENSE"} <= names
    assert {name.split("/")[0] for name in names} <= TOP | {"", "PKG-INFO", "setup.cfg", "fastlstm.egg-info"}
    assert not [name for name in names if name.startswith("fastlstm/converters/") or "__pycache__" in name]
    assert not [member.name for member in members if member.issym() or member.islnk()]


def test_a_bare_installation_pulls_three_packages(bare):
    listed = done(bare, "-m", "pip", "list", "--format=freeze")
    names = {line.split("==")[0].lower() for line in listed.splitlines()} - {"pip", "setuptools", "wheel"}
    assert names == {"fastlstm", "numpy", "numba", "llvmlite", "safetensors"}


def test_a_bare_installation_runs_a_saved_model_from_another_folder(bare, elsewhere):
    code = "import fastlstm, numpy as np; print(fastlstm.__file__, fastlstm.Session(fastlstm.load('m.safetensors')).run(np.zeros((1, 12, 1))).shape)"
    assert done(bare, "-c", code, cwd=elsewhere).split(maxsplit=1) == [
        str(
            Path(
                done(bare, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip(),
                "fastlstm/__init__.py",
            )
        ),
        "(1, 1)\n",
    ]
    script = bare.parent / "fastlstm"
    assert done(script, "--version", cwd=elsewhere) == f"fastlstm {fastlstm.__version__}\n"
    assert "not verified: no reference" in done(script, "verify", "m.safetensors", cwd=elsewhere)


def test_an_editable_installation_sees_the_tree_from_another_folder(source, elsewhere):
    python = environment(elsewhere / "env")
    done(python, "-m", "pip", "install", "-q", "--no-deps", "-e", source)
    # what it needs, from here: a folder on the path, whose own installation of fastlstm is not followed
    home = Path(done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (home / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = "import fastlstm, fastlstm.converters as c, numpy as np; print(fastlstm.__file__, c.__file__, fastlstm.Session(fastlstm.convert('model.keras')).run(np.zeros((1, 12, 1))).shape)"
    package, converters, shape = done(python, "-c", code, cwd=elsewhere).split(maxsplit=2)
    assert Path(package) == source / "fastlstm" / "__init__.py"
    assert Path(converters).resolve() == source / "converters" / "__init__.py"
    assert shape == "(1, 1)\n"


def test_the_install_line_of_a_missing_extra_works(bare, elsewhere):
    script = bare.parent / "fastlstm"
    convert = [str(script), "convert", "model.keras", "-o", "new.safetensors"]
    refusal = run(convert, elsewhere, env=clean())
    assert refusal.returncode == 1
    (line,) = re.findall(r"pip install '(fastlstm\[keras\])'", refusal.stderr)
    done(bare, "-m", "pip", "install", "-q", line)
    assert "wrote new.safetensors" in done(*convert, cwd=elsewhere)


def test_the_installed_wheel_passes_tests_from_another_folder(bare, wheel, tmp_path):
    done(bare, "-m", "pip", "install", "-q", f"fastlstm[keras,onnx,cli,bench] @ {wheel.as_uri()}", "hypothesis")
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=tests", "--benchmark-skip"]
    done(
        bare,
        "-m",
        "pytest",
        *options,
        *(f"tests/{name}" for name in SUBSET),
        cwd=tmp_path,
        env=clean(PYTHONSAFEPATH="1"),
    )

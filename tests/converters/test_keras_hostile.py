"""Damaged Keras files, in processes of their own: with and without `python -O`, which drops the asserts of what we build on.

CI loads a sample; FASTLSTM_FULL=1 loads 20,000 mutations each way. The harness is a script: hostile_keras.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CASES

pytest.importorskip("pyfive")

import hostile_keras

import fastlstm

FULL = os.environ.get("FASTLSTM_FULL", "") not in ("", "0")
SCRIPT = Path(hostile_keras.__file__)


def real_files(demo_models: Path, tmp_path: Path) -> list[Path]:
    """Return three trained files: a zip, HDF5 of Keras 3, and one that another wrote, or where there is none a zip written here."""
    other = CASES / "keras_emg_gru" / "model.keras"
    if not other.exists():
        other = tmp_path / "other.keras"
        fastlstm.convert(demo_models / "chars.h5").export(other)
    return [demo_models / "sunspots.keras", demo_models / "chars.h5", other]


@pytest.mark.parametrize("option", ["", "-O"])
def test_damaged_files_give_a_model_or_our_error_and_nothing_else(option, demo_models, tmp_path):
    size = ["--count", "20000"] if FULL else ["--count", "600", "--seconds", "8"]
    command = [sys.executable, *filter(None, [option]), str(SCRIPT), *size, "--seed", "2" if option else "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, *map(str, real_files(demo_models, tmp_path))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    print(done.stdout)
    loads, models = (int(done.stdout.split()[k]) for k in (0, 2))
    assert loads >= 303 and models >= 3


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("print(1); raise ValueError('odd')", "foreign exception: ValueError: odd"),
        ("import wave", "not only a load: [('import'"),
        ("open('/dev/null').close()", "not only a load: [('open'"),
        ("raise errors.ModelFileError('two\\nlines')", "an error of several lines"),
        ("import numpy; numpy.ones(40_000_000)", "MiB of memory"),
        ("import os; os.abort()", None),
        ("sum(range(10**8))", " s\n"),
    ],
)  # fmt: skip
def test_the_harness_sees_each_rule_broken(broken, words, demo_models):
    """What loads is replaced; without it a rule that the harness could not see would stand unnoticed."""
    program = (
        f"import sys; sys.path[:0] = [{str(SCRIPT.parent)!r}]\n"
        "import hostile, hostile_keras\n"
        "from fastlstm import errors\n"
        "whole, real = [], hostile_keras.from_keras\n"
        "def broken(data, *rest):\n"
        "    if len(data) in whole: return real(data, *rest)\n"
        f"    {broken}\n"
        "hostile_keras.from_keras = broken\n"
        "hostile.SECONDS = 0.5\n"
        "path = sys.argv[1]\n"
        "whole.append(len(open(path, 'rb').read()))\n"
        "hostile_keras.main(['--count', '0', path])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(demo_models / "sunspots.keras")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    if words is not None:
        assert "sunspots.keras cut at 0 %: " in done.stderr
        assert words in done.stderr

"""The README's commands and programs run as they stand there, and what it says of the project is so."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command import run

ROOT = Path(__file__).parents[1]
if not (ROOT / "README.md").exists():
    pytest.skip("the README is not beside the tests", allow_module_level=True)
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M)


def shell_lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def setup_commands() -> list[str]:
    return [line for line in shell_lines() if "-m venv" in line]


def test_exactly_two_commands_set_up_and_work_in_a_fresh_clone():
    first, second = setup_commands()
    for command in (first, second):
        assert re.fullmatch(r'python3 -m venv \.venv && \.venv/bin/pip install -q (-e )?"\.\[[a-z,]+\]" && .+', command)
    assert first.endswith(".venv/bin/fastlstm demo")
    assert second.endswith(".venv/bin/python -m pytest -n auto --dist loadfile")


@pytest.mark.parametrize("command", setup_commands())
def test_the_extras_that_it_installs_exist(command):
    (extras,) = re.findall(r"\[([a-z,]+)\]", command)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_ci_runs_the_second_command_verbatim():
    if not (ROOT / ".ci" / "run").exists():
        pytest.skip("no .ci here")
    script = (ROOT / ".ci" / "run").read_text()
    (taken,) = re.findall(r"^command=\$\((.*)\)$", script, re.M)
    found = subprocess.run(["bash", "-c", taken], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.rstrip("\n") == setup_commands()[1]
    before, after = script.split(taken)
    assert 'bash -c "$command"' in after
    assert "pip install" not in before
    assert re.search(r"^rm -rf \.venv$", before, re.M), "the environment is fresh"


def test_every_shell_line_is_a_setup_command_or_one_of_ours():
    assert [line for line in shell_lines() if line not in setup_commands() and not line.startswith("fastlstm ")] == []


def test_the_shell_blocks_run(tmp_path, demo_models):
    for package in ("pyfive", "onnx"):
        pytest.importorskip(package)
    shutil.copy(demo_models / "sunspots.keras", tmp_path / "model.keras")
    shutil.copy(demo_models / "chars.h5", tmp_path / "old.h5")
    commands = [line for line in shell_lines() if line.startswith("fastlstm ")]
    assert {"convert", "info", "verify"} <= {line.split()[1] for line in commands}
    for command in commands:
        done = run([sys.executable, "-m", *shlex.split(command, comments=True)], tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout
    assert (tmp_path / "model.safetensors").exists()


def test_the_python_blocks_run_in_order(tmp_path, demo_models, monkeypatch, capsys):
    import fastlstm

    pytest.importorskip("pyfive")
    shutil.copy(demo_models / "sunspots.keras", tmp_path / "model.keras")
    fastlstm.convert(tmp_path / "model.keras").save(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert len(blocks("python")) >= 3
    names: dict = {}
    for block in blocks("python"):
        if "network = " in block:
            assert names["y"].shape == (8, 1)
        exec(compile(block, "README.md", "exec"), names)
    losses = names["history"].history["loss"]
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(
        fastlstm.Session(fastlstm.load("wave.safetensors")).run(names["x"][:3]), names["forecast"]
    )
    assert Path("tuned.safetensors").exists()
    assert names["out"].any()
    assert [y.shape for y in names["ys"]] == [(1,), (1,)]
    assert Path("small.safetensors").stat().st_size < Path("model.safetensors").stat().st_size
    assert "expected ['batch', 'time', 1]" in capsys.readouterr().out, "the error that the example shows"


def test_the_table_of_extras_is_that_of_the_project():
    rows = re.findall(r"^\| (`[a-z`, ]+`) \| ([^|]*)\|", README, re.M)
    listed = {name for names, _ in rows for name in re.findall(r"`([a-z]+)`", names)}
    extras = PROJECT["optional-dependencies"]
    assert listed == set(extras)
    for names, brings in rows:
        for word in re.findall(r"[a-z][a-z-]+", brings.split("what")[0]):
            for name in re.findall(r"`([a-z]+)`", names):
                assert re.search(rf"\b{word}\b", " ".join(extras[name])), f"{name} does not bring {word}"


def test_it_states_the_python_and_the_dependencies_of_the_project():
    assert f"Python ({PROJECT['requires-python'].removeprefix('>=')} or later)" in README
    needed = {re.match(r"[a-z]+", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert needed == {"numpy", "numba", "safetensors"}
    assert "it needs numpy, numba and safetensors, nothing else" in " ".join(README.split())

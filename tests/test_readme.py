"""The README's commands and programs run as they stand there."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from command import environment, run

ROOT = Path(__file__).parents[1]
if not (ROOT / "README.md").exists():
    pytest.skip("the README is not beside the tests", allow_module_level=True)
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M)


def setup_commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if "-m venv" in line]


def test_exactly_two_commands_set_up_and_work_in_a_fresh_clone():
    first, second = setup_commands()
    for command in (first, second):
        assert re.fullmatch(r'python3 -m venv \.venv && \.venv/bin/pip install -q (-e )?"\.\[[a-z,]+\]" && .+', command)
    assert first.endswith(".venv/bin/fastlstm demo")
    assert second.endswith(".venv/bin/python -m pytest")


def test_ci_runs_the_second_command_as_the_readme_gives_it():
    if not (ROOT / ".ci" / "run").exists():
        pytest.skip("no .ci here")
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    assert "pip install" not in script.split("README.md")[0]


def test_the_shell_blocks_run(tmp_path, demo_models):
    shutil.copy(demo_models / "sunspots.keras", tmp_path / "model.keras")
    commands = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines() if line.startswith("fastlstm ")]
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command)
        done = run([sys.executable, "-m", *words], tmp_path, env=environment(FASTLSTM_ENGINES=""))
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert (tmp_path / "model.safetensors").exists()


def test_the_python_blocks_run_in_order(tmp_path, demo_models, monkeypatch):
    import fastlstm

    shutil.copy(demo_models / "sunspots.keras", tmp_path / "model.keras")
    fastlstm.convert(tmp_path / "model.keras").save(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert len(blocks("python")) >= 3
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["y"].shape == (8, 1)
    assert os.path.exists("small.safetensors")

"""The command line in a process of its own, as a person runs it, with packages hidden as if they were not installed."""

import os
import subprocess
import sys
from pathlib import Path

import fastlstm

HOME = str(Path(fastlstm.__file__).resolve().parents[1])

HIDE = """
import sys
from importlib.machinery import PathFinder
hidden = {hidden!r}
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""
MAIN = """
from fastlstm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which a process imports the fastlstm that is tested, wherever it runs."""
    path = os.pathsep.join(filter(None, [HOME, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def python(code: str, *arguments: str, hidden: tuple[str, ...] = ()) -> list[str]:
    """Return the command that runs code in a Python without the hidden packages."""
    return [sys.executable, "-c", HIDE.format(hidden=hidden) + code, *arguments]


def fastlstm_command(*arguments: object, hidden: tuple[str, ...] = ()) -> list[str]:
    """Return the command `fastlstm ...`, in a Python without the hidden packages."""
    given = [str(argument) for argument in arguments]
    return python(MAIN, *given, hidden=hidden) if hidden else [sys.executable, "-m", "fastlstm", *given]


def run(command: list[str], cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said."""
    options = {"env": environment(), "timeout": 300, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, cwd=cwd, text=True, check=False, **options)

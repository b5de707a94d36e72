"""`bench --suite`: the project's benchmarks, which stand in its repository and are not installed."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import fastlstm
from fastlstm.errors import InputError

HOME = Path(fastlstm.__file__).resolve().parents[1]


def become(arguments: Sequence[str]) -> NoReturn:
    """Go on as `python -m bench` of the clone that this package lies in. Raise InputError where it lies in none."""
    if not (HOME / "bench" / "peers" / "ours.py").is_file():
        raise InputError(
            "--suite: the benchmarks are not installed with the package; clone the project and run `python -m bench` there"
        )
    path = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")]))
    # what lies in the folder it is called from is not imported in their place
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "bench", *arguments], environment)

"""The examples are what a Keras user would write: by the lines of docs/from-keras.md they become programs for Keras, which run."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_examples import CASES, EXAMPLES
from training import networks

GUIDE = (EXAMPLES.parent / "docs" / "from-keras.md").read_text()
LINES = dict(re.findall(r"^```diff (\w+)\n(.*?)^```$", GUIDE, re.S | re.M))
ALIKE = re.search(r"else\s+differs in ([\w, ]+)\.", GUIDE)[1]
IN_UTILS = {"pad_sequences", "set_random_seed", "to_categorical"}
NAMESPACES = {"layers", "optimizers", "callbacks", "regularizers", "models"}

# as small as they run: it is for Keras to learn from them
SMALL = {
    "attention": {"epochs": 2},
    "autoencoder": {"count": 64, "epochs": 1},
    "characters": {"characters": 1500, "epochs": 1, "units": 8},
    "forecast": {"epochs": 2},
    "forecast_relu": {"epochs": 2},
    "gates": {"count": 64, "epochs": 1},
    "lstm_gru": {"characters": 1500, "epochs": 1},
    "music": {"epochs": 1},
    "regularized": {"epochs": 2},
    "sentiment": {"sentences": 200, "epochs": 1},
    "speech": {"count": 64, "epochs": 1},
    "stacked": {"epochs": 1},
    "tagging": {"sentences": 200, "epochs": 1},
    "translate": {"epochs": 1},
    "tuning": {"trials": 2, "epochs": 2},
    "video": {"count": 32, "epochs": 1},
}
# Keras takes seconds to trace each: all of them with FASTLSTM_FULL=1
RUN = list(SMALL) if os.environ.get("FASTLSTM_FULL") == "1" else ["forecast", "sentiment", "translate"]


def imported(line: str) -> str:
    """Return a line of imports as Keras has it."""
    module, names = re.fullmatch(r"from fastlstm(?:\.([\w.]+))? import (.*)", line).groups()
    names = [name for name in names.split(", ") if name != "Session"]
    if module in NAMESPACES:
        return f"from keras.{module} import {', '.join(names)}"
    parts = {
        f"fastlstm.{module}" if module else "keras": [name for name in names if name not in IN_UTILS],
        "keras.utils": [name for name in names if name in IN_UTILS],
    }
    return "\n".join(f"from {of} import {', '.join(part)}" for of, part in parts.items() if part)


def exchanges(name: str) -> list[tuple[str, str]]:
    """Return pairs of ours and Keras's of neighbouring lines that differ."""
    found = []
    for theirs, ours in re.findall(r"((?:^-.*\n)*)((?:^\+.*\n)+)", LINES.get(name, ""), re.M):
        found.append(tuple(re.sub(r"^[+-]", "", text, flags=re.M) for text in (ours, theirs)))
    return found


def for_keras(name: str) -> str:
    """Return an example as a program for Keras."""
    program = (EXAMPLES / f"{name}.py").read_text()
    for ours, theirs in exchanges(name):
        assert program.count(ours) == 1, f"{name}.py has no such lines, or has them twice:\n{ours}"
        program = program.replace(ours, theirs)
    return re.sub(r"^from fastlstm.*$", lambda line: imported(line[0]), program, flags=re.M)


def test_the_guide_tells_of_every_example_what_differs():
    alike = re.split(", | and ", ALIKE)
    assert set(alike) | set(LINES) == set(CASES) == set(SMALL)
    assert not set(alike) & set(LINES)


@pytest.mark.parametrize("name", CASES)
def test_the_lines_of_the_guide_are_those_of_the_example(name):
    program = for_keras(name)
    compile(program, f"{name} for Keras", "exec")
    left = {line for line in program.splitlines() if "fastlstm" in line and "import" in line}
    assert all(line.startswith(("from fastlstm.data", "from fastlstm.demo")) for line in left), left


@pytest.mark.parametrize("name", RUN)
def test_with_keras_it_runs(name, tmp_path):
    networks.keras("float32")
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip(CASES[name].needs)
    names = {"__name__": name}
    exec(compile(for_keras(name), f"{name} for Keras", "exec"), names)
    folder = {} if name in ("characters", "translate") else {"folder": tmp_path}
    results = names["main"](**SMALL[name], **folder)
    assert np.isfinite(results["last"])
    assert len(list(Path(tmp_path).glob("*.png"))) == len(CASES[name].figures)

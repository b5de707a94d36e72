"""Machine code cached by different processes is used together, as it was compiled."""

import os
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest
from command import environment

import fastlstm

CASES = {
    "lstm": models.Recurrence("LSTM", 5, 3, 2, 7, 1),
    "gru_after": models.Recurrence("GRU", 5, 3, 2, 7, 2, reset="after"),
    "gru_before": models.Recurrence("GRU", 5, 3, 2, 7, 3, reset="before"),
    "rnn": models.Recurrence("RNN", 5, 3, 2, 7, 4),
}
HERE = Path(__file__).resolve()


def _save(names: list[str], target: str) -> None:
    results = {
        f"{n}.{k}": y for n in names for k, y in fastlstm.Session(CASES[n].model()).run(CASES[n].feeds()).items()
    }
    np.savez(target, **results)


def _process(names: list[str], folder: Path, target: Path) -> dict[str, np.ndarray]:
    code = "import sys; sys.path[:0] = sys.argv[1:3]; import test_cache; test_cache._save(sys.argv[4:], sys.argv[3])"
    words = [sys.executable, "-c", code, str(HERE.parent), str(HERE.parents[1]), str(target), *names]
    done = subprocess.run(
        words, env=environment(FASTLSTM_CACHE_DIR=str(folder)), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with np.load(target) as archive:
        return dict(archive)


def test_kernels_cached_by_different_processes_do_not_call_each_others_parts(tmp_path):
    apart: dict[str, np.ndarray] = {}
    for name in CASES:
        apart |= _process([name], tmp_path / "cache", tmp_path / "apart.npz")
    together = _process(list(CASES), tmp_path / "cache", tmp_path / "together.npz")
    for name, case in CASES.items():
        for output, wanted in case.expected("float64").items():
            assert np.allclose(apart[f"{name}.{output}"], wanted, atol=1e-5), f"{name} alone"
            assert models.same_bits(together[f"{name}.{output}"], apart[f"{name}.{output}"]), (
                f"{name} beside the others"
            )


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_costs_the_cache_not_the_result(tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\nimport sys; sys.path[:0] = sys.argv[1:3]; import test_cache; test_cache._save(['rnn'], sys.argv[3])"
    words = [sys.executable, "-c", code, str(HERE.parent), str(HERE.parents[1]), str(tmp_path / "out.npz")]
    done = subprocess.run(
        words, env=environment(FASTLSTM_CACHE_DIR=str(tmp_path / "cache")), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr

"""The engines that models come from, run for comparison in a process of their own: Keras, tf_keras, ONNX Runtime.

    python -m fastlstm.engines SOURCE INPUTS.npz OUTPUTS.npz

A crash, a thread pool or a few hundred megabytes of a foreign engine stay out of the caller's process.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastlstm.errors import FastLSTMError, VerificationError

TIMEOUT = 600  # seconds


class NoReferenceError(VerificationError):
    """No installed engine runs the source, so nothing can be said of a model made from it."""


def available(source_kind: str) -> list[str]:
    """Return the names of the installed engines that can run a source of this kind ("keras" or "onnx")."""
    wanted = {"keras": ("keras", "tf_keras"), "onnx": ("onnxruntime",)}.get(source_kind, ())
    return [name for name in wanted if importlib.util.find_spec(name) is not None]


def rerun(source: str | os.PathLike, inputs: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], str]:
    """Run the source model in its own engine and return its outputs in order, and the engine's name and version.

    Raise NoReferenceError where no installed engine runs it.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, results = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        numbered: dict[str, Any] = {f"in_{k}": array for k, array in enumerate(inputs.values())}
        np.savez(given, allow_pickle=False, names=np.array(list(inputs)), **numbered)
        # -P: what lies in the working folder, such as a user's own keras.py, is not imported
        command = [sys.executable, "-P", "-m", "fastlstm.engines", str(source), str(given), str(results)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, env=_environment(), timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise NoReferenceError(f"the source engine did not finish {source} within {TIMEOUT} seconds") from None
        if done.returncode != 0 or not results.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"exit code {done.returncode}"
            raise NoReferenceError(f"no installed engine runs {source}: {reason[:500]}")
        with np.load(results, allow_pickle=False) as archive:
            count = sum(name.startswith("out_") for name in archive.files)
            return [archive[f"out_{k}"] for k in range(count)], str(archive["engine"])


def _environment() -> dict[str, str]:
    """Return the environment of the engine's process: quiet, one thread, and with the modules that this one would import."""
    here = str(Path(__file__).resolve().parents[1])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), here]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }


# ---- in the engine's process ------------------------------------------------------------------------
def _run_onnxruntime(source: str, names: list[str], arrays: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(Path(source).read_bytes(), options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(zip(names, arrays, strict=True)))
    return [np.asarray(output) for output in outputs], f"onnxruntime {onnxruntime.__version__}"


def _run_keras(source: str, module: str, arrays: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    keras = importlib.import_module(module)
    # Keras looks at the name where the bytes decide
    data = Path(source).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, "model.keras" if data.startswith(b"PK") else "model.h5")
        named.write_bytes(data)
        model = keras.models.load_model(str(named), compile=False)
    results = model.predict(arrays[0] if len(arrays) == 1 else arrays, verbose=0)
    flat = (
        list(results.values())
        if isinstance(results, dict)
        else list(results)
        if isinstance(results, list | tuple)
        else [results]
    )
    return [np.asarray(result) for result in flat], f"{module} {keras.__version__}"


def _keras_engines(source: str) -> tuple[list[str], list[str]]:
    """Return the engines to try on a Keras file, the best first, and why others are no reference for it.

    Keras 3 opens some files of Keras 2, but reads their hard_sigmoid with the slope that it has since Keras 3.
    """
    from fastlstm.converters.keras_file import read_keras_file

    names = available("keras")
    try:
        file = read_keras_file(Path(source))
    except FastLSTMError:  # the engine may read what we do not
        return names, []
    if not file.keras_version.startswith(("1", "2")):
        return names, []
    names.sort(key=lambda name: name != "tf_keras")
    if "keras" in names and "hard_sigmoid" in json.dumps(file.config):
        names.remove("keras")
        return names, ["keras: Keras 3 gives hard_sigmoid of older files another slope"]
    return names, []


def _main(source: str, given: str, results: str) -> None:
    with np.load(given, allow_pickle=False) as archive:
        names = [str(name) for name in archive["names"]]
        arrays = [archive[f"in_{k}"] for k in range(len(names))]
    with open(source, "rb") as file:
        keras = file.read(4) in (b"\x89HDF", b"PK\x03\x04")
    engines, failures = _keras_engines(source) if keras else (available("onnx"), [])
    for engine in engines:
        try:
            outputs, name = _run_keras(source, engine, arrays) if keras else _run_onnxruntime(source, names, arrays)
        except Exception as error:  # a foreign engine fails in ways of its own; its words go into our message
            failures.append(f"{engine}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            continue
        np.savez(
            results,
            allow_pickle=False,
            engine=np.array(name),
            **{f"out_{k}": np.asarray(output) for k, output in enumerate(outputs)},
        )
        return
    sys.exit("; ".join(failures) or "none is installed")


if __name__ == "__main__":
    _main(*sys.argv[1:4])

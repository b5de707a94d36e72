"""Any ONNX file beside onnxruntime: a call of `run`, or, where the graph's states are inputs and outputs, a step of its stream.

    python -m bench.graphs model.onnx                    inputs are random, an open size is 1
    python -m bench.graphs model.onnx --inputs x.npz     its arrays are named as the graph's inputs
    python -m bench.graphs FOLDER ...                    a recorded case each: model.onnx with stream.npz or io.npz

Outputs are compared before anything is timed. A step counts all that Python does: ours is `stream.step`; onnxruntime's is `run` with the
states that its last call returned.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

import fastlstm
from bench.blocks import interleaved
from fastlstm.errors import FastLSTMError, InputError
from fastlstm.wired import WiredStream

Arrays = dict[str, np.ndarray]
SECONDS = 2.0
STEPS = 10  # compared before anything is timed
WITHIN = 1e-4  # of the largest output or of 1: both compute in float32
RECORDED = ("in_", "seqin_", "const_")  # what a record of a case puts before the names of inputs


@dataclass(frozen=True)
class Timed:
    """Seconds of a call, medians."""

    name: str
    what: str
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours


def timed(path: Path, inputs: Path | None = None, threads: int = 1, seconds: float = SECONDS) -> Timed:
    """Time a file, or the file of a recorded case's folder. Raise FastLSTMError where outputs differ by more than WITHIN."""
    file, record = _case(path) if path.is_dir() else (path, inputs)
    model = fastlstm.convert(file)
    session, theirs = fastlstm.Session(model, threads=threads), onnxruntime_session(file, threads)
    stream = None if record is not None and record.name == "io.npz" else _stream(session)
    given = _given(theirs, record)
    if stream is not None:
        wiring = stream.wiring
        fed = {name: array for name, array in given.items() if name not in wiring}
        ours = lambda: stream.step(fed)
        reference = _stepped(theirs, given, wiring)
        what = "step"
    else:
        ours = lambda: session.run(given)
        names = [each.name for each in theirs.get_outputs()]
        reference = lambda: dict(zip(names, theirs.run(None, given), strict=True))
        what = "call"
    for _ in range(STEPS):
        compare(file, ours(), reference())
    times = interleaved({"ours": ours, "theirs": reference}, seconds, threads=threads)
    return Timed(path.name if path.is_dir() else path.stem, what, times.median("ours"), times.median("theirs"))


def table(rows: Sequence[Timed]) -> str:
    """Return a Markdown table in microseconds."""
    lines = ["| graph | | fastlstm | onnxruntime | onnxruntime / ours |", "|---|---|---:|---:|---:|"]
    for row in rows:
        lines.append(f"| {row.name} | {row.what} | {row.ours * 1e6:.1f} | {row.theirs * 1e6:.1f} | {row.ratio:.2f} |")
    return "\n".join(lines)


def _stream(session: fastlstm.Session) -> WiredStream | None:
    try:
        stream = session.stream()
    except FastLSTMError:
        return None
    return stream if isinstance(stream, WiredStream) else None


def _case(folder: Path) -> tuple[Path, Path | None]:
    records = [folder / name for name in ("stream.npz", "io.npz") if (folder / name).exists()]
    return folder / "model.onnx", records[0] if records else None


def onnxruntime_session(file: Path | bytes, threads: int) -> Any:
    """Return onnxruntime's session of a file or of what it holds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _given(session: Any, record: Path | None) -> Arrays:
    """Return an array for every input: recorded, or random; states of a stream that are not recorded start as zeros."""
    arrays: Arrays = {}
    if record is not None:
        with np.load(record) as archive:
            for key in archive.files:
                prefix = next((prefix for prefix in RECORDED if key.startswith(prefix)), "")
                arrays[key.removeprefix(prefix)] = archive[key][0] if prefix == "seqin_" else archive[key]
            starts = {key.removeprefix("init_"): archive[key] for key in archive.files if key.startswith("init_")}
        arrays = starts | arrays
    rng = np.random.default_rng(0)
    return {each.name: arrays[each.name] if each.name in arrays else _drawn(each, rng) for each in session.get_inputs()}


def _drawn(given: Any, rng: np.random.Generator) -> np.ndarray:
    if given.type != "tensor(float)":
        raise InputError(f"input {given.name!r} has {given.type}: pass --inputs FILE.npz with an array for it")
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in given.shape]
    return rng.standard_normal(shape, np.float32)


def _stepped(session: Any, given: Arrays, wiring: dict[str, str]) -> Callable[[], Arrays]:
    names = [each.name for each in session.get_outputs()]
    feed = given | {state: np.zeros_like(given[state]) for state in wiring}

    def step() -> Arrays:
        results = dict(zip(names, session.run(None, feed), strict=True))
        for state, result in wiring.items():
            feed[state] = results[result]
        return results

    return step


def compare(file: Path | str, ours: Any, theirs: Arrays) -> None:
    """Raise FastLSTMError where an output differs by more than WITHIN; `ours` is one array, or a dict by name."""
    results = ours if isinstance(ours, dict) else {next(iter(theirs)): ours}
    for name, got in results.items():
        expected = theirs[name]
        bound = WITHIN * max(1.0, float(np.max(np.abs(expected), initial=0)))
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=0, atol=bound, equal_nan=True):
            raise FastLSTMError(f"{file}: output {name!r} differs from onnxruntime's by more than {bound:.1g}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.graphs", description="ONNX files beside onnxruntime.")
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="an ONNX file, or the folder of a recorded case"
    )
    parser.add_argument(
        "--inputs", type=Path, metavar="FILE", help="an .npz of arrays named as the graph's inputs (random)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of both engines (1)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"time of a graph, for both engines together ({SECONDS:g})"
    )
    given = parser.parse_args(arguments)
    rows, code = [], 0
    for path in given.paths:
        try:
            rows.append(timed(path, given.inputs, given.threads, given.seconds))
        except (FastLSTMError, OSError) as error:
            print(f"bench.graphs: {path}: {error}", file=sys.stderr)
            code = 2
    if rows:
        print(table(rows))
        print(f"\nonnxruntime over ours, geometric mean: {geometric_mean(row.ratio for row in rows):.2f}")
    return code


if __name__ == "__main__":
    sys.exit(main())

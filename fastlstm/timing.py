"""Timing for `bench` and `demo`: peers interleaved in one process, medians."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np

from fastlstm.errors import MissingExtraError, VerificationError

Runner = Callable[[], Mapping[str, np.ndarray]]


def onnxruntime_runner(source: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Runner:
    """Return a call of onnxruntime on an ONNX file with as many threads as ours. Raise MissingExtraError."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "bench", "--peer onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    given = dict(inputs)
    try:
        session = onnxruntime.InferenceSession(source.read_bytes(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        session.run(None, given)
    except Exception as error:  # a foreign engine has errors of its own
        raise VerificationError(f"onnxruntime does not run {source} on these inputs: {error}") from error
    return lambda: dict(zip(names, session.run(None, given), strict=True))  # type: ignore[return-value]


def interleaved(runners: Mapping[str, Callable[[], object]], seconds: float = 1.0, least: int = 20) -> dict[str, float]:
    """Return the median seconds of each call, the runners taking turns for about `seconds` after a warm-up."""
    for run in runners.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runners}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or min(map(len, times.values())) < least:
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}

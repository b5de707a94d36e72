"""One LSTM beside onnxruntime: equal threads, outputs compared first, the two interleaved in one process.

`python -m pytest bench` times each row and fails where onnxruntime is faster. Only ratios within a run count.
"""

import pytest

import fastlstm
from bench.models import SEQUENCES, STEPS, Case
from fastlstm.timing import interleaved, onnxruntime_runner
from fastlstm.verify import check_agree


@pytest.mark.parametrize("case", [*STEPS, *SEQUENCES], ids=lambda case: case.name)
def test_at_least_as_fast_as_onnxruntime(case: Case, benchmark, tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(case.onnx())
    inputs = case.inputs()
    session = fastlstm.Session(fastlstm.convert(source))
    runners = {
        "fastlstm": lambda: session.run(inputs),
        "onnxruntime": onnxruntime_runner(source, inputs, threads=1),
    }
    difference = check_agree(runners, tolerance=2e-5)
    medians = interleaved(runners, seconds=2.0)
    ratio = medians["onnxruntime"] / medians["fastlstm"]
    benchmark.extra_info.update({f"{name} us": value * 1e6 for name, value in medians.items()})
    benchmark.extra_info.update(ratio=ratio, difference=difference)
    print(
        f"\n{case.name:<20} fastlstm {medians['fastlstm'] * 1e6:9.1f} us  onnxruntime {medians['onnxruntime'] * 1e6:9.1f} us  {ratio:.2f}x"
    )
    benchmark(runners["fastlstm"])
    assert ratio >= 1.0, f"onnxruntime is faster: {ratio:.2f}x"

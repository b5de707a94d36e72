"""What the commands do: each takes its arguments and returns plain data for --json, and the text for a person."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm
from fastlstm.cli import files, progress, suite
from fastlstm.container import file_error
from fastlstm.errors import InputError, ModelFileError, VerificationError

NOT_VERIFIED = "not verified: no reference"
VERIFYING = "verifying (the first run compiles kernels)"

Results = tuple[dict[str, Any], str]


def convert(given: Namespace) -> Results:
    """Convert a source file, verify it, and write it in the storage asked for, or as a Keras 3 file or ONNX graph."""
    from fastlstm.converters import EXPORTS

    files.check_output(given.output, given.source, *filter(None, (given.example, given.architecture)))
    files.check_source(given.source, ("keras", "onnx"), "convert takes")
    others = given.output.suffix.lower() in EXPORTS
    if others and given.weights:
        raise InputError(f"--weights {given.weights} is of fastlstm files; {given.output.suffix} files hold float32")
    if given.output.suffix.lower() != ".onnx" and (given.opset is not None or given.right_padded):
        raise InputError("--opset and --right-padded are for an --output that ends in .onnx")
    if given.example:
        files.check_archive(given.example)
    with progress.working(f"converting {given.source}"):
        model = fastlstm.convert(
            given.source,
            inputs=_bindings(given.input),
            architecture=given.architecture,
            example=given.example,
            external_data=given.external_data,
        )
    with progress.working(VERIFYING):
        model, report, why = _referred(model, given.source)
        stored, narrow = _stored(model, given.weights)
    _require(report)
    _require(narrow, f" with {given.weights} weights: store them wider")
    if others:
        stored.export(given.output, given.opset, given.right_padded)
    else:
        stored.save(given.output)
    size = given.output.stat().st_size
    lines = [str(report) if report else f"{NOT_VERIFIED}{why}"]
    lines += _lost(given.weights, report, narrow)
    lines.append(f"wrote {given.output}: {size:,} bytes, {model.parameters:,} parameters")
    result = {
        "output": str(given.output),
        "bytes": size,
        "parameters": model.parameters,
        "verified": report is not None,
        "engine": report.engine if report else None,
        "difference": report.difference if report else None,
        "weights": given.weights,
        "difference_stored": narrow.difference if narrow else None,
        "output_stored": narrow.output if narrow else None,
    }
    return result, "\n".join(lines)


def _bindings(pairs: Sequence[str]) -> dict[str, Any]:
    bound: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--input {pair}: expected NAME=VALUE, such as sr=16000")
        if name in bound:
            raise InputError(f"--input {pair}: {name} is given twice")
        try:
            bound[name] = np.array(json.loads(value))
        except (ValueError, RecursionError):
            bound[name] = np.array(None)
        if bound[name].dtype.kind not in "biuf":
            raise InputError(f"--input {pair}: the value is no number or list of numbers, such as 16000 or [0.5,1]")
    return bound


def _referred(model: fastlstm.Model, source):
    """Compare with the example of the model, else with the source engine if it is installed, whose outputs are then recorded.

    Return the model, the report or None, and why there is none.
    """
    from fastlstm import engines
    from fastlstm.verify import compare, reference, verify

    if model.example is not None:
        return model, verify(model), ""
    if not engines.available(model.metadata.get("source", "")):
        return model, None, ""
    try:
        example = reference(model, source)
    except engines.NoReferenceError as error:
        return model, None, f" ({error})"
    return replace(model, example=example), compare(model, example), ""


def _stored(model: fastlstm.Model, weights: str | None):
    """Return the model in the storage asked for, and how far that takes it from its example."""
    from fastlstm.verify import verify

    if weights is None:
        return model, None
    stored = model.narrowed(weights)
    return stored, None if weights == "float32" else verify(stored)


def _lost(weights: str | None, report, narrow) -> list[str]:
    """Tell what narrow weights cost in accuracy, beside what float32 differs by."""
    if weights in (None, "float32"):
        return []
    if narrow is None:
        return [f"{weights} weights: the accuracy lost is not known without a reference"]
    wide = "" if report is None else f" (float32 weights: {report.difference:.2g})"
    where = f"from {narrow.engine} on the recorded example, output {narrow.output!r}"
    return [f"{weights} weights: largest difference {narrow.difference:.2g} {where}{wide}"]


def _require(report, storage: str = "") -> None:
    if report is not None and not report.passed:
        raise VerificationError(f"{report}{storage}; nothing was written")


def info(given: Namespace) -> Results:
    """Tell what a model file holds, a Keras file as it is, or what a call of it runs."""
    from fastlstm.cli.describe import as_text, describe, describe_keras, keras_as_text

    sizes = {name: getattr(given, name) for name in ("batch", "steps") if getattr(given, name) is not None}
    for name, size in sizes.items():
        if not given.plan:
            raise InputError(f"--{name} is of the call that --plan shows: add --plan")
        if size < 1:
            raise InputError(f"--{name} {size}: expected at least 1")
    if given.external_data and files.kind(given.model) != "onnx":
        raise InputError("--external-data is for ONNX graphs")
    if given.plan:
        return _program(given, **sizes)
    if files.kind(given.model) == "keras":
        facts = describe_keras(files.keras_summary(given.model, given.architecture))
        return facts, keras_as_text(facts)
    if given.architecture:
        raise InputError("--architecture is for weights-only Keras files")
    if files.kind(given.model) == "onnx":
        return _report(given.model, given.external_data)
    facts = describe(files.open_model(given.model))
    return facts, as_text(facts)


def _report(path: Path, external_data: Path | None) -> Results:
    """Tell what an ONNX graph asks for, without converting it: its operators, and what of it is not supported."""
    from fastlstm.converters import read_source
    from fastlstm.converters.onnx_report import as_text, report

    try:
        facts = report(read_source(path), external_data)
    except ModelFileError as error:
        raise file_error(path, error) from error
    return facts, "\n".join(progress.one_line(line) for line in as_text(facts).split("\n"))


def _program(given: Namespace, batch: int = 1, steps: int = 1) -> Results:
    from fastlstm.cli import program

    session = fastlstm.Session(files.open_model(given.model, given.external_data))
    with progress.working("binding (the first time compiles kernels)"):
        facts = program.describe(session, batch, steps)
    return facts, program.as_text(facts)


def run(given: Namespace) -> Results:
    """Run a model on the arrays of a file and write its outputs to another."""
    files.check_output(given.output, given.model)
    session = fastlstm.Session(files.open_model(given.model), threads=given.threads)
    inputs = files.read_arrays(given.input, [spec.name for spec in session.inputs])
    with progress.working("running (the first run compiles kernels)"):
        results = session.run(inputs)
    files.write_arrays(given.output, results)
    shapes = {name: list(array.shape) for name, array in results.items()}
    lines = [f"{name}  {results[name].dtype}  {shape}" for name, shape in shapes.items()]
    return {"output": str(given.output), "shapes": shapes}, "\n".join([*lines, f"wrote {given.output}"])


def verify(given: Namespace) -> Results:
    """Compare a model with its recorded example, or with the engine of its source."""
    from fastlstm.verify import verify_against

    source = given.against or given.model
    if given.against:
        files.check_source(given.against, ("keras", "onnx"), "--against takes")
    model, why = files.open_model(given.model), ""
    with progress.working(VERIFYING):
        if given.against:
            report = verify_against(model, source)[0]
        else:
            _, report, why = _referred(model, source) if files.kind(source) != "fastlstm" else _recorded(model)
    if report is None:
        return {"verified": False, "reason": f"no reference{why}"}, f"{NOT_VERIFIED}{why}"
    if not report.passed:
        raise VerificationError(str(report))
    facts = {"verified": True, "engine": report.engine, "difference": report.difference, "output": report.output}
    return facts, str(report)


def _recorded(model: fastlstm.Model):
    from fastlstm.verify import verify

    return model, verify(model), " (--against SOURCE reruns the source engine)"


def bench(given: Namespace) -> Results:
    """Time a model on random inputs, beside a peer if one is named."""
    from fastlstm.model import storage
    from fastlstm.timing import interleaved, onnxruntime_runner
    from fastlstm.verify import TOLERANCE, bound_inputs, check_agree, random_inputs

    if given.suite is not None:
        if given.peer or given.source or given.json or (given.batch, given.steps, given.threads) != (1, 1, 1):
            raise InputError("--suite takes its arguments after it: fastlstm bench --suite --threads 2")
        suite.become(given.suite)
    for name in ("batch", "steps", "threads"):
        if getattr(given, name) < 1:
            raise InputError(f"--{name} {getattr(given, name)}: expected at least 1")
    model = files.open_model(given.model)
    session = fastlstm.Session(model, threads=given.threads)
    inputs = random_inputs(model, given.batch, given.steps)
    runners: dict[str, Any] = {"fastlstm": lambda: session.run(inputs)}
    if given.peer:
        source = given.source or given.model
        files.check_source(source, ("onnx",), f"pass with --source what --peer {given.peer} runs:")
        runners[given.peer] = onnxruntime_runner(source, {**inputs, **bound_inputs(model)}, given.threads)
    with progress.working("warming up (the first run compiles kernels)"):
        difference = check_agree(runners, TOLERANCE[storage(model.weights)])
    with progress.working("timing"):
        medians = interleaved(runners)
    shapes = {name: list(array.shape) for name, array in inputs.items()}
    result: dict[str, Any] = {
        "inputs": shapes,
        "threads": given.threads,
        "microseconds": {n: v * 1e6 for n, v in medians.items()},
    }
    lines = [f"{'input':<12} {name} {shape}" for name, shape in shapes.items()]
    lines += [f"{name:<12} {value * 1e6:12.1f} us a call (median)" for name, value in medians.items()]
    if given.peer:
        result |= {"ratio": medians[given.peer] / medians["fastlstm"], "difference": difference}
        lines.append(f"{given.peer} takes {result['ratio']:.2f}x as long; outputs agree to {difference:.1g}")
    return result, "\n".join(lines)


def warmup(given: Namespace) -> Results:
    """Compile ahead what models need, or every kernel."""
    from fastlstm.ahead import cache_folder

    models = [files.open_model(path) for path in given.models]
    with progress.working("warming up"):
        found = fastlstm.warmup(*models, every_dtype=given.all)
    lost = next((one for one in found if one.why_not_kept), None)
    if lost is not None:
        raise InputError(f"{lost.name} is {lost.why_not_kept}")
    folder, size, seconds = cache_folder(), sum(one.bytes for one in found), sum(one.seconds for one in found)
    lines = [f"{one.name:<40} {_took(one.seconds)} {one.bytes:>10,} bytes" for one in found]
    lines.append(f"{len(found)} kernels in {folder}: {size:,} bytes, {seconds:.1f} s to compile")
    kernels = [{"name": one.name, "seconds": one.seconds, "bytes": one.bytes} for one in found]
    return {"folder": folder, "bytes": size, "seconds": seconds, "kernels": kernels}, "\n".join(lines)


def _took(seconds: float) -> str:
    return f"{seconds:6.2f} s" if seconds else "    kept"


def demo(given: Namespace) -> Results:
    """Convert, verify, run, time and draw the bundled models."""
    from fastlstm.demo import run_demo

    return run_demo(given.output, progress.say)

"""The commands convert, info, run, verify, bench and demo."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import fastlstm
from fastlstm.cli import progress
from fastlstm.errors import FastLSTMError, InputError, VerificationError
from fastlstm.model import STORAGE, Model

NOT_VERIFIED = "not verified: no reference"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n{self.format_usage()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastlstm", description="Run recurrent networks on a CPU: convert, inspect, run, verify, time."
    )
    parser.add_argument("--version", action="version", version=f"fastlstm {fastlstm.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)

    convert = commands.add_parser("convert", help="a Keras file or ONNX graph to a fastlstm file, verified")
    convert.add_argument("source", type=Path, help=".keras, .h5 or .onnx file, told apart by content")
    convert.add_argument(
        "-o", "--output", type=Path, required=True, help="the file to write, such as model.safetensors"
    )
    convert.add_argument("--weights", choices=STORAGE, help="storage of the weight matrices (default: as they are)")
    convert.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="bind a graph input to a constant, such as sr=16000",
    )
    convert.add_argument("--example", type=Path, help=".npz with in_<name> and out_<name> from the source engine")
    convert.add_argument("--architecture", type=Path, help="JSON of model.to_json(), for a weights-only Keras file")
    convert.set_defaults(run=_convert)

    info = commands.add_parser("info", help="what a model file holds")
    info.add_argument("model", type=Path)
    info.set_defaults(run=_info)

    run = commands.add_parser("run", help="run a model on .npy or .npz inputs")
    run.add_argument("model", type=Path)
    run.add_argument("input", type=Path, help=".npy for one input, .npz by name for several")
    run.add_argument("-o", "--output", type=Path, required=True, help=".npy for one output, .npz for several")
    run.add_argument("--threads", type=int, default=1)
    run.set_defaults(run=_run)

    verify = commands.add_parser("verify", help="compare with the recorded example, or with the source engine")
    verify.add_argument("model", type=Path)
    verify.add_argument("--against", type=Path, metavar="SOURCE", help="the source file: rerun it in its own engine")
    verify.set_defaults(run=_verify)

    bench = commands.add_parser("bench", help="time a model on random inputs")
    bench.add_argument("model", type=Path)
    for name, default in (("batch", 1), ("steps", 1), ("threads", 1)):
        bench.add_argument(f"--{name}", type=int, default=default)
    bench.add_argument(
        "--peer",
        choices=["onnxruntime"],
        help="time this engine beside ours; the model must be an .onnx file or come with --source",
    )
    bench.add_argument("--source", type=Path, help="the ONNX file that the peer runs")
    bench.set_defaults(run=_bench)

    demo = commands.add_parser("demo", help="convert, verify and run the bundled models, and draw a forecast")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo-output"), help="folder for files and the picture")
    demo.set_defaults(run=_demo)

    for command in (convert, info, run, verify, bench, demo):
        command.add_argument("--json", action="store_true", help="results as JSON on stdout")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        result, text = given.run(given)
        print(json.dumps(result, indent=2, default=str) if given.json else text)
        sys.stdout.flush()
        return int(result.get("exit", 0)) if isinstance(result, dict) else 0
    except FastLSTMError as error:
        progress.say(f"fastlstm {given.command}: {error}")
        return 1
    except KeyboardInterrupt:
        progress.say(f"fastlstm {given.command}: interrupted")
        return 130
    except BrokenPipeError:
        # the reader went away; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        progress.say(f"fastlstm {given.command}:{where}: {error.strerror or error}")
        return 1


def open_model(path: Path) -> Model:
    """Return the model of a fastlstm file, or of a source file converted on the way."""
    from fastlstm.converters import sniff

    try:
        with open(path, "rb") as file:
            head = file.read(64)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    foreign = sniff(head + bytes(max(0, min(size, 1 << 20) - len(head)))) in ("keras", "onnx")
    return fastlstm.convert(path) if foreign else fastlstm.load(path)


# ---- commands ---------------------------------------------------------------------------------------
def _bindings(pairs: Sequence[str]) -> dict[str, Any]:
    bound = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--input {pair}: expected NAME=VALUE, such as sr=16000")
        try:
            bound[name] = np.array(json.loads(value))
        except (ValueError, RecursionError):
            raise InputError(f"--input {pair}: the value is no number or list of numbers") from None
        if bound[name].dtype.kind not in "biuf":
            raise InputError(f"--input {pair}: the value is no number or list of numbers")
    return bound


def _convert(given: argparse.Namespace) -> tuple[dict, str]:
    from fastlstm.verify import compare

    with progress.working(f"converting {given.source}"):
        model = fastlstm.convert(
            given.source, inputs=_bindings(given.input), architecture=given.architecture, example=given.example
        )
    with progress.working("verifying (the first run compiles kernels)"):
        model, report, why = _verified(model, given.source)
    if report is not None and not report.passed:
        raise VerificationError(f"{given.source}: {report}; nothing was written")
    narrow = None
    if given.weights:
        model = model.narrowed(given.weights)
        if model.example is not None and given.weights != "float32":
            narrow = compare(model, model.example)
    model.save(given.output)
    size = given.output.stat().st_size
    lines = [str(report) if report else f"{NOT_VERIFIED}{why}"]
    if narrow is not None:
        lines.append(f"{given.weights} weights: largest difference {narrow.difference:.2g} from {narrow.engine}")
    lines.append(f"wrote {given.output}: {size:,} bytes, {model.parameters:,} parameters")
    result = {
        "output": str(given.output),
        "bytes": size,
        "parameters": model.parameters,
        "verified": report is not None,
        "engine": report.engine if report else None,
        "difference": report.difference if report else None,
        "difference_stored": narrow.difference if narrow else None,
    }
    return result, "\n".join(lines)


def _verified(model: Model, source: Path):
    """Compare with the example given, else with the source engine if it is installed, whose outputs are then recorded."""
    from dataclasses import replace

    from fastlstm import engines
    from fastlstm.verify import verify, verify_against

    if model.example is not None:
        return model, verify(model), ""
    installed = engines.available(model.metadata.get("source", ""))
    if not installed:
        return model, None, ""
    try:
        report, example = verify_against(model, source)
    except VerificationError as error:
        return model, None, f" ({error})"
    return replace(model, example=example), report, ""


def _info(given: argparse.Namespace) -> tuple[dict, str]:
    from fastlstm.cli.describe import as_text, describe

    facts = describe(open_model(given.model))
    return facts, as_text(facts)


def _run(given: argparse.Namespace) -> tuple[dict, str]:
    session = fastlstm.Session(open_model(given.model), threads=given.threads)
    inputs = _read_arrays(given.input, [spec.name for spec in session.inputs])
    results = session.run(inputs)
    if given.output.suffix == ".npz":
        with open(given.output, "wb") as file:
            np.savez(file, allow_pickle=False, **results)  # type: ignore[arg-type]
    elif len(results) > 1:
        raise InputError(f"the model has {len(results)} outputs: write them to a .npz file")
    else:
        with open(given.output, "wb") as file:
            np.save(file, next(iter(results.values())))
    shapes = {name: list(array.shape) for name, array in results.items()}
    return {"output": str(given.output), "shapes": shapes}, "\n".join(
        f"{name}  {results[name].dtype}  {shape}" for name, shape in shapes.items()
    )


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            if len(names) != 1:
                raise InputError(
                    f"{path} holds one array, the model has {len(names)} inputs: pass an .npz with {', '.join(names)}"
                )
            return {names[0]: content}
        with content as archive:
            return {name: archive[name] for name in archive.files}
    except FastLSTMError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # numpy, zipfile and zlib each have their own for damaged files
        raise InputError(f"{path}: not a readable .npy or .npz file: {error}") from error


def _verify(given: argparse.Namespace) -> tuple[dict, str]:
    from fastlstm.verify import verify, verify_against

    model = open_model(given.model)
    with progress.working("verifying (the first run compiles kernels)"):
        report = verify_against(model, given.against)[0] if given.against else verify(model)
    if report is None:
        return {"verified": False, "reason": "no reference"}, NOT_VERIFIED
    if not report.passed:
        raise VerificationError(str(report))
    return {"verified": True, "engine": report.engine, "difference": report.difference, "output": report.output}, str(
        report
    )


def _bench(given: argparse.Namespace) -> tuple[dict, str]:
    from fastlstm.timing import check_agree, interleaved, onnxruntime_runner
    from fastlstm.verify import random_inputs

    for name in ("batch", "steps", "threads"):
        if getattr(given, name) < 1:
            raise InputError(f"--{name} {getattr(given, name)}: expected at least 1")
    model = open_model(given.model)
    session = fastlstm.Session(model, threads=given.threads)
    inputs = random_inputs(model, given.batch, given.steps)
    runners: dict[str, Any] = {"fastlstm": lambda: session.run(inputs)}
    if given.peer:
        from fastlstm.converters import sniff

        source = given.source or given.model
        if sniff(source.read_bytes()[: 1 << 20]) != "onnx":
            raise InputError(f"--peer {given.peer} runs an ONNX file: pass one as the model, or with --source")
        runners[given.peer] = onnxruntime_runner(source, inputs, given.threads)
    with progress.working("warming up (the first run compiles kernels)"):
        difference = check_agree(runners)
    with progress.working("timing"):
        medians = interleaved(runners)
    shapes = {name: list(array.shape) for name, array in inputs.items()}
    result: dict[str, Any] = {
        "inputs": shapes,
        "threads": given.threads,
        "microseconds": {n: v * 1e6 for n, v in medians.items()},
    }
    lines = [f"{name:<12} {value * 1e6:12.1f} us a call (median)" for name, value in medians.items()]
    if given.peer:
        result |= {"ratio": medians[given.peer] / medians["fastlstm"], "difference": difference}
        lines.append(f"{given.peer} takes {result['ratio']:.2f}x as long; outputs agree to {difference:.1g}")
    return result, "\n".join(lines)


def _demo(given: argparse.Namespace) -> tuple[dict, str]:
    from fastlstm.demo import run_demo

    return run_demo(given.output, progress.say)

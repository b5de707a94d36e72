"""The commands' arguments, and what becomes of their results and errors."""

import argparse
import json
import os
import sys
from _thread import interrupt_main
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from threading import Timer
from typing import Any, NoReturn

import fastlstm
from fastlstm.cli import commands, progress
from fastlstm.errors import FastLSTMError
from fastlstm.model import STORAGE

EXTERNAL = "the folder of the files that a source keeps tensors in (ONNX, weights of Keras in several files); no others are read"
TRACEBACK = "FASTLSTM_TRACEBACK"  # set, it lets unforeseen errors show where they come from


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {progress.one_line(message)}\n{self.format_usage()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastlstm", description="Run recurrent networks on a CPU: convert, inspect, run, verify, time."
    )
    parser.add_argument("--version", action="version", version=f"fastlstm {fastlstm.__version__}")
    adding = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    convert = adding.add_parser("convert", help="a Keras file or ONNX graph to a fastlstm file, verified")
    convert.add_argument("source", type=Path, help=".keras, .h5 or .onnx file, told apart by content")
    convert.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="the file to write, such as model.safetensors; model.keras: a Keras 3 file; model.onnx: an ONNX graph",
    )
    convert.add_argument("--opset", type=int, help="of an ONNX graph to write, 13 to 23")
    convert.add_argument(
        "--right-padded",
        action="store_true",
        help="to write an ONNX graph: the valid steps of every row come first, so that lengths stand for masks",
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
    convert.add_argument("--external-data", type=Path, metavar="FOLDER", help=EXTERNAL)
    convert.set_defaults(run=commands.convert)

    info = adding.add_parser("info", help="what a model file holds")
    info.add_argument("--plan", action="store_true", help="the program that a call runs on this machine, step by step")
    info.add_argument("--architecture", type=Path, help="JSON of model.to_json(), for a weights-only Keras file")
    info.add_argument("--external-data", type=Path, metavar="FOLDER", help=EXTERNAL)
    for name in ("batch", "steps"):
        info.add_argument(f"--{name}", type=int, help=f"with --plan: the {name} of the call (default: 1)")
    info.set_defaults(run=commands.info)

    run = adding.add_parser("run", help="run a model on .npy or .npz inputs")
    run.set_defaults(run=commands.run)

    verify = adding.add_parser("verify", help="compare with the recorded example, or with the source engine")
    verify.set_defaults(run=commands.verify)

    bench = adding.add_parser("bench", help="time a model on random inputs")
    bench.set_defaults(run=commands.bench)

    either = bench.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "--suite",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="run the project's benchmarks, every engine side by side, with these arguments (in a clone of the project; --suite --help)",
    )
    which = "a fastlstm file, or a source file, converted on the way"
    either.add_argument("model", type=Path, nargs="?", help=which)
    for command in (info, run, verify):
        command.add_argument("model", type=Path, help=which)

    run.add_argument("input", type=Path, help=".npy for one input, .npz by name for several")
    run.add_argument("-o", "--output", type=Path, required=True, help=".npy for one output, .npz for several")
    run.add_argument("--threads", type=int, default=1)

    verify.add_argument(
        "--against",
        type=Path,
        metavar="SOURCE",
        help="the source file: rerun it in its own engine; only for files that you trust",
    )

    for name in ("batch", "steps", "threads"):
        bench.add_argument(f"--{name}", type=int, default=1)
    bench.add_argument(
        "--peer",
        choices=["onnxruntime"],
        help="time this engine beside ours; the model must be an .onnx file or come with --source",
    )
    bench.add_argument("--source", type=Path, help="the ONNX file that the peer runs")

    warmup = adding.add_parser("warmup", help="compile kernels ahead and keep them, so that no later run waits")
    warmup.add_argument(
        "models",
        type=Path,
        nargs="*",
        metavar="MODEL",
        help="compile what these need (default: everything for float32)",
    )
    warmup.add_argument("--all", action="store_true", help="compile everything, for float64 too")
    warmup.set_defaults(run=commands.warmup)

    demo = adding.add_parser("demo", help="convert, verify and run the bundled models, and draw a forecast")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo-output"), help="folder for files and the picture")
    demo.set_defaults(run=commands.demo)

    for command in (convert, info, run, verify, bench, warmup, demo):
        command.add_argument("--json", action="store_true", help="results as JSON on stdout")
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; KeyboardInterrupt passes."""
    with _repeated_interrupts():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        given = _parser().parse_args(arguments)
    except SystemExit:  # after --help, --version or wrong usage
        with suppress(OSError):
            _show("", end="")
        raise
    name = f"fastlstm {given.command}"
    try:
        result, text = given.run(given)
        _show(json.dumps(_finite(result), indent=2) if given.json else text)
        return 0
    except FastLSTMError as error:
        progress.say(f"{name}: {progress.one_line(str(error))}")
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f" {error.filename}:" if error.filename else ""
        progress.say(progress.one_line(f"{name}:{where} {error.strerror or error}"))
        return 1
    except MemoryError:
        progress.say(f"{name}: not enough memory: try a smaller batch or fewer steps")
        return 1
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        what = progress.one_line(f"{type(error).__name__}: {error}")[:500]
        progress.say(f"{name}: {what} (this is a bug in fastlstm: {TRACEBACK}=1 shows where; please report it)")
        return 1


@contextmanager
def _repeated_interrupts() -> Iterator[None]:
    """Repeat a Ctrl-C that came while LLVM called Python, where it has nowhere to be raised."""
    usual, timers = sys.unraisablehook, []

    def hook(what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            timers.append(Timer(0.05, interrupt_main))
            timers[-1].start()
        else:
            usual(what)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual
        for timer in timers:
            timer.cancel()


def _show(text: str, end: str = "\n") -> None:
    """Write results to stdout, if there is one, whatever characters its encoding lacks."""
    if sys.stdout is None:
        return
    try:
        try:
            print(text, end=end)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), end=end)
        sys.stdout.flush()
    except OSError:
        # the reader is gone or the disk is full: keep Python from trying again, and complaining, at its end
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _finite(value: Any) -> Any:
    """Return plain data as JSON can hold it, which has no infinity and no NaN."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value

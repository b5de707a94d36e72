"""`python -m bench`: every row beside every engine that is installed, as JSON, a Markdown table and a plot."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from bench import plots, report
from bench.blocks import ROUNDS
from bench.machine import describe
from bench.peers import PEERS
from bench.rows import GROUPS, chosen
from bench.studies import STUDIES
from bench.summary import lines
from bench.worker import INTERRUPTED
from fastlstm.errors import FastLSTMError, InputError, one_of

QUICK = {"seconds": 0.3, "rounds": 2}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads of every engine (1 2)"
    )
    parser.add_argument(
        "--rows", nargs="+", default=[*GROUPS, *STUDIES], metavar="NAME", help="rows, groups or studies (all)"
    )
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="NAME", help="engines beside ours (all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of a row, for all engines together (3)")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs, not to compare")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing, take these results")
    parser.add_argument("--json", type=Path, help="write the results")
    parser.add_argument("--table", type=Path, help="write the Markdown tables")
    parser.add_argument(
        "--readme",
        type=Path,
        help="replace the blocks that are measured: " + " and ".join(report.markers(name)[0] for name in report.BLOCKS),
    )
    parser.add_argument("--plot", type=Path, help="draw the ratios; NAME-cost.png beside it draws cost against T and B")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        if given.source:
            results, code = json.loads(given.source.read_text()), 0
        else:
            results, code = _measured(_options(given), given.threads)
        _write(results, given)
    except (FastLSTMError, OSError, json.JSONDecodeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return code


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """Return what a worker needs. Raise InputError."""
    chosen(given.rows, tuple(STUDIES))
    for threads in given.threads:
        if threads < 1:
            raise InputError(f"--threads {threads}: expected at least 1")
    if not given.seconds > 0:
        raise InputError(f"--seconds {given.seconds}: expected more than 0")
    for peer in given.peers:
        if peer not in PEERS:
            raise InputError(f"--peers {peer}: expected some of {one_of(PEERS)}")
    pace = QUICK if given.quick else {"seconds": given.seconds, "rounds": ROUNDS}
    return {"rows": given.rows, "peers": list(dict.fromkeys(["fastlstm", *given.peers])), **pace}


def _measured(options: dict[str, Any], threads: Sequence[int]) -> tuple[dict[str, Any], int]:
    """Return the results of a process for each number of threads, and an exit code. Ctrl-C ends with what is there."""
    results = {"date": date.today().isoformat(), "machine": describe(), "versions": {}, "threads": {}}
    code, interrupts = 0, []
    # the child gets the signal too and ends; the parent stays to write what it measured
    before = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        for count in dict.fromkeys(threads):
            print(f"--- {count} thread{'s' * (count > 1)}", flush=True)
            found, ended = _process(options | {"threads": count})
            if found:
                results["versions"] |= found.pop("versions")
                results["threads"][str(count)] = found
                print("\n".join(["", *lines(found["summary"]), ""]), flush=True)
            if interrupts or ended == INTERRUPTED:
                return results, INTERRUPTED
            if ended:
                print(f"bench: the process of {count} threads ended with code {ended}", file=sys.stderr)
                code = 1
    finally:
        signal.signal(signal.SIGINT, before)
    return results, code


def _process(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return what a worker measured, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        given, target = Path(folder, "options.json"), Path(folder, "results.json")
        given.write_text(json.dumps(options))
        environment = {**os.environ, "OMP_NUM_THREADS": str(options["threads"]), "TF_CPP_MIN_LOG_LEVEL": "3"}
        child = subprocess.Popen([sys.executable, "-m", "bench.worker", str(given), str(target)], env=environment)
        ended = child.wait()
        return (json.loads(target.read_text()) if target.exists() else {}), ended


def _write(results: dict[str, Any], given: argparse.Namespace) -> None:
    """Write what was asked for. Raise InputError, MissingExtraError or OSError."""
    if given.json:
        report.write(given.json, json.dumps(results, indent=1) + "\n")
    if given.table:
        report.write(given.table, report.markdown(results))
    if given.readme:
        report.update(given.readme, report.readme(results))
    if given.plot:
        plots.ratios(results, given.plot)
        plots.cost(results, given.plot.with_name(f"{given.plot.stem}-cost{given.plot.suffix}"))


if __name__ == "__main__":
    sys.exit(main())

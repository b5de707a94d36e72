"""One process times one number of threads: TensorFlow takes its number once, and workers of one engine would disturb another's.

    python -m bench.worker OPTIONS.json RESULTS.json

Results are written after every row, so that an interrupt or a peer that crashes costs the rows to come alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench import probes, report
from bench.measure import measure, said
from bench.peers import installed
from bench.report import microseconds, write
from bench.rows import chosen
from bench.studies import STUDIES, study
from bench.summary import DISTURBED, summarise

INTERRUPTED = 130


def run(options: dict[str, Any], target: Path) -> None:
    """Measure the rows and studies of the options and keep the results in a file."""
    peers = installed(options["threads"], options["peers"])
    rows, studies = chosen(options["rows"], tuple(STUDIES))
    results: dict[str, Any] = {
        "seconds": options["seconds"],
        "versions": {name: peer.version for name, peer in peers.items()},
        "machine": {name: rate / 1e9 for name, rate in probes.machine(options["threads"]).items()},
        "rows": [],
        "studies": {},
    }
    _keep(results, target)
    for row in rows:
        facts = measure(row, peers, options["seconds"], options["threads"], options["rounds"])
        results["rows"].append(facts)
        _say(facts)
        _keep(results, target)
    for name in studies:
        try:
            results["studies"][name] = study(name, peers, options["seconds"], options["rounds"])
        except Exception as error:  # an engine that fails in one study does not end the others
            print(f"{name}: {said(error)}", flush=True)
            continue
        for each in results["studies"][name]:
            print(f"{name}: {each['name']}: {report.found(each)}", flush=True)
        _keep(results, target)


def _keep(results: dict[str, Any], target: Path) -> None:
    results["summary"] = summarise(results)
    write(target, json.dumps(results))


def _say(facts: dict[str, Any]) -> None:
    """Print a row."""
    print(f"{facts['name']} {facts['dims']}", flush=True)
    for name, us in facts.get("us", {}).items():
        ratio = f"{facts['ratios'][name]:8.2f}x" if name in facts["ratios"] else ""
        print(f"    {name:<20}{microseconds(us):>12} us{ratio}")
    if "share" in facts:
        rates = f"{facts['gflops']:.1f} GFLOP/s, {facts['gbytes']:.1f} GB/s"
        print(f"    {facts['share']:.0%} of {facts['limit']} ({rates})")
    if facts.get("others", 0) > DISTURBED:
        print(f"    disturbed: others took {facts['others']:.2f} cores; repeat it on an idle machine")
    for name, reason in facts["absent"].items():
        print(f"    {name}: {reason}")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

"""One row: outputs compared with float64, then the engines interleaved, then the share of the limit that binds."""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from bench import limits, probes
from bench.blocks import ROUNDS, Times, interleaved
from bench.limits import Work
from bench.machine import Others
from bench.peers import NO_WAY, Peer, Runner
from bench.rows import Row

TOLERANCE = 2e-5  # largest difference from float64
OURS = "fastlstm"
TURNING = "back and forth"


def difference(got: np.ndarray, expected: np.ndarray, scale: np.ndarray | float = 1.0) -> float:
    """Return the largest difference over `scale`; infinite where a NaN makes it none. Raise ValueError where the shapes differ."""
    if got.shape != expected.shape:
        raise ValueError(f"outputs are {got.shape}, expected {expected.shape}")
    largest = float((np.abs(got - expected) / scale).max())
    return largest if largest == largest else float("inf")


def prepared(row: Row, peers: Mapping[str, Peer]) -> tuple[dict[str, Runner], dict[str, float], dict[str, str]]:
    """Return the runners that agree with float64, the largest difference of each, and why others are left out."""
    expected = row.expected()
    scale = row.scale(expected)
    runners, differences, absent = {}, {}, {}
    for name, peer in peers.items():
        try:
            offered = row.runners(peer)
        except NotImplementedError:
            absent[name] = NO_WAY
            continue
        except Exception as error:  # engines fail in ways of their own; the others go on
            absent[name] = said(error)
            continue
        for variant, runner in offered.items():
            try:
                differences[variant] = difference(runner.outputs(), expected, scale)
            except Exception as error:
                absent[variant] = said(error)
                continue
            if differences[variant] <= TOLERANCE:
                runners[variant] = runner
            else:
                absent[variant] = f"differs from float64 by {differences[variant]:.2g}: not timed"
    return runners, differences, absent


def said(error: Exception) -> str:
    """Return an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def measure(row: Row, peers: Mapping[str, Peer], seconds: float, threads: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the facts of one row; they hold no times where ours does not agree or run."""
    runners, differences, absent = prepared(row, peers)
    facts: dict[str, Any] = {"name": row.name, "group": row.group, "kind": type(row).__name__, "dims": row.dims}
    facts |= {"difference": differences, "absent": absent}
    if OURS not in runners:
        return facts
    work = row.work(threads)
    rates: dict[str, Callable[[], float]] = {"FMA": partial(probes.flops, threads)}
    rates |= {level: partial(probes.read, level, threads) for level in work.reads}
    if work.swept:
        rates[TURNING] = partial(probes.read_turning, work.swept, threads)
    others = Others()
    times = interleaved({name: runner.call for name, runner in runners.items()}, seconds, rates, rounds, threads)
    facts["others"] = others.cores()
    return facts | timed(times, list(runners)) | judged(work, times)


def timed(times: Times, names: list[str]) -> dict[str, Any]:
    """Return microseconds of each engine: median, p99 and p99.9; every median over ours, and the best peer's."""
    us, percentiles = {}, {}
    for name in names:
        seconds = times.calls(name)
        us[name] = median(seconds) * 1e6
        p50, p99, p999 = (float(p) * 1e6 for p in np.percentile(seconds, (50, 99, 99.9)))
        percentiles[name] = {"p50": p50, "p99": p99, "p99.9": p999, "calls": len(seconds)}
    ratios = {name: value / us[OURS] for name, value in us.items() if not name.startswith(OURS)}
    facts = {"us": us, "percentiles": percentiles, "rounds": len(times.rounds), "ratios": ratios}
    if ratios:
        best = min(ratios, key=lambda name: ratios[name])
        facts |= {"best_peer": best, "ratio": ratios[best]}
    return facts


def judged(work: Work, times: Times) -> dict[str, Any]:
    """Return what binds, and the share of it that ours reached.

    `share` compares within each round, so that the machine's speed at that moment meets both, and is the median of the rounds;
    a probe that found less than the median of all rounds was disturbed, and counts as the median.
    `share_of_best` compares our median with the best rates of all rounds, `share_turning` with weights that are read back and forth.
    """
    seconds = times.median(OURS)
    best = {name: max(rates[name] for rates in times.rates) for name in times.rates[0]}
    middle = {name: median(rates[name] for rates in times.rates) for name in best}
    name, least = limits.binding(work, best)
    shares = []
    for calls, rates in zip(times.rounds, times.rates, strict=True):
        fair = {name: max(rate, middle[name]) for name, rate in rates.items()}
        shares.append(limits.binding(work, fair)[1] / median(calls[OURS]))
    return {
        "limit": name,
        "share": median(shares),
        "share_of_best": least / seconds,
        "flops": work.flops,
        "weight_bytes": work.bytes_read,
        "gflops": work.flops / seconds / 1e9,
        "gbytes": work.bytes_read / seconds / 1e9,
        "rates": {name: rate / 1e9 for name, rate in best.items()},
    } | ({"share_turning": work.bytes_read / middle[TURNING] / seconds} if TURNING in middle and name != "FMA" else {})

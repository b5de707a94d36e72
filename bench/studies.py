"""Questions that are not a row of engines: narrow weights, denormal inputs, the price of raggedness, cost against steps and rows."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

import fastlstm
from bench.blocks import ROUNDS, apart, interleaved
from bench.measure import OURS, difference, prepared
from bench.networks import Network
from bench.peers import Peer, Runner, Runners
from bench.peers.ours import FastLSTM
from bench.rows import Ragged, Row, Step

Facts = dict[str, Any]
Timer = Callable[[Runners], dict[str, float]]


def _us(runners: Runners, seconds: float, rounds: int, threads: int) -> dict[str, float]:
    """Return median microseconds of the runners, interleaved."""
    calls = {name: runner.call for name, runner in runners.items()}
    times = interleaved(calls, seconds, rounds=rounds, threads=threads)
    return {name: times.median(name) * 1e6 for name in runners}


def float16(peers: Mapping[str, Peer], timer: Timer) -> list[Facts]:
    """Batch 1 with weights stored as float16 beside float32: how many times as fast, and the largest difference."""
    threads, facts = peers[OURS].threads, []
    for H in (256, 512):
        for row in (Row(f"sequence {H}", Network(1, 100, H, H)), Step(f"step {H}", Network(1, 1, H, H))):
            runners = row.runners(FastLSTM(threads)) | row.runners(FastLSTM(threads, "float16"))
            wide, narrow = (runner.outputs() for runner in runners.values())
            us = timer(runners)
            ratio = us[OURS] / us[f"{OURS} float16"]
            facts.append(_named(row, us, ratio=ratio, difference=difference(narrow, wide)))
    return facts


def int8(peers: Mapping[str, Peer], timer: Timer) -> list[Facts]:
    """Batch 1 with int8 weights beside onnxruntime's DynamicQuantizeLSTM: ratio, and the error of both against float64."""
    threads, facts = peers[OURS].threads, []
    for H in (64, 128, 256, 512):
        row = Row(f"sequence {H}", Network(1, 100, H, H))
        runners = row.runners(FastLSTM(threads)) | row.runners(FastLSTM(threads, "int8"))
        if "onnxruntime" in peers:
            from bench.peers.onnxruntime_peer import OnnxRuntime

            runners |= OnnxRuntime(threads).run_int8(row.network, row.network.x())
        expected = row.expected()
        errors = {name: difference(each.outputs(), expected) for name, each in runners.items() if "int8" in name}
        us = timer(runners)
        theirs = min((value for name, value in us.items() if name.startswith("onnxruntime int8")), default=None)
        facts.append(_named(row, us, ratio=theirs and theirs / us[f"{OURS} int8"], errors=errors))
    return facts


def denormals(peers: Mapping[str, Peer], timer: Timer) -> list[Facts]:
    """The time of denormal inputs over that of normal ones, for each engine."""
    row = Row("sequence 128", Network(1, 100, 128, 128))
    facts = []
    for peer in peers.values():
        runners: Runners = {}
        for kind, scale in (("normal", 1.0), ("denormal", 1e-40)):
            (runner,) = peer.run(row.network, (row.network.x() * scale).astype(np.float32)).values()
            runners[kind] = runner
        us = timer(runners)
        facts.append(_named(row, us, slower=us["denormal"] / us["normal"]) | {"name": peer.name})
    return facts


def raggedness(peers: Mapping[str, Peer], timer: Timer) -> list[Facts]:
    """The time of a ragged batch, as a list and as a padded array with lengths, over (the share of valid steps times that of the full batch)."""
    row = Ragged("ragged batch", Network(32, 100, 128, 128))
    ours, full = peers[OURS], Row("full", row.network)
    assert isinstance(ours, FastLSTM)
    padded = ours.padded(row.network, row.network.x(), row.lengths())
    us = timer({"ragged": row.runners(ours)[OURS], "padded": padded[OURS], "full": full.runners(ours)[OURS]})
    valid = float(row.lengths().sum()) / (row.network.B * row.network.T)
    ratios = {kind: us[kind] / (valid * us["full"]) for kind in ("ragged", "padded")}
    return [_named(row, us, valid=valid, ratio=ratios["ragged"], ratio_padded=ratios["padded"])]


SIZES = {
    "T": [Network(1, T, 128, 128) for T in (10, 25, 50, 100, 200, 400)],
    "B": [Network(B, 50, 128, 128) for B in (6, 12, 24, 48, 96, 192)],
}


def cost(peers: Mapping[str, Peer], timer: Timer) -> list[Facts]:
    """Time against steps and against rows, with the line that fits it and R squared."""
    facts = []
    shown = {name: peer for name, peer in peers.items() if name in (OURS, "onnxruntime")}
    for axis, networks in SIZES.items():
        runners: Runners = {}
        for network in networks:
            for name, peer in shown.items():
                runners[f"{name} {getattr(network, axis)}"] = peer.run(network, network.x())[name]
        us = timer(runners)
        sizes = [getattr(network, axis) for network in networks]
        lines = {name: line(sizes, [us[f"{name} {size}"] for size in sizes]) for name in shown}
        facts.append({"name": axis, "sizes": sizes, "lines": lines})
    return facts


def checkpoints(peers: Mapping[str, Peer], timer: Timer) -> list[Facts]:
    """Gradients of a long LSTM with checkpoints over time beside those without: floats that a unit and step take in all buffers, and the price in time."""
    threads, facts = peers[OURS].threads, []
    B, T, H = 32, 1000, 128
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((B, T, H)).astype("f4"), rng.standard_normal((B, H)).astype("f4")
    model = fastlstm.Sequential([fastlstm.Input((None, H)), fastlstm.layers.LSTM(H)])
    runners, floats = {}, {}
    for name, every in (("all kept", None), ("sqrt", "sqrt"), ("every 10", 10)):
        model.compile(loss="mse", threads=threads, checkpoint_every=every)
        floats[name] = model.buffer_bytes(x, y) / 4 / (B * T * H)
        gradient = fastlstm.value_and_grad(model, "mse", threads=threads, checkpoint_every=every)
        run = partial(gradient, x, y)
        runners[name] = Runner(run, lambda run=run: run()[1]["lstm.U"])
    us = timer(runners)
    price = {name: us[name] / us["all kept"] for name in runners}
    facts.append({"name": "LSTM gradients", "dims": (B, T, H, H), "us": us, "floats": floats, "price": price})
    return facts


LOOPS = (
    Step("step 256", Network(1, 1, 256, 256)),
    Row("sentence", Network(1, 100, 128, 128)),
    Row("eight sentences", Network(8, 100, 128, 128)),
)
GAP, CALLS = 0.008, 40  # seconds between calls of a loop of 125 Hz; calls of a block


def paced(peers: Mapping[str, Peer], timer: Timer) -> list[Facts]:
    """Calls 8 ms apart, as control loops and streams of audio make them: caches are cold and workers asleep, or spinning.

    Medians and 99th percentiles, and the cores that an engine keeps busy. The best peer over ours, of both.
    """
    facts = []
    for row in LOOPS:
        runners, _, _ = prepared(row, peers)
        calls = {name: runner.call for name, runner in runners.items()}
        times, cores = apart(calls, GAP, CALLS, threads=peers[OURS].threads)
        found = {name: np.percentile(times[name], (50, 99)) * 1e6 for name in calls}
        us, p99 = ({name: float(each[k]) for name, each in found.items()} for k in (0, 1))
        best = {kind: _best_peer(each) for kind, each in (("ratio", us), ("ratio_p99", p99))}
        facts.append(_named(row, us, **best, p99=p99, cores=cores))
    return facts


def _best_peer(us: Mapping[str, float]) -> float | None:
    """Return the time of the best other engine over ours, None where there is none."""
    others = [value for name, value in us.items() if name != OURS]
    return min(others) / us[OURS] if others else None


def line(sizes: list[int], us: list[float]) -> Facts:
    """Return the line that fits microseconds best, and R squared: the share of their variance that it explains."""
    slope, intercept = np.polyfit(sizes, us, 1)
    measured, fitted = np.array(us), slope * np.array(sizes) + intercept
    residual, total = np.sum((measured - fitted) ** 2), np.sum((measured - measured.mean()) ** 2)
    return {"us": us, "slope": float(slope), "intercept": float(intercept), "r2": float(1 - residual / total)}


def _named(row: Row, us: dict[str, float], **facts: Any) -> Facts:
    return {"name": row.name, "dims": row.dims, "us": us, **facts}


STUDIES = {
    "float16": float16,
    "int8": int8,
    "denormals": denormals,
    "raggedness": raggedness,
    "cost": cost,
    "paced": paced,
    "checkpoints": checkpoints,
}


def study(name: str, peers: Mapping[str, Peer], seconds: float, rounds: int = ROUNDS) -> list[Facts]:
    """Run one study."""
    return STUDIES[name](peers, partial(_us, seconds=seconds, rounds=rounds, threads=peers[OURS].threads))

"""The benchmarks' tables, limits and networks. No time is asserted here: `python -m pytest bench` does that."""

import json
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
if not pytest.importorskip("importlib.util").find_spec("bench"):
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from bench import __main__ as command
from bench import limits, machine, reference, report, summary
from bench.blocks import Times, apart, interleaved
from bench.measure import TOLERANCE, difference, judged, prepared, timed
from bench.networks import Direction, Network
from bench.peers import NO_WAY, installed
from bench.peers.base import Peer, Runner
from bench.reference import wide
from bench.rows import GROUPS, Arrivals, Ragged, Row, Step, Training, chosen, slug
from bench.studies import STUDIES, line
from fastlstm.errors import InputError

SMALL = {
    "sequence": Row("r", Network(3, 5, 2, 7)),
    "GRU": Row("r", Network(3, 5, 2, 7, cell="GRU")),
    "bidirectional": Row("r", Network(3, 5, 2, 7, layers=2, bidirectional=True)),
    "dense": Row("r", Network(3, 5, 2, 7, dense=2)),
    "step": Step("r", Network(3, 1, 2, 7)),
    "GRU step": Step("r", Network(3, 1, 2, 7, cell="GRU")),
    "step with Dense": Step("r", Network(3, 1, 2, 7, dense=2)),
    "ragged": Ragged("r", Network(4, 9, 2, 7)),
    "arrivals": Arrivals("r", Network(30, 1, 2, 7)),
}
TRAINED = {
    "LSTM": Training("r", Network(3, 5, 2, 7)),
    "GRU": Training("r", Network(3, 5, 2, 7, cell="GRU")),
    "bidirectional": Training("r", Network(3, 5, 2, 7, layers=2, bidirectional=True)),
}


@pytest.mark.parametrize("engine", ["fastlstm", "onnxruntime"])
@pytest.mark.parametrize("row", SMALL.values(), ids=list(SMALL))
def test_every_kind_of_row_agrees_with_float64(row, engine):
    peers = installed(1, [engine])
    if not peers:
        pytest.skip(f"{engine} is not installed")
    runners, differences, absent = prepared(row, peers)
    assert not absent
    assert runners.keys() == differences.keys()
    for runner in runners.values():
        runner.call()


def gradients_of(name: str, engine: str) -> tuple[dict[str, str], float] | None:
    """Return what an engine has no way for and how far its gradients are from float64's; None where it is not installed."""
    peers = installed(1, [engine])
    if not peers:
        return None
    runners, differences, absent = prepared(TRAINED[name], peers)
    for runner in runners.values():
        runner.call()
    return absent, max(differences.values())


@pytest.mark.parametrize("engine", ["fastlstm", "torch", "keras"])
@pytest.mark.parametrize("name", list(TRAINED))
def test_every_engine_that_trains_gives_the_gradients_in_float64(name, engine):
    # an engine's threads belong to its process, and TensorFlow's are set before it does anything
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(gradients_of, name, engine).result()
    if found is None:
        pytest.skip(f"{engine} is not installed")
    absent, furthest = found
    assert not absent
    assert furthest < 2e-6


@pytest.mark.parametrize("row", TRAINED.values(), ids=list(TRAINED))
def test_the_gradients_are_those_of_central_differences(row):
    network, rng, step = row.network, np.random.default_rng(0), 1e-6
    x, target = network.x(), network.target()
    found = row.expected()
    layers = [[wide(part) for part in parts] for parts in network.weights()]

    def loss(flat):
        moved, at = [], 0
        for parts in layers:
            moved.append([])
            for part in parts:
                arrays = list(network.trained(part))
                for k, array in enumerate(arrays):
                    arrays[k], at = flat[at : at + array.size].reshape(array.shape), at + array.size
                W, U, b = arrays
                moved[-1].append(Direction(W, U, *((b, part.bu) if network.cell == "LSTM" else b)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Network, "weights", lambda self: moved)
            return np.mean((reference.run(network, x) - target) ** 2)

    flat = np.concatenate([array.ravel() for parts in layers for part in parts for array in network.trained(part)])
    for _ in range(5):
        way = rng.standard_normal(flat.size)
        slope = (loss(flat + step * way) - loss(flat - step * way)) / (2 * step)
        assert found @ way == pytest.approx(slope, rel=1e-6)


def test_a_gradient_is_compared_beside_the_largest_element_of_its_weight():
    row = TRAINED["LSTM"]
    expected = row.expected()
    wrong = expected.copy()
    smallest = np.argmin(row.scale(expected))
    wrong[smallest] += 1e-4 * row.scale(expected)[smallest]
    assert difference(wrong, expected, row.scale(expected)) == pytest.approx(1e-4)
    assert len(row.scale(expected)) == 28 * (2 + 7 + 1)


class _Wrong(Peer):
    name = "wrong"

    def run(self, network, x):
        zeros = np.zeros((network.T, network.B, network.width))
        return {"wrong": Runner(lambda: None, lambda: zeros), "odd": Runner(lambda: None, lambda: zeros[:1])}


def test_what_differs_from_float64_is_not_timed():
    runners, differences, absent = prepared(SMALL["sequence"], {"wrong": _Wrong(1), "none": Peer(1)})
    assert runners == {}
    assert differences["wrong"] > TOLERANCE
    assert "not timed" in absent["wrong"] and "expected" in absent["odd"] and "no way" in absent["none"]


def test_nan_differs():
    assert difference(np.array([np.nan, 0.0]), np.zeros(2)) == float("inf")


# ---- limits -----------------------------------------------------------------------------------------
@pytest.fixture
def caches(monkeypatch):
    monkeypatch.setattr(machine, "cache_sizes", lambda: {"L1": 48 << 10, "L2": 2 << 20, "L3": 64 << 20})


def test_the_work_of_a_network():
    network = Network(2, 3, 5, 7, layers=2, bidirectional=True)
    products = [(5 + 7) * 28, (14 + 7) * 28]
    assert network.flops == 2 * 2 * 3 * 2 * sum(products)
    assert network.input_bytes == 4 * 2 * 28 * (5 + 14)
    assert network.recurrent_bytes == 4 * 7 * 28
    assert Network(2, 3, 5, 7, cell="GRU").flops == 2 * 2 * 3 * (5 + 7) * 21


def test_training_has_no_use_for_the_gradient_of_its_input(caches):
    network = Network(2, 3, 5, 7)
    assert limits.training(network).flops == 2 * 2 * 3 * 28 * (2 * 5 + 3 * 7)


@pytest.mark.parametrize(
    ("network", "threads", "reads"),
    [
        (Network(1, 100, 192, 192), 1, {"L2": 4 * 192 * 768 * 101}),
        (Network(1, 100, 512, 512), 1, {"L3": 4 * 512 * 2048 * 101}),
        (Network(1, 100, 512, 512), 2, {"L3": 4 * 512 * 2048, "L2": 4 * 512 * 2048 * 100}),
        (Network(1, 1, 64, 64), 1, {"L2": 2 * 4 * 64 * 256}),
        (Network(1, 50, 1, 50), 1, {"L1": 4 * 200 * (1 + 50 * 50)}),
    ],
)
def test_weights_are_read_from_the_level_that_holds_them(caches, network, threads, reads):
    assert limits.work(network, threads).reads == reads


def test_only_what_no_core_holds_is_swept_again_and_again(caches):
    assert limits.work(Network(1, 100, 512, 512)).swept == 4 * 512 * 2048
    assert limits.work(Network(1, 100, 192, 192)).swept == 0
    assert limits.work(Network(1, 1, 512, 512)).swept == 0


def test_the_slower_of_work_and_reading_binds():
    work = limits.Work(flops=100, reads={"L2": 10, "L3": 10})
    assert limits.binding(work, {"FMA": 10, "L2": 10, "L3": 5}) == ("FMA", 10)
    assert limits.binding(work, {"FMA": 1000, "L2": 10, "L3": 5}) == ("L3", 3)


def test_a_share_is_judged_within_its_round_and_never_by_a_disturbed_probe():
    rates = [{"FMA": 100.0, "L1": 1e9}, {"FMA": 50.0, "L1": 1e9}, {"FMA": 1.0, "L1": 1e9}]
    times = Times([{"fastlstm": [2.0]}, {"fastlstm": [4.0]}, {"fastlstm": [4.0]}], rates)
    facts = judged(limits.Work(100, {"L1": 1}), times)
    assert facts["limit"] == "FMA"
    assert facts["share"] == pytest.approx(0.5)
    assert facts["share_of_best"] == pytest.approx(0.25)


def test_rows_are_timed_in_turns_and_settle_first():
    seen: list[str] = []
    calls = {name: lambda name=name: seen.append(name) for name in "ab"}
    times = interleaved(calls, 0.0, {"probe": lambda: 1.0}, rounds=2)
    assert len(times.rounds) == 2 and times.rates == [{"probe": 1.0}] * 2
    assert len(seen) > sum(len(times.calls(name)) for name in "ab"), "the first of a block do not count"


def test_calls_apart_are_timed_without_the_first_of_a_block():
    seen = []
    calls = {name: lambda name=name: seen.append(name) for name in "ab"}
    times, _ = apart(calls, 0.002, 3, rounds=2)
    assert [len(times[name]) for name in "ab"] == [6, 6] and [seen.count(name) for name in "ab"] == [8, 8]


def test_an_engine_that_works_between_its_calls_keeps_a_core_busy():
    stop = threading.Event()
    worker = threading.Thread(target=lambda: all(not stop.is_set() for _ in iter(int, 1)))
    worker.start()
    try:
        _, cores = apart({"a": lambda: None}, 0.01, 20, rounds=1)
    finally:
        stop.set()
        worker.join()
    assert cores["a"] > 0.05  # of a machine that others use; calls of nothing alone take a thousandth


# ---- tables -----------------------------------------------------------------------------------------
def facts(name: str, us: dict[str, float], **more) -> dict:
    times = Times([{engine: [value / 1e6] for engine, value in us.items()}])
    kind = {"name": name, "dims": "(1, 1, 2, 3)", "group": "table", "kind": "Step", "difference": {}, "absent": {}}
    return kind | timed(times, list(us)) | {"share": 0.5, "limit": "L2"} | more


WON = facts("won", {"fastlstm": 10, "onnxruntime": 25, "onnxruntime bound": 20, "torch": 1234.5})
LOST = facts("lost", {"fastlstm": 10, "onnxruntime": 5}, absent={"torch": "differs from float64 by 1: not timed"})
TRAINED_ROW = facts("trained", {"fastlstm": 10, "torch": 30, "keras XLA": 20}, group="training", kind="Training") | {
    "absent": {"onnxruntime": NO_WAY}
}
BROKEN = {key: WON[key] for key in ("dims", "group", "kind", "difference")} | {
    "name": "broken",
    "absent": {"fastlstm": "ShapeError: no"},
}


@pytest.fixture
def results() -> dict:
    one = {"machine": {"L2": 100.0}, "rows": [WON, LOST, BROKEN, TRAINED_ROW], "studies": {"cost": []}}
    one["studies"]["raggedness"] = [
        {"name": "ragged", "dims": "(2, 3)", "us": {"ragged": 5.0, "full": 9.0}, "ratio": 1.5}
    ]
    two = {"machine": {}, "rows": [LOST], "studies": {}}
    threads = {"1": one, "2": two}
    return {
        "date": "2026-01-02",
        "machine": {"processor": "P", "caches": {"L1": 48 << 10, "L2": 2 << 20}},
        "versions": {"fastlstm": "1"},
        "threads": {n: each | {"summary": summary.summarise(each)} for n, each in threads.items()},
    }


def test_the_table_takes_the_best_variant_and_keeps_losing_rows():
    assert report.rows_table([WON, LOST, BROKEN]).splitlines() == [
        "| row (B, T, I, H) | fastlstm | onnxruntime | torch | best / ours | share of limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| won (1, 1, 2, 3) | 10.0 | 20.0 (bound) | 1,234 | 2.00 | 50% L2 |",
        "| lost (1, 1, 2, 3) | 10.0 | 5.0 | differs | 0.50 | 50% L2 |",
        "| broken (1, 1, 2, 3) | fails |  |  |  |  |",
    ]


def test_the_summary_says_where_peers_are_faster(results):
    found = results["threads"]["1"]["summary"]
    assert found[summary.COUNT] == 2
    assert found[summary.MEAN] == pytest.approx(1.0)
    assert found[summary.MEAN_USUAL] == pytest.approx((2.5 * 0.5) ** 0.5)
    assert found["rows where a peer is faster"] == ["lost"]
    assert found["each peer over ours, geometric mean"]["onnxruntime"] == pytest.approx((2.5 * 0.5) ** 0.5)
    assert found["ragged batch over its share of the full batch"] == 1.5
    assert all(summary.lines(found))


def test_the_pages_hold_every_row_and_study(results):
    page = report.markdown(results)
    for part in ("## 1 thread\n", "## 2 threads\n", "won", "lost", "raggedness", "L2 2 MiB", "20.0 / 20.0 / 20.0"):
        assert part in page
    blocks = report.readme(results)
    readme = blocks["benchmarks"]
    assert "| 2 threads |" in readme and "| lost (1, 1, 2, 3) | 10.0 | 5.0 | differs | 0.50 | 0.50 | 50% L2 |" in readme
    widths = {line.count("|") for line in readme.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_training_has_tables_of_its_own(results):
    found = results["threads"]["1"]["summary"]
    assert found[summary.MEAN_TRAINING] == pytest.approx(2.0) and found[summary.COUNT] == 2
    blocks = report.readme(results)
    assert "trained" not in blocks["benchmarks"]
    assert blocks["training benchmarks"].splitlines()[-3:] == [
        "| row (B, T, I, H) | fastlstm | torch | keras | best / ours | 2 threads | share of limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| trained (1, 1, 2, 3) | 10.0 | 30.0 | 20.0 (XLA) | 2.00 |  | 50% L2 |",
    ]
    assert "takes 2.00 times as long, in the geometric mean of the table's 1 rows" in blocks["training benchmarks"]
    assert "| trained (1, 1, 2, 3) | 10.0 | 30.0 | 20.0 (XLA) | 2.00 | 50% L2 |" in report.markdown(results)
    results["threads"]["1"]["rows"] = [WON]
    assert list(report.readme(results)) == ["benchmarks"]


BEGIN, END = report.markers("benchmarks")


def test_a_block_is_replaced_between_its_markers_alone():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = report.replace_between(page, "benchmarks", "new\n")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert report.replace_between(once, "benchmarks", "new\n") == once


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{END}" * 2])
def test_a_page_without_one_place_for_the_block_is_refused(page):
    with pytest.raises(InputError, match="once each"):
        report.replace_between(page, "benchmarks", "new")


def test_a_line_and_how_well_it_fits():
    fit = line([1, 2, 3], [3.0, 5.0, 7.0])
    assert (fit["slope"], fit["intercept"], fit["r2"]) == pytest.approx((2, 1, 1))
    assert line([1, 2, 3], [1.0, 0.0, 1.0])["r2"] == pytest.approx(0)


# ---- the command ------------------------------------------------------------------------------------
def test_names_are_distinct_and_groups_stand_for_their_rows():
    names = [slug(row.name) for rows in GROUPS.values() for row in rows] + list(STUDIES) + list(GROUPS)
    assert len(set(names)) == len(names)
    assert len(GROUPS["table"]) == 13
    rows, studies = chosen(["table", "Step 64", "cost"], tuple(STUDIES))
    assert rows == GROUPS["table"] and studies == ["cost"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "stepp-64"], "--rows stepp-64: expected one of"),
        (["--threads", "0"], "--threads 0: expected at least 1"),
        (["--peers", "tensorflow"], "--peers tensorflow: expected some of 'fastlstm'"),
        (["--seconds", "-1"], "--seconds -1.0: expected more than 0"),
    ],
)
def test_wrong_arguments_are_named(capsys, arguments, message):
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_kept_results_give_the_pages_and_pictures_again(results, tmp_path):
    pytest.importorskip("matplotlib")
    kept, page, plot = (tmp_path / name for name in ("r.json", "README.md", "r.png"))
    fits = {"fastlstm": line([1, 2], [1.0, 2.0])}
    results["threads"]["1"]["studies"]["cost"] = [{"name": "T", "sizes": [1, 2], "lines": fits}]
    kept.write_text(json.dumps(results))
    page.write_text("\n".join(mark for name in report.BLOCKS for mark in report.markers(name)))
    tables = tmp_path / "t.md"
    assert command.main(["--from", str(kept), "--readme", str(page), "--table", str(tables), "--plot", str(plot)]) == 0
    assert "| won" in page.read_text() and "| trained" in page.read_text() and "| lost" in tables.read_text()
    assert plot.stat().st_size and (tmp_path / "r-cost.png").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "r-cost.png", "r.json", "r.png", "t.md"]


def test_an_interrupt_keeps_what_was_measured(results, monkeypatch, capsys):
    done = {"versions": {"fastlstm": "1"}, **results["threads"]["1"]}
    monkeypatch.setattr(command, "_process", lambda options: (dict(done), 130))
    found, code = command._measured({"rows": []}, [1, 2])
    assert code == 130
    assert list(found["threads"]) == ["1"] and found["threads"]["1"]["rows"]


def test_networks_of_one_size_share_weights_and_differ_by_place():
    first, second = (part for part in Network(1, 1, 3, 5, bidirectional=True).weights()[0])
    assert not np.array_equal(first.W, second.W)
    again = replace(Network(1, 1, 3, 5, bidirectional=True), B=4, T=9).weights()[0][0]
    assert np.array_equal(first.W, again.W)


def test_what_a_kernel_at_the_peak_would_gain_is_told_of_rows_that_multiply_bound():
    bound = facts("bound", {"fastlstm": 10, "onnxruntime": 12}, limit="FMA", share=0.8)
    found = summary.summarise({"machine": {}, "rows": [bound, WON], "studies": {}})
    assert found[summary.CEILINGS] == pytest.approx({"bound": 1.2 / 0.8})

"""Each example learns what it says and draws its figure, on less data or for fewer epochs than it takes for itself."""

import runpy
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
if not EXAMPLES.exists():
    pytest.skip("the examples are not beside the tests", allow_module_level=True)


class Case(NamedTuple):
    """How an example is called, and what has to hold of its results."""

    settings: dict[str, int]
    share: float  # of the first loss, which the last falls below
    bounds: dict[str, tuple[float, float]] = {}
    less: list[tuple[str, str]] = []  # pairs of results, the first below the second
    figures: tuple[str, ...] = ()
    needs: str = "matplotlib"


CASES = {
    "attention": Case(
        {"epochs": 30},
        0.2,
        {"least weight": (0, 1 / 24), "most weight": (1 / 24, 1)},
        [("rmse", "persistence")],
        ("attention",),
    ),
    "autoencoder": Case(
        {"count": 1000, "epochs": 12}, 0.2, {"found": (0.8, 1), "false alarms": (0, 0.1)}, figures=("autoencoder",)
    ),
    "characters": Case({"characters": 15_000, "epochs": 6, "units": 48}, 0.85),
    "forecast": Case({"epochs": 15}, 0.6, less=[("rmse", "persistence")], figures=("forecast", "forecast-history")),
    "forecast_relu": Case(
        {"epochs": 40},
        0.15,
        less=[("rmse", "persistence"), ("rmse of tanh", "persistence")],
        figures=("forecast_relu",),
    ),
    "gates": Case({"count": 2000, "epochs": 20}, 0.2, {"difference": (0, 1e-5)}, figures=("gates",)),
    "lstm_gru": Case(
        {"characters": 15_000, "epochs": 5},
        0.9,
        less=[(name, "letter frequencies") for name in ("LSTM", "GRU", "SimpleRNN")],
        figures=("lstm_gru",),
    ),
    "music": Case({"epochs": 50}, 0.5, {"in key": (0.7, 1)}, figures=("music",)),
    "regularized": Case(
        {"epochs": 25}, 0.9, less=[("rmse", "rmse of plain"), ("gap", "gap of plain")], figures=("regularized",)
    ),
    "sentiment": Case(
        {"sentences": 3000, "epochs": 8}, 0.6, {"one way": (0.75, 1), "both ways": (0.8, 1)}, figures=("sentiment",)
    ),
    "speech": Case(
        {"count": 400, "epochs": 6}, 0.6, {"stream is run": (1, 1)}, [("of frames alone", "accuracy")], ("speech",)
    ),
    "stacked": Case({"epochs": 20}, 0.9, less=[("rmse", "mean"), ("mean", "last year")], figures=("stacked",)),
    "tagging": Case({"sentences": 1500, "epochs": 8}, 0.5, {"accuracy": (0.8, 1)}, figures=("tagging",)),
    "translate": Case({"epochs": 15}, 0.1, {"right": (0.5, 1)}),
    "tuning": Case(
        {"trials": 10, "epochs": 12}, 1.0, {"pruned": (1, 9)}, [("rmse", "persistence")], ("tuning",), "optuna"
    ),
    "video": Case(
        {"count": 200, "epochs": 5}, 0.8, {"accuracy": (0.6, 1), "of averages": (0, 0.5)}, figures=("video",)
    ),
}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_it_learns_and_draws(name, tmp_path, monkeypatch):
    case = CASES[name]
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip(case.needs)
    monkeypatch.chdir(tmp_path)
    results = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**case.settings)
    assert results["last"] < case.share * results["first"]
    for key, (low, high) in case.bounds.items():
        assert low <= results[key] <= high, results
    for smaller, larger in case.less:
        assert results[smaller] < results[larger], results
    assert sorted(path.stem for path in tmp_path.rglob("*.png")) == sorted(case.figures)
    for path in tmp_path.rglob("*.png"):
        assert path.stat().st_size > 5000

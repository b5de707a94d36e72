"""Each example learns and draws its figure, on less data or for fewer epochs than it takes for itself."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
if not EXAMPLES.exists():
    pytest.skip("the examples are not beside the tests", allow_module_level=True)

# what the example is called with; the loss it is to fall below, as a share of that of the first epoch; results and their bounds
CASES = {
    "forecast": ({"epochs": 15}, 0.6, {}),
    "sentiment": ({"sentences": 3000, "epochs": 8}, 0.6, {"accuracy": (0.8, 1)}),
    "characters": ({"characters": 15_000, "epochs": 6, "units": 48}, 0.85, {}),
    "autoencoder": ({"count": 1000, "epochs": 12}, 0.2, {"found": (0.8, 1), "false alarms": (0, 0.1)}),
    "tagging": ({"sentences": 1500, "epochs": 8}, 0.5, {"accuracy": (0.8, 1)}),
    "translate": ({"epochs": 15}, 0.1, {"right": (0.5, 1)}),
    "gates": ({"count": 2000, "epochs": 20}, 0.2, {"difference": (0, 1e-5)}),
}
FIGURES = {
    "forecast": ["forecast.png", "forecast-history.png"],
    "sentiment": ["sentiment.png"],
    "autoencoder": ["autoencoder.png"],
    "tagging": ["tagging.png"],
    "gates": ["gates.png"],
}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_it_learns_and_draws(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    settings, share, bounds = CASES[name]
    results = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**settings)
    assert results["last"] < share * results["first"]
    for key, (low, high) in bounds.items():
        assert low <= results[key] <= high, key
    if name == "forecast":
        assert results["rmse"] < results["persistence"]
    figures = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert figures == sorted(FIGURES.get(name, []))
    for path in tmp_path.rglob("*.png"):
        assert path.stat().st_size > 5000

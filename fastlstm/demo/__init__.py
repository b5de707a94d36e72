"""`fastlstm demo`: the bundled models, trained on real data, converted, verified, run, timed and drawn.

The models and their recorded outputs are in models/; train.py made them. Nothing of Keras or torch is needed here.
"""

import json
from collections.abc import Callable
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm
from fastlstm.container import write_atomically
from fastlstm.converters import convert
from fastlstm.errors import MissingExtraError, VerificationError
from fastlstm.format import Example
from fastlstm.session import Session
from fastlstm.timing import interleaved, onnxruntime_runner
from fastlstm.verify import check_agree, verify

Say = Callable[[str], None]


def run_demo(folder: Path, say: Say) -> tuple[dict[str, Any], str]:
    """Convert, verify and run the bundled models; write their files and the picture to `folder`.

    Return the results and the text for a person. Raise VerificationError if a model does not agree with its record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = Path(str(resources.files("fastlstm.demo"))) / "models"
    facts = {entry["file"]: entry for entry in json.loads((files / "models.json").read_text())}
    say("compiling kernels; the machine code is kept for the next run")
    forecast, forecast_text = _forecast(files, folder, facts["sunspots.keras"])
    seasons, seasons_text = _seasons(files, folder, facts["co2_season.onnx"])
    picture, picture_text = _picture(files, folder, forecast["forecast"])
    results = {"sunspots": forecast, "co2_season": seasons, "picture": picture}
    return results, "\n".join([*forecast_text, "", *seasons_text, "", picture_text])


def _converted(path: Path, example: Example, folder: Path) -> tuple[fastlstm.Model, Session, dict[str, Any], list[str]]:
    """Convert a bundled file, verify it, save it, and run from the saved file."""
    model = convert(path, example=example)
    report = verify(model)
    if report is None or not report.passed:
        raise VerificationError(f"{path.name}: {report}")
    saved = folder / f"{path.stem}.safetensors"
    model.save(saved)
    loaded = fastlstm.load(saved)
    text = [f"{path.name} -> {saved}: {saved.stat().st_size:,} bytes, {model.parameters:,} parameters", f"  {report}"]
    return loaded, Session(loaded), {"file": str(saved), "engine": report.engine, "difference": report.difference}, text


def _forecast(files: Path, folder: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Sunspots, a Keras file: next year's number from the last twelve, all held-out years at once."""
    with np.load(files / "sunspots.npz") as record:
        x, y, truth, years, scale = (record[k] for k in ("in_0", "out_0", "truth", "years", "scale"))
    example = Example({"0": x}, {"0": y}, facts["engine"])
    _, session, results, text = _converted(files / "sunspots.keras", example, folder)
    forecast = scale[0] * session.run(x)[:, 0].astype(float) ** 2
    error = float(np.sqrt(np.mean((forecast - truth) ** 2)))
    text.append("  year       " + "".join(f"{year:>8}" for year in years[-6:]))
    text.append("  forecast   " + "".join(f"{value:8.1f}" for value in forecast[-6:]))
    text.append("  truth      " + "".join(f"{value:8.1f}" for value in truth[-6:]))
    text.append(
        f"  error over {len(years)} years: {error:.1f} sunspots; last year's number as the forecast: {facts['baseline']['last_year']:.1f}"
    )
    one = x[:1]
    stream = session.stream()
    step = one[:, -1]
    seconds = interleaved({"call": lambda: session.run(one), "step": lambda: stream.step(step)}, 0.5)
    text.append(
        f"  time: {seconds['call'] * 1e6:.1f} us for a window of {x.shape[1]} years, {seconds['step'] * 1e6:.1f} us for a streamed step"
    )
    results |= {"forecast": forecast.tolist(), "rmse": error, "microseconds": {k: v * 1e6 for k, v in seconds.items()}}
    return results, text


def _seasons(files: Path, folder: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The season of the air's CO2, an ONNX graph from PyTorch: beside onnxruntime where that is installed."""
    path = files / "co2_season.onnx"
    with np.load(files / "co2_season.npz") as record:
        x, y, labels, classes, dates = (
            record[k] for k in ("in_weekly_change", "out_season", "labels", "classes", "dates")
        )
    example = Example({"weekly_change": x}, {"season": y}, facts["engine"])
    _, session, results, text = _converted(path, example, folder)
    predicted = session.run(x).argmax(axis=1)
    accuracy = float((predicted == labels).mean())
    for k in range(len(x) - 1, -1, -len(x) // 4):
        text.append(f"  half a year to {dates[k]}: {classes[predicted[k]]:<7} (it was {classes[labels[k]]})")
    text.append(
        f"  right for {accuracy:.1%} of {len(x)} windows; the nearest mean window: {facts['baseline']['nearest_mean_window']:.1%}"
    )
    one = {"weekly_change": x[:1]}
    runners: dict[str, Any] = {"fastlstm": lambda: session.run(one)}
    try:
        runners["onnxruntime"] = onnxruntime_runner(path, one, 1)
    except MissingExtraError:
        text.append("  onnxruntime is not installed, so it is not timed")
    check_agree(runners)
    seconds = interleaved(runners, 0.5)
    text.append(
        "  time for one window: " + ", ".join(f"{name} {value * 1e6:.1f} us" for name, value in seconds.items())
    )
    results |= {"accuracy": accuracy, "microseconds": {k: v * 1e6 for k, v in seconds.items()}}
    return results, text


def _picture(files: Path, folder: Path, forecast: list[float]) -> tuple[str | None, str]:
    """Draw the forecast against the truth."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None, "no picture: it needs matplotlib: pip install 'fastlstm[plot]'"
    with np.load(files / "sunspots.npz") as record:
        years, truth = record["years"], record["truth"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(years, truth, color="0.25", marker="o", markersize=3, linewidth=1, label="observed")
    axes.plot(years, forecast, color="tab:orange", linewidth=2, label="forecast one year ahead")
    axes.set_xlabel("year")
    axes.set_ylabel("sunspots, yearly mean")
    axes.set_title("A Keras LSTM, run by fastlstm, on years it was not trained on")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path = folder / "forecast.png"
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    write_atomically(path, drawn.getvalue())
    return str(path), f"picture: {path}"


__all__ = ["run_demo"]

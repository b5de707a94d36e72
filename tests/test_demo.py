"""The demo gives the numbers that its models were trained to, leaves whole files, and does without what is not installed."""

import json
from pathlib import Path

import command
import numpy as np
import pytest

import fastlstm
from fastlstm import demo
from fastlstm.cli import main
from fastlstm.verify import verify

pytest.importorskip("pyfive")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[dict, str, list[str], Path]:
    """Run the demo once: its results, its text, its messages, its folder."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "demo-output"
    said: list[str] = []
    results, text = demo.run_demo(folder, said.append)
    return results, text, said, folder


def test_it_gives_the_metrics_recorded_at_training(shown, demo_models):
    facts = {entry["file"]: entry for entry in json.loads((demo_models / "models.json").read_text())}
    results = shown[0]
    assert results["sunspots"]["rmse"] == pytest.approx(facts["sunspots.keras"]["metric"], abs=1e-3)
    assert results["co2_season"]["accuracy"] == pytest.approx(facts["co2_season.onnx"]["metric"], abs=1e-4)
    assert results["sunspots"]["rmse"] < facts["sunspots.keras"]["baseline"]["last_year"] / 2
    assert results["co2_season"]["accuracy"] > facts["co2_season.onnx"]["baseline"]["nearest_mean_window"]


@pytest.mark.parametrize("name", ["sunspots", "co2_season"])
def test_its_files_hold_the_source_engines_output_and_verify(name, shown):
    results, text, _, folder = shown
    model = fastlstm.load(folder / f"{name}.safetensors")
    assert results[name]["file"] == str(folder / f"{name}.safetensors")
    assert model.example is not None
    assert model.example.engine == results[name]["engine"]
    assert model.example.engine.startswith(("keras ", "onnxruntime "))
    report = verify(model)
    assert report is not None
    assert report.passed
    assert f"verified against {report.engine}" in text


def test_its_text_shows_forecast_truth_and_times(shown):
    results, text, said, _ = shown
    lines = text.splitlines()
    (row,) = [line.split()[1:] for line in lines if line.split()[:1] == ["forecast"]]
    assert row == [f"{value:.1f}" for value in results["sunspots"]["forecast"][-6:]]
    assert sum(" us" in line for line in lines) == 2
    assert all(
        0 < value < 1e6 for name in ("sunspots", "co2_season") for value in results[name]["microseconds"].values()
    )
    assert said == ["compiling kernels; the machine code is kept for the next run"]


def test_its_picture_is_a_whole_png(shown):
    pytest.importorskip("matplotlib")
    results, text, _, folder = shown
    data = (folder / "forecast.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    assert width > height > 300
    assert results["picture"] == str(folder / "forecast.png")
    assert text.endswith(f"picture: {folder / 'forecast.png'}")


def test_it_fails_where_a_model_does_not_agree_with_its_record(tmp_path, monkeypatch):
    def tampered(path, example):
        model = fastlstm.convert(path, example=example)
        name = next(n for n, w in model.weights.items() if isinstance(w, np.ndarray) and w.ndim == 2)
        return fastlstm.Model(model.graph, {**model.weights, name: -model.weights[name]}, example=model.example)

    monkeypatch.setattr(demo, "convert", tampered)
    with pytest.raises(fastlstm.VerificationError, match=r"sunspots\.keras: NOT verified against keras"):
        demo.run_demo(tmp_path, lambda text: None)
    assert not list(tmp_path.iterdir())


def test_json_is_alone_on_stdout(tmp_path, capsys):
    assert main(["demo", "--json", "-o", str(tmp_path)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert set(results) == {"sunspots", "co2_season", "picture"}


def test_without_the_optional_packages_it_says_what_is_left_out(tmp_path):
    hidden = ("matplotlib", "onnxruntime", "rich", "keras", "tensorflow", "torch")
    done = command.run(command.fastlstm_command("demo", hidden=hidden), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime is not installed, so it is not timed" in done.stdout
    assert done.stdout.endswith("no picture: it needs matplotlib: pip install 'fastlstm[plot]'\n")
    made = {path.name for path in (tmp_path / "demo-output").iterdir()}
    assert made == {"sunspots.safetensors", "co2_season.safetensors"}


@pytest.mark.parametrize(("package", "extra"), [("pyfive", "keras"), ("onnx", "onnx")])
def test_without_a_reader_it_prints_the_install_line(package, extra, tmp_path):
    done = command.run(command.fastlstm_command("demo", hidden=(package,)), tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'fastlstm[{extra}]'")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["sunspots.keras", "co2_season.onnx", "chars.h5"])
def test_every_bundled_model_gives_its_engines_outputs(name, demo_models):
    model = fastlstm.convert(demo_models / name)
    with np.load((demo_models / name).with_suffix(".npz")) as record:
        given = {k.removeprefix("in_"): record[k] for k in record.files if k.startswith("in_")}
        expected = {k.removeprefix("out_"): record[k] for k in record.files if k.startswith("out_")}
    session = fastlstm.Session(model)
    results = session.run({s.name: given.get(s.name, given.get("0")) for s in session.inputs})
    assert len(expected) == 1
    np.testing.assert_allclose(results[session.outputs[0].name], next(iter(expected.values())), rtol=0, atol=1e-5)

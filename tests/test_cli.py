"""The command line: what goes where, exit codes, one-line errors, whole outputs, and refusals before long work."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import command
import models
import numpy as np
import pytest
from model_files import small_model

import fastlstm
from fastlstm import Example, engines
from fastlstm.cli import commands, main, suite
from fastlstm.graph import Node

pytest.importorskip("pyfive")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def source(tmp_path_factory, demo_models) -> Path:
    """A folder with good and bad files; tests work in copies of it."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("sunspots.keras", "co2_season.onnx", "chars.h5"):
        shutil.copy(demo_models / name, folder / name)
    with np.load(demo_models / "sunspots.npz") as record:
        x, y = record["in_0"][:3], record["out_0"][:3]
    model = fastlstm.convert(folder / "sunspots.keras", example=Example({"0": x}, {"0": y}, "keras 3.15.1"))
    model.save(folder / "model.safetensors")
    small_model(example=False).save(folder / "bare.safetensors")
    np.save(folder / "x.npy", x)
    np.savez(folder / "io.npz", in_0=x, out_0=y, engine=np.array("keras 3.15.1"))
    np.savez(folder / "wrong.npz", in_0=x, out_0=y + 1)
    np.savez(folder / "misshapen.npz", in_0=x, out_0=y[:, :0])
    np.savez(folder / "misnamed.npz", in_window=x, out_0=y)
    np.save(folder / "wide.npy", np.zeros((2, 12, 3), np.float32))
    np.save(folder / "text.npy", np.array(["a", "b"]))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    (folder / "empty").touch()
    (folder / "hello.txt").write_text("hello, world\n" * 9)
    (folder / "noise").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "folder").mkdir()
    for name in ("sunspots.keras", "co2_season.onnx", "chars.h5", "model.safetensors", "x.npy", "io.npz"):
        data = (folder / name).read_bytes()
        (folder / f"cut.{name}").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture
def here(source, tmp_path, monkeypatch) -> Path:
    """The working folder: a copy of the files."""
    folder = tmp_path / "here"
    shutil.copytree(source, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_engine(monkeypatch):
    """No source engine is installed."""
    monkeypatch.setattr(engines, "available", lambda kind: [])


def ran(capsys, *arguments: object) -> tuple[int, str, list[str]]:
    """Run a command in this process; return its exit code, stdout, and the lines of stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def gave(capsys, *arguments: object) -> str:
    """Run a command that must succeed; return its stdout."""
    code, out, err = ran(capsys, *arguments)
    assert code == 0, err
    return out


def refused(capsys, *arguments: object) -> str:
    """Run a command that must fail with exit code 1, nothing on stdout and one line after its progress; return that line."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    code, out, err = ran(capsys, *arguments)
    *progress, line = err
    assert code == 1, err
    assert out == ""
    assert line.startswith(f"fastlstm {arguments[0]}: ")
    assert all(said.endswith(" ...") for said in progress), err
    assert "Error" not in line.split(":")[1], "the name of an exception is no message"
    assert "bug in fastlstm" not in line
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before, "a refusal leaves nothing behind"
    return line


# ---- results and messages ---------------------------------------------------------------------------
COMMANDS = {
    "convert": ["convert", "sunspots.keras", "-o", "new.safetensors", "--example", "io.npz"],
    "info": ["info", "model.safetensors"],
    "info --plan": ["info", "model.safetensors", "--plan", "--batch", "2", "--steps", "3"],
    "run": ["run", "model.safetensors", "x.npy", "-o", "y.npy"],
    "verify": ["verify", "model.safetensors"],
    "bench": ["bench", "model.safetensors", "--batch", "2", "--steps", "3"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_valid_and_alone_on_stdout(name, here, capsys):
    code, out, err = ran(capsys, *COMMANDS[name], "--json")
    assert code == 0, err
    assert isinstance(json.loads(out), dict)
    assert all(line.endswith(" ...") for line in err)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("convert", "verified against keras 3.15.1: largest difference"),
        ("info", "input          input_layer  float32  [batch, time, 1]"),
        ("info --plan", "lstm    LSTM   lstm_forward   float32  [2, 3, 1] -> [2, 3, 24]"),
        ("run", "dense  float32  [3, 1]"),
        ("verify", "verified against keras 3.15.1: largest difference"),
        ("bench", "us a call (median)"),
    ],
)
def test_results_are_on_stdout_and_progress_on_stderr(name, result, here, capsys):
    code, out, err = ran(capsys, *COMMANDS[name])
    assert code == 0, err
    assert result in out
    assert " ..." not in out
    assert bool(err) == (name != "info")


def test_run_writes_what_session_run_gives(here, capsys):
    x = np.load("x.npy")
    expected = fastlstm.Session(fastlstm.load("model.safetensors")).run(x)
    gave(capsys, "run", "model.safetensors", "x.npy", "-o", "y.npy")
    assert np.array_equal(np.load("y.npy"), expected)
    np.savez("named.npz", input_layer=x)
    gave(capsys, "run", "sunspots.keras", "named.npz", "-o", "y.npz", "--threads", 2)
    with np.load("y.npz") as archive:
        assert archive.files == ["dense"]
        assert np.array_equal(archive["dense"], expected)


def test_outputs_may_have_the_names_of_numpys_own_arguments(here):
    from fastlstm.cli.files import write_arrays

    arrays = {"file": np.arange(3), "allow_pickle": np.ones(2)}
    write_arrays(Path("odd.npz"), arrays)
    with np.load("odd.npz") as archive:
        assert all(np.array_equal(archive[name], array) for name, array in arrays.items())


def test_info_tells_the_bound_storage_and_what_hinders_streaming(here, capsys, no_engine):
    gave(capsys, "convert", "co2_season.onnx", "-o", "co2.safetensors", "--weights", "int8")
    facts = json.loads(gave(capsys, "info", "co2.safetensors", "--json"))
    assert facts["storage"] == "int8"
    assert facts["streams"].startswith("no: node '/gru/GRU/reverse'")
    assert facts["parameters"] == 3989
    assert facts["example"] is None
    assert [spec["name"] for spec in facts["inputs"]] == ["weekly_change"]


def test_info_shows_a_keras_file_as_it_is(here, capsys):
    out = gave(capsys, "info", "sunspots.keras")
    assert "format         keras-zip, written by Keras 3." in out
    assert "refused        nothing: it converts" in out
    facts = json.loads(gave(capsys, "info", "sunspots.keras", "--json"))
    assert [layer["class"] for layer in facts["layers"]] == ["InputLayer", "LSTM", "LSTM", "Dense"]
    gates = [4 * units * (inputs + units + 1) for inputs, units in ((1, 24), (24, 16))]
    assert [layer["parameters"] for layer in facts["layers"]] == [0, *gates, 16 + 1]
    assert facts["parameters"] == sum(gates) + 17
    assert facts["refused"] == []
    assert "--architecture is for weights-only Keras files" in refused(
        capsys, "info", "model.safetensors", "--architecture", "io.npz"
    )


def test_convert_writes_a_keras_file_by_its_suffix(here, capsys, no_engine):
    gave(capsys, "convert", "chars.h5", "-o", "new.keras")
    ids = np.random.default_rng(0).integers(0, 50, (2, 7)).astype(np.int32)
    old, new = (fastlstm.Session(fastlstm.convert(name)).run(ids) for name in ("chars.h5", "new.keras"))
    np.testing.assert_array_equal(new, old)
    assert "--weights int8 is of fastlstm files" in refused(
        capsys, "convert", "chars.h5", "-o", "n.keras", "--weights", "int8"
    )


def test_info_shows_the_program_of_a_call_and_what_was_fused(here, capsys):
    out = gave(capsys, "info", "chars.h5", "--plan", "--batch", 3, "--steps", 20)
    for line in (
        "call           batch 3, steps 20: input_layer [3, 20]",
        "program        1 call into compiled code: 4 kernels, 0 NumPy steps",
        "look-up of 50 projections",
    ):
        assert line in out
    facts = json.loads(gave(capsys, "info", "chars.h5", "--plan", "--json"))
    assert (facts["calls"], facts["kernels"], facts["numpy_steps"], facts["goes_on"]) == (1, 4, 0, False)
    assert facts["packed_bytes"] > 0 and facts["scratch_bytes"] > 0
    assert [(node["op"], [step["kernel"] for step in node["steps"]]) for node in facts["nodes"]] == [
        ("Embedding", ["rows_forward"]),
        ("LSTM", ["lstm_forward"]),
        ("Dense", ["dense_forward"]),
        ("Softmax", ["softmax_forward"]),
    ]
    out = gave(capsys, "info", "co2_season.onnx", "--plan", "--steps", 5)
    assert "dissolved      Flatten, Transpose x2, Unsqueeze x2" in out
    assert "writes for Flatten '/Flatten'" in out


def test_info_shows_that_a_one_hot_is_numbers_of_rows(here, capsys):
    ws = models.weights(np.random.default_rng(0), "GRU", 9, 5) | {
        "depth": np.array(9),
        "values": np.array([0, 1], "f4"),
    }
    nodes = [
        Node("hot", "OneHot", ("ids", "depth", "values"), ("x",)),
        Node("net", "GRU", ("x", "W", "U", "b", "bn"), ("y",), {"batch_first": True}),
    ]
    models.model(nodes, [("ids", "int64", ("B", "T"))], ["y"], ws).save("hot")
    out = gave(capsys, "info", "hot", "--plan", "--batch", 2, "--steps", 3)
    assert "1 call into compiled code: 2 kernels, 0 NumPy steps" in out
    assert "rows_forward" in out and "numbers of rows alone" in out and "look-up of 10 projections" in out
    assert "GRU, OneHot" in gave(capsys, "info", "hot")


def test_names_in_a_file_cannot_steer_the_terminal(here, capsys):
    model = fastlstm.load("model.safetensors")
    fastlstm.Model(model.graph, model.weights, {"note": "\x1b[2J\nexample        verified", "b\x07ell": "1"}).save(
        "evil"
    )
    out = gave(capsys, "info", "evil")
    assert all(line.isprintable() for line in out.splitlines())
    assert "\nexample        verified" not in out


@pytest.mark.parametrize("output", ["new.onnx", "new.keras"])
def test_convert_writes_files_for_other_engines(output, here, capsys, no_engine):
    pytest.importorskip("onnx")
    pytest.importorskip("pyfive")
    assert f"wrote {output}" in gave(capsys, "convert", "sunspots.keras", "-o", output)
    again = fastlstm.Session(fastlstm.convert(output)).run(np.load("x.npy"))
    np.testing.assert_array_equal(again, fastlstm.Session(fastlstm.convert("sunspots.keras")).run(np.load("x.npy")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "new.onnx", "--weights", "int8"), "--weights int8 is of fastlstm files"),
        (("-o", "new.onnx", "--opset", "9"), "opset=9: expected 13 to 23"),
        (("-o", "new.keras", "--opset", "17"), "--opset and --right-padded are for"),
        (("-o", "new.safetensors", "--right-padded"), "--opset and --right-padded are for"),
    ],
)
def test_options_of_other_formats_are_refused(arguments, said, here, capsys, no_engine):
    pytest.importorskip("onnx")
    assert said in refused(capsys, "convert", "sunspots.keras", *arguments)


def test_json_has_no_infinity(here, capsys, monkeypatch):
    monkeypatch.setattr(commands, "info", lambda given: ({"difference": [float("inf"), float("nan"), 1.5]}, ""))
    out = gave(capsys, "info", "model.safetensors", "--json")
    assert json.loads(out, parse_constant=pytest.fail) == {"difference": ["inf", "nan", 1.5]}


def test_bench_counts_calls_of_the_shape_asked_for(here, capsys):
    facts = json.loads(gave(capsys, *COMMANDS["bench"], "--json"))
    assert facts["inputs"] == {"input_layer": [2, 3, 1]}
    assert 0 < facts["microseconds"]["fastlstm"] < 1e6
    text = gave(capsys, *COMMANDS["bench"])
    assert "input_layer [2, 3, 1]" in text


def test_bench_compares_with_its_peer_before_timing(here, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    facts = json.loads(gave(capsys, "bench", "co2_season.onnx", "--peer", "onnxruntime", "--steps", 5, "--json"))
    assert facts["difference"] < 1e-4
    assert facts["ratio"] == facts["microseconds"]["onnxruntime"] / facts["microseconds"]["fastlstm"]
    gave(capsys, "convert", "co2_season.onnx", "-o", "small.safetensors", "--weights", "float16")
    weights = dict(fastlstm.load("small.safetensors").weights)
    tampered = fastlstm.load("small.safetensors")
    name = next(n for n, w in weights.items() if getattr(w, "dtype", None) == np.float16)
    weights[name] = -weights[name]
    fastlstm.Model(tampered.graph, weights).save("tampered.safetensors")
    peer = ["--peer", "onnxruntime", "--source", "co2_season.onnx", "--steps", 5]
    gave(capsys, "bench", "small.safetensors", *peer)
    assert "not timed" in refused(capsys, "bench", "tampered.safetensors", *peer)


@pytest.mark.skipif(not (suite.HOME / "bench").is_dir(), reason="the package lies beside no benchmarks")
def test_the_suite_takes_all_that_follows_and_measures_this_package(here):
    (here / "bench").mkdir()
    (here / "bench" / "__init__.py").write_text("raise SystemExit('not this one')")
    kept = here / "results.json"
    arguments = ("--rows", "step-64", "--threads", "1", "--peers", "--quick", "--json", kept)
    done = command.run(command.fastlstm_command("bench", "--suite", *arguments), here)
    assert done.returncode == 0, done.stderr
    assert "step 64 (1, 1, 64, 64)" in done.stdout
    assert json.loads(kept.read_text())["threads"]["1"]["rows"][0]["us"]["fastlstm"] > 0
    wrong = command.run(command.fastlstm_command("bench", "--suite", "--rows", "stepp"), here)
    assert wrong.returncode == 2 and "--rows stepp: expected one of" in wrong.stderr


def test_the_suite_is_of_a_clone_and_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr(suite, "HOME", here)  # an installed package lies beside no benchmarks
    assert "clone the project and run `python -m bench` there" in refused(capsys, "bench", "--suite", "--threads", "1")
    assert "takes its arguments after it" in refused(capsys, "bench", "--threads", "2", "--suite")


# ---- refusals ---------------------------------------------------------------------------------------
OUT = ["-o", "new.safetensors"]
BAD_MODELS = {
    "missing": "No such file",
    "folder": "directory|folder",
    "empty": "empty",
    "hello.txt": r"starts with b'hello, w'",
    "noise": "starts with b'",
    "cut.sunspots.keras": "damaged",
    "cut.chars.h5": "damaged|truncated|not",
    "cut.co2_season.onnx": "not a readable ONNX graph",
    "cut.model.safetensors": "truncated",
}


@pytest.mark.parametrize("name", ["convert", "info", "run", "verify", "bench"])
@pytest.mark.parametrize("model", BAD_MODELS)
def test_a_bad_model_file_is_refused_in_one_line_that_names_it(name, model, here, capsys):
    line = refused(capsys, *[model if a in ("sunspots.keras", "model.safetensors") else a for a in COMMANDS[name]])
    assert model in line
    if not (name == "convert" and "safetensors" in model):
        assert any(word in line for word in BAD_MODELS[model].split("|"))


def test_a_pipe_is_no_model_file_and_is_not_waited_for(here, capsys):
    os.mkfifo("pipe")
    for name in ("convert", "info", "verify"):
        given = [name, "pipe", *(OUT if name == "convert" else [])]
        code, out, err = ran(capsys, *given)
        assert (code, out) == (1, "")
        assert "pipe" in err[-1]
    with pytest.raises(fastlstm.ModelFileError, match="pipe: is a device, pipe or socket, not a file"):
        fastlstm.convert("pipe")


@pytest.mark.parametrize("name", ["cut.sunspots.keras", "cut.chars.h5", "cut.co2_season.onnx"])
def test_damage_is_told_of_the_file_once_by_its_name(name, here, capsys):
    line = refused(capsys, "convert", name, *OUT)
    assert line.count(name) == 1
    assert "bytes given" not in line


def test_an_example_without_the_name_of_an_engine_is_named_by_its_file(here, capsys):
    with np.load("io.npz") as record:
        np.savez("unnamed.npz", in_0=record["in_0"], out_0=record["out_0"])
    out = gave(capsys, "convert", "sunspots.keras", "--example", "unnamed.npz", *OUT)
    assert "verified against the outputs in unnamed.npz: largest difference" in out


REFUSALS = {
    "convert a fastlstm file": (["convert", "model.safetensors", *OUT], "is a fastlstm file; convert takes a Keras"),
    "output in no folder": (["convert", "sunspots.keras", "-o", "no/new.safetensors"], "no does not exist: create it"),
    "output is a folder": (["convert", "sunspots.keras", "-o", "folder"], "folder is a folder: name the file"),
    "output is the source": (["convert", "sunspots.keras", "-o", "sunspots.keras"], "choose another name"),
    "output of run is the model": (["run", "model.safetensors", "x.npy", "-o", "model.safetensors"], "choose another"),
    "example: missing": (["convert", "sunspots.keras", *OUT, "--example", "nope.npz"], "nope.npz: cannot be read"),
    "example: one array": (["convert", "sunspots.keras", *OUT, "--example", "x.npy"], "in_<name> and out_<name>"),
    "example: text": (["convert", "sunspots.keras", *OUT, "--example", "hello.txt"], "not an .npz file"),
    "example: cut": (["convert", "sunspots.keras", *OUT, "--example", "cut.io.npz"], "cut.io.npz"),
    "example: names": (["convert", "sunspots.keras", *OUT, "--example", "misnamed.npz"], "'window'; the model has"),
    "example: shape": (["convert", "sunspots.keras", *OUT, "--example", "misshapen.npz"], "has shape (3, 1)"),
    "example: values": (["convert", "sunspots.keras", *OUT, "--example", "wrong.npz"], "nothing was written"),
    "architecture: missing": (["convert", "sunspots.keras", *OUT, "--architecture", "nope"], "nope: No such file"),
    "architecture: text": (["convert", "sunspots.keras", *OUT, "--architecture", "hello.txt"], "not valid JSON"),
    "input: no value": (["convert", "co2_season.onnx", *OUT, "--input", "sr"], "expected NAME=VALUE"),
    "input: no name": (["convert", "co2_season.onnx", *OUT, "--input", "=1"], "expected NAME=VALUE"),
    "input: word": (["convert", "co2_season.onnx", *OUT, "--input", "sr=fast"], "no number or list of numbers"),
    "input: object": (["convert", "co2_season.onnx", *OUT, "--input", 'sr={"a":1}'], "no number"),
    "input: ragged": (["convert", "co2_season.onnx", *OUT, "--input", "sr=[[1],[2,3]]"], "no number or list"),
    "input: deep": (["convert", "co2_season.onnx", *OUT, "--input", "sr=" + "[" * 5000], "no number or list"),
    "input: huge": (["convert", "co2_season.onnx", *OUT, "--input", "sr=" + "9" * 40], "no number or list"),
    "input: twice": (["convert", "co2_season.onnx", *OUT, "--input", "sr=1", "--input", "sr=2"], "given twice"),
    "input: unknown": (
        ["convert", "co2_season.onnx", *OUT, "--input", "sr=1"],
        "no input 'sr'; it has 'weekly_change'",
    ),
    "input: of Keras": (["convert", "sunspots.keras", *OUT, "--input", "sr=1"], "only inputs of ONNX graphs"),
    "run: missing": (["run", "model.safetensors", "nope.npy", "-o", "y.npy"], "nope.npy: cannot be read: No such file"),
    "run: folder": (["run", "model.safetensors", "folder", "-o", "y.npy"], "directory"),
    "run: empty": (["run", "model.safetensors", "empty", "-o", "y.npy"], "not an .npy or .npz file"),
    "run: text": (["run", "model.safetensors", "hello.txt", "-o", "y.npy"], "not an .npy or .npz file"),
    "run: cut npy": (["run", "model.safetensors", "cut.x.npy", "-o", "y.npy"], "not a readable .npy"),
    "run: cut npz": (["run", "model.safetensors", "cut.io.npz", "-o", "y.npy"], "not a readable .npy"),
    "run: objects": (["run", "model.safetensors", "objects.npy", "-o", "y.npy"], "not a readable .npy"),
    "run: words": (["run", "model.safetensors", "text.npy", "-o", "y.npy"], "dtype <U1, expected float32"),
    "run: shape": (
        ["run", "model.safetensors", "wide.npy", "-o", "y.npy"],
        "(2, 12, 3), expected ['batch', 'time', 1]",
    ),
    "run: names": (["run", "model.safetensors", "io.npz", "-o", "y.npy"], "the model has 'input_layer'"),
    "run: threads": (["run", "model.safetensors", "x.npy", "-o", "y.npy", "--threads", "0"], "at least 1"),
    "verify: no source": (["verify", "model.safetensors", "--against", "nope"], "nope: cannot be read"),
    "verify: no model": (["verify", "model.safetensors", "--against", "model.safetensors"], "--against takes a Keras"),
    "info: batch": (["info", "model.safetensors", "--plan", "--batch", "0"], "--batch 0: expected at least 1"),
    "info: steps": (
        ["info", "model.safetensors", "--plan", "--steps", "1" + "0" * 12],
        "more than 4096 MiB of buffers",
    ),
    "info: no plan": (["info", "model.safetensors", "--steps", "2"], "--steps is of the call that --plan shows"),
    "info: missing": (["info", "nope", "--plan"], "nope: cannot be read"),
    "bench: batch": (["bench", "model.safetensors", "--batch", "0"], "--batch 0: expected at least 1"),
    "bench: steps": (["bench", "model.safetensors", "--steps", "1" + "0" * 15], "more than 268,435,456 elements"),
    "bench: source": (["bench", "model.safetensors", "--peer", "onnxruntime"], "pass with --source"),
    "demo: a file": (["demo", "-o", "hello.txt"], "hello.txt: File exists"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_say_what_to_do(case, here, capsys):
    arguments, hint = REFUSALS[case]
    assert hint in refused(capsys, *arguments)


def test_names_with_line_ends_stay_in_one_line(here, capsys):
    assert "no\\nsuch\\x1b[1m" in refused(capsys, "info", "no\nsuch\x1b[1m")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
def test_files_without_permission_are_refused(here, capsys):
    Path("x.npy").chmod(0)
    assert "Permission denied" in refused(capsys, "run", "model.safetensors", "x.npy", "-o", "y.npy")
    Path("folder").chmod(0o500)
    assert "cannot be written" in refused(capsys, "convert", "sunspots.keras", "-o", "folder/new")


def test_a_file_that_the_system_refuses_is_one_line(here, capsys, monkeypatch):
    def denied(*args):
        raise PermissionError(errno.EACCES, "Permission denied", ".secret.tmp")

    with monkeypatch.context() as patch:
        patch.setattr("fastlstm.container._open", denied)
        assert "sunspots.keras: cannot be read: Permission denied" in refused(capsys, "convert", "sunspots.keras", *OUT)
    model = fastlstm.load("model.safetensors")
    monkeypatch.setattr(commands.files, "open_model", lambda path: model)
    monkeypatch.setattr("fastlstm.container.os.open", denied)
    monkeypatch.setattr(commands.files, "read_arrays", lambda path, names: {names[0]: np.zeros((1, 12, 1))})
    assert "y.npy: cannot be written: Permission denied" in refused(capsys, *COMMANDS["run"])


@pytest.mark.parametrize(
    ("name", "output"), [("convert", "new.safetensors"), ("run", "y.npy"), ("run", "y.npz")], ids=lambda word: word
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_output_and_nothing_else(name, output, call, here, capsys, monkeypatch):
    output = Path(output)
    output.write_bytes(b"old")
    arguments = [
        output if before == "-o" else word
        for before, word in zip(["", *COMMANDS[name][:-1]], COMMANDS[name], strict=True)
    ]

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"fastlstm.container.os.{call}", full)
    assert "No space left on device" in refused(capsys, *arguments)
    assert output.read_bytes() == b"old"


def test_a_file_too_large_for_the_system_leaves_nothing(here):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    done = command.run(command.fastlstm_command(*COMMANDS["convert"]), here, preexec_fn=limit)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert not Path("new.safetensors").exists()
    assert not list(Path().glob(".*.tmp"))


def test_an_unforeseen_error_is_one_line_and_a_way_to_see_more(here, capsys, monkeypatch):
    def broken(given):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(commands, "info", broken)
    code, out, err = ran(capsys, "info", "model.safetensors")
    assert (code, out, len(err)) == (1, "", 1)
    assert "first\\nsecond" in err[0]
    assert "FASTLSTM_TRACEBACK=1" in err[0]
    monkeypatch.setenv("FASTLSTM_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="second"):
        main(["info", "model.safetensors"])


def test_too_little_memory_is_one_line(here, capsys, monkeypatch):
    def hungry(given):
        raise MemoryError

    monkeypatch.setattr(commands, "run", hungry)
    assert "not enough memory" in refused(capsys, *COMMANDS["run"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "{convert,info,run,verify,bench,warmup,demo}"),
        (["dance"], "invalid choice"),
        (["convert", "sunspots.keras"], "-o/--output"),
        (["convert", "sunspots.keras", *OUT, "--weights", "float8"], "invalid choice: 'float8'"),
        (["bench", "model.safetensors", "--batch", "many"], "invalid int value: 'many'"),
        (["bench", "model.safetensors", "--bat", "2"], "unrecognized arguments: --bat"),
        (["info", "model.safetensors", "x.npy"], "unrecognized arguments: x.npy"),
        (["bench", "--steps", "2"], "one of the arguments --suite model is required"),
        (["bench", "model.safetensors", "--suite"], "not allowed with argument"),
    ],
)
def test_wrong_usage_exits_2_with_the_usage(arguments, said, here, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert said in err
    assert "usage: fastlstm" in err


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_version_and_help_are_results(flag, here, capsys):
    with pytest.raises(SystemExit) as stop:
        main([flag])
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    assert ("fastlstm " + fastlstm.__version__ if flag == "--version" else "usage: fastlstm") in out
    assert err == ""


# ---- verification -----------------------------------------------------------------------------------
def _fake_engine(monkeypatch, change=lambda arrays: arrays, kind: str = "onnx"):
    """Install an engine that gives what our own session gives, changed; return the list of the inputs it saw."""
    seen: list[dict] = []

    def rerun(source, inputs):
        seen.append(dict(inputs))
        results = fastlstm.Session(fastlstm.convert(source)).run(dict(inputs))
        return change(list(results.values())), "fake engine 1.2.3"

    monkeypatch.setattr(engines, "available", lambda source_kind: ["fake"] if source_kind == kind else [])
    monkeypatch.setattr(engines, "rerun", rerun)
    return seen


def test_convert_prefers_the_example_given(here, capsys, monkeypatch):
    seen = _fake_engine(monkeypatch, kind="keras")
    out = gave(capsys, *COMMANDS["convert"])
    assert out.startswith("verified against keras 3.15.1: ")
    assert not seen
    assert fastlstm.load("new.safetensors").example.engine == "keras 3.15.1"


def test_convert_records_the_source_engines_output_not_ours(here, capsys, monkeypatch):
    shift = np.float32(3e-5)
    seen = _fake_engine(monkeypatch, lambda arrays: [array + shift for array in arrays])
    out = gave(capsys, "convert", "co2_season.onnx", *OUT)
    assert out.startswith("verified against fake engine 1.2.3: ")
    model = fastlstm.load("new.safetensors")
    ours = fastlstm.Session(model).run(dict(model.example.inputs))
    assert model.example.engine == "fake engine 1.2.3"
    assert np.array_equal(model.example.inputs["weekly_change"], seen[0]["weekly_change"])
    assert np.array_equal(model.example.outputs["season"], ours["season"] + shift)


def test_without_a_reference_convert_and_verify_say_so(here, capsys, no_engine):
    out = gave(capsys, "convert", "co2_season.onnx", *OUT)
    assert out.splitlines()[0] == "not verified: no reference"
    assert fastlstm.load("new.safetensors").example is None
    for arguments in (["verify", "new.safetensors"], ["verify", "co2_season.onnx"]):
        out = gave(capsys, *arguments)
        assert out.startswith("not verified: no reference")
        assert json.loads(gave(capsys, *arguments, "--json"))["verified"] is False


def test_an_engine_that_cannot_run_the_source_is_no_reference_and_its_words_are_shown(here, capsys, monkeypatch):
    monkeypatch.setattr(engines, "available", lambda kind: ["fake"])

    def fails(source, inputs):
        raise engines.NoReferenceError(f"no installed engine runs {source}: too old")

    monkeypatch.setattr(engines, "rerun", fails)
    out = gave(capsys, "convert", "co2_season.onnx", *OUT)
    assert out.startswith("not verified: no reference (no installed engine runs co2_season.onnx: too old)\n")
    assert "too old" in refused(capsys, "verify", "new.safetensors", "--against", "co2_season.onnx")


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: [arrays[0] + np.float32(2e-4)],
        lambda arrays: [np.where(np.arange(4) == 2, np.nan, arrays[0])],
        lambda arrays: [arrays[0][:, :3]],
        lambda arrays: [arrays[0], arrays[0]],
        lambda arrays: [],
    ],
    ids=["values", "nan", "shape", "more outputs", "no outputs"],
)
def test_an_engine_that_disagrees_stops_convert_and_verify(change, here, capsys, monkeypatch, no_engine):
    gave(capsys, "convert", "co2_season.onnx", "-o", "sure.safetensors")
    _fake_engine(monkeypatch, change)
    assert "fake engine 1.2.3" in refused(capsys, "convert", "co2_season.onnx", *OUT)
    assert "fake engine 1.2.3" in refused(capsys, "verify", "co2_season.onnx")
    assert "fake engine 1.2.3" in refused(capsys, "verify", "sure.safetensors", "--against", "co2_season.onnx")


def test_verify_against_reruns_the_engine_and_reports_the_largest_difference(here, capsys, monkeypatch):
    seen = _fake_engine(monkeypatch, lambda arrays: [arrays[0] - np.float32(2e-5)], kind="keras")
    facts = json.loads(gave(capsys, "verify", "model.safetensors", "--against", "sunspots.keras", "--json"))
    assert facts["engine"] == "fake engine 1.2.3"
    assert facts["difference"] == pytest.approx(2e-5, rel=0.1)
    assert np.array_equal(seen[0]["input_layer"], np.load("x.npy"))


def test_verify_of_a_tampered_file_fails(here, capsys):
    model = fastlstm.load("model.safetensors")
    for name, weight in model.weights.items():
        changed = {**model.weights, name: weight + np.float32(0.05)}
        fastlstm.Model(model.graph, changed, model.metadata, model.example).save("tampered")
        assert "NOT verified against keras 3.15.1" in refused(capsys, "verify", "tampered"), name


@pytest.mark.parametrize(("weights", "least", "most"), [("float16", 1e-6, 5e-3), ("int8", 1e-4, 1e-1)])
def test_narrow_weights_are_compared_with_the_example(weights, least, most, here, capsys):
    wide = json.loads(gave(capsys, *COMMANDS["convert"], "--json"))
    out = gave(capsys, *COMMANDS["convert"], "--weights", weights)
    (line,) = (line for line in out.splitlines() if line.startswith(f"{weights} weights: largest difference"))
    assert "on the recorded example" in line
    assert line.endswith(f"(float32 weights: {wide['difference']:.2g})")
    facts = json.loads(gave(capsys, *COMMANDS["convert"], "--weights", weights, "--json"))
    assert least < facts["difference_stored"] < most
    assert facts["difference"] == wide["difference"] < 1e-5
    assert facts["weights"] == weights
    assert facts["bytes"] < wide["bytes"]
    verified = json.loads(gave(capsys, "verify", "new.safetensors", "--json"))
    assert verified["difference"] == facts["difference_stored"]


def test_what_narrow_weights_cost_is_not_known_without_a_reference(here, capsys, no_engine):
    out = gave(capsys, "convert", "co2_season.onnx", *OUT, "--weights", "int8")
    assert "int8 weights: the accuracy lost is not known without a reference" in out


def test_weights_too_narrow_for_the_example_are_not_written(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules["fastlstm.verify"].TOLERANCE, "int8", 1e-7)
    line = refused(capsys, *COMMANDS["convert"], "--weights", "int8")
    assert "with int8 weights: store them wider; nothing was written" in line


def _rate_model(path: Path) -> None:
    """Write an ONNX graph whose output depends on a sampling rate: h(x) * sr / 16000 + bias."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    constants = {"W": draw(1, 20, 2), "R": draw(1, 20, 5), "full": np.float32(16000)}
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R"], ["", "h"], hidden_size=5),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["rate", "full"], ["share"]),
        helper.make_node("Mul", ["h", "share"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "rate",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", 2]),
            helper.make_tensor_value_info("sr", TensorProto.INT64, []),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, [5]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "B", 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())


BOUND = ["--input", "sr=8000", "--input", "bias=[1,2,3,4,5.5]"]


def test_bound_inputs_are_constants_and_the_engine_still_gets_them(here, capsys, monkeypatch):
    _rate_model(Path("rate.onnx"))
    seen = _fake_engine(monkeypatch)
    gave(capsys, "convert", "rate.onnx", *OUT, *BOUND)
    assert set(seen[0]) == {"x", "sr", "bias"}
    assert seen[0]["sr"].dtype == np.int64
    model = fastlstm.load("new.safetensors")
    assert [spec.name for spec in model.graph.inputs] == ["x"]
    assert set(model.example.inputs) == {"x"}
    x = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    given = {"x": x, "sr": np.int64(8000), "bias": np.array([1, 2, 3, 4, 5.5], np.float32)}
    whole = fastlstm.Session(fastlstm.convert("rate.onnx")).run(given)
    assert np.allclose(fastlstm.Session(model).run(x), whole["y"], atol=1e-6)


def test_bound_inputs_work_with_the_real_engine(here, capsys):
    pytest.importorskip("onnxruntime")
    _rate_model(Path("rate.onnx"))
    out = gave(capsys, "convert", "rate.onnx", *OUT, *BOUND)
    assert out.startswith("verified against onnxruntime ")
    gave(capsys, "verify", "new.safetensors", "--against", "rate.onnx")
    peer = ["bench", "new.safetensors", "--peer", "onnxruntime", "--source", "rate.onnx"]
    gave(capsys, *peer)


# ---- what an ONNX graph asks for --------------------------------------------------------------------------
def _change(path: Path, change) -> None:
    """Change an ONNX file's graph."""
    import onnx

    proto = onnx.load_model_from_string(path.read_bytes())
    change(proto.graph)
    path.write_bytes(proto.SerializeToString())


def test_info_counts_the_operators_of_a_graph_without_converting_it(here, capsys):
    _rate_model(Path("rate.onnx"))
    out = gave(capsys, "info", "rate.onnx")
    for line in (
        "opset          ai.onnx 17",
        "input          x  float  [T, B, 2]",
        "input          sr  int64  []",
        "output         y  float  [1, B, 5]",
        "operators      5 nodes: Add, Cast, Div, LSTM, Mul",
        "supported      yes",
    ):
        assert line in out.splitlines()
    assert sorted(os.listdir()) == sorted(os.listdir(here))
    facts = json.loads(gave(capsys, "info", "rate.onnx", "--json"))
    assert facts["operators"] == {"Add": 1, "Cast": 1, "Div": 1, "LSTM": 1, "Mul": 1}
    assert facts["refused"] is None


def test_info_names_all_that_an_import_would_refuse(here, capsys):
    from onnx import helper

    _rate_model(Path("rate.onnx"))
    odd = [
        helper.make_node("Foo", ["y"], ["z"], "foreign"),
        helper.make_node("Gelu", ["h"], ["g"], "act", approximate="exact"),
    ]
    _change(Path("rate.onnx"), lambda graph: graph.node.extend(odd))
    out = gave(capsys, "info", "rate.onnx")
    (said,) = (line for line in out.splitlines() if line.startswith("supported"))
    assert said.startswith("supported      no: ")
    assert all(word in said for word in ("Foo (node 'foreign')", "'act': Gelu", "approximate", "exact"))
    assert "operators      7 nodes: Add, Cast, Div, Foo, Gelu, LSTM, Mul" in out
    assert refused(capsys, "convert", "rate.onnx", *OUT).count("Foo") == 1


def _weights_outside(graph) -> None:
    (tensor,) = (one for one in graph.initializer if one.name == "W")
    Path("weights").mkdir()
    Path("weights/w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")


def test_tensors_outside_are_read_from_the_folder_that_is_named_alone(here, capsys, no_engine):
    _rate_model(Path("rate.onnx"))
    given = {"x": np.ones((4, 3, 2), np.float32), "sr": np.int64(8000), "bias": np.zeros(5, np.float32)}
    whole = fastlstm.Session(fastlstm.convert("rate.onnx")).run(given)["y"]
    _change(Path("rate.onnx"), _weights_outside)
    outside = ["--external-data", "weights"]
    assert "external_data=" in refused(capsys, "convert", "rate.onnx", *OUT)
    assert "supported      no: initializer 'W'" in gave(capsys, "info", "rate.onnx")
    assert "supported      yes" in gave(capsys, "info", "rate.onnx", *outside)
    gave(capsys, "info", "rate.onnx", "--plan", *outside)
    gave(capsys, "convert", "rate.onnx", *OUT, *outside)
    session = fastlstm.Session(fastlstm.load("new.safetensors"))
    np.testing.assert_array_equal(session.run(given)["y"], whole)
    assert "cannot be opened" in refused(capsys, "convert", "rate.onnx", *OUT, "--external-data", "folder")
    assert "for ONNX graphs" in refused(capsys, "info", "model.safetensors", *outside)
    assert "for ONNX graphs" in refused(capsys, "convert", "sunspots.keras", *OUT, *outside)


@pytest.mark.parametrize("name", ["sunspots.keras", "chars.h5"])
def test_keras_itself_verifies_its_files(name, here, capsys):
    keras = pytest.importorskip("keras")
    out = gave(capsys, "convert", name, *OUT)
    assert out.startswith(f"verified against keras {keras.__version__}: ")
    gave(capsys, "verify", "new.safetensors", "--against", name)


# ---- a process of its own ---------------------------------------------------------------------------
MISSING = {
    "pyfive": (["convert", "sunspots.keras", *OUT], "pip install 'fastlstm[keras]'"),
    "onnx": (["convert", "co2_season.onnx", *OUT], "pip install 'fastlstm[onnx]'"),
    "onnxruntime": (["bench", "co2_season.onnx", "--peer", "onnxruntime"], "pip install 'fastlstm[bench]'"),
}


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_extra_prints_its_exact_install_line(package, here):
    arguments, line = MISSING[package]
    done = command.run(command.fastlstm_command(*arguments, hidden=(package,)), here)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"fastlstm {arguments[0]}: ")
    assert f"'{package}'" in said
    assert said.endswith(line)
    assert "Traceback" not in done.stderr


def test_without_the_extras_a_saved_model_loads_runs_and_verifies(here):
    hidden = ("pyfive", "onnx", "onnxruntime", "rich", "matplotlib", "keras", "tf_keras", "torch", "tensorflow")
    for arguments in (COMMANDS["info"], COMMANDS["run"], COMMANDS["verify"]):
        done = command.run(command.fastlstm_command(*arguments, hidden=hidden), here)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_sees_a_spinner_with_rich_and_plain_lines_without(rich, here):
    if rich:
        pytest.importorskip("rich")
    terminal, stderr = os.openpty()
    hidden = () if rich else ("rich",)
    environment = command.environment(TERM="xterm")
    done = command.run(
        command.fastlstm_command(*COMMANDS["verify"], hidden=hidden), here, stderr=stderr, env=environment
    )
    os.close(stderr)
    said = b""
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other side is closed and all is read
            break
        if not more:
            break
        said += more
    os.close(terminal)
    assert done.returncode == 0
    assert done.stdout.startswith("verified against")
    assert len(done.stdout.splitlines()) == 1
    assert b"verifying" in said
    assert (b"\x1b[" in said) == rich


@pytest.mark.parametrize(
    "arguments", [["info", "model.safetensors"], ["--help"], ["info", "model.safetensors", "--json"]]
)
def test_a_broken_pipe_is_silent(arguments, here):
    reader, writer = os.pipe()
    os.close(reader)
    done = command.run(command.fastlstm_command(*arguments), here, stdout=writer)
    os.close(writer)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_stdout_is_an_error_in_one_line(here):
    with open("/dev/full", "w") as full:
        done = command.run(command.fastlstm_command("info", "model.safetensors"), here, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "fastlstm info: No space left on device\n"


@pytest.mark.parametrize("closed", [1, 2], ids=["stdout", "stderr"])
def test_a_closed_stream_is_no_error_and_nothing_goes_to_the_other(closed, here):
    usual = command.run(command.fastlstm_command(*COMMANDS["verify"]), here)
    done = command.run(command.fastlstm_command(*COMMANDS["verify"]), here, preexec_fn=lambda: os.close(closed))
    assert done.returncode == 0
    assert (done.stdout, done.stderr) == ((usual.stdout, "") if closed == 2 else ("", usual.stderr))


def test_characters_that_stdout_lacks_are_written_as_escapes(here):
    small_model().save("bare.safetensors")
    done = command.run(
        command.fastlstm_command("info", "bare.safetensors"), here, env=command.environment(PYTHONIOENCODING="ascii")
    )
    assert done.returncode == 0
    assert "ein \\xabSatz\\xbb" in done.stdout


SLEEPY = """
import time
from fastlstm import engines
def rerun(source, inputs):
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(60)
engines.available, engines.rerun = (lambda kind: ["sleepy"]), rerun
"""


def _interrupted(process: subprocess.Popen, cue: str) -> tuple[str, str]:
    """Send Ctrl-C once stderr has the cue; return what was said."""
    said = ""
    while cue not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return out, said + err


def _started(arguments: list[str], here: Path) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, cwd=here, env=command.environment(), **pipes)


def test_ctrl_c_in_convert_exits_130_and_leaves_no_output(here):
    before = set(here.iterdir())
    code = SLEEPY + command.MAIN
    process = _started(command.python(code, "convert", "co2_season.onnx", *OUT), here)
    out, err = _interrupted(process, "asleep")
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "fastlstm: interrupted"
    assert "Traceback" not in err
    assert set(here.iterdir()) == before


def test_ctrl_c_in_bench_exits_130(here):
    process = _started(command.fastlstm_command("bench", "model.safetensors", "--json"), here)
    out, err = _interrupted(process, "timing ...")
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "fastlstm: interrupted"
    assert "Traceback" not in err


def test_ctrl_c_while_llvm_compiles_is_not_lost(here, tmp_path):
    """LLVM calls Python for each object it has compiled, and an exception raised there goes nowhere."""
    code = """
import os, signal
from llvmlite.binding import ExecutionEngine
usual = ExecutionEngine.set_object_cache
def interrupted(notify):
    return lambda *args: (os.kill(os.getpid(), signal.SIGINT), notify(*args))
ExecutionEngine.set_object_cache = lambda self, notify, get: usual(self, interrupted(notify), get)
"""
    environment = command.environment(FASTLSTM_CACHE_DIR=str(tmp_path / "cache"))
    done = command.run(command.python(code + command.MAIN, *COMMANDS["run"]), here, env=environment)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert not Path("y.npy").exists()


def test_ctrl_c_while_numpy_is_imported_is_no_traceback(here):
    """The first tenth of a second of a command."""
    code = """
import os, signal
class Interrupted:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted)
"""
    done = command.run(command.python(code + command.MAIN, "info", "model.safetensors"), here)
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "fastlstm: interrupted\n")

"""Verification can fail, says where, and tells a disagreement from the lack of a reference; engines run in processes of their own."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_files import small_model

import fastlstm
from fastlstm import Example, LimitError, VerificationError, engines
from fastlstm.graph import Graph, Node, TensorSpec, widen
from fastlstm.verify import (
    TOLERANCE,
    bound_inputs,
    check_agree,
    compare,
    difference,
    random_inputs,
    reference,
    source_inputs,
    storage,
    verify,
    verify_against,
)


@pytest.fixture(scope="module")
def model() -> fastlstm.Model:
    """A small model with an example that agrees: the output of another arithmetic, float64 rounded."""
    bare = small_model(example=False)
    x = np.random.default_rng(5).standard_normal((3, 5, 2)).astype(np.float32)
    y = fastlstm.Session(bare).run(x).astype(np.float64)
    return replace(bare, example=Example({"x": x}, {"y": y.astype(np.float32)}, "engine 1.0"))


# ---- the difference ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("got", "wanted", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([0.5, 2.0], [0.25, 2.0], 0.25),  # absolute below 1
        ([1000.0], [800.0], 0.25),  # relative above 1
        ([800.0], [1000.0], 0.2),  # to the reference, not to ours
        ([np.nan, 1.0], [np.nan, 1.0], 0),
        ([np.inf, -np.inf], [np.inf, -np.inf], 0),
        ([np.nan], [1.0], np.inf),
        ([1.0], [np.nan], np.inf),
        ([np.inf], [-np.inf], np.inf),
        ([1.0], [np.inf], np.inf),
        ([], [], 0),
    ],
)
def test_the_difference_is_of_max_1_and_the_reference(got, wanted, expected):
    assert difference(np.array(got, np.float32), np.array(wanted, np.float32)) == expected


def test_the_difference_of_integers_and_booleans_does_not_wrap():
    assert difference(np.array([0], np.uint8), np.array([2], np.uint8)) == 1
    assert difference(np.array([True]), np.array([False])) == 1


# ---- the recorded example ---------------------------------------------------------------------------
def test_a_model_that_agrees_is_verified_against_its_engine(model):
    report = verify(model)
    assert report.passed
    assert report.engine == "engine 1.0"
    assert str(report).startswith("verified against engine 1.0: largest difference ")


def test_a_model_without_an_example_has_no_report(model):
    assert verify(replace(model, example=None)) is None


@pytest.mark.parametrize("name", ["W", "U", "b", "V"])
def test_one_changed_element_of_a_weight_fails(model, name):
    weight = model.weights[name].copy()
    weight.reshape(-1)[np.abs(weight).argmax()] *= -1
    report = verify(replace(model, weights={**model.weights, name: weight}))
    assert not report.passed
    assert str(report).startswith("NOT verified against engine 1.0")


def test_swapped_gates_fail(model):
    units = model.weights["U"].shape[0]
    gates = [np.roll(model.weights[name], units, axis=-1) for name in ("W", "U", "b")]
    assert not verify(replace(model, weights={**model.weights, **dict(zip("WUb", gates, strict=True))})).passed


def test_one_nan_fails(model):
    (name, expected), *_ = model.example.outputs.items()
    spoiled = expected.copy()
    spoiled[1, 0, 1] = np.nan
    report = verify(replace(model, example=replace(model.example, outputs={name: spoiled})))
    assert report.difference == np.inf
    assert not report.passed


def test_the_worst_output_is_named(model):
    two = Graph(model.graph.nodes, model.graph.inputs, (*model.graph.outputs, TensorSpec("d", "float32", None)))
    wide = fastlstm.Model(two, model.weights)
    results = fastlstm.Session(wide).run({"x": model.example.inputs["x"]})
    example = Example(model.example.inputs, {**results, "d": results["d"] + 0.5}, "engine 1.0")
    assert compare(wide, example).output == "d"


@pytest.mark.parametrize("outputs", [{}, {"z": np.zeros(3)}, {"y": np.zeros((3, 2, 1))}], ids=["none", "name", "shape"])
def test_an_example_that_cannot_be_compared_is_no_pass(model, outputs):
    with pytest.raises(VerificationError, match=r"engine 1\.0"):
        compare(model, Example(model.example.inputs, outputs, "engine 1.0"))


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_the_tolerance_is_that_of_the_storage(model, kind):
    narrow = model.narrowed(kind)
    assert storage(narrow.weights) == kind
    report = verify(narrow)
    assert report.passed
    assert report.tolerance == TOLERANCE[kind]
    weights = {name: w if name != "V" else -widen(w).astype(np.float32) for name, w in narrow.weights.items()}
    assert not verify(replace(narrow, weights=weights)).passed


# ---- against the source engine ----------------------------------------------------------------------
def test_the_reference_is_the_engines_output_by_position(model, monkeypatch):
    seen = {}

    def rerun(source, inputs):
        seen.update(inputs)
        return [np.full((3, 2, 2), 0.5)], "engine 2.0"

    monkeypatch.setattr(engines, "rerun", rerun)
    example = reference(model, "model.onnx")
    assert example.engine == "engine 2.0"
    assert np.array_equal(example.outputs["y"], np.full((3, 2, 2), 0.5))
    assert np.array_equal(seen["x"], model.example.inputs["x"])
    report, _ = verify_against(model, "model.onnx")
    assert not report.passed


def test_another_number_of_outputs_is_a_disagreement_not_a_lack(model, monkeypatch):
    monkeypatch.setattr(engines, "rerun", lambda source, inputs: ([], "engine 2.0"))
    with pytest.raises(VerificationError, match="gives 0 outputs, the converted model has 1") as error:
        verify_against(model, "model.onnx")
    assert not isinstance(error.value, engines.NoReferenceError)


def test_bound_inputs_reach_the_engine_with_their_dtypes(model, monkeypatch):
    bound = replace(model, metadata={"bound": '{"rates":["float32",[1,2.5]],"sr":["int64",16000]}'})
    arrays = bound_inputs(bound)
    assert arrays["sr"].dtype == np.int64
    assert arrays["sr"].shape == ()
    assert arrays["rates"].tolist() == [1, 2.5]
    seen = {}
    monkeypatch.setattr(engines, "rerun", lambda source, inputs: seen.update(inputs) or ([np.zeros(1)], "e"))
    assert set(reference(bound, "model.onnx").inputs) == {"x"}
    assert set(seen) == {"x", "sr", "rates"}


# ---- engines ----------------------------------------------------------------------------------------
def _module(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that installs an onnxruntime of the given text."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    return lambda text: _module(tmp_path / "site", "onnxruntime", text)


FAKE = """
__version__ = "9.9"
class SessionOptions: pass
class InferenceSession:
    def __init__(self, data, options, providers): self.data = data
    def run(self, names, feeds):
        return [2 * feeds["x"], feeds["x"].sum(), feeds["n"].dtype.itemsize]
"""
FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int64([3])}


def test_an_engine_gets_the_inputs_by_name_and_its_outputs_come_back_in_order(fake, tmp_path):
    fake(FAKE)
    arrays, engine = engines.rerun(tmp_path / "model.onnx", FEEDS)
    assert engine == "onnxruntime 9.9"
    assert np.array_equal(arrays[0], 2 * FEEDS["x"])
    assert [array.tolist() for array in arrays[1:]] == [15.0, 8]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ImportError('libfoo.so is missing')", "libfoo.so is missing"),
        ("import os; os.abort()", "exit code -6"),
        ("import sys; sys.stderr.buffer.write(b'\\xff\\xfe odd'); sys.exit(3)", "odd"),
        (
            "class SessionOptions:\n  def __init__(self): raise ValueError('a\\nb ' * 400)",
            "onnxruntime: ValueError: a b a",
        ),
        (FAKE.replace("__init__(self", "unused(self"), "TypeError"),
    ],
    ids=["import", "crash", "bytes", "long", "call"],
)
def test_an_engine_that_fails_in_any_way_is_no_reference(fake, tmp_path, text, reason):
    fake(text)
    with pytest.raises(engines.NoReferenceError) as error:
        engines.rerun(tmp_path / "model.onnx", FEEDS)
    message = str(error.value)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 1000


def test_an_engine_that_never_ends_is_stopped(fake, tmp_path, monkeypatch):
    fake("import time; time.sleep(60)")
    monkeypatch.setattr(engines, "TIMEOUT", 1)
    with pytest.raises(engines.NoReferenceError, match="within 1 seconds"):
        engines.rerun(tmp_path / "model.onnx", FEEDS)


def test_modules_in_the_working_folder_are_not_mistaken_for_an_engine(fake, tmp_path, monkeypatch):
    fake(FAKE)
    mine = tmp_path / "mine"
    for name in ("onnxruntime", "numpy", "keras", "fastlstm"):
        _module(mine, name, f"open('ran_{name}', 'w').close()")
    monkeypatch.chdir(mine)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path and Path(path) != mine])
    assert engines.rerun(tmp_path / "model.onnx", FEEDS)[1] == "onnxruntime 9.9"
    assert not list(mine.glob("ran_*"))


def test_what_the_engine_prints_does_not_reach_the_caller(fake, tmp_path, capfd):
    fake(FAKE + "print('noise on stdout')\nimport sys; print('noise on stderr', file=sys.stderr)")
    engines.rerun(tmp_path / "model.onnx", FEEDS)
    assert capfd.readouterr() == ("", "")


def test_the_engine_is_quiet_and_uses_one_thread(fake, tmp_path):
    fake(FAKE.replace('feeds["n"].dtype.itemsize', "int(__import__('os').environ['OMP_NUM_THREADS'])"))
    assert engines.rerun(tmp_path / "model.onnx", FEEDS)[0][2] == 1


def test_available_engines_are_those_of_the_source(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    assert engines.available("keras") == ["keras", "tf_keras"]
    assert engines.available("onnx") == ["onnxruntime"]
    assert engines.available("") == []
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert engines.available("keras") == []


def test_onnxruntime_itself_agrees_and_a_tampered_model_does_not(demo_models):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    source = demo_models / "co2_season.onnx"
    model = fastlstm.convert(source)
    report, example = verify_against(model, source, batch=2, steps=9)
    assert report.passed
    assert example.engine == f"onnxruntime {onnxruntime.__version__}"
    assert example.inputs["weekly_change"].shape == (2, 9, 1)
    for name, weight in model.weights.items():
        if isinstance(weight, np.ndarray) and weight.dtype == np.float32 and weight.size > 4:
            tampered = replace(model, weights={**model.weights, name: -weight})
            assert not compare(tampered, example).passed, name


# ---- random inputs ----------------------------------------------------------------------------------
def _model(nodes: list[Node], inputs: list[TensorSpec], output: str, **weights: np.ndarray) -> fastlstm.Model:
    return fastlstm.Model(Graph(tuple(nodes), tuple(inputs), (TensorSpec(output, "float32", None),)), weights)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("cast", [True, False])
def test_random_ids_lie_within_their_table_even_behind_a_cast(dtype, cast):
    table = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    nodes = [Node("cast", "Cast", ("ids",), ("wide",), {"to": "int64"})] if cast else []
    nodes.append(Node("embedding", "Embedding", ("wide" if cast else "ids", "table"), ("y",)))
    model = _model(nodes, [TensorSpec("ids", dtype, ("B", "T"))], "y", table=table)
    ids = random_inputs(model, 20, 30)["ids"]
    assert ids.dtype == dtype
    assert set(np.unique(ids)) == {0, 1, 2, 3}
    assert fastlstm.Session(model).run(ids).shape == (20, 30, 3)


def test_random_inputs_take_batch_steps_and_fixed_sizes(demo_models):
    pytest.importorskip("onnx")
    assert random_inputs(small_model(), 4, 9)["x"].shape == (4, 5, 2)
    free = fastlstm.convert(demo_models / "co2_season.onnx")
    assert random_inputs(free, 4, 9)["weekly_change"].shape == (4, 9, 1)


def test_random_inputs_too_large_to_hold_are_refused_before_they_are_made():
    with pytest.raises(LimitError, match="more than"):
        random_inputs(small_model(), 10**12, 1)


# ---- before timing ----------------------------------------------------------------------------------
def test_runners_that_differ_are_not_timed():
    base = {"y": np.float32([1, 2])}
    runs = lambda other: {"ours": lambda: base, "theirs": lambda: other}
    assert check_agree({"ours": lambda: base}) == 0
    assert check_agree(runs({"y": np.float32([1, 2 + 1e-5])})) == pytest.approx(5e-6, rel=0.1)
    for other in (
        {"y": np.float32([1, 2.1])},
        {"y": np.float32([1, np.nan])},
        {"y": np.float32([[1, 2]])},
        {"z": base["y"]},
    ):
        with pytest.raises(VerificationError, match="ours and theirs"):
            check_agree(runs(other))


def test_keras_3_is_no_reference_for_hard_sigmoid_of_older_files(monkeypatch):
    """It reads the slope that hard_sigmoid has since Keras 3; tf_keras, where installed, is asked first."""
    from types import SimpleNamespace

    from fastlstm.converters import keras_file

    def engines_for(version: str, activation: str) -> list[str]:
        config = {"config": {"layers": [{"config": {"recurrent_activation": activation}}]}}
        file = SimpleNamespace(keras_version=version, config=config)
        monkeypatch.setattr(keras_file, "read_keras_file", lambda source: file)
        return engines._keras_engines("model.h5")[0]

    monkeypatch.setattr(engines, "available", lambda kind: ["keras", "tf_keras"])
    assert engines_for("2.0.5", "hard_sigmoid") == ["tf_keras"]
    assert engines_for("2.15.0", "sigmoid") == ["tf_keras", "keras"]
    assert engines_for("3.9.2", "hard_sigmoid") == ["keras", "tf_keras"]


def test_the_source_engine_gets_the_steps_that_its_file_fixes(demo_models):
    """The converted model runs any number of steps; Keras runs the number that its file declares."""
    model = fastlstm.convert(demo_models / "sunspots.keras")
    (spec,) = model.graph.inputs
    assert spec.shape == ("batch", "time", 1)
    (given,) = source_inputs(model, batch=2, steps=7).values()
    assert given.shape == (2, 12, 1)

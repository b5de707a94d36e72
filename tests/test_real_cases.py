"""Replay models and tests that others made: every case of the manifest passes, is refused, or fails as it says."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import CASES, fenced

import fastlstm
from fastlstm import layers
from fastlstm.cli import main
from fastlstm.converters.keras_layers import Context, layer_from_config
from fastlstm.layers import Build

if not CASES.is_dir():
    pytest.skip("the folder of real cases is absent", allow_module_level=True)

MANIFEST = json.loads((CASES / "manifest.json").read_text())


def _models(case: dict) -> list[str]:
    return case["model"] if isinstance(case["model"], list) else [case["model"]]


def _params(kind: str, expect: str) -> list:
    params = []
    for case in MANIFEST:
        if (case["kind"] == "keras-layer") != (kind == "layer") or case["expect"] != expect:
            continue
        for model in _models(case) if kind == "file" else [""]:
            params.append(pytest.param(case, model, id=f"{case['id']}/{model}".rstrip("/")))
    return params


def _arrays(path: Path, prefix: str) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}


def _named(arrays: dict[str, np.ndarray], specs, case: dict) -> dict[str, np.ndarray]:
    """Keras cases number their arrays, ONNX cases name them."""
    return arrays if case["kind"] == "onnx" else {specs[int(k)].name: array for k, array in arrays.items()}


def _assert_close(name: str, got: np.ndarray, expected: np.ndarray, case: dict) -> None:
    assert got.shape == expected.shape, name
    np.testing.assert_allclose(got, expected, rtol=0, atol=case["atol"], err_msg=name)


# What users of weights-only files supply: their architecture and its own classes, and which records are of which file.
PINCELATE = {
    "orth-phon-training.h5": ("architecture.json", ["io.npz"]),
    "orth-phon-infer-encoder.h5": ("architecture_encoder.json", ["io_encoder.npz"]),
    "orth-phon-infer-decoder.h5": ("architecture_decoder.json", ["io_decoder.npz"]),
}


def _textgenrnn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Run the programs of docs/custom-layers.md and return their names."""
    monkeypatch.chdir(CASES / "keras_textgenrnn_cudnn")
    names: dict = {}
    for program in fenced("custom-layers.md", "python textgenrnn"):
        exec(compile(program, "custom-layers.md", "exec"), names)
    return names


def _convert(case: dict, model: str, monkeypatch: pytest.MonkeyPatch) -> tuple[fastlstm.Model, list[str]]:
    """Return the converted file and its records."""
    folder = CASES / case["id"]
    if case["id"] == "keras_textgenrnn_cudnn":
        return _textgenrnn(monkeypatch)["model"], case["io"]
    if case["id"] == "keras_pincelate_orth_phon":
        architecture, records = PINCELATE[model]
        return fastlstm.convert(folder / model, architecture=folder / architecture), records
    return fastlstm.convert(folder / model), case["io"]


def test_the_worked_example_of_a_custom_layer_writes_the_recorded_text(monkeypatch, capsys):
    _textgenrnn(monkeypatch)
    recorded = json.loads((CASES / "keras_textgenrnn_cudnn" / "case.json").read_text())["greedy_text"]
    assert capsys.readouterr().out.rstrip("\n") == recorded


def test_pincelate_gives_its_authors_sounds_for_a_word():
    """Encoder, then decoder fed its own output, as the author ran them with Keras 2.2.4; the first row is the start given."""
    folder = CASES / "keras_pincelate_orth_phon"
    literal = np.load(folder / "literal_allison.npz")
    encoder, decoder = (
        fastlstm.Session(
            fastlstm.convert(folder / f"orth-phon-infer-{part}.h5", architecture=folder / f"architecture_{part}.json")
        )
        for part in ("encoder", "decoder")
    )
    sounds = literal["expected_phoneme_features"].astype(np.float32)
    x, h = sounds[None, :1], encoder.run(literal["word_onehot"])
    for sound in sounds[1:]:
        results = decoder.run({"training_decoder_inputs": x, "input_3": h})
        x, h = (results[spec.name] for spec in decoder.outputs)
        np.testing.assert_allclose(x[0, 0], sound, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("case", "model"), _params("file", "ok"))
def test_outputs_agree_with_the_recorded_ones(case, model, monkeypatch):
    folder = CASES / case["id"]
    converted, records = _convert(case, model, monkeypatch)
    session = fastlstm.Session(converted)
    compared = 0
    for record in records:
        if record.startswith("io"):
            given = _named(_arrays(folder / record, "in_"), session.inputs, case)
            results = session.run(given)
            for name, expected in _named(_arrays(folder / record, "out_"), session.outputs, case).items():
                _assert_close(name, results[name], expected, case)
                compared += 1
        elif record == "stream.npz":
            compared += _replay_stream(session, folder, case)
    assert compared


STREAMED = [case for case in MANIFEST if case["kind"] == "onnx" and "stream.npz" in case.get("io", [])]


@pytest.mark.parametrize("case", STREAMED, ids=lambda case: case["id"])
def test_a_graph_with_explicit_states_streams_frame_by_frame(case):
    """States are found by name or shape, or wired as the case says; the first call of each frame is all that a user writes."""
    folder = CASES / case["id"]
    wiring = json.loads((folder / "case.json").read_text())["stream"]["wiring"]
    session = fastlstm.Session(fastlstm.convert(folder / _models(case)[0]))
    frames, expected = _arrays(folder / "stream.npz", "seqin_"), _arrays(folder / "stream.npz", "seqout_")
    constants, final = _arrays(folder / "stream.npz", "const_"), _arrays(folder / "stream.npz", "fin_")
    for stream in (session.stream(), session.stream(wiring=wiring)):
        assert stream.wiring == wiring
        for k in range(len(next(iter(frames.values())))):
            results = stream.step(constants | {name: frame[k] for name, frame in frames.items()})
            for name in results:
                _assert_close(f"{name} of frame {k}", results[name], expected[name][k], case)
        assert set(final) == set(stream.state)
        for name, wanted in final.items():
            _assert_close(f"final {name}", stream.state[name], wanted, case)


def _replay_stream(session: fastlstm.Session, folder: Path, case: dict) -> int:
    """Feed frames one by one, each output that is wired to an input going back into it."""
    wiring = json.loads((folder / "case.json").read_text())["stream"]["wiring"]
    frames, expected = _arrays(folder / "stream.npz", "seqin_"), _arrays(folder / "stream.npz", "seqout_")
    values = _arrays(folder / "stream.npz", "init_") | _arrays(folder / "stream.npz", "const_")
    (count,) = {len(frame) for frame in frames.values()}
    for k in range(count):
        results = session.run(values | {name: frame[k] for name, frame in frames.items()})
        for name, wanted in expected.items():
            _assert_close(f"{name} of frame {k}", results[name], wanted[k], case)
        values |= {name: results[output] for name, output in wiring.items()}
    for name, wanted in _arrays(folder / "stream.npz", "fin_").items():
        _assert_close(f"final {name}", values[name] if name in values else results[name], wanted, case)
    return count


@pytest.mark.parametrize(("case", "model"), _params("file", "refuse"))
def test_what_is_not_supported_is_refused_by_name(case, model):
    with pytest.raises(fastlstm.UnsupportedError) as refusal:
        fastlstm.convert(CASES / case["id"] / model)
    assert model in str(refusal.value)
    assert "not supported" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("case", "model"), _params("file", "fail"))
def test_what_cannot_run_raises_a_clear_error(case, model):
    folder = CASES / case["id"]
    with pytest.raises(fastlstm.FastLSTMError, match="length"):
        fastlstm.Session(fastlstm.convert(folder / model)).run(_arrays(folder / case["io"][0], "in_"))


# ---- layers of Keras's own tests ----------------------------------------------------------------------
def _one_state_cell(config: dict) -> layers.SimpleRNN:
    """Keras's test cell: h' = x kernel + h recurrent_kernel."""
    return layers.SimpleRNN(config["units"], activation="linear", use_bias=False, name=config["name"])


class _TwoStatesCell(layers.SimpleRNN):
    """Keras's test cell: a' = x K + a R1, b' = x K + b R2, output a' + b'. As one RNN: W = [K K], U = diag(R1, R2)."""

    states = 2
    roles = ("kernel", "recurrent_kernel_1", "recurrent_kernel_2")

    def run(self, x, initial, sequences):
        build, n = x.build, self.units
        K, R1, R2 = (self.weight(role) for role in self.roles)
        zero = np.zeros_like(R1)
        W = build.weight(f"{self.name}.W", np.concatenate([K, K], axis=1))
        U = build.weight(f"{self.name}.U", np.block([[R1, zero], [zero, R2]]))
        both = build.weight(f"{self.name}.both", np.concatenate([np.eye(n, dtype=K.dtype)] * 2))
        start = build.node(f"{self.name}/start", "Concat", initial, axis=-1) if initial else None
        options = {"batch_first": True, "activations": ("Identity",)}
        y, h = build.node(f"{self.name}/pair", "RNN", [x, W, U, None, start, x.mask], 2, **options)
        states = [self._half(h, k) for k in range(2)]
        last = build.node(f"{self.name}/last", "Add", states)
        return build.node(self.name, "MatMul", [y, both]), last, states

    def _half(self, h, k):
        bounds = [h.build.ints(f"{self.name}.cut", v) for v in (k * self.units, (k + 1) * self.units, -1)]
        return h.build.node(f"{self.name}/half", "Slice", [h, *bounds])


def _two_states_cell(config: dict) -> layers.SimpleRNN:
    return _TwoStatesCell(config["units"], use_bias=False, name=config["name"])


CUSTOM = {"OneStateRNNCell": _one_state_cell, "TwoStatesRNNCell": _two_states_cell}


def _layer_model(case: dict) -> tuple[fastlstm.Model, dict[str, np.ndarray]]:
    """Return the model of one layer, called as its case says, and its inputs."""
    folder = CASES / case["id"]
    document = json.loads((folder / "case.json").read_text())
    layer = layer_from_config(document["config"], Context("3", CUSTOM))
    weights = _arrays(folder / "io.npz", "w_")
    layer.set_weights([weights[str(k)].astype(np.float32) for k in range(len(weights))])
    arrays = {
        "x": _arrays(folder / "io.npz", "in_")["0"].astype(np.float32),
        **{f"mask{k}": m for k, m in _arrays(folder / "io.npz", "mask").items()},
    }
    states = _arrays(folder / "io.npz", "init_") or _arrays(folder / "io.npz", "state_before_")
    arrays |= {f"state{k}": state for k, state in states.items()}
    build = Build()
    tensors = {name: build.input(name, array.dtype.name, array.shape) for name, array in arrays.items()}
    initial = [tensors[f"state{k}"] for k in range(len(states))]
    given = {"initial_state": initial} if initial else {}
    y = layer(tensors["x"], mask=tensors.get("mask"), **given, **document["call_kwargs"])
    return build.model(list(y) if isinstance(y, tuple) else [y]), arrays


def _assert_literal(case: dict, outputs: list[np.ndarray]) -> None:
    """Compare outputs with the literal numbers of Keras's test."""
    folder = CASES / case["id"]
    atol = max(json.loads((folder / "case.json").read_text())["atol"], case["atol"])
    expected = _arrays(folder / "io.npz", "expected_out_")
    assert expected
    for k, wanted in expected.items():
        _assert_close(k, outputs[int(k)], wanted, {"atol": atol})


@pytest.mark.parametrize(("case", "_model"), _params("layer", "ok"))
def test_a_layer_gives_the_literal_numbers_of_kerass_own_test(case, _model):
    model, arrays = _layer_model(case)
    session = fastlstm.Session(model)
    results = session.run(arrays)
    _assert_literal(case, [results[spec.name] for spec in session.outputs])


# ---- what is told of them -----------------------------------------------------------------------------
@pytest.mark.parametrize("path", sorted(CASES.glob("[fkr]*/*.h*5")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_info_tells_what_every_keras_file_holds(path, capsys):
    h5py = pytest.importorskip("h5py")
    assert main(["info", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((path.parent / "case.json").read_text()).get("saved_by_keras", told["keras_version"])
    assert told["keras_version"] == written
    sizes: list[int] = []
    with h5py.File(path) as file:
        file.get("model_weights", file).visititems(
            lambda _, found: sizes.append(found.size) if isinstance(found, h5py.Dataset) else None
        )
    assert told["parameters"] == sum(layer["parameters"] for layer in told["layers"]) == sum(sizes)
    refused = [line for line in (told["refused"], *(layer["refused"] for layer in told["layers"])) if line]
    assert bool(refused) == ("model_config" not in h5py.File(path).attrs)
    assert main(["info", str(path)]) == 0
    assert all(layer["name"] in capsys.readouterr().out for layer in told["layers"][:1])


# ---- and on to Keras 3 --------------------------------------------------------------------------------
def _run_exported(keras, model: fastlstm.Model, arrays: dict[str, np.ndarray], path: Path) -> list[np.ndarray]:
    """Export a model, have Keras load it, and return what it gives."""
    model.export(path)
    found = keras.saving.load_model(path)([arrays[spec.name] for spec in model.graph.inputs], training=False)
    return [np.asarray(one) for one in (found if isinstance(found, list | tuple) else [found])]


@pytest.mark.parametrize(("case", "model"), [p for p in _params("file", "ok") if p.values[0]["kind"] != "onnx"])
@pytest.mark.filterwarnings("ignore")
def test_keras_3_gives_the_recorded_outputs_of_what_is_exported(case, model, keras, monkeypatch, tmp_path):
    converted, records = _convert(case, model, monkeypatch)
    specs, compared = fastlstm.Session(converted), 0
    for record in records:
        given = _named(_arrays(CASES / case["id"] / record, "in_"), specs.inputs, case)
        outputs = _run_exported(keras, converted, given, tmp_path / "exported.keras")
        for k, expected in _arrays(CASES / case["id"] / record, "out_").items():
            _assert_close(k, outputs[int(k)], expected, case)
            compared += 1
    assert compared


@pytest.mark.parametrize(("case", "_model"), _params("layer", "ok"))
@pytest.mark.filterwarnings("ignore")
def test_keras_3_gives_its_own_literal_numbers_from_an_exported_layer(case, _model, keras, tmp_path):
    model, arrays = _layer_model(case)
    _assert_literal(case, _run_exported(keras, model, arrays, tmp_path / "exported.keras"))


# ---- and on to ONNX -----------------------------------------------------------------------------------
def _needs_lengths(model: fastlstm.Model) -> bool:
    """Tell whether masks of the model's own have to become lengths."""
    from fastlstm.converters.to_onnx import to_onnx

    try:
        to_onnx(model)
    except fastlstm.UnsupportedError as error:
        return "right_padded=True" in str(error)  # else the export itself says what is refused
    return False


@pytest.mark.parametrize(("case", "model"), _params("file", "ok"))
def test_onnxruntime_agrees_with_what_is_exported_and_the_bits_are_the_same_when_it_is_read_again(
    case, model, monkeypatch
):
    pytest.importorskip("onnxruntime")
    from onnx_written import compare

    imported, records = _convert(case, model, monkeypatch)
    options = {"right_padded": True} if _needs_lengths(imported) else {}
    compared = 0
    for record in records:
        if record.startswith("io"):
            feeds = _named(_arrays(CASES / case["id"] / record, "in_"), imported.graph.inputs, case)
            compare(imported, feeds, atol=max(1e-5, case["atol"]), **options)
            compared += 1
    assert compared

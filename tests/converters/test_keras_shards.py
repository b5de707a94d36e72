"""Weights that Keras 3 wrote in several files: an index and the parts beside it are one model, from the folder that is named alone."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("pyfive")

import fastlstm
from fastlstm.cli import main
from fastlstm.converters._hdf5_writer import hdf5_bytes
from fastlstm.errors import FastLSTMError, InputError, ModelFileError, UnsupportedError

RNG = np.random.default_rng(3)
ARRAYS = {
    "layers/lstm/cell/vars/0": RNG.standard_normal((2, 12)).astype("f4"),
    "layers/lstm/cell/vars/1": RNG.standard_normal((3, 12)).astype("f4"),
    "layers/lstm/cell/vars/2": RNG.standard_normal(12).astype("f4"),
    "layers/dense/vars/0": RNG.standard_normal((3, 2)).astype("f4"),
    "layers/dense/vars/1": RNG.standard_normal(2).astype("f4"),
}
LAYERS = (
    ("InputLayer", {"name": "x", "batch_shape": [None, None, 2]}),
    ("LSTM", {"name": "lstm", "units": 3}),
    ("Dense", {"name": "dense", "units": 2}),
)
ARCHITECTURE = {
    "class_name": "Sequential", "config": {"name": "m", "layers": [{"class_name": name, "config": config} for name, config in LAYERS]},
}  # fmt: skip
X = RNG.standard_normal((2, 4, 2)).astype("f4")


@pytest.fixture
def index(tmp_path):
    """The path of an index; one layer's arrays lie in two files."""
    folder = tmp_path / "inside"
    folder.mkdir()
    paths = list(ARRAYS)
    for name, part in (("model_00000.weights.h5", paths[:2]), ("model_00001.weights.h5", paths[2:])):
        (folder / name).write_bytes(hdf5_bytes({path: ARRAYS[path] for path in part}))
    return write(
        folder,
        {
            "/layers/lstm/cell/vars": ["model_00000.weights.h5", "model_00001.weights.h5"],
            "/layers/dense/vars": "model_00001.weights.h5",
        },
    )


def write(folder, weight_map):
    path = folder / "model.weights.json"
    path.write_text(json.dumps({"metadata": {"total_size": 300.0}, "weight_map": weight_map}, indent=4))
    return path


def convert(path, folder=None):
    return fastlstm.convert(path, architecture=ARCHITECTURE, external_data=folder or path.parent)


def test_an_index_and_its_files_are_the_model_of_one_file(index, tmp_path):
    whole = tmp_path / "whole.weights.h5"
    whole.write_bytes(hdf5_bytes(ARRAYS))
    want = fastlstm.Session(fastlstm.convert(whole, architecture=ARCHITECTURE)).run(X)
    np.testing.assert_array_equal(fastlstm.Session(convert(index)).run(X), want)


def test_no_folder_no_other_file(index):
    with pytest.raises(
        UnsupportedError, match=r"model\.weights\.json: an index of weights in 2 files.*pass external_data="
    ):
        fastlstm.convert(index, architecture=ARCHITECTURE)
    with pytest.raises(ModelFileError, match="architecture="):
        fastlstm.convert(index, external_data=index.parent)
    with pytest.raises(InputError, match="external_data"):
        fastlstm.convert(next(index.parent.glob("*.h5")), architecture=ARCHITECTURE, external_data=index.parent)


@pytest.mark.parametrize(
    "name",
    ["../secret.h5", "/etc/passwd", "link.h5", "missing.h5", "", "..", 3, None, {}, ["model_00000.weights.h5", 2.5]],
)
def test_an_index_names_plain_files_of_the_folder(index, name):
    (index.parent.parent / "secret.h5").write_bytes(hdf5_bytes(ARRAYS))
    os.symlink(index.parent.parent / "secret.h5", index.parent / "link.h5")
    with pytest.raises(ModelFileError) as caught:
        convert(write(index.parent, {"/vars": name}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"weight_map"',
        '{"weight_map": 1}',
        '{"weight_map": {}}',
        '{"a": {"weight_map": {"x": "y"}}}',
        '{"weight_map": {}, "weight_map": {}}',
    ],
)
def test_a_damaged_index_is_one_clear_error(index, text):
    index.write_text(text)
    with pytest.raises(FastLSTMError) as caught:
        convert(index)
    assert str(index) in str(caught.value) and "\n" not in str(caught.value)


def test_an_array_in_two_files_is_refused(index):
    (index.parent / "model_00001.weights.h5").write_bytes(hdf5_bytes(ARRAYS))
    with pytest.raises(ModelFileError, match="lstm/cell/vars/0 is in two of its files"):
        convert(index)


def test_the_command_converts_an_index(index, tmp_path, capsys):
    (tmp_path / "architecture.json").write_text(json.dumps(ARCHITECTURE))
    command = [
        "convert",
        str(index),
        "--architecture",
        str(tmp_path / "architecture.json"),
        "-o",
        str(tmp_path / "out.safetensors"),
    ]
    assert main(command) == 1
    assert "--external-data" in capsys.readouterr().err
    assert main([*command, "--external-data", str(index.parent)]) == 0
    np.testing.assert_array_equal(
        fastlstm.Session(fastlstm.load(tmp_path / "out.safetensors")).run(X), fastlstm.Session(convert(index)).run(X)
    )
    assert main(["info", str(index)]) == 1
    assert "an index of weights in 2 files" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_what_keras_writes_in_shards(tmp_path):
    from differential_keras import engine

    pytest.importorskip("tensorflow")
    pytest.importorskip("keras")
    K = engine("keras")
    L = K.layers
    model = K.Sequential(
        [K.Input((None, 2)), L.LSTM(20, return_sequences=True), L.Bidirectional(L.GRU(10)), L.Dense(3)]
    )
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=8e3 / 2**30)
    assert len(list(tmp_path.glob("*.h5"))) > 1
    ours = fastlstm.convert(tmp_path / "model.weights.json", architecture=model.to_json(), external_data=tmp_path)
    np.testing.assert_allclose(fastlstm.Session(ours).run(X), np.asarray(model(X)), rtol=0, atol=1e-5)

"""What `fastlstm info` tells of a Keras file: all of it, also of one that a conversion refuses."""

import json

import numpy as np
import pytest

pytest.importorskip("pyfive")
pytest.importorskip("h5py")

from test_keras_file import h5_file, keras_file, layer, sequential

import fastlstm
from fastlstm.cli.describe import describe_keras, keras_as_text
from fastlstm.converters.keras_summary import summarize
from fastlstm.errors import ModelFileError

X = layer("InputLayer", "x", batch_shape=[None, 4, 3])


def told(config, weights=None):
    return summarize(h5_file(weights or {}, config, keras_version=b"2.9.0", backend=b"tensorflow"))


def test_every_refusal_is_told_not_only_the_first():
    parts = [
        layer("Lambda", "code", function=["4wA"]),
        layer("Dense", "dense", units=3, activation="secret", kernel_rank=2),
        layer("Conv1D", "conv", filters=2, kernel_size=1, data_format="channels_first"),
        layer("LayerNormalization", "norm", axis=-1, rms_scaling=True, mystery=7),
        layer("Dropout", "fine", rate=0.5),
    ]
    found = told(sequential(X, *parts))
    assert [one.path for one in found.layers if one.refused] == ["code", "dense", "conv", "norm"]
    reasons = "\n".join(describe_keras(found)["refused"])
    for words in (
        "'Lambda'",
        "'secret'",
        "data_format='channels_first'",
        "rms_scaling=True, mystery=7 are not supported",
    ):
        assert words in reasons
    assert "4wA" not in reasons


def test_what_no_single_layer_is_the_cause_of_is_told_too():
    one = layer("Dense", "d", units=2) | {"inbound_nodes": [[["d", 0, 0, {}]]]}
    config = layer("Functional", "net", layers=[X, one], input_layers=[["x", 0, 0]], output_layers=[["d", 0, 0]])
    found = told(config, {"d": {"k": np.ones((3, 2)), "b": np.ones(2)}})
    assert not any(one.refused for one in found.layers)
    assert found.refused is not None and "wait for each other" in found.refused


def test_versions_layers_shapes_and_parameters():
    inner = sequential(layer("Dense", "a", units=2, activation="linear"), name="inner")
    weights = {"inner": {"a/k": np.ones((3, 2)), "a/b": np.ones(2)}, "out": {"o/k": np.ones((2, 5)), "o/b": np.ones(5)}}
    found = told(sequential(X, inner, layer("Dense", "out", units=5, activation="tanh")), weights)
    assert (found.format, found.keras_version, found.backend, found.refused) == ("h5", "2.9.0", "tensorflow", None)
    shapes = {one.path: (one.class_name, one.shapes, one.parameters) for one in found.layers}
    assert shapes["inner/a"] == ("Dense", [(3, 2), (2,)], 8)
    assert shapes["out"] == ("Dense", [(2, 5), (5,)], 15)
    text = keras_as_text(describe_keras(found))
    assert "parameters     23" in text and "nothing: it converts" in text


def test_a_file_of_weights_alone_is_listed_without_an_architecture():
    data = h5_file({"lstm_1": {"lstm_1/kernel:0": np.ones((2, 12))}, "d": {}}, keras_version=b"2.1.5")
    found = summarize(data)
    assert [(one.path, one.shapes) for one in found.layers] == [("lstm_1", [(2, 12)]), ("d", [])]
    assert found.refused is not None and "architecture=" in found.refused
    whole = summarize(data, json.dumps(sequential(X, layer("LSTM", "lstm_1", units=3), layer("Flatten", "d"))))
    assert [one.class_name for one in whole.layers] == ["InputLayer", "LSTM", "Flatten"]


def test_the_stub_of_an_unknown_class_is_a_program_that_opens_the_file(tmp_path):
    """Filled in with the one line that it leaves open."""
    config = sequential(X, layer("Mine>Scaled", "mine", trainable=True, factor=2.0))
    data = keras_file({"layers/scaled/vars/0": np.full(3, 2, np.float32)}, config)
    (tmp_path / "model.keras").write_bytes(data)
    (stub,) = [one.stub for one in summarize(data).layers if one.stub]
    program = stub.replace("return ...", "return x * w0").replace(
        "fastlstm.convert(path", "model = fastlstm.convert(path"
    )
    names = {"fastlstm": fastlstm, "path": tmp_path / "model.keras"}
    exec(program, names)
    x = np.ones((1, 4, 3), np.float32)
    np.testing.assert_array_equal(fastlstm.Session(names["model"]).run(x), 2 * x)


def test_names_in_a_file_cannot_steer_a_terminal_or_the_stub():
    config = sequential(X, layer("A'); import os; (\x1b[31m", "b\nc\x1b", note="\x1b"))
    text = keras_as_text(describe_keras(told(config)))
    assert "\x1b" not in text
    assert "class Aimportos31m(" in text
    assert "b\\nc" in text


def test_damage_is_one_clear_error():
    data = h5_file({"d": {"k": np.ones(3)}}, sequential(layer("Dense", "d")))
    for cut in (9, len(data) // 2):
        with pytest.raises(ModelFileError):
            summarize(data[:cut])

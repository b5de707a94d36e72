"""Keras files: every kind and age gives the same weights in Keras's order; hostile ones end in one clear error."""

import io
import json
import os
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyfive")

from hostile_keras import mutated_text

import fastlstm
from fastlstm.converters.keras_file import read_keras_file, sniff
from fastlstm.errors import FastLSTMError, InputError, ModelFileError, UnsupportedError

CASES = Path(os.environ.get("FASTLSTM_CASES", Path(__file__).parents[3] / "shared" / "cases"))
FILES = sorted(path for pattern in ("*/*.h5", "*/*.hdf5", "*/*.keras") for path in CASES.glob(pattern))
PAIRS = [path for path in FILES if path.suffix == ".keras" and path.with_suffix(".h5") in FILES]
FULL_MODELS = [path for path in FILES if "pincelate" not in path.parent.name and "textgenrnn" not in path.parent.name]
MUTATIONS = int(os.environ.get("FASTLSTM_FUZZ", "300"))
needs_cases = pytest.mark.skipif(not FILES, reason="no folder of cases")


def case_id(path):
    return f"{path.parent.name}/{path.name}"


def architecture(path):
    """Return the architecture that lies beside a weights-only file of the cases."""
    names = {"infer-decoder": "architecture_decoder.json", "infer-encoder": "architecture_encoder.json"}
    beside = next((name for key, name in names.items() if key in path.name), "architecture.json")
    return None if path in FULL_MODELS else path.with_name(beside)


def layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def sequential(*layers, name="model"):
    return layer("Sequential", name, layers=list(layers))


def h5_file(weights, config=None, names=None, **attributes):
    """Return an .h5 file as Keras writes it: `weights` maps a layer to {weight name: array}."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        base = file if config is None else file.create_group("model_weights")
        base.attrs["layer_names"] = [name.encode() for name in names or weights]
        for name, arrays in weights.items():
            group = base.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight in arrays]
            for weight, array in arrays.items():
                group[weight] = array
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        for key, value in attributes.items():
            file.attrs[key] = value
    return buffer.getvalue()


def tree_file(weights, names=None):
    """Return a model.weights.h5: `weights` maps a path to an array, `names` a layer's path to its name."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers")
        for path, array in weights.items():
            file[path] = array
        for path, name in (names or {}).items():
            file.require_group(f"{path}/vars").attrs["name"] = name
    return buffer.getvalue()


def keras_zip(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return buffer.getvalue()


def keras_file(weights, config, names=None):
    members = {"metadata.json": {"keras_version": "3.9.2"}, "config.json": config}
    return keras_zip({**members, "model.weights.h5": tree_file(weights, names)})


def numbered(*shapes):
    return [np.random.default_rng(i).random(shape, "f4") for i, shape in enumerate(shapes)]


def same(found, expected):
    assert len(found) == len(expected)
    for (_, ours), theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def read_weights(data: bytes, **options: Any) -> None:
    file = read_keras_file(data, **options)
    for name in file.layer_names:
        file.layer_weights(name)


def refused(match: str, data: bytes, error: type[FastLSTMError] = ModelFileError, **options: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match) as caught:
            read_weights(data, **options)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + (64 << 20)
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def all_paths(layers, prefix=""):
    """Yield the path of every layer, inner ones too."""
    for inner in layers:
        config = inner["config"]
        yield prefix + config["name"]
        below = config.get("layers") or ([config["layer"]] if inner["class_name"] == "TimeDistributed" else [])
        yield from all_paths(below, f"{prefix}{config['name']}/")


# Real files


@needs_cases
@pytest.mark.parametrize("path", FILES, ids=case_id)
def test_every_real_file_is_read_and_no_weight_is_left(path):
    h5py = pytest.importorskip("h5py")
    file = read_keras_file(path, architecture(path))
    found = [array for name in file.layer_names for _, array in file.layer_weights(name)]
    data = path.read_bytes()
    kind = sniff(data)
    root = h5py.File(io.BytesIO(data if kind == "hdf5" else zipfile.ZipFile(path).read("model.weights.h5")))
    base = root.get("model_weights", root) if kind == "hdf5" else root["layers"]
    stored = []
    base.visititems(lambda name, item: stored.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(found) == len([name for name in stored if "seed_generator" not in name]) > 0
    assert file.format == (kind if kind == "keras-zip" else "h5" if path in FULL_MODELS else "h5-weights")
    assert int(file.keras_version.split(".")[0]) in (1, 2, 3)


@needs_cases
@pytest.mark.parametrize("path", PAIRS, ids=case_id)
def test_one_model_saved_both_ways_gives_equal_lists(path):
    zipped, plain = read_keras_file(path), read_keras_file(path.with_suffix(".h5"))
    assert zipped.layer_names == plain.layer_names
    for inner in all_paths(zipped.config["config"]["layers"]):
        same(zipped.layer_weights(inner), [array for _, array in plain.layer_weights(inner)])


@needs_cases
@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".keras"], ids=case_id)
def test_weights_are_those_that_keras_loads(path):
    keras = pytest.importorskip("keras")
    file = read_keras_file(path)
    for expected in keras.saving.load_model(path, compile=False).layers:
        same(file.layer_weights(expected.name), expected.get_weights())


def nested_model(keras):
    """Return a model with every container: nested models in models, wrappers, stacked cells, frozen layers."""
    layers = keras.layers
    inner = keras.Sequential(
        [layers.LSTM(3, return_sequences=True), layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(4)],
        name="inner",
    )
    given = keras.Input((5, 4))
    x = layers.GRU(3, return_sequences=True, trainable=False)(given)
    x = layers.Dense(4)(layers.LayerNormalization()(x))
    x = keras.Sequential([layers.Dense(4), layers.BatchNormalization()], name="middle")(x)
    outer = keras.Model(given, layers.Dense(4)(x), name="outer")
    per_step = keras.Sequential([layers.Dense(6), layers.BatchNormalization(), layers.Dense(4)], name="per_step")
    given = keras.Input((5,))
    x = layers.Embedding(7, 3)(given)
    x = outer(inner(layers.Dense(4)(x)))
    x = layers.TimeDistributed(per_step)(layers.TimeDistributed(layers.Dense(4))(x))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, dropout=0.1))(x)
    x = layers.RNN([layers.GRUCell(3), layers.LSTMCell(4), layers.GRUCell(2)], return_sequences=True)(x)
    x = layers.Bidirectional(layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)], return_sequences=True))(x)
    x = layers.Conv1D(4, 2)(layers.SimpleRNN(3, return_sequences=True)(x))
    x = layers.AdditiveAttention()([layers.MultiHeadAttention(2, 3)(x, x), x])
    model = keras.Model(given, layers.LSTM(4)(layers.PReLU()(x)))
    for i, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(i).random(tuple(weight.shape)))
    return model


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_nested_models_wrappers_and_cells_keep_the_order_of_keras(package, tmp_path):
    keras = pytest.importorskip(package)
    model = nested_model(keras)
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    files = [
        read_keras_file(tmp_path / "model.keras"),
        read_keras_file(tmp_path / "model.h5"),
        read_keras_file(tmp_path / "model.weights.h5", model.to_json()),
    ]
    assert [file.format for file in files] == ["keras-zip", "h5", "h5-weights"]

    def compare(layers, prefix=""):
        for expected in layers:
            path = prefix + expected.name
            inner = getattr(expected, "layers", None)
            wrapped = getattr(expected, "layer", None) if type(expected).__name__ == "TimeDistributed" else None
            if inner or wrapped:
                compare(inner or [wrapped], f"{path}/")
            flat = weights_in_order(wrapped or expected)
            for file in files:
                same(file.layer_weights(path), flat)

    def weights_in_order(expected):
        inner = getattr(expected, "layers", None)
        if inner:
            return [array for child in inner for array in weights_in_order(child)]
        variables = [v for v in [*expected.trainable_weights, *expected.non_trainable_weights] if "seed" not in v.name]
        return [np.asarray(variable) for variable in variables]

    compare(model.layers)


# .h5


def test_order_of_weight_names_is_the_order():
    kernel, bias = numbered((2, 3), (3,))
    data = h5_file({"d": {"d/z:0": kernel, "d/a:0": bias}}, sequential(layer("Dense", "d")))
    found = read_keras_file(data).layer_weights("d")
    assert [name for name, _ in found] == ["d/z:0", "d/a:0"]
    same(found, [kernel, bias])


def test_bare_list_of_layers_becomes_a_sequential_in_nested_models_too():
    inner = {"class_name": "Sequential", "config": [layer("Dense", "a"), layer("Dense", "b")]}
    config = {"class_name": "Sequential", "config": [inner, layer("Dense", "c")]}
    one, two, three = numbered(1, 2, 3)
    data = h5_file({"s": {"a/k": one, "b/k": two}, "c": {"c/k": three}}, config)
    file = read_keras_file(data)
    assert file.config == sequential(
        sequential(layer("Dense", "a"), layer("Dense", "b"), name="s"), layer("Dense", "c")
    ) | {"config": {"layers": file.config["config"]["layers"]}}
    same(file.layer_weights("s/b"), [two])
    same(file.layer_weights("c"), [three])


def test_version_is_1_where_the_file_says_nothing():
    config = sequential(layer("Dense", "d"))
    assert read_keras_file(h5_file({"d": {}}, config)).keras_version == "1"
    file = read_keras_file(h5_file({"d": {}}, config, keras_version=b"2.2.4-tf", backend="tensorflow"))
    assert (file.keras_version, file.backend) == ("2.2.4-tf", "tensorflow")


def test_names_split_over_several_attributes_are_joined():
    h5py = pytest.importorskip("h5py")
    arrays = dict(zip("abc", numbered(1, 2, 3), strict=True))
    data = io.BytesIO(h5_file({name: {"k": array} for name, array in arrays.items()}))
    with h5py.File(data, "a") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"a", b"b"], [b"c"]
    file = read_keras_file(data.getvalue(), sequential(*(layer("Dense", name) for name in "abc")))
    for name, array in arrays.items():
        same(file.layer_weights(name), [array])


def test_trainable_weights_listed_first_go_back_to_their_layers():
    names = ["in/n/gamma:0", "in/d/kernel:0", "in/n/mean:0"]
    arrays = numbered(1, 2, 3)
    config = sequential(sequential(layer("BatchNormalization", "n"), layer("Dense", "d"), name="in"))
    file = read_keras_file(h5_file({"in": dict(zip(names, arrays, strict=True))}, config))
    same(file.layer_weights("in/n"), [arrays[0], arrays[2]])
    same(file.layer_weights("in"), [arrays[0], arrays[2], arrays[1]])


def test_weights_that_name_no_inner_layer_are_refused_not_guessed():
    config = sequential(sequential(layer("Dense", "a"), layer("Dense", "b"), name="in"))
    refused("'x/kernel' could be of 0 layers of 'in'", h5_file({"in": {"x/kernel": np.ones(1)}}, config))


def test_weights_only_file_asks_for_its_architecture():
    data = h5_file({"d": {"d/k": np.ones(3)}})
    refused("weights only.*architecture=", data)
    text = json.dumps({**sequential(layer("Dense", "d")), "keras_version": "2.1.5"})
    file = read_keras_file(data, text)
    assert (file.format, file.keras_version) == ("h5-weights", "2.1.5")
    same(file.layer_weights("d"), [np.ones(3)])


def test_architecture_from_a_path_text_or_data_is_the_same(tmp_path):
    config = sequential(layer("Dense", "d"))
    (tmp_path / "a.json").write_text(json.dumps(config))
    data = h5_file({"d": {"d/k": np.ones(3)}})
    for given in (config, json.dumps(config), tmp_path / "a.json", str(tmp_path / "a.json")):
        assert read_keras_file(data, given).config == config


def test_layers_numbered_anew_are_matched_by_position_and_other_counts_refused():
    one, two = numbered(1, 2)
    data = h5_file({"lstm_7": {"k": one}, "dense_9": {"k": two}})
    file = read_keras_file(data, sequential(layer("InputLayer", "i"), layer("LSTM", "lstm"), layer("Dense", "dense")))
    same(file.layer_weights("lstm"), [one])
    same(file.layer_weights("dense"), [two])
    refused("has the layers 'dense_9', 'lstm_7'", data, architecture=sequential(layer("LSTM", "lstm")))


def test_weight_listed_but_absent_is_refused():
    h5py = pytest.importorskip("h5py")
    data = io.BytesIO(h5_file({"d": {"d/k": np.ones(3)}}, sequential(layer("Dense", "d"))))
    with h5py.File(data, "a") as file:
        del file["model_weights/d/d/k"]
    refused("weight 'd/d/k' is listed but not in the file", data.getvalue())


def test_unknown_layer_name_lists_what_exists():
    file = read_keras_file(h5_file({"d": {}}, sequential(layer("Dense", "d"))))
    for name in ("e", "d/e", ""):
        with pytest.raises(InputError, match="no layer"):
            file.layer_weights(name)


# .keras


def test_layers_of_one_class_are_counted_in_model_order():
    arrays = numbered(1, 2, 3)
    paths = ["layers/p_re_lu/vars/0", "layers/p_re_lu_1/vars/0", "layers/dense/vars/0"]
    config = sequential(layer("PReLU", "z"), layer("Dense", "m"), layer("PReLU", "a"))
    file = read_keras_file(keras_file(dict(zip(paths, arrays, strict=True)), config))
    for name, array in zip("zam", arrays, strict=True):
        same(file.layer_weights(name), [array])


def test_names_in_the_file_decide_over_the_count():
    arrays = numbered(1, 2)
    paths = ["layers/dense/vars/0", "layers/dense_1/vars/0"]
    names = {"layers/dense": "b", "layers/dense_1": "a"}
    config = sequential(layer("Dense", "a"), layer("Dense", "b"))
    file = read_keras_file(keras_file(dict(zip(paths, arrays, strict=True)), config, names))
    same(file.layer_weights("a"), [arrays[1]])


def test_variables_are_ordered_as_numbers():
    arrays = numbered(*range(1, 13))
    weights = {f"layers/dense/vars/{i}": array for i, array in enumerate(arrays)}
    same(read_keras_file(keras_file(weights, sequential(layer("Dense", "d")))).layer_weights("d"), arrays)


def test_cells_of_different_classes_keep_the_order_of_the_configuration():
    arrays = numbered(1, 2, 3)
    cells = [layer("LSTMCell", "x"), layer("GRUCell", "y"), layer("LSTMCell", "z")]
    paths = ["lstm_cell", "gru_cell", "lstm_cell_1"]
    weights = {f"layers/rnn/cell/cells/{path}/vars/0": array for path, array in zip(paths, arrays, strict=True)}
    config = sequential(layer("RNN", "r", cell=layer("StackedRNNCells", "s", cells=cells)))
    same(read_keras_file(keras_file(weights, config)).layer_weights("r"), arrays)


def test_forward_comes_before_backward_and_random_state_is_left_out():
    one, two = numbered(1, 2)
    base = "layers/bidirectional"
    weights = {f"{base}/backward_layer/cell/vars/0": two, f"{base}/forward_layer/cell/vars/0": one}
    weights[f"{base}/forward_layer/cell/seed_generator/vars/0"] = np.ones(2, np.uint32)
    config = sequential(layer("Bidirectional", "b", layer=layer("LSTM", "l")))
    same(read_keras_file(keras_file(weights, config)).layer_weights("b"), [one, two])


def test_files_of_tensorflow_2_13_with_gaps_in_the_count_are_read():
    arrays = numbered(1, 2)
    names = ["dense", "dense_2"]
    paths = [f"_layer_checkpoint_dependencies/{name}/vars/0" for name in names]
    file = read_keras_file(
        keras_file(dict(zip(paths, arrays, strict=True)), sequential(layer("Dense", "a"), layer("Dense", "b")))
    )
    same(file.layer_weights("a"), [arrays[0]])
    same(file.layer_weights("b"), [arrays[1]])


def test_parts_of_unknown_order_are_refused():
    weights = {"layers/mine/up/vars/0": np.ones(1), "layers/mine/down/vars/0": np.ones(1)}
    refused("parts of unknown order", keras_file(weights, sequential(layer("Mine", "m"))), UnsupportedError)


# What a file is


def test_bytes_decide_what_a_file_is_not_its_name(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(h5_file({"d": {"d/k": np.ones(3)}}, sequential(layer("Dense", "d"))))
    assert read_keras_file(path).format == read_keras_file(str(path)).format == "h5"
    assert sniff(b"\x08\x07onnx") is None and sniff(b"") is None
    refused("no Keras file", b"\x08\x07onnx")


def test_saved_model_folder_says_how_to_save_again(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UnsupportedError, match=r"SavedModel.*save"):
        read_keras_file(tmp_path)


def test_archive_of_a_saved_model_says_so_too(tmp_path):
    refused(
        "SavedModel.*save", keras_zip({"m/saved_model.pb": b"", "m/variables/variables.index": b""}), UnsupportedError
    )


def test_subclassed_model_is_refused_by_name():
    config = {"class_name": "MyNet", "config": {}}
    refused("'MyNet'", h5_file({"d": {}}, config), UnsupportedError)


@pytest.mark.parametrize("weights", ["model.weights.npz", "model.weights.json"])
def test_pickled_and_sharded_weights_are_refused(weights):
    refused(weights, keras_zip({"config.json": sequential(), weights: b""}), UnsupportedError)


@pytest.mark.parametrize(
    "config",
    ['{"class_name": "Sequential", "class_name": "Model"}', "[" * 70 + "]" * 70, "[" * 100_000, "[" + "0," * 300_000],
    ids=["key twice", "deep", "very deep", "many"],
)
def test_hostile_json_is_refused(config):
    members = {"config.json": config.encode(), "model.weights.h5": tree_file({})}
    refused("JSON", keras_zip(members, compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-be"])
def test_json_in_other_encodings_is_refused(encoding):
    config = json.dumps(sequential(layer("Dense", "d"))).encode(encoding)
    refused("not valid JSON", keras_zip({"config.json": config, "model.weights.h5": tree_file({})}))


@pytest.mark.parametrize("config", [{}, [1], 3, {"class_name": "Sequential", "config": {"layers": [{"config": 1}]}}])
def test_malformed_configurations_are_refused(config):
    refused("class_name|layers", keras_zip({"config.json": config, "model.weights.h5": tree_file({})}), FastLSTMError)


# Hostile archives


def test_zip_bomb_is_refused_by_its_declared_sizes():
    data = keras_zip({"config.json": b" " * (1 << 25)}, compression=zipfile.ZIP_DEFLATED)
    refused("would unpack to", data)


def test_zip_bomb_that_lies_about_its_size_is_not_unpacked():
    config = json.dumps(sequential()).encode()
    members = {"config.json": config + b" " * (1 << 28), "model.weights.h5": bytes(1 << 20), "pad": os.urandom(1 << 16)}
    data = keras_zip(members, compression=zipfile.ZIP_DEFLATED)
    size = len(members["config.json"]).to_bytes(4, "little")
    refused("Bad CRC|declared", data.replace(size, len(config).to_bytes(4, "little")))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:/x", "..\\x"])
def test_zip_members_that_lead_out_are_refused(name):
    refused("leads out of the archive", keras_zip({"config.json": sequential(), name: b""}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_members_twice_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("config.json", "[]")
    refused("is there twice", buffer.getvalue())


def test_encrypted_and_oddly_packed_members_are_refused():
    data = bytearray(keras_zip({"config.json": sequential()}))
    data[data.find(b"PK\x01\x02") + 8] |= 1
    refused("encrypted", bytes(data))
    refused("unknown way", keras_zip({"config.json": sequential()}, compression=zipfile.ZIP_BZIP2))


def test_many_zip_members_are_refused():
    refused("more than 10000 members", keras_zip({str(i): b"" for i in range(10_001)}))


@pytest.mark.parametrize("percent", range(0, 100, 3))
def test_truncated_files_are_refused(percent):
    config = sequential(layer("Dense", "d"))
    for data in (
        keras_file({"layers/dense/vars/0": np.ones(30)}, config),
        h5_file({"d": {"d/k": np.ones(30)}}, config),
    ):
        refused(".", data[: len(data) * percent // 100])


@pytest.mark.parametrize("part", ["config.json", "metadata.json", "model.weights.h5", None])
def test_mutated_archive_gives_weights_or_our_error(part):
    rng = random.Random(3)
    config = sequential(
        sequential(layer("Dense", "a"), layer("Dense", "b"), name="in"),
        layer("Bidirectional", "b", layer=layer("RNN", "r", cell=layer("StackedRNNCells", "s", cells=[]))),
    )
    weights = {"layers/sequential/layers/dense/vars/0": np.ones(3), "layers/bidirectional/vars/0": np.ones(2)}
    whole = keras_file(weights, config)
    members = {
        name: zipfile.ZipFile(io.BytesIO(whole)).read(name) for name in zipfile.ZipFile(io.BytesIO(whole)).namelist()
    }
    for _ in range(MUTATIONS):
        old = mutated_text(members[part] if part else whole, rng)
        try:
            read_weights(keras_zip({**members, part: old}) if part else old)
        except FastLSTMError as error:
            assert "\n" not in str(error)


# What it costs


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_converting_takes_less_memory_than_three_times_the_file(kind, tmp_path):
    """4 MB of weights: the file is held once, and the model's arrays."""
    weights = numbered((400, 1280), (320, 1280), (1280,), (320, 160), (160,))
    lstm, dense = weights[:3], weights[3:]
    config = sequential(
        layer("InputLayer", "x", batch_shape=[None, None, 400]),
        layer("LSTM", "lstm", units=320),
        layer("Dense", "dense", units=160),
    )
    if kind == "keras":
        paths = {f"layers/lstm/cell/vars/{k}": array for k, array in enumerate(lstm)}
        data = keras_file(paths | {f"layers/dense/vars/{k}": array for k, array in enumerate(dense)}, config)
    else:
        stored = {"lstm": dict(zip("abc", lstm, strict=True)), "dense": dict(zip("ab", dense, strict=True))}
        data = h5_file(stored, config, keras_version=b"2.9.0")
    path = tmp_path / f"model.{kind}"
    path.write_bytes(data)
    fastlstm.convert(path)  # imports what there is to import
    tracemalloc.start()
    try:
        model = fastlstm.convert(path)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * len(data)
    finally:
        tracemalloc.stop()
    assert model.parameters == sum(array.size for array in weights)

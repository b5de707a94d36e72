"""Exported Keras files: Keras 3 loads them and gives the same outputs; what Keras lacks is refused by node and name."""

import io
import json
import os
import zipfile

import naive
import numpy as np
import pytest
from conftest import CASES

pytest.importorskip("pyfive")

import fastlstm
from fastlstm import layers
from fastlstm.converters._hdf5 import open_hdf5
from fastlstm.converters._hdf5_writer import hdf5_bytes
from fastlstm.converters.to_keras import keras_bytes
from fastlstm.errors import FastLSTMError, UnsupportedError
from fastlstm.layers import Build

FULL = os.environ.get("FASTLSTM_FULL", "") not in ("", "0")
RNG = np.random.default_rng(17)


def values(*shape):
    return (0.5 * RNG.standard_normal(shape)).astype(np.float32)


def draw(session, batch=3, steps=5):
    """Return inputs of a model by name, a few steps of zeros among them."""
    made = {}
    for spec in session.inputs:
        shape = [batch if k == 0 else d if isinstance(d, int) else steps for k, d in enumerate(spec.shape)]
        whole = len(shape) == 2 and spec.shape[1] == "time"  # ids, even where an old file says float
        made[spec.name] = RNG.integers(0, 3, shape).astype(spec.dtype) if whole else values(*shape).astype(spec.dtype)
        if len(shape) == 3:
            made[spec.name][0, 1] = made[spec.name][-1, -1] = 0
    return made


def agree(model, engine, path):
    """Export, load with Keras 3, and compare the outputs of both."""
    session = fastlstm.Session(model)
    model.export(path)
    theirs = engine.saving.load_model(path)
    for batch, steps in ((3, 5), (1, 4)):
        given = draw(session, batch, steps)
        ours = session.run(given)
        found = theirs([given[spec.name] for spec in session.inputs], training=False)
        for spec, want in zip(session.outputs, found if isinstance(found, list | tuple) else [found], strict=True):
            np.testing.assert_allclose(ours[spec.name], np.asarray(want), rtol=1e-5, atol=1e-5, err_msg=spec.name)


# ---- models built here ----------------------------------------------------------------------------------
def sequential(*parts, shape=(None, 3)):
    network = fastlstm.Sequential([fastlstm.Input(shape), *parts])
    rng = np.random.default_rng(3)
    network.set_weights([0.5 * rng.standard_normal(array.shape) + (array.ndim == 1) for array in network.get_weights()])
    return network.to_model()


def functional(make, *shapes, dtype="float32"):
    inputs = [fastlstm.Input(shape, dtype=dtype, name=f"x{k}") for k, shape in enumerate(shapes)]
    return fastlstm.models.Model(inputs, make(*inputs)).to_model()


def shared(x):
    cell = layers.LSTM(4, return_sequences=True)
    return layers.Dense(2)(cell(layers.Dense(3)(cell(layers.Dense(3)(x)))))


def encoder_decoder(x, z):
    _, h, c = layers.LSTM(4, return_state=True)(x)
    return layers.LSTM(4, return_sequences=True)(z, initial_state=[h, c])


MODELS = {
    "lstm": lambda: sequential(layers.LSTM(4), layers.Dropout(0.5), layers.Dense(2, activation="softmax")),
    "gru": lambda: sequential(layers.GRU(5, return_sequences=True), layers.GRU(3, reset_after=False), layers.Dense(1)),
    "many lstms, in another order": lambda: functional(
        lambda x: [layers.Dense(2)(layers.LSTM(2)(layers.LSTM(3, return_sequences=True)(x))), layers.LSTM(4)(x), layers.LSTM(5, go_backwards=True)(x)], (None, 3)
    ),
    "rnn": lambda: sequential(layers.SimpleRNN(4, activation="relu", use_bias=False), layers.Dense(3, "gelu", use_bias=False)),
    "bidirectional": lambda: sequential(layers.Bidirectional(layers.LSTM(3, return_sequences=True)), layers.Bidirectional(layers.GRU(2), "ave")),
    "masking": lambda: sequential(
        layers.Masking(), layers.LSTM(4, return_sequences=True), layers.Bidirectional(layers.GRU(3, return_sequences=True)), layers.LSTM(2), layers.Dense(2)
    ),
    "backwards": lambda: sequential(layers.GRU(4, return_sequences=True, go_backwards=True), layers.LSTM(3)),
    "states": lambda: functional(lambda x: layers.LSTM(4, return_sequences=True, return_state=True)(x), (None, 3)),
    "encoder and decoder": lambda: functional(encoder_decoder, (None, 3), (None, 2)),
    "shared layers": lambda: functional(shared, (None, 4)),
    "embedding": lambda: functional(
        lambda x: layers.Dense(2)(layers.Bidirectional(layers.LSTM(3))(layers.Embedding(5, 4, mask_zero=True)(x))), (None,), dtype="int32"
    ),
    "convolution": lambda: sequential(
        layers.Conv1D(4, 3, padding="causal", activation="leaky_relu"), layers.Conv1D(2, 2, dilation_rate=2, padding="same"), layers.GRU(3)
    ),
    "normalised": lambda: sequential(layers.LayerNormalization(), layers.LSTM(4, return_sequences=True), layers.BatchNormalization(), layers.LeakyReLU(0.3)),
    "shapes": lambda: functional(
        lambda x: layers.Concatenate()([layers.Permute((2, 1))(x)[:, 1:, ::2], layers.Reshape((3, 4))(layers.RepeatVector(4)(x[:, -1]))[:, 1:]]), (6, 3)
    ),
    "arithmetic": lambda: functional(lambda x, z: [layers.Add()([x, z * 2.0]) / 3.0, layers.Average()([x, z]), layers.Maximum()([x, -z])], (None, 3), (None, 3)),
    "pooled windows": lambda: functional(
        lambda x: [layers.MaxPooling1D(2)(x), layers.MaxPooling1D(3, 1, "same")(x), layers.MaxPooling1D(2, padding="same")(x), layers.AveragePooling1D(3, 2)(x),
                   layers.AveragePooling1D(2, padding="same")(x), layers.ZeroPadding1D((1, 2))(x), layers.LSTM(2)(layers.MaxPooling1D(2)(x))], (7, 3)
    ),
    "pooled": lambda: sequential(layers.Masking(), layers.GlobalAveragePooling1D()),
    "attention": lambda: functional(lambda x, z: layers.Attention()([x, z]), (None, 3), (None, 3)),
    "attention of several heads, to the past": lambda: functional(
        lambda x: layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True), (None, 4)
    ),
    "images over time": lambda: sequential(
        layers.TimeDistributed(layers.Conv2D(4, (3, 2), padding="same", strides=(2, 1), activation="relu")), layers.TimeDistributed(layers.DepthwiseConv2D(2)),
        layers.TimeDistributed(layers.MaxPooling2D((1, 2), padding="same")), layers.TimeDistributed(layers.ZeroPadding2D(((1, 0), (0, 2)))),
        layers.TimeDistributed(layers.AveragePooling2D((2, 3), strides=1)), layers.TimeDistributed(layers.Flatten()), layers.GRU(3), shape=(None, 7, 6, 2)
    ),
    "words over sentences": lambda: functional(
        lambda x: layers.LSTM(2)(layers.TimeDistributed(layers.Bidirectional(layers.GRU(3)))(x)), (None, 5, 3)
    ),
    "convolved states": lambda: functional(
        lambda x: layers.ConvLSTM2D(2, 2, return_sequences=True, recurrent_activation="hard_sigmoid")(x), (3, 5, 4, 2)
    ),
    "depthwise, separable, upsampled": lambda: sequential(
        layers.DepthwiseConv1D(2, depth_multiplier=2), layers.SeparableConv1D(3, 2, padding="causal"), layers.UpSampling1D(2), layers.UpSampling1D(1), layers.ThresholdedReLU(0.2),
        layers.Cropping1D((1, 0)),
    ),
    "float64": lambda: sequential(layers.LSTM(4, dtype="float64"), layers.Dense(2, dtype="float64")),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_keras_gives_the_same_outputs(name, keras, tmp_path):
    agree(MODELS[name](), keras, tmp_path / "exported.keras")


@pytest.mark.filterwarnings("ignore")
def test_a_mask_that_a_layer_does_not_see_here_is_not_handed_to_it_by_keras(keras, tmp_path):
    """Keras hands masks on by itself: to a layer called with none here, such as what reads a value whose mask an attention took off."""
    build = Build()
    x = layers.Masking()(build.input("x", "float32", ("batch", "time", 3)))
    cells = [layers.LSTM(4, return_sequences=True), layers.Dense(4), layers.GRU(3), layers.GRU(3)]
    for cell, size in zip(cells, (3, 4, 4, 4), strict=True):
        cell.make_weights((None, None, size), "float32")
    y = cells[1](cells[0](x))
    agree(build.model([cells[2](y.with_mask(None)), cells[3](y)]), keras, tmp_path / "exported.keras")


@pytest.mark.filterwarnings("ignore")
def test_hard_sigmoid_of_keras_2_keeps_its_slope(keras, tmp_path):
    """Keras 3 has another one: the weights before it are scaled."""
    old = ("HardSigmoid", 0.2, 0.5)
    model = sequential(
        layers.LSTM(4, recurrent_activation=old, return_sequences=True), layers.GRU(3, recurrent_activation=old, return_sequences=True),
        layers.GRU(3, recurrent_activation=old, reset_after=False, return_sequences=True), layers.Dense(2, activation=old), layers.Activation(old),
    )  # fmt: skip
    agree(model, keras, tmp_path / "exported.keras")


@pytest.mark.filterwarnings("ignore")
def test_random_models_of_keras_come_back_or_are_refused_by_node(keras, tmp_path):
    import random_keras

    made = 0
    kinds = list(random_keras.KINDS)
    for seed in range(len(kinds) * (20 if FULL else 2)):
        net = random_keras.draw(keras, np.random.default_rng([seed, 23]), kinds[seed % len(kinds)])
        net.model.save(tmp_path / "given.keras")
        try:
            model = fastlstm.convert(tmp_path / "given.keras")
            model.export(tmp_path / "exported.keras")
        except UnsupportedError as error:
            assert "node '" in str(error) or "layer '" in str(error), str(error)
            continue
        session, theirs = fastlstm.Session(model), keras.saving.load_model(tmp_path / "exported.keras")
        arrays = net.draw(3, net.steps or 5)
        random_keras.forget_states(net.model)
        found = theirs(arrays, training=False)
        for want, got in zip(
            random_keras.outputs_of(net, arrays), found if isinstance(found, list | tuple) else [found], strict=True
        ):
            if np.isfinite(want).all():
                wide = want.astype(np.float64)
                assert np.all(np.abs(np.asarray(got) - wide) <= 1e-5 * np.maximum(1, np.abs(wide))), net.about
        made += bool(session)
    assert made > len(kinds)


# ---- files that people hold ------------------------------------------------------------------------------
OLD = (
    "keras_predmaint_binary/model.h5",
    "keras_ethnicolr_wiki_name/model.h5",
    "keras_shakkala_bigru/model.h5",
    "rtneural_gru/model.h5",
)


@pytest.mark.parametrize("case", OLD)
@pytest.mark.filterwarnings("ignore")
def test_an_old_file_becomes_one_that_keras_3_loads(case, keras, tmp_path):
    if not (CASES / case).exists():
        pytest.skip("the folder of real cases is absent")
    agree(fastlstm.convert(CASES / case), keras, tmp_path / "new.keras")


# ---- without Keras --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["lstm", "gru", "many lstms, in another order", "rnn", "shared layers", "float64"])
def test_what_was_exported_converts_back_to_the_same_bits(name, tmp_path):
    model = MODELS[name]()
    model.export(tmp_path / "exported.keras")
    again = fastlstm.convert(tmp_path / "exported.keras")
    given = draw(fastlstm.Session(model))
    ours, theirs = (fastlstm.Session(one) for one in (model, again))
    for a, b in zip(ours.run(given).values(), theirs.run(given).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert keras_bytes(model) == keras_bytes(model)


@pytest.mark.parametrize("name", sorted(MODELS.keys()))
def test_what_was_exported_reads_back_with_the_functions_that_it_holds(name, tmp_path):
    model = MODELS[name]()
    model.export(tmp_path / "exported.keras")
    again = fastlstm.Session(fastlstm.convert(tmp_path / "exported.keras"))
    given = draw(fastlstm.Session(model))
    for a, b in zip(fastlstm.Session(model).run(given).values(), again.run(given).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_networks_save_as_keras_files_by_their_suffix_and_load_again(tmp_path):
    network = fastlstm.Sequential([fastlstm.Input((None, 2)), layers.LSTM(3), layers.Dense(1)])
    x = values(2, 4, 2)
    want = network.predict(x, verbose=0)
    for name in ("saved.keras", "saved.safetensors"):
        network.save(tmp_path / name)
        assert zipfile.is_zipfile(tmp_path / name) == name.endswith(".keras")
        loaded = fastlstm.models.load_model(tmp_path / name)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)
    loaded.compile("sgd", "mse")
    loaded.fit(x, values(2, 1), verbose=0)
    loaded.save(tmp_path / "trained.keras")
    moved = fastlstm.models.load_model(tmp_path / "trained.keras").predict(x, verbose=0)
    np.testing.assert_array_equal(moved, loaded.predict(x, verbose=0))
    assert not np.array_equal(moved, want)


def test_narrow_weights_are_written_as_the_float32_that_they_stand_for(tmp_path):
    model = MODELS["lstm"]()
    narrow = model.narrowed("float16")
    narrow.export(tmp_path / "exported.keras")
    again = fastlstm.convert(tmp_path / "exported.keras")
    W = next(array for name, array in again.weights.items() if name.endswith(".W") and array.shape[1] == 16)
    stored = next(array for name, array in narrow.weights.items() if name.endswith(".W") and array.shape[1] == 16)
    np.testing.assert_array_equal(W, stored.astype(np.float32))


def refusal(build, *outputs):
    with pytest.raises(UnsupportedError) as caught:
        keras_bytes(build.model(list(outputs)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_keras_lacks_is_refused_by_node_and_name():
    def lstm(*extra, **attributes):
        build = Build()
        x = build.input("x", "float32", ("batch", "time", 2))
        arrays = [build.weight(name, values(*shape)) for name, shape in (("W", (2, 12)), ("U", (3, 12)), ("b", (12,)))]
        return build, build.node(
            "cell",
            "LSTM",
            [x, *arrays, None, None, *(build.weight("P", a) for a in extra)],
            batch_first=True,
            **attributes,
        )

    build, y = lstm(values(3, 3))
    assert "node 'cell' (LSTM): P (peepholes)" in refusal(build, y)
    for attributes, words in (
        ({"clip": 3.0}, "clip=3.0"),
        ({"input_forget": True}, "input_forget=True"),
        ({"activations": ("Sigmoid", "Tanh", "Relu")}, "an activation of c"),
        ({"activations": ("Affine", "Tanh", "Tanh")}, "the activation Affine"),
    ):
        build, y = lstm(**attributes)
        assert f"node 'cell' (LSTM): {words}" in refusal(build, y)
    build = Build()
    y = build.node("counted", "Shape", [build.input("x", "float32", ("batch", 2))])
    assert "node 'counted': Shape is not supported in a Keras file, only 'Abs'" in refusal(build, y)
    build = Build()
    x = build.input("x", "float32", ("batch", 2))
    y = build.node("after", "Cast", [build.node("counted", "Shape", [x])], to="float32")
    told = refusal(build, y, build.node("divided", "Mod", [x, x]))
    assert "'counted'" in told and "'divided'" in told and "'after'" not in told  # all, but not what follows from them
    build = Build()
    build.input("x", "float32", ("batch", 2))
    assert "output 'one' is a constant" in refusal(build, build.weight("one", values(2)))


def test_an_export_that_is_refused_leaves_the_old_file(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"old")
    build = Build()
    y = build.node("counted", "Shape", [build.input("x", "float32", ("batch", 2))])
    with pytest.raises(FastLSTMError):
        build.model([y]).export(tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_bytes() == b"old"


def test_the_numbers_of_an_exported_file_are_those_of_the_oracle(tmp_path):
    """Not only those that our own reader finds: the archive is read here by its format alone."""
    W, U, b = values(2, 9), values(3, 9), values(9)
    build = Build()
    x = build.input("x", "float32", ("batch", "time", 2))
    arrays = [build.weight(name, array) for name, array in (("W", W), ("U", U), ("b", b), ("bn", values(3)))]
    h = build.node("gru", "GRU", [x, *arrays], [False, True], batch_first=True)[1]
    archive = zipfile.ZipFile(io.BytesIO(keras_bytes(build.model([h]))))
    config = json.loads(archive.read("config.json"))["config"]
    (gru,) = (one for one in config["layers"] if one["class_name"] == "GRU")
    assert gru["config"]["reset_after"] and not gru["config"]["return_sequences"]
    h5py = pytest.importorskip("h5py")
    found = h5py.File(io.BytesIO(archive.read("model.weights.h5")))["layers/gru/cell/vars"]
    kernel, recurrent, bias = (found[str(k)][()] for k in range(3))
    x = values(2, 5, 2)
    bn = build.weights["bn"]
    _, want = naive.gru(x.swapaxes(0, 1), W, U, b, bn)
    merged = np.concatenate([bias[0, :6] + bias[1, :6], bias[0, 6:]])
    _, got = naive.gru(x.swapaxes(0, 1), kernel, recurrent, merged, bias[1, 6:])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


# ---- the HDF5 that is written ----------------------------------------------------------------------------
def test_written_arrays_read_back_and_as_h5py_reads_them():
    h5py = pytest.importorskip("h5py")
    arrays = {
        f"layers/l_{i}/vars/{k}": np.asarray(RNG.random((k + 1,) * k)).astype("f4" if i % 2 else "f8")
        for i in range(30)
        for k in range(4)
    }
    arrays["a/empty"] = np.zeros((0, 3), np.float32)
    data = hdf5_bytes(arrays)
    ours, theirs = open_hdf5(data, "x.h5"), h5py.File(io.BytesIO(data))
    stored = []
    theirs.visititems(lambda name, item: stored.append(name) if isinstance(item, h5py.Dataset) else None)
    assert sorted(stored) == sorted(arrays)
    for path, array in arrays.items():
        *folders, name = path.split("/")
        group = ours
        for folder in folders:
            group = group.groups[folder]
        for found in (group.datasets[name].read(), theirs[path][()]):
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    with pytest.raises(ValueError, match="int64"):
        hdf5_bytes({"x": np.arange(3)})

"""Keras files: the outputs of Keras 3 and of tf_keras (Keras 2), or a refusal that names the layer; never a wrong number.

Engines that are not installed are skipped; files made by hand and the oracle do the rest. FASTLSTM_FULL=1 runs larger samples.
"""

import contextlib
import io
import json
import os
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest

pytest.importorskip("pyfive")
pytest.importorskip("h5py")

import differential_keras
import random_keras
from differential_keras import assert_close, compare, engine
from hostile import Watch
from hostile_keras import mutated_config, rezipped
from random_keras import KINDS, MASK_VALUE
from test_keras_file import h5_file, keras_file, layer, sequential

import fastlstm
from fastlstm import layers
from fastlstm.converters.from_keras import from_keras
from fastlstm.converters.keras_layers import Context, layer_from_config
from fastlstm.errors import FastLSTMError, UnsupportedError
from fastlstm.layers import Build

FULL = os.environ.get("FASTLSTM_FULL", "") not in ("", "0")
Array = np.ndarray
RNG = np.random.default_rng(5)


def values(*shape: int) -> Array:
    return (0.5 * RNG.standard_normal(shape)).astype(np.float32)


# ---- against the engines ------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def K(request):  # noqa: N802
    """The engine: Keras 3, and Keras 2 as tf_keras."""
    pytest.importorskip("tensorflow")
    pytest.importorskip(request.param)
    return engine(request.param)


@pytest.fixture
def save(tmp_path) -> Callable[[Any, str], Path]:
    def write(model: Any, kind: str) -> Path:
        path = tmp_path / f"model.{kind}"
        model.save(path)
        return path

    return write


def agree(net: random_keras.Net, path: Path) -> None:
    """Convert a file and compare with the model that was saved, for several batch sizes and lengths."""
    differential_keras.agree(net, fastlstm.convert(path), path.suffix)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_random_models_agree_or_are_refused_by_name(K, kind, tmp_path):
    share, refused = KINDS[kind][0], Counter()
    count = share * (20 if FULL else 3 if random_keras.is_keras3(K) else 1)
    for seed in range(count):
        if why := compare(K, kind, seed, tmp_path):
            refused[why] += 1
    assert refused.total() <= 1 + count // 4, refused


@pytest.mark.filterwarnings("ignore")
def test_masks_computed_in_a_functional_model_are_honoured(K, save):
    """Keras 3 writes them as operations between the layers, Keras 2 not at all."""
    L = K.layers
    x = K.Input((None, 2))
    y = L.Masking(MASK_VALUE)(x)
    z = L.Concatenate()([y, L.LSTM(3, return_sequences=True)(y)])
    net = random_keras.Net(
        K.Model(x, [L.Dense(2)(z), L.Bidirectional(L.GRU(4))(z)]),
        lambda b, t: [random_keras.features(RNG, 2, True)(b, t)],
    )
    random_keras.randomise(K, net.model, RNG)
    for kind in ("keras", "h5"):
        agree(net, save(net.model, kind))


@pytest.mark.filterwarnings("ignore")
def test_initial_states_with_an_implicit_mask(K, save):
    """Keras 3 drops an implicit mask where a call has initial states; Keras 2 keeps it."""
    L = K.layers
    x, h = K.Input((None, 2)), K.Input((3,))
    y = L.Masking(MASK_VALUE)(x)
    out = L.GRU(3, return_sequences=True)(y, initial_state=h)
    net = random_keras.Net(
        K.Model([x, h], [out, L.LSTM(4)(out)]), lambda b, t: [random_keras.features(RNG, 2, True)(b, t), values(b, 3)]
    )
    random_keras.randomise(K, net.model, RNG)
    for kind in ("keras", "h5"):
        agree(net, save(net.model, kind))


@pytest.mark.filterwarnings("ignore")
def test_steps_stay_fixed_where_padding_depends_on_their_number(K, save):
    L = K.layers
    model = K.Sequential([K.Input((8, 2)), L.Conv1D(3, 3, strides=2, padding="same"), L.LSTM(2)])
    session = fastlstm.Session(fastlstm.convert(save(model, "keras")))
    assert session.inputs[0].shape == ("batch", 8, 2)
    with pytest.raises(FastLSTMError, match="8"):
        session.run(values(1, 9, 2))
    free = K.Sequential([K.Input((8, 2)), L.Conv1D(3, 3, padding="same"), L.LSTM(2)])
    session = fastlstm.Session(fastlstm.convert(save(free, "keras")))
    assert session.inputs[0].shape == ("batch", "time", 2)


@pytest.mark.filterwarnings("ignore")
def test_hard_sigmoid_is_that_of_the_engine_that_wrote_the_file(K, save):
    L = K.layers
    model = K.Sequential(
        [
            K.Input((None, 2)),
            L.LSTM(3, recurrent_activation="hard_sigmoid", return_sequences=True),
            L.Activation("hard_sigmoid"),
        ]
    )
    net = random_keras.Net(model, lambda b, t: [3 * values(b, t, 2)])
    random_keras.randomise(K, model, RNG)
    for kind in ("keras", "h5"):
        agree(net, save(model, kind))


@pytest.mark.filterwarnings("ignore")
def test_a_model_shared_by_two_others(K, save):
    """An .h5 file holds its weights twice; a .keras file once, which is refused rather than guessed."""
    L = K.layers
    inner = K.Sequential([K.Input((None, 3)), L.Dense(3)], name="inner")
    parts = []
    for k in range(2):
        i = K.Input((None, 3))
        parts.append(K.Model(i, L.GRU(2)(inner(i)), name=f"part{k}"))
    x = K.Input((None, 3))
    net = random_keras.Net(K.Model(x, [part(x) for part in parts]), lambda b, t: [values(b, t, 3)])
    random_keras.randomise(K, net.model, RNG)
    agree(net, save(net.model, "h5"))
    with pytest.raises(UnsupportedError, match=r"layer 'part1/inner/dense.*shar"):
        fastlstm.convert(save(net.model, "keras"))


@pytest.mark.filterwarnings("ignore")
def test_outputs_and_inputs_in_a_dict(K, save):
    L = K.layers
    a, b = K.Input((None, 3), name="b"), K.Input((None, 3), name="a")
    model = K.Model({"one": a, "two": b}, {"z": L.Dense(2, name="first")(a), "y": L.GRU(4, name="second")(b)})
    random_keras.randomise(K, model, RNG)
    u, v = values(2, 4, 3), values(2, 4, 3)
    want = model({"one": u, "two": v}, training=False)
    results = fastlstm.Session(fastlstm.convert(save(model, "keras"))).run({"b": u, "a": v})
    assert_close(results["first"], np.asarray(want["z"]))
    (last,) = (name for name in results if name.startswith("second"))
    assert_close(results[last], np.asarray(want["y"]))


REFUSED: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "lambda": (lambda L: L.Lambda(lambda x: x), ("Lambda",)),
    "conv transposed": (lambda L: L.Conv1DTranspose(2, 2), ("Conv1DTranspose",)),
    "dtype": (lambda L: L.LSTM(2, dtype="mixed_float16"), ("dtype='mixed_float16'",)),
    "activation": (lambda L: L.LSTM(2, activation="softmax"), ("softmax",)),
    "channels_first": (lambda L: L.Conv1D(2, 1, data_format="channels_first"), ("data_format='channels_first'",)),
    "conv data_format": (lambda L: L.MaxPooling1D(data_format="channels_first"), ("data_format='channels_first'",)),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_honoured_is_refused_by_layer_key_and_value(K, name, save):
    make, words = REFUSED[name]
    try:
        model = K.Sequential([K.Input((4, 3)), make(K.layers)])
    except (ValueError, TypeError) as error:
        pytest.skip(f"the engine cannot build it: {error}")
    for kind in ("keras", "h5"):
        with pytest.raises(UnsupportedError) as caught:
            fastlstm.convert(save(model, kind))
        assert all(word in str(caught.value) for word in ("layer '", *words)), str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_training_behaviour_at_inference_is_refused(K, save):
    x = K.Input((4, 3))
    for made in (K.layers.Dropout(0.5), K.layers.BatchNormalization()):
        with pytest.raises(UnsupportedError, match=f"'{made.name}' is called with training=True"):
            fastlstm.convert(save(K.Model(x, made(x, training=True)), "keras"))


@pytest.mark.filterwarnings("ignore")
def test_a_class_of_ones_own_with_a_name_of_kerass_is_refused(K, save):
    register = getattr(K, "saving", K.utils).register_keras_serializable

    @register("Mine")
    class LSTM(K.layers.LSTM):
        """Not the layer of that name."""

    model = K.Sequential([K.Input((4, 3)), LSTM(2)])
    for kind in ("keras", "h5"):
        with pytest.raises(UnsupportedError, match="Mine>LSTM"):
            fastlstm.convert(save(model, kind))


@pytest.mark.filterwarnings("ignore")
def test_operations_between_layers_agree_or_are_refused_by_name(K, save):
    if not random_keras.is_keras3(K):
        pytest.skip("Keras 2 writes them as TFOpLambda, which is refused by class")
    x = K.Input((None, 3))
    y = K.layers.Dense(3)(x)
    parts = [
        x + y,
        2.0 - y,
        x * y / 3.0,
        y[:, -1],
        y[:, 1:, :2],
        K.ops.relu(y),
        K.ops.concatenate([x, y], axis=1),
        K.ops.softmax(y, axis=1),
        K.ops.expand_dims(y, 2),
    ]
    net = random_keras.Net(K.Model(x, parts), lambda b, t: [values(b, t, 3)])
    random_keras.randomise(K, net.model, RNG)
    for kind in ("keras", "h5"):
        agree(net, save(net.model, kind))
    with pytest.raises(UnsupportedError, match=r"operation 'log_softmax.*': 'LogSoftmax'"):
        fastlstm.convert(save(K.Model(x, K.ops.log_softmax(x)), "keras"))


@pytest.mark.filterwarnings("ignore")
def test_a_one_hot_before_a_recurrent_layer_agrees(K, save):
    """Ids out of range among them, of which nothing is on."""
    if not random_keras.is_keras3(K):
        pytest.skip("Keras 2 writes operations as TFOpLambda, which is refused by class")
    x = K.Input((None,), dtype="int32")
    hot = K.ops.one_hot(x, 5)
    parts = [K.layers.GRU(4)(hot), K.layers.Dense(3)(hot), K.ops.one_hot(x, 3, axis=1)]
    net = random_keras.Net(K.Model(x, parts), lambda b, t: [RNG.integers(-3, 9, (b, t), "int32")])
    random_keras.randomise(K, net.model, RNG)
    for kind in ("keras", "h5"):
        agree(net, save(net.model, kind))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adapted", [False, True])
def test_texts_become_the_numbers_that_the_engine_gave(K, save, adapted):
    tensorflow = pytest.importorskip("tensorflow")
    texts = ["The cat sat, and sat.", "a dog!", "", "Zebras  ran\taway É é"]
    layer = K.layers.TextVectorization(output_sequence_length=4, vocabulary=None if adapted else ["cat", "É", "sat"])
    if adapted:
        layer.adapt(texts[:2])
    x = K.Input((1,), dtype="string")
    model = K.Model(x, K.layers.GRU(3)(K.layers.Embedding(12, 2, mask_zero=True)(layer(x))))
    converted = fastlstm.convert(save(model, "keras"))
    (vocabulary,) = fastlstm.text.vocabularies(converted).values()
    given = np.array(texts, object)[:, None]
    assert_close(vocabulary(texts), np.asarray(layer(tensorflow.constant(given))))
    assert_close(
        fastlstm.Session(converted).run(vocabulary(texts)), model.predict(tensorflow.constant(given), verbose=0)
    )


# ---- without them --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "class_name",
    [
        "Dropout",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
        "GaussianDropout",
        "GaussianNoise",
        "AlphaDropout",
    ],
)
def test_what_only_training_draws_is_nothing_at_inference(class_name):
    """Keras 3 writes how dropouts over images lay out their input."""
    spatial = {"data_format": "channels_last"} if class_name[-2:] in ("2D", "3D") else {}
    config = {"name": "drop", "rate": 0.3, "stddev": 0.1, "seed": None, "noise_shape": None, **spatial}
    made = layer_from_config({"class_name": class_name, "config": config}, Context("3.15.1", {}))
    x = Build().input("x", "float32", ("batch", 5, 4, 2))
    assert made(x).name == x.name


# ---- files made by hand -------------------------------------------------------------------------------
def options(**more: Any) -> dict[str, Any]:
    return {"trainable": True, "dtype": "float32", **more}


def input_layer(*shape: Any, dtype: str = "float32", name: str = "x") -> dict[str, Any]:
    return layer("InputLayer", name, batch_shape=[None, *shape], dtype=dtype)


def one_layer(class_name: str, *shape: Any, **config: Any) -> dict[str, Any]:
    return sequential(input_layer(*shape), layer(class_name, "it", **options(**config)))


def lstm_weights(I: int = 2, H: int = 3) -> list[Array]:
    return [values(I, 4 * H), values(H, 4 * H), values(4 * H)]


def cell_file(weights: list[Array], snake: str = "lstm") -> dict[str, Array]:
    return {f"layers/{snake}/cell/vars/{k}": array for k, array in enumerate(weights)}


@pytest.mark.parametrize(("version", "slope"), [("2.2.4-tf", 0.2), ("2.15.0", 0.2), ("3.0.0", 1 / 6), ("3.9.2", 1 / 6)])
def test_hard_sigmoid_has_the_slope_of_the_files_version(version, slope):
    W, U, b = lstm_weights()
    config = one_layer(
        "LSTM", None, 2, units=3, activation="tanh", recurrent_activation="hard_sigmoid", return_sequences=True
    )
    names = [f"it/it/lstm_cell/{role}:0" for role in ("kernel", "recurrent_kernel", "bias")]
    data = h5_file({"it": dict(zip(names, (W, U, b), strict=True))}, config, keras_version=version)
    x = 3 * values(2, 5, 2)
    hard, tanh = ("HardSigmoid", slope, 0.5), naive.TANH
    want, *_ = naive.lstm(x.swapaxes(0, 1), W, U, b, activations=(hard, tanh, tanh))
    assert_close(fastlstm.Session(from_keras(data)).run(x), want.swapaxes(0, 1))


@pytest.mark.parametrize("after", [False, True])
def test_reset_after_chooses_the_network_and_the_layout_of_the_bias(after):
    W, U, b = values(2, 9), values(3, 9), values(*((2, 9) if after else (9,)))
    config = one_layer("GRU", None, 2, units=3, activation="tanh", recurrent_activation="sigmoid", reset_after=after)
    x = values(2, 5, 2)
    merged, bn = (np.concatenate([b[0, :6] + b[1, :6], b[0, 6:]]), b[1, 6:]) if after else (b, np.zeros(3))
    _, want = naive.gru(x.swapaxes(0, 1), W, U, merged, bn, reset="after" if after else "before")
    assert_close(fastlstm.Session(from_keras(keras_file(cell_file([W, U, b], "gru"), config))).run(x), want)


WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (one_layer("Lambda", 2, function={"class_name": "__lambda__", "config": {"code": "4wAAAA=="}}), ("'it'", "Lambda")),
    (
        one_layer("Dense", 2, units=2, activation={"module": "os", "class_name": "function", "config": "system"}),
        ("'it'", "system"),
    ),
    (one_layer("Dense", 2, units=2, kernel_rank=3), ("'it'", "Dense", "kernel_rank=3")),
    (one_layer("Dense", 2, units=2, dtype="mixed_float16"), ("'it'", "dtype='mixed_float16'")),
    (
        one_layer("Dense", 2, units=2, dtype={"class_name": "DTypePolicy", "config": {"name": "bfloat16"}}),
        ("'it'", "bfloat16"),
    ),
    (one_layer("LSTM", None, 2, units=3, time_major=True), ("'it'", "LSTM", "time_major=True")),
    (one_layer("os.system", 2, command="true"), ("'it'", "'os.system'")),
    (one_layer("Mine>Dense", 2, units=2), ("'it'", "'Mine>Dense'")),
    (one_layer("BatchNormalization", 2, axis=[1, 2]), ("'it'", "BatchNormalization", "axis=[1, 2]")),
    (one_layer("RNN", None, 2, cell=layer("ConvLSTMCell", "c")), ("ConvLSTMCell",)),
    (one_layer("Bidirectional", None, 2, layer=layer("Dense", "d", units=2)), ("'it'", "Bidirectional(Dense)")),
]


@pytest.mark.parametrize(
    ("config", "words"),
    WRONG,
    ids=lambda part: part["config"]["layers"][1]["class_name"] if isinstance(part, dict) else "",
)
def test_a_configuration_that_is_not_honoured_is_refused_by_name(config, words):
    with pytest.raises(UnsupportedError) as caught:
        from_keras(keras_file({"layers/dense/vars/0": values(2, 2), "layers/dense/vars/1": values(2)}, config))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_merging_masked_inputs_follows_the_version_or_is_refused():
    parts = [input_layer(None, 2, name=n) for n in ("a", "b")]
    masks = [
        layer("Masking", f"m{n}", **options(mask_value=0.0)) | {"inbound_nodes": [[[n, 0, 0, {}]]]} for n in ("a", "b")
    ]
    joined = layer("Multiply", "it", **options()) | {"inbound_nodes": [[["ma", 0, 0, {}], ["mb", 0, 0, {}]]]}
    config = layer(
        "Functional",
        "net",
        layers=[*parts, *masks, joined],
        input_layers=[["a", 0, 0], ["b", 0, 0]],
        output_layers=[["it", 0, 0]],
    )
    a, b = np.array([[[2, 3], [0, 0], [0, 0]]], "f4"), np.array([[[5, 7], [4, 6], [0, 0]]], "f4")
    wanted = {"2.15.0": [[10, 21], [0, 0], [0, 0]], "3.3.3": None, "3.4.0": [[10, 21], [4, 6], [0, 0]]}
    for version, want in wanted.items():
        data = h5_file({"ma": {}, "mb": {}, "it": {}}, config, keras_version=version)
        if want is None:
            with pytest.raises(UnsupportedError, match=r"'it' .Multiply.: masked inputs"):
                from_keras(data)
        else:
            (product,) = fastlstm.Session(from_keras(data)).run({"a": a, "b": b}).values()
            assert product[0].tolist() == want


# ---- custom classes -----------------------------------------------------------------------------------
class Doubling(layers.Layer):
    """Twice the input."""

    def call(self, x):
        return x.build.node(self.name, "Add", [x, x])


def test_a_builder_makes_the_layer_of_a_class_of_ones_own(tmp_path):
    seen = {}

    def builder(config):
        seen.update(config)
        return Doubling(config["name"])

    path = tmp_path / "model.keras"
    path.write_bytes(keras_file({"layers/dense/vars/0": values(2, 2)}, one_layer("Mine>Twice", 2, factor=2)))
    with pytest.raises(UnsupportedError, match=r"custom=\{'Mine>Twice': builder\}"):
        fastlstm.convert(path)
    model = fastlstm.convert(path, custom={"Mine>Twice": builder})
    assert seen["factor"] == 2 and seen["name"] == "it"
    assert fastlstm.Session(model).run(np.array([[1, 2]], "f4")).tolist() == [[2, 4]]


def test_a_builder_may_return_a_layer_with_weights_and_stand_for_a_cell(tmp_path):
    W, U = values(2, 3), values(3, 3)
    config = one_layer("RNN", None, 2, cell=layer("MinimalCell", "c", units=3), return_sequences=False)
    path = tmp_path / "model.keras"
    path.write_bytes(keras_file({"layers/rnn/cell/vars/0": W, "layers/rnn/cell/vars/1": U}, config))
    custom = {"MinimalCell": lambda c: layers.SimpleRNN(c["units"], "linear", use_bias=False, name=c["name"])}
    x = values(2, 4, 2)
    _, want = naive.rnn(x.swapaxes(0, 1), W, U, np.zeros(3), activations=[("Identity", None, None)])
    assert_close(fastlstm.Session(fastlstm.convert(path, custom=custom)).run(x), want)


# ---- hostile files ------------------------------------------------------------------------------------
@pytest.fixture
def watch():
    Watch.begin()
    Watch.events.clear()
    yield Watch
    Watch.armed = False


def test_nothing_runs_and_nothing_else_is_opened(watch, tmp_path, demo_models):
    """Not by classes, functions or code that a configuration names, in any place that can name one."""
    evil = [
        {"module": "os", "class_name": "function", "config": "system", "registered_name": "function"},
        {"class_name": "__lambda__", "config": {"code": "4wEA", "defaults": None, "closure": None}},
    ]
    configs = [config for config, _ in WRONG]
    for value in evil:
        configs += [
            one_layer("Dense", 2, units=2, **{key: value})
            for key in ("activation", "kernel_initializer", "dtype", "kernel_constraint")
        ]
        configs += [
            one_layer("LSTM", None, 2, units=3, recurrent_activation=value),
            one_layer("TimeDistributed", 3, 2, layer=value),
        ]
        configs += [
            one_layer("RNN", None, 2, cell=value),
            sequential(input_layer(2), {**layer("Dense", "it"), "config": value}),
        ]
    weights = {"layers/dense/vars/0": values(2, 2), "layers/dense/vars/1": values(2)}
    paths = [demo_models / "sunspots.keras"]
    for k, config in enumerate(configs):
        paths.append(tmp_path / f"{k}.keras")
        paths[-1].write_bytes(keras_file(weights, config))

    def load(path: Path) -> None:
        with contextlib.suppress(FastLSTMError):
            fastlstm.convert(path)

    for path in paths:  # what is imported once is imported before
        load(path)
    for path in paths:
        watch.armed = True
        load(path)
        watch.armed = False
        # a number is the handle of what was opened by its path before
        others = [event for event in watch.events if event[1] != (str(path),) and not isinstance(event[1][0], int)]
        assert not others, f"{path.name}: {others[:5]}"
        watch.events.clear()


def functional_config() -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a functional model of several kinds of layers as Keras 3 writes it, and its weights."""

    def call(*names: str, **arguments: Any) -> list[dict[str, Any]]:
        keys = [
            {"class_name": "__keras_tensor__", "config": {"shape": [None, None, 2], "keras_history": [n, 0, 0]}}
            for n in names
        ]
        return [{"args": [keys if len(keys) > 1 else keys[0]], "kwargs": arguments}]

    parts = [
        input_layer(None, 2),
        layer("Masking", "m", **options(mask_value=0.0)) | {"inbound_nodes": call("x")},
        layer("Bidirectional", "bi", **options(layer=layer("LSTM", "f", **options(units=3, activation="tanh", return_sequences=True)), merge_mode="concat")) | {"inbound_nodes": call("m")},
        layer("TimeDistributed", "td", **options(layer=layer("Dense", "d", **options(units=6, activation="relu")))) | {"inbound_nodes": call("bi")},
        layer("Add", "sum", **options()) | {"inbound_nodes": call("bi", "td")},
        layer("RNN", "rnn", **options(cell=layer("StackedRNNCells", "s", cells=[layer("GRUCell", "g", **options(units=2, reset_after=True)), layer("SimpleRNNCell", "r", **options(units=4))]))) | {"inbound_nodes": call("sum")},
        layer("BatchNormalization", "bn", **options(axis=-1, epsilon=0.01)) | {"inbound_nodes": call("rnn")},
    ]  # fmt: skip
    for part in parts:
        part["name"] = part["config"]["name"]
    config = layer(
        "Functional", "net", trainable=True, layers=parts, input_layers=[["x", 0, 0]], output_layers=[["bn", 0, 0]]
    )
    weights = {}
    for way in ("forward_layer", "backward_layer"):
        weights |= {f"layers/bidirectional/{way}/cell/vars/{k}": a for k, a in enumerate(lstm_weights())}
    weights |= {"layers/time_distributed/layer/vars/0": values(6, 6), "layers/time_distributed/layer/vars/1": values(6)}
    cells = "layers/rnn/cell/cells"
    weights |= {f"{cells}/gru_cell/vars/{k}": a for k, a in enumerate((values(6, 6), values(2, 6), values(2, 6)))}
    weights |= {f"{cells}/simple_rnn_cell/vars/{k}": a for k, a in enumerate((values(2, 4), values(4, 4), values(4)))}
    weights |= {f"layers/batch_normalization/vars/{k}": np.abs(values(4)) + 1 for k in range(4)}
    return config, weights


@pytest.mark.parametrize("source", ["bundled", "functional"])
def test_garbage_in_a_configuration_ends_in_our_errors_or_a_model(source, demo_models):
    if source == "bundled":
        data = (demo_models / "sunspots.keras").read_bytes()
        config = json.loads(zipfile.ZipFile(io.BytesIO(data)).read("config.json"))
    else:
        config, weights = functional_config()
        data = keras_file(weights, config)
    good = from_keras(data)
    assert fastlstm.Session(good).run(values(2, 12, 1 if source == "bundled" else 2)).shape[0] == 2
    rng, made = random.Random(1), 0
    for count in range(10000 if FULL else 250):
        changed = mutated_config(config, rng)
        try:
            model = (
                from_keras(data, changed)
                if count % 2 and isinstance(changed, dict)
                else from_keras(rezipped(data, config__json=json.dumps(changed).encode()))
            )
            session = fastlstm.Session(model)
            session.run(
                {
                    s.name: np.zeros([d if isinstance(d, int) and d < 50 else 3 for d in s.shape or ()], s.dtype)
                    for s in session.inputs
                }
            )
            made += 1
        except FastLSTMError:
            continue
    assert made


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"class_name": "Sequential"},
        {"class_name": "Functional", "config": {"layers": []}},
        sequential(),
        5,
        "text",
        None,
    ],
)
def test_a_configuration_that_is_none_is_a_clear_error(config):
    with pytest.raises(FastLSTMError):
        from_keras(keras_file({"layers/dense/vars/0": values(2, 2)}, config))

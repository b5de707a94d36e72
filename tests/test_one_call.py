"""One call into compiled code per run, for the models that people train: each is built as in a tutorial, run and counted."""

from collections.abc import Callable

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.graph import Node
from fastlstm.layers import Build, Tensor

RNG = np.random.default_rng(0)
FEATURES, WORDS = 5, 40


def known(layer: layers.Layer, features: int = 0) -> layers.Layer:
    """Give a layer random weights; `features` are those of its input, where its weights' shapes do not say."""
    shapes = layer.weight_shapes()
    draw = lambda role: np.abs(RNG.standard_normal([d or features for d in shapes.get(role, (features,))])).astype("f4")
    if isinstance(layer, layers.Bidirectional):
        for part in (layer.forward, layer.backward):
            known(part, features)  # type: ignore[arg-type]
    elif isinstance(layer, layers.TimeDistributed):
        known(layer.layer, features)
    else:
        layer.set_weights([draw(role) for role in layer.roles])
    return layer


def both(kind: type, units: int, merge: str = "concat", **options) -> layers.Bidirectional:
    return layers.Bidirectional(kind(units, **options), merge, backward_layer=kind(units, go_backwards=True, **options))  # type: ignore[arg-type]


def sentiment(x: Tensor) -> Tensor:
    x = known(layers.Embedding(WORDS, 8, mask_zero=True))(x)
    x = known(layers.LSTM(16), 8)(layers.Identity()(x))
    return known(layers.Dense(1, "sigmoid"), 16)(x)


def tagger(x: Tensor) -> Tensor:
    x = known(layers.Embedding(WORDS, 8, mask_zero=True))(x)
    x = known(both(layers.LSTM, 11, return_sequences=True), 8)(x)
    return known(layers.TimeDistributed(layers.Dense(7, "softmax")), 22)(x)


def text_generator(x: Tensor) -> Tensor:
    x = known(layers.Embedding(WORDS, 8))(x)
    x = known(layers.GRU(16, return_sequences=True), 8)(x)
    x = known(layers.GRU(16, return_sequences=True, reset_after=False), 16)(x)
    return known(layers.Dense(WORDS, "softmax"), 16)(x)


def forecast(x: Tensor) -> Tensor:
    x = known(layers.LSTM(24, return_sequences=True), FEATURES)(x)
    return known(layers.Dense(1), 16)(known(layers.LSTM(16), 24)(x))


def gappy_series(x: Tensor) -> Tensor:
    x = known(layers.LSTM(9), FEATURES)(layers.Masking(-1.0)(x))
    return known(layers.Dense(3, "relu"), 9)(x)


def convolved(x: Tensor) -> Tensor:
    x = known(layers.Conv1D(8, 3, padding="causal", activation="relu"), FEATURES)(x)
    x = layers.Activation("elu")(known(layers.BatchNormalization(), 8)(x))
    return known(layers.Dense(2, "tanh"), 9)(known(layers.SimpleRNN(9), 8)(x))


def residual(x: Tensor) -> Tensor:
    y = known(both(layers.GRU, FEATURES, "sum", return_sequences=True), FEATURES)(layers.Masking()(x))
    z = known(layers.LayerNormalization(), FEATURES)(layers.Add()([x, y]))
    return known(layers.GRU(4), FEATURES)(layers.Multiply()([z, layers.Average()([y, layers.Maximum()([z, y])])]))


def autoencoder(x: Tensor) -> Tensor:
    code, h, c = known(layers.LSTM(6, return_state=True), FEATURES)(x)
    y = known(layers.LSTM(6, return_sequences=True), 6)(layers.RepeatVector(4)(code), initial_state=[h, c])
    return known(layers.TimeDistributed(layers.Dense(FEATURES)), 6)(y)


def two_ways(x: Tensor) -> Tensor:
    a = known(both(layers.LSTM, 4, "mul"), FEATURES)(x)
    b = known(both(layers.SimpleRNN, 4, "ave"), FEATURES)(x)
    return known(layers.Dense(2, "gelu"), 8)(layers.Concatenate()([a, b]))


TUTORIALS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    f"{function.__name__} {dtype}": (function, dtype)
    for function, dtype in (
        (sentiment, "int32"), (tagger, "int32"), (text_generator, "int32"), (sentiment, "float32"), (forecast, "float32"),
        (gappy_series, "float32"), (convolved, "float32"), (residual, "float32"), (autoencoder, "float32"), (two_ways, "float32"),
    )
}  # fmt: skip
EMBEDS = (sentiment, tagger, text_generator)


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_run_of_a_tutorials_model_is_one_call(name):
    call, dtype = TUTORIALS[name]
    shape = ("batch", "time") if call in EMBEDS else ("batch", "time", FEATURES)
    build = Build()
    session = fastlstm.Session(build.model([call(build.input("x", dtype, shape))]))
    for B, T in ((1, 1), (1, 12), (7, 5), (40, 9)):
        x = RNG.integers(0, WORDS, (B, T)) if call in EMBEDS else RNG.standard_normal((B, T, FEATURES))
        feeds = {"x": x.astype(session.inputs[0].dtype)}
        assert programs.numpy_steps(session, feeds) == []
        assert programs.is_one_call(session, feeds)
        assert all(np.isfinite(y).all() for y in session.run(feeds).values())


def _cell_by_hand() -> fastlstm.Model:
    """An LSTM cell of single operators, as PyTorch exports LSTMCell."""
    H = 6
    ws = {"W": RNG.standard_normal((4 * H, 3)).astype("f4"), "U": RNG.standard_normal((4 * H, H)).astype("f4")}
    ws |= {name: RNG.standard_normal(4 * H).astype("f4") for name in ("bW", "bU")} | {"parts": np.full(4, H)}
    nodes = [
        Node("gx", "Gemm", ("x", "W", "bW"), ("zx",), {"transB": True}),
        Node("gh", "Gemm", ("h", "U", "bU"), ("zh",), {"transB": True}),
        Node("sum", "Add", ("zx", "zh"), ("z",)),
        Node("cut", "Split", ("z", "parts"), ("zi", "zf", "zg", "zo"), {"axis": 1}),
        *(Node(f"s{k}", "Sigmoid", (f"z{k}",), (k,)) for k in "ifo"),
        Node("t", "Tanh", ("zg",), ("g",)),
        Node("fc", "Mul", ("f", "c"), ("kept",)),
        Node("ig", "Mul", ("i", "g"), ("new",)),
        Node("c'", "Add", ("kept", "new"), ("c_next",)),
        Node("tc", "Tanh", ("c_next",), ("squashed",)),
        Node("h'", "Mul", ("o", "squashed"), ("h_next",)),
    ]
    inputs = [("x", "float32", ("B", 3)), ("h", "float32", ("B", H)), ("c", "float32", ("B", H))]
    return models.model(nodes, inputs, ["h_next", "c_next"], ws)


def _lengths_as_floats() -> fastlstm.Model:
    """Rows of given lengths, which another part of the model computes."""
    ws = models.weights(RNG, "GRU", FEATURES, 7) | {"half": np.array(2, "i4")}
    nodes = [
        Node("whole", "Cast", ("lengths",), ("l",), {"to": "int32"}),
        Node("fewer", "Min", ("l", "half"), ("m",)),
        Node("mask", "SequenceMask", ("m", "x"), ("v",), {"batch_first": True}),
        Node(
            "net", "GRU", ("x", "W", "U", "b", "bn", "", "v"), ("y", "h"), {"batch_first": True, "empty_state": "zero"}
        ),
    ]
    inputs = [("x", "float32", ("B", "T", FEATURES)), ("lengths", "float32", ("B",))]
    return models.model(nodes, inputs, ["y", "h"], ws)


def _characters(values: np.ndarray, *cast: Node) -> fastlstm.Model:
    """A text generator of single characters, one hot."""
    ws = models.weights(RNG, "LSTM", WORDS, 24) | {"depth": np.array([WORDS]), "values": values}
    ws |= {"V": RNG.standard_normal((24, WORDS)).astype("f4"), "c": RNG.standard_normal(WORDS).astype("f4")}
    nodes = [
        Node("hot", "OneHot", ("ids", "depth", "values"), ("n" if cast else "x",)),
        *cast,
        Node("net", "LSTM", ("x", "W", "U", "b"), ("y",), {"batch_first": True}),
        Node("logits", "Dense", ("y", "V", "c"), ("z",)),
        Node("p", "Softmax", ("z",), ("p",)),
    ]
    return models.model(nodes, [("ids", "int64", ("B", "T"))], ["p"], ws)


GRAPHS = {
    "a cell by hand": _cell_by_hand,
    "lengths that are computed": _lengths_as_floats,
    "characters, one hot": lambda: _characters(np.array([0, 1], "f4")),
    "characters, one hot and cast": lambda: _characters(
        np.array([0, 1]), Node("f", "Cast", ("n",), ("x",), {"to": "float32"})
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_run_of_an_exported_graph_is_one_call(name):
    session = fastlstm.Session(GRAPHS[name]())
    sizes = {"B": 3, "T": 6}
    feeds = {
        spec.name: np.full([sizes.get(d, d) for d in spec.shape or ()], 1.5, spec.dtype) for spec in session.inputs
    }
    assert programs.numpy_steps(session, feeds) == []
    assert programs.is_one_call(session, feeds)
    session.run(feeds)


@pytest.mark.parametrize("name", [name for name in GRAPHS if "one hot" in name])
def test_a_model_of_characters_looks_up_what_a_one_hot_would_project(name):
    session = fastlstm.Session(GRAPHS[name]())
    steps = programs.program(session, {"ids": np.zeros((3, 7), int)}).steps
    assert [step.kernel for step in steps] == ["rows_forward", "lstm_forward", "dense_forward", "softmax_forward"]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", models.NETWORKS)
@pytest.mark.parametrize("masked", [{}, {"lengths": True}, {"mask": True}])
def test_every_network_of_these_tests_is_one_call(name, masked):
    net = models.network(name, **masked)
    session = fastlstm.Session(net)
    feeds = {"x": models.inputs_for(net, RNG, 3, 5), "lengths": np.array([5, 0, 2]), "m": np.ones((3, 5), bool)}
    feeds = {spec.name: feeds[spec.name] for spec in session.inputs}
    assert programs.is_one_call(session, feeds)


def test_the_demos_models_are_one_call(demo_models):
    pytest.importorskip("pyfive")
    pytest.importorskip("onnx")
    for name in ("sunspots.keras", "co2_season.onnx", "chars.h5"):
        session = fastlstm.Session(fastlstm.convert(demo_models / name))
        with np.load((demo_models / name).with_suffix(".npz")) as record:
            x = next(record[k] for k in record.files if k.startswith("in_"))
        assert programs.is_one_call(session, {session.inputs[0].name: x})

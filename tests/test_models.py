"""Sequential, functional models and calls on arrays: the same program in Keras gives the same shapes, counts and numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastlstm
from fastlstm import initializers, layers, models
from fastlstm.errors import FastLSTMError, InputError, ShapeError, UnsupportedError
from fastlstm.ops import registered
from fastlstm.training.unfused import TrainingBuild

B, T, I, H = 3, 6, 4, 5
Array = np.ndarray


def arrays_like(shapes: list[tuple], seed: int = 0) -> list[Array]:
    """Return random weights; variances have to be positive."""
    rng = np.random.default_rng(seed)
    return [(0.5 * np.abs(rng.standard_normal(shape)) + 0.01).astype("f4") for shape in shapes]


def needs(*ops: str) -> Any:
    return pytest.mark.skipif(not set(ops) <= set(registered()), reason=f"no op {ops}")


def same(ours: Any, theirs: Any, inputs: list[Array]) -> None:
    """Give both models the same weights and compare shapes, counts and outputs."""
    weights = arrays_like([w.shape for w in theirs.get_weights()])
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in weights]
    assert len(ours.trainable_weights) == len(theirs.trainable_weights)
    assert ours.count_params() == theirs.count_params()
    ours.set_weights(weights)
    theirs.set_weights(weights)
    assert [layer.name.rstrip("_0123456789") for layer in ours.layers] == [
        layer.name.rstrip("_0123456789") for layer in theirs.layers
    ]
    want = theirs(inputs[0] if len(inputs) == 1 else inputs, training=False)
    want = [np.asarray(y) for y in (want if isinstance(want, list | tuple) else [want])]
    got = ours(inputs[0] if len(inputs) == 1 else inputs)
    got = list(got) if isinstance(got, tuple) else [got]
    saved = fastlstm.Session(ours.to_model())
    run = saved.run({spec.name: x for spec, x in zip(saved.inputs, inputs, strict=True)})
    for y, z, wanted in zip(got, run.values(), want, strict=True):
        assert y.shape == wanted.shape and y.dtype == np.float32
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
        assert np.array_equal(y, z)


# ---- one layer, written the same way for both -----------------------------------------------------------
ONE: dict[str, Callable[[Any], Any]] = {
    "dense": lambda L: L.Dense(7, activation="relu"),
    "dense without bias": lambda L: L.Dense(7, "tanh", False),
    "dense softmax": lambda L: L.Dense(3, activation="softmax"),
    "lstm": lambda L: L.LSTM(H),
    "lstm sequences": lambda L: L.LSTM(H, return_sequences=True, activation="relu", recurrent_activation="hard_sigmoid"),
    "lstm backwards": lambda L: L.LSTM(H, go_backwards=True, return_sequences=True, use_bias=False),
    "lstm options": lambda L: L.LSTM(H, dropout=0.2, recurrent_dropout=0.1, unit_forget_bias=False, unroll=False),
    "gru": lambda L: L.GRU(H),
    "gru reset before": lambda L: L.GRU(H, reset_after=False, return_sequences=True),
    "gru without bias": lambda L: L.GRU(H, use_bias=False, go_backwards=True),
    "simple rnn": lambda L: L.SimpleRNN(H, activation="relu", return_sequences=True),
    "bidirectional": lambda L: L.Bidirectional(L.LSTM(H)),
    "bidirectional sequences": lambda L: L.Bidirectional(L.GRU(H, return_sequences=True), merge_mode="sum"),
    "bidirectional of two": lambda L: L.Bidirectional(
        L.LSTM(H, return_sequences=True), "ave", backward_layer=L.GRU(H, return_sequences=True, go_backwards=True)
    ),
    "time distributed": lambda L: L.TimeDistributed(L.Dense(2, activation="softmax")),
    "conv1d": lambda L: L.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu"),
    "conv1d strides": lambda L: L.Conv1D(6, 3, strides=2, padding="same", groups=2),
    "batch normalization": lambda L: L.BatchNormalization(epsilon=0.1),
    "batch normalization, other axis": lambda L: L.BatchNormalization(axis=1, scale=False),
    "layer normalization": lambda L: L.LayerNormalization(),
    "layer normalization, two axes": lambda L: L.LayerNormalization(axis=[1, 2], center=False),
    "dropout": lambda L: L.Dropout(0.3, seed=1),
    "spatial dropout": lambda L: L.SpatialDropout1D(0.3),
    "gaussian noise": lambda L: L.GaussianNoise(0.3),
    "gaussian dropout": lambda L: L.GaussianDropout(0.3),
    "activity regularization": lambda L: L.ActivityRegularization(l1=0.1),
    "masking": lambda L: L.Masking(0.5),
    "activation": lambda L: L.Activation("swish"),
    "relu": lambda L: L.ReLU(negative_slope=0.1),
    "relu6": lambda L: L.ReLU(max_value=6),
    "leaky relu": lambda L: L.LeakyReLU(0.2),
    "elu": lambda L: L.ELU(0.5),
    "softmax": lambda L: L.Softmax(axis=1),
    "flatten": lambda L: L.Flatten(),
    "reshape": lambda L: L.Reshape((3, -1)),
    "permute": lambda L: L.Permute((2, 1)),
    "a cell": lambda L: L.RNN(L.GRUCell(4, reset_after=False), return_sequences=True),
    "a list of cells": lambda L: L.RNN([L.LSTMCell(4, unit_forget_bias=False), L.SimpleRNNCell(3, activation="relu")], go_backwards=True),
    "stacked cells": lambda L: L.RNN(L.StackedRNNCells([L.GRUCell(4), L.LSTMCell(3, use_bias=False)])),
    "cells in both directions": lambda L: L.Bidirectional(L.RNN([L.LSTMCell(4), L.LSTMCell(3)])),
    "relu with everything": lambda L: L.ReLU(max_value=0.7, negative_slope=0.2, threshold=0.3),
    "prelu": lambda L: L.PReLU(alpha_initializer="uniform"),
    "prelu, shared": lambda L: L.PReLU(shared_axes=[1], alpha_initializer="uniform"),
    "log softmax": lambda L: L.Dense(4, activation="log_softmax"),
    "tanh shrink": lambda L: L.Activation("tanh_shrink"),
    "hard shrink": lambda L: L.Activation("hard_shrink"),
    "soft shrink": lambda L: L.Activation("soft_shrink"),
    "sparse plus": lambda L: L.Conv1D(3, 2, activation="sparse_plus"),
    "unit normalization": lambda L: L.UnitNormalization(axis=1),
    "normalization": lambda L: L.Normalization(mean=[0.1] * I, variance=[2.0] * I),
    "rescaling": lambda L: L.Rescaling(0.3, offset=-1.0),
    "up sampling": lambda L: L.UpSampling1D(3),
    "zero padding": lambda L: L.ZeroPadding1D((2, 1)),
    "cropping": lambda L: L.Cropping1D((1, 2)),
    "depthwise": lambda L: L.DepthwiseConv1D(3, depth_multiplier=2, padding="same", activation="tanh"),
    "separable": lambda L: L.SeparableConv1D(5, 3, padding="same", dilation_rate=2, depth_multiplier=3),
}  # fmt: skip
IMAGES: dict[str, Callable[[Any], Any]] = {
    "conv2d": lambda L: L.Conv2D(5, (2, 3), padding="same", activation="relu"),
    "conv2d strides": lambda L: L.Conv2D(4, 3, strides=(2, 1), padding="same", groups=2, use_bias=False),
    "conv2d dilated": lambda L: L.Conv2D(4, (2, 3), dilation_rate=(1, 2), activation="softmax"),
    "depthwise": lambda L: L.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
    "depthwise strides": lambda L: L.DepthwiseConv2D(2, strides=2),
    "separable": lambda L: L.SeparableConv2D(5, 2, depth_multiplier=2, activation="elu"),
    "max": lambda L: L.MaxPooling2D((2, 3), padding="same"),
    "average": lambda L: L.AveragePooling2D(3, strides=2, padding="same"),
    "global average": lambda L: L.GlobalAveragePooling2D(keepdims=True),
    "global max": lambda L: L.GlobalMaxPooling2D(),
    "up sampling": lambda L: L.UpSampling2D((2, 1)),
    "zero padding": lambda L: L.ZeroPadding2D(((1, 0), (2, 1))),
    "cropping": lambda L: L.Cropping2D((1, 2)),
    "prelu": lambda L: L.PReLU(shared_axes=[1, 2], alpha_initializer="uniform"),
    "conv1d in time": lambda L: L.TimeDistributed(L.Conv1D(3, 2, activation="tanh")),
    "lstm in time": lambda L: L.TimeDistributed(L.Bidirectional(L.LSTM(3))),
    "pooling in time": lambda L: L.TimeDistributed(L.GlobalMaxPooling1D()),
    "conv lstm": lambda L: L.ConvLSTM1D(3, 2, padding="same", return_sequences=True, go_backwards=True),
    "conv lstm strides": lambda L: L.ConvLSTM1D(2, 3, strides=2, recurrent_activation="hard_sigmoid", use_bias=False),
}  # fmt: skip
POOLING: dict[str, Callable[[Any], Any]] = {
    "global average": lambda L: L.GlobalAveragePooling1D(),
    "global average, kept": lambda L: L.GlobalAveragePooling1D(keepdims=True),
    "global max": lambda L: L.GlobalMaxPooling1D(),
    "max": lambda L: L.MaxPooling1D(4),
    "max, same": lambda L: L.MaxPooling1D(4, padding="same"),
    "max, overlapping": lambda L: L.MaxPooling1D(3, strides=1),
    "max, overlapping, same": lambda L: L.MaxPooling1D(3, strides=2, padding="same"),
    "average": lambda L: L.AveragePooling1D(2),
    "average, overlapping, same": lambda L: L.AveragePooling1D(3, strides=2, padding="same"),
    "average, every step, same": lambda L: L.AveragePooling1D(4, strides=1, padding="same"),
    "average, same": lambda L: L.AveragePooling1D(4, padding="same"),
}


def features(seed: int = 0, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape or (B, T, I)).astype("f4")


@pytest.mark.parametrize("name", ONE)
def test_a_layer_gives_what_keras_gives(keras, name):
    ours = models.Sequential([models.Input((T, I)), ONE[name](layers)])
    theirs = keras.Sequential([keras.Input((T, I)), ONE[name](keras.layers)])
    assert ours.output_shape == theirs.output_shape
    same(ours, theirs, [features()])


@pytest.mark.parametrize("name", IMAGES)
def test_a_layer_over_images_gives_what_keras_gives(keras, name):
    shape = (5, 7, 4)
    ours = models.Sequential([models.Input(shape), IMAGES[name](layers)])
    theirs = keras.Sequential([keras.Input(shape), IMAGES[name](keras.layers)])
    assert ours.output_shape == theirs.output_shape
    same(ours, theirs, [features(0, B, *shape)])


@needs("ReduceMean", "ReduceMax", "Windows")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", POOLING)
def test_pooling_gives_what_keras_gives(keras, name, masked):
    x = features()
    x[1, 2:] = 0
    nets = [
        K.Sequential([K.Input((T, I)), *([L.Masking()] if masked else []), POOLING[name](L)])
        for K, L in ((models, layers), (keras, keras.layers))
    ]
    assert nets[0].output_shape == nets[1].output_shape
    same(*nets, [x])


@pytest.mark.parametrize("seed", range(12))
def test_random_stacks_give_what_keras_gives(keras, seed):
    """Layers in random order with random options, over a masked sequence."""

    def stack(L: Any) -> list[Any]:
        rng = np.random.default_rng([seed, 5])
        made = [L.Masking(0.0)] if rng.random() < 0.5 else []
        for _ in range(rng.integers(1, 4)):
            units, back, cell = (
                int(rng.integers(2, 9)),
                bool(rng.random() < 0.5),
                ("LSTM", "GRU", "SimpleRNN")[rng.integers(3)],
            )
            options = {
                "use_bias": bool(rng.random() < 0.7),
                "activation": ("tanh", "relu", "softsign")[rng.integers(3)],
            }
            layer = getattr(L, cell)(units, return_sequences=True, **options)
            kind = rng.integers(5)
            if kind == 0:
                layer = L.Bidirectional(layer, merge_mode=("concat", "sum", "mul", "ave")[rng.integers(4)])
            elif kind == 1:
                layer = L.TimeDistributed(L.Dense(units, activation="tanh"))
            elif kind == 2:
                layer = L.Dropout(0.4)
            elif kind == 3:
                layer = getattr(L, cell)(units, return_sequences=True, go_backwards=back, **options)
            made.append(layer)
        return [*made, getattr(L, ("LSTM", "GRU", "SimpleRNN")[rng.integers(3)])(4), L.Dense(2)]

    x = features(seed)
    x[0, 4:], x[2, :2] = 0, 0
    same(
        models.Sequential([models.Input((None, I)), *stack(layers)]),
        keras.Sequential([keras.Input((None, I)), *stack(keras.layers)]),
        [x],
    )


# ---- functional models ----------------------------------------------------------------------------------
def encoder_decoder(K: Any, L: Any) -> tuple[Any, list[Array]]:
    source, target = K.Input((None,), dtype="int32"), K.Input((None,), dtype="int32")
    _, *states = L.LSTM(H, return_state=True)(L.Embedding(9, 4)(source))
    y, *_ = L.LSTM(H, return_sequences=True, return_state=True)(L.Embedding(8, 3)(target), initial_state=states)
    rng = np.random.default_rng(0)
    return K.Model([source, target], L.Dense(8, activation="softmax")(y)), [
        rng.integers(0, 9, (B, 5)).astype("i4"), rng.integers(0, 8, (B, 4)).astype("i4"),
    ]  # fmt: skip


def shared(K: Any, L: Any) -> tuple[Any, list[Array]]:
    a, b = K.Input((T, I)), K.Input((T, I))
    layer = L.GRU(H)
    both = L.Concatenate()([layer(a), layer(b)])
    return K.Model([a, b], [L.Dense(1)(both), both]), [features(1), features(2)]


def nested(K: Any, L: Any) -> tuple[Any, list[Array]]:
    inner = K.Sequential([K.Input((T, I)), L.Dense(I), L.LSTM(I, return_sequences=True)])
    x = K.Input((T, I))
    return K.Model(x, L.Add()([x, inner(inner(x))])), [features()]


def branches(K: Any, L: Any) -> tuple[Any, list[Array]]:
    x, z = K.Input((T, I)), K.Input((2,))
    left = L.LSTM(3)(x)
    right = L.Dense(4)(L.Dense(6)(L.Flatten()(x)))
    y = L.Concatenate()([right, z, left])
    return K.Model([x, z], [L.Dense(1)(y), L.Dense(2)(left)]), [features(), features(1, B, 2)]


def attending(K: Any, L: Any) -> tuple[Any, list[Array]]:
    a, b = K.Input((None, I)), K.Input((None, I))
    q, v = L.GRU(3, return_sequences=True)(L.Masking()(a)), L.GRU(3, return_sequences=True)(L.Masking()(b))
    outputs = [
        L.AdditiveAttention()([q, v]),
        L.Attention(use_scale=True)([q, v]),
        L.Attention(score_mode="concat")([q, v, v]),
    ]
    x, y = features(), features(1, B, 4, I)
    x[0, 3:], y[1, 2:] = 0, 0
    return K.Model([a, b], [L.Dense(2)(outputs[0]), *outputs[1:]]), [x, y]


def several_heads(K: Any, L: Any) -> tuple[Any, list[Array]]:
    a, b = K.Input((None, I)), K.Input((None, I))
    q, v = L.GRU(3, return_sequences=True)(L.Masking()(a)), L.GRU(4, return_sequences=True)(L.Masking()(b))
    y, scores = L.MultiHeadAttention(2, 5, value_dim=3)(q, v, return_attention_scores=True, use_causal_mask=True)
    # Keras takes the masks off what an attention has read
    p, w = L.GRU(3, return_sequences=True)(L.Masking()(a)), L.GRU(4, return_sequences=True)(L.Masking()(b))
    outputs = [y, scores, L.MultiHeadAttention(3, 2, output_shape=6, use_bias=False)(p, w, L.Dense(2)(w)), L.LSTM(2)(y)]
    x, z = features(), features(1, B, 4, I)
    x[0, 3:], z[1, 2:] = 0, 0
    return K.Model([a, b], outputs), [x, z]


def products(K: Any, L: Any) -> tuple[Any, list[Array]]:
    a, b = K.Input((T, I)), K.Input((T, I))
    last = L.LSTM(I)(a)
    outputs = [
        L.Dot((2, 2))([a, b]),
        L.Dot(1, normalize=True)([a, b]),
        L.Dot((2, 1))([a, last]),
        L.Dot(1)([last, last]),
    ]
    return K.Model([a, b], outputs), [features(1), features(2)]


def states(K: Any, L: Any) -> tuple[Any, list[Array]]:
    x, h = K.Input((None, I)), K.Input((H,))
    y, *rest = L.Bidirectional(L.LSTM(H, return_state=True))(x)
    return K.Model([x, h], [y, *rest, L.GRU(H)(x, initial_state=h)]), [features(), features(1, B, H)]


def merges(K: Any, L: Any) -> tuple[Any, list[Array]]:
    a, b = K.Input((T, I)), K.Input((T, I))
    kinds = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
    return K.Model([a, b], [kind()([a, b]) for kind in kinds]), [features(1), features(2)]


def operators(K: Any, L: Any) -> tuple[Any, list[Array]]:
    a, b = K.Input((T, I)), K.Input((T, I))
    outputs = [2.0 - a * b + 1.0, -(a / 3.0), a[:, -1], L.Dense(2)(b[:, 1:4:2, :2]), a[..., 0] - b[..., 1]]
    return K.Model([a, b], outputs), [features(1), features(2)]


FUNCTIONAL = [encoder_decoder, shared, nested, branches, attending, several_heads, products, states, merges, operators]


@pytest.mark.parametrize("make", FUNCTIONAL)
def test_a_functional_model_gives_what_keras_gives(keras, make):
    ours, inputs = make(models, layers)
    theirs, _ = make(keras, keras.layers)
    same(ours, theirs, inputs)


def test_causal_attention_sees_no_later_step(keras):
    x = features()
    got, scores = layers.Attention()([x, x], use_causal_mask=True, return_attention_scores=True)
    want, wanted = keras.layers.Attention()([x, x], use_causal_mask=True, return_attention_scores=True)
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(scores, wanted, atol=1e-6)


def test_causal_attention_takes_any_numbers_of_steps(keras):
    query, value = models.Input((None, I)), models.Input((None, I))
    model = models.Model([query, value], layers.AdditiveAttention()([query, value], use_causal_mask=True))
    twin = keras.layers.AdditiveAttention()
    for steps in ((5, 7), (6, 3)):
        x, z = features(1, B, steps[0], I), features(2, B, steps[1], I)
        want = np.asarray(twin([x, z], use_causal_mask=True))
        twin.set_weights(model.get_weights())
        want = np.asarray(twin([x, z], use_causal_mask=True))
        np.testing.assert_allclose(model([x, z]), want, atol=1e-6)
    model.compile("sgd", "mse")
    assert np.isfinite(model.train_on_batch([x, z], x))


# ---- Keras 2's spellings of a first layer ---------------------------------------------------------------
FIRST: dict[str, tuple[Callable[[], Any], tuple]] = {
    "input_shape": (lambda: layers.LSTM(2, input_shape=(T, I)), (None, T, I)),
    "free steps": (lambda: layers.LSTM(2, input_shape=(None, I)), (None, None, I)),
    "one axis": (lambda: layers.Dense(2, input_shape=(I,)), (None, I)),
    "input_dim": (lambda: layers.Dense(2, input_dim=I), (None, I)),
    "input_dim of a recurrent layer": (lambda: layers.GRU(2, input_dim=I), (None, None, I)),
    "input_dim and input_length": (lambda: layers.SimpleRNN(2, input_dim=I, input_length=T), (None, T, I)),
    "input_length of ids": (lambda: layers.Embedding(9, 4, input_length=T), (None, T)),
    "batch_input_shape": (lambda: layers.LSTM(2, batch_input_shape=(B, T, I)), (B, T, I)),
    "within Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(2, input_shape=(T, I))), (None, T, I)),
    "on Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(2), input_shape=(T, I)), (None, T, I)),
    "Input": (lambda: layers.Input((T, I)), (None, T, I)),
    "InputLayer": (lambda: layers.InputLayer(input_shape=(T, I)), (None, T, I)),
    "batch_shape": (lambda: layers.Input(batch_shape=(B, T, I)), (B, T, I)),
}


@pytest.mark.parametrize("spelling", FIRST)
def test_a_first_layer_says_what_comes_in(spelling):
    make, shape = FIRST[spelling]
    model = models.Sequential()
    model.add(make())
    if "nput" in type(model._input.layer).__name__ and not model.layers:
        model.add(layers.Dense(2))
    assert model.built and model.input_shape == shape


def test_a_model_without_an_input_is_made_by_its_first_data():
    model = models.Sequential([layers.LSTM(H), layers.Dense(1)])
    assert not model.built and model.get_weights() == []
    with pytest.raises(InputError, match="has no inputs yet"):
        model.summary()
    assert model(features()).shape == (B, 1)
    assert model.input_shape == (None, T, I) and model.count_params() == 4 * H * (I + H + 1) + H + 1
    other = models.Sequential([layers.LSTM(H), layers.Dense(1)])
    other.build((None, T, I))
    assert [w.shape for w in other.weights] == [w.shape for w in model.weights]


def test_layers_are_added_and_taken_away():
    model = models.Sequential([layers.Input((T, I)), layers.LSTM(H), layers.Dense(1)])
    before = model.layers[0].get_weights()
    assert model.pop().name == "dense"
    assert model.output_shape == (None, H)
    model.add(layers.Dense(3))
    assert model.output_shape == (None, 3)
    assert all(map(np.array_equal, model.layers[0].get_weights(), before))


def test_weights_given_to_a_first_layer_are_its_weights():
    table = features(0, 9, 4)
    model = models.Sequential(
        [layers.Embedding(9, 4, weights=[table], input_length=3, trainable=False), layers.Flatten()]
    )
    assert np.array_equal(model.get_weights()[0], table) and model.trainable_weights == []
    again = layers.Embedding(9, 4, embeddings_initializer=initializers.Constant(table))
    assert np.array_equal(again(np.array([[3]])), table[None, [3]])


# ---- what a model knows of itself ------------------------------------------------------------------------
def test_the_summary_is_a_table_with_keras_s_counts(keras, capsys):
    nets = [
        K.Sequential(
            [K.Input((T, I)), L.LSTM(H, return_sequences=True), L.BatchNormalization(), L.Dropout(0.2), L.Dense(1)]
        )
        for K, L in ((models, layers), (keras, keras.layers))
    ]
    nets[0].layers[0].trainable = nets[1].layers[0].trainable = False
    texts: list[str] = []
    nets[0].summary(print_fn=texts.append)
    nets[0].summary()
    printed = capsys.readouterr().out
    frozen, moved = (
        sum(int(np.prod(w.shape)) for w in part) for part in (nets[1].non_trainable_weights, nets[1].trainable_weights)
    )
    for text in (texts[0], printed):
        assert f"Total params: {nets[1].count_params():,} " in text
        assert f"Trainable params: {moved:,} " in text and f"Non-trainable params: {frozen:,} " in text
        for layer in nets[1].layers:
            (line,) = [
                line for line in text.splitlines() if line.strip(" │").startswith(f"{layer.name.split('_')[0]}")
            ][:1]
            assert f"{layer.count_params():,}" in line and type(layer).__name__ in line
        assert "(None, 6, 5)" in text


def test_freezing_a_model_freezes_every_layer_in_it():
    inner = models.Sequential([layers.Input((T, I)), layers.Bidirectional(layers.LSTM(2))])
    model = models.Sequential([inner, layers.BatchNormalization(), layers.Dense(1)])
    assert [len(model.trainable_weights), len(model.non_trainable_weights)] == [6 + 2 + 2, 2]
    inner.trainable = False
    assert [len(model.trainable_weights), len(model.non_trainable_weights)] == [4, 8]


def test_names_are_numbered_within_a_model_and_named_layers_keep_theirs():
    x = models.Input((T, I))
    y = layers.Dense(2)(layers.Dense(2, name="dense")(layers.Dense(2)(x)))
    model = models.Model(x, y)
    assert [layer.name for layer in model.layers] == ["input_layer", "dense_1", "dense", "dense_2"]
    assert model.get_layer("dense_2") is model.layers[-1] is model.get_layer(index=3)
    with pytest.raises(InputError, match="has no layer 'lstm'; it has 'dense'"):
        model.get_layer("lstm")
    with pytest.raises(InputError, match="two layers are named 'a'"):
        models.Sequential([layers.Input((2,)), layers.Dense(1, name="a"), layers.Dense(1, name="a")])


def test_a_second_model_leaves_the_names_that_the_first_gave():
    one, two = (models.Sequential([layers.Input((T, I)), layers.Dense(I), layers.Dense(I)]) for _ in range(2))
    y = x = models.Input((T, I))
    for layer in (*one.layers, *two.layers, layers.Dense(2)):
        y = layer(y)
    both = models.Model(x, y)
    assert [layer.name for layer in both.layers[1:]] == ["dense", "dense_1", "dense", "dense_1", "dense_2"]
    assert len(replayed(both).parameters) == 10


def test_a_dict_names_inputs_and_outputs():
    a, b = models.Input((I,)), models.Input((I,))
    model = models.Model({"left": a, "right": b}, {"sum": layers.Add()([a, b]), "product": layers.Multiply()([a, b])})
    assert model.input_names == ["left", "right"] and model.output_names == ["sum", "product"]
    x, y = features(0, B, I), features(1, B, I)
    total, product = model({"right": y, "left": x})
    assert np.array_equal(total, x + y) and np.array_equal(product, x * y)
    with pytest.raises(InputError, match="lacks its input 'left'"):
        model({"right": y})


def test_a_saved_model_is_loaded_and_keeps_its_numbers(tmp_path):
    model = models.Sequential([layers.Input((None, I)), layers.LSTM(H), layers.Dense(2, activation="softmax")])
    model.save(tmp_path / "m.safetensors")
    want = model(features())
    loaded = fastlstm.load(tmp_path / "m.safetensors")
    model.layers[0].weights[0][...] = 0
    assert np.array_equal(fastlstm.Session(loaded).run(features()), want)
    assert not np.array_equal(model(features()), want), "a saved model holds copies"


# ---- weights ------------------------------------------------------------------------------------------------
def test_the_same_seed_gives_the_same_weights():
    def made() -> list[Array]:
        fastlstm.set_random_seed(7)
        return models.Sequential(
            [layers.Input((T, I)), layers.Bidirectional(layers.LSTM(H)), layers.Dense(1)]
        ).get_weights()

    first, again = made(), made()
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(first[0], first[3]), "the directions have weights of their own"


def test_weights_have_keras_s_defaults():
    model = models.Sequential([layers.Input((T, 30)), layers.LSTM(20), layers.Dense(10)])
    W, U, b, kernel, bias = model.get_weights()
    assert np.abs(W).max() <= (6 / (30 + 80)) ** 0.5 and np.abs(W).max() > 0.9 * (6 / (30 + 80)) ** 0.5
    np.testing.assert_allclose(U @ U.T, np.eye(20), atol=1e-5)
    assert np.array_equal(b, np.repeat([0, 1, 0, 0], 20)) and not bias.any()
    assert np.abs(kernel).max() <= (6 / 30) ** 0.5
    table = layers.Embedding(1000, 4)
    table.build((None, 3))
    assert 0.049 < np.abs(table.weights[0]).max() <= 0.05
    gru = layers.GRU(2)
    gru.build((None, None, 3))
    assert gru.weights[2].shape == (2, 6) and not gru.weights[2].any()


def test_set_weights_copies_in_place():
    layer = layers.Dense(2)
    given = [features(0, I, 2), features(1, 2)]
    layer.set_weights(given)
    held = layer.weights[0]
    layer.set_weights([given[0] + 1, given[1]])
    assert layer.weights[0] is held and np.array_equal(held, given[0] + 1)
    assert not np.array_equal(given[0], held)
    layer.get_weights()[0][...] = 0
    assert held.any()


def test_float64_all_the_way():
    x = features().astype("f8")
    model = models.Sequential([models.Input((T, I), dtype="float64"), layers.LSTM(H), layers.Dense(1)])
    assert {w.dtype for w in model.weights} == {np.dtype("f8")} and model(x).dtype == np.float64
    assert layers.LSTM(2, dtype="float64")(x).dtype == np.float64
    assert layers.LSTM(2)(x).dtype == np.float32, "Keras's default"


# ---- on arrays ------------------------------------------------------------------------------------------------
def test_a_layer_on_arrays_returns_arrays(keras):
    x, h, c = features(), features(1, B, H), features(2, B, H)
    ours, theirs = layers.LSTM(H, return_state=True), keras.layers.LSTM(H, return_state=True)
    theirs(x)
    ours.build((None, T, I))
    weights = arrays_like([w.shape for w in theirs.get_weights()])
    ours.set_weights(weights)
    theirs.set_weights(weights)
    for got, want in zip(ours(x, initial_state=[h, c]), theirs(x, initial_state=[h, c]), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    mask = np.arange(T) < np.array([[6], [2], [0]])
    np.testing.assert_allclose(ours(x, mask=mask)[0], theirs(x, mask=mask)[0], atol=1e-5)
    assert ours(x[:1, :2].tolist())[0].shape == (1, H)


def test_a_call_on_arrays_sees_weights_that_have_moved():
    layer, x = layers.Dense(2), features()
    assert layer(x).any()
    layer.weights[0][...] = 0
    assert not layer(x).any()


def test_the_bare_functions_are_the_layers():
    x, h, c = features(), features(1, B, H), features(2, B, H)
    mask = np.arange(T) < np.array([[6], [2], [4]])
    lstm = layers.LSTM(H, return_sequences=True, return_state=True)
    want = lstm(x, initial_state=[h, c], mask=mask)
    for got, y in zip(fastlstm.lstm(x, *lstm.weights, h, c, mask=mask), want, strict=True):
        assert np.array_equal(got, y)
    gru = layers.GRU(H, return_sequences=True, return_state=True)
    gru.build((None, T, I))
    gru.set_weights(arrays_like([w.shape for w in gru.weights]))
    W, U, bias = gru.weights
    joint = np.concatenate([bias[0, : 2 * H] + bias[1, : 2 * H], bias[0, 2 * H :]])
    for got, y in zip(fastlstm.gru(x, W, U, joint, bias[1, 2 * H :], h), gru(x, initial_state=h), strict=True):
        assert np.array_equal(got, y)
    rnn = layers.SimpleRNN(H, activation="relu", return_sequences=True, return_state=True)
    want = rnn(x, initial_state=h)
    for got, y in zip(fastlstm.rnn(x, *rnn.weights, h, activation="relu"), want, strict=True):
        assert np.array_equal(got, y)
    assert fastlstm.lstm(x.astype("f8"), *lstm.weights)[0].dtype == np.float64


# ---- in a graph for training ----------------------------------------------------------------------------------
def replayed(model: Any) -> TrainingBuild:
    build = TrainingBuild()
    model.forward(build, [build.input(s.name, s.dtype, s.shape) for s in model.input_specs])
    return build


def test_training_sees_keras_s_weights_as_parameters_and_the_rest_as_statistics():
    model = models.Sequential(
        [
            layers.Input((T, I)),
            layers.Dense(3),
            layers.BatchNormalization(trainable=False),
            layers.Dense(2, trainable=False),
        ]
    )
    build = replayed(model)
    assert list(build.parameters) == ["dense.W", "dense.b"]
    assert {"dense_1.W", "batch_normalization.moving_mean", "batch_normalization.gamma"} <= set(build.statistics)
    assert build.parameters["dense.W"] is model.layers[0].weights[0]
    model.adopt({"dense.W": np.zeros((I, 3), "f4")})
    assert not model.layers[0].weights[0].any()


def test_dropout_draws_what_keras_draws():
    model = models.Sequential(
        [layers.Input((None, I)), layers.Dropout(0.1), layers.SpatialDropout1D(0.2), layers.Dropout(0.3, noise_shape=(None, 1, 1)),
         layers.GaussianNoise(0.5)]
    )  # fmt: skip
    assert [(d.shape, d.rate, d.stddev) for d in replayed(model).draws] == [
        (("batch", "time", I), 0.1, None), (("batch", 1, I), 0.2, None), (("batch", 1, 1), 0.3, None), (("batch", "time", I), 0.0, 0.5),
    ]  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"layer 'dropout'.*training=True outside of training"):
        model.layers[0](features(), training=True)


@needs("ReduceMean")
@pytest.mark.parametrize("masked", [False, True])
def test_batch_normalization_in_training_is_keras_s(keras, masked):
    x = features()
    x[1, 2:] = 0
    ours, theirs = (
        K.Sequential([K.Input((T, I)), *([L.Masking()] if masked else []), L.BatchNormalization(momentum=0.8)])
        for K, L in ((models, layers), (keras, keras.layers))
    )
    want = np.asarray(theirs(x, training=True))
    build = TrainingBuild()
    (y,) = ours.forward(build, [build.input("x", "float32", ("batch", T, I))])
    names = ["batch_normalization.moving_mean", "batch_normalization.moving_variance"]
    session = fastlstm.Session(build.model([y, *(build.updates[name] for name in names)]))
    feeds = {**build.parameters, **build.statistics, "x": x}
    results = session.run({spec.name: feeds[spec.name] for spec in session.inputs})
    np.testing.assert_allclose(results[y.name], want, atol=2e-6)
    for name, moved in zip(names, theirs.get_weights()[2:], strict=True):
        np.testing.assert_allclose(results[build.updates[name].name], moved, atol=1e-6)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "SimpleRNN"])
def test_a_recurrent_layer_draws_one_mask_for_each_gate_and_all_steps(cell):
    gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[cell]
    model = models.Sequential([layers.Input((None, I)), getattr(layers, cell)(H, dropout=0.1, recurrent_dropout=0.2)])
    draws = {(d.shape, d.rate) for d in replayed(model).draws}
    assert draws == {((gates, "batch", 1, I), 0.1), ((gates, "batch", H), 0.2)}


@needs("Abs")
@pytest.mark.parametrize("make", [
    lambda L, R: L.Dense(3, kernel_regularizer=R.L1L2(0.1, 0.2), bias_regularizer="l2", activity_regularizer=R.L2(0.3)),
    lambda L, R: L.LSTM(3, kernel_regularizer="l1", recurrent_regularizer=R.L2(0.2), bias_regularizer=R.L1(0.1)),
    lambda L, R: L.ActivityRegularization(0.1, 0.2),
    lambda L, R: L.Bidirectional(L.GRU(3, kernel_regularizer=R.L2(0.2), recurrent_regularizer=R.L1(0.01))),
    lambda L, R: L.Dense(3, kernel_regularizer="l2", trainable=False),
])  # fmt: skip
def test_penalties_are_keras_s_losses(keras, make):
    x = features()
    ours = models.Sequential([layers.Input((T, I)), make(layers, fastlstm.regularizers)])
    theirs = keras.Sequential([keras.Input((T, I)), make(keras.layers, keras.regularizers)])
    weights = arrays_like([w.shape for w in theirs.get_weights()])
    ours.set_weights(weights)
    theirs.set_weights(weights)
    theirs(x)
    want = float(sum(float(part) for part in theirs.losses))

    class Penalised(TrainingBuild):
        training = False
        node = fastlstm.layers.Build.node

    build = Penalised()
    y = ours.forward(build, [build.input(s.name, s.dtype, s.shape) for s in ours.input_specs])
    if not build.penalties:
        assert want == 0
        return
    feeds = {**build.parameters, **build.statistics, "input_layer": x}
    session = fastlstm.Session(build.model([*build.penalties, *y]))
    results = session.run({spec.name: feeds[spec.name] for spec in session.inputs})
    assert sum(float(results[p.name]) for p in build.penalties) == pytest.approx(want, rel=1e-5)


def test_a_stateful_layer_keeps_its_states_as_statistics():
    model = models.Sequential([layers.LSTM(H, stateful=True, batch_input_shape=(B, T, I)), layers.Dense(1)])
    build = replayed(model)
    assert {name: a.shape for name, a in build.statistics.items()} == {"lstm.state0": (B, H), "lstm.state1": (B, H)}
    assert set(build.updates) == {"lstm.state0", "lstm.state1"}
    model.layers[0]._arrays["state0"][...] = 1
    model.reset_states()
    assert not model.layers[0]._arrays["state0"].any()
    free = models.Sequential([layers.LSTM(H, stateful=True, input_shape=(T, I))])
    with pytest.raises(ShapeError, match=r"layer 'lstm'.*stateful=True needs the size of a batch"):
        replayed(free)


# ---- what is refused ------------------------------------------------------------------------------------------
x = models.Input((T, I), name="x")
REFUSED: dict[str, tuple[Callable[[], Any], type, str]] = {
    "an unknown argument": (lambda: layers.LSTM(2, retrun_sequences=True), InputError, r"layer 'lstm' \(LSTM\): unknown argument 'retrun_sequences'; it takes .*'return_sequences'"),
    "units": (lambda: layers.Dense(0), InputError, r"'dense' \(Dense\): units=0"),
    "a wrong rank": (lambda: layers.LSTM(2)(models.Input((T,))), ShapeError, r"'lstm' \(LSTM\): takes inputs \(batch, steps, features\), got shape"),
    "free features": (lambda: layers.Dense(2)(models.Input((None,))), ShapeError, "'dense'.*leaves the size of its kernel"),
    "shapes that do not meet": (lambda: layers.Add()([x, layers.Dense(2)(x)]), ShapeError, "'add'"),
    "a loop's argument of a cell": (lambda: layers.LSTMCell(2, return_sequences=True), InputError, "return_sequences is an argument of RNN"),
    "a cell without a loop": (lambda: layers.GRUCell(2)(np.zeros((1, 2))), FastLSTMError, "is called by RNN alone"),
    "stacked layers that are no cells": (lambda: layers.StackedRNNCells([layers.Dense(2)]), UnsupportedError, "a cell of class Dense"),
    "a seed below 0": (lambda: layers.Dropout(0.5, seed=-1), InputError, "seed=-1"),
    "no constraint": (lambda: layers.Dense(2, kernel_constraint="positive"), InputError, "'positive' is no constraint"),
    "an initializer": (lambda: layers.Dense(2, kernel_initializer="glorot"), InputError, "unknown initializer 'glorot'"),
    "a regularizer": (lambda: layers.Dense(2, kernel_regularizer="l3"), InputError, "'l3' is no regularizer"),
    "a policy": (lambda: layers.Dense(2, dtype="mixed_float16"), UnsupportedError, "dtype='mixed_float16'"),
    "time_major": (lambda: layers.LSTM(2, time_major=True), UnsupportedError, "time_major=True"),
    "a rate": (lambda: layers.Dropout(1.5), InputError, r"'dropout' \(Dropout\): rate=1.5"),
    "a disconnected output": (lambda: models.Model(models.Input((2,)), layers.Dense(2)(x)), InputError, "depend on input 'x'"),
    "a function": (lambda: layers.Lambda(lambda v: v, name="f"), UnsupportedError, "layer 'f': Lambda is not supported"),
    "an index": (lambda: x[:, [1, 2]], UnsupportedError, r"the index \[1, 2\] is not supported"),
    "a string added": (lambda: x + "1", InputError, "got str"),
    "no symbol": (lambda: models.Model(x, np.zeros(2)), InputError, "outputs hold ndarray"),
    "no layer": (lambda: models.Sequential([3]), InputError, "cannot add 3"),
    "states in the middle": (lambda: models.Sequential([layers.LSTM(2, return_state=True, input_shape=(T, I)), layers.Dense(1)]), UnsupportedError, "layer 'lstm' returns 3 values"),
    "an argument of a call": (lambda: layers.Dense(2)(x, initial_state=x), InputError, "called with 'initial_state'"),
    "a symbol as an array": (lambda: np.asarray(x), InputError, "holds none"),
    "a shape": (lambda: models.Input((0, 2)), ShapeError, "holds 0"),
    "no shape": (lambda: models.Input(), InputError, "pass shape"),
    "one input of two": (lambda: models.Model([x, models.Input((T, I))], layers.Add()([x, x])).call([1]), InputError, "takes 2 inputs, got 1"),
    "strings": (lambda: layers.Dense(2)(np.array(["a"])), InputError, "an array of <U1"),
    "attention over one": (lambda: layers.Attention()([x]), InputError, "got 1 inputs"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(case):
    make, error, words = REFUSED[case]
    with pytest.raises(error, match=words) as caught:
        make()
    assert isinstance(caught.value, FastLSTMError) and "\n" not in str(caught.value)

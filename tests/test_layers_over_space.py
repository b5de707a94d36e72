"""Layers over images, attention of several heads, convolutional recurrence, and layers applied to every step, against NumPy."""

from typing import Any

import naive
import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.errors import FastLSTMError, InputError, ShapeError, UnsupportedError
from fastlstm.layers import Build

B, T = 3, 4
Array = np.ndarray


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("f4")


def of(layer: Any, *arrays: Array) -> Any:
    layer.set_weights(arrays)
    return layer


def close(got: Array, want: Array, atol: float = 1e-5) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol)


def same_pads(length: int, size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's: as many windows as strides fit, the odd zero after."""
    total = max(0, (-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length)
    return total // 2, total - total // 2


# ---- convolutions and poolings ------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_conv2d_pads_as_tensorflow_does(padding, strides):
    x, W, b = values(B, 7, 8, 4), values(3, 2, 2, 6), values(6)
    layer = of(layers.Conv2D(6, (3, 2), strides, padding, groups=2, activation="tanh"), W, b)
    pads = [
        same_pads(n, k, s) if padding == "same" else (0, 0) for n, k, s in zip((7, 8), (3, 2), strides, strict=True)
    ]
    close(layer(x), np.tanh(naive.convolve(x, W, b, strides=strides, dilations=(1, 1), pads=pads, groups=2)))


def test_depthwise_filters_of_one_channel_stand_together():
    x, W, b = values(B, 6, 5, 3), values(2, 3, 3, 2), values(6)
    want = naive.convolve(x, W.reshape(2, 3, 1, 6), b, strides=(1, 1), dilations=(1, 1), pads=[(0, 0)] * 2, groups=3)
    close(of(layers.DepthwiseConv2D((2, 3), depth_multiplier=2), W, b)(x), want)
    close(of(layers.DepthwiseConv1D(2, depth_multiplier=2), W[:, 0], b)(x[:, :, 0]), naive.conv1d(x[:, :, 0], W[:, 0].reshape(2, 1, 6), b, groups=3))  # fmt: skip


def test_separable_convolutions_stride_and_dilate_their_first_half_alone():
    x, depth, point, b = values(B, 9, 3), values(3, 3, 2), values(1, 6, 5), values(5)
    inner = naive.conv1d(x, depth.reshape(3, 1, 6), np.zeros(6), dilation=2, groups=3, padding="causal")
    layer = layers.SeparableConv1D(5, 3, padding="causal", dilation_rate=2, depth_multiplier=2)
    close(of(layer, depth, point, b)(x), inner @ point[0] + b)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kind", [layers.MaxPooling2D, layers.AveragePooling2D])
def test_poolings_leave_out_what_padding_added(kind, padding):
    x, size, strides = values(B, 7, 6, 2), (3, 2), (2, 1)
    pads = [same_pads(n, k, s) if padding == "same" else (0, 0) for n, k, s in zip((7, 6), size, strides, strict=True)]
    reduced = np.nanmax if kind is layers.MaxPooling2D else np.nanmean
    found = [reduced(w, axis=(1, 2)) for _, w in naive.windows(x, size, strides, (1, 1), pads, np.nan)]
    want = np.stack(found, 1)
    got = kind(size, strides, padding)(x)
    close(got.reshape(B, -1, 2), want)


def test_margins_and_repeats():
    x = values(B, 5, 6, 2)
    close(layers.ZeroPadding2D(((1, 0), (2, 3)))(x), np.pad(x, [(0, 0), (1, 0), (2, 3), (0, 0)]))
    close(layers.ZeroPadding1D((0, 2))(x[:, 0]), np.pad(x[:, 0], [(0, 0), (0, 2), (0, 0)]))
    close(layers.Cropping2D(((1, 0), (2, 3)))(x), x[:, 1:, 2:3])
    close(layers.Cropping1D((1, 2))(x[:, 0]), x[:, 0, 1:4])
    close(layers.UpSampling2D((2, 3))(x), x.repeat(2, 1).repeat(3, 2))
    close(layers.UpSampling1D(3)(x[:, 0]), x[:, 0].repeat(3, 1))
    with pytest.raises(ShapeError, match=r"'cropping1d'.*leaves nothing"):
        layers.Cropping1D(3)(x[:, 0])


def test_steps_and_batches_of_any_number_run_through_what_changes_them():
    build = Build()
    x = build.input("x", "float32", ("batch", "time", 3))
    y = layers.MaxPooling1D(2)(layers.ZeroPadding1D(1)(layers.UpSampling1D(2)(layers.Cropping1D((1, 0))(x))))
    session = fastlstm.Session(build.model([layers.AveragePooling1D(3, 1, "same")(y)]))
    for rows, steps in ((1, 4), (3, 7)):
        z = values(rows, steps, 3)
        padded = np.pad(z[:, 1:].repeat(2, 1), [(0, 0), (1, 1), (0, 0)])
        pooled = padded.reshape(rows, steps, 2, 3).max(2)
        around = np.pad(pooled, [(0, 0), (1, 1), (0, 0)], constant_values=np.nan)
        close(session.run(z), np.nanmean(np.stack([around[:, k : k + steps] for k in range(3)]), 0))


# ---- attention ------------------------------------------------------------------------------------------
def heads(x: Array, W: Array, b: Array) -> Array:
    return np.einsum("btd,dnh->bnth", x, W) + b[:, None]


@pytest.mark.parametrize("scored", [False, True])
def test_several_heads_attend_by_masks_of_query_and_value(scored):
    """A query for which no value counts gets the mean of all, or nothing where scores are asked for, as in Keras."""
    x, z = values(B, 5, 3), values(B, 6, 4)
    valid, counted = np.arange(5) < np.array([[5], [2], [0]]), np.arange(6) < np.array([[3], [6], [1]])
    arrays = [
        values(3, 2, 5),
        values(2, 5),
        values(4, 2, 5),
        values(2, 5),
        values(4, 2, 7),
        values(2, 7),
        values(2, 7, 3),
        values(3),
    ]
    layer = of(layers.MultiHeadAttention(2, 5, value_dim=7), *arrays)
    build = Build()
    inputs = [build.input("x", "float32", ("B", "T", 3)), build.input("z", "float32", ("B", "S", 4))]
    masks = [build.input("m", "bool", ("B", "T")), build.input("n", "bool", ("B", "S"))]
    q, v = (t.with_mask(m) for t, m in zip(inputs, masks, strict=True))
    out = layer(q, v, use_causal_mask=True, return_attention_scores=scored)
    outputs = list(out) if scored else [out]
    results = fastlstm.Session(build.model(outputs)).run({"x": x, "z": z, "m": valid, "n": counted})
    counts = valid[:, None, :, None] & counted[:, None, None] & np.tri(5, 6, dtype=bool)
    q, k, v = (heads(a, *arrays[2 * n : 2 * n + 2]) for n, a in enumerate((x, z, z)))
    y, shares = naive.attend(q, k, v, scale=5**-0.5, counts=counts)
    if scored:
        shares = shares * counts
        y = shares @ v
        close(results[outputs[1].name], shares)
    close(results[outputs[0].name], np.einsum("bnth,nho->bto", y, arrays[6]) + arrays[7])
    assert outputs[0].mask is not None and outputs[0].mask.name == "m"


def test_causal_attention_takes_any_number_of_steps():
    build = Build()
    x = build.input("x", "float32", ("B", "T", 3))
    session = fastlstm.Session(build.model([layers.Attention()([x, x], use_causal_mask=True)]))
    for steps in (1, 4, 6):
        z = values(B, steps, 3)
        close(session.run(z), naive.attend(z, z, z, counts=np.tri(steps, dtype=bool))[0])


# ---- convolutional recurrence ---------------------------------------------------------------------------
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_conv_lstm_follows_its_equations(backwards, masked):
    """Masked steps keep the states and repeat the output, which is zero before any valid step."""
    x = values(B, T, 5, 6, 2)
    W, U, b = values(3, 2, 2, 12) / 2, values(3, 2, 3, 12) / 2, values(12)
    mask = np.array([[1, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]], bool) if masked else np.ones((B, T), bool)
    layer = layers.ConvLSTM2D(
        3, (3, 2), padding="same", return_sequences=True, return_state=True, go_backwards=backwards
    )
    build = Build()
    t = build.input("x", "float32", ("B", *x.shape[1:]))
    t = t.with_mask(build.input("m", "bool", ("B", T))) if masked else t
    outputs = of(layer, W, U, b)(t)
    results = fastlstm.Session(build.model(list(outputs))).run({"x": x, "m": mask} if masked else {"x": x})
    options = {"strides": (1, 1), "dilations": (1, 1), "pads": [same_pads(5, 3, 1), same_pads(6, 2, 1)]}
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    h = c = y = np.zeros((B, 5, 6, 3))
    ys = []
    for step in reversed(range(T)) if backwards else range(T):
        z = naive.convolve(x[:, step], W, b, **options) + naive.convolve(h, U, b * 0, **options)
        i, f, g, o = np.split(z, 4, -1)
        new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        keep = mask[:, step, None, None, None]
        shown = sigmoid(o) * np.tanh(new)
        h, c, y = np.where(keep, shown, h), np.where(keep, new, c), np.where(keep, shown, y)
        ys.append(y)
    for output, want in zip(outputs, (np.stack(ys, 1), h, c), strict=True):
        close(results[output.name], want)


# ---- every step -----------------------------------------------------------------------------------------
def test_a_layer_applied_to_every_step_gives_what_it_gives_each():
    x = values(B, T, 6, 5)
    for layer in (
        layers.Conv1D(3, 2, activation="relu"),
        layers.LSTM(4),
        layers.Bidirectional(layers.GRU(3, return_sequences=True)),
        layers.GlobalMaxPooling1D(),
        layers.MaxPooling1D(2),
        layers.TimeDistributed(layers.Dense(2)),
        layers.Permute((2, 1)),
        fastlstm.Sequential([fastlstm.Input((6, 5)), layers.GRU(3), layers.Dense(2)]),
    ):
        whole = layers.TimeDistributed(layer)(x)
        close(whole, np.stack([layer(x[:, t]) for t in range(T)], 1))


def hierarchical(rule: str) -> fastlstm.Model:
    """Return words (B, sentences, 5) through an LSTM over the words of each sentence and one over sentences."""
    build = Build()
    words = build.input("words", "int32", ("batch", "time", 5))
    table = of(layers.Embedding(9, 3, mask_zero=True), values(9, 3))
    one = layers.TimeDistributed(of(layers.LSTM(4), values(3, 16), values(4, 16), values(16)))
    one.mask_rule = rule  # type: ignore[assignment]
    y = one(table(words))
    y = y if rule == "inner" else y.with_mask(None)
    return build.model([of(layers.LSTM(2), values(4, 8), values(2, 8), values(8))(y)])


@pytest.mark.parametrize("rule", ["input", "inner"])
def test_a_mask_of_words_reaches_the_layer_over_them(rule):
    """Keras 2 then masks the sentences that hold no word."""
    words = np.random.default_rng(3).integers(0, 9, (B, T, 5))
    words[:, :, 3:] = 0
    words[1, 2:] = 0
    embedded, mask = values(9, 3)[words].reshape(B * T, 5, 3), (words != 0).reshape(B * T, 5)
    _, h, _ = naive.lstm(embedded.swapaxes(0, 1), values(3, 16), values(4, 16), values(16), mask=mask.T)
    sentences, present = h.reshape(B, T, 4).swapaxes(0, 1), mask.reshape(B, T, 5).any(2).T
    _, want, _ = naive.lstm(sentences, values(4, 8), values(2, 8), values(8), mask=present if rule == "inner" else None)
    close(fastlstm.Session(hierarchical(rule)).run(words.astype("i4")), want)


def test_sequences_of_sentences_of_different_numbers_run_as_if_alone():
    session = fastlstm.Session(hierarchical("input"))
    rng = np.random.default_rng(4)
    several = [rng.integers(0, 9, (n, 5)).astype("i4") for n in (4, 2, 3, 2)]
    together = session.run(several)
    for one, got in zip(several, together, strict=True):
        close(got, session.run(one[None])[0])


def test_frames_are_streamed_as_they_arrive():
    """What lies within a step does not keep a model from streaming: a convolution of each frame, then a recurrence."""
    build = Build()
    x = build.input("x", "float32", ("batch", "time", 6, 5, 2))
    y = layers.TimeDistributed(of(layers.Conv2D(3, 3, activation="relu"), values(3, 3, 2, 3), values(3)))(x)
    y = layers.TimeDistributed(layers.GlobalAveragePooling2D())(y)
    y = of(layers.GRU(4, return_sequences=True), values(3, 12), values(4, 12), values(2, 12))(y)
    session = fastlstm.Session(build.model([y]))
    frames = values(2, 5, 6, 5, 2)
    whole, stream = session.run(frames), session.stream(batch=2)
    for t in range(5):
        np.testing.assert_array_equal(stream.step(frames[:, t]), whole[:, t])


# ---- refusals -------------------------------------------------------------------------------------------
REFUSED: list[tuple[Any, tuple[int, ...], type[FastLSTMError], str]] = [
    (lambda: layers.Conv2D(2, 3, padding="causal"), (), UnsupportedError, "padding 'causal'.*'valid' and 'same'"),
    (lambda: layers.Conv2D(2, 3, data_format="channels_first"), (), UnsupportedError, "data_format='channels_first'"),
    (lambda: layers.Conv2D(2, (3, 3, 3)), (), InputError, r"kernel_size=\(3, 3, 3\)"),
    (lambda: layers.Conv2D(2, 3), (2, 5, 6), ShapeError, "height, width, channels"),
    (lambda: layers.ZeroPadding2D(((1, 0), (2, -3))), (), InputError, "padding holds"),
    (lambda: layers.UpSampling2D(2, interpolation="bilinear"), (), UnsupportedError, "interpolation='bilinear'"),
    (lambda: layers.MultiHeadAttention(2, 3, attention_axes=(1, 2)), (), UnsupportedError, r"attention_axes=\(1, 2\)"),
    (lambda: layers.MultiHeadAttention(2, 3, output_shape=(2, 3)), (), UnsupportedError, r"output_shape=\(2, 3\)"),
    (lambda: layers.MultiHeadAttention(2, 3), (2, 5, 6), InputError, "a query and a value"),
    (lambda: layers.ReLU(threshold=-1.0), (), InputError, "threshold=-1.0"),
    (lambda: layers.Softmax(axis=[1, 2]), (), UnsupportedError, r"axis=\[1, 2\]"),
    (lambda: layers.Normalization(mean=0.0), (), InputError, "mean and variance"),
    (lambda: layers.TimeDistributed(layers.GRU(2, return_state=True)), (2, 5, 6, 3), InputError, "several outputs"),
    (lambda: layers.LSTM(2, activation="softmax"), (), UnsupportedError, "activation 'softmax'"),
]


@pytest.mark.parametrize(("make", "shape", "kind", "words"), REFUSED)
def test_what_is_not_honoured_is_refused_by_layer_argument_and_value(make, shape, kind, words):
    given = values(*shape) if shape else None
    with pytest.raises(kind, match=rf"layer '.*{words}"):
        make()(given)


def test_a_mask_of_one_value_a_step_cannot_reach_a_recurrence_within():
    build = Build()
    x = build.input("x", "float32", ("B", 4, 5, 3)).with_mask(build.input("m", "bool", ("B", 4)))
    with pytest.raises(UnsupportedError, match="a LSTM that would be given a mask"):
        layers.TimeDistributed(layers.LSTM(2))(x)

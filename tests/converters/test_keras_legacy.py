"""Files of older versions of Keras: names and layouts of Keras 1, merged branches, weights of cuDNN and Theano.

Keras 1 does not install any more. Its files are written here by its rules; their numbers come from the oracle, and tf_keras, which
still reads weights of Keras 1 and cuDNN, converts the same arrays.
"""

import importlib

import naive
import numpy as np
import pytest

pytest.importorskip("pyfive")
pytest.importorskip("h5py")

from test_keras_file import h5_file, layer, sequential

import fastlstm
from fastlstm.converters.from_keras import from_keras
from fastlstm.converters.keras_file import read_keras_file
from fastlstm.converters.keras_legacy import modern_weights
from fastlstm.errors import FastLSTMError, UnsupportedError

RNG = np.random.default_rng(11)
HARD = ("HardSigmoid", 0.2, 0.5)


def values(*shape):
    return (0.5 * RNG.standard_normal(shape)).astype(np.float32)


def listed(*layers):
    """Return the configuration of a Sequential as Keras 1 stored it: a bare list."""
    return {"class_name": "Sequential", "config": list(layers)}


def named(name, arrays, words):
    return {f"{name}_{word}": array for word, array in zip(words, arrays, strict=True)}


def recurrent(class_name, name, units, **more):
    """Return the configuration of a recurrent layer of Keras 1.2."""
    return layer(
        class_name, name, output_dim=units, init="glorot_uniform", inner_init="orthogonal", forget_bias_init="one", activation="tanh",
        inner_activation="hard_sigmoid", W_regularizer=None, U_regularizer=None, b_regularizer=None, dropout_W=0.1, dropout_U=0.0,
        consume_less="cpu", go_backwards=False, return_sequences=False, stateful=False, unroll=False, input_dim=3, input_length=None,
        trainable=True, **more,
    )  # fmt: skip


def first(config, *shape, dtype="float32"):
    config["config"] |= {"batch_input_shape": [None, *shape], "input_dtype": dtype}
    return config


def gates(order, I, H):
    """Return {gate: (W, U, b)} and the arrays as a file lists them."""
    made = {gate: (values(I, H), values(H, H), values(H)) for gate in order}
    return made, [array for gate in order for array in made[gate]]


def joined(made, order):
    return [np.concatenate([made[gate][role] for gate in order], axis=-1) for role in range(3)]


def run(data, *inputs):
    session = fastlstm.Session(from_keras(data))
    results = session.run({spec.name: x for spec, x in zip(session.inputs, inputs, strict=True)})
    (y,) = results.values()
    return y


def close(got, want, atol=1e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)


# ---- Keras 1 --------------------------------------------------------------------------------------------
def test_lstm_of_keras_1_has_twelve_arrays_in_the_order_i_c_f_o():
    made, arrays = gates("icfo", 3, 5)
    words = [f"{role}_{gate}" for gate in "icfo" for role in "WUb"]
    W, b = values(5, 2), values(2)
    dense = layer("Dense", "dense_1", output_dim=2, init="uniform", activation="linear", bias=True, input_dim=None)
    config = listed(first(recurrent("LSTM", "lstm_1", 5), 6, 3), layer("Dropout", "dropout_1", p=0.5), dense)
    stored = {"lstm_1": named("lstm_1", arrays, words), "dropout_1": {}, "dense_1": named("dense_1", (W, b), "Wb")}
    x = values(4, 9, 3)  # the 6 steps of the file do not bind
    *_, h, _ = naive.lstm(x.swapaxes(0, 1), *joined(made, "ifco"), activations=(HARD, naive.TANH, naive.TANH))
    close(run(h5_file(stored, config), x), h @ W + b)


def test_gru_of_keras_1_has_nine_arrays_in_the_order_z_r_h():
    made, arrays = gates("zrh", 3, 4)
    words = [f"{role}_{gate}" for gate in "zrh" for role in "WUb"]
    config = listed(first(recurrent("GRU", "gru_1", 4), None, 3))
    x = values(2, 5, 3)
    W, U, b = joined(made, "zrh")
    _, h = naive.gru(x.swapaxes(0, 1), W, U, b, np.zeros(4), reset="before", activations=(HARD, naive.TANH))
    close(run(h5_file({"gru_1": named("gru_1", arrays, words)}, config), x), h)


def test_three_arrays_that_keras_1_wrote_for_a_gpu_are_in_order_already():
    W, U, b = values(3, 20), values(5, 20), values(20)
    config = listed(first(recurrent("LSTM", "lstm_1", 5), None, 3))
    x = values(2, 4, 3)
    *_, h, _ = naive.lstm(x.swapaxes(0, 1), W, U, b, activations=(HARD, naive.TANH, naive.TANH))
    close(run(h5_file({"lstm_1": named("lstm_1", (W, U, b), "WUb")}, config), x), h)


def test_bidirectional_of_keras_1_masks_and_merges_as_it_did():
    """A masked step repeats the output before it: zeros came with TensorFlow's Keras."""
    ahead, arrays = gates("icfo", 4, 3)
    back, others = gates("icfo", 4, 3)
    table = values(7, 4)
    words = [f"{role}_{gate}" for gate in "icfo" for role in "WUb"]
    inner = recurrent("LSTM", "lstm_1", 3)
    inner["config"]["return_sequences"] = True
    embedding = first(
        layer(
            "Embedding", "e", input_dim=7, output_dim=4, init="uniform", mask_zero=True, dropout=0.0, W_regularizer=None
        ),
        None,
        dtype="int32",
    )
    config = listed(embedding, layer("Bidirectional", "b", layer=inner, merge_mode="sum", input_dim=None))
    stored = {
        "e": {"e_W": table},
        "b": named("forward_lstm_1", arrays, words) | named("backward_lstm_1", others, words),
    }
    ids = np.array([[3, 1, 0, 5, 0], [2, 2, 6, 0, 0]], np.int32)
    x, mask = table[ids].swapaxes(0, 1), (ids != 0).T
    options = {"activations": (HARD, naive.TANH, naive.TANH), "mask": mask, "masked": "carry"}
    one = naive.lstm(x, *joined(ahead, "ifco"), **options)[0]
    two = naive.lstm(x, *joined(back, "ifco"), **options, reverse=True)[0]
    close(run(h5_file(stored, config), ids), (one + two).swapaxes(0, 1))


def test_layers_of_keras_1_around_the_recurrence():
    K, k, D, d = values(3, 1, 2, 4), values(4), values(4, 3), values(3)
    gamma, beta, mean, variance = values(4), values(4), values(4), np.abs(values(4)) + 0.5
    config = listed(
        first(layer("Convolution1D", "c", nb_filter=4, filter_length=3, border_mode="same", subsample_length=1, init="uniform", activation="relu",
                    bias=True, input_dim=2, input_length=None, W_regularizer=None, b_regularizer=None, W_constraint=None, b_constraint=None), None, 2),
        layer("BatchNormalization", "n", mode=0, axis=-1, momentum=0.99, epsilon=1e-3, gamma_init="one", beta_init="zero", gamma_regularizer=None),
        layer("GaussianNoise", "g", sigma=0.1), layer("TimeDistributedDense", "t", output_dim=3, activation="tanh", bias=True, input_dim=None, init="uniform"),
    )  # fmt: skip
    norm = dict(
        zip(("n_gamma", "n_beta", "n_running_mean", "n_running_std"), (gamma, beta, mean, variance), strict=True)
    )
    stored = {"c": {"c_W": K, "c_b": k}, "n": norm, "g": {}, "t": {"t_W": D, "t_b": d}}
    x = values(2, 6, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    y = np.maximum(sum(padded[:, j : j + 6] @ K[j, 0] for j in range(3)) + k, 0)
    y = (y - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    want = np.tanh(y @ D + d)
    close(run(h5_file(stored, config, backend=b"tensorflow"), x), want)
    turned = stored | {"c": {"c_W": K[::-1].copy(), "c_b": k}}
    close(run(h5_file(turned, config, backend=b"theano"), x), want)
    before_1_1 = stored | {"c": {"c_W": K.transpose(3, 2, 0, 1).copy(), "c_b": k}}
    close(run(h5_file(before_1_1, config, backend=b"tensorflow"), x), want)
    with pytest.raises(
        UnsupportedError, match="'c': a convolution in a file of Keras 1 that does not name its backend"
    ):
        from_keras(h5_file(stored, config))


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", "max"])
def test_a_sequential_that_merges_two_branches(mode):
    W, U, A, C = values(3, 4), values(5, 4), values(4), values(4)
    branches = [
        listed(first(layer("Dense", name, output_dim=4, activation="tanh", bias=True), size))
        for name, size in (("left", 3), ("right", 5))
    ]
    merge = layer("Merge", "merge_1", layers=branches, mode=mode, mode_type="raw", concat_axis=-1, dot_axes=-1,
                  output_shape=None, output_shape_type="raw", output_mask=None, output_mask_type="raw", arguments={})  # fmt: skip
    width = 8 if mode == "concat" else 4
    E, e = values(width, 2), values(2)
    config = listed(merge, layer("Dense", "out", output_dim=2, activation="linear", bias=True))
    stored = {"left": {"l_W": W, "l_b": A}, "right": {"r_W": U, "r_b": C}, "out": {"o_W": E, "o_b": e}}
    x, z = values(2, 3), values(2, 5)
    a, b = np.tanh(x @ W + A), np.tanh(z @ U + C)
    both = {
        "concat": np.concatenate([a, b], -1),
        "sum": a + b,
        "mul": a * b,
        "ave": (a + b) / 2,
        "max": np.maximum(a, b),
    }
    close(run(h5_file(stored, config), x, z), both[mode] @ E + e)


def test_a_functional_model_that_merges():
    W, b = values(3, 4), values(4)
    parts = [
        layer("InputLayer", "x", batch_input_shape=[None, 3], input_dtype="float32", sparse=False) | {"inbound_nodes": []},
        layer("Dense", "d", output_dim=4, activation="relu", bias=True) | {"inbound_nodes": [[["x", 0, 0]]]},
        layer("Merge", "m", mode="sum", mode_type="raw", concat_axis=-1, dot_axes=-1, output_shape=None)
        | {"inbound_nodes": [[["d", 0, 0], ["d", 1, 0]]]},
    ]  # fmt: skip
    parts[1]["inbound_nodes"].append([["x", 0, 0]])
    config = layer("Model", "net", layers=parts, input_layers=[["x", 0, 0]], output_layers=[["m", 0, 0]])
    x = values(2, 3)
    close(run(h5_file({"d": {"d_W": W, "d_b": b}, "m": {}}, config), x), 2 * np.maximum(x @ W + b, 0))


def test_nested_models_of_keras_1_give_each_weight_to_its_layer():
    made = {name: values(2, 2) for name in ("d_1", "d_10")}
    inner = listed(
        first(layer("Dense", "d_1", output_dim=2, bias=False, activation="linear"), 2),
        layer("Dense", "d_10", output_dim=2, bias=False, activation="tanh"),
    )
    inner["config"] = {"name": "inner", "layers": inner["config"]}
    data = h5_file({"inner": {f"{name}_W": array for name, array in made.items()}}, listed(inner))
    x = values(3, 2)
    close(run(data, x), np.tanh(x @ made["d_1"] @ made["d_10"]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (layer("Merge", "m", layers=[], mode="cos", mode_type="raw"), "'m'.*mode='cos'"),
        (layer("Merge", "m", layers=[], mode="code", mode_type="lambda"), "'m'.*mode='code'"),
        (first(layer("BatchNormalization", "n", mode=1, axis=-1, epsilon=1e-3), 3), "'n'.*mode=1"),
        (first(layer("MaxoutDense", "x", output_dim=3, nb_feature=4), 3), "'x'.*'MaxoutDense'"),
        (first(layer("Dense", "d", output_dim=3, activation="tanh", unknown=5), 3), "'d'.*unknown=5"),
    ],
    ids=lambda part: part["class_name"] if isinstance(part, dict) else "",
)  # fmt: skip
def test_what_keras_1_had_and_we_do_not_is_refused_by_name(config, words):
    with pytest.raises(UnsupportedError, match=words):
        from_keras(h5_file({}, listed(config), names=[]))


def test_a_merge_of_nothing_is_one_clear_error():
    for branches in ([], None, [{"class_name": "Sequential", "config": []}], [5], 3):
        config = listed(layer("Merge", "m", layers=branches, mode="sum"))
        with pytest.raises(FastLSTMError) as caught:
            from_keras(h5_file({}, config, names=[]))
        assert "\n" not in str(caught.value)


# ---- cuDNN ----------------------------------------------------------------------------------------------
def cudnn(kernel, recurrent, count):
    """Return matrices as cuDNN keeps them: each gate's transposed."""
    turned = [np.ascontiguousarray(part.T).reshape(-1).reshape(part.shape) for part in np.split(kernel, count, axis=1)]
    return np.hstack(turned), np.hstack([part.T for part in np.split(recurrent, count, axis=1)])


def test_cudnn_lstm_has_transposed_gates_and_two_biases():
    W, U, b, extra = values(3, 20), values(5, 20), values(20), values(20)
    config = sequential(
        layer(
            "LSTM", "l", units=5, activation="tanh", recurrent_activation="sigmoid", batch_input_shape=[None, None, 3]
        )
    )
    data = h5_file(
        {"l": dict(zip("abc", (*cudnn(W, U, 4), np.concatenate([b, extra])), strict=True))},
        config,
        keras_version="2.1.5",
    )
    x = values(2, 6, 3)
    *_, h, _ = naive.lstm(x.swapaxes(0, 1), W, U, b + extra)
    close(run(data, x), h)


def test_cudnn_gru_resets_after_and_has_two_biases():
    W, U, b = values(3, 12), values(4, 12), values(2, 12)
    config = sequential(
        layer(
            "GRU",
            "g",
            units=4,
            activation="tanh",
            recurrent_activation="sigmoid",
            reset_after=True,
            batch_input_shape=[None, None, 3],
        )
    )
    data = h5_file(
        {"g": dict(zip("abc", (*cudnn(W, U, 3), b.reshape(-1)), strict=True))}, config, keras_version="2.1.5"
    )
    x = values(2, 6, 3)
    merged = np.concatenate([b[0, :8] + b[1, :8], b[0, 8:]])
    _, h = naive.gru(x.swapaxes(0, 1), W, U, merged, b[1, 8:], reset="after")
    close(run(data, x), h)


# ---- tf_keras converts the same arrays ------------------------------------------------------------------
@pytest.mark.parametrize("version", ["1", "2.1.5"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_weights_are_converted_as_tf_keras_converts_them(kind, version, wrapped):
    tf_keras = pytest.importorskip("tf_keras")
    load = importlib.import_module("tf_keras.src.saving.legacy.hdf5_format").preprocess_weights_for_loading
    # a GRU of Keras 1 resets before
    theirs = getattr(tf_keras.layers, kind)(4, **({"reset_after": False} if (kind, version) == ("GRU", "1") else {}))
    theirs = tf_keras.layers.Bidirectional(theirs) if wrapped else theirs
    theirs.build((None, 5, 3))
    count = 4 if kind == "LSTM" else 3
    of_gates = [(3, 4), (4, 4), (4,)] * count
    shapes = of_gates if version == "1" else [(3, 4 * count), (4, 4 * count), (8 * count,)]
    arrays = [values(*shape) for shape in shapes * (2 if wrapped else 1)]
    ours = layer("Bidirectional", "b", layer=layer(kind, "it")) if wrapped else layer(kind, "it")
    found = [array for _, array in modern_weights(ours, [("w", array) for array in arrays], "tensorflow")]
    wanted = load(theirs, list(arrays), version, "tensorflow")
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def test_names_of_what_was_joined_are_those_of_the_first():
    _, arrays = gates("icfo", 3, 2)
    config = listed(first(recurrent("LSTM", "l", 2), None, 3))
    words = [f"{role}_{gate}" for gate in "icfo" for role in "WUb"]
    found = read_keras_file(h5_file({"l": named("l", arrays, words)}, config)).layer_weights("l")
    assert [name for name, _ in found] == ["l_W_i", "l_U_i", "l_b_i"]

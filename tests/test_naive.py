"""Prove the oracle right: tests/naive.py against ONNX Runtime, Keras and PyTorch, and by hand where these are wrong."""

import itertools
import os

import naive
import numpy as np
import pytest
from naive import SIGMOID, TANH

T, B, IN, H = 5, 3, 2, 7
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
X = np.random.default_rng(1).integers(-128, 128, (T, B, IN)) / 64
LENGTHS = np.array([3, 0, 5])
HOLES = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], bool)  # start and inside; end; everywhere
EXACT, FLOAT = 1e-12, 2e-6  # engines that compute in float64, in float32
RELU, HARD, LEAKY, ELU = ("Relu", None, None), ("HardSigmoid", 0.3, 0.4), ("LeakyRelu", 0.25, None), ("Elu", 0.7, None)
ONNX_ACTIVATIONS = [TANH, SIGMOID, RELU, HARD, LEAKY, ELU, ("Softsign", None, None), ("Softplus", None, None),
                    ("Affine", 0.4, 0.1), ("ThresholdedRelu", 0.2, None), ("ScaledTanh", 0.8, 1.2)]  # fmt: skip
SMALL = (SIGMOID, ("Affine", 0.3, 0.0), TANH)  # |g| <= 0.15 and |c| <= 0.5, where ONNX Runtime's forgotten clip is idle
ONNX_ATTRIBUTES = [  # the node's attributes, and what says the same to the oracle
    ("GRU", {"linear_before_reset": 1}, {"reset": "after"}),
    ("GRU", {"linear_before_reset": 1, "clip": 0.4}, {"reset": "after", "clip": 0.4}),
    ("GRU", {"linear_before_reset": 0, "clip": 0.4}, {"reset": "before", "clip": 0.4}),
    ("RNN", {"clip": 0.4}, {"clip": 0.4}),
    ("LSTM", {}, {"peepholes": True}),
    ("LSTM", {"input_forget": 1}, {"input_forget": True, "peepholes": True}),
    ("LSTM", {"clip": 0.5}, {"clip": 0.5, "peepholes": True, "activations": SMALL}),
    ("LSTM", {}, {"activations": (HARD, LEAKY, ("ScaledTanh", 0.8, 1.2))}),  # consume alpha and beta in order
]


def draw(*shape, seed, scale=0.5):
    """Distinct numbers that float32 holds exactly, so that every engine starts from the same ones."""
    return np.random.default_rng(seed).uniform(-scale, scale, shape).astype(np.float32).astype(np.float64)


def weights(kind, seed):
    """W, U, input bias, recurrent bias in the project's gate order."""
    G = GATES[kind] * H
    return draw(IN, G, seed=seed), draw(H, G, seed=seed + 1), draw(G, seed=seed + 2), draw(G, seed=seed + 3)


def initial(kind, D):
    return {k: draw(D, B, H, seed=n) for n, k in enumerate(("h0", "c0")[: 2 if kind == "LSTM" else 1], 5)}


def oracle(kind, weights, x, **options):
    W, U, wb, rb = weights
    if kind == "GRU":
        return naive.gru(x, W, U, wb + np.r_[rb[: 2 * H], np.zeros(H)], rb[2 * H :], **options)
    return {"LSTM": naive.lstm, "RNN": naive.rnn}[kind](x, W, U, wb + rb, **options)


def blocks(a, order):
    """Reorder the gate blocks of the last axis."""
    return np.concatenate([np.split(a, len(order), axis=-1)[k] for k in order], axis=-1)


def close(got, want, tolerance):
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(g), w, rtol=tolerance, atol=tolerance)


def run_ort(kind, weights, feeds, attributes):
    """Run a one-node model in float32; weights and feeds have a leading axis of directions."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    order = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}[kind]  # LSTM i f g o -> i o f c; GRU is z r n in both
    W, R, Wb, Rb = (np.stack([blocks(a, order).T for a in arrays]) for arrays in zip(*weights, strict=True))
    feeds = {"X": X, "W": W, "R": R, "B": np.concatenate([Wb, Rb], axis=1)} | feeds
    feeds = {k: v.astype(np.int32 if k == "sequence_lens" else np.float32) for k, v in feeds.items()}
    slots = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    ranks = {"Y": 4, "Y_h": 3, "Y_c": 3} if kind == "LSTM" else {"Y": 4, "Y_h": 3}
    slots = [k if k in feeds else "" for k in (slots if kind == "LSTM" else slots[:6])]
    node = onnx.helper.make_node(kind, slots, list(ranks), hidden_size=H, **attributes)
    info, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs = [info(k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()]
    graph = onnx.helper.make_graph([node], "g", inputs, [info(k, float32, [None] * rank) for k, rank in ranks.items()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def check_ort(kind, direction, *, lengths=None, states=False, peepholes=False, activations=(), onnx=(), **options):
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    ws = [weights(kind, seed=10 * d + 10) for d in range(len(ways))]
    extra = initial(kind, len(ways)) if states else {}
    extra |= {"P": draw(len(ways), 3, H, seed=90)} if peepholes else {}
    feeds = {"initial_" + k[0]: v for k, v in extra.items() if k != "P"}
    feeds |= {"P": extra["P"][:, [0, 2, 1]].reshape(-1, 3 * H)} if peepholes else {}  # i f o -> i o f
    attributes = {"direction": direction} | dict(onnx)
    if lengths is not None:
        feeds["sequence_lens"], options["mask"] = lengths, naive.lengths_mask(lengths, T)
    if activations:  # alpha and beta hold a value only for functions that have one
        options["activations"] = activations
        columns = zip(*activations * len(ways), strict=True)
        for key, column in zip(("activations", "activation_alpha", "activation_beta"), columns, strict=True):
            attributes |= {key: [v for v in column if v is not None]} if any(v is not None for v in column) else {}
    Y, *finals = run_ort(kind, ws, feeds, attributes)
    for d, reverse in enumerate(ways):
        given = ({"reset": "before"} if kind == "GRU" else {}) | options | {k: v[d] for k, v in extra.items()}
        want = oracle(kind, ws[d], X, reverse=reverse, masked="zero", length0="zero", **given)
        close([Y[:, d], *(f[d] for f in finals)], want, FLOAT)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", GATES)
def test_ort_directions_lengths_and_initial_states(kind, direction):
    for lengths, states in itertools.product((None, LENGTHS), (False, True)):
        check_ort(kind, direction, lengths=lengths, states=states)


@pytest.mark.parametrize(("kind", "onnx", "options"), ONNX_ATTRIBUTES)
def test_ort_attributes(kind, onnx, options):
    check_ort(kind, "bidirectional", lengths=LENGTHS, states=True, onnx=onnx, **options)


@pytest.mark.parametrize("activation", ONNX_ACTIVATIONS, ids=lambda a: a[0])
@pytest.mark.parametrize("kind", GATES)
def test_ort_activations_in_every_place(kind, activation):
    default = {"LSTM": (SIGMOID, TANH, TANH), "GRU": (SIGMOID, TANH), "RNN": (TANH,)}[kind]
    for place in range(len(default)):
        check_ort(kind, "forward", activations=(*default[:place], activation, *default[place + 1 :]))


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("masked outputs before the first valid step follow Keras on TensorFlow")
    return keras


def run_keras(layer, arrays, x, **call):
    """Call a float64 layer that holds the given weights; its gates are i f c o and z r h, as ours."""
    layer.build(x.shape)
    layer.set_weights(arrays)
    return layer(x, **call)


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("masked", [None, "carry", "zero"])
@pytest.mark.parametrize(("kind", "reset"), [("LSTM", None), ("GRU", "after"), ("GRU", "before"), ("RNN", None)])
def test_keras_masks_states_and_go_backwards(keras, kind, reset, masked, states, go_backwards):
    W, U, wb, rb = weights(kind, seed=10)
    rb *= reset == "after"  # the others have one bias
    given = {"mask": HOLES if masked else None} | {k: v[0] for k, v in (initial(kind, 1) if states else {}).items()}
    layer = {"LSTM": keras.layers.LSTM, "GRU": keras.layers.GRU, "RNN": keras.layers.SimpleRNN}[kind](
        H, dtype="float64", return_sequences=True, return_state=True, go_backwards=go_backwards,
        zero_output_for_mask=masked == "zero", **({"reset_after": reset == "after"} if reset else {}))  # fmt: skip
    got = run_keras(layer, [W, U, np.stack([wb, rb]) if reset == "after" else wb], X.swapaxes(0, 1),
                    mask=HOLES.T if masked else None, initial_state=list(given.values())[1:] or None)  # fmt: skip
    given |= {"reset": reset} if reset else {}
    ys, *finals = oracle(kind, (W, U, wb, rb), X, masked=masked or "carry", reverse=go_backwards, **given)
    close(got, [(ys[::-1] if go_backwards else ys).swapaxes(0, 1), *finals], EXACT)  # Keras returns processing order


def test_keras_bidirectional_zeroes_masked_outputs(keras):
    ways = {False: weights("GRU", seed=10), True: weights("GRU", seed=20)}
    layer = keras.layers.Bidirectional(keras.layers.GRU(H, dtype="float64", return_sequences=True), dtype="float64")
    arrays = [a for W, U, wb, rb in ways.values() for a in (W, U, np.stack([wb, rb]))]
    ys = [oracle("GRU", w, X, mask=HOLES, masked="zero", reverse=reverse)[0] for reverse, w in ways.items()]
    close([run_keras(layer, arrays, X.swapaxes(0, 1), mask=HOLES.T)], [np.concatenate(ys, 2).swapaxes(0, 1)], EXACT)


def test_keras_activations(keras):
    x = draw(40, 50, seed=3, scale=9)
    names = ["Exponential", "Selu", "Silu", "Swish", "Relu6", "Mish", "Softplus", "Relu", "Softsign", "Tanh", "Sigmoid"]
    cases = {k.lower(): (k, None, None) for k in names} | {"hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5)}
    cases |= {"linear": ("Identity", None, None), "hard_silu": ("HardSilu", None, None), "elu": ("Elu", 1, None)}
    for name, activation in cases.items():
        close([keras.activations.get(name)(keras.ops.convert_to_tensor(x))], [naive.activate(activation, x)], EXACT)
    close([keras.activations.leaky_relu(x, 0.25)], [naive.activate(LEAKY, x)], EXACT)


@pytest.mark.parametrize("length", [T, T + 1])
def test_keras_layers_around_the_recurrent_ones(keras, length):
    x, kernel, b, ids = draw(B, length, 4, seed=1), draw(3, 4, 6, seed=2), draw(6, seed=3), np.array([[3, 0], [1, 1]])
    W, norm, layers, options = kernel[0], list(np.abs(draw(4, 4, seed=4))), keras.layers, {"dtype": "float64"}
    close([run_keras(layers.Dense(6, **options), [W, b], x)], [naive.dense(x, W, b)], EXACT)
    close([run_keras(layers.Embedding(4, 6, **options), [W], ids)], [naive.embedding(ids, W)], EXACT)
    close([run_keras(layers.Softmax(axis=1, **options), [], x)], [naive.softmax(x, axis=1)], EXACT)
    close([run_keras(layers.LayerNormalization(**options), norm[:2], x)], [naive.layer_norm(x, *norm[:2])], EXACT)
    close([run_keras(layers.BatchNormalization(**options), norm, x)], [naive.batch_norm(x, *norm)], EXACT)
    for padding, (stride, dilation) in itertools.product(("valid", "same", "causal"), ((1, 1), (2, 1), (3, 1), (1, 2))):
        layer = layers.Conv1D(6, 3, stride, padding, dilation_rate=dilation, **options)
        want = naive.conv1d(x, kernel, b, stride=stride, dilation=dilation, padding=padding)
        close([run_keras(layer, [kernel, b], x)], [want], EXACT)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("kind", "activation"), [("LSTM", None), ("GRU", None), ("RNN", TANH), ("RNN", RELU)])
def test_torch_bidirectional_with_packed_sequences(kind, activation, packed):
    torch = pytest.importorskip("torch")
    order = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "RNN": (0,)}[kind]  # torch has LSTM i f g o, GRU r z n
    options = {"nonlinearity": activation[0].lower()} if activation else {}
    module = getattr(torch.nn, kind)(IN, H, bidirectional=True, dtype=torch.float64, **options)
    ws, lengths = [weights(kind, seed=10), weights(kind, seed=20)], np.array([3, 1, 5] if packed else [T] * B)
    arrays = [torch.tensor(blocks(a, order).T) for direction in ws for a in direction]
    module.load_state_dict(dict(zip(module.state_dict(), arrays, strict=True)))  # W, U, wb, rb; then reverse
    states, rnn, x = initial(kind, 2), torch.nn.utils.rnn, torch.tensor(X)
    x = rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False) if packed else x
    h = tuple(torch.tensor(s) for s in states.values())
    ys, finals = module(x, h if kind == "LSTM" else h[0])
    ys = (rnn.pad_packed_sequence(ys)[0] if packed else ys).detach()
    given = {"activations": (activation,)} if activation else {}
    for d, y in enumerate(ys.split(H, dim=2)):
        given |= {k: s[d] for k, s in states.items()}
        want = oracle(kind, ws[d], X, mask=naive.lengths_mask(lengths, T), masked="zero", reverse=d == 1, **given)
        close([y, *(f[d].detach() for f in (finals if kind == "LSTM" else [finals]))], want, EXACT)


def test_torch_grouped_conv1d_and_gelu():
    torch = pytest.importorskip("torch")
    x, kernel, b = draw(B, 8, 4, seed=1), draw(3, 2, 6, seed=2), draw(6, seed=3)
    for stride, dilation in ((1, 1), (2, 1), (3, 2)):
        options = {"stride": stride, "dilation": dilation, "groups": 2}
        got = torch.nn.functional.conv1d(torch.tensor(x.swapaxes(1, 2)), *map(torch.tensor, (kernel.T, b)), **options)
        close([got.swapaxes(1, 2)], [naive.conv1d(x, kernel, b, **options)], EXACT)
    for approximate, name in (("none", "Gelu"), ("tanh", "GeluTanh")):  # Keras on TensorFlow has float32 constants here
        got = torch.nn.functional.gelu(torch.tensor(9 * x), approximate=approximate)
        close([got], [naive.activate((name, None, None), 9 * x)], EXACT)


def test_clip_bounds_the_cell_before_h():
    zeros = np.zeros((1, 4))  # c = 0.5 * 3 + 0.5 * 0 is bounded to 1 before tanh; ONNX Runtime forgets this one
    _, h, c = naive.lstm(zeros[None, :, :1], zeros, zeros, zeros[0], c0=np.array([[3.0]]), clip=1.0)
    close([h, c], [[[0.5 * np.tanh(1.0)]], [[1.5]]], EXACT)


@pytest.mark.parametrize("name", naive.ACTIVATIONS)
def test_activations_keep_float32_nan_and_silence(name):
    x = np.array([-3e4, -100, -0.0, 0.5, 100, 3e4, np.nan], np.float32)
    with np.errstate(all="raise", under="ignore"):
        y = naive.activate((name, np.float64(0.3), np.float64(0.4)), x, clip=np.float64(2e4))
    assert y.dtype == np.float32
    assert np.isnan(y).tolist() == [False] * 6 + [True]


def test_float32_mode_never_widens():
    for kind in GATES:
        got = oracle(kind, weights(kind, 10), X, mask=HOLES, clip=np.float64(0.7), dtype=np.float32)
        assert {a.dtype for a in got} == {np.dtype(np.float32)}
        close(got, oracle(kind, weights(kind, 10), X, mask=HOLES, clip=0.7), FLOAT)
    x, kernel, b, g = draw(B, T, 4, seed=1), draw(3, 4, 6, seed=2), draw(6, seed=3), np.abs(draw(4, seed=4))
    cases = [(naive.dense, x, kernel[0], b), (naive.embedding, [1], kernel[0]), (naive.conv1d, x, kernel, b)]
    for f, *args in [*cases, (naive.softmax, x), (naive.layer_norm, x, g, g), (naive.batch_norm, x, g, g, g, g)]:
        assert f(*args, dtype=np.float32).dtype == np.float32

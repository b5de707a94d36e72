"""Keras's layers as builders: each against Keras's definition written down in NumPy, and what they refuse, by name."""

import math
from collections.abc import Callable, Sequence

import naive
import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.layers import Build, Tensor
from fastlstm.layers.activations import KERAS

B, T, I, H = 4, 6, 3, 5
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
Array = np.ndarray
RNG = np.random.default_rng(0)
SEED = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order_of_tests():
    RNG.bit_generator.state = SEED


def weights(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) / 2).astype("f4")


def of(layer: layers.Layer, *arrays: Array) -> layers.Layer:
    layer.set_weights(arrays)
    return layer


def model(
    call: Callable[[Tensor], Tensor | Sequence[Tensor]], shape: tuple = ("batch", "time", I), dtype: str = "float32"
) -> fastlstm.Model:
    build = Build()
    y = call(build.input("x", dtype, shape))
    return build.model(list(y) if isinstance(y, tuple | list) else [y])


def run(call: Callable, x: Array, shape: tuple | None = None) -> list[Array]:
    """Return the outputs of layers on x, in order; its last axis is fixed, the others are free."""
    free = ("batch", "time", *(f"d{k}" for k in range(3)))[: x.ndim - 1]
    fixed = shape or ((*free, x.shape[-1]) if x.dtype.kind == "f" else (*free, "time")[: x.ndim])
    return list(fastlstm.Session(model(call, fixed, x.dtype.name)).run({"x": x}).values())


def close(got: Array, want: Array, atol: float = 3e-6, rtol: float = 1e-6) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


# ---- activations --------------------------------------------------------------------------------------
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x < 0, 0.2 * x, x),
    "elu": lambda x: np.where(x < 0, np.expm1(x), x),
    "celu": lambda x: np.where(x < 0, np.expm1(x), x),
    "selu": lambda x: 1.05070098 * np.where(x < 0, 1.67326324 * np.expm1(x), x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "sparse_sigmoid": lambda x: np.clip(x / 2 + 0.5, 0, 1),
    "log_sigmoid": lambda x: -np.log1p(np.exp(-x)),
    "tanh": np.tanh,
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "softsign": lambda x: x / (1 + abs(x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "exponential": np.exp,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / 2**0.5)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "squareplus": lambda x: (x + np.sqrt(x * x + 4)) / 2,
}


def test_every_activation_that_is_known_is_held_to_its_definition():
    assert set(ACTIVATIONS) == set(KERAS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_keras_s_in_a_layer_of_its_own_in_dense_and_in_a_cell(name):
    x = (2 * RNG.standard_normal((B, T, I))).astype("f4")
    x[0, 0] = 0
    define, wide = ACTIVATIONS[name], x.astype("f8")
    (got,) = run(layers.Activation(name), x)
    close(got, define(wide), 5e-6, 1e-5)
    W, U, b = weights(I, H), weights(H, H), weights(H)
    (got,) = run(of(layers.Dense(H, activation=name), W, b), x)
    close(got, define(naive.dense(wide, W, b)), 5e-6, 1e-5)
    (got,) = run(of(layers.SimpleRNN(H, activation=name), W, U, b), x[:, :1])
    close(got, define(naive.dense(wide[:, 0], W, b)), 5e-6, 1e-5)


# ---- recurrent layers ---------------------------------------------------------------------------------
def recurrent_weights(kind: str, i: int = I, h: int = H, seed: int = 0) -> list[Array]:
    gates = GATES[kind] * h
    return [
        weights(i, gates, seed=seed),
        weights(h, gates, seed=seed),
        weights(*((2, gates) if kind == "GRU" else (gates,)), seed=seed),
    ]


def equations(
    kind: str,
    x: Array,
    ws: Sequence[Array],
    mask: Array | None = None,
    backwards: bool = False,
    zero: bool = False,
    starts: Sequence[Array] = (),
) -> tuple:
    """Return outputs (B, T, H) in the order of time, the output of the step processed last, and the final states."""
    W, U, *bias = ws
    options = {"mask": None if mask is None else mask.T, "reverse": backwards, "masked": "zero" if zero else "carry"}
    options |= dict(zip(("h0", "c0"), starts, strict=False))
    h = len(U)
    b = bias[0].astype("f8") if bias else np.zeros((2, 3 * h) if kind == "GRU" else GATES[kind] * h)
    x = x.swapaxes(0, 1)
    if kind == "LSTM":
        ys, *states = naive.lstm(x, W, U, b, **options)
    elif kind == "GRU":
        joint = b[0] + np.concatenate([b[1, : 2 * h], np.zeros(h)])
        ys, *states = naive.gru(x, W, U, joint, b[1, 2 * h :], **options)
    else:
        ys, *states = naive.rnn(x, W, U, b, **options)
    return ys.swapaxes(0, 1), ys[0 if backwards else -1], states


def masked_steps() -> tuple[Array, Array]:
    """Return x with masked steps as zeros (first, last, in between, a whole row), and its mask."""
    x = RNG.standard_normal((B, T, I)).astype("f4")
    mask = np.ones((B, T), bool)
    mask[0, :2] = mask[1, -2:] = mask[2, 1:4] = mask[3] = False
    x[~mask] = 0
    return x, mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_outputs_last_output_and_states_are_keras_s(kind, backwards, zero, masked):
    """go_backwards gives outputs in the order of processing; a masked step repeats the last output, or gives zeros."""
    x, mask = masked_steps()
    ws = recurrent_weights(kind)
    options = {"go_backwards": backwards, "zero_output_for_mask": zero, "return_state": True}
    before = layers.Masking() if masked else layers.Identity()
    ys, last, states = equations(kind, x, ws, mask if masked else None, backwards, zero)
    got = run(lambda t: of(getattr(layers, kind)(H, return_sequences=True, **options), *ws)(before(t)), x)
    close(got[0], ys[:, ::-1] if backwards else ys)
    for a, b in zip(got[1:], states, strict=True):
        close(a, b)
    got = run(lambda t: of(getattr(layers, kind)(H, **options), *ws)(before(t)), x)
    close(got[0], last)


@pytest.mark.parametrize("kind", GATES)
def test_without_biases(kind):
    x, ws = RNG.standard_normal((B, T, I)).astype("f4"), recurrent_weights(kind)[:2]
    (got,) = run(of(getattr(layers, kind)(H, use_bias=False, return_sequences=True), *ws), x)
    close(got, equations(kind, x, ws)[0])


def test_a_gru_with_the_reset_before_has_one_bias_and_another_equation():
    x, W, U, b = RNG.standard_normal((B, T, I)).astype("f4"), weights(I, 3 * H), weights(H, 3 * H), weights(3 * H)
    (got,) = run(of(layers.GRU(H, reset_after=False, return_sequences=True), W, U, b), x)
    ys, _ = naive.gru(x.swapaxes(0, 1), W, U, b, np.zeros(H), reset="before")
    close(got, ys.swapaxes(0, 1))
    other, _ = naive.gru(x.swapaxes(0, 1), W, U, b, np.zeros(H), reset="after")
    assert abs(other - ys).max() > 1e-2


def test_the_activations_of_a_cell_take_their_places():
    x, (W, U, b) = RNG.standard_normal((B, T, I)).astype("f4"), recurrent_weights("LSTM")
    (got,) = run(of(layers.LSTM(H, activation="softsign", recurrent_activation="hard_sigmoid"), W, U, b), x)
    inner = ("Softsign", None, None)
    _, h, _ = naive.lstm(x.swapaxes(0, 1), W, U, b, activations=(("HardSigmoid", 1 / 6, 0.5), inner, inner))
    close(got, h)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_initial_states_are_where_it_starts_but_not_the_output_of_steps_masked_before_any(kind, masked):
    x, mask = masked_steps()
    ws, count = recurrent_weights(kind), 2 if kind == "LSTM" else 1
    starts = [weights(B, H, seed=k) for k in range(count)]
    build = Build()
    t, *given = (
        build.input("x", "float32", ("batch", "time", I)),
        *(build.input(f"s{k}", "float32", ("batch", H)) for k in range(count)),
    )
    layer = of(getattr(layers, kind)(H, return_state=True), *ws)
    net = build.model(layer(layers.Masking()(t) if masked else t, initial_state=given))
    got = list(fastlstm.Session(net).run({"x": x} | {f"s{k}": s for k, s in enumerate(starts)}).values())
    _, last, states = equations(kind, x, ws, mask if masked else None, starts=starts)
    close(got[0], last)
    for a, b in zip(got[-count:], states, strict=True):
        close(a, b)
    if masked:  # the row without any step
        assert not got[0][3].any() and (got[-1][3] == starts[-1][3]).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional_joins_both_directions_in_the_order_of_time(mode, sequences, masked):
    """The directions may differ in kind; masked steps are zero with sequences, carried without."""
    x, mask = masked_steps()
    ahead, back = recurrent_weights("LSTM"), recurrent_weights("GRU", seed=1)
    both = layers.Bidirectional(
        layers.LSTM(H, return_sequences=sequences),
        mode,
        backward_layer=layers.GRU(H, return_sequences=sequences, go_backwards=True),
    )
    got = run(lambda t: of(both, *ahead, *back)(layers.Masking()(t) if masked else t), x)
    parts = [
        equations("LSTM", x, ahead, mask if masked else None, False, sequences),
        equations("GRU", x, back, mask if masked else None, True, sequences),
    ]
    a, b = (part[0] if sequences else part[1] for part in parts)
    join = {
        "concat": lambda: np.concatenate([a, b], -1),
        "sum": lambda: a + b,
        "mul": lambda: a * b,
        "ave": lambda: (a + b) / 2,
    }
    for y, want in zip(got, [a, b] if mode is None else [join[mode]()], strict=True):
        close(y, want)


def test_cells_of_one_layer_are_stacked_step_by_step():
    x, mask = masked_steps()
    first, second = recurrent_weights("LSTM"), recurrent_weights("GRU", H, 4)
    layer = layers.RNN([layers.LSTM(H), layers.GRU(4)], return_sequences=True, return_state=True)
    y, *states = run(lambda t: of(layer, *first, *second)(layers.Masking()(t)), x)
    ys, _, one = equations("LSTM", x, first, mask)
    ys, _, two = equations("GRU", ys, second, mask)
    close(y, ys)
    for a, b in zip(states, [*one, *two], strict=True):
        close(a, b)


# ---- other layers -------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"),
    [(1, 1, 1, 1), (3, 1, 1, 1), (2, 1, 3, 1), (4, 2, 1, 2), (3, 3, 1, 1), (3, 1, 2, 4)],
)
def test_conv1d_pads_strides_and_groups_as_keras(padding, kernel, stride, dilation, groups):
    x, W, b = RNG.standard_normal((B, 11, 4)).astype("f4"), weights(kernel, 4 // groups, 8), weights(8)
    layer = of(
        layers.Conv1D(8, kernel, stride, padding, dilation_rate=dilation, groups=groups, activation="relu"), W, b
    )
    (got,) = run(layer, x, ("batch", 11, 4))
    want = naive.conv1d(x, W, b, stride=stride, dilation=dilation, groups=groups, padding=padding)
    close(got, np.maximum(want, 0))


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 3, 1), (2, 4, 1), (3, 2, 2)])
def test_conv1d_pads_steps_of_any_number_as_keras(kernel, stride, dilation, steps):
    x, W, b = RNG.standard_normal((B, steps, 4)).astype("f4"), weights(kernel, 4, 8), weights(8)
    (got,) = run(of(layers.Conv1D(8, kernel, stride, "same", dilation_rate=dilation), W, b), x)
    close(got, naive.conv1d(x, W, b, stride=stride, dilation=dilation, padding="same"))
    assert run(of(layers.Conv1D(8, kernel, stride, "same"), W, b), x[:, :0])[0].shape == (B, 0, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Conv1D(2, 3, 2, "same", groups=1),
        lambda: layers.DepthwiseConv1D(4, 3, "same"),
        lambda: layers.MaxPooling1D(3, 2, "same"),
        lambda: layers.AveragePooling1D(4, 3, "same"),
    ],
)
@pytest.mark.parametrize("steps", [1, 7, 8])
def test_padding_that_the_run_decides_is_that_of_a_known_number_of_steps(make, steps):
    x = RNG.standard_normal((B, steps, I)).astype("f4")
    x -= 3  # zeros would win over it, or move its mean
    shapes = make().weight_shapes((B, steps, I)) if make().roles else {}
    arrays = [weights(*shapes[role]) for role in make().roles]
    free, known = (run(of(make(), *arrays), x, shape)[0] for shape in (("batch", "time", I), ("batch", steps, I)))
    np.testing.assert_array_equal(free, known)
    for row in range(B):  # alone as among others
        np.testing.assert_array_equal(run(of(make(), *arrays), x[row : row + 1])[0][0], free[row])


def test_embedding_masks_zero_only_where_it_says_so():
    ids, table = RNG.integers(0, 9, (B, T)).astype("i4") * (RNG.random((B, T)) < 0.6), weights(9, I)
    ids = ids.astype("i4")
    ws = recurrent_weights("GRU")
    for mask_zero in (True, False):
        (got,) = run(
            lambda t, m=mask_zero: of(layers.GRU(H), *ws)(of(layers.Embedding(9, I, mask_zero=m), table)(t)), ids
        )
        close(got, equations("GRU", table[ids], ws, ids != 0 if mask_zero else None)[1])


def test_masking_zeroes_what_it_masks_and_the_mask_goes_through_dense():
    x = RNG.standard_normal((B, T, I)).astype("f4")
    x[1, 2], x[2, 3, 0] = 7, 7  # the second is masked only if every feature is 7
    (got,) = run(layers.Masking(7.0), x)
    want = x.copy()
    want[1, 2] = 0
    assert (got == want).all()
    W, b, ws = weights(I, I), weights(I), recurrent_weights("LSTM")
    mask = np.ones((B, T), bool)
    mask[1, 2] = False
    (got,) = run(lambda t: of(layers.LSTM(H), *ws)(of(layers.Dense(I), W, b)(layers.Masking(7.0)(t))), x)
    close(got, equations("LSTM", naive.dense(want, W, b), ws, mask)[1])


@pytest.mark.parametrize(("center", "scale"), [(True, True), (True, False), (False, True), (False, False)])
def test_normalisations_have_keras_s_epsilon_and_order_of_weights(center, scale):
    x = RNG.standard_normal((B, T, I)).astype("f4") * 1e-2  # epsilon matters
    gamma, beta, mean, variance = weights(I, seed=1), weights(I, seed=2), weights(I, seed=3), abs(weights(I, seed=4))
    own = [*([gamma] if scale else []), *([beta] if center else [])]
    one, zero = np.ones(I), np.zeros(I)
    args = (gamma if scale else one, beta if center else zero)
    (got,) = run(of(layers.BatchNormalization(center=center, scale=scale), *own, mean, variance), x)
    close(got, naive.batch_norm(x, *args, mean, variance))
    (got,) = run(of(layers.LayerNormalization(center=center, scale=scale), *own), x)
    close(got, naive.layer_norm(x, *args))


def test_layer_normalization_over_several_axes():
    x, gamma, beta = RNG.standard_normal((B, T, I)).astype("f4"), weights(T, I, seed=1), weights(T, I, seed=2)
    (got,) = run(of(layers.LayerNormalization([1, 2], 0.1), gamma, beta), x, ("batch", T, I))
    close(got, naive.layer_norm(x, gamma, beta, axis=(1, 2), eps=0.1))


def test_softmax_along_either_axis_and_in_dense():
    x = (3 * RNG.standard_normal((B, T, I))).astype("f4")
    for axis in (-1, 1):
        (got,) = run(layers.Softmax(axis), x)
        close(got, naive.softmax(x, axis))
    W, b = weights(I, H), weights(H)
    (got,) = run(of(layers.Dense(H, activation="softmax"), W, b), x)
    close(got, naive.softmax(naive.dense(x, W, b)))


SHAPING: dict[str, tuple[Callable, Callable[[Array], Array]]] = {
    "flatten": (layers.Flatten(), lambda x: x.reshape(B, -1)),
    "reshape": (layers.Reshape((I, T)), lambda x: x.reshape(B, I, T)),
    "reshape with -1": (layers.Reshape((2, -1)), lambda x: x.reshape(B, 2, -1)),
    "permute": (layers.Permute((2, 1)), lambda x: x.transpose(0, 2, 1)),
    "repeat": (lambda t: layers.RepeatVector(5)(layers.Flatten()(t)), lambda x: np.repeat(x.reshape(B, 1, -1), 5, 1)),
    "concatenate": (lambda t: layers.Concatenate()([t, t]), lambda x: np.concatenate([x, x], -1)),
    "concatenate steps": (lambda t: layers.Concatenate(axis=1)([t, t]), lambda x: np.concatenate([x, x], 1)),
    "add": (lambda t: layers.Add()([t, t, t]), lambda x: 3 * x),
    "subtract": (lambda t: layers.Subtract()([layers.Activation("relu")(t), t]), lambda x: np.maximum(x, 0) - x),
    "multiply": (lambda t: layers.Multiply()([t, t]), lambda x: x * x),
    "maximum": (lambda t: layers.Maximum()([t, layers.Activation("tanh")(t)]), lambda x: np.maximum(x, np.tanh(x))),
    "minimum": (lambda t: layers.Minimum()([t, layers.Activation("tanh")(t)]), lambda x: np.minimum(x, np.tanh(x))),
    "average": (lambda t: layers.Average()([t, layers.Activation("relu")(t)]), lambda x: (x + np.maximum(x, 0)) / 2),
    "time distributed flatten": (
        lambda t: layers.TimeDistributed(layers.Flatten())(layers.Reshape((2, 3, I))(t)), lambda x: x.reshape(B, 2, -1),
    ),
    "time distributed reshape": (lambda t: layers.TimeDistributed(layers.Reshape((I, 1)))(t), lambda x: x[..., None]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPING)
def test_shaping_and_merging_layers_are_numpy_s(name):
    layer, define = SHAPING[name]
    x = RNG.standard_normal((B, T, I)).astype("f4")
    (got,) = run(layer, x, ("batch", T, I))
    close(got, define(x), 1e-6)


def test_time_distributed_is_the_layer_on_every_step():
    x, W, b = RNG.standard_normal((B, T, I)).astype("f4"), weights(I, H), weights(H)
    (got,) = run(of(layers.TimeDistributed(layers.Dense(H, activation="tanh")), W, b), x)
    close(got, np.tanh(naive.dense(x, W, b)))
    stats = [weights(I, seed=1), weights(I, seed=2), weights(I, seed=3), abs(weights(I, seed=4))]
    (got,) = run(of(layers.TimeDistributed(layers.BatchNormalization()), *stats), x)
    close(got, naive.batch_norm(x, *stats))


# ---- building -----------------------------------------------------------------------------------------
def test_a_layer_called_twice_is_in_the_model_once():
    shared = of(layers.Dense(I, name="shared"), weights(I, I), weights(I))
    net = model(lambda t: shared(shared(t)))
    assert sorted(net.weights) == ["shared.W", "shared.b"] and net.parameters == I * I + I
    assert [node.name for node in net.graph.nodes] == ["shared", "shared_1"]
    x = RNG.standard_normal((B, T, I)).astype("f4")
    (got,) = fastlstm.Session(net).run({"x": x}).values()
    close(got, naive.dense(naive.dense(x, weights(I, I), weights(I)), weights(I, I), weights(I)))


def test_one_layer_serves_two_builds():
    layer = of(layers.Dense(2), weights(I, 2), weights(2))
    one, two = model(layer), model(layer)
    assert one.to_bytes() == two.to_bytes() and sorted(two.weights) == ["dense.W", "dense.b"]


def test_layers_of_one_name_become_nodes_and_weights_of_different_names():
    stack = [of(layers.Dense(I), weights(I, I, seed=k), weights(I, seed=k)) for k in range(3)]
    net = model(lambda t: stack[2](stack[1](stack[0](t))))
    assert [node.name for node in net.graph.nodes] == ["dense", "dense_1", "dense_2"]
    assert len(net.weights) == 6


def test_what_no_output_needs_is_left_out():
    def call(t: Tensor) -> Tensor:
        of(layers.LSTM(H), *recurrent_weights("LSTM"))(t)
        return of(layers.Dense(2), weights(I, 2), weights(2))(layers.Masking()(t))

    net = model(call)
    assert [node.op for node in net.graph.nodes] == ["AnyNotEqual", "Unsqueeze", "Where", "Dense"]
    assert not any("lstm" in name for name in net.weights)


def test_shapes_are_known_as_layers_are_called():
    build = Build()
    x = build.input("x", "float32", ("batch", "time", I))
    y = of(layers.LSTM(H, return_sequences=True), *recurrent_weights("LSTM"))(x)
    assert y.shape == ("batch", "time", H)
    assert layers.Flatten()(y).shape == ("batch", f"{H}*time")
    assert layers.RepeatVector(3)(of(layers.GRU(4), *recurrent_weights("GRU", H, 4))(y)).shape == ("batch", 3, 4)


# ---- what is refused ----------------------------------------------------------------------------------
def call_on(*shape: object, dtype: str = "float32") -> Callable:
    return lambda layer: model(layer, ("batch", *shape), dtype)


on = call_on("time", I)
NAMED = {"name": "mine"}
REFUSED: dict[str, tuple[Callable[[], object], type, str]] = {
    "too few weights": (
        lambda: of(layers.LSTM(H, **NAMED), *recurrent_weights("LSTM")[:2]), fastlstm.ShapeError,
        r"layer 'mine' \(LSTM\) takes 3 weights \['kernel', 'recurrent_kernel', 'bias'\], got 2",
    ),
    "too many weights": (lambda: of(layers.Dense(2, use_bias=False, **NAMED), weights(I, 2), weights(2)), fastlstm.ShapeError, "takes 1 weights"),
    "kernel of another input": (lambda: on(of(layers.Dense(2, **NAMED), weights(I + 1, 2), weights(2))), fastlstm.ShapeError, "node 'mine': input X"),
    "bias of another size": (lambda: on(of(layers.Dense(2, **NAMED), weights(I, 2), weights(3))), fastlstm.ShapeError, r"layer 'mine' \(Dense\): bias has shape \(3,\), expected \(2,\)"),
    "recurrent kernel": (
        lambda: on(of(layers.LSTM(H, **NAMED), weights(I, 20), weights(H, 15), weights(20))), fastlstm.ShapeError, r"layer 'mine' \(LSTM\): recurrent_kernel has shape \(5, 15\), expected \(5, 20\)",
    ),
    "GRU bias of one row": (
        lambda: on(of(layers.GRU(H, **NAMED), weights(I, 15), weights(H, 15), weights(15))), fastlstm.ShapeError, r"layer 'mine' \(GRU\): bias has shape \(15,\), expected \(2, 15\)",
    ),
    "GRU bias of two rows": (
        lambda: on(of(layers.GRU(H, reset_after=False, **NAMED), weights(I, 15), weights(H, 15), weights(2, 15))), fastlstm.ShapeError, r"layer 'mine' \(GRU\): bias has shape \(2, 15\), expected \(15,\)",
    ),
    "an LSTM on vectors": (lambda: call_on(I)(of(layers.LSTM(H, **NAMED), *recurrent_weights("LSTM"))), fastlstm.ShapeError, "node 'mine': input X"),
    "initial states": (
        lambda: on(lambda t: of(layers.LSTM(H, **NAMED), *recurrent_weights("LSTM"))(t, initial_state=[t])), fastlstm.UnsupportedError, "layer 'mine' takes 2 initial states, got 1",
    ),
    "unknown activation": (lambda: layers.Dense(2, "nope", **NAMED), fastlstm.UnsupportedError, "layer 'mine': activation 'nope' is not supported; known: 'celu'"),
    "a function as activation": (lambda: layers.LSTM(H, np.tanh, **NAMED), fastlstm.UnsupportedError, "layer 'mine': activation"),
    "softmax in a cell": (lambda: layers.GRU(H, "softmax", **NAMED), fastlstm.UnsupportedError, "layer 'mine': activation 'softmax'"),
    "padding": (lambda: layers.Conv1D(2, 3, padding="full", **NAMED), fastlstm.UnsupportedError, "layer 'mine': padding 'full'"),
    "groups": (lambda: on(of(layers.Conv1D(2, 3, groups=2, **NAMED), weights(3, I, 2), weights(2))), fastlstm.ShapeError, "node 'mine': input X"),
    "one direction twice": (lambda: layers.Bidirectional(layers.LSTM(H), backward_layer=layers.LSTM(H), **NAMED), fastlstm.UnsupportedError, "layer 'mine': both layers"),
    "merge mode": (
        lambda: layers.Bidirectional(layers.LSTM(H), "max", **NAMED), fastlstm.UnsupportedError, "layer 'mine': merge_mode 'max'",
    ),
    "normalised over an axis between": (
        lambda: on(of(layers.LayerNormalization(1, **NAMED), weights(T), weights(T))), fastlstm.UnsupportedError, r"layer 'mine': LayerNormalization over axes \[1\]",
    ),
    "softmax under a mask": (lambda: on(lambda t: layers.Softmax(**NAMED)(layers.Masking()(t))), fastlstm.UnsupportedError, "layer 'mine': a Softmax"),
    "recurrence in every step of too few axes": (lambda: on(layers.TimeDistributed(layers.LSTM(H, **NAMED))), fastlstm.ShapeError, r"'mine' \(LSTM\): takes inputs \(batch, steps, features\)"),
    "an axis that is none": (lambda: on(layers.Permute((1, 3), **NAMED)), fastlstm.ShapeError, "node 'mine'"),
    "sizes that do not fill": (
        lambda: fastlstm.Session(call_on(T, I)(layers.Reshape((5, -1), **NAMED))).run(np.zeros((3, T, I), "f4")), fastlstm.ShapeError, "node 'mine'",
    ),
    "sizes that do not meet": (
        lambda: on(lambda t: layers.Add(**NAMED)([t, of(layers.Dense(2), weights(I, 2), weights(2))(t)])), fastlstm.ShapeError, "node 'mine'",
    ),
    "no outputs": (lambda: Build().model([]), fastlstm.GraphError, "no outputs"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_layer_does_not_honour_is_refused_by_its_name(case):
    make, error, words = REFUSED[case]
    with pytest.raises(error, match=words) as caught:
        make()
    assert isinstance(caught.value, fastlstm.FastLSTMError)

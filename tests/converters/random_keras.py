"""Random small Keras models over the layers that fastlstm knows, for Keras 3 or tf_keras (the module is an argument).

A `Net` is a model with distinct random weights and a way to draw its inputs. Sizes are odd and unequal; masks have holes at the
start, inside and at the end, and whole rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Rng = np.random.Generator

ACTIVATIONS = (
    "linear", "relu", "relu6", "elu", "selu", "sigmoid", "hard_sigmoid", "tanh", "softsign", "softplus", "exponential",
    "swish", "gelu", "mish", "leaky_relu", "softmax",
)  # fmt: skip
NEW_ACTIVATIONS = ("celu", "hard_tanh", "log_sigmoid", "hard_silu", "squareplus")  # of Keras 3
CELL_ACTIVATIONS = ("tanh", "tanh", "tanh", "sigmoid", "softsign", "hard_sigmoid", "elu")
MASK_VALUE = -1.5


@dataclass
class Net:
    """A model, and how to draw its inputs for a batch of a number of steps.

    `steps` is set where the model fixes it, `batch` where it is stateful: its layers go on from where the last call of so many rows ended.
    """

    model: Any
    draw: Callable[[int, int], list[Array]]
    steps: int | None = None
    about: str = ""
    batch: int | None = None


def is_keras3(K: Any) -> bool:
    return int(K.__version__.split(".")[0]) >= 3


def randomise(K: Any, model: Any, rng: Rng) -> None:
    """Give every weight distinct random values, smaller where many meet in a sum; variances positive."""
    for weight in model.weights:
        path = getattr(weight, "path", weight.name)
        if "seed" in path:
            continue
        many = np.prod(weight.shape[:-1], dtype=float)
        values = rng.normal(0, min(0.5, 1.5 / np.sqrt(max(many, 1))), weight.shape)
        if "variance" in path:
            values = rng.uniform(0.3, 2, weight.shape)
        weight.assign(values.astype(str(np.dtype(getattr(weight.dtype, "name", weight.dtype)))))
    for layer in model.layers:
        if isinstance(layer, K.layers.Normalization):
            layer.finalize_state()  # what it computes with are copies of its weights


def one(rng: Rng, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def flip(rng: Rng, share: float = 0.5) -> bool:
    return bool(rng.random() < share)


def activation(K: Any, rng: Rng, cells: bool = False) -> str:
    if cells:
        return one(rng, CELL_ACTIVATIONS)
    return one(rng, ACTIVATIONS + NEW_ACTIVATIONS if is_keras3(K) else ACTIVATIONS)


def features(rng: Rng, width: int, holes: bool = False) -> Callable[[int, int], Array]:
    """Return a function that draws (batch, steps, width), with masked steps where asked for."""

    def draw(batch: int, steps: int) -> Array:
        x = rng.normal(0, 1, (batch, steps, width)).astype("f4")
        if holes:
            x[hole_pattern(rng, batch, steps)] = MASK_VALUE
        return x

    return draw


def ids(rng: Rng, size: int) -> Callable[[int, int], Array]:
    def draw(batch: int, steps: int) -> Array:
        return np.where(hole_pattern(rng, batch, steps), 0, rng.integers(1, size, (batch, steps))).astype("i4")

    return draw


def hole_pattern(rng: Rng, batch: int, steps: int) -> Array:
    """Return (batch, steps) booleans: right padding, left padding, holes anywhere, all or nothing."""
    holes = np.zeros((batch, steps), bool)
    for row in holes:
        kind, cut = rng.integers(5), int(rng.integers(0, steps + 1))
        row[:] = [
            np.arange(steps) >= cut,
            np.arange(steps) < cut,
            rng.random(steps) < 0.4,
            np.ones(steps, bool),
            np.zeros(steps, bool),
        ][kind]
    if batch > 1 and holes.all():
        holes[0] = False
    return holes


# ---- layers -------------------------------------------------------------------------------------------
def recurrent_options(K: Any, rng: Rng) -> dict[str, Any]:
    options: dict[str, Any] = {"activation": activation(K, rng, True)}
    if flip(rng, 0.2):
        options["use_bias"] = False
    return options


def recurrent(K: Any, rng: Rng, **options: Any) -> Any:
    """Return LSTM, GRU (either reset), SimpleRNN, or an RNN over one or more cells."""
    kind, units = int(rng.integers(6)), int(rng.integers(1, 10))
    if flip(rng, 0.25):
        options["go_backwards"] = not options.get("go_backwards", False)
    if kind >= 4:
        cells = [cell(K, rng) for _ in range(1 if kind == 4 else int(rng.integers(2, 4)))]
        return K.layers.RNN(cells[0] if kind == 4 else cells, **options)
    made, own = cell_class(K, rng, int(rng.integers(3)), "")
    if flip(rng, 0.15):
        options["unroll"] = True
    return made(units, **own, **options)


def cell_class(K: Any, rng: Rng, kind: int, suffix: str) -> tuple[Any, dict[str, Any]]:
    own = recurrent_options(K, rng)
    if kind < 2:
        own["recurrent_activation"] = one(rng, ("sigmoid", "hard_sigmoid", "tanh"))
    if kind == 1:
        own["reset_after"] = flip(rng)
    return getattr(K.layers, ("LSTM", "GRU", "SimpleRNN")[kind] + suffix), own


def cell(K: Any, rng: Rng) -> Any:
    made, own = cell_class(K, rng, int(rng.integers(3)), "Cell")
    return made(int(rng.integers(1, 8)), **own)


def bidirectional(K: Any, rng: Rng, sequences: bool) -> Any:
    merge = one(rng, ("concat", "sum", "mul", "ave"))
    if flip(rng, 0.2):
        units = int(rng.integers(1, 8))  # Keras takes the backward layer to have as many
        backward = K.layers.GRU(units, return_sequences=sequences, go_backwards=True, name="other_way")
        return K.layers.Bidirectional(K.layers.LSTM(units, return_sequences=sequences), merge, backward_layer=backward)
    return K.layers.Bidirectional(recurrent(K, rng, return_sequences=sequences), merge)


def stepwise(K: Any, rng: Rng, width: int) -> Any:
    """Return a layer that acts on each step alone, or on each element."""
    L, kind = K.layers, int(rng.integers(15))
    if kind == 0:
        return L.Dense(int(rng.integers(1, 9)), activation=activation(K, rng), use_bias=flip(rng, 0.8))
    if kind == 1:
        return L.TimeDistributed(L.Dense(int(rng.integers(1, 9)), activation=activation(K, rng)))
    if kind == 2:
        return L.BatchNormalization(epsilon=float(one(rng, (1e-3, 0.05))), center=flip(rng, 0.8), scale=flip(rng, 0.8))
    if kind == 3:
        return L.LayerNormalization(epsilon=float(one(rng, (1e-3, 0.05))), center=flip(rng, 0.8), scale=flip(rng, 0.8))
    if kind == 4:
        return L.Activation(activation(K, rng))
    if kind == 5:
        return L.Dropout(0.4)
    if kind == 6:
        return L.LeakyReLU(**{"negative_slope" if is_keras3(K) else "alpha": 0.17})
    if kind == 7:
        return one(rng, (L.ReLU(), L.ReLU(max_value=6.0), L.ReLU(negative_slope=0.1)))
    if kind == 8:
        return L.ELU(0.7)
    if kind == 9:
        return L.GaussianNoise(0.3)
    if kind == 10:
        return L.ActivityRegularization(l2=0.1)
    if kind == 11:
        return L.TimeDistributed(
            one(rng, (L.Activation("tanh"), L.Dropout(0.2), L.LayerNormalization(), L.BatchNormalization()))
        )
    if kind == 12:
        return L.GaussianDropout(0.3)
    if kind == 13:
        return L.AlphaDropout(0.2)
    return L.SpatialDropout1D(0.2)


def convolution(K: Any, rng: Rng, width: int, steps: int | None) -> Any:
    padding = one(rng, ("valid", "same", "causal"))
    strided = flip(rng, 0.25) and (padding != "same" or steps is not None)
    groups = 2 if width % 2 == 0 and flip(rng, 0.3) else 1
    filters, size, dilation = (
        int(rng.integers(1, 5)) * groups,
        int(rng.integers(1, 4)),
        1 if strided else int(rng.integers(1, 3)),
    )
    return K.layers.Conv1D(
        filters, size if dilation == 1 else min(size, 2), 2 if strided else 1, padding, dilation_rate=dilation, groups=groups,
        activation=activation(K, rng), use_bias=flip(rng, 0.8),
    )  # fmt: skip


def start(
    K: Any, rng: Rng, steps: int | None, batch: int | None = None, name: str | None = None
) -> tuple[Any, Any, Callable, str]:
    """Return an input, its sequence (B, T, F), how to draw it, and what it is."""
    L, kind = K.layers, int(rng.integers(5))
    if kind == 0:
        size = int(rng.integers(4, 12))
        zero = flip(rng, 0.6)
        x = K.Input((steps,), dtype=one(rng, ("int32", "float32")), name=name)
        return x, L.Embedding(size, int(rng.integers(1, 6)), mask_zero=zero)(x), ids(rng, size), f"ids mask_zero={zero}"
    width = int(rng.integers(1, 6))
    x = K.Input((steps, width), name=name)
    if kind < 3:
        return x, L.Masking(MASK_VALUE)(x), features(rng, width, True), "masked"
    return x, x, features(rng, width), "plain"


def sequential(K: Any, rng: Rng) -> Net:
    """A chain of random layers, as a Sequential model or a functional one."""
    steps = int(rng.integers(4, 8)) if flip(rng, 0.4) else None
    L = K.layers
    x, y, draw, about = start(K, rng, steps)
    words = [about]

    def put(layer: Any) -> None:
        nonlocal y
        y = layer(y)
        words.append(layer.name)

    for _ in range(int(rng.integers(1, 5))):
        kind = rng.random()
        if kind < 0.35:
            put(recurrent(K, rng, return_sequences=True, **({"zero_output_for_mask": True} if flip(rng, 0.15) else {})))
        elif kind < 0.5:
            put(bidirectional(K, rng, True))
        elif kind < 0.62 and "conv1d" not in " ".join(words):  # one, so that few steps are enough
            put(convolution(K, rng, y.shape[-1], y.shape[1]))
        else:
            put(stepwise(K, rng, y.shape[-1]))
    end = rng.random()
    if end < 0.45:
        put(recurrent(K, rng))
    elif end < 0.65:
        put(bidirectional(K, rng, False))
    elif end < 0.75 and y.shape[1] is not None:
        put(one(rng, (L.Flatten(), L.Reshape((-1,)), L.Permute((2, 1)))))
    if len(y.shape) == 2 and flip(rng, 0.4) and y.shape[1] is not None:
        put(L.RepeatVector(int(rng.integers(1, 5))))
        put(recurrent(K, rng, return_sequences=flip(rng)))
    if flip(rng, 0.5):
        put(L.Dense(int(rng.integers(1, 6)), activation=activation(K, rng)))
    if flip(rng, 0.2):
        put(L.Softmax() if getattr(y, "_keras_mask", None) is None else L.Activation("softmax"))
    model = K.Model(x, y)
    if flip(rng) and about == "plain":
        model = K.Sequential([K.Input(x.shape[1:]), *model.layers[1:]])
    return Net(model, lambda batch, n: [draw(batch, n)], steps, " ".join(words))


# ---- functional models --------------------------------------------------------------------------------
def merged(K: Any, rng: Rng) -> Net:
    """Two inputs, their own layers, and a merge that joins them (masks too) before one more recurrence."""
    L = K.layers
    parts = [start(K, rng, None, name=f"in{k}") for k in range(2)]
    units = int(rng.integers(1, 6))
    tracks = [L.GRU(units, return_sequences=True)(y) for _, y, _, _ in parts]
    name = one(rng, ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"))
    y = getattr(L, name)(**({"axis": one(rng, (-1, 2))} if name == "Concatenate" else {}))(tracks)
    outputs = [recurrent(K, rng, return_sequences=flip(rng))(y), L.Dense(2)(y)]
    return Net(
        K.Model([x for x, *_ in parts], outputs), lambda b, n: [draw(b, n) for _, _, draw, _ in parts], None, name
    )


def merged_ranks(K: Any, rng: Rng) -> Net:
    """A sequence and a vector: Keras puts the vector's new axis after the batch."""
    L = K.layers
    x, y, draw, about = start(K, rng, None)
    # with one unit, Keras on TensorFlow takes the vector for a bias over time wherever batch and steps are equal
    units = int(rng.integers(2, 6))
    a, b = L.LSTM(units, return_sequences=True)(y), L.GRU(units)(y)
    order = [a, b] if flip(rng) else [b, a]
    name = one(rng, ("Add", "Multiply", "Average", "Maximum", "Subtract"))
    return Net(
        K.Model(x, getattr(L, name)()(order)), lambda batch, n: [draw(batch, n)], None, f"{name} of ranks {about}"
    )


def encoder_decoder(K: Any, rng: Rng) -> Net:
    """States of one recurrence start another, over an input of its own length."""
    L, units = K.layers, int(rng.integers(1, 7))
    x, y, draw, about = start(K, rng, None, name="source")
    x2, y2, draw2, about2 = start(K, rng, None, name="target")
    kind = int(rng.integers(3))
    if kind == 0:
        _, *states = L.LSTM(units, return_state=True)(y)
        out = L.LSTM(units, return_sequences=True, return_state=True, go_backwards=flip(rng, 0.3))(
            y2, initial_state=states
        )
    elif kind == 1:
        _, state = L.GRU(units, return_state=True, return_sequences=True)(y)
        out = L.GRU(units, return_sequences=flip(rng), return_state=True)(y2, initial_state=state)
    else:
        _, fh, fc, bh, bc = L.Bidirectional(L.LSTM(units, return_state=True, return_sequences=flip(rng)))(y)
        states = [L.Concatenate()([fh, bh]), L.Concatenate()([fc, bc])]
        out = L.LSTM(2 * units, return_sequences=flip(rng), return_state=True)(y2, initial_state=states)
    outputs = [L.Dense(3, activation="softmax")(out[0]), *out[1:]]

    def both(batch: int, steps: int) -> list[Array]:
        return [draw(batch, steps), draw2(batch, max(1, steps - 2))]

    return Net(K.Model([x, x2], outputs), both, None, f"encoder-decoder {kind} {about}, {about2}")


def bidirectional_states(K: Any, rng: Rng) -> Net:
    """Bidirectional with initial states, states among the outputs, and outputs merged or apart."""
    L, units = K.layers, int(rng.integers(1, 6))
    x, y, draw, about = start(K, rng, None)
    made, count = one(rng, ((L.LSTM, 4), (L.GRU, 2), (L.SimpleRNN, 2)))
    merge = one(rng, ("concat", "sum", "ave", "mul", None))
    layer = L.Bidirectional(made(units, return_sequences=flip(rng), return_state=flip(rng, 0.7)), merge)
    given = [K.Input((units,), name=f"state{k}") for k in range(count if flip(rng, 0.6) else 0)]
    out = layer(y, initial_state=given) if given else layer(y)
    outputs = list(out) if isinstance(out, tuple | list) else [out]

    def arrays(batch: int, steps: int) -> list[Array]:
        return [draw(batch, steps), *(rng.normal(0, 1, (batch, units)).astype("f4") for _ in given)]

    return Net(
        K.Model([x, *given], outputs),
        arrays,
        None,
        f"Bidirectional {made.__name__} {merge} states={len(given)} {about}",
    )


def recurrent_states(K: Any, rng: Rng) -> Net:
    """Initial states from inputs, states among the outputs; one cell, or cells stacked in one layer."""
    L, units = K.layers, int(rng.integers(1, 6))
    x, y, draw, about = start(K, rng, None)
    options = {"return_sequences": flip(rng), "return_state": True, "go_backwards": flip(rng, 0.3)}
    kind = int(rng.integers(4))
    if kind == 3:
        layer, nested = L.RNN([L.LSTMCell(units), L.GRUCell(units + 1)], **options), True
        given = [K.Input((w,), name=f"state{k}") for k, w in enumerate((units, units, units + 1))]
    else:
        layer, nested = (L.LSTM, L.GRU, L.SimpleRNN)[kind](units, **options), False
        given = [K.Input((units,), name=f"state{k}") for k in range(2 if kind == 0 else 1)]
    if flip(rng, 0.3):
        given = []
    states = [given[:2], given[2]] if nested and given else given
    out = layer(y, initial_state=states) if given else layer(y)
    flat = [part for o in out for part in (o if isinstance(o, tuple | list) else [o])]

    def arrays(batch: int, steps: int) -> list[Array]:
        return [draw(batch, steps), *(rng.normal(0, 1, (batch, s.shape[1])).astype("f4") for s in given)]

    return Net(K.Model([x, *given], flat), arrays, None, f"{layer.name} states={len(given)} {about} {options}")


def shared(K: Any, rng: Rng) -> Net:
    """One layer called on two inputs, and on its own output."""
    L, units = K.layers, int(rng.integers(1, 6))
    width = units
    layer = (
        L.Bidirectional(L.LSTM(units, return_sequences=True), "sum")
        if flip(rng)
        else L.GRU(units, return_sequences=True)
    )
    a, b = (K.Input((None, width), name=name) for name in ("a", "b"))
    one_, two = layer(L.Masking(MASK_VALUE)(a)), layer(b)
    three = layer(two)
    draw = features(rng, width, True)
    return Net(
        K.Model([a, b], [L.Concatenate()([one_, three]), two]), lambda n, t: [draw(n, t), draw(n, t)], None, "shared"
    )


def nested(K: Any, rng: Rng) -> Net:
    """Models inside models, sequential and functional, one called twice; a mask goes through them."""
    L = K.layers
    width = int(rng.integers(1, 5))
    inner = K.Sequential(
        [
            K.Input((None, width)),
            L.Dense(width, activation="tanh"),
            recurrent(K, rng, return_sequences=True),
            L.Dense(width),
        ],
        name="inner",
    )
    i = K.Input((None, width))
    two = K.Model(i, [L.LSTM(3, return_sequences=True)(inner(i)), L.BatchNormalization()(i)], name="two")
    x = K.Input((None, width))
    y = L.Masking(MASK_VALUE)(x) if flip(rng) else x
    a, b = two(y)
    c = two(b)[0]
    tail = K.Sequential([K.Input((None, 3)), L.GRU(4), L.Dense(2)], name="tail")
    draw = features(rng, width, True)
    return Net(K.Model(x, [tail(a), recurrent(K, rng)(c)]), lambda n, t: [draw(n, t)], None, "nested")


def masked_argument(K: Any, rng: Rng) -> Net:
    """A mask given by hand."""
    L, width = K.layers, int(rng.integers(1, 5))
    x, m = K.Input((None, width), name="x"), K.Input((None,), dtype="bool", name="m")
    first = L.LSTM(3, return_sequences=True, go_backwards=flip(rng, 0.3))(x, mask=m)
    out = L.Bidirectional(L.GRU(4, return_sequences=flip(rng)))(x, mask=m)
    draw = features(rng, width)
    return Net(
        K.Model([x, m], [first, out]), lambda n, t: [draw(n, t), ~hole_pattern(rng, n, t)], None, "mask argument"
    )


def fixed(K: Any, rng: Rng) -> Net:
    """A known number of steps, which the arithmetic may need: Flatten, Permute, strides, normalisation over time."""
    L, steps, width = K.layers, int(rng.integers(4, 8)), int(rng.integers(1, 5))
    x = K.Input((steps, width))
    y = one(
        rng,
        (
            lambda y: y,
            L.BatchNormalization(axis=1),
            L.LayerNormalization(axis=[1, 2]),
            L.Permute((2, 1)),
            L.Reshape((-1, 1)),
            L.Reshape((steps * width,)),
        ),
    )(x)
    if len(y.shape) == 3:
        y = one(
            rng,
            (
                L.LSTM(3, return_sequences=True),
                L.Conv1D(4, 3, strides=2, padding="same"),
                L.Conv1D(2, 3, padding="causal", strides=2),
            ),
        )(y)
        if flip(rng, 0.4):
            y = L.TimeDistributed(L.Reshape((1, -1)))(y)
            y = L.TimeDistributed(L.Flatten())(y)
        y = one(rng, (L.Flatten(), L.GRU(3), L.Softmax(axis=1)))(y)
    draw = features(rng, width)
    return Net(K.Model(x, L.Dense(3)(y)), lambda n, t: [draw(n, t)], steps, "fixed steps")


def joined_in_time(K: Any, rng: Rng) -> Net:
    """Sequences one after the other."""
    L, width = K.layers, int(rng.integers(1, 5))
    parts = [K.Input((None, width), name=f"part{k}") for k in range(2)]
    masked = [L.Masking(MASK_VALUE)(p) if flip(rng) else p for p in parts]
    y = L.Concatenate(axis=1)([L.Dense(3)(m) for m in masked])
    draw = features(rng, width, True)
    return Net(K.Model(parts, [L.LSTM(3)(y)]), lambda n, t: [draw(n, t), draw(n, t + 1)], None, "joined in time")


def over_time(K: Any, rng: Rng, width: int, steps: int | None) -> Any:
    """Return a layer that makes other steps of steps: convolutions, poolings, repeats, margins."""
    L, kind = K.layers, int(rng.integers(9))
    padding = one(rng, ("valid", "same"))
    strides = 2 if flip(rng, 0.3) and (padding == "valid" or steps is not None) else 1
    bias, act = flip(rng, 0.8), activation(K, rng)
    if kind == 0:
        return convolution(K, rng, width, steps)
    if kind == 1:
        return L.DepthwiseConv1D(
            int(rng.integers(1, 4)), strides, padding, int(rng.integers(1, 4)), activation=act, use_bias=bias
        )
    if kind == 2:
        padding = one(rng, ("valid", "same", "causal"))
        strides = 1 if padding == "same" and steps is None else strides
        return L.SeparableConv1D(
            int(rng.integers(1, 6)), int(rng.integers(1, 4)), strides, padding, activation=act, use_bias=bias,
            dilation_rate=1 if strides > 1 else int(rng.integers(1, 3)), depth_multiplier=int(rng.integers(1, 3)),
        )  # fmt: skip
    if kind < 5:
        made = (L.MaxPooling1D, L.AveragePooling1D)[kind - 3]
        return made(int(rng.integers(1, 4)), strides=strides, padding=padding)
    if kind == 5:
        return L.UpSampling1D(int(rng.integers(1, 4)))
    if kind == 6:
        return L.ZeroPadding1D(one(rng, (1, 2, (0, 2), (3, 1))))
    if kind == 7:
        return L.Cropping1D(one(rng, ((0, 1), (1, 1), (1, 0))))
    return L.UnitNormalization()


def whole(K: Any, rng: Rng) -> Any:
    """Return a layer that makes one vector of all steps."""
    kind = one(rng, (K.layers.GlobalAveragePooling1D, K.layers.GlobalMaxPooling1D))
    return kind(keepdims=True) if flip(rng, 0.3) else kind()


def convolutional(K: Any, rng: Rng) -> Net:
    """Layers that change the steps, before, between and after recurrences; masks end there or go through."""
    L, steps = K.layers, int(rng.integers(9, 14)) if flip(rng, 0.7) else None
    x, y, draw, about = start(K, rng, steps)
    names = [about]
    for _ in range(int(rng.integers(1, 4))):
        layer = over_time(K, rng, y.shape[-1], y.shape[1])
        y = layer(y)
        names.append(layer.name)
    if flip(rng, 0.6):
        y = recurrent(K, rng, return_sequences=True)(y)
    layer = whole(K, rng) if flip(rng, 0.6) else recurrent(K, rng)
    y = layer(y)
    return Net(
        K.Model(x, L.Dense(2)(y)), lambda b, n: [draw(b, n if steps else n + 7)], steps, " ".join([*names, layer.name])
    )


def pooled(K: Any, rng: Rng) -> Net:
    """Masked sequences that end in poolings over time."""
    L = K.layers
    x, y, draw, about = start(K, rng, None)
    y = recurrent(K, rng, return_sequences=True)(y)
    outputs = [
        L.GlobalAveragePooling1D()(y), L.GlobalMaxPooling1D(keepdims=True)(y), L.GlobalAveragePooling1D(keepdims=True)(L.Dense(3)(y))
    ]  # fmt: skip

    def drawn(batch: int, steps: int) -> list[Array]:
        """Draw rows of which none is masked whole: their mean would be 0 / 0."""
        while True:
            values = draw(batch, steps)
            masked = values == 0 if values.ndim == 2 else (values == MASK_VALUE).all(-1)
            if not masked.all(1).any():
                return [values]

    return Net(K.Model(x, outputs), drawn, None, f"pooled {about}")


def attention(K: Any, rng: Rng) -> Net:
    """Attention of one sequence over another, or over itself, of every kind; masks of both; then a recurrence and poolings."""
    L, kind = K.layers, int(rng.integers(3))
    parts = [start(K, rng, None, name=f"in{k}") for k in range(2)]
    units = int(rng.integers(1, 6))
    query, value = (L.GRU(units, return_sequences=True)(y) for _, y, _, _ in parts)
    key = L.Dense(units)(value) if flip(rng, 0.4) else None
    options = {"use_causal_mask": True} if flip(rng, 0.4) else {}
    scores = flip(rng, 0.3)
    options |= {"return_attention_scores": True} if scores else {}
    if kind < 2:
        made = L.AdditiveAttention(use_scale=flip(rng)) if kind else L.Attention(
            use_scale=flip(rng), score_mode=one(rng, ("dot", "concat")), dropout=one(rng, (0.0, 0.3))
        )  # fmt: skip
        out = made([query, value] if key is None else [query, value, key], **options)
    else:
        made = L.MultiHeadAttention(
            int(rng.integers(1, 4)), int(rng.integers(1, 5)), value_dim=one(rng, (None, 3)), dropout=one(rng, (0.0, 0.3)),
            use_bias=flip(rng, 0.8), output_shape=one(rng, (None, 5)),
        )  # fmt: skip
        out = made(query, value, **({} if key is None else {"key": key}), **options)
    outputs = list(out) if scores else [out]
    more = [recurrent(K, rng)(outputs[0]), L.Concatenate()([query, outputs[0]])]

    def both(batch: int, steps: int) -> list[Array]:
        return [draw(batch, steps + k) for k, (_, _, draw, _) in enumerate(parts)]

    about = (
        f"{made.name} {options} key={key is not None} {[p[3] for p in parts]} dropout={getattr(made, 'dropout', '')}"
    )
    return Net(K.Model([x for x, *_ in parts], [*outputs, *more]), both, None, about)


def image_layers(K: Any, rng: Rng, count: int) -> list[Any]:
    """Return layers over images, which stay at least as large as windows are."""
    L, made = K.layers, []
    for _ in range(count):
        kind, act, bias = int(rng.integers(8)), activation(K, rng), flip(rng, 0.8)
        size, padding = one(rng, (1, 2, (2, 3), (3, 1))), one(rng, ("same", "same", "valid"))
        strides = 2 if flip(rng, 0.2) else 1
        if kind < 2:
            made.append(L.Conv2D(int(rng.integers(1, 5)), size, strides, padding, activation=act, use_bias=bias))
        elif kind == 2:
            made.append(
                L.DepthwiseConv2D(size, strides, padding, int(rng.integers(1, 3)), activation=act, use_bias=bias)
            )
        elif kind == 3:
            made.append(
                L.SeparableConv2D(3, size, 1, padding, activation=act, use_bias=bias, dilation_rate=one(rng, (1, 2)))
            )
        elif kind < 6:
            pool = one(rng, (L.MaxPooling2D, L.AveragePooling2D))
            made.append(pool(one(rng, (2, (1, 2))), strides=1 if padding == "same" else None, padding=padding))
        elif kind == 6:
            made.append(one(rng, (L.UpSampling2D(one(rng, (2, (1, 2)))), L.ZeroPadding2D(((1, 0), (0, 2))))))
        else:
            made.append(one(rng, (L.Cropping2D(((1, 0), (0, 1))), L.BatchNormalization(), L.Dropout(0.2))))
    return made


def video(K: Any, rng: Rng) -> Net:
    """Images over time: layers applied to each, by themselves or as a model, then a recurrence."""
    L = K.layers
    steps = int(rng.integers(2, 5)) if flip(rng, 0.6) else None
    shape = (int(rng.integers(7, 10)), int(rng.integers(7, 10)), int(rng.integers(1, 4)))
    x = K.Input((steps, *shape))
    inner = image_layers(K, rng, int(rng.integers(1, 4)))
    end = one(rng, (L.Flatten(), L.GlobalAveragePooling2D(), L.GlobalMaxPooling2D()))
    if flip(rng, 0.5):
        y = L.TimeDistributed(K.Sequential([K.Input(shape), *inner, end], name="frames"))(x)
    else:
        y = x
        for layer in [*inner, end]:
            y = L.TimeDistributed(layer)(y)
    y = recurrent(K, rng, return_sequences=flip(rng))(y)

    def frames(batch: int, n: int) -> list[Array]:
        return [rng.normal(0, 1, (batch, n, *shape)).astype("f4")]

    return Net(K.Model(x, y), frames, steps, "video " + " ".join(layer.name for layer in [*inner, end]))


def paragraphs(K: Any, rng: Rng) -> Net:
    """Sentences of words: a layer or a model over the words of each sentence, then one over sentences."""
    L = K.layers
    words = int(rng.integers(4, 7))
    steps = int(rng.integers(2, 4)) if flip(rng) else None
    inner = one(
        rng,
        (
            lambda: recurrent(K, rng),
            lambda: bidirectional(K, rng, False),
            lambda: L.Conv1D(3, 2, padding=one(rng, ("same", "causal", "valid")), activation=activation(K, rng)),
            lambda: L.MaxPooling1D(2),
            lambda: L.GlobalMaxPooling1D(),
            lambda: K.Sequential([K.Input((words, 3)), recurrent(K, rng, return_sequences=True), L.Dense(2), L.GRU(3)]),
        ),
    )()
    size = 9
    if flip(rng):
        masked = flip(rng) and not is_keras3(K)  # Keras 3 loses the mask of an Embedding that is applied to steps
        x = K.Input((steps, words), dtype="int32")
        table = L.Embedding(size, 3, mask_zero=masked)
        y = L.TimeDistributed(table)(x) if flip(rng) else table(x)
    else:
        masked = False
        x = K.Input((steps, words, 3))
        y = x
    y = L.TimeDistributed(inner)(y)
    while len(y.shape) > 3:
        y = L.TimeDistributed(L.Flatten())(y)
    y = recurrent(K, rng)(y)

    def text(batch: int, n: int) -> list[Array]:
        if len(x.shape) == 4:
            return [rng.normal(0, 1, (batch, n, words, 3)).astype("f4")]
        ids_ = np.where(rng.random((batch, n, words)) < 0.3, 0, rng.integers(1, size, (batch, n, words)))
        return [ids_.astype("i4")]

    return Net(K.Model(x, y), text, steps, f"paragraphs of {inner.name} masked={masked}")


def convolved_states(K: Any, rng: Rng) -> Net:
    """ConvLSTM over one axis or two, with states, backwards, and under a mask of steps."""
    L, axes = K.layers, 2 if flip(rng) else 1
    steps, units = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    shape = (*(int(rng.integers(5, 8)) for _ in range(axes)), int(rng.integers(1, 4)))
    x = K.Input((steps, *shape))
    padding = one(rng, ("same", "valid"))
    options = {
        "activation": one(rng, ("tanh", "relu")), "recurrent_activation": one(rng, ("sigmoid", "hard_sigmoid")), "use_bias": flip(rng, 0.8),
        "return_sequences": flip(rng), "go_backwards": flip(rng, 0.3), "return_state": flip(rng, 0.3),
        "strides": one(rng, (1, 1, 2)),
    }  # fmt: skip
    if options["strides"] == 1:
        options["dilation_rate"] = one(rng, (1, 2))
    made = (L.ConvLSTM1D, L.ConvLSTM2D)[axes - 1](units, one(rng, (1, 2, 3)), padding=padding, **options)
    given: list[Any] = []
    arguments: dict[str, Any] = {}
    if flip(rng, 0.3):
        given = [K.Input((steps,), dtype="bool", name="m")]
        arguments["mask"] = given[0]
    out = made(x, **arguments)
    outputs = list(out) if isinstance(out, list | tuple) else [out]
    again = (L.ConvLSTM1D, L.ConvLSTM2D)[axes - 1](2, 2, padding="same")
    if options["return_sequences"]:
        outputs.append(again(outputs[0]))

    def arrays(batch: int, n: int) -> list[Array]:
        return [rng.normal(0, 1, (batch, n, *shape)).astype("f4"), *(~hole_pattern(rng, batch, n) for _ in given)]

    return Net(K.Model([x, *given], outputs), arrays, steps, f"ConvLSTM{axes}D {options} masked={bool(given)}")


def elementwise(K: Any, rng: Rng) -> Net:
    """Activation layers with their arguments, normalisations, and data brought to scale."""
    L, width = K.layers, int(rng.integers(2, 6))
    steps = int(rng.integers(3, 6))
    makers = [
        lambda: L.PReLU(shared_axes=one(rng, ([1], None, [1, 2]))),
        lambda: L.ReLU(
            max_value=one(rng, (None, 1.5, 6.0)), threshold=one(rng, (0.0, 0.4)), negative_slope=one(rng, (0.0, 0.2))
        ),
        lambda: L.UnitNormalization(axis=one(rng, (-1, 1, [1, 2]))),
        lambda: L.Rescaling(one(rng, (0.5, [0.3] * width)), offset=one(rng, (0.0, -0.7))),
        lambda: L.Normalization(axis=-1, mean=[0.3] * width, variance=[1.7] * width, invert=flip(rng, 0.3)),
        lambda: L.Normalization(axis=one(rng, (-1, (1, 2), None))),
        lambda: L.LayerNormalization(axis=one(rng, (-1, [1, 2]))),
        lambda: L.Softmax(axis=one(rng, (-1, 1))),
        lambda: L.Activation(activation(K, rng)),
        lambda: L.ELU(0.6),
    ]
    if not is_keras3(K):
        makers.append(lambda: L.ThresholdedReLU(theta=float(one(rng, (0.3, 1.0)))))
    else:
        names = ("log_softmax", "tanh_shrink", "hard_shrink", "soft_shrink", "sparse_plus", "sparse_sigmoid")
        makers.append(lambda: L.Activation(one(rng, names)))
    x = K.Input((steps, width))
    y, names_ = x, []
    for _ in range(int(rng.integers(1, 4))):
        layer = one(rng, makers)()
        y = layer(y)
        names_.append(layer.name)
    draw = features(rng, width)
    return Net(K.Model(x, [y, L.GRU(3)(y)]), lambda n, t: [2 * draw(n, t)], steps, "elementwise " + " ".join(names_))


def dot_products(K: Any, rng: Rng) -> Net:
    """Dot of sequences and vectors along any axes, and what attention was made of before it was a layer."""
    L, width, steps = K.layers, int(rng.integers(2, 6)), int(rng.integers(3, 6))
    a, b = K.Input((steps, width), name="a"), K.Input((steps, width), name="b")
    one_, two = (L.GRU(width, return_sequences=True)(t) for t in (a, b))
    last = L.LSTM(width)(a)
    normal = flip(rng)
    outputs = [
        L.Dot(axes=one(rng, (1, 2, -1, (2, 2), (1, 1))), normalize=normal)([one_, two]),
        L.Dot(axes=one(rng, ((2, 1), (-1, -1))), normalize=normal)([one_, last]),
        L.Dot(axes=1, normalize=normal)([last, L.LSTM(width)(b)]),
    ]
    shares = L.Activation("softmax")(outputs[1])
    outputs.append(L.Dot(axes=(1, 1))([shares, two]))
    draw = features(rng, width)
    return Net(K.Model([a, b], outputs), lambda n, t: [draw(n, t), draw(n, t)], steps, f"dot normalize={normal}")


def stateful(K: Any, rng: Rng) -> Net:
    """Layers that go on from where the last call ended, stacked and both ways, under masks whose first step is valid.

    Where a stream differs from Keras is left out: a masked step at the start of a later call (Keras repeats zeros), and layers that
    are not stateful beside ones that are (a stream carries the states of all).
    """
    L, batch, width = K.layers, int(rng.integers(1, 5)), int(rng.integers(1, 5))
    masked = flip(rng)
    x = K.Input(batch_shape=(batch, None, width))
    y = L.Masking(MASK_VALUE)(x) if masked else x
    both_ways, names = flip(rng, 0.3), []
    for last in (False, True) if flip(rng) else (True,):
        options = {"stateful": True, "return_sequences": not last or flip(rng)}
        kind, units = int(rng.integers(4)), int(rng.integers(1, 8))
        if kind == 3:  # Keras 3 does not keep the states of stacked cells
            layer = L.RNN(cell(K, rng), **options)
        else:
            made, own = cell_class(K, rng, kind, "")
            layer = made(units, go_backwards=both_ways and flip(rng, 0.3), **own, **options)
        if both_ways and (last or flip(rng)):
            layer = L.Bidirectional(layer, one(rng, ("concat", "sum", "ave", "mul")))
        y = layer(y)
        names.append(f"{layer.name} {options}")
    numbers = features(rng, width)

    def draw(_: int, steps: int) -> list[Array]:
        values = numbers(batch, steps)
        if masked:
            holes = hole_pattern(rng, batch, steps)
            holes[:, 0] = False
            values[holes] = MASK_VALUE
        return [values]

    return Net(K.Model(x, L.Dense(2)(y)), draw, None, f"stateful masked={masked} {names}", batch)


KINDS: dict[str, tuple[int, Callable[[Any, Rng], Net]]] = {
    "sequential": (8, sequential),
    "merged": (3, merged),
    "merged_ranks": (1, merged_ranks),
    "encoder_decoder": (2, encoder_decoder),
    "bidirectional_states": (2, bidirectional_states),
    "recurrent_states": (2, recurrent_states),
    "shared": (1, shared),
    "nested": (1, nested),
    "masked_argument": (1, masked_argument),
    "fixed": (2, fixed),
    "joined_in_time": (1, joined_in_time),
    "convolutional": (3, convolutional),
    "pooled": (1, pooled),
    "attention": (3, attention),
    "video": (2, video),
    "paragraphs": (2, paragraphs),
    "convolved_states": (2, convolved_states),
    "elementwise": (2, elementwise),
    "dot_products": (1, dot_products),
    "stateful": (2, stateful),
}


def draw(K: Any, rng: Rng, kind: str | None = None) -> Net:
    """Return a random net; drawn again where Keras itself cannot build it."""
    while True:
        names = [name for name, (share, _) in KINDS.items() for _ in range(share)]
        chosen = kind or one(rng, names)
        try:
            net = KINDS[chosen][1](K, rng)
        except (ValueError, TypeError, AttributeError, NotImplementedError):
            continue
        randomise(K, net.model, rng)
        net.about = f"{chosen}: {net.about}"
        return net


def outputs_of(net: Net, arrays: list[Array]) -> list[Array]:
    """Return the engine's outputs, flat."""
    result = net.model(arrays if len(arrays) > 1 else arrays[0], training=False)
    return [np.asarray(part) for part in (result if isinstance(result, list | tuple) else [result])]


def forget_states(model: Any) -> None:
    """Have stateful layers start from zeros again."""
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_states()

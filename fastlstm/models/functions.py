"""LSTM, GRU and RNN as functions of arrays, without a layer: the same kernels, weights in our order."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fastlstm.errors import InputError
from fastlstm.layers.activations import activation as known
from fastlstm.layers.build import Build
from fastlstm.session import Session


def lstm(
    x: np.ndarray,
    W: np.ndarray,
    U: np.ndarray,
    b: np.ndarray | None = None,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return outputs (B, T, H) and the final h and c (B, H) of an LSTM.

    x (B, T, I), W (I, 4H), U (H, 4H), b (4H,), gates i f g o side by side as in Keras; h0 and c0 (B, H) start as zeros; mask (B, T)
    booleans, steps without which keep the state. float32 or float64, that of x.

        i, f, o = sigmoid(x W + h U + b),  g = tanh(...),  c = f c + i g,  h = o tanh(c)

    >>> y, h, c = fastlstm.lstm(x, W, U, b)
    """
    y, h, c = _run(
        "LSTM",
        {"x": x, "W": W, "U": U, "b": b, "h0": h0, "c0": c0, "mask": mask},
        ("x", "W", "U", "b", "h0", "c0", "", "mask"),
    )
    return y, h, c


def gru(
    x: np.ndarray,
    W: np.ndarray,
    U: np.ndarray,
    b: np.ndarray | None = None,
    bn: np.ndarray | None = None,
    h0: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    reset_after: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs (B, T, H) and the final h (B, H) of a GRU.

    x (B, T, I), W (I, 3H), U (H, 3H), b (3H,), gates z r n side by side; bn (H,) is the bias that the reset gate scales, with
    `reset_after`. Keras's bias (2, 3H) is b = bias[0] + [bias[1, :2H], 0], bn = bias[1, 2H:].

        z, r = sigmoid(x W + h U + b),  n = tanh(x Wn + bn' + r (h Un + bn)),  h = z h + (1 - z) n

    >>> y, h = fastlstm.gru(x, W, U, b)
    """
    given = {"x": x, "W": W, "U": U, "b": b, "bn": bn, "h0": h0, "mask": mask}
    y, h = _run("GRU", given, ("x", "W", "U", "b", "bn", "h0", "mask"), reset="after" if reset_after else "before")
    return y, h


def rnn(
    x: np.ndarray,
    W: np.ndarray,
    U: np.ndarray,
    b: np.ndarray | None = None,
    h0: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    activation: str = "tanh",
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs (B, T, H) and the final h (B, H) of h = activation(x W + h U + b); x (B, T, I), W (I, H), U (H, H), b (H,).

    >>> y, h = fastlstm.rnn(x, W, U, b)
    """
    op, alpha, beta = known(activation, "rnn")
    given = {"x": x, "W": W, "U": U, "b": b, "h0": h0, "mask": mask}
    y, h = _run("RNN", given, ("x", "W", "U", "b", "h0", "mask"), activations=(op,), alphas=(alpha,), betas=(beta,))
    return y, h


def _run(op: str, given: dict[str, np.ndarray | None], order: Sequence[str], **attributes: object) -> list[np.ndarray]:
    """Run one node on arrays. Raise InputError for what is no array, our errors for shapes that do not fit."""
    x = np.asarray(given["x"])
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    arrays = {}
    for name, value in given.items():
        if value is not None:
            array = np.asarray(value)
            if array.dtype.kind not in "fiub":
                raise InputError(f"{name} is an array of {array.dtype}, expected numbers")
            arrays[name] = array.astype(bool if name == "mask" else dtype, copy=False)
    shapes = tuple((name, arrays[name].dtype.name, _dims(name, arrays[name])) for name in order if name in arrays)
    session, outputs = _session(op, shapes, tuple(order), tuple(attributes.items()))
    results = session.run(arrays)
    return [results[name] for name in outputs]


def _dims(name: str, array: np.ndarray) -> tuple[int | str, ...]:
    """Leave the batch and the steps open: the rest is fixed, and so are its mistakes found."""
    free = {"x": ("batch", "time"), "mask": ("batch", "time"), "h0": ("batch",), "c0": ("batch",)}.get(name, ())
    return tuple(free[axis] if axis < len(free) else size for axis, size in enumerate(array.shape))


@lru_cache(maxsize=64)
def _session(op: str, shapes: tuple, order: tuple[str, ...], attributes: tuple) -> tuple[Session, list[str]]:
    build = Build()
    tensors = {name: build.input(name, dtype, dims) for name, dtype, dims in shapes}
    options = dict(attributes) | ({"masked_output": "carry"} if "mask" in tensors else {})
    inputs = [tensors.get(name) for name in order]
    outputs = build.node(op.lower(), op, inputs, 3 if op == "LSTM" else 2, batch_first=True, **options)
    return Session(build.model(outputs)), [tensor.name for tensor in outputs]

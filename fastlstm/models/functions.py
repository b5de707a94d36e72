"""LSTM, GRU, RNN and CTC as functions of arrays, without a layer: the same kernels, weights in our order."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from fastlstm import losses
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


def ctc(y_true: Any, y_pred: Any, input_length: Any = None, label_length: Any = None) -> np.ndarray:
    """Return the losses (B,) of connectionist temporal classification: - log of the chance that logits spell labels.

    y_pred (B, T, N) logits, class 0 the blank; y_true (B, L) labels, whole numbers, 0 behind the last; `input_length` (B,) how many steps
    count, all without it, `label_length` (B,) how many labels, those before the first 0 without it. Infinite where labels need more
    steps, NaN where a label is no class. float32 or float64, that of y_pred.

    >>> losses = fastlstm.ctc([[1, 2, 0]], logits, input_length=[40])
    """
    x = np.asarray(y_pred)
    if x.dtype.kind not in "fiub":
        raise InputError(f"y_pred is an array of {x.dtype}, expected numbers")
    arrays: dict[str, np.ndarray] = {
        "y_pred": x.astype(np.float64 if x.dtype == np.float64 else np.float32, copy=False)
    }
    given = {"y_true": y_true, "input_length": input_length, "label_length": label_length}
    for name, value in given.items():
        if value is not None:
            whole = np.asarray(value)
            arrays[name] = whole.astype(np.int64)
            if whole.dtype.kind not in "fiub" or (arrays[name] != whole).any():
                raise InputError(f"{name} holds other than whole numbers")
    results = _ctc_session(arrays["y_pred"].dtype.name, tuple(arrays)).run(arrays)
    return results if isinstance(results, np.ndarray) else next(iter(results.values()))


@lru_cache(maxsize=16)
def _ctc_session(dtype: str, names: tuple[str, ...]) -> Session:
    build = Build()
    dims: dict[str, tuple[int | str, ...]] = {"y_pred": ("batch", "time", "classes"), "y_true": ("batch", "labels")}
    tensors = {
        name: build.input(name, dtype if name == "y_pred" else "int64", dims.get(name, ("batch",))) for name in names
    }
    return Session(build.model([losses.ctc(**tensors)]))


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

"""Losses, as nodes of the graph: a loss gives one value for each sample, over which a step takes the weighted mean.

    mean_squared_error(y, p) = mean (p - y)^2                         mean: over the last axis
    binary_crossentropy = - mean (y log p + (1 - y) log(1 - p))       of logits x: softplus(x) - x y
    categorical_crossentropy = - sum y log(p / sum p)                 of logits x: log sum e^x - sum x y

Names, equations and defaults are Keras 3's. Where an output is a sigmoid or a softmax, cross-entropies take its logits from the graph, as
Keras does on TensorFlow: a saturated output then still has a gradient. A loss of your own is a function of tensors:

>>> model.compile("adam", loss=lambda y_true, y_pred: (y_pred - y_true) ** 2)
"""

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np

from fastlstm.errors import InputError, ShapeError, UnsupportedError, one_of
from fastlstm.layers.build import Build, Shape, Tensor

EPSILON = 1e-7  # Keras's
BLANK = 0  # the class of CTC that spells nothing; Keras's
REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight")
Function = Callable[..., Tensor]


# ---- functions of tensors --------------------------------------------------------------------------------
def _node(op: str, *inputs: Tensor, **attributes: Any) -> Tensor:
    return inputs[0].build.node(op.lower(), op, list(inputs), **attributes)


def _number(like: Tensor, value: float) -> Tensor:
    return like.build.weight("number", np.array(value, like.value.dtype))


def _sum(x: Tensor, keepdims: bool = False) -> Tensor:
    return _node("ReduceSum", x, axes=(-1,), keepdims=keepdims)


def _mean(x: Tensor) -> Tensor:
    size = x.shape[-1]
    if not isinstance(size, int):
        raise UnsupportedError(f"the last axis of {x.name!r} has no fixed size: {x.shape}; a loss means over it")
    return _sum(x) if size == 1 else _sum(x) * (1 / size)


def _abs(x: Tensor) -> Tensor:
    return _node("Abs", x)


def _log(x: Tensor) -> Tensor:
    return _node("Log", x)


def _at_least(x: Tensor, bound: float) -> Tensor:
    return _node("Max", x, _number(x, bound))


def _clipped(x: Tensor, low: float, high: float) -> Tensor:
    return _node("Min", _at_least(x, low), _number(x, high))


def _producer(build: Build, tensor: Tensor) -> Any:
    """Return the node that computes a value, None for an input or a weight."""
    return next((node for node in reversed(build.nodes) if tensor.name in node.outputs), None)


def _logits(y_pred: Tensor, from_logits: bool, op: str) -> Tensor | None:
    """Return the logits of an output: itself, or what its activation `op` reads; None where it has another."""
    if from_logits:
        return y_pred
    node = _producer(y_pred.build, y_pred)
    while node is not None and node.op == "Identity":
        node = _producer(y_pred.build, Tensor(y_pred.build, node.inputs[0]))
    if node is None or node.op != op or node.attributes.get("axis", -1) not in (-1, len(y_pred.shape) - 1):
        return None
    return Tensor(y_pred.build, node.inputs[0])


# ---- regression ------------------------------------------------------------------------------------------
def mean_squared_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean (p - y)^2"""
    if y_pred.shape and y_pred.shape == y_true.shape and y_pred.value.dtype == y_true.value.dtype:
        return _node("MeanSquares", y_pred, y_true)
    return _mean((y_pred - y_true) ** 2)


def mean_absolute_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean |p - y|"""
    return _mean(_abs(y_pred - y_true))


def mean_absolute_percentage_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """100 mean |(y - p) / max(|y|, epsilon)|"""
    return _mean(_abs((y_true - y_pred) / _at_least(_abs(y_true), EPSILON))) * 100.0


def mean_squared_logarithmic_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean (log(1 + p) - log(1 + y))^2, p and y at least epsilon"""
    shifted = lambda x: _log(_at_least(x, EPSILON) + 1.0)
    return _mean((shifted(y_pred) - shifted(y_true)) ** 2)


def huber(y_true: Tensor, y_pred: Tensor, delta: float = 1.0) -> Tensor:
    """mean of e^2 / 2 where e = |p - y| is at most delta, else delta e - delta^2 / 2"""
    e = _abs(y_pred - y_true)
    quadratic = _node("Min", e, _number(e, delta))
    # q^2 / 2 + delta (e - q), q = min(e, delta): both branches at once
    return _mean((quadratic**2) * 0.5 + (e - quadratic) * delta)


def log_cosh(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean log cosh(p - y)"""
    x = y_pred - y_true
    return _mean(x + _node("Softplus", x * -2.0) - log(2.0))


def cosine_similarity(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """- sum of the products of y and p, each divided by its length"""
    unit = lambda x: x / _node("Sqrt", _at_least(_sum(x**2, keepdims=True), 1e-12))
    return -_sum(unit(y_true) * unit(y_pred))


def poisson(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean (p - y log(p + epsilon))"""
    return _mean(y_pred - y_true * _log(y_pred + EPSILON))


# ---- classification --------------------------------------------------------------------------------------
def binary_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, label_smoothing: float = 0.0
) -> Tensor:
    """- mean (y log p + (1 - y) log(1 - p)); `label_smoothing` s takes y to y (1 - s) + s / 2."""
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + 0.5 * label_smoothing
    x = _logits(y_pred, from_logits, "Sigmoid")
    if x is not None:
        return _mean(_node("SigmoidCrossEntropy", x, y_true))
    p = _clipped(y_pred, EPSILON, 1.0 - EPSILON)
    return -_mean(y_true * _log(p) + (1.0 - y_true) * _log(1.0 - p))


def categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, label_smoothing: float = 0.0
) -> Tensor:
    """- sum y log p over the classes; `label_smoothing` s takes y to y (1 - s) + s / classes."""
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + label_smoothing / float(y_pred.shape[-1])
    x = _logits(y_pred, from_logits, "Softmax")
    if x is not None:
        return _softmax_entropy(x, y_true)
    p = _clipped(y_pred / _sum(y_pred, keepdims=True), EPSILON, 1.0 - EPSILON)
    return -_sum(y_true * _log(p))


def sparse_categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, ignore_class: int | None = None
) -> Tensor:
    """- log p of the class y, an integer; samples of the class `ignore_class` count as masked."""
    x = _logits(y_pred, from_logits, "Softmax")
    if x is None:  # of probabilities, Keras on TensorFlow takes the logarithm as logits
        x = _log(_clipped(y_pred, EPSILON, 1.0 - EPSILON))
    if ignore_class is None:
        return _softmax_entropy(x, y_true)
    valid = _node("NotEqual", y_true, _number(y_true, ignore_class))
    return _softmax_entropy(x, _node("Where", valid, y_true, _number(y_true, 0))).with_mask(valid)


def _softmax_entropy(x: Tensor, y_true: Tensor) -> Tensor:
    """Return the cross-entropy of the softmax of logits and targets, one-hot or classes."""
    return x.build.node("cross_entropy", "SoftmaxCrossEntropy", [x, y_true], [True, True])[0]


def kl_divergence(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """sum y log(y / p), y and p between epsilon and 1"""
    y, p = _clipped(y_true, EPSILON, 1.0), _clipped(y_pred, EPSILON, 1.0)
    return _sum(y * _log(y / p))


def hinge(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean max(1 - y p, 0), y -1 or 1; 0 stands for -1 where all labels are 0 or 1"""
    return _mean(_at_least(1.0 - y_true * y_pred, 0.0))


def squared_hinge(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean max(1 - y p, 0)^2, labels as in `hinge`"""
    return _mean(_at_least(1.0 - y_true * y_pred, 0.0) ** 2)


# ---- labels without places -------------------------------------------------------------------------------
def ctc(
    y_true: Tensor, y_pred: Tensor, input_length: Tensor | None = None, label_length: Tensor | None = None
) -> Tensor:
    """- log of the chance that logits y_pred (B, T, N) spell the labels y_true (B, L), whole numbers; class 0 is the blank.

    `input_length` (B,) says how many steps count, else the mask of y_pred; `label_length` (B,) how many labels, else all before the first
    0. The loss is infinite where labels need more steps than there are: one for each, and one between two that are equal. `fastlstm.ctc` is
    the same for arrays.
    """
    build, mask = y_pred.build, y_pred.mask
    up_to = lambda lengths, x: build.node("steps", "SequenceMask", [lengths, x], batch_first=True)
    if input_length is not None:
        mask = up_to(input_length, y_pred)
    if label_length is not None:
        y_true = _node("Where", up_to(label_length, y_true), y_true, _number(y_true, BLANK))
    # the slope is what the adjoint reads
    return build.node("ctc", "CTC", [y_pred, y_true, mask], [True, build.training], blank=BLANK)[0]


# ---- objects ---------------------------------------------------------------------------------------------
class Loss:
    """A loss with its options: `function(y_true, y_pred, **options)` gives values, `reduction` says how they become one number.

    Reductions are Keras's: "sum_over_batch_size" or "mean", "sum", "mean_with_sample_weight". Subclass it and write
    `call(y_true, y_pred)`, or pass a function to `compile`.
    """

    function: Function
    sparse = False  # whether targets are class indices, one axis less than outputs
    whole = False  # whether targets are whole numbers
    reads_mask = False  # whether the mask of an output is the loss's to read, and weighs no values
    signed = False  # whether labels are -1 and 1

    def __init__(self, reduction: str = "sum_over_batch_size", name: str | None = None, **options: Any):
        if reduction not in REDUCTIONS:
            raise InputError(f"reduction={reduction!r} of a loss: expected one of {one_of(REDUCTIONS)}")
        self.reduction, self.options = reduction, options
        self.name = name or _snake(type(self).__name__)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the values of a batch, as nodes of its graph."""
        return type(self).function(y_true, y_pred, **self.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.options.items())})"

    # ---- targets ----------------------------------------------------------------------------------------
    def axes(self, shape: Shape) -> Shape:
        """Return the shape of targets for an output of `shape` (B, ...)."""
        return shape[:-1] if self.sparse else shape

    def weight_axes(self, shape: Shape) -> int:
        """Return how many axes sample weights may have: those of the loss's values."""
        return max(len(shape) - 1, 1)

    def shaped(self, y_true: np.ndarray, shape: Shape, where: str) -> np.ndarray:
        """Return targets with the axes that the loss compares with an output of `shape` (B, ...). Raise ShapeError.

        As in Keras, an axis of size 1 that one of the two lacks at the end is added or taken away.
        """
        expected = self.axes(shape)
        if y_true.ndim == len(expected) - 1 and shape[-1] == 1 and not self.sparse:
            y_true = y_true[..., None]
        elif y_true.ndim == len(expected) + 1 and y_true.shape[-1] == 1:
            y_true = y_true[..., 0]
        fits = y_true.ndim == len(expected) and all(
            not isinstance(d, int) or d == n for d, n in zip(expected[1:], y_true.shape[1:], strict=True)
        )
        if not fits:
            hint = ""
            if not self.sparse and y_true.ndim == len(shape) - 1:
                hint = "; class indices need loss='sparse_categorical_crossentropy'"
            raise ShapeError(
                f"{where}: targets have shape {y_true.shape}, loss {self.name!r} expects {_shown(expected)}{hint}"
            )
        return y_true

    def check(self, y_true: np.ndarray, shape: Shape, where: str, first: int = 0) -> None:
        """Raise InputError for targets that cannot be, `first` being the number of the first sample."""
        if self.sparse:
            _check_classes(y_true, shape[-1], where, first, self.options.get("ignore_class"))

    def check_steps(self, y_true: np.ndarray, steps: Any, where: str, first: int = 0) -> None:
        """Raise InputError where targets do not fit in the steps, a number or one for each sample, of their output."""

    def prepared(self, y_true: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return targets as the loss takes them. Raise InputError for values that cannot be."""
        if self.whole:
            return y_true.astype(np.int64)
        if self.signed and y_true.size and np.isin(y_true, (0, 1)).all():
            y_true = 2 * y_true.astype(dtype) - 1
        return y_true.astype(dtype, copy=False)


class _Own(Loss):
    """A function of tensors as a loss."""

    def __init__(self, function: Function, **options: Any):
        super().__init__(name=getattr(function, "__name__", "loss"), **options)
        self._own = function

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        values = self._own(y_true, y_pred)
        if not isinstance(values, Tensor):
            raise UnsupportedError(
                f"loss {self.name!r} returns {type(values).__name__}, expected what tensors give: use + - * / ** and fastlstm.losses"
            )
        # one value for each sample and step is what weights belong to
        return _mean(values) if len(values.shape) == len(y_pred.shape) else values


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and k else c.lower() for k, c in enumerate(name))


class MeanSquaredError(Loss):
    function = staticmethod(mean_squared_error)


class MeanAbsoluteError(Loss):
    function = staticmethod(mean_absolute_error)


class MeanAbsolutePercentageError(Loss):
    function = staticmethod(mean_absolute_percentage_error)


class MeanSquaredLogarithmicError(Loss):
    function = staticmethod(mean_squared_logarithmic_error)


class Huber(Loss):
    function = staticmethod(huber)

    def __init__(self, delta: float = 1.0, reduction: str = "sum_over_batch_size", name: str | None = "huber_loss"):
        super().__init__(reduction, name, delta=delta)


class LogCosh(Loss):
    function = staticmethod(log_cosh)


class CosineSimilarity(Loss):
    function = staticmethod(cosine_similarity)


class Poisson(Loss):
    function = staticmethod(poisson)


class KLDivergence(Loss):
    function = staticmethod(kl_divergence)

    def __init__(self, reduction: str = "sum_over_batch_size", name: str | None = "kl_divergence"):
        super().__init__(reduction, name)


class Hinge(Loss):
    function = staticmethod(hinge)
    signed = True


class SquaredHinge(Loss):
    function = staticmethod(squared_hinge)
    signed = True


class BinaryCrossentropy(Loss):
    function = staticmethod(binary_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
    ):
        super().__init__(reduction, name, from_logits=from_logits, label_smoothing=label_smoothing)


class CategoricalCrossentropy(Loss):
    function = staticmethod(categorical_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
    ):
        super().__init__(reduction, name, from_logits=from_logits, label_smoothing=label_smoothing)


class SparseCategoricalCrossentropy(Loss):
    function = staticmethod(sparse_categorical_crossentropy)
    sparse = whole = True

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
    ):
        super().__init__(reduction, name, from_logits=from_logits, ignore_class=ignore_class)


class CTC(Loss):
    """Connectionist temporal classification: labels (B, L), 0 behind the last, for logits (B, T, N) whose class 0 is the blank.

    The steps that count are those of the output's mask, all without one; sample weights have one value for each sequence.
    """

    function = staticmethod(ctc)
    reads_mask = True
    whole = True

    def __init__(self, reduction: str = "sum_over_batch_size", name: str | None = "ctc"):
        super().__init__(reduction, name)

    def axes(self, shape: Shape) -> Shape:
        return shape[0], "labels"

    def weight_axes(self, shape: Shape) -> int:
        return 1

    def shaped(self, y_true: np.ndarray, shape: Shape, where: str) -> np.ndarray:
        if len(shape) != 3:
            raise ShapeError(f"{where} has shape {_shown(shape)}, loss {self.name!r} expects (batch, steps, classes)")
        if y_true.ndim != 2:
            raise ShapeError(f"{where}: labels have shape {y_true.shape}, loss {self.name!r} expects (batch, labels)")
        return y_true

    def check(self, y_true: np.ndarray, shape: Shape, where: str, first: int = 0) -> None:
        _check_classes(y_true, shape[-1], where, first)
        inside = (y_true[:, :-1] == BLANK) & (y_true[:, 1:] != BLANK)
        if inside.any():
            row, label = (int(k) for k in np.argwhere(inside)[0])
            raise InputError(f"{where}: label {label} of sample {row + first} is {BLANK}, the blank, and others follow")
        if isinstance(shape[1], int):
            self.check_steps(y_true, shape[1], where, first)

    def check_steps(self, y_true: np.ndarray, steps: Any, where: str, first: int = 0) -> None:
        labels = y_true != BLANK
        repeated = (y_true[:, 1:] == y_true[:, :-1]) & labels[:, 1:]
        needed = labels.sum(axis=1) + repeated.sum(axis=1)
        steps = np.broadcast_to(steps, needed.shape)
        if (needed > steps).any():
            row = int(np.argmax(needed > steps))
            raise InputError(
                f"{where}: sample {row + first} has {labels[row].sum()} labels, which need {needed[row]} steps (equal neighbours one between them), the output has {steps[row]}"
            )


_CLASSES: tuple[type[Loss], ...] = (
    CTC, BinaryCrossentropy, CategoricalCrossentropy, CosineSimilarity, Hinge, Huber, KLDivergence, LogCosh,
    MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredError, MeanSquaredLogarithmicError, Poisson,
    SparseCategoricalCrossentropy, SquaredHinge,
)  # fmt: skip
_BY_NAME: dict[str, type[Loss]] = {kind.__name__: kind for kind in _CLASSES}
_BY_NAME |= {kind.function.__name__: kind for kind in _CLASSES}
_BY_NAME |= {
    short: _BY_NAME[long]
    for long, shorts in {
        "binary_crossentropy": ("bce", "BCE"),
        "huber": ("huber_loss",),
        "kl_divergence": ("kld", "KLD", "kullback_leibler_divergence"),
        "log_cosh": ("logcosh",),
        "mean_absolute_error": ("mae", "MAE"),
        "mean_absolute_percentage_error": ("mape", "MAPE"),
        "mean_squared_error": ("mse", "MSE"),
        "mean_squared_logarithmic_error": ("msle", "MSLE"),
    }.items()
    for short in shorts
}


def get(loss: str | Loss | Function) -> Loss:
    """Return a loss by name, as it is, or of a function of tensors. Raise InputError for an unknown name."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if isinstance(loss, str):
        if loss not in _BY_NAME:
            raise InputError(f"unknown loss {loss!r}; known: {one_of(_BY_NAME)}")
        made = _BY_NAME[loss]()
        made.name = loss
        return made
    if callable(loss):
        known = next((kind for kind in _CLASSES if kind.function is loss), None)
        return _Own(loss) if known is None else known()
    raise InputError(f"loss={loss!r}: expected a name, a loss or a function of tensors")


def _shown(shape: tuple) -> str:
    return f"({', '.join(str(dim) for dim in shape)}{',' if len(shape) == 1 else ''})"


def _check_classes(y_true: np.ndarray, classes: Any, where: str, first: int, other: int | None = None) -> None:
    """Raise InputError unless every target is a class, or the one that is ignored."""
    bad = (y_true < 0) | (y_true >= classes) | (y_true != np.floor(y_true))
    if other is not None:
        bad &= y_true != other
    if bad.any():
        row, *rest = (int(k) for k in np.argwhere(bad)[0])
        place = (row + first, *rest)
        raise InputError(
            f"{where}: the target at {place} is {y_true[bad][0]}, expected a class from 0 to {classes - 1}: the output has {classes}"
        )

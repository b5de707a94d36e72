"""Metrics: what is watched while a network trains, accumulated over the batches of an epoch. NumPy on the outputs of each batch.

Names, equations, thresholds and the rules of weights and masks are Keras 3's. A metric has `update_state(y_true, y_pred, sample_weight)`,
`result()` and `reset_state()`; a function of two arrays that gives values per sample is a metric too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastlstm.errors import InputError, ShapeError, UnsupportedError, one_of

EPSILON = 1e-7
Array = np.ndarray
FLOATS = np.float64


def same_rank(a: Array, b: Array) -> tuple[Array, Array]:
    """Return two arrays of one rank: an axis of size 1 that one lacks at the end is added to a vector, else taken from the other."""
    if a.ndim == b.ndim + 1 and a.shape[-1] == 1:
        return (a, b[..., None]) if b.ndim == 1 else (a[..., 0], b)
    if b.ndim == a.ndim + 1 and b.shape[-1] == 1:
        return (a[..., None], b) if a.ndim == 1 else (a, b[..., 0])
    return a, b


def _safe(a: Any, b: Any) -> Any:
    """a / b, 0 where b is 0."""
    b = np.asarray(b, FLOATS)
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), b.shape)), where=b != 0)


# ---- values of each sample -----------------------------------------------------------------------------
def accuracy(y_true: Array, y_pred: Array) -> Array:
    """Whether they are equal."""
    y_true, y_pred = same_rank(y_true, y_pred)
    return y_true == y_pred


def binary_accuracy(y_true: Array, y_pred: Array, threshold: float = 0.5) -> Array:
    """Whether an output lies on the label's side of the threshold."""
    y_true, y_pred = same_rank(y_true, y_pred)
    return y_true == (y_pred > threshold)


def categorical_accuracy(y_true: Array, y_pred: Array) -> Array:
    """Whether the largest output is the class that y_true, one-hot, names."""
    return np.argmax(y_true, axis=-1) == np.argmax(y_pred, axis=-1)


def sparse_categorical_accuracy(y_true: Array, y_pred: Array) -> Array:
    """Whether the largest output is the class y_true."""
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true[..., 0]
    return y_true == np.argmax(y_pred, axis=-1)


def top_k_categorical_accuracy(y_true: Array, y_pred: Array, k: int = 5) -> Array:
    """Whether the class that y_true, one-hot, names is among the k largest outputs."""
    return sparse_top_k_categorical_accuracy(np.argmax(y_true, axis=-1), y_pred, k)


def sparse_top_k_categorical_accuracy(y_true: Array, y_pred: Array, k: int = 5) -> Array:
    """Whether the class y_true is among the k largest outputs; equal ones count as such."""
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true[..., 0]
    own = np.take_along_axis(y_pred, y_true.astype(np.int64)[..., None], axis=-1)
    return (y_pred > own).sum(axis=-1) < k


def mean_squared_error(y_true: Array, y_pred: Array) -> Array:
    y_true, y_pred = same_rank(y_true, y_pred)
    return np.mean(np.square(y_pred - y_true), axis=-1)


def mean_absolute_error(y_true: Array, y_pred: Array) -> Array:
    y_true, y_pred = same_rank(y_true, y_pred)
    return np.mean(np.abs(y_pred - y_true), axis=-1)


def mean_absolute_percentage_error(y_true: Array, y_pred: Array) -> Array:
    y_true, y_pred = same_rank(y_true, y_pred)
    return 100 * np.mean(np.abs((y_true - y_pred) / np.maximum(np.abs(y_true), EPSILON)), axis=-1)


def mean_squared_logarithmic_error(y_true: Array, y_pred: Array) -> Array:
    y_true, y_pred = same_rank(y_true, y_pred)
    logs = (np.log1p(np.maximum(y, EPSILON)) for y in (y_pred, y_true))
    return np.mean(np.square(np.subtract(*logs)), axis=-1)


def binary_crossentropy(y_true: Array, y_pred: Array) -> Array:
    y_true, y_pred = same_rank(y_true, y_pred)
    p = np.clip(y_pred, EPSILON, 1 - EPSILON)
    return -np.mean(y_true * np.log(p) + (1 - y_true) * np.log(1 - p), axis=-1)


def categorical_crossentropy(y_true: Array, y_pred: Array) -> Array:
    p = np.clip(y_pred / y_pred.sum(axis=-1, keepdims=True), EPSILON, 1 - EPSILON)
    return -np.sum(y_true * np.log(p), axis=-1)


def sparse_categorical_crossentropy(y_true: Array, y_pred: Array) -> Array:
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true[..., 0]
    p = np.clip(y_pred, EPSILON, 1 - EPSILON)
    own = np.take_along_axis(p, y_true.astype(np.int64)[..., None], axis=-1)[..., 0]
    return np.log(p.sum(axis=-1)) - np.log(own)


# ---- metrics -------------------------------------------------------------------------------------------
class Metric:
    """The base of metrics. `state` holds its sums by name; they are what a checkpoint keeps."""

    def __init__(self, name: str | None = None):
        self.name = name or _snake(type(self).__name__)
        self.state: dict[str, Array] = {}
        self.reset_state()

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:
        """Take a batch; `sample_weight` (B,) or of more axes of the values."""
        raise NotImplementedError

    def masked(self, y_true: Array, y_pred: Array, sample_weight: Array | None, mask: Array | None) -> None:
        """Take a batch some of whose steps are masked; only means over samples look at masks, as in Keras."""
        self.update_state(y_true, y_pred, sample_weight)

    def result(self) -> float:
        """Return the metric of all batches since the last reset."""
        raise NotImplementedError

    def check(self, y_true: Sequence[Any], y_pred: Sequence[Any], where: str) -> None:
        """Raise ShapeError where targets and outputs of these shapes, None or a symbol for sizes that are not known, do not go together."""

    def reset_state(self) -> None:
        """Start anew."""
        for array in self.state.values():
            array[...] = 0

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        """Take a batch and return the result so far."""
        weight = None if sample_weight is None else np.asarray(sample_weight)
        self.update_state(np.asarray(y_true), np.asarray(y_pred), weight)
        return self.result()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"


class Mean(Metric):
    """The weighted mean of values."""

    def reset_state(self) -> None:
        self.state = {"total": np.zeros(()), "count": np.zeros(())}

    def add(self, values: Array, sample_weight: Array | None = None) -> None:
        """Take values (B, ...); axes that weights do not have are averaged first."""
        values = np.asarray(values, FLOATS)
        if sample_weight is None:
            self.state["total"] += values.mean(axis=tuple(range(1, values.ndim))).sum()
            self.state["count"] += values.shape[0] if values.ndim else 1
            return
        values, weights = same_rank(values, np.asarray(sample_weight, FLOATS))
        if values.ndim > weights.ndim:
            values = values.mean(axis=tuple(range(weights.ndim, values.ndim)))
        weights = np.broadcast_to(weights, values.shape)
        rest = tuple(range(1, values.ndim))
        self.state["total"] += (values * weights).mean(axis=rest).sum()
        self.state["count"] += weights.mean(axis=rest).sum()

    def update_state(self, y_true: Array, y_pred: Array | None = None, sample_weight: Array | None = None) -> None:
        self.add(y_true, sample_weight)

    def result(self) -> float:
        return float(_safe(self.state["total"], self.state["count"]))


class MeanMetricWrapper(Mean):
    """The mean of a function of targets and outputs that gives values (B, ...)."""

    function: Callable[..., Array]
    classes = False  # whether targets are class indices, one axis less than outputs

    def __init__(self, fn: Callable[..., Array] | None = None, name: str | None = None, **options: Any):
        self._function = fn or type(self).function
        self._options = options
        super().__init__(name or (getattr(fn, "__name__", None) if fn else None))

    def check(self, y_true: Sequence[Any], y_pred: Sequence[Any], where: str) -> None:
        if hasattr(type(self), "function"):
            _check_shapes(self, y_true, y_pred, where, self.classes)

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:  # type: ignore[override]
        self.add(self._function(y_true, y_pred, **self._options), sample_weight)

    def masked(self, y_true: Array, y_pred: Array, sample_weight: Array | None, mask: Array | None) -> None:
        if mask is not None:
            weights = mask.astype(FLOATS)
            if sample_weight is not None:
                weights, sample_weight = same_rank(weights, sample_weight)
                if sample_weight.ndim < weights.ndim:
                    sample_weight = sample_weight.reshape(
                        sample_weight.shape + (1,) * (weights.ndim - sample_weight.ndim)
                    )
                weights = weights * sample_weight
            sample_weight = weights
        self.update_state(y_true, y_pred, sample_weight)


class Accuracy(MeanMetricWrapper):
    function = staticmethod(accuracy)

    def __init__(self, name: str = "accuracy"):
        super().__init__(name=name)


class BinaryAccuracy(MeanMetricWrapper):
    function = staticmethod(binary_accuracy)

    def __init__(self, name: str = "binary_accuracy", threshold: float = 0.5):
        super().__init__(name=name, threshold=threshold)


class CategoricalAccuracy(MeanMetricWrapper):
    function = staticmethod(categorical_accuracy)

    def __init__(self, name: str = "categorical_accuracy"):
        super().__init__(name=name)


class SparseCategoricalAccuracy(MeanMetricWrapper):
    classes = True
    function = staticmethod(sparse_categorical_accuracy)

    def __init__(self, name: str = "sparse_categorical_accuracy"):
        super().__init__(name=name)


class TopKCategoricalAccuracy(MeanMetricWrapper):
    function = staticmethod(top_k_categorical_accuracy)

    def __init__(self, k: int = 5, name: str = "top_k_categorical_accuracy"):
        super().__init__(name=name, k=k)


class SparseTopKCategoricalAccuracy(MeanMetricWrapper):
    classes = True
    function = staticmethod(sparse_top_k_categorical_accuracy)

    def __init__(self, k: int = 5, name: str = "sparse_top_k_categorical_accuracy"):
        super().__init__(name=name, k=k)


class MeanSquaredError(MeanMetricWrapper):
    function = staticmethod(mean_squared_error)

    def __init__(self, name: str = "mean_squared_error"):
        super().__init__(name=name)


class MeanAbsoluteError(MeanMetricWrapper):
    function = staticmethod(mean_absolute_error)

    def __init__(self, name: str = "mean_absolute_error"):
        super().__init__(name=name)


class MeanAbsolutePercentageError(MeanMetricWrapper):
    function = staticmethod(mean_absolute_percentage_error)

    def __init__(self, name: str = "mean_absolute_percentage_error"):
        super().__init__(name=name)


class MeanSquaredLogarithmicError(MeanMetricWrapper):
    function = staticmethod(mean_squared_logarithmic_error)

    def __init__(self, name: str = "mean_squared_logarithmic_error"):
        super().__init__(name=name)


class BinaryCrossentropy(MeanMetricWrapper):
    function = staticmethod(binary_crossentropy)

    def __init__(self, name: str = "binary_crossentropy"):
        super().__init__(name=name)


class CategoricalCrossentropy(MeanMetricWrapper):
    function = staticmethod(categorical_crossentropy)

    def __init__(self, name: str = "categorical_crossentropy"):
        super().__init__(name=name)


class SparseCategoricalCrossentropy(MeanMetricWrapper):
    classes = True
    function = staticmethod(sparse_categorical_crossentropy)

    def __init__(self, name: str = "sparse_categorical_crossentropy"):
        super().__init__(name=name)


class RootMeanSquaredError(Mean):
    """The square root of the mean squared error over all elements."""

    def check(self, y_true: Sequence[Any], y_pred: Sequence[Any], where: str) -> None:
        _check_shapes(self, y_true, y_pred, where)

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:  # type: ignore[override]
        y_true, y_pred = same_rank(y_true, y_pred)
        self.add(np.square(y_pred - y_true), sample_weight)

    def result(self) -> float:
        return float(np.sqrt(super().result()))


# ---- counts of right and wrong decisions ---------------------------------------------------------------
class _Counts(Metric):
    """Weighted counts of true and false positives and negatives at each of several thresholds."""

    def __init__(self, thresholds: Sequence[float], name: str | None):
        self.thresholds = np.asarray(thresholds, FLOATS)
        super().__init__(name)

    def reset_state(self) -> None:
        self.state = {key: np.zeros(len(self.thresholds)) for key in ("tp", "fp", "tn", "fn")}

    def check(self, y_true: Sequence[Any], y_pred: Sequence[Any], where: str) -> None:
        _check_shapes(self, y_true, y_pred, where)

    def count(self, y_true: Array, y_pred: Array, sample_weight: Array | None) -> None:
        y_pred, y_true = same_rank(np.asarray(y_pred), np.asarray(y_true))
        weights = np.ones(y_pred.shape)
        if sample_weight is not None:
            given = np.asarray(sample_weight, FLOATS)
            weights = np.broadcast_to(given.reshape(given.shape + (1,) * (y_pred.ndim - given.ndim)), y_pred.shape)
        positive = y_true.astype(bool).ravel()
        # how many thresholds a score lies above; a threshold t decides by score > t
        above = np.searchsorted(self.thresholds.astype(y_pred.dtype), y_pred.ravel(), side="left")
        last = len(self.thresholds) + 1
        at_or_above = lambda chosen: np.cumsum(
            np.bincount(above[chosen], weights.ravel()[chosen], minlength=last)[::-1]
        )[::-1]
        tp, fp = at_or_above(positive), at_or_above(~positive)
        self.state["tp"] += tp[1:]
        self.state["fp"] += fp[1:]
        self.state["fn"] += tp[0] - tp[1:]
        self.state["tn"] += fp[0] - fp[1:]


class _Decided(_Counts):
    def __init__(
        self,
        thresholds: float | Sequence[float] | None = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
    ):
        default = 0.5 if top_k is None else -1e10
        given = default if thresholds is None else thresholds
        several = isinstance(given, list | tuple)
        super().__init__(sorted(given) if several else [given], name)  # type: ignore[arg-type, list-item]
        self._several, self.top_k, self.class_id = several, top_k, class_id

    def check(self, y_true: Sequence[Any], y_pred: Sequence[Any], where: str) -> None:
        super().check(y_true, y_pred, where)
        last = y_pred[-1] if y_pred else None
        if self.class_id is not None and isinstance(last, int) and not 0 <= self.class_id < last:
            raise InputError(
                f"{where}: metric {self.name!r} has class_id={self.class_id!r}, the output has {last} classes"
            )

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:
        y_pred, y_true = same_rank(y_pred, y_true)
        if self.top_k is not None:
            best = np.argsort(-y_pred, axis=-1, kind="stable")[..., : self.top_k]
            kept = np.full(y_pred.shape, -1e10, FLOATS)
            np.put_along_axis(kept, best, np.take_along_axis(y_pred, best, -1), -1)
            y_pred = kept
        if self.class_id is not None:
            y_true, y_pred = y_true[..., self.class_id, None], y_pred[..., self.class_id, None]
        self.count(y_true, y_pred, sample_weight)

    def _share(self, miss: str) -> Any:
        values = _safe(self.state["tp"], self.state["tp"] + self.state[miss])
        return values if self._several else float(values[0])


class Precision(_Decided):
    """True positives among all positives."""

    def result(self) -> Any:
        return self._share("fp")


class Recall(_Decided):
    """True positives among all that should be."""

    def result(self) -> Any:
        return self._share("fn")


class AUC(_Counts):
    """The area under the curve of true against false positives ("ROC"), or of precision against recall ("PR"), from
    `num_thresholds` thresholds, by Keras's sums.
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        thresholds: Sequence[float] | None = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: Sequence[float] | None = None,
        from_logits: bool = False,
    ):
        for argument, given in (("multi_label", multi_label), ("num_labels", num_labels), ("label_weights", label_weights)):  # fmt: skip
            if given is not None and given is not False:
                raise UnsupportedError(f"AUC({argument}={given!r}) is not supported: use one AUC for each label, on outputs of their own")  # fmt: skip
        if curve not in ("ROC", "PR") or summation_method not in ("interpolation", "minoring", "majoring"):
            raise InputError(
                f"AUC(curve={curve!r}, summation_method={summation_method!r}): expected 'ROC' or 'PR', 'interpolation', 'minoring' or 'majoring'"
            )
        if thresholds is None and num_thresholds < 2:
            raise InputError(f"num_thresholds={num_thresholds!r} of AUC: expected at least 2")
        inner = (
            [(k + 1) / (num_thresholds - 1) for k in range(num_thresholds - 2)]
            if thresholds is None
            else sorted(thresholds)
        )
        super().__init__([-EPSILON, *inner, 1 + EPSILON], name or "auc")
        self.curve, self.summation_method, self.from_logits = curve, summation_method, from_logits

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:
        if self.from_logits:
            y_pred = 1 / (1 + np.exp(-y_pred))
        self.count(y_true, y_pred, sample_weight)

    def result(self) -> float:
        tp, fp, tn, fn = (self.state[key] for key in ("tp", "fp", "tn", "fn"))
        if self.curve == "PR" and self.summation_method == "interpolation":
            return _interpolated(tp, fp, fn)
        recall = _safe(tp, tp + fn)
        x, y = (_safe(fp, fp + tn), recall) if self.curve == "ROC" else (recall, _safe(tp, tp + fp))
        heights = {
            "interpolation": (y[:-1] + y[1:]) / 2, "minoring": np.minimum(y[:-1], y[1:]), "majoring": np.maximum(y[:-1], y[1:])
        }[self.summation_method]  # fmt: skip
        return float(np.sum((x[:-1] - x[1:]) * heights))


def _interpolated(tp: Array, fp: Array, fn: Array) -> float:
    """The area under precision over recall, true positives being linear in all positives between thresholds (Davis and Goadrich, 2006)."""
    p = tp + fp
    dtp, dp = tp[:-1] - tp[1:], p[:-1] - p[1:]
    slope = _safe(dtp, np.maximum(dp, 0))
    intercept = tp[1:] - slope * p[1:]
    both = (p[:-1] > 0) & (p[1:] > 0)
    ratio = np.where(both, _safe(p[:-1], np.maximum(p[1:], 0)), 1.0)
    return float(np.sum(_safe(slope * (dtp + intercept * np.log(ratio)), np.maximum(tp[1:] + fn[1:], 0))))


def _check_shapes(
    metric: Metric, y_true: Sequence[Any], y_pred: Sequence[Any], where: str, classes: bool = False
) -> None:
    """Raise ShapeError unless shapes are equal but for an axis of size 1 at the end, or `classes` have one axis less."""
    wanted = tuple(y_pred[:-1] if classes else y_pred)
    given = tuple(y_true[:-1] if len(y_true) == len(wanted) + 1 and y_true[-1] == 1 else y_true)
    if len(wanted) == len(given) + 1 and wanted[-1] == 1:
        wanted = wanted[:-1]
    sizes = zip(given[1:], wanted[1:], strict=False)
    if len(given) != len(wanted) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes):
        raise ShapeError(
            f"{where}: metric {metric.name!r} takes {'class indices' if classes else 'targets of the shape of outputs'}, outputs have shape {tuple(y_pred)}, targets {tuple(y_true)}"
        )


# ---- by name -------------------------------------------------------------------------------------------
def _snake(name: str) -> str:
    return "".join(
        f"_{c.lower()}" if c.isupper() and k and not name[k - 1].isupper() else c.lower() for k, c in enumerate(name)
    )


_CLASSES: tuple[type[Metric], ...] = (
    AUC, Accuracy, BinaryAccuracy, BinaryCrossentropy, CategoricalAccuracy, CategoricalCrossentropy, MeanAbsoluteError,
    MeanAbsolutePercentageError, MeanSquaredError, MeanSquaredLogarithmicError, Precision, Recall, RootMeanSquaredError,
    SparseCategoricalAccuracy, SparseCategoricalCrossentropy, SparseTopKCategoricalAccuracy, TopKCategoricalAccuracy,
)  # fmt: skip
_BY_NAME: dict[str, type[Metric]] = {kind.__name__: kind for kind in _CLASSES}
_BY_NAME |= {_snake(kind.__name__): kind for kind in _CLASSES}
_BY_NAME |= {kind.function.__name__: kind for kind in _CLASSES if issubclass(kind, MeanMetricWrapper)}
_BY_NAME |= {"bce": BinaryCrossentropy, "BCE": BinaryCrossentropy, "mse": MeanSquaredError, "MSE": MeanSquaredError}
_BY_NAME |= {"mae": MeanAbsoluteError, "MAE": MeanAbsoluteError, "rmse": RootMeanSquaredError}
_BY_NAME |= {"mape": MeanAbsolutePercentageError, "MAPE": MeanAbsolutePercentageError}
_BY_NAME |= {"msle": MeanSquaredLogarithmicError, "MSLE": MeanSquaredLogarithmicError}
AUTOMATIC = ("accuracy", "acc")  # of one output, of classes one-hot, or of class indices


def get(metric: Any, y_true: tuple[int, ...] = (), y_pred: tuple[int, ...] = ()) -> Metric:
    """Return a metric by name, as it is, or of a function of two arrays; "accuracy" by the shapes of targets and outputs.

    Raise InputError for an unknown name.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if isinstance(metric, str):
        made = _automatic(y_true, y_pred) if metric.lower() in AUTOMATIC else _BY_NAME.get(metric)
        if made is None:
            raise InputError(f"unknown metric {metric!r}; known: {one_of({*_BY_NAME, *AUTOMATIC})}")
        metric_object = made()
        metric_object.name = metric
        return metric_object
    if callable(metric):
        function: Any = metric
        return MeanMetricWrapper(function)
    raise InputError(f"metric={metric!r}: expected a name, a metric or a function of targets and outputs")


def _automatic(y_true: tuple[int, ...], y_pred: tuple[int, ...]) -> type[Metric]:
    if not y_pred:
        return Accuracy
    if y_pred[-1] == 1:
        return BinaryAccuracy
    sparse = len(y_true) < len(y_pred) or (y_true[-1] == 1 and y_pred[-1] > 1)
    return SparseCategoricalAccuracy if sparse else CategoricalAccuracy

"""Batches: what a user passes as data, checked once and cut into arrays that a step takes.

| given | becomes |
|---|---|
| an array, or nested lists of numbers | one input |
| a list or tuple of arrays, a dict by name | several inputs |
| a list of sequences of different lengths | an array padded with zeros at the end, and a mask of its valid steps |
| a memory-mapped array | read batch by batch, never whole |
| a generator or iterable of (x, y) or (x, y, sample_weight), or what has `[k]` and a length | its batches, as they come |

Targets and sample weights likewise, by output.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlstm.edge import as_input, check_shape
from fastlstm.errors import DTypeError, InputError, ShapeError, one_of
from fastlstm.graph import Dim, TensorSpec
from fastlstm.losses import Loss

BATCH_SIZE = 32
CHUNK = 1 << 16  # rows of targets that are checked at once
Array = np.ndarray


@dataclass
class Batch:
    """The arrays of one step. `masks` has one for each input, `targets` and `weights` one for each output that has a loss."""

    inputs: list[Array]
    masks: list[Array | None]
    targets: list[Array] = field(default_factory=list)
    weights: list[Array | None] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True)
class Target:
    """What targets of one output have to fit: the output's name, shape (symbols included) and dtype, and its loss."""

    name: str
    shape: tuple[Dim, ...]
    dtype: np.dtype
    loss: Loss


def is_batches(x: Any) -> bool:
    """Tell whether data are an iterable of batches, not the samples themselves."""
    return (
        not isinstance(x, list | tuple | Mapping | np.ndarray | str | bytes | set)
        and not hasattr(x, "__array__")
        and (hasattr(x, "__iter__") or _by_number(x))
    )


def _by_number(x: Any) -> bool:
    """Tell whether batches are asked for by number: Keras's PyDataset."""
    return hasattr(x, "__getitem__") and hasattr(x, "__len__")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return an argument that counts something. Raise InputError unless it is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}={value!r}: expected a whole number of at least {least}")
    return int(value)


# ---- rows ------------------------------------------------------------------------------------------------
class Rows:
    """Samples that can be taken by number: an array, or sequences of different lengths."""

    def __init__(self, given: Array | list[Array], dtype: np.dtype):
        self.ragged = isinstance(given, list)
        self.rows, self.dtype = given, dtype

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape, "?" for steps that differ from row to row."""
        if isinstance(self.rows, np.ndarray):
            return self.rows.shape
        return len(self.rows), "?", *(self.rows[0].shape[1:] if self.rows else ())

    def take(self, rows: slice | Array) -> tuple[Array, Array | None]:
        """Return some samples, contiguous and of the right dtype, and the mask of their valid steps where lengths differ."""
        if isinstance(self.rows, np.ndarray):
            return np.ascontiguousarray(self.rows[rows], self.dtype), None
        chosen = self.rows[rows] if isinstance(rows, slice) else [self.rows[k] for k in rows]
        return padded(chosen, self.dtype)

    def cut(self, start: int, stop: int | None) -> "Rows":
        """Return the samples from `start` to `stop`."""
        return Rows(self.rows[start:stop], self.dtype)


def _axes(value: Any) -> int:
    """Return how many axes nested lists or an array have, as the first elements show."""
    nested = 0
    while isinstance(value, list | tuple) and value:
        value, nested = value[0], nested + 1
    return nested + (1 if isinstance(value, list | tuple) else np.ndim(value))


def padded(sequences: Sequence[Array], dtype: np.dtype) -> tuple[Array, Array]:
    """Return sequences (T, ...) as one array (B, T, ...), zeros past their ends, and the mask (B, T) of what is valid."""
    lengths = np.array([len(sequence) for sequence in sequences])
    steps = int(lengths.max(initial=0))
    whole = np.zeros((len(sequences), steps, *sequences[0].shape[1:]), dtype)
    for row, sequence in zip(whole, sequences, strict=True):
        row[: len(sequence)] = sequence
    return whole, np.arange(steps) < lengths[:, None]


def _ragged(value: Any, rank: int | None) -> list[Array] | None:
    """Return sequences as arrays if a value is a list of them whose lengths differ, else None."""
    if not isinstance(value, list | tuple) or not value or rank is None or rank < 2:
        return None
    if all(isinstance(one, int | float | np.number) for one in value):
        return None
    try:
        rows = [np.asarray(one) for one in value]
    except ValueError:
        return None
    if any(row.ndim != rank - 1 or row.dtype == object for row in rows) or len({len(row) for row in rows}) < 2:
        return None
    if len({row.shape[1:] for row in rows}) > 1:
        return None
    return rows


def inputs_of(x: Any, specs: Sequence[TensorSpec]) -> list[Rows]:
    """Return the rows of each input. Raise InputError, ShapeError, DTypeError where they do not fit."""
    names = [spec.name for spec in specs]
    if isinstance(x, Mapping):
        unknown, missing = [name for name in x if name not in names], [name for name in names if name not in x]
        if unknown or missing:
            what = f"unknown input {unknown[0]!r}" if unknown else f"input {missing[0]!r} is missing"
            raise InputError(f"{what}; the network has {one_of(names)}")
        given = [x[name] for name in names]
    elif len(specs) == 1:
        alone = isinstance(x, list | tuple) and len(x) == 1 and _axes(x[0]) == len(specs[0].shape or ())
        given = [x[0] if alone else x]
    elif isinstance(x, list | tuple) and len(x) == len(specs):
        given = list(x)
    else:
        raise InputError(f"the network has {len(specs)} inputs: pass a list of them, or a dict with {one_of(names)}")
    rows, symbols = [], {}
    for spec, value in zip(specs, given, strict=True):
        ragged = _ragged(value, None if spec.shape is None else len(spec.shape))
        if ragged is not None:
            dtype = np.dtype(spec.dtype)
            kinds = {one.dtype.kind for one in ragged}
            if dtype.kind in "iu" and "f" in kinds:
                raise DTypeError(f"input {spec.name!r} has sequences of floats, expected {dtype}")
            if spec.shape is not None and isinstance(spec.shape[1], int):
                raise ShapeError(
                    f"input {spec.name!r} has sequences of different lengths, expected {spec.shape[1]} steps"
                )
            rows.append(Rows(ragged, dtype))
            _check_rest(ragged[0].shape[1:], spec)
            continue
        array = as_input(value, spec)
        check_shape(array, spec, symbols, free_axis=0)  # samples, of which a batch has some
        rows.append(_rows(array, np.dtype(spec.dtype)))
    _check_samples([(f"input {name!r}", len(one)) for name, one in zip(names, rows, strict=True)])
    return rows


def _check_rest(shape: tuple[int, ...], spec: TensorSpec) -> None:
    wanted = (spec.shape or ())[2:]
    if len(shape) != len(wanted) or any(isinstance(w, int) and w != n for w, n in zip(wanted, shape, strict=False)):
        raise ShapeError(f"input {spec.name!r} has sequences (steps, {shape}), expected {list(spec.shape or ())}")


def _rows(array: Array, dtype: np.dtype) -> Rows:
    """Return rows of an array: at once in the right dtype, unless it lies in a file."""
    mapped = isinstance(array, np.memmap) or isinstance(array.base, np.memmap)
    return Rows(array if mapped else np.asarray(array, dtype), dtype)


def _check_samples(counts: Sequence[tuple[str, int]]) -> None:
    (first, size), *others = counts
    for name, count in others:
        if count != size:
            raise ShapeError(f"{name} has {count} samples, {first} {size}")
    if not size:
        raise InputError(f"{first} has no samples")


# ---- targets ---------------------------------------------------------------------------------------------
def by_output(value: Any, targets: Sequence[Target], names: Sequence[str], what: str) -> list[Any]:
    """Return a value for each output with a loss, given as itself for one, else as a list in the order of outputs or a dict by name."""
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        missing = [target.name for target in targets if target.name not in value]
        if unknown or missing:
            problem = f"unknown output {unknown[0]!r} in {what}" if unknown else f"{what} lacks output {missing[0]!r}"
            raise InputError(f"{problem}; the network has {one_of(names)}")
        return [value[target.name] for target in targets]
    if len(names) == 1:
        return [value]
    if isinstance(value, list | tuple) and len(value) in (len(names), len(targets)):
        if len(value) == len(targets):
            return list(value)
        return [value[list(names).index(target.name)] for target in targets]
    raise InputError(
        f"the network has {len(names)} outputs: pass {what} as a list of {len(names)}, or a dict with {one_of(names)}"
    )


def targets_rows(y: Any, targets: Sequence[Target], names: Sequence[str], symbols: Mapping[str, int]) -> list[Rows]:
    """Return the rows of each target, checked against its output: shapes, and classes in range."""
    rows = []
    for target, value in zip(targets, by_output(y, targets, names, "targets"), strict=True):
        if value is None:
            raise InputError(f"output {target.name!r}: there are no targets")
        shape = tuple(symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in target.shape)
        where, loss = f"output {target.name!r}", target.loss
        dtype = np.dtype(np.int64) if loss.whole else target.dtype
        ragged = _ragged(value, len(loss.axes(shape)))
        if ragged is not None and loss.axes(shape)[1] != shape[1]:
            # sequences whose lengths are their own: as in an array, zeros end them
            value = padded(ragged, np.result_type(*ragged))[0]
        elif ragged is not None:
            checked = []
            for row, one in enumerate(ragged):
                own = (1, len(one), *shape[2:])
                checked.append(loss.shaped(one[None], own, where)[0])
                loss.check(checked[-1][None], own, where, row)
            rows.append(Rows(checked, dtype))
            continue
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"{where}: targets are no array: {error}") from error
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"{where}: targets are {array.dtype}, expected numbers")
        if array.ndim == 0 or not len(array):
            raise InputError(f"{where}: there are no targets")
        whole = loss.shaped(array, shape, where)
        for start in range(0, len(whole), CHUNK):
            loss.check(whole[start : start + CHUNK], shape, where, start)
        mapped = isinstance(array, np.memmap) or isinstance(array.base, np.memmap)
        rows.append(Rows(whole, dtype) if mapped else Rows(loss.prepared(whole, target.dtype), dtype))
    return rows


def weights_rows(
    sample_weight: Any, targets: Sequence[Target], names: Sequence[str], rows: Sequence[Rows]
) -> list[Array | None]:
    """Return sample weights for each target, of which `rows` are given; None where there are none. One array serves every output."""
    if sample_weight is None:
        return [None] * len(targets)
    if isinstance(sample_weight, Mapping):
        given = [sample_weight.get(target.name) for target in targets]
    elif isinstance(sample_weight, list | tuple) and len(names) > 1 and len(sample_weight) == len(names):
        given = [sample_weight[list(names).index(target.name)] for target in targets]
    else:
        given = [sample_weight] * len(targets)
    arrays: list[Array | None] = []
    for target, one, given_targets in zip(targets, given, rows, strict=True):
        if one is None:
            arrays.append(None)
            continue
        nothing = DTypeError(f"sample_weight of output {target.name!r} is no array of numbers")
        try:
            array = np.asarray(one)
        except ValueError as error:  # lists of different lengths
            raise nothing from error
        if array.dtype.kind not in "fiub" or array.ndim == 0:
            raise nothing
        if array.ndim > 1 and array.shape[-1] == 1:
            array = array[..., 0]
        whole = given_targets.shape[: target.loss.weight_axes(target.shape)]
        if given_targets.ragged:
            whole = whole[:1]  # targets are padded batch by batch
        if array.shape != whole[: array.ndim]:
            more = f" or {whole}" if len(whole) > 1 else ""
            raise ShapeError(
                f"sample_weight of output {target.name!r} has shape {array.shape}, expected ({len(given_targets)},){more}"
            )
        arrays.append(np.asarray(array, target.dtype))
    return arrays


def class_weights(class_weight: Mapping[int, float], target: Target, rows: Rows) -> Array:
    """Return for each sample the weight of its class, 1 for one that is not named; classes that do not occur may be named, as in Keras.

    Raise InputError for what is no dict of numbers by class.
    """
    if not isinstance(class_weight, Mapping):
        raise InputError(f"class_weight is {type(class_weight).__name__}, expected a dict of weights by class")
    for key, weight in class_weight.items():
        if not isinstance(key, int | np.integer) or isinstance(key, bool):
            raise InputError(f"class_weight has the key {key!r}, expected class indices")
        if not isinstance(weight, int | float | np.number) or not np.isfinite(weight):
            raise InputError(f"class_weight of class {key} is {weight!r}, expected a number")
    y, loss = rows.rows, target.loss
    if loss.whole and not loss.sparse:
        raise InputError(
            f"class_weight is for classes, loss {loss.name!r} takes sequences of labels: pass sample_weight"
        )
    if not isinstance(y, np.ndarray):
        raise InputError("class_weight and targets of different lengths do not go together: pass sample_weight")
    if not loss.sparse:
        y = y[..., 0] if y.shape[-1] == 1 else np.argmax(y, axis=-1)
    y = np.rint(y).astype(np.int64)
    classes, places = np.unique(y, return_inverse=True)
    return np.array([class_weight.get(int(c), 1.0) for c in classes], target.dtype)[places].reshape(y.shape)


# ---- data ------------------------------------------------------------------------------------------------
@dataclass
class Samples:
    """Checked rows of inputs, targets and weights."""

    inputs: list[Rows]
    targets: list[Rows]
    weights: list[Array | None]
    batch_size: int = BATCH_SIZE
    rows_of_states: int | None = None  # where states are kept from batch to batch: the size of every batch

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def steps(self) -> int:
        """How many batches there are; the last may be smaller."""
        return -(-len(self) // self.batch_size)

    def batches(self, order: Array | None = None) -> Iterator[Batch]:
        """Yield the batches, in the order given or as the rows stand."""
        for start in range(0, len(self), self.batch_size):
            rows = slice(start, start + self.batch_size) if order is None else order[start : start + self.batch_size]
            yield self.take(rows)

    def take(self, rows: slice | Array) -> Batch:
        """Return some rows as a batch. Raise ShapeError where the network keeps states of more or fewer rows."""
        inputs = [one.take(rows) for one in self.inputs]
        if self.rows_of_states is not None and len(inputs[0][0]) != self.rows_of_states:
            raise ShapeError(
                f"a batch has {len(inputs[0][0])} samples: the network keeps states of {self.rows_of_states} from batch to batch"
            )
        weights = [None if one is None else one[rows] for one in self.weights]
        targets = [one.take(rows)[0] for one in self.targets]
        return Batch([array for array, _ in inputs], [mask for _, mask in inputs], targets, weights)

    def split(self, share: float) -> "tuple[Samples, Samples]":
        """Return the first rows, and the last `share` of them."""
        at = int(np.floor(len(self) * (1.0 - share)))
        if at == 0 or at == len(self):
            raise InputError(
                f"validation_split={share}: of {len(self)} samples {at} are left to train on and {len(self) - at} to validate"
            )

        def cut(start: int, stop: int | None) -> Samples:
            weights = [None if one is None else one[start:stop] for one in self.weights]
            inputs, targets = ([one.cut(start, stop) for one in many] for many in (self.inputs, self.targets))
            return Samples(inputs, targets, weights, self.batch_size, self.rows_of_states)

        return cut(0, at), cut(at, None)


class Reader:
    """Reads data for one network: its inputs, and the targets of its outputs that have a loss."""

    def __init__(self, specs: Sequence[TensorSpec], targets: Sequence[Target], names: Sequence[str]):
        self.specs, self.targets, self.names = specs, targets, names
        first = (specs[0].shape or (None,))[0]
        self.rows_of_states = first if isinstance(first, int) else None

    def samples(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        batch_size: int | None = None,
    ) -> Samples:
        """Return checked rows. Raise InputError, ShapeError or DTypeError before anything is computed.

        Where states are kept from batch to batch, `batch_size` is the number of rows that have them.
        """
        rows = self.rows_of_states
        size = (rows or BATCH_SIZE) if batch_size is None else whole_number("batch_size", batch_size)
        inputs = inputs_of(x, self.specs)
        if rows is not None and (size != rows or len(inputs[0]) % rows):
            what = f"batch_size={size}" if size != rows else f"there are {len(inputs[0])} samples"
            raise ShapeError(
                f"{what}: the network keeps states of {rows} samples from batch to batch, pass batches of {rows}"
            )
        samples = Samples(inputs, [], [], size, rows)
        if not self.targets:
            return samples
        if y is None:
            raise InputError("there are no targets: pass y, or batches (x, y)")
        y, sample_weight = (self._alone(given, len(samples)) for given in (y, sample_weight))
        samples.targets = targets_rows(y, self.targets, self.names, self._symbols(inputs))
        _check_samples(
            [("x", len(inputs[0]))]
            + [(f"the target of output {t.name!r}", len(r)) for t, r in zip(self.targets, samples.targets, strict=True)]
        )
        self._check_steps(inputs, samples.targets)
        if class_weight is not None:
            if sample_weight is not None:
                raise InputError("class_weight and sample_weight: pass one of them")
            if len(self.targets) != 1:
                raise InputError(f"class_weight is for networks with one output, this one has {one_of(self.names)}")
            samples.weights = [class_weights(class_weight, self.targets[0], samples.targets[0])]
        else:
            samples.weights = weights_rows(sample_weight, self.targets, self.names, samples.targets)
        return samples

    def _alone(self, given: Any, samples: int) -> Any:
        """Return what a list of one holds, where it stands for the one output and not for the one sample."""
        if len(self.names) > 1 or not isinstance(given, list | tuple) or len(given) != 1:
            return given
        inner = given[0]
        whole = hasattr(inner, "__len__") and not isinstance(inner, Mapping | str) and len(inner) == samples
        axes = len(self.targets[0].shape)
        return inner if whole and (samples != 1 or _axes(inner) >= axes) else given

    def _check_steps(self, inputs: Sequence[Rows], targets: Sequence[Rows]) -> None:
        """Raise ShapeError where sequences and their targets, a value for each step of the same input, differ in length.

        Of an array of targets, padded as sequences are, the steps of each sequence are taken.
        """
        for target, rows in zip(self.targets, targets, strict=True):
            for spec, given in zip(self.specs, inputs, strict=True):
                steps, where = (spec.shape or ())[1:2], f"output {target.name!r}"
                if not isinstance(given.rows, list) or steps != target.shape[1:2]:
                    continue
                if not isinstance(rows.rows, list):
                    lengths = np.array([len(x) for x in given.rows])
                    target.loss.check_steps(rows.rows, lengths, where)
                    if steps != target.loss.axes(target.shape)[1:2]:
                        continue
                    if rows.rows.shape[1] != lengths.max(initial=0):
                        raise ShapeError(
                            f"{where}: targets have {rows.rows.shape[1]} steps, the longest sequence of input {spec.name!r} {lengths.max(initial=0)}"
                        )
                    rows.rows = [y[:n] for y, n in zip(rows.rows, lengths, strict=True)]
                    rows.ragged = True
                    continue
                for row, (x, y) in enumerate(zip(given.rows, rows.rows, strict=True)):
                    if len(x) != len(y):
                        raise ShapeError(
                            f"output {target.name!r}: target {row} has {len(y)} steps, its sequence of input {spec.name!r} {len(x)}"
                        )

    def _symbols(self, inputs: Sequence[Rows]) -> dict[str, int]:
        """Return the sizes that symbols of the inputs have in these data, but that of the batch."""
        sizes: dict[str, int] = {}
        for spec, rows in zip(self.specs, inputs, strict=True):
            for dim, size in zip((spec.shape or ())[1:], rows.shape[1:], strict=False):
                if isinstance(dim, str) and isinstance(size, int):
                    sizes[dim] = size
        return sizes

    def batch(self, item: Any, class_weight: Mapping[int, float] | None = None) -> Batch:
        """Return what an iterable of batches yields, (x,), (x, y) or (x, y, sample_weight), as a batch."""
        listed = isinstance(item, list) and bool(self.targets) and len(item) in (2, 3)
        parts = tuple(item) if isinstance(item, tuple) or listed else (item,)
        if len(parts) > 3:
            raise InputError(f"a batch has {len(parts)} parts, expected (x, y) or (x, y, sample_weight)")
        x, y, weight = (*parts, None, None)[:3]
        samples = self.samples(x, y, weight, class_weight)
        return samples.take(slice(None))


class _Numbered:
    """Batches that are asked for by number, from the first on."""

    def __init__(self, batches: Any):
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return (self._batches[k] for k in range(len(self._batches)))


class Stream:
    """Batches of an iterable: of one that can start again, or of a generator, which goes on where it was."""

    def __init__(
        self,
        iterable: Iterable[Any],
        reader: Reader,
        steps: int | None,
        class_weight: Mapping[int, float] | None = None,
    ):
        length = len(iterable) if hasattr(iterable, "__len__") else None  # type: ignore[arg-type]
        if not hasattr(iterable, "__iter__"):
            iterable = _Numbered(iterable)
        self._iterable, self._reader, self._class_weight = iterable, reader, class_weight
        self._once = iter(iterable) if iter(iterable) is iterable else None
        self.steps = steps if steps is not None else length

    def batches(self, order: Array | None = None) -> Iterator[Batch]:
        """Yield up to `steps` batches."""
        source = self._once if self._once is not None else iter(self._iterable)
        count = 0
        while self.steps is None or count < self.steps:
            try:
                item = next(source)
            except StopIteration:
                return
            count += 1
            yield self._reader.batch(item, self._class_weight)

"""WiredStream: a stream of a model whose states are inputs and outputs of its graph, as exporters of ONNX leave them.

A step is a call of the model: what an output gives in one step is what the input it is wired to takes in the next.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import overload

import numpy as np

from fastlstm.axes import BATCH, Axes
from fastlstm.errors import InputError, LimitError, StreamError, one_of
from fastlstm.graph import TensorSpec
from fastlstm.row_numbers import RowNumbers
from fastlstm.stream import IN_USE, NO_COPY, State

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
MARKS = ("N", "n", "_n", "_out", "_new", "_next", ".out", "Out")  # what names a state's next value beside its own name


class WiredStream:
    """`batch` streams of one model whose states `wiring` names: {input: output}. One thread at a time: two at once raise StreamError.

    States start as zeros, and keep the shapes that the model's inputs have.
    """

    def __init__(
        self,
        run: Run,
        axes: Axes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        wiring: Mapping[str, str],
        batch: int,
        max_bytes: int,
    ):
        if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
            raise StreamError(f"batch={batch!r}: expected a whole number of at least 1")
        check_wiring(wiring, inputs, outputs)
        self.batch, self.wiring = batch, dict(wiring)
        self._run, self._busy = run, threading.Lock()
        states = [spec for spec in inputs if spec.name in wiring]
        self._given = [spec for spec in inputs if spec.name not in wiring]
        self._made = [spec.name for spec in outputs if spec.name not in wiring.values()]
        self._row_axes = {spec.name: _batch_axis(spec, axes) for spec in states}
        if batch > 1:
            self._check_rows(axes)
        self._rows = RowNumbers(batch)
        shapes = {spec.name: self._shape(spec) for spec in states}
        size = sum(int(np.prod(shapes[spec.name], dtype=object)) * np.dtype(spec.dtype).itemsize for spec in states)
        if size > max_bytes:
            raise LimitError(f"batch={batch}: the states take {size >> 20} MiB, more than {max_bytes >> 20} MiB; pass fewer, or a larger max_scratch to Session")  # fmt: skip
        self._arrays = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in states}

    def __reduce__(self):
        raise StreamError(NO_COPY)

    def _check_rows(self, axes: Axes) -> None:
        mixing = axes.mixing(BATCH) if axes.batch else None
        if mixing is not None:
            raise StreamError(
                f"the model cannot stream several rows: node {mixing.name!r} ({mixing.op}) mixes them; use batch=1"
            )
        fixed = [name for name, axis in self._row_axes.items() if axis is None]
        if fixed or not axes.batch:
            where = f"input {fixed[0]!r} has" if fixed else "its inputs have"
            raise StreamError(
                f"the model cannot stream several rows: {where} no axis of rows that is known; use batch=1"
            )

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        if spec.shape is None:
            raise StreamError(f"the model cannot stream: the shape of its state {spec.name!r} is not known")
        axis = self._row_axes[spec.name]
        free = [dim for k, dim in enumerate(spec.shape) if isinstance(dim, str) and k != axis]
        if free:
            raise StreamError(f"the model cannot stream: its state {spec} has a free axis besides that of rows")
        return tuple(self.batch if k == axis else int(dim) for k, dim in enumerate(spec.shape))

    @overload
    def step(self, inputs: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray: ...
    @overload
    def step(self, inputs: Mapping[str, np.ndarray], rows: Sequence[int] | None = None) -> dict[str, np.ndarray]: ...

    def step(self, inputs, rows=None):
        """Run the model once on inputs as `run` takes them, but for the states, and return its outputs but for theirs.

        `rows` are the streams that the inputs' rows belong to, in order (default: all).
        """
        if not self._busy.acquire(blocking=False):
            raise StreamError(IN_USE)
        try:
            by_name = isinstance(inputs, Mapping)
            if not by_name and len(self._given) != 1:
                names = one_of(spec.name for spec in self._given)
                raise InputError(f"a step takes {len(self._given)} inputs: pass a dict with {names}")
            given = inputs if by_name else {self._given[0].name: inputs}
            wired = [name for name in given if name in self.wiring]
            if wired:
                raise InputError(f"input {wired[0]!r} is a state, which the stream carries: set it with stream.state")
            results = self._advance(given, None if rows is None else self._rows.take(rows))
            return results if by_name or len(results) > 1 else next(iter(results.values()))
        finally:
            self._busy.release()

    def _advance(self, given: Mapping[str, np.ndarray], rows: np.ndarray | None) -> dict[str, np.ndarray]:
        states = self._arrays
        if rows is not None:
            lacking = [name for name, axis in self._row_axes.items() if axis is None]
            if lacking and self.batch > 1:
                raise StreamError(f"rows: the state {lacking[0]!r} has no axis of rows that is known")
            states = {name: self._of_rows(name, rows) for name in states}
        results = self._run({**given, **states})
        for name, output in self.wiring.items():
            new, old = results[output], states[name]
            if new.shape != old.shape:
                raise StreamError(
                    f"output {output!r} has shape {new.shape}, the state {name!r} that it is wired to {old.shape}"
                )
        for name, output in self.wiring.items():
            if rows is None:
                self._arrays[name][...] = results[output]
            else:
                np.moveaxis(self._arrays[name], self._row_axes[name] or 0, 0)[rows] = np.moveaxis(
                    results[output], self._row_axes[name] or 0, 0
                )
        return {name: results[name] for name in self._made}

    def _of_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        axis = self._row_axes[name]
        return self._arrays[name] if axis is None else np.take(self._arrays[name], rows, axis)

    @property
    def state(self) -> State:
        """The states by the names of their inputs, as they are now: assign a State to set them; `state.copy()` keeps them."""
        return State(self._arrays)

    @state.setter
    def state(self, state: Mapping[str, np.ndarray]) -> None:
        if not isinstance(state, Mapping) or set(state) != set(self._arrays):
            held = one_of(state) if isinstance(state, Mapping) else type(state).__name__
            raise StreamError(f"the state holds {held}, expected {one_of(self._arrays)}: is it of another model?")
        for name, mine in self._arrays.items():
            value = np.asarray(state[name])
            if value.shape != mine.shape or value.dtype != mine.dtype:
                raise StreamError(f"state {name!r} is {value.dtype} {value.shape}, expected {mine.dtype} {mine.shape}")
        if not self._busy.acquire(blocking=False):
            raise StreamError(IN_USE)
        try:
            for name, mine in self._arrays.items():
                mine[...] = state[name]
        finally:
            self._busy.release()

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Put the states of these rows (default: all) back to zeros."""
        if not self._busy.acquire(blocking=False):
            raise StreamError(IN_USE)
        try:
            for name, array in self._arrays.items():
                if rows is None:
                    array[...] = 0
                else:
                    np.moveaxis(array, self._row_axes[name] or 0, 0)[self._rows.take(rows)] = 0
        finally:
            self._busy.release()


def check_wiring(wiring: Mapping[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise StreamError unless every wire leads from an output to an input that can take it."""
    into, out_of = ({spec.name: spec for spec in specs} for specs in (inputs, outputs))
    if not isinstance(wiring, Mapping) or not wiring:
        raise StreamError(f"wiring={wiring!r}: expected a dict that names an output for each state among the inputs")
    for name, output in wiring.items():
        if name not in into:
            raise StreamError(f"wiring: unknown input {name!r}; the model has {one_of(into)}")
        if output not in out_of:
            raise StreamError(f"wiring: unknown output {output!r}; the model has {one_of(out_of)}")
        if not _fits(into[name], out_of[output]):
            raise StreamError(f"wiring: output {out_of[output]} cannot become input {into[name]}")
    if len(set(wiring.values())) < len(wiring):
        raise StreamError("wiring: an output is wired to two inputs")


def find_wiring(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return which outputs are the next values of which inputs where names or shapes make it plain, else nothing.

    By names: "state" and "stateN", "h0" and "hn". By shapes: among all but the first input and output, which are the data, each fits one other.
    """
    wiring = {}
    for spec in inputs:
        stem = spec.name[:-1] if spec.name.endswith("0") else spec.name
        stems = {spec.name, stem, spec.name.removesuffix("_in").removesuffix("In")}
        names = {base + mark for base in stems for mark in MARKS}
        found = [out.name for out in outputs if out.name in names and _fits(spec, out)]
        if len(found) == 1 and found[0] not in wiring.values():
            wiring[spec.name] = found[0]
    if wiring:
        return wiring
    pairs = [(a.name, b.name) for a in inputs[1:] for b in outputs[1:] if a.dtype == b.dtype and _alike(a, b)]
    plain = [(a, b) for a, b in pairs if sum(a == p for p, _ in pairs) == 1 and sum(b == q for _, q in pairs) == 1]
    return dict(plain) if len(plain) == len(pairs) else {}


def _fits(into: TensorSpec, out: TensorSpec) -> bool:
    if into.dtype != out.dtype:
        return False
    if into.shape is None or out.shape is None:
        return True
    pairs = zip(into.shape, out.shape, strict=False)
    agree = all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in pairs)
    return len(into.shape) == len(out.shape) and agree


def _alike(a: TensorSpec, b: TensorSpec) -> bool:
    """Tell whether shapes are known and of the same sizes, of which there are some."""
    if not a.shape or not b.shape or not _fits(a, b):
        return False
    return any(isinstance(p, int) and p == q and p > 1 for p, q in zip(a.shape, b.shape, strict=True))


def _batch_axis(spec: TensorSpec, axes: Axes) -> int | None:
    """Return the axis of rows of a state: as the nodes have it, else its one free axis."""
    if spec.name in axes.batch:
        return axes.batch[spec.name]
    free = [k for k, dim in enumerate(spec.shape or ()) if isinstance(dim, str)]
    return free[0] if len(free) == 1 else None

"""Stream: many rows whose states are carried from step to step.

After t steps a stream has given, to the bit, what `Session.run` gives on the t steps at once: the kernels' arithmetic does
not depend on how time is cut, and the states are handed on whole.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fastlstm.axes import BATCH, TIME, Axes, check_streams
from fastlstm.edge import as_input, check_shape
from fastlstm.errors import InputError, LimitError, ShapeError, StreamError, one_of
from fastlstm.graph import TensorSpec
from fastlstm.plan import Frame, Plan, copier
from fastlstm.row_numbers import RowNumbers

VERSION = 1
KNOWN_CALLS = 256  # kinds of calls that are checked once
WAITS = "the model cannot stream: a shape depends on the contents of a value"
NO_COPY = "a stream is not copied or pickled: make another with Session.stream, and give it the state (stream.state.copy(), or its to_bytes())"
IN_USE = "this stream is in use by another thread: give each thread its own, or take turns"


class State(Mapping[str, np.ndarray]):
    """The states of `batch` streams by "node.role" (h, c, history ...), each (batch, ...): readable, copyable, to and from bytes."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._arrays = arrays

    def __getitem__(self, key: str) -> np.ndarray:
        """Return a read-only view of one state. Raise KeyError."""
        view = self._arrays[key].view()
        view.flags.writeable = False
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{key}: {list(a.shape)}' for key, a in self._arrays.items())})"

    def __eq__(self, other: object) -> bool:
        """Tell whether the other holds the same states, to the bit."""
        return isinstance(other, State) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]  # later steps change it

    def copy(self) -> "State":
        """Return a copy that later steps do not change."""
        return State({key: array.copy() for key, array in self._arrays.items()})

    def to_bytes(self) -> bytes:
        """Return the states as bytes with a version; the same states give the same bytes."""
        return save_tensors(
            {key: np.ascontiguousarray(self._arrays[key]) for key in sorted(self._arrays)},
            {"fastlstm_state": json.dumps({"version": VERSION})},
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """Return the states that `to_bytes` wrote. Raise StreamError if the bytes are anything else."""
        try:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(bytes(data[8 : 8 + length])) if length <= min(len(data), 16 << 20) else {}
            version = json.loads(header.get("__metadata__", {}).get("fastlstm_state", "{}")).get("version")
            if version != VERSION:
                raise StreamError(
                    f"these bytes are no state of version {VERSION}: {'no state at all' if version is None else f'version {version!r}'}"
                )
            arrays = load_tensors(bytes(data))
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StreamError(f"these bytes are no state: {error}") from error
        return cls(dict(arrays))


@dataclass(frozen=True)
class _Call:
    """One kind of call: the shapes it runs with, and the part of each buffer that is passed (one step has no time axis).

    A frame with room for more rows than are passed computes the first of them in the others too.
    """

    shapes: tuple[tuple[int, ...], ...]
    places: tuple[tuple, ...]
    picks: dict[str, tuple]
    room: int
    others: tuple[tuple[tuple, tuple], ...]  # by input: where those others lie, and the first


@dataclass(frozen=True)
class _Own:
    """The frame whose state buffers are a stream's states; for the short way of a step, by the input's shape: where it goes, and
    what copies the output."""

    frame: Frame
    shapes: tuple[tuple[int, ...], ...]
    views: dict[tuple[int, ...], tuple[np.ndarray, Callable[[], np.ndarray]]]
    dtype: np.dtype
    walk: Callable[[], int]


class Stream:
    """`batch` streams of one model. One thread at a time: two at once raise StreamError."""

    def __init__(self, plan: Plan, axes: Axes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch: int):
        if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
            raise StreamError(f"batch={batch!r}: expected a whole number of at least 1")
        check_streams(axes)
        mixing = axes.mixing(BATCH) if batch > 1 else None
        if mixing is not None:
            raise StreamError(
                f"the model cannot stream several rows: node {mixing.name!r} ({mixing.op}) mixes them; use batch=1"
            )
        self.batch = batch
        self._plan, self._axes, self._inputs, self._outputs = plan, axes, tuple(inputs), tuple(outputs)
        self._calls: dict[tuple, _Call] = {}
        self._by_rows = all(axes.axis(spec.name, BATCH) is not None for spec in self._outputs)
        # bind one step to learn which states there are, and their starts
        frame = plan.bind(self._shapes(1, 1))
        if frame.waits_for is not None:
            raise StreamError(WAITS)
        size = batch * sum(state.array.nbytes for state in frame.states)
        if size > plan.max_scratch:
            raise LimitError(
                f"batch={batch}: the states take {size >> 20} MiB, more than {plan.max_scratch >> 20} MiB; pass fewer, or a larger max_scratch to Session"
            )
        self._rows = RowNumbers(batch)
        self._arrays: dict[str, np.ndarray] = {}
        self._starts: dict[str, np.ndarray] = {}
        self._own: _Own | None = None
        self._own_states(frame)
        for state in frame.states:
            start = np.zeros(state.array.shape, state.array.dtype) if state.start is None else state.start
            start = np.broadcast_to(start, state.array.shape)[..., : state.width]
            self._starts[state.key] = start.copy()
            if self._own is None:
                self._arrays[state.key] = np.repeat(start, batch, axis=0)
            else:
                self._arrays[state.key][...] = start
        self._turn: deque[_Own | None] = deque([self._own])  # whoever has it may go on: quicker than a lock
        plan.give_back(self._shapes(1, 1), frame)
        places = [(array.ctypes.data, array.strides[0]) for array in self._arrays.values()]
        # of all rows, and of the rows that a call names
        self._carried, self._carried_rows = (
            np.array([numbers, *(word for place in places for word in place)], np.int64)
            for numbers in (0, self._rows.address)
        )

    def __reduce__(self):
        # compiled code holds the addresses of the states: a copy would change those of this stream
        raise StreamError(NO_COPY)

    def _own_states(self, frame: Frame) -> None:
        """Where a step is one call into compiled code, let the states be the buffers of a frame that only this stream uses."""
        if frame.program.only_call is None:
            return
        shapes = self._shapes(self.batch, 1)
        frame = self._plan.bind(shapes)
        self._arrays = {state.key: state.array[..., : state.width] for state in frame.states}
        if frame.is_ready:
            (given,), (made,) = self._inputs, self._outputs
            time, time_out = self._axes.time[given.name], self._axes.axis(made.name, TIME)
            views = {frame.input.shape: (frame.input, copier(frame.output))}
            if time is not None:
                single = frame.input[_part({time: 0})]
                views[single.shape] = single, copier(frame.output[_part({time_out: 0})])
            walk = frame.program.only_walk(True, frame.pace)
            self._own = _Own(frame, shapes, views, frame.input.dtype, walk)
        else:
            self._own = _Own(frame, shapes, {}, np.dtype(bool), frame.walk)

    def _shapes(self, rows: int, steps: int) -> tuple[tuple[int, ...], ...]:
        shapes = []
        for spec in self._inputs:
            batch, time = self._axes.batch[spec.name], self._axes.time[spec.name]
            dims = [rows if k == batch else steps if k == time else d for k, d in enumerate(spec.shape or ())]
            free = [d for d in dims if isinstance(d, str)]
            if free:
                raise StreamError(f"the model cannot stream: input {spec} has a free axis besides batch and time")
            shapes.append(tuple(int(d) for d in dims))
        return tuple(shapes)

    # ---- stepping -----------------------------------------------------------------------------------
    @overload
    def step(self, inputs: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray: ...
    @overload
    def step(self, inputs: Mapping[str, np.ndarray], rows: Sequence[int] | None = None) -> dict[str, np.ndarray]: ...

    def step(self, inputs, rows=None):
        """Advance by one time step, or by a chunk of several, and return the outputs of these steps.

        `inputs` is an array (or a dict by name) of `run`'s shape: a chunk, or without the time axis: one step; then outputs have
        no time axis either. `rows` are the streams that the input's rows belong to, in order (default: all).
        """
        try:
            own = self._turn.pop()
        except IndexError:
            raise StreamError(IN_USE) from None
        try:
            if own is not None and rows is None and type(inputs) is np.ndarray and inputs.dtype is own.dtype:
                views = own.views.get(inputs.shape)
                if views is not None:
                    given, copy = views
                    given[...] = inputs
                    if own.walk():
                        own.frame.program.refuse()
                    return copy()
            return self._step(inputs, rows)
        finally:
            self._turn.append(own)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            own = self._turn.pop()
        except IndexError:
            raise StreamError(IN_USE) from None
        try:
            yield
        finally:
            self._turn.append(own)

    def _step(self, inputs, rows: Sequence[int] | None):
        by_name = isinstance(inputs, Mapping)
        if not by_name and len(self._inputs) != 1:
            raise InputError(
                f"the model has {len(self._inputs)} inputs: pass a dict with {one_of(s.name for s in self._inputs)}"
            )
        given = inputs if by_name else {self._inputs[0].name: inputs}
        count = self.batch if rows is None else len(self._rows.take(rows))
        call, arrays = self._call(given, count)
        own = self._own.frame if self._own and rows is None and call.shapes == self._own.shapes else None
        frame = own or self._plan.borrow(call.shapes, carries=True)
        try:
            if frame.waits_for is not None:
                raise StreamError(WAITS)
            for port, place, array in zip(frame.inputs.values(), call.places, arrays, strict=True):
                port.point_home()
                port.buffer[place] = array
            if call.others:
                self._rows.repeat_first(count, call.room)
                for port, (others, first) in zip(frame.inputs.values(), call.others, strict=True):
                    port.buffer[others] = port.buffer[first]
            if frame.carried is not None:
                frame.carried[...] = self._carried if rows is None else self._carried_rows
            for port in frame.outputs.values():
                port.point_home()
            frame.run(resume=True)
            results = {name: port.buffer[call.picks[name]].copy() for name, port in frame.outputs.items()}
        finally:
            if own is None:
                self._plan.give_back(call.shapes, frame)
        return results if by_name or len(results) > 1 else next(iter(results.values()))

    def _call(self, given: Mapping[str, np.ndarray], rows: int) -> "tuple[_Call, list[np.ndarray]]":
        """Return the kind of call and its arrays; a kind that was checked before is not checked again."""
        try:
            key = (rows, *[(name, array.shape, array.dtype) for name, array in given.items()])
            call = self._calls.get(key)
        except (AttributeError, TypeError):
            return self._checked(given, rows)
        if call is not None:
            return call, [given[spec.name] for spec in self._inputs]
        call, arrays = self._checked(given, rows)
        exact = all(a.dtype.kind == "f" or a.dtype == s.dtype for a, s in zip(arrays, self._inputs, strict=True))
        if exact and len(self._calls) < KNOWN_CALLS:
            self._calls[key] = call
        return call, arrays

    def _checked(self, given: Mapping[str, np.ndarray], rows: int) -> "tuple[_Call, list[np.ndarray]]":
        names = [spec.name for spec in self._inputs]
        for name in given:
            if name not in names:
                raise InputError(f"unknown input {name!r}; the model has {one_of(names)}")
        arrays, shapes, singles, symbols = [], [], [], {}
        room = min(self.batch, _room(rows)) if self._by_rows else rows
        for spec in self._inputs:
            if spec.name not in given:
                raise InputError(f"input {spec.name!r} is missing; the model has {one_of(names)}")
            array = as_input(given[spec.name], spec)
            batch, time = self._axes.batch[spec.name], self._axes.time[spec.name]
            shape = tuple(rows if k == batch else d for k, d in enumerate(spec.shape or ()))
            singles.append(array.ndim == len(shape) - 1)
            whole = np.expand_dims(array, time) if singles[-1] else array
            check_shape(whole, TensorSpec(spec.name, spec.dtype, shape), symbols, time)
            if whole.shape[time] != symbols.setdefault("steps of a chunk", whole.shape[time]):
                raise ShapeError(
                    f"input {spec.name!r} has {whole.shape[time]} steps where another has {symbols['steps of a chunk']}"
                )
            arrays.append(array)
            shapes.append(tuple(room if k == batch else size for k, size in enumerate(whole.shape)))
        if len(set(singles)) > 1:
            raise ShapeError("some inputs are single steps and others chunks: pass all with the time axis, or none")
        step = 0 if singles[0] else slice(None)
        batches = [self._axes.batch[spec.name] for spec in self._inputs]
        places = [
            _part({batch: slice(rows), self._axes.time[spec.name]: step})
            for spec, batch in zip(self._inputs, batches, strict=True)
        ]
        others = [(_part({batch: slice(rows, None)}), _part({batch: slice(1)})) for batch in batches if room > rows]
        picks = {
            spec.name: _part({self._axes.axis(spec.name, BATCH): slice(rows), self._axes.axis(spec.name, TIME): step})
            for spec in self._outputs
        }
        return _Call(tuple(shapes), tuple(places), picks, room, tuple(others)), arrays

    # ---- states -------------------------------------------------------------------------------------
    @property
    def state(self) -> State:
        """The states, as they are now: assign a State to set them; `state.copy()` keeps them as later steps go on."""
        return State(self._arrays)

    @state.setter
    def state(self, state: Mapping[str, np.ndarray]) -> None:
        if not isinstance(state, Mapping):
            raise StreamError(
                f"a state is a State or a dict of arrays, got {type(state).__name__}; State.from_bytes reads bytes"
            )
        if set(state) != set(self._arrays):
            raise StreamError(
                f"the state holds {one_of(state)}, expected {one_of(self._arrays)}: is it of another model?"
            )
        for key, mine in self._arrays.items():
            value = np.asarray(state[key])
            if value.shape != mine.shape or value.dtype != mine.dtype:
                raise StreamError(f"state {key!r} is {value.dtype} {value.shape}, expected {mine.dtype} {mine.shape}")
        with self._alone():
            for key, mine in self._arrays.items():
                mine[...] = state[key]

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Put the states of these rows (default: all) back to their start."""
        with self._alone():
            index = slice(None) if rows is None else self._rows.take(rows)
            for key, array in self._arrays.items():
                array[index] = self._starts[key]


def _part(places: Mapping[int | None, int | slice]) -> tuple:
    """Return the index of these places on their axes, and of all on the others; None is the axis that an array does not have."""
    axes = [axis for axis in places if axis is not None]
    return (*(places.get(axis, slice(None)) for axis in range(max(axes, default=-1) + 1)), ...)


def _room(rows: int) -> int:
    """Return the rows of the frame that takes so many: sixteen sizes between two powers of two, so that few frames serve any number."""
    step = 1 << max(0, (rows - 1).bit_length() - 5)
    return -(-rows // step) * step

"""Session: the user's handle on a model that runs. Checks once, at the edge; nothing below checks again."""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, overload, runtime_checkable

import numpy as np

from fastlstm.axes import BATCH, TIME, Axes, find_axes
from fastlstm.edge import Array, as_input, check_shape, kind_of
from fastlstm.errors import DTypeError, InputError, LimitError, ShapeError, StreamError, UnsupportedError, one_of
from fastlstm.graph import Quantized, TensorSpec
from fastlstm.lengths import ROWS_FIRST, with_lengths, write_mask
from fastlstm.model import Model
from fastlstm.ops import inference
from fastlstm.ops.op import find
from fastlstm.plan import MAX_SCRATCH, Frame, Plan
from fastlstm.stream import Stream
from fastlstm.team import available_threads
from fastlstm.wired import WiredStream, find_wiring

KNOWN_CALLS = 256  # kinds of calls that are checked once


@dataclass(frozen=True)
class _Filled:
    """An input that is written straight into a program's buffer."""

    shape: tuple[int, ...]
    write: Callable[[Array], None]
    outermost: int = 0  # the axis along which it is written, one part of memory after the other


@runtime_checkable
class Network(Protocol):
    """What becomes a model: a Sequential or functional network, with its weights as they are now."""

    def to_model(self) -> Model: ...


class _Ready:
    """The short way of a call that was made before: one small input, one output, one call into compiled code."""

    def __init__(self, frame: Frame, frames: deque[Frame]):
        self.dtype = next(iter(frame.inputs.values())).buffer.dtype
        self.frames = frames

    def run(self, array: Array) -> Array | None:
        """Return the output, or None where every frame is in use."""
        try:
            frame = self.frames.pop()
        except IndexError:
            return None
        frame.input[...] = array
        if frame.walk():
            try:
                frame.program.refuse()
            finally:
                self.frames.append(frame)
        result = frame.copy_output()
        self.frames.append(frame)
        return result


@dataclass(frozen=True)
class Cost:
    """The work of one call: floating-point operations, bytes of weights read, bytes of inputs and results written."""

    flops: int
    weight_bytes: int
    value_bytes: int


class Session:
    """Runs a model. Safe to call from any number of threads at once; each call with the same input gives the same bits.

    `threads` splits the rows of a batch where no node mixes them; a row's bits do not depend on it. `max_scratch` bounds the
    buffers of one call, in bytes.

    >>> session = fastlstm.Session(model)
    >>> y = session.run(x)
    """

    def __init__(self, model: "Model | Network", threads: int | None = None, max_scratch: int = MAX_SCRATCH):
        if isinstance(model, Network):
            model = model.to_model()
        if not isinstance(model, Model):
            raise InputError(
                f"Session takes a Model, got {type(model).__name__}; fastlstm.load(path) or fastlstm.convert(path) give one"
            )
        threads = _threads() if threads is None else threads
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise InputError(f"threads={threads!r}: expected a whole number of at least 1")
        if not isinstance(max_scratch, int) or isinstance(max_scratch, bool) or max_scratch < 0:
            raise InputError(f"max_scratch={max_scratch!r}: expected a number of bytes")
        self.model, self.threads = model, threads
        self._max_scratch = max_scratch
        self._plan = Plan(model.graph, model.weights, max_scratch, min(self.threads, available_threads()))
        self._axes_found: Axes | None = None
        self._names = tuple(spec.name for spec in model.graph.inputs)
        self._passed: set[tuple] = set()
        self._ready: dict[tuple[int, ...], _Ready] = {}
        values = inference.infer(model.graph, model.weights)
        self.inputs: tuple[TensorSpec, ...] = model.graph.inputs
        self.outputs: tuple[TensorSpec, ...] = tuple(
            TensorSpec(s.name, values[s.name].dtype.name, _better(values[s.name].shape, s.shape))
            for s in model.graph.outputs
        )

    def __reduce__(self):
        return Session, (self.model, self.threads, self._max_scratch)

    def __repr__(self) -> str:
        return f"Session(inputs=[{', '.join(map(str, self.inputs))}], outputs=[{', '.join(map(str, self.outputs))}])"

    @property
    def axes(self) -> Axes:
        """Which axes are batch and time, found when first needed."""
        if self._axes_found is None:
            self._axes_found = find_axes(self.model.graph, self.model.weights)
        return self._axes_found

    # ---- running ------------------------------------------------------------------------------------
    @overload
    def run(self, inputs: Array, out: Array | None = None, lengths: Sequence[int] | Array | None = None) -> Array: ...
    @overload
    def run(
        self,
        inputs: Mapping[str, Array],
        out: Mapping[str, Array] | None = None,
        lengths: Sequence[int] | Array | None = None,
    ) -> dict[str, Array]: ...
    @overload
    def run(self, inputs: Sequence[Array], out: None = None) -> list: ...

    def run(self, inputs, out=None, lengths=None):
        """Run the model on one array, or a dict by name, or a list of sequences of different lengths.

        One array in gives one array out (a dict if the model has several outputs); a dict gives a dict. A list holds one
        array (T, ...) for each row, each of its own length, and gives a list; each row is computed as if alone. `out` receives
        the output instead of a new array: same shape and dtype, C-contiguous or not. `lengths` (B,) says how many steps of each row of
        a padded batch are valid: rows are computed as if alone, whatever pads them, and what outputs hold past a row's end means nothing. Raise InputError
        for names, ShapeError, DTypeError, UnsupportedError where a node that mixes steps forbids lengths.
        """
        if out is None and lengths is None and type(inputs) is np.ndarray:
            ready = self._ready.get(inputs.shape)
            if ready is not None and ready.dtype is inputs.dtype:
                result = ready.run(inputs)
                if result is not None:
                    return result
        elif out is None and lengths is None and type(inputs) is dict and len(inputs) == 1:
            ((name, array),) = inputs.items()
            ready = self._ready.get(array.shape) if type(array) is np.ndarray and name == self._names[0] else None
            if ready is not None and ready.dtype is array.dtype:
                result = ready.run(array)
                if result is not None:
                    return {self.outputs[0].name: result}
        if isinstance(inputs, list | tuple):
            if lengths is not None:
                raise InputError("lengths are for one padded array; the sequences of a list have theirs")
            return self._run_ragged(inputs, out)
        by_name = isinstance(inputs, Mapping)
        given = inputs if by_name else {self._only_input(): inputs}
        arrays = self._checked_before(given) or self._checked(given)
        targets = {} if out is None else self._targets(out)
        if lengths is not None:
            given, steps = self._lengths(arrays, lengths)
            results = self._run_padded(arrays, given, steps, targets)
        else:
            results = self._run_once(arrays, targets, remember=True)
        return results if by_name or len(results) > 1 else next(iter(results.values()))

    def _checked_before(self, given: Mapping[str, Array]) -> list[Array] | None:
        """Return the inputs in order if arrays of these names, shapes and dtypes passed the checks in an earlier call."""
        try:
            passed = tuple([(name, array.shape, array.dtype) for name, array in given.items()]) in self._passed
        except (AttributeError, TypeError):
            return None
        return [given[name] for name in self._names] if passed else None

    def _only_input(self) -> str:
        if len(self.inputs) != 1:
            raise InputError(
                f"the model has {len(self.inputs)} inputs: pass a dict with {one_of(s.name for s in self.inputs)}"
            )
        return self.inputs[0].name

    def _checked(self, given: Mapping[str, Array], free: frozenset[str] = frozenset()) -> list[Array]:
        """Return the inputs in order, as arrays that fit; dims named in `free` (input names' time axes) are not compared."""
        names = [spec.name for spec in self.inputs]
        unknown, missing = [n for n in given if n not in names], [n for n in names if n not in given]
        if unknown:
            raise InputError(f"unknown input {unknown[0]!r}; the model has {one_of(names)}")
        if missing:
            raise InputError(f"input {missing[0]!r} is missing; the model has {one_of(names)}")
        arrays, symbols = [], {}
        exact = not free
        for spec in self.inputs:
            array = as_input(given[spec.name], spec)
            check_shape(array, spec, symbols, self.axes.time.get(spec.name) if spec.name in free else None)
            exact = exact and array is given[spec.name] and (array.dtype.kind == "f" or array.dtype == spec.dtype)
            arrays.append(array)
        if exact and len(self._passed) < KNOWN_CALLS:
            self._passed.add(tuple((name, array.shape, array.dtype) for name, array in given.items()))
        return arrays

    def _targets(self, out) -> dict[str, Array]:
        if not isinstance(out, Mapping):
            if len(self.outputs) != 1:
                raise InputError(
                    f"the model has {len(self.outputs)} outputs: pass out as a dict with {one_of(s.name for s in self.outputs)}"
                )
            out = {self.outputs[0].name: out}
        for name, array in out.items():
            spec = next((s for s in self.outputs if s.name == name), None)
            if spec is None:
                raise InputError(
                    f"unknown output {name!r} in out; the model has {one_of(s.name for s in self.outputs)}"
                )
            if not isinstance(array, np.ndarray) or array.dtype != spec.dtype:
                raise DTypeError(f"out[{name!r}] is {kind_of(array)}, expected an array of {spec.dtype}")
            if not array.flags.writeable:
                raise InputError(f"out[{name!r}] is read-only")
        return dict(out)

    def _lengths(self, arrays: list[Array], lengths: Sequence[int] | Array) -> tuple[Array, int]:
        """Return the lengths of a batch's rows, and its steps. Raise InputError unless each is a number of steps of the inputs."""
        rows, steps = self._rows_and_steps(arrays)
        try:
            given = np.asarray(lengths)
        except ValueError as error:
            raise InputError(f"lengths={lengths!r}: expected one number of steps for each row") from error
        given = given.astype(np.intp) if given.shape == (0,) else given  # an empty list is one of floats
        if given.shape != (rows,) or given.dtype.kind not in "iu":
            raise InputError(f"lengths is {kind_of(given)} {given.shape}, expected {rows} integers, one for each row")
        known = given.tolist()  # for a batch's rows, faster than NumPy
        if rows and not (min(known) >= 0 and max(known) <= steps):
            bad = given[(given < 0) | (given > steps)][0]
            raise InputError(f"a length is {bad}, expected 0 to {steps}, the steps of the batch")
        return given, steps

    def _rows_and_steps(self, arrays: list[Array]) -> tuple[int, int]:
        plan = self._lengths_plan  # raises where lengths are not possible
        assert plan is not None
        sizes: dict[str, int] = {}
        for spec, array in zip(self.inputs, arrays, strict=True):
            for role, axes in (("rows", self.axes.batch), ("steps", self.axes.time)):
                if spec.name in axes:
                    size = array.shape[axes[spec.name]]
                    if sizes.setdefault(role, size) != size:
                        raise ShapeError(
                            f"input {spec.name!r} has {size} {role} where another has {sizes[role]}: lengths are for one batch"
                        )
        return sizes["rows"], sizes["steps"]

    @cached_property
    def _lengths_plan(self) -> Plan:
        """The plan of the model's twin that takes lengths, made when first needed. Raise UnsupportedError."""
        return self._plan.of_twin(with_lengths(self.axes))

    def _run_padded(
        self, arrays: "Sequence[Array | _Filled]", lengths: Array, steps: int, targets: dict[str, Array]
    ) -> dict[str, Array]:
        """Run a batch whose rows have lengths."""
        plan = self._lengths_plan
        if plan.fused.first and lengths.size:
            arrays = [
                array
                if isinstance(array, _Filled) or spec.name not in self.axes.time or spec.name not in self.axes.batch
                else _padded_with_valid(array, lengths, self.axes.batch[spec.name], self.axes.time[spec.name])
                for spec, array in zip(self.inputs, arrays, strict=True)
            ]
        rows = len(lengths)
        masks = [
            _Filled(
                (rows, steps) if spec.name == ROWS_FIRST else (steps, rows), partial(write_mask, spec.name, lengths)
            )
            for spec in plan.graph.inputs[len(arrays) :]
        ]
        return self._run_once([*arrays, *masks], targets, plan)

    def _run_once(
        self,
        arrays: "Sequence[Array | _Filled]",
        targets: dict[str, Array],
        plan: Plan | None = None,
        remember: bool = False,
    ) -> dict[str, Array]:
        plan = plan or self._plan
        shapes = tuple(array.shape for array in arrays)
        outermost = tuple([array.outermost if isinstance(array, _Filled) else 0 for array in arrays])
        frame = plan.borrow(shapes, outermost=outermost if any(outermost) else ())
        try:
            for port, array in zip(frame.inputs.values(), arrays, strict=True):
                if isinstance(array, _Filled):
                    port.point_home()
                    array.write(port.buffer)
                else:
                    port.feed(array)
            ends = frame if frame.waits_for is None else None
            results = {}
            if ends is not None:
                for name, port in frame.outputs.items():
                    target = self._target(targets, name, port.buffer.shape)
                    if target is None and port.direct:
                        target = np.empty(port.buffer.shape, port.buffer.dtype)
                    if target is not None and port.admits(target) and not _overlap(target, arrays):
                        port.point(target.ctypes.data)
                        results[name] = target
                    else:
                        port.point_home()
            last = frame.run()
            for name, port in last.outputs.items():
                if name in results:
                    continue
                target = self._target(targets, name, port.buffer.shape)
                if target is None:
                    results[name] = port.buffer.copy()
                else:
                    np.copyto(target, port.buffer)
                    results[name] = target
            if remember and frame.is_ready:
                self._remember(shapes, frame)
            return {name: results[name] for name in last.outputs}
        finally:
            plan.give_back(shapes, frame)

    def _remember(self, shapes: tuple[tuple[int, ...], ...], frame: Frame) -> None:
        """Let the next call like this go the short way."""
        known, frames = self._ready.get(shapes[0]), self._plan.kept(shapes)
        if (known is None or known.frames is not frames) and len(self._ready) < KNOWN_CALLS:
            self._ready[shapes[0]] = _Ready(frame, frames)

    def _target(self, targets: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array | None:
        target = targets.get(name)
        if target is not None and target.shape != shape:
            raise ShapeError(f"out[{name!r}] has shape {target.shape}, expected {shape}")
        return target

    def _run_ragged(self, sequences: Sequence[Array], out) -> list:
        """Run sequences of different lengths, each row as if alone: as one padded batch, or those of one length together."""
        if out is not None:
            raise InputError("out cannot be used with a list of sequences: their outputs differ in shape")
        name = self._only_input()
        spec = self.inputs[0]
        if name not in self.axes.batch:
            raise InputError(f"input {spec} has no batch axis that is known: pass arrays of its shape, one by one")
        batch, dtype = self.axes.batch[name], np.dtype(spec.dtype)
        rows = [row if type(row) is np.ndarray and row.dtype is dtype else as_input(row, spec) for row in sequences]
        wanted = (len(spec.shape) - 1) if spec.shape is not None else None
        for k, row in enumerate(rows):
            if wanted is not None and row.ndim != wanted:
                raise ShapeError(f"sequence {k} has shape {row.shape}, expected {wanted} axes: one row of {spec}")
        together = self.axes.rows_are_apart
        if together and len({row.shape for row in rows}) > 1:
            try:
                return self._run_padded_rows(rows, spec)
            except (UnsupportedError, LimitError):
                pass  # a node mixes steps, or one row is so long that all cannot be padded to it
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, row in enumerate(rows):
            groups.setdefault(row.shape if together else (k,), []).append(k)
        results: list = [None] * len(rows)
        for members in groups.values():
            stacked = np.stack([rows[k] for k in members], axis=batch, dtype=dtype, casting="unsafe")
            outputs = self._run_once(self._checked({name: stacked}, frozenset([name])), {})
            for row, k in zip(self._by_row(outputs, len(members)), members, strict=True):
                results[k] = row
        return results

    def _run_padded_rows(self, rows: list[Array], spec: TensorSpec) -> list:
        """Run sequences of different lengths as one padded batch; each result is a view of its row. Raise UnsupportedError."""
        plan = self._lengths_plan
        batch, time = self.axes.batch[spec.name], self.axes.time[spec.name]
        axis = time - (time > batch)  # of a row
        before, after = rows[0].shape[:axis], rows[0].shape[axis + 1 :]
        for k, row in enumerate(rows):
            alike = row.shape[:axis] == before and row.shape[axis + 1 :] == after
            if k == 0 or not alike:
                check_shape(np.expand_dims(row, batch), spec, {}, time)
            if not alike:
                wanted = (*before, row.shape[axis], *after)
                raise ShapeError(f"sequence {k} has shape {row.shape}, expected {wanted}")
        lengths = [row.shape[axis] for row in rows]
        # the order that kernels take rows in: none is moved again
        order = sorted(range(len(rows)), key=lengths.__getitem__, reverse=True)
        longest_first = np.array([lengths[k] for k in order])

        def write(buffer: Array) -> None:
            # what lies past a row's end reaches no step before it
            index: list = [slice(None)] * buffer.ndim
            for place, k in enumerate(order):
                index[batch], index[time] = place, slice(lengths[k])
                buffer[tuple(index)] = rows[k]
            if plan.fused.first:
                buffer[...] = _padded_with_valid(buffer, longest_first, batch, time)

        shape = list(rows[order[0]].shape)
        shape.insert(batch, len(rows))
        outputs = self._run_padded([_Filled(tuple(shape), write, batch)], longest_first, shape[time], {})
        results: list = [None] * len(rows)
        for row, k in zip(self._by_row(outputs, len(rows), [lengths[k] for k in order]), order, strict=True):
            results[k] = row
        return results

    def _by_row(self, outputs: Mapping[str, Array], count: int, lengths: Sequence[int] | None = None) -> list:
        """Return the rows of every output as views, each with its steps up to its length."""
        columns = []
        for name, y in outputs.items():
            time, batch = self.axes.axis(name, TIME), self.axes.axis(name, BATCH)
            index: list = [*(slice(None) for _ in y.shape), ...]
            rows = []
            for k in range(count):
                if batch is not None:
                    index[batch] = k
                if time is not None and lengths is not None:
                    index[time] = slice(lengths[k])
                rows.append(y[tuple(index)])
            columns.append(rows)
        if len(columns) == 1:
            return columns[0]
        return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]

    # ---- besides running ----------------------------------------------------------------------------
    def stream(self, batch: int = 1, wiring: Mapping[str, str] | None = None) -> Stream | WiredStream:
        """Return `batch` streams that carry their states from step to step. Raise StreamError, naming the node, if it cannot.

        Where states are inputs and outputs of the model, `wiring` says which output is the next value of which input; it is found
        where names or shapes make it plain. A step is then a call of the model.

        >>> stream = session.stream(batch=1)
        >>> y_t = stream.step(x_t)
        """
        if wiring is None:
            try:
                return Stream(self._plan, self.axes, self.inputs, self.outputs, batch)
            except StreamError:
                wiring = find_wiring(self.inputs, self.outputs)
                if not wiring:
                    raise
        return WiredStream(self.run, self.axes, self.inputs, self.outputs, wiring, batch, self._max_scratch)

    def cost(self, batch: int = 1, steps: int = 1) -> Cost:
        """Return the work of a call with `batch` rows of `steps` steps, without running or allocating it."""
        specs = self.specs(batch, steps, "the cost")
        values = inference.infer(self.model.graph, self.model.weights, specs)
        flops = size = 0
        for node in self.model.graph.nodes:
            outs = [values[name] for name in node.outputs if name]
            if any(out.data is None for out in outs):
                if any(out.shape is None for out in outs):
                    raise InputError(
                        f"the cost is not known: the output shape of node {node.name!r} depends on contents"
                    )
                flops += int(find(node.op).flops(node, inference.arguments(node, values), outs))
                size += sum(int(np.prod(out.shape)) * out.dtype.itemsize for out in outs)  # type: ignore[arg-type]
        size += sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in specs)  # type: ignore[arg-type]
        weights = sum(w.nbytes if isinstance(w, np.ndarray | Quantized) else 0 for w in self.model.weights.values())
        return Cost(flops, weights, size)

    def specs(self, batch: int, steps: int, what: str) -> list[TensorSpec]:
        """Return the inputs of a call with these sizes. Raise InputError, that `what` is not known, where there is no such call."""
        for role, size in (("batch", batch), ("steps", steps)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise InputError(f"{role}={size!r}: expected a whole number of at least 0")
        specs = [self._sized(spec, batch, steps) for spec in self.inputs]
        unknown = [s for s in specs if s.shape is None or any(isinstance(d, str) for d in s.shape)]
        if unknown:
            raise InputError(f"{what} is not known: input {unknown[0]} has a free axis that is neither batch nor time")
        return specs

    def _sized(self, spec: TensorSpec, batch: int, steps: int) -> TensorSpec:
        """Return an input with sizes for its batch and time axes."""
        if spec.shape is None:
            return spec
        sizes = {self.axes.time.get(spec.name): steps, self.axes.batch.get(spec.name): batch}
        return TensorSpec(spec.name, spec.dtype, tuple(sizes.get(k, d) for k, d in enumerate(spec.shape)))


def _better(found, declared):
    return (
        declared
        if found is None
        or (declared is not None and len(declared) == len(found) and any("(" in str(d) or "*" in str(d) for d in found))
        else found
    )


def _threads() -> int:
    given = os.environ.get("FASTLSTM_THREADS", "1")
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"FASTLSTM_THREADS={given!r}: expected a whole number of at least 1")
    return int(given)


def _padded_with_valid(array: Array, lengths: Array, batch: int, time: int) -> Array:
    """Return a padded batch whose rows go on with their last valid step, so that no node refuses what rows are padded with.

    A row without one takes that of the longest row.
    """
    lengths = lengths.astype(np.intp)
    if not lengths.any():
        return np.zeros_like(array)
    moved, longest = np.moveaxis(array, (batch, time), (0, 1)), lengths.argmax()
    rows = np.where(lengths > 0, np.arange(len(lengths)), longest)
    steps = np.minimum(np.arange(moved.shape[1]), lengths[rows][:, None] - 1)
    return np.moveaxis(moved[rows[:, None], steps], (0, 1), (batch, time))


def _overlap(target: Array, arrays: Sequence) -> bool:
    return any(np.may_share_memory(target, array) for array in arrays if isinstance(array, np.ndarray))

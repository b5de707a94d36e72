"""Plan: a model bound to this machine. Internal; `Session` is its face.

A plan binds a graph to the shapes of one call: buffers are allocated, weights packed, constant and shape arithmetic
done, and every other node lowered to steps, each a kernel or a NumPy function with its arguments. Running
is copying the inputs in, walking the steps, and copying the outputs out. A bound program is a `Frame`; frames are kept by
shape and lent to one call at a time, so any number of threads can run one plan.

Where a shape depends on the contents of a value, the frame ends there and continues, once the steps so far have run, in a
frame bound for those contents: a specialisation on a value, kept like any other. So it does where a loop alone can tell the shapes of what it
gives, and where the condition of an If is not known: the rest is then bound without the If, for the branch that was chosen.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from fastlstm.buffers import SMALL, Buffers, Readers
from fastlstm.errors import FastLSTMError, GraphError, LimitError, UnsupportedError
from fastlstm.fusion import fuse
from fastlstm.graph import Graph, Node, Quantized, TensorSpec, Weight, widen
from fastlstm.kernels import codes, layout, target
from fastlstm.kernels.caches import near_bytes
from fastlstm.ops import inference
from fastlstm.ops.control import resolve
from fastlstm.ops.dims import known
from fastlstm.ops.op import NeedsValue, Stored, Value, ViewOp, find, is_contiguous
from fastlstm.ops.strides import merged_axes
from fastlstm.packing_runs import Runs, find_runs
from fastlstm.program import DIRECT_BYTES, VERDICT, HostStep, KernelStep, Pace, Port, Program, schedule

FLOAT32, BYTES = np.dtype(np.float32), np.dtype(np.uint8)
TEAM_WORK = 600_000  # floating-point operations from which a team may pay
BLOCK_VECTORS = target.WIDTH * target.BLOCK
KEPT_SHAPES = 32
KEPT_VALUES = 16
KEPT_BODIES = 64
KEPT_BYTES = 256 << 20  # of the buffers of frames that wait for another call
MAX_SCRATCH = 4 << 30  # bytes of buffers of one call


def aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised C-contiguous array on a 64-byte boundary: unaligned vectors cost up to 1.5x."""
    size = prod(shape) * dtype.itemsize
    # a kernel may read and write the whole vector that an array's last elements lie in
    raw = np.empty(size + 128, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def copier(array: np.ndarray) -> Callable[[], np.ndarray]:
    """Return the quickest function that copies an array, in C order."""
    return array.__copy__ if array.flags.c_contiguous else array.copy


@dataclass
class StateBuffer:
    """A buffer that a recurrence starts from and leaves its state in; a stream carries `width` of its columns."""

    node: str
    role: str
    array: np.ndarray
    start: np.ndarray | None
    width: int

    @property
    def key(self) -> str:
        return f"{self.node}.{self.role}"


@dataclass
class Lowered:
    """What became of a node: its values, and what else its steps do."""

    node: Node
    inputs: list[Value | None]
    outputs: list[Value | None]
    notes: list[str]


@dataclass(frozen=True)
class Wait:
    """Where binding ends until the run has found something: `find` it, and `resume` with a frame for whatever has the same `key`."""

    find: Callable[[], list[np.ndarray]]
    key: Callable[[list[np.ndarray]], object]
    resume: Callable[[list[np.ndarray]], "Frame"]


def _contents_key(found: list[np.ndarray]) -> object:
    return found[0].tobytes()


def _shapes_key(found: list[np.ndarray]) -> object:
    return tuple(array.shape for array in found)


@dataclass
class Frame:
    """A program bound to shapes: one call at a time."""

    inputs: dict[str, Port]
    program: Program = field(default_factory=Program)
    outputs: dict[str, Port] = field(default_factory=dict)
    states: list[StateBuffer] = field(default_factory=list)
    outermost: tuple[int, ...] = ()  # of each input, the axis that lies outermost in memory; none: all are in C order
    carried: np.ndarray | None = None  # words that tell where a stream keeps the states (kernels/carrying.py)
    scratch_bytes: int = 0
    packed_bytes: int = 0  # of weights as kernels read them
    lowered: list[Lowered] = field(default_factory=list)
    work: int = 0  # floating-point operations
    pace: Pace | None = None  # decides whether a team runs it
    waits_for: "Wait | None" = None
    continued: "OrderedDict[object, Frame]" = field(default_factory=OrderedDict)
    received: Sequence[np.ndarray] = ()  # of a continuation: where it wants what was waited for
    # for the short way of a call: see `get_ready`
    is_ready: bool = False
    input: np.ndarray = field(default_factory=lambda: np.empty(0))
    copy_output: Callable[[], np.ndarray] = field(default_factory=lambda: np.empty(0).copy)
    output: np.ndarray = field(default_factory=lambda: np.empty(0))
    walk: Callable[[], int] = int

    def run(self, resume: bool = False) -> "Frame":
        """Run the steps; return the frame in which the outputs and states are (this one, or its continuation).

        States begin at their starts; `resume` takes them from where they are carried, or leaves them as they are.
        """
        frame = self
        while True:
            try:
                frame._run(resume)
            except FastLSTMError:
                raise
            except Exception as error:  # NumPy's own, of inputs that make no sense to a step
                raise GraphError(f"a step of the model cannot run on these values: {error}") from error
            if frame.waits_for is None:
                return frame
            frame = frame._continue()

    def get_ready(self) -> None:
        """Find out whether a call is one small input, one call into compiled code, and one small output."""
        ports = [*self.inputs.values(), *self.outputs.values()]
        call = self.program.only_call
        small = all(port.buffer.nbytes < DIRECT_BYTES for port in ports)
        self.is_ready = len(ports) == 2 and len(self.outputs) == 1 and call is not None and small
        if self.is_ready:
            self.input, self.output = (port.buffer for port in ports)
            self.copy_output = copier(self.output)
            self.walk = self.program.only_walk(False, self.pace)

    def _run(self, resume: bool) -> None:
        if self.pace is None:
            self.program.run(resume)
        else:
            self.pace.run(partial(self.program.run, resume))

    def _continue(self) -> "Frame":
        assert self.waits_for is not None
        found = self.waits_for.find()
        key = self.waits_for.key(found)
        if key not in self.continued:
            self.continued[key] = self.waits_for.resume(found)
            while len(self.continued) > KEPT_VALUES:
                self.continued.popitem(last=False)
        self.continued.move_to_end(key)
        frame = self.continued[key]
        for buffer, array in zip(frame.received, found, strict=False):
            np.copyto(buffer, array)
        return frame


class Plan:
    """A model's weights, packed, and its frames."""

    def __init__(self, graph: Graph, weights: Mapping[str, Weight], max_scratch: int = MAX_SCRATCH, threads: int = 1):
        self._given = weights
        self._unfused = graph
        self._branches = any(node.op == "If" for node in graph.nodes)
        self._resolved: dict[tuple, Plan] = {}  # by the conditions that were known or found: the plan of what is left
        self._bodies: OrderedDict[tuple, Plan] = OrderedDict()
        self.fused = fuse(graph, weights)
        self.graph = graph = self.fused.graph
        self.max_scratch, self.threads = max_scratch, threads
        self.output_names = frozenset(spec.name for spec in graph.outputs)
        self.readers = Readers(graph)
        self.ancestors = _ancestors(graph)
        weights = {**weights, **self.fused.constants}
        self.weights = {name: _weight_value(name, weight) for name, weight in weights.items()}
        # buffers of weights by address, so that a view of a weight is known as that weight
        self._addresses = {
            v.data.ctypes.data: name
            for name, v in self.weights.items()
            if not isinstance(v, Stored) and v.data is not None and v.data.size
        }
        self._packed: dict[tuple, np.ndarray] = {}
        self._runs: dict[tuple, list[Runs] | None] = {}  # how values of the run are packed
        self._frames: OrderedDict[tuple, deque[Frame]] = OrderedDict()
        self._kept_bytes = 0

    def of_twin(self, graph: Graph) -> "Plan":
        """Return the plan of another graph of the same weights, which shares what is packed."""
        twin = Plan(graph, self._given, self.max_scratch, self.threads)  # fused as this one is: to the same bits
        twin.weights |= self.weights
        twin._addresses, twin._packed = self._addresses, self._packed
        return twin

    def borrow(
        self, shapes: tuple[tuple[int, ...], ...], carries: bool = False, outermost: tuple[int, ...] = ()
    ) -> Frame:
        """Return a frame for inputs of these shapes that no other call uses; `give_back` it. `outermost`: as a frame has it."""
        kept = self._frames.get((shapes, carries, outermost))
        try:
            frame = kept.pop()  # type: ignore[union-attr]
        except (AttributeError, IndexError):
            return self.bind(shapes, carries, outermost)
        self._kept_bytes -= frame.scratch_bytes
        return frame

    def kept(self, shapes: tuple[tuple[int, ...], ...]) -> deque[Frame]:
        """Return the frames that wait for a call of these shapes; it is emptied where they give way to others."""
        return self._frames.setdefault((shapes, False, ()), deque())

    def give_back(self, shapes: tuple[tuple[int, ...], ...], frame: Frame) -> None:
        """Keep a frame for the next call of these shapes; where too much is kept, the oldest shapes give way."""
        key = shapes, frame.carried is not None, frame.outermost
        kept = self._frames.get(key)
        if kept is None:
            kept = self._frames.setdefault(key, deque())
        kept.append(frame)
        self._kept_bytes += frame.scratch_bytes
        if self._kept_bytes <= KEPT_BYTES and len(self._frames) <= KEPT_SHAPES:
            return
        try:
            self._frames.move_to_end(key)
            # counted afresh: threads that borrow meanwhile leave the running count a little off
            self._kept_bytes = sum(one.scratch_bytes for kept in list(self._frames.values()) for one in list(kept))
            while len(self._frames) > 1 and (self._kept_bytes > KEPT_BYTES or len(self._frames) > KEPT_SHAPES):
                _, dropped = self._frames.popitem(last=False)
                self._kept_bytes -= sum(one.scratch_bytes for one in dropped)
                dropped.clear()
        except (KeyError, RuntimeError):
            pass  # another thread dropped it, or appends to it

    def bind(
        self, shapes: tuple[tuple[int, ...], ...], carries: bool = False, outermost: tuple[int, ...] = ()
    ) -> Frame:
        """Return a new frame for inputs of these shapes; one that `carries` moves states from and to a stream. Raise ShapeError, LimitError."""
        inputs, given = {}, {}
        binder = _Binder(self, 0, carries)
        for k, (spec, shape) in enumerate(zip(self.graph.inputs, shapes, strict=True)):
            axis = outermost[k] if outermost else 0
            array = binder.scratch(
                (shape[axis : axis + 1] + shape[:axis] + shape[axis + 1 :]), np.dtype(spec.dtype), lasts=True
            )
            array = np.moveaxis(array, 0, axis) if axis else array
            inputs[spec.name] = Port(array)
            given[spec.name] = Value(array.dtype, shape, None, array)
        if self._branches:
            frame = self._bind_branches(given, Frame(inputs, scratch_bytes=binder.bytes), (), carries)
        else:
            frame = self._bind_from(0, self.weights | given, Frame(inputs), binder)
        frame.outermost = outermost
        return frame

    def _bind_branches(
        self, given: dict[str, Value], frame: Frame, decided: tuple[bool, ...], carries: bool = False
    ) -> Frame:
        """Bind the graph without its Ifs; where a condition is not known, what computes it, and the rest once it has."""
        nodes, found, condition = resolve(self._unfused, self.weights | given, decided)
        plan = self._without_ifs(nodes, tuple(found), condition)
        binder = _Binder(plan, frame.scratch_bytes, carries)
        goal = None
        if condition is not None:

            def resume(contents: list[np.ndarray]) -> Frame:
                continued = Frame(frame.inputs, scratch_bytes=binder.bytes)
                return self._bind_branches(given, continued, (*decided, bool(contents[0].ravel()[0])))

            goal = condition, resume
        return plan._bind_from(0, plan.weights | given, Frame(frame.inputs), binder, goal)

    def _without_ifs(self, nodes: list[Node], found: tuple[bool, ...], condition: str | None) -> "Plan":
        key = found, condition
        if key not in self._resolved:
            outputs = self._unfused.outputs
            if condition is not None:
                outputs = (TensorSpec(condition, "bool", None),)
                nodes = _live(nodes, condition)
            graph = replace(self._unfused, nodes=tuple(nodes), outputs=outputs)
            graph.check(self._given)
            self._resolved[key] = self.of_twin(graph)
        return self._resolved[key]

    def _bind_from(
        self,
        first: int,
        values: dict[str, Value],
        frame: Frame,
        binder: "_Binder",
        goal: "tuple[str, Callable[[list[np.ndarray]], Frame]] | None" = None,
    ) -> Frame:
        """Bind the nodes from `first` on; a `goal` is the value that is waited for in the end, and what goes on from there."""
        waits, found_by = None, None
        for index in range(first, len(self.graph.nodes)):
            node = self.graph.nodes[index]
            try:
                outs = inference.infer_node(node, inference.arguments(node, values), binder.fold_limit)
            except NeedsValue as needed:
                waits = index, node.inputs[needed.index]
                break
            if any(not known(out.shape) for out in outs):
                if not find(node.op).finds_shapes:
                    raise UnsupportedError(f"node {node.name!r}: the shape of its output is not known before it runs")
                found_by = index
                break
            if all(out.data is not None for out in outs):
                binder.charge(sum(out.data.nbytes for out in outs if out.data is not None))
            values.update((name, out) for name, out in zip(node.outputs, outs, strict=False) if name)
        # every shape is known from here on: a value can be written where its reader wants it
        binder.values = values
        end = waits[0] if waits else found_by
        for node in self.graph.nodes[first:end]:
            binder.lower(node)
        if waits is not None:
            self._wait(*waits, values, frame, binder, goal)
        elif found_by is not None:
            self._wait_for_results(found_by, values, frame, binder, goal)
        elif goal is not None:
            self._end(frame, binder, Wait(_reader(values[goal[0]]), _contents_key, goal[1]))
        else:
            for spec in self.graph.outputs:
                array = values[spec.name].array
                assert array is not None
                frame.outputs[spec.name] = Port(array)
                if values[spec.name].data is not None:
                    frame.outputs[spec.name].forbid()  # no step writes a constant
            binder.finish(frame)
        return frame

    def _end(self, frame: Frame, binder: "_Binder", wait: Wait) -> None:
        """End a frame that goes on in another."""
        for port in frame.inputs.values():
            port.forbid()
        binder.finish(frame)
        frame.waits_for = wait

    def _wait(
        self, index: int, name: str, values: dict[str, Value], frame: Frame, binder: "_Binder", goal: Any
    ) -> None:
        """End a frame at a node that needs the contents of a value."""
        waiting = values[name]

        def resume(contents: list[np.ndarray]) -> Frame:
            known = values | {name: Value(waiting.dtype, waiting.shape, contents[0], waiting.array)}
            return self._bind_from(index, known, Frame(frame.inputs), _Binder(self, frame.scratch_bytes), goal)

        self._end(frame, binder, Wait(_reader(waiting), _contents_key, resume))

    def _wait_for_results(
        self, index: int, values: dict[str, Value], frame: Frame, binder: "_Binder", goal: Any
    ) -> None:
        """End a frame at a node that runs by itself, since it alone can tell the shapes of what it gives."""
        node = self.graph.nodes[index]
        args = inference.arguments(node, values)
        run = find(node.op).runner(node, args, binder)
        arrays = [None if arg is None else arg.array for arg in args]

        def resume(results: list[np.ndarray]) -> Frame:
            after = _Binder(self, frame.scratch_bytes)
            buffers = [after.scratch(result.shape, result.dtype) for result in results]
            known = dict(values)
            for name, buffer in zip(node.outputs, buffers, strict=True):
                if name:
                    known[name] = Value(buffer.dtype, buffer.shape, None, buffer)
            return self._bind_from(index + 1, known, Frame(frame.inputs, received=buffers), after, goal)

        self._end(frame, binder, Wait(lambda: run(arrays), _shapes_key, resume))

    def body(self, name: str, graph: Graph, constants: Mapping[str, np.ndarray]) -> "Plan":
        """Return the plan of a subgraph with constants for some of its inputs."""
        key = name, *((one, array.ctypes.data, array.shape) for one, array in sorted(constants.items()))
        if key not in self._bodies:
            inputs = tuple(spec for spec in graph.inputs if spec.name not in constants)
            self._bodies[key] = Plan(replace(graph, inputs=inputs), constants, self.max_scratch)
            while len(self._bodies) > KEPT_BODIES:
                self._bodies.popitem(last=False)
        return self._bodies[key]

    def weight_of(self, value: Value) -> str | None:
        """Return the name of the weight whose elements a constant holds, None if it is none or part of one."""
        if isinstance(value, Stored):
            return value.name
        if value.data is None or value.data.size == 0:
            return None
        name = self._addresses.get(value.data.ctypes.data)
        return name if name is not None and value.data.nbytes == self.weights[name].data.nbytes else None  # type: ignore[union-attr]


def _ancestors(graph: Graph) -> dict[str, frozenset[str]]:
    """Return for each node the names of those it depends on."""
    producers = {name: node.name for node in graph.nodes for name in node.outputs if name}
    known: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        parents = {producers[name] for name in node.inputs if name in producers}
        known[node.name] = frozenset(parents).union(*(known[parent] for parent in parents))
    return known


def _reader(value: Value) -> Callable[[], list[np.ndarray]]:
    """Return what copies the contents of a value's buffer."""
    array = value.array
    assert array is not None
    return lambda: [array.copy()]


def _live(nodes: list[Node], value: str) -> list[Node]:
    """Return the nodes that a value depends on."""
    needed, live = {value}, []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            live.append(node)
            needed.update(node.inputs)
    return live[::-1]


class _Subprogram:
    """A subgraph that a call runs again and again: its frames belong to that call's frame."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._frames: OrderedDict[tuple, Frame] = OrderedDict()

    def __call__(self, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        arrays = [values[spec.name] for spec in self._plan.graph.inputs]
        shapes = tuple(array.shape for array in arrays)
        frame = self._frames.get(shapes)
        if frame is None:
            frame = self._frames[shapes] = self._plan.bind(shapes)
            while len(self._frames) > KEPT_VALUES:
                self._frames.popitem(last=False)
        for port, array in zip(frame.inputs.values(), arrays, strict=True):
            port.feed(array)
        last = frame.run()
        return [last.outputs[spec.name].buffer.copy() for spec in self._plan.graph.outputs]


class _Binder:
    """The Emit that ops lower themselves to: collects the program, buffers and states of one frame."""

    def __init__(self, plan: Plan, scratch_bytes: int, carries: bool = False):
        self._plan, self._carries = plan, carries
        self._program = Program(plan.threads)
        self._steps: list = self._program.steps
        self._work: dict[str, int] = {}
        self._lowered: list[Lowered] = []
        self._packed: dict[int, int] = {}  # bytes of weights by their address
        self._packed_here: dict[tuple, np.ndarray] = {}  # values that the node being lowered has packed
        self._states: list[StateBuffer] = []
        self.bytes = scratch_bytes
        self._buffers = self._new_buffers()
        self._node: Node | None = None
        self.values: dict[str, Value] = {}
        self._places: dict[str, np.ndarray] = {}  # where a value belongs inside what its only reader makes of it
        self._workspaces: dict[tuple[np.dtype, int], np.ndarray] = {}

    def _new_buffers(self) -> Buffers:
        return Buffers(self._plan.readers, self._plan.ancestors if self._plan.threads > 1 else None)

    def lower(self, node: Node) -> None:
        """Let a node's op emit its steps; every output then has its array, and what is read no more is free."""
        self._lower(node)
        for name in filter(None, node.outputs):
            value = self.values[name]
            arrays = value.array, None if value.rows is None else value.rows.numbers
            self._buffers.hold(name, (array for array in arrays if array is not None))
        self._buffers.lowered(node)
        self._node = None
        self._packed_here.clear()

    def _lower(self, node: Node) -> None:
        args = inference.arguments(node, self.values)
        # outputs that nothing names are computed all the same
        outs = [self.values[name] if name else None for name in node.outputs]
        for out in outs:
            if out is not None and out.data is not None:
                out.array = out.data
        if all(out is None or out.data is not None for out in outs):
            return
        self._node = node
        self._lowered.append(Lowered(node, args, outs, list(self._plan.fused.notes.get(node.name, ()))))
        try:
            op = find(node.op, node.name)
            op.lower(node, args, outs, self)
            self._work[node.name] = int(op.flops(node, args, [out for out in outs if out is not None]))
        except FastLSTMError:
            raise
        except Exception as error:  # what NumPy raises for shapes that make no sense is not ours to list
            raise GraphError(f"node {node.name!r}: {node.op} cannot take these inputs: {error}") from error

    def finish(self, frame: Frame) -> None:
        """Make the frame's program of what was emitted."""
        self._node = None
        for state in self._states:
            start = np.zeros(state.array.shape, state.array.dtype) if state.start is None else state.start
            self._steps = self._program.starts
            self.copy(state.array, start)
        if self._plan.threads > 1:
            schedule(self._program.steps, self._plan.ancestors, self._work, self._plan.threads)
        if self._carries:
            frame.carried = self._carry()
        self._program.seal([*frame.inputs.values(), *frame.outputs.values()])
        frame.program, frame.states, frame.scratch_bytes = self._program, self._states, self.bytes
        frame.packed_bytes, frame.lowered = sum(self._packed.values()), self._lowered
        frame.work = sum(self._work.values())
        if self._plan.threads > 1 and frame.work > TEAM_WORK:
            frame.pace = Pace()
        frame.get_ready()

    def _carry(self) -> np.ndarray:
        """Let the program begin by taking the states from where they are carried, and end by bringing them there.

        Return the words that say where.
        """
        carried = np.zeros(layout.CARRIED + 2 * len(self._states), np.int64)

        def moves(out: bool) -> list[KernelStep]:
            steps = []
            for place, state in enumerate(self._states):
                buffer, row = state.array, state.array[:1, ..., : state.width]
                args = [carried, place, buffer, buffer.strides[0], row.nbytes, len(buffer), int(out)]
                steps.append(KernelStep("", "carry_forward", FLOAT32, FLOAT32, args, waits=out and place == 0))
            return steps

        self._program.steps = [*moves(out=False), *self._program.steps, *moves(out=True)]
        return carried

    # ---- steps --------------------------------------------------------------------------------------
    def kernel(
        self,
        name: str,
        *args: Any,
        kind: np.dtype | None = None,
        narrow: np.dtype | None = None,
        refuses: Callable[[], None] | None = None,
    ) -> None:
        flat = [one for arg in args for one in (arg if isinstance(arg, tuple) else (arg,))]
        kind = kind or next(arg.dtype for arg in flat if isinstance(arg, np.ndarray))
        node = "" if self._node is None else self._node.name
        if refuses is not None:
            # looked at again after a run that was refused
            self._buffers.keep(arg for arg in flat if isinstance(arg, np.ndarray))
            flat = [VERDICT, *flat]
        self._steps.append(KernelStep(node, name, kind, narrow or kind, flat, refuses=refuses))

    def can_refuse(self) -> bool:
        return self._node is not None and self._node.name in self._plan.fused.first

    def looks_up(self, node: Node) -> bool:
        return node.name in self._plan.fused.looked_up

    def host(self, step: Callable[..., None], *args: Any) -> None:
        self._steps.append(HostStep("" if self._node is None else self._node.name, step, args))

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        source = np.broadcast_to(source, target.shape)
        if target.dtype != source.dtype or target.ndim > layout.RANK:
            self.host(np.copyto, target, source)
            return
        sizes, (to, at) = merged_axes([target, source])
        fill = (layout.RANK - len(sizes)) * (0,)
        self.kernel(
            "copy_forward", target, source, target.itemsize, (*(1 for _ in fill), *sizes), (*fill, *to), (*fill, *at),
            kind=FLOAT32,
        )  # fmt: skip

    # ---- buffers ------------------------------------------------------------------------------------
    @property
    def fold_limit(self) -> int:
        """How many elements of 8 bytes may still be computed ahead of time."""
        return min(inference.FOLD_LIMIT, max(0, self._plan.max_scratch - self.bytes) // 8)

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype, lasts: bool = False) -> np.ndarray:
        size = prod(shape) * dtype.itemsize
        if lasts or size < SMALL or self._node is None:
            self.charge(size)
            return aligned(shape, dtype)
        memory = self._buffers.take(size, self._node.name)
        if memory is None:
            self.charge(size)
            memory = aligned((size,), BYTES)
            self._buffers.add(memory, self._node.name)
        return memory[:size].view(dtype).reshape(shape)

    @contextmanager
    def passing(self) -> Iterator[None]:
        mark = self._buffers.mark()
        yield
        self._buffers.free_since(mark)

    def charge(self, size: int) -> None:
        """Count bytes before they are allocated. Raise LimitError beyond what a call may use."""
        self.bytes += size
        if self.bytes > self._plan.max_scratch:
            raise LimitError(
                f"a call of this size needs more than {self._plan.max_scratch / 2**20:.0f} MiB of buffers; "
                "pass fewer rows or steps, or a larger max_scratch to Session"
            )

    def workspace(self, dtype: np.dtype, columns: int = 0) -> np.ndarray:
        L = target.lanes(dtype.itemsize)
        key = dtype, max(columns, BLOCK_VECTORS * L)
        if key not in self._workspaces:
            self._workspaces[key] = self.scratch((self._plan.threads, key[1]), dtype, lasts=True)
        return self._workspaces[key]

    def output(self, out: Value, accepts: Callable[[np.ndarray], bool] = is_contiguous) -> np.ndarray:
        assert self._node is not None
        name = next((name for name in self._node.outputs if name and self.values[name] is out), "")
        place = self._place(name, out)
        if place is None or not accepts(place):
            place = self.scratch(out.shape, out.dtype, self._leaves(name))  # type: ignore[arg-type]
        else:
            self._note_place(name)
        out.array = place
        return place

    def _leaves(self, name: str) -> bool:
        """Tell whether a value is an output, or what one is a view of: the caller's array may take the place of its buffer."""
        while name not in self._plan.output_names:
            readers = self._plan.readers.of.get(name, ())
            if len(readers) != 1 or not isinstance(find(readers[0].op), ViewOp):
                return False
            name = readers[0].outputs[0]
        return True

    def _note_place(self, name: str) -> None:
        """Note the node in whose output a value is written."""
        last = None
        while len(readers := self._plan.readers.of.get(name, ())) == 1 and readers[0].outputs[0] in self._places:
            last, name = readers[0], readers[0].outputs[0]
        if last is not None:
            self.note(f"writes {'for' if isinstance(find(last.op), ViewOp) else 'into'} {last.op} {last.name!r}")

    def note(self, text: str) -> None:
        if self._lowered:
            self._lowered[-1].notes.append(text)

    def _place(self, name: str, out: Value) -> np.ndarray | None:
        """Return where a value belongs inside what its only reader makes of it, None where there is no such place."""
        if name in self._places:
            return self._places[name]
        readers = self._plan.readers.of.get(name, ())
        if len(readers) != 1 or name in self._plan.output_names:
            return None
        node = readers[0]
        result = self.values.get(node.outputs[0])
        if result is None or result.data is not None or result.dtype != out.dtype:
            return None

        def whole() -> np.ndarray:
            place = self._place(node.outputs[0], result)
            if place is None:
                place = self.scratch(result.shape, result.dtype, self._leaves(node.outputs[0]))  # type: ignore[arg-type]
                self._places[node.outputs[0]] = place
                self._buffers.hold(node.outputs[0], [place])
            return place

        args = [self.values.get(one) for one in node.inputs]
        place = find(node.op, node.name).place(node, name, args, whole)
        if place is not None:
            self._places[name] = place
            self._buffers.hold(name, [place])
        return place

    def subprogram(
        self, name: str, body: Graph, constants: Mapping[str, np.ndarray]
    ) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
        return _Subprogram(self._plan.body(name, body, constants))

    @property
    def room(self) -> int:
        return self._plan.max_scratch

    def gives_way(self, k: int) -> bool:
        assert self._node is not None
        return self._buffers.gives_way(self.values[self._node.inputs[k]].array, self._node.inputs[k], self._node)

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        if is_contiguous(array):
            return array
        whole = self.scratch(array.shape, array.dtype)
        self.copy(whole, array)
        return whole

    def state(
        self, node: Node, role: str, shape: tuple[int, ...], dtype: np.dtype, start: np.ndarray | None, width: int
    ) -> np.ndarray:
        array = self.scratch(shape, dtype, lasts=True)
        self._states.append(StateBuffer(node.name, role, array, start, width))
        return array

    def packed(
        self, key: tuple, arrays: Sequence[Value], pack: Callable[..., np.ndarray], narrow: bool = False
    ) -> np.ndarray:
        if all(isinstance(value, Stored) or value.data is not None for value in arrays):
            array = self._packed_constant(key, arrays, pack, narrow)
            self._packed[array.ctypes.data] = array.nbytes
            return array
        given = [value.array for value in arrays if value.array is not None]
        here = key, *((array.ctypes.data, array.shape, array.strides) for array in given)
        if here in self._packed_here:
            return self._packed_here[here]
        sample = pack(*(np.zeros(value.shape, value.dtype) for value in arrays))  # type: ignore[arg-type]
        array = self.scratch(sample.shape, sample.dtype, lasts=True)  # zeros past its ends
        self._pack(key, array, pack, given)
        self._packed_here[here] = array
        return array

    def _packed_constant(
        self, key: tuple, arrays: Sequence[Value], pack: Callable[..., np.ndarray], narrow: bool
    ) -> np.ndarray:
        names = tuple(self._plan.weight_of(value) for value in arrays)
        # a view of a weight has its address and size, but another shape
        known = (key, names, tuple(value.shape for value in arrays)) if None not in names else None
        if known is not None and known in self._plan._packed:
            return self._plan._packed[known]
        source = pack(*(_contents(value, narrow) for value in arrays))
        target_array = aligned(source.shape, source.dtype)
        np.copyto(target_array, source)
        if known is not None:
            self._plan._packed[known] = target_array
        return target_array

    def made_once(
        self, key: tuple, shape: tuple[int, ...], dtype: np.dtype, make: Callable[[np.ndarray], None]
    ) -> np.ndarray:
        array = self._plan._packed.get(key)
        if array is None:
            array = aligned(shape, dtype)
            # the steps of making it are a program of their own, whose buffers are not those of a call
            steps, size, buffers, program = self._steps, self.bytes, self._buffers, Program()
            self._steps, self._buffers = program.steps, self._new_buffers()
            make(array)
            self._steps, self.bytes, self._buffers = steps, size, buffers
            program.seal()
            program.run()
            self._plan._packed[key] = array
        self._packed[array.ctypes.data] = array.nbytes
        return array

    def _pack(self, key: tuple, array: np.ndarray, pack: Callable[..., np.ndarray], sources: list[np.ndarray]) -> None:
        """Emit the packing of values of the run."""
        lie = (key, *((source.shape, source.strides, source.dtype) for source in sources))
        if lie not in self._plan._runs:
            self._plan._runs[lie] = find_runs(pack, sources)
        runs = self._plan._runs[lie]
        if runs is None:
            self.host(_pack_into, array, pack, sources)
            return
        array[...] = 0
        for one in runs:
            self.kernel("runs_forward", array, sources[one.source], one.words, len(one.words), int(one.add))

    def alias(self, out: Value, array: np.ndarray) -> None:
        out.array = array

    def lanes(self, dtype: np.dtype) -> int:
        return target.lanes(dtype.itemsize)

    @property
    def near_bytes(self) -> int:
        return near_bytes()

    @property
    def depth(self) -> int:
        return target.DEPTH

    @property
    def panels_together(self) -> int:
        return layout.TOGETHER

    def row_bytes(self, K: int, parts: int) -> int:
        return layout.row_bytes(K, parts)

    def group(self, state: bool) -> int:
        return layout.STATE_GROUP if state else layout.GROUP

    def activation(self, name: str) -> int:
        return codes.ACTIVATIONS[name]

    def operation(self, name: str) -> int:
        return codes.OPERATIONS[name]


def _weight_value(name: str, weight: Weight) -> Value:
    if isinstance(weight, Quantized) or (weight.dtype == np.float16 and target.HALF):
        return Stored(name, weight)
    return Value.constant(np.ascontiguousarray(widen(weight)).reshape(weight.shape))


def _contents(value: Value, narrow: bool) -> Any:
    """Return a constant's contents to pack: as stored, or widened for this once."""
    if isinstance(value, Stored):
        return value.weight if narrow else widen(value.weight)
    return value.data


def _pack_into(array: np.ndarray, pack: Callable[..., np.ndarray], sources: list[np.ndarray]) -> None:
    np.copyto(array, pack(*sources))

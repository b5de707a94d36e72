"""Control flow: If and Loop, whose subgraphs are functions of their own inputs and nothing else.

A branch or a body names no value from outside: what it uses, weights included, are inputs of the node, and of the subgraph in the same
order. So a subgraph can be inferred, inlined or bound by itself.

An If whose condition is known leaves its branch in its place before anything is bound (`inlined`); one whose condition is not waits until the
run has computed it, and the rest is bound for what it is. A Loop runs its body, bound as a program of its own, once for each trip.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import local

import numpy as np

from fastlstm.errors import DTypeError, GraphError, LimitError
from fastlstm.graph import Graph, Node, TensorSpec
from fastlstm.ops import inference
from fastlstm.ops.dims import Dim, Shape
from fastlstm.ops.op import (
    Args,
    Attribute,
    Back,
    Emit,
    NeedsValue,
    Op,
    Slot,
    Value,
    at,
    find,
    register,
    required,
)

MAX_TRIPS = 1 << 20  # of all loops of one call
BOOL, INT64 = np.dtype(bool), np.dtype(np.int64)


class ControlOp(Op):
    """An op with subgraphs."""

    variadic_outputs = True
    any_dtype = True
    changes_state = True  # a subgraph may hold what does
    bodies: tuple[str, ...] = ()

    def check(self, node: Node) -> None:
        """Raise GraphError unless the node has its subgraphs, and each is closed and fits the node."""
        super().check(replace(node, subgraphs={}))
        if set(node.subgraphs) != set(self.bodies):
            raise GraphError(f"node {node.name!r}: {self.name} has subgraphs {sorted(node.subgraphs)}, expected {sorted(self.bodies)}")  # fmt: skip
        for role, body in node.subgraphs.items():
            body.check({})
            given, made = self.signature(node)
            if (len(body.inputs), len(body.outputs)) != (given, made):
                raise GraphError(
                    f"node {node.name!r}: its {role} takes {len(body.inputs)} values and gives {len(body.outputs)}, "
                    f"expected {given} and {made}"
                )

    def signature(self, node: Node) -> tuple[int, int]:
        """Return how many values a subgraph takes and gives."""
        raise NotImplementedError

    def mixed(self, node: Node, args: Args) -> list[tuple[int, int]]:
        """Nothing is known of what a subgraph keeps apart."""
        return [(k, axis) for k, arg in enumerate(args) if arg is not None for axis in range(len(arg.shape or ()))]


def results(node: Node, body: Graph, args: Sequence[Value]) -> list[Value]:
    """Return what is known of a subgraph's outputs for these inputs."""
    known: dict[str, Value] = {}
    specs = []
    for spec, arg in zip(body.inputs, args, strict=True):
        if arg.dtype != spec.dtype:
            raise GraphError(f"node {node.name!r}: {spec.name!r} is {arg.dtype}, its subgraph expects {spec.dtype}")
        specs.append(TensorSpec(spec.name, spec.dtype, arg.shape))
        if arg.data is not None:
            known[spec.name] = arg
    values = inference.infer(body, {}, specs, known)
    return [values[spec.name] for spec in body.outputs]


def either(node: Node, a: Value, b: Value) -> Value:
    """Return what is known of a value that is one or the other."""
    if a.dtype != b.dtype:
        raise GraphError(f"node {node.name!r}: an output is {a.dtype} or {b.dtype}")
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return Value(a.dtype, None)
    pairs = enumerate(zip(a.shape, b.shape, strict=True))
    return Value(a.dtype, tuple(p if p == q else f"({node.name}.{k}:{p}|{q})" for k, (p, q) in pairs))


@register
class If(ControlOp):
    """The outputs of one of two graphs of the same inputs: `then` where the condition holds, else `else`."""

    name = "If"
    inputs = (Slot("condition"), Slot("values", optional=True, variadic=True))
    bodies = ("then", "else")

    def signature(self, node: Node) -> tuple[int, int]:
        return len(node.inputs) - 1, len(node.outputs)

    def branch(self, node: Node, condition: np.ndarray) -> Graph:
        """Return the graph that a condition chooses."""
        if condition.size != 1:
            raise GraphError(f"node {node.name!r}: its condition has {condition.size} elements, expected one")
        return node.subgraphs["then" if condition.ravel()[0] else "else"]

    def infer(self, node: Node, args: Args) -> list[Value]:
        condition = required(args)
        if condition.dtype != BOOL:
            raise DTypeError(f"node {node.name!r}: its condition is {condition.dtype}, expected bool")
        if condition.data is None:
            raise NeedsValue(0)
        return results(node, self.branch(node, condition.data), [required(args, k) for k in range(1, len(args))])

    def unknown(self, node: Node, args: Args) -> list[Value]:
        given = [required(args, k) for k in range(1, len(args))]
        both = [results(node, node.subgraphs[role], given) for role in self.bodies]
        return [either(node, *pair) for pair in zip(*both, strict=True)]

    def adjoint(self, node: Node, back: Back) -> list:
        """The adjoint of the branch that was chosen, from the same inputs."""
        condition, *given = back.x
        bodies, constants = back.adjoints_of(node.subgraphs)
        dy = [d for d in back.dy if d is not None]
        found = iter(
            back.node(self.name, [condition, *given, *dy, *constants], [True] * sum(back.wants), subgraphs=bodies)
        )
        return [next(found) if want else None for want in back.wants]


def inlined(node: Node, condition: np.ndarray) -> list[Node]:
    """Return the nodes of the branch that a condition chooses, with names of their own, and the outputs of the If."""
    op = find(node.op)
    assert isinstance(op, If)
    body = op.branch(node, condition)
    return _inlined(body, node)


def _inlined(body: Graph, node: Node) -> list[Node]:
    names = {spec.name: value for spec, value in zip(body.inputs, node.inputs[1:], strict=True)}
    inside = lambda name: names.setdefault(name, f"{node.name}/{name}") if name else ""
    nodes = []
    for one in body.nodes:
        given = tuple(inside(name) for name in one.inputs)
        nodes.append(
            replace(one, name=f"{node.name}/{one.name}", inputs=given, outputs=tuple(map(inside, one.outputs)))
        )
    for spec, output in zip(body.outputs, node.outputs, strict=True):
        if output:
            nodes.append(Node(f"{node.name}/{output}", "Identity", (inside(spec.name),), (output,)))
    return nodes


def resolve(
    graph: Graph, values: Mapping[str, Value], decided: Sequence[bool] = ()
) -> tuple[list[Node], list[bool], str | None]:
    """Return a graph's nodes with every If replaced by the branch that its condition chooses, and what was decided.

    `decided` are the conditions that the run has found, in order. Where a further one is not known, return the nodes before that If,
    and the name of its condition.
    """
    known, waiting, nodes, found = dict(values), list(reversed(graph.nodes)), [], []
    asked, answers = iter(decided), {}
    while waiting:
        node = waiting.pop()
        args = inference.arguments(node, known)
        if node.op == "If":
            name, condition = node.inputs[0], required(args).data
            if condition is None:
                if name not in answers:
                    answers[name] = next(asked, None)
                if answers[name] is None:
                    return nodes, found, name
                condition = np.array(answers[name])
            found.append(bool(condition.ravel()[0]))
            waiting.extend(reversed(inlined(node, condition)))
            continue
        nodes.append(node)
        try:
            outs = inference.infer_node(node, args, inference.KNOWN_LIMIT)
        except NeedsValue:
            outs = find(node.op).unknown(node, args)
        known.update((name, out) for name, out in zip(node.outputs, outs, strict=False) if name)
    return nodes, found, None


@register
class Loop(ControlOp):
    """A body run `trips` times (absent: without end) or until its condition fails, which is asked before the first trip too.

    The body takes the number of the trip, the condition, the first `carried` values and whatever else the node is given; it gives the condition
    for the next trip, the carried values, and elements that the node's other outputs stack along a first axis.
    """

    name = "Loop"
    inputs = (
        Slot("trips", optional=True),
        Slot("condition", optional=True),
        Slot("values", optional=True, variadic=True),
    )
    attributes = {"carried": Attribute(int, 0)}
    bodies = ("body",)
    finds_shapes = True

    def check(self, node: Node) -> None:
        super().check(node)
        carried = self.get(node, "carried")
        if not 0 <= carried <= min(len(node.inputs) - 2, len(node.outputs)):
            raise GraphError(f"node {node.name!r}: attribute 'carried' is {carried}, more values than there are")

    def signature(self, node: Node) -> tuple[int, int]:
        return max(len(node.inputs), 2), 1 + len(node.outputs)

    def _given(self, args: Args) -> tuple[Value | None, Value | None, list[Value]]:
        return at(args, 0), at(args, 1), [required(args, k) for k in range(2, len(args))]

    def _known(self, node: Node, args: Args) -> tuple[list[Value], int | None]:
        """Return what is known of the outputs, a stacked one without its first axis, and the number of trips where that is."""
        trips, condition, given = self._given(args)
        carried, rest = given[: self.get(node, "carried")], given[self.get(node, "carried") :]
        # a value that changes has no contents that are known; what a trip makes of its shape is a symbol, in the end all of it
        state = [Value(value.dtype, value.shape) for value in carried]
        body, made = node.subgraphs["body"], []
        for attempt in range(3):
            made = results(node, body, [Value(INT64, ()), Value.constant(np.array(True)), *state, *rest])
            after = [either(node, *pair) for pair in zip(state, made[1:], strict=False)]
            if [value.shape for value in after] == [value.shape for value in state]:
                break
            state = [
                Value(value.dtype, _blurred(node, k, value.shape, old.shape) if attempt == 0 else _same(value, old))
                for k, (value, old) in enumerate(zip(after, state, strict=True))
            ]
        endless = made[0].data is not None and bool(made[0].data.all())
        starts = condition is None or (condition.data is not None and bool(condition.data.all()))
        count = None
        if condition is not None and condition.data is not None and not condition.data.all():
            count = 0
        elif endless and starts and trips is not None and trips.data is not None:
            count = max(0, int(trips.data.ravel()[0]))
        return [*state, *made[1 + len(state) :]], count

    def infer(self, node: Node, args: Args) -> list[Value]:
        known, count = self._known(node, args)
        carried = self.get(node, "carried")
        if count is not None and count > MAX_TRIPS:
            raise LimitError(f"node {node.name!r}: {count} trips, more than {MAX_TRIPS}")
        outs = []
        for k, value in enumerate(known):
            if k < carried:
                outs.append(Value(value.dtype, value.shape))
                continue
            first: Dim = f"({node.name}.trips)" if count is None else count
            outs.append(Value(value.dtype, None if value.shape is None else (first, *value.shape)))
        return outs

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        arrays = [None if arg is None else arg.array for arg in args]
        buffers = [None if out is None else emit.output(out) for out in outs]
        run = self.runner(node, args, emit)
        emit.host(_run_into, run, arrays, buffers)

    def runner(self, node: Node, args: Args, emit: Emit) -> Callable[[Sequence[np.ndarray | None]], list[np.ndarray]]:
        """Return the function that computes the outputs from the node's inputs."""
        body = node.subgraphs["body"]
        fixed = {
            spec.name: arg.data
            for spec, arg in zip(body.inputs[2 + self.get(node, "carried") :], args[2 + self.get(node, "carried") :], strict=True)
            if arg is not None and arg.data is not None and arg.dtype != np.float16  # as a weight that would be float32
        }  # fmt: skip
        step = emit.subprogram(node.name, body, fixed)
        known, _ = self._known(node, args)
        return _Trips(node, self.get(node, "carried"), known, step, emit.room)


def _same(value: Value, old: Value) -> Shape | None:
    return value.shape if value.shape == old.shape else None


def _blurred(node: Node, k: int, shape: Shape | None, old: Shape | None) -> Shape | None:
    """Return a shape in which the dims that a trip changes are symbols; None where even their number changes."""
    if shape is None or old is None or len(shape) != len(old):
        return None
    pairs = enumerate(zip(shape, old, strict=True))
    return tuple(p if p == q else f"({node.name}.{k}.{axis})" for axis, (p, q) in pairs)


class _Counter(local):
    """How many trips the loops of this thread's call have made: one call is one outermost loop."""

    depth = 0
    count = 0


_counter = _Counter()


class _Trips:
    """A loop bound to a body's program."""

    def __init__(
        self,
        node: Node,
        carried: int,
        known: Sequence[Value],
        step: Callable[[Mapping[str, np.ndarray]], list[np.ndarray]],
        room: int,
    ):
        self.node, self.carried, self.known, self.step, self.room = node, carried, known, step, room
        self.names = [spec.name for spec in node.subgraphs["body"].inputs]

    def __call__(self, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        trips, condition = (*arrays, None, None)[:2]
        limit = None if trips is None else int(trips.ravel()[0])
        going = condition is None or bool(condition.ravel()[0])
        state = [np.array(array) for array in arrays[2 : 2 + self.carried]]
        given = zip(self.names[2 + self.carried :], arrays[2 + self.carried :], strict=True)
        rest = {name: array for name, array in given if array is not None}
        stacked: list[list[np.ndarray]] = [[] for _ in self.known[self.carried :]]
        size = k = 0
        _counter.depth += 1
        try:
            while going and (limit is None or k < limit):
                self._count()
                fed = dict(zip(self.names[2:], state, strict=False)) | rest
                made = self.step({self.names[0]: np.array(k), self.names[1]: np.array(True), **fed})
                going, state = bool(made[0].ravel()[0]), made[1 : 1 + self.carried]
                for parts, part in zip(stacked, made[1 + self.carried :], strict=True):
                    parts.append(part)
                    size += part.nbytes
                if size > self.room:
                    raise LimitError(
                        f"node {self.node.name!r}: what the loop gives needs more than {self.room >> 20} MiB"
                    )
                k += 1
        finally:
            _counter.depth -= 1
            if not _counter.depth:
                _counter.count = 0
        return [
            *state,
            *(self._stack(parts, value) for parts, value in zip(stacked, self.known[self.carried :], strict=True)),
        ]

    def _count(self) -> None:
        _counter.count += 1
        if _counter.count > MAX_TRIPS:
            raise LimitError(f"node {self.node.name!r}: the loops of this call make more than {MAX_TRIPS} trips")

    def _stack(self, parts: list[np.ndarray], value: Value) -> np.ndarray:
        if parts:
            shapes = {part.shape for part in parts}
            if len(shapes) > 1:
                raise GraphError(
                    f"node {self.node.name!r}: its trips give elements of different shapes, {sorted(shapes)}"
                )
            return np.stack(parts)
        shape = [d if isinstance(d, int) else 0 for d in value.shape or ()]
        return np.empty((0, *shape), value.dtype)


def _run_into(run: Callable, arrays: list[np.ndarray | None], buffers: list[np.ndarray | None]) -> None:
    for buffer, result in zip(buffers, run(arrays), strict=True):
        if buffer is not None:
            np.copyto(buffer, result)

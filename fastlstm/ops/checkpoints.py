"""Recurrences that are trained with checkpoints over time: memory for recomputation.

    Z = X W + b, then the steps of ops/steps.py        in segments of `every` steps, one after the other

The forward pass leaves nothing of a segment but the states that it begins from. The adjoint takes the segments from the last to the first:
it projects and steps through each again, to the same bits, walks back through it, and adds its part to dW, db and dU. So the gates of one
segment exist at a time. Sums over steps go from the last step of processing to the first, each one chain: `every` changes no bit.

A segment lies in memory in the order of time, (n, B, ...); states that steps read, q and dq in the order of processing. M (G, 1, B, I), or
(G, B, 1, I) where `batch_first`, is dropout of X: what X is multiplied by before it meets the columns of W that are gate k's, or with one for
all gates (G = 1) all of them; it is drawn, so it has no gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops.contractions import emit_dense, emit_products
from fastlstm.ops.dims import Dim
from fastlstm.ops.mapping import emit_map_into
from fastlstm.ops.op import Attribute, Back, Emit, Op, Slot, Value, at, find, register, required
from fastlstm.ops.recurrent import CARRY, UNMASKED, ZERO, steps_in_place, strides_of
from fastlstm.ops.steps import (
    GRUSteps,
    LSTMSteps,
    RNNSteps,
    Run,
    Steps,
    StepsAdjoint,
    mask_of,
    rows_of_vectors,
    zeroed,
)

X, W, B_SLOT, U = range(4)
AFTER_U = 2  # how many inputs more than the steps an op has before those that follow U
PEEPHOLES = 3  # of i, f and o


def steps_of_segment(every: int, T: int) -> int:
    """Return how many steps a segment has: `every`, or for 0 the root of all, with which tape and checkpoints take the least."""
    root = isqrt(T)
    return max(1, every or root + (root * root < T))


@dataclass
class Segment:
    """Some steps: numbers in the order of processing, and where they lie in time."""

    number: int
    count: int
    time: slice


@dataclass
class Room:
    """Memory of one segment, used by each in turn."""

    x: np.ndarray  # (n, B, I)
    gates: np.ndarray  # (n, B, G)
    kept: list[np.ndarray]  # states (n + 1, B, S)
    more: list[np.ndarray]


class Checkpointed(Op):
    """What a recurrence's two ops share: sizes, segments and how one is computed."""

    of: type[Steps]
    attributes = {"every": Attribute(int, 0)}

    @property
    def steps(self) -> Steps:
        op = find(self.of.name)
        assert isinstance(op, Steps)
        return op

    def dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim, Dim]:
        """Return T, B, I, H."""
        x, u = required(args, X), required(args, U)
        assert x.shape is not None and u.shape is not None
        T, B = (x.shape[1], x.shape[0]) if self.get(node, "batch_first") else x.shape[:2]
        return T, B, x.shape[2], u.shape[0]

    def segments(self, node: Node, T: int) -> list[Segment]:
        """Return the segments in the order of processing."""
        n = steps_of_segment(self.get(node, "every"), T)
        found = []
        for number, start in enumerate(range(0, T, n)):
            stop = min(start + n, T)
            time = slice(T - stop, T - start) if self.reverse(node) else slice(start, stop)
            found.append(Segment(number, stop - start, time))
        return found

    def reverse(self, node: Node) -> bool:
        return self.get(node, "direction") == "reverse"

    def of_steps(self, args: Sequence[Value | None]) -> list[Value | None]:
        """Return the inputs in the places that the steps have for them."""
        return [None, *args[U : AFTER_U + len(self.of.inputs)]]

    def in_time(self, node: Node, array: np.ndarray) -> np.ndarray:
        """Return (B, T, ...) or (T, B, ...) as (T, B, ...)."""
        return array.swapaxes(0, 1) if self.get(node, "batch_first") else array

    def kept_of_x(self, node: Node, args: Sequence[Value | None], k: int) -> np.ndarray | None:
        """Return the mask (1, B, I) of part k of the gates, None where nothing is dropped of X."""
        M = at(args, self.mask_of_x)
        return None if M is None or M.array is None else self.in_time(node, M.array[k])

    def parts(self, args: Sequence[Value | None]) -> list[slice]:
        """Return the columns of W that meet one and the same X."""
        M, G = at(args, self.mask_of_x), int(required(args, W).shape[1])  # type: ignore[index]
        count = 1 if M is None or M.array is None else len(M.array)
        return [slice(k * G // count, (k + 1) * G // count) for k in range(count)]

    @property
    def mask_of_x(self) -> int:
        """The place of M among the inputs."""
        return len(inputs_of(self.of)) - 1

    def room(self, node: Node, args: Sequence[Value | None], emit: Emit) -> Room:
        T, B, I, H = (int(d) for d in self.dims(node, args))
        dtype, L = required(args, X).dtype, emit.lanes(required(args, X).dtype)
        n, S = min(T, steps_of_segment(self.get(node, "every"), T)), -(-H // L) * L
        return Room(
            emit.scratch((n, B, I), dtype),
            emit.scratch((n, B, self.of.gates * H), dtype),
            [rows_of_vectors(emit, (n + 1, B, S), H, dtype) for _ in self.of.states],
            [rows_of_vectors(emit, (n, B, S), H, dtype) for _ in self.of.kept],
        )

    def whole(self, node: Node, args: Sequence[Value | None], emit: Emit, room: Room, last: np.ndarray) -> Run:
        """Return what the steps of a whole segment work on, without outputs; `placed` puts one in it."""
        T, B, _, H = (int(d) for d in self.dims(node, args))
        masked = UNMASKED
        if at(args, AFTER_U + self.steps.mask_slot) is not None:
            masked = CARRY if self.get(node, "masked_output") == "carry" else ZERO
        dtype, S = room.gates.dtype, room.kept[0].shape[-1]
        nothing = emit.scratch((1,), dtype)
        return Run(
            emit, dtype, T, B, H, S, room.gates, strides_of(room.gates, 0), room.kept, room.more, last, nothing, (0, 0), 0,
            (nothing, 0, 0), masked, int(self.reverse(node)), at(args, AFTER_U + self.steps.mask_slot + 1),
        )  # fmt: skip

    def placed(self, node: Node, run: Run, args: Sequence[Value | None], segment: Segment, y: np.ndarray | None) -> Run:
        """Return the run of one segment; y (T, B, H) are outputs, or their gradients."""
        found = replace(run, T=segment.count)
        mask = at(args, AFTER_U + self.steps.mask_slot)
        if mask is not None and mask.array is not None:
            part = Value(mask.dtype, None, None, self.in_time(node, mask.array)[segment.time])
            found.mask = mask_of([part], 0, 0, run.nothing)
        if y is not None:
            found.y = y[segment.time]
            found.y_strides, found.has_y = strides_of(found.y, 0), 1
        return found

    def fetch(self, node: Node, args: Sequence[Value | None], emit: Emit, room: Room, segment: Segment, k: int) -> None:
        """Emit the copy of a segment of X to the room, without what part k of the gates drops of it."""
        x, kept = required(args, X).array, self.kept_of_x(node, args, k)
        assert x is not None
        into, steps = room.x[: segment.count], self.in_time(node, x)[segment.time]
        if kept is None:
            emit.copy(into, steps)
        else:
            emit_map_into(emit, "combine_forward", into, [steps, kept], (emit.operation("Mul"),), into.dtype)

    def project(self, node: Node, args: Sequence[Value | None], emit: Emit, room: Room, segment: Segment) -> None:
        """Emit Z = X W + b of a segment; the last part of X stays in the room."""
        n, (_, B, I), G = segment.count, room.x.shape, room.gates.shape[-1]
        parts = self.parts(args)
        for k, columns in enumerate(parts):
            self.fetch(node, args, emit, room, segment, k)
            own: dict = {}
            if len(parts) > 1:
                own = {"y_at": (columns.start, 0, G), "part": ("columns of group", k, len(parts)), "whole": False}
                own["take"] = lambda w, columns=columns: w[:, columns]
            sizes = 1, n * B, I, G // len(parts)
            emit_dense(emit, room.x, required(args, W), at(args, B_SLOT), room.gates, sizes, **own)

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        T, B, I, H = (int(d) for d in self.dims(node, args))
        return T * B * self.of.gates * H * (2 * (I + H) + 20)


class Forward(Checkpointed):
    """The recurrence from X on; after the outputs of the recurrence the states that segments begin from, and those after the last."""

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        T, B, _, H = self.dims(node, args)
        dtype, kept = required(args, X).dtype, f"segments of {T}"
        count = len(self.segments(node, T)) + 1 if isinstance(T, int) else kept
        sequence = (B, T, H) if self.get(node, "batch_first") else (T, B, H)
        states = [Value(dtype, (B, H)) for _ in self.of.states]
        checkpoints = [Value(dtype, (count, B, H)) for _ in self.of.states]
        return [Value(dtype, sequence), *states, Value(dtype, (B, H)), *checkpoints]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        T, B, _, H = (int(d) for d in self.dims(node, args))
        room, dtype = self.room(node, args, emit), required(args, X).dtype
        S, segments = room.kept[0].shape[-1], self.segments(node, T)
        checkpoints = []
        for k in range(len(self.of.states)):
            whole, start = (
                rows_of_vectors(emit, (len(segments) + 1, B, S), H, dtype),
                at(args, AFTER_U + self.steps.h_slot + k),
            )
            emit.copy(whole[0, :, :H], np.zeros((), dtype) if start is None else start.array)  # type: ignore[arg-type]
            checkpoints.append(whole)
        last = emit.scratch((B, S), dtype)
        run = self.whole(node, args, emit, room, last)
        if run.masked == CARRY:
            emit.copy(last, np.zeros((), dtype))
        y = None if outs[0] is None else self.in_time(node, emit.output(outs[0], steps_in_place))
        for segment in segments:
            with emit.passing():
                self.project(node, args, emit, room, segment)
                for kept, whole in zip(room.kept, checkpoints, strict=True):
                    emit.copy(kept[0], whole[segment.number])
                self.steps.run(node, self.of_steps(args), self.placed(node, run, args, segment, y))
                for kept, whole in zip(room.kept, checkpoints, strict=True):
                    emit.copy(whole[segment.number + 1], kept[segment.count])
        finals = [whole[-1, :, :H] for whole in checkpoints]
        values = [
            *finals,
            last[:, :H] if run.masked == CARRY else finals[0],
            *(whole[:, :, :H] for whole in checkpoints),
        ]
        for out, array in zip(outs[1:], values, strict=False):
            if out is not None:
                emit.alias(out, array)

    def adjoint(self, node: Node, back: Back) -> list:
        count, own = len(self.of.states), len(self.inputs)
        given = [*back.x, *[None] * (own - len(back.x))]
        wants = [*back.wants, *[False] * (own - len(back.wants))]
        first, last = AFTER_U + self.steps.h_slot, AFTER_U + self.steps.mask_slot
        for k in range(first, first + count):
            given[k] = None  # the first checkpoint
        wanted = [*wants[:first], *[True] * count, *wants[first + count : last]]
        inputs = [*given, *back.y[count + 2 :], *back.dy[: count + 2]]
        return list(back.node(f"{self.name}Adjoint", inputs, wanted, **node.attributes))


class Adjoint(Checkpointed):
    """The gradients of all inputs of the recurrence before the mask, from these inputs, its checkpoints and the gradients of its outputs."""

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        _, B, _, H = self.dims(node, args)
        dtype, first, count = required(args, X).dtype, AFTER_U + self.steps.h_slot, len(self.of.states)
        shapes = [(self.of.gates * H,) if value is None else value.shape for value in args[:first]]  # type: ignore[operator]
        shapes += [(B, H)] * count
        shapes += [(PEEPHOLES, H)] * (self.steps.mask_slot - self.steps.h_slot - count)
        return [Value(dtype, shape) for shape in shapes]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 3 * super().flops(node, args, outs)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        T, B, _, H = (int(d) for d in self.dims(node, args))
        count, places = len(self.of.states), len(inputs_of(self.of))
        checkpoints, dy, *d_finals = (
            [required(args, places + k).array for k in range(count)],
            *(at(args, places + count + k) for k in range(count + 2)),
        )
        room, dtype, zero = self.room(node, args, emit), required(args, X).dtype, np.zeros((), required(args, X).dtype)
        S = room.kept[0].shape[-1]
        passed = self.whole(node, args, emit, room, emit.scratch((B, S), dtype))
        run = replace(passed, last=zeroed(emit, (B, S), dtype))
        states = []
        for k in range(count):
            state, given = zeroed(emit, (B, run.width if k == 0 else S), dtype), d_finals[k]
            emit.copy(state[:, :H], zero if given is None else given.array)  # type: ignore[arg-type]
            states.append(state)
        d_last = d_finals[-1]
        if run.masked == CARRY:
            emit.copy(run.last[:, :H], zero if d_last is None else d_last.array)  # type: ignore[arg-type]
        elif d_last is not None:
            state = states[0][:, :H]
            emit_map_into(emit, "combine_forward", state, [state, d_last.array], (emit.operation("Add"),), dtype)  # type: ignore[list-item]
        given_y = None
        if dy is not None:
            assert dy.array is not None
            given_y = self.in_time(node, dy.array if steps_in_place(dy.array) else emit.contiguous(dy.array))
        first = AFTER_U + self.steps.h_slot
        of_states, of_weights = outs[first : first + count], [*outs[:first], *outs[first + count :]]
        sums = Sums(emit, self, node, args, room, [None if out is None else emit.output(out) for out in of_weights])
        back = find(f"{self.of.name}Adjoint")
        assert isinstance(back, StepsAdjoint)
        given = back.arguments(self.of_steps(args))
        if not T:
            sums.clear()
        for segment in reversed(self.segments(node, T)):
            with emit.passing():
                self.project(node, args, emit, room, segment)
                for kept, whole in zip(room.kept, checkpoints, strict=True):
                    emit.copy(kept[0, :, :H], whole[segment.number])  # type: ignore[index]
                self.steps.run(node, self.of_steps(args), self.placed(node, passed, args, segment, None))
                own = self.placed(node, run, args, segment, given_y)
                back.run(node, given, states, own)
                sums.add(segment)
        for out, state in zip(of_states, states, strict=False):
            if out is not None:
                emit.alias(out, state[:, :H])


class Sums:
    """What a segment adds to the gradients of weights, and gives of dX. The first segment to come begins the sums."""

    def __init__(
        self, emit: Emit, op: Checkpointed, node: Node, args: Sequence[Value | None], room: Room, targets: Sequence[np.ndarray | None]
    ):  # fmt: skip
        self.emit, self.op, self.node, self.args, self.room = emit, op, node, args, room
        self.dX, self.dW, self.db, self.dU, *rest = targets
        self.dbn = rest[0] if rest and op.of is GRUSteps else None
        self.dP = rest[0] if rest and op.of is LSTMSteps else None
        self.begun = False
        self.ones = np.ones((1, 1), room.gates.dtype)
        self.H, self.D = int(required(args, U).shape[0]), at(args, AFTER_U + op.steps.mask_slot + 1)  # type: ignore[index]
        turned = (*room.x.shape[:2], self.H)
        turns = op.reverse(node) or self.D is not None
        self.turned = emit.scratch(turned, room.gates.dtype) if turns or self.dP is not None else None
        self.parts = op.parts(args)
        several = self.dX is not None and op.kept_of_x(node, args, 0) is not None
        self.dx_of_part = emit.scratch(room.x.shape, room.x.dtype) if several else None

    def clear(self) -> None:
        """Emit zeros: there are no steps."""
        for target in (self.dX, self.dW, self.db, self.dU, self.dbn, self.dP):
            if target is not None:
                self.emit.copy(target, np.zeros((), target.dtype))

    def add(self, segment: Segment) -> None:
        """Emit what the segment adds, its dZ being in the place of the gates."""
        n, room = segment.count, self.room
        dz = room.gates[:n]
        for k, columns in enumerate(self.parts):
            if self.dX is not None:
                self._give_dx(segment, k, columns, dz)
            if self.dW is not None:
                if len(self.parts) > 1:  # else the room still has what Z was made of
                    self.op.fetch(self.node, self.args, self.emit, room, segment, k)
                self._product(self.dW[:, columns], room.x[:n], dz[:, :, columns])
        self._product(self.db, None, dz)
        if self.dU is not None:
            for k, columns in enumerate(self._columns()):
                self._add_to_du(segment, k, columns, dz[:, :, columns])
        if self.dbn is not None:
            self._product(self.dbn, None, room.more[0][:n, :, : self.H])
        if self.dP is not None:
            self._add_to_dp(self.dP, segment, dz)
        self.begun = True

    def _columns(self) -> Iterator[slice]:
        """Yield the columns of U that meet one and the same h."""
        H, gates = self.H, self.op.of.gates
        if self.D is not None:
            yield from (slice(k * H, (k + 1) * H) for k in range(gates))
        elif self.op.of is GRUSteps:
            yield from (slice(0, 2 * H), slice(2 * H, 3 * H))
        else:
            yield slice(0, gates * H)

    def _add_to_du(self, segment: Segment, k: int, columns: slice, dz: np.ndarray) -> None:
        assert self.dU is not None
        n, H, room = segment.count, self.H, self.room
        read, target = room.kept[0][:n, :, :H], self.dU[:, columns]
        candidate = self.op.of is GRUSteps and columns.start == 2 * H
        if candidate and self.op.get(self.node, "reset") == "before":
            self._product(target, self._in_time(room.more[0][:n, :, :H]), dz)
        elif candidate:
            # dq is in the order of processing, as what was read is
            self._product(target, self._met(read, k), room.more[0][:n, :, :H])
        else:
            self._product(target, self._in_time(self._met(read, k)), dz)

    def _add_to_dp(self, dP: np.ndarray, segment: Segment, dz: np.ndarray) -> None:
        """The peepholes of i and f meet c as it was before the step, that of o the new one."""
        H, n, c = self.H, segment.count, self.room.kept[1]
        assert self.turned is not None
        for row, (gate, steps) in enumerate(((0, c[:n]), (1, c[:n]), (3, c[1 : n + 1]))):
            met, d = self.turned[:n], dz[:, :, gate * H : (gate + 1) * H]
            steps = steps[::-1] if self.op.reverse(self.node) else steps
            emit_map_into(
                self.emit, "combine_forward", met, [steps[:, :, :H], d], (self.emit.operation("Mul"),), met.dtype
            )
            self._product(dP[row], None, met)

    def _met(self, read: np.ndarray, k: int) -> np.ndarray:
        """Return what a gate met of the states: without what was dropped."""
        if self.D is None:
            return read
        assert self.D.array is not None and self.turned is not None
        met, head = self.turned[: len(read)], (self.emit.operation("Mul"),)
        emit_map_into(self.emit, "combine_forward", met, [read, self.D.array[k]], head, met.dtype)
        return met

    def _in_time(self, steps: np.ndarray) -> np.ndarray:
        """Return what lies in the order of processing in that of time."""
        if not self.op.reverse(self.node):
            return steps
        assert self.turned is not None
        if np.may_share_memory(steps, self.turned):
            steps = self._copy(steps)
        self.emit.copy(self.turned[: len(steps)], steps[::-1])
        return self.turned[: len(steps)]

    def _copy(self, steps: np.ndarray) -> np.ndarray:
        copy = self.emit.scratch(steps.shape, steps.dtype)
        self.emit.copy(copy, steps)
        return copy

    def _give_dx(self, segment: Segment, k: int, columns: slice, dz: np.ndarray) -> None:
        """dX = dZ W', of part k of the gates without what it drops."""
        assert self.dX is not None
        dx, kept = self.op.in_time(self.node, self.dX)[segment.time], self.op.kept_of_x(self.node, self.args, k)
        part = dx if self.dx_of_part is None else self.dx_of_part[: segment.count]
        W_value = required(self.args, W)
        assert W_value.array is not None
        turned = W_value.array[:, columns].T
        (n, B, I), G = dx.shape, dz.shape[-1]
        at_y = 0, part.strides[0] // part.itemsize, part.strides[1] // part.itemsize
        emit_dense(
            self.emit, dz, Value(W_value.dtype, turned.shape, None, turned), None, part, (n, B, len(turned), I), x_at=(columns.start, B * G, G),
            y_at=at_y, part=("turned", k), whole=False,
        )  # fmt: skip
        if kept is not None:
            combine = lambda y, op, *operands: emit_map_into(
                self.emit, "combine_forward", y, operands, (self.emit.operation(op),), y.dtype
            )
            combine(dx if k == 0 else part, "Mul", part, kept)
            if k:
                combine(dx, "Add", dx, part)

    def _product(self, target: np.ndarray | None, a: np.ndarray | None, b: np.ndarray) -> None:
        """Add a' b, summed over steps and rows from the last step of processing to the first; without a, the sum of b."""
        if target is None:
            return
        rows = b.shape[0] * b.shape[1]
        flat = lambda array: np.lib.stride_tricks.as_strided(
            array, (rows, array.shape[-1]), array.strides[1:], writeable=False
        )
        left = np.broadcast_to(self.ones, (rows, 1)) if a is None else flat(a)
        turn = slice(None) if self.op.reverse(self.node) and not self._is_processed(b) else slice(None, None, -1)
        y = target.reshape(1, -1) if target.ndim == 1 else target
        emit_products(self.emit, left[turn].T, flat(b)[turn], y, accumulate=self.begun)

    def _is_processed(self, b: np.ndarray) -> bool:
        """Tell whether b lies in the order of processing, not of time."""
        return any(np.may_share_memory(b, one) for one in self.room.more)


def inputs_of(of: type[Steps]) -> tuple[Slot, ...]:
    return Slot("X"), Slot("W"), Slot("b", optional=True), *of.inputs[1:], Slot("M", optional=True)


def checkpoints_of(of: type[Steps]) -> tuple[str, ...]:
    return tuple(f"{state}_kept" for state in of.states)


def define(of: type[Steps]) -> None:
    """Register the two ops of a recurrence."""
    kind, results = of.name.removesuffix("Steps"), of.outputs[: 2 + len(of.states)]
    attributes = {**of.attributes, **Checkpointed.attributes}

    class Kept(Forward):
        name = f"{kind}Checkpointed"
        inputs = inputs_of(of)
        outputs = (*results, *checkpoints_of(of))

    class KeptAdjoint(Adjoint):
        name = f"{kind}CheckpointedAdjoint"
        inputs = (
            *inputs_of(of),
            *(Slot(name) for name in checkpoints_of(of)),
            *(Slot(f"d{name}", optional=True) for name in results),
        )
        outputs = tuple(f"d{slot.name}" for slot in inputs_of(of)[: AFTER_U + of.mask_slot])

    for op in (Kept, KeptAdjoint):
        op.of, op.attributes = of, attributes
        register(op)


for one in (LSTMSteps, GRUSteps, RNNSteps):
    define(one)

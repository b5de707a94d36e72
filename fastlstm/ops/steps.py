"""The steps of LSTM, GRU and RNN in graphs that are trained, and their adjoints.

Z is x W + b, projected ahead for all steps, (T, B, G) or (B, T, G) where `batch_first`, its gates side by side as in W. The steps leave what
their adjoint reads: the gates, which take Z's place in memory, and `read`, the states that each step began from, (T, B, H) in the
order of steps. The adjoint gives dZ, which takes the place of the gates, and the gradients of the first states. What follows from dZ is
ordinary products: dU here, dX, dW and db by the Dense that made Z. D (G, B, H) is recurrent dropout: what gate k multiplies h by before it
meets the columns of U that are k's, at every step; it is drawn, so it has no gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlstm.errors import GraphError
from fastlstm.graph import Node
from fastlstm.ops.contractions import packed_now
from fastlstm.ops.dims import Dim
from fastlstm.ops.mapping import emit_map_into
from fastlstm.ops.op import Attribute, Back, Emit, Slot, Value, at, expect_shape, register, required, shape_error
from fastlstm.ops.packing import pack_bias, pack_columns, pack_panels, pad_units, tail_of_columns, tail_of_gates
from fastlstm.ops.recurrent import CARRY, UNMASKED, ZERO, Activated, common_attributes, steps_in_place, strides_of


@dataclass
class Run:
    """What one run of the steps works on: buffers, sizes and strides in elements."""

    emit: Emit
    dtype: np.dtype
    T: int
    B: int
    H: int
    S: int
    gates: np.ndarray
    gates_strides: tuple[int, int]
    kept: list[np.ndarray]  # by state: before each step, and after the last
    more: list[np.ndarray]  # what else is kept of each step
    last: np.ndarray  # output, or its gradient
    y: np.ndarray  # outputs, or their gradients
    y_strides: tuple[int, int]
    has_y: int
    mask: tuple
    masked: int
    reverse: int
    D: Value | None = None

    @property
    def nothing(self) -> np.ndarray:
        """An array for an argument that is not read."""
        return self.last

    @property
    def lanes(self) -> int:
        return self.emit.lanes(self.dtype)

    @property
    def width(self) -> int:
        """H rounded up to whole panels of columns."""
        return -(-self.H // (4 * self.lanes)) * 4 * self.lanes

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.T, self.B, self.H, self.S

    def columns(self, key: str, U: Value, take: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, int]:
        """Return take(U) as panels of four vectors of columns, and the width of the last."""
        N = take(np.zeros(U.shape, np.int8)).shape[1]  # type: ignore[arg-type]
        tail = tail_of_columns(N, self.lanes)
        packed = packed_now(self.emit, U, take, self.dtype, N, tail)
        if packed is None:
            pack = lambda matrix: pack_columns(self.lanes, take(matrix).astype(self.dtype), tail)
            packed = self.emit.packed((key, self.lanes, tail, self.dtype.str), [U], pack)
        return packed, tail

    def unless_dropped(self, packed: Callable[[], tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
        """Return U packed for all gates, and its tail: what products read unless each gate has an h of its own."""
        return packed() if self.D is None else (self.nothing, 0)

    def dropping(self, U: Value, *, back: bool = False, bn: Value | None = None) -> tuple:
        """Return what kernels/dropped.py reads: nothing where nothing is dropped, else masks, U (`back`: U') gate by gate, and room."""
        nothing = self.nothing
        if self.D is None:
            return 0, nothing, nothing, 0, 0, nothing, nothing, 0, nothing
        assert self.D.array is not None
        emit, B, H, width, gates, tail = (
            self.emit,
            self.B,
            self.H,
            self.width,
            len(self.D.array),
            tail_of_columns(self.H, self.lanes),
        )

        def pack(u: np.ndarray) -> np.ndarray:
            columns = (u[:, k * H : (k + 1) * H] for k in range(gates))
            return np.concatenate(
                [pack_columns(self.lanes, (c.T if back else c).astype(self.dtype), tail) for c in columns]
            )

        def pack_first(*bn: np.ndarray) -> np.ndarray:
            first = np.zeros((4, width), self.dtype)
            first[3, :H] = bn[0] if bn else 0
            return first

        packed = emit.packed(
            ("steps U' by gate" if back else "steps U by gate", gates, self.lanes, tail, self.dtype.str), [U], pack
        )
        first = nothing
        if not back:
            first = emit.packed(("steps dropped", width, self.dtype.str), [] if bn is None else [bn], pack_first)
        kept = emit.scratch((B, self.S), self.dtype)
        room = emit.scratch((B, width if back else 4 * width), self.dtype)
        return 1, emit.contiguous(self.D.array), packed, packed.size // gates, tail, kept, room, width, first


def zeroed(emit: Emit, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a buffer that begins as zeros, so that the ends of rows that no step writes hold no NaN."""
    array = emit.scratch(shape, dtype, lasts=True)
    array[...] = 0
    return array


def rows_of_vectors(emit: Emit, shape: tuple[int, ...], units: int, dtype: np.dtype) -> np.ndarray:
    """Return a buffer for rows of `units` elements; its ends past them begin as zeros."""
    return emit.scratch(shape, dtype) if shape[-1] == units else zeroed(emit, shape, dtype)


def mask_of(args: Sequence[Value | None], slot: int, time: int, nothing: np.ndarray) -> tuple:
    """Return a mask as bytes and its strides of time and rows."""
    mask = at(args, slot)
    if mask is None or mask.array is None:
        return nothing, 0, 0
    array = mask.array.view(np.uint8)
    return array, *strides_of(array, time)


class Steps(Activated):
    """What the three kinds share. Subclasses name their slots, gates, states, what else is kept of each step, and bring their kernels."""

    gates: int
    states: tuple[str, ...]
    kept: tuple[str, ...] = ()
    h_slot: int
    mask_slot: int

    def dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim]:
        """Return T, B, H after checking every shape against them."""
        z, U = required(args, 0), required(args, 1)
        if U.shape is None or len(U.shape) != 2:
            raise shape_error(node, "weight U", U.shape, f"(H, {self.gates}H)")
        H = U.shape[0]
        if z.shape is None or len(z.shape) != 3:
            raise shape_error(node, "input Z", z.shape, f"three axes, the last of {self.gates}H")
        T, B = (z.shape[1], z.shape[0]) if self.get(node, "batch_first") else (z.shape[0], z.shape[1])
        for k in range(len(self.states)):
            expect_shape(node, args, self.h_slot + k, f"initial state {self.states[k]}0", (B, H))
        expect_shape(node, args, self.mask_slot, "mask", tuple(z.shape[:2]))
        expect_shape(node, args, self.mask_slot + 1, "D", (self.gates, B, H))
        return T, B, H

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        T, B, H = self.dims(node, args)
        z = required(args, 0)
        sequence = (B, T, H) if self.get(node, "batch_first") else (T, B, H)
        state, kept = (B, H), (T, B, H)
        return [
            Value(z.dtype, sequence),
            *(Value(z.dtype, state) for _ in self.states),
            Value(z.dtype, state),
            Value(z.dtype, z.shape),
            *(Value(z.dtype, kept) for _ in (*self.states, *self.kept)),
        ]

    def masked(self, node: Node, args: Sequence[Value | None]) -> int:
        if at(args, self.mask_slot) is None:
            return UNMASKED
        return CARRY if self.get(node, "masked_output") == "carry" else ZERO

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        T, B, H = self.dims(node, args)
        return int(T) * int(B) * (2 * self.gates * int(H) * int(H) + 20 * self.gates * int(H))

    # ---- lowering -----------------------------------------------------------------------------------
    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        T, B, H = (int(d) for d in self.dims(node, args))
        z = required(args, 0)
        assert z.array is not None
        dtype, L, time = z.dtype, emit.lanes(z.dtype), 1 if self.get(node, "batch_first") else 0
        S = -(-H // L) * L
        gates = z.array
        if z.data is not None or not steps_in_place(gates):
            gates = emit.scratch(z.array.shape, dtype)
            emit.copy(gates, z.array)
        nothing = emit.scratch((1,), dtype)
        kept = []
        for k in range(len(self.states)):
            # one step more: the last one's end is the final state
            whole = rows_of_vectors(emit, (T + 1, B, S), H, dtype)
            start = at(args, self.h_slot + k)
            emit.copy(whole[0, :, :H], np.zeros((), dtype) if start is None else start.array)  # type: ignore[arg-type]
            kept.append(whole)
        masked, last = self.masked(node, args), nothing
        if masked == CARRY:
            last = emit.scratch((B, S), dtype)
            emit.copy(last, np.zeros((), dtype))
        y, y_strides = nothing, (0, 0)
        if outs[0] is not None:
            y = emit.output(outs[0], steps_in_place)
            y_strides = strides_of(y, time)
        more = [rows_of_vectors(emit, (T, B, S), H, dtype) for _ in self.kept]
        run = Run(
            emit, dtype, T, B, H, S, gates, strides_of(gates, time), kept, more, last, y, y_strides, int(outs[0] is not None),
            mask_of(args, self.mask_slot, time, nothing), masked, int(self.get(node, "direction") == "reverse"), at(args, self.mask_slot + 1),
        )  # fmt: skip
        self.run(node, args, run)
        finals = [whole[T, :, :H] for whole in kept]
        kept = [whole[:T, :, :H] for whole in kept] + [array[:, :, :H] for array in more]
        values = [*finals, last[:, :H] if masked == CARRY else finals[0], gates, *kept]
        for out, array in zip(outs[1:], values, strict=False):
            if out is not None:
                emit.alias(out, array)

    def run(self, node: Node, args: Sequence[Value | None], run: "Run") -> None:
        """Emit the kernel."""
        raise AssertionError("each kind has its own")

    # ---- adjoint ------------------------------------------------------------------------------------
    def adjoint(self, node: Node, back: Back) -> list:
        count = len(self.states)
        gates, kept = back.y[count + 2], back.y[count + 3 :]
        mask = back.x[self.mask_slot] if self.mask_slot < len(back.x) else None
        inputs = [back.x[1], gates, *kept, mask, *back.dy[: count + 2], *self.read_again(back), self.dropped(back)]
        dz, *others = back.node(f"{self.name}Adjoint", inputs, 1 + count + len(self.kept), **node.attributes)
        results = [None] * len(back.x)
        results[0] = dz
        for k in range(count):
            if self.h_slot + k < len(results):
                results[self.h_slot + k] = others[k]
        self.gradients_of_weights(node, back, kept, dz, others[count:], results)
        return results

    def read_again(self, back: Back) -> list:
        """Return further inputs that the adjoint reads."""
        return []

    def dropped(self, back: Back) -> Any:
        """Return D, None where nothing is dropped."""
        return back.x[self.mask_slot + 1] if self.mask_slot + 1 < len(back.x) else None

    def met(self, back: Back, read) -> list:
        """Return the h that each gate met: `read` itself, or without the units that are dropped for the gate."""
        D = self.dropped(back)
        if D is None:
            return [read] * self.gates
        masks = back.node("Split", [D, back.ints(*[1] * self.gates)], self.gates, axis=0)
        return [back.node("Mul", [read, mask]) for mask in (masks if self.gates > 1 else (masks,))]

    def gradients_of_weights(self, node: Node, back: Back, kept: Sequence, dz, more: Sequence, results: list) -> None:
        """Fill in dU = h' dZ, summed over all steps and rows."""
        if not back.wants[1]:
            return
        if self.dropped(back) is None or self.gates == 1:
            results[1] = self.product(node, back, self.met(back, kept[0])[0], dz)
            return
        parts = back.node("Split", [dz, back.ints(*[back.x[1].shape[0]] * self.gates)], self.gates, axis=-1)
        products = [self.product(node, back, h, d) for h, d in zip(self.met(back, kept[0]), parts, strict=True)]
        results[1] = back.node("Concat", products, axis=1)

    def product(self, node: Node, back: Back, read, d):
        """Return read' d, summed over all steps and rows: `read` (T, B, H) in the order of steps, d in the order of Z."""
        if self.get(node, "direction") == "reverse":
            read = back.node("Reverse", [read], axis=0)
        if self.get(node, "batch_first"):
            read = back.node("Transpose", [read], perm=(1, 0, 2))
        return summed_product(back, read, d)


def summed_product(back: Back, a, b):
    """Return a' b for a (..., M) and b (..., N), summed over all axes before."""
    rows = back.node("Transpose", [back.node("Reshape", [a, back.ints(-1, a.shape[-1])])], perm=(1, 0))
    return back.node("MatMul", [rows, back.node("Reshape", [b, back.ints(-1, b.shape[-1])])])


class StepsAdjoint(Activated):
    """dZ, the gradients of the first states and of what else was kept, from U, the gates, the states that steps began from, what else was kept, the
    mask, and the gradients of Y, the final states and the last output."""

    steps: type[Steps]

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        gates, read = required(args, 1), required(args, 2)
        assert read.shape is not None
        states = (Value(gates.dtype, read.shape[1:]) for _ in self.steps.states)
        return [Value(gates.dtype, gates.shape), *states, *(Value(gates.dtype, read.shape) for _ in self.steps.kept)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        T, B, H = (int(d) for d in required(args, 2).shape)  # type: ignore[union-attr]
        return T * B * (2 * self.steps.gates * H * H + 20 * self.steps.gates * H)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        count, kept_count = len(self.steps.states), len(self.steps.states) + len(self.steps.kept)
        gates, kept = required(args, 1).array, [required(args, 2 + k).array for k in range(kept_count)]
        mask_slot = 2 + kept_count
        dy, *d_finals = [at(args, mask_slot + 1 + k) for k in range(count + 2)]
        assert gates is not None and kept[0] is not None
        dtype, L, time = gates.dtype, emit.lanes(gates.dtype), 1 if self.get(node, "batch_first") else 0
        T, B, H = kept[0].shape
        S, width = -(-H // L) * L, -(-H // (4 * L)) * 4 * L
        nothing, zero = emit.scratch((1,), dtype), np.zeros((), dtype)
        masked = UNMASKED
        if at(args, mask_slot) is not None:
            masked = CARRY if self.get(node, "masked_output") == "carry" else ZERO
        states = []
        for k in range(count):
            state, given = zeroed(emit, (B, width if k == 0 else S), dtype), d_finals[k]
            emit.copy(state[:, :H], zero if given is None else given.array)  # type: ignore[arg-type]
            states.append(state)
        last, d_last = nothing, d_finals[-1]
        if masked == CARRY:
            last = zeroed(emit, (B, S), dtype)
            emit.copy(last[:, :H], zero if d_last is None else d_last.array)  # type: ignore[arg-type]
        elif d_last is not None:
            # without masks that carry, the last output is the final state
            state = states[0][:, :H]
            emit_map_into(emit, "combine_forward", state, [state, d_last.array], (emit.operation("Add"),), dtype)  # type: ignore[list-item]
        given, d_strides = nothing, (0, 0)
        if dy is not None:
            assert dy.array is not None
            given = dy.array if steps_in_place(dy.array) else emit.contiguous(dy.array)
            d_strides = strides_of(given, time)
        run = Run(
            emit, dtype, T, B, H, S, gates, strides_of(gates, time), kept[:count], kept[count:], last, given, d_strides,  # type: ignore[arg-type]
            int(dy is not None), mask_of(args, mask_slot, time, nothing), masked, int(self.get(node, "direction") == "reverse"),
            at(args, len(self.inputs) - 1),
        )  # fmt: skip
        self.run(node, args, states, run)
        values = [gates, *(state[:, :H] for state in states), *kept[count:]]
        for out, array in zip(outs, values, strict=False):
            if out is not None:
                emit.alias(out, array)  # type: ignore[arg-type]

    def arguments(self, given: Sequence[Value | None]) -> list[Value | None]:
        """Return the inputs that `run` reads, of those of the steps, in their places."""
        places = {slot.name: value for slot, value in zip(self.steps.inputs, given, strict=False)}
        return [places.get(slot.name) if slot.name in ("U", "P") else None for slot in self.inputs]

    def run(self, node: Node, args: Sequence[Value | None], states: list[np.ndarray], run: Run) -> None:
        """Emit the kernel, which reads weights from `args` and the rest from the run."""
        raise AssertionError("each kind has its own")


@register
class LSTMSteps(Steps):
    """z = Z + h U, gates i f g o: see kernels/lstm_steps.py."""

    name = "LSTMSteps"
    gates, states = 4, ("h", "c")
    inputs = (
        Slot("Z"),
        Slot("U"),
        Slot("h0", optional=True),
        Slot("c0", optional=True),
        Slot("P", optional=True),
        Slot("mask", optional=True),
        Slot("D", optional=True),
    )
    outputs = ("Y", "h", "c", "last", "gates", "read", "read_c")
    attributes = common_attributes("Sigmoid", "Tanh", "Tanh") | {"input_forget": Attribute(bool, False)}
    h_slot, mask_slot = 2, 5

    def run(self, node: Node, args: Sequence[Value | None], run: Run) -> None:
        H, L, emit, every = run.H, run.lanes, run.emit, (0, 1, 2, 3)
        tail, workspace = tail_of_gates(H, L), emit.workspace(run.dtype)
        pack = lambda U: pack_panels(4, L, every, every, U.astype(run.dtype), tail)
        U, tail = run.unless_dropped(
            lambda: (emit.packed(("steps gates", 4, L, tail, run.dtype.str), [required(args, 1)], pack), tail)
        )
        b = emit.packed(("steps zeros", L, H, run.dtype.str), [], lambda: np.zeros(-(-H // L) * 4 * L, run.dtype))
        emit.kernel(
            "lstm_steps_forward", run.gates, run.gates_strides, U, b, run.y, run.y_strides, tuple(run.kept), run.last, workspace,
            workspace.shape[1], run.mask, run.masked, run.sizes, run.reverse, run.has_y, tail,
            *run.dropping(required(args, 1)), *lstm_options(self, node, at(args, 4), run),
            kind=run.dtype,
        )  # fmt: skip

    def read_again(self, back: Back) -> list:
        return [back.x[4] if len(back.x) > 4 else None]

    def gradients_of_weights(self, node: Node, back: Back, kept: Sequence, dz, more: Sequence, results: list) -> None:
        super().gradients_of_weights(node, back, kept, dz, more, results)
        if len(back.x) > 4 and back.wants[4]:
            results[4] = self.gradient_of_peepholes(node, back, kept[1], dz)

    def gradient_of_peepholes(self, node: Node, back: Back, read_c, dz):
        """Return the sums of dz_i c, dz_f c and dz_o c' over all steps and rows, (3, H)."""
        H = back.x[1].shape[0]
        end = np.iinfo(np.int64).max
        later = back.node("Slice", [read_c, back.ints(1), back.ints(end), back.ints(0)])
        final = back.node("Unsqueeze", [back.y[2], back.ints(0)])
        states = [read_c, read_c, back.node("Concat", [later, final], axis=0)]
        d_i, d_f, _, d_o = back.node("Split", [dz, back.ints(H, H, H, H)], 4, axis=-1)
        rows = []
        for d, c in zip((d_i, d_f, d_o), states, strict=True):
            if self.get(node, "direction") == "reverse":
                c = back.node("Reverse", [c], axis=0)
            if self.get(node, "batch_first"):
                c = back.node("Transpose", [c], perm=(1, 0, 2))
            total = back.node("ReduceSum", [back.node("Mul", [d, c])], axes=(0, 1))
            rows.append(back.node("Unsqueeze", [total, back.ints(0)]))
        return back.node("Concat", rows, axis=0)


def lstm_options(op: Activated, node: Node, P: Value | None, run: Run) -> tuple:
    """Return what the cell computes, in the order of the kernels."""
    codes, numbers, clipped, bound = op.coefficients(node, run.emit)
    coupled = int(op.get(node, "input_forget"))
    usual = codes == tuple(run.emit.activation(name) for name in ("Sigmoid", "Tanh", "Tanh"))
    plain = int(usual and not clipped and not coupled and P is None)
    peepholes = (
        run.last
        if P is None
        else run.emit.packed(("units", run.S), [P], lambda p: pad_units(run.S, p.astype(run.dtype)))
    )
    return plain, peepholes, codes, (clipped, coupled, int(P is not None)), numbers, bound


@register
class LSTMStepsAdjoint(StepsAdjoint):
    name = "LSTMStepsAdjoint"
    steps = LSTMSteps
    inputs = (
        Slot("U"),
        Slot("gates"),
        Slot("read"),
        Slot("read_c"),
        Slot("mask", optional=True),
        Slot("dY", optional=True),
        Slot("dh", optional=True),
        Slot("dc", optional=True),
        Slot("d_last", optional=True),
        Slot("P", optional=True),
        Slot("D", optional=True),
    )
    outputs = ("dZ", "dh0", "dc0")
    attributes = LSTMSteps.attributes

    def run(self, node: Node, args: Sequence[Value | None], states: list[np.ndarray], run: Run) -> None:
        run.emit.kernel(
            "lstm_steps_adjoint", run.gates, run.gates_strides,
            *run.unless_dropped(lambda: run.columns("steps U'", required(args, 0), lambda u: u.T)), run.y, run.y_strides, run.kept[1],
            run.last, states[0], run.width, states[1], run.mask, run.masked, run.sizes, run.reverse, run.has_y,
            *run.dropping(required(args, 0), back=True), *lstm_options(self, node, at(args, 9), run), kind=run.dtype,
        )  # fmt: skip


@register
class GRUSteps(Steps):
    """z = Z + h U, gates z r n: see kernels/gru_steps.py."""

    name = "GRUSteps"
    gates, states, kept = 3, ("h",), ("q",)
    inputs = (
        Slot("Z"),
        Slot("U"),
        Slot("bn", optional=True),
        Slot("h0", optional=True),
        Slot("mask", optional=True),
        Slot("D", optional=True),
    )
    outputs = ("Y", "h", "last", "gates", "read", "q")
    attributes = common_attributes("Sigmoid", "Tanh") | {"reset": Attribute(str, "after", choices=("after", "before"))}
    h_slot, mask_slot = 3, 4

    def check(self, node: Node) -> None:
        super().check(node)
        if self.get(node, "reset") == "before" and len(node.inputs) > 2 and node.inputs[2]:
            raise GraphError(f"node {node.name!r}: bn is part of Z where the reset comes before the product")

    def run(self, node: Node, args: Sequence[Value | None], run: Run) -> None:
        H, L, emit, U = run.H, run.lanes, run.emit, required(args, 1)
        places = run.mask, run.masked, run.sizes, run.reverse, run.has_y
        if self.get(node, "reset") == "before":
            gates, tail = run.unless_dropped(lambda: run.columns("steps U zr", U, lambda u: u[:, : 2 * H]))
            candidate, n_tail = run.columns("steps U n", U, lambda u: u[:, 2 * H :])
            width = -(-2 * H // (4 * L)) * 4 * L if run.D is None else 2 * run.width
            sums, n_sums = emit.scratch((run.B, width), run.dtype), emit.scratch((run.B, run.width), run.dtype)
            emit.kernel(
                "gru_before_steps_forward", run.gates, run.gates_strides, gates, candidate, tail, n_tail, sums, n_sums, width, run.width, run.y,
                run.y_strides, run.kept[0], run.last, *places, run.more[0], *run.dropping(U), *gru_options(self, node, run), kind=run.dtype,
            )  # fmt: skip
            return
        tail, workspace = tail_of_gates(H, L), emit.workspace(run.dtype)
        pack = lambda u: pack_panels(3, L, (0, 1, 2), (0, 1, 3), u.astype(run.dtype), tail)
        panels, tail = run.unless_dropped(
            lambda: (emit.packed(("steps gates", 3, L, tail, run.dtype.str), [U], pack), tail)
        )

        def pack_start(*bn: np.ndarray) -> np.ndarray:
            rows = np.zeros((4, H), run.dtype)
            rows[3] = bn[0] if bn else 0
            return pack_bias(L, rows, tail)

        bn = at(args, 2)
        start = emit.packed(("steps bn", L, H, tail, run.dtype.str), [] if bn is None else [bn], pack_start)
        emit.kernel(
            "gru_after_steps_forward", run.gates, run.gates_strides, panels, start, run.y, run.y_strides, run.kept[0], run.last, workspace,
            workspace.shape[1], *places, tail, run.more[0], *run.dropping(U, bn=bn), *gru_options(self, node, run), kind=run.dtype,
        )  # fmt: skip

    def gradients_of_weights(self, node: Node, back: Back, kept: Sequence, dz, more: Sequence, results: list) -> None:
        (read, q), (dq,) = kept, more
        H = back.x[1].shape[0]
        after = self.get(node, "reset") == "after"
        if back.wants[1]:
            parts = back.ints(2 * H, H)
            d_gates, d_candidate = back.node("Split", [dz, parts], 2, axis=-1)
            met = self.met(back, read)
            # q and dq are in the order of steps, as `read` is
            last = summed_product(back, met[2], dq) if after else self.product(node, back, q, d_candidate)
            if self.dropped(back) is None:
                products = [self.product(node, back, read, d_gates)]
            else:
                of_each = back.node("Split", [d_gates, back.ints(H, H)], 2, axis=-1)
                products = [self.product(node, back, h, d) for h, d in zip(met, of_each, strict=False)]
            results[1] = back.node("Concat", [*products, last], axis=1)
        if len(back.x) > 2 and back.wants[2]:
            results[2] = back.node("ReduceSum", [dq], axes=(0, 1))


def gru_options(op: Activated, node: Node, run: Run) -> tuple:
    """Return what the cell computes, in the order of the kernels."""
    codes, numbers, clipped, bound = op.coefficients(node, run.emit)
    usual = codes == tuple(run.emit.activation(name) for name in ("Sigmoid", "Tanh"))
    return int(usual and not clipped), codes, clipped, numbers, bound


@register
class GRUStepsAdjoint(StepsAdjoint):
    name = "GRUStepsAdjoint"
    steps = GRUSteps
    inputs = (
        Slot("U"),
        Slot("gates"),
        Slot("read"),
        Slot("q"),
        Slot("mask", optional=True),
        Slot("dY", optional=True),
        Slot("dh", optional=True),
        Slot("d_last", optional=True),
        Slot("D", optional=True),
    )
    outputs = ("dZ", "dh0", "dq")
    attributes = GRUSteps.attributes

    def run(self, node: Node, args: Sequence[Value | None], states: list[np.ndarray], run: Run) -> None:
        H, before = run.H, self.get(node, "reset") == "before"
        U = required(args, 0)
        gates, tail = run.unless_dropped(lambda: run.columns("steps U zr'", U, lambda u: u[:, : 2 * H].T))
        if before or run.D is None:
            candidate, tail = run.columns("steps U n'", U, lambda u: u[:, 2 * H :].T)
        else:
            candidate = run.nothing
        more = [zeroed(run.emit, states[0].shape, run.dtype)] if before else []
        run.emit.kernel(
            f"gru_{self.get(node, 'reset')}_steps_adjoint", run.gates, run.gates_strides, gates, candidate, tail, run.y, run.y_strides, run.kept[0],
            run.last, states[0], run.width, run.mask, run.masked, run.sizes, run.reverse, run.has_y, run.more[0], *more,
            *run.dropping(U, back=True), *gru_options(self, node, run), kind=run.dtype,
        )  # fmt: skip


@register
class RNNSteps(Steps):
    """h' = tau(Z + h U): see kernels/rnn_steps.py."""

    name = "RNNSteps"
    gates, states = 1, ("h",)
    inputs = (Slot("Z"), Slot("U"), Slot("h0", optional=True), Slot("mask", optional=True), Slot("D", optional=True))
    outputs = ("Y", "h", "last", "gates", "read")
    attributes = common_attributes("Tanh")
    h_slot, mask_slot = 2, 3

    def run(self, node: Node, args: Sequence[Value | None], run: Run) -> None:
        sums = run.emit.scratch((run.B, run.width), run.dtype)
        run.emit.kernel(
            "rnn_steps_forward", run.gates, run.gates_strides,
            *run.unless_dropped(lambda: run.columns("steps U", required(args, 1), lambda u: u)), sums, run.width, run.y,
            run.y_strides, run.kept[0], run.last, run.mask, run.masked, run.sizes, run.reverse, run.has_y,
            *run.dropping(required(args, 1)), *rnn_options(self, node, run), kind=run.dtype,
        )  # fmt: skip


def rnn_options(op: Activated, node: Node, run: Run) -> tuple:
    """Return what the cell computes, in the order of the kernels."""
    (code,), numbers, clipped, bound = op.coefficients(node, run.emit)
    return code, clipped, numbers, bound


@register
class RNNStepsAdjoint(StepsAdjoint):
    name = "RNNStepsAdjoint"
    steps = RNNSteps
    inputs = (
        Slot("U"),
        Slot("gates"),
        Slot("read"),
        Slot("mask", optional=True),
        Slot("dY", optional=True),
        Slot("dh", optional=True),
        Slot("d_last", optional=True),
        Slot("D", optional=True),
    )
    outputs = ("dZ", "dh0")
    attributes = RNNSteps.attributes

    def run(self, node: Node, args: Sequence[Value | None], states: list[np.ndarray], run: Run) -> None:
        run.emit.kernel(
            "rnn_steps_adjoint", run.gates, run.gates_strides,
            *run.unless_dropped(lambda: run.columns("steps U'", required(args, 0), lambda u: u.T)), run.y, run.y_strides, run.last, states[0],
            run.width, run.mask, run.masked, run.sizes, run.reverse, run.has_y,
            *run.dropping(required(args, 0), back=True), *rnn_options(self, node, run), kind=run.dtype,
        )  # fmt: skip

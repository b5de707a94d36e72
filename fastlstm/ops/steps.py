"""The steps of LSTM, GRU and RNN in graphs that are trained, and their adjoints.

Z is x W + b, projected ahead for all steps, (T, B, G) or (B, T, G) where `batch_first`, its gates side by side as in W. The steps leave what
their adjoint reads: the gates, which take Z's place in memory, and `read`, the states that each step began from, (T, B, H) in the
order of steps. The adjoint gives dZ, which takes the place of the gates, and the gradients of the first states. What follows from dZ is
ordinary products: dU here, dX, dW and db by the Dense that made Z.
"""

from collections.abc import Sequence

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.graph import Node
from fastlstm.ops.dims import Dim
from fastlstm.ops.op import Attribute, Back, Emit, Op, Slot, Value, at, expect_shape, register, required, shape_error
from fastlstm.ops.packing import pack_bias, pack_columns, pack_panels, tail_of_columns, tail_of_gates
from fastlstm.ops.recurrent import CARRY, UNMASKED, ZERO, common_attributes, steps_in_place, strides_of

STEPS_ATTRIBUTES = {name: common_attributes()[name] for name in ("direction", "batch_first", "masked_output")}


class Steps(Op):
    """What the three kinds share. Subclasses name their slots, gates, states and kernels."""

    gates: int
    states: tuple[str, ...]
    h_slot: int
    mask_slot: int
    columns: tuple[int, ...]

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
            *(Value(z.dtype, kept) for _ in self.states),
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
            whole = emit.scratch((T + 1, B, S), dtype)
            whole[...] = 0
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
        workspace = emit.workspace(dtype)
        tail = tail_of_gates(H, L)
        emit.kernel(
            self.forward_kernel(node), gates, strides_of(gates, time), *self.weights(node, args, emit, L, H, tail), y, y_strides,
            tuple(kept), last, workspace, workspace.shape[1], self.mask(args, time, nothing), masked, (T, B, H, S),
            int(self.get(node, "direction") == "reverse"), int(outs[0] is not None), tail, kind=dtype,
        )  # fmt: skip
        finals = [whole[T, :, :H] for whole in kept]
        values = [*finals, last[:, :H] if masked == CARRY else finals[0], gates, *(whole[:T, :, :H] for whole in kept)]
        for out, array in zip(outs[1:], values, strict=False):
            if out is not None:
                emit.alias(out, array)

    def mask(self, args: Sequence[Value | None], time: int, nothing: np.ndarray) -> tuple:
        """Return the mask as bytes and its strides of time and rows."""
        mask = at(args, self.mask_slot)
        if mask is None or mask.array is None:
            return nothing, 0, 0
        array = mask.array.view(np.uint8)
        return array, *strides_of(array, time)

    def weights(self, node, args, emit: Emit, L: int, H: int, tail: int) -> tuple:
        """Return U packed, and where its sums begin."""
        U, dtype = required(args, 1), required(args, 0).dtype
        panels = emit.packed(
            ("steps U", self.gates, L, tail),
            [U],
            lambda matrix: pack_panels(self.gates, L, range(self.gates), self.columns, matrix.astype(dtype), tail),
        )
        return panels, self.start(args, emit, L, H, tail, dtype)

    def start(self, args, emit: Emit, L: int, H: int, tail: int, dtype: np.dtype) -> np.ndarray:
        return emit.packed(
            ("steps b", L, H, tail, dtype.str), [], lambda: pack_bias(L, np.zeros((4, H), dtype), tail)
        )

    def forward_kernel(self, node: Node) -> str:
        return f"{self.name.removesuffix('Steps').lower()}_steps_forward"

    # ---- adjoint ------------------------------------------------------------------------------------
    def adjoint(self, node: Node, back: Back) -> list:
        count = len(self.states)
        gates, reads = back.y[count + 2], back.y[count + 3 :]
        mask = back.x[self.mask_slot] if self.mask_slot < len(back.x) else None
        attributes = {name: node.attributes[name] for name in STEPS_ATTRIBUTES if name in node.attributes}
        dz, *d_states = back.node(
            f"{self.name}Adjoint", [back.x[1], gates, *reads, mask, *back.dy[: count + 2]], 1 + count, **attributes
        )
        results = [None] * len(back.x)
        results[0] = dz
        if back.wants[1]:
            results[1] = self.gradient_of_U(node, back, reads[0], dz)
        for k in range(count):
            if self.h_slot + k < len(results):
                results[self.h_slot + k] = d_states[k]
        return results

    def gradient_of_U(self, node: Node, back: Back, read, dz):
        """Return h' dz, summed over all steps and rows."""
        H = back.x[1].shape[0]
        if self.get(node, "direction") == "reverse":
            read = back.node("Reverse", [read], axis=0)
        if self.get(node, "batch_first"):
            read = back.node("Transpose", [read], perm=(1, 0, 2))
        rows = back.node("Transpose", [back.node("Reshape", [read, back.ints(-1, H)])], perm=(1, 0))
        return back.node("MatMul", [rows, back.node("Reshape", [dz, back.ints(-1, dz.shape[-1])])])


class StepsAdjoint(Op):
    """dZ and the gradients of the first states, from U, the gates, the states that steps began from, the mask, and the gradients of Y, the final
    states and the last output."""

    attributes = STEPS_ATTRIBUTES
    steps: type[Steps]

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        gates, read = required(args, 1), required(args, 2)
        assert read.shape is not None
        return [Value(gates.dtype, gates.shape), *(Value(gates.dtype, read.shape[1:]) for _ in self.steps.states)]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        T, B, H = (int(d) for d in required(args, 2).shape)  # type: ignore[union-attr]
        return T * B * (2 * self.steps.gates * H * H + 20 * self.steps.gates * H)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        count = len(self.steps.states)
        gates, reads = required(args, 1).array, [required(args, 2 + k).array for k in range(count)]
        mask, (dy, *d_finals) = at(args, 2 + count), [at(args, 3 + count + k) for k in range(count + 2)]
        assert gates is not None and reads[0] is not None
        dtype, L, time = gates.dtype, emit.lanes(gates.dtype), 1 if self.get(node, "batch_first") else 0
        T, B, H = reads[0].shape
        S, panels = -(-H // L) * L, -(-H // (4 * L)) * 4 * L
        nothing, zero = emit.scratch((1,), dtype), np.zeros((), dtype)
        masked = UNMASKED if mask is None else CARRY if self.get(node, "masked_output") == "carry" else ZERO
        states = []
        for k in range(count):
            state = emit.scratch((B, panels if k == 0 else S), dtype)
            state[...] = 0
            given = d_finals[k]
            emit.copy(state[:, :H], zero if given is None else given.array)  # type: ignore[arg-type]
            states.append(state)
        last, d_last = nothing, d_finals[-1]
        if masked == CARRY:
            last = emit.scratch((B, S), dtype)
            last[...] = 0
            emit.copy(last[:, :H], zero if d_last is None else d_last.array)  # type: ignore[arg-type]
        elif d_last is not None:
            assert d_last.array is not None
            self.add(emit, states[0][:, :H], d_last.array)
        given, d_strides = nothing, (0, 0)
        if dy is not None:
            assert dy.array is not None
            given = dy.array if steps_in_place(dy.array) else emit.contiguous(dy.array)
            d_strides = strides_of(given, time)
        tail = tail_of_columns(H, L)
        U = emit.packed(("steps U'", L, tail), [required(args, 0)], lambda U: pack_columns(L, U.T.astype(dtype), tail))
        valid: tuple = (nothing, 0, 0)
        if mask is not None:
            assert mask.array is not None
            valid = mask.array.view(np.uint8), *strides_of(mask.array.view(np.uint8), time)
        emit.kernel(
            f"{self.steps.name.removesuffix('Steps').lower()}_steps_adjoint", gates, strides_of(gates, time), U, tail, given, d_strides,
            *self.read_by_kernel(reads), last, states[0], panels, *states[1:], valid, masked, (T, B, H, S),
            int(self.get(node, "direction") == "reverse"), int(dy is not None), kind=dtype,
        )  # fmt: skip
        for out, array in zip(outs, [gates, *(state[:, :H] for state in states)], strict=False):
            if out is not None:
                emit.alias(out, array)

    def read_by_kernel(self, reads: list) -> list:
        """Return the states that the kernel reads."""
        return reads[1:]

    def add(self, emit: Emit, total: np.ndarray, part: np.ndarray) -> None:
        from fastlstm.ops.mapping import emit_map_into

        emit_map_into(emit, "combine_forward", total, [total, part], (emit.operation("Add"),), total.dtype)


@register
class LSTMSteps(Steps):
    """z = Z + h U, gates i f g o: see kernels/lstm_steps.py."""

    name = "LSTMSteps"
    gates, columns, states = 4, (0, 1, 2, 3), ("h", "c")
    inputs = (
        Slot("Z"),
        Slot("U"),
        Slot("h0", optional=True),
        Slot("c0", optional=True),
        Slot("P", optional=True),
        Slot("mask", optional=True),
    )
    outputs = ("Y", "h", "c", "last", "gates", "read", "read_c")
    attributes = common_attributes("Sigmoid", "Tanh", "Tanh") | {"input_forget": Attribute(bool, False)}
    h_slot, mask_slot = 2, 5


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
    )
    outputs = ("dZ", "dh0", "dc0")

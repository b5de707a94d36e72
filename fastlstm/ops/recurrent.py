"""LSTM, GRU and RNN: one direction, optional states and mask, every ONNX and Keras option an attribute.

Weights are in `x @ W` orientation: LSTM W (I, 4H), U (H, 4H), b (4H,), gates i f g o, P (3, H) for i f o; GRU W (I, 3H),
U (H, 3H), b (3H,), bn (H,), gates z r n; RNN W (I, H), U (H, H), b (H,). X is (T, B, I), or (B, T, I) where `batch_first`; the mask
likewise without its last axis. Outputs: Y over time, the final h (and c), and `last`, the output of the step processed last
(where masks carry outputs; it differs from h where every step of a row is masked).
"""

from collections.abc import Sequence

import numpy as np

from fastlstm.errors import DTypeError, GraphError
from fastlstm.graph import Node
from fastlstm.ops.activations import ACTIVATIONS, Activation
from fastlstm.ops.dims import Dim, agree
from fastlstm.ops.op import Attribute, Emit, Op, Slot, Value, at, expect_shape, register, shape_error
from fastlstm.ops.packing import pack_columns, pack_panels, pad_units

UNMASKED, ZERO, CARRY = -1, 0, 1


def _steps_ahead(T: int, B: int, size: int) -> int:
    """Return how many steps to project at once, 0 to project in place: small batches fill tiles with steps instead.

    The bits are the same either way; the buffer stays within 256 KiB, a share of the second-level cache.
    """
    if T == 1 or B >= 12:
        return 0
    return max(1, min(T, 65536 // max(1, B * size)))


class Recurrent(Op):
    """What the three kinds of recurrence share. Subclasses name their slots, gates and kernel."""

    gates: int
    states: tuple[str, ...]
    x_slot, w_slot, u_slot, b_slot = 0, 1, 2, 3
    h_slot: int
    mask_slot: int

    def dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim, Dim]:
        """Return T, B, I, H after checking every shape against them."""
        x, W, U = args[self.x_slot], args[self.w_slot], args[self.u_slot]
        assert x is not None and W is not None and U is not None
        kind = f"(I, {self.gates}H)" if self.gates > 1 else "(I, H)"
        if U.shape is None or W.shape is None:
            raise shape_error(node, "weight W or U", None, kind)
        H = U.shape[0] if len(U.shape) == 2 else -1
        if len(U.shape) != 2 or (isinstance(H, int) and not agree(U.shape[1], self.gates * H)):
            hint = "Was it saved by another kind of layer?"
            raise shape_error(node, "weight U", U.shape, f"(H, {self.gates}H) = ({H}, {self.gates}*{H})", hint)
        columns = self.gates * H if isinstance(H, int) else W.shape[-1]
        if len(W.shape) != 2 or not agree(W.shape[1], columns):
            raise shape_error(node, "weight W", W.shape, f"{kind} = (I, {columns})")
        if x.shape is None:
            return "T?", "B?", W.shape[0], H
        if len(x.shape) != 3 or not agree(x.shape[2], W.shape[0]):
            order = "(B, T, I)" if self.get(node, "batch_first") else "(T, B, I)"
            raise shape_error(node, "input X", x.shape, f"{order} with I = {W.shape[0]}")
        T, B = (x.shape[1], x.shape[0]) if self.get(node, "batch_first") else (x.shape[0], x.shape[1])
        expect_shape(node, args, self.b_slot, "bias b", (columns,))
        for k in range(len(self.states)):
            expect_shape(node, args, self.h_slot + k, f"initial state {self.states[k]}0", (B, H))
        expect_shape(node, args, self.mask_slot, "mask", tuple(x.shape[:2]))
        return T, B, x.shape[2], H

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        T, B, _, H = self.dims(node, args)
        x, mask = args[0], at(args, self.mask_slot)
        assert x is not None
        if mask is not None and mask.dtype != bool:
            raise DTypeError(f"node {node.name!r}: its mask is {mask.dtype}, expected bool")
        sequence = (B, T, H) if self.get(node, "batch_first") else (T, B, H)
        state = Value(x.dtype, (B, H))
        return [Value(x.dtype, sequence), *(Value(x.dtype, (B, H)) for _ in self.states), state]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        time = 1 if self.get(node, "batch_first") else 0
        axes = [(0, 2), *((self.h_slot + k, 1) for k in range(len(self.states)))]
        if self.get(node, "direction") == "reverse":
            axes += [(0, time), (self.mask_slot, time)]
        for k in (self.w_slot, self.u_slot, self.b_slot):
            value = at(args, k)
            axes += [(k, axis) for axis in range(len(value.shape or ()))] if value is not None else []
        return axes

    def time_axis(self, node: Node) -> int:
        """Return the axis of X that the recurrence runs along."""
        return 1 if self.get(node, "batch_first") else 0

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        T, B, I, H = self.dims(node, args)
        return int(T) * int(B) * (2 * self.gates * int(H) * (int(I) + int(H)) + 10 * self.gates * int(H))

    def activations(self, node: Node) -> list[Activation]:
        """Return (name, alpha, beta) of each activation."""
        names = self.get(node, "activations")
        alphas = self.get(node, "alphas") or tuple(ACTIVATIONS[name].alpha for name in names)
        betas = self.get(node, "betas") or tuple(ACTIVATIONS[name].beta for name in names)
        return list(zip(names, alphas, betas, strict=True))

    def check(self, node: Node) -> None:
        super().check(node)
        names = self.get(node, "activations")
        count = len(self.attributes["activations"].default)
        for role in ("activations", "alphas", "betas"):
            values = self.get(node, role)
            if values and len(values) != count:
                raise shape_error(node, f"attribute {role!r}", (len(values),), f"{count} entries")
        if len(names) != count:
            raise shape_error(node, "attribute 'activations'", (len(names),), f"{count} entries")
        if self.get(node, "clip") < 0:
            raise GraphError(
                f"node {node.name!r}: attribute 'clip' is {self.get(node, 'clip')}, expected a bound above 0, or 0 for none"
            )
        wants_last = len(node.outputs) == len(self.outputs) and bool(node.outputs[-1])
        masked = self.mask_slot < len(node.inputs) and bool(node.inputs[self.mask_slot])
        if wants_last and masked and self.get(node, "masked_output") == "zero":
            raise GraphError(f"node {node.name!r}: the output `last` is for masks with masked_output='carry'")

    # ---- lowering -----------------------------------------------------------------------------------
    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        T, B, I, H = (int(d) for d in self.dims(node, args))
        x = args[0]
        assert x is not None and x.array is not None
        dtype, L = x.dtype, emit.lanes(x.dtype)
        batch_first = self.get(node, "batch_first")
        S = self.state_stride(node, H, L)
        x_t, x_b = (I, T * I) if batch_first else (B * I, I)
        y_t, y_b = (H, T * H) if batch_first else (B * H, H)
        nothing = emit.scratch((1,), dtype)

        mask = at(args, self.mask_slot)
        masked = UNMASKED if mask is None else CARRY if self.get(node, "masked_output") == "carry" else ZERO
        mask_array = emit.scratch((1,), np.dtype(np.uint8)) if mask is None else mask.array.view(np.uint8)  # type: ignore[union-attr]
        mask_t, mask_b = (1, T) if batch_first else (B, 1)

        states = []
        for k, role in enumerate(self.states):
            start = at(args, self.h_slot + k)
            states.append(self._state(node, role, start, B, H, S, dtype, emit))
        y_last = emit.state(node, "last", (B, S), dtype, None, H) if masked == CARRY else nothing

        has_y = len(node.outputs) > 0 and bool(node.outputs[0])
        y = emit.scratch((T, B, H) if not batch_first else (B, T, H), dtype) if has_y else nothing
        z = emit.scratch((emit.rows, 4, L), dtype)
        run = self.steps_ahead(node, T, B, S)
        memory = (x.array, x_t, x_b)
        after = (emit.scratch((B, S), dtype), y, y_t, y_b, y_last, mask_array, mask_t, mask_b, z)
        reverse = int(self.get(node, "direction") == "reverse")
        self.emit_kernel(node, args, emit, memory, states, after, (T, B, I, H, S, run), (reverse, int(has_y), masked))

        if has_y:
            emit.alias(outs[0], y)
        seen = None
        if mask is not None and self.get(node, "empty_state") == "zero":
            # carried by a stream: a row without a valid step in this chunk may have had one before
            seen = emit.state(node, "seen", (B, 1), np.dtype(bool), None, 1)
            emit.host(_note_valid_rows, seen, mask.array, 1 if batch_first else 0)
        for k, state in enumerate([*states, y_last if masked == CARRY else states[0]]):
            if k + 1 < len(node.outputs) and node.outputs[k + 1]:
                final = state
                if S != H or seen is not None:
                    final = emit.scratch((B, H), dtype)
                    emit.host(np.copyto, final, state[:, :H])
                if seen is not None:
                    emit.host(_zero_rows_not_in, seen, final)
                emit.alias(outs[k + 1], final)

    def _state(self, node, role, start: Value | None, B, H, S, dtype, emit: Emit) -> np.ndarray:
        if start is not None and start.data is not None:
            return emit.state(node, role, (B, S), dtype, pad_units(S, start.data.astype(dtype)), H)
        state = emit.state(node, role, (B, S), dtype, None, H)
        if start is not None:
            emit.host(np.copyto, state[:, :H], start.array)
        return state

    def state_stride(self, node: Node, H: int, L: int) -> int:
        return -(-H // L) * L

    def steps_ahead(self, node: Node, T: int, B: int, S: int) -> int:
        return _steps_ahead(T, B, 4 * S)

    def bias(self, emit: Emit, key: str, parts: Sequence[Value | None], build, dtype: np.dtype) -> np.ndarray:
        """Pack the bias from those of its parts that are present."""
        present = [part for part in parts if part is not None]

        def pack(*arrays: np.ndarray) -> np.ndarray:
            given = iter(arrays)
            return build(*(None if part is None else next(given).astype(dtype) for part in parts))

        return emit.packed((key, tuple(part is None for part in parts), dtype.str), present, pack)

    def coefficients(self, node: Node, emit: Emit) -> tuple[tuple[int, ...], tuple[float, ...], int, float]:
        """Return the codes and the alphas and betas of the activations, whether inputs are clipped, and the bound."""
        activations = self.activations(node)
        codes = tuple(emit.activation(name) for name, _, _ in activations)
        numbers = tuple(float(v) for _, alpha, beta in activations for v in (alpha, beta))
        clip = float(self.get(node, "clip"))
        return codes, numbers, int(clip > 0), clip

    def emit_kernel(self, node, args, emit, memory, states, after, sizes, options) -> None:
        raise AssertionError("subclasses emit their kernel")


def _note_valid_rows(seen: np.ndarray, mask: np.ndarray, time_axis: int) -> None:
    np.logical_or(seen, mask.any(axis=time_axis, keepdims=False).reshape(-1, 1), out=seen)


def _zero_rows_not_in(seen: np.ndarray, final: np.ndarray) -> None:
    final[~seen[:, 0]] = 0


def _attributes(*activations: str) -> dict[str, Attribute]:
    return {
        "direction": Attribute(str, "forward", choices=("forward", "reverse")),
        "batch_first": Attribute(bool, False),
        "activations": Attribute(str, activations, many=True, choices=tuple(ACTIVATIONS)),
        "alphas": Attribute(float, (), many=True),
        "betas": Attribute(float, (), many=True),
        "clip": Attribute(float, 0.0),
        "masked_output": Attribute(str, "zero", choices=("zero", "carry")),
        "empty_state": Attribute(str, "carry", choices=("zero", "carry")),
    }


@register
class LSTM(Recurrent):
    name = "LSTM"
    gates = 4
    states = ("h", "c")
    inputs = (
        Slot("X"),
        Slot("W", matrix=True),
        Slot("U", matrix=True),
        Slot("b", optional=True),
        Slot("h0", optional=True),
        Slot("c0", optional=True),
        Slot("P", optional=True),
        Slot("mask", optional=True),
    )
    outputs = ("Y", "h", "c", "last")
    attributes = _attributes("Sigmoid", "Tanh", "Tanh") | {"input_forget": Attribute(bool, False)}
    h_slot, mask_slot = 4, 7

    def dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim, Dim]:
        dims = super().dims(node, args)
        expect_shape(node, args, 6, "peepholes P", (3, dims[3]))
        return dims

    def emit_kernel(self, node, args, emit: Emit, memory, states, after, sizes, options) -> None:
        _, B, _, H, S, run = sizes
        dtype, L = memory[0].dtype, emit.lanes(memory[0].dtype)
        every = (0, 1, 2, 3)
        W = emit.packed(("panels", 4, L, every, 4), [args[1]], lambda w: pack_panels(4, L, every, 4, w.astype(dtype)))
        U = emit.packed(("panels", 4, L, every, 4), [args[2]], lambda u: pack_panels(4, L, every, 4, u.astype(dtype)))
        zeros = np.zeros(4 * H, dtype)
        b = self.bias(
            emit, f"lstm b {L} {H}", [at(args, 3)],
            lambda b: pack_panels(4, L, every, 4, (zeros if b is None else b)[None]), dtype,
        )  # fmt: skip
        P = at(args, 6)
        peepholes = b if P is None else emit.packed(("units", S), [P], lambda p: pad_units(S, p.astype(dtype)))
        codes, numbers, clipped, bound = self.coefficients(node, emit)
        coupled = int(self.get(node, "input_forget"))
        usual = codes == tuple(emit.activation(name) for name in ("Sigmoid", "Tanh", "Tanh"))
        plain = int(usual and not clipped and not coupled and P is None)
        ahead = emit.scratch((max(run, 1), B, 4 * S) if run else (1,), dtype)
        emit.kernel(
            "lstm_forward", *memory, W, U, b, peepholes, *states, *after, ahead, sizes,
            (*options, plain, *codes, clipped, coupled, int(P is not None)), (*numbers, bound),
        )  # fmt: skip


@register
class GRU(Recurrent):
    name = "GRU"
    gates = 3
    states = ("h",)
    inputs = (
        Slot("X"),
        Slot("W", matrix=True),
        Slot("U", matrix=True),
        Slot("b", optional=True),
        Slot("bn", optional=True),
        Slot("h0", optional=True),
        Slot("mask", optional=True),
    )
    outputs = ("Y", "h", "last")
    attributes = _attributes("Sigmoid", "Tanh") | {"reset": Attribute(str, "after", choices=("after", "before"))}
    h_slot, mask_slot = 5, 6

    def dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim, Dim]:
        dims = super().dims(node, args)
        expect_shape(node, args, 4, "bias bn", (dims[3],))
        return dims

    def state_stride(self, node: Node, H: int, L: int) -> int:
        return -(-H // L) * L if self.get(node, "reset") == "after" else -(-H // (4 * L)) * 4 * L

    def steps_ahead(self, node: Node, T: int, B: int, S: int) -> int:
        return super().steps_ahead(node, T, B, S) if self.get(node, "reset") == "after" else 0

    def emit_kernel(self, node, args, emit: Emit, memory, states, after, sizes, options) -> None:
        _, B, _, H, S, run = sizes
        dtype, L = memory[0].dtype, emit.lanes(memory[0].dtype)
        every, two = (0, 1, 2), (0, 1)
        codes, numbers, clipped, bound = self.coefficients(node, emit)
        usual = codes == (emit.activation("Sigmoid"), emit.activation("Tanh"))
        options = (*options, int(usual and not clipped), *codes, clipped)
        numbers = (*numbers, bound)
        W = emit.packed(("panels", 3, L, every, 3), [args[1]], lambda w: pack_panels(3, L, every, 3, w.astype(dtype)))
        before = self.get(node, "reset") == "before"

        def pack_bias(b: np.ndarray | None, bn: np.ndarray | None) -> np.ndarray:
            gates = np.zeros((4, H), dtype)
            gates[:3] = 0 if b is None else b.reshape(3, H)
            gates[2 if before else 3] += 0 if bn is None else bn
            return pack_panels(4, L, (0, 1, 2, 3), 4, gates.reshape(1, -1))

        b = self.bias(emit, f"gru b {L} {H} {before}", [at(args, 3), at(args, 4)], pack_bias, dtype)
        if not before:
            U = emit.packed(
                ("panels", 3, L, every, 3), [args[2]], lambda u: pack_panels(3, L, every, 3, u.astype(dtype))
            )
            ahead = emit.scratch((max(run, 1), B, 4 * S) if run else (1,), dtype)
            emit.kernel("gru_after_forward", *memory, W, U, b, *states, *after, ahead, sizes, options, numbers)
            return
        U = emit.packed(("panels", 3, L, two, 2), [args[2]], lambda u: pack_panels(3, L, two, 2, u.astype(dtype)))
        Un = emit.packed(("columns of n", L), [args[2]], lambda u: pack_columns(L, u[:, 2 * H :].astype(dtype)))
        scratch = [emit.scratch((B, S), dtype) for _ in range(3)]
        emit.kernel("gru_before_forward", *memory, W, U, Un, b, *states, *after, *scratch, sizes, options, numbers)


@register
class RNN(Recurrent):
    name = "RNN"
    gates = 1
    states = ("h",)
    inputs = (
        Slot("X"),
        Slot("W", matrix=True),
        Slot("U", matrix=True),
        Slot("b", optional=True),
        Slot("h0", optional=True),
        Slot("mask", optional=True),
    )
    outputs = ("Y", "h", "last")
    attributes = _attributes("Tanh")
    h_slot, mask_slot = 4, 5

    def state_stride(self, node: Node, H: int, L: int) -> int:
        return -(-H // (4 * L)) * 4 * L

    def steps_ahead(self, node: Node, T: int, B: int, S: int) -> int:
        return _steps_ahead(T, B, S)

    def emit_kernel(self, node, args, emit: Emit, memory, states, after, sizes, options) -> None:
        _, B, _, H, S, run = sizes
        dtype, L = memory[0].dtype, emit.lanes(memory[0].dtype)
        W = emit.packed(("columns", L), [args[1]], lambda w: pack_columns(L, w.astype(dtype)))
        U = emit.packed(("columns", L), [args[2]], lambda u: pack_columns(L, u.astype(dtype)))
        zeros = np.zeros(H, dtype)
        b = self.bias(
            emit,
            f"rnn b {S} {H}",
            [at(args, 3)],
            lambda b: pad_units(S, (zeros if b is None else b)[None]),
            dtype,
        )
        codes, numbers, clipped, bound = self.coefficients(node, emit)
        ahead = emit.scratch((max(run, 1), B, S) if run else (1,), dtype)
        emit.kernel(
            "rnn_forward",
            *memory,
            W,
            U,
            b,
            *states,
            *after,
            ahead,
            sizes,
            (*options, *codes, clipped),
            (*numbers, bound),
        )

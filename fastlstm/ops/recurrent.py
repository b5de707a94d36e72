"""LSTM, GRU and RNN: one direction, optional states and mask, every ONNX and Keras option an attribute.

Weights are in `x @ W` orientation: LSTM W (I, 4H), U (H, 4H), b (4H,), gates i f g o, P (3, H) for i f o; GRU W (I, 3H),
U (H, 3H), b (3H,), bn (H,), gates z r n; RNN W (I, H), U (H, H), b (H,). X is (T, B, I), or (B, T, I) where `batch_first`; the mask
likewise without its last axis. Outputs: Y over time, the final h (and c), and `last`, the output of the step processed last
(where masks carry outputs; it differs from h where every step of a row is masked).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastlstm.errors import DTypeError, GraphError
from fastlstm.graph import Node, Quantized
from fastlstm.ops.activations import ACTIVATIONS, Activation
from fastlstm.ops.dims import Dim, agree
from fastlstm.ops.mapping import emit_where
from fastlstm.ops.narrow import DTYPES, FLOAT16, FLOAT32, QUANTISED, input_parts, recurrent_form
from fastlstm.ops.op import Attribute, Emit, Op, Slot, Value, at, expect_shape, register, shape_error
from fastlstm.ops.packing import (
    pack_bias,
    pack_columns,
    pack_panels,
    pack_quantised,
    pad_units,
    tail_of_columns,
    tail_of_gates,
)

ROWS_AT_ONCE = 16384  # elements of projections that are looked up at once: they stay in the second-level cache
ROWS_TOGETHER = 512  # of a table, projected together
STEPS_AHEAD = 48  # about: W is read once for so many, and more of them gain nothing
MOST_AHEAD = 196608  # elements of projections
UNMASKED, ZERO, CARRY = -1, 0, 1


def _steps_ahead(T: int, B: int, I: int, size: int, near_bytes: int) -> int:
    """Return how many steps to project at once, 0 to project in place.

    Small batches fill tiles with steps instead of rows; where I is large, W is read once for many steps. The bits are the same
    either way. The buffer stays within a share of the second-level cache, unless W outgrows that: then reading W seldom counts for
    more, but for many rows only where that cache holds the buffer.
    """
    if T == 1 or I == 0 or (B >= 12 and (I < 1024 or near_bytes < 4 * MOST_AHEAD)):
        return 0
    elements = min(65536, near_bytes // 12) if I < 1024 and 4 * I * size <= near_bytes else MOST_AHEAD
    most = max(1, min(STEPS_AHEAD, elements // max(1, B * size)))
    return -(-T // max(1, round(T / most)))  # equal runs: a short one would read W for few steps


class Form(NamedTuple):
    """How kernels read a layer's weights: beside values of what dtype, by which name of ops/narrow.py, the last panel's width."""

    dtype: np.dtype
    weights: str
    tail: int


class Activated(Op):
    """An op whose activations are attributes."""

    def activations(self, node: Node) -> list[Activation]:
        """Return (name, alpha, beta) of each activation."""
        names = self.get(node, "activations")
        alphas = self.get(node, "alphas") or tuple(ACTIVATIONS[name].alpha for name in names)
        betas = self.get(node, "betas") or tuple(ACTIVATIONS[name].beta for name in names)
        return list(zip(names, alphas, betas, strict=True))

    def coefficients(self, node: Node, emit: Emit) -> tuple[tuple[int, ...], tuple[float, ...], int, float]:
        """Return the codes and the alphas and betas of the activations, whether inputs are clipped, and the bound."""
        activations = self.activations(node)
        codes = tuple(emit.activation(name) for name, _, _ in activations)
        numbers = tuple(float(v) for _, alpha, beta in activations for v in (alpha, beta))
        clip = float(self.get(node, "clip"))
        return codes, numbers, int(clip > 0), clip


class Recurrent(Activated):
    """What the three kinds of recurrence share. Subclasses name their slots, gates and kernel."""

    changes_state = True
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
    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        T, B, I, H = (int(d) for d in self.dims(node, args))
        given = args[0]
        assert given is not None
        dtype, L, known = given.dtype, emit.lanes(given.dtype), given.rows
        time = self.time_axis(node)
        S = self.state_stride(node, H, L)
        # a vector more: rows a power of two apart would share a set of the first-level cache
        columns = (S if self.gates == 1 else 4 * S) + L
        x = given.array if known is None else known.numbers
        assert x is not None
        x = x if known is not None or steps_in_place(x) else emit.contiguous(x)
        nothing = emit.scratch((1,), dtype)

        mask = at(args, self.mask_slot)
        masked = UNMASKED if mask is None else CARRY if self.get(node, "masked_output") == "carry" else ZERO
        reverse = int(self.get(node, "direction") == "reverse")
        about = (nothing, 0, 0, nothing, nothing, nothing)
        kept = run = self.steps_ahead(T, B, I, S, emit)
        form = self.form(node, args, emit)
        if known is not None:
            kept = run = max(1, min(T, ROWS_AT_ONCE // max(1, B * columns)))
        if mask is not None:
            assert mask.array is not None
            valid = mask.array.view(np.uint8)
            words = emit.scratch((_ragged_words(T, B),), np.dtype(np.int64))
            emit.kernel("ragged_forward", valid, strides_of(valid, time), words, T, B, reverse, kind=dtype)
            x_sorted = nothing if run else emit.scratch((B, I), dtype)
            about = (valid, *strides_of(valid, time), words, x_sorted, emit.scratch((B, S), dtype))

        states = []
        for k, role in enumerate(self.states):
            start = at(args, self.h_slot + k)
            states.append(self._state(node, role, start, B, H, S, dtype, emit))
        y_last = emit.state(node, "last", (B, S), dtype, None, H) if masked == CARRY else nothing

        y, y_strides = nothing, (0, 0)
        if outs[0] is not None:
            y = emit.output(outs[0], steps_in_place)
            y_strides = strides_of(y, time)
        has_y = int(outs[0] is not None)
        z = emit.workspace(dtype, columns)
        W, U, b, cell, numbers = self.weights(node, args, emit, S, form)
        if known is not None:
            W, I, b = nothing, 0, self.projected(node, args, known.table, columns, emit)
        ahead = emit.scratch((kept, B, columns), dtype) if kept else nothing
        cell = [states[1:], *cell] if len(states) > 1 else [(), *cell]
        copies, copies_size, parts = nothing, 0, input_parts(I, H)
        if form.weights == QUANTISED:
            copies_size = B * (emit.row_bytes(H, 1) + max(kept, 1) * emit.row_bytes(I, parts))
            copies = emit.scratch((z.shape[0], copies_size), np.dtype(np.uint8))
        emit.kernel(
            self.kernel(node, form.weights == QUANTISED), x, strides_of(x, time), W, U, b, states[0], emit.scratch((B, S), dtype),
            y, y_strides, y_last, z, ahead, *about, copies, copies_size, parts, (T, B, I, H, S, run),
            (reverse, has_y, masked, self.split(B, H), z.shape[1], form.tail, int(known is not None), 0),
            *(tuple(part) for part in cell), tuple(float(n) for n in numbers), kind=dtype,
            narrow=DTYPES.get(form.weights, dtype),
        )  # fmt: skip
        self._lower_states(node, outs, emit, states, y_last if masked == CARRY else states[0], mask, H, S)

    def _lower_states(self, node, outs, emit: Emit, states, last, mask: Value | None, H: int, S: int) -> None:
        """Bind the outputs after Y: the final states, and the output of the last step."""
        seen = None
        if mask is not None and mask.array is not None and self.get(node, "empty_state") == "zero":
            # carried by a stream: a row without a valid step in this chunk may have had one before
            seen = emit.state(node, "seen", (len(last), 1), np.dtype(bool), None, 1)
            time = self.time_axis(node)
            valid, T = mask.array.view(np.uint8), mask.array.shape[time]
            emit.kernel("seen_forward", valid, strides_of(valid, time), seen, T, len(last), kind=valid.dtype)
        for out, state in zip(outs[1:], [*states, last], strict=False):
            if out is not None and seen is None:
                emit.alias(out, state[:, :H])
            elif out is not None and seen is not None:
                emit_where(emit, seen, state[:, :H], np.zeros((), state.dtype), out)

    def projected(self, node: Node, args: Sequence[Value | None], table: Value, columns: int, emit: Emit) -> np.ndarray:
        """Return b + e W for every row e of a constant table (rows, I), as the kernel lays it out: (rows, columns).

        The kernel itself makes it, by one step for many rows at once: so a look-up gives the bits that projecting gives.
        """
        assert table.shape is not None
        dtype, L = table.dtype, emit.lanes(table.dtype)
        count, I, H = (int(d) for d in (*table.shape, args[self.u_slot].shape[0]))  # type: ignore[index, union-attr]
        S, form, parts = self.state_stride(node, H, L), self.form(node, args, emit), input_parts(I, H)
        quantised = form.weights == QUANTISED

        def make(whole: np.ndarray) -> None:
            source = np.ascontiguousarray(table.array)  # type: ignore[arg-type]
            nothing, z = emit.scratch((1,), dtype), emit.workspace(dtype, columns)
            for first in range(0, count, ROWS_TOGETHER):
                rows = source[first : first + ROWS_TOGETHER]
                n = len(rows)
                x = Value(dtype, (n, 1, I) if self.time_axis(node) else (1, n, I))
                W, U, b, cell, numbers = self.weights(node, [x, *args[1:]], emit, S, form)
                states = [emit.scratch((n, S), dtype) for _ in (*self.states, "next")]
                for state in states:
                    state[...] = 0
                size = n * (emit.row_bytes(H, 1) + emit.row_bytes(I, parts)) if quantised else 0
                copies = emit.scratch((z.shape[0], size), np.dtype(np.uint8)) if quantised else nothing
                emit.kernel(
                    self.kernel(node, quantised), rows, (0, I), W, U, b, states[0], states[-1], nothing, (0, 0), nothing, z,
                    whole[first : first + n], nothing, 0, 0, nothing, nothing, nothing, copies, size, parts,
                    (1, n, I, H, S, 1),
                    (0, 0, UNMASKED, self.split(n, H), z.shape[1], form.tail, 0, 0), tuple(states[1:-1]),
                    *(tuple(part) for part in cell), tuple(float(v) for v in numbers), kind=dtype,
                    narrow=DTYPES.get(form.weights, dtype),
                )  # fmt: skip

        emit.note(f"look-up of {count} projections")
        return emit.made_once(("projected", node.name), (count, columns), dtype, make)

    def kernel(self, node: Node, quantised: bool) -> str:
        """Return the name of the kernel that runs this node."""
        return f"{self.name.lower()}{'_quantised' if quantised else ''}_forward"

    def form(self, node: Node, args: Sequence[Value | None], emit: Emit) -> Form:
        """Return how kernels read the weights."""
        T, B, _, H = (int(d) for d in self.dims(node, args))
        W, U, dtype = args[self.w_slot], args[self.u_slot], args[0].dtype  # type: ignore[union-attr]
        assert W is not None and U is not None
        weights = recurrent_form(W, U, dtype, T, B, self.gates, emit.near_bytes)
        return Form(dtype, weights, 0 if weights == QUANTISED else self.tail(node, H, emit.lanes(dtype)))

    def panels(
        self,
        emit: Emit,
        weight: Value,
        form: Form,
        columns: Sequence[int] = (),
        places: Sequence[int] = (),
        part: int = 0,
        state: bool = False,
    ) -> np.ndarray:
        """Pack a weight as panels of the gates `columns`, or where there are none, of columns of units from `part` gates on.

        `state` tells weights of h from those of x.
        """
        L, H = emit.lanes(form.dtype), weight.shape[1] // self.gates  # type: ignore[index, operator]

        def arranged(matrix: np.ndarray) -> np.ndarray:
            if columns:
                return pack_panels(self.gates, L, columns, places or columns, matrix, form.tail)
            return pack_columns(L, matrix[:, part * H :], form.tail)

        def pack(matrix) -> np.ndarray:
            if isinstance(matrix, Quantized):
                scale = arranged(matrix.scale[None])
                return pack_quantised(emit.group(state), L, len(columns) or 4, arranged(matrix.values), scale)
            return arranged(matrix if form.weights == FLOAT16 else matrix.astype(form.dtype))

        key = "panels", self.gates, L, form, tuple(columns), tuple(places), part, state
        return emit.packed(key, [weight], pack, narrow=form.weights != FLOAT32)

    def tail(self, node: Node, H: int, L: int) -> int:
        """Return the width of the last panel in vectors, 0 where it is a whole one."""
        return tail_of_gates(H, L)

    def split(self, B: int, H: int) -> int:
        """Return what the workers of a team divide: rows, or where there are few, panels of units."""
        return 0 if B >= 12 else 1

    def weights(self, node, args, emit: Emit, S: int, form: Form) -> tuple:
        """Return W, U and b packed, the cell's own integers (tuples and arrays), and its numbers."""
        raise AssertionError("subclasses pack their weights")

    def _state(self, node, role, start: Value | None, B, H, S, dtype, emit: Emit) -> np.ndarray:
        if start is not None and start.data is not None:
            return emit.state(node, role, (B, S), dtype, pad_units(S, start.data.astype(dtype)), H)
        state = emit.state(node, role, (B, S), dtype, None, H)
        if start is not None:
            assert start.array is not None
            emit.copy(state[:, :H], start.array)
        return state

    def state_stride(self, node: Node, H: int, L: int) -> int:
        return -(-H // L) * L

    def steps_ahead(self, T: int, B: int, I: int, S: int, emit: Emit) -> int:
        """Return how many steps of x W are projected at once, 0 for none."""
        return _steps_ahead(T, B, I, 4 * S, emit.near_bytes)

    def bias(self, emit: Emit, key: str, parts: Sequence[Value | None], build, dtype: np.dtype) -> np.ndarray:
        """Pack the bias from those of its parts that are present."""
        present = [part for part in parts if part is not None]

        def pack(*arrays: np.ndarray) -> np.ndarray:
            given = iter(arrays)
            return build(*(None if part is None else next(given).astype(dtype) for part in parts))

        return emit.packed((key, tuple(part is None for part in parts), dtype.str), present, pack)


def strides_of(array: np.ndarray, time: int) -> tuple[int, int]:
    """Return the strides of time and batch in elements."""
    return array.strides[time] // array.itemsize, array.strides[1 - time] // array.itemsize


def steps_in_place(array: np.ndarray) -> bool:
    """Tell whether a kernel can read or write an array (T, B, n) or (B, T, n) where it is."""
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    return whole and (array.shape[2] <= 1 or array.strides[2] == array.itemsize)


def _ragged_words(T: int, B: int) -> int:
    return 3 + 3 * B + 2 * T


def common_attributes(*activations: str) -> dict[str, Attribute]:
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
    attributes = common_attributes("Sigmoid", "Tanh", "Tanh") | {"input_forget": Attribute(bool, False)}
    h_slot, mask_slot = 4, 7

    def dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim, Dim]:
        dims = super().dims(node, args)
        expect_shape(node, args, 6, "peepholes P", (3, dims[3]))
        return dims

    def weights(self, node, args, emit: Emit, S: int, form: Form) -> tuple:
        dtype, _, tail = form
        H, L, every = args[2].shape[0], emit.lanes(dtype), (0, 1, 2, 3)
        W, U = (self.panels(emit, args[k], form, every, state=k == 2) for k in (1, 2))
        zeros = np.zeros(4 * H, dtype)
        b = self.bias(
            emit, f"lstm b {L} {H} {tail}", [at(args, 3)],
            lambda b: pack_bias(L, (zeros if b is None else b).reshape(4, H), tail), dtype,
        )  # fmt: skip
        P = at(args, 6)
        peepholes = b if P is None else emit.packed(("units", S), [P], lambda p: pad_units(S, p.astype(dtype)))
        codes, numbers, clipped, bound = self.coefficients(node, emit)
        coupled = int(self.get(node, "input_forget"))
        usual = codes == tuple(emit.activation(name) for name in ("Sigmoid", "Tanh", "Tanh"))
        plain = int(usual and not clipped and not coupled and P is None)
        return W, U, b, [(peepholes, S, plain), codes, (clipped, coupled, int(P is not None))], (*numbers, bound)


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
    attributes = common_attributes("Sigmoid", "Tanh") | {"reset": Attribute(str, "after", choices=("after", "before"))}
    h_slot, mask_slot = 5, 6

    def dims(self, node: Node, args: Sequence[Value | None]) -> tuple[Dim, Dim, Dim, Dim]:
        dims = super().dims(node, args)
        expect_shape(node, args, 4, "bias bn", (dims[3],))
        return dims

    def state_stride(self, node: Node, H: int, L: int) -> int:
        return -(-H // L) * L if self.get(node, "reset") == "after" else -(-H // (4 * L)) * 4 * L

    def kernel(self, node: Node, quantised: bool) -> str:
        return f"gru_{self.get(node, 'reset')}{'_quantised' if quantised else ''}_forward"

    def weights(self, node, args, emit: Emit, S: int, form: Form) -> tuple:
        dtype, _, tail = form
        H, L, every, two = args[2].shape[0], emit.lanes(dtype), (0, 1, 2), (0, 1)
        codes, numbers, clipped, bound = self.coefficients(node, emit)
        usual = codes == (emit.activation("Sigmoid"), emit.activation("Tanh"))
        before = self.get(node, "reset") == "before"

        def pack_biases(b: np.ndarray | None, bn: np.ndarray | None) -> np.ndarray:
            gates = np.zeros((4, H), dtype)
            gates[:3] = 0 if b is None else b.reshape(3, H)
            gates[2 if before else 3] += 0 if bn is None else bn
            return pack_bias(L, gates, tail)

        W = self.panels(emit, args[1], form, every)
        b = self.bias(emit, f"gru b {L} {H} {before} {tail}", [at(args, 3), at(args, 4)], pack_biases, dtype)
        cell = (int(usual and not clipped), *codes, clipped)
        if not before:
            return W, self.panels(emit, args[2], form, every, (0, 1, 3), state=True), b, [cell], (*numbers, bound)
        U = self.panels(emit, args[2], form, two, state=True)
        Un = self.panels(emit, args[2], form._replace(tail=0), part=2, state=True)
        B = args[0].shape[1 - self.time_axis(node)]
        reset_h, n_x, update = (emit.scratch((B, S), dtype) for _ in range(3))
        return W, U, b, [(reset_h, Un, n_x, update), cell], (*numbers, bound)


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
    attributes = common_attributes("Tanh")
    h_slot, mask_slot = 4, 5

    def state_stride(self, node: Node, H: int, L: int) -> int:
        return -(-H // (4 * L)) * 4 * L

    def steps_ahead(self, T: int, B: int, I: int, S: int, emit: Emit) -> int:
        return _steps_ahead(T, B, I, S, emit.near_bytes)

    def tail(self, node: Node, H: int, L: int) -> int:
        return tail_of_columns(H, L)

    def weights(self, node, args, emit: Emit, S: int, form: Form) -> tuple:
        H, dtype = args[2].shape[0], form.dtype
        W, U = (self.panels(emit, args[k], form, state=k == 2) for k in (1, 2))
        zeros = np.zeros(H, dtype)
        b = self.bias(
            emit, f"rnn b {S} {H}", [at(args, 3)], lambda b: pad_units(S, (zeros if b is None else b)[None]), dtype
        )
        codes, numbers, clipped, bound = self.coefficients(node, emit)
        return W, U, b, [(*codes, clipped)], (*numbers, bound)

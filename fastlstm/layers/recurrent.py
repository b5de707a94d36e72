"""LSTM, GRU, SimpleRNN, RNN over cells, and Bidirectional, as Keras defines them.

A masked step keeps the state and repeats the output of the step processed before it, which starts as zeros (as on
TensorFlow), or gives zeros where `zero_output_for_mask`. `go_backwards` returns outputs in the order of processing.
"""

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastlstm.errors import ShapeError, UnsupportedError
from fastlstm.layers.activations import activation
from fastlstm.layers.build import Build, Tensor
from fastlstm.layers.layer import Layer, rate_of, size_of
from fastlstm.layers.symbolic import leaves
from fastlstm.ops.activations import Activation

if TYPE_CHECKING:
    from fastlstm.layers.cells import StackedRNNCells

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Recurrent(Layer):
    """What LSTM, GRU and SimpleRNN share."""

    op = ""
    states = 1
    initial = {"kernel": "glorot_uniform", "recurrent_kernel": "orthogonal", "bias": "zeros"}
    ignored = ("use_cudnn", "time_major")
    seeded = True
    input_kind = "sequences"

    def __init__(
        self,
        units: int,
        activations: tuple[Activation, ...],
        use_bias: bool = True,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        implementation: int = 2,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        if options.get("time_major"):
            raise self.fault(UnsupportedError, "time_major=True is not supported")
        self.implementation = 1 if recurrent_dropout else implementation
        self.units, self.activations, self.use_bias = size_of(self, "units", units), activations, use_bias
        self.dropout, self.recurrent_dropout = (
            rate_of(self, dropout),
            rate_of(self, recurrent_dropout, "recurrent_dropout"),
        )
        self.return_sequences, self.return_state, self.stateful = return_sequences, return_state, stateful
        self.go_backwards, self.zero_output_for_mask = go_backwards, zero_output_for_mask
        self.unroll = unroll  # the same numbers, but for the case that `run` refuses

    @property
    def roles(self) -> tuple[str, ...]:
        return ("kernel", "recurrent_kernel", "bias") if self.use_bias else ("kernel", "recurrent_kernel")

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        x = x[0] if isinstance(x, list) else x  # initial states may follow
        if x is not None and len(x) != 3:
            raise self.fault(ShapeError, f"takes inputs (batch, steps, features), got shape {x}")
        gates = GATES[self.op] * self.units
        bias = (2, gates) if getattr(self, "reset_after", False) else (gates,)
        return {"kernel": (x[-1] if x else None, gates), "recurrent_kernel": (self.units, gates), "bias": bias}

    @property
    def differs_in_training(self) -> bool:
        return bool(self.dropout or self.recurrent_dropout)

    def twin(self) -> "Recurrent":
        """Return a layer of the same configuration that runs the other way, with weights of its own."""
        other = copy(self)
        other._arrays = {}
        other.__dict__.pop("_sessions", None)
        other.go_backwards = not self.go_backwards
        other.name = f"backward_{self.name}"
        return other

    def reset_states(self) -> None:
        for k in range(self.states):
            self._arrays.get(f"state{k}", np.zeros(0))[...] = 0

    def call(self, x: Any, initial_state: Sequence[Tensor] | Tensor | None = None) -> Any:
        x, initial = with_states(x, initial_state)
        y, last, states = self.run(x, initial, self.return_sequences)
        if self.return_sequences:
            if self.go_backwards:
                y = x.build.node(f"{self.name}/flip", "Reverse", [y], axis=1)
            y = y.with_mask(x.mask)
        else:
            y = last
        return (y, *states) if self.return_state else y

    def run(self, x: Tensor, initial: Sequence[Tensor], sequences: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Add the node; return (outputs in time order if wanted, output of the step processed last, final states)."""
        if initial and len(initial) != self.states:
            raise UnsupportedError(f"layer {self.name!r} takes {self.states} initial states, got {len(initial)}")
        if self.unroll and self.go_backwards and self.zero_output_for_mask and sequences and x.mask is not None:
            raise UnsupportedError(
                f"layer {self.name!r}: unroll=True with go_backwards, zero_output_for_mask (as in Bidirectional) and a mask is not "
                "supported: Keras zeroes other steps than the masked ones; save it with unroll=False"
            )
        kept = self._kept_states(x) if self.stateful and not initial else []
        initial = initial or kept
        by_step = x.mask is not None and self.zero_output_for_mask and not sequences
        # the last output differs from the final state only where every step of a row is masked
        apart = x.mask is not None and bool(initial) and not self.zero_output_for_mask
        outputs = [sequences or by_step, *[True] * self.states, apart]
        attributes = {"masked_output": "zero" if self.zero_output_for_mask else "carry"} if x.mask is not None else {}
        names, alphas, betas = (tuple(part) for part in zip(*self.activations, strict=True))
        y, *rest = x.build.node(
            self.name,
            self.op,
            [x, *self.parameters(x.build), *self.slots(list(initial), x.mask), *self._dropped(x)],
            outputs,
            direction="reverse" if self.go_backwards else "forward",
            batch_first=True,
            activations=names,
            alphas=alphas,
            betas=betas,
            **attributes,
            **self.attributes(),
        )
        states = rest[: self.states]
        for old, new in zip(kept, states, strict=False):
            x.build.replace(old, new)
        last = rest[self.states] if apart else states[0]
        if by_step:
            index = x.build.weight(f"{self.name}.last", np.array(0 if self.go_backwards else -1, np.int64))
            last = x.build.node(f"{self.name}/last", "Gather", [y, index], axis=1)
        return y, last, states

    def _dropped(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return what this batch multiplies h (G, B, H) and x (G or 1, B, 1, I) by before they meet U and W, None for what drops nothing.

        Both are drawn once for all steps; for each gate apart as Keras does: those of h always, those of x with `implementation` 1, which
        recurrent dropout brings along.
        """
        if not x.build.training:
            return None, None
        dtype, of_h, of_x = x.value.dtype.name, None, None
        gates, B, I = GATES[self.op], x.shape[0], x.shape[2]
        if self.recurrent_dropout:
            shape = gates, B, self.units
            of_h = x.build.drop(f"{self.name}.recurrent_dropout", shape, self.recurrent_dropout, dtype, self)
        if self.dropout:
            shape = gates if self.implementation == 1 else 1, B, 1, I
            of_x = x.build.drop(f"{self.name}.dropout", shape, self.dropout, dtype, self)
        return of_h, of_x

    def _kept_states(self, x: Tensor) -> list[Tensor]:
        """Return the states that the last batch left, as values that each step of training replaces; none where nothing is kept."""
        if not x.build.penalised:
            return []
        rows = x.shape[0]
        if not isinstance(rows, int):
            raise self.fault(
                ShapeError, "stateful=True needs the size of a batch: pass Input(batch_shape=(batch, steps, features))"
            )
        tensors = []
        for k in range(self.states):
            role = f"state{k}"
            if role not in self._arrays or self._arrays[role].shape != (rows, self.units):
                self._arrays[role] = np.zeros((rows, self.units), x.value.dtype)
            if (self, role) not in x.build.entered:
                x.build.entered[self, role] = x.build.parameter(f"{self.name}.{role}", self._arrays[role], False)
            tensors.append(x.build.entered[self, role])
        return tensors

    def parameters(self, build: Build) -> list[Tensor | None]:
        """Return W, U and the biases as values of the graph."""
        W, U = self.add_weight(build, "W", "kernel"), self.add_weight(build, "U", "recurrent_kernel")
        return [W, U, *self.biases(build)]

    def biases(self, build: Build) -> list[Tensor | None]:
        """Return the biases as values of the graph."""
        return [self.add_weight(build, "b", "bias")]

    def slots(self, initial: list[Tensor], mask: Tensor | None) -> list[Tensor | None]:
        """Return the inputs after the biases, in the order of the op."""
        return [*(initial or [None] * self.states), mask]

    def attributes(self) -> dict[str, Any]:
        return {}


class LSTM(Recurrent):
    """Long short-term memory; kernel (I, 4H), recurrent_kernel (H, 4H), bias (4H,), gates i f c o."""

    op = "LSTM"
    states = 2

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        unit_forget_bias: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        inner = activation_of(activation, name or "lstm")
        kinds = (activation_of(recurrent_activation, name or "lstm"), inner, inner)
        super().__init__(units, kinds, name=name, **options)
        self.unit_forget_bias = unit_forget_bias

    def initial_value(self, role: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        made = super().initial_value(role, shape, dtype)
        if role == "bias" and self.unit_forget_bias:
            made[self.units : 2 * self.units] = 1
        return made

    def slots(self, initial: list[Tensor], mask: Tensor | None) -> list[Tensor | None]:
        return [*(initial or [None, None]), None, mask]


class GRU(Recurrent):
    """Gated recurrent unit; kernel (I, 3H), recurrent_kernel (H, 3H), bias (2, 3H) or (3H,), gates z r h."""

    op = "GRU"

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        reset_after: bool = True,
        name: str | None = None,
        **options: Any,
    ):
        kinds = (activation_of(recurrent_activation, name or "gru"), activation_of(activation, name or "gru"))
        super().__init__(units, kinds, name=name, **options)
        self.reset_after = reset_after

    def biases(self, build: Build) -> list[Tensor | None]:
        """Return b (3H,) and bn (H,): of (2, 3H), input row and recurrent row, only the candidate's two biases stay apart."""
        bias = self.add_weight(build, "bias" if self.reset_after else "b", "bias")
        if bias is None or not self.reset_after:
            return [bias, None]
        if (self, "b") not in build.entered:
            sizes = build.ints(f"{self.name}.gates", 2 * self.units, self.units)
            gates, candidate = build.node(f"{self.name}/biases", "Split", [bias, sizes], 2, axis=1)
            first, second = (build.weight(f"{self.name}.row", np.array(k, np.int64)) for k in (0, 1))
            row = lambda of, k: build.node(f"{self.name}/bias", "Gather", [of, k], axis=0)
            both = build.node(f"{self.name}/bias", "Add", [row(gates, first), row(gates, second)])
            build.entered[self, "b"] = build.node(f"{self.name}.b", "Concat", [both, row(candidate, first)], axis=0)
            build.entered[self, "bn"] = build.node(f"{self.name}.bn", "Gather", [candidate, second], axis=0)
        return [build.entered[self, "b"], build.entered[self, "bn"]]

    def attributes(self) -> dict[str, Any]:
        return {"reset": "after" if self.reset_after else "before"}


class SimpleRNN(Recurrent):
    """activation(x @ kernel + h @ recurrent_kernel + bias)."""

    op = "RNN"

    def __init__(self, units: int, activation: Any = "tanh", name: str | None = None, **options: Any):
        super().__init__(units, (activation_of(activation, name or "simple_rnn"),), name=name, **options)


def activation_of(name: Any, layer: str) -> Activation:
    return activation(name, layer)


def with_states(x: Any, initial_state: Any) -> tuple[Tensor, list[Tensor]]:
    """Return the input and the initial states, which Keras 2 also takes as further inputs."""
    x, *first = x if isinstance(x, list | tuple) else (x,)
    return x, [*first, *leaves(initial_state)]


class RNN(Layer):
    """Cells stacked within one layer, as RNN(StackedRNNCells) or RNN(cell): each cell is one of the layers above, or of `layers.cells`.

    States stand cell by cell. Masks stop every cell alike.
    """

    input_kind = "sequences"

    def __init__(
        self,
        cells: "Sequence[Recurrent] | Recurrent | StackedRNNCells",
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(name, **options)
        stacked: Any = getattr(cells, "cells", cells)
        given: list[Any] = [stacked] if isinstance(stacked, Layer) else list(stacked)
        self.cells: list[Recurrent] = given
        for cell in self.cells:
            if not isinstance(cell, Recurrent):
                raise self.fault(UnsupportedError, f"a cell of class {type(cell).__name__} is not supported")
            cell.stateful = stateful
        self.return_sequences, self.return_state, self.stateful = return_sequences, return_state, stateful
        self.go_backwards, self.zero_output_for_mask, self.unroll = go_backwards, zero_output_for_mask, unroll
        self.rename(self.name)

    def rename(self, name: str) -> None:
        super().rename(name)
        for k, cell in enumerate(self.cells):
            if cell.auto_named:
                cell.rename(f"{name}/{k}")

    @property
    def parts(self) -> tuple[Layer, ...]:
        return tuple(self.cells)

    def make_weights(self, x: Any, dtype: str) -> None:
        x = x[0] if isinstance(x, list) else x
        for cell in self.cells:
            cell.make_weights(x, cell.dtype or dtype)
            x = (*x[:2], cell.units)

    def twin(self) -> "RNN":
        """Return a layer of the same configuration that runs the other way, with weights of its own."""
        other = copy(self)
        other.cells = [cell.twin() for cell in self.cells]
        other.go_backwards, other.name = not self.go_backwards, f"backward_{self.name}"
        return other

    @property
    def differs_in_training(self) -> bool:
        return any(cell.differs_in_training for cell in self.cells)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"{k}.{role}" for k, cell in enumerate(self.cells) for role in cell.roles)

    @property
    def states(self) -> int:
        return sum(cell.states for cell in self.cells)

    def run(self, x: Tensor, initial: Sequence[Tensor], sequences: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Add the nodes; as Recurrent.run."""
        states: list[Tensor] = []
        rest = list(initial)
        y, last = x, x
        for k, cell in enumerate(self.cells):
            cell.go_backwards, cell.zero_output_for_mask, cell.unroll = (
                self.go_backwards,
                self.zero_output_for_mask,
                self.unroll,
            )
            own, rest = rest[: cell.states], rest[cell.states :]
            y, last, final = cell.run(y.with_mask(x.mask), own, sequences or k < len(self.cells) - 1)
            states += final
        return y, last, states

    def call(self, x: Any, initial_state: Sequence[Tensor] | Tensor | None = None) -> Any:
        return Recurrent.call(self, x, initial_state)  # type: ignore[arg-type]


class Bidirectional(Layer):
    """A layer forwards and its twin backwards over time, their outputs joined in time order.

    merge_mode: "concat", "sum", "mul", "ave", or None for both outputs apart. Masked steps are zero with return_sequences,
    carried without. Initial states: the first half goes forwards. Without a `backward_layer`, one is made from the layer's configuration.
    """

    input_kind = "sequences"

    def __init__(
        self,
        layer: Recurrent | RNN,
        merge_mode: Literal["concat", "sum", "mul", "ave"] | None = "concat",
        weights: Sequence[np.ndarray] | None = None,
        backward_layer: Recurrent | RNN | None = None,
        name: str | None = None,
        **options: Any,
    ):
        for part in (layer, backward_layer):
            if not isinstance(part, Recurrent | RNN | None):
                raise UnsupportedError(
                    f"layer {name or 'bidirectional'!r}: Bidirectional({type(part).__name__}) is not supported"
                )
        backward_layer = layer.twin() if backward_layer is None else backward_layer
        self.forward, self.backward, self.merge_mode = layer, backward_layer, merge_mode
        super().__init__(name, weights=weights, **{**layer.first, **options})
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise UnsupportedError(f"layer {self.name!r}: merge_mode {merge_mode!r} is not supported")
        self.rename(self.name)
        for part in (layer, backward_layer):
            part.zero_output_for_mask = layer.return_sequences
        if layer.go_backwards == backward_layer.go_backwards:
            raise UnsupportedError(f"layer {self.name!r}: both layers of Bidirectional run in the same direction")

    def rename(self, name: str) -> None:
        super().rename(name)
        for part, direction in ((self.forward, "forward"), (self.backward, "backward")):
            if part.auto_named:
                part.rename(f"{name}/{direction}")

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.forward, self.backward)

    @property
    def roles(self) -> tuple[str, ...]:
        return (*(f"forward.{r}" for r in self.forward.roles), *(f"backward.{r}" for r in self.backward.roles))

    def make_weights(self, x: Any, dtype: str) -> None:
        for part in self.parts:
            part.make_weights(x, part.dtype or dtype)

    @property
    def differs_in_training(self) -> bool:
        return any(part.differs_in_training for part in self.parts)

    def call(self, x: Any, initial_state: Sequence[Tensor] | None = None) -> Any:
        x, initial = with_states(x, initial_state)
        half = len(initial) // 2
        sequences = self.forward.return_sequences
        results = []
        for part, own in ((self.forward, initial[:half]), (self.backward, initial[half:])):
            y, last, states = part.run(x, own, sequences)
            results.append((y if sequences else last, states))
        (a, a_states), (b, b_states) = results
        if self.forward.go_backwards and sequences:
            # Keras flips the second layer's output alone: the outputs are then in the order of reversed time
            a, b = (x.build.node(f"{self.name}/flip", "Reverse", [t], axis=1) for t in (a, b))
        mask = x.mask if sequences else None
        if self.merge_mode is None:
            merged: tuple[Tensor, ...] = (a.with_mask(mask), b.with_mask(mask))
        else:
            merged = (self._merge(a, b).with_mask(mask),)
        if self.forward.return_state:
            return (*merged, *a_states, *b_states)
        return merged if len(merged) > 1 else merged[0]

    def _merge(self, a: Tensor, b: Tensor) -> Tensor:
        if self.merge_mode == "concat":
            return a.build.node(self.name, "Concat", [a, b], axis=-1)
        if self.merge_mode == "mul":
            return a.build.node(self.name, "Mul", [a, b])
        total = a.build.node(self.name if self.merge_mode == "sum" else f"{self.name}/sum", "Add", [a, b])
        if self.merge_mode == "sum":
            return total
        return a.build.node(
            self.name, "Mul", [total, a.build.weight(f"{self.name}.half", np.array(0.5, total.value.dtype))]
        )

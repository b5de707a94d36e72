"""LSTM, GRU, SimpleRNN, RNN over cells, and Bidirectional, as Keras defines them.

A masked step keeps the state and repeats the output of the step processed before it, which starts as zeros (as on
TensorFlow), or gives zeros where `zero_output_for_mask`. `go_backwards` returns outputs in the order of processing.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fastlstm.errors import UnsupportedError
from fastlstm.layers.activations import activation
from fastlstm.layers.build import Build, Layer, Tensor
from fastlstm.ops.activations import Activation


class Recurrent(Layer):
    """What LSTM, GRU and SimpleRNN share."""

    op = ""
    states = 1
    unroll = False  # Keras's: the same numbers, but for the case that `run` refuses

    def __init__(
        self,
        units: int,
        activations: tuple[Activation, ...],
        use_bias: bool = True,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self.units, self.activations, self.use_bias = units, activations, use_bias
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.zero_output_for_mask = go_backwards, zero_output_for_mask

    @property
    def roles(self) -> tuple[str, ...]:
        return ("kernel", "recurrent_kernel", "bias") if self.use_bias else ("kernel", "recurrent_kernel")

    @property
    def weight_shapes(self) -> dict[str, tuple[int | None, ...]]:
        gates = {"LSTM": 4, "GRU": 3}.get(self.op, 1) * self.units
        bias = (2, gates) if getattr(self, "reset_after", False) else (gates,)
        return {"kernel": (None, gates), "recurrent_kernel": (self.units, gates), "bias": bias}

    def call(self, x: Tensor, initial_state: Sequence[Tensor] | Tensor | None = None) -> Any:
        initial = [initial_state] if isinstance(initial_state, Tensor) else list(initial_state or [])
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
        by_step = x.mask is not None and self.zero_output_for_mask and not sequences
        # the last output differs from the final state only where every step of a row is masked
        apart = x.mask is not None and bool(initial) and not self.zero_output_for_mask
        outputs = [sequences or by_step, *[True] * self.states, apart]
        attributes = {"masked_output": "zero" if self.zero_output_for_mask else "carry"} if x.mask is not None else {}
        names, alphas, betas = (tuple(part) for part in zip(*self.activations, strict=True))
        y, *rest = x.build.node(
            self.name,
            self.op,
            [x, *self.parameters(x.build), *self.slots(list(initial), x.mask)],
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
        last = rest[self.states] if apart else states[0]
        if by_step:
            index = x.build.weight(f"{self.name}.last", np.array(0 if self.go_backwards else -1, np.int64))
            last = x.build.node(f"{self.name}/last", "Gather", [y, index], axis=1)
        return y, last, states

    def parameters(self, build: Build) -> list[Tensor | None]:
        """Return W, U and the biases as values of the graph."""
        kernels = [
            self.add_weight(build, role, self.weight(name))
            for role, name in (("W", "kernel"), ("U", "recurrent_kernel"))
        ]
        return [*kernels, *self.biases(build)]

    def biases(self, build: Build) -> list[Tensor | None]:
        """Return the biases as values of the graph."""
        return [self.add_weight(build, "b", self.weight("bias"))]

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
        name: str | None = None,
        **options: Any,
    ):
        name = name or "lstm"
        inner = _cell_activation(activation, name)
        super().__init__(units, (_cell_activation(recurrent_activation, name), inner, inner), name=name, **options)

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
        name = name or "gru"
        kinds = (_cell_activation(recurrent_activation, name), _cell_activation(activation, name))
        super().__init__(units, kinds, name=name, **options)
        self.reset_after = reset_after

    def biases(self, build: Build) -> list[Tensor | None]:
        b, bn = self.weight("bias"), None
        if b is not None and self.reset_after:
            b, bn = split_reset_after_bias(b)
        return [self.add_weight(build, "b", b), self.add_weight(build, "bn", bn)]

    def attributes(self) -> dict[str, Any]:
        return {"reset": "after" if self.reset_after else "before"}


def split_reset_after_bias(bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2, 3H), input row and recurrent row -> b (3H,) and bn (H,): only the candidate's two biases stay apart."""
    H = bias.shape[1] // 3
    b = bias[0].copy()
    b[: 2 * H] += bias[1, : 2 * H]
    return b, bias[1, 2 * H :].copy()


class SimpleRNN(Recurrent):
    """activation(x @ kernel + h @ recurrent_kernel + bias)."""

    op = "RNN"

    def __init__(self, units: int, activation: Any = "tanh", name: str | None = None, **options: Any):
        name = name or "simple_rnn"
        super().__init__(units, (_cell_activation(activation, name),), name=name, **options)


def _cell_activation(name: Any, layer: str) -> Activation:
    return activation(name, layer)


class RNN(Layer):
    """Cells stacked within one layer, as RNN(StackedRNNCells) or RNN(cell): each cell is one of the layers above.

    States stand cell by cell. Masks stop every cell alike.
    """

    unroll = False

    def __init__(
        self,
        cells: Sequence[Recurrent],
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        zero_output_for_mask: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self.cells = list(cells)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.zero_output_for_mask = go_backwards, zero_output_for_mask

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"{k}.{role}" for k, cell in enumerate(self.cells) for role in cell.roles)

    @property
    def states(self) -> int:
        return sum(cell.states for cell in self.cells)

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        super().set_weights(weights)
        rest = list(weights)
        for cell in self.cells:
            cell.set_weights(rest[: len(cell.roles)])
            rest = rest[len(cell.roles) :]

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

    def call(self, x: Tensor, initial_state: Sequence[Tensor] | Tensor | None = None) -> Any:
        return Recurrent.call(self, x, initial_state)  # type: ignore[arg-type]


class Bidirectional(Layer):
    """A layer forwards and its twin backwards over time, their outputs joined in time order.

    merge_mode: "concat", "sum", "mul", "ave", or None for both outputs apart. Masked steps are zero with return_sequences,
    carried without. Initial states: the first half goes forwards.
    """

    def __init__(
        self,
        layer: Recurrent | RNN,
        backward_layer: Recurrent | RNN,
        merge_mode: Literal["concat", "sum", "mul", "ave"] | None = "concat",
        name: str | None = None,
    ):
        super().__init__(name)
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise UnsupportedError(f"layer {self.name!r}: merge_mode {merge_mode!r} is not supported")
        self.forward, self.backward, self.merge_mode = layer, backward_layer, merge_mode
        for part in (layer, backward_layer):
            part.zero_output_for_mask = layer.return_sequences
        if layer.go_backwards == backward_layer.go_backwards:
            raise UnsupportedError(f"layer {self.name!r}: both layers of Bidirectional run in the same direction")

    @property
    def roles(self) -> tuple[str, ...]:
        return (*(f"forward.{r}" for r in self.forward.roles), *(f"backward.{r}" for r in self.backward.roles))

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        super().set_weights(weights)
        count = len(self.forward.roles)
        self.forward.set_weights(weights[:count])
        self.backward.set_weights(weights[count:])

    def call(self, x: Tensor, initial_state: Sequence[Tensor] | None = None) -> Any:
        initial = list(initial_state or [])
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

"""ConvLSTM1D, ConvLSTM2D and ConvLSTM3D: LSTMs whose products are convolutions, step by step.

    z_t = conv(x_t, W) + b + conv(h_{t-1}, U), gates i f c o of z_t along its last axis
    c_t = f c_{t-1} + i tanh(g)        h_t = o tanh(c_t)

Input (B, T, ..., C); W (K, ..., C, 4F), U (K, ..., F, 4F). The convolutions of x are one, over all steps; the steps are
nodes of their own, so their number is known.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.errors import ShapeError, UnsupportedError
from fastlstm.layers.activations import activate, activation
from fastlstm.layers.build import Tensor
from fastlstm.layers.convolution import PLAIN, Convolution
from fastlstm.layers.layer import rate_of, size_of
from fastlstm.layers.recurrent import with_states
from fastlstm.ops.activations import Activation


class ConvLSTM(Convolution):
    """What ConvLSTM1D, 2D and 3D share. Masked steps keep the states and repeat the output, which starts as zeros."""

    initial = {"kernel": "glorot_uniform", "recurrent_kernel": "orthogonal", "bias": "zeros"}
    ignored = ("seed", "implementation", "unroll")

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        unit_forget_bias: bool = True,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(kernel_size, strides, padding, data_format, dilation_rate, None, use_bias, name, **options)
        self.filters = size_of(self, "filters", filters)
        self.cell, self.gate = (_of_cell(kind, self.name) for kind in (activation, recurrent_activation))
        self.unit_forget_bias, self.stateful = unit_forget_bias, stateful
        self.return_sequences, self.return_state, self.go_backwards = return_sequences, return_state, go_backwards
        self.rates = rate_of(self, dropout), rate_of(self, recurrent_dropout, "recurrent_dropout")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("kernel", "recurrent_kernel", "bias") if self.use_bias else ("kernel", "recurrent_kernel")

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        x, gates = x[0] if isinstance(x, list) else x, 4 * self.filters
        channels = x[-1] if x else None
        return {
            "kernel": (*self.sizes, channels, gates),
            "recurrent_kernel": (*self.sizes, self.filters, gates),
            "bias": (gates,),
        }

    def initial_value(self, role: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        made = super().initial_value(role, shape, dtype)
        if role == "bias" and self.unit_forget_bias:
            made[self.filters : 2 * self.filters] = 1
        return made

    @property
    def differs_in_training(self) -> bool:
        return any(self.rates)

    def call(self, x: Any, initial_state: Sequence[Tensor] | Tensor | None = None) -> Any:
        x, initial = with_states(x, initial_state)
        if x.build.training and any(self.rates):
            raise self.fault(UnsupportedError, "dropout of a ConvLSTM is not supported in training")
        if initial and len(initial) != 2:
            raise self.fault(UnsupportedError, f"takes 2 initial states, got {len(initial)}")
        steps = x.shape[1]
        if len(x.shape) != self.axes + 3 or not isinstance(steps, int) or steps < 1:
            raise self.fault(ShapeError, f"takes inputs (batch, steps, ..., channels) of known steps, got {x.shape}")
        x.build.steps_matter = True
        outputs, h, c = self._steps(x, steps, initial)
        if self.return_sequences:
            axis = x.build.ints(f"{self.name}.axis", 1)
            parts = [x.build.node(f"{self.name}/output", "Unsqueeze", [y, axis]) for y in outputs]
            y = x.build.node(self.name, "Concat", parts, axis=1).with_mask(x.mask)
        else:
            y = outputs[-1]
        return (y, h, c) if self.return_state else y

    def _steps(self, x: Tensor, steps: int, initial: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the outputs in the order of processing, and the final h and c."""
        build, name = x.build, self.name
        W, U, b = (
            self.add_weight(build, n, role) for n, role in (("W", "kernel"), ("U", "recurrent_kernel"), ("b", "bias"))
        )
        assert W is not None and U is not None
        merged = build.node(f"{name}/steps", "MergeAxes", [x.with_mask(None)])
        projected = self.convolved(*self.padded(merged), W, b, activation=PLAIN, name=f"{name}/x")
        z = build.node(f"{name}/projections", "SplitAxis", [projected, x])
        one = (1,) * self.axes
        same = [((size - 1) // 2, size // 2) for size in self.sizes]
        h, c = initial if initial else (None, None)
        y: Tensor | None = None
        outputs: list[Tensor] = []
        for t in reversed(range(steps)) if self.go_backwards else range(steps):
            at = build.weight(f"{name}.step", np.array(t, np.int64))
            z_t = build.node(f"{name}/z", "Gather", [z, at], axis=1)
            if h is not None:
                recurrent = self.convolved(h, same, U, None, 1, PLAIN, one, one, f"{name}/h")
                z_t = build.node(f"{name}/z", "Add", [z_t, recurrent])
            h_new, c_new = self._cell(z_t, c)
            if x.mask is None:
                h, c, y = h_new, c_new, h_new
            else:
                valid = build.node(f"{name}/valid", "Gather", [x.mask, at], axis=1)
                valid = build.node(
                    f"{name}/valid", "Unsqueeze", [valid, build.ints(f"{name}.axes", *range(1, self.axes + 2))]
                )
                y, h, c = (self._where(valid, new, old) for new, old in ((h_new, y), (h_new, h), (c_new, c)))
            outputs.append(y)
        assert h is not None and c is not None
        return outputs, h, c

    def _cell(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return h and the new c of one step; no c before stands for zeros."""
        build, name, F = z.build, self.name, self.filters
        i, f, g, o = build.node(f"{name}/gates", "Split", [z, build.ints(f"{name}.sizes", F, F, F, F)], 4, axis=-1)
        i, f, o = (activate(gate, f"{name}/gate", self.gate) for gate in (i, f, o))
        new = build.node(f"{name}/new", "Mul", [i, activate(g, f"{name}/candidate", self.cell)])
        if c is not None:
            new = build.node(f"{name}/c", "Add", [build.node(f"{name}/kept", "Mul", [f, c]), new])
        return build.node(f"{name}/h", "Mul", [o, activate(new, f"{name}/shown", self.cell)]), new

    def _where(self, valid: Tensor, new: Tensor, old: Tensor | None) -> Tensor:
        if old is None:
            old = new.build.weight(f"{self.name}.zero", np.zeros((), new.value.dtype))
        return new.build.node(f"{self.name}/kept", "Where", [valid, new, old])


class ConvLSTM1D(ConvLSTM):
    """A ConvLSTM over sequences of sequences: input (B, T, W, C)."""


class ConvLSTM2D(ConvLSTM):
    """A ConvLSTM over sequences of images: input (B, T, H, W, C)."""

    axes = 2


class ConvLSTM3D(ConvLSTM):
    """A ConvLSTM over sequences of volumes: input (B, T, D, H, W, C)."""

    axes = 3


def _of_cell(kind: Any, layer: str) -> Activation:
    return activation(kind, layer)

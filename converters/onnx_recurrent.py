"""Handlers of ONNX's LSTM, GRU and RNN: each direction becomes a node of ours, in our gate order and orientation.

Weights may be values of the run: the same nodes reorder them, and fold away where they are constant.
"""

import numpy as np

from fastlstm.converters import gates
from fastlstm.converters.onnx_graph import OnnxNode, handler, is_zero
from fastlstm.errors import ModelFileError
from fastlstm.layers import Tensor
from fastlstm.ops.activations import ACTIVATIONS

_ONNX_ACTIVATIONS = {
    name.lower(): name
    for name in ("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus")
}  # fmt: skip


def _activations(node: OnnxNode, defaults: tuple[str, ...], directions: int) -> list[list[tuple[str, float, float]]]:
    """Return (name, alpha, beta) of each direction's functions; coefficients go in order to the functions that have them."""
    names = [_text(name) for name in node.attribute("activations") or list(defaults) * directions]
    alphas, betas = list(node.attribute("activation_alpha") or []), list(node.attribute("activation_beta") or [])
    if len(names) == len(defaults) and directions == 2 and not (alphas or betas):
        names = names * 2
    if len(names) != len(defaults) * directions:
        raise node.refuse("attribute activations", names)
    result = []
    for name in names:
        if name.lower() not in _ONNX_ACTIVATIONS:
            raise node.refuse("attribute activations", name)
        name = _ONNX_ACTIVATIONS[name.lower()]
        known = ACTIVATIONS[name]
        alpha = alphas.pop(0) if known.has_alpha and alphas else known.alpha
        beta = betas.pop(0) if known.has_beta and betas else known.beta
        result.append((name, float(alpha), float(beta)))
    count = len(defaults)
    return [result[d * count : (d + 1) * count] for d in range(directions)]


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class _Recurrence:
    """What the three operators share: directions, states, lengths, and the stacking of outputs."""

    def __init__(self, node: OnnxNode, defaults: tuple[str, ...], order: tuple[int, ...]):
        self.node, self.order = node, order
        direction = _text(node.attribute("direction", "forward"))
        if direction not in ("forward", "reverse", "bidirectional"):
            raise node.refuse("attribute direction", direction)
        self.directions = ("forward", "reverse") if direction == "bidirectional" else (direction,)
        self.activations = _activations(node, defaults, len(self.directions))
        self.batch_first = bool(node.attribute("layout", 0))
        clip = node.attribute("clip")
        if clip is not None and not clip > 0:
            raise node.refuse("attribute clip", clip)
        self.clip = float(clip or 0.0)
        node.ignore("output_sequence")
        self.x = node.input(0)
        recurrence = node.input(2).value.shape
        if recurrence is None or len(recurrence) != 3 or not isinstance(recurrence[2], int):
            raise node.refuse("shape of R", recurrence)
        self.hidden = recurrence[2]
        if node.attribute("hidden_size", self.hidden) != self.hidden:
            raise ModelFileError(
                f"node {node.name!r}: hidden_size is {node.attribute('hidden_size')}, but R has shape {recurrence}"
            )
        self._check("W", 1, (len(self.directions), len(order) * self.hidden, None))
        self._check("R", 2, (len(self.directions), len(order) * self.hidden, self.hidden))
        self._check("B", 3, (len(self.directions), 2 * len(order) * self.hidden))
        lengths = node.optional(4)
        self.mask = (
            None
            if lengths is None
            else node.emit("SequenceMask", [lengths, self.x], suffix="/mask", batch_first=self.batch_first)
        )

    def _check(self, role: str, index: int, wanted: tuple[int | None, ...]) -> None:
        tensor = self.node.optional(index)
        shape = None if tensor is None else tensor.value.shape
        if shape is None:
            return
        fits = len(shape) == len(wanted) and all(
            w is None or not isinstance(d, int) or d == w for d, w in zip(shape, wanted, strict=True)
        )
        if not fits:
            raise ModelFileError(f"node {self.node.name!r}: {role} has shape {shape}, expected {wanted}")

    def part(self, tensor: Tensor, d: int, axis: int = 0, suffix: str = "") -> Tensor:
        """Return one direction of a value stacked along `axis`."""
        index = self.node.build.weight(f"{self.node.name}.{d}", np.array(d, np.int64))
        return self.node.emit("Gather", [tensor, index], suffix=f"/{self.directions[d]}{suffix}", axis=axis)

    def rows(self, tensor: Tensor, order: tuple[int, ...], suffix: str) -> Tensor:
        """Return rows of gates in our order."""
        if order == tuple(range(len(order))):
            return tensor
        index = self.node.build.weight(f"{self.node.name}.order", gates.row_order(order, self.hidden))
        return self.node.emit("Gather", [tensor, index], suffix=suffix, axis=0)

    def kernel(self, index: int, d: int) -> Tensor:
        """Return W or R of a direction as (K, gates * H)."""
        role = "/W" if index == 1 else "/U"
        rows = self.rows(self.part(self.node.input(index), d, suffix=role), self.order, f"/{self.directions[d]}{role}")
        return self.node.emit("Transpose", [rows], suffix=f"/{self.directions[d]}{role}", perm=(1, 0))

    def cut(self, tensor: Tensor, start: int, stop: int, suffix: str) -> Tensor:
        """Return tensor[start:stop]."""
        bounds = [self.node.ints(role, [v]) for role, v in (("start", start), ("stop", stop))]
        return self.node.emit("Slice", [tensor, *bounds], suffix=suffix)

    def biases(self, d: int) -> tuple[Tensor, Tensor] | None:
        """Return the input and the recurrent bias of a direction, each (gates * H,), in our order."""
        bias = self.node.optional(3)
        if bias is None:
            return None
        both = self.part(bias, d, suffix="/b")
        size = len(self.order) * self.hidden
        halves = (self.cut(both, k * size, (k + 1) * size, f"/{self.directions[d]}/b") for k in (0, 1))
        first, second = (self.rows(half, self.order, f"/{self.directions[d]}/b") for half in halves)
        return first, second

    def bias(self, d: int) -> Tensor | None:
        """Return the sum of both biases."""
        both = self.biases(d)
        return None if both is None else self.node.emit("Add", both, suffix=f"/{self.directions[d]}/b")

    def state(self, index: int, d: int) -> Tensor | None:
        """Return an initial state of a direction, None where it is absent or all zeros."""
        tensor = self.node.optional(index)
        if tensor is None or is_zero(self.node.build, tensor):
            return None
        return self.part(tensor, d, 1 if self.batch_first else 0, "/state")

    def emit(
        self, op: str, d: int, inputs: list[Tensor | None], states: int, **attributes
    ) -> tuple[Tensor | None, ...]:
        """Add the node of one direction; return its outputs Y, Y_h (and Y_c)."""
        wanted = [self.node.wants(k) for k in range(1 + states)]
        names, alphas, betas = (tuple(part) for part in zip(*self.activations[d], strict=True))
        masked = {"masked_output": "zero", "empty_state": "zero"} if self.mask is not None else {}
        suffix = f"/{self.directions[d]}" if len(self.directions) == 2 else ""
        return self.node.emit(
            op, inputs, wanted, suffix, direction=self.directions[d], batch_first=self.batch_first,
            activations=names, alphas=alphas, betas=betas, clip=self.clip, **masked, **attributes,
        )  # fmt: skip

    def stack(self, results: list[tuple[Tensor | None, ...]]) -> list[Tensor | None]:
        """Return ONNX's outputs: directions stacked along an axis of their own."""
        outputs: list[Tensor | None] = []
        for k in range(max(len(result) for result in results)):
            parts = [result[k] for result in results]
            if any(part is None for part in parts):
                outputs.append(None)
                continue
            axis = (2 if k == 0 else 1) if self.batch_first else (1 if k == 0 else 0)
            axes = self.node.ints("axes", [axis])
            raised = [self.node.emit("Unsqueeze", [part, axes], suffix="/direction") for part in parts]
            outputs.append(
                raised[0] if len(raised) == 1 else self.node.emit("Concat", raised, suffix="/directions", axis=axis)
            )
        return outputs


@handler("LSTM")
def _lstm(node: OnnxNode):
    it = _Recurrence(node, ("Sigmoid", "Tanh", "Tanh"), gates.ONNX_LSTM)
    coupled = bool(node.attribute("input_forget", 0))
    results = []
    for d in range(len(it.directions)):
        peepholes = node.optional(7)
        P = None
        if peepholes is not None:
            rows = it.rows(it.part(peepholes, d, suffix="/P"), gates.ONNX_PEEPHOLES, "/P")
            P = node.emit("Reshape", [rows, node.ints("shape", [3, it.hidden])], suffix="/P")
        inputs = [it.x, it.kernel(1, d), it.kernel(2, d), it.bias(d), it.state(5, d), it.state(6, d), P, it.mask]
        results.append(it.emit("LSTM", d, inputs, 2, input_forget=coupled))
    return it.stack(results)


@handler("GRU")
def _gru(node: OnnxNode):
    it = _Recurrence(node, ("Sigmoid", "Tanh"), gates.ONNX_GRU)
    reset = "after" if node.attribute("linear_before_reset", 0) else "before"
    results = []
    for d in range(len(it.directions)):
        both = it.biases(d)
        b, bn = None, None
        if both is not None:
            side = f"/{it.directions[d]}/b"
            bn = it.cut(both[1], 2 * it.hidden, 3 * it.hidden, side)
            zeros = node.build.weight(f"{node.name}.zeros", np.zeros(it.hidden, both[1].value.dtype))
            gates_only = node.emit("Concat", [it.cut(both[1], 0, 2 * it.hidden, side), zeros], suffix=side, axis=0)
            b = node.emit("Add", [both[0], gates_only], suffix=side)
        inputs = [it.x, it.kernel(1, d), it.kernel(2, d), b, bn, it.state(5, d), it.mask]
        results.append(it.emit("GRU", d, inputs, 1, reset=reset))
    return it.stack(results)


@handler("RNN")
def _rnn(node: OnnxNode):
    it = _Recurrence(node, ("Tanh",), gates.ONNX_RNN)
    results = []
    for d in range(len(it.directions)):
        inputs = [it.x, it.kernel(1, d), it.kernel(2, d), it.bias(d), it.state(5, d), it.mask]
        results.append(it.emit("RNN", d, inputs, 1))
    return it.stack(results)

"""Writers of LSTM, GRU and RNN: one direction each, with the axis of directions taken away again.

ONNX knows rows of different lengths as `sequence_lens`, the lengths of right-padded rows. A mask that SequenceMask makes of lengths is that; of
any other mask it is not known before a run whether its steps are the first ones, so the caller has to say so (`right_padded`).
"""

from typing import Any

import numpy as np

from fastlstm.converters import gates
from fastlstm.converters.onnx_write_ops import element_type
from fastlstm.converters.onnx_writer import Writing, writes
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.op import find

ONNX_ACTIVATIONS = {"Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"}  # fmt: skip


def _rows_of(order: tuple[int, ...]) -> list[int]:
    """Return which of our gates stand where in ONNX's order."""
    return np.argsort(order).tolist()


class _Recurrence:
    """What the three ops share."""

    def __init__(self, w: Writing, order: tuple[int, ...], h0: int, mask: int, states: int):
        self.w, self.order, self.h0, self.states = w, _rows_of(order), h0, states
        self.batch_first, self.forward = w.get("batch_first"), w.get("direction") == "forward"
        shape = w.value(2).shape
        if shape is None or not isinstance(shape[0], int):
            raise w.refuse("the number of units is not known")
        self.hidden = shape[0]
        self.x = w.transposed(w.inputs[0], 1, 0, 2) if self.batch_first else w.inputs[0]
        self.mask = w.inputs[mask] if w.given(mask) else ""
        self.lengths = self._lengths()

    def _lengths(self) -> str:
        w = self.w
        if not self.mask:
            return ""
        known = w.document.lengths.get(self.mask)
        if known is not None:
            return w.add("Cast", [known], to=element_type(np.int32))
        if not w.document.right_padded:
            raise w.refuse(
                "ONNX has lengths and no masks; where the valid steps of every row come first, say so with right_padded=True"
            )
        return w.reduced("ReduceSum", w.add("Cast", [self.mask], to=element_type(np.int32)), [1 if self.batch_first else 0], False)  # fmt: skip

    def gates_first(self, k: int) -> str:
        """Return W or U (K, gates H) as ONNX has it: (1, gates H, K) in ONNX's order."""
        return self.w.unsqueezed(self.by_gate(self.w.transposed(self.w.inputs[k], 1, 0), self.order), 0)

    def by_gate(self, x: str, order: list[int]) -> str:
        """Add the gates along the first axis in another order."""
        if order == list(range(len(order))):
            return x
        rows = gates.row_order(tuple(order), self.hidden)
        return self.w.add("Gather", [x, self.w.ints(*rows.tolist())], axis=0)

    def zeros(self, count: int) -> str:
        return self.w.constant(np.zeros(count, self.w.value().dtype))

    def state(self, k: int) -> str:
        return self.w.unsqueezed(self.w.inputs[k], 0) if self.w.given(k) else ""

    def activations(self) -> dict[str, Any]:
        """Return the attributes that name the functions, coefficients in the order of those that have them."""
        names = self.w.get("activations")
        alphas = self.w.get("alphas") or [ACTIVATIONS[name].alpha for name in names]
        betas = self.w.get("betas") or [ACTIVATIONS[name].beta for name in names]
        functions = [
            ("Affine", 1.0, 0.0) if one[0] == "Identity" else one for one in zip(names, alphas, betas, strict=True)
        ]
        others = [name for name, _, _ in functions if name not in ONNX_ACTIVATIONS]
        if others:
            raise self.w.refuse(f"ONNX has no recurrent activation {others[0]}")
        given = [alpha for name, alpha, _ in functions if ACTIVATIONS[name].has_alpha]
        also = [beta for name, _, beta in functions if ACTIVATIONS[name].has_beta]
        attributes: dict[str, Any] = {"activations": [name for name, _, _ in functions]}
        if tuple(attributes["activations"]) == find(self.w.node.op).attributes["activations"].default:
            attributes = {}
        return attributes | ({"activation_alpha": given} if given else {}) | ({"activation_beta": also} if also else {})

    def run(self, bias: str, *peepholes: str, **attributes) -> list[str]:
        """Add the node and what its outputs need; return ours: Y, the states, `last`."""
        w = self.w
        if w.get("clip"):
            attributes["clip"] = w.get("clip")
        states = [self.state(self.h0 + k) for k in range(self.states)]
        results = w.add(
            w.node.op, [self.x, self.gates_first(1), self.gates_first(2), bias, self.lengths, *states, *peepholes], 1 + self.states,
            direction=w.get("direction"), hidden_size=self.hidden, **self.activations(), **attributes,
        )  # fmt: skip
        y = w.squeezed(results[0], 1)
        ends = [w.squeezed(state, 0) for state in results[1:]]
        y = w.transposed(y, 1, 0, 2) if self.batch_first else y
        if not self.mask:
            return [y, *ends, ends[0]]
        last = ends[0]
        if w.get("masked_output") == "carry" and self.forward:
            y = w.add("Where", [w.unsqueezed(self.mask, 2), y, w.unsqueezed(last, 1 if self.batch_first else 0)])
        if w.get("empty_state") == "carry" and any(w.given(self.h0 + k) for k in range(self.states)):
            valid = w.unsqueezed(w.add("Greater", [self.lengths, w.constant(0, np.int32)]), 1)
            for k in range(self.states):
                if w.given(self.h0 + k):
                    ends[k] = w.add("Where", [valid, ends[k], w.inputs[self.h0 + k]])
        return [y, *ends, last]


def _bias(it: _Recurrence, k: int) -> str:
    """Return the biases (1, 2 gates H): ours, and zeros for the recurrent ones."""
    if not it.w.given(k):
        return ""
    count = len(it.order) * it.hidden
    both = it.w.add("Concat", [it.by_gate(it.w.inputs[k], it.order), it.zeros(count)], axis=0)
    return it.w.unsqueezed(both, 0)


@writes("LSTM")
def _lstm(w: Writing):
    it = _Recurrence(w, gates.ONNX_LSTM, h0=4, mask=7, states=2)
    peepholes = []
    if w.given(6):
        rows = it.by_gate(w.add("Reshape", [w.inputs[6], w.ints(-1)]), _rows_of(gates.ONNX_PEEPHOLES))
        peepholes = [w.unsqueezed(rows, 0)]
    return it.run(_bias(it, 3), *peepholes, **({"input_forget": 1} if w.get("input_forget") else {}))


@writes("GRU")
def _gru(w: Writing):
    it = _Recurrence(w, gates.ONNX_GRU, h0=5, mask=6, states=1)
    bias = ""
    if w.given(3) or w.given(4):
        b = w.inputs[3] if w.given(3) else it.zeros(3 * it.hidden)
        bn = w.inputs[4] if w.given(4) else it.zeros(it.hidden)
        bias = w.unsqueezed(w.add("Concat", [b, it.zeros(2 * it.hidden), bn], axis=0), 0)
    return it.run(bias, linear_before_reset=int(w.get("reset") == "after"))


@writes("RNN")
def _rnn(w: Writing):
    return (it := _Recurrence(w, gates.ONNX_RNN, h0=4, mask=5, states=1)).run(_bias(it, 3))

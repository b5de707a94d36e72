"""Gradients of LSTM and GRU against torch's: x, weights, biases and first states."""

import numpy as np
import pytest
from training import differences

from fastlstm.layers.build import Build, Tensor
from fastlstm.training.gradient import gradients
from fastlstm.training.unfused import TrainingBuild

torch = pytest.importorskip("torch")

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
GATES = {"LSTM": 4, "GRU": 3}
SIZES = [(7, 3, 5, 11), (4, 1, 2, 16), (9, 5, 13, 33), (1, 2, 3, 7)]  # T, B, I, H


class Layers:
    """Layers and directions of torch's module, in the graph: torch's matrices lie transposed, and a GRU's gates are r z n."""

    def __init__(self, build: Build, module, sizes: tuple[int, int, int, int], kind: str, dtype: str):
        self.build, self.module, self.kind, self.dtype = build, module, kind, dtype
        self.T, self.B, self.I, self.H = sizes
        self.wrt: list[Tensor] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.expected: list = []  # for each of `wrt`: what gives torch's gradient

    def input(self, name: str, array: np.ndarray, expected) -> Tensor:
        tensor = self.build.input(name, self.dtype, array.shape)
        self.feeds[tensor.name] = np.ascontiguousarray(array, self.dtype)
        self.wrt.append(tensor)
        self.expected.append(expected)
        return tensor

    def ours(self, array: np.ndarray) -> np.ndarray:
        """Return rows of torch's gates as our columns."""
        gates = np.split(array, GATES[self.kind])
        return np.concatenate([gates[k] for k in ((1, 0, 2) if self.kind == "GRU" else (0, 1, 2, 3))]).T

    def one(self, x: Tensor, suffix: str, direction: str, first: list[Tensor]) -> list[Tensor]:
        """Add one layer in one direction."""
        W, U, b, r = (
            getattr(self.module, f"{role}_{suffix}") for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        array = lambda parameter: self.ours(parameter.detach().numpy())
        gradient = lambda parameter: lambda: self.ours(parameter.grad.numpy())
        given = [x, self.input(f"W_{suffix}", array(W), gradient(W)), self.input(f"U_{suffix}", array(U), gradient(U))]
        if self.kind == "LSTM":
            given += [self.input(f"b_{suffix}", array(b) + array(r), gradient(b)), *first, None]
        else:
            H = self.H
            apart = np.concatenate([array(r)[: 2 * H], np.zeros(H)])
            given += [self.input(f"b_{suffix}", array(b) + apart, gradient(b))]
            given += [self.input(f"bn_{suffix}", array(r)[2 * H :], lambda: gradient(r)()[2 * H :]), *first]
        return self.build.node(
            f"layer_{suffix}", self.kind, given, [True] * (1 + len(first)), batch_first=True, direction=direction
        )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (3, False), (2, True)])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", list(GATES))
def test_gradients_are_those_of_torch(kind, sizes, layers, bidirectional, dtype):
    torch.manual_seed(sum(sizes))
    T, B, I, H = sizes
    precision, directions = getattr(torch, dtype), 2 if bidirectional else 1
    module = getattr(torch.nn, kind)(I, H, layers, batch_first=True, bidirectional=bidirectional, dtype=precision)
    draw = lambda *shape: torch.randn(*shape, dtype=precision, requires_grad=True)
    x, states = draw(B, T, I), [draw(layers * directions, B, H) for _ in range(2 if kind == "LSTM" else 1)]
    y, finals = module(x, tuple(states) if kind == "LSTM" else states[0])
    outputs = [y, *(finals if kind == "LSTM" else [finals])]
    weights = [torch.randn_like(one) for one in outputs]
    loss = sum((one * w).sum() for one, w in zip(outputs, weights, strict=True))
    loss.backward()

    build = TrainingBuild()
    net = Layers(build, module, sizes, kind, dtype)
    current = net.input("x", x.detach().numpy(), lambda: x.grad.numpy())
    parts = []
    for layer in range(layers):
        sides = []
        for side in range(directions):
            k = layer * directions + side
            first = [
                net.input(f"state{s}_{k}", state[k].detach().numpy(), lambda s=s, k=k: states[s].grad[k].numpy())
                for s, state in enumerate(states)
            ]
            out, *last = net.one(current, f"l{layer}{'_reverse' * side}", ("forward", "reverse")[side], first)
            sides.append(out)
            parts += [(one, w[k]) for one, w in zip(last, weights[1:], strict=True)]
        current = sides[0] if len(sides) == 1 else build.node(f"both{layer}", "Concat", sides, axis=2)
    parts.append((current, weights[0]))
    total = None
    for one, w in parts:
        part = differences.projected(build, one, build.weight("w", w.numpy()))
        total = part if total is None else total + part
    found = differences.run(build, [total, *gradients(build, total, net.wrt)], net.feeds)
    magnitude = sum(float((one * w).detach().abs().sum()) for one, w in zip(outputs, weights, strict=True))
    assert abs(float(found[0]) - loss.item()) < TOLERANCE[dtype] * magnitude
    for tensor, got, expected in zip(net.wrt, found[1:], net.expected, strict=True):
        wanted = expected()
        assert np.linalg.norm(got - wanted) < TOLERANCE[dtype] * np.linalg.norm(wanted), tensor.name

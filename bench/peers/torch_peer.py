"""PyTorch: modules in inference mode on tensors made before the call; for steps also LSTMCell, which has less around it."""

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bench.networks import Direction, Network, reordered
from bench.peers.base import Peer, Runner, Runners, Ticks, stepping

ORDER = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2)}  # torch's gates: i f g o, r z n


class Torch(Peer):
    name = "torch"

    def __init__(self, threads: int):
        super().__init__(threads)
        torch.set_num_threads(threads)
        # for the whole process: entering it at each call would cost torch a microsecond
        self._mode = torch.inference_mode()
        self._mode.__enter__()

    @property
    def version(self) -> str:
        return torch.__version__

    def module(self, network: Network) -> torch.nn.Module:
        kind = getattr(torch.nn, network.cell)
        module = kind(network.I, network.H, network.layers, bidirectional=network.bidirectional).eval()
        for layer, parts in enumerate(network.weights()):
            for part, suffix in zip(parts, ("", "_reverse"), strict=False):
                _fill(module, part, f"_l{layer}{suffix}", network.cell)
        return module

    def run(self, network: Network, x: np.ndarray) -> Runners:
        module, given = self.module(network), torch.from_numpy(x)
        call = lambda: module(given)[0]
        return {self.name: Runner(call, lambda: call().numpy())}

    def ragged(self, network: Network, x: np.ndarray, lengths: np.ndarray) -> Runners:
        module = self.module(network)
        packed = pack_padded_sequence(torch.from_numpy(x), torch.from_numpy(lengths), enforce_sorted=False)
        call = lambda: module(packed)[0]
        return {self.name: Runner(call, lambda: pad_packed_sequence(call(), total_length=network.T)[0].numpy())}

    def step(self, network: Network, xs: np.ndarray) -> Runners:
        shape, dense = (network.B, network.dense or network.H), self._dense(network)
        inputs = [torch.from_numpy(x.copy()) for x in xs]
        module, cell = self.module(network), self._cell(network)
        pair = network.cell == "LSTM"

        def single(x, state):
            # a cell returns its states alone; the first of them is its output
            state = cell(x, state)
            return (state[0] if pair else state), state

        return {
            self.name: stepping(*_carried(module, dense), [x[None] for x in inputs], shape),
            f"{self.name} cell": stepping(*_carried(single, dense), inputs, shape),
        }

    def arrivals(self, network: Network, ticks: Ticks) -> Runners:
        cell = self._cell(network)
        h = torch.zeros(network.B, network.H)
        c = torch.zeros(network.B, network.H)
        given = [(torch.from_numpy(rows), torch.from_numpy(x)) for rows, x in ticks]

        def reset() -> None:
            h.zero_()
            c.zero_()

        def step(tick):
            rows, x = tick
            h_next, c_next = cell(x, (h[rows], c[rows]))
            h[rows], c[rows] = h_next, c_next
            return h_next

        return {f"{self.name} cell": stepping(reset, step, given, (len(ticks[0][0]), network.H))}

    def train(self, network: Network, x: np.ndarray, target: np.ndarray) -> Runners:
        with torch.inference_mode(False):
            module = self.module(network).train()
            given, wanted = torch.from_numpy(x.copy()), torch.from_numpy(target.copy())
            weights = list(module.parameters())

        def call():
            with torch.inference_mode(False):
                loss = torch.nn.functional.mse_loss(module(given)[0], wanted)
                return loss, torch.autograd.grad(loss, weights)

        def outputs() -> np.ndarray:
            order = tuple(np.argsort(ORDER[network.cell]))
            found = dict(zip((name for name, _ in module.named_parameters()), call()[1], strict=True))
            arrays = []
            for layer, parts in enumerate(network.weights()):
                for _, suffix in zip(parts, ("", "_reverse"), strict=False):
                    part = Direction(
                        *(
                            reordered(found[f"{name}_l{layer}{suffix}"].numpy().T, order)
                            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                        )
                    )
                    arrays += network.trained(part)
            return np.concatenate([array.ravel() for array in arrays])

        return {self.name: Runner(call, outputs)}

    def _cell(self, network: Network) -> torch.nn.Module:
        cell = getattr(torch.nn, f"{network.cell}Cell")(network.I, network.H).eval()
        _fill(cell, network.weights()[0][0], "", network.cell)
        return cell

    def _dense(self, network: Network):
        if not network.dense:
            return lambda y: y
        kernel, bias = (torch.from_numpy(array) for array in network.dense_weights())
        weight = kernel.T.contiguous()
        return lambda y: torch.nn.functional.linear(y, weight, bias)


def _carried(call, dense):
    """Return reset and step of call(x, state) -> (y, state), of which `dense` makes the output."""
    state = None

    def reset() -> None:
        nonlocal state
        state = None

    def step(x):
        nonlocal state
        y, state = call(x, state)
        return dense(y)

    return reset, step


def _fill(module: torch.nn.Module, part, suffix: str, cell: str) -> None:
    arrays = {"weight_ih": part.W, "weight_hh": part.U, "bias_ih": part.b, "bias_hh": part.bu}
    for name, array in arrays.items():
        getattr(module, name + suffix).detach().copy_(
            torch.from_numpy(np.ascontiguousarray(reordered(array, ORDER[cell]).T))
        )

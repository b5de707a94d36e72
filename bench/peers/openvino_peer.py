"""OpenVINO: the ONNX file at fixed shapes, float32, latency hint; inputs and outputs stay in tensors of the request."""

from typing import Any

import numpy as np
import openvino

from bench.networks import Network
from bench.onnx_files import sequence_file, step_file
from bench.peers.base import Peer, Runner, Runners, Ticks, stepping


class OpenVINO(Peer):
    name = "openvino"

    def __init__(self, threads: int):
        super().__init__(threads)
        self._core = openvino.Core()

    @property
    def version(self) -> str:
        return openvino.__version__.partition("-")[0]

    def compiled(self, file: bytes, shapes: dict[str, list[int]]) -> Any:
        model = self._core.read_model(file)
        model.reshape(shapes)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            # pinned threads would keep the other engines of this process off a core
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(model, "CPU", options)

    def run(self, network: Network, x: np.ndarray) -> Runners:
        return self._sequences(sequence_file(network), network, {"X": x})

    def ragged(self, network: Network, x: np.ndarray, lengths: np.ndarray) -> Runners:
        return self._sequences(
            sequence_file(network, lengths=True), network, {"X": x, "lengths": lengths.astype(np.int32)}
        )

    def _sequences(self, file: bytes, network: Network, given: dict[str, np.ndarray]) -> Runners:
        request = self.compiled(file, {name: list(a.shape) for name, a in given.items()}).create_infer_request()
        tensors = {name: openvino.Tensor(array, shared_memory=True) for name, array in given.items()}
        for name, tensor in tensors.items():
            request.set_tensor(name, tensor)
        y = request.get_output_tensor(0)

        # shared memory is kept alive by the tensors here, and by nothing in the request
        def call(_kept=tensors):
            request.infer()
            return y.data

        return {self.name: Runner(call, lambda: call().reshape(network.T, network.B, -1).copy())}

    def step(self, network: Network, xs: np.ndarray) -> Runners:
        reset, step = self._step(network, network.B)[:2]
        shape = (network.B, network.dense or network.H)
        return {self.name: stepping(reset, step, [x[None] for x in xs], shape)}

    def arrivals(self, network: Network, ticks: Ticks) -> Runners:
        count = len(ticks[0][0])
        _, advance, load, read = self._step(network, count)
        kept = [np.zeros((1, network.B, network.H), np.float32) for _ in range(2)]

        def reset() -> None:
            for state in kept:
                state[...] = 0

        def step(tick):
            rows, x = tick
            load([state[:, rows] for state in kept])
            y = advance(x[None])
            for state, value in zip(kept, read(), strict=True):
                state[:, rows] = value
            return y

        return {self.name: stepping(reset, step, ticks, (count, network.H))}

    def _step(self, network: Network, rows: int):
        """Return reset, step, and what sets and gets the states: two requests take turns, each reading what the other wrote."""
        names = ["h", "c"] if network.cell == "LSTM" else ["h"]
        shapes = {"X": [1, rows, network.I], **{name: [1, rows, network.H] for name in names}}
        compiled = self.compiled(step_file(network), shapes)
        x_buffer = np.zeros(shapes["X"], np.float32)
        states = [[np.zeros((1, rows, network.H), np.float32) for _ in names] for _ in range(2)]
        requests, place = [], 0
        for turn in range(2):
            request = compiled.create_infer_request()
            request.set_tensor("X", openvino.Tensor(x_buffer, shared_memory=True))
            for k, name in enumerate(names):
                request.set_tensor(name, openvino.Tensor(states[turn][k], shared_memory=True))
                request.set_tensor(f"{name}_next", openvino.Tensor(states[1 - turn][k], shared_memory=True))
            requests.append((request, request.get_output_tensor(0)))

        def load(values) -> None:
            for buffer, value in zip(states[place], values, strict=True):
                buffer[...] = value

        def step(x):
            nonlocal place
            x_buffer[...] = x
            request, y = requests[place]
            request.infer()
            place = 1 - place
            return y.data

        return lambda: load([0] * len(names)), step, load, lambda: states[place]

"""onnxruntime: `InferenceSession.run`, and for steps also bindings that leave the states where they are."""

from typing import Any

import numpy as np
import onnxruntime

from bench.networks import Network
from bench.onnx_files import sequence_file, step_file
from bench.peers.base import Peer, Runner, Runners, Ticks, stepping
from bench.quantized import int8_file


class OnnxRuntime(Peer):
    name = "onnxruntime"

    @property
    def version(self) -> str:
        return onnxruntime.__version__

    def session(self, file: bytes) -> Any:
        options = onnxruntime.SessionOptions()
        # workers spin after a call, as they do by default; a block waits until they sleep
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(self, network: Network, x: np.ndarray) -> Runners:
        return {self.name: self._sequences(sequence_file(network), network, {"X": x})}

    def run_int8(self, network: Network, x: np.ndarray) -> Runners:
        """Whole sequences with int8 weights."""
        kinds = {f"{self.name} int8": False, f"{self.name} int8 per channel": True}
        return {
            name: self._sequences(int8_file(network, per_channel), network, {"X": x})
            for name, per_channel in kinds.items()
        }

    def ragged(self, network: Network, x: np.ndarray, lengths: np.ndarray) -> Runners:
        given = {"X": x, "lengths": lengths.astype(np.int32)}
        return {self.name: self._sequences(sequence_file(network, lengths=True), network, given)}

    def _sequences(self, file: bytes, network: Network, given: dict[str, np.ndarray]) -> Runner:
        session = self.session(file)
        call = lambda: session.run(None, given)
        return Runner(call, lambda: call()[0].reshape(network.T, network.B, -1))

    def step(self, network: Network, xs: np.ndarray) -> Runners:
        session = self.session(step_file(network))
        shape = (network.B, network.dense or network.H)
        inputs = [x[None] for x in xs]
        return {
            self.name: stepping(*_run_step(session, network), inputs, shape),
            f"{self.name} bound": stepping(*_bound_step(session, network), inputs, shape),
        }

    def arrivals(self, network: Network, ticks: Ticks) -> Runners:
        session = self.session(step_file(network))
        h = np.zeros((1, network.B, network.H), np.float32)
        c = h.copy()

        def reset() -> None:
            h[...] = c[...] = 0

        def step(tick):
            rows, x = tick
            h_next, c_next = session.run(None, {"X": x[None], "h": h[:, rows], "c": c[:, rows]})
            h[:, rows], c[:, rows] = h_next, c_next
            return h_next

        return {self.name: stepping(reset, step, ticks, (len(ticks[0][0]), network.H))}


def _run_step(session, network: Network):
    """Return reset and step: the states go in and come out as arrays."""
    names = [given.name for given in session.get_inputs()][1:]
    feed: dict[str, np.ndarray] = {}

    def reset() -> None:
        feed.update({name: np.zeros((1, network.B, network.H), np.float32) for name in names})

    def step(x):
        feed["X"] = x
        results = session.run(None, feed)
        feed.update(zip(names, results[-len(names) :], strict=True))
        return results[0]

    reset()
    return reset, step


def _bound_step(session, network: Network):
    """Return reset and step: two bindings take turns, each reading the states that the other wrote."""
    names = [given.name for given in session.get_inputs()][1:]
    shape = (1, network.B, network.H)
    # an OrtValue made of an array lives in that array's memory
    x_array = np.zeros((1, network.B, network.I), np.float32)
    y_array = np.zeros((1, network.B, network.dense), np.float32)
    states = [[np.zeros(shape, np.float32) for _ in names] for _ in range(2)]
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    bindings, place = [], 0
    for turn in range(2):
        binding = session.io_binding()
        binding.bind_ortvalue_input("X", value(x_array))
        if network.dense:
            binding.bind_ortvalue_output("Y", value(y_array))
        for k, name in enumerate(names):
            binding.bind_ortvalue_input(name, value(states[turn][k]))
            binding.bind_ortvalue_output(f"{name}_next", value(states[1 - turn][k]))
        bindings.append(binding)

    def reset() -> None:
        for state in states[place]:
            state[...] = 0

    def step(x):
        nonlocal place
        x_array[...] = x
        session.run_with_iobinding(bindings[place])
        place = 1 - place
        return y_array if network.dense else states[place][0]

    return reset, step

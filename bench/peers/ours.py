"""fastlstm, on the model converted from the ONNX file that peers run."""

import tempfile
from pathlib import Path

import numpy as np

import fastlstm
from bench.networks import Network, keras_arrays
from bench.onnx_files import sequence_file
from bench.peers.base import Peer, Runner, Runners, Ticks, stepping
from fastlstm import layers
from fastlstm.converters.from_onnx import from_onnx


def model(network: Network, storage: str | None = None) -> fastlstm.Model:
    """Return the network converted; with a storage ("float16", "int8") as a file saved so gives it back."""
    converted = from_onnx(sequence_file(network), {})
    if storage is None:
        return converted
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        converted.save(path, weights=storage)
        return fastlstm.load(path)


def trainable(network: Network) -> fastlstm.Sequential:
    """Return the network as a model that can be trained, batch first."""
    model, kind = fastlstm.Sequential([fastlstm.Input((network.T, network.I))]), getattr(layers, network.cell)
    for _ in range(network.layers):
        layer = kind(network.H, return_sequences=True)
        model.add(layers.Bidirectional(layer) if network.bidirectional else layer)
    model.set_weights(
        [array for parts in network.weights() for part in parts for array in keras_arrays(part, network.cell)]
    )
    return model


class FastLSTM(Peer):
    name = "fastlstm"

    def __init__(self, threads: int, storage: str | None = None):
        super().__init__(threads)
        self.storage = storage
        self.label = f"{self.name} {storage}" if storage else self.name

    @property
    def version(self) -> str:
        return fastlstm.__version__

    def session(self, network: Network) -> fastlstm.Session:
        return fastlstm.Session(model(network, self.storage), threads=self.threads)

    def run(self, network: Network, x: np.ndarray) -> Runners:
        session = self.session(network)
        call = lambda: session.run(x)
        return {self.label: Runner(call, lambda: np.reshape(call(), (network.T, network.B, -1)))}

    def step(self, network: Network, xs: np.ndarray) -> Runners:
        stream = self.session(network).stream(batch=network.B)
        shape = (network.B, network.dense or network.H)
        return {self.label: stepping(stream.reset, stream.step, xs, shape)}

    def ragged(self, network: Network, x: np.ndarray, lengths: np.ndarray) -> Runners:
        session = self.session(network)
        sequences = [x[:length, row].copy() for row, length in enumerate(lengths)]

        def outputs() -> np.ndarray:
            padded = np.zeros((network.T, network.B, network.H), np.float32)
            for row, y in enumerate(session.run(sequences)):
                padded[: len(y), row] = np.reshape(y, (len(y), network.H))
            return padded

        return {self.label: Runner(lambda: session.run(sequences), outputs)}

    def padded(self, network: Network, x: np.ndarray, lengths: np.ndarray) -> Runners:
        """Return what runs a padded batch whose rows have lengths."""
        session = self.session(network)
        call = lambda: session.run(x, lengths=lengths)
        return {self.label: Runner(call, lambda: np.reshape(call(), (network.T, network.B, -1)))}

    def train(self, network: Network, x: np.ndarray, target: np.ndarray) -> Runners:
        model = trainable(network)
        gradient = fastlstm.value_and_grad(model, "mse", threads=self.threads)
        given = [np.ascontiguousarray(array.transpose(1, 0, 2)) for array in (x, target)]
        call = lambda: gradient(*given)
        return {self.label: Runner(call, lambda: np.concatenate([array.ravel() for array in call()[1].values()]))}

    def arrivals(self, network: Network, ticks: Ticks) -> Runners:
        stream = self.session(network).stream(batch=network.B)
        step = lambda tick: stream.step(tick[1], rows=tick[0])
        return {self.label: stepping(stream.reset, step, ticks, (len(ticks[0][0]), network.H))}

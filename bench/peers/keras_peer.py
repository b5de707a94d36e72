"""Keras on TensorFlow: layers in a `tf.function` compiled by XLA, about three times as fast as without, and far from `predict`.

TensorFlow takes its number of threads once a process: this module is imported by processes that time one number.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf

from bench.networks import Network, keras_arrays
from bench.peers.base import Peer, Runner, Runners, Ticks, stepping


class Keras(Peer):
    name = "keras"

    def __init__(self, threads: int):
        super().__init__(threads)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    @property
    def version(self) -> str:
        return f"{keras.__version__} on tensorflow {tf.__version__}"

    def model(self, network: Network) -> keras.Model:
        x = keras.Input(batch_shape=(network.B, network.T, network.I))
        kind = getattr(keras.layers, network.cell)
        y = x
        for parts in network.weights():
            layer = kind(network.H, return_sequences=True)
            if network.bidirectional:
                layer = keras.layers.Bidirectional(layer)
            y = layer(y)
            layer.set_weights([array for part in parts for array in keras_arrays(part, network.cell)])
        return keras.Model(x, y)

    def run(self, network: Network, x: np.ndarray) -> Runners:
        model = self.model(network)
        function = tf.function(lambda x: model(x, training=False), jit_compile=True)
        return self._sequences(function, network, x)

    def ragged(self, network: Network, x: np.ndarray, lengths: np.ndarray) -> Runners:
        model = self.model(network)
        mask = tf.constant(np.arange(network.T) < lengths[:, None])
        # the layer repeats the last output where a step is masked; zeros are wanted where outputs are compared
        function = tf.function(lambda x: model.layers[-1](x, mask=mask, training=False), jit_compile=True)
        return self._sequences(function, network, x, mask.numpy().T[..., None])

    def _sequences(self, function, network: Network, x: np.ndarray, valid: np.ndarray | bool = True) -> Runners:
        given = tf.constant(x.transpose(1, 0, 2))
        compiled = function.get_concrete_function(given)
        call = lambda: compiled(given).numpy()
        return {self.name: Runner(call, lambda: call().transpose(1, 0, 2) * valid)}

    def train(self, network: Network, x: np.ndarray, target: np.ndarray) -> Runners:
        given = [tf.constant(array.transpose(1, 0, 2)) for array in (x, target)]
        return {
            f"{self.name} {how}": _training(self.model(network), given, jit_compile)
            for how, jit_compile in (("tf.function", False), ("XLA", True))
        }

    def _cell(self, network: Network):
        """Return a function (x, states) -> (y, states)."""
        cell = getattr(keras.layers, f"{network.cell}Cell")(network.H)
        cell.build((None, network.I))
        cell.set_weights(keras_arrays(network.weights()[0][0], network.cell))
        kernel, bias = network.dense_weights()

        def function(x, states):
            y, states = cell(x, states)
            return (tf.matmul(y, kernel) + bias if network.dense else y), states

        return function

    def step(self, network: Network, xs: np.ndarray) -> Runners:
        cell = self._cell(network)
        zeros = [tf.zeros((network.B, network.H)) for _ in range(2 if network.cell == "LSTM" else 1)]
        inputs = [tf.constant(x) for x in xs]
        function = tf.function(lambda x, *states: cell(x, list(states)), jit_compile=True)
        compiled = function.get_concrete_function(inputs[0], *zeros)
        states = zeros

        def reset() -> None:
            nonlocal states
            states = zeros

        def step(x):
            nonlocal states
            y, states = compiled(x, *states)
            return y.numpy()

        return {self.name: stepping(reset, step, inputs, (network.B, network.dense or network.H))}

    def arrivals(self, network: Network, ticks: Ticks) -> Runners:
        cell = self._cell(network)
        zeros = [tf.zeros((network.B, network.H)) for _ in range(2)]
        given = [(tf.constant(rows[:, None]), tf.constant(x)) for rows, x in ticks]

        @tf.function(jit_compile=True)
        def advance(rows, x, *states):
            y, after = cell(x, [tf.gather_nd(state, rows) for state in states])
            pairs = zip(states, after, strict=True)
            return y, [tf.tensor_scatter_nd_update(state, rows, value) for state, value in pairs]

        compiled = advance.get_concrete_function(*given[0], *zeros)
        states = zeros

        def reset() -> None:
            nonlocal states
            states = zeros

        def step(tick):
            nonlocal states
            y, states = compiled(*tick, *states)
            return y.numpy()

        return {self.name: stepping(reset, step, given, (len(ticks[0][0]), network.H))}


def _training(model: keras.Model, given: list[tf.Tensor], jit_compile: bool) -> Runner:
    weights = [variable.value for variable in model.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def step(x, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - target))
        return loss, tape.gradient(loss, weights)

    compiled = step.get_concrete_function(*given)

    def call():
        loss, found = compiled(*given)
        loss.numpy()
        return found

    return Runner(call, lambda: np.concatenate([tf.convert_to_tensor(array).numpy().ravel() for array in call()]))

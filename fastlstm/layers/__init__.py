"""Keras's layers as builders of nodes: Keras's semantics live here once, and its files are opened through them."""

from fastlstm.layers.build import Build, Layer, Tensor
from fastlstm.layers.convolution import Conv1D
from fastlstm.layers.core import (
    Activation,
    BatchNormalization,
    Dense,
    Embedding,
    Identity,
    LayerNormalization,
    Masking,
    Softmax,
)
from fastlstm.layers.recurrent import GRU, LSTM, RNN, Bidirectional, SimpleRNN
from fastlstm.layers.shaping import (
    Add,
    Average,
    Concatenate,
    Flatten,
    Maximum,
    Minimum,
    Multiply,
    Permute,
    RepeatVector,
    Reshape,
    Subtract,
    TimeDistributed,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Add",
    "Average",
    "BatchNormalization",
    "Bidirectional",
    "Build",
    "Concatenate",
    "Conv1D",
    "Dense",
    "Embedding",
    "Flatten",
    "Identity",
    "Layer",
    "LayerNormalization",
    "Masking",
    "Maximum",
    "Minimum",
    "Multiply",
    "Permute",
    "RepeatVector",
    "Reshape",
    "SimpleRNN",
    "Softmax",
    "Subtract",
    "Tensor",
    "TimeDistributed",
]

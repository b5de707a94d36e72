"""Keras's layers as builders of nodes: Keras's semantics live here once, its files are opened through them, and models are made of them."""

from fastlstm.layers.attention import AdditiveAttention, Attention
from fastlstm.layers.build import Build, Tensor
from fastlstm.layers.cells import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells
from fastlstm.layers.convolution import Conv1D
from fastlstm.layers.core import ELU, Activation, Dense, Embedding, Identity, Lambda, LeakyReLU, Masking, ReLU, Softmax
from fastlstm.layers.layer import Layer
from fastlstm.layers.normalisation import BatchNormalization, LayerNormalization
from fastlstm.layers.pooling import AveragePooling1D, GlobalAveragePooling1D, GlobalMaxPooling1D, MaxPooling1D
from fastlstm.layers.recurrent import GRU, LSTM, RNN, Bidirectional, SimpleRNN
from fastlstm.layers.regularisation import (
    ActivityRegularization,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
)
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
from fastlstm.layers.symbolic import Input, InputLayer, Symbol

__all__ = [
    "ELU",
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "ActivityRegularization",
    "Add",
    "AdditiveAttention",
    "Attention",
    "Average",
    "AveragePooling1D",
    "BatchNormalization",
    "Bidirectional",
    "Build",
    "Concatenate",
    "Conv1D",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "Identity",
    "Input",
    "InputLayer",
    "LSTMCell",
    "Lambda",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Masking",
    "MaxPooling1D",
    "Maximum",
    "Minimum",
    "Multiply",
    "Permute",
    "ReLU",
    "RepeatVector",
    "Reshape",
    "SimpleRNN",
    "SimpleRNNCell",
    "Softmax",
    "SpatialDropout1D",
    "StackedRNNCells",
    "Subtract",
    "Symbol",
    "Tensor",
    "TimeDistributed",
]

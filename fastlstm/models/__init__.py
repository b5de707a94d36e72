"""Models that are trained: layers in a row (`Sequential`), or between symbols (`Input`, `Model`)."""

from fastlstm.layers.symbolic import Input
from fastlstm.models.functions import ctc, gru, lstm, rnn
from fastlstm.models.imported import load_model, trainable
from fastlstm.models.model import Model, Sequential

__all__ = ["Input", "Model", "Sequential", "ctc", "gru", "load_model", "lstm", "rnn", "trainable"]

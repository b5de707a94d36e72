"""Optimizers with Keras 3's equations, defaults and names, and schedules of the learning rate."""

from fastlstm.errors import InputError, one_of
from fastlstm.optimizers import schedules
from fastlstm.optimizers.optimizer import Optimizer
from fastlstm.optimizers.rules import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Nadam, RMSprop

_BY_NAME = {kind.__name__.lower(): kind for kind in (SGD, Adadelta, Adagrad, Adam, AdamW, Adamax, Nadam, RMSprop)}


def get(optimizer: "str | Optimizer") -> Optimizer:
    """Return an optimizer by name, in any case, with its defaults, or as it is. Raise InputError for another."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer()
    if isinstance(optimizer, str) and optimizer.lower() in _BY_NAME:
        return _BY_NAME[optimizer.lower()]()
    raise InputError(f"unknown optimizer {optimizer!r}; known: {one_of(_BY_NAME)}")


__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "get",
    "schedules",
]

"""Compiling ahead: once where a program is installed or starts, so that no call waits for the compiler."""

from typing import NamedTuple

import numpy as np

from fastlstm.errors import InputError, StreamError
from fastlstm.kernels import library
from fastlstm.model import Model
from fastlstm.session import Session
from fastlstm.verify import source_inputs


class Compiled(NamedTuple):
    """A kernel that is ready: what it is, the seconds to compile it (0 if it was kept), its bytes, and why it is not kept, if so."""

    name: str
    seconds: float
    bytes: int
    why_not_kept: str


def warmup(*models: Model, every_dtype: bool = False) -> list[Compiled]:
    """Load the kernels that models need, compiled where the cache lacks them; without a model every kernel for float32.

    `every_dtype` adds the kernels for float64 and for narrow weights. Return what is ready in this process. docs/cache.md says where machine code is kept.

    >>> fastlstm.warmup(model)
    """
    for model in models:
        if not isinstance(model, Model):
            raise InputError(f"warmup takes models, got {type(model).__name__}; fastlstm.load(path) gives one")
    everything = every_dtype or not models
    for variant in library.variants(every_dtype):
        if everything or not variant.kind:
            library.load(variant)
    for model in models:
        _run(model)
    return [Compiled(str(one.variant), one.seconds, one.size, one.why_not_kept) for one in library.loaded()]


def _run(model: Model) -> None:
    """Run a model on its example, else on random inputs, and on single steps of a stream if it streams."""
    session = Session(model)
    example = model.example
    session.run(dict(source_inputs(model) if example is None else example.inputs))
    try:
        stream = session.stream()
    except StreamError:
        return
    names = [spec.name for spec in session.inputs]
    step = source_inputs(model, batch=1, steps=1)
    stream.step({name: np.asarray(step[name]) for name in names})


def cache_folder() -> str | None:
    """Return the folder where machine code is kept, None where nothing can be read from one or written to it."""
    return library.folder()

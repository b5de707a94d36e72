"""The kernels by name, as addresses: from memory, else from the cache, else compiled. Numba is imported only to compile.

Before it compiles it says so, in one line of the logger "fastlstm" (on stderr unless the program has set up logging otherwise).
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fastlstm.kernels import cache, machine_code

logger = logging.getLogger("fastlstm")

FLOATS = (("float32", "float32"), ("float64", "float64"))  # dtypes of values and of weights
STORED = (*FLOATS, ("float32", "float16"))
INT8 = (("float32", "int8"),)
BITS = (("int32", "int32"), ("int64", "int64"))  # integers of the size of values
IDS = (("int64", "int64"),)
CASTS = (("int64", "float32"), ("float32", "int64"), ("float32", "float64"), ("float64", "float32"))
ANY = ()  # the dtype makes no difference

# The module of each kernel, and the dtypes that are compiled ahead: the first, and the others where every dtype is asked for.
KERNELS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "activate_adjoint": ("activations", FLOATS),
    "activate_forward": ("activations", FLOATS),
    "any_not_equal_forward": ("predicates", BITS),
    "carry_forward": ("carrying", ANY),
    "combine_forward": ("arithmetic", FLOATS),
    "compare_forward": ("predicates", BITS),
    "convert_forward": ("conversion", CASTS),
    "copy_forward": ("copy", ANY),
    "count_forward": ("arithmetic", IDS),
    "cross_entropy_adjoint": ("entropy", FLOATS),
    "cross_entropy_forward": ("entropy", FLOATS),
    "ctc_forward": ("ctc", FLOATS),
    "dense_forward": ("dense", STORED),
    "dense_quantised_forward": ("dense", INT8),
    "dense_scaled_forward": ("dense", INT8),
    "depthwise_forward": ("depthwise", FLOATS),
    "distinct_forward": ("carrying", ANY),
    "gather_forward": ("lookups", BITS),
    "gru_after_forward": ("gru", STORED),
    "gru_after_quantised_forward": ("gru", INT8),
    "gru_after_steps_adjoint": ("gru_steps", FLOATS),
    "gru_after_steps_forward": ("gru_steps", FLOATS),
    "gru_before_forward": ("gru", STORED),
    "gru_before_quantised_forward": ("gru", INT8),
    "gru_before_steps_adjoint": ("gru_steps", FLOATS),
    "gru_before_steps_forward": ("gru_steps", FLOATS),
    "logic_forward": ("predicates", ANY),
    "lstm_forward": ("lstm", STORED),
    "lstm_quantised_forward": ("lstm", INT8),
    "lstm_steps_adjoint": ("lstm_steps", FLOATS),
    "lstm_steps_forward": ("lstm_steps", FLOATS),
    "mean_squares_adjoint": ("squares", FLOATS),
    "mean_squares_forward": ("squares", FLOATS),
    "normalise_adjoint": ("rows", FLOATS),
    "normalise_forward": ("rows", FLOATS),
    "one_hot_forward": ("lookups", BITS),
    "overlap_forward": ("windows", FLOATS),
    "pack_forward": ("products", FLOATS),
    "product_forward": ("products", FLOATS),
    "ragged_forward": ("ragged", ANY),
    "reduce_forward": ("reductions", FLOATS),
    "rnn_forward": ("rnn", STORED),
    "rnn_quantised_forward": ("rnn", INT8),
    "rnn_steps_adjoint": ("rnn_steps", FLOATS),
    "rnn_steps_forward": ("rnn_steps", FLOATS),
    "rows_forward": ("lookups", IDS),
    "runs_forward": ("runs", FLOATS),
    "scatter_adjoint": ("lookups", FLOATS),
    "seen_forward": ("masks", ANY),
    "sequence_mask_forward": ("masks", IDS),
    "sigmoid_entropy_forward": ("entropy", FLOATS),
    "softmax_adjoint": ("rows", FLOATS),
    "softmax_forward": ("rows", FLOATS),
    "where_forward": ("predicates", BITS),
}
ENTRIES = ("walk", "lead", "serve", "dismiss")  # of kernels/walk.py: what Python calls


@dataclass(frozen=True)
class Variant:
    """A kernel for dtypes of values and of weights, if they make a difference; an entry for none."""

    name: str
    kind: str = ""
    narrow: str = ""

    def __str__(self) -> str:
        if not self.kind:
            return self.name
        return f"{self.name} for {self.kind}" + ("" if self.narrow == self.kind else f" and {self.narrow}")

    @property
    def file(self) -> str:
        return "-".join(filter(None, (self.name, self.kind, self.narrow)))

    def build(self) -> Any:
        """Compile, with Numba."""
        module, _ = KERNELS.get(self.name, ("walk", ANY))
        found = getattr(import_module(f"fastlstm.kernels.{module}"), self.name)
        if self.name in ENTRIES:
            return found.build()
        return found.build(self.kind or "float32", self.narrow or "float32")


@dataclass(frozen=True)
class Loaded:
    """A variant in memory: its address, the bytes of its machine code, the seconds to compile it (0 if it came from the cache), and
    why it is not kept, if it is not."""

    variant: Variant
    address: int
    size: int
    seconds: float
    why_not_kept: str


_loaded: dict[Variant, Loaded] = {}
_loading = threading.RLock()
if hasattr(os, "register_at_fork"):
    # a child must not wait for a thread that it does not have; nor may Numba be left half way
    os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)


def variants(every_dtype: bool = False) -> Iterator[Variant]:
    """Yield what is compiled ahead: the entries, and the kernels for float32 or for every dtype."""
    yield from map(Variant, ENTRIES)
    for name, (_, dtypes) in KERNELS.items():
        for kind, narrow in (dtypes if every_dtype else dtypes[:1]) or [("", "")]:
            yield Variant(name, kind, narrow)


def loaded() -> list[Loaded]:
    """Return what is in memory, in the order in which it was asked for."""
    return list(_loaded.values())


def folder() -> str | None:
    """Return the folder where machine code is kept, None where there is none or it is not used."""
    try:
        with cache.Folder(cache.folder(), create=False) as found:
            return str(found.path)
    except OSError:
        return None


def load(variant: Variant) -> Loaded:
    """Return a variant in memory."""
    if variant not in _loaded:
        with _loading:
            if variant not in _loaded:
                _loaded[variant] = _load(variant)
    return _loaded[variant]


def address(name: str, kind: str, narrow: str) -> int:
    """Return the address of a kernel for dtypes of values and of weights."""
    if not KERNELS[name][1]:
        kind = narrow = ""
    return load(Variant(name, kind, narrow)).address


def entry(name: str) -> Callable[..., int]:
    """Return a function that Python calls, by its name."""
    return machine_code.python_function(name, load(Variant(name)).address)


def _load(variant: Variant) -> Loaded:
    seconds, why_not = 0.0, ""
    code = cache.read(variant.file)
    if code is None:
        with cache.turn(variant.file):
            # another process may have compiled it meanwhile
            code = cache.read(variant.file)
            if code is None:
                start = time.perf_counter()
                code, why_not = _compile(variant)
                seconds = time.perf_counter() - start
    return Loaded(variant, machine_code.load(code.object, code.symbol), len(code.object), seconds, why_not)


def _compile(variant: Variant) -> tuple[cache.Code, str]:
    """Compile and keep a variant; return its machine code, and why it is not kept."""
    try:
        where, why_not = f"once, kept in {cache.check()}", ""
    except OSError as error:
        where = why_not = f"not kept: {cache.why(error)}"
    logger.warning("fastlstm: compiling %s (%s) ...", variant, where)
    build = variant.build()
    code = build.code
    if why_not:
        return code, why_not
    if not build.is_for_this_cpu or cache.digest() != cache.STAMP:
        return code, "not kept: the sources or the settings of Numba have changed since this process began"
    try:
        cache.write(variant.file, code)
    except OSError as error:
        why_not = f"not kept: {cache.why(error)}"
        logger.warning("fastlstm: %s is %s", variant, why_not)
    return code, why_not

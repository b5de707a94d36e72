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

# The module of each kernel, and of each function that Python calls.
KERNELS = {
    "activate_forward": "activations",
    "any_not_equal_forward": "predicates",
    "combine_forward": "arithmetic",
    "compare_forward": "predicates",
    "convert_forward": "conversion",
    "copy_forward": "copy",
    "count_forward": "arithmetic",
    "dense_forward": "dense",
    "dense_quantised_forward": "dense",
    "dense_scaled_forward": "dense",
    "gather_forward": "lookups",
    "gru_after_forward": "gru",
    "gru_after_quantised_forward": "gru",
    "gru_before_forward": "gru",
    "gru_before_quantised_forward": "gru",
    "logic_forward": "predicates",
    "lstm_forward": "lstm",
    "lstm_quantised_forward": "lstm",
    "normalise_forward": "rows",
    "ragged_forward": "ragged",
    "rnn_forward": "rnn",
    "rnn_quantised_forward": "rnn",
    "rows_forward": "lookups",
    "runs_forward": "runs",
    "seen_forward": "masks",
    "sequence_mask_forward": "masks",
    "softmax_forward": "rows",
    "where_forward": "predicates",
}
ENTRIES = {"dismiss": "walk", "lead": "walk", "serve": "walk", "walk": "walk"}
WITHOUT_DTYPE = ("copy_forward", "ragged_forward")  # compiled for float32, whatever the values
DTYPES = (("float32", "float32"), ("float64", "float64"))  # of values and of weights
FLOAT16 = (
    "dense_forward",
    "gru_after_forward",
    "gru_before_forward",
    "lstm_forward",
    "rnn_forward",
)  # take float16 weights too
INT8 = tuple(name for name in KERNELS if "_quantised_" in name or "_scaled_" in name)  # take int8 weights alone


@dataclass(frozen=True)
class Variant:
    """A kernel for dtypes of values and of weights; an entry for none."""

    name: str
    kind: str = ""
    narrow: str = ""

    def __str__(self) -> str:
        if not self.kind or self.name in WITHOUT_DTYPE:
            return self.name
        weights = "" if self.narrow == self.kind else f" with {self.narrow} weights"
        return f"{self.name} for {self.kind}{weights}"

    @property
    def file(self) -> str:
        return "-".join(filter(None, (self.name, self.kind, self.narrow)))

    def build(self) -> Any:
        """Compile, with Numba."""
        module = import_module(f"fastlstm.kernels.{ENTRIES.get(self.name) or KERNELS[self.name]}")
        return getattr(module, self.name).build(*filter(None, (self.kind, self.narrow)))


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
    """Yield all there is to compile: the entries, and the kernels for float32 or for every dtype of values and weights."""
    yield from map(Variant, ENTRIES)
    for kind, narrow in DTYPES if every_dtype else DTYPES[:1]:
        for name in KERNELS:
            if name not in INT8 and (name not in WITHOUT_DTYPE or kind == "float32"):
                yield Variant(name, kind, narrow)
    if every_dtype:
        yield from (Variant(name, "float32", "float16") for name in FLOAT16)
        yield from (Variant(name, "float32", "int8") for name in INT8)


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

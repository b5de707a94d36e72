"""How kernels are compiled and where the machine code is kept.

`kernel` makes an entry point of a program: one signature for all, so that compiled code calls them through their addresses.
`entry` compiles what Python calls, `inline` and `routine` the parts of kernels. Numba's own cache sees changes in the file of the entry alone; ours is stamped
with every source of this folder, so a changed intrinsic never meets old machine code.

The cache is a private folder of the user (FASTLSTM_CACHE_DIR, else the platform's cache folder). It holds pickles and
machine code, so a folder that others own or can write is not used; without a folder kernels compile in each process.
"""

import hashlib
import os
import secrets
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numba
from numba import njit, types
from numba.core import bytecode, caching, config

from fastlstm.kernels import target


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((numba.__version__, target.BYTES, target.ROWS, sys.version_info[:2])).encode())
    return digest.hexdigest()[:16]


# A digest of everything that decides what machine code comes out: sources, versions, SIMD width; taken before the other
# files of this folder are imported.
STAMP = _digest()


_compiling = threading.Lock()


def _number_functions_apart() -> None:
    """Number the functions that this process compiles from a start of its own.

    Closures of one name differ in their symbols by this number alone, and Numba counts it from 1 in each process: of machine
    code that two processes have cached, one kernel would be linked to the other's tile.
    """
    bytecode.FunctionIdentity._unique_ids = count(secrets.randbits(48))


_number_functions_apart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_apart)


def _private(folder: Path) -> bool:
    """Make `folder` and tell whether it belongs to this user alone and can be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return False
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return False
    return os.access(folder, os.W_OK)


@cache
def cache_folder() -> Path | None:
    """Return the folder for compiled kernels, or None where none is safe and writable."""
    base = os.environ.get("FASTLSTM_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "fastlstm" / STAMP
    return folder if _private(folder) else None


class _Locator(caching._CacheLocator):
    def __init__(self, qualified_name: str):
        self._qualified_name = qualified_name

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return STAMP

    def get_disambiguator(self) -> str:
        return hashlib.sha256(self._qualified_name.encode()).hexdigest()[:8]

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> "_Locator | None":
        return cls(f"{py_func.__module__}.{py_func.__qualname__}") if cache_folder() else None


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _KernelCache(caching.FunctionCache):
    _impl_class = _CacheImpl

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep machine code, unless a source changed since this process read it."""
        # a full disk costs the next process a compilation, not this one its result
        with suppress(OSError):
            if _digest() == STAMP:
                super().save_overload(sig, data)


def entry(function: Callable) -> Any:
    """Compile a function that Python calls: released GIL, no exceptions, NumPy's rules for division, and a cache on disk."""
    compiled = njit(nogil=True, error_model="numpy")(function)
    if cache_folder() and not config.DISABLE_JIT:
        compiled._cache = _KernelCache(function)
    return compiled


class Kernel:
    """A compiled step of a program: function(kind, narrow, team, args), for the dtypes it is asked for.

    `kind` is the dtype of values and `narrow` that of the weights; `team` is the address of a worker's words
    (kernels/team.py), `args` that of the step's arguments (`simd.arguments`).
    """

    def __init__(self, function: Callable):
        self.name = function.__name__
        self._compiled = entry(function)
        self._addresses: dict[tuple[str, str], int] = {}

    def address(self, kind: str, narrow: str) -> int:
        """Return the address of the machine code for values and weights of these dtypes, compiled when first asked for."""
        key = (kind, narrow)
        if key not in self._addresses:
            numbers = (types.NumberClass(getattr(types, name)) for name in key)
            with _compiling:
                self._compiled.compile((*numbers, types.intp, types.intp))
            compiled = self._compiled.overloads[self._compiled.signatures[-1]]
            self._addresses[key] = compiled.library.get_pointer_to_function(compiled.fndesc.mangled_name)
        return self._addresses[key]


def kernel(function: Callable) -> Kernel:
    """Decorator: a step of a program."""
    return Kernel(function)


def inline(function: Callable) -> Any:
    """Compile a part of kernels into each place that uses it."""
    return njit(nogil=True, error_model="numpy", forceinline=True)(function)


def routine(function: Callable) -> Any:
    """Compile a part of kernels that is called; it lives in the machine code of the entry points that use it."""
    return njit(nogil=True, error_model="numpy")(function)

"""Machine code kept from one process to the next: one file for each kernel, in a private folder of the user.

The folder is FASTLSTM_CACHE_DIR, else XDG_CACHE_HOME, else ~/.cache; in it fastlstm/<stamp>, a digest of everything that decides
what machine code comes out. A file holds a digest of its own name, stamp and contents, then the symbol, then an object file:
nothing is unpickled, and what is damaged or belongs elsewhere is never run. Files appear whole or not at all, so any
number of processes may write at once.

Who can write the folder can have code run, so the folder and its files must belong to this user (or to root) and be writable by
nobody else. They are opened through the folder that was checked: whoever can move its parents gains nothing.
"""

import hashlib
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import llvmlite

from fastlstm.kernels import target

MAGIC = b"fastlstm machine code 1\n"
MAX_BYTES = 64 << 20  # of a file
KEPT = 8  # folders of other stamps are kept while they are among the last so many used,
KEPT_DAYS = 7  # or were used in the last days
USED_DAYS = 1  # a folder in use is marked as used once a day
WAIT = 60  # seconds to wait for another process that compiles the same
# What else decides how Numba compiles.
SETTINGS = ("NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_DEBUGINFO", "NUMBA_BOUNDSCHECK")
BY_HANDLE = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")


class Code(NamedTuple):
    """The machine code of a kernel: an object file, and the symbol of what is called in it."""

    symbol: str
    object: bytes


def _numba() -> bytes:
    """Return what tells one installed Numba from another, without importing it."""
    spec = find_spec("numba")
    if spec is None or spec.origin is None:
        return b""
    for name in ("_version.py", "__init__.py"):
        with suppress(OSError):
            return Path(spec.origin).with_name(name).read_bytes()
    return b""


def digest() -> str:
    """Return a digest of everything that decides what machine code comes out: sources, versions, CPU."""
    found = hashlib.sha256(_numba())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.name.encode() + path.read_bytes())
    versions = llvmlite.__version__, sys.implementation.cache_tag, getattr(sys, "abiflags", ""), sys.platform
    cpu = sorted((name, value) for name, value in vars(target).items() if name.isupper())
    found.update(repr((MAGIC, versions, cpu, [os.environ.get(name) for name in SETTINGS])).encode())
    return found.hexdigest()[:16]


# Taken before the kernels' modules are imported.
STAMP = digest()


class Unusable(OSError):
    """The folder cannot be used; the message says why, and what to do."""


def folder() -> Path:
    """Return the folder of this stamp, whether or not it is there. Raise Unusable where there is no home."""
    given, shared = os.environ.get("FASTLSTM_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        # the specification of XDG_CACHE_HOME has a relative path ignored
        base = Path(given or (shared if os.path.isabs(shared) else "~/.cache")).expanduser()
        return Path(os.path.abspath(base)) / "fastlstm" / STAMP
    except (RuntimeError, OSError) as error:
        raise Unusable("there is no home folder: FASTLSTM_CACHE_DIR names one") from error


def _check(status: os.stat_result, what: object) -> None:
    """Raise Unusable unless only this user, or root, can have written it."""
    if not hasattr(os, "getuid"):
        return
    if status.st_uid not in (os.getuid(), 0):
        raise Unusable(f"{what} belongs to another user (uid {status.st_uid})")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unusable(f"{what} can be written by others: chmod go-w {what}")


class Folder:
    """A folder that was checked, open."""

    def __init__(self, path: Path, create: bool):
        self.path = path
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # without handles of folders there is no owner either: a user's own folders are private there
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) if BY_HANDLE else None
        try:
            _check(os.stat(path if self._handle is None else self._handle), path)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def open(self, name: str, flags: int) -> int:
        """Return a handle of a plain file in the folder."""
        flags |= getattr(os, "O_BINARY", 0)
        if self._handle is None:
            return os.open(self.path / name, flags, 0o600)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=self._handle)

    def rename(self, old: str, new: str) -> None:
        if self._handle is None:
            os.replace(self.path / old, self.path / new)
        else:
            os.replace(old, new, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def remove(self, name: str) -> None:
        with suppress(OSError):
            if self._handle is None:
                os.remove(self.path / name)
            else:
                os.remove(name, dir_fd=self._handle)


def _sealed(name: str, body: bytes) -> bytes:
    """Return the digest of a file's body, valid under this name and stamp alone."""
    return hashlib.sha256(b"\n".join((MAGIC, STAMP.encode(), name.encode(), body))).digest()


def read(name: str) -> Code | None:
    """Return the machine code that is kept under a name; None where there is none, or none that is sound."""
    try:
        with Folder(folder(), create=False) as place, open(place.open(name, os.O_RDONLY), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                return None
            _check(status, name)
            whole = file.read(MAX_BYTES)
        _mark_used(place.path)
    except OSError:
        return None
    seal, body = whole[len(MAGIC) :][:32], whole[len(MAGIC) + 32 :]
    if not whole.startswith(MAGIC) or seal != _sealed(name, body):
        return None
    symbol, _, code = body.partition(b"\0")
    return Code(symbol.decode(), code)


def write(name: str, code: Code) -> None:
    """Keep machine code under a name. Raise OSError where that cannot be."""
    body = code.symbol.encode() + b"\0" + code.object
    part = f".{name}.{secrets.token_hex(8)}"
    with Folder(folder(), create=True) as place:
        handle = place.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with open(handle, "wb") as file:
                file.write(MAGIC + _sealed(name, body) + body)
            place.rename(part, name)
        except BaseException:
            place.remove(part)
            raise
    prune()


def check() -> Path:
    """Return the folder, made if need be. Raise OSError where nothing can be kept; its text says why."""
    with Folder(folder(), create=True) as place:
        if not os.access(place.path, os.W_OK):
            raise Unusable(f"{place.path} cannot be written")
        return place.path


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Wait while another process compiles the same, then keep others waiting; without locks, or after WAIT, go on."""
    handle = None
    try:
        with suppress(ImportError, OSError):
            import fcntl

            with Folder(folder(), create=True) as place:
                handle = place.open(f".{name}.lock", os.O_RDWR | os.O_CREAT)
            _lock(fcntl, handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(fcntl, handle: int) -> None:
    stop = time.monotonic() + WAIT
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > stop:
                return
            time.sleep(0.02)


def _mark_used(path: Path) -> None:
    with suppress(OSError):
        if time.time() - os.stat(path).st_mtime > USED_DAYS * 86400:
            os.utime(path)


def prune() -> None:
    """Remove folders of other stamps that nobody has used for long; a process that still runs compiles again at worst."""
    with suppress(OSError):
        here = folder()
        _check(os.stat(here.parent), here.parent)
        others = [
            (entry.stat().st_mtime, entry.path)
            for entry in os.scandir(here.parent)
            if entry.is_dir(follow_symlinks=False) and entry.name != here.name and _is_stamp(entry.name)
        ]
        for used, path in sorted(others, reverse=True)[KEPT:]:
            if time.time() - used > KEPT_DAYS * 86400:
                shutil.rmtree(path, ignore_errors=True)


def _is_stamp(name: str) -> bool:
    return len(name) == len(STAMP) and set(name) <= set("0123456789abcdef")


def why(error: OSError) -> str:
    """Return in words why nothing is kept."""
    if isinstance(error, Unusable):
        return str(error)
    return f"{error.filename or folder()}: {error.strerror or error}"

"""Files beside a model file that hold some of its weights: read from one folder, and only where its owner named it.

A model names a file of it by a plain name: no folders, no links, nothing that other names lead to.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from fastlstm.errors import ModelFileError


def open_beside(folder: Path, name: str, where: str) -> tuple[BinaryIO, int]:
    """Return a file of a folder, open for reading, and its size; `where` says in messages what named it. Raise ModelFileError."""
    plain = bool(name) and name not in (".", "..") and not any(c in name for c in "/\\:\0")
    if not plain:
        raise ModelFileError(f"{where}: external data in {name!r}, expected the plain name of a file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(folder / name, flags)
        # not as a file before it is known to be one: a folder would be an error of its own
        status = os.fstat(handle)
    except OSError as error:
        raise ModelFileError(f"{where}: external data in {name!r} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(handle)
        raise ModelFileError(f"{where}: external data in {name!r}, which is no plain file of one name")
    return open(handle, "rb"), status.st_size

"""What holds for damaged files of every format: a load gives a model or one line of our error, soon, in little memory, and does nothing else."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastlstm.errors import FastLSTMError

SECONDS = 5.0
MEMORY_FACTOR, MEMORY_FLOOR = 3, 64 << 20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
WATCHED = (
    "import",
    "exec",
    "compile",
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "marshal.",
    "pickle.",
    "ctypes.",
    "shutil.",
)


class Watch:
    """Audit events that no load may cause; a hook stays for the life of the process."""

    armed = False
    hooked = False
    events: list[tuple[str, Any]] = []

    @classmethod
    def begin(cls) -> None:
        """Hook, once in a process."""
        if not cls.hooked:
            sys.addaudithook(cls.hook)
            cls.hooked = True

    @classmethod
    def hook(cls, event: str, arguments: tuple) -> None:
        if cls.armed and event.startswith(WATCHED):
            cls.events.append((event, arguments[:1]))


def peak() -> int:
    """Return the most memory that was resident since the last `forget_peak`, in bytes; 0 where the system does not tell."""
    if not STATUS.exists():
        return 0
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) << 10


def forget_peak() -> int:
    """Begin to count anew and return what is resident."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return peak()


class Results:
    """What the loads gave so far."""

    def __init__(self) -> None:
        self.models = self.refused = 0
        self.longest, self.most = 0.0, 0

    def load(self, load: Callable[[], Any], size: int, about: str) -> Any:
        """Load a file of so many bytes; return its model, or None. Raise SystemExit, saying which, where a rule is broken."""
        before = forget_peak()
        began, fault, model = time.process_time(), "", None
        Watch.events.clear()
        Watch.armed = True
        try:
            model = load()
            self.models += 1
        except FastLSTMError as error:
            self.refused += 1
            fault = f"an error of several lines: {error}" if "\n" in str(error) else ""
        except BaseException as error:
            fault = f"a foreign exception: {type(error).__name__}: {error}"
        Watch.armed = False
        took, memory = time.process_time() - began, peak() - before
        self.longest, self.most = max(self.longest, took), max(self.most, memory)
        if Watch.events:
            fault = f"not only a load: {Watch.events[:3]}"
        if took > SECONDS:
            fault = f"{took:.1f} s"
        if memory > MEMORY_FACTOR * size + MEMORY_FLOOR:
            fault = f"{memory >> 20} MiB of memory for a file of {size} bytes"
        if fault:
            raise SystemExit(f"{about}: {fault}")
        return model

    def __str__(self) -> str:
        return (
            f"{self.models + self.refused} loads: {self.models} models, {self.refused} refused; longest {self.longest:.2f} s, "
            f"most memory {self.most / 2**20:.0f} MiB"
        )

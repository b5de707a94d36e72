"""Interrupts: Ctrl-C that waits while something is changed which must not stay half changed."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Lets Ctrl-C wait: within `with interrupts:` what `with interrupts.held:` holds is done as a whole.

    The first takes the place of the handler of SIGINT, in the main thread alone, where Python calls it; the second costs nothing. Where
    Ctrl-C has no handler, or comes to another thread, there is nothing to hold.
    """

    def __init__(self) -> None:
        self.held = _Held(self)
        self._usual: Any = None
        self._depth = 0
        self._busy = False
        self._waiting: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._depth += 1
            usual = signal.getsignal(signal.SIGINT)
            if self._depth == 1 and callable(usual):
                self._usual = usual
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        # another handler that came meanwhile stays
        if self._depth == 0 and self._usual is not None and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._usual)
            self._usual = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._busy:
            self._waiting = number, frame
        else:
            self._usual(number, frame)


class _Held:
    """What Ctrl-C waits for the end of."""

    def __init__(self, interrupts: Interrupts):
        self._interrupts = interrupts

    def __enter__(self) -> None:
        self._interrupts._busy = True

    def __exit__(self, *exception: object) -> None:
        interrupts = self._interrupts
        interrupts._busy = False
        if interrupts._waiting is not None:
            waiting, interrupts._waiting = interrupts._waiting, None
            interrupts._usual(*waiting)

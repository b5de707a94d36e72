"""Progress on stderr: a spinner with the extra `cli`, plain lines without."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Write a message to stderr, if there is one."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Return a text with line ends and what would steer a terminal written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something without a known end goes on: a spinner on a terminal, a line elsewhere."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        Console = None
    if Console is None or sys.stderr is None or not sys.stderr.isatty():
        say(f"{what} ...")
        yield
        return
    # as Text, since a file's name may look like markup
    with Console(stderr=True).status(Text(what)):
        yield

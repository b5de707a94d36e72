"""Progress on stderr: a bar with the extra `cli`, plain lines without."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


def say(text: str) -> None:
    """Write a message to stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something without a known end goes on: a spinner on a terminal, a line elsewhere."""
    try:
        from rich.console import Console
    except ImportError:
        Console = None
    if Console is None or not sys.stderr.isatty():
        say(f"{what} ...")
        yield
        return
    with Console(stderr=True).status(what):
        yield


def track(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield the items of long work under a progress bar."""
    try:
        from rich.progress import Progress
    except ImportError:
        Progress = None
    if Progress is None or not sys.stderr.isatty():
        say(f"{what}: {total}")
        yield from items
        return
    from rich.console import Console

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)

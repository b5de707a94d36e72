"""The table of a model's layers: rich's where it is installed, plain text elsewhere."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastlstm.layers.symbolic import Symbol, leaves

Row = tuple[str, str, str]
HEAD = ("Layer (type)", "Output Shape", "Param #")


def summarize(network: Any, width: int | None, print_fn: Callable[[str], Any] | None) -> None:
    """Print the table, or give it to `print_fn` as plain text."""
    rows, totals = list(_rows(network)), _totals(network)
    title = f'Model: "{network.name}"'
    if print_fn is None:
        try:
            _print_rich(title, rows, totals, width)
            return
        except ImportError:
            pass
    (print_fn or print)("\n".join([title, *_plain(rows, width), *totals]))


def _rows(network: Any) -> Iterable[Row]:
    shapes: dict[Any, list[Symbol]] = {}
    for call in network._calls:
        shapes.setdefault(call.layer, call.outputs)
    for layer in network.layers:
        outputs = shapes.get(layer) or [layer.output]
        text = ", ".join(map(_shape, outputs))
        yield f"{layer.name} ({type(layer).__name__})", text, f"{_count(layer):,}"


def _shape(symbol: Symbol) -> str:
    shape = getattr(symbol.layer, "batch_shape", None) or symbol.shape
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def _count(layer: Any) -> int:
    return sum(array.size for array in leaves(list(getattr(layer, "weights", []))))


def _totals(network: Any) -> list[str]:
    moved, kept = (_sizes(arrays) for arrays in (network.trainable_weights, network.non_trainable_weights))
    lines = (
        ("Total params", moved[0] + kept[0], moved[1] + kept[1]),
        ("Trainable params", *moved),
        ("Non-trainable params", *kept),
    )
    return [f"{name}: {count:,} ({size / 1024:,.2f} KiB)" for name, count, size in lines]


def _sizes(arrays: Sequence[np.ndarray]) -> tuple[int, int]:
    """Return elements and bytes of arrays, each counted once."""
    once = {id(array): array for array in arrays}.values()
    return sum(a.size for a in once), sum(a.nbytes for a in once)


def _plain(rows: Sequence[Row], width: int | None) -> list[str]:
    table = [HEAD, *rows]
    widths = [max(len(row[k]) for row in table) for k in range(3)]
    widths[0] = max(widths[0], (width or 0) - widths[1] - widths[2] - 4)
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in table]
    rule = "-" * (sum(widths) + 4)
    return [rule, lines[0], rule, *lines[1:], rule]


def _print_rich(title: str, rows: Sequence[Row], totals: Sequence[str], width: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", width=width)
    for name, side in zip(HEAD, ("left", "left", "right"), strict=True):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    console = Console(width=width)
    console.print(table)
    for line in totals:
        console.print(line, highlight=False)

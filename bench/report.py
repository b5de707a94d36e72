"""Results as Markdown: the README's table, and everything else that was measured."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import summary
from bench.peers import NO_WAY, PEERS
from fastlstm.errors import InputError

BLOCKS = ("benchmarks", "training benchmarks")  # parts of a page that are generated, each between its markers
TRAINING = "training"  # the group of rows with tables of their own
Facts = Mapping[str, Any]


def readme(results: Facts) -> dict[str, str]:
    """Return by name of a block its rows with one thread in full, and of each further number of threads the ratio alone.

    A block of which nothing was measured is left out.
    """
    (first, main), *others = results["threads"].items()
    more = {f"{threads} threads": {row["name"]: _ratio(row) for row in each["rows"]} for threads, each in others}
    blocks = {}
    for block, mean, rows in zip(BLOCKS, summary.MEANS, _parted(main["rows"]), strict=True):
        if rows:
            heads = filter(None, (_head(threads, each, mean) for threads, each in results["threads"].items()))
            blocks[block] = "\n\n".join([_setting(results, first), *heads, rows_table(rows, more)]) + "\n"
    return blocks


def _parted(rows: Sequence[Facts]) -> tuple[list[Facts], list[Facts]]:
    """Return the rows that run networks, and those that train them."""
    return [row for row in rows if row["group"] != TRAINING], [row for row in rows if row["group"] == TRAINING]


def markdown(results: Facts) -> str:
    """Return for each number of threads all rows, the latencies of streams, and the studies."""
    parts = [f"{results['date']}: {_setting(results)}"]
    for threads, each in results["threads"].items():
        parts.append(f"## {_threads(threads)}")
        for mean, rows in zip(summary.MEANS, _parted(each["rows"]), strict=True):
            parts += [_head(threads, each, mean), rows_table(rows)] if rows else []
        parts += [latency_table(each["rows"]), *map(_study, each.get("studies", {}).items())]
        parts.append("\n".join(f"- {line}" for line in summary.lines(each["summary"])))
    return "\n\n".join(filter(None, parts)) + "\n"


def _setting(results: Facts, threads: str = "") -> str:
    machine = results["machine"]
    caches = ", ".join(f"{level} {_size(size)}" for level, size in machine["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    unit = f"Microseconds a call, float32, medians{f', {_threads(threads)}' if threads else ''}."
    return f"{machine['processor']}, {caches}; {versions}. {unit}"


def _threads(threads: str) -> str:
    return f"{threads} thread{'s' * (threads != '1')}"


def _head(threads: str, each: Facts, name: str) -> str:
    """Return a geometric mean as a sentence, empty where no row has a peer."""
    mean = each["summary"].get(name)
    if mean is None:
        return ""
    count = len(summary.compared(each["rows"], summary.MEANS[name]))
    return f"With {_threads(threads)} the best peer of each row takes {mean:.2f} times as long, in the geometric mean of the table's {count} rows."


def rows_table(rows: Sequence[Facts], more: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Return the rows with a column for each engine; the ratio is the best peer's time over ours, below 1 where ours loses.

    `more` adds columns of text by the rows' names.
    """
    more = more or {}
    tried = [name for row in rows for name, reason in row["absent"].items() if reason != NO_WAY]
    seen = {_engine(name) for row in rows for name in (*row.get("us", {}), *tried)}
    engines = [name for name in PEERS if name in seen]
    head = ["row (B, T, I, H)", *engines, "best / ours", *more, "share of limit"]
    body = []
    for row in rows:
        share = f"{row['share']:.0%} {row['limit']}" if "share" in row else ""
        share += f" ({row['share_turning']:.0%} back and forth)" if "share_turning" in row else ""
        columns = [column.get(row["name"], "") for column in more.values()]
        cells = [_cell(row, engine) for engine in engines]
        body.append([f"{row['name']} {row['dims']}", *cells, _ratio(row), *columns, share])
    return table(head, body)


def _ratio(row: Facts) -> str:
    return f"{row['ratio']:.2f}" if "ratio" in row else ""


def latency_table(rows: Sequence[Facts]) -> str:
    """Return p50 / p99 / p99.9 of the steps of streams, by engine; empty without such rows."""
    rows = [row for row in rows if row.get("kind") in ("Step", "Arrivals") and "us" in row]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row["percentiles"]))
    body = []
    for row in rows:
        found = [row["percentiles"].get(name) for name in names]
        cells = [" / ".join(microseconds(p[key]) for key in ("p50", "p99", "p99.9")) if p else "" for p in found]
        body.append([f"{row['name']} {row['dims']}", *cells])
    return table(["p50 / p99 / p99.9", *names], body)


def _engine(name: str) -> str:
    return name.split()[0]


def _cell(row: Facts, engine: str) -> str:
    """Return the time of the engine's best variant, with the variant's name, or a word on why there is none."""
    times = {name: us for name, us in row.get("us", {}).items() if _engine(name) == engine}
    if times:
        best = min(times, key=lambda name: times[name])
        variant = best.removeprefix(engine).strip()
        return microseconds(times[best]) + (f" ({variant})" if variant else "")
    reasons = " ".join(reason for name, reason in row["absent"].items() if _engine(name) == engine)
    return "differs" if "differs" in reasons else "fails" if reasons else ""


def microseconds(us: float) -> str:
    """Return a time with three digits or more."""
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _study(item: tuple[str, Sequence[Facts]]) -> str:
    """Return the table of a study, empty where there is none to make."""
    name, facts = item
    if not facts or name == "cost":
        return ""
    columns = list(dict.fromkeys(column for each in facts for column in each["us"]))
    head = [f"{name} (B, T, I, H)", *columns, "result"]
    body = [
        [
            f"{each['name']} {each['dims']}",
            *(microseconds(each["us"][c]) if c in each["us"] else "" for c in columns),
            found(each),
        ]
        for each in facts
    ]
    return table(head, body)


def found(facts: Facts) -> str:
    """Return what a study found, as text."""
    if "lines" in facts:
        return "; ".join(f"{name} R squared {line['r2']:.4f}" for name, line in facts["lines"].items())
    shown = {name: value for name, value in facts.items() if name not in ("name", "dims", "us") and value is not None}
    return "; ".join(summary.lines(shown))


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def markers(name: str) -> tuple[str, str]:
    """Return what stands before and after a block of a page."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def replace_between(text: str, name: str, block: str) -> str:
    """Return a page with what lies between a block's markers replaced. Raise InputError unless each marker stands there once."""
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"expected {begin} and, after it, {end}, once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{block.strip()}\n\n{end}{rest.split(end)[1]}"


def update(path: Path, blocks: Mapping[str, str]) -> None:
    """Replace blocks of a page, all or none. Raise InputError where the page has no place for one."""
    try:
        text = path.read_text(encoding="utf-8")
        for name, block in blocks.items():
            text = replace_between(text, name, block)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    write(path, text)


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

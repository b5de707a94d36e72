"""Two pictures: how many times as long peers take on each row, and how time grows with steps and with rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.peers import PEERS
from fastlstm.errors import MissingExtraError

COLOURS = {
    "onnxruntime": "#4477aa",
    "torch": "#ee6677",
    "openvino": "#228833",
    "keras": "#ccbb44",
    "fastlstm": "#222222",
}
Facts = Mapping[str, Any]


def _pyplot():
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "--plot") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    return pyplot


def ratios(results: Facts, path: Path) -> None:
    """Draw a bar for each peer and row: its best time over ours, a panel for each number of threads. Raise MissingExtraError."""
    pyplot = _pyplot()
    panels = {n: [row for row in each["rows"] if row.get("ratios")] for n, each in results["threads"].items()}
    panels = {threads: rows for threads, rows in panels.items() if rows}
    if not panels:
        return
    longest = max(map(len, panels.values()))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(2.5 + 5 * len(panels), 1.5 + 0.55 * longest), sharex=True, sharey=True, squeeze=False
    )
    for axis, (threads, rows) in zip(axes[0], panels.items(), strict=True):
        peers = [name for name in PEERS if any(_best(row, name) for row in rows)]
        height = 0.8 / max(len(peers), 1)
        for k, peer in enumerate(peers):
            found = [(place, ratio) for place, row in enumerate(rows) if (ratio := _best(row, peer))]
            places = [place - 0.4 + (k + 0.5) * height for place, _ in found]
            # bars start at 1: to the right ours is faster, to the left the peer is
            axis.barh(places, [ratio - 1 for _, ratio in found], height, left=1, color=COLOURS[peer], label=peer)
        axis.axvline(1, color=COLOURS["fastlstm"], linewidth=1)
        axis.set_xscale("log")
        marks = [0.5, 0.7, 1, 1.5, 2, 3, 5, 10]
        axis.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axis.minorticks_off()
        axis.set_yticks(range(len(rows)), [f"{row['name']} {row['dims']}" for row in rows])
        axis.grid(axis="x", alpha=0.3)
        axis.set_title(f"{threads} thread{'s' * (threads != '1')}")
        axis.set_xlabel("time of the peer / time of fastlstm")
    axes[0][0].set_ylim(longest - 0.4, -0.6)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _best(row: Facts, peer: str) -> float | None:
    """Return the ratio of the peer's best variant."""
    return min((ratio for name, ratio in row["ratios"].items() if name.split()[0] == peer), default=None)


def cost(results: Facts, path: Path) -> bool:
    """Draw time against steps and against rows with the lines that fit, one thread. Return whether there was any. Raise MissingExtraError."""
    facts = next((f for each in results["threads"].values() if (f := each.get("studies", {}).get("cost"))), None)
    if not facts:
        return False
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(facts), figsize=(5 * len(facts), 4), squeeze=False)
    for axis, each in zip(axes[0], facts, strict=True):
        sizes = each["sizes"]
        for name, line in each["lines"].items():
            axis.plot(sizes, line["us"], "o", color=COLOURS[name], label=f"{name}, R² = {line['r2']:.4f}")
            axis.plot(sizes, [line["slope"] * size + line["intercept"] for size in sizes], color=COLOURS[name])
        axis.set_xlabel({"T": "steps T, 1 row", "B": "rows B, 50 steps"}[each["name"]])
        axis.set_ylabel("microseconds a call")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle("LSTM of 128 units")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True

"""The few numbers that all rows come down to."""

from collections.abc import Iterable, Mapping
from math import exp, log
from typing import Any

Facts = Mapping[str, Any]
COUNT = "rows of the table"
DISTURBED = 0.1  # of a core
MEAN = "best peer over ours, geometric mean"
MEAN_USUAL = "the same by its usual call, without IO binding or a cell by itself"
CEILINGS = "best peer over a kernel at the peak of multiply-adds"
MEAN_TRAINING = "training: best peer over ours, geometric mean"
MEANS = {MEAN: "table", MEAN_TRAINING: "training"}  # of which group of rows each is


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the geometric mean, None of nothing."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs)) if logs else None


def summarise(results: Facts) -> dict[str, Any]:
    """Return the summary of the results of one number of threads: what was measured of it."""
    rows = {row["name"]: row for row in results["rows"]}
    table, training = (compared(results["rows"], group) for group in MEANS.values())
    peers = sorted({name for row in table for name in row["ratios"]})
    facts: dict[str, Any] = {
        "machine, GFLOP/s and GB/s": peaks(results),
        COUNT: len(table),
        "rows where a peer is faster": [row["name"] for row in results["rows"] if row.get("ratio", 1) < 1],
        MEAN: geometric_mean(row["ratio"] for row in table),
        MEAN_USUAL: geometric_mean(min(usual) for usual in map(usual_calls, table) if usual),
        MEAN_TRAINING: geometric_mean(row["ratio"] for row in training),
        "each peer over ours, geometric mean": {
            name: geometric_mean(row["ratios"][name] for row in table if name in row["ratios"]) for name in peers
        },
    }
    ceilings = {row["name"]: row["ratio"] / row["share"] for row in table if row.get("limit") == "FMA"}
    facts[CEILINGS] = ceilings
    for name in ("large batch", "in L2", "large"):
        row = rows.get(name, {})
        if "share" in row:
            facts[f"share of {row['limit']} at {row['dims']}"] = row["share"]
        if "share_turning" in row:
            facts[f"share of reading back and forth at {row['dims']}"] = row["share_turning"]
    disturbed = [row["name"] for row in results["rows"] if row.get("others", 0) > DISTURBED]
    if disturbed:
        facts[f"rows during which others took more than {DISTURBED} of a core"] = disturbed
    dense = rows.get("step with Dense", {})
    if "onnxruntime" in dense.get("ratios", {}):
        facts["stream.step with Dense: InferenceSession.run over ours"] = dense["ratios"]["onnxruntime"]
    studies = results.get("studies", {})
    for each in studies.get("float16", []):
        facts[f"float16 {each['name']}: float32 over float16, difference"] = [each["ratio"], each["difference"]]
    for each in studies.get("int8", []):
        if each["ratio"] is None:
            continue
        facts[f"int8 {each['name']}: onnxruntime over ours, errors"] = [each["ratio"], each["errors"]]
    for each in studies.get("raggedness", []):
        facts["ragged batch over its share of the full batch"] = each["ratio"]
        facts["the same as a padded array with lengths"] = each.get("ratio_padded")
    facts["denormal inputs over normal ones"] = {each["name"]: each["slower"] for each in studies.get("denormals", [])}
    for each in studies.get("paced", []):
        facts[f"{each['name']} every 8 ms: best peer over ours, median and p99"] = [each["ratio"], each["ratio_p99"]]
    for each in studies.get("cost", []):
        facts[f"R squared of time against {each['name']}"] = each["lines"]["fastlstm"]["r2"]
    return {name: value for name, value in facts.items() if value not in (None, {}, [None, None])}


def compared(rows: Iterable[Facts], group: str) -> list[Facts]:
    """Return the rows of a group that a peer ran too."""
    return [row for row in rows if row["group"] == group and "ratio" in row]


def usual_calls(row: Facts) -> list[float]:
    """Return every peer's time over ours by the call that its documentation shows; a way of its own follows a peer's name."""
    return [ratio for name, ratio in row["ratios"].items() if " " not in name]


def peaks(results: Facts) -> dict[str, float]:
    """Return the best rates of all probes, those that ran among the rows too."""
    found = dict(results["machine"])
    for row in results["rows"]:
        for name, rate in row.get("rates", {}).items():
            found[name] = max(found.get(name, 0.0), rate)
    return found


def lines(summary: Facts) -> list[str]:
    """Return the summary as lines of text."""
    return [f"{name}: {_said(value)}" for name, value in summary.items()]


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(_said(each) for each in value) or "none"
    return str(value)

"""What `info --plan` tells: the program that a call runs, step by step, what was fused, and what it takes."""

from collections import Counter
from typing import Any

import numpy as np

from fastlstm.cli.progress import one_line
from fastlstm.ops.op import Value
from fastlstm.program import HostStep, KernelStep
from fastlstm.session import Session


def describe(session: Session, batch: int, steps: int) -> dict[str, Any]:
    """Return the program of a call as plain data. Raise InputError for sizes that no call has, LimitError for too large ones."""
    shapes = tuple(
        tuple(int(d) for d in spec.shape or ()) for spec in session.specs(batch, steps, "the program of a call")
    )
    frame = session._plan.bind(shapes)
    program = frame.program
    by_node: dict[str, list[KernelStep | HostStep]] = {}
    for step in program.steps:
        by_node.setdefault(step.node, []).append(step)
    nodes = [
        {
            "name": one.node.name,
            "op": one.node.op,
            "inputs": [_value(value) for value in one.inputs if value is not None and value.data is None],
            "outputs": [_value(value) for value in one.outputs if value is not None],
            "steps": [_step(step) for step in by_node.get(one.node.name, ())],
            "fused": one.notes,
        }
        for one in frame.lowered
    ]
    return {
        "batch": batch,
        "steps": steps,
        "inputs": {spec.name: list(shape) for spec, shape in zip(session.inputs, shapes, strict=True)},
        "calls": sum(not isinstance(call, HostStep) for call in program.calls),
        "kernels": sum(isinstance(step, KernelStep) for step in program.steps),
        "numpy_steps": sum(isinstance(step, HostStep) for step in program.steps),
        "packed_bytes": frame.packed_bytes,
        "scratch_bytes": frame.scratch_bytes,
        "goes_on": frame.waits_for is not None,
        "nodes": nodes,
    }


def _value(value: Value) -> dict[str, Any]:
    return {"dtype": value.dtype.name, "shape": [int(d) for d in value.shape or ()]}


def _step(step: KernelStep | HostStep) -> dict[str, Any]:
    if isinstance(step, HostStep):
        return {"kernel": None, "dtype": None, "weights": None}
    # what only moves elements has a kind of their size
    moves = step.kind.kind != "f" or step.kernel == "copy_forward"
    dtype = next((arg.dtype for arg in step.args if moves and isinstance(arg, np.ndarray)), step.kind)
    narrow = step.narrow.name if step.narrow.itemsize < step.kind.itemsize and step.kind.kind == "f" else None
    return {"kernel": step.kernel, "dtype": dtype.name, "weights": narrow}


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts for a person."""
    calls = f"{facts['calls']} call{'s' if facts['calls'] != 1 else ''} into compiled code"
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in facts["inputs"].items())
    lines = [
        f"{'call':<14} batch {facts['batch']}, steps {facts['steps']}: {shapes}",
        f"{'program':<14} {calls}: {facts['kernels']} kernels, {facts['numpy_steps']} NumPy steps",
        f"{'memory':<14} {facts['packed_bytes']:,} bytes of packed weights, {facts['scratch_bytes']:,} bytes of buffers",
    ]
    views = Counter(node["op"] for node in facts["nodes"] if not node["steps"])
    if views:
        named = ", ".join(f"{op} x{count}" if count > 1 else op for op, count in sorted(views.items()))
        lines.append(f"{'dissolved':<14} {named}: their readers see the same memory otherwise")
    if facts["goes_on"]:
        lines.append(f"{'goes on':<14} once it is known what a value holds that a shape depends on")
    rows = [row for node in facts["nodes"] if node["steps"] for row in _rows(node)]
    wide = [max((len(row[k]) for row in rows), default=0) for k in range(4)]
    lines += ["", *("  ".join(text.ljust(size) for text, size in zip(row, [*wide, 0], strict=True)) for row in rows)]
    return "\n".join(one_line(line.rstrip()) for line in lines)


def _rows(node: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return the table's rows of a node: its kernels, with its sizes at the first, and under them what is fused into it."""
    sizes = " -> ".join(", ".join(_shape(v["shape"]) for v in node[role]) for role in ("inputs", "outputs"))
    rows, kernels = [], []
    for step in node["steps"]:
        dtype = step["dtype"] or ""
        named = step["kernel"] or "NumPy", dtype + (f", {step['weights']} weights" if step["weights"] else "")
        if kernels and kernels[-1][0] == named:
            kernels[-1] = named, kernels[-1][1] + 1
        else:
            kernels.append((named, 1))
    for k, ((kernel, dtype), count) in enumerate(kernels):
        name, op, text = (node["name"], node["op"], sizes) if k == 0 else ("", "", "")
        rows.append((name, op, kernel + (f" x{count}" if count > 1 else ""), dtype, text))
    return rows + [("", "", "", "", note) for note in node["fused"]]


def _shape(shape: list[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"

"""A graph whose rows have lengths: its twin that takes a mask, so that recurrent nodes stop at each row's end.

Possible where every other node treats each step by itself or looks back only: then what rows are padded with reaches no step before
a row's end, and a row of the batch is computed as if it were alone.
"""

from collections.abc import Container
from dataclasses import replace

import numpy as np

from fastlstm.axes import BATCH, TIME, Axes
from fastlstm.errors import UnsupportedError
from fastlstm.graph import Graph, Node, TensorSpec
from fastlstm.ops.op import find
from fastlstm.ops.recurrent import Recurrent

STEPS_FIRST, ROWS_FIRST = "mask of steps and rows", "mask of rows and steps"  # inputs of the twin: (T, B) and (B, T)


def with_lengths(axes: Axes) -> Graph:
    """Return the twin of a graph, with the masks that it needs as further inputs. Raise UnsupportedError, naming the node."""
    if not axes.time or not axes.rows_are_apart:
        raise UnsupportedError("rows cannot have lengths of their own: the model has no time axis, or mixes rows")
    nodes, masks = [], set()
    names = {node.name for node in axes.graph.nodes}
    for node in axes.graph.nodes:
        op = find(node.op)
        # backwards from its own end, a row depends on its own steps alone
        forward = node
        if isinstance(op, Recurrent):
            forward = replace(node, attributes={**node.attributes, "direction": "forward"})
        if axes.mixes(forward, TIME):
            raise UnsupportedError(
                f"rows cannot have lengths of their own: node {node.name!r} ({node.op}) needs all of time"
            )
        if not isinstance(op, Recurrent) or axes.axis(node.inputs[0], TIME) is None:
            nodes.append(node)
            continue
        if op.mask_slot < len(node.inputs) and node.inputs[op.mask_slot]:
            raise UnsupportedError(
                f"rows cannot have lengths of their own: node {node.name!r} ({node.op}) has a mask already"
            )
        mask = ROWS_FIRST if op.time_axis(node) == 1 else STEPS_FIRST
        masks.add(mask)
        nodes += _masked(op, node, mask, names)
    if not masks:
        raise UnsupportedError("rows cannot have lengths of their own: the model has no recurrent node over its steps")
    shapes = {STEPS_FIRST: (TIME, BATCH), ROWS_FIRST: (BATCH, TIME)}
    specs = [TensorSpec(name, "bool", shapes[name]) for name in sorted(masks)]
    return replace(axes.graph, nodes=tuple(nodes), inputs=(*axes.graph.inputs, *specs))


def _masked(op: Recurrent, node: Node, mask: str, names: Container[str]) -> list[Node]:
    """Return what stands for a recurrent node whose rows have lengths; `names` are those of nodes."""
    inputs = [*node.inputs, *("" for _ in range(op.mask_slot + 1 - len(node.inputs)))]
    inputs[op.mask_slot] = mask
    # a row without steps ends with the states it starts with, as a call of no steps does
    attributes = {**node.attributes, "empty_state": "carry"}
    outputs, also = list(node.outputs), []
    if len(outputs) == len(op.outputs) and outputs[-1]:
        # so the output of the last step is the final h: under the mask of a model it would be zeros for such a row
        last, outputs[-1] = outputs[-1], ""
        if outputs[1]:
            name = f"{node.name}/last"
            while name in names:
                name += "_"
            also = [Node(name, "Identity", (outputs[1],), (last,))]
        else:
            outputs[1] = last
    return [replace(node, inputs=tuple(inputs), outputs=tuple(outputs), attributes=attributes), *also]


def write_mask(name: str, lengths: np.ndarray, mask: np.ndarray) -> None:
    """Write the mask of this name, an input of the twin, for rows of these lengths."""
    by_row = mask if name == ROWS_FIRST else mask.T
    np.less(np.arange(by_row.shape[1]), lengths[:, None], out=by_row)

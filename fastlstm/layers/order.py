"""The calls that lie between the inputs and the outputs of a model, and its layers in Keras's order."""

from collections.abc import Sequence
from typing import Any

from fastlstm.errors import InputError
from fastlstm.layers.symbolic import Call, Symbol


def ordered(inputs: Sequence[Symbol], outputs: Sequence[Symbol]) -> tuple[list[Call], list[Any]]:
    """Return the calls in an order in which they can be made, and the layers.

    Keras sorts layers by depth, the longest way to an output, and within it by when a walk back from the outputs meets
    them. Raise InputError where an output does not depend on the inputs alone.
    """
    given = set(inputs)
    finished: list[Call] = []
    met: dict[Any, int] = {}  # layers, by when the walk met them
    for output in outputs:
        _walk(output, given, finished, met)
    depths = _depths(finished)
    layer_depths: dict[Any, int] = {}
    for call in reversed(finished):
        layer_depths[call.layer] = max(depths[call], layer_depths.get(call.layer, 0))
    for symbol in inputs:
        layer = symbol.layer
        readers = [depths[call] for call in finished if symbol in call.inputs]
        if symbol.call is None:
            layer_depths[layer] = max([depth + 1 for depth in readers], default=0)
            met.setdefault(layer, -1)
    layers = sorted(layer_depths, key=lambda layer: (-layer_depths[layer], met[layer]))
    return sorted(finished, key=lambda call: call.number), layers


def _walk(output: Symbol, given: set[Symbol], finished: list[Call], met: dict[Any, int]) -> None:
    """Walk back from an output, depth first, and note calls once all that they read is known."""
    done = set(finished)
    stack: list[tuple[Symbol | None, Call | None]] = [(output, None)]
    while stack:
        symbol, ready = stack.pop()
        if symbol is None:
            if ready is not None and ready not in done:
                done.add(ready)
                finished.append(ready)
            continue
        call = symbol.call
        if symbol in given:
            if call is None:
                met.setdefault(symbol.layer, len(met))
            continue
        if call is None:
            raise InputError(f"the outputs depend on input {symbol.name!r}, which is not among the model's inputs")
        if call in done:
            continue
        met.setdefault(call.layer, len(met))
        stack.append((None, call))
        stack += [(x, None) for x in reversed(call.inputs)]


def _depths(finished: Sequence[Call]) -> dict[Call, int]:
    """Return for each call the most calls of other layers between it and an output; a shared layer counts where it is deepest."""
    depths: dict[Call, int] = {}
    layer_depths: dict[Any, int] = {}
    for call in reversed(finished):
        depth = max(depths.get(call, 0), layer_depths.get(call.layer, 0))
        depths[call] = layer_depths[call.layer] = depth
        for symbol in call.inputs:
            if symbol.call is not None:
                depths[symbol.call] = max(depth + 1, depths.get(symbol.call, 0))
    return {call: depths[call] for call in finished}

"""Convolutions, poolings and margins in Keras 3, along time, over images and over volumes. Filled into the registry of `to_keras`.

Keras's padding "same" depends on sizes and its "causal" is of one axis, so zeros stand in a layer of their own before a convolution.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.converters.keras_nodes import activated, named, scaled, sloped, variables
from fastlstm.converters.to_keras import Call, Tensor, handler
from fastlstm.graph import Dim
from fastlstm.ops.op import Value

Margin = tuple[int, int]  # before and after


@handler("Conv1D", "Conv2D", "Conv3D")
def _convolution(call: Call) -> list[Tensor]:
    W, b = call.weight(1, "a kernel"), call.weight(2, "a bias")
    assert W is not None
    axes = W.ndim - 2
    if axes == 1:
        strides, dilations, margins = [call.get("stride")], [call.get("dilation")], [tuple(call.get("pads"))]
    else:
        pads, strides, dilations = call.get("pads"), list(call.get("strides")), list(call.get("dilations"))
        margins = [(pads[k], pads[k + axes]) for k in range(axes)]
    if max(strides) > 1 and max(dilations) > 1:
        raise call.refuse(f"strides {strides} with dilations {dilations}")
    kind, factor, slope = activated(call)
    config = {
        "kernel_size": list(W.shape[:axes]), "strides": strides, "padding": "valid", "dilation_rate": dilations,
        "activation": "linear" if slope else named(call, kind), "use_bias": b is not None,
    }  # fmt: skip
    class_name, groups = f"Conv{axes}D", call.get("groups")
    *sizes, inputs, filters = W.shape
    # TensorFlow has no grouped convolutions on a CPU but through its compiler, and depthwise ones of equal strides
    if groups > 1 and inputs == 1 and axes < 3 and len(set(strides)) == 1:
        class_name = f"DepthwiseConv{axes}D"
        config["depth_multiplier"] = filters // groups
        W = W.reshape(*sizes, groups, filters // groups)
    else:
        config |= {"filters": filters, "groups": groups}
    x = padded(call, call.tensor(0), margins)
    y = call.layer(class_name, config, [x], variables(scaled(W, factor), scaled(b, factor)), shared=(1, 2))
    return sloped(call, y, slope)


def padded(call: Call, x: Tensor, margins: Sequence[Margin]) -> Tensor:
    """Return x (B, T, ..., C) with zeros before and after, axis by axis."""
    if not any(map(any, margins)):
        return x
    inner = [d + sum(m) if isinstance(d, int) else f"padded.{d}" for d, m in zip(x.dims[1:-1], margins, strict=True)]
    value = Value(np.dtype(x.dtype), (x.dims[0], *inner, x.dims[-1]))
    pairs = [list(margin) for margin in margins]
    config = {"padding": pairs[0] if len(pairs) == 1 else pairs}
    return call.layer(f"ZeroPadding{len(pairs)}D", config, [x], made=[value], suffix="_padding")[0]


@handler("Windows")
def _windows(call: Call) -> list[Tensor]:
    """Keep windows for the node that reads them: alone Keras has none."""
    call.writer.windows[call.node.outputs[0]] = call
    return []


def pooled(call: Call, windows: Call) -> Tensor | list[Tensor]:
    """Return windows along an axis that are reduced, as the pooling that they are."""
    x, margin, size, stride = windows.tensor(0), tuple(windows.get("pads")), windows.get("size"), windows.get("stride")
    axes, axis = len(x.dims) - 2, windows.get("axis")
    reduced = tuple(call.get("axes") or ())
    if not 1 <= axis <= axes <= 3 or windows.get("dilation") != 1 or reduced != (axis + 1,) or call.get("keepdims"):
        raise call.refuse("a reduction of windows other than a pooling between the batch and the features")
    along = lambda value: [value if k == axis else 1 for k in range(1, axes + 1)]
    config: dict[str, Any] = {"pool_size": along(size), "strides": along(stride), "padding": "valid"}
    if call.node.op == "ReduceMax":
        if any(margin) and margin != _same(x.dims[axis], size, stride):
            raise call.refuse(f"a maximum of windows with pads {margin}")
        return call.layer(f"MaxPooling{axes}D", config | {"padding": "same" if any(margin) else "valid"}, [x])
    if call.node.op not in ("ReduceMean", "ReduceSum"):
        raise call.refuse("windows as its input")
    y = call.layer(f"AveragePooling{axes}D", config, [padded(call, x, _margins(axes, axis, margin))])
    return y if call.node.op == "ReduceMean" else call.function("Multiply", [y[0], float(size)], suffix="_sum")


def margin_of(call: Call, windows: Call, axes: Sequence[int]) -> Tensor | None:
    """Return windows of one element each without the axis for it: what is left is what padding added. None for other windows."""
    x, axis = windows.tensor(0), windows.get("axis")
    if (windows.get("size"), windows.get("stride"), list(axes)) != (1, 1, [axis + 1]) or not 1 <= axis <= len(
        x.dims
    ) - 2 <= 3:
        return None
    return padded(call, x, _margins(len(x.dims) - 2, axis, tuple(windows.get("pads"))))


def _margins(axes: int, axis: int, margin: Margin) -> list[Margin]:
    """Return a margin along one of the axes after the batch, none along the others."""
    return [margin if k == axis else (0, 0) for k in range(1, axes + 1)]


def _same(steps: Dim, size: int, stride: int) -> Margin | None:
    """Return the pads of Keras's padding "same", None where they are not known."""
    if stride > 1 and not isinstance(steps, int):
        return None
    left = size - 1 if not isinstance(steps, int) else max(0, (-(-steps // stride) - 1) * stride + size - steps)
    return left // 2, left - left // 2

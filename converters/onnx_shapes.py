"""Handlers of ONNX's operators that make, read and rearrange shapes: every opset's spelling brought to the newest form."""

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, handler
from fastlstm.converters.onnx_sizes import sizes, with_shape
from fastlstm.errors import ModelFileError
from fastlstm.layers import Tensor
from fastlstm.ops.elementwise import DTYPES, broadcast
from fastlstm.ops.padding import MODES


def _same(node: OnnxNode, **attributes):
    return node.emit(node.op_type, node.inputs, **attributes)


def _axes(node: OnnxNode, since: int, index: int = 1) -> Tensor | None:
    """Return axes, an attribute before opset `since` and an input from then on."""
    if node.opset >= since:
        return node.optional(index)
    axes = node.attribute("axes")
    return None if axes is None else node.ints("axes", axes)


@handler("Squeeze", "Unsqueeze")
def _squeeze(node: OnnxNode):
    return node.emit(node.op_type, [node.input(0), _axes(node, 13)])


@handler("Reshape")
def _reshape(node: OnnxNode):
    node.ignore("consumed_inputs")
    shape = node.input(1) if node.opset >= 5 else node.ints("shape", node.attribute("shape", ()))
    return node.emit("Reshape", [node.input(0), shape], allowzero=bool(node.attribute("allowzero", 0)))


@handler("Flatten")
def _flatten(node: OnnxNode):
    return _same(node, axis=int(node.attribute("axis", 1)))


@handler("Transpose")
def _transpose(node: OnnxNode):
    return _same(node, perm=tuple(int(k) for k in node.attribute("perm") or ()))


@handler("Concat")
def _concat(node: OnnxNode):
    axis = node.attribute("axis", 1 if node.opset < 4 else None)
    if axis is None:
        raise ModelFileError(f"node {node.name!r}: Concat lacks its attribute axis")
    return _same(node, axis=int(axis))


@handler("Split")
def _split(node: OnnxNode):
    if int(node.attribute("num_outputs", len(node.outputs))) != len(node.outputs):
        raise node.refuse("attribute num_outputs", node.attribute("num_outputs"))
    sizes = node.optional(1) if node.opset >= 13 or node.opset < 2 else None
    given = node.attribute("split") if node.opset < 13 else None
    if given is not None:
        sizes = node.ints("split", given)
    results = node.emit("Split", [node.input(0), sizes], len(node.outputs), axis=int(node.attribute("axis", 0)))
    return [results] if len(node.outputs) == 1 else list(results)


@handler("Slice")
def _slice(node: OnnxNode):
    if node.opset >= 10:
        return _same(node)
    given = [node.attribute(name) for name in ("starts", "ends", "axes")]
    return node.emit("Slice", [node.input(0), *(None if v is None else node.ints("slice", v) for v in given)])


@handler("Gather")
def _gather(node: OnnxNode):
    return _same(node, axis=int(node.attribute("axis", 0)))


@handler("GatherElements")
def _gather_elements(node: OnnxNode):
    return _same(node, axis=int(node.attribute("axis", 0)))


@handler("ReverseSequence")
def _reverse_sequence(node: OnnxNode):
    return _same(node, time_axis=int(node.attribute("time_axis", 0)), batch_axis=int(node.attribute("batch_axis", 1)))


@handler("Pad")
def _pad(node: OnnxNode):
    mode = node.text("mode", "constant")
    if mode not in MODES:
        raise node.refuse("attribute mode", mode)
    x = node.input(0)
    if node.opset >= 11:
        value = node.optional(2)
        return node.emit("Pad", [x, node.input(1), value if mode == "constant" else None, node.optional(3)], mode=mode)
    pads = node.ints("pads", node.attribute("pads" if node.opset >= 2 else "paddings", ()))
    return node.emit("Pad", [x, pads, node.number(float(node.attribute("value", 0.0)), x)], mode=mode)


@handler("Tile")
def _tile(node: OnnxNode):
    return _same(node)


@handler("Size")
def _size(node: OnnxNode):
    return node.emit("ReduceProd", [node.emit("Shape", [node.input(0)], suffix="/shape")])


@handler("OneHot")
def _one_hot(node: OnnxNode):
    return _same(node, axis=int(node.attribute("axis", -1)), from_end=node.opset >= 11)


@handler("Expand")
def _expand(node: OnnxNode):
    y, wanted = _same(node), sizes(node.build, node.input(1))
    if y.value.shape is not None or wanted is None:
        return y
    return with_shape(y, broadcast(node.build.producers[y.name], [node.input(0).value.shape, wanted]))


@handler("Shape")
def _shape(node: OnnxNode):
    end = node.attribute("end")
    return _same(node, start=int(node.attribute("start", 0)), end=2**31 if end is None else int(end))


@handler("ConstantOfShape")
def _constant_of_shape(node: OnnxNode):
    value = node.attribute("value")
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1 or value.dtype.name not in DTYPES:
        raise node.refuse("attribute value", value)
    number = value.ravel()[0].item()
    if not abs(number) < 2**53:  # held as a float
        raise node.refuse("attribute value", number)
    y = _same(node, value=float(number), dtype=value.dtype.name)
    return with_shape(y, sizes(node.build, node.input(0)))


@handler("Constant")
def _constant(node: OnnxNode):
    for name, dtype in (
        ("value", None),
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        value = node.attribute(name)
        if value is not None:
            return node.build.weight(node.outputs[0] if node.outputs else node.name, np.asarray(value, dtype))
    raise node.refuse("attributes", "no value, value_float(s) or value_int(s)")

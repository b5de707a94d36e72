"""Handlers of ONNX's convolutions and pools: channels come first there, last here."""

from fastlstm.converters.onnx_graph import OnnxNode, handler


@handler("Conv")
def _conv(node: OnnxNode):
    x, W, b = node.input(0), node.input(1), node.optional(2)
    shape = W.value.shape
    if shape is None or len(shape) != 3 or not all(isinstance(d, int) for d in shape):
        raise node.refuse("shape of W (only convolutions over one axis, of known sizes, are supported)", shape)
    K = int(shape[2])
    if list(node.attribute("kernel_shape") or [K]) != [K]:
        raise node.refuse("attribute kernel_shape", node.attribute("kernel_shape"))
    stride, dilation = (int((node.attribute(name) or [1])[0]) for name in ("strides", "dilations"))
    pads = [int(p) for p in node.attribute("pads") or (0, 0)]
    auto_pad = node.attribute("auto_pad", b"NOTSET")
    if auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
        span = (K - 1) * dilation
        if stride != 1:
            raise node.refuse("attribute auto_pad with strides", stride)
        less, more = span // 2, span - span // 2
        pads = [less, more] if auto_pad == b"SAME_UPPER" else [more, less]
    elif auto_pad == b"VALID":
        pads = [0, 0]
    elif auto_pad not in (b"NOTSET", b""):
        raise node.refuse("attribute auto_pad", auto_pad)
    steps = node.emit("Transpose", [x], suffix="/steps", perm=(0, 2, 1))
    kernel = node.emit("Transpose", [W], suffix="/W", perm=(2, 1, 0))
    y = node.emit(
        "Conv1D",
        [steps, kernel, b],
        stride=stride,
        dilation=dilation,
        groups=int(node.attribute("group", 1)),
        pads=tuple(pads),
    )
    return node.emit("Transpose", [y], suffix="/channels", perm=(0, 2, 1))


@handler("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: OnnxNode):
    op = "ReduceMean" if node.op_type == "GlobalAveragePool" else "ReduceMax"
    return node.emit(op, [node.input(0)], axes=tuple(range(2, node.rank(0))), keepdims=True)

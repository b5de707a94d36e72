"""Handlers of ONNX's normalisations."""

from fastlstm.converters.onnx_graph import OnnxNode, handler
from fastlstm.layers import Tensor


@handler("BatchNormalization")
def _batch_normalization(node: OnnxNode):
    node.ignore("is_test", "consumed_inputs")
    epsilon = float(node.attribute("epsilon", 1e-5))
    x, scale, shift, mean, variance = (node.input(k) for k in range(5))
    if not node.attribute("spatial", 1):  # statistics of each element
        return _normalised(node, x, mean, variance, epsilon, scale, shift)
    training = bool(node.attribute("training_mode", 0))
    momentum = float(node.attribute("momentum", 0.9))
    if not training and any(node.wants(k) for k in range(1, 5)):
        raise node.refuse("attribute training_mode", 0)
    running = []
    if training:
        axes = (0, *range(2, node.rank(0)))
        old = mean, variance
        mean, variance = _statistics(node, x, axes, keepdims=False)
        running = [_blend(node, *pair, momentum) for pair in zip(old, (mean, variance), strict=True)]
    y = node.emit("BatchNormalization", [x, scale, shift, mean, variance], axis=1, epsilon=epsilon)
    return [y, *running]


def _statistics(node: OnnxNode, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of x over axes."""
    mean = node.emit("ReduceMean", [x], suffix="/mean", axes=axes, keepdims=True)
    off = node.emit("Sub", [x, mean], suffix="/off")
    squares = node.emit("Mul", [off, off], suffix="/squares")
    variance = node.emit("ReduceMean", [squares], suffix="/variance", axes=axes, keepdims=keepdims)
    if not keepdims:
        mean = node.emit("ReduceMean", [x], suffix="/mean", axes=axes, keepdims=False)
    return mean, variance


def _blend(node: OnnxNode, old: Tensor, new: Tensor, momentum: float) -> Tensor:
    """Return old * momentum + new * (1 - momentum)."""
    parts = [
        node.emit("Mul", [value, node.number(share, value)], suffix="/running")
        for value, share in ((old, momentum), (node.cast(new, old.value.dtype.name), 1 - momentum))
    ]
    return node.emit("Add", parts, suffix="/running")


def _normalised(
    node: OnnxNode, x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, scale: Tensor, shift: Tensor | None
) -> Tensor:
    """Return (x - mean) / sqrt(variance + epsilon) * scale + shift by broadcasting."""
    spread = node.emit(
        "Sqrt", [node.emit("Add", [variance, node.number(epsilon, variance)], suffix="/padded")], suffix="/s"
    )
    y = node.emit("Div", [node.emit("Sub", [x, mean], suffix="/off"), spread], suffix="/normal")
    return _scaled(node, y, scale, shift)


def _scaled(node: OnnxNode, y: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    y = node.emit("Mul", [y, scale], suffix="" if shift is None else "/scaled")
    return y if shift is None else node.emit("Add", [y, shift])


@handler("InstanceNormalization")
def _instance_normalization(node: OnnxNode):
    """Each channel of each row by itself: a LayerNormalization of its elements."""
    node.ignore("consumed_inputs")
    x, epsilon = node.input(0), float(node.attribute("epsilon", 1e-5))
    flat = node.emit("Reshape", [x, node.ints("shape", [0, 0, -1])], suffix="/flat")
    normal = node.emit("LayerNormalization", [flat], suffix="/normal", axis=-1, epsilon=epsilon)
    y = node.emit("ReshapeLike", [normal, x], suffix="/unflat")
    axes = node.ints("axes", range(1, node.rank(0) - 1))
    scale, shift = (node.emit("Unsqueeze", [node.input(k), axes], suffix="/channel") for k in (1, 2))
    return _scaled(node, y, scale, shift)


@handler("LayerNormalization")
def _layer_normalization(node: OnnxNode):
    node.ignore("stash_type")  # what the statistics are computed in: float32, as here
    x, scale, shift = node.input(0), node.input(1), node.optional(2)
    axis, epsilon = node.axis("axis", -1), float(node.attribute("epsilon", 1e-5))
    normal_shape = None if x.value.shape is None else x.value.shape[axis:]
    fits = all(w is None or (w.value.shape is not None and w.value.shape == normal_shape) for w in (scale, shift))
    if fits:
        y = node.emit("LayerNormalization", [x, scale, shift], axis=axis, epsilon=epsilon)
    else:  # scale and shift are broadcast
        plain = node.emit("LayerNormalization", [x], suffix="/normal", axis=axis, epsilon=epsilon)
        y = _scaled(node, plain, scale, shift)
    if not (node.wants(1) or node.wants(2)):
        return y
    wide = node.cast(x, "float32") if x.value.dtype == "float16" else x
    mean, variance = _statistics(node, wide, tuple(range(axis, node.rank(0))), keepdims=True)
    padded = node.emit("Add", [variance, node.number(epsilon, variance)], suffix="/padded")
    root = node.emit("Sqrt", [padded], suffix="/s")
    return [y, mean, node.emit("Div", [node.number(1, root), root], suffix="/inverse")]

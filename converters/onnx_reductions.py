"""Handlers of ONNX's operators along axes: reductions, softmax and its kin, extremes and their places, running sums, Einsum."""

from collections.abc import Callable

import numpy as np

from fastlstm.converters.onnx_graph import OnnxNode, handler
from fastlstm.layers import Tensor

_AXES_ARE_INPUTS = {"ReduceSum": 13}  # the others: since opset 18


def _reduced(node: OnnxNode, op: str, x: Tensor, suffix: str = "", keepdims: bool | None = None) -> Tensor:
    """Return a reduction of x over the node's axes, an attribute in older opsets and an input in newer ones."""
    keepdims = bool(node.attribute("keepdims", 1)) if keepdims is None else keepdims
    axes, noop, given = node.attribute("axes"), False, None
    if node.opset >= _AXES_ARE_INPUTS.get(node.op_type, 18):
        noop, given = bool(node.attribute("noop_with_empty_axes", 0)), node.optional(1)
        if given is not None and given.value.data is not None:
            axes, given = given.value.data.ravel().tolist(), None
    attributes = {"keepdims": keepdims, "noop": noop, "axes": tuple(int(axis) for axis in axes or ())}
    return node.emit(op, [x, given], suffix=suffix, **attributes)


@handler("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
def _reduce(node: OnnxNode):
    return _reduced(node, node.op_type, node.input(0))


@handler("ReduceL1")
def _reduce_l1(node: OnnxNode):
    return _reduced(node, "ReduceSum", node.emit("Abs", [node.input(0)], suffix="/abs"))


@handler("ReduceSumSquare")
def _reduce_sum_square(node: OnnxNode):
    return _squares(node)


def _squares(node: OnnxNode) -> Tensor:
    x = node.input(0)
    return _reduced(node, "ReduceSum", node.emit("Mul", [x, x], suffix="/squares"))


@handler("ReduceL2")
def _reduce_l2(node: OnnxNode):
    return node.emit("Sqrt", [_squares(node)])


@handler("ReduceLogSum")
def _reduce_log_sum(node: OnnxNode):
    return node.emit("Log", [_reduced(node, "ReduceSum", node.input(0), "/sum")])


@handler("ReduceLogSumExp")
def _reduce_log_sum_exp(node: OnnxNode):
    """log sum e^x = m + log sum e^(x - m), m being the largest x, or the nearest finite number."""
    x = node.input(0)
    if x.value.dtype.kind in "iu":
        x = node.cast(x, "float64")
    tops = [_finite(node, _reduced(node, "ReduceMax", x, "/max", keepdims)) for keepdims in (True, None)]
    total = _reduced(node, "ReduceSum", _exp_of_difference(node, x, tops[0]), "/sum")
    y = node.emit("Add", [node.emit("Log", [total], suffix="/log"), tops[1]])
    return node.cast(y, node.input(0).value.dtype.name)


def _finite(node: OnnxNode, x: Tensor) -> Tensor:
    """Return x within the finite numbers of its dtype."""
    most = float(np.finfo(x.value.dtype).max)
    low = node.emit("Max", [x, node.number(-most, x)], suffix="/finite")
    return node.emit("Min", [low, node.number(most, x)], suffix="/finite")


def _exp_of_difference(node: OnnxNode, x: Tensor, top: Tensor) -> Tensor:
    return node.emit("Exp", [node.emit("Sub", [x, top], suffix="/less")], suffix="/exp")


# ---- along one axis ---------------------------------------------------------------------------------
def _by_rows(node: OnnxNode, along: Callable[[OnnxNode, Tensor, int], Tensor]) -> Tensor:
    """Return along(x, axis); before opset 13 the axes from `axis` on count as one."""
    x = node.input(0)
    axis = int(node.attribute("axis", -1 if node.opset >= 13 else 1))
    rank = None if x.value.shape is None else len(x.value.shape)
    if node.opset >= 13 or axis == -1 or (rank is not None and axis == rank - 1):
        return along(node, x, axis)
    flat = node.emit("Flatten", [x], suffix="/flat", axis=axis)
    return node.emit("ReshapeLike", [along(node, flat, -1), x], suffix="/unflat")


@handler("Softmax")
def _softmax(node: OnnxNode):
    return _by_rows(node, lambda node, x, axis: node.emit("Softmax", [x], axis=axis))


@handler("LogSoftmax")
def _log_softmax(node: OnnxNode):
    return _by_rows(node, _log_of_softmax)


def _log_of_softmax(node: OnnxNode, x: Tensor, axis: int) -> Tensor:
    """x - m - log sum e^(x - m), m being the largest x."""
    top = node.emit("ReduceMax", [x], suffix="/max", axes=(axis,), keepdims=True)
    less = node.emit("Sub", [x, top], suffix="/less")
    total = node.emit(
        "ReduceSum", [node.emit("Exp", [less], suffix="/exp")], suffix="/sum", axes=(axis,), keepdims=True
    )
    return node.emit("Sub", [less, node.emit("Log", [total], suffix="/log")])


@handler("Hardmax")
def _hardmax(node: OnnxNode):
    return _by_rows(node, _one_at_the_largest)


def _one_at_the_largest(node: OnnxNode, x: Tensor, axis: int) -> Tensor:
    first = node.emit("ArgMax", [x], suffix="/place", axis=axis, keepdims=False)
    sizes = node.emit("Shape", [x], suffix="/shape")
    depth = node.emit("Gather", [sizes, node.build.weight(f"{node.name}.axis", np.array(axis))], suffix="/depth")
    values = node.build.weight(f"{node.name}.values", np.array([0, 1], x.value.dtype))
    return node.emit("OneHot", [first, depth, values], axis=axis)


@handler("ArgMax", "ArgMin")
def _place(node: OnnxNode):
    keepdims, last = bool(node.attribute("keepdims", 1)), bool(node.attribute("select_last_index", 0))
    return node.emit(node.op_type, [node.input(0)], axis=int(node.attribute("axis", 0)), keepdims=keepdims, last=last)


@handler("TopK")
def _top_k(node: OnnxNode):
    if not node.attribute("sorted", 1):
        node.ignore("sorted")  # any order will do
    k = node.input(1) if node.opset >= 10 else node.ints("k", [node.attribute("k")])
    wanted = [node.wants(0), node.wants(1)]
    axis, largest = int(node.attribute("axis", -1)), bool(node.attribute("largest", 1))
    results = node.emit("TopK", [node.input(0), k], wanted, axis=axis, largest=largest)
    return list(results)


@handler("CumSum")
def _cum_sum(node: OnnxNode):
    exclusive, reverse = (bool(node.attribute(name, 0)) for name in ("exclusive", "reverse"))
    return node.emit("CumSum", [node.input(0), node.input(1)], exclusive=exclusive, reverse=reverse)


@handler("Einsum")
def _einsum(node: OnnxNode):
    return node.emit("Einsum", node.inputs, equation=node.text("equation", ""))

"""What nodes without weights are in Keras 3: functions of keras.ops, for some of which it has layers. Filled into the registry of `to_keras`.

Sizes that are free are never numbers there: they come from ones of the shape of a value, summed along its axes.
"""

from typing import Any

import numpy as np

from fastlstm.converters.keras_nodes import variables
from fastlstm.converters.keras_nodes_windows import margin_of, pooled
from fastlstm.converters.to_keras import Call, Tensor, handler, sizes
from fastlstm.ops.op import Value

INT32 = np.dtype(np.int32)  # what Keras counts in

BINARY = {
    "Add": "Add", "Sub": "Subtract", "Mul": "Multiply", "Div": "TrueDivide", "Pow": "Power", "NotEqual": "NotEqual", "Equal": "Equal",
    "Less": "Less", "Greater": "Greater", "And": "LogicalAnd", "Or": "LogicalOr", "Where": "Where", "Max": "Maximum", "Min": "Minimum",
}  # fmt: skip
UNARY = {
    "Neg": "Negative", "Abs": "Absolute", "Sqrt": "Sqrt", "Log": "Log", "Sign": "Sign", "Not": "LogicalNot", "Floor": "Floor", "Ceil": "Ceil",
    "Round": "Round", "Sin": "Sin", "Cos": "Cos", "Tan": "Tan", "Sinh": "Sinh", "Cosh": "Cosh", "Asin": "Arcsin", "Acos": "Arccos",
    "Atan": "Arctan", "Asinh": "Arcsinh", "Acosh": "Arccosh", "Atanh": "Arctanh",
}  # fmt: skip
REDUCTIONS = {"ReduceSum": "Sum", "ReduceMean": "Mean", "ReduceMax": "Max", "ReduceMin": "Min", "ReduceProd": "Prod"}


@handler(*BINARY)
def _elementwise(call: Call) -> Tensor:
    count = sum(bool(name) for name in call.node.inputs)
    if call.node.op in ("Max", "Min") and count != 2:
        raise call.refuse(f"{count} inputs")
    return call.function(BINARY[call.node.op], [call.argument(k) for k in range(count)])


@handler(*UNARY)
def _unary(call: Call) -> Tensor:
    return call.function(UNARY[call.node.op], [call.tensor(0)])


@handler("Erf")
def _erf(call: Call) -> Tensor:
    return call.function("Erf", [call.tensor(0)], module="math")


@handler("GeluTanh")
def _gelu_tanh(call: Call) -> Tensor:
    return call.function("Gelu", [call.tensor(0)], module="nn", approximate=True)


@handler("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Tensor:
    x = call.tensor(0)
    above = call.function("Greater", [x, call.get("alpha")], Value(np.dtype(bool), x.dims), "_above")
    return call.function("Where", [above, x, 0.0])


@handler("Affine")
def _affine(call: Call) -> Tensor:
    y = call.function("Multiply", [call.tensor(0), call.get("alpha")], suffix="_scaled")
    return call.function("Add", [y, call.get("beta")])


@handler("ScaledTanh")
def _scaled_tanh(call: Call) -> Tensor:
    inner = call.function("Multiply", [call.tensor(0), call.get("beta")], suffix="_scaled")
    return call.function("Multiply", [call.function("Tanh", [inner], suffix="_tanh"), call.get("alpha")])


@handler("Einsum")
def _einsum(call: Call) -> Tensor:
    operands = [call.argument(k) for k in range(len(call.node.inputs))]
    return call.function("Einsum", operands, subscripts=call.get("equation").replace(" ", ""))


@handler(*REDUCTIONS)
def _reduction(call: Call) -> Tensor | list[Tensor]:
    axes = call.get("axes")
    if call.name_of(0) in call.writer.windows:
        return pooled(call, call.writer.windows[call.name_of(0)])
    return call.function(
        REDUCTIONS[call.node.op], [call.tensor(0)], axis=list(axes) if axes else None, keepdims=call.get("keepdims")
    )


@handler("AnyNotEqual")
def _any_not_equal(call: Call) -> Tensor:
    x = call.tensor(0)
    differs = call.function("NotEqual", [x, call.get("value")], Value(np.dtype(bool), x.dims), "_differs")
    return call.function("Any", [differs], axis=-1, keepdims=False)


@handler("CausalMask")
def _causal_mask(call: Call) -> Tensor:
    """Rows and columns counted by sums of ones, and compared."""
    x, square = call.tensor(0), call.value()
    rank = len(x.dims)
    ones = call.function("OnesLike", [x], Value(INT32, x.dims), "_ones", dtype=INT32.name)
    rows, columns = (
        call.function("Cumsum", [ones], Value(INT32, x.dims), f"_{axis}", axis=axis) for axis in (rank - 2, rank - 1)
    )
    past = call.function("GreaterEqual", [rows, columns], Value(square.dtype, x.dims), "_past")
    return past if rank == 2 else call.function("Any", [past], axis=list(range(rank - 2)), keepdims=False)


@handler("Cast")
def _cast(call: Call) -> Tensor:
    return call.function("Cast", [call.tensor(0)], module="core", dtype=call.get("to"))


@handler("Identity")
def _identity(call: Call) -> Tensor:
    return call.tensor(0)


# ---- shapes ---------------------------------------------------------------------------------------------
@handler("Concat")
def _concat(call: Call) -> Tensor | list[Tensor]:
    parts = [call.argument(k) for k in range(len(call.node.inputs))]
    axis = call.get("axis")
    if all(isinstance(part, Tensor) for part in parts) and axis not in (0, -len(call.value().shape or ())):
        return call.layer("Concatenate", {"axis": axis}, [parts])
    return call.function("Concatenate", [parts], axis=axis)


@handler("Transpose")
def _transpose(call: Call) -> Tensor:
    return call.function("Transpose", [call.tensor(0)], axes=list(call.get("perm") or ()) or None)


@handler("Reverse")
def _reverse(call: Call) -> Tensor:
    return call.function("Flip", [call.tensor(0)], axis=call.get("axis"))


@handler("Unsqueeze")
def _unsqueeze(call: Call) -> Tensor:
    axes = _integers(call, 1, "axes")
    rank = len(call.value().shape or ())
    return call.function("ExpandDims", [call.tensor(0)], axis=sorted(axis % rank for axis in axes))


@handler("Squeeze")
def _squeeze(call: Call) -> Tensor:
    axes = _integers(call, 1, "axes") if call.name_of(1) else None
    windows = call.writer.windows.get(call.name_of(0))
    alone = None if windows is None else margin_of(call, windows, axes or ())
    if alone is not None:
        return alone
    return call.function("Squeeze", [call.tensor(0)], axis=axes)


@handler("Reshape", "Flatten")
def _reshape(call: Call) -> list[Tensor]:
    """Keras's layer keeps the batch; of the other sizes one may be free."""
    x = call.tensor(0)
    shape = call.value().shape
    if not x.dims or not shape or shape[0] != x.dims[0] or sum(d is None for d in sizes(shape[1:])) > 1:
        raise call.refuse(f"a shape {shape} of {x.dims}")
    return call.layer("Reshape", {"target_shape": [-1 if d is None else d for d in sizes(shape[1:])]}, [x])


@handler("MergeAxes")
def _merge_axes(call: Call) -> Tensor | list[Tensor]:
    if call.get("axis"):
        return _reshape(call)
    x, value = call.tensor(0), call.value()
    rest = sizes((value.shape or ())[1:])
    if None in rest:
        raise call.refuse(f"a shape {x.dims} with free sizes after the axes that become one")
    return call.function("Reshape", [x], newshape=[-1, *rest])


@handler("SplitAxis")
def _split_axis(call: Call) -> Tensor:
    """A reshape takes one free size; where there are two, the rows are taken by their numbers."""
    x, like, axis, value = call.tensor(0), call.tensor(1), call.get("axis"), call.value()
    shape = sizes(value.shape)
    if shape.count(None) < 2:
        return call.function("Reshape", [x], newshape=[-1 if d is None else d for d in shape])
    if axis:
        raise call.refuse(f"a shape {value.shape}")
    return call.function("Take", [x, _row_numbers(call, like)], axis=0)


def _row_numbers(call: Call, like: Tensor) -> Tensor:
    """Return b T + t for a value (B, T, ...), made of sums of ones of its shape."""
    value = Value(INT32, like.dims[:2])

    def counted(class_name: str, args: list[Any], suffix: str, made: Value = value, **config: Any) -> Tensor:
        return call.function(class_name, args, made, suffix, **config)

    first = like
    if len(like.dims) > 2:
        key = [slice(None), slice(None), *[0] * (len(like.dims) - 2)]
        first = counted("GetItem", [like, key], "_first", Value(np.dtype(like.dtype), like.dims[:2]))
    ones = counted("OnesLike", [first], "_ones", dtype=INT32.name)
    steps = counted("Sum", [ones], "_steps", Value(INT32, (*like.dims[:1], 1)), axis=1, keepdims=True)
    row, step = (
        counted("Subtract", [counted("Cumsum", [ones], f"_sums_{axis}", axis=axis), ones], f"_{axis}")
        for axis in (0, 1)
    )
    return counted("Add", [counted("Multiply", [row, steps], "_begin"), step], "_number")


@handler("Expand")
def _expand(call: Call) -> Tensor:
    """Repeats along one axis of size 1, as RepeatVector does, or nothing."""
    x, shape = call.tensor(0), call.value().shape
    grown = [k for k, (a, b) in enumerate(zip(x.dims, shape or (), strict=False)) if a != b]
    if (
        shape is None
        or len(shape) != len(x.dims)
        or len(grown) > 1
        or not all(isinstance(shape[k], int) for k in grown)
    ):
        raise call.refuse(f"a shape {shape} of {x.dims}")
    return call.function("Repeat", [x], repeats=shape[grown[0]], axis=grown[0]) if grown else x


@handler("CumSum")
def _cum_sum(call: Call) -> Tensor:
    axes = _integers(call, 1, "an axis")
    if call.get("exclusive") or call.get("reverse"):
        raise call.refuse("exclusive or reverse")
    return call.function("Cumsum", [call.tensor(0)], axis=axes[0])


@handler("Slice")
def _slice(call: Call) -> Tensor:
    x = call.tensor(0)
    starts, ends = _integers(call, 1, "starts"), _integers(call, 2, "ends")
    axes = _integers(call, 3, "axes") if call.name_of(3) else list(range(len(starts)))
    steps = _integers(call, 4, "steps") if call.name_of(4) else [1] * len(starts)
    key = [slice(None)] * len(x.dims)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise call.refuse(f"a slice of step {step}")
        key[axis] = slice(start, None if end >= 2**31 - 1 else end, step)
    return call.function("GetItem", [x, key])


@handler("Split")
def _split(call: Call) -> list[Tensor]:
    x, axis, start = call.tensor(0), call.get("axis"), 0
    parts = []
    for k, name in enumerate(call.node.outputs):
        value = call.value(k)
        size = (value.shape or ())[axis]
        if not name or not isinstance(size, int):
            raise call.refuse("parts of free sizes")
        key = [slice(None)] * len(x.dims)
        key[axis] = slice(start, start + size)
        parts.append(call.function("GetItem", [x, key], value, f"_{k}"))
        start += size
    return parts


@handler("Gather")
def _gather(call: Call) -> Tensor | list[Tensor]:
    table, index, axis = call.constant(0), call.constant(1), call.get("axis")
    if table is not None and table.ndim == 2 and axis == 0:
        config = {"input_dim": table.shape[0], "output_dim": table.shape[1], "mask_zero": False}
        return call.layer("Embedding", config, [call.tensor(1)], variables(table), shared=(0,))
    if index is None or index.ndim:
        raise call.refuse("indices other than one number")
    x = call.tensor(0)
    key: list[Any] = [slice(None)] * (axis % len(x.dims) + 1)
    key[-1] = int(index)
    return call.function("GetItem", [x, key])


@handler("OneHot")
def _one_hot(call: Call) -> Tensor:
    depth, values = call.constant(1), call.constant(2)
    if depth is None or values is None or values.tolist() != [0, 1] or call.get("from_end"):
        raise call.refuse("values other than 0 and 1, or indices that count from the end")
    return call.function(
        "OneHot",
        [call.tensor(0)],
        module="nn",
        num_classes=int(depth.reshape(())),
        axis=call.get("axis"),
        dtype=values.dtype.name,
        sparse=False,
    )


def _integers(call: Call, slot: int, what: str) -> list[int]:
    found = call.weight(slot, what)
    return [int(value) for value in np.reshape(0 if found is None else found, -1)]

"""Operations of Keras 3 that stand among a model's layers: what `x + y`, `x[:, -1]` and computed masks leave in the file.

An operation has no weights; its call holds tensors, numbers and slices as they were written.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastlstm.converters._keras_config import Config, layer_name
from fastlstm.errors import UnsupportedError, one_of
from fastlstm.layers import Build, Tensor

Handler = Callable[["Operation"], Tensor]
_handlers: dict[str, Handler] = {}


def is_operation(layer: Config) -> bool:
    """Tell whether a serialized layer is a function of keras.ops: some have the names of layers.

    An .h5 file leaves the module out; there an operation lacks what the layer of its name would have.
    """
    if layer.get("module"):
        return ".ops." in f"{layer['module']}."
    calls = layer.get("inbound_nodes") or [None]
    return isinstance(calls[0], dict) and layer["class_name"] in _handlers and "trainable" not in layer["config"]


class Operation:
    """One call of an operation: its arguments by position and by name, and those that its configuration holds."""

    def __init__(self, build: Build, layer: Config, args: Sequence[Any], arguments: Mapping[str, Any]):
        self.build, self.class_name, self.name = build, str(layer["class_name"]), layer_name(layer)
        self.args = list(args)
        self.options = {k: v for k, v in {**layer["config"], **arguments}.items() if k not in ("name", "trainable")}

    def refuse(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"operation {self.name!r} ({self.class_name}): {what} is not supported")

    def option(self, key: str, default: Any = None) -> Any:
        """Take an option; `finish` refuses those that no one took."""
        return self.options.pop(key, default)

    def finish(self) -> None:
        for key, value in self.options.items():
            if value is not None and value is not False:
                raise self.refuse(f"{key}={value!r}")

    def emit(self, op: str, inputs: Sequence[Tensor], suffix: str = "", **attributes: Any) -> Tensor:
        return self.build.node(f"{self.name}{suffix}", op, inputs, **attributes)

    def tensors(self, count: int) -> list[Tensor]:
        """Return the arguments as tensors of one dtype: numbers become constants of it."""
        if len(self.args) != count or not any(isinstance(arg, Tensor) for arg in self.args):
            raise self.refuse(f"a call with {len(self.args)} arguments")
        (dtype, *others) = {arg.value.dtype for arg in self.args if isinstance(arg, Tensor)}
        if others:
            raise self.refuse(f"a call on {dtype} and {others[0]}")
        return [arg if isinstance(arg, Tensor) else self.number(arg, dtype) for arg in self.args]

    def number(self, value: Any, dtype: np.dtype) -> Tensor:
        if not isinstance(value, int | float) or (dtype.kind != "f" and np.array(value).astype(dtype) != value):
            raise self.refuse(f"the argument {value!r}")
        return self.build.weight(f"{self.name}.number", np.array(value, dtype))


def check_operation(layer: Config) -> None:
    """Raise UnsupportedError for an operation that has no handler."""
    if str(layer["class_name"]) not in _handlers:
        raise UnsupportedError(
            f"operation {layer_name(layer)!r}: {layer['class_name']!r} is not supported; known: {one_of(_handlers)}"
        )


def operate(build: Build, layer: Config, args: Sequence[Any], arguments: Mapping[str, Any]) -> Tensor:
    """Add the nodes of one call of an operation. Raise UnsupportedError, naming operation, argument and value."""
    check_operation(layer)
    operation = Operation(build, layer, args, arguments)
    made = _handlers[operation.class_name](operation)
    operation.finish()
    return made


def handler(*class_names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operations."""

    def add(function: Handler) -> Handler:
        for class_name in class_names:
            if class_name in _handlers:
                raise KeyError(f"two handlers for {class_name}")
            _handlers[class_name] = function
        return function

    return add


_BINARY = {
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "TrueDivide": "Div", "Divide": "Div", "Maximum": "Max", "Minimum": "Min",
    "NotEqual": "NotEqual", "Equal": "Equal", "Less": "Less", "Greater": "Greater", "LogicalOr": "Or", "LogicalAnd": "And",
}  # fmt: skip
_UNARY = {
    "LogicalNot": "Not", "Negative": "Neg", "Absolute": "Abs", "Abs": "Abs", "Sqrt": "Sqrt", "Exp": "Exp",
    "Relu": "Relu", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Softplus": "Softplus", "Softsign": "Softsign",
}  # fmt: skip


@handler(*_BINARY)
def _binary(it: Operation) -> Tensor:
    inputs = it.tensors(2)
    if it.class_name in ("Divide", "TrueDivide") and inputs[0].value.dtype.kind != "f":
        raise it.refuse(f"a call on {inputs[0].value.dtype}")
    return it.emit(_BINARY[it.class_name], inputs)


@handler(*_UNARY)
def _unary(it: Operation) -> Tensor:
    return it.emit(_UNARY[it.class_name], it.tensors(1))


@handler("Softmax")
def _softmax(it: Operation) -> Tensor:
    return it.emit("Softmax", it.tensors(1), axis=int(it.option("axis", -1)))


@handler("ExpandDims")
def _expand_dims(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    return it.emit("Unsqueeze", [x, it.build.ints(f"{it.name}.axes", int(it.option("axis")))])


@handler("OneHot")
def _one_hot(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    if it.option("sparse"):
        raise it.refuse("sparse=True")
    depth = it.build.weight(f"{it.name}.depth", np.array(it.option("num_classes"), np.int64))
    values = it.build.weight(f"{it.name}.values", np.array([0, 1], it.option("dtype") or "float32"))
    return it.emit("OneHot", [x, depth, values], axis=int(it.option("axis", -1)), from_end=False)


@handler("Any")
def _any(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    axis = it.option("axis")
    if axis not in (-1, len(x.shape) - 1, [-1]) or it.option("keepdims"):
        raise it.refuse(f"axis={axis!r}")
    return it.emit("AnyNotEqual", [x], value=0.0)


@handler("ZerosLike", "OnesLike")
def _filled_like(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    dtype = it.option("dtype") or x.value.dtype.name
    differs = it.emit("NotEqual", [x, x], "/differs")  # only NaN does: the shape of x, no value of it
    ones = it.class_name == "OnesLike"
    filled = it.emit("Or" if ones else "And", [differs, it.build.weight(f"{it.name}.fill", np.array(ones))])
    return filled if dtype == "bool" else it.emit("Cast", [filled], "/cast", to=str(dtype))


@handler("ConvertToTensor")
def _convert_to_tensor(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    dtype = it.option("dtype") or x.value.dtype.name
    return x if dtype == x.value.dtype.name else it.emit("Cast", [x], to=str(dtype))


@handler("Concatenate")
def _concatenate(it: Operation) -> Tensor:
    it.args = it.args[0] if len(it.args) == 1 and isinstance(it.args[0], list) else it.args
    return it.emit("Concat", it.tensors(len(it.args)), axis=int(it.option("axis", 0)))


@handler("GetItem")
def _get_item(it: Operation) -> Tensor:
    """x[key], where the key holds whole numbers and slices."""
    if len(it.args) != 2 or not isinstance(it.args[0], Tensor):
        raise it.refuse(f"a call with {len(it.args)} arguments")
    x, key = it.args
    axis = 0
    for part in key if isinstance(key, list) else [key]:
        if isinstance(part, int) and not isinstance(part, bool):
            index = it.build.weight(f"{it.name}.index", np.array(part, np.int64))
            x = it.emit("Gather", [x, index], "/index", axis=axis)
        elif isinstance(part, Mapping) and part.get("class_name") == "__slice__":
            x = _sliced(it, x, axis, part["config"])
            axis += 1
        else:
            raise it.refuse(f"the index {part!r}")
    return it.emit("Identity", [x])


def _sliced(it: Operation, x: Tensor, axis: int, cut: Mapping[str, Any]) -> Tensor:
    start, stop, step = (cut.get(name) for name in ("start", "stop", "step"))
    if any(v is not None and not isinstance(v, int) for v in (start, stop, step)) or (step is not None and step <= 0):
        raise it.refuse(f"the slice {start}:{stop}:{step}")
    if (start, stop, step) == (None, None, None):
        return x
    bounds = (start or 0, 2**63 - 1 if stop is None else stop, axis, step or 1)
    return it.emit("Slice", [x, *(it.build.ints(f"{it.name}.slice", v) for v in bounds)], "/slice")

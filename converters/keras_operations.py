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
        """Return a number, or numbers that Keras wrote as an array, as a constant."""
        if isinstance(value, Mapping) and value.get("class_name") in ("__numpy__", "__tensor__"):
            array = np.array(value["config"]["value"], value["config"]["dtype"])
            if array.dtype != dtype or array.dtype.kind not in "fiub":
                raise self.refuse(f"an argument of {array.dtype} beside {dtype}")
            return self.build.weight(f"{self.name}.number", array)
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
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "TrueDivide": "Div", "Divide": "Div", "Maximum": "Max", "Minimum": "Min", "Power": "Pow",
    "NotEqual": "NotEqual", "Equal": "Equal", "Less": "Less", "Greater": "Greater", "LogicalOr": "Or", "LogicalAnd": "And",
}  # fmt: skip
_UNARY = {
    "LogicalNot": "Not", "Negative": "Neg", "Absolute": "Abs", "Abs": "Abs", "Sqrt": "Sqrt", "Exp": "Exp", "Log": "Log", "Sign": "Sign",
    "Floor": "Floor", "Ceil": "Ceil", "Round": "Round", "Erf": "Erf", "Sin": "Sin", "Cos": "Cos", "Tan": "Tan", "Sinh": "Sinh", "Cosh": "Cosh",
    "Arcsin": "Asin", "Arccos": "Acos", "Arctan": "Atan", "Arcsinh": "Asinh", "Arccosh": "Acosh", "Arctanh": "Atanh",
    "Relu": "Relu", "Silu": "Silu", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Softplus": "Softplus", "Softsign": "Softsign",
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


@handler("GreaterEqual", "LessEqual")
def _or_equal(it: Operation) -> Tensor:
    inputs = it.tensors(2)
    strict = it.emit(it.class_name.removesuffix("Equal"), inputs, "/strict")
    return it.emit("Or", [strict, it.emit("Equal", inputs, "/equal")])


@handler("Where")
def _where(it: Operation) -> Tensor:
    if len(it.args) != 3 or not isinstance(it.args[0], Tensor) or it.args[0].value.dtype != bool:
        raise it.refuse("a call but on a condition and two values")
    condition, *it.args = it.args
    return it.emit("Where", [condition, *it.tensors(2)])


@handler("Square")
def _square(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    return it.emit("Mul", [x, x])


@handler("Gelu")
def _gelu(it: Operation) -> Tensor:
    return it.emit("GeluTanh" if it.option("approximate", True) else "Gelu", it.tensors(1))


@handler("Matmul")
def _matmul(it: Operation) -> Tensor:
    return it.emit("MatMul", it.tensors(2))


@handler("Einsum")
def _einsum(it: Operation) -> Tensor:
    return it.emit("Einsum", it.tensors(len(it.args)), equation=str(it.option("subscripts")))


_REDUCTIONS = {"Sum": "ReduceSum", "Mean": "ReduceMean", "Max": "ReduceMax", "Min": "ReduceMin", "Prod": "ReduceProd"}


@handler(*_REDUCTIONS)
def _reduction(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    if x.value.dtype.kind not in ("f" if it.class_name == "Mean" else "fi"):
        raise it.refuse(f"a call on {x.value.dtype}")
    return it.emit(_REDUCTIONS[it.class_name], [x], **_over(it))


def _over(it: Operation) -> dict[str, Any]:
    """Return the attributes of a reduction over the axes that an operation says, over all without any."""
    axis = it.option("axis")
    axes = {} if axis is None else {"axes": tuple(axis) if isinstance(axis, list | tuple) else (int(axis),)}
    return axes | {"keepdims": bool(it.option("keepdims"))}


@handler("Cumsum")
def _cumsum(it: Operation) -> Tensor:
    (x,) = it.tensors(1)
    axis, dtype = it.option("axis"), it.option("dtype")
    if axis is None or dtype not in (None, x.value.dtype.name) or x.value.dtype == bool:
        raise it.refuse(f"axis={axis!r}, dtype={dtype!r} of {x.value.dtype}")
    return it.emit("CumSum", [x, it.build.weight(f"{it.name}.axis", np.array(int(axis), np.int64))])


@handler("Cast")
def _cast(it: Operation) -> Tensor:
    return it.emit("Cast", it.tensors(1), to=str(it.option("dtype")))


@handler("Softmax")
def _softmax(it: Operation) -> Tensor:
    return it.emit("Softmax", it.tensors(1), axis=int(it.option("axis", -1)))


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
    over = _over(it)
    if over.get("axes") in ((-1,), (len(x.shape) - 1,)) and not over["keepdims"]:
        return it.emit("AnyNotEqual", [x], value=0.0)
    number = it.emit(
        "Cast", [x if x.value.dtype == bool else it.emit("Cast", [x], "/true", to="bool")], "/number", to="int32"
    )
    return it.emit("Cast", [it.emit("ReduceMax", [number], "/most", **over)], to="bool")


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

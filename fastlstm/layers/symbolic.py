"""Symbols: what `Input` gives and layers return when they are called on it. A model replays the calls that lie behind its outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fastlstm.errors import InputError, ShapeError
from fastlstm.graph import Dim
from fastlstm.layers.build import Build, Shape, Tensor

DTYPES = ("float32", "float64", "int32", "int64", "int8", "int16", "uint8", "bool")
_order = count()


@dataclass(eq=False)
class Call:
    """One call of a layer: what it was called on, and what came out. Calls are numbered as they were made."""

    layer: Any
    x: Any
    mask: Any
    training: bool | None
    arguments: Mapping[str, Any]
    outputs: list["Symbol"] = field(default_factory=list)
    number: int = field(default_factory=lambda: next(_order))

    @property
    def inputs(self) -> list["Symbol"]:
        """The symbols that it was called on, arguments included."""
        return [s for s in leaves([self.x, self.mask, *self.arguments.values()]) if isinstance(s, Symbol)]

    def replay(self, fill: Callable[[Any], Any]) -> Any:
        """Make the call again, with `fill(symbol)` for each symbol."""
        arguments = {key: mapped(value, fill) for key, value in self.arguments.items()}
        return self.layer.on_tensors(mapped(self.x, fill), mapped(self.mask, fill), self.training, arguments)


@dataclass(eq=False)
class Symbol:
    """A value of a model under construction: its name, dtype and shape, the batch first. `mask_dims` is the shape of its mask."""

    name: str
    dtype: str
    dims: Shape
    mask_dims: Shape | None = None
    call: Call | None = None
    layer: Any = None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The sizes, None for those that are free."""
        return tuple(d if isinstance(d, int) else None for d in self.dims)

    def __repr__(self) -> str:
        return f"<Symbol {self.name!r}: {self.dtype} {self.shape}>"

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise InputError(f"{self!r} stands for the values of a model and holds none: make a Model of it")

    def __bool__(self) -> bool:
        raise InputError(f"{self!r} stands for the values of a model and is neither true nor false")

    # ---- Python's operators, as layers without weights ----------------------------------------------
    def __add__(self, other: Any) -> "Symbol":
        return _operated("Add", self, other)

    def __radd__(self, other: Any) -> "Symbol":
        return _operated("Add", other, self)

    def __sub__(self, other: Any) -> "Symbol":
        return _operated("Sub", self, other)

    def __rsub__(self, other: Any) -> "Symbol":
        return _operated("Sub", other, self)

    def __mul__(self, other: Any) -> "Symbol":
        return _operated("Mul", self, other)

    def __rmul__(self, other: Any) -> "Symbol":
        return _operated("Mul", other, self)

    def __truediv__(self, other: Any) -> "Symbol":
        return _operated("Div", self, other)

    def __rtruediv__(self, other: Any) -> "Symbol":
        return _operated("Div", other, self)

    def __neg__(self) -> "Symbol":
        return _operated("Neg", self)

    def __getitem__(self, key: Any) -> "Symbol":
        from fastlstm.layers.operations import GetItem

        return record(GetItem(key), self, None, None, {})

    def stand_in(self, build: Build) -> Tensor:
        """Add an input to a graph that stands for this value, and one for its mask if it has one."""
        tensor = build.input(self.name, self.dtype, self.dims)
        return (
            tensor
            if self.mask_dims is None
            else tensor.with_mask(build.input(f"{self.name}.mask", "bool", self.mask_dims))
        )


def record(layer: Any, x: Any, mask: Any, training: bool | None, arguments: Mapping[str, Any]) -> Any:
    """Call a layer on symbols: its weights are made, shapes are checked, and the call is kept. Return symbols in the structure of its output."""
    call = Call(layer, x, mask, training, dict(arguments))
    build, made = Build(), dict[int, Tensor]()

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, Symbol):
            return leaf
        if id(leaf) not in made:
            made[id(leaf)] = leaf.stand_in(build)
        return made[id(leaf)]

    def named(tensor: Tensor) -> Symbol:
        mask_dims = None if tensor.mask is None else tensor.mask.shape
        symbol = Symbol(layer.name, tensor.value.dtype.name, tensor.shape, mask_dims, call, layer)
        call.outputs.append(symbol)
        return symbol

    returned = mapped(call.replay(fill), named)
    layer.last_call = x, returned
    return returned


def _operated(op: str, *operands: Any) -> Symbol:
    from fastlstm.layers.operations import Operation

    return record(Operation(op), list(operands), None, None, {})


class InputLayer:
    """The place of an input in a model: a layer without weights that is not called."""

    settled = False

    def __init__(
        self,
        shape: Sequence[int | None] | int | None = None,
        batch_size: int | None = None,
        dtype: Any = None,
        batch_shape: Sequence[int | None] | None = None,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
        batch_input_shape: Sequence[int | None] | None = None,
    ):
        self.auto_named, self.name = name is None, name or "input_layer"
        batch_shape = batch_input_shape if batch_shape is None else batch_shape
        shape = input_shape if shape is None else shape
        if shape is None and batch_shape is None:
            raise InputError(f"input {self.name!r}: pass shape=(steps, features), without the batch, or batch_shape")
        if batch_shape is None:
            assert shape is not None
            batch_shape = (batch_size, *((shape,) if isinstance(shape, int) else shape))
        for size in batch_shape:
            if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
                raise ShapeError(
                    f"input {self.name!r}: shape {tuple(batch_shape)} holds {size!r}, expected sizes of at least 1, or None"
                )
        self.batch_shape: tuple[int | None, ...] = tuple(batch_shape)
        self.dtype = getattr(dtype, "__name__", None) or getattr(dtype, "name", dtype) or "float32"
        if self.dtype not in DTYPES:
            raise InputError(f"input {self.name!r}: dtype={dtype!r} is not supported, only {', '.join(DTYPES)}")
        self.output = Symbol(self.name, self.dtype, self.dims(None), layer=self)

    def rename(self, name: str) -> None:
        """Take another name."""
        self.name = self.output.name = name

    def dims(self, others: str | None) -> Shape:
        """Return the shape with symbols for free sizes; those of an input that is not the first bear its name."""
        free = ["batch", "time" if others is None else f"time_{others}"]
        dims: list[Dim] = []
        for axis, size in enumerate(self.batch_shape):
            symbol = free[axis] if axis < 2 else f"{self.name}.{axis}"
            dims.append(
                symbol if size is None or axis == 0 else size
            )  # the batch is free: a row does not see the others
        return tuple(dims)


def Input(  # noqa: N802
    shape: Sequence[int | None] | int | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
) -> Symbol:
    """Return a symbol that stands for an input of a model; `shape` is without the batch, None where a size is free.

    >>> x = fastlstm.Input((None, 8))
    >>> model = fastlstm.models.Model(x, fastlstm.layers.LSTM(16)(x))
    """
    return InputLayer(shape, batch_size, dtype, batch_shape, name).output


def declared(first: Mapping[str, Any], kind: str, dtype: str | None) -> tuple[tuple[Any, ...], str] | None:
    """Return (shape with the batch, dtype) from a first layer's `input_shape` and its like; None if it has none.

    `input_dim` and `input_length` are (length, features) where they count features, and (length,) where ids are looked up.
    """
    made = first.get("input_dtype") or ("int32" if kind == "ids" else dtype or "float32")
    if "batch_input_shape" in first:
        return tuple(first["batch_input_shape"]), made
    batch = first.get("batch_size")
    if "input_shape" in first:
        shape = first["input_shape"]
        return (batch, *((shape,) if isinstance(shape, int) else shape)), made
    length = first.get("input_length")
    if kind == "ids":
        return ((batch, length), made) if length is not None else None
    if "input_dim" not in first:
        return None
    over_time = kind == "sequences" or length is not None
    return (batch, *((length,) if over_time else ()), first["input_dim"]), made


def leaves(value: Any) -> list[Any]:
    """Return what a nested list, tuple or dict holds, in order; without None."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [] if value is None else [value]


def mapped(value: Any, call: Callable[[Any], Any]) -> Any:
    """Return a nested list, tuple or dict with `call(leaf)` for each leaf; None stays."""
    if isinstance(value, Mapping):
        return {key: mapped(part, call) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(part, call) for part in value)
    return None if value is None else call(value)

"""The op contract and the registry: one object for each kind of node.

An op has a schema (inputs, outputs, attributes), infers shapes, lowers itself to kernel calls and host steps, says which
axes it mixes and what it costs, and has an adjoint. Only the plan touches kernels: an op names them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np

from fastlstm.errors import DTypeError, GraphError, ShapeError, UnsupportedError, one_of
from fastlstm.graph import Graph, Node, Weight, widen
from fastlstm.ops.dims import Shape, agree


@dataclass
class Value:
    """What is known of a value: dtype, shape (sizes and symbols; None: not even the rank), contents if constant.

    `array` is the buffer that the plan binds to it; ops see it only while they are lowered.
    """

    dtype: np.dtype
    shape: Shape | None
    data: np.ndarray | None = None
    array: np.ndarray | None = None
    rows: "TableRows | None" = None

    @classmethod
    def constant(cls, data: np.ndarray) -> "Value":
        return cls(data.dtype, data.shape, data, data)


class Stored(Value):
    """A weight in float16 or int8: a float32 value, which is widened only where something reads its contents."""

    def __init__(self, name: str, weight: Weight):
        self.name, self.weight = name, weight
        self.dtype, self.shape = np.dtype(np.float32), tuple(weight.shape)

    @cached_property
    def data(self) -> np.ndarray:  # type: ignore[override]
        return np.ascontiguousarray(widen(self.weight))

    @property
    def array(self) -> np.ndarray:  # type: ignore[override]
        return self.data


@dataclass(frozen=True)
class TableRows:
    """What stands in place of a buffer: rows of a constant table, by their numbers (int64, contiguous)."""

    numbers: np.ndarray
    table: Value


@dataclass(frozen=True)
class Slot:
    """An input of an op. A matrix may be stored in float16 or int8."""

    name: str
    optional: bool = False
    variadic: bool = False
    matrix: bool = False


@dataclass(frozen=True)
class Attribute:
    """An attribute: the type of its value (or of a tuple's elements), its default, the choices it has."""

    kind: type
    default: Any = None
    many: bool = False
    choices: tuple[str, ...] = ()
    required: bool = False

    def admits(self, value: object) -> bool:
        if self.many:
            return isinstance(value, tuple) and all(self._admits_one(v) for v in value)
        return self._admits_one(value)

    def _admits_one(self, value: object) -> bool:
        if self.kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
        if self.kind is int:
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        return isinstance(value, self.kind) and (not self.choices or value in self.choices)


class Emit(Protocol):
    """What the plan offers to an op that lowers itself.

    Arrays are bound buffers of any strides: an op reads and writes them in place where it can, else asks for `contiguous` ones.
    """

    def kernel(
        self,
        name: str,
        *args: Any,
        kind: np.dtype | None = None,
        narrow: np.dtype | None = None,
        refuses: Callable[[], None] | None = None,
    ) -> None:
        """Append a call of a kernel for values of `kind` (default: that of the first array) and weights of `narrow`.

        Tuples are taken apart; arrays are passed by address; integers come first, floats last. A kernel that can refuse its
        input takes the address of a verdict first, and `refuses` raises the error that says why.
        """
        ...

    def can_refuse(self) -> bool:
        """Tell whether the node being lowered stands before every node that changes a state, so that its kernels may refuse inputs."""
        ...

    def host(self, step: Callable[..., None], *args: Any) -> None:
        """Append a NumPy step, called with these arguments at each run."""
        ...

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        """Append a copy, NumPy's `copyto`."""
        ...

    def output(self, out: Value, accepts: Callable[[np.ndarray], bool] = ...) -> np.ndarray:
        """Return the buffer to write an output to: where its reader wants it if `accepts` admits that, else a contiguous one."""
        ...

    def gives_way(self, k: int) -> bool:
        """Tell whether input k of this node lies in a buffer that holds nothing else, and is read no more once the node has run: it may
        write an output there."""
        ...

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        """Return the array, or where it is not C-contiguous a copy that is made at each run."""
        ...

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype, lasts: bool = False) -> np.ndarray:
        """Return an uninitialised buffer for this node and the values that lie in it; once none of them is read any more, others may have it.

        One that `lasts` is never another's: what lowering itself writes to it stays.
        """
        ...

    def passing(self) -> AbstractContextManager:
        """Return a context at whose end the buffers that were made within it are free for what follows, in this node too."""
        ...

    def workspace(self, dtype: np.dtype, columns: int = 0) -> np.ndarray:
        """Return a buffer (workers, n): for each of a team what register tiles are stored to, `columns` elements at least."""
        ...

    def state(
        self, node: Node, role: str, shape: tuple[int, ...], dtype: np.dtype, start: np.ndarray | None, width: int
    ) -> np.ndarray:
        """Return a buffer that each run starts from `start` (None: zeros) and of which a stream carries `width` columns."""
        ...

    def packed(
        self, key: tuple, arrays: Sequence[Value], pack: Callable[..., np.ndarray], narrow: bool = False
    ) -> np.ndarray:
        """Return pack(*arrays): done once for constants, at each run for values. `narrow`: of stored weights, as they are stored."""
        ...

    def looks_up(self, node: Node) -> bool:
        """Tell whether the readers of this node's output take numbers of rows of a table for it."""
        ...

    def made_once(
        self, key: tuple, shape: tuple[int, ...], dtype: np.dtype, make: Callable[[np.ndarray], None]
    ) -> np.ndarray:
        """Return an array of constants that the kernels which `make(array)` emits have filled, the first time it is asked for."""
        ...

    def subprogram(
        self, name: str, body: Graph, constants: Mapping[str, np.ndarray]
    ) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
        """Return a function that runs a subgraph on its other inputs by name, and gives its outputs as new arrays."""
        ...

    @property
    def room(self) -> int:
        """How many bytes of buffers a call may use."""
        ...

    def note(self, text: str) -> None:
        """Add what a person wants to know of the node being lowered, and its steps do not show."""
        ...

    def alias(self, out: Value, array: np.ndarray) -> None:
        """Let `out` be a view of a buffer, without a step."""
        ...

    def lanes(self, dtype: np.dtype) -> int:
        """Return how many elements of dtype a vector of this machine holds."""
        ...

    @property
    def near_bytes(self) -> int:
        """How many bytes of weights stay in this machine's second-level cache."""
        ...

    @property
    def depth(self) -> int:
        """Of how many inputs the part of a panel stays in a near cache."""
        ...

    @property
    def panels_together(self) -> int:
        """How many panels a product of two values of the run packs at once."""
        ...

    def row_bytes(self, K: int, parts: int) -> int:
        """Return the bytes of `parts` quantised rows of K elements."""
        ...

    def group(self, state: bool) -> int:
        """Return how many neighbouring inputs of an int8 weight stand together, one that meets rows of x or of states."""
        ...

    def activation(self, name: str) -> int:
        """Return the kernels' code of an activation."""
        ...

    def operation(self, name: str) -> int:
        """Return the kernels' code of an elementwise operation."""
        ...


class Handle(Protocol):
    """A value of a graph under construction."""

    @property
    def value(self) -> Value: ...

    @property
    def shape(self) -> Shape: ...


class Back(Protocol):
    """What an op is given to add its adjoint to a graph: the node's values, what is known of gradients, and a place for nodes."""

    @property
    def x(self) -> Sequence[Any]:
        """The inputs, None for an absent one."""
        ...

    @property
    def y(self) -> Sequence[Any]:
        """The outputs, None for one without a name."""
        ...

    @property
    def dy(self) -> Sequence[Any]:
        """The gradients of the outputs, None where nothing depends on one."""
        ...

    @property
    def wants(self) -> Sequence[bool]:
        """Which inputs' gradients are needed."""
        ...

    def node(self, op: str, inputs: Sequence[Any], outputs: int | Sequence[bool] = 1, **attributes: Any) -> Any:
        """Add a node and return its output, or a tuple of them."""
        ...

    def ints(self, *values: int) -> Any:
        """Return a constant vector of integers, such as axes or a shape."""
        ...

    def number(self, value: float) -> Any:
        """Return a constant number of the dtype of the gradients."""
        ...

    def zeros_like(self, x: Any) -> Any:
        """Return zeros of the shape of a value."""
        ...

    def adjoints_of(self, graphs: Mapping[str, Graph]) -> tuple[dict[str, Graph], Sequence[Any]]:
        """Return the adjoints of subgraphs of the last inputs, and constants of theirs.

        An adjoint takes the inputs, the gradients of outputs that have one, and the constants; it gives the gradients that are wanted.
        """
        ...

    def sum_to(self, d: Any, like: Any) -> Any:
        """Return a gradient summed over the axes along which `like` was broadcast to it."""
        ...


def is_contiguous(array: np.ndarray) -> bool:
    """Tell whether an array lies in memory in C order without gaps."""
    return array.flags.c_contiguous


def rows_in_place(array: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return (O, M, outer stride, row stride) of an array (..., K) as O blocks of M rows, strides in elements; None if it is not."""
    if array.ndim == 0 or (array.shape[-1] > 1 and array.strides[-1] != array.itemsize):
        return None
    groups: list[tuple[int, int]] = []
    for size, stride in zip(array.shape[:-1], array.strides[:-1], strict=True):
        if size == 1:
            continue
        if stride % array.itemsize:
            return None
        stride //= array.itemsize
        if groups and groups[-1][1] == stride * size:
            groups[-1] = groups[-1][0] * size, stride
        else:
            groups.append((size, stride))
    if len(groups) > 2:
        return None
    (O, outer), (M, row) = ([(1, 0)] * 2 + groups)[-2:]
    return O, M, outer, row


class Op:
    """One kind of node. Subclasses fill the schema and override what they need."""

    name: str = ""
    inputs: tuple[Slot, ...] = ()
    outputs: tuple[str, ...] = ("Y",)
    variadic_outputs: bool = False
    refuses: bool = False  # whether it refuses some contents of its inputs
    changes_state: bool = False  # whether it has a state that a stream carries
    any_dtype: bool = False  # whether it takes other dtypes than those of kernels, as every HostOp does
    finds_shapes: bool = False  # whether it can run where the shapes of its outputs are not known before
    attributes: Mapping[str, Attribute] = {}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        """Return dtype and shape of every output (symbols pass through). Raise ShapeError where inputs do not fit."""
        raise GraphError(f"op {self.name} has no shape inference")

    def unknown(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        """Return what is known of every output where `infer` raises NeedsValue: dtypes, those of the first input by default."""
        first = next(arg for arg in args if arg is not None)
        return [Value(first.dtype, None) for _ in node.outputs]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        """Emit the steps that compute `outs` (None: nobody reads it); every shape is known."""
        raise GraphError(f"op {self.name} cannot be lowered")

    def runner(
        self, node: Node, args: Sequence[Value | None], emit: Emit
    ) -> Callable[[Sequence[np.ndarray | None]], list[np.ndarray]]:
        """Return the function that computes the outputs, of an op that finds their shapes."""
        raise GraphError(f"op {self.name} has no function that computes it")

    def place(
        self, node: Node, name: str, args: Sequence[Value | None], whole: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        """Return where in `whole()`, the buffer of its output, this node wants its input `name`; None if nowhere."""
        return None

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
        """Return the outputs of constant inputs, or None where only a kernel computes them."""
        return None

    def adjoint(self, node: Node, back: "Back") -> Sequence[Any]:
        """Add the nodes that compute the gradient of each input; return their outputs in order, None for one without a gradient.

        Called where the gradient of an output and that of an input are wanted. Raise UnsupportedError where there is none.
        """
        raise UnsupportedError(f"node {node.name!r}: {self.name} cannot be differentiated yet")

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        """Return the (input, axis) pairs along which an output element depends on more than its own position."""
        return [(k, axis) for k, arg in enumerate(args) if arg is not None for axis in range(len(arg.shape or ()))]

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        """Return the floating-point operations of one evaluation."""
        return sum(prod(out.shape) for out in outs if out.shape is not None)  # type: ignore[arg-type]

    # ---- shared by subclasses -----------------------------------------------------------------------
    def get(self, node: Node, attribute: str) -> Any:
        """Return an attribute of the node, or its default."""
        return node.attributes.get(attribute, self.attributes[attribute].default)

    def check(self, node: Node) -> None:
        """Raise GraphError unless the node fits the schema."""
        variadic = bool(self.inputs) and self.inputs[-1].variadic
        if len(node.inputs) > len(self.inputs) and not variadic:
            raise GraphError(f"node {node.name!r}: {self.name} takes {len(self.inputs)} inputs, got {len(node.inputs)}")
        for k, slot in enumerate(self.inputs):
            if not slot.optional and (k >= len(node.inputs) or not node.inputs[k]):
                raise GraphError(f"node {node.name!r}: {self.name} lacks its input {slot.name}")
        if len(node.outputs) > len(self.outputs) and not self.variadic_outputs:
            raise GraphError(
                f"node {node.name!r}: {self.name} has {len(self.outputs)} outputs, got {len(node.outputs)}"
            )
        if not any(node.outputs):
            raise GraphError(f"node {node.name!r} has no outputs")
        for name, value in node.attributes.items():
            if name not in self.attributes:
                raise GraphError(
                    f"node {node.name!r}: {self.name} has no attribute {name!r}; it has {one_of(self.attributes) or 'none'}"
                )
            attribute = self.attributes[name]
            if not attribute.admits(value):
                wanted = f"one of {one_of(attribute.choices)}" if attribute.choices else attribute.kind.__name__
                raise GraphError(f"node {node.name!r}: attribute {name!r} is {value!r}, expected {wanted}")
        for name, attribute in self.attributes.items():
            if attribute.required and name not in node.attributes:
                raise GraphError(f"node {node.name!r}: {self.name} lacks its attribute {name!r}")
        if node.subgraphs:
            raise GraphError(f"node {node.name!r}: {self.name} has no subgraph")

    def slot(self, index: int) -> Slot:
        """Return the schema of input `index`."""
        return self.inputs[min(index, len(self.inputs) - 1)]


class HostOp(Op):
    """An op that NumPy computes: it only copies, or acts element by element."""

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """Return the outputs of these inputs."""
        raise GraphError(f"op {self.name} computes nothing")

    def evaluate(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        return self.compute(node, arrays)

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        buffers = [None if out is None else emit.output(out, lambda _: True) for out in outs]
        emit.host(self._step, node, [None if arg is None else arg.array for arg in args], buffers)

    def _step(self, node: Node, arrays: list[np.ndarray | None], buffers: list[np.ndarray | None]) -> None:
        for buffer, result in zip(buffers, self.compute(node, arrays), strict=False):
            if buffer is not None:
                np.copyto(buffer, result)


class ViewOp(HostOp):
    """A HostOp whose outputs are its first input seen otherwise: they are views of it wherever memory allows, and cost nothing."""

    reshapes = False  # whether it holds all of the input's elements in their order

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        arrays = [None if arg is None else arg.array for arg in args]
        assert arrays[0] is not None
        views = self.compute(node, arrays)
        if not all(np.may_share_memory(view, arrays[0]) for view in views):
            arrays[0] = emit.contiguous(arrays[0])
            views = self.compute(node, arrays)
        for out, view in zip(outs, views, strict=False):
            if out is not None:
                emit.alias(out, view)

    def place(
        self, node: Node, name: str, args: Sequence[Value | None], whole: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        if name != node.inputs[0] or args[0] is None or not self.reshapes:
            return None
        result = whole()
        place = result.reshape(args[0].shape)  # type: ignore[arg-type]
        return place if np.may_share_memory(place, result) else None

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 0


_registry: dict[str, Op] = {}


Kind = TypeVar("Kind", bound=Op)


def register(kind: type[Kind]) -> type[Kind]:
    """Class decorator: add one instance of an op to the registry."""
    if kind.name in _registry:
        raise GraphError(f"op {kind.name!r} is registered twice")
    _registry[kind.name] = kind()
    return kind


def find(name: str, node: str = "") -> Op:
    """Return the op of that name. Raise GraphError with what exists."""
    if name not in _registry:
        where = f"node {node!r}: " if node else ""
        raise GraphError(f"{where}unknown op {name!r}; known: {one_of(_registry)}")
    return _registry[name]


def registered() -> list[str]:
    """Return the names of all ops."""
    return sorted(_registry)


class NeedsValue(Exception):
    """A shape depends on the contents of a value that is not constant; the plan then binds once the value is known."""

    def __init__(self, index: int):
        super().__init__(index)
        self.index = index


def contents(args: Sequence[Value | None], index: int) -> np.ndarray | None:
    """Return the contents of an input that decides a shape, None where it is absent. Raise NeedsValue if not known."""
    value = at(args, index)
    if value is None:
        return None
    if value.data is None:
        raise NeedsValue(index)
    return value.data


def shape_error(node: Node, role: str, got: object, wanted: str, hint: str = "") -> ShapeError:
    """Return the error for an input that does not fit: what, where, got, wanted."""
    return ShapeError(f"node {node.name!r}: {role} has shape {got}, expected {wanted}" + (f". {hint}" if hint else ""))


def at(args: Sequence[Value | None], index: int) -> Value | None:
    """Return an input, None where it is absent."""
    return args[index] if index < len(args) else None


def expect_shape(node: Node, args: Sequence[Value | None], index: int, role: str, wanted: Shape) -> None:
    """Raise ShapeError unless an input is absent, of unknown rank, or fits `wanted`."""
    value = at(args, index)
    if value is None or value.shape is None:
        return
    if len(value.shape) != len(wanted) or not all(map(agree, value.shape, wanted)):
        raise shape_error(node, role, value.shape, str(wanted))


def expect_dtypes(node: Node, args: Sequence[Value | None], dtype: np.dtype, inputs: Sequence[int] = ()) -> None:
    """Raise DTypeError unless these inputs (none named: all that are given) have this dtype: kernels read them as it."""
    for k in inputs or range(len(args)):
        value = at(args, k)
        if value is not None and value.dtype != dtype:
            raise DTypeError(f"node {node.name!r}: input {k} is {value.dtype}, expected {dtype}")


Args = Sequence[Value | None]
Arrays = Sequence[np.ndarray | None]


def required(args: Args, index: int = 0) -> Value:
    """Return an input that the schema requires."""
    value = args[index]
    assert value is not None
    return value


def integers(array: np.ndarray | None) -> list[int] | None:
    """Return the integers of an array, None where it is absent."""
    return None if array is None else [int(v) for v in np.asarray(array).ravel()]


def axis_of(node: Node, axis: int, rank: int) -> int:
    """Return an axis counted from the front. Raise ShapeError where there is none."""
    if not -rank <= axis < rank:
        raise shape_error(node, "an input", f"of rank {rank}", f"an axis {axis}")
    return axis % rank

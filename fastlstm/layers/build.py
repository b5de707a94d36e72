"""Layer and the symbolic tensors that it is called on: how layers become nodes of a graph."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastlstm.errors import InputError, ShapeError
from fastlstm.graph import AttributeValue, Dim, Graph, Node, TensorSpec
from fastlstm.model import Model
from fastlstm.ops import inference
from fastlstm.ops.op import NeedsValue, Value

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Tensor:
    """A value of the graph under construction; `mask` is what Keras sends along with it, (B, T) booleans."""

    build: "Build" = field(repr=False)
    name: str
    mask: "Tensor | None" = None

    @property
    def value(self) -> Value:
        return self.build.values[self.name]

    @property
    def shape(self) -> Shape:
        shape = self.value.shape
        if shape is None:
            raise ShapeError(f"the rank of {self.name!r} is not known")
        return shape

    def with_mask(self, mask: "Tensor | None") -> "Tensor":
        """Return the same value with another mask."""
        return replace(self, mask=mask)

    # ---- arithmetic, by NumPy's rules of broadcasting ----------------------------------------------
    def __add__(self, other: "Tensor | float") -> "Tensor":
        return self._with("Add", self, other)

    def __radd__(self, other: float) -> "Tensor":
        return self._with("Add", other, self)

    def __sub__(self, other: "Tensor | float") -> "Tensor":
        return self._with("Sub", self, other)

    def __rsub__(self, other: float) -> "Tensor":
        return self._with("Sub", other, self)

    def __mul__(self, other: "Tensor | float") -> "Tensor":
        return self._with("Mul", self, other)

    def __rmul__(self, other: float) -> "Tensor":
        return self._with("Mul", other, self)

    def __truediv__(self, other: "Tensor | float") -> "Tensor":
        return self._with("Div", self, other)

    def __rtruediv__(self, other: float) -> "Tensor":
        return self._with("Div", other, self)

    def __pow__(self, exponent: int) -> "Tensor":
        return self._with("Mul", self, self) if exponent == 2 else self._with("Pow", self, exponent)

    def __neg__(self) -> "Tensor":
        return self.build.node("neg", "Neg", [self]).with_mask(self.mask)

    def _with(self, op: str, *operands: "Tensor | float") -> "Tensor":
        """Add a node of two operands, of which a number takes this tensor's dtype."""
        dtype = self.value.dtype
        tensors = [
            one if isinstance(one, Tensor) else self.build.weight("number", np.array(one, dtype)) for one in operands
        ]
        return self.build.node(op.lower(), op, tensors).with_mask(self.mask)


class Build:
    """Collects nodes and weights, and knows the shape of every value as soon as it exists."""

    training = False

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[TensorSpec] = []
        self.weights: dict[str, np.ndarray] = {}
        self.values: dict[str, Value] = {}
        self.steps_matter = False  # whether a layer's numbers hold for the declared number of steps alone
        self._node_names: set[str] = set()
        self._value_names: set[str] = {""}

    def unique(self, name: str, among: set[str] | None = None) -> str:
        """Return `name`, or the first of name_1, name_2 ... that no value (or none `among` others) has yet."""
        among = self._value_names if among is None else among
        free, k = name, 0
        while free in among:
            k += 1
            free = f"{name}_{k}"
        among.add(free)
        return free

    def input(self, name: str, dtype: str, shape: Shape) -> Tensor:
        """Add a graph input."""
        spec = TensorSpec(self.unique(name), dtype, shape)
        self.inputs.append(spec)
        self.values[spec.name] = Value(np.dtype(dtype), shape)
        return Tensor(self, spec.name)

    def weight(self, name: str, array: np.ndarray) -> Tensor:
        """Add a weight."""
        name = self.unique(name)
        self.weights[name] = array
        self.values[name] = Value.constant(array)
        return Tensor(self, name)

    def parameter(self, name: str, array: np.ndarray, trainable: bool = True) -> Tensor:
        """Add a weight that training may move."""
        return self.weight(name, array)

    def ints(self, name: str, *values: int) -> Tensor:
        """Add a vector of integers, such as axes or a shape."""
        return self.weight(name, np.array(values, np.int64))

    def node(
        self,
        name: str,
        op: str,
        inputs: Sequence[Tensor | None],
        outputs: int | Sequence[bool] = 1,
        **attributes: AttributeValue,
    ) -> Any:
        """Add a node and return its output, or a tuple of them (None for those not wanted); constants are folded."""
        name = self.unique(name, self._node_names)
        wanted = [True] * outputs if isinstance(outputs, int) else list(outputs)
        while not wanted[-1]:
            wanted.pop()
        names = [self.unique(name if len(wanted) == 1 else f"{name}:{k}") if w else "" for k, w in enumerate(wanted)]
        given = ["" if tensor is None else tensor.name for tensor in inputs]
        while given and not given[-1]:
            given.pop()
        node = Node(name, op, tuple(given), tuple(names), attributes)
        inference.find(op, name).check(node)
        args = inference.arguments(node, self.values)
        try:
            outs = inference.infer_node(node, args)
        except NeedsValue:
            outs = [Value(args[0].dtype, None) for _ in names]  # type: ignore[union-attr]
        if all(out.data is not None for out in outs):
            self.weights |= {n: out.data for n, out in zip(names, outs, strict=False) if n and out.data is not None}
        else:
            self.nodes.append(node)
        self.values |= {n: out for n, out in zip(names, outs, strict=False) if n}
        tensors = tuple(Tensor(self, value_name) if value_name else None for value_name in names)
        return tensors[0] if isinstance(outputs, int) and outputs == 1 else tensors

    def model(self, outputs: Sequence[Tensor], metadata: dict[str, str] | None = None) -> Model:
        """Return the model with these outputs. Weights that only constant nodes used are left out."""
        specs = tuple(TensorSpec(t.name, t.value.dtype.name, t.value.shape) for t in outputs)
        nodes = self.live(outputs)
        used = {name for node in nodes for name in node.inputs} | {spec.name for spec in specs}
        weights = {name: array for name, array in self.weights.items() if name in used}
        return Model(Graph(tuple(nodes), tuple(self.inputs), specs), weights, metadata or {})

    def live(self, outputs: Sequence[Tensor]) -> list[Node]:
        """Return the nodes that outputs depend on, in order."""
        needed, live = {tensor.name for tensor in outputs}, []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                live.append(node)
                needed.update(node.inputs)
        return live[::-1]


class Layer:
    """A Keras layer: holds its configuration and weights, and adds its nodes when it is called on tensors.

    Arguments are Keras's; so are defaults and the order of `weights`.
    """

    supports_masking = False

    def __init__(self, name: str | None = None):
        self.name = name or type(self).__name__.lower()
        self.weights: list[np.ndarray] = []

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the layer's weights, in Keras's order."""
        return ()

    @property
    def weight_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shapes of weights by role, None for a size that the input decides."""
        return {}

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take the layer's weights, in Keras's order. Raise ShapeError if there are more or fewer."""
        if len(weights) != len(self.roles):
            shapes = [tuple(w.shape) for w in weights]
            raise ShapeError(
                f"layer {self.name!r} ({type(self).__name__}) takes {len(self.roles)} weights {list(self.roles)}, got {len(weights)}: {shapes}"
            )
        for role, array in zip(self.roles, weights, strict=True):
            wanted = self.weight_shapes.get(role)
            shape = np.shape(array)
            fits = wanted is None or (
                len(shape) == len(wanted) and all(w in (None, d) for w, d in zip(wanted, shape, strict=True))
            )
            if not fits:
                raise ShapeError(
                    f"layer {self.name!r} ({type(self).__name__}): {role} has shape {shape}, expected {wanted}"
                )
        self.weights = [np.asarray(array) for array in weights]

    def weight(self, role: str) -> np.ndarray | None:
        """Return one weight by its role, None if the layer has none of that name. Raise InputError if it is not set."""
        if role not in self.roles:
            return None
        if not self.weights:
            raise InputError(f"layer {self.name!r} has no weights yet: set_weights first")
        return self.weights[self.roles.index(role)]

    def add_weight(self, build: Build, role: str, array: np.ndarray | None) -> Tensor | None:
        """Add a weight to the graph, once however often a shared layer is called."""
        if array is None:
            return None
        known = self.__dict__.setdefault("_added", {})
        if (id(build), role) not in known:
            known[id(build), role] = build.parameter(f"{self.name}.{role}", array)
        return known[id(build), role]

    def __call__(self, x: Any, mask: Tensor | None = None, **arguments: Any) -> Any:
        """Add the layer's nodes; the mask of the input travels on where Keras sends it on."""
        if isinstance(x, Tensor) and mask is not None:
            x = x.with_mask(mask)
        y = self.call(x, **arguments)
        if isinstance(y, Tensor) and isinstance(x, Tensor) and self.supports_masking and y.mask is None:
            y = y.with_mask(x.mask)
        return y

    def call(self, x: Any, **arguments: Any) -> Any:
        """Add the layer's nodes for input x and return the output."""
        raise NotImplementedError

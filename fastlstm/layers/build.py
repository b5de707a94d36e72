"""Build and its tensors: a graph under construction, which knows the shape of every value as soon as it exists."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastlstm.errors import ShapeError, UnsupportedError
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


class Names(set[str]):
    """Names that are taken."""

    def __init__(self, names: Iterable[str] = ()):
        super().__init__(names)
        self._last: dict[
            str, int
        ] = {}  # the number that a name was last given, so that many of one name take no longer each

    def fresh(self, name: str) -> str:
        """Take `name`, or the first of name_1, name_2 ... after those given before that is free."""
        k = self._last.get(name, 0)
        free = name if k == 0 else f"{name}_{k}"
        while free in self:
            k += 1
            free = f"{name}_{k}"
        self._last[name] = k
        self.add(free)
        return free


class Build:
    """Collects nodes and weights, and knows the shape of every value as soon as it exists."""

    training = False
    penalised = False  # whether penalties add to a loss

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.producers: dict[str, Node] = {}  # by the values that they give
        self.inputs: list[TensorSpec] = []
        self.weights: dict[str, np.ndarray] = {}
        self.values: dict[str, Value] = {}
        self.steps_matter = False  # whether a layer's numbers hold for the declared number of steps alone
        self._node_names, self._value_names = Names(), Names([""])
        self.entered: dict[tuple[Any, str], Tensor] = {}  # the weights that layers entered, by layer and role

    def another(self) -> "Build":
        """Return an empty build of the same kind, for a subgraph."""
        return type(self)()

    def unique(self, name: str, among: "Names | None" = None) -> str:
        """Return `name`, or one of name_1, name_2 ... that no value (or none `among` others) has yet."""
        return (self._value_names if among is None else among).fresh(name)

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

    def penalise(self, amount: Tensor) -> None:
        """Add a scalar to the loss, where the build is `penalised`."""
        raise UnsupportedError(f"{amount.name!r} is a penalty, and the model is not being trained")

    def replace(self, statistic: Tensor, new: Tensor) -> None:
        """Let a weight have another value after this step; only training replaces weights."""
        raise UnsupportedError(f"{statistic.name!r} is replaced in training alone")

    def constrain(self, parameter: Tensor, constraint: Any) -> None:
        """Hold a parameter to a constraint after each step of training; a network that is not trained has none."""

    def drop(self, name: str, shape: Shape, rate: float, dtype: str = "float32", owner: Any = None) -> Tensor:
        """Return the mask of a dropout; only training drops."""
        raise UnsupportedError(f"{name!r} is drawn in training alone")

    def noise(self, name: str, shape: Shape, stddev: float, dtype: str = "float32", owner: Any = None) -> Tensor:
        """Return normal numbers around 0; only training draws them."""
        raise UnsupportedError(f"{name!r} is drawn in training alone")

    def ints(self, name: str, *values: int) -> Tensor:
        """Add a vector of integers, such as axes or a shape."""
        return self.weight(name, np.array(values, np.int64))

    def node(
        self,
        name: str,
        op: str,
        inputs: Sequence[Tensor | None],
        outputs: int | Sequence[bool] = 1,
        subgraphs: Any = None,
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
        node = Node(name, op, tuple(given), tuple(names), attributes, subgraphs or {})
        inference.find(op, name).check(node)
        args = inference.arguments(node, self.values)
        try:
            outs = inference.infer_node(node, args)
        except NeedsValue:
            outs = inference.find(op).unknown(node, args)
        if all(out.data is not None for out in outs):
            self.weights |= {n: out.data for n, out in zip(names, outs, strict=False) if n and out.data is not None}
        else:
            self.nodes.append(node)
            self.producers |= {n: node for n in names if n}
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

    def distinct(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return outputs of which each has a name of its own: one that is given twice, or that is an input, is copied."""
        seen = {spec.name for spec in self.inputs}
        distinct = []
        for tensor in outputs:
            again = self.node(f"{tensor.name}/output", "Identity", [tensor]) if tensor.name in seen else tensor
            seen.add(again.name)
            distinct.append(again)
        return distinct

    def live(self, outputs: Sequence[Tensor]) -> list[Node]:
        """Return the nodes that outputs depend on, in order."""
        needed, live = {tensor.name for tensor in outputs}, []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                live.append(node)
                needed.update(node.inputs)
        return live[::-1]

"""What values of a build are made of, read back from its nodes: polynomials, and sums of products by constant matrices.

An exporter spells one formula in many ways. As polynomials `n + z * (h - n)` and `(1 - z) * n + z * h` are the same, and
so are, as sums of products, some columns of `Concat(x, h) W + b` and of `x Wx + (h Wh + b)`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlstm.converters.onnx_graph import is_zero
from fastlstm.graph import Node
from fastlstm.layers import Build, Tensor
from fastlstm.ops.activations import ACTIVATIONS, Activation
from fastlstm.ops.dims import Dim
from fastlstm.ops.op import find

MOST_NODES = 256  # that one formula is read through; a cell has fewer than a hundred
MOST_ELEMENTS = 1 << 18  # of a constant that may repeat one number or one row: each cell looks anew

Polynomial = dict[tuple[str, ...], float]  # by the values that are multiplied, sorted; () is a number alone
Range = tuple[int, int]
Matrix = tuple[Dim, int]


class Unlike(Exception):
    """A value is not what a reader looks for."""


@dataclass(frozen=True)
class Product:
    """scale * source W[rows, columns]; the weight named is W, or W'."""

    source: str
    weight: str
    transposed: bool
    rows: Range
    columns: Range
    scale: float = 1.0


@dataclass(frozen=True)
class Row:
    """scale * weight[columns], the same for every row of a batch; a weight of one element stands for all columns."""

    weight: str
    columns: Range
    scale: float = 1.0


@dataclass
class Sum:
    """Products, rows and the values that are neither, the last each with its columns and its scale."""

    products: list[Product] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    others: list[tuple[str, Range, float]] = field(default_factory=list)


class Formulas:
    """Reads the formulas of a cell whose values are (rows, units); `nodes` are those that it has read through."""

    def __init__(self, build: Build, producers: Mapping[str, Node], rows: Dim, units: int):
        self.build, self.producers, self.rows, self.units = build, producers, rows, units
        self.nodes: dict[str, Node] = {}

    # ---- values and nodes ---------------------------------------------------------------------------------
    def shape(self, name: str) -> Matrix:
        """Return the shape of a value. Raise Unlike unless it has two axes, the second of a known size."""
        shape = self.build.values[name].shape
        if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
            raise Unlike
        return shape[0], shape[1]

    def fits(self, *names: str) -> None:
        """Raise Unlike unless values have the shape of the cell's: what is added or multiplied is not broadcast then."""
        if any(self.build.values[name].shape != (self.rows, self.units) for name in names):
            raise Unlike

    def is_state(self, name: str) -> bool:
        """Tell whether a value can be a state: it has the cell's shape, or is zero for all rows."""
        shape = self.build.values[name].shape
        return shape == (self.rows, self.units) or (shape in ((1, self.units), (self.units,)) and self.is_zero(name))

    def is_zero(self, name: str) -> bool:
        """Tell whether a value is zeros whatever the inputs are."""
        return is_zero(self.build, Tensor(self.build, name))

    def is_row(self, name: str, columns: int) -> bool:
        """Tell whether a value is a constant that is the same for every row: one number a column, or one for all."""
        data = self.data(name)
        if data is None or data.ndim > 2 or not 0 < data.size <= MOST_ELEMENTS:
            return False
        repeats = data.shape == (self.rows, columns) and bool(np.all(data == data[:1]))
        return repeats or data.size == 1 or data.shape in ((columns,), (1, columns))

    def data(self, name: str) -> np.ndarray | None:
        return self.build.values[name].data

    def read(self, *nodes: Node) -> None:
        """Note that nodes are part of what is read. Raise Unlike where there are too many."""
        self.nodes |= {node.name: node for node in nodes}
        if len(self.nodes) > MOST_NODES:
            raise Unlike

    def node(self, name: str, *ops: str) -> Node | None:
        """Return the node that gives a value and read through it, None where it is none of these ops."""
        node = self.producers.get(name)
        if node is None or node.op not in ops:
            return None
        self.read(node)
        return node

    def attempt(self, read: Callable[..., Any], *args: Any) -> Any:
        """Return what a reading gives; where it raises Unlike, None, as if it had not been tried."""
        before = dict(self.nodes)
        try:
            return read(*args)
        except Unlike:
            self.nodes = before
            return None

    # ---- polynomials --------------------------------------------------------------------------------------
    def polynomial(self, name: str) -> Polynomial:
        """Return a sum or difference of products whose factors may be differences; what else there is stands for itself."""
        node = self.node(name, "Add", "Sub")
        if node is None:
            raise Unlike
        self.fits(name)
        a, b = (self._term(one) for one in node.inputs)
        return _added(a, b, -1.0 if node.op == "Sub" else 1.0)

    def _term(self, name: str) -> Polynomial:
        node = self.node(name, "Mul")
        if node is None:
            return self._factor(name)
        self.fits(name)
        result: Polynomial = {}
        a, b = (self._factor(one) for one in node.inputs)
        for p, m in a.items():
            result = _added(result, {tuple(sorted((*p, *q))): n for q, n in b.items()}, m)
        return result

    def _factor(self, name: str) -> Polynomial:
        """Return a difference of values, or the complement of one: 1 - z or -z + 1."""
        node = self.producers.get(name)
        sum_with_number = node is not None and node.op == "Add" and any(map(self._number, node.inputs))
        if node is None or (node.op != "Sub" and not sum_with_number):
            return self._atom(name)
        self.read(node)
        self.fits(name)
        a, b = (self._atom(one) for one in node.inputs)
        return _added(a, b, -1.0 if node.op == "Sub" else 1.0)

    def _atom(self, name: str) -> Polynomial:
        number = self._number(name)
        if number is not None:
            return {(): number}
        node = self.node(name, "Neg")
        if node is not None:
            return _added({}, self._atom(node.inputs[0]), -1.0)
        if not self.is_state(name):
            raise Unlike
        return {(name,): 1.0}

    def _number(self, name: str) -> float | None:
        """Return the number other than 0 that a constant repeats, None for anything else."""
        data = self.data(name)
        if data is None or not 0 < data.size <= MOST_ELEMENTS or not data.flat[0] or not np.all(data == data.flat[0]):
            return None
        return float(data.flat[0])

    # ---- sums of products --------------------------------------------------------------------------------
    def activated(self, name: str) -> tuple[Activation, Sum]:
        """Return the activation of a gate and what goes into it; gates may be cut apart before it or after it."""
        self.fits(name)
        name, columns = self._uncut(name, (0, self.units))
        node = self.node(name, *(op for op in ACTIVATIONS if op != "Identity"))
        if node is None:
            raise Unlike
        return self.activation(node), self.sum(node.inputs[0], columns)

    def activation(self, node: Node) -> Activation:
        """Return the activation that a node applies."""
        op, known = find(node.op), ACTIVATIONS[node.op]
        alpha = float(op.get(node, "alpha")) if known.has_alpha else known.alpha
        beta = float(op.get(node, "beta")) if known.has_beta else known.beta
        return node.op, alpha, beta

    def sum(self, name: str, columns: Range) -> Sum:
        """Return some columns of a value as products, rows and the rest."""
        result = Sum()
        self._add(result, name, columns, 1.0, self.shape(name))
        return result

    def _add(self, result: Sum, name: str, columns: Range, scale: float, shape: Matrix) -> None:
        if self.data(name) is not None:
            if not self.is_row(name, shape[1]):
                raise Unlike
            result.rows.append(Row(name, columns, scale))
            return
        if self.build.values[name].shape != shape:
            raise Unlike
        name, columns = self._uncut(name, columns)
        shape = self.shape(name)
        node = self.node(name, "Add", "Sub", "MatMul", "Dense", "Gemm")
        if node is None:
            result.others.append((name, columns, scale))
        elif node.op in ("Add", "Sub"):
            self._add(result, node.inputs[0], columns, scale, shape)
            self._add(result, node.inputs[1], columns, -scale if node.op == "Sub" else scale, shape)
        else:
            self._add_product(result, node, columns, scale, shape)

    def _add_product(self, result: Sum, node: Node, columns: Range, scale: float, shape: Matrix) -> None:
        op, turned, factor, share = find(node.op), False, 1.0, 1.0
        if node.op == "Gemm":
            turned, factor, share = (op.get(node, role) for role in ("transB", "alpha", "beta"))
            if op.get(node, "transA"):
                raise Unlike
        elif node.op == "Dense" and op.get(node, "activation") != "Identity":
            raise Unlike
        weight = self.data(node.inputs[1])
        if weight is None or weight.ndim != 2:
            raise Unlike
        for source, rows in self._parts(node.inputs[0]):
            product = Product(source, node.inputs[1], bool(turned), rows, columns, scale * factor)
            result.products.append(product)
        if len(node.inputs) > 2 and node.inputs[2]:
            self._add(result, node.inputs[2], columns, scale * share, shape)

    def _parts(self, name: str) -> list[tuple[str, Range]]:
        """Return the values that are joined side by side into one, and the columns each has there."""
        size, node = self.shape(name)[1], self.producers.get(name)
        if node is None or node.op != "Concat" or find("Concat").get(node, "axis") not in (1, -1):
            return [(name, (0, size))]
        self.read(node)
        if len(node.inputs) > MOST_NODES:
            raise Unlike
        ends = np.cumsum([self.shape(one)[1] for one in node.inputs]).tolist()
        return list(zip(node.inputs, zip([0, *ends], ends, strict=False), strict=True))

    def _uncut(self, name: str, columns: Range) -> tuple[str, Range]:
        """Return the value that columns were cut from, and where they lie in it."""
        while True:
            node = self.producers.get(name)
            start = None if node is None else self._cut(node, name)
            if node is None or start is None:
                return name, columns
            self.read(node)
            name, columns = node.inputs[0], (columns[0] + start, columns[1] + start)

    def _cut(self, node: Node, name: str) -> int | None:
        """Return the first of the columns that a node keeps next to each other for one of its outputs, None where it does otherwise."""
        if node.op == "Split" and find("Split").get(node, "axis") in (1, -1):
            before = node.outputs[: node.outputs.index(name)]
            return sum(self.shape(one)[1] for one in before) if all(before) else None
        if node.op == "Identity":
            return 0
        if node.op == "Slice":
            return self._sliced(node)
        return None

    def _sliced(self, node: Node) -> int | None:
        width = self.shape(node.inputs[0])[1]
        given = [None if not name else self.data(name) for name in (*node.inputs[1:], "", "")[:4]]
        if any(one is None for one in given[:2]):
            return None
        starts, ends, axes, steps = (None if one is None else one.ravel().tolist() for one in given)
        axes = list(range(len(starts))) if axes is None else axes  # type: ignore[arg-type]
        if axes not in ([1], [-1]) or (steps is not None and steps != [1]):
            return None
        start, stop, _ = slice(starts[0], ends[0]).indices(width)  # type: ignore[index]
        return start if start < stop else None


def _added(a: Polynomial, b: Polynomial, scale: float) -> Polynomial:
    """Return a + scale * b."""
    result = dict(a)
    for key, value in b.items():
        result[key] = result.get(key, 0.0) + scale * value
    return {key: value for key, value in result.items() if value}


def interpolation(polynomial: Polynomial) -> list[tuple[str, str, str]]:
    """Return p, q and z where a polynomial is p + z (q - p), one triple for each reading that there is."""
    alone = [key for key, value in polynomial.items() if len(key) == 1 and value == 1.0]
    plus = [key for key, value in polynomial.items() if len(key) == 2 and value == 1.0]
    minus = [key for key, value in polynomial.items() if len(key) == 2 and value == -1.0]
    if len(polynomial) != 3 or (len(alone), len(plus), len(minus)) != (1, 1, 1):
        return []
    (p,) = alone[0]
    found = []
    for z, q in (plus[0], plus[0][::-1]):
        if tuple(sorted((z, p))) == minus[0]:
            found.append((p, q, z))
    return found


def two_products(polynomial: Polynomial) -> tuple[Sequence[str], Sequence[str]]:
    """Return the factors where a polynomial is a b + c d. Raise Unlike elsewhere."""
    if len(polynomial) != 2 or any(len(key) != 2 or value != 1.0 for key, value in polynomial.items()):
        raise Unlike
    first, second = polynomial
    return first, second

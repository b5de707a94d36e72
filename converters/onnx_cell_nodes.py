"""Nodes of the recurrent kernel in place of cells that a graph spells out, with the weights that they share."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fastlstm.converters.onnx_cells import Cell, find_cell
from fastlstm.converters.onnx_formulas import Formulas, Product, Row
from fastlstm.graph import Node
from fastlstm.layers import Build, Tensor
from fastlstm.ops import inference

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def join_cells(build: Build, outputs: Sequence[Tensor]) -> None:
    """Let one node stand for each cell among the nodes that these outputs depend on."""
    nodes = build.live(outputs)
    if any(node.op in ("MatMul", "Dense", "Gemm") for node in nodes):
        _Joining(build, nodes, [tensor.name for tensor in outputs]).run()


def in_order(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes in topological order, and else in the order in which they stand."""
    producers = {name: node for node in nodes for name in node.outputs if name}
    placed: dict[str, Node] = {}
    for node in nodes:
        waiting = [node]
        while waiting:
            before = [producers[name] for name in waiting[-1].inputs if name in producers]
            before = [one for one in before if one.name not in placed]
            if before:
                waiting.extend(before)
            else:
                one = waiting.pop()
                placed.setdefault(one.name, one)
    return list(placed.values())


class _Joining:
    """The cells of one build, and the nodes that stand for them."""

    def __init__(self, build: Build, nodes: Sequence[Node], outputs: Iterable[str]):
        self.build, self.nodes, self.weights = build, nodes, _Weights(build)
        self.producers = {name: node for node in nodes for name in node.outputs if name}
        self.places = {name: k for k, node in enumerate(nodes) for name in node.outputs}
        self.readers: dict[str, list[str]] = {name: [""] for name in outputs}  # the caller has no name
        for node in nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node.name)
        self.partners: dict[str, str] = {}  # the h' that came with a c'

    def run(self) -> None:
        joined: list[Node] = []
        for node in self.nodes:
            value = self.build.values.get(node.outputs[0])
            if node.op not in ("Mul", "Add", "Sub") or value is None or value.dtype not in FLOATS:
                continue
            rows, units = value.shape if value.shape is not None and len(value.shape) == 2 else (None, None)
            if rows is None or not isinstance(units, int) or units == 0:
                continue
            formulas = Formulas(self.build, self.producers, rows, units)
            cell = formulas.attempt(find_cell, formulas, node, self.partners.get)
            if cell is not None and self._is_closed(formulas, cell) and self._is_fed_before(cell):
                joined.append(self._node(node.name, cell, formulas))
                self.producers |= dict.fromkeys(cell.outputs, joined[-1])
                self.partners[cell.outputs[-1]] = cell.outputs[0]
        if joined:
            given = {name for node in joined for name in node.outputs}
            kept = [node for node in self.build.nodes if not given.intersection(node.outputs)]
            self.build.nodes = in_order([*kept, *joined])
            self.build.producers |= {name: node for node in joined for name in node.outputs if name}

    def _is_closed(self, formulas: Formulas, cell: Cell) -> bool:
        """Tell whether nothing outside of a cell reads a value inside of it."""
        names = {name for node in formulas.nodes.values() for name in node.outputs if name}
        return not any(self._is_read(name, formulas.nodes) for name in names.difference(cell.outputs))

    def _is_fed_before(self, cell: Cell) -> bool:
        """Tell whether all that a cell takes is there before the first value that it gives: a gate might see what is made of the new c."""
        first = min(self.places[name] for name in cell.outputs)
        return all(self.places.get(name, -1) < first for name in (*cell.sources, *cell.states))

    def _is_read(self, name: str, inside: Mapping[str, Node]) -> bool:
        return any(reader not in inside for reader in self.readers.get(name, []))

    def _node(self, name: str, cell: Cell, formulas: Formulas) -> Node:
        """Return the node of a cell; the build has its weights after it, and its x with an axis for the one step."""
        build, units, weights = self.build, formulas.units, self.weights
        widths = [formulas.shape(source)[1] for source in cell.sources]
        parts = [Tensor(build, source) for source in cell.sources]
        x = parts[0] if len(parts) == 1 else build.node(f"{name}/x", "Concat", parts, axis=1)
        X = build.node(f"{name}/step", "Unsqueeze", [x, build.ints(f"{name}.axes", 0)])
        starts = dict(zip(cell.sources, np.cumsum([0, *widths]).tolist(), strict=False))
        W = weights.matrix(f"{name}.W", cell.x, starts, (sum(widths), units), x.value.dtype)
        U = weights.matrix(f"{name}.U", cell.h, {}, (units, units), x.value.dtype)
        b = weights.rows(f"{name}.b", cell.b, units)
        states = [None if not one or formulas.is_zero(one) else Tensor(build, one) for one in cell.states]
        if cell.op == "GRU":
            inputs = [X, W, U, b, weights.rows(f"{name}.bn", [cell.bn], units), *states]
        else:
            P = weights.rows(f"{name}.P", [[row] if row else [] for row in cell.peepholes], units)
            shape = build.ints(f"{name}.shape", 3, units)
            inputs = [X, W, U, b, *states, P and build.node(f"{name}/P", "Reshape", [P, shape])]
        outputs = ["", *cell.outputs]
        if not self._is_read(outputs[-1], formulas.nodes):
            outputs.pop()
        given = ["" if tensor is None else tensor.name for tensor in inputs]
        while not given[-1]:
            given.pop()
        names, alphas, betas = zip(*cell.activations, strict=True)
        attributes = {"activations": names, "alphas": alphas, "betas": betas, **cell.attributes}
        node = Node(name, cell.op, tuple(given), tuple(outputs), attributes)
        inference.find(node.op).check(node)
        inference.infer_node(node, inference.arguments(node, build.values))
        return node


class _Weights:
    """Weights put together from parts of those of the graph. What is made of the same parts is the same: the steps of one layer share it."""

    def __init__(self, build: Build):
        self.build = build
        self._made: dict[tuple, Tensor] = {}

    def matrix(
        self,
        name: str,
        gates: Sequence[Sequence[Product]],
        starts: Mapping[str, int],
        shape: tuple[int, int],
        dtype: np.dtype,
    ) -> Tensor:
        """Return the matrix (rows, gates * units) of the products of each gate; `starts` are the first rows of each factor, 0 where absent."""
        terms = [
            (k, starts.get(one.source, 0), one.weight, one.transposed, one.rows, one.columns, one.scale)
            for k, gate in enumerate(gates)
            for one in gate
        ]
        key = (*shape, *terms)
        if key not in self._made:
            rows, units = shape
            matrix = np.zeros((rows, len(gates), units), dtype)
            for k, start, weight, transposed, (first, last), columns, scale in terms:
                whole = self._data(weight).T if transposed else self._data(weight)
                _add(matrix[start : start + last - first, k], whole[first:last, slice(*columns)], scale)
            self._made[key] = self.build.weight(name, matrix.reshape(rows, -1))
        return self._made[key]

    def rows(self, name: str, gates: Sequence[Sequence[Row]], units: int) -> Tensor | None:
        """Return the sums of the rows of each gate, (gates * units,), None where there is no row."""
        terms = [(k, row.weight, row.columns, row.scale) for k, gate in enumerate(gates) for row in gate]
        if not terms:
            return None
        key = (units, len(gates), *terms)
        if key not in self._made:
            total = np.zeros((len(gates), units), self._data(terms[0][1]).dtype)
            for k, weight, columns, scale in terms:
                row = np.atleast_2d(self._data(weight))[0]
                _add(total[k], row if row.size == 1 else row[slice(*columns)], scale)
            self._made[key] = self.build.weight(name, total.reshape(-1))
        return self._made[key]

    def _data(self, name: str) -> np.ndarray:
        data = self.build.values[name].data
        assert data is not None
        return data


def _add(total: np.ndarray, part: np.ndarray, scale: float) -> None:
    """Add scale * part in place; a file may hold infinities and NaN."""
    with np.errstate(all="ignore"):
        total += part if scale == 1.0 else part * part.dtype.type(scale)

"""Einsum: sums of products over named axes, each contraction of two operands on the register tile.

Operands are joined from left to right. What a label stands for in a pair decides its place in a batched product (batch, M, K) (batch, K, N).
"""

import string
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from fastlstm.errors import GraphError, UnsupportedError
from fastlstm.graph import Node
from fastlstm.ops.adjoints import expanded, numbers, with_axes
from fastlstm.ops.contractions import emit_dense, emit_products
from fastlstm.ops.dims import Dim, agree
from fastlstm.ops.op import Args, Attribute, Back, Emit, Op, Slot, Value, expect_dtypes, register, required, shape_error
from fastlstm.ops.reductions import emit_reduction

Labels = tuple[str, ...]
ELLIPSIS = "..."


def parse(node: Node, equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """Return the labels of every operand's axes and of the output's. Axes that "..." stands for are ".1" (the last), ".2" ..."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise GraphError(f"node {node.name!r}: equation {equation!r} has {len(terms)} terms for {len(ranks)} inputs")
    operands = [_labels(node, equation, term, rank) for term, rank in zip(terms, ranks, strict=True)]
    widest = max((sum(label[0] == "." for label in labels) for labels in operands), default=0)
    if arrow:
        output = _labels(node, equation, right, len(right.replace(ELLIPSIS, "")) + (widest if ELLIPSIS in right else 0))
    else:
        letters = [label for labels in operands for label in labels if label[0] != "."]
        once = sorted(label for label in set(letters) if letters.count(label) == 1)
        output = (*(f".{k}" for k in range(widest, 0, -1)), *once)
    known = {label for labels in operands for label in labels}
    if len(set(output)) != len(output) or not set(output) <= known:
        raise GraphError(f"node {node.name!r}: equation {equation!r} has an output that no input gives")
    return operands, output


def _labels(node: Node, equation: str, term: str, rank: int) -> Labels:
    before, dots, after = term.partition(ELLIPSIS)
    spare = rank - len(before) - len(after)
    letters = all(letter in string.ascii_letters for letter in before + after)
    if not letters or spare < 0 or (spare and not dots):
        raise GraphError(f"node {node.name!r}: equation {equation!r} does not fit an input of {rank} axes")
    return (*before, *(f".{k}" for k in range(spare, 0, -1)), *after)


@register
class Einsum(Op):
    """The equation in NumPy's notation, upper-case letters included, over floats."""

    name = "Einsum"
    inputs = (Slot("operands", variadic=True),)
    attributes = {"equation": Attribute(str, required=True)}

    def _parsed(self, node: Node, args: Args) -> tuple[list[Labels], Labels]:
        ranks = [len(arg.shape or ()) for arg in args if arg is not None]
        return parse(node, self.get(node, "equation"), ranks)

    def infer(self, node: Node, args: Args) -> list[Value]:
        dtype = required(args).dtype
        expect_dtypes(node, args, dtype)
        if any(arg is None or arg.shape is None for arg in args):
            return [Value(dtype, None)]
        operands, output = self._parsed(node, args)
        sizes: dict[str, Dim] = {}
        for labels, arg in zip(operands, args, strict=True):
            for label, size in zip(labels, arg.shape or (), strict=True):  # type: ignore[union-attr]
                known = sizes.setdefault(label, size)
                if label[0] == "." and 1 in (known, size):
                    sizes[label] = size if known == 1 else known
                elif not agree(known, size):
                    raise shape_error(node, "an input", arg.shape, f"{known} along axis {label!r}")  # type: ignore[union-attr]
                elif isinstance(size, int):
                    sizes[label] = size
        return [Value(dtype, tuple(sizes[label] for label in output))]

    def lower(self, node: Node, args: Args, outs: Sequence[Value | None], emit: Emit) -> None:
        operands, output = self._parsed(node, args)
        given = [_Operand(labels, arg.array, arg.data is not None).diagonal() for labels, arg in zip(operands, args, strict=True)]  # type: ignore[union-attr, arg-type]  # fmt: skip
        joined = given[0]
        for k, other in enumerate(given[1:], 1):
            wanted = set(output).union(*(later.labels for later in given[k + 1 :]))
            joined = _contracted(emit, joined, other, wanted)
        joined = joined.summed(emit, [label for label in joined.labels if label not in output])
        assert outs[0] is not None
        emit.alias(outs[0], joined.array.transpose([joined.labels.index(label) for label in output]))

    def adjoint(self, node: Node, back: Back) -> list:
        """Of y = sum a b ...: da is the same sum of dy and the other operands, over the labels that a lacks.

        Along a label that a alone has, its gradient is the same everywhere; where a repeats a label, it is zero off the diagonal.
        """
        shapes = [x.shape for x in back.x]
        operands, output = parse(node, self.get(node, "equation"), [len(shape) for shape in shapes])
        letters = dict(zip(dict.fromkeys(chain(output, *operands)), string.ascii_letters, strict=False))
        given = [_lettered(back, labels, x, letters) for labels, x in zip(operands, back.x, strict=True)]
        d = _lettered(back, output, back.dy[0], letters)
        return [
            self._of_one(node, back, operands[k], letters, x, [d, *given[:k], *given[k + 1 :]])
            if back.wants[k]
            else None
            for k, x in enumerate(back.x)
        ]

    def _of_one(
        self,
        node: Node,
        back: Back,
        labels: Labels,
        letters: Mapping[str, str],
        x: Any,
        others: Sequence[tuple[str, Any]],
    ) -> Any:
        """Return the gradient of an operand from that of the output and the other operands, each with the letters of its axes."""
        spare = iter(sorted(set(string.ascii_letters) - set(letters.values())))
        own, others = [letters[label] for label in labels], list(others)
        for axis, label in enumerate(labels):
            if label in labels[:axis]:
                own[axis] = next(spare)
                others.append((letters[label] + own[axis], _identity(node, back, x.shape[axis])))
        held = set("".join(term for term, _ in others))
        gone = [
            axis
            for axis, (letter, label) in enumerate(zip(own, labels, strict=True))
            if letter not in held or _may_be_broadcast(label, x.shape[axis])
        ]
        term = "".join(letter for axis, letter in enumerate(own) if axis not in gone)
        terms, tensors = zip(*others, strict=True)
        d = back.node(self.name, tensors, equation=f"{','.join(terms)}->{term}")
        return expanded(back, with_axes(back, d, gone), x)

    def flops(self, node: Node, args: Args, outs: Sequence[Value]) -> int:
        operands, _ = self._parsed(node, args)
        sizes = {label: size for labels, arg in zip(operands, args, strict=True) for label, size in zip(labels, arg.shape or (), strict=True)}  # type: ignore[union-attr]  # fmt: skip
        return 2 * prod(sizes.values())  # type: ignore[arg-type]


def _may_be_broadcast(label: str, size: Dim) -> bool:
    return label[0] == "." and size == 1


def _lettered(back: Back, labels: Labels, x: Any, letters: Mapping[str, str]) -> tuple[str, Any]:
    """Return the letters of an operand's axes and the operand, without the axes that may be broadcast."""
    gone = [axis for axis, label in enumerate(labels) if _may_be_broadcast(label, x.shape[axis])]
    term = "".join(letters[label] for axis, label in enumerate(labels) if axis not in gone)
    return term, back.node("Squeeze", [x, back.ints(*gone)]) if gone else x


def _identity(node: Node, back: Back, size: Dim) -> Any:
    """Return the identity matrix of as many rows as an axis has elements. Raise UnsupportedError where that is not known."""
    if not isinstance(size, int):
        raise UnsupportedError(
            f"node {node.name!r}: the gradient of Einsum needs the size of an axis whose label is repeated, got {size}"
        )
    k = numbers(back, back.ints(size))
    rows, columns = (back.node("Unsqueeze", [k, back.ints(place)]) for place in (1, 0))
    return back.node("Where", [back.node("Equal", [rows, columns]), back.number(1.0), back.number(0.0)])


class _Operand:
    """An array whose axes have labels."""

    def __init__(self, labels: Labels, array: np.ndarray, constant: bool = False):
        self.labels, self.array, self.constant = labels, array, constant

    def diagonal(self) -> "_Operand":
        """Return the operand with one axis for each label: of a repeated one the elements whose indices agree, as a view."""
        labels = tuple(dict.fromkeys(self.labels))
        sizes = [self.array.shape[self.labels.index(label)] for label in labels]
        pairs = list(zip(self.labels, self.array.strides, strict=True))
        strides = [sum(step for other, step in pairs if other == label) for label in labels]
        view = np.lib.stride_tricks.as_strided(self.array, sizes, strides, writeable=False)
        return _Operand(labels, view, self.constant)

    def summed(self, emit: Emit, gone: Sequence[str]) -> "_Operand":
        """Return the operand summed over axes."""
        if not gone:
            return self
        left = tuple(label for label in self.labels if label not in gone)
        y = emit.scratch(tuple(self.size(label) for label in left), self.array.dtype)
        emit_reduction(emit, "ReduceSum", self.array, [self.labels.index(label) for label in gone], y)
        return _Operand(left, y)

    def size(self, label: str) -> int:
        return self.array.shape[self.labels.index(label)]

    def grouped(self, emit: Emit, batch: Sequence[str], *groups: Sequence[str]) -> np.ndarray:
        """Return the array with the axes of each group joined, after those of the batch, which has size 1 where it is not ours."""
        order = [*(label for label in batch if label in self.labels), *(label for group in groups for label in group)]
        view = self.array.transpose([self.labels.index(label) for label in order])
        shape = [self.size(label) if label in self.labels else 1 for label in batch]
        shape += [prod(self.size(label) for label in group) for group in groups]
        joined = view.reshape(shape)
        return joined if np.may_share_memory(joined, view) else emit.contiguous(view).reshape(shape)


def _contracted(emit: Emit, a: _Operand, b: _Operand, wanted: set[str]) -> _Operand:
    """Return the product of two operands, summed over every label of theirs that is not wanted."""
    alone = lambda one, other: [label for label in one.labels if label not in other.labels]
    a = a.summed(emit, [label for label in alone(a, b) if label not in wanted])
    b = b.summed(emit, [label for label in alone(b, a) if label not in wanted])
    shared = [label for label in a.labels if label in b.labels]
    # an axis of size 1 that meets a longer one is repeated
    inner = [label for label in shared if label not in wanted]
    a, b = _stretched(a, b, inner), _stretched(b, a, inner)
    batch = [label for label in shared if label in wanted]
    rows, columns = alone(a, b), alone(b, a)
    outer = [max(a.size(label), b.size(label)) if 0 not in (a.size(label), b.size(label)) else 0 for label in batch]
    M, N = prod(a.size(label) for label in rows), prod(b.size(label) for label in columns)
    y = emit.scratch((*outer, M, N), a.array.dtype)
    if y.size and b.constant and not batch:
        W = Value.constant(np.ascontiguousarray(b.grouped(emit, (), inner, columns)))
        x = emit.contiguous(a.grouped(emit, (), rows, inner))
        emit_dense(emit, x, W, None, y, (1, M, x.shape[1], N))
    elif y.size:
        emit_products(emit, a.grouped(emit, batch, rows, inner), b.grouped(emit, batch, inner, columns), y)
    sizes = [*outer, *(a.size(label) for label in rows), *(b.size(label) for label in columns)]
    return _Operand((*batch, *rows, *columns), y.reshape(sizes))


def _stretched(one: _Operand, other: _Operand, labels: Sequence[str]) -> _Operand:
    shape = [other.size(label) if label in labels and n == 1 else n for label, n in zip(one.labels, one.array.shape, strict=True)]  # fmt: skip
    return _Operand(one.labels, np.broadcast_to(one.array, shape), one.constant)

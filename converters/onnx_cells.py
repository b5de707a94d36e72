"""LSTM and GRU cells that a graph spells out in products, slices and activations become one node of the recurrent kernel.

    LSTM  c' = f c + i g            h' = o act(c')       i, f, o, g = act(x W + h U + b), i and f and o with c p, c p and c' p
          c' = c + i (g - c)                             where f is 1 - i; g + f (c - g) where i is 1 - f
    GRU   h' = n + z (h - n)                             z, r = act(x W + h U + b)
          n = act(x W + b + (r h) U)                     reset before the product
          n = act(x W + b + r (h U + bn))                after it

The node has one step: it takes h and c and gives h' and c' under the names that they had. A cell is left as it is where anything else reads a
value inside of it, where a shape might be broadcast, or where gates differ in their activation, which the kernel has once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from fastlstm.converters.onnx_formulas import (
    Formulas,
    Polynomial,
    Product,
    Row,
    Sum,
    Unlike,
    interpolation,
    two_products,
)
from fastlstm.graph import AttributeValue, Node
from fastlstm.ops.activations import ACTIVATIONS, Activation


@dataclass
class Cell:
    """A cell that was recognised: its states, what it gives, and for each gate in our order the terms with x, those with h, and the bias.

    The first of several steps may lack h: exporters fold what zeros are multiplied by.
    """

    op: str
    states: tuple[str, ...]
    outputs: tuple[str, ...]
    activations: tuple[Activation, ...]
    x: list[list[Product]]
    h: list[list[Product]]
    b: list[list[Row]]
    bn: list[Row] = field(default_factory=list)
    peepholes: list[Row | None] = field(default_factory=list)
    attributes: dict[str, AttributeValue] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """The values that make up x, in the order in which they are met."""
        return list(dict.fromkeys(product.source for gate in self.x for product in gate))


def find_cell(formulas: Formulas, node: Node, partner: Callable[[str], str | None]) -> Cell:
    """Return the cell whose h' a node gives. Raise Unlike elsewhere. `partner` knows the h' that came with a c'."""
    cell = _lstm(formulas, node, partner) if node.op == "Mul" else _gru(formulas, node)
    inside = {name for one in formulas.nodes.values() for name in one.outputs}
    if not cell.sources or inside.intersection((*cell.sources, *cell.states)):
        raise Unlike
    if any(formulas.shape(name)[0] != formulas.rows for name in cell.sources):
        raise Unlike
    return cell


# ---- LSTM ------------------------------------------------------------------------------------------------
def _lstm(formulas: Formulas, node: Node, partner: Callable[[str], str | None]) -> Cell:
    for o, shown in (node.inputs, node.inputs[::-1]):
        made = formulas.producers.get(shown)
        if made is not None and made.op in ACTIVATIONS and made.op != "Identity":
            cell = formulas.attempt(_lstm_of, formulas, node, o, made, partner)
            if cell is not None:
                return cell
    raise Unlike


def _lstm_of(formulas: Formulas, node: Node, o: str, shown: Node, partner: Callable[[str], str | None]) -> Cell:
    next_h, next_c = node.outputs[0], shown.inputs[0]
    formulas.read(node, shown)
    formulas.fits(next_h, o, *shown.outputs, next_c)
    out = formulas.activated(o)
    for roles in _lstm_roles(formulas.polynomial(next_c)):
        cell = formulas.attempt(_lstm_with, formulas, (next_h, next_c), roles, out, partner)
        if cell is not None:
            return replace(cell, activations=(*cell.activations, formulas.activation(shown)))
    raise Unlike


@dataclass(frozen=True)
class _Roles:
    """Which value is what in c'; of two gates that add up to one, only one is there."""

    c: str
    g: str
    i: str | None
    f: str | None


def _lstm_roles(polynomial: Polynomial) -> Iterator[_Roles]:
    for p, q, z in interpolation(polynomial):
        yield _Roles(p, q, z, None)
        yield _Roles(q, p, None, z)
    if len(polynomial) == 2:
        first, second = two_products(polynomial)
        for kept, new in ((first, second), (second, first)):
            for f, c in (kept, kept[::-1]):
                for i, g in (new, new[::-1]):
                    yield _Roles(c, g, i, f)


def _lstm_with(
    formulas: Formulas,
    outputs: tuple[str, str],
    roles: _Roles,
    out: tuple[Activation, Sum],
    partner: Callable[[str], str | None],
) -> Cell:
    (act_g, g), (act_o, o) = formulas.activated(roles.g), out
    if roles.i is None:
        act_i, negative = formulas.activated(roles.f)  # type: ignore[arg-type]
        i = _complement(act_i, negative)
    else:
        act_i, i = formulas.activated(roles.i)
    act_f, f = (act_i, Sum()) if roles.i is None or roles.f is None else formulas.activated(roles.f)
    if not act_i == act_f == act_o or g.others:
        raise Unlike
    coupled = roles.i is None or roles.f is None
    if coupled and any(gate.others for gate in (i, o)):
        raise Unlike
    peepholes = [_peephole(formulas, gate, state) for gate, state in ((i, roles.c), (f, roles.c), (o, outputs[1]))]
    sums = [i, f, g, o]
    h = _state(formulas, sums, roles.c, partner)
    return Cell(
        "LSTM", (h, roles.c), outputs, (act_i, act_g),
        *_divided(sums, h), peepholes=peepholes if any(peepholes) else [], attributes={"input_forget": coupled},
    )  # fmt: skip


def _peephole(formulas: Formulas, gate: Sum, state: str) -> Row | None:
    """Return the row that a gate multiplies a state by, None where it sees none."""
    if not gate.others:
        return None
    (name, columns, scale), *more = gate.others
    node = formulas.node(name, "Mul")
    if node is None or more or columns != (0, formulas.units) or state not in node.inputs:
        raise Unlike
    row = node.inputs[1 - node.inputs.index(state)]
    formulas.fits(name)
    if not formulas.is_row(row, formulas.units):
        raise Unlike
    return Row(row, columns, scale)


def _state(formulas: Formulas, sums: Sequence[Sum], c: str, partner: Callable[[str], str | None]) -> str:
    """Return h: any factor of its shape serves for one step. Where there are several, it is the one that belongs to c, or is likely to start."""
    sources = list(dict.fromkeys(product.source for one in sums for product in one.products))
    known = [name for name in sources if formulas.is_state(name)]
    if len(sources) == 1 and formulas.is_zero(c):
        return ""
    if not formulas.is_state(c) or not known:
        raise Unlike
    likely = [lambda name: name == partner(c), formulas.is_zero, lambda name: name not in formulas.producers]
    return next((name for is_it in likely for name in known if is_it(name)), known[-1])


# ---- GRU -------------------------------------------------------------------------------------------------
def _gru(formulas: Formulas, node: Node) -> Cell:
    for p, q, z in interpolation(formulas.polynomial(node.outputs[0])):
        for h, n in ((q, p), (p, q)):
            cell = formulas.attempt(_gru_of, formulas, node.outputs[0], h, n, z, h == q)
            if cell is not None:
                return cell
    raise Unlike


def _gru_of(formulas: Formulas, next_h: str, h: str, n: str, z: str, keeps: bool) -> Cell:
    """`keeps`: z is the share of h that stays, as in the kernel; else it is that of n."""
    (act_z, update), (act_n, new) = formulas.activated(z), formulas.activated(n)
    if not keeps:
        update = _complement(act_z, update)
    r, of_h, bn = _reset_before(formulas, new, h) or _reset_after(formulas, new, h)
    act_r, reset = formulas.activated(r)
    if act_z != act_r or any(one.others for one in (update, reset, new)) or not formulas.is_state(h):
        raise Unlike
    x, recurrent, b = _divided([update, reset, new], h)
    if recurrent[2] or not (recurrent[0] or recurrent[1] or formulas.is_zero(h)):
        raise Unlike
    after: dict[str, AttributeValue] = {"reset": "before" if bn is None else "after"}
    return Cell(
        "GRU", (h,), (next_h,), (act_z, act_n), x, [*recurrent[:2], of_h], b, bn=bn or [], attributes=after
    )  # fmt: skip


def _reset_before(formulas: Formulas, new: Sum, h: str) -> tuple[str, list[Product], None] | None:
    """Take r h among the factors out of what goes into n; return r and what r h is multiplied by."""
    for source in dict.fromkeys(product.source for product in new.products):
        made = formulas.producers.get(source)
        if made is not None and made.op == "Mul" and h in made.inputs:
            formulas.read(made)
            r = made.inputs[1 - made.inputs.index(h)]
            formulas.fits(source, h, r)
            of_h = [product for product in new.products if product.source == source]
            new.products = [product for product in new.products if product.source != source]
            return r, of_h, None
    return None


def _reset_after(formulas: Formulas, new: Sum, h: str) -> tuple[str, list[Product], list[Row]]:
    """Take r (h U + bn) out of what goes into n; return r, what h is multiplied by, and bn. Raise Unlike where there is none."""
    if len(new.others) != 1:
        raise Unlike
    name, columns, scale = new.others.pop()
    node = formulas.node(name, "Mul")
    if node is None or columns != (0, formulas.units) or scale != 1.0:
        raise Unlike
    for r, product in (node.inputs, node.inputs[::-1]):
        found = formulas.attempt(_of_h_alone, formulas, product, h)
        if found is not None:
            formulas.fits(name, r)
            return r, found.products, found.rows
    raise Unlike


def _of_h_alone(formulas: Formulas, name: str, h: str) -> Sum:
    formulas.fits(name)
    found = formulas.sum(name, (0, formulas.units))
    if found.others or any(one.source != h for one in found.products) or not (found.products or formulas.is_zero(h)):
        raise Unlike
    return found


# ---- what both share ----------------------------------------------------------------------------------------
def _complement(activation: Activation, gate: Sum) -> Sum:
    """Return what goes into 1 - act(a) as act(-a). Raise Unlike where that differs."""
    name, _, middle = activation
    if (name != "Sigmoid" and (name, middle) != ("HardSigmoid", 0.5)) or gate.others:
        raise Unlike
    negated = lambda terms: [replace(one, scale=-one.scale) for one in terms]
    return Sum(negated(gate.products), negated(gate.rows))


def _divided(sums: Sequence[Sum], h: str) -> tuple[list[list[Product]], list[list[Product]], list[list[Row]]]:
    """Return the terms with x, those with h, and the rows of each sum."""
    x = [[one for one in gate.products if one.source != h] for gate in sums]
    return x, [[one for one in gate.products if one.source == h] for gate in sums], [gate.rows for gate in sums]

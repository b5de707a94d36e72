"""Ops that act element by element: arithmetic with broadcasting, comparisons, casts, and the activations."""

from collections.abc import Callable, Sequence
from math import erf, pi, prod, sqrt
from typing import Any

import numpy as np

from fastlstm.graph import Node
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.dims import Dim, Shape, agree
from fastlstm.ops.mapping import emit_cast, emit_elementwise, emit_where
from fastlstm.ops.op import (
    Attribute,
    Back,
    Emit,
    HostOp,
    Op,
    Slot,
    Value,
    ViewOp,
    expect_dtypes,
    expect_shape,
    register,
    shape_error,
)


def broadcast(node: Node, shapes: Sequence[Shape | None]) -> Shape | None:
    """Return the shape that shapes broadcast to, by NumPy's rules; a symbol meets 1 or itself, else it wins."""
    if any(shape is None for shape in shapes):
        return None
    rank = max(len(shape) for shape in shapes if shape is not None)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        assert shape is not None
        for axis, dim in enumerate(shape, rank - len(shape)):
            if result[axis] == 1:
                result[axis] = dim
            elif dim != 1 and not agree(result[axis], dim):
                raise shape_error(node, "an input", shape, f"a shape that broadcasts with {tuple(result)}")
            elif isinstance(dim, int) and dim != 1:
                result[axis] = dim
    return tuple(result)


class Elementwise(HostOp):
    """A NumPy ufunc over broadcast inputs."""

    ufunc: Callable[..., np.ndarray]
    result: np.dtype | None = None  # dtype of the output, None: that of the first input

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        values = [arg for arg in args if arg is not None]
        return [Value(self.result or values[0].dtype, broadcast(node, [v.shape for v in values]))]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            result = type(self).ufunc(*arrays)
            return [np.asarray(result, self.result or arrays[0].dtype)]  # type: ignore[union-attr]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        given = [arg for arg in args if arg is not None]
        if outs[0] is None or not emit_elementwise(emit, self.name, given, outs[0]):
            super().lower(node, args, outs, emit)

    def _step(self, node: Node, arrays: list[np.ndarray | None], buffers: list[np.ndarray]) -> None:
        with np.errstate(all="ignore"):
            type(self).ufunc(*arrays, out=buffers[0], casting="unsafe")

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return []


def _divide(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, casting: str = "unsafe") -> np.ndarray:
    if np.issubdtype(np.asarray(a).dtype, np.integer):
        # ONNX divides integers towards zero, NumPy downwards
        quotient = np.floor_divide(a, b, out=out)
        inexact = (np.multiply(quotient, b) != a) & ((np.less(a, 0)) != np.less(b, 0))
        return np.add(quotient, inexact, out=out, casting="unsafe")
    return np.true_divide(a, b, out=out)


def _fold(ufunc: np.ufunc) -> Callable[..., np.ndarray]:
    def apply(*arrays: np.ndarray, out: np.ndarray | None = None, casting: str = "unsafe") -> np.ndarray:
        total = arrays[0]
        for array in arrays[1:]:
            total = ufunc(total, array)
        if out is None:
            return total
        np.copyto(out, total)
        return out

    return apply


def _add(op: Op, node: Node, back: Back) -> list:
    (d,) = back.dy
    return [back.sum_to(d, x) if wanted else None for x, wanted in zip(back.x, back.wants, strict=True)]


def _sub(op: Op, node: Node, back: Back) -> list:
    (a, b), (d,) = back.x, back.dy
    return [
        back.sum_to(d, a) if back.wants[0] else None,
        back.node("Neg", [back.sum_to(d, b)]) if back.wants[1] else None,
    ]


def _mul(op: Op, node: Node, back: Back) -> list:
    (a, b), (d,) = back.x, back.dy
    return [
        back.sum_to(back.node("Mul", [d, other]), x) if wanted else None
        for x, other, wanted in ((a, b, back.wants[0]), (b, a, back.wants[1]))
    ]


def _neg(op: Op, node: Node, back: Back) -> list:
    return [back.node("Neg", [back.dy[0]])]


def _div(op: Op, node: Node, back: Back) -> list:
    """da = d / b, db = -y d / b."""
    (a, b), (y,), (d,) = back.x, back.y, back.dy
    share = back.node("Div", [d, b])
    return [
        back.sum_to(share, a) if back.wants[0] else None,
        back.node("Neg", [back.sum_to(back.node("Mul", [share, y]), b)]) if back.wants[1] else None,
    ]


def _pow(op: Op, node: Node, back: Back) -> list:
    """da = p a^(p - 1) d; dp = y log a d where a > 0, and 0 elsewhere, as TensorFlow has it."""
    (a, p), (y,), (d,) = back.x, back.y, back.dy
    da = dp = None
    if back.wants[0]:
        squares = p.value.data is not None and p.value.data.size == 1 and p.value.data.item() == 2
        power = a if squares else back.node("Pow", [a, back.node("Sub", [p, back.number(1.0)])])
        slope = back.node("Mul", [p, power])
        da = back.sum_to(back.node("Mul", [d, slope]), a)
    if back.wants[1]:
        positive = back.node("Greater", [a, back.number(0.0)])
        log = back.node("Log", [back.node("Where", [positive, a, back.number(1.0)])])
        dp = back.sum_to(back.node("Mul", [d, back.node("Mul", [y, log])]), p)
    return [da, dp]


def _extreme(beats: str) -> Callable[[Op, Node, Back], list]:
    """Return the adjoint of Max or Min: of inputs that are equal the first has the gradient, as in Keras on TensorFlow."""

    def adjoint(op: Op, node: Node, back: Back) -> list:
        (d,), zero = back.dy, back.number(0.0)
        best = [back.x[0]]  # of the first inputs, one more each
        for x in back.x[1:-1]:
            best.append(back.node(op.name, [best[-1], x]))
        found: list[Any] = []
        for before, x in zip(reversed(best), reversed(back.x[1:]), strict=len(back.x) > 1):
            wins = back.node(beats, [before, x])
            found.append(back.sum_to(back.node("Where", [wins, d, zero]), x))
            d = back.node("Where", [wins, zero, d])
        return [back.sum_to(d, back.x[0]), *reversed(found)]

    return adjoint


def _abs(op: Op, node: Node, back: Back) -> list:
    """d sign(x): 0 at 0."""
    return [back.node("Mul", [back.dy[0], back.node("Sign", [back.x[0]])])]


def _sqrt(op: Op, node: Node, back: Back) -> list:
    return [back.node("Div", [back.node("Mul", [back.dy[0], back.number(0.5)]), back.y[0]])]


def _log(op: Op, node: Node, back: Back) -> list:
    return [back.node("Div", [back.dy[0], back.x[0]])]


def _flat(op: Op, node: Node, back: Back) -> list:
    """Zero, wherever there is a gradient."""
    return [None]


def _divided(d, back: Back, inside: Callable, root: bool = False) -> list:
    """Return d / inside(x^2), or d / sqrt(inside(x^2))."""
    below = inside(back.node("Mul", [back.x[0], back.x[0]]))
    return [back.node("Div", [d, back.node("Sqrt", [below]) if root else below])]


def _one_less(back: Back, square):
    return back.node("Sub", [back.number(1.0), square])


def _one_more(back: Back, square):
    return back.node("Add", [back.number(1.0), square])


def _times(name: str, sign: float = 1.0) -> Callable:
    """Return the adjoint of a function whose derivative is `sign` times the function of this name."""

    def adjoint(op: Op, node: Node, back: Back) -> list:
        slope = back.node(name, [back.x[0]])
        return [back.node("Mul", [back.dy[0], slope if sign > 0 else back.node("Neg", [slope])])]

    return adjoint


def _tan(op: Op, node: Node, back: Back) -> list:
    """d (1 + y^2)"""
    return [back.node("Mul", [back.dy[0], _one_more(back, back.node("Mul", [back.y[0], back.y[0]]))])]


def _asin(op: Op, node: Node, back: Back) -> list:
    """d / sqrt(1 - x^2)"""
    return _divided(back.dy[0], back, lambda square: _one_less(back, square), root=True)


def _acos(op: Op, node: Node, back: Back) -> list:
    """-d / sqrt(1 - x^2)"""
    return _divided(back.node("Neg", [back.dy[0]]), back, lambda square: _one_less(back, square), root=True)


def _atan(op: Op, node: Node, back: Back) -> list:
    """d / (1 + x^2)"""
    return _divided(back.dy[0], back, lambda square: _one_more(back, square))


def _asinh(op: Op, node: Node, back: Back) -> list:
    """d / sqrt(1 + x^2)"""
    return _divided(back.dy[0], back, lambda square: _one_more(back, square), root=True)


def _acosh(op: Op, node: Node, back: Back) -> list:
    """d / sqrt(x^2 - 1)"""
    return _divided(back.dy[0], back, lambda square: back.node("Sub", [square, back.number(1.0)]), root=True)


def _atanh(op: Op, node: Node, back: Back) -> list:
    """d / (1 - x^2)"""
    return _divided(back.dy[0], back, lambda square: _one_less(back, square))


def _erf_adjoint(op: Op, node: Node, back: Back) -> list:
    """d 2 e^(-x^2) / sqrt(pi)"""
    bell = back.node("Exp", [back.node("Neg", [back.node("Mul", [back.x[0], back.x[0]])])])
    return [back.node("Mul", [back.dy[0], back.node("Mul", [bell, back.number(2 / sqrt(pi))])])]


def _define(
    name: str,
    ufunc: Callable,
    count: int,
    result: type | None = None,
    variadic: bool = False,
    adjoint: Callable = Op.adjoint,
) -> None:
    slots = (Slot("X"),) if count == 1 else (Slot("A"), Slot("B"))
    register(
        type(
            name,
            (Elementwise,),
            {
                "name": name,
                "inputs": (Slot("inputs", variadic=True),) if variadic else slots,
                "ufunc": staticmethod(ufunc),
                "result": None if result is None else np.dtype(result),
                "adjoint": adjoint,
                "__doc__": f"{name} of NumPy's rules, element by element.",
            },
        )
    )


for _name, _ufunc, _adjoint in (
    ("Add", np.add, _add),
    ("Sub", np.subtract, _sub),
    ("Mul", np.multiply, _mul),
    ("Div", _divide, _div),
    ("Pow", np.power, _pow),
):
    _define(_name, _ufunc, 2, adjoint=_adjoint)
for _name, _ufunc, _beats in (("Max", np.maximum, "Less"), ("Min", np.minimum, "Greater")):
    _define(_name, _fold(_ufunc), 2, variadic=True, adjoint=_extreme(_beats))
for _name, _ufunc, _adjoint in (
    ("Neg", np.negative, _neg),
    ("Abs", np.abs, _abs),
    ("Sqrt", np.sqrt, _sqrt),
    ("Log", np.log, _log),
    ("Sign", np.sign, _flat),
):
    _define(_name, _ufunc, 1, adjoint=_adjoint)
for _name, _ufunc in (("Equal", np.equal), ("NotEqual", np.not_equal), ("Less", np.less), ("Greater", np.greater)):
    _define(_name, _ufunc, 2, bool)
for _name, _ufunc in (("And", np.logical_and), ("Or", np.logical_or)):
    _define(_name, _ufunc, 2, bool)
_define("Not", np.logical_not, 1, bool)
for _name, _ufunc, _adjoint in (
    ("Floor", np.floor, _flat),
    ("Ceil", np.ceil, _flat),
    ("Round", np.rint, _flat),
    ("Sin", np.sin, _times("Cos")),
    ("Cos", np.cos, _times("Sin", -1.0)),
    ("Tan", np.tan, _tan),
    ("Asin", np.arcsin, _asin),
    ("Acos", np.arccos, _acos),
    ("Atan", np.arctan, _atan),
    ("Sinh", np.sinh, _times("Cosh")),
    ("Cosh", np.cosh, _times("Sinh")),
    ("Asinh", np.arcsinh, _asinh),
    ("Acosh", np.arccosh, _acosh),
    ("Atanh", np.arctanh, _atanh),
):
    _define(_name, _ufunc, 1, adjoint=_adjoint)


def _erf(x: np.ndarray, out: np.ndarray | None = None, casting: str = "unsafe") -> np.ndarray:
    """The error function by the C library, for dtypes that have no kernel and for constants."""
    values = np.array([erf(v) for v in x.ravel().tolist()], np.float64).reshape(x.shape).astype(x.dtype)
    if out is None:
        return values
    np.copyto(out, values)
    return out


_define("Erf", _erf, 1, adjoint=_erf_adjoint)


@register
class Mod(Elementwise):
    """What division of A by B leaves, with the sign of B; with `fmod` the sign of A, as C has it."""

    name = "Mod"
    inputs = (Slot("A"), Slot("B"))
    attributes = {"fmod": Attribute(bool, False)}

    def _ufunc(self, node: Node) -> np.ufunc:
        return np.fmod if self.get(node, "fmod") else np.mod

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return [np.asarray(self._ufunc(node)(*arrays))]  # type: ignore[arg-type]

    def _step(self, node: Node, arrays: list[np.ndarray | None], buffers: list[np.ndarray]) -> None:
        with np.errstate(all="ignore"):
            self._ufunc(node)(*arrays, out=buffers[0], casting="unsafe")  # type: ignore[arg-type]

    def adjoint(self, node: Node, back: Back) -> list:
        """dA = dY, dB = -q dY, q being the whole number of times that B was taken off: y = a - q b."""
        (a, b), (y,), (d,) = back.x, back.y, back.dy
        db = None
        if back.wants[1]:
            taken = back.node("Round", [back.node("Div", [back.node("Sub", [y, a]), b])])
            db = back.sum_to(back.node("Mul", [d, taken]), b)
        return [back.sum_to(d, a) if back.wants[0] else None, db]


@register
class Where(Elementwise):
    """A where the condition holds, else B."""

    name = "Where"
    inputs = (Slot("condition"), Slot("A"), Slot("B"))

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        assert args[1] is not None
        return [Value(args[1].dtype, broadcast(node, [a.shape for a in args if a is not None]))]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        return [np.where(*arrays)]  # type: ignore[arg-type]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        condition, a, b = (arg.array for arg in args)  # type: ignore[union-attr]
        assert condition is not None and a is not None and b is not None and outs[0] is not None
        if not emit_where(emit, condition, a, b, outs[0]):
            HostOp.lower(self, node, args, outs, emit)

    def _step(self, node: Node, arrays: list[np.ndarray | None], buffers: list[np.ndarray]) -> None:
        np.copyto(buffers[0], np.where(*arrays))  # type: ignore[arg-type]

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient goes to the value that was chosen."""
        (condition, a, b), (d,), zero = back.x, back.dy, back.number(0.0)
        return [
            None,
            back.sum_to(back.node("Where", [condition, d, zero]), a) if back.wants[1] else None,
            back.sum_to(back.node("Where", [condition, zero, d]), b) if back.wants[2] else None,
        ]


DTYPES = (
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)


@register
class Cast(HostOp):
    """X as another dtype; a float becomes an integer by truncation."""

    name = "Cast"
    inputs = (Slot("X"),)
    attributes = {"to": Attribute(str, choices=DTYPES, required=True)}

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        assert args[0] is not None
        return [Value(np.dtype(self.get(node, "to")), args[0].shape)]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        assert arrays[0] is not None
        with np.errstate(all="ignore"):
            return [arrays[0].astype(self.get(node, "to"))]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value | None], emit: Emit) -> None:
        assert args[0] is not None and args[0].array is not None and outs[0] is not None
        if not emit_cast(emit, args[0].array, outs[0]):
            super().lower(node, args, outs, emit)

    def adjoint(self, node: Node, back: Back) -> list:
        """The gradient as the dtype of X, if that is a float."""
        dtype = back.x[0].value.dtype
        return [back.node("Cast", [back.dy[0]], to=dtype.name) if dtype.kind == "f" else None]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return []


@register
class Identity(ViewOp):
    """X itself; Dropout and noise layers become this."""

    name = "Identity"
    reshapes = True
    inputs = (Slot("X"),)

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        assert args[0] is not None
        return [Value(args[0].dtype, args[0].shape)]

    def compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        assert arrays[0] is not None
        return [arrays[0]]

    def adjoint(self, node: Node, back: Back) -> list:
        return [back.dy[0]]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return []


class ActivationOp(Op):
    """One activation function of kernels/activations.py as a node of its own."""

    inputs = (Slot("X"),)

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        assert args[0] is not None
        return [Value(args[0].dtype, args[0].shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        assert args[0] is not None and args[0].array is not None
        known = ACTIVATIONS[self.name]
        alpha = self.get(node, "alpha") if known.has_alpha else known.alpha
        beta = self.get(node, "beta") if known.has_beta else known.beta
        out = emit.output(outs[0])
        x = emit.contiguous(args[0].array)
        emit.kernel("activate_forward", x, out, out.size, emit.activation(self.name), float(alpha), float(beta))

    def adjoint(self, node: Node, back: Back) -> list:
        """dX = f'(X) dY, from Y where that is as good."""
        known = ACTIVATIONS[self.name]
        source = back.y[0] if known.from_output else back.x[0]
        numbers = {key: self.get(node, key) for key in self.attributes}
        return [back.node("ActivationAdjoint", [source, back.dy[0]], activation=self.name, **numbers)]

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 10 * prod(outs[0].shape)  # type: ignore[arg-type]


@register
class ActivationAdjoint(Op):
    """f'(V) dY for an activation f: V is its output where `Coefficients.from_output`, else its input.

    At a kink the derivative is that of Keras on TensorFlow (kernels/activations.py says which).
    """

    name = "ActivationAdjoint"
    inputs = (Slot("V"), Slot("dY"))
    attributes = {
        "activation": Attribute(str, choices=tuple(ACTIVATIONS), required=True),
        "alpha": Attribute(float, 0.0),
        "beta": Attribute(float, 0.0),
    }

    def infer(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        value = args[0]
        assert value is not None
        expect_dtypes(node, args, value.dtype)
        if value.shape is not None:
            expect_shape(node, args, 1, "gradient dY", value.shape)
        return [Value(value.dtype, value.shape)]

    def lower(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value], emit: Emit) -> None:
        v, dy = (arg.array for arg in args)  # type: ignore[union-attr]
        assert v is not None and dy is not None
        name = self.get(node, "activation")
        known = ACTIVATIONS[name]
        alpha = self.get(node, "alpha") if known.has_alpha else known.alpha
        beta = self.get(node, "beta") if known.has_beta else known.beta
        dx = emit.output(outs[0])
        emit.kernel(
            "activate_adjoint", emit.contiguous(v), emit.contiguous(dy), dx, dx.size, emit.activation(name),
            float(alpha), float(beta),
        )  # fmt: skip

    def mixed(self, node: Node, args: Sequence[Value | None]) -> list[tuple[int, int]]:
        return []

    def flops(self, node: Node, args: Sequence[Value | None], outs: Sequence[Value]) -> int:
        return 10 * prod(outs[0].shape)  # type: ignore[arg-type]


for _name, _known in ACTIVATIONS.items():
    if _name != "Identity":
        _attributes = {"alpha": Attribute(float, _known.alpha)} if _known.has_alpha else {}
        _attributes |= {"beta": Attribute(float, _known.beta)} if _known.has_beta else {}
        register(
            type(
                _name,
                (ActivationOp,),
                {"name": _name, "attributes": _attributes, "__doc__": f"The activation {_name}."},
            )
        )

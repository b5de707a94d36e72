"""Every op's adjoint over random configurations: against central differences in float64, float32 against float64, one thread against two.

CI runs a few of each op; FASTLSTM_FULL=1 runs four times as many.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from training import differences

from fastlstm.errors import UnsupportedError
from fastlstm.layers.build import Build, Tensor
from fastlstm.ops import find, registered
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.ops.op import Op
from fastlstm.training.gradient import gradients

TOLERANCE = 1e-6  # of float64 against central differences, relative to the gradient's norm
SINGLE = 1e-5  # of float32 against float64
SIZES = (1, 2, 3, 5, 7, 9, 17)
TIMES = 4 if os.environ.get("FASTLSTM_FULL") == "1" else 1


def seeds(count: int) -> range:
    """Return the numbers of random configurations, of which CI runs `count`."""
    return range(TIMES * count)


@dataclass
class Draw:
    """A graph under construction with its inputs. Numbers are those of float32, so that both dtypes see the same."""

    rng: np.random.Generator
    dtype: str
    build: Build = field(default_factory=Build)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    wrt: list[Tensor] = field(default_factory=list)
    symbols: bool = False  # whether sizes are symbols

    def numbers(self, shape: Sequence[int]) -> np.ndarray:
        return self.rng.standard_normal(shape).astype("f4").astype(self.dtype)

    def x(self, shape: Sequence[int], values: np.ndarray | None = None) -> Tensor:
        """Add an input whose gradient is wanted."""
        values = self.numbers(shape) if values is None else np.asarray(values).astype("f4").astype(self.dtype)
        name = f"x{len(self.feeds)}"
        dims = tuple(f"{name}.{k}" for k in range(len(shape))) if self.symbols else tuple(values.shape)
        tensor = self.build.input(name, self.dtype, dims)
        self.feeds[tensor.name] = values
        self.wrt.append(tensor)
        return tensor

    def given(self, values: np.ndarray) -> Tensor:
        """Add an input without a gradient: ids, conditions."""
        tensor = self.build.input(f"x{len(self.feeds)}", values.dtype.name, values.shape)
        self.feeds[tensor.name] = values
        return tensor

    def shape(self, low: int = 1, high: int = 4) -> tuple[int, ...]:
        """Return a random shape of `low` to `high` axes, small enough for central differences."""
        while True:
            shape = tuple(int(self.rng.choice(SIZES)) for _ in range(int(self.rng.integers(low, high + 1))))
            if np.prod(shape) <= 150:
                return shape

    def node(self, op: str, inputs: Sequence[Tensor | None], outputs: Any = 1, **attributes: Any) -> Any:
        return self.build.node(op.lower(), op, inputs, outputs, **attributes)

    def ints(self, *values: int) -> Tensor:
        return self.build.ints("ints", *values)


Make = Callable[[Draw], Tensor]


def graph(make: Make, seed: int, dtype: str, symbols: bool = False) -> tuple[Draw, Tensor]:
    """Return the inputs and the loss of one configuration, the same numbers for every dtype."""
    draw = Draw(np.random.default_rng(seed), dtype, symbols=symbols)
    y = make(draw)
    sizes = differences.run(draw.build, [y], draw.feeds)[0].shape
    weight = draw.build.weight("w", draw.numbers(sizes))
    return draw, differences.projected(draw.build, y, weight)


def found(make: Make, seed: int, dtype: str, threads: int = 1) -> list[np.ndarray]:
    draw, loss = graph(make, seed, dtype)
    wanted = [d for d in gradients(draw.build, loss, draw.wrt) if d is not None]
    return differences.run(draw.build, wanted, draw.feeds, threads)


def check(make: Make, seed: int, single: float = SINGLE) -> None:
    """Hold one configuration to what every adjoint promises."""
    draw, loss = graph(make, seed, "float64")
    assert differences.error(draw.build, loss, draw.feeds, draw.wrt) < TOLERANCE
    want, got, team = (
        found(make, seed, dtype, threads) for dtype, threads in (("float64", 1), ("float32", 1), ("float32", 2))
    )
    for wide, narrow, shared in zip(want, got, team, strict=True):
        assert narrow.dtype == np.float32 and narrow.tobytes() == shared.tobytes()
        assert np.linalg.norm(narrow - wide) <= single * max(np.linalg.norm(wide), 1e-3)


def check_symbols(make: Make, seed: int) -> None:
    """Hold a configuration whose sizes are symbols to the one whose sizes are numbers."""
    draw, loss = graph(make, seed, "float64", symbols=True)
    wanted = [d for d in gradients(draw.build, loss, draw.wrt) if d is not None]
    for got, want in zip(differences.run(draw.build, wanted, draw.feeds), found(make, seed, "float64"), strict=True):
        np.testing.assert_array_equal(got, want)


def broadcasting(draw: Draw, count: int) -> list[tuple[int, ...]]:
    """Return shapes that broadcast."""
    whole = draw.shape(0, 3)
    cuts = [int(draw.rng.integers(0, len(whole) + 1)) if draw.rng.random() < 0.4 else 0 for _ in range(count)]
    return [tuple(1 if draw.rng.random() < 0.25 else d for d in whole[cut:]) for cut in cuts]


# ---- element by element -------------------------------------------------------------------------------
def apart(draw: Draw, shape: Sequence[int], *kinks: float) -> np.ndarray:
    """Return numbers that keep away from kinks."""
    x = draw.rng.standard_normal(shape) * 2
    for kink in kinks:
        near = np.abs(x - kink) < 0.05
        x = np.where(near, kink + np.where(x < kink, -0.05, 0.05) + (x - kink), x)
    return x


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_arithmetic(op, seed):
    def make(draw: Draw) -> Tensor:
        a, b = broadcasting(draw, 2)
        return draw.node(op, [draw.x(a), draw.x(b, apart(draw, b, 0.0) if op == "Div" else None)])

    check(make, seed)
    check_symbols(lambda draw: draw.node(op, [draw.x((3, 2)), draw.x((3, 2))]), seed)


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.5, 1.0, None])
def test_powers(exponent, seed):
    def make(draw: Draw) -> Tensor:
        a, p = broadcasting(draw, 2)
        base = draw.x(a, np.abs(draw.rng.standard_normal(a)) + 0.3)
        if exponent is None:
            return draw.node("Pow", [base, draw.x(p)])
        return draw.node("Pow", [base, draw.build.weight("p", np.array(exponent, draw.dtype))])

    check(make, seed)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("op", ["Max", "Min"])
def test_extremes_of_inputs(op, count):
    def make(draw: Draw) -> Tensor:
        shapes = broadcasting(draw, count)
        whole = np.broadcast_shapes(*shapes)
        order = draw.rng.permuted(np.arange(count * max(1, int(np.prod(whole)))).reshape(count, -1) % 97, axis=1)
        values = [
            order[k].reshape(whole)[tuple(slice(0, n) for n in shape)] if len(shape) == len(whole) else None
            for k, shape in enumerate(shapes)
        ]
        xs = [
            draw.x(shape, None if v is None else v + 0.1 * k)
            for k, (shape, v) in enumerate(zip(shapes, values, strict=True))
        ]
        return draw.node(op, xs)

    for seed in seeds(3):
        check(make, seed)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_of_equal_inputs_the_first_has_the_gradient(op):
    build = Build()
    xs = [build.input(name, "float64", (2,)) for name in "abc"]
    loss = build.node("loss", "ReduceSum", [build.node("y", op, xs)])
    feeds = {name: np.array([1.0, 2.0]) for name in "abc"}
    assert [d.tolist() for d in differences.run(build, [d for d in gradients(build, loss, xs) if d], feeds)] == [
        [1, 1],
        [0, 0],
        [0, 0],
    ]


@pytest.mark.parametrize("op", ["Neg", "Abs", "Sqrt", "Log"])
def test_functions(op):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape()
        x = apart(draw, shape, 0.0)
        return draw.node(op, [draw.x(shape, np.abs(x) + 0.1 if op in ("Sqrt", "Log") else x)])

    for seed in seeds(4):
        check(make, seed)


# where a function has a steep or no slope at the ends of what it takes
DOMAINS = {"Tan": (-1.0, 1.0), "Asin": (-0.8, 0.8), "Acos": (-0.8, 0.8), "Acosh": (1.3, 4.0), "Atanh": (-0.8, 0.8)}


@pytest.mark.parametrize(
    "op", ["Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Erf"]
)
def test_functions_of_angles_and_their_kin(op):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape()
        return draw.node(op, [draw.x(shape, draw.rng.uniform(*DOMAINS.get(op, (-2.0, 2.0)), shape))])

    for seed in seeds(3):
        check(make, seed)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_sums(exclusive, reverse):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape()
        axis = draw.build.weight("axis", np.array(int(draw.rng.integers(-len(shape), len(shape)))))
        return draw.node("CumSum", [draw.x(shape), axis], exclusive=exclusive, reverse=reverse)

    for seed in seeds(3):
        check(make, seed)


@pytest.mark.parametrize("time_axis", [0, 1])
def test_reversed_sequences(time_axis):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(2, 4)
        lengths = draw.given(draw.rng.integers(0, shape[time_axis] + 1, shape[1 - time_axis]))
        y = draw.node("ReverseSequence", [draw.x(shape), lengths], time_axis=time_axis, batch_axis=1 - time_axis)
        return draw.node("Mul", [y, y])

    for seed in seeds(3):
        check(make, seed)


NO_GRADIENT = {
    "And",
    "AnyNotEqual",
    "ArgMax",
    "ArgMin",
    "CausalMask",
    "ConstantOfShape",
    "Equal",
    "Greater",
    "Less",
    "Not",
    "NotEqual",
    "Or",
    "Range",
    "SequenceMask",
    "Shape",
}  # what they give are conditions, numbers of places, sizes or constants, or what they take decides a size
TAKEN_APART = {"LSTM", "GRU", "RNN"}  # by TrainingBuild, into parts that have adjoints
CONTROL = {"Loop"}  # how many trips it makes is known in the run alone: refused by node before the first step


def test_every_op_that_can_be_differentiated_has_an_adjoint():
    without = {name for name in registered() if type(find(name)).adjoint is Op.adjoint}
    # what an adjoint is made of is not differentiated again
    assert {name for name in without if not name.endswith("Adjoint")} == NO_GRADIENT | TAKEN_APART | CONTROL


@pytest.mark.parametrize("fmod", [False, True])
def test_what_division_leaves(fmod):
    def make(draw: Draw) -> Tensor:
        a, b = broadcasting(draw, 2)
        divisor = draw.rng.choice([-1, 1], b) * draw.rng.uniform(1, 2, b)
        # far from multiples of the divisor, where it jumps
        times, rest = draw.rng.integers(-4, 4, a), draw.rng.uniform(0.2, 0.8, a)
        if draw.rng.random() < 0.5:
            divisor = np.full(b, divisor.ravel()[0] if divisor.size else 1.0)
            return draw.node("Mod", [draw.x(a, (times + rest) * divisor.ravel()[0]), draw.x(b, divisor)], fmod=fmod)
        return draw.node("Mod", [draw.x(a, rest), draw.x(b, divisor)], fmod=fmod)

    for seed in seeds(3):
        check(make, seed)


def test_where_and_casts():
    def make(draw: Draw) -> Tensor:
        shapes = broadcasting(draw, 3)
        condition = draw.given(draw.rng.random(shapes[0]) < 0.5)
        y = draw.node("Where", [condition, draw.x(shapes[1]), draw.x(shapes[2])])
        wide = draw.node("Cast", [y], to="float64")
        return draw.node("Cast", [draw.node("Mul", [wide, wide])], to=draw.dtype)

    for seed in seeds(6):
        check(make, seed)


KINKS = {"HardSigmoid": (-2.5, 2.5), "HardTanh": (-1.0, 1.0), "Relu6": (0.0, 6.0), "HardSilu": (-3.0, 3.0)}


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "Identity"])
def test_activations(name):
    known = ACTIVATIONS[name]

    def make(draw: Draw) -> Tensor:
        numbers = {}
        if known.has_alpha:
            numbers["alpha"] = float(np.float32(draw.rng.uniform(0.3, 2)))
        if known.has_beta:
            numbers["beta"] = float(np.float32(draw.rng.uniform(-0.5, 0.5)))
        kinks = KINKS.get(name, (0.0,))
        if name == "ThresholdedRelu":
            kinks = (numbers["alpha"],)
        if name == "HardSigmoid":
            kinks = tuple((edge - numbers["beta"]) / numbers["alpha"] for edge in (0, 1))
        shape = draw.shape(1, 3)
        return draw.node(name, [draw.x(shape, apart(draw, shape, *kinks))], **numbers)

    for seed in seeds(4):
        check(make, seed)


AT_KINKS = {
    "Relu": [(0.0, 0.0)],
    "LeakyRelu": [(0.0, 0.25)],
    "Elu": [(0.0, 1.0)],
    "Selu": [(0.0, 1.0507009873554805)],
    "ThresholdedRelu": [(1.0, 0.0)],
    "HardTanh": [(-1.0, 1.0), (1.0, 1.0)],
    "Relu6": [(0.0, 0.0), (6.0, 0.0)],
    "HardSilu": [(-3.0, 0.0), (3.0, 1.0)],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", AT_KINKS)
def test_at_a_kink_the_derivative_is_that_of_keras_on_tensorflow(name, dtype):
    points, slopes = np.array(AT_KINKS[name], dtype).T
    attributes = {"alpha": 0.25} if name == "LeakyRelu" else {}
    assert derivative(name, points, **attributes).tolist() == slopes.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "Identity"])
def test_derivatives_let_nan_through_and_are_finite_far_out(name, dtype):
    x = np.array([np.nan, 1e4, -1e4, 30, -30, 88, -88, 1e18, -1e18], dtype)
    x = np.concatenate([x, np.linspace(-1, 1, 40, dtype=dtype)])
    slopes = derivative(name, x)
    assert np.isnan(slopes[0])
    if name != "Exp":
        assert np.isfinite(slopes[1:]).all()


def derivative(name: str, x: np.ndarray, **attributes: float) -> np.ndarray:
    build = Build()
    tensor = build.input("x", x.dtype.name, x.shape)
    loss = build.node("loss", "ReduceSum", [build.node("y", name, [tensor], **attributes)])
    (d,) = gradients(build, loss, [tensor])
    assert d is not None
    return differences.run(build, [d], {"x": x})[0]


# ---- views and copies ---------------------------------------------------------------------------------
def view(draw: Draw, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a random view of x."""
    rank, rng = len(shape), draw.rng
    kind = str(
        rng.choice(
            ["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Reverse", "Identity"]
        )
    )
    axis = int(rng.integers(-rank, rank))
    if kind == "Transpose":
        return draw.node(kind, [x], perm=tuple(int(k) for k in rng.permutation(rank)) if rng.random() < 0.7 else ())
    if kind == "Reshape":
        return draw.node(kind, [x, draw.ints(-1, shape[-1]) if rng.random() < 0.5 else draw.ints(int(np.prod(shape)))])
    if kind == "Flatten":
        return draw.node(kind, [x], axis=axis)
    if kind == "Squeeze":
        return draw.node(kind, [draw.node("Unsqueeze", [x, draw.ints(0, -1)]), draw.ints(0)])
    if kind == "Unsqueeze":
        return draw.node(kind, [x, draw.ints(int(rng.integers(0, rank + 1)))])
    if kind == "Expand":
        return draw.node(kind, [draw.node("Unsqueeze", [x, draw.ints(1)]), draw.ints(2, shape[0], 3, *shape[1:])])
    if kind == "Slice":
        step = int(rng.choice([1, 1, 2, 3, -1, -2]))
        start, end = sorted(int(v) for v in rng.integers(0, shape[axis] + 2, 2))
        bounds = (start, max(end, start + 1)) if step > 0 else (max(end, 1), start - 1 if start else -(2**40))
        start = min(bounds[0], shape[axis] - 1)
        return draw.node(
            kind,
            [x, *(draw.ints(v) for v in (start, max(bounds[1], start + 1) if step > 0 else bounds[1], axis, step))],
        )
    if kind == "Reverse":
        return draw.node(kind, [x], axis=axis)
    return draw.node(kind, [x])


@pytest.mark.parametrize("seed", seeds(60))
def test_views(seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape()
        x = draw.x(shape)
        return view(draw, draw.node("Mul", [x, x]), shape)

    check(make, seed)


@pytest.mark.parametrize(
    "op",
    [
        "Flatten",
        "Transpose",
        "Reverse",
        "Unsqueeze",
        "Squeeze",
        "Reshape",
        "Expand",
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "Split",
        "Slice",
    ],
)
def test_sizes_may_be_symbols(op):
    def make(draw: Draw) -> Tensor:
        x = draw.x((3, 5, 2))
        x = draw.node("Mul", [x, x])
        if op == "Squeeze":
            return draw.node(op, [draw.node("Unsqueeze", [x, draw.ints(1)]), draw.ints(1)])
        if op == "Expand":
            return draw.node("ExpandLike", [draw.node("ReduceMax", [x], axes=(1,), keepdims=True), x])
        if op == "Split":
            return draw.node(op, [x, draw.ints(1, 4)], (False, True), axis=1)[1]
        if op.startswith("Reduce"):
            return draw.node(op, [x], axes=(0, 2))
        attributes = {"Reverse": {"axis": 1}, "Flatten": {"axis": 2}, "Transpose": {"perm": (2, 0, 1)}}.get(op, {})
        more = {"Unsqueeze": (1,), "Reshape": (-1,)}.get(op)
        if op == "Slice":
            return draw.node(op, [x, draw.ints(1), draw.ints(4), draw.ints(1)])
        return draw.node(op, [x] if more is None else [x, draw.ints(*more)], **attributes)

    check(make, 0)
    check_symbols(make, 0)


def margins(draw: Draw, shape: Sequence[int], mode: str) -> list[tuple[int, int]]:
    """Return how much is added before and after each axis, or cut off, so that something is left to be repeated."""
    found = []
    for size in shape:
        before, after = (int(n) for n in draw.rng.integers(-(size // 3), 2 * size + 2, 2))
        found.append((before, after) if mode != "wrap" or draw.rng.random() < 0.7 else (0, 0))
    return found


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_padding(mode, seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 3)
        axes = sorted(int(k) for k in draw.rng.permutation(len(shape))[: int(draw.rng.integers(1, len(shape) + 1))])
        chosen = draw.ints(*axes) if draw.rng.random() < 0.5 else None
        pads = margins(draw, [shape[k] for k in axes] if chosen else shape, mode)
        value = draw.x(()) if mode == "constant" and draw.rng.random() < 0.5 else None
        counts = draw.ints(*(before for before, _ in pads), *(after for _, after in pads))
        x = draw.x(shape)
        return draw.node("Pad", [draw.node("Mul", [x, x]), counts, value, chosen], mode=mode)

    check(make, seed)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_padding_of_sizes_that_are_symbols(mode):
    def make(draw: Draw) -> Tensor:
        return draw.node("Pad", [draw.x((3, 5, 2)), draw.ints(2, -1, 1, 3), None, draw.ints(0, 1)], mode=mode)

    check_symbols(make, 0)


@pytest.mark.parametrize("op", ["Pad", "Tile", "Einsum"])
def test_what_sizes_cannot_be_known_of_is_refused_by_node(op):
    build = Build()
    x = build.input("x", "float64", ("n", "n") if op == "Einsum" else (3, 5))
    if op == "Einsum":
        y = build.node("y", op, [x], equation="ii->i")
    else:
        y = build.node(
            "y",
            op,
            [x, build.input("counts", "int64", (4 if op == "Pad" else 2,))],
            **({"mode": "edge"} if op == "Pad" else {}),
        )
        y = build.node("flat", "Reshape", [y, build.ints("sizes", 30)])
    loss = build.node("loss", "ReduceSum", [y])
    with pytest.raises(UnsupportedError, match=f"node 'y': the gradient of {op} needs"):
        gradients(build, loss, [x])


@pytest.mark.parametrize("seed", seeds(3))
def test_tiles(seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(0, 3)
        x = draw.x(shape)
        return draw.node("Tile", [draw.node("Mul", [x, x]), draw.ints(*draw.rng.integers(1, 4, len(shape)))])

    check(make, seed)
    check_symbols(lambda draw: draw.node("Tile", [draw.x((3, 5)), draw.ints(2, 3)]), seed)


@pytest.mark.parametrize("seed", seeds(8))
def test_concat_and_split(seed):
    def make(draw: Draw) -> Tensor:
        shape = list(draw.shape(1, 3))
        axis = int(draw.rng.integers(-len(shape), len(shape)))
        sizes = [int(draw.rng.choice([1, 2, 3, 5])) for _ in range(3)]
        parts = [draw.x([*shape[: axis % len(shape)], size, *shape[axis % len(shape) + 1 :]]) for size in sizes]
        whole = draw.node("Concat", parts, axis=axis)
        wanted = (True, bool(draw.rng.random() < 0.5), True)
        split = [
            part for part in draw.node("Split", [whole, draw.ints(*sizes[::-1])], wanted, axis=axis) if part is not None
        ]
        squares = [draw.node("Mul", [part, part]) for part in split]
        return draw.node("Concat", squares, axis=axis)

    check(make, seed)


@pytest.mark.parametrize("unknown", ["b", "ac", "abc"])
def test_concat_over_an_axis_of_unknown_sizes(unknown):
    build = Build()
    sizes = {"a": 2, "b": 4, "c": 3}
    xs = [build.input(name, "float64", (2, name if name in unknown else size)) for name, size in sizes.items()]
    whole = build.node("whole", "Concat", xs, axis=1)
    loss = build.node("loss", "ReduceSum", [build.node("squares", "Mul", [whole, whole])])
    feeds = {name: np.random.default_rng(size).standard_normal((2, size)) for name, size in sizes.items()}
    found = gradients(build, loss, xs)
    assert [d.shape for d in found] == [x.shape for x in xs]
    for got, x in zip(differences.run(build, found, feeds), xs, strict=True):
        np.testing.assert_allclose(got, 2 * feeds[x.name], rtol=1e-15)


# ---- reductions ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", seeds(8))
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin"])
def test_reductions(op, seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 4)
        values = draw.rng.permutation(int(np.prod(shape))).reshape(shape) / 7.0 + 0.5
        x = draw.x(shape, np.sqrt(values) / 2 if op == "ReduceProd" else values)
        axes = tuple(axis for axis in range(-len(shape), 0) if draw.rng.random() < 0.5)
        y = draw.node(op, [x], axes=axes, keepdims=bool(draw.rng.random() < 0.5))
        return draw.node("Mul", [y, y])

    check(make, seed)


def test_a_product_with_zeros_has_the_product_of_the_others_as_its_slope():
    build = Build()
    x = build.input("x", "float64", (4, 3))
    loss = build.node("loss", "ReduceSum", [build.node("y", "ReduceProd", [x], axes=(1,))])
    (d,) = gradients(build, loss, [x])
    feeds = {"x": np.array([[2.0, 3, 5], [2, 0, 5], [0, 3, 0], [0, np.nan, 2]])}
    slopes = differences.run(build, [d], feeds)[0]
    assert slopes[:3].tolist() == [[15, 10, 6], [0, 10, 0], [0, 0, 0]] and np.isnan(slopes[3, 0])


def test_the_gradient_of_an_extreme_is_shared_by_all_that_reach_it():
    build = Build()
    x = build.input("x", "float64", (2, 3))
    loss = build.node("loss", "ReduceSum", [build.node("y", "ReduceMax", [x], axes=(1,))])
    (d,) = gradients(build, loss, [x])
    assert differences.run(build, [d], {"x": np.array([[1.0, 1, 0], [2, 3, 1]])})[0].tolist() == [
        [0.5, 0.5, 0],
        [0, 1, 0],
    ]


# ---- rows by number -----------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", seeds(6))
def test_look_ups_add_what_reaches_a_row(seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 3)
        axis = int(draw.rng.integers(-len(shape), len(shape)))
        count = tuple(int(draw.rng.choice([1, 2, 7])) for _ in range(int(draw.rng.integers(0, 3))))
        ids = draw.rng.integers(-shape[axis], shape[axis], count)
        rows = draw.build.weight("rows", ids) if draw.rng.random() < 0.4 else draw.given(ids)
        x = draw.x(shape)
        return draw.node("Gather", [draw.node("Mul", [x, x]), rows], axis=axis)

    check(make, seed)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "float32"])
def test_embeddings(dtype):
    def make(draw: Draw) -> Tensor:
        table = draw.x((6, 5))
        ids = draw.given(draw.rng.integers(0, 6, (4, 7)).astype(dtype))
        return draw.node("Embedding", [ids, draw.node("Mul", [table, table])])

    for seed in seeds(3):
        check(make, seed)


@pytest.mark.parametrize("seed", seeds(2))
def test_elements_by_number_sum_what_reaches_them(seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape()
        axis = int(draw.rng.integers(-len(shape), len(shape)))
        sizes = [int(draw.rng.integers(1, n + 1)) for n in shape]
        sizes[axis] = int(draw.rng.integers(1, 2 * shape[axis] + 1))
        places = draw.given(draw.rng.integers(-shape[axis], shape[axis], sizes))
        return draw.node("GatherElements", [draw.x(shape), places], axis=axis)

    check(make, seed)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("places_too", [False, True])
def test_the_largest_and_smallest(places_too, largest):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape()
        axis = int(draw.rng.integers(-len(shape), len(shape)))
        k = draw.ints(int(draw.rng.integers(1, shape[axis] + 1)))
        x = draw.x(shape, draw.rng.permutation(int(np.prod(shape))).reshape(shape) / 7)
        return draw.node("TopK", [x, k], (True, places_too), axis=axis, largest=largest)[0]

    for seed in seeds(1):
        check(make, seed)
        check_symbols(lambda draw: draw.node("TopK", [draw.x((3, 5)), draw.ints(2)], (True,), axis=1)[0], seed)


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_values_of_one_hot_rows(axis, seed):
    def make(draw: Draw) -> Tensor:
        ids = draw.given(draw.rng.integers(-5, 7, (3, 2)))
        return draw.node("OneHot", [ids, draw.ints(5), draw.x((2,))], axis=axis)

    check(make, seed)


def test_an_id_out_of_range_adds_nothing():
    build = Build()
    x, ids = build.input("x", "float64", (3, 2)), build.input("ids", "int64", (3,))
    y = build.node("y", "ScatterAdd", [x, ids, build.weight("like", np.zeros((4, 2)))])
    feeds = {"x": np.arange(6.0).reshape(3, 2), "ids": np.array([4, -1, -5])}
    assert differences.run(build, [y], feeds)[0].tolist() == [[0, 0], [0, 0], [0, 0], [2, 3]]


# ---- rows ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", seeds(8))
def test_softmax(seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 3)
        return draw.node("Softmax", [draw.x(shape)], axis=int(draw.rng.integers(-len(shape), len(shape))))

    check(make, seed)


@pytest.mark.parametrize("seed", seeds(4))
def test_mean_squares(seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 3)
        return draw.node("MeanSquares", [draw.x(shape), draw.x(shape)])

    check(make, seed)


def test_mean_squares_along_rows_of_any_length_are_numpys_and_rows_keep_to_themselves():
    for n in (1, 7, 8, 19, 64):
        build = Build()
        x, t = build.input("x", "float32", (3, n)), build.input("t", "float32", (3, n))
        loss = build.node("loss", "MeanSquares", [x, t])
        (dx,) = gradients(build, build.node("total", "ReduceSum", [loss]), [x])
        feeds = {name: np.random.default_rng(n + k).standard_normal((3, n), np.float32) for k, name in enumerate("xt")}
        feeds["x"][1, 0] = np.nan
        off = feeds["x"].astype("f8") - feeds["t"]
        got, slopes = differences.run(build, [loss, dx], feeds)
        np.testing.assert_allclose(got, np.mean(off**2, axis=1), rtol=1e-6)
        np.testing.assert_allclose(slopes, 2 * off / n, rtol=1e-6)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("read", ["not at all", "by a loss", "as an output"])
def test_the_gradient_of_mean_squares_takes_the_place_of_what_nothing_else_reads(read, first):
    build = Build()
    x, t = (build.input(name, "float64", (40, 33)) for name in "xt")  # large enough for a buffer to be shared
    y = build.node("y", "Mul", [x, x])
    parts = [build.node("squares", "ReduceSum", [build.node("mse", "MeanSquares", [y, t])])]
    if read == "by a loss":
        parts.insert(
            int(first),
            build.node("more", "ReduceSum", [build.node("cube", "Mul", [y, build.node("y2", "Mul", [y, y])])]),
        )
    loss = build.node("loss", "Add", parts) if len(parts) > 1 else parts[0]
    (d,) = gradients(build, loss, [x])
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((40, 33)) for name in "xt"}
    got, *outputs = differences.run(build, [d, y] if read == "as an output" else [d], feeds)
    want = feeds["x"] ** 2
    slope = 2 * (want - feeds["t"]) / 33 + (3 * want**2 if read == "by a loss" else 0)
    np.testing.assert_allclose(got, slope * 2 * feeds["x"], rtol=1e-12, atol=1e-14)
    for output in outputs:
        np.testing.assert_array_equal(output, want)


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("sparse", [False, True])
def test_cross_entropy_of_logits(sparse, seed):
    def make(draw: Draw) -> Tensor:
        *rows, n = shape = draw.shape(1, 3)
        x = draw.x(shape)
        target = draw.rng.integers(0, n, rows) if sparse else draw.rng.random(shape).astype("f4").astype(draw.dtype)
        wanted = 1 if draw.rng.random() < 0.5 else (True, True)
        loss = draw.node("SoftmaxCrossEntropy", [x, draw.given(np.asarray(target))], wanted)
        return loss if wanted == 1 else loss[0]

    check(make, seed)


def test_cross_entropy_as_a_function_of_targets_and_of_its_softmax():
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 3)
        loss, p = draw.node("SoftmaxCrossEntropy", [draw.x(shape), draw.x(shape, draw.rng.random(shape))], 2)
        return draw.node("Mul", [p, draw.node("Unsqueeze", [loss, draw.ints(-1)])])

    for seed in seeds(2):
        check(make, seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_is_exact_far_out_and_nan_where_there_is_no_such_class(dtype):
    build = Build()
    x, classes = build.input("x", dtype, (5, 3)), build.input("classes", "int64", (5,))
    loss, p = build.node("loss", "SoftmaxCrossEntropy", [x, classes], 2)
    total = build.node(
        "total", "ReduceSum", [build.node("one", "Slice", [loss, build.ints("a", 0), build.ints("b", 3)])]
    )
    (d,) = gradients(build, total, [x])
    feeds = {
        "x": np.array([[1e4, 0, -1e4], [-1e4, 1e4, 0], [3, -np.inf, 0], [0, 0, 0], [0, 0, np.nan]], dtype),
        "classes": np.array([0, 0, 2, 3, 0]),
    }
    loss, p, d = differences.run(build, [loss, p, d], feeds)
    np.testing.assert_allclose(loss[:3], [0, 2e4, np.log1p(np.exp(3))], rtol=1e-6)
    assert np.isnan(loss[3:]).all() and np.isnan(p[4]).all() and np.isfinite(p[:4]).all()
    np.testing.assert_allclose(d[:2], [[0, 0, 0], [-1, 1, 0]], atol=1e-7)


def test_cross_entropy_of_targets_that_are_zero_where_the_logit_is_minus_infinity():
    build = Build()
    x, t = build.input("x", "float64", (1, 3)), build.input("t", "float64", (1, 3))
    loss = build.node("loss", "SoftmaxCrossEntropy", [x, t])
    feeds = {"x": np.array([[0.0, -np.inf, 0.0]]), "t": np.array([[0.5, 0.0, 0.5]])}
    np.testing.assert_allclose(differences.run(build, [loss], feeds)[0], [np.log(2)], rtol=1e-15)


def test_sigmoid_cross_entropy():
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 3)
        return draw.node("SigmoidCrossEntropy", [draw.x(shape), draw.x(shape, draw.rng.random(shape))])

    for seed in seeds(4):
        check(make, seed)
    build = Build()
    x, t = build.input("x", "float32", (4,)), build.input("t", "float32", (4,))
    loss = build.node("loss", "SigmoidCrossEntropy", [x, t])
    feeds = {"x": np.array([20, -20, 1e4, -1e4], "f4"), "t": np.array([1, 0, 0, 1], "f4")}
    tiny = np.log1p(np.exp(-20.0))
    np.testing.assert_allclose(differences.run(build, [loss], feeds)[0], [tiny, tiny, 1e4, 1e4], rtol=1e-5)


# ---- normalisation ------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", seeds(8))
def test_layer_normalisation(seed):
    def make(draw: Draw) -> Tensor:
        *rows, _ = shape = (*draw.shape(0, 2), int(draw.rng.choice([3, 7, 17])))
        axis = -2 if rows and draw.rng.random() < 0.3 else -1
        x = draw.x(shape)
        weights = [draw.x(shape[axis:]) if draw.rng.random() < 0.7 else None for _ in range(2)]
        return draw.node("LayerNormalization", [x, *weights], axis=axis, epsilon=0.1)

    check(make, seed)


@pytest.mark.parametrize("seed", seeds(8))
@pytest.mark.parametrize("of_batch", [False, True])
def test_batch_normalisation(of_batch, seed):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(2, 3)
        axis = int(draw.rng.integers(0, len(shape)))
        x, channels = draw.x(shape), (shape[axis],)
        scale, shift = (draw.x(channels) if draw.rng.random() < 0.7 else None for _ in range(2))
        if of_batch:
            mean, variance = draw.node("Moments", [x], 2, axes=tuple(k for k in range(len(shape)) if k != axis))
        else:
            mean, variance = draw.x(channels), draw.x(channels, np.abs(draw.rng.standard_normal(channels)) + 0.2)
        return draw.node("BatchNormalization", [x, scale, shift, mean, variance], axis=axis, epsilon=0.1)

    check(make, seed)


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_moments(wanted):
    def make(draw: Draw) -> Tensor:
        shape = draw.shape(1, 3)
        axes = tuple(sorted({int(k) for k in draw.rng.integers(-len(shape), 0, 2)}))
        found = draw.node("Moments", [draw.x(shape)], wanted, axes=axes)
        found = [one for one in found if one is not None]
        return found[0] if len(found) == 1 else draw.node("Mul", found)

    for seed in seeds(4):
        check(make, seed)
    check_symbols(lambda draw: draw.node("Moments", [draw.x((3, 5))], 2, axes=(0,))[1], 0)


# ---- products -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", seeds(4))
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("biased", [False, True])
def test_dense(biased, rank, seed):
    def make(draw: Draw) -> Tensor:
        I, N = (int(n) for n in draw.rng.choice([1, 2, 3, 5, 7, 9], 2))
        b = [draw.x((N,))] if biased else []
        return draw.node("Dense", [draw.x((*draw.shape(3, 3)[: rank - 1], I)), draw.x((I, N)), *b])

    check(make, seed)


@pytest.mark.parametrize("op", ["Dense", "MatMul"])
def test_the_size_of_a_row_may_be_known_of_the_weight_alone(op):
    """As of what an ONNX graph reshapes by sizes of the run."""
    build, rng = Build(), np.random.default_rng(0)
    x, W = build.input("x", "float64", ("B", "T", "R")), build.input("W", "float64", (5, 2))
    loss = build.node("loss", "ReduceSum", [build.node("y", op, [x, W])])
    feeds = {"x": rng.standard_normal((3, 4, 5)), "W": rng.standard_normal((5, 2))}
    assert differences.error(build, loss, feeds, [x, W]) < TOLERANCE


@pytest.mark.parametrize("seed", seeds(4))
@pytest.mark.parametrize(
    "ranks", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (2, 3), (3, 3), (4, 3), (1, 3), (3, 1), (4, 2)]
)
def test_matmul(ranks, seed):
    def make(draw: Draw) -> Tensor:
        M, K, N = (int(n) for n in draw.rng.choice([1, 2, 3, 5], 3))
        outer = [1 if draw.rng.random() < 0.3 else n for n in (2, 3)]
        left = (*(1 if draw.rng.random() < 0.3 else n for n in outer), M, K)
        return draw.node(
            "MatMul", [draw.x(left[-ranks[0] :]), draw.x(((*outer, K, N) if ranks[1] > 1 else (K,))[-ranks[1] :])]
        )

    check(make, seed)


EQUATIONS = [
    "ij,jk->ik",
    "bij,bjk->bik",
    "bqhd,bkhd->bhqk",
    "ij->",
    "ij->j",
    "ii->i",
    "ii",
    "iij,j->i",
    "iii->i",
    "ij,jk,kl->il",
    "ij,ij,ij->i",
    "i,j->ij",
    "ab,cd->ac",
    "i...,ij->...j",
    "...ij,...jk->...ik",
    "...i,...i->...",
    "...i,i",
    "i...->i",
    "Ab,bA->A",
]


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("equation", EQUATIONS)
def test_sums_of_products_over_named_axes(equation, seed):
    def make(draw: Draw) -> Tensor:
        sizes = {letter: int(draw.rng.choice([1, 2, 3])) for letter in "ijklbqhdacA"}
        outer = [int(n) for n in draw.rng.choice([2, 3], 2)]
        inputs = []
        for term in equation.partition("->")[0].split(","):
            before, dots, after = term.partition("...")
            # axes that "..." stands for may be missing, or of size 1
            spare = [1 if draw.rng.random() < 0.3 else n for n in outer][int(draw.rng.integers(0, 3)) :] if dots else []
            inputs.append(draw.x([*(sizes[k] for k in before), *spare, *(sizes[k] for k in after)]))
        return draw.node("Einsum", inputs, equation=equation)

    check(make, seed)


def test_sums_of_products_whose_sizes_are_symbols():
    def make(draw: Draw) -> Tensor:
        return draw.node("Einsum", [draw.x((2, 3, 4)), draw.x((2, 5, 4)), draw.x((6,))], equation="bqd,bkd,z->bqk")

    check(make, 0)
    check_symbols(make, 0)


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_gemm(trans_a, trans_b):
    def make(draw: Draw) -> Tensor:
        M, K, N = (int(n) for n in draw.rng.choice([1, 2, 3, 5, 7], 3))
        shapes = ((K, M) if trans_a else (M, K), (N, K) if trans_b else (K, N))
        c = [(M, N), (N,), (M, 1), (1,), (), None][int(draw.rng.integers(0, 6))]
        inputs = [draw.x(shape) for shape in shapes] + ([] if c is None else [draw.x(c)])
        alpha, beta = (float(v) for v in draw.rng.choice([1.0, 0.5, -2.0], 2))
        return draw.node("Gemm", inputs, alpha=alpha, beta=beta, transA=trans_a, transB=trans_b)

    for seed in seeds(6):
        check(make, seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("K", "M", "N"), [(1, 5, 7), (191, 3, 33), (1100, 13, 300), (2049, 7, 65), (400, 1, 260), (0, 3, 5)]
)
def test_a_product_of_two_values_of_the_run_has_the_bits_of_one_with_packed_weights(K, M, N, dtype):
    rng = np.random.default_rng(K)
    a, b = rng.standard_normal((K, M)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    results = []
    for threads in (1, 2):
        build = Build()
        x, y = build.input("a", dtype, a.shape), build.input("b", dtype, b.shape)
        product = build.node("y", "MatMul", [build.node("turn", "Transpose", [x]), y])
        turned = build.node("z", "MatMul", [build.node("turn", "Transpose", [y]), x])
        results += differences.run(build, [product, turned], {"a": a, "b": b}, threads)
    build = Build()
    packed = build.node("y", "MatMul", [build.input("a", dtype, (M, K)), build.weight("b", b)])
    (want,) = differences.run(build, [packed], {"a": np.ascontiguousarray(a.T)})
    assert {result.tobytes() for result in results[::2]} == {want.tobytes()}
    assert {np.ascontiguousarray(result.T).tobytes() for result in results[1::2]} == {want.tobytes()}


@pytest.mark.parametrize("outer", [((4,), (4,)), ((3, 2), (2,)), ((2, 1), (1, 3)), ((1,), (5,))])
def test_products_of_many_matrices_of_the_run(outer):
    rng = np.random.default_rng(0)
    feeds = {"a": rng.standard_normal((*outer[0], 7, 5)), "b": rng.standard_normal((*outer[1], 33, 5))}
    want = feeds["a"] @ np.swapaxes(feeds["b"], -1, -2)
    for threads in (1, 2, 3):
        build = Build()
        a, b = (build.input(name, "float64", array.shape) for name, array in feeds.items())
        rank = len(outer[1]) + 2
        turn = build.node("turn", "Transpose", [b], perm=(*range(rank - 2), rank - 1, rank - 2))
        (got,) = differences.run(build, [build.node("y", "MatMul", [a, turn])], feeds, threads)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


# ---- windows ------------------------------------------------------------------------------------------
def window(draw: Draw, T: int) -> dict[str, Any]:
    """Return a window over T steps that fits."""
    size, dilation = (int(draw.rng.integers(1, 4)) for _ in range(2))
    pads = tuple(int(n) for n in draw.rng.integers(0, 3, 2))
    while T + sum(pads) <= (size - 1) * dilation:
        size -= 1
    return {"size": size, "stride": int(draw.rng.integers(1, 4)), "dilation": dilation, "pads": pads}


@pytest.mark.parametrize("seed", seeds(16))
def test_convolutions(seed):
    def make(draw: Draw) -> Tensor:
        B, T, G = (int(n) for n in draw.rng.integers(1, 4, 3))
        c, f = (int(n) for n in draw.rng.integers(1, 4, 2))
        options = window(draw, 2 * T)
        W = draw.x((options.pop("size"), c, G * f))
        b = [draw.x((G * f,))] if draw.rng.random() < 0.5 else []
        return draw.node("Conv1D", [draw.x((B, 2 * T, G * c)), W, *b], groups=G, **options)

    check(make, seed)


@pytest.mark.parametrize("seed", seeds(12))
@pytest.mark.parametrize("axes", [2, 3])
def test_convolutions_over_space(axes, seed):
    def make(draw: Draw) -> Tensor:
        B, G, c, f, *image = (int(n) for n in draw.rng.integers(1, 4, 4 + axes))
        windows = [window(draw, size) for size in image]
        options = {f"{key}s": tuple(one[key] for one in windows) for key in ("stride", "dilation")}
        options["pads"] = tuple(one["pads"][side] for side in (0, 1) for one in windows)
        W = draw.x((*(one["size"] for one in windows), c, G * f))
        b = [draw.x((G * f,))] if draw.rng.random() < 0.5 else []
        return draw.node(f"Conv{axes}D", [draw.x((B, *image, G * c)), W, *b], groups=G, **options)

    check(make, seed)


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("axis", [0, 2, 3])
def test_windows_along_any_axis(axis, seed):
    def make(draw: Draw) -> Tensor:
        shape = tuple(int(n) for n in draw.rng.integers(2, 5, 4))
        return draw.node("Windows", [draw.x(shape)], axis=axis, **window(draw, shape[axis]))

    check(make, seed)


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMean", "ReduceSum"])
def test_pooling_is_a_reduction_of_windows(op, seed):
    def make(draw: Draw) -> Tensor:
        shape = (2, int(draw.rng.integers(4, 9)), 3)
        options = window(draw, shape[1]) | {"fill": "lowest" if op == "ReduceMax" else "zero"}
        options["pads"] = tuple(min(pad, options["size"] - 1) for pad in options["pads"])
        options["dilation"] = 1
        x = draw.x(shape, draw.rng.permutation(int(np.prod(shape))).reshape(shape) / 7)
        return draw.node(op, [draw.node("Windows", [draw.node("Mul", [x, x])], **options)], axes=(2,))

    check(make, seed)


def test_a_convolution_over_steps_of_unknown_number():
    def make(draw: Draw) -> Tensor:
        rng, draw.wrt = draw.rng, []
        x = draw.build.input("x", draw.dtype, ("B", "T", 3) if draw.symbols else (2, 5, 3))
        draw.feeds["x"] = rng.standard_normal((2, 5, 3))
        W = draw.build.input("W", draw.dtype, (2, 3, 4))
        draw.feeds["W"] = rng.standard_normal((2, 3, 4))
        draw.wrt += [x, W]
        return draw.node("Conv1D", [x, W], pads=(1, 0))

    check_symbols(make, 0)

"""Elementwise kernels against NumPy, to the bit: any shapes that broadcast, any strides, infinities, NaN and signed zeros."""

from functools import reduce
from typing import Any

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm.graph import Node

CASES = 80
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 3e38, -3e-38)
ARITHMETIC = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Max": np.maximum, "Min": np.minimum,
    "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt, "Sign": np.sign,
}  # fmt: skip
COMPARISONS = {"Equal": np.equal, "NotEqual": np.not_equal, "Less": np.less, "Greater": np.greater}
LOGIC = {"And": np.logical_and, "Or": np.logical_or, "Not": np.logical_not}
UNARY = ("Neg", "Abs", "Sqrt", "Sign", "Not")


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return values of all kinds: for floats every special one, for integers small and large ones."""
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if np.dtype(dtype).kind != "f":
        low = 0 if np.dtype(dtype).kind == "u" else -4
        few, many = rng.integers(low, 4, shape), rng.integers(max(low, 0), np.iinfo(dtype).max, shape)
        return np.where(rng.random(shape) < 0.8, few, many).astype(dtype)
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)
    return np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape).astype(dtype), x)


def operand(rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str):
    """Return an array, and how a graph gets it: an input, the nodes that turn it into a view of odd strides, the view's name."""
    kind = str(rng.choice(["plain", "plain", "turned", "cut", "flipped", "constant"]))
    ws: dict[str, Any] = {}
    if kind == "turned" and len(shape) > 1:
        perm = tuple(int(k) for k in rng.permutation(len(shape)))
        given = draw(rng, tuple(shape[k] for k in perm), dtype)
        order = tuple(int(k) for k in np.argsort(perm))
        return (
            given.transpose(order),
            given,
            [Node(f"{name}.t", "Transpose", (name,), (f"{name}.v",), {"perm": order})],
            ws,
        )
    if kind == "cut" and shape:
        given = draw(rng, (*shape[:-1], 2 * shape[-1] + 1), dtype)
        ws = {f"{name}.{k}": np.array([v]) for k, v in (("start", 1), ("end", 2**62), ("axis", -1), ("step", 2))}
        node = Node(f"{name}.c", "Slice", (name, *ws), (f"{name}.v",))
        return given[..., 1::2], given, [node], ws
    given = draw(rng, shape, dtype)
    if kind == "flipped" and shape:
        return np.flip(given, 0), given, [Node(f"{name}.r", "Reverse", (name,), (f"{name}.v",), {"axis": 0})], ws
    return given, None if kind == "constant" else given, [], {}


def shapes_of(rng: np.random.Generator, count: int) -> list[tuple[int, ...]]:
    """Return shapes that broadcast."""
    whole = tuple(int(rng.choice([1, 2, 3, 5, 8, 16, 17, 33])) for _ in range(int(rng.integers(0, 5))))
    shapes = []
    for _ in range(count):
        cut = int(rng.integers(0, len(whole) + 1)) if rng.random() < 0.4 else 0
        shapes.append(tuple(1 if rng.random() < 0.25 else d for d in whole[cut:]))
    return shapes


def check(rng: np.random.Generator, op: str, dtypes: list[str], reference, **attributes: Any) -> None:
    """Hold one node to NumPy, and see that a kernel computed it."""
    arrays, nodes, ws, inputs, feeds, names = [], [], {}, [], {}, []
    for k, (shape, dtype) in enumerate(zip(shapes_of(rng, len(dtypes)), dtypes, strict=True)):
        array, given, views, more = operand(rng, f"x{k}", shape, dtype)
        arrays.append(array)
        nodes += views
        ws |= more
        names.append(f"x{k}.v" if views else f"x{k}")
        if given is None:
            ws[f"x{k}"] = array
        else:
            inputs.append((f"x{k}", dtype, given.shape))
            feeds[f"x{k}"] = given
    if not inputs:
        return
    net = models.model([*nodes, Node("op", op, tuple(names), ("y",), attributes)], inputs, ["y"], ws)
    session = fastlstm.Session(net)
    with np.errstate(all="ignore"):
        want = np.asarray(reference(*arrays))
        if want.dtype.kind == "f":
            want = np.where(
                np.abs(want) < np.finfo(want.dtype).tiny, want * 0, want
            )  # the smallest numbers count as zero
    got = session.run(feeds)["y"]
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want)
    assert programs.numpy_steps(session, feeds) == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("op", ARITHMETIC)
def test_arithmetic_gives_numpys_numbers(op, dtype):
    if dtype.startswith("int") and op in ("Div", "Sqrt", "Sign"):
        pytest.skip("integers divide in NumPy")
    for number in range(CASES):
        rng = np.random.default_rng(number)
        check(rng, op, [dtype] * (1 if op in UNARY else 2), ARITHMETIC[op])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("op", COMPARISONS)
def test_comparisons_give_numpys_truth(op, dtype):
    for number in range(CASES // 2):
        check(np.random.default_rng(number), op, [dtype] * 2, COMPARISONS[op])


@pytest.mark.parametrize("op", LOGIC)
def test_logic_gives_numpys_truth(op):
    for number in range(CASES // 2):
        check(np.random.default_rng(number), op, ["bool"] * (1 if op in UNARY else 2), LOGIC[op])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int16", "bool"])
def test_where_copies_the_bits_of_the_chosen_operand(dtype):
    for number in range(CASES // 2):
        check(np.random.default_rng(number), "Where", ["bool", dtype, dtype], np.where)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("op", ["Max", "Min"])
def test_max_and_min_of_many_operands_let_nan_through(op, count):
    fold = lambda *arrays: reduce(ARITHMETIC[op], arrays)
    for number in range(CASES // 2):
        check(np.random.default_rng(number), op, ["float32"] * count, fold)


NUMBERS = ("bool", "int8", "uint8", "int32", "int64", "float32", "float64")


@pytest.mark.parametrize("to", NUMBERS)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_cast_gives_numpys_numbers(dtype, to):
    rng = np.random.default_rng(0)
    x = draw(rng, (5, 33), dtype)
    if np.dtype(dtype).kind == "f" and np.dtype(to).kind in "iu":
        # what lies beyond the range is not defined in C; the next test says what comes of it
        x = np.clip(np.nan_to_num(x), 0 if np.dtype(to).kind == "u" else -100, 100)
    net = models.model([Node("c", "Cast", ("x",), ("y",), {"to": to})], [("x", dtype, ("A", "B"))], ["y"], {})
    with np.errstate(all="ignore"):
        want = x.astype(to)
    got = fastlstm.Session(net).run({"x": x})["y"]
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("to", ["int32", "int64"])
def test_a_float_that_no_integer_holds_becomes_the_lowest_one(to):
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, -7.9, 7.9], np.float32)
    net = models.model([Node("c", "Cast", ("x",), ("y",), {"to": to})], [("x", "float32", ("A",))], ["y"], {})
    low = np.iinfo(to).min
    assert fastlstm.Session(net).run({"x": x})["y"].tolist() == [low, low, low, low, low, -7, 7]


def test_a_square_is_the_product():
    x = draw(np.random.default_rng(0), (3, 17), "float32")
    net = models.model(
        [Node("p", "Pow", ("x", "two"), ("y",))], [("x", "float32", ("A", 17))], ["y"], {"two": np.array(2, "f4")}
    )
    session = fastlstm.Session(net)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(session.run({"x": x})["y"], x * x)
    assert programs.is_one_call(session, {"x": x})


def test_the_smallest_numbers_count_as_zero_in_arithmetic_but_not_in_masks():
    tiny = np.array([1e-40, -1e-40, 0.0, -0.0, 1.0, -1.0], np.float32)
    run = lambda op, **ws: fastlstm.Session(
        models.model([Node("n", op, ("x", *ws), ("y",))], [("x", "float32", ("A",))], ["y"], ws)
    ).run({"x": tiny})["y"]
    assert run("Add", one=np.float32([1e-40])).tolist() == [0, 0, 0, 0, 1, -1]
    for op, reference in COMPARISONS.items():
        for value in (0.0, 1e-40, -2e-40):
            np.testing.assert_array_equal(run(op, v=np.float32([value])), reference(tiny, np.float32(value)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, 1e-40, 1.5])
def test_any_not_equal_sees_every_bit(dtype, value):
    for number in range(CASES // 4):
        rng = np.random.default_rng(number)
        features = int(rng.integers(0, 40))
        x = np.full((3, 5, features), value, dtype)
        x[rng.random(x.shape) < 0.03] = rng.choice([np.nan, np.inf, 0.0, -0.0, 1e-40, -1e-40, value])
        turned = bool(rng.random() < 0.5)
        nodes = [Node("t", "Transpose", ("x",), ("v",), {"perm": (1, 0, 2)})] if turned else []
        nodes.append(Node("m", "AnyNotEqual", ("v" if turned else "x",), ("y",), {"value": value}))
        session = fastlstm.Session(models.model(nodes, [("x", dtype, ("B", "T", features))], ["y"], {}))
        want = (x != np.dtype(dtype).type(value)).any(axis=-1)
        np.testing.assert_array_equal(session.run({"x": x})["y"], want.T if turned else want)
        assert programs.numpy_steps(session, {"x": x}) == []


def test_a_team_shares_the_elements_without_a_gap():
    x = draw(np.random.default_rng(0), (7, 3, 301), "float32")
    nodes = [Node("a", "Add", ("x", "x"), ("s",)), Node("b", "Mul", ("s", "row"), ("y",))]
    row = np.arange(301, dtype="f4")
    net = models.model(nodes, [("x", "float32", ("A", "B", 301))], ["y"], {"row": row})
    with np.errstate(all="ignore"):
        want = (x + x) * row
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(fastlstm.Session(net, threads=threads).run(x), want)

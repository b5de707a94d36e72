"""Reductions against NumPy in float64: any axes, any strides; NaN wins; the order of a sum does not see batch, strides or threads."""

import models
import numpy as np
import programs
import pytest

import fastlstm
from fastlstm.graph import Node

REDUCTIONS = {
    "ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod,
}  # fmt: skip
DTYPES = ("float32", "float64")


def session(
    op: str, dtype: str, shape: tuple, perm: tuple[int, ...] = (), threads: int = 1, **attributes
) -> fastlstm.Session:
    nodes = [Node("turn", "Transpose", ("x",), ("v",), {"perm": perm})] if perm else []
    nodes.append(Node("r", op, ("v" if perm else "x",), ("y",), attributes))
    return fastlstm.Session(models.model(nodes, [("x", dtype, shape)], ["y"], {}), threads=threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", REDUCTIONS)
def test_any_axes_of_any_view_give_numpys_numbers(op, dtype):
    for number in range(60):
        rng = np.random.default_rng(number)
        shape = tuple(int(rng.choice([1, 2, 3, 5, 9, 17, 33])) for _ in range(int(rng.integers(0, 6))))
        while np.prod(shape) > 50_000:
            shape = shape[1:]
        axes = tuple(axis for axis in range(len(shape)) if rng.random() < 0.5)
        perm = tuple(int(k) for k in rng.permutation(len(shape))) if rng.random() < 0.6 else ()
        keepdims = bool(rng.random() < 0.5)
        x = (1 + 0.05 * rng.standard_normal(shape)).astype(dtype)
        want = REDUCTIONS[op]((x.transpose(perm) if perm else x).astype("f8"), axis=axes or None, keepdims=keepdims)
        one = session(op, dtype, shape, perm, axes=axes, keepdims=keepdims)
        got = one.run({"x": x})["y"]
        assert got.dtype == x.dtype and got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=3e-5 if dtype == "float32" else 1e-12)
        assert programs.numpy_steps(one, {"x": x}) == []
        for threads in (2, 3):
            team = session(op, dtype, shape, perm, threads, axes=axes, keepdims=keepdims)
            assert models.same_bits(team.run({"x": x})["y"], got)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize(("axes", "batch"), [((1,), 0), ((2,), 0), ((1, 2), 0), ((0,), 1), ((0, 2), 1)])
def test_a_rows_bits_do_not_depend_on_its_neighbours(op, axes, batch, dtype):
    rng = np.random.default_rng(0)
    shape: tuple = tuple("B" if axis == batch else size for axis, size in enumerate((37, 37, 19)))
    one = session(op, dtype, shape, axes=axes)
    x = rng.standard_normal((37, 37, 19)).astype(dtype)
    whole = one.run({"x": x})["y"]
    for row in (0, 5, 36):
        alone = one.run({"x": np.ascontiguousarray(np.take(x, [row], axis=batch))})["y"]
        assert models.same_bits(alone, np.ascontiguousarray(whole[row : row + 1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_wins_and_stays_in_its_row(op, axis, dtype):
    for at in range(0, 70, 3):
        x = np.random.default_rng(at).standard_normal((3, 70)).astype(dtype)
        x[1, at] = np.nan
        got = session(op, dtype, (3, 70)[:: 1 if axis else -1], axes=(axis,)).run(
            {"x": x if axis else np.ascontiguousarray(x.T)}
        )["y"]
        assert np.isnan(got).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_reach_extremes_and_nothing_is_their_neutral_element(dtype):
    x = np.array([[-np.inf, -np.inf], [np.inf, 3]], dtype)
    assert session("ReduceMax", dtype, (2, 2), axes=(1,)).run({"x": x})["y"].tolist() == [-np.inf, np.inf]
    assert session("ReduceMin", dtype, (2, 2), axes=(1,)).run({"x": x})["y"].tolist() == [-np.inf, 3]
    empty = {"x": np.zeros((2, 0), dtype)}
    for op, neutral in (("ReduceSum", 0), ("ReduceProd", 1), ("ReduceMax", -np.inf), ("ReduceMin", np.inf)):
        assert session(op, dtype, (2, "N"), axes=(1,)).run(empty)["y"].tolist() == [neutral, neutral]


@pytest.mark.parametrize("axes", [(0,), (1,), ()])
def test_a_long_sum_of_float32_loses_little(axes):
    x = np.random.default_rng(0).random((200_000, 3) if axes == (0,) else (3, 200_000)).astype("f4")
    got = session("ReduceSum", "float32", x.shape, axes=axes).run({"x": x})["y"]
    np.testing.assert_allclose(got, x.astype("f8").sum(axis=axes or None), rtol=3e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_integers_and_booleans_are_reduced_by_numpy(dtype):
    x = np.array([[1, 0, 1], [0, 0, 1]]).astype(dtype)
    for op in ("ReduceSum", "ReduceMax", "ReduceMin"):
        got = session(op, dtype, (2, 3), axes=(1,)).run({"x": x})["y"]
        assert got.dtype == x.dtype and got.tolist() == REDUCTIONS[op](x, axis=1).astype(dtype).tolist()


# ---- functions that came with gradients ---------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
def test_logarithms_are_within_two_units_in_the_last_place(dtype):
    rng, wide = np.random.default_rng(0), 85 if dtype == "float32" else 700
    x = np.concatenate(
        [
            np.exp(rng.uniform(-wide, wide, 50_000)),
            1 + rng.uniform(-0.5, 1, 50_000) * 10.0 ** rng.uniform(-6, 0, 50_000),
        ]
    )
    x = x.astype(dtype)
    got = fastlstm.Session(models.model([Node("n", "Log", ("x",), ("y",))], [("x", dtype, ("N",))], ["y"], {})).run(
        {"x": x}
    )["y"]
    want = np.log(x.astype(np.longdouble))
    assert np.all(np.abs(got - want) <= 2.5 * np.spacing(np.abs(want).astype(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_logarithms_at_the_edges(dtype):
    x = np.array([0, -0.0, -1, np.inf, -np.inf, np.nan, 1, np.finfo(dtype).smallest_subnormal], dtype)
    got = fastlstm.Session(models.model([Node("n", "Log", ("x",), ("y",))], [("x", dtype, ("N",))], ["y"], {})).run(
        {"x": x}
    )["y"]
    np.testing.assert_array_equal(got, np.array([-np.inf, -np.inf, np.nan, np.inf, np.nan, np.nan, 0, -np.inf], dtype))

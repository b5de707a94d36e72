"""Kernels around recurrences against the oracle: softmax, normalisation, and every contraction on the tile.

Random shapes around whole vectors, panels and tiles; the bound is that of the recurrent kernels: 4 times the error of
float32 NumPy plus 2e-6 * max(1, |y|), 1e-12 * max(1, |y|) in float64.
"""

import models
import naive
import numpy as np
import pytest

import fastlstm
from fastlstm.graph import Node
from fastlstm.ops.activations import ACTIVATIONS

SIZES = (1, 2, 3, 5, 6, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 70)
DTYPES = ("float32", "float64")
CASES = 60


def check(net: fastlstm.Model, feeds: dict, oracle, dtype: str) -> None:
    """Hold a network to oracle(dtype)."""
    (got,) = fastlstm.Session(net).run(feeds).values()
    want, rounded = oracle(np.float64), oracle(np.float32)
    assert got.shape == want.shape and got.dtype == dtype
    scale = np.maximum(1, np.abs(want))
    rounding = (np.abs(rounded - want) / scale).max(initial=0)
    assert (np.abs(got - want) / scale).max(initial=0) <= (2e-6 + 4 * rounding if dtype == "float32" else 1e-12)


def draws(*shape_of):
    """Yield (rng, sizes) with sizes drawn from SIZES."""
    for number in range(CASES):
        rng = np.random.default_rng(number)
        yield rng, [int(rng.choice(SIZES)) for _ in shape_of]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_follows_its_equation_along_any_axis(dtype):
    for rng, (a, b, n) in draws(*"abn"):
        axis = int(rng.integers(-3, 3))
        x = (rng.standard_normal((a % 9, b % 9 + 1, n)) * rng.choice([1, 30])).astype(dtype)
        net = models.model(
            [Node("s", "Softmax", ("x",), ("y",), {"axis": axis})], [("x", dtype, ("A", "B", n))], ["y"], {}
        )
        check(net, {"x": x}, lambda d, x=x, axis=axis: naive.softmax(x, axis, dtype=d), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_normalisation_follows_its_equation_over_the_last_axes(dtype):
    for rng, (a, b, n) in draws(*"abn"):
        axis = -1 if b > 9 or rng.random() < 0.5 else -2
        if axis == -1 and n == 1:
            continue  # a variance of 0: nothing but rounding
        x = (rng.standard_normal((a, b, n)) + rng.choice([0, 3])).astype(dtype)
        shape = x.shape[axis:]
        ws = {"scale": rng.standard_normal(shape).astype(dtype), "shift": rng.standard_normal(shape).astype(dtype)}
        node = Node("n", "LayerNormalization", ("x", "scale", "shift"), ("y",), {"axis": axis, "epsilon": 1e-3})
        net = models.model([node], [("x", dtype, ("A", b, n))], ["y"], ws)
        axes = (-1,) if axis == -1 else (-2, -1)
        check(
            net, {"x": x}, lambda d, x=x, ws=ws, axes=axes: naive.layer_norm(x, *ws.values(), axis=axes, dtype=d), dtype
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_follows_its_equation_with_any_activation_with_and_without_bias(dtype):
    names = [name for name in sorted(ACTIVATIONS) if name != "ThresholdedRelu"]
    for number, (rng, (m, k, n)) in enumerate(draws(*"mkn")):
        name, alpha, beta = models.draw_activation(rng, names[number % len(names)])
        x, W = rng.standard_normal((m, k)).astype(dtype), (rng.standard_normal((k, n)) / np.sqrt(k)).astype(dtype)
        b = rng.standard_normal(n).astype(dtype)
        biased = bool(rng.random() < 0.7)
        attributes = {"activation": name, "alpha": alpha, "beta": beta}
        node = Node("d", "Dense", ("x", "W", "b") if biased else ("x", "W"), ("y",), attributes)
        net = models.model([node], [("x", dtype, ("M", k))], ["y"], {"W": W} | ({"b": b} if biased else {}))

        def oracle(d, x=x, W=W, b=b if biased else b * 0, activation=(name, alpha, beta)):
            return naive.activate(activation, naive.dense(x, W, b, dtype=d))

        check(net, {"x": x}, oracle, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_conv1d_follows_its_equation_for_any_stride_dilation_groups_and_padding(dtype):
    for rng, (t, c, f) in draws(*"tcf"):
        taps, dilation, groups = (int(rng.integers(1, 5)) for _ in range(3))
        stride, padding = int(rng.integers(1, 4)), str(rng.choice(["valid", "same", "causal"]))
        if padding == "causal":
            stride = 1
        span = (taps - 1) * dilation
        T = t + span
        x = rng.standard_normal((3, T, c * groups)).astype(dtype)
        W = (rng.standard_normal((taps, c, f * groups)) / np.sqrt(taps * c)).astype(dtype)
        b = rng.standard_normal(f * groups).astype(dtype)
        same = max((-(-T // stride) - 1) * stride + span + 1 - T, 0)
        pads = {"valid": (0, 0), "same": (same // 2, same - same // 2), "causal": (span, 0)}[padding]
        attributes = {"stride": stride, "dilation": dilation, "groups": groups, "pads": pads}
        net = models.model(
            [Node("c", "Conv1D", ("x", "W", "b"), ("y",), attributes)],
            [("x", dtype, ("B", "T", c * groups))],
            ["y"],
            {"W": W, "b": b},
        )
        options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": padding}
        check(net, {"x": x}, lambda d, x=x, W=W, b=b, options=options: naive.conv1d(x, W, b, dtype=d, **options), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_follow_their_equation_over_any_number_of_axes(axes, dtype):
    for number in range(CASES // 2):
        rng = np.random.default_rng([number, axes])
        draw = lambda low, high, n=axes, rng=rng: tuple(int(v) for v in rng.integers(low, high, n))
        sizes, strides, dilations, before, after = draw(1, 4), draw(1, 4), draw(1, 3), draw(0, 3), draw(0, 3)
        # one channel a group is a case of its own, with vectors of channels
        c, f, groups = draw(1, 4, 3) if number % 2 else (1, int(rng.integers(1, 4)), int(rng.integers(1, 40)))
        image = tuple((k - 1) * d + 1 + int(rng.integers(0, 5)) for k, d in zip(sizes, dilations, strict=True))
        x = rng.standard_normal((2, *image, c * groups)).astype(dtype)
        W = (rng.standard_normal((*sizes, c, f * groups)) / np.sqrt(np.prod(sizes) * c)).astype(dtype)
        b = rng.standard_normal(f * groups).astype(dtype)
        attributes = {"groups": groups, "activation": "Relu"}
        if axes == 1:
            attributes |= {"stride": strides[0], "dilation": dilations[0], "pads": (before[0], after[0])}
        else:
            attributes |= {"strides": strides, "dilations": dilations, "pads": (*before, *after)}
        node = Node("c", f"Conv{axes}D", ("x", "W", "b"), ("y",), attributes)
        net = models.model([node], [("x", dtype, x.shape)], ["y"], {"W": W, "b": b})
        pads = list(zip(before, after, strict=True))

        def oracle(d, x=x, W=W, b=b, strides=strides, dilations=dilations, pads=pads, groups=groups):
            y = naive.convolve(x, W, b, strides=strides, dilations=dilations, pads=pads, groups=groups, dtype=d)
            return np.maximum(y, 0)

        check(net, {"x": x}, oracle, dtype)


def test_a_row_of_a_convolution_has_the_same_bits_alone_and_among_others():
    """Patches are copied some images at a time; which ones stand together changes nothing."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((3, 3, 16, 24)).astype("f4")
    net = models.model(
        [Node("c", "Conv2D", ("x", "W"), ("y",), {"pads": (1, 1, 1, 1)})],
        [("x", "float32", ("B", 31, 33, 16))],
        ["y"],
        {"W": W},
    )
    x = rng.standard_normal((17, 31, 33, 16)).astype("f4")
    session = fastlstm.Session(net)
    whole = session.run(x)
    for row in (0, 5, 16):
        assert models.same_bits(session.run(x[row : row + 1]), whole[row : row + 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_matmul_of_run_time_operands_is_numpys(dtype):
    shapes = [((5, 3), (3, 17)), ((4, 5, 3), (3, 17)), ((4, 5, 3), (4, 3, 17)), ((2, 1, 5, 3), (4, 3, 65)), ((3,), (3, 9)), ((7, 3), (3,)),
              ((1, 70), (70, 1)), ((13, 16), (16, 64)), ((0, 3), (3, 4)), ((2, 0, 3), (2, 3, 4))]  # fmt: skip
    rng = np.random.default_rng(0)
    for left, right in shapes:
        a, b = rng.standard_normal(left).astype(dtype), rng.standard_normal(right).astype(dtype)
        net = models.model(
            [Node("m", "MatMul", ("a", "b"), ("y",))], [("a", dtype, left), ("b", dtype, right)], ["y"], {}
        )
        check(net, {"a": a, "b": b}, lambda d, a=a, b=b: a.astype(d) @ b.astype(d), dtype)
        constant = models.model([Node("m", "MatMul", ("a", "b"), ("y",))], [("a", dtype, left)], ["y"], {"b": b})
        check(constant, {"a": a}, lambda d, a=a, b=b: a.astype(d) @ b.astype(d), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_follows_its_equation_for_every_attribute(dtype):
    for rng, (m, k, n) in draws(*"mkn"):
        alpha, beta = (float(np.float32(rng.uniform(-2, 2))) if rng.random() < 0.7 else 1.0 for _ in range(2))
        turned_a, turned_b, added = (bool(rng.random() < 0.5) for _ in range(3))
        a = rng.standard_normal((k, m) if turned_a else (m, k)).astype(dtype)
        b = rng.standard_normal((n, k) if turned_b else (k, n)).astype(dtype)
        c = rng.standard_normal([(n,), (m, n), (m, 1), (1,)][int(rng.integers(4))]).astype(dtype)
        attributes = {"alpha": alpha, "beta": beta, "transA": turned_a, "transB": turned_b}
        node = Node("g", "Gemm", ("a", "b", "c") if added else ("a", "b"), ("y",), attributes)
        net = models.model([node], [("a", dtype, a.shape)], ["y"], {"b": b} | ({"c": c} if added else {}))

        def oracle(
            d, a=a.T if turned_a else a, b=b.T if turned_b else b, c=c if added else c * 0, alpha=alpha, beta=beta
        ):
            return alpha * (a.astype(d) @ b.astype(d)) + beta * c.astype(d)

        check(net, {"a": a}, oracle, dtype)

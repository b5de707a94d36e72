"""Every activation's vector kernel against its equation in float64, on dense grids and at the edges of floats."""

import models
import naive
import numpy as np
import pytest

from fastlstm.kernels import codes
from fastlstm.ops.activations import ACTIVATIONS
from fastlstm.program import KernelStep, Program

DTYPES = ("float32", "float64")
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
NAMES = sorted(ACTIVATIONS)
# Where an equation cancels, its float rounds as the operands do, so the bound grows with |x| (in half units of the last place).
GROWS = {("Squareplus", "float32"): 1, ("Squareplus", "float64"): 1, ("Gelu", "float64"): 1, ("Mish", "float64"): 1}


def call(
    name: str, x: np.ndarray, y: np.ndarray, n: int, alpha: float | None = None, beta: float | None = None
) -> None:
    """Let the kernel write n results to y, as a program of one step."""
    known = ACTIVATIONS[name]
    coefficients = (known.alpha if alpha is None else alpha, known.beta if beta is None else beta)
    program = Program()
    args = [x, y, n, codes.ACTIVATIONS[name], *map(float, coefficients)]
    program.steps.append(KernelStep("", "activate_forward", x.dtype, x.dtype, args))
    program.seal()
    program.run()


def run(name: str, x: np.ndarray, alpha: float | None = None, beta: float | None = None) -> np.ndarray:
    """Return the kernel's result for a flat array, and see that nothing is written past its end."""
    y = np.full(len(x) + 64, 77, x.dtype)
    call(name, x, y, len(x), alpha, beta)
    assert np.all(y[len(x) :] == 77)
    return y[: len(x)]


def truth(name: str, x: np.ndarray, alpha: float | None = None, beta: float | None = None) -> np.ndarray:
    known = ACTIVATIONS[name]
    x = x.astype(np.float64)
    if name == "Softsign":
        x = x.clip(-1e300, 1e300)  # infinity / infinity has the limit 1
    with np.errstate(all="ignore"):
        return naive.ACTIVATIONS[name](x, known.alpha if alpha is None else alpha, known.beta if beta is None else beta)


def grid(dtype: str) -> np.ndarray:
    """Dense around 0, wide, and in every binade from the smallest normal number up to 1e4."""
    tiny = float(np.finfo(dtype).tiny)
    rays = np.geomspace(tiny, 1e4, 20_000)
    return np.concatenate(
        [np.linspace(-2, 2, 40_001), np.linspace(-30, 30, 40_001), np.linspace(-130, 130, 10_001), rays, -rays]
    ).astype(dtype)


def test_the_kernels_codes_are_the_names_of_the_ops():
    assert set(codes.ACTIVATIONS) == set(ACTIVATIONS) and sorted(codes.ACTIVATIONS.values()) == list(
        range(len(ACTIVATIONS))
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_sigmoid_and_tanh_are_within_3e_7_in_float32_and_1e_14_in_float64(name, dtype):
    x = grid(dtype)
    assert np.abs(run(name, x) - truth(name, x)).max() <= (3e-7 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_error_is_a_few_units_in_the_last_place_of_max_1_y(name, dtype):
    x = grid(dtype)
    want = truth(name, x)
    inside = np.abs(want) < float(np.finfo(dtype).max)
    if name == "Exp":
        inside &= x < (88 if dtype == "float32" else 709)  # the next test
    bound = 8 * UNIT[dtype] * (np.maximum(1, np.abs(want)) + GROWS.get((name, dtype), 0) * np.abs(x))
    assert np.all(np.abs(run(name, x)[inside] - want[inside]) <= bound[inside])


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_finite_up_to_the_largest_float_and_infinite_above(dtype):
    top = np.log(float(np.finfo(dtype).max))
    x = np.linspace(top - 2, top - 1e-4, 999).astype(dtype)
    want = truth("Exp", x)
    assert np.all(np.abs(run("Exp", x) / want - 1) < 1e-5 * (1 if dtype == "float32" else 1e-7))
    assert np.all(run("Exp", np.array([top + 0.1, 1e4, np.inf], dtype)) == np.inf)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in NAMES if ACTIVATIONS[name].has_alpha])
def test_alpha_and_beta_are_used(name, dtype):
    rng = np.random.default_rng(4)
    for _ in range(20):
        _, alpha, beta = models.draw_activation(rng, name)
        x = np.linspace(-6, 6, 4001).astype(dtype)
        x = x[np.abs(x - alpha) > 1e-4]  # a jump of ThresholdedRelu
        want = truth(name, x, alpha, beta)
        assert np.all(np.abs(run(name, x, alpha, beta) - want) <= 16 * UNIT[dtype] * np.maximum(1, np.abs(want)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan_and_infinities_give_what_the_equation_gives(name, dtype):
    edges = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    got, want = run(name, edges), truth(name, edges)
    assert np.isnan(got[:2]).all()
    for g, w in zip(got[2:], want[2:], strict=True):
        assert g == w or (np.isnan(g) and np.isnan(w)) or abs(g - w) <= 4 * UNIT[dtype], (g, w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_huge_inputs_give_the_limit_or_overflow_as_the_equation_does(name, dtype):
    """1e4 up to the largest float: finite values near the equation's, and infinities only where it overflows or squares do."""
    largest = float(np.finfo(dtype).max)
    x = np.exp(np.linspace(np.log(1e4), np.log(largest) - 1e-3, 300))
    x = np.concatenate([x, -x, [largest, -largest]]).astype(dtype)
    got, want = run(name, x), truth(name, x)
    assert not np.isnan(got).any()
    inside = np.abs(want) < largest
    if name == "Squareplus":
        inside &= np.abs(x) < np.sqrt(largest) / 2
    error = np.abs(got[inside] - want[inside]) / np.maximum(1, np.abs(want[inside]))
    cancels = name == "Squareplus"  # x + sqrt(x^2 + 4) for x < 0, as in NumPy
    assert np.all(error <= (np.abs(x[inside]) if cancels else 1) * 16 * UNIT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_denormals_give_what_zero_gives(name, dtype):
    """Or come out as they went in, where the function is the identity there: a copy is no arithmetic."""
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([tiny, -tiny, tiny * 1000, -tiny * 1000, np.finfo(dtype).tiny / 2], dtype)
    assert np.all(x != 0)
    got, zero = run(name, x), np.copysign(np.zeros_like(x), x)
    want = zero if name == "ThresholdedRelu" else run(name, zero)
    assert np.all((got == want) | ((got == x) & (want == 0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_no_lane_sees_another_and_nothing_is_written_past_the_end(name, dtype):
    """Lengths 1 to 40 inside larger arrays: each result has the bits of its element alone, neighbours keep their bytes."""
    rng = np.random.default_rng(8)
    x = (rng.standard_normal(120) * 3).astype(dtype)
    x[::7], x[3::11] = np.nan, np.inf
    alone = np.concatenate([run(name, x[k : k + 1].copy()) for k in range(len(x))])
    for n in range(1, 41):
        for start in (0, 1, 5):
            source, y = x[start:], np.full(120, 77, dtype)
            call(name, source, y[start:], n)
            assert y[start : start + n].tobytes() == alone[start : start + n].tobytes()
            assert np.all(y[:start] == 77) and np.all(y[start + n :] == 77)


@pytest.mark.parametrize("name", NAMES)
def test_in_place_gives_the_same(name):
    x = np.linspace(-4, 4, 37).astype(np.float32)
    want = run(name, x)
    call(name, x, x, len(x))
    assert models.same_bits(x, want)


@pytest.mark.parametrize(
    "name", ["Sigmoid", "Tanh", "Softplus", "Elu", "Selu", "Exp", "HardSigmoid", "HardTanh", "Relu6", "Softsign"]
)
def test_a_rising_function_never_falls_by_more_than_its_rounding(name):
    y = run(name, np.linspace(-20, 20, 200_001).astype(np.float32)).astype(np.float64)
    assert np.all(np.diff(y) >= -4 * UNIT["float32"] * np.maximum(1, np.abs(y[1:])))

"""Weights in float16 and int8: what kernels compute with them.

float16 read as it is stored has the bits of the same weights widened. int8 follows the equations of kernels/quantised.py, which the oracle here
computes row by row with Python's exact integers; so the CPU's instruction for it and the portable product have the same bits.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import models
import naive
import numpy as np
import pytest
import test_promise_bits as promise

import fastlstm
from fastlstm.graph import Node, Quantized, widen
from fastlstm.kernels import layout, library, target
from fastlstm.kernels.caches import near_bytes
from fastlstm.ops import narrow
from fastlstm.ops.op import Stored

F = np.float32
KINDS = [("LSTM", {}), ("GRU", {"reset": "after"}), ("GRU", {"reset": "before"}), ("RNN", {})]
STATE_BITS = 7
NEAR = near_bytes()
CASES = max(20, int(120 * float(os.environ.get("FASTLSTM_CASES_SCALE", "1"))))


def widened(model: fastlstm.Model) -> fastlstm.Model:
    """Return the model with the float32 weights that its narrow ones stand for."""
    return replace(model, weights={name: widen(weight) for name, weight in model.weights.items()})


def recurrence(kind: str, options: dict, T: int, B: int, I: int, H: int, seed: int = 0, **more) -> models.Recurrence:
    states = ("input", "input") if kind == "LSTM" else ("input",)
    return models.Recurrence(
        kind, T, B, I, H, seed, states=states, outputs=("Y", *models.STATES[kind]), **options, **more
    )


def layer(op: str, weights: dict, features: tuple, **attributes) -> fastlstm.Model:
    """Return a model of one node: x (..., features), then the weights."""
    return models.model(
        [Node("n", op, ("x", *weights), ("y",), attributes)], [("x", "float32", features)], ["y"], weights
    )


def draw(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(F)


# ---- float16 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_float16_read_as_stored_has_the_bits_of_the_widened_weights(kind, options):
    gates = models.GATES[kind]
    for T, B, reverse in ((1, 1, False), (1, 3, False), (12, 1, False), (7, 2, True), (3, 5, False)):
        H, I = (370, 150) if gates > 1 else (640, 150)
        case = recurrence(kind, options, T, B, I, H, reverse=reverse)
        model = case.model().narrowed("float16")
        form = narrow.recurrent_form(
            Stored("W", model.weights["W"]), Stored("U", model.weights["U"]), np.dtype(F), T, B, gates, NEAR
        )
        assert form == narrow.FLOAT16, "this case shall be large enough to be read as stored"
        got, want = (fastlstm.Session(one).run(case.feeds()) for one in (model, widened(model)))
        assert all(models.same_bits(got[k], want[k]) for k in want), (T, B, reverse)
    reset = f"_{options['reset']}" if options else ""
    assert library.Variant(f"{kind.lower()}{reset}_forward", "float32", "float16") in [
        one.variant for one in library.loaded()
    ]


def test_float16_of_dense_layers_and_convolutions_has_the_bits_of_the_widened_weights():
    rng = np.random.default_rng(1)
    W, b = draw(rng, 600, 701, scale=0.04), draw(rng, 701)
    cases = [
        (layer("Dense", {"W": W, "b": b}, ("B", 600), activation="Tanh"), (3, 600)),
        (layer("MatMul", {"W": W}, ("B", 600)), (1, 600)),
        (layer("Gemm", {"W": W, "b": b}, ("B", 600)), (5, 600)),
        (layer("Gemm", {"W": W.T.copy(), "b": b}, ("B", 600), transB=True, alpha=0.5), (2, 600)),
        (layer("Conv1D", {"W": W.reshape(3, 200, 701), "b": b}, ("B", "T", 200), pads=(2, 0)), (1, 4, 200)),
        (layer("Conv1D", {"W": W.reshape(6, 100, 701)[:, :, :700].copy()}, ("B", "T", 200), groups=2), (1, 9, 200)),
        (layer("MatMul", {"W": W.reshape(2, 300, 701)}, ("B", "T", "S", 300)), (1, 2, 2, 300)),
    ]
    for model, shape in cases:
        stored, x = model.narrowed("float16"), draw(rng, *shape)
        got, want = (fastlstm.Session(one).run(x) for one in (stored, widened(stored)))
        assert models.same_bits(got, want), (model.graph.nodes[0].op, shape)
    assert library.Variant("dense_forward", "float32", "float16") in [one.variant for one in library.loaded()]


def test_float16_values_of_every_kind_are_widened_exactly():
    """Normal, subnormal and zero; -0 too."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(np.float16)[np.isfinite(bits.view(np.float16))]
    W = np.resize(values, (1, -(-len(values) // 640) * 640)).reshape(-1, 640)
    W = np.concatenate([W, np.zeros((600, 640), np.float16)])
    model = replace(layer("Dense", {"W": W.astype(F)}, ("B", len(W))), weights={"W": W})
    for k in (0, 1, 50, 98):
        x = np.zeros((1, len(W)), F)
        x[0, k] = 1
        assert np.array_equal(fastlstm.Session(model).run(x)[0], W[k].astype(F))


# ---- int8: the oracle -------------------------------------------------------------------------------
def fma(a, b, c) -> np.ndarray:
    """a * b + c rounded once, of float32."""
    return (np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)).astype(F)


def quantised(x: np.ndarray, bits: int) -> tuple[F, int, np.ndarray]:
    """Return (scale, code of zero, codes) of a row."""
    levels = F(2**bits - 3)
    bottom = F(max(0, -x.min(initial=0)))
    span = F(max(0, x.max(initial=0)) + bottom)
    if not np.isfinite(x).all():
        return F(np.nan), 0, np.zeros(len(x), np.int64)
    scale, inverse = (F(span / levels), F(levels / span)) if span > F(1e-30) else (F(0), F(0))
    zero = int(np.rint(F(bottom * inverse))) + 1
    # the kernel rounds once, to an integer
    codes = np.rint(x.astype(np.float64) * float(inverse) + zero).astype(np.int64)
    assert codes.min(initial=0) >= 0 and codes.max(initial=0) < 2**bits
    return scale, zero, codes


def add_product(z: np.ndarray, x: np.ndarray, W: Quantized, bits: int) -> np.ndarray:
    """Return z + x W of one row, as kernels/quantised.py has it."""
    scale, zero, codes = quantised(x, bits)
    Q = W.values.astype(np.int64)
    C, D = W.scale, (W.scale.astype(np.float64) * Q.sum(axis=0)).astype(F)
    with np.errstate(invalid="ignore"):
        z = fma(-F(F(zero) * scale), D, z)
        bytes_and_scales = [(codes, scale)] if bits <= 8 else [(codes >> 8, F(256 * scale)), (codes & 255, scale)]
        for part, s in bytes_and_scales:
            z = fma((part @ Q).astype(F), F(s) * C, z)
    return z


def rows_of(z0: np.ndarray, xs: np.ndarray, W: Quantized, bits: int) -> np.ndarray:
    flat = xs.reshape(-1, xs.shape[-1])
    return np.stack([add_product(z0, x, W, bits) for x in flat]).reshape(*xs.shape[:-1], -1)


def odd_rows(rng: np.random.Generator, B: int, K: int) -> np.ndarray:
    """Return rows of every sort: normal, of one sign, sparse, constant, zero, huge, tiny, with outliers."""
    x = draw(rng, B, K)
    for row in x:
        sort = rng.integers(9)
        if sort == 1:
            row[:] = np.abs(row)
        elif sort == 2:
            row[:] = -np.abs(row)
        elif sort == 3:
            row[rng.random(K) < 0.9] = 0
        elif sort == 4:
            row[:] = row[0]
        elif sort == 5:
            row[:] = 0
        elif sort == 6:
            row *= F(10.0 ** rng.integers(-33, 33))
        elif sort == 7:
            row[rng.integers(K)] = 1e4
    return x


def test_int8_dense_layers_have_the_bits_of_the_oracle():
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        K, B = int(rng.integers(64, 300)), int(rng.choice([1, 2, 3, 5, 6, 7, 13]))
        N = max(int(rng.integers(1, 300)), -(-narrow.SMALL // K))
        model = layer("Dense", {"W": draw(rng, K, N, scale=K**-0.5), "b": draw(rng, N)}, ("B", K)).narrowed("int8")
        W = model.weights["W"]
        if rng.random() < 0.2:  # what a file may hold besides
            W.values[:] = rng.choice([-128, 127, 0], W.values.shape)
        x = odd_rows(rng, B, K)
        want = rows_of(model.weights["b"], x, W, 8 * narrow.DENSE_PARTS)
        got = fastlstm.Session(model).run(x)
        assert models.same_bits(got, want), (seed, K, N, B, np.abs(got - want).max())


def gates_of(model: fastlstm.Model, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Return x W and h U and the biases, of every row: (B, G, H) of two products and the bias, as the oracle adds them."""
    W, U, b = (model.weights[name] for name in ("W", "U", "b"))
    z = rows_of(b, x, W, 8 * narrow.input_parts(x.shape[1], h.shape[1]))
    return np.stack([add_product(z[row], h[row], U, STATE_BITS) for row in range(len(x))])


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_int8_recurrent_steps_follow_the_oracle(kind, options):
    """One step from given states: every product of the oracle's integers, the cell in float64."""
    for seed in range(CASES // 2):
        rng = np.random.default_rng([seed, KINDS.index((kind, options))])
        I, H = int(rng.integers(1, 90)), int(rng.integers(narrow.UNITS, 80))
        B = int(rng.choice([1, 2, 3, 5, 6, 7, 12, 13]))
        case = recurrence(kind, options, 1, B, I, H, seed)
        data, model = case.data, case.model().narrowed("int8")
        got = fastlstm.Session(model).run(case.feeds())
        x, h = data["x"][0], data["h0"]
        bits, W, U, b = 8 * narrow.input_parts(I, H), *(model.weights[name] for name in ("W", "U", "b"))
        if kind == "LSTM":
            i, f, g, o = np.split(gates_of(model, x, h).astype(np.float64), 4, axis=1)
            c = naive.sigmoid(f) * data["c0"] + naive.sigmoid(i) * np.tanh(g)
            want = {"h": naive.sigmoid(o) * np.tanh(c), "c": c}
            bound = 2e-6
        elif kind == "RNN":
            want, bound = {"h": np.tanh(gates_of(model, x, h).astype(np.float64))}, 2e-6
        else:
            before = options["reset"] == "before"
            start = b + np.concatenate([np.zeros(2 * H, F), data["bn"]]) if before else b
            z = rows_of(start, x, W, bits)
            update, reset = (
                naive.sigmoid(rows_plus(z[:, k * H : k * H + H], h, gate_of(U, k)).astype(np.float64)) for k in (0, 1)
            )
            if before:
                # r h differs by a rounding or two from the kernel's: a code on the edge may fall on the other side
                n = rows_plus(z[:, 2 * H :], (reset * h).astype(F), gate_of(U, 2)).astype(np.float64)
                bound = 3e-3
            else:
                n = z[:, 2 * H :] + reset * rows_plus(np.tile(data["bn"], (B, 1)), h, gate_of(U, 2)).astype(np.float64)
                bound = 2e-6
            want = {"h": update * h + (1 - update) * np.tanh(n)}
        for name, value in want.items():
            error = np.abs(got[name] - value) / np.maximum(1, np.abs(value))
            assert error.max() <= bound, (seed, I, H, B, name, error.max())


def gate_of(U: Quantized, k: int) -> Quantized:
    columns = slice(k * len(U.values), (k + 1) * len(U.values))
    return Quantized(U.values[:, columns], U.scale[columns])


def rows_plus(z: np.ndarray, x: np.ndarray, W: Quantized) -> np.ndarray:
    return np.stack([add_product(z[row], x[row], W, STATE_BITS) for row in range(len(x))])


# ---- int8: how far from the truth -------------------------------------------------------------------
def test_int8_dense_layers_are_as_far_off_as_their_weights():
    """Rows of 16 bits: the rest of the error is at most half a code times the sum of a column, and float32's rounding."""
    for seed in range(CASES // 2):
        rng = np.random.default_rng(seed)
        K, N = int(rng.integers(64, 400)), 300
        model = layer("Dense", {"W": draw(rng, K, N, scale=K**-0.5)}, ("B", K)).narrowed("int8")
        x = draw(rng, 5, K)
        W = widen(model.weights["W"]).astype(np.float64)
        codes = (x.max(axis=1).clip(0) - x.min(axis=1).clip(max=0)) / 65533
        bound = np.outer(codes * 0.51, np.abs(W).sum(axis=0)) + 1e-6 * np.abs(x).sum(axis=1, keepdims=True)
        assert (np.abs(fastlstm.Session(model).run(x) - x.astype(np.float64) @ W) <= bound).all(), seed


@pytest.mark.parametrize(("storage", "bound"), [("float16", 2e-3), ("int8", 8e-2)])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_error_of_narrow_recurrences_is_bounded(kind, options, storage, bound):
    """Of 50 steps of random networks that do not amplify what is off, against float64."""
    for seed, (I, H) in enumerate(((3, 40), (64, 64), (130, 130), (10, 200))):
        case = recurrence(kind, options, 50, 3, I, H, seed, gain=0.8)
        got = fastlstm.Session(case.model().narrowed(storage)).run(case.feeds())
        for name, want in case.expected().items():
            assert np.abs(got[name] - want).max() <= bound, (seed, name)


@pytest.mark.parametrize("scaled", [False, True])
def test_int8_weights_that_do_not_meet_quantised_rows_are_only_rounded_once(scaled):
    """Small matrices are widened when packed, wide ones of short rows in registers: float32's rounding is all that is left."""
    rng = np.random.default_rng(3)
    shape = (narrow.SHORT - 1, 9001) if scaled else (narrow.SHORT - 1, 60)
    model = layer("Dense", {"W": draw(rng, *shape, scale=0.1), "b": draw(rng, shape[1])}, ("B", shape[0])).narrowed(
        "int8"
    )
    form = narrow.dense_form(Stored("W", model.weights["W"]), np.dtype(F), 1, *shape, NEAR)
    assert form == (narrow.SCALED if scaled else narrow.FLOAT32)
    session = fastlstm.Session(model)
    for B in (1, 2, 3, 5, 6, 7, 20):
        x = draw(rng, B, shape[0])
        want = x.astype(np.float64) @ widen(model.weights["W"]) + model.weights["b"]
        got = session.run(x)
        assert np.abs(got - want).max() < 5e-6
        assert all(models.same_bits(session.run(x[k : k + 1]), got[k : k + 1]) for k in range(B))


# ---- the promises -----------------------------------------------------------------------------------
bench = cache(promise.Bench)
PAIRS = [(name, way) for name, way in product(models.WIDE, promise.WAYS) if name != "wide_reverse" or way in ("plain", "ragged", "padded")]  # fmt: skip


@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_a_row_of_a_narrow_network_has_the_bits_it_has_alone(name, way):
    storage = "float16" if name == "widest_lstm" else "int8"
    for number in range(CASES // 15):
        rng = np.random.default_rng([PAIRS.index((name, way)), number])
        count = int(rng.choice([1, 2, 3, 5, 6, 7, 11, 12, 13, int(rng.integers(1, 65))]))
        rows = rng.permutation(promise.POOL)[:count]
        assert promise.WAYS[way](bench(name, storage), rng, rows, int(rng.integers(1, 4))) == 0, (number, count)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_masks_with_holes_and_chunks_of_time_keep_the_bits_of_int8(kind, options):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        case = models.draw_recurrence(
            rng, kind, 9, T=9, H=41, mask="mask", reverse=False, states=("", ""), activations=(), outputs=("Y", *models.STATES[kind]), **options
        )  # fmt: skip
        session, feeds = fastlstm.Session(case.model().narrowed("int8")), case.feeds()
        want, stream = session.run(feeds), session.stream(batch=case.B)
        axis, cuts = (1 if case.batch_first else 0), np.sort(rng.integers(0, 10, 3))
        chunks = zip(*(np.split(feeds[k], cuts, axis=axis) for k in ("x", "m")), strict=True)
        pieces = [stream.step({"x": x, "m": m}) for x, m in chunks]
        assert models.same_bits(np.concatenate([p["Y"] for p in pieces], axis=axis), want["Y"]), (seed, cuts)
        row = int(rng.integers(case.B))
        alone = session.run({k: np.take(v, [row], axis=1 - axis) for k, v in feeds.items()})
        assert models.same_bits(alone["Y"], np.take(want["Y"], [row], axis=1 - axis)), seed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_nan_and_infinities_make_their_row_nan_and_no_other(kind, options, value):
    for I, B in ((7, 5), (70, 5), (70, 1), (7, 14)):
        case = recurrence(kind, options, 6, B, I, 40)
        session, feeds = fastlstm.Session(case.model().narrowed("int8")), case.feeds()
        clean, x = session.run(feeds), feeds["x"].copy()
        row, step = B // 2, 3
        x[step, row, I // 2] = value
        dirty = session.run(feeds | {"x": x})
        assert np.isnan(dirty["Y"][step:, row]).all()
        others = np.arange(B) != row
        assert models.same_bits(dirty["Y"][:, others], clean["Y"][:, others])
        assert models.same_bits(dirty["Y"][:step], clean["Y"][:step])


def test_nan_makes_a_row_of_an_int8_dense_layer_nan():
    rng = np.random.default_rng(0)
    session = fastlstm.Session(layer("Dense", {"W": draw(rng, 100, 200)}, ("B", 100)).narrowed("int8"))
    x = draw(rng, 9, 100)
    clean = session.run(x)
    x[4, 99] = np.nan
    dirty = session.run(x)
    assert np.isnan(dirty[4]).all()
    assert models.same_bits(np.delete(dirty, 4, 0), np.delete(clean, 4, 0))


def test_the_arithmetic_of_int8_is_chosen_by_the_sizes_of_the_layer_alone():
    stored = lambda *shape: Stored("w", Quantized(np.zeros(shape, np.int8), np.zeros(shape[-1:], F)))
    for I, H in ((1, 31), (1, 32), (500, 32), (64, 512)):
        forms = {
            narrow.recurrent_form(stored(I, 4 * H), stored(H, 4 * H), np.dtype(F), T, B, 4, near)
            for T in (1, 9)
            for B in (1, 6, 99)
            for near in (0, NEAR)
        }
        assert forms == {narrow.QUANTISED if H >= 32 else narrow.FLOAT32}
    for K, N in ((10, 10), (64, 256), (63, 9000), (1 << 17, 8)):
        assert (
            len(
                {
                    narrow.dense_form(stored(K, N), np.dtype(F), rows, K, N, near)
                    for rows in (1, 5, 6, 1000)
                    for near in (0, NEAR)
                }
            )
            == 1
        )


# ---- other CPUs -------------------------------------------------------------------------------------
HASWELL = "+avx2,+fma,+bmi,+bmi2,+sse4.2,+popcnt,+cmov"
FEATURES = target.FEATURES.split(",")
OTHERS = {"portable": ("2 2", {"FASTLSTM_DOT": "0"})}
if target.X86 and "+avx2" in FEATURES:
    OTHERS["avx2"] = "2 4", {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": f"{HASWELL},+f16c"}
    OTHERS["sse without float16"] = (
        "2 2",
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": HASWELL, "FASTLSTM_SIMD_BYTES": "16"},
    )
    OTHERS["ssse3"] = "2 4", OTHERS["sse without float16"][1] | {"NUMBA_CPU_FEATURES": f"{HASWELL},+ssse3"}
if "+avxvnni" in FEATURES:
    OTHERS["avxvnni"] = "4 4", {"NUMBA_CPU_NAME": "alderlake", "NUMBA_CPU_FEATURES": f"{HASWELL},+f16c,+avxvnni"}
if "+avx512bw" in FEATURES:
    OTHERS["avx512 without vnni"] = (
        "2 4",
        {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": f"{HASWELL},+f16c,+avx512f,+avx512bw,+avx512vl"},
    )
if "+avx512vnni" in FEATURES and "+avx512vl" in FEATURES:
    OTHERS["avx512 in 32 bytes"] = "4 4", {"FASTLSTM_SIMD_BYTES": "32"}


def digests(names: Sequence[str]) -> str:
    """Return a digest of the outputs of wide networks with int8 weights, and of one with float16."""
    found = []
    for name in names:
        storage = "float16" if name == "widest_lstm" else "int8"
        net = models.network(name, 3).narrowed(storage)
        session, whole = fastlstm.Session(net), hashlib.sha256()
        for B, T in ((1, 9), (4, 3), (13, 2)):
            results = session.run({"x": models.inputs_for(net, np.random.default_rng(B), B, T)})
            for key in sorted(results):
                whole.update(results[key].tobytes())
        found.append(f"{name} {whole.hexdigest()[:16]}")
    return "\n".join(found)


# each compiles for minutes: at full size all, else one that is not this machine's own, with one network
FULL, OWN = os.environ.get("FASTLSTM_FULL") == "1", f"{layout.GROUP} {layout.STATE_GROUP}"
SAMPLE = list(OTHERS) if FULL else ["avx2" if OTHERS.get("avx2", (OWN,))[0] != OWN else "portable"]
WIDE = ("wide_lstm", "wide_stacked", "wide_front", "widest_lstm") if FULL else ("wide_lstm",)


@pytest.mark.parametrize("name", SAMPLE)
def test_other_instructions_give_the_same_bits(name):
    code = (
        "import test_narrow; from fastlstm.kernels import layout; print(layout.GROUP, layout.STATE_GROUP);"
        "print(test_narrow.digests(test_narrow.WIDE))"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    wanted, changed = OTHERS[name]
    environment = os.environ | changed | {"PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    groups, _, found = run.stdout.partition("\n")
    assert groups == wanted
    assert found.strip() == digests(WIDE)
    assert (4 if target.DOT else 2) == layout.GROUP

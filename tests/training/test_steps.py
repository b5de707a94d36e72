"""Recurrent nodes in graphs that are trained: outputs as in inference, adjoints against central differences in float64.

CI runs a seeded sample of random configurations; FASTLSTM_FULL=1 runs 256 of them.
"""

import os
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from training import differences

from fastlstm import Session
from fastlstm.layers.build import Build
from fastlstm.ops.op import find
from fastlstm.team import available_threads
from fastlstm.training.gradient import gradients
from fastlstm.training.unfused import TrainingBuild

FULL = os.environ.get("FASTLSTM_FULL") == "1"
TOLERANCE = 1e-6
TOLERANCE_OF_FLOAT32 = 1e-5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": ("h0", "c0"), "GRU": ("h0",), "RNN": ("h0",)}


def _recurrence(
    build,
    kind,
    rng,
    T,
    B,
    I,
    H,
    options,
    dtype="float64",
    states=True,
    masked=False,
    peepholes=False,
    dropped=False,
    rounded=None,
):
    """Add a recurrent node; return its outputs, its differentiable inputs, and feeds for all inputs, `rounded` to a dtype first."""
    G = GATES[kind] * H
    shape = (B, T, I) if options.get("batch_first") else (T, B, I)
    shapes = {"x": shape, "W": (I, G), "U": (H, G), "b": (G,)}
    if kind == "GRU":
        shapes["bn"] = (H,)
    if peepholes:
        shapes["P"] = (3, H)
    if states:
        shapes |= dict.fromkeys(STATES[kind], (B, H))
    tensors = {name: build.input(name, dtype, size) for name, size in shapes.items()}
    feeds = {
        name: (rng.standard_normal(size) * 0.5).astype(rounded or dtype).astype(dtype) for name, size in shapes.items()
    }
    given = [tensors[name] for name in ("x", "W", "U", "b", "bn") if name in tensors]
    given += [tensors.get(name) for name in STATES[kind]]
    if kind == "LSTM":
        given.append(tensors.get("P"))
    if masked:
        mask = build.input("mask", "bool", shape[:2])
        feeds["mask"] = rng.random(shape[:2]) < 0.7
        given.append(mask)
    if dropped:
        shapes = {
            "of h": (GATES[kind], B, H),
            "of x": (GATES[kind], *((B, 1) if options.get("batch_first") else (1, B)), I),
        }
        feeds |= {name: 2.0 * rng.integers(0, 2, size).astype(dtype) for name, size in shapes.items()}
        given += [None] * (len(find(kind).inputs) - len(given))
        given += [build.input(name, dtype, size) for name, size in shapes.items()]
    outputs = build.node(
        "layer",
        kind,
        given,
        [True] * (len(STATES[kind]) + 1 + int(masked and options.get("masked_output") == "carry")),
        **options,
    )
    return list(outputs), list(tensors.values()), feeds


CASES = [
    {"batch_first": True},
    {"batch_first": False, "direction": "reverse"},
    {"batch_first": True, "direction": "reverse", "states": False},
    {"batch_first": True, "masked": True, "masked_output": "carry"},
    {"batch_first": False, "masked": True, "masked_output": "zero"},
    {"batch_first": True, "masked": True, "masked_output": "carry", "direction": "reverse"},
]
OPTIONS = {
    "LSTM": [
        {"batch_first": True, "activations": ("HardSigmoid", "Softsign", "Softplus")},
        {"batch_first": False, "direction": "reverse", "clip": 0.4},
        {"batch_first": True, "input_forget": True, "masked": True, "masked_output": "carry"},
        {"batch_first": True, "peepholes": True, "activations": ("Sigmoid", "Elu", "Tanh")},
        {"batch_first": False, "direction": "reverse", "peepholes": True, "input_forget": True, "clip": 0.6},
    ],
    "GRU": [
        {"batch_first": True, "activations": ("HardSigmoid", "Softsign")},
        {"batch_first": False, "direction": "reverse", "clip": 0.3},
        {"batch_first": True, "reset": "before", "activations": ("Sigmoid", "Softplus"), "masked": True},
        {"batch_first": True, "reset": "before", "clip": 0.4},
    ],
    "RNN": [{"batch_first": True, "activations": ("Softplus",)}, {"batch_first": False, "clip": 0.3, "masked": True}],
}
BEFORE = [case | {"reset": "before"} for case in CASES]
DROPPED = [
    ("LSTM", {"batch_first": True, "dropped": True}),
    ("LSTM", {"batch_first": True, "direction": "reverse", "dropped": True, "masked": True, "masked_output": "carry"}),
    ("LSTM", {"batch_first": True, "dropped": True, "peepholes": True, "clip": 0.6}),
    ("GRU", {"batch_first": True, "dropped": True}),
    ("GRU", {"batch_first": True, "direction": "reverse", "dropped": True, "masked": True, "masked_output": "zero"}),
    ("GRU", {"batch_first": True, "dropped": True, "clip": 0.3}),
    ("GRU", {"batch_first": True, "dropped": True, "reset": "before"}),
    ("GRU", {"batch_first": True, "direction": "reverse", "dropped": True, "reset": "before", "masked": True}),
    ("GRU", {"batch_first": True, "dropped": True, "reset": "before", "clip": 0.4}),
    ("RNN", {"batch_first": True, "dropped": True}),
    ("RNN", {"batch_first": True, "direction": "reverse", "dropped": True, "masked": True}),
]
OPTION_NAMES = ("states", "masked", "peepholes", "dropped")
KINDS = [(kind, case) for kind in GATES for case in CASES] + [("GRU", case) for case in BEFORE]
KINDS += [(kind, case) for kind, cases in OPTIONS.items() for case in cases]


@pytest.mark.parametrize(("kind", "case"), KINDS + DROPPED)
@pytest.mark.parametrize("sizes", [(5, 3, 2, 7), (4, 1, 3, 5), (3, 7, 2, 9)])
def test_adjoint_agrees_with_central_differences(kind, sizes, case):
    options = dict(case)
    rng, extra = (
        np.random.default_rng(3),
        {key: options.pop(key) for key in OPTION_NAMES if key in options},
    )
    build = TrainingBuild()
    outputs, wrt, feeds = _recurrence(build, kind, rng, *sizes, options, **extra)
    parts = [differences.projected(build, y, build.weight("w", rng.standard_normal(y.shape))) for y in outputs]
    loss = parts[0]
    for part in parts[1:]:
        loss = build.node("loss", "Add", [loss, part])
    assert differences.error(build, loss, feeds, wrt) < TOLERANCE


@pytest.mark.parametrize(("kind", "case"), KINDS)
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        *product(("float32", "float64"), [(5, 3, 2, 7), (4, 1, 3, 5), (3, 33, 2, 40), (2, 2, 3, 64)]),
        ("float64", (2, 13, 261, 261)),  # inference in pieces; sums so long that float32 rounds by more than the bound
    ],
)
def test_outputs_are_those_of_inference(kind, dtype, sizes, case):
    options = dict(case)
    extra = {key: options.pop(key) for key in OPTION_NAMES if key in options}
    results = []
    for build in (Build(), TrainingBuild()):
        outputs, _, feeds = _recurrence(build, kind, np.random.default_rng(4), *sizes, options, dtype, **extra)
        found = Session(build.model(outputs)).run(feeds)
        results.append([found[tensor.name] for tensor in outputs])
    for expected, got in zip(*results, strict=True):
        bound = 2e-6 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(got, expected, rtol=bound, atol=bound)


# ---- random configurations -------------------------------------------------------------------------------
LANES = 16  # the most of any kind and machine: every remainder of it is every remainder of 8 and 4 too
ROWS = 6  # the most of a register tile, of 3 rows with 16 registers
READ = ("all", "Y", "h", "last", "c")  # what the loss reads
ACTIVATIONS = {
    "LSTM": [("HardSigmoid", "Softsign", "Softplus"), ("Sigmoid", "Elu", "Tanh"), ("HardSigmoid", "Tanh", "Relu")],
    "GRU": [("HardSigmoid", "Softsign"), ("Sigmoid", "Softplus"), ("Sigmoid", "Relu")],
    "RNN": [("Softsign",), ("Relu",), ("Sigmoid",)],
}  # other than the defaults


@dataclass
class Configuration:
    """A recurrent node at random, of every option: kind, reset and H by number, so that the first 64 have each kind with each remainder of H."""

    number: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng([7, self.number])
        self.kind, reset = (("LSTM", ""), ("GRU", "after"), ("RNN", ""), ("GRU", "before"))[self.number % 4]
        T, B, tiles = int(rng.integers(1, 9)), 1 + self.number // 4 % ROWS, int(rng.integers(0, 4))
        H = self.number // 4 % LANES + LANES * tiles
        self.sizes = T, B, int(rng.integers(1, 40)), H or LANES
        self.options = {
            "batch_first": bool(rng.integers(2)),
            "direction": ("forward", "reverse")[rng.integers(2)],
            "masked_output": ("zero", "carry")[rng.integers(2)],
        }
        if reset:
            self.options["reset"] = reset
        self.states, self.masked = bool(rng.integers(2)), bool(rng.integers(3))
        self.dropped = self.number % 5 == 0  # in turn for each kind
        carries = self.masked and self.options["masked_output"] == "carry"
        possible = [name for name in READ if (name != "last" or carries) and (name != "c" or self.kind == "LSTM")]
        self.read = possible[(self.number // 4) % len(possible)]
        self.peepholes = self.kind == "LSTM" and bool(rng.random() < 0.4)
        if self.kind == "LSTM" and rng.random() < 0.3:
            self.options["input_forget"] = True
        clip = (None, 0.25, None, 0.5, None, 1.0)[self.number // 4 % 6]
        if clip is not None:
            self.options["clip"] = clip
        chosen = [None, *ACTIVATIONS[self.kind]][(self.number // 4 + self.number // 16) % 4]
        if chosen is not None:
            self.options["activations"] = chosen

    def build(self, dtype: str, checkpoint_every: int | None = None):
        """Return a graph, its loss, what it is differentiated by, and feeds: the same numbers for every dtype, rows without a valid step too."""
        rng, build = np.random.default_rng([8, self.number]), TrainingBuild(checkpoint_every)
        outputs, wrt, feeds = _recurrence(
            build,
            self.kind,
            rng,
            *self.sizes,
            self.options,
            dtype,
            self.states,
            self.masked,
            peepholes=self.peepholes,
            dropped=self.dropped,
            rounded="float32",
        )
        # as in networks that are trained: with larger weights a recurrence is chaotic, and so are its gradients
        for name in ("W", "U"):
            scaled = feeds[name].astype("float64") * 2 / np.sqrt(len(feeds[name]))
            feeds[name] = scaled.astype("float32").astype(dtype)
        if self.masked:
            mask = feeds["mask"] if self.options["batch_first"] else feeds["mask"].T
            mask[rng.integers(len(mask))] = False
        names = ["Y", "h", *(["c"] if self.kind == "LSTM" else []), "last"]
        read = [y for name, y in zip(names, outputs, strict=False) if self.read in ("all", name)]
        weights = [rng.standard_normal(y.shape).astype("float32").astype(dtype) for y in read]
        loss = None
        for y, w in zip(read, weights, strict=True):
            part = differences.projected(build, y, build.weight("w", w))
            loss = part if loss is None else loss + part
        return build, loss, wrt, feeds

    def gradients(self, dtype: str, threads: int = 1, checkpoint_every: int | None = None) -> list[np.ndarray]:
        """Return the gradients of all inputs."""
        build, loss, wrt, feeds = self.build(dtype, checkpoint_every)
        return differences.run(build, gradients(build, loss, wrt), feeds, threads)


@pytest.mark.parametrize("number", range(256 if FULL else 64))
def test_float32_gives_the_gradients_of_float64(number):
    configuration = Configuration(number)
    for got, expected in zip(configuration.gradients("float32"), configuration.gradients("float64"), strict=True):
        assert got.dtype == np.float32
        scale = max(float(np.linalg.norm(expected)), 1e-3)
        assert np.linalg.norm(got - expected) < TOLERANCE_OF_FLOAT32 * scale, configuration


def test_the_configurations_have_every_option_of_every_kind():
    assert {configuration.read for configuration in map(Configuration, range(64))} == set(READ)
    for kind in GATES:
        drawn = [c for c in map(Configuration, range(64)) if c.kind == kind]
        options = {(key, value) for c in drawn for key, value in c.options.items() if key != "activations"}
        wanted = {("batch_first", True), ("batch_first", False), ("direction", "forward"), ("direction", "reverse")}
        wanted |= {("masked_output", "zero"), ("masked_output", "carry"), ("clip", 0.25), ("clip", 0.5), ("clip", 1.0)}
        wanted |= {"GRU": {("reset", "after"), ("reset", "before")}, "LSTM": {("input_forget", True)}}.get(kind, set())
        assert options == wanted
        assert {c.options.get("activations") for c in drawn} == {None, *ACTIVATIONS[kind]}
        assert {c.peepholes for c in drawn} == ({True, False} if kind == "LSTM" else {False})
        for flag in ("states", "masked", "dropped"):
            assert {getattr(c, flag) for c in drawn} == {True, False}
        assert {c.read for c in drawn} >= {"all", "Y", "h"}
        assert {c.sizes[3] % LANES for c in drawn} == set(range(LANES))
        assert {c.sizes[1] % ROWS for c in drawn} == set(range(ROWS))


@pytest.mark.parametrize("number", range(0, 256 if FULL else 64, 1 if FULL else 3))
def test_adjoint_of_random_configurations_agrees_with_central_differences(number):
    configuration = Configuration(number)
    configuration.sizes = tuple(min(n, most) for n, most in zip(configuration.sizes, (5, 3, 4, 19), strict=True))
    build, loss, wrt, feeds = configuration.build("float64")
    assert differences.error(build, loss, feeds, wrt) < TOLERANCE


@pytest.mark.skipif(available_threads() < 2, reason="one thread")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(0, 256 if FULL else 64, 8 if FULL else 9))
def test_two_threads_give_the_bits_of_one(number, dtype):
    configuration = Configuration(number)
    T, B, I, H = configuration.sizes
    configuration.sizes = T + 20, B + 30, I, H + 2 * LANES
    for one, two in zip(configuration.gradients(dtype, 1), configuration.gradients(dtype, 2), strict=True):
        np.testing.assert_array_equal(one, two)

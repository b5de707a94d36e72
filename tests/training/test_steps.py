"""Recurrent nodes in graphs that are trained: outputs as in inference, adjoints against central differences in float64."""

import numpy as np
import pytest
from training import differences

from fastlstm import Session
from fastlstm.layers.build import Build
from fastlstm.training.unfused import TrainingBuild

TOLERANCE = 1e-6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": ("h0", "c0"), "GRU": ("h0",), "RNN": ("h0",)}


def _recurrence(build, kind, rng, T, B, I, H, options, dtype="float64", states=True, masked=False, peepholes=False):
    """Add a recurrent node; return its outputs, its differentiable inputs, and feeds for all inputs."""
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
    feeds = {name: (rng.standard_normal(size) * 0.5).astype(dtype) for name, size in shapes.items()}
    given = [tensors[name] for name in ("x", "W", "U", "b", "bn") if name in tensors]
    given += [tensors.get(name) for name in STATES[kind]]
    if kind == "LSTM":
        given.append(tensors.get("P"))
    if masked:
        mask = build.input("mask", "bool", shape[:2])
        feeds["mask"] = rng.random(shape[:2]) < 0.7
        given.append(mask)
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
KINDS = [(kind, case) for kind in GATES for case in CASES] + [("GRU", case) for case in BEFORE]
KINDS += [(kind, case) for kind, cases in OPTIONS.items() for case in cases]


@pytest.mark.parametrize(("kind", "case"), KINDS)
@pytest.mark.parametrize("sizes", [(5, 3, 2, 7), (4, 1, 3, 5), (3, 7, 2, 9)])
def test_adjoint_agrees_with_central_differences(kind, sizes, case):
    options = dict(case)
    rng, extra = (
        np.random.default_rng(3),
        {key: options.pop(key) for key in ("states", "masked", "peepholes") if key in options},
    )
    build = TrainingBuild()
    outputs, wrt, feeds = _recurrence(build, kind, rng, *sizes, options, **extra)
    parts = [differences.projected(build, y, build.weight("w", rng.standard_normal(y.shape))) for y in outputs]
    loss = parts[0]
    for part in parts[1:]:
        loss = build.node("loss", "Add", [loss, part])
    assert differences.error(build, loss, feeds, wrt) < TOLERANCE


@pytest.mark.parametrize(("kind", "case"), KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(5, 3, 2, 7), (4, 1, 3, 5), (3, 33, 2, 40), (2, 2, 3, 64)])
def test_outputs_are_those_of_inference(kind, dtype, sizes, case):
    options = dict(case)
    extra = {key: options.pop(key) for key in ("states", "masked", "peepholes") if key in options}
    results = []
    for build in (Build(), TrainingBuild()):
        outputs, _, feeds = _recurrence(build, kind, np.random.default_rng(4), *sizes, options, dtype, **extra)
        found = Session(build.model(outputs)).run(feeds)
        results.append([found[tensor.name] for tensor in outputs])
    for expected, got in zip(*results, strict=True):
        bound = 2e-6 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(got, expected, rtol=bound, atol=bound)

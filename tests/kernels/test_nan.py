"""NaN and infinities stay in their row, and do there what the equations say.

1,000 cases times FASTLSTM_CASES_SCALE: one value of one row of x (or h0, c0) becomes NaN, +inf or -inf at a random step.
"""

import os
from dataclasses import replace

import models
import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.ops.activations import ACTIVATIONS

CASES = max(10, int(1000 * float(os.environ.get("FASTLSTM_CASES_SCALE", "1"))))
INJECTIONS = 5  # into each model
KINDS = tuple(models.GATES)


def turned(case: models.Recurrence, feeds: dict) -> dict:
    """Return inputs in the model's axis order from ones in (T, B, I)."""
    return feeds | ({"x": np.ascontiguousarray(feeds["x"].swapaxes(0, 1))} if case.batch_first else {})


def rows_of(case: models.Recurrence, results: dict) -> dict:
    """Return the outputs with the batch first."""
    return {k: v if v.ndim == 2 or case.batch_first else v.swapaxes(0, 1) for k, v in results.items()}


def inject(rng: np.random.Generator, case: models.Recurrence, value: float) -> tuple[dict, int]:
    """Return {array: its copy with the value put in} and the row it was put into."""
    data, row = case.data, int(rng.integers(case.B))
    given = [
        k for k, origin in zip(("h0", "c0"), case.states, strict=False) if origin and k[0] in models.STATES[case.kind]
    ]
    name = str(rng.choice(["x", "x", *given]))
    array = data[name].copy()
    step = (int(rng.integers(case.T)),) if name == "x" else ()
    array[(*step, row, int(rng.integers(array.shape[-1])))] = value
    return {name: array}, row


def cases(value: float, **fixed):
    """Yield (case, clean results, {array: dirty copy}, dirty results, row), with results by rows; overflowing draws are skipped."""
    left, number = CASES // INJECTIONS, 0
    while left:
        number += 1
        rng = np.random.default_rng([number, 0 if np.isnan(value) else 1 if value > 0 else 2])
        case = models.draw_recurrence(rng, KINDS[number % 3], 9, gain=0.6, **fixed)
        if not all(np.all(np.abs(array) < 1e6) for array in case.expected().values()):
            continue
        left -= 1
        session = fastlstm.Session(case.model())
        feeds = case.feeds()
        clean = rows_of(case, session.run(feeds))
        for _ in range(INJECTIONS):
            changed, row = inject(rng, case, value)
            dirty = rows_of(case, session.run(feeds | turned(case, changed) if "x" in changed else feeds | changed))
            yield case, clean, changed, dirty, row


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_other_row_changes_by_a_bit(value):
    for case, clean, _, dirty, row in cases(value):
        others = np.arange(case.B) != row
        for name in clean:
            assert models.same_bits(clean[name][others], dirty[name][others]), (name, case)


def test_nan_reaches_every_later_valid_step_of_its_row_and_nothing_else():
    """The oracle knows which: masked steps keep NaN out and repeat or zero their output, gates do not hide it."""
    reached = 0
    for case, clean, changed, dirty, row in cases(np.nan):
        want = rows_of(case, case.expected(**changed))
        for name, array in want.items():
            assert np.array_equal(np.isnan(dirty[name]), np.isnan(array)), (name, case)
            reached += int(np.isnan(array[row]).any())
            untouched = ~np.isnan(array)
            assert models.same_bits(dirty[name][untouched], clean[name][untouched]), (name, case)
    assert reached > CASES / 2, "too few cases in which NaN got anywhere"


def test_nan_in_x_makes_every_unit_nan_from_its_step_on():
    for kind in KINDS:
        for reverse in (False, True):
            rng = np.random.default_rng(5)
            case = models.draw_recurrence(
                rng, kind, 9, T=9, B=7, H=21, I=3, mask="", reverse=reverse, batch_first=False
            )
            x = case.data["x"].copy()
            x[4, 2, 1] = np.nan
            y = fastlstm.Session(case.model()).run(case.feeds() | {"x": x})["Y"]
            late = slice(0, 5) if reverse else slice(4, None)
            assert np.isnan(y[late, 2]).all() and np.isnan(y).sum() == np.isnan(y[late, 2]).sum()


def test_nan_in_a_masked_step_is_never_read():
    for number in range(60):
        rng = np.random.default_rng(number)
        case = models.draw_recurrence(rng, KINDS[number % 3], 12, mask=str(rng.choice(["mask", "lengths"])))
        session, feeds, data = fastlstm.Session(case.model()), case.feeds(), case.data
        x = np.where(data["mask"][..., None], data["x"], rng.choice([np.nan, np.inf, -np.inf], data["x"].shape)).astype(
            "f4"
        )
        clean, dirty = session.run(feeds), session.run(feeds | turned(case, {"x": x}))
        assert all(models.same_bits(clean[k], dirty[k]) for k in clean), case


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_give_what_the_equations_give(value):
    """Finite where float64 is finite and near it; of the same class (NaN, inf, -inf) where it is not."""
    finite = 0
    for case, _, changed, dirty, row in cases(value, activations=(), clip=0.0):
        if "c0" in changed and not case.peepholes:
            continue  # the oracle multiplies c by peepholes of 0; see the next test
        want = rows_of(case, case.expected(**changed))
        for name, array in want.items():
            got, truth = dirty[name][row].astype(np.float64), array[row]
            sure = np.isfinite(truth)
            if "h0" in changed and case.kind == "GRU" and case.reset == "after":
                # z = 0 times inf is NaN; the fused cell, with z never quite 0, leaves inf
                assert not np.isfinite(got[~sure]).all() or sure.all(), (name, case)
            else:
                assert np.array_equal(got[~sure], truth[~sure], equal_nan=True), (name, case)
            assert np.all(np.abs(got[sure] - truth[sure]) <= 1e-5 * np.maximum(1, np.abs(truth[sure]))), (name, case)
            finite += int(sure.all())
    assert finite > CASES / 4, "too few cases in which gates saturate"


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("activations", [(), ("HardSigmoid", "Softsign", "Tanh")])
def test_an_infinite_cell_stays_infinite_and_gives_the_output_gate(value, activations):
    """c' = f c + i g = c while f > 0, h' = o tanh(c') = +-o: as with a cell of +-1e6, whose tanh is +-1 too."""
    activations = tuple(models.default(name) for name in activations)
    case = models.Recurrence(
        "LSTM", 6, 3, 4, 19, 11, states=("", "input"), activations=activations, outputs=("Y", "c"), gain=0.5
    )
    session, feeds = fastlstm.Session(case.model()), case.feeds()
    feeds["x"] = feeds["x"] * np.float32(0.2)  # gates away from 0
    infinite, huge = feeds["c0"].copy(), feeds["c0"].copy()
    infinite[1, 5], huge[1, 5] = value, np.copysign(1e6, value)
    got, want = session.run(feeds | {"c0": infinite}), session.run(feeds | {"c0": huge})
    assert got["c"][1, 5] == value and np.isfinite(np.delete(got["c"], 5, axis=1)).all()
    np.testing.assert_allclose(got["Y"], want["Y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_nan_passes_every_activation_of_a_gate(name):
    for kind in KINDS:
        for place in range(len(models.USUAL[kind])):
            activations = [models.default(usual) for usual in models.USUAL[kind]]
            activations[place] = models.default(name)
            for reset, clip in (("after", 0.0), ("before", 0.5)):
                case = models.Recurrence(kind, 2, 4, 2, 18, 7, activations=tuple(activations), clip=clip, reset=reset)
                x = case.data["x"].copy()
                x[1, 2, 0] = np.nan
                y = fastlstm.Session(case.model()).run({"x": x})["Y"]
                want = np.zeros((2, 4), bool)
                want[1, 2] = True
                assert np.array_equal(np.isnan(y).all(axis=2), want) and np.array_equal(np.isnan(y).any(axis=2), want)


def test_a_nan_weight_reaches_the_units_that_it_feeds():
    """One NaN in U[k, j] of an RNN: unit j is NaN in every row at once, all units one step later."""
    case = replace(
        models.draw_recurrence(np.random.default_rng(2), "RNN", 9), T=4, B=5, H=19, reverse=False, batch_first=False
    )
    case = replace(case, mask="", states=("input", ""), activations=())
    net = case.model()
    net.weights["U"][3, 7] = np.nan  # type: ignore[index]
    nans = np.isnan(fastlstm.Session(net).run(case.feeds())["Y"])
    assert nans[0, :, 7].all() and nans[0].sum() == 5 and nans[1:].all()


@pytest.mark.parametrize("name", list(models.NETWORKS))
def test_layers_around_recurrences_keep_nan_in_its_row(name):
    net = models.network(name, 3)
    if net.graph.inputs[0].dtype == "int64":
        pytest.skip("ids are no floats")
    session, rng = fastlstm.Session(net), np.random.default_rng(1)
    x = models.inputs_for(net, rng, 9, 7)
    clean = session.run({"x": x})
    for value in (np.nan, np.inf, -np.inf):
        dirty_x = x.copy()
        dirty_x[4, 3, 1] = value
        dirty = session.run({"x": dirty_x})
        others = np.arange(9) != 4
        assert all(models.same_bits(clean[k][others], dirty[k][others]) for k in clean)
        if np.isnan(value):  # at its step every unit is NaN, later at least those of forward nodes
            nans = np.isnan(dirty[net.graph.outputs[0].name][4])
            assert nans[3].all() and nans[4:].any(axis=1).all()


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_before", "rnn"])
@pytest.mark.parametrize("H", [1, 2, 3, 5, 8, 9, 10, 12, 17, 20, 36, 50])
def test_infinities_do_to_a_row_alone_what_they_do_among_others(name, H):
    """A single row has a loop and tiles of its own, a last panel of one or two vectors among them; more steps than are projected at once."""
    make = {"lstm": layers.LSTM, "gru": layers.GRU, "gru_before": layers.GRU, "rnn": layers.SimpleRNN}[name]
    options = {"reset_after": name == "gru"} if "gru" in name else {}
    rng, build = np.random.default_rng(H), layers.Build()
    layer = make(H, return_sequences=True, go_backwards=H % 2 == 0, **options)
    x = build.input("x", "float32", ("batch", 60, 3))
    y = layer(x)
    layer.set_weights([rng.standard_normal(w.shape).astype("f4") for w in layer.get_weights()])
    session = fastlstm.Session(build.model([y]))
    rows = rng.standard_normal((4, 60, 3)).astype("f4")
    rows[1, 5, 2], rows[2, 50, 0], rows[3, 0, 1] = np.inf, -np.inf, np.nan
    together = session.run(rows)
    assert np.isfinite(together[0]).all() and np.isnan(together[3]).any()
    for k in range(4):
        assert models.same_bits(session.run(rows[k : k + 1]), together[k : k + 1]), (name, H, k)

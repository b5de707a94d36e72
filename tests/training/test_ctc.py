"""CTC: the loss against every path spelled out, torch and Keras, its slope, its promises, training with it, and what its logits spell."""

from math import inf

import naive
import numpy as np
import pytest
from training import differences, networks

import fastlstm
from fastlstm import layers, losses
from fastlstm.data import ctc_decode
from fastlstm.errors import InputError, ShapeError, TrainingError
from fastlstm.layers.build import Build
from fastlstm.training.gradient import gradients

TOLERANCE = 1e-6  # of float64 against central differences
SINGLE = 1e-5  # of float32 against float64


def draw(rng, B, T, N, most, scale=2.0):
    """Return logits and labels, rows of none, of repeated ones and of too many among them, and the steps that count."""
    x = (rng.standard_normal((B, T, N)) * scale).astype("f4").astype("f8")
    counts = rng.integers(0, most + 1, B)
    labels = rng.integers(1, N, (B, most)) if N > 1 else np.zeros((B, most), np.int64)
    labels[:, 1::3] = labels[:, ::3][:, : labels[:, 1::3].shape[1]]
    return x, np.where(np.arange(most) < counts[:, None], labels, 0), rng.integers(1, T + 1, B)


def needed(labels):
    """Return how many steps labels need."""
    return (labels > 0).sum(1) + ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)).sum(1)


def graph(dtype, steps=True, blank=0):
    """Return a graph of free sizes from logits, labels and a mask to the sum of weighted losses, and the logits."""
    build = Build()
    x, labels = build.input("x", dtype, ("B", "T", "N")), build.input("labels", "int64", ("B", "L"))
    mask = build.input("mask", "bool", ("B", "T")) if steps else None
    loss, slope = build.node("ctc", "CTC", [x, labels, mask], 2, blank=blank)
    return build, x, loss, slope


def run(dtype, feeds, threads=1, steps=True):
    build, _, loss, slope = graph(dtype, steps)
    return differences.run(build, [loss, slope], {**feeds, "x": feeds["x"].astype(dtype)}, threads)


# ---- values --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_the_loss_is_that_of_all_paths(seed):
    rng = np.random.default_rng(seed)
    x, labels, steps = draw(rng, 5, 5, int(rng.integers(2, 5)), int(rng.integers(0, 4)))
    got = fastlstm.ctc(labels, x, input_length=steps)
    for row, label, count, loss in zip(x, labels, steps, got, strict=True):
        chance = naive.spelled(row[:count]).get(tuple(label[label > 0]), 0.0)
        assert loss == (pytest.approx(-np.log(chance), rel=1e-12, abs=1e-12) if chance else inf)


def test_edges():
    x = np.random.default_rng(0).standard_normal((1, 3, 4))
    loss = lambda labels, logits=x, **lengths: float(fastlstm.ctc([labels], logits, **lengths)[0])
    softmax = np.exp(x[0]) / np.exp(x[0]).sum(-1, keepdims=True)
    assert loss([0, 0]) == pytest.approx(-np.log(softmax[:, 0]).sum()), "no labels: blanks at every step"
    assert loss([]) == pytest.approx(-np.log(softmax[:, 0]).sum())
    assert loss([2], x[:, :1]) == pytest.approx(-np.log(softmax[0, 2])), "one step"
    assert loss([1, 1], x[:, :2]) == inf, "equal neighbours need a blank between"
    assert loss([1, 1]) == pytest.approx(-np.log(softmax[0, 1] * softmax[1, 0] * softmax[2, 1]))
    assert loss([1, 2, 3, 1]) == inf, "more labels than steps"
    assert loss([1, 2], input_length=[1]) == inf
    assert loss([0], input_length=[0]) == 0.0 and loss([1], input_length=[0]) == inf
    assert np.isnan(loss([4])) and np.isnan(loss([-1])), "no classes"
    assert loss([1, 3], label_length=[1]) == loss([1])


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize(("T", "N", "most"), [(1, 2, 1), (7, 4, 3), (40, 12, 9), (30, 40, 20), (200, 30, 60)])
def test_loss_and_slope_are_those_of_torch(dtype, bound, T, N, most):
    torch = pytest.importorskip("torch")
    x, labels, steps = draw(np.random.default_rng(T), 6, T, N, most)
    steps = np.maximum(steps, T // 2 + 1)
    loss, slope = run(dtype, {"x": x, "labels": labels, "mask": np.arange(T) < steps[:, None]})
    logits = torch.tensor(x, requires_grad=True)
    theirs = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), torch.tensor(labels), torch.tensor(steps), torch.tensor((labels > 0).sum(1)), reduction="none",
    )  # fmt: skip
    theirs.sum().backward()
    theirs, grad = theirs.detach().numpy(), logits.grad.numpy()
    possible = needed(labels) <= steps
    assert np.isinf(loss[~possible]).all() and np.isinf(theirs[~possible]).all()
    assert np.isnan(slope[~possible]).all()
    np.testing.assert_allclose(loss[possible], theirs[possible], rtol=bound)
    np.testing.assert_allclose(slope[possible], grad[possible], atol=bound)


@pytest.mark.parametrize("seed", range(12))
def test_slope_agrees_with_central_differences_and_float32_with_float64(seed):
    rng = np.random.default_rng(seed)
    sizes = int(rng.integers(1, 4)), int(rng.integers(1, 12)), int(rng.choice([2, 3, 5, 8, 9, 17])), seed % 10
    x, labels, _ = draw(rng, *sizes)
    mask = rng.random(x.shape[:2]) < 0.8
    labels[needed(labels) > mask.sum(1)] = 0
    weights = rng.standard_normal(len(x)).astype("f4")
    found = {}
    for dtype in ("float64", "float32"):
        build, tensor, loss, _ = graph(dtype, blank=0)
        total = differences.projected(build, loss, build.weight("w", weights.astype(dtype)))
        feeds = {"x": x.astype(dtype), "labels": labels, "mask": mask}
        (d,) = gradients(build, total, [tensor])
        assert d is not None
        found[dtype] = differences.run(build, [d], feeds)[0]
        if dtype == "float64":
            assert differences.error(build, total, feeds, [tensor]) < TOLERANCE
    assert np.linalg.norm(found["float32"] - found["float64"]) < SINGLE * max(1e-3, np.linalg.norm(found["float64"]))


def test_a_blank_of_another_class_is_that_class():
    x, labels, _ = draw(np.random.default_rng(2), 4, 9, 5, 3)
    turned = np.roll(x, -1, axis=2)  # class 0 becomes class 4
    build, _, loss, _ = graph("float64", steps=False, blank=4)
    feeds = {"x": turned, "labels": np.where(labels == 0, 4, labels - 1)}
    np.testing.assert_array_equal(differences.run(build, [loss], feeds)[0], run("float64", {"x": x, "labels": labels}, steps=False)[0])  # fmt: skip


# ---- promises ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_has_the_bits_it_has_alone(dtype):
    """Alone and unpadded, steps of no mask left out, labels as many as there are, on one thread."""
    x, labels, _ = draw(np.random.default_rng(3), 13, 21, 11, 8)
    mask = np.random.default_rng(4).random(x.shape[:2]) < 0.8
    feeds = {"x": x, "labels": labels, "mask": mask}
    loss, slope = run(dtype, feeds)
    for threads in (2, 3):
        for got, want in zip(run(dtype, feeds, threads), (loss, slope), strict=True):
            np.testing.assert_array_equal(got, want)
    for row in range(len(x)):
        own = {"x": x[row : row + 1, mask[row]], "labels": labels[row : row + 1, : (labels[row] > 0).sum()]}
        one, slopes = run(dtype, own, steps=False)
        assert one.tobytes() == loss[row : row + 1].tobytes()
        np.testing.assert_array_equal(slopes[0], slope[row, mask[row]])
        if np.isfinite(one[0]):
            assert not slope[row, ~mask[row]].any()


def test_nan_stays_in_its_row():
    x, labels, _ = draw(np.random.default_rng(5), 6, 9, 7, 3)
    labels[:, :2] = [1, 2]
    feeds = {"x": x, "labels": labels}
    clean = run("float32", feeds, steps=False)
    for at, value in ((0, np.nan), (4, np.inf), (8, np.nan)):
        bad = x.copy()
        bad[2, at, at % 7] = value
        for got, want in zip(run("float32", {"x": bad, "labels": labels}, steps=False), clean, strict=True):
            assert np.isnan(got[2]).all()
            np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(want, 2, 0))


def test_a_class_that_cannot_be_is_no_nan():
    x, labels = np.zeros((1, 4, 3)), np.array([[1, 1]])
    x[:, :, 2] = -inf
    loss, slope = run("float64", {"x": x, "labels": labels}, steps=False)
    assert loss[0] == pytest.approx(-np.log(naive.spelled(x[0])[1, 1]))
    assert np.isfinite(slope).all()


# ---- training ------------------------------------------------------------------------------------------------
def _network(dtype="float64", steps=None, classes=5):
    network = fastlstm.Sequential(
        [
            fastlstm.Input((steps, 3), dtype=dtype),
            layers.LSTM(6, return_sequences=True, dtype=dtype),
            layers.Dense(classes, dtype=dtype, name="out"),
        ]
    )
    network.compile(fastlstm.optimizers.SGD(2.0**-3), losses.CTC())
    return network


@pytest.mark.parametrize("weighted", [False, True])
def test_twenty_steps_end_where_those_of_keras_end(weighted):
    """Keras on TensorFlow computes CTC in float32 in float64 too."""
    k = networks.keras("float32")
    rng = np.random.default_rng(6)
    network = _network("float32", 9)
    twin = k.Sequential([k.Input((9, 3)), k.layers.LSTM(6, return_sequences=True), k.layers.Dense(5)])
    twin.set_weights(network.get_weights())
    twin.compile(k.optimizers.SGD(2.0**-3), k.losses.CTC())
    for _ in range(20):
        x = rng.standard_normal((6, 9, 3)).astype("f4")
        _, y, _ = draw(rng, 6, 9, 5, 4)
        weights = rng.random(6).astype("f4") if weighted else None
        ours, theirs = network.train_on_batch(x, y, weights), float(twin.train_on_batch(x, y, weights))
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert networks.worst(network, twin) < 1e-4


def test_sequences_of_different_lengths_count_with_their_own_steps():
    rng = np.random.default_rng(7)
    x = [rng.standard_normal((n, 3)) for n in (5, 9, 7)]
    y = [[1, 2], [3, 3, 4], []]
    network = _network()
    logits = network.predict(x, verbose=0)
    wanted = [float(fastlstm.ctc([label], row[None])[0]) for row, label in zip(logits, y, strict=True)]
    assert network.evaluate(x, y, verbose=0) == pytest.approx(np.mean(wanted), rel=1e-12)
    first = network.train_on_batch(x, y)
    for _ in range(30):
        last = network.train_on_batch(x, y)
    assert last < first


def test_it_learns_to_spell():
    """Frames of noise around patterns: after training the labels are decoded from frames that were not seen."""
    rng = np.random.default_rng(8)
    patterns = rng.standard_normal((5, 3))

    def utterances(count):
        y = np.stack([rng.permutation(4)[:3] + 1 for _ in range(count)])
        x = np.stack([np.repeat(patterns[row], 4, axis=0) for row in y])
        return x + 0.1 * rng.standard_normal(x.shape), y

    fastlstm.set_random_seed(1)
    network = _network("float32", 12)
    network.compile(fastlstm.optimizers.Adam(0.03), "ctc")
    network.fit(*utterances(200), epochs=30, batch_size=20, verbose=0, seed=1)
    x, y = utterances(40)
    for strategy in ("greedy", "beam_search"):
        decoded, _ = ctc_decode(network.predict(x, verbose=0), strategy=strategy, beam_width=8)
        spelled = [tuple(row[row >= 0]) for row in decoded[0]]
        assert np.mean([a == tuple(b) for a, b in zip(spelled, y, strict=True)]) > 0.9


class TestRefusals:
    def _fit(self, y, x=None, network=None, **options):
        x = np.zeros((2, 4, 3)) if x is None else x
        (network or _network(steps=4)).fit(x, y, verbose=0, **options)

    def test_labels_that_are_no_classes(self):
        with pytest.raises(InputError, match=r"the target at \(1, 0\) is 5, expected a class from 0 to 4"):
            self._fit([[1, 2], [5, 0]])

    def test_a_blank_between_labels(self):
        with pytest.raises(InputError, match="output 'out': label 1 of sample 0 is 0, the blank, and others follow"):
            self._fit([[1, 0, 2], [1, 0, 0]])

    def test_labels_that_need_more_steps(self):
        with pytest.raises(InputError, match=r"sample 1 has 3 labels, which need 5 steps .* the output has 4"):
            self._fit([[1, 2, 3], [2, 2, 2]])
        x = [np.zeros((4, 3)), np.zeros((2, 3))]
        with pytest.raises(InputError, match=r"sample 1 has 3 labels, which need 3 steps .* the output has 2"):
            self._fit([[1, 2, 3], [1, 2, 3]], x, _network())

    def test_more_labels_than_masked_steps_end_with_the_node(self):
        network = fastlstm.Sequential([fastlstm.Input((4, 3)), layers.Masking(), layers.Dense(5)])
        network.compile("sgd", "ctc")
        x = np.ones((2, 4, 3))
        x[1, 1:] = 0
        with pytest.raises(TrainingError, match=r"epoch 1, batch 1: the loss is inf; .* node 'ctc' \(CTC\)"):
            self._fit([[1, 2], [1, 2]], x, network)

    def test_shapes(self):
        with pytest.raises(ShapeError, match=r"labels have shape \(2,\), loss 'ctc' expects \(batch, labels\)"):
            self._fit([1, 2])
        network = networks.dense(np.random.default_rng(0))
        network.compile("sgd", losses.CTC())
        with pytest.raises(ShapeError, match=r"output 'out' has shape \(batch, 3\), loss 'ctc' expects \(batch, steps, classes\)"):  # fmt: skip
            network.fit(np.zeros((2, 5)), [[1], [2]], verbose=0)

    def test_weights_of_steps_and_of_classes(self):
        with pytest.raises(ShapeError, match=r"sample_weight of output 'out' has shape \(2, 4\), expected \(2,\)"):
            self._fit([[1], [2]], sample_weight=np.ones((2, 4)))
        with pytest.raises(InputError, match="loss 'ctc' takes sequences of labels: pass sample_weight"):
            self._fit([[1], [2]], class_weight={1: 2.0})


# ---- what logits spell ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_best_labels_of_all_paths(seed):
    rng = np.random.default_rng(seed)
    blank = int(rng.integers(0, 3))
    x, lengths = rng.standard_normal((3, 5, 3)) * 2, np.array([5, 3, 0])
    labels, scores = ctc_decode(x, lengths, "beam_search", 500, 3, mask_index=blank)
    assert labels.shape == (3, 3, 5) and labels.dtype == np.int32
    for row in range(3):
        best = sorted(naive.spelled(x[row, : lengths[row]], blank).items(), key=lambda item: -item[1])[:3]
        for k, (wanted, chance) in enumerate(best):
            assert tuple(labels[k, row][labels[k, row] >= 0]) == wanted
            assert scores[row, k] == pytest.approx(np.log(chance), rel=1e-10, abs=1e-12)
        assert (scores[row, len(best) :] == -inf).all() and (labels[len(best) :, row] == -1).all()


@pytest.mark.parametrize("options", [{}, {"merge_repeated": False}, {"strategy": "beam_search", "top_paths": 3}])
@pytest.mark.parametrize("mask_index", [0, 2])
def test_labels_are_those_of_keras(options, mask_index):
    k = networks.keras("float32")
    x = (np.random.default_rng(9).standard_normal((4, 8, 5)) * 2).astype("f4")
    got = ctc_decode(x, [8, 6, 3, 1], mask_index=mask_index, beam_width=3000, **options)
    want = k.ops.ctc_decode(x, [8, 6, 3, 1], mask_index=mask_index, beam_width=3000, **options)
    np.testing.assert_array_equal(got[0], np.array(want[0]))
    np.testing.assert_allclose(got[1], np.array(want[1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((2, 3)), {}, r"inputs have shape \(2, 3\), expected \(batch, steps, classes\)"),
        (np.zeros((1, 3, 2)), {"sequence_lengths": [4]}, "expected 1 whole numbers from 0 to 3"),
        (np.zeros((1, 3, 2)), {"strategy": "best"}, "strategy='best': expected one of 'beam_search', 'greedy'"),
        (np.zeros((1, 3, 2)), {"mask_index": 2}, "mask_index=2: the inputs have 2 classes"),
        (np.zeros((1, 3, 2)), {"strategy": "beam_search", "beam_width": 0}, "beam_width=0: expected a whole number"),
        (np.zeros((1, 3, 2)), {"strategy": "beam_search", "beam_width": 1, "top_paths": 2}, "top_paths=2: there are"),
    ],
)
def test_decoding_refuses(x, options, message):
    with pytest.raises((InputError, ShapeError), match=message):
        ctc_decode(x, **options)

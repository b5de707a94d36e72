"""Promise 1: same call, same bits. A row's bits depend on that row alone, and time may be cut anywhere.

Each case draws a network, a storage of its weights, 1 to 64 rows in any order out of a pool, lengths, threads, and how time
is cut; every row must equal, bit for bit, that row run alone, at its own length, on one thread.
2,000 cases times FASTLSTM_CASES_SCALE.
"""

import os
import threading
from functools import cache

import models
import numpy as np
import pytest

import fastlstm
from fastlstm.kernels import target

CASES = max(50, int(2000 * float(os.environ.get("FASTLSTM_CASES_SCALE", "1"))))
STEPS, POOL = 11, 64
STORAGES = ("float32", "float16", "int8")


class Bench:
    """One network in one storage, with and without lengths, a pool of rows, and every row alone."""

    def __init__(self, name: str, storage: str):
        self.name = name
        nets = {
            key: models.network(name, 1, **{key: True} if key else {}).narrowed(storage)
            for key in ("", "lengths", "mask")
        }
        self.nets = nets
        self.sessions = {(key, k): fastlstm.Session(net, threads=k) for key, net in nets.items() for k in (1, 2, 3)}
        self.pool = models.inputs_for(nets[""], np.random.default_rng(9), POOL, STEPS)
        self.sequence = nets[""].graph.outputs[0].name
        self._alone: dict = {}

    def alone(self, row: int, steps: int) -> dict:
        """Return the outputs of one row of the pool, cut to `steps` and run by itself."""
        if (row, steps) not in self._alone:
            results = self.sessions["", 1].run({"x": self.pool[row : row + 1, :steps]})
            self._alone[row, steps] = {k: v[0] for k, v in results.items()}
        return self._alone[row, steps]


bench = cache(Bench)


def differing(got: np.ndarray, want: np.ndarray) -> int:
    assert got.shape == want.shape and got.dtype == want.dtype
    return int((got.view(f"u{got.itemsize}") != want.view(f"u{want.itemsize}")).sum())


def plain(b: Bench, rng: np.random.Generator, rows: np.ndarray, threads: int) -> int:
    """A batch of rows in any order, of any length."""
    steps = int(rng.integers(1, STEPS + 1))
    got = b.sessions["", threads].run({"x": b.pool[rows, :steps]})
    return sum(differing(got[k][n], want) for n, row in enumerate(rows) for k, want in b.alone(row, steps).items())


def ragged(b: Bench, rng: np.random.Generator, rows: np.ndarray, threads: int) -> int:
    """A list of sequences of different lengths."""
    lengths = rng.integers(1, STEPS + 1, len(rows))
    got = b.sessions["", threads].run([b.pool[row, :steps] for row, steps in zip(rows, lengths, strict=True)])
    return sum(
        differing(got[n][k], want)
        for n, (row, steps) in enumerate(zip(rows, lengths, strict=True))
        for k, want in b.alone(row, int(steps)).items()
    )


def padded(b: Bench, rng: np.random.Generator, rows: np.ndarray, threads: int) -> int:
    """Rows padded with rubbish to one length, with lengths or with a mask."""
    lengths = rng.integers(1, STEPS + 1, len(rows))
    lengths[0] = STEPS
    x = b.pool[rows].copy()
    pad = np.arange(STEPS) >= lengths[:, None]
    x[pad] = rng.choice([7, 3] if x.dtype.kind == "i" else [np.nan, np.inf, 1e30, -5])
    key = str(rng.choice(["lengths", "mask"]))
    got = b.sessions[key, threads].run({"x": x} | ({"lengths": lengths} if key == "lengths" else {"m": ~pad}))
    bad = 0
    for n, (row, steps) in enumerate(zip(rows, lengths, strict=True)):
        for k, want in b.alone(row, int(steps)).items():
            bad += differing(got[k][n][:steps] if k == b.sequence else got[k][n], want)
    return bad


def streamed(b: Bench, rng: np.random.Generator, rows: np.ndarray, threads: int) -> int:
    """Chunks of 0 to 5 steps, single steps without a time axis, and through the bytes of a state."""
    session = b.sessions["", threads]
    stream, x, done, pieces = session.stream(batch=len(rows)), b.pool[rows], 0, []
    while done < STEPS:
        chunk = int(rng.integers(0, min(5, STEPS - done) + 1))
        if chunk == 1 and rng.random() < 0.5:
            results = {k: v[:, None] if k == b.sequence else v for k, v in stream.step({"x": x[:, done]}).items()}
        else:
            results = stream.step({"x": x[:, done : done + chunk]})
        if rng.random() < 0.2:
            state, stream = fastlstm.State.from_bytes(stream.state.to_bytes()), session.stream(batch=len(rows))
            stream.state = state
        done += chunk
        pieces.append(results)
    got = {k: v for k, v in pieces[-1].items() if k != b.sequence}
    got[b.sequence] = np.concatenate([piece[b.sequence] for piece in pieces], axis=1)
    return sum(differing(got[k][n], want) for n, row in enumerate(rows) for k, want in b.alone(row, STEPS).items())


def arriving(b: Bench, rng: np.random.Generator, rows: np.ndarray, threads: int) -> int:
    """Many streams; each call advances those that have arrived, by as many steps as they all have left."""
    stream, done = b.sessions["", threads].stream(batch=len(rows)), np.zeros(len(rows), int)
    pieces: list[list[np.ndarray]] = [[] for _ in rows]
    while (done < STEPS).any():
        waiting = np.flatnonzero(done < STEPS)
        some = rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1)]
        chunk = int(rng.integers(1, min(4, STEPS - done[some].max()) + 1))
        x = np.stack([b.pool[rows[n], done[n] : done[n] + chunk] for n in some])
        results = stream.step({"x": x}, rows=some)
        for place, n in enumerate(some):
            pieces[n].append(results[b.sequence][place])
        done[some] += chunk
    return sum(differing(np.concatenate(pieces[n]), b.alone(row, STEPS)[b.sequence]) for n, row in enumerate(rows))


WAYS = {"plain": plain, "ragged": ragged, "padded": padded, "streamed": streamed, "arriving": arriving}
PAIRS = [
    (name, way)
    for name in models.NETWORKS
    for way in WAYS
    if name in models.STREAMING or way in ("plain", "ragged", "padded")
]


@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_a_row_has_the_bits_it_has_alone(name, way):
    differ = []
    for number in range(-(-CASES // len(PAIRS))):
        rng = np.random.default_rng([PAIRS.index((name, way)), number])
        b = bench(name, STORAGES[number % 3])
        count = int(rng.choice([1, 2, 3, 5, 6, 7, 11, 12, 13, int(rng.integers(1, 65)), 64]))
        rows = rng.permutation(POOL)[:count] if rng.random() < 0.7 else rng.integers(0, POOL, count)
        bad = WAYS[way](b, rng, rows, int(rng.integers(1, 4)))
        if bad:
            differ.append((number, STORAGES[number % 3], count, bad))
    assert not differ, f"(case, storage, rows, differing elements): {differ[:10]}"


@pytest.mark.parametrize("empty_state", ["carry", "zero"])
@pytest.mark.parametrize("masked_output", ["carry", "zero"])
@pytest.mark.parametrize("kind", models.GATES)
def test_a_masked_stream_equals_the_run_whatever_its_chunks(kind, masked_output, empty_state):
    """Masks with holes, also chunks in which a row has no valid step."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        case = models.draw_recurrence(
            rng, kind, 9, T=9, mask="mask", reverse=False, states=("", ""), masked_output=masked_output, empty_state=empty_state,
            activations=(), outputs=("Y", *models.STATES[kind]),
        )  # fmt: skip
        session, feeds = fastlstm.Session(case.model()), case.feeds()
        want, stream = session.run(feeds), session.stream(batch=case.B)
        axis, cuts = (1 if case.batch_first else 0), np.sort(rng.integers(0, 10, 3))
        chunks = zip(*(np.split(feeds[k], cuts, axis=axis) for k in ("x", "m")), strict=True)
        pieces = [stream.step({"x": x, "m": m}) for x, m in chunks]
        assert models.same_bits(np.concatenate([p["Y"] for p in pieces], axis=axis), want["Y"]), (seed, cuts)
        assert all(models.same_bits(pieces[-1][k], want[k]) for k in models.STATES[kind]), (seed, cuts)


@pytest.mark.parametrize("kind", models.GATES)
def test_threads_split_rows_of_constant_initial_states_too(kind):
    """A constant h0 has one row for each row of the batch: a part of the batch needs its part of h0."""
    case = models.draw_recurrence(
        np.random.default_rng(1), kind, 9, B=7, mask="", states=("constant", "constant"), activations=(), static=False
    )
    want = fastlstm.Session(case.model()).run(case.feeds())
    for threads in (2, 3):
        got = fastlstm.Session(case.model(), threads=threads).run(case.feeds())
        assert all(models.same_bits(got[k], want[k]) for k in want)


@pytest.mark.parametrize("name", ["lstm", "gru_after", "gru_before", "rnn"])
def test_long_sequences_projected_in_several_runs_have_the_bits_of_single_steps(name):
    """At 1 row and 11 rows a run of steps is projected ahead, at 1 step and at 13 rows none is."""
    session, rng = fastlstm.Session(models.network(name, 1)), np.random.default_rng(6)
    x = models.inputs_for(session.model, rng, 13, 1200)
    want = session.run({"x": x})
    sequence = session.outputs[0].name
    for rows in (slice(0, 1), slice(2, 13)):
        got = session.run({"x": x[rows]})
        assert all(models.same_bits(got[k], want[k][rows]) for k in want)
    stream = session.stream()
    steps = [stream.step({"x": x[:1, t]})[sequence] for t in range(1200)]
    assert models.same_bits(np.stack(steps, axis=1), want[sequence][:1])


def test_one_session_gives_the_same_bits_from_8_threads_at_once():
    """Different shapes and inputs at the same time, frames borrowed and given back, and streams beside them."""
    b = bench("stacked", "float32")
    session, failures, start = fastlstm.Session(models.network("stacked", 1), threads=2), [], threading.Barrier(8)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start.wait()
        try:
            for _ in range(40):
                rows, steps = rng.integers(0, POOL, rng.integers(1, 20)), int(rng.integers(1, STEPS + 1))
                x = b.pool[rows, :steps]
                results = session.run({"x": x})
                if seed % 2:
                    stream = session.stream(batch=len(rows))
                    results[b.sequence] = np.concatenate(
                        [stream.step({"x": x[:, t]})[b.sequence][:, None] for t in range(steps)], axis=1
                    )
                bad = sum(
                    differing(results[k][n], want)
                    for n, row in enumerate(rows)
                    for k, want in b.alone(row, steps).items()
                )
                failures.extend([(seed, len(rows), steps, bad)] if bad else [])
        except BaseException as error:  # a thread's error must reach the test
            failures.append(repr(error))

    for row in range(POOL):
        for steps in range(1, STEPS + 1):
            b.alone(row, steps)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:5]


def test_a_session_again_and_another_session_give_the_same_bits():
    for name in models.NETWORKS:
        net = models.network(name, 4)
        x = models.inputs_for(net, np.random.default_rng(0), 9, 8)
        session = fastlstm.Session(net)
        runs = [session.run({"x": x}), session.run({"x": x}), fastlstm.Session(net).run({"x": x})]
        assert all(models.same_bits(runs[0][k], run[k]) for run in runs for k in run), name


def test_layout_of_the_input_array_does_not_matter():
    """Strided, transposed, reversed and Fortran-ordered inputs give the bits of a plain copy."""
    for name in ("lstm", "gru_before", "conv_front"):
        session = fastlstm.Session(models.network(name, 2))
        x = models.inputs_for(session.model, np.random.default_rng(5), 10, 9)
        want = session.run({"x": x[::-2].copy()})
        for view in (x[::-2], np.asfortranarray(x[::-2]), np.repeat(x, 2, axis=2)[::-2, :, ::2]):
            got = session.run({"x": view})
            assert all(models.same_bits(got[k], want[k]) for k in want)


@pytest.mark.parametrize("units", [8, 16])
def test_a_row_of_very_many_inputs_has_the_bits_it_has_alone(units):
    """So many pieces that their lengths, rounded up, are more than all inputs: a piece must not pass the end of W and U."""
    model = fastlstm.Sequential(
        [fastlstm.Input((2, 50 * target.DEPTH + 50)), fastlstm.layers.LSTM(units, return_sequences=True)]
    )
    x = np.random.default_rng(0).standard_normal((13, 2, 50 * target.DEPTH + 50)).astype(np.float32) / 16
    assert differing(model.predict(x), np.concatenate([model.predict(row[None]) for row in x])) == 0

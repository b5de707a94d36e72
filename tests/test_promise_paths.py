"""Promise 1 on every path of a recurrence: whatever path computes a row, its bits are the same.

Each network draws a kind, its options and sizes; each case draws rows of it, each with a length, and two ways of computing them:
alone, in batches, by a team of threads, with lengths, as a list, under masks, cut in time, as streams. The two must agree in every bit,
also of a NaN. Which paths were reached is read from the programs that ran; a path that none reached is a failure.

CI runs a seeded sample; FASTLSTM_FULL=1 runs 20,000 cases. `-s` prints the counts.
"""

import os
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import models
import numpy as np
import pytest

import fastlstm
from fastlstm import plan, program, session
from fastlstm.graph import Node
from fastlstm.kernels import ragged, target
from fastlstm.team import available_threads

FULL = os.environ.get("FASTLSTM_FULL") == "1"
CASES = int(os.environ.get("FASTLSTM_PROMISE", 20_000 if FULL else 1_200))
PER_NETWORK, PARTS, POOL = 10, 4, 20
KINDS = (("LSTM", "after"), ("GRU", "after"), ("GRU", "before"), ("RNN", "after"))
# places of the arguments of `recurrence.make_steps`
T, B, I, H, RUN, REVERSE, MASKED, SPLIT, TAIL, RAGGED = 23, 24, 25, 26, 28, 29, 31, 32, 34, 17
TEAM = available_threads() > 1


class Watch:
    """Counts the paths of what runs; forces a team, or one thread, on every program."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path):
        self.folder = folder
        self.paths: Counter = Counter()
        self.together = False
        lead = program.run_together

        def run_together(*args):
            refused = lead(*args)
            self.paths["a team"] += refused is not None
            return refused

        def run(frame: plan.Frame, resume: bool) -> None:
            frame.program.run(resume, self.together and frame.program.threads > 1)
            self.note(frame, self.together and frame.program.threads > 1)

        ready = session._Ready.run

        def run_ready(*args):
            self.paths["a run that is one compiled call"] += 1
            return ready(*args)

        monkeypatch.setattr(session._Ready, "run", run_ready)
        monkeypatch.setattr(program, "SMALL_WORK", 0)  # everything is shared
        monkeypatch.setattr(program, "run_together", run_together)
        monkeypatch.setattr(plan.Frame, "_run", run)

    def note(self, frame: plan.Frame, together: bool) -> None:
        for step in frame.program.steps:
            if not isinstance(step, program.KernelStep) or step.kernel not in (
                "lstm_forward", "gru_after_forward", "gru_before_forward", "rnn_forward",
            ):  # fmt: skip
                continue
            a, paths = step.args, self.paths
            if not a[T] or not a[B]:
                paths["nothing to do"] += 1
                continue
            kind = step.kernel.removesuffix("_forward")
            how = "fused" if a[RUN] == 0 else "hoisted"
            how += ", one row" if a[B] == 1 and (a[MASKED] == -1 or a[RAGGED][ragged.KIND] != ragged.HOLES) else ""
            paths[f"{kind}, {step.kind.name}, {how}"] += 1
            inputs = a[H] + (0 if a[RUN] else a[I])
            paths["hoisted in pieces"] += a[RUN] > 0 and a[I] >= 2 * target.DEPTH
            paths["fused in pieces"] += a[RUN] == 0 and inputs >= 2 * target.DEPTH
            paths["several blocks of rows"] += a[B] > target.BLOCK
            paths["hoisted in several runs"] += 0 < a[RUN] < a[T]
            paths["hoisted in several runs, one row"] += 0 < a[RUN] < a[T] and how.endswith("one row")
            paths[f"{kind}, tail of {a[TAIL]}"] += 1
            paths[f"{kind}, tail of {a[TAIL]}, one row"] += how.endswith("one row")
            panels = -(-a[H] // (target.lanes(step.kind.itemsize) * (4 if kind == "rnn" else 1)))
            paths[f"{kind}, several panels"] += panels > 1
            turn = frame.__dict__.get("turn", 0)
            paths["panels backwards first"] += panels > 1 and turn == 1
            frame.__dict__["turn"] = (turn + a[T]) % 2
            paths["reverse"] += bool(a[REVERSE])
            paths["batches of 7 to 11 rows"] += 7 <= a[B] < 12
            if a[MASKED] != -1:
                words = a[RAGGED]
                rows = ("whole", "nested", "holes")[words[ragged.KIND]]
                rows += ", permuted" if rows == "nested" and words[ragged.PERMUTED] else ""
                paths[f"masked {('zero', 'carry')[a[MASKED]]}, {rows}, {how}"] += 1
                paths[f"masked, {rows}, a team"] += together
            if together:
                paths[f"{kind}, split {('rows', 'panels')[a[SPLIT]]}, {how}"] += step.owner == program.SHARED


class Network:
    """One recurrent node, perhaps a Dense layer after it, and a pool of rows; its twins take states or masks as inputs."""

    def __init__(self, rng: np.random.Generator, watch: Watch):
        self.watch = watch
        kind, reset = KINDS[rng.integers(len(KINDS))]
        large = rng.random() < 0.02
        size_i = int(rng.choice([1025, 1100, 2049])) if large else int(rng.integers(1, 41))
        size_h = int(
            rng.integers(1, 20) if large else rng.choice([rng.integers(1, 49), rng.integers(49, 140)], p=(0.85, 0.15))
        )
        self.steps = int(
            rng.integers(1, 7) if large else rng.integers(73, 85) if rng.random() < 0.03 else rng.integers(1, 27)
        )
        dtype = "float64" if rng.random() < 0.2 else "float32"
        self.storage = "float32" if dtype == "float64" else str(rng.choice(["float32", "float16", "int8"]))
        self.case = models.draw_recurrence(
            rng, kind, 9, T=self.steps, B=POOL, I=size_i, H=size_h, dtype=dtype, reset=reset, mask="", static=False,
            outputs=("Y", *models.STATES[kind]), **({} if rng.random() < 0.35 else {"activations": (), "clip": 0.0, "peepholes": False, "input_forget": False}),
        )  # fmt: skip
        self.stateful = rng.random() < 0.5
        data = self.case.data
        self.dense = (
            (rng.standard_normal((size_h, int(rng.integers(1, 80)))) / 4).astype(dtype) if rng.random() < 0.3 else None
        )
        self.x = data["x"].swapaxes(0, 1).copy()  # (row, step, I)
        if rng.random() < 0.15:
            self.spoil(rng)
        zeros = np.zeros_like(data["h0"])
        self.states = [data[f"{role}0"] if self.stateful else zeros for role in models.STATES[kind]]
        self.time_axis = 1 if self.case.batch_first else 0
        self.empty = str(rng.choice(["carry", "zero"]))
        self.masked = str(rng.choice(["carry", "zero"]))
        # a model of one input and one output has a shorter way in
        self.short = not self.stateful and rng.random() < 0.4
        whole = ["Y"] if self.dense is None else ["Y", "D"]
        self.names = sorted(whole[-1:] if self.short else [*whole, *models.STATES[kind]])
        self._sessions: dict = {}

    def spoil(self, rng: np.random.Generator) -> None:
        """Put NaN of any payload, infinities, and numbers too small for the normal range among the inputs."""
        word = np.dtype(f"u{self.x.itemsize}")
        for _ in range(6):
            place = tuple(rng.integers(0, n) for n in self.x.shape)
            strange = np.array([np.nan, -np.nan, np.inf, -np.inf, 1e-40, -0.0]).astype(self.x.dtype)
            value = strange.view(word)[rng.integers(6)]
            self.x.view(word)[place] = (
                value | word.type(rng.integers(1 << 20)) if np.isnan(value.view(self.x.dtype)) else value
            )

    def session(self, states: bool, mask: bool, threads: int) -> fastlstm.Session:
        """Return a session of this network with these inputs besides x."""
        key = states, mask, threads
        if key not in self._sessions:
            given = ("input",) * 2 if states else ("", "")
            short = self.short and not states and not mask
            case = replace(self.case, states=given, mask="mask" if mask else "", masked_output=self.masked, empty_state=self.empty,
                           outputs=("Y",) if short else self.case.outputs)  # fmt: skip
            net = case.model()
            if self.dense is not None:
                nodes = [*net.graph.nodes, Node("d", "Dense", ("Y", "k"), ("D",))]
                inputs = [(s.name, s.dtype, s.shape) for s in net.graph.inputs]
                net = models.model(
                    nodes, inputs, ["D"] if short else [*case.outputs, "D"], dict(net.weights) | {"k": self.dense}
                )
            if self.storage != "float32":
                net.save(self.watch.folder / "model.safetensors", weights=self.storage)
                net = fastlstm.load(self.watch.folder / "model.safetensors")
            self._sessions[key] = fastlstm.Session(net, threads=threads)
        return self._sessions[key]

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Rows first to the order of the model, or back."""
        return array if self.case.batch_first else array.swapaxes(0, 1)

    def cut(self, row: int, steps: int) -> np.ndarray:
        return self.x[row, :steps]

    def with_states(self, feeds: dict, rows: np.ndarray) -> dict:
        return feeds | {
            f"{role}0": state[rows] for role, state in zip(models.STATES[self.case.kind], self.states, strict=True)
        }

    def results(self, outputs: dict, place: int, steps) -> list[np.ndarray]:
        """Return the outputs of one row: over time at `steps` (a slice, or places), and the final states."""
        return [
            (self.turned(outputs[name])[place][steps] if name in ("Y", "D") else outputs[name][place]).copy()
            for name in self.names
        ]

    def run(self, session: fastlstm.Session, feeds: dict) -> dict:
        """Run; where there is a shorter way in, by that, which the second call of a kind takes."""
        if not self.short or self.watch.together:
            return session.run(feeds)
        first = session.run(feeds["x"])
        again = session.run(feeds["x"])
        assert models.same_bits(first, again)
        return {self.names[0]: again}


Rows = list[tuple[int, int]]  # of the pool, with the number of their steps


def threads_for(net: Network, rng: np.random.Generator) -> int:
    """Decide whether a team runs what comes next."""
    net.watch.together = TEAM and rng.random() < 0.3
    return 2 if net.watch.together else 1


def among_others(net: Network, rng: np.random.Generator, some: Rows) -> tuple[Rows, list[int]]:
    """Return the rows in another order among others, and where each went."""
    longest = max(steps for _, steps in some)
    more = int(rng.choice([0, 0, 1, 4, 8, 14]))
    everyone = some + [(int(rng.integers(POOL)), int(rng.integers(0, longest + 1))) for _ in range(more)]
    order = rng.permutation(len(everyone))
    return [everyone[k] for k in order], [int(np.flatnonzero(order == k)[0]) for k in range(len(some))]


def alone(net: Network, rng: np.random.Generator, some: Rows) -> list:
    """Every row in a call of its own."""
    session, results = net.session(net.stateful, False, threads_for(net, rng)), []
    for row, steps in some:
        feeds = {"x": net.turned(net.cut(row, steps)[None])}
        outputs = net.run(session, net.with_states(feeds, np.array([row])) if net.stateful else feeds)
        results.append(net.results(outputs, 0, slice(None)))
    return results


def batched(net: Network, rng: np.random.Generator, some: Rows) -> list:
    """The rows of one length together, with others."""
    session, results = net.session(net.stateful, False, threads_for(net, rng)), [None] * len(some)
    for steps in {steps for _, steps in some}:
        mine = [k for k, (_, length) in enumerate(some) if length == steps]
        rows = [some[k][0] for k in mine] + list(rng.integers(0, POOL, rng.choice([0, 1, 5, 9, 14])))
        order = rng.permutation(len(rows))
        rows = np.array(rows)[order]
        feeds = {"x": net.turned(net.x[rows, :steps])}
        outputs = net.run(session, net.with_states(feeds, rows) if net.stateful else feeds)
        for place, k in enumerate(mine):
            results[k] = net.results(outputs, int(np.flatnonzero(order == place)[0]), slice(None))
    return results


def padding(net: Network, rng: np.random.Generator, rows: int, steps: int) -> np.ndarray:
    return np.full((rows, steps, net.case.I), rng.choice([np.nan, np.inf, 1e30, -5.0, 0.0]), net.x.dtype)


def with_lengths(net: Network, rng: np.random.Generator, some: Rows) -> list:
    """One padded batch with lengths."""
    session = net.session(net.stateful, False, threads_for(net, rng))
    everyone, places = among_others(net, rng, some)
    x = padding(net, rng, len(everyone), max(steps for _, steps in everyone) + int(rng.integers(0, 3)))
    for place, (row, steps) in enumerate(everyone):
        x[place, :steps] = net.cut(row, steps)
    feeds, rows = {"x": net.turned(x)}, np.array([row for row, _ in everyone])
    feeds = net.with_states(feeds, rows) if net.stateful else feeds
    outputs = session.run(feeds, lengths=[steps for _, steps in everyone])
    return [net.results(outputs, place, slice(steps)) for place, (_, steps) in zip(places, some, strict=True)]


def listed(net: Network, rng: np.random.Generator, some: Rows) -> list:
    """A list of sequences."""
    session = net.session(False, False, threads_for(net, rng))
    everyone, places = among_others(net, rng, some)
    results = session.run([net.cut(row, steps) for row, steps in everyone])
    if net.short:
        return [[results[place]] for place in places]
    return [[results[place][name] for name in net.names] for place in places]


def masked(net: Network, rng: np.random.Generator, some: Rows) -> list:
    """A batch under a mask: the valid steps of each row on the right, on the left, or anywhere."""
    session = net.session(net.stateful, True, threads_for(net, rng))
    everyone, places = among_others(net, rng, some)
    size = max(steps for _, steps in everyone) + int(rng.integers(0, 4))
    x, valid = padding(net, rng, len(everyone), size), np.zeros((len(everyone), size), bool)
    side = rng.choice(["right", "left", "anywhere", "anywhere" if size < 15 else "right"])
    for place, (row, steps) in enumerate(everyone):
        at = {"right": np.arange(steps), "left": np.arange(size - steps, size)}.get(
            str(side), np.sort(rng.permutation(size)[:steps])
        )
        valid[place, at], x[place, at] = True, net.cut(row, steps)
    feeds, rows = {"x": net.turned(x), "m": net.turned(valid)}, np.array([row for row, _ in everyone])
    outputs = session.run(net.with_states(feeds, rows) if net.stateful else feeds)
    results = [net.results(outputs, place, valid[place]) for place in places]
    check_masked_steps(net, net.turned(outputs["Y"]), valid)
    for (row, steps), result in zip(some, results, strict=True):
        if steps == 0 and net.empty == "zero":  # the state of a row without a valid step is by definition another
            for role, state in zip(models.STATES[net.case.kind], net.states, strict=True):
                if role in net.names:
                    assert not result[net.names.index(role)].any()
                    result[net.names.index(role)] = state[row].copy()
    return results


def check_masked_steps(net: Network, y: np.ndarray, valid: np.ndarray) -> None:
    """Masked steps are zeros, or carry the output of the step processed before."""
    last = np.zeros_like(y[:, 0]) if y.shape[1] else y
    steps = range(y.shape[1])
    for t in reversed(steps) if net.case.reverse else steps:
        now = valid[:, t, None]
        wanted = np.where(now, y[:, t], last if net.masked == "carry" else 0)
        assert models.same_bits(wanted, y[:, t].copy())
        last = wanted


def cut_in_time(net: Network, rng: np.random.Generator, some: Rows) -> list:
    """Each part of the steps in a call of its own, which starts from the states that the one before ended with."""
    session = net.session(True, False, threads_for(net, rng))
    roles, results = models.STATES[net.case.kind], [None] * len(some)
    for steps in {steps for _, steps in some}:
        mine = [k for k, (_, length) in enumerate(some) if length == steps]
        rows = np.array([some[k][0] for k in mine] + list(rng.integers(0, POOL, rng.choice([0, 3, 12]))))
        cuts = [0, *sorted(rng.integers(0, steps + 1, rng.integers(0, 4))), steps]
        parts = [slice(int(a), int(b)) for a, b in pairwise(cuts)]
        states, pieces = {f"{role}0": state[rows] for role, state in zip(roles, net.states, strict=True)}, []
        for part in reversed(parts) if net.case.reverse else parts:
            outputs = session.run({"x": net.turned(net.x[rows, part])} | states)
            states = {f"{role}0": outputs[role] for role in roles}
            pieces.append(outputs)
        whole = {
            name: np.concatenate([p[name] for p in (reversed(pieces) if net.case.reverse else pieces)], axis=net.time_axis)
            if name in ("Y", "D") else pieces[-1][name] for name in pieces[-1]
        }  # fmt: skip
        for place, k in enumerate(mine):
            results[k] = net.results(whole, place, slice(None))
    return results


def streamed(net: Network, rng: np.random.Generator, some: Rows) -> list:
    """Streams: chunks and single steps of all rows or of those that have arrived."""
    session = net.session(False, False, threads_for(net, rng))
    stream, done, pieces = session.stream(batch=len(some)), np.zeros(len(some), int), [[] for _ in some]
    if net.stateful:
        rows = [row for row, _ in some]
        stream.state = {
            f"net.{role}": s[rows] for role, s in zip(models.STATES[net.case.kind], net.states, strict=True)
        }
    lengths = np.array([steps for _, steps in some])
    names = net.names
    while True:
        waiting = np.flatnonzero(done < lengths)
        everyone = len(waiting) == len(some) and rng.random() < 0.6
        now = (
            np.arange(len(some))
            if everyone
            else rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1) if len(waiting) else 0]
        )
        chunk = int(rng.integers(0, min(13, (lengths - done)[now].min()) + 1)) if len(now) else 0
        single = chunk == 1 and rng.random() < 0.7
        x = np.stack([net.x[some[k][0], done[k] : done[k] + chunk] for k in now]) if len(now) else net.x[:0, :0]
        x = x[:, 0] if single else net.turned(x)
        if net.short:
            net.watch.paths["a step that is one compiled call"] += (
                stream._own is not None and everyone and x.shape in stream._own.views
            )
            outputs = {names[0]: stream.step(x, rows=None if everyone else now)}
        else:
            outputs = stream.step({"x": x}, rows=None if everyone else now)
        for place, k in enumerate(now):
            over_time = {
                n: outputs[n][place : place + 1] if single else net.turned(outputs[n])[place]
                for n in names
                if n in ("Y", "D")
            }
            pieces[k].append(over_time)
        done[now] += chunk
        if len(waiting) == 0:
            break
        if rng.random() < 0.1:
            kept, stream = fastlstm.State.from_bytes(stream.state.to_bytes()), session.stream(batch=len(some))
            stream.state = kept
    empty = {
        n: np.zeros((0, net.case.H if n == "Y" else net.dense.shape[1]), net.x.dtype) for n in names if n in ("Y", "D")
    }
    return [
        [
            np.concatenate([empty[n], *(p[n] for p in pieces[k])]) if n in empty else stream.state[f"net.{n}"][k].copy()
            for n in names
        ]
        for k in range(len(some))
    ]


WAYS = {way.__name__: way for way in (alone, batched, with_lengths, listed, masked, cut_in_time, streamed)}


def ways_of(net: Network) -> list[str]:
    left = {"listed"} if net.stateful else set()
    left |= {"streamed"} if net.case.reverse else set()
    return [way for way in WAYS if way not in left]


def draw_rows(rng: np.random.Generator, steps: int) -> Rows:
    count = int(rng.choice([1, 1, 2, 3, 6, 7, 11, 12, 13]))
    if rng.random() < 0.03:
        count = int(rng.choice([1, 2, 3])) * target.BLOCK + int(rng.integers(-1, 2))
    rows = rng.integers(0, POOL, count)
    if rng.random() < 0.5:
        return [(int(row), steps) for row in rows]
    return [(int(row), int(rng.integers(0, steps + 1))) for row in rows]


def differing(got: np.ndarray, want: np.ndarray) -> int:
    assert got.shape == want.shape and got.dtype == want.dtype, (got.shape, want.shape)
    return int((got.view(f"u{got.itemsize}") != want.view(f"u{want.itemsize}")).sum())


REACHED = [
    *(
        f"{kind}, {dtype}, {how}"
        for kind in ("lstm", "gru_after", "gru_before", "rnn")
        for dtype in ("float32", "float64")
        for how in ("fused", "hoisted", "fused, one row", "hoisted, one row")
    ),
    *(f"{kind}, several panels" for kind in ("lstm", "gru_after", "gru_before", "rnn")),
    *(f"{kind}, tail of {tail}{rows}" for kind in ("lstm", "gru_after", "gru_before", "rnn") for tail in (0, 1, 2) for rows in ("", ", one row")),
    *(f"masked {how}, {rows}, {at}" for how in ("zero", "carry") for rows in ("nested", "nested, permuted", "holes") for at in ("fused", "hoisted")),
    *(f"masked {how}, {rows}, hoisted, one row" for how in ("zero", "carry") for rows in ("whole", "nested")),
    "hoisted in pieces", "fused in pieces", "several blocks of rows", "hoisted in several runs", "hoisted in several runs, one row", "panels backwards first", "reverse", "nothing to do",
    "a run that is one compiled call", "a step that is one compiled call",
]  # fmt: skip
BY_A_TEAM = [
    *(f"{kind}, split {what}" for kind in ("lstm", "gru_after", "gru_before", "rnn") for what in ("rows, fused", "panels, hoisted")),
    *(f"{kind}, split panels, hoisted, one row" for kind in ("lstm", "gru_after", "gru_before", "rnn")),
    *(f"masked, {rows}, a team" for rows in ("nested", "nested, permuted", "holes")),
]  # fmt: skip


@pytest.fixture(scope="module")
def reached() -> Counter:
    return Counter()


@pytest.mark.parametrize("part", range(PARTS))
def test_two_ways_of_computing_the_same_rows_give_the_same_bits(part, reached, monkeypatch, tmp_path):
    watch, differ = Watch(monkeypatch, tmp_path), []
    ways: Counter = Counter()
    for number in range(-(-CASES // PARTS // PER_NETWORK)):
        rng = np.random.default_rng([part, number])
        net = Network(rng, watch)
        for k in range(PER_NETWORK):
            some = draw_rows(rng, net.steps)
            first, second = (str(way) for way in rng.permutation(ways_of(net))[:2])
            if rng.random() < 0.1:
                second = first  # again, in another order, among others
            got, want = (WAYS[way](net, rng, some) for way in (first, second))
            bad = sum(differing(g, w) for a, b in zip(got, want, strict=True) for g, w in zip(a, b, strict=True))
            ways.update([first, second])
            reached["cases"] += 1
            reached[f"{net.storage if net.case.dtype == 'float32' else 'float64'} weights"] += 1
            if bad:
                differ.append((part, number, k, first, second, bad, net.case, net.storage, some))
    reached.update(watch.paths)
    reached.update({f"way: {way}": count for way, count in ways.items()})
    reached["differing cases"] += len(differ)
    assert not differ, f"{len(differ)} cases: {differ[:4]}"


def test_every_path_was_reached(reached):
    if reached["cases"] < max(CASES, 1_000):
        pytest.skip("needs all parts of the test above")
    print(f"\n{reached['cases']} cases, {reached['differing cases']} with differing bits; runs by path:")
    for path, count in sorted(reached.items()):
        print(f"  {path}: {count}")
    missing = [path for path in REACHED + (BY_A_TEAM if TEAM else []) if not reached[path]]
    assert not missing

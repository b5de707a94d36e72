"""Random recurrent modules of torch, exported to ONNX as torch does, converted, and compared with torch.

A graph agrees, within 1e-5 max(1, |y|) for several batches and numbers of steps where these are free, or is refused by name; anything else is
an error. Torch's newer exporter writes the sizes that it saw into many graphs; for others onnxruntime then gives or refuses what we do.
As a program, `python tests/converters/differential_torch.py --modules 200` compares so many of each exporter and says what it saw.
"""

import argparse
import io
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastlstm
from fastlstm.converters.from_onnx import from_onnx
from fastlstm.errors import ShapeError, UnsupportedError

KINDS = ("stacked", "states", "packed", "cells", "convolved", "two")
EXPORTERS = ("script", "dynamo")
EXPORTED, SIZES = (2, 5), ((3, 6), (1, 4), (5, 9))  # batches and steps
TOLERANCE = 1e-5  # times max(1, |y|)


@dataclass
class Module:
    """A module with the inputs that it is exported with, the names of its free axes, and inputs of other sizes."""

    kind: str
    about: str
    module: Any
    make: Any  # (batch, steps) -> inputs
    names: list[str]
    free: dict[str, dict[int, str]]


def modules(torch: Any) -> dict[str, Any]:
    """Return torch's recurrent modules by name, and their cells."""
    nn = torch.nn
    return {"LSTM": (nn.LSTM, nn.LSTMCell), "GRU": (nn.GRU, nn.GRUCell), "RNN": (nn.RNN, nn.RNNCell)}


def draw(torch: Any, rng: np.random.Generator, kind: str) -> Module:
    """Return a random module of a kind."""
    nn = torch.nn
    torch.manual_seed(int(rng.integers(2**31)))
    coin = lambda p=0.5: bool(rng.random() < p)
    name = str(rng.choice(["LSTM", "GRU", "RNN"]))
    layer, cell = modules(torch)[name]
    I, H = (int(n) for n in rng.integers(1, 14, 2))
    layers, both, first, bias = int(rng.integers(1, 4)), coin(), coin(), coin(0.8)
    more = {"nonlinearity": str(rng.choice(["tanh", "relu"]))} if name == "RNN" else {}
    about = f"{name} I={I} H={H} layers={layers} bidirectional={both} batch_first={first} bias={bias} {more or ''}"
    options = dict(num_layers=layers, bidirectional=both, batch_first=first, bias=bias, **more)
    sides = 2 if both else 1
    x_of = lambda B, T: torch.from_numpy(rng.standard_normal((B, T, I) if first else (T, B, I)).astype(np.float32))
    batch, time = (0, 1) if first else (1, 0)
    free = {"x": {batch: "batch", time: "time"}}

    if kind == "stacked":

        class Stacked(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = layer(I, H, **options)
                self.out = nn.Linear(sides * H, 3)

            def forward(self, x):
                return torch.sigmoid(self.out(self.rnn(x)[0]))

        return Module(kind, about, Stacked(), lambda B, T: [x_of(B, T)], ["x"], free)

    if kind == "states":
        names = ["x", "h0", "c0"] if name == "LSTM" else ["x", "h0"]

        class States(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = layer(I, H, **options)

            def forward(self, x, *states):
                y, ends = self.rnn(x, states if name == "LSTM" else states[0])
                return (y, *ends) if name == "LSTM" else (y, ends)

        state = lambda B: torch.from_numpy(rng.standard_normal((layers * sides, B, H)).astype(np.float32))
        make = lambda B, T: [x_of(B, T), *(state(B) for _ in names[1:])]
        return Module(kind, about, States(), make, names, free | {n: {1: "batch"} for n in names[1:]})

    if kind == "packed":

        class Packed(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = layer(I, H, **options)

            def forward(self, x, lengths):
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=True)
                y, _ = self.rnn(packed)
                return nn.utils.rnn.pad_packed_sequence(y, batch_first=first)[0]

        def make(B, T):
            lengths = np.sort(rng.integers(1, T + 1, B))[::-1].copy()
            lengths[0] = T
            return [x_of(B, T), torch.from_numpy(lengths)]

        return Module(kind, about, Packed(), make, ["x", "lengths"], free | {"lengths": {0: "batch"}})

    if kind == "cells":
        steps = int(rng.integers(2, 6))

        class Cells(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = cell(I, H, bias=bias, **more)

            def forward(self, x):
                state, found = None, []
                for t in range(steps):
                    state = self.cell(x[:, t], state)
                    found.append(state[0] if name == "LSTM" else state)
                return torch.stack(found, 1)

        make = lambda B, T: [torch.from_numpy(rng.standard_normal((B, steps, I)).astype(np.float32))]
        return Module(kind, f"{about} steps={steps}", Cells(), make, ["x"], {"x": {0: "batch"}})

    if kind == "convolved":
        K = int(rng.integers(1, 4))

        class Convolved(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv1d(I, 7, K, padding=K // 2)
                self.norm = nn.LayerNorm(7) if coin() else nn.Identity()
                self.rnn = layer(7, H, **{**options, "batch_first": True})
                self.out = nn.Linear(sides * H, 4)

            def forward(self, x):
                y, _ = self.rnn(self.norm(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)))
                return torch.log_softmax(self.out(y[:, -1]), -1)

        module = Convolved()
        with torch.no_grad():
            module.norm.requires_grad_(False)
        make = lambda B, T: [torch.from_numpy(rng.standard_normal((B, T, I)).astype(np.float32))]
        return Module(kind, f"{about} K={K}", module, make, ["x"], {"x": {0: "batch", 1: "time"}})

    class Two(nn.Module):
        """An encoder whose last state starts a decoder, with attention over its outputs."""

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, I)
            self.encoder = layer(I, H, bias=bias, batch_first=True, **more)
            self.decoder = layer(I, H, bias=bias, batch_first=True, **more)
            self.out = nn.Linear(2 * H, 5)

        def forward(self, source, target):
            seen, state = self.encoder(self.embed(source))
            y, _ = self.decoder(self.embed(target), state)
            weights = torch.softmax(torch.bmm(y, seen.transpose(1, 2)) / H**0.5, -1)
            return self.out(torch.cat([y, torch.bmm(weights, seen)], -1))

    ids = lambda B, T: torch.from_numpy(rng.integers(0, 11, (B, T)))
    axes = {"source": {0: "batch", 1: "time"}, "target": {0: "batch", 1: "later"}}
    return Module("two", about, Two(), lambda B, T: [ids(B, T), ids(B, T + 2)], ["source", "target"], axes)


def exported(torch: Any, one: Module, exporter: str, given: list[Any]) -> bytes:
    """Return the ONNX file of a module. What torch itself cannot export raises its own errors."""
    module = one.module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "script":
            file = io.BytesIO()
            torch.onnx.export(
                module, tuple(given), file, input_names=one.names, dynamic_axes=one.free, dynamo=False, opset_version=17
            )
            return file.getvalue()
        shapes = [dict.fromkeys(one.free.get(name, {}), torch.export.Dim.AUTO) for name in one.names]
        if one.kind == "states":
            shapes = [shapes[0], tuple(shapes[1:])]
        program = torch.onnx.export(
            module, tuple(given), input_names=one.names, dynamic_shapes=tuple(shapes), dynamo=True, verbose=False
        )
        return program.model_proto.SerializeToString()


def engine_outputs(data: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """Return what onnxruntime gives, None where it refuses these inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    try:
        return [np.asarray(result) for result in session.run(None, feeds)]
    except Exception:  # its errors have no common class but this
        return None


def difference(got: list[np.ndarray] | None, want: list[np.ndarray] | None) -> float:
    """Return the largest difference of outputs, of max(1, |want|); infinite where shapes differ or one alone was refused, 0 where both were."""
    if got is None or want is None:
        return 0.0 if got is want else np.inf
    if [a.shape for a in got] != [b.shape for b in want]:
        return np.inf
    return max(float((np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0)) for a, b in zip(got, want, strict=True))


def compare(torch: Any, one: Module, data: bytes) -> bool:
    """Compare all outputs for the sizes of the export and for others; return whether the graph holds for others.

    Where it does not, onnxruntime has to give or refuse what we do. Raise AssertionError with what differs.
    """
    session = fastlstm.Session(from_onnx(data, {}))
    for B, T in (EXPORTED, *SIZES):
        given = one.make(B, T)
        with torch.no_grad():
            made = one.module(*given)
        want = [array.numpy() for array in (made if isinstance(made, tuple) else (made,))]
        feeds = {spec.name: np.asarray(array) for spec, array in zip(session.inputs, given, strict=True)}
        try:
            got = list(session.run(feeds).values())
        except ShapeError:
            got = None
        off = difference(got, want)
        if off > TOLERANCE and (B, T) != EXPORTED and difference(got, engine_outputs(data, feeds)) <= TOLERANCE:
            return False
        assert off <= TOLERANCE, f"{one.kind} {one.about}: off by {off:.2g} for batch {B}, {T} steps"
    return True


def differential(count: int, exporter: str, seed: int = 0) -> Counter:
    """Compare `count` modules; return what became of them. Raise AssertionError for the first wrong number."""
    import torch

    seen: Counter = Counter()
    for k in range(count):
        rng = np.random.default_rng([seed, k, EXPORTERS.index(exporter)])
        one = draw(torch, rng, KINDS[k % len(KINDS)])
        try:
            data = exported(torch, one, exporter, one.make(*EXPORTED))
        except Exception as error:  # whatever torch cannot export
            seen[f"{one.kind}: not exported ({type(error).__name__})"] += 1
            continue
        try:
            free = compare(torch, one, data)
            seen[
                f"{one.kind}: agreed" if free else f"{one.kind}: agreed, for the sizes that torch wrote into the graph"
            ] += 1
        except UnsupportedError as error:
            seen[f"{one.kind}: refused"] += 1
            seen[f"because {str(error)[:160]}"] += 1
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--exporter", choices=EXPORTERS, action="append")
    given = parser.parse_args()
    for exporter in given.exporter or EXPORTERS:
        print(exporter, flush=True)
        for what, count in sorted(differential(given.modules, exporter).items()):
            print(f"    {count:5} {what}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main()

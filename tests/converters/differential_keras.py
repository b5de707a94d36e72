"""Random models of Keras 3 and of tf_keras (Keras 2), saved in every format that they write, converted, and compared with the engine.

A model agrees, within 1e-5 max(1, |y|) for several batches and numbers of steps, or is refused by name; anything else is an error. Where
outputs are further apart the engine's own float64 is asked: the program says where it is the engine that is off, and where a model is so
unstable that weights rounded otherwise would move it as far.
As a program, `python tests/converters/differential_keras.py --models 500` compares so many of each engine and says what it saw.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import random_keras
from random_keras import KINDS, Net, forget_states, outputs_of

import fastlstm
from fastlstm.errors import StreamError, UnsupportedError

Array = np.ndarray
SIZES = ((3, 6), (1, 4), (5, 5))  # batches and steps
ENGINES = ("keras", "tf_keras")
VERDICTS = ("agrees", "refused", "engine off", "unstable", "wrong")


def formats(K: Any) -> tuple[str, ...]:
    """Return what the engine writes: Keras 2 has two kinds of files of weights alone."""
    return ("keras", "h5", "weights") if random_keras.is_keras3(K) else ("keras", "h5", "weights", "old weights")


def engine(name: str) -> Any:
    """Return Keras 3 or tf_keras, quiet, on the CPU. Raise ImportError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import_module("tensorflow")
    found = import_module(name)
    logging.getLogger("absl").setLevel(logging.ERROR)
    found.backend.clear_session()
    return found


def convert_saved(model: Any, kind: str, folder: Path) -> fastlstm.Model:
    """Save a model in a format, and convert the file; "weights" are weights alone beside what model.to_json() gives."""
    if "weights" not in kind:
        path = folder / f"model.{kind}"
        model.save(path)
        return fastlstm.convert(path)
    path = folder / ("model.weights.h5" if kind == "weights" else "weights.h5")
    model.save_weights(path)
    return fastlstm.convert(path, architecture=model.to_json())


def run(session: fastlstm.Session, arrays: list[Array]) -> list[Array]:
    """Return the outputs in order."""
    results = session.run({spec.name: array for spec, array in zip(session.inputs, arrays, strict=True)})
    return [results[spec.name] for spec in session.outputs]


def assert_close(got: Array, want: Array, about: str = "") -> None:
    """Compare within 1e-5 * max(1, |want|); NaN and infinities are where the engine has them."""
    assert got.shape == want.shape, f"{about}: shape {got.shape}, expected {want.shape}"
    wide, finite = want.astype(np.float64), np.isfinite(want)
    assert (np.isfinite(got) == finite).all(), f"{about}: NaN or infinity elsewhere"
    off = np.where(finite, np.abs(got - wide), 0)
    assert np.all(off <= 1e-5 * np.maximum(1, np.abs(np.where(finite, wide, 0)))), f"{about}: off by {off.max():.3g}"


def agree(net: Net, model: fastlstm.Model, about: str, sizes: tuple = SIZES) -> None:
    """Compare a converted model with the one that was saved."""
    session = fastlstm.Session(model)
    if net.batch is not None:
        agree_call_after_call(net, session, about)
        return
    for batch, steps in sizes:
        arrays = net.draw(batch, net.steps or steps)
        with np.errstate(all="ignore"):
            for got, want in zip(run(session, arrays), outputs_of(net, arrays), strict=True):
                assert_close(got, want, f"{net.about}, {about}, batch {batch}")


def agree_call_after_call(net: Net, session: fastlstm.Session, about: str) -> None:
    """Compare a stateful model's first call, one after a reset, and the calls that go on from it, which a stream gives where it can."""
    calls = [net.draw(net.batch, steps) for steps in (5, 3, 6)]
    forget_states(net.model)
    (first,) = outputs_of(net, calls[0])
    forget_states(net.model)
    wanted = [outputs_of(net, arrays)[0] for arrays in calls[1:]]
    assert_close(run(session, calls[0])[0], first, f"{net.about}, {about}, the first call")
    assert_close(run(session, calls[1])[0], wanted[0], f"{net.about}, {about}, the call after a reset")
    try:
        stream = session.stream(batch=net.batch)
    except StreamError as error:
        if "runs backwards" not in str(error):
            raise
        return
    for (x,), want in zip(calls[1:], wanted, strict=True):
        assert_close(stream.step(x), want, f"{net.about}, {about}, call after call")


def compare(K: Any, kind: str, seed: int, folder: Path) -> str:
    """Compare one random model, in one of the formats by its seed. Return "" or why it was refused."""
    net = drawn(K, kind, seed)
    written = written_as(K, seed)
    try:
        agree(net, convert_saved(net.model, written, folder), written)
    except UnsupportedError as error:
        if "layer '" not in str(error):
            raise
        return str(error).removeprefix(f"{folder}/")
    return ""


def written_as(K: Any, seed: int) -> str:
    """Return the format of the model of a seed."""
    return formats(K)[seed % len(formats(K))]


def drawn(K: Any, kind: str, seed: int) -> Net:
    """Return the random model of a kind and a seed."""
    return random_keras.draw(K, np.random.default_rng([seed, 7]), kind)


def rounding_of(K: Any, kind: str, seed: int, folder: Path) -> dict[str, float]:
    """Return how far from the engine's float64 are "engine", "fastlstm", and float64 with each weight "rounded" otherwise.

    At most, relative to max(1, |y|), in batches as those of `agree`.
    """
    net, wide = drawn(K, kind, seed), in_float64(K, kind, seed)
    session = fastlstm.Session(convert_saved(net.model, written_as(K, seed), folder))
    weights, rng = [np.asarray(array) for array in net.model.get_weights()], np.random.default_rng(seed)
    off: dict[str, float] = {"engine": 0.0, "fastlstm": 0.0, "rounded": 0.0}

    def exactly(arrays: list[Array], weights: list[Array]) -> list[Array]:
        wide.model.set_weights(weights)
        forget_states(wide.model)
        return outputs_of(wide, arrays)

    for batch, steps in SIZES:
        arrays = net.draw(batch, net.steps or steps)
        forget_states(net.model)
        exact = exactly(arrays, weights)
        moved = [
            np.nextafter(w, rng.choice((-9e9, 9e9), w.shape).astype(w.dtype)) if w.dtype.kind == "f" else w
            for w in weights
        ]
        found = {"engine": outputs_of(net, arrays), "fastlstm": run(session, arrays), "rounded": exactly(arrays, moved)}
        for who, outputs in found.items():
            for y, z in zip(outputs, exact, strict=True):
                error = np.nan_to_num(np.abs(y - z) / np.maximum(1, np.abs(z)))
                off[who] = max(off[who], float(error.max(initial=0)))
    return off


def in_float64(K: Any, kind: str, seed: int) -> Net:
    """Return the random model of a kind and a seed with the engine's float64, and weights of its own."""
    policy = K.mixed_precision.set_dtype_policy if random_keras.is_keras3(K) else K.mixed_precision.set_global_policy
    try:
        K.backend.set_floatx("float64")
        policy("float64")
        return drawn(K, kind, seed)
    finally:
        K.backend.set_floatx("float32")
        policy("float32")


def verdict(K: Any, kind: str, seed: int) -> tuple[str, str]:
    """Return what one model gave, and why: one of VERDICTS."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            why = compare(K, kind, seed, Path(folder))
            return ("refused", why) if why else ("agrees", "")
        except Exception as error:
            told = f"{K.__name__} --kinds {kind} --first {seed}: {type(error).__name__}: {error}"
            if not isinstance(error, AssertionError) or "off by" not in str(error):
                return "wrong", told
        off = rounding_of(K, kind, seed, Path(folder))
        told += f"; off float64: {', '.join(f'{who} {most:.3g}' for who, most in off.items())}"
        if off["fastlstm"] <= 1e-5 and off["fastlstm"] < off["engine"]:
            return "engine off", told
        return "unstable" if off["fastlstm"] <= off["rounded"] else "wrong", told


def main() -> int:
    """Compare as many models as asked for, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=500, help="of each engine")
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    shares = [kind for kind in options.kinds for _ in range(KINDS[kind][0])]
    failed = 0
    for name in options.engines:
        K, start = engine(name), time.time()
        gave, refused, kinds = Counter[str](), Counter[str](), Counter[str]()
        for k in range(options.models):
            # one more each round, so that every kind meets every format
            kind, seed = shares[k % len(shares)], options.first + k + k // len(shares)
            what, why = verdict(K, kind, seed)
            gave[what] += 1
            kinds[kind] += 1
            if what == "refused":
                refused[why] += 1
            elif why:
                print(f"{what}: {why}", flush=True)
            if k % 50 == 49:
                K.backend.clear_session()
        counts = ", ".join(f"{gave[what]} {what}" for what in VERDICTS)
        print(
            f"{name} {K.__version__}: {gave.total()} models of {len(kinds)} kinds: {counts}; {time.time() - start:.0f} s",
            flush=True,
        )
        for why, count in refused.most_common():
            print(f"  {count} x {why}")
        failed += gave["wrong"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

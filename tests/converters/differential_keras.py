"""Random models of Keras 3 and of tf_keras (Keras 2), saved in every format that they write, converted, and compared with the engine.

A model agrees, within 1e-5 max(1, |y|) for several batches and numbers of steps, or is refused by name; anything else is an error.
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
from random_keras import KINDS, Net, outputs_of

import fastlstm
from fastlstm.errors import UnsupportedError

Array = np.ndarray
FORMATS = ("keras", "h5", "weights")
SIZES = ((3, 6), (1, 4), (5, 5))  # batches and steps
ENGINES = ("keras", "tf_keras")


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
    if kind != "weights":
        path = folder / f"model.{kind}"
        model.save(path)
        return fastlstm.convert(path)
    path = folder / "model.weights.h5"
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
    for batch, steps in sizes:
        arrays = net.draw(batch, net.steps or steps)
        with np.errstate(all="ignore"):
            for got, want in zip(run(session, arrays), outputs_of(net, arrays), strict=True):
                assert_close(got, want, f"{net.about}, {about}, batch {batch}")


def compare(K: Any, kind: str, seed: int, folder: Path) -> str:
    """Compare one random model, in one of the formats by its seed. Return "" or why it was refused."""
    net = random_keras.draw(K, np.random.default_rng([seed, 7]), kind)
    written = FORMATS[seed % len(FORMATS)]
    try:
        agree(net, convert_saved(net.model, written, folder), written)
    except UnsupportedError as error:
        if "layer '" not in str(error):
            raise
        return str(error).removeprefix(f"{folder}/")
    return ""


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
        K, start, refused, kinds = engine(name), time.time(), Counter[str](), Counter[str]()
        for k in range(options.models):
            # one more each round, so that every kind meets every format
            kind, seed = shares[k % len(shares)], options.first + k + k // len(shares)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    why = compare(K, kind, seed, Path(folder))
                except Exception as error:
                    failed += 1
                    print(f"WRONG {name} --kinds {kind} --first {seed}: {type(error).__name__}: {error}", flush=True)
                    continue
            kinds[kind] += 1
            if why:
                refused[why] += 1
            if k % 50 == 49:
                K.backend.clear_session()
        counts = f"{kinds.total()} models agree or are refused, of {len(kinds)} kinds; {refused.total()} refused"
        print(f"{name} {K.__version__}: {counts}; {time.time() - start:.0f} s", flush=True)
        for why, count in refused.most_common():
            print(f"  {count} x {why}")
    print(f"{failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

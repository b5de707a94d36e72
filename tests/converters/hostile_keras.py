"""Damaged Keras files: whatever the bytes, a load gives a model or one line of our error, soon, in little memory, and does nothing else.

`python [-O] tests/converters/hostile_keras.py --count 20000 FILE ...` cuts each file at every percent, loads so many random mutations, and ends with
exit code 1 and what went wrong at the first that breaks a rule. Every mutation is known by its seed and number.
"""

import argparse
import copy
import io
import json
import random
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from hostile import Results, Watch

from fastlstm.converters.from_keras import from_keras

MARKS = (
    b"TREE",
    b"SNOD",
    b"HEAP",
    b"OHDR",
    b"GCOL",
    b"FRHP",
    b"FHDB",
    b"BTHD",
    b"BTLF",
    b"\x01\x00",
    b"PK",
    b"model_config",
    b'"class_name"',
)
TOKENS = (b"null", b"[]", b"{}", b"0", b'"x"', b"-1e999", b'"layers"', b"[[]]", b'"', b",", b"\xff", b"\0\0\0\0")
JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**40, -(2**70), 1.5, float("inf"), float("nan"), "", "linear", "tanh", "LSTM", "Functional", "../x", [], [[]], {}, [None],
    ["x", 0, 0], [["x", 0, 0]], {"class_name": "LSTM"}, {"class_name": "LSTM", "config": {}}, [1, 2, 3], "é" * 50, {"config": []},
)  # fmt: skip


# ---- mutations ------------------------------------------------------------------------------------------
def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return a copy with a few numbers changed, most of them near a structure of the formats."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        start = data.find(rng.choice(MARKS), rng.randrange(len(data)))
        at = min(max(start, 0) + rng.randrange(100), len(out) - 9)
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice((0, 1, 0xFF, 0xFFFF, 1 << 31, (1 << 63) - 1, (1 << 64) - 1, at, rng.randrange(len(data))))
        out[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(out)


def mutated_text(data: bytes, rng: random.Random) -> bytes:
    """Return a copy with a few stretches replaced by tokens of JSON, or by any byte."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(len(out))
        out[at : at + rng.randrange(12)] = rng.choice([*TOKENS, bytes([rng.randrange(256)])])
    return bytes(out)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths to everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(*path, k) for k, _ in inner] + [p for k, v in inner for p in places(v, (*path, k))]


def mutated_config(config: Any, rng: random.Random) -> Any:
    """Replace, delete, copy or insert one to three parts of a configuration."""
    config = copy.deepcopy(config)
    for _ in range(rng.randrange(1, 4)):
        everywhere = places(config)
        if not everywhere:
            break
        *way, last = rng.choice(everywhere)
        parent = config
        for step in way:
            parent = parent[step]
        kind = rng.randrange(4)
        if kind == 0:
            del parent[last]
        elif kind == 1:
            parent[last] = copy.deepcopy(rng.choice(JUNK))
        elif kind == 2:
            source = config
            for step in rng.choice(everywhere):
                try:
                    source = source[step]
                except (KeyError, IndexError, TypeError):
                    break
            parent[last] = copy.deepcopy(source)
        elif isinstance(parent, list):
            parent.insert(last, copy.deepcopy(rng.choice(JUNK)))
        else:
            parent[str(rng.randrange(10))] = copy.deepcopy(rng.choice(JUNK))
    return config


def rezipped(data: bytes, **members: bytes) -> bytes:
    """Return a zip archive with other contents for some of its members; a name's dots are written as two underscores."""
    changed = {name.replace("__", "."): content for name, content in members.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, changed.get(name, old.read(name)))
    return buffer.getvalue()


def mutation(data: bytes, rng: random.Random) -> tuple[bytes, Any]:
    """Return a mutated file, or the file with a mutated architecture beside it."""
    kind = rng.randrange(4)
    if not data.startswith(b"PK"):
        config = data[data.find(b'{"class_name"') :]
        config, _ = json.JSONDecoder().raw_decode(config.decode("latin-1")) if config else ({}, 0)
        if kind == 0:
            changed = mutated_config(config, rng)
            return data, changed if isinstance(changed, dict) else {"class_name": changed}
        return (mutated_text if kind == 1 else mutated_bytes)(data, rng), None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        config, weights = archive.read("config.json"), archive.read("model.weights.h5")
    if kind == 0:
        return rezipped(data, config__json=json.dumps(mutated_config(json.loads(config), rng)).encode()), None
    if kind == 1:
        return rezipped(data, config__json=mutated_text(config, rng)), None
    if kind == 2:
        return rezipped(data, model__weights__h5=mutated_bytes(weights, rng)), None
    return mutated_bytes(data, rng), None


# ---- the program ---------------------------------------------------------------------------------------
def main(arguments: list[str] | None = None) -> None:
    """Load every truncation and so many mutations of the files, and print what they gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=20_000, help="mutations (default: 20,000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of the one mutation to load")
    given = parser.parse_args(arguments)
    files = {path.name: path.read_bytes() for path in given.files}
    for data in files.values():  # what is imported once is imported before
        from_keras(data)
    Watch.begin()
    results, end = Results(), time.monotonic() + given.seconds
    for name, data in files.items():
        results.load(partial(from_keras, data), len(data), name)
        for percent in range(100) if given.only is None else ():
            cut = data[: len(data) * percent // 100]
            results.load(partial(from_keras, cut), len(cut), f"{name} cut at {percent} %")
    for k in range(given.count) if given.only is None else [given.only]:
        if time.monotonic() > end:
            break
        name = list(files)[k % len(files)]
        data, architecture = mutation(files[name], random.Random(f"{given.seed}/{k}"))
        results.load(partial(from_keras, data, architecture), len(data), f"{name}, seed {given.seed}, number {k}")
    print(results)


if __name__ == "__main__":
    main()

"""Train the demo's three models on real data and record what their own engines answer.

    python -m fastlstm.demo.train            train, write models/, check
    python -m fastlstm.demo.train --check    reload each file in its own engine and compare with its record

The demo reads what this script writes, and needs none of its imports: a model file, `<stem>.npz` (held-out inputs
`in_*`, answers `out_*`, what a plot needs) and models.json. Fitting and stopping never see held-out data.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import keras
import numpy as np
import onnxruntime
import tensorflow
import torch
from keras.layers import LSTM, Dense, Embedding
from numpy.lib.stride_tricks import sliding_window_view as windows
from numpy.typing import NDArray
from statsmodels.datasets import co2, sunspots

MODELS = Path(__file__).parent / "models"
KERAS = f"keras {keras.__version__}, {keras.backend.backend()} {tensorflow.__version__}"
ALPHABET = set("\n abcdefghijklmnopqrstuvwxyz0123456789.,:;()'\"-_=*")
SEASONS = np.array(["winter", "spring", "summer", "autumn"])
Array = NDArray[Any]


def fit_keras(file: str, stack: list[Any], rate: Any, loss: str, x: Array, y: Array, **options: Any) -> Any:
    """Fit a Sequential of `stack`, and save a copy of it that never had an optimizer."""
    model: Any = keras.Sequential(stack, name=Path(file).stem)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, verbose=0, **options)
    bare = keras.Sequential.from_config(model.get_config())
    bare.set_weights(model.get_weights())
    bare.save(MODELS / file)
    return model


def answer(model: Any, rows: Array) -> Array:
    """Run a Keras model, or the ONNX file at a path, on `rows`."""
    if not isinstance(model, Path):
        return model.predict(rows, verbose=0)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[0])


def record(file: str, arrays: dict[str, Array], measure: Callable[[Array], float], **guesses: Array) -> dict[str, Any]:
    """Write `arrays` beside `file`; return its entry: the guesses of the model and of each baseline, measured."""
    np.savez_compressed((MODELS / file).with_suffix(".npz"), allow_pickle=False, **arrays)
    measured = {name: round(float(measure(guess)), 4) for name, guess in guesses.items()}
    return {"file": file, "metric": measured.pop("model"), "baseline": measured}


def sunspots_keras() -> dict[str, Any]:
    """Forecast next year's sunspots from the last 12 years. Fit before 1910, stop by 1910-1949, held out from 1950.

    Cycles before 1910 are weaker than later ones: the fit sees them at six amplitudes, or its forecast saturates.
    """
    length, frame = 12, sunspots.load_pandas()["data"]
    year, count = frame["YEAR"].to_numpy().astype(np.int32)[length:], frame["SUNACTIVITY"].to_numpy()
    root = np.sqrt(count / 100).astype(np.float32)
    past, target = windows(root, length)[:-1, :, None], root[length:, None]
    fit, stop, held_out = year < 1910, (year >= 1910) & (year < 1950), year >= 1950

    stack = [keras.Input((length, 1)), LSTM(24, return_sequences=True), LSTM(16), Dense(1)]
    x, y = (np.concatenate([np.float32(a) * r[fit] for a in (0.8, 0.9, 1, 1.1, 1.2, 1.3)]) for r in (past, target))
    patience = keras.callbacks.EarlyStopping("val_loss", patience=20, restore_best_weights=True)
    options = {"validation_data": (past[stop], target[stop]), "callbacks": [patience], "epochs": 100}
    model = fit_keras("sunspots.keras", stack, 5e-3, "mse", x, y, **options)
    x, truth = past[held_out], count[length:][held_out]
    out = answer(model, x)
    lags = np.c_[past[:, -9:, 0], np.ones(len(past))]
    ar9 = lags[held_out] @ np.linalg.lstsq(lags[~held_out], target[~held_out, 0])[0]
    arrays = {"in_0": x, "out_0": out, "truth": truth, "years": year[held_out], "scale": np.array([100.0])}
    guesses = {"model": out[:, 0], "last_year": x[:, -1, 0], "linear_ar9": ar9}
    return record("sunspots.keras", arrays, lambda g: np.sqrt(np.mean((100 * g**2 - truth) ** 2)), **guesses) | {
        "measure": "RMSE of the forecast, in sunspots; values are sqrt(sunspots / 100), so sunspots = 100 * out_0 ** 2",
        "source": "statsmodels.datasets.sunspots: yearly numbers 1700-2008, NOAA NGDC",
        "licence": "public domain",
        "engine": KERAS,
    }


class SeasonNet(torch.nn.Module):
    """Decide by the last states of both directions of a GRU: (B, T, 1) -> logits (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(1, 24, batch_first=True, bidirectional=True)
        self.linear = torch.nn.Linear(48, len(SEASONS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.gru(x)[1].transpose(0, 1).flatten(1))


def co2_season_onnx() -> dict[str, Any]:
    """Tell the season of a window's last week from 26 weekly changes of CO2. Fit before 1990, held out from 1990."""
    length, epochs, series = 26, 20, co2.load_pandas()["data"]["co2"].interpolate()
    change, dates = np.diff(series.to_numpy()), series.index.to_numpy()[1:].astype("datetime64[D]")
    first = int(np.searchsorted(dates, np.datetime64("1990-01-01")))
    x, ends = windows(change.astype(np.float32), length)[..., None], dates[length - 1 :]
    y = (ends.astype("datetime64[M]").astype(np.int64) + 1) % 12 // 3  # months since January 1970; winter is Dec-Feb
    fit_x, fit_y = torch.tensor(x[: first - length + 1]), torch.tensor(y[: first - length + 1])
    x, y, ends = np.ascontiguousarray(x[first:]), y[first:], ends[first:]

    net = SeasonNet()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(fit_x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(fit_x[batch]), fit_y[batch]).backward()
            optimizer.step()
        schedule.step()
    path, axes = MODELS / "co2_season.onnx", {"weekly_change": {0: "batch", 1: "time"}, "season": {0: "batch"}}
    options: dict[str, Any] = {"input_names": ["weekly_change"], "output_names": ["season"], "dynamic_axes": axes}
    torch.onnx.export(net.eval(), (fit_x[:1],), str(path), dynamo=False, opset_version=17, **options)
    out = answer(path, x)
    np.testing.assert_allclose(out, net(torch.tensor(x)).detach().numpy(), rtol=0, atol=1e-5)
    means = np.stack([fit_x[fit_y == k].mean(0) for k in range(len(SEASONS))])
    arrays = {"in_weekly_change": x, "out_season": out, "labels": y, "classes": SEASONS, "dates": ends}
    guesses = {"model": out.argmax(1), "nearest_mean_window": ((x[:, None] - means) ** 2).sum((2, 3)).argmin(1)}
    return record(path.name, arrays, lambda g: np.mean(g == y), **guesses) | {
        "measure": "share of windows whose season is right; in_weekly_change is in ppm",
        "source": "statsmodels.datasets.co2: Mauna Loa weekly, gaps interpolated, Keeling and Whorf 2004, CDIAC",
        "licence": "public domain",
        "engine": f"onnxruntime {onnxruntime.__version__} (trained and exported by torch {torch.__version__})",
    }


def prose() -> str:
    """Return the paragraphs of Python's language reference that are mostly letters, lower case, none of them twice."""
    paragraphs = (" ".join(p.lower().split()) for name in sorted(topics) for p in topics[name].split("\n\n"))
    kept = dict.fromkeys("".join(c for c in p if c in ALPHABET) for p in paragraphs)
    return "\n".join(p for p in kept if len(p) >= 80 and sum(c.isalpha() or c == " " for c in p) >= 0.9 * len(p))


def ngram_chance(fit: Array, held_out: Array, order: int) -> Array:
    """Return the chance of each held-out id after the `order - 1` before it, by smoothed counts of `fit`."""
    counts = np.full((fit.max() + 1,) * order, 0.1)
    np.add.at(counts, tuple(windows(fit, order).T), 1)
    return (counts / counts.sum(-1, keepdims=True))[tuple(windows(held_out, order).T)]


def chars_h5() -> dict[str, Any]:
    """Predict each next character of prose. Fit on the first nine tenths, held out the last tenth."""
    length, epochs, batch, text = 64, 30, 32, prose()
    vocabulary = "".join(sorted(set(text)))
    ids = np.array([vocabulary.index(c) for c in text], np.int32)
    fit, held_out = np.split(ids, [len(ids) * 9 // 10])
    rows = windows(fit, length + 1)[:: length // 2]
    rate = keras.optimizers.schedules.CosineDecay(1e-2, epochs * -(-len(rows) // batch))
    head = Dense(len(vocabulary), activation="softmax")
    stack = [keras.Input((None,), dtype="int32"), Embedding(len(vocabulary), 24), LSTM(48, return_sequences=True), head]
    loss, options = "sparse_categorical_crossentropy", {"epochs": epochs, "batch_size": batch}
    model = fit_keras("chars.h5", stack, rate, loss, rows[:, :-1], rows[:, 1:], **options)
    (MODELS / "chars.json").write_text(json.dumps({"vocabulary": vocabulary}) + "\n")
    sample = windows(held_out, 25)[:: len(held_out) // 16][:16]
    arrays = {"in_0": sample[:, :-1], "out_0": answer(model, sample[:, :-1]), "truth": sample[:, 1:]}
    chance = answer(model, held_out[None, :-1])[0][np.arange(len(held_out) - 1), held_out[1:]]
    ngrams = {f"{n}_grams": ngram_chance(fit, held_out, n) for n in (2, 3, 4)}
    return record("chars.h5", arrays, lambda g: -np.log2(g).mean(), model=chance, **ngrams) | {
        "measure": "bits per held-out character, all in one run; an id indexes the vocabulary in chars.json",
        "source": f"pydoc_data.topics of Python {sys.version.split()[0]}: language reference, lower case, prose only",
        "licence": "PSF-2.0, (c) Python Software Foundation",
        "engine": KERAS,
    }


def check() -> None:
    """Reload each file in the engine that answered for it, and compare with its record."""
    for entry in json.loads((MODELS / "models.json").read_text()):
        path = MODELS / entry["file"]
        with np.load(path.with_suffix(".npz")) as arrays:
            rows, wanted = (next(arrays[k] for k in arrays if k.startswith(start)) for start in ("in_", "out_"))
        got = answer(path if path.suffix == ".onnx" else keras.models.load_model(path), rows)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
        print(f"{path.name}: reloaded and recorded outputs differ by at most {np.abs(got - wanted).max():.1e}")


def main() -> None:
    entries = []
    for train in () if "--check" in sys.argv else (sunspots_keras, co2_season_onnx, chars_h5):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        torch.manual_seed(0)
        entries.append({"task": str(train.__doc__).splitlines()[0]} | train())
        print(json.dumps(entries[-1], indent=2))
        (MODELS / "models.json").write_text(json.dumps(entries, indent=2) + "\n")
    check()


if __name__ == "__main__":
    main()

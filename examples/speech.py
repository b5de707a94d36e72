"""Name the sound of every frame of speech, live: an LSTM over 13 coefficients a frame, and a thousand speakers at once in one stream.

The data are synthetic: ten sounds with a spectrum each, spoken for a few frames one after the other, blurred at their borders, by
speakers whose voices shift all of it; what the frames hold is made like mel-frequency cepstral coefficients (MFCC), not from recordings.

    python examples/speech.py
"""

from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, Session, set_random_seed
from fastlstm.layers import LSTM, Dense, TimeDistributed
from fastlstm.optimizers import Adam

FRAMES, COEFFICIENTS, SOUNDS = 60, 13, 10


def speak(count: int, spectra: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return utterances (count, FRAMES, COEFFICIENTS), and the number of the sound of every frame (count, FRAMES)."""
    lengths = rng.integers(4, 12, (count, FRAMES))
    which = (np.cumsum(lengths, axis=1)[:, None] <= np.arange(FRAMES)[:, None]).sum(axis=2)
    sounds = np.take_along_axis(rng.integers(0, SOUNDS, (count, FRAMES)), which, axis=1)
    clean = spectra[sounds]
    before = np.concatenate([clean[:, :1], clean[:, :-1]], axis=1)
    voice = rng.normal(0, 1, (count, 1, COEFFICIENTS))
    return (0.7 * clean + 0.3 * before + voice + rng.normal(0, 0.8, clean.shape)).astype(np.float32), sounds


def main(count: int = 800, epochs: int = 10, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, stream a thousand speakers, draw speech.png, and return the losses and the shares of frames named right."""
    set_random_seed(0)
    rng = np.random.default_rng(0)
    spectra = rng.normal(0, 1, (SOUNDS, COEFFICIENTS))
    x, y = speak(count, spectra, rng)
    speakers, truth = speak(1000, spectra, rng)

    model = Sequential()
    model.add(LSTM(64, return_sequences=True, input_shape=(FRAMES, COEFFICIENTS)))
    model.add(TimeDistributed(Dense(SOUNDS, activation="softmax")))
    model.compile(optimizer=Adam(learning_rate=0.005), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)

    stream = Session(model.to_model()).stream(batch=len(speakers))
    began = perf_counter()
    chances = np.stack([stream.step(speakers[:, t]) for t in range(FRAMES)], axis=1)
    seconds = (perf_counter() - began) / FRAMES
    print(f"{len(speakers)} speakers: {seconds * 1e3:.2f} ms a frame for all of them")
    named = chances.argmax(axis=-1)
    by_frame = (
        ((speakers[:, :, None] - spectra) ** 2).sum(axis=-1).argmin(axis=-1)
    )  # the nearest spectrum, frame by frame

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 4.5), sharex=True, layout="constrained")
    above.imshow(speakers[0].T, aspect="auto", origin="lower")
    above.set(ylabel="coefficient", title="an utterance that the network did not learn from")
    below.step(range(FRAMES), truth[0], "k", where="mid", lw=3, label="spoken")
    below.step(range(FRAMES), named[0], "C1", where="mid", label="named by the LSTM")
    below.set(xlabel="frame", ylabel="sound")
    below.legend()
    figure.savefig(folder / "speech.png")
    plt.close(figure)
    losses = history.history["loss"]
    return {
        "first": losses[0],
        "last": losses[-1],
        "accuracy": float(np.mean(named == truth)),
        "of frames alone": float(np.mean(by_frame == truth)),
        "stream is run": float(np.array_equal(chances, model.predict(speakers, batch_size=len(speakers), verbose=0))),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>16} {value:.4f}")

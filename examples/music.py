"""Learn from old songs to write tunes, note by note, in any key: two LSTMs, a temperature, and a stream.

The songs are traditional or long out of copyright (the youngest is of 1857), written down below; each is learnt in twelve keys.

    python examples/music.py
"""

import wave
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, Session, set_random_seed
from fastlstm.data import pad_sequences
from fastlstm.layers import LSTM, Dense, Dropout, Embedding
from fastlstm.optimizers import Adam

# notes of the major scale, 1 is the keynote, ' an octave up, , one down; - holds a note for one more beat
SONGS = {
    "Twinkle, Twinkle": "1 1 5 5 6 6 5- 4 4 3 3 2 2 1- 5 5 4 4 3 3 2- 5 5 4 4 3 3 2- 1 1 5 5 6 6 5- 4 4 3 3 2 2 1-",
    "Frère Jacques": "1 2 3 1 1 2 3 1 3 4 5- 3 4 5- 5 6 5 4 3 1 5 6 5 4 3 1 1 5, 1- 1 5, 1-",
    "Ode to Joy": "3 3 4 5 5 4 3 2 1 1 2 3 3 2 2- 3 3 4 5 5 4 3 2 1 1 2 3 2 1 1- 2 2 3 1 2 3 4 3 1 2 3 4 3 2 1 2 5,-",
    "Mary Had a Little Lamb": "3 2 1 2 3 3 3- 2 2 2- 3 5 5- 3 2 1 2 3 3 3 3 2 2 3 2 1--",
    "London Bridge": "5 6 5 4 3 4 5- 2 3 4- 3 4 5- 5 6 5 4 3 4 5- 2- 5- 3 1--",
    "Au clair de la lune": "1 1 1 2 3- 2- 1 3 2 2 1-- 1 1 1 2 3- 2- 1 3 2 2 1-- 2 2 2 2 6,- 6,- 2 1 7, 6, 5,--",
    "Jingle Bells": "3 3 3- 3 3 3- 3 5 1 2 3--- 4 4 4 4 4 3 3 3 3 2 2 3 2- 5- 3 3 3- 3 3 3- 3 5 1 2 3--- 4 4 4 4 4 3 3 3 5 5 4 2 1---",
    "Auld Lang Syne": "5, 1- 1 1 3 2- 1 2 3 1- 1 3 5 6-- 6 5- 3 3 1 2- 1 2 3 1- 6, 6, 5, 1---",
}
SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones above the keynote
LOWEST = 48  # the lowest keynote, as a MIDI number
Note = tuple[int, int]  # MIDI number, beats


def notes(song: str, key: int) -> list[Note]:
    """Return a song with its keynote `key` semitones above the lowest."""
    octave = lambda name: 12 * (1 + name.count("'") - name.count(","))
    return [(LOWEST + key + SCALE[int(name[0]) - 1] + octave(name), 1 + name.count("-")) for name in song.split()]


def compose(model: Sequential, table: list[Note], key: int, count: int, temperature: float) -> list[Note]:
    """Return `count` notes after a keynote, each drawn from the predicted chances ** (1 / temperature)."""
    rng = np.random.default_rng(key)
    stream = Session(model.to_model()).stream(batch=1)
    tune = notes("1 2 3", key)
    for note in tune:
        chances = stream.step(np.array([table.index(note) + 1], np.int32))[0]
    while len(tune) < count:
        weights = np.exp(np.log(np.maximum(chances[1:], 1e-12).astype(float)) / temperature)
        k = rng.choice(len(table), p=weights / weights.sum())
        tune.append(table[k])
        chances = stream.step(np.array([k + 1], np.int32))[0]
    return tune


def play(tune: list[Note], path: Path, beat: float = 0.3, rate: int = 16_000) -> None:
    """Write a tune as sound: a fading sine for each note."""
    sounds = []
    for pitch, beats in tune:
        time = np.arange(int(beat * beats * rate)) / rate
        sounds.append(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time) * np.exp(-3 * time / (beat * beats)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((20_000 * np.concatenate(sounds)).astype("<i2").tobytes())


def main(epochs: int = 120, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, draw music.png, write music.wav, and return the losses and the share of notes that are of the tune's key."""
    set_random_seed(0)
    songs = [notes(song, key) for song in SONGS.values() for key in range(12)]
    table = sorted({note for song in songs for note in song})
    rows = pad_sequences([[table.index(note) + 1 for note in song] for song in songs], padding="post")

    model = Sequential()
    model.add(Embedding(len(table) + 1, 32, mask_zero=True))
    model.add(LSTM(64, return_sequences=True))
    model.add(Dropout(0.2))
    model.add(LSTM(64, return_sequences=True))
    model.add(Dense(len(table) + 1, activation="softmax"))
    model.compile(loss="sparse_categorical_crossentropy", optimizer=Adam(learning_rate=0.01))
    history = model.fit(rows[:, :-1], rows[:, 1:], epochs=epochs, batch_size=16, verbose=0)

    tunes = {key: compose(model, table, key, 48, temperature=0.8) for key in range(12)}
    in_key = [(pitch - LOWEST - key) % 12 in SCALE for key, tune in tunes.items() for pitch, _ in tune[3:]]

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    play(tunes[7], folder / "music.wav")
    figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
    starts = np.cumsum([0, *(beats for _, beats in tunes[7])])[:-1]
    axes.barh([p for p, _ in tunes[7]], [b - 0.1 for _, b in tunes[7]], left=starts, height=0.8)
    axes.set(xlabel="beat", ylabel="pitch (MIDI)", title="a tune in G; music.wav is what it sounds like")
    figure.savefig(folder / "music.png")
    plt.close(figure)
    losses = history.history["loss"]
    return {"first": losses[0], "last": losses[-1], "in key": float(np.mean(in_key))}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

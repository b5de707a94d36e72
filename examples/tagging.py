"""Tag the names of people, places and times in sentences: a bidirectional LSTM with a softmax at every word, padded and masked.

The sentences are synthetic, from patterns. Every name is now a person's, now a place's ("Sydney flew to Paris on Monday"), so that only
the words around it tell.

    python examples/tagging.py
"""

from pathlib import Path

import numpy as np

from fastlstm import Input, set_random_seed
from fastlstm.data import Tokenizer, pad_sequences
from fastlstm.layers import LSTM, Bidirectional, Dense, Embedding, TimeDistributed
from fastlstm.models import Model

TAGS = ["padding", "other", "person", "place", "time"]
NAMES = "paris georgia austin sydney florence jordan london adelaide charlotte madison".split()
TIMES = "monday tuesday friday may june april august".split()
PATTERNS = [
    "{person} flew to {place} on {time}",
    "on {time} {person} met {person} in {place}",
    "in {place} the rain begins in {time}",
    "{person} said that {place} is lovely in {time}",
    "the mayor of {place} called {person}",
    "trains from {place} to {place} stop on {time}",
    "{person} and {person} live near {place}",
]


def sentence(rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Return the words of a sentence and the number of the tag of each."""
    words, tags = [], []
    for word in str(rng.choice(PATTERNS)).split():
        tag = word.strip("{}") if word.startswith("{") else "other"
        words.append(word if tag == "other" else str(rng.choice(TIMES if tag == "time" else NAMES)))
        tags.append(TAGS.index(tag))
    return words, tags


def main(sentences: int = 2000, epochs: int = 8, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, draw tagging.png, and return the losses and the share of held-out words that are tagged right."""
    set_random_seed(0)
    rng = np.random.default_rng(0)
    texts, tags = zip(*(sentence(rng) for _ in range(sentences)), strict=True)
    tokenizer = Tokenizer()
    tokenizer.fit_on_texts(texts)
    x = pad_sequences(tokenizer.texts_to_sequences(texts), padding="post")
    y = pad_sequences(tags, padding="post")
    held_out = sentences // 5

    words = Input(shape=(x.shape[1],))
    h = Embedding(len(tokenizer.word_index) + 1, 16, mask_zero=True)(words)
    h = Bidirectional(LSTM(16, return_sequences=True))(h)
    model = Model(words, TimeDistributed(Dense(len(TAGS), activation="softmax"))(h))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x[held_out:], y[held_out:], epochs=epochs, batch_size=32, validation_split=0.1, verbose=0)

    found = model.predict(x[:held_out], verbose=0).argmax(axis=-1)
    is_word = x[:held_out] > 0
    for text, row in zip(texts[:3], found, strict=False):
        print(
            " ".join(word if TAGS[k] == "other" else f"[{word}: {TAGS[k]}]" for word, k in zip(text, row, strict=False))
        )

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    history.plot(folder / "tagging.png")
    losses = history.history["loss"]
    accuracy = float(np.mean(found[is_word] == y[:held_out][is_word]))
    return {"first": losses[0], "last": losses[-1], "accuracy": accuracy}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

"""Tell praise from blame: Embedding, an LSTM and then a bidirectional one, padded sentences whose padding is masked.

The sentences are synthetic: words of praise and blame among neutral ones, and "not" turns the word after it round.

    python examples/sentiment.py
"""

from pathlib import Path

import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.data import Tokenizer, pad_sequences
from fastlstm.layers import LSTM, Bidirectional, Dense, Dropout, Embedding, Layer

PRAISE = "good great fine superb lovely moving clever brilliant".split()
BLAME = "bad poor dull awful boring weak clumsy dreadful".split()
NEUTRAL = "the a film plot cast music scene story and is was with of it this very quite really".split()
WORDS, LONGEST = 100, 20


def sentence(rng: np.random.Generator) -> tuple[str, int]:
    """Return a sentence and 1 where it praises more than it blames, else 0; there is never a tie."""
    words, balance = [], 0
    for _ in range(rng.choice([1, 3])):
        words += rng.choice(NEUTRAL, rng.integers(1, 4)).tolist()
        value = int(rng.choice([-1, 1]))
        turned = rng.random() < 0.3
        words += ["not"] * turned + [str(rng.choice(PRAISE if value > 0 else BLAME))]
        balance += -value if turned else value
    return " ".join(words), int(balance > 0)


def classifier(layer: Layer) -> Sequential:
    """Return a network that reads with this layer and answers with the chance of praise."""
    model = Sequential()
    model.add(Embedding(input_dim=WORDS, output_dim=16, mask_zero=True, input_length=LONGEST))
    model.add(layer)
    model.add(Dropout(0.2))
    model.add(Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def main(sentences: int = 4000, epochs: int = 6, folder: str | Path = "example-output") -> dict[str, float]:
    """Train both, draw sentiment.png, and return the losses and the accuracies on held-out sentences."""
    set_random_seed(0)
    rng = np.random.default_rng(0)
    texts, labels = zip(*(sentence(rng) for _ in range(sentences)), strict=True)
    tokenizer = Tokenizer(num_words=WORDS)
    tokenizer.fit_on_texts(texts)
    x = pad_sequences(tokenizer.texts_to_sequences(texts), maxlen=LONGEST, padding="post")
    y = np.array(labels)
    held_out = sentences // 5

    models = {"one way": classifier(LSTM(16)), "both ways": classifier(Bidirectional(LSTM(16)))}
    accuracies = {}
    for name, model in models.items():
        history = model.fit(x[held_out:], y[held_out:], epochs=epochs, batch_size=32, validation_split=0.1, verbose=0)
        _, accuracies[name] = model.evaluate(x[:held_out], y[:held_out], verbose=0)

    for text in ("the film is not bad", "a great cast and not dull music", "the story was not good"):
        tokens = pad_sequences(tokenizer.texts_to_sequences([text]), maxlen=LONGEST, padding="post")
        print(f"{model.predict(tokens, verbose=0)[0, 0]:.3f}  {text}")

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    history.plot(folder / "sentiment.png")
    losses = history.history["loss"]
    return {"first": losses[0], "last": losses[-1], **accuracies}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

"""Translate numbers in words to French with an encoder and a decoder: return_state, initial_state, teacher forcing, and a greedy decoder that is a stream.

The pairs are made by rule: all numbers below 1000 in English and in French, a tenth of them held out.

    python examples/translate.py
"""

import numpy as np

from fastlstm import Input, Session, set_random_seed
from fastlstm.data import Tokenizer, pad_sequences
from fastlstm.layers import LSTM, Dense, Embedding
from fastlstm.models import Model
from fastlstm.optimizers import Adam

ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
FRENCH = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf"
).split()
FRENCH_TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()
START, END = "start", "end"


def english(n: int) -> list[str]:
    """Return the words of a number below 1000."""
    if n >= 100:
        return [ENGLISH[n // 100], "hundred", *(["and", *english(n % 100)] if n % 100 else [])]
    if n >= 20:
        return [ENGLISH_TENS[n // 10 - 2], *([ENGLISH[n % 10]] if n % 10 else [])]
    return [ENGLISH[n]]


def french(n: int) -> list[str]:
    """Return the words of a number below 1000: seventy is sixty and ten, ninety four twenties and ten."""
    if n >= 100:
        return [*([FRENCH[n // 100]] if n >= 200 else []), "cent", *(french(n % 100) if n % 100 else [])]
    if n < 20:
        return [FRENCH[n]]
    tens = n // 10
    rest = n % 10 + 10 * (tens in (7, 9))
    linked = ["et"] if rest in (1, 11) and tens < 8 else []
    return [FRENCH_TENS[tens - 2], *linked, *([FRENCH[rest]] if rest else [])]


def main(epochs: int = 40, units: int = 64) -> dict[str, float]:
    """Train, translate what was held out, and return the losses and the share of it that is right word for word."""
    set_random_seed(0)
    order = np.random.default_rng(0).permutation(1000)
    sources = [english(n) for n in order]
    targets = [[START, *french(n), END] for n in order]
    source_words, target_words = Tokenizer(filters=""), Tokenizer(filters="")
    source_words.fit_on_texts(sources)
    target_words.fit_on_texts(targets)
    x = pad_sequences(source_words.texts_to_sequences(sources), padding="post")
    y = pad_sequences(target_words.texts_to_sequences(targets), padding="post")
    sizes = len(source_words.word_index) + 1, len(target_words.word_index) + 1

    encoder_input, decoder_input = Input((None,), name="source"), Input((None,), name="target")
    embedded = Embedding(sizes[0], 32, mask_zero=True)(encoder_input)
    _, h, c = LSTM(units, return_state=True)(embedded)
    embedding, lstm = Embedding(sizes[1], 32, mask_zero=True), LSTM(units, return_sequences=True, return_state=True)
    dense = Dense(sizes[1], activation="softmax")
    sequences, _, _ = lstm(embedding(decoder_input), initial_state=[h, c])
    model = Model([encoder_input, decoder_input], dense(sequences))
    model.compile(optimizer=Adam(0.005), loss="sparse_categorical_crossentropy")
    history = model.fit([x[100:], y[100:, :-1]], y[100:, 1:], epochs=epochs, batch_size=32, verbose=0)

    encoder = Session(Model(encoder_input, [h, c]).to_model())
    decoder = Session(Model(decoder_input, dense(lstm(embedding(decoder_input))[0])).to_model())

    def translate(rows: np.ndarray) -> list[list[str]]:
        """Return the words that are likeliest one by one, each given those before it: a stream that starts where the encoder ended."""
        h, c = encoder.run({"source": rows}).values()
        stream = decoder.stream(batch=len(rows))
        stream.state = {**stream.state, f"{lstm.name}.h": h, f"{lstm.name}.c": c}
        words = np.full(len(rows), target_words.word_index[START], np.int32)
        written = []
        for _ in range(y.shape[1]):
            words = stream.step(words).argmax(axis=-1).astype(np.int32)
            written.append(words)
        texts = target_words.sequences_to_texts(np.stack(written, axis=1).tolist())
        return [text.split(f" {END}")[0].split() for text in texts]

    translated = translate(x[:100])
    for source, target in list(zip(sources, translated, strict=False))[:5]:
        print(f"{' '.join(source)}: {' '.join(target)}")
    right = float(np.mean([a == b[1:-1] for a, b in zip(translated, targets, strict=False)]))
    losses = history.history["loss"]
    return {"first": losses[0], "last": losses[-1], "right": right}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

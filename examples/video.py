"""Tell what happens in a video from the features of its frames: Masking and an LSTM over 2048 numbers a frame.

The features are synthetic: like those that an image network gives (2048, none of them negative), of scenes that change into each
other; the classes show the same scenes in another order, so that the average of the frames does not tell them apart.

    python examples/video.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fastlstm import Sequential, set_random_seed
from fastlstm.data import pad_sequences, to_categorical
from fastlstm.layers import LSTM, Dense, Dropout, Masking

FRAMES, FEATURES = 30, 2048
CLASSES = {"door opens": (0, 1), "door closes": (1, 0), "opens and closes": (0, 1, 0), "closes and opens": (1, 0, 1)}


def film(count: int, scenes: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Return videos of 15 to 30 frames, each (frames, FEATURES), and their classes (count,)."""
    videos, classes = [], rng.integers(0, len(CLASSES), count)
    for order in (list(CLASSES.values())[k] for k in classes):
        frames = rng.integers(FRAMES // 2, FRAMES + 1)
        mix = np.interp(np.linspace(0, 1, frames), np.linspace(0, 1, len(order)), order)[:, None]
        light = rng.uniform(0.5, 1.5)
        noise = rng.normal(0, 0.7, (frames, FEATURES))
        videos.append(np.maximum(light * ((1 - mix) * scenes[0] + mix * scenes[1]) + noise, 0).astype(np.float32))
    return videos, classes


def main(count: int = 400, epochs: int = 6, folder: str | Path = "example-output") -> dict[str, float]:
    """Train, draw video.png, and return the losses and the shares of held-out videos told right."""
    set_random_seed(0)
    rng = np.random.default_rng(0)
    scenes = rng.normal(0, 1, (2, FEATURES))
    videos, classes = film(count, scenes, rng)
    x = pad_sequences(videos, maxlen=FRAMES, dtype="float32", padding="post")
    y = to_categorical(classes)
    held_out = count // 4

    model = Sequential()
    model.add(Masking(mask_value=0.0, input_shape=(FRAMES, FEATURES)))
    model.add(LSTM(64, dropout=0.2))
    model.add(Dropout(0.2))
    model.add(Dense(len(CLASSES), activation="softmax"))
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x[held_out:], y[held_out:], epochs=epochs, batch_size=16, verbose=0)
    chances = model.predict(x[:held_out], verbose=0)
    told, truth = chances.argmax(axis=-1), classes[:held_out]

    # what can be told without the order: the class whose average video is nearest to the average of the frames
    averages = np.stack([video.mean(axis=0) for video in videos])
    centres = np.stack([averages[held_out:][classes[held_out:] == k].mean(axis=0) for k in range(len(CLASSES))])
    nearest = ((averages[:held_out, None] - centres) ** 2).sum(axis=-1).argmin(axis=-1)

    table = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(table, (truth, told), 1)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    axes.imshow(table, cmap="Blues")
    for (row, column), number in np.ndenumerate(table):
        axes.text(column, row, str(number), ha="center", va="center", color="w" if number > table.max() / 2 else "k")
    ticks = range(len(CLASSES))
    axes.set_xticks(ticks, list(CLASSES), rotation=20, ha="right")
    axes.set_yticks(ticks, list(CLASSES))
    axes.set(xlabel="told", ylabel="shown", title=f"{held_out} held-out videos")
    figure.savefig(folder / "video.png")
    plt.close(figure)
    losses = history.history["loss"]
    return {
        "first": losses[0],
        "last": losses[-1],
        "accuracy": float(np.mean(told == truth)),
        "of averages": float(np.mean(nearest == truth)),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:>12} {value:.4f}")

"""The labels that the logits of a CTC model spell: the best path, or the best labels over all paths (prefix beam search, Graves 2012).

A path names a class at every step; it spells its classes with repeated ones merged and blanks left out. NumPy, row by row.
"""

from typing import Any

import numpy as np

from fastlstm.errors import InputError, ShapeError, one_of

STRATEGIES = ("greedy", "beam_search")
NOTHING = -1  # what stands behind the last label


def ctc_decode(
    inputs: Any,
    sequence_lengths: Any = None,
    strategy: str = "greedy",
    beam_width: int = 100,
    top_paths: int = 1,
    merge_repeated: bool = True,
    mask_index: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels (paths, B, T) int32 with -1 behind the last, scores) of logits (B, T, N), of which `sequence_lengths` (B,) steps count.

    Keras 3's `keras.ops.ctc_decode`. "greedy": one path, whose score (B, 1) is minus the sum of its logits; "beam_search": the `top_paths` best
    labels of the `beam_width` kept at each step, with scores (B, top_paths) log p(labels), minus infinity where there are fewer.
    `merge_repeated` is asked by "greedy" alone. Raise InputError, ShapeError.

    >>> labels, scores = ctc_decode(model.predict(x), strategy="beam_search")
    """
    logits = np.asarray(inputs)
    if logits.ndim != 3:
        raise ShapeError(f"ctc_decode: inputs have shape {logits.shape}, expected (batch, steps, classes)")
    if logits.dtype.kind not in "fiu":
        raise InputError(f"ctc_decode: inputs are {logits.dtype}, expected logits")
    logits = logits if logits.dtype == np.float64 else logits.astype(np.float32)
    B, T, N = logits.shape
    lengths = np.full(B, T) if sequence_lengths is None else np.asarray(sequence_lengths)
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu" or (lengths.size and not 0 <= lengths.min() <= lengths.max() <= T):  # fmt: skip
        raise InputError(f"sequence_lengths={sequence_lengths!r}: expected {B} whole numbers from 0 to {T}")
    if not -N <= mask_index < N:
        raise InputError(f"mask_index={mask_index!r}: the inputs have {N} classes")
    if strategy not in STRATEGIES:
        raise InputError(f"strategy={strategy!r}: expected one of {one_of(STRATEGIES)}")
    for name, number in (("beam_width", beam_width), ("top_paths", top_paths)):
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
            raise InputError(f"{name}={number!r}: expected a whole number of at least 1")
    if strategy == "beam_search" and top_paths > beam_width:
        raise InputError(f"top_paths={top_paths!r}: there are beam_width={beam_width!r} of them at most")
    blank, paths = mask_index % N, 1 if strategy == "greedy" else top_paths
    labels = np.full((paths, B, T), NOTHING, np.int32)
    scores = np.full((B, paths), -np.inf, logits.dtype)
    for row, (x, steps) in enumerate(zip(logits, lengths, strict=True)):
        found = _best_path(x[:steps], blank, merge_repeated) if strategy == "greedy" else _beams(x[:steps], blank, beam_width)  # fmt: skip
        for k, (score, label) in enumerate(found[:paths]):
            labels[k, row, : len(label)], scores[row, k] = label, score
    return labels, scores


def _best_path(x: np.ndarray, blank: int, merge: bool) -> list[tuple[float, Any]]:
    """Return the labels of the largest logit at every step of x (T, N), with minus the sum of these."""
    best = np.argmax(x, axis=-1)
    fresh = best != blank
    if merge:
        fresh[1:] &= best[1:] != best[:-1]
    return [(-float(np.max(x, axis=-1).sum()), best[fresh])] if len(x) else [(0.0, best)]


def _beams(x: np.ndarray, blank: int, width: int) -> list[tuple[float, Any]]:
    """Return the most probable labels of x (T, N), best first, with the logarithms of their chances.

    Each beam has labels and the chances of the paths that spell them, apart by whether they end in a blank: `ending[0]` and `ending[1]`.
    """
    shifted = x - x.max(axis=-1, keepdims=True) if x.size else x
    chances = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float64)
    beams: list[tuple[int, ...]] = [()]
    ending = np.array([[0.0], [-np.inf]])
    for step in chances:
        last = np.array([labels[-1] if labels else blank for labels in beams])
        total = np.logaddexp(*ending)
        # the same labels: a blank, or the last label once more
        stay = np.array([total + step[blank], np.where(last == blank, -np.inf, ending[1] + step[last])])
        # one label more: after the same label only a blank lets it count
        more = total[:, None] + step
        more[np.arange(len(beams)), last] = ending[0] + step[last]
        more[:, blank] = -np.inf
        places = {labels: k for k, labels in enumerate(beams)}
        for k, labels in enumerate(beams):
            parent = places.get(labels[:-1]) if labels else None
            if parent is not None:
                stay[1, k] = np.logaddexp(stay[1, k], more[parent, labels[-1]])
                more[parent, labels[-1]] = -np.inf
        everything = np.concatenate([np.logaddexp(*stay), more.ravel()])
        chosen = np.argsort(-everything, kind="stable")[:width]
        chosen = chosen[everything[chosen] > -np.inf]
        count, classes = len(beams), len(step)
        old, new = chosen < count, np.maximum(chosen - count, 0)
        ending = np.where(
            old, stay[:, np.minimum(chosen, count - 1)], [np.full(len(chosen), -np.inf), everything[chosen]]
        )
        beams = [
            beams[k] if k < count else (*beams[n // classes], int(n % classes))
            for k, n in zip(chosen, new, strict=True)
        ]
    totals = np.logaddexp(*ending)
    return [(float(totals[k]), beams[k]) for k in np.argsort(-totals, kind="stable")]

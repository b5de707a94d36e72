"""Masks of steps: from the lengths of rows, and which rows have had a valid step."""

from fastlstm.kernels.jit import kernel
from fastlstm.kernels.layout import WORKER
from fastlstm.kernels.simd import arguments, byte_pointer, pointers, words


@kernel
def sequence_mask_forward(kind, narrow, team, args):
    """y[t, b] = t < lengths[b] for lengths of any integer dtype (`kind`). One outside [0, T] counts as 0, and the verdict is 1.

    Arguments: verdict, lengths, their stride, y (bool), y_t, y_b, T, B.
    """
    (verdict, lengths, step, y, y_t, y_b, T, B), _ = arguments(args, 0, 8, 0)
    if words(team)[WORKER] != 0:
        return
    verdict, y, (lengths,) = words(verdict), byte_pointer(y), pointers(kind, (lengths,))
    for row in range(B):
        length = lengths[row * step]
        if length < 0 or length > T:
            verdict[0], length = 1, length - length
        for t in range(T):
            y[t * y_t + row * y_b] = 1 if t < length else 0


@kernel
def seen_forward(kind, narrow, team, args):
    """Set seen[b] where mask[t, b] holds at any step. Arguments: mask (bool), mask_t, mask_b, seen (bool), T, B."""
    (mask, mask_t, mask_b, seen, T, B), _ = arguments(args, 0, 6, 0)
    if words(team)[WORKER] != 0:
        return
    mask, seen = byte_pointer(mask), byte_pointer(seen)
    for row in range(B):
        for t in range(T):
            if mask[t * mask_t + row * mask_b] != 0:
                seen[row] = 1
                break

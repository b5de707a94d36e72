"""How kernels read weights that are stored in float16 or int8: as panels of float32, or as they are stored.

What changes bits is decided by the sizes of the layer and never by those of the call:

- int8 weights meet *quantised* rows (kernels/quantised.py) where a layer is large enough that this pays;
- int8 weights are *scaled*, widened in registers (kernels/scaled.py), where rows are too short or too long for that and the
  weights too many for the caches;
- all other int8 weights are widened once, when they are packed.

float16 gives the same bits widened in registers or once, so that how many rows there are may decide.
"""

import numpy as np

from fastlstm.graph import Quantized
from fastlstm.ops.op import Stored, Value

FLOAT32, FLOAT16, QUANTISED, SCALED = "float32", "float16", "quantised", "scaled"
DTYPES = {FLOAT16: np.dtype(np.float16), QUANTISED: np.dtype(np.int8), SCALED: np.dtype(np.int8)}

# More float32 bytes than the second-level cache serves. Below, and where more rows share what is read, widening float16 costs more than
# reading twice the bytes.
CACHED, FEW_ROWS = 1 << 20, 6
UNITS = 32  # of a recurrent layer, from which quantised rows pay
SHORT, LONG = 64, 1 << 16  # rows of a Dense layer that pay for being quantised; rows that 32-bit sums hold
SMALL = 1 << 14  # weights of a Dense layer that are read in no time
# Rows have codes of 16 bits, in two parts, in Dense layers, whose outputs are seen as they are, and as inputs of recurrent layers where
# that costs little beside h U. The error of h with 8 bits is small beside that of the weights.
DENSE_PARTS, FEW_INPUTS = 2, 16


def recurrent_form(W: Value, U: Value, dtype: np.dtype, T: int, B: int, gates: int) -> str:
    """Return how the weights W (I, gates H) and U (H, gates H) of a recurrent layer are read."""
    stored = _stored(dtype, W, U)
    I, H = int(W.shape[0]), int(U.shape[0])  # type: ignore[index]
    if stored == "int8" and H >= UNITS and max(I, H) <= LONG:
        return QUANTISED
    read = dtype.itemsize * gates * H * (H + (I if T == 1 else 0))
    return FLOAT16 if stored == "float16" and B < FEW_ROWS and read > CACHED else FLOAT32


def input_parts(I: int, H: int) -> int:
    """Return in how many parts of 8 bits inputs of a recurrent layer are quantised."""
    few = max(FEW_INPUTS, H // 2)
    return 2 if few >= I else 1


def dense_form(W: Value, dtype: np.dtype, rows: int, K: int, N: int) -> str:
    """Return how a matrix (K, N) is read."""
    stored, many = _stored(dtype, W), dtype.itemsize * K * N > CACHED
    if stored == "int8":
        if SHORT <= K <= LONG and K * N >= SMALL:
            return QUANTISED
        return SCALED if many else FLOAT32
    return FLOAT16 if stored == "float16" and rows < FEW_ROWS and many else FLOAT32


def _stored(dtype: np.dtype, *weights: Value) -> str:
    """Return "float16" or "int8" where all are stored so and meet float32 rows, else "float32"."""
    if dtype != np.float32 or not all(isinstance(weight, Stored) for weight in weights):
        return "float32"
    kinds = {"int8" if isinstance(weight.weight, Quantized) else "float16" for weight in weights}  # type: ignore[attr-defined]
    return kinds.pop() if len(kinds) == 1 else "float32"

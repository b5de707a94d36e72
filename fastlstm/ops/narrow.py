"""How kernels read weights that are stored in float16 or int8: as panels of float32, or as they are stored.

What changes bits is decided by the sizes of the layer and never by those of the call:

- int8 weights meet *quantised* rows (kernels/quantised.py) where a layer is large enough that this pays;
- int8 weights are *scaled*, widened in registers (kernels/scaled.py), where rows are too short or too long for that and the
  weights too many for the caches;
- all other int8 weights are widened once, when they are packed.

float16 gives the same bits widened in registers or once, so that the rows of a call may decide, and the caches of the machine.
"""

import numpy as np

from fastlstm.graph import Quantized
from fastlstm.ops.op import Stored, Value

FLOAT32, FLOAT16, QUANTISED, SCALED = "float32", "float16", "quantised", "scaled"
DTYPES = {FLOAT16: np.dtype(np.float16), QUANTISED: np.dtype(np.int8), SCALED: np.dtype(np.int8)}

# Where a step reads less than the second-level cache holds, or more rows share what is read, widening float16 costs more than reading twice the bytes.
FEW_ROWS = 6
MANY = 3 << 19  # float32 bytes of int8 weights that are better read as they are stored
UNITS = 32  # of a recurrent layer, from which quantised rows pay
SHORT, LONG = 64, 1 << 16  # rows of a Dense layer that pay for being quantised; rows that 32-bit sums hold
SMALL = 1 << 14  # weights of a Dense layer that are read in no time
# Rows have codes of 16 bits, in two parts, in Dense layers, whose outputs are seen as they are, and as inputs of recurrent layers where
# that costs little beside h U. The error of h with 8 bits is small beside that of the weights.
DENSE_PARTS, FEW_INPUTS = 2, 16


def recurrent_form(W: Value, U: Value, dtype: np.dtype, T: int, B: int, gates: int, near_bytes: int) -> str:
    """Return how the weights W (I, gates H) and U (H, gates H) of a recurrent layer are read; `near_bytes` stay in a near cache."""
    stored = _stored(dtype, W, U)
    I, H = int(W.shape[0]), int(U.shape[0])  # type: ignore[index]
    if stored == "int8" and H >= UNITS and max(I, H) <= LONG:
        return QUANTISED
    read = dtype.itemsize * gates * H * (H + (I if T == 1 else 0))
    return FLOAT16 if stored == "float16" and B < FEW_ROWS and read > near_bytes else FLOAT32


def input_parts(I: int, H: int) -> int:
    """Return in how many parts of 8 bits inputs of a recurrent layer are quantised."""
    few = max(FEW_INPUTS, H // 2)
    return 2 if few >= I else 1


def dense_form(W: Value, dtype: np.dtype, rows: int, K: int, N: int, near_bytes: int) -> str:
    """Return how a matrix (K, N) is read; `near_bytes` stay in a near cache."""
    stored, read = _stored(dtype, W), dtype.itemsize * K * N
    if stored == "int8":
        if SHORT <= K <= LONG and K * N >= SMALL:
            return QUANTISED
        return SCALED if read > MANY else FLOAT32
    return FLOAT16 if stored == "float16" and rows < FEW_ROWS and read > near_bytes else FLOAT32


def _stored(dtype: np.dtype, *weights: Value) -> str:
    """Return "float16" or "int8" where all are stored so and meet float32 rows, else "float32"."""
    if dtype != np.float32 or not all(isinstance(weight, Stored) for weight in weights):
        return "float32"
    kinds = {"int8" if isinstance(weight.weight, Quantized) else "float16" for weight in weights}  # type: ignore[attr-defined]
    return kinds.pop() if len(kinds) == 1 else "float32"

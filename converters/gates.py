"""The gate orders of others, and the way to ours: LSTM i f g o, GRU z r n. No other file knows them.

ONNX   LSTM  W (4H, I) rows i o f c, P (3H,) i o f      GRU  W (3H, I) rows z r h
Keras  LSTM  i f c o                                    GRU  z r h              (ours already)
Keras 1, a matrix a gate:  LSTM  i c f o                GRU  z r h
"""

import numpy as np

ONNX_LSTM = (0, 2, 3, 1)  # where our i f g o stand in ONNX's i o f c
ONNX_GRU = (0, 1, 2)
ONNX_RNN = (0,)
ONNX_PEEPHOLES = (0, 2, 1)  # where our i f o stand in ONNX's i o f
KERAS1_LSTM = (0, 2, 1, 3)  # where our i f g o stand in Keras 1's i c f o
KERAS1_GRU = (0, 1, 2)


def row_order(gates: tuple[int, ...], hidden: int) -> np.ndarray:
    """Return the indices that bring rows of gates (len(gates) * hidden,) into our order."""
    return np.concatenate([np.arange(gate * hidden, (gate + 1) * hidden) for gate in gates])

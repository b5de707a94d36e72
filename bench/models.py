"""The networks that are timed: one LSTM each, as our model and as the ONNX file that peers run."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import fastlstm
from fastlstm.converters.from_onnx import from_onnx


@dataclass(frozen=True)
class Case:
    """dims: batch B, steps T, inputs I, units H."""

    name: str
    B: int
    T: int
    I: int
    H: int

    def onnx(self, seed: int = 0) -> bytes:
        """Return an ONNX file with one LSTM of random weights of a trained network's size."""
        rng = np.random.default_rng(seed)
        draw = lambda scale, *shape: (rng.standard_normal(shape) * scale).astype(np.float32)
        weights = {
            "W": draw(self.I**-0.5, 1, 4 * self.H, self.I),
            "R": draw(self.H**-0.5, 1, 4 * self.H, self.H),
            "B": draw(0.1, 1, 8 * self.H),
        }
        graph = helper.make_graph(
            [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y", "Y_h", "Y_c"], hidden_size=self.H)],
            self.name,
            [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "B", self.I])],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["T", 1, "B", self.H])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        return model.SerializeToString()

    def model(self) -> fastlstm.Model:
        """Return the same network converted."""
        return from_onnx(self.onnx(), {})

    def inputs(self) -> dict[str, np.ndarray]:
        """Return random inputs."""
        return {"X": np.random.default_rng(1).standard_normal((self.T, self.B, self.I)).astype(np.float32)}


STEPS = [Case(f"step {H}", 1, 1, H, H) for H in (64, 128, 256)]
SEQUENCES = [Case("sentence", 1, 100, 128, 128), Case("batch of sentences", 32, 100, 128, 128)]

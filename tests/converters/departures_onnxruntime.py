"""Where onnxruntime departs from ONNX's specification: the number that the specification gives, ours, and onnxruntime's.

`PYTHONPATH=tests python tests/converters/departures_onnxruntime.py` prints the table of docs/supported.md. Each graph is as small as it can be, so that its number
follows from the specification by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import tanh
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from random_onnx import Case, model

import fastlstm
from fastlstm.converters.from_onnx import from_onnx

F = np.float32
REFUSED = "refused"
INEXACT = "MatMulInteger on a CPU without VNNI"


@dataclass(frozen=True)
class Departure:
    """A graph, its inputs, the element of its first output that is told, and what the specification gives for it."""

    about: str
    proto: Any
    feeds: dict[str, np.ndarray]
    specified: float
    at: tuple[int, ...] = (0,)

    def ours(self) -> float | str:
        return self._told(
            lambda: list(fastlstm.Session(from_onnx(self.proto.SerializeToString(), {})).run(self.feeds).values())
        )

    def onnxruntime(self) -> float | str:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = lambda: onnxruntime.InferenceSession(
            self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return self._told(lambda: session().run(None, self.feeds))

    def _told(self, run: Callable[[], list]) -> float | str:
        """Return the element that is told. Any error counts as a refusal: those of onnxruntime have no class of their own."""
        try:
            return float(run()[0][self.at])
        except Exception:
            return REFUSED


def recurrent(
    about: str, op: str, specified: float, x: list[float], W: list[float], more: dict | None = None, **attributes: Any
) -> Departure:
    """Return a graph of one unit, whose gates see W x and no state but through c."""
    arrays = {
        "X": np.array(x, F).reshape(-1, 1, 1),
        "W": np.array(W, F).reshape(1, -1, 1),
        "R": np.zeros((1, len(W), 1), F),
    }
    if attributes.get("layout"):
        arrays["X"] = arrays["X"].swapaxes(0, 1)
    hidden = attributes.pop("hidden_size", 1)
    attributes |= {"hidden_size": hidden} if hidden else {}
    case = Case(op, arrays | (more or {}), attributes, outputs=("Y_h",))
    return Departure(about, case.proto(), case.feeds(), specified, (0, 0, 0))


def departures() -> list[Departure]:
    """Return the departures, each by itself."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    nan = float("nan")
    codes, weights = np.full((1, 4), 255, np.uint8), np.full((4, 1), 127, np.int8)
    one_hot = helper.make_node("OneHot", ["i", "depth", "values"], ["y"])
    held = {"depth": np.array(3), "values": np.array([0, 1], F)}
    start = {"initial_c": np.full((1, 1, 1), 2, F)}  # so that c stays above the clip
    product = model(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])], {"a": ("u1", (1, 4)), "b": ("i1", (4, 1))}, ["y"]
    )
    product.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    return [
        recurrent("LSTM with `clip` 0.5: the input of h's tanh is bounded too", "LSTM", sigmoid(0.5) * tanh(0.5), [9], [1, 1, 1, 1], start, clip=0.5),
        recurrent("`ThresholdedRelu` in a recurrence: alpha is 1 where it is not given", "RNN", 0.0, [0.5], [1], activations=["ThresholdedRelu"]),
        recurrent("`ScaledTanh` in a recurrence without alpha and beta, for which the specification has no default: 1 is taken", "RNN", tanh(0.5), [0.5], [1], activations=["ScaledTanh"]),
        recurrent("`layout` 1", "RNN", tanh(0.5), [0.5], [1], layout=1),
        recurrent("`hidden_size` absent", "RNN", tanh(0.5), [0.5], [1], hidden_size=0),
        recurrent("RNN: names of activations in any case", "RNN", tanh(0.5), [0.5], [1], activations=["tanh"]),
        recurrent("LSTM with B: NaN in x", "LSTM", nan, [nan], [1, 1, 1, 1], {"B": np.ones((1, 8), F)}),
        recurrent("GRU with B: NaN in x", "GRU", nan, [nan], [1, 1, 1], {"B": np.ones((1, 6), F)}),
        Departure("OneHot before opset 11: nothing is on for the index -1", model([one_hot], {"i": (np.dtype("i8"), (1,))}, ["y"], held, 9), {"i": np.array([-1])}, 0.0, (0, 2)),
        Departure(f"{INEXACT}: the sum of 4 codes 255 by 127", product, {"a": codes, "b": weights}, 4 * 255.0 * 127, (0, 0)),
    ]  # fmt: skip


def table() -> list[str]:
    """Return the rows of the table: what it is, and three numbers."""
    shown = lambda value: value if isinstance(value, str) else f"{value:.6g}"
    return [
        f"| {one.about} | {shown(one.specified)} | {shown(one.ours())} | {shown(one.onnxruntime())} |"
        for one in departures()
    ]


if __name__ == "__main__":
    print("| what | specification | fastlstm | onnxruntime |", "|---|---:|---:|---:|", *table(), sep="\n")

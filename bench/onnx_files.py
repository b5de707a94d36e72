"""The networks as ONNX files: whole sequences, or one step with the states as inputs and outputs."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bench.networks import Network, reordered

ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2)}  # ONNX's gates: i o f c, z r h


def sequence_file(network: Network, lengths: bool = False) -> bytes:
    """Return a file with X (T, B, I) in and Y out: (T, 1, B, H) of a lone layer, else (T, B, width or dense).

    With `lengths` it also takes the number of valid steps of each row: lengths (B,) int32.
    """
    graph = _Graph(network)
    given = ["X"] + ["lengths"] * lengths
    infos = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "B", network.I])]
    infos += [helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"])] * lengths
    y = "X"
    for layer in range(network.layers):
        y = graph.recurrent(layer, [y, *(given[1:] or [""])], [f"Y_{layer}"])[0]
        lone = network.layers == 1 and not network.bidirectional and not network.dense
        y = y if lone else graph.joined(y, f"joined_{layer}")
    return graph.file(infos, [graph.dense(y) if network.dense else y])


def step_file(network: Network) -> bytes:
    """Return a file with X (1, B, I), h and c (1, B, H) in; Y (1, B, H or dense) and the next states out."""
    graph = _Graph(network)
    states = ["h", "c"] if network.cell == "LSTM" else ["h"]
    sizes = {"X": network.I, **dict.fromkeys(states, network.H)}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "B", size]) for name, size in sizes.items()]
    after = [f"{state}_next" for state in states]
    graph.recurrent(0, ["X", "", *states], ["", *after])
    return graph.file(infos, ([graph.dense("h_next")] if network.dense else []) + after)


class _Graph:
    """Nodes and initializers of a file in the making."""

    def __init__(self, network: Network):
        self.network = network
        self.nodes: list = []
        self.weights: list = []

    def add(self, op: str, inputs: list[str], outputs: list[str], **attributes) -> list[str]:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", **attributes))
        return outputs

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def recurrent(self, layer: int, inputs: list[str], outputs: list[str]) -> list[str]:
        """Add one layer on the inputs X, lengths (or ""), h and c."""
        network, parts = self.network, self.network.weights()[layer]
        order = ORDER[network.cell]
        W = np.stack([reordered(part.W, order).T for part in parts])
        R = np.stack([reordered(part.U, order).T for part in parts])
        b = np.stack([np.concatenate([reordered(part.b, order), reordered(part.bu, order)]) for part in parts])
        names = [self.weight(f"{role}_{layer}", array) for role, array in (("W", W), ("R", R), ("B", b))]
        more = {"linear_before_reset": 1} if network.cell == "GRU" else {}
        direction = "bidirectional" if network.bidirectional else "forward"
        x, *rest = inputs
        while rest and not rest[-1]:
            rest.pop()
        return self.add(network.cell, [x, *names, *rest], outputs, hidden_size=network.H, direction=direction, **more)

    def joined(self, y: str, name: str) -> str:
        """Join the directions of (T, D, B, H): (T, B, D*H)."""
        if not self.network.bidirectional:
            return self.add("Squeeze", [y, self.weight(f"{name}_axes", np.array([1]))], [name])[0]
        (turned,) = self.add("Transpose", [y], [f"{name}_turned"], perm=[0, 2, 1, 3])
        shape = self.weight(f"{name}_shape", np.array([0, 0, self.network.width]))
        return self.add("Reshape", [turned, shape], [name])[0]

    def dense(self, y: str) -> str:
        kernel, bias = self.network.dense_weights()
        (product,) = self.add("MatMul", [y, self.weight("kernel", kernel)], ["product"])
        return self.add("Add", [product, self.weight("bias", bias)], ["Y"])[0]

    def file(self, inputs: list, outputs: list[str]) -> bytes:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", inputs, infos, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        return model.SerializeToString()

"""What is known of integers that are made of shapes: sizes and symbols, read back from the nodes that compute them.

Exporters compute the shape of a state from that of an input. Inference knows such a shape where it is all numbers; here symbols count too.
"""

from fastlstm.graph import Dim
from fastlstm.layers import Build, Tensor
from fastlstm.ops.dims import known
from fastlstm.ops.op import Value, find

MOST_NODES = 64  # that sizes are read through
KEEPING = ("Identity", "Squeeze", "Unsqueeze", "Reshape")  # the elements in their order


def sizes(build: Build, tensor: Tensor) -> tuple[Dim, ...] | None:
    """Return the elements of a value (a number or a vector) as sizes and symbols, None where they are not shapes' own."""
    return _Sizes(build).read(tensor.name)


def with_shape(tensor: Tensor, shape: tuple[Dim, ...] | None) -> Tensor:
    """Return a value of which no shape was known, now of this one."""
    if tensor.value.shape is None and shape is not None:
        tensor.build.values[tensor.name] = Value(tensor.value.dtype, shape)
    return tensor


class _Sizes:
    def __init__(self, build: Build):
        self.build, self.left = build, MOST_NODES

    def read(self, name: str) -> tuple[Dim, ...] | None:
        value, node = self.build.values[name], self.build.producers.get(name)
        if value.data is not None:
            whole = value.data.dtype.kind in "iu" and value.data.ndim <= 1
            return tuple(int(size) for size in value.data.ravel()) if whole else None
        self.left -= 1
        if node is None or self.left < 0 or value.shape is None or not known(value.shape) or len(value.shape) > 1:
            return None
        first = node.inputs[0]
        if node.op == "Shape":
            shape, op = self.build.values[first].shape, find("Shape")
            return None if shape is None else shape[op.get(node, "start") : op.get(node, "end")]
        if node.op in KEEPING or (node.op == "Cast" and value.dtype.kind in "iu"):
            return self.read(first)
        if node.op == "Concat":
            parts = [self.read(one) for one in node.inputs]
            return None if None in parts else tuple(size for part in parts for size in part)  # type: ignore[union-attr]
        return self._chosen(node.op, [first, *node.inputs[1:]])

    def _chosen(self, op: str, inputs: list[str]) -> tuple[Dim, ...] | None:
        """Return the sizes that a Gather or a Slice takes from others."""
        data = [self.build.values[name].data if name else None for name in inputs[1:]]
        if op not in ("Gather", "Slice") or any(one is None for one in data[:2]):
            return None
        whole = self.read(inputs[0])
        if whole is None:
            return None
        if op == "Gather":
            chosen = data[0].ravel().tolist()  # type: ignore[union-attr]
            return tuple(whole[k] for k in chosen) if all(-len(whole) <= k < len(whole) for k in chosen) else None
        start, end = (int(one.item()) for one in data[:2] if one is not None and one.size == 1)
        step = 1 if len(data) < 4 or data[3] is None else int(data[3].item())
        return whole[start:end:step] if step > 0 else None

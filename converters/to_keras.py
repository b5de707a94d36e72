"""A model as a Keras 3 file: each node becomes the Keras layer, or the function of keras.ops, that has its meaning.

The file is what Keras itself would write of a functional model: config.json, metadata.json and model.weights.h5, where a weight lies at
`layers/<class in snake case>[_k]/.../vars/<n>`. Masks stand there as the boolean tensors that they are here. What a node means in Keras
is in `keras_nodes`, `keras_nodes_windows` and `keras_nodes_functions`; this module keeps names, calls and weights.
"""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlstm.converters._hdf5_writer import hdf5_bytes
from fastlstm.errors import UnsupportedError, one_of
from fastlstm.graph import Node, widen
from fastlstm.layers.layer import snake_case
from fastlstm.layers.order import ordered
from fastlstm.layers.symbolic import Call as LayerCall
from fastlstm.layers.symbolic import Symbol
from fastlstm.model import Model
from fastlstm.ops import inference
from fastlstm.ops.activations import ACTIVATIONS, Activation
from fastlstm.ops.op import Value, find
from fastlstm.ops.recurrent import Activated

VERSION = "3.4.0"  # of Keras: the first that has everything that is written, and joins masks as later ones do
EPOCH = (1980, 1, 1, 0, 0, 0)  # of the archive's members: equal models give equal files

Config = dict[str, Any]
Handler = Callable[["Call"], Any]
handlers: dict[str, Handler] = {}


def handler(*ops: str) -> Callable[[Handler], Handler]:
    """Register what a node of an op becomes: a function of its `Call` that returns its outputs' tensors, or the one tensor."""

    def add(function: Handler) -> Handler:
        for op in ops:
            if op in handlers:
                raise KeyError(f"two handlers for {op}")
            handlers[op] = function
        return function

    return add


def keras_bytes(model: Model) -> bytes:
    """Return the bytes of a .keras file that Keras 3 loads, of a model whose nodes all have a meaning there.

    Raise UnsupportedError naming the node, and what of it Keras lacks.
    """
    from fastlstm.converters import keras_nodes, keras_nodes_functions, keras_nodes_windows  # fill the registry

    assert keras_nodes and keras_nodes_functions and keras_nodes_windows
    return Writer(model).write()


@dataclass(eq=False)
class Tensor(Symbol):
    """A value of the Keras model: output `index` of call `number` of a layer, which is known by its name.

    `carries` a mask: Keras hands one on that nobody passed, from a layer that was called with one through other layers, not through functions.
    """

    number: int = 0
    index: int = 0
    carries: bool = False

    @property
    def key(self) -> list[Any]:
        """Return the value's place as Keras writes it."""
        return [self.layer, self.number, self.index]


def tensor(value: Value, layer: str, call: LayerCall | None = None, number: int = 0, index: int = 0) -> Tensor:
    """Return what a call of a layer gives, or with no call an input."""
    made = Tensor(layer, value.dtype.name, value.shape or (), None, call, layer, number, index)
    if call is not None:
        call.outputs.append(made)
    return made


class Writer:
    """The Keras model under construction."""

    def __init__(self, model: Model):
        self.model = model
        self.values = inference.infer(model.graph, model.weights)
        self.layers: dict[str, Config] = {}  # by name
        self.arrays: dict[str, Mapping[str, np.ndarray]] = {}  # of each layer, by the path below its own
        self.tensors: dict[str, Tensor] = {}  # by the name of a value of ours
        self.windows: dict[
            str, Call
        ] = {}  # by the name of a value: windows, which the node that reduces them makes a pooling of
        self._known: dict[Any, str] = {}  # layers by what they are: one that is called twice has its weights once

    def write(self) -> bytes:
        """Return the bytes of the file."""
        graph = self.model.graph
        for spec in graph.inputs:
            value = self.values[spec.name]
            config = {"batch_shape": sizes(value.shape), "dtype": spec.dtype}
            self.tensors[spec.name] = tensor(value, self.add("InputLayer", spec.name, config))
        self._nodes(graph.nodes)
        lost = [spec.name for spec in graph.outputs if spec.name not in self.tensors]
        if lost:
            raise UnsupportedError(f"output {lost[0]!r} is a constant, which is not supported in a Keras file")
        inputs, outputs = ([self.tensors[spec.name] for spec in specs] for specs in (graph.inputs, graph.outputs))
        _, names = ordered(inputs, outputs)
        config = {
            "name": "model", "trainable": True, "layers": [self.layers[name] for name in names],
            "input_layers": [t.key for t in inputs], "output_layers": [t.key for t in outputs],
        }  # fmt: skip
        document = {
            "module": "keras.src.models.functional",
            "class_name": "Functional",
            "config": config,
            "registered_name": "Functional",
        }
        return archive_bytes(
            {
                "metadata.json": json.dumps({"keras_version": VERSION}),
                "config.json": json.dumps(document, allow_nan=False),
                "model.weights.h5": hdf5_bytes(self._paths(names)),
            }
        )

    def _paths(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the arrays by where Keras looks for them: it counts the layers of a class in its own order."""
        counts: Counter[str] = Counter()
        arrays = {}
        for name in names:
            snake = snake_case(self.layers[name]["class_name"])
            folder = f"layers/{snake}_{counts[snake]}" if counts[snake] else f"layers/{snake}"
            if ".ops." not in self.layers[name]["module"]:
                counts[snake] += 1
            arrays |= {f"{folder}/{path}": array for path, array in self.arrays.get(name, {}).items()}
        return arrays

    def _nodes(self, nodes: Sequence[Node]) -> None:
        """Add all nodes. Raise UnsupportedError naming each that Keras lacks; those that read its outputs are not told."""
        faults: list[str] = []
        lost: set[str] = set()
        for node in nodes:
            try:
                if lost.isdisjoint(node.inputs):
                    self._node(node)
                    continue
            except UnsupportedError as error:
                faults.append(str(error))
            lost |= set(filter(None, node.outputs))
        if faults:
            raise UnsupportedError("; ".join(faults))

    def _node(self, node: Node) -> None:
        if node.op not in handlers or node.subgraphs:
            raise UnsupportedError(
                f"node {node.name!r}: {node.op} is not supported in a Keras file, only {one_of(sorted(handlers))}"
            )
        made = handlers[node.op](Call(self, node))
        for name, one in zip(node.outputs, [made] if isinstance(made, Tensor) else made, strict=False):
            if name and one is not None:
                self.tensors[name] = one

    def add(self, class_name: str, name: str, config: Config, module: str = "keras.layers") -> str:
        """Append a layer under a name that is free, and return the name. Keras's names hold no slash."""
        name = base = name.replace("/", "_")
        k = 0
        while name in self.layers:
            k += 1
            name = f"{base}_{k}"
        self.layers[name] = {
            "module": module, "class_name": class_name, "config": {"name": name, **config},
            "registered_name": class_name if ".ops." in module else None, "name": name, "inbound_nodes": [],
        }  # fmt: skip
        return name

    def call(self, name: str, args: Sequence[Any], arguments: Mapping[str, Any], made: Sequence[Value]) -> list[Tensor]:
        """Call a layer and return its outputs."""
        calls = self.layers[name]["inbound_nodes"]
        calls.append(
            {"args": [serialized(arg) for arg in args], "kwargs": {k: serialized(v) for k, v in arguments.items()}}
        )
        record = LayerCall(name, list(args), None, None, dict(arguments))
        outputs = [tensor(value, name, record, len(calls) - 1, k) for k, value in enumerate(made)]
        carries = "mask" in arguments or any(isinstance(arg, Tensor) and arg.carries for arg in flat(args))
        for one in outputs:
            one.carries = carries and ".ops." not in self.layers[name]["module"]
        return outputs

    def shared(self, key: Any, make: Callable[[], str]) -> str:
        """Return the name of the layer that a key stands for, which is made when it is first asked for."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def archive_bytes(members: Mapping[str, str | bytes]) -> bytes:
    """Return a zip archive; equal members give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)
    return buffer.getvalue()


def flat(values: Sequence[Any]) -> Iterator[Any]:
    """Yield what lists of lists hold."""
    for value in values:
        yield from flat(value) if isinstance(value, list | tuple) else [value]


def sizes(shape: Sequence[Any] | None) -> list[int | None]:
    """Return a shape as Keras writes it, None for what is free."""
    return [d if isinstance(d, int) else None for d in shape or ()]


def serialized(value: Any) -> Any:
    """Return an argument of a call as Keras writes it."""
    if isinstance(value, Tensor):
        place = {"shape": sizes(value.dims), "dtype": value.dtype, "keras_history": value.key}
        return {"class_name": "__keras_tensor__", "config": place}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return {"class_name": "__numpy__", "config": {"value": array.tolist(), "dtype": array.dtype.name}}
    if isinstance(value, slice):
        parts = {"start": value.start, "stop": value.stop, "step": value.step}
        return {"class_name": "__slice__", "config": parts}
    return [serialized(part) for part in value] if isinstance(value, list | tuple) else value


class Call:
    """One node on its way into the Keras model: its inputs and attributes, and ways to add layers and functions."""

    def __init__(self, writer: Writer, node: Node):
        self.writer, self.node, self.op = writer, node, find(node.op)

    def refuse(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"node {self.node.name!r} ({self.node.op}): {what} is not supported in a Keras file")

    def get(self, attribute: str) -> Any:
        return self.op.get(self.node, attribute)

    def name_of(self, slot: int) -> str:
        """Return the name of the value in a slot, "" where there is none."""
        return self.node.inputs[slot] if slot < len(self.node.inputs) else ""

    def constant(self, slot: int) -> np.ndarray | None:
        """Return what is in a slot if it is a weight of the model, else None."""
        name = self.name_of(slot)
        return widen(self.writer.model.weights[name]) if name in self.writer.model.weights else None

    def weight(self, slot: int, what: str) -> np.ndarray | None:
        """Return a weight; None where the slot is empty. Raise UnsupportedError for one that is computed."""
        if not self.name_of(slot):
            return None
        found = self.constant(slot)
        if found is None:
            raise self.refuse(f"{what} computed at run time")
        return found

    def tensor(self, slot: int) -> Tensor:
        """Return what is in a slot as a tensor of the Keras model. Raise UnsupportedError for a constant."""
        name = self.name_of(slot)
        if name not in self.writer.tensors:
            what = "windows, but in a pooling along time," if name in self.writer.windows else f"the constant {name!r}"
            raise self.refuse(f"{what} as its input")
        return self.writer.tensors[name]

    def argument(self, slot: int) -> Any:
        """Return what is in a slot: a tensor, or the contents of a constant."""
        found = self.constant(slot)
        return self.tensor(slot) if found is None else found

    def activations(self) -> list[Activation]:
        """Return (name, alpha, beta) of each activation of a recurrent node; what a function does not have is 0."""
        assert isinstance(self.op, Activated)
        known = [(ACTIVATIONS[name], name, alpha, beta) for name, alpha, beta in self.op.activations(self.node)]
        return [(name, alpha if k.has_alpha else 0.0, beta if k.has_beta else 0.0) for k, name, alpha, beta in known]

    def value(self, output: int = 0) -> Value:
        """Return what is known of an output, of one that is not there what it would be."""
        name = self.node.outputs[output] if output < len(self.node.outputs) else ""
        if name:
            return self.writer.values[name]
        args = [self.writer.values[name] if name else None for name in self.node.inputs]
        return self.op.infer(self.node, args)[output]

    def layer(
        self,
        class_name: str,
        config: Config,
        args: Sequence[Any],
        weights: Mapping[str, np.ndarray] | None = None,
        made: Sequence[Value] | None = None,
        suffix: str = "",
        shared: Sequence[int] = (),
        **arguments: Any,
    ) -> list[Tensor]:
        """Add a call of a layer and return its outputs (`made`, without it the node's first).

        `shared` are the slots whose weights tell whether the layer is one that was called before.
        """
        made = made or [self.value()]
        config = {"trainable": True, "dtype": made[0].dtype.name, **config}

        def make() -> str:
            name = self.writer.add(class_name, self.node.name + suffix, config)
            self.writer.arrays[name] = weights or {}
            return name

        names = tuple(self.name_of(slot) for slot in shared)
        name = (
            self.writer.shared((class_name, names, json.dumps(config, sort_keys=True)), make) if any(names) else make()
        )
        return self.writer.call(name, args, arguments, made)

    def function(
        self,
        class_name: str,
        args: Sequence[Any],
        made: Value | None = None,
        suffix: str = "",
        module: str = "numpy",
        **config: Any,
    ) -> Tensor:
        """Add a call of a function of keras.ops and return its output."""
        name = self.writer.add(class_name, self.node.name + suffix, config, f"keras.src.ops.{module}")
        return self.writer.call(name, args, {}, [made or self.value()])[0]

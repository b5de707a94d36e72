"""Step: one batch of training, or of evaluation, as one program.

    loss = sum_k w_k loss_k(targets_k, outputs_k) + penalties          k: the outputs that have a loss
    gradients = d loss / d parameters                                  in training

Forward pass, losses and adjoint are one graph. Its inputs are the batch, what losses compare with, the draws of dropout, and the weights
as two flat arrays: a step is few calls into compiled code, however many layers there are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlstm.errors import InputError, TrainingError, UnsupportedError
from fastlstm.graph import Dim, Graph, Node, TensorSpec
from fastlstm.layers.build import Build, Tensor
from fastlstm.plan import KEPT_SHAPES, Plan
from fastlstm.training.batches import Batch
from fastlstm.training.drawing import Sizes, Source, drawn
from fastlstm.training.flat import Layout
from fastlstm.training.gradient import gradients
from fastlstm.training.network import Network
from fastlstm.training.unfused import Draw, TrainingBuild

PARAMETERS, STATISTICS = "parameters", "statistics"
GRADIENTS, UPDATES = "gradients", "updates"
Shape = tuple[Dim, ...]


class EvaluationBuild(TrainingBuild):
    """The same network as it is used: weights are inputs, nothing is dropped, nothing is taken apart."""

    training = False
    node = Build.node


@dataclass
class Objective:
    """What one output is compared with: `loss(target, output)` gives values per sample, (B,) or (B, T), which are weighted and averaged.

    `reduction` is Keras's: "sum_over_batch_size" divides by the number of values, of those that are not masked if there is a mask, unless the
    loss itself `reads_mask`.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    target: TensorSpec
    weight: float = 1.0
    reduction: str = "sum_over_batch_size"
    reads_mask: bool = False


@dataclass
class Results:
    """What a step leaves: numbers, and arrays of its own (B, ...)."""

    loss: float
    losses: list[float]  # of each output that has one, before loss weights
    outputs: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)


class Step:
    """A network, its losses and their adjoint, bound to the shapes of each batch.

    `objectives` holds one for each output, None where there is none. `parameters` and `statistics` are the layouts of the flat arrays
    that `run` is given; `outputs` says whether the outputs and their masks are wanted, `masked` which inputs come with a mask (B, T).
    """

    def __init__(
        self,
        network: Network,
        objectives: Sequence[Objective | None],
        parameters: Layout,
        statistics: Layout,
        *,
        training: bool,
        outputs: bool = True,
        masked: Sequence[bool] = (),
        threads: int = 1,
        checkpoint_every: int | None = None,
    ):
        self._specs = network.input_specs
        self._parameters, self._statistics = parameters, statistics
        build = TrainingBuild(checkpoint_every) if training else EvaluationBuild()
        inputs = [build.input(spec.name, spec.dtype, spec.shape or ()) for spec in self._specs]
        for k, has_mask in enumerate(masked):
            if has_mask:
                mask = build.input(f"mask of {inputs[k].name}", "bool", inputs[k].shape[:2])
                inputs[k] = inputs[k].with_mask(mask)
        predictions = network.forward(build, inputs)
        self.draws: list[Draw] = build.draws
        self._sizes = Sizes(self._specs, self.draws, build.nodes, build.values)
        self.losses: list[Tensor] = []
        parts = []
        self._counts = []
        for prediction, objective in zip(predictions, objectives, strict=True):
            if objective is not None:
                loss, counted = reduced(build, prediction, objective)
                self._counts.append(counted)
                self.losses.append(loss)
                parts.append(loss if objective.weight == 1 else loss * objective.weight)
        parts += build.penalties
        wanted: list[Tensor] = []
        self.training = training and bool(parts)
        if parts:
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            wanted = [total, *self.losses]
        elif training or not outputs:
            raise InputError("there is nothing to train on: the network has no loss; pass one to compile")
        self._build, self._predictions, self._input_count = build, predictions, len(inputs)
        self._scalars = len(wanted)
        self._masked = [prediction.mask is not None for prediction in predictions]
        if outputs:
            wanted += [*predictions, *(p.mask for p in predictions if p.mask is not None)]
        self._wanted = len(wanted)
        self.updates = sorted(build.updates)
        if self.training:
            tensors = [Tensor(build, name) for name in parameters.shapes]
            found = gradients(build, wanted[0], tensors)
            wanted.append(concatenated(build, GRADIENTS, parameters, dict(zip(parameters.shapes, found, strict=True))))
        if self.updates:
            kept = {name: build.updates.get(name, Tensor(build, name)) for name in statistics.shapes}
            wanted.append(concatenated(build, UPDATES, statistics, kept))
        self._plan = _plan(build, wanted, parameters, statistics, threads)
        self._output_names = [tensor.name for tensor in wanted]
        self._input_names = [spec.name for spec in self._plan.graph.inputs]

    def run(
        self,
        inputs: Sequence[np.ndarray],
        masks: Sequence[np.ndarray | None],
        targets: Sequence[np.ndarray],
        weights: Sequence[np.ndarray | None],
        parameters: np.ndarray,
        statistics: np.ndarray,
        gradient: np.ndarray | None = None,
        random: Source | None = None,
    ) -> Results:
        """Run the step; write the gradient of the loss into `gradient` and new statistics into `statistics`.

        `targets` and `weights` belong to the outputs that have a loss, in order; weights (B,) or (B, T) default to 1.
        """
        arrays = [*self._arrays(inputs, masks, targets, weights, random), parameters, statistics]
        shapes = tuple([array.shape for array in arrays])
        plan = self._plan
        frame = plan.borrow(shapes)
        try:
            for port, array in zip(frame.inputs.values(), arrays, strict=True):
                port.feed(array)
            if frame.waits_for is None and gradient is not None and self.training:
                port = frame.outputs[self._output_names[self._wanted]]
                if port.admits(gradient):
                    port.point(gradient.ctypes.data)
                else:
                    port.point_home()
            last = frame.run()
            return self._results(last.outputs, statistics, gradient)
        finally:
            plan.give_back(shapes, frame)

    def _results(self, ports: Mapping[str, Any], statistics: np.ndarray, gradient: np.ndarray | None) -> Results:
        buffers = [ports[name].buffer for name in self._output_names]
        numbers = [float(buffer) for buffer in buffers[: self._scalars]]
        rest = [buffer.copy() for buffer in buffers[self._scalars : self._wanted]]
        if gradient is not None and self.training:
            port = ports[self._output_names[self._wanted]]
            if not port.admits(gradient):
                np.copyto(gradient, port.buffer)
        if self.updates:
            np.copyto(statistics, buffers[-1])
        results = Results(numbers[0] if numbers else 0.0, numbers[1:], rest[: len(self._masked)])
        masks = iter(rest[len(self._masked) :])
        results.masks = [next(masks) if masked and rest else None for masked in self._masked]
        return results

    def _arrays(
        self,
        inputs: Sequence[np.ndarray],
        masks: Sequence[np.ndarray | None],
        targets: Sequence[np.ndarray],
        weights: Sequence[np.ndarray | None],
        random: Source | None,
    ) -> list[np.ndarray]:
        """Return the arrays for the plan's inputs but the last two: the batch, the draws, targets with their weights."""
        arrays = [*inputs, *(mask for mask in masks if mask is not None)]
        if self.draws:
            assert random is not None
            sizes = self._sizes.of(inputs)
            arrays += [drawn(draw, sizes, self._parameters.dtype, random) for draw in self.draws]
        for counted, target, weight in zip(self._counts, targets, weights, strict=True):
            arrays += [target, *counted(target, weight)]
        return arrays

    def buffer_bytes(self, batch: Batch, parameters: np.ndarray, statistics: np.ndarray) -> int:
        """Return the bytes of all buffers of a step on a batch like this one; nothing is run."""
        random = Source(0, 0) if self.draws else None
        arrays = self._arrays(batch.inputs, batch.masks, batch.targets, batch.weights, random)
        shapes = tuple(array.shape for array in (*arrays, parameters, statistics))
        return self._plan.bind(shapes).scratch_bytes

    # ---- when a loss is not finite -------------------------------------------------------------------
    def first_bad_value(
        self,
        inputs: Sequence[np.ndarray],
        masks: Sequence[np.ndarray | None],
        targets: Sequence[np.ndarray],
        weights: Sequence[np.ndarray | None],
        parameters: np.ndarray,
        statistics: np.ndarray,
        random: Source | None = None,
    ) -> str:
        """Return, for a message, the first value of the forward pass that holds NaN or an infinity."""
        arrays = self._arrays(inputs, masks, targets, weights, random)
        for name, array in zip(self._input_names, arrays, strict=False):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return f"input {name!r} holds {_bad(array)}"
        for layout, flat in ((self._parameters, parameters), (self._statistics, statistics)):
            for name, view in layout.views(flat).items():
                if not np.isfinite(view).all():
                    return f"weight {name!r} holds {_bad(view)}"
        build = self._build
        wanted = [
            (node, Tensor(build, name))
            for node in build.live([*self._predictions, *self.losses, *build.penalties])
            for name in node.outputs
            if name and build.values[name].dtype.kind == "f"
        ]
        plan = _plan(build, [tensor for _, tensor in wanted], self._parameters, self._statistics, 1)
        arrays += [parameters, statistics]
        frame = plan.bind(tuple(array.shape for array in arrays))
        for port, array in zip(frame.inputs.values(), arrays, strict=True):
            port.feed(array)
        ports = frame.run().outputs
        for node, tensor in wanted:
            if not np.isfinite(ports[tensor.name].buffer).all():
                return f"the first such value is of node {node.name!r} ({node.op}): it holds {_bad(ports[tensor.name].buffer)}"
        return "every value of the forward pass is finite, their sum is not"


def _bad(array: np.ndarray) -> str:
    return "NaN" if np.isnan(array).any() else "an infinity"


# ---- the graph -------------------------------------------------------------------------------------------
def reduced(build: Build, prediction: Tensor, objective: Objective) -> tuple[Tensor, Callable]:
    """Add the loss of one output, a scalar; return it and what gives, for a target and weights, the arrays that it reads beside the target.

    With weights w, mask m and N values: sum v w m / N', N' = N, N sum(m) / size(m) where there is a mask, 1 (reduction "sum"), or
    sum w m ("mean_with_sample_weight").
    """
    name, spec = prediction.name, objective.target
    target = build.input(spec.name, spec.dtype, spec.shape or ())
    values = objective.loss(target, prediction)
    dtype, reduction = values.value.dtype, objective.reduction
    if not values.shape:
        return values, lambda target, weight: []
    rank = len(values.shape)
    weight = build.input(f"weights of {name}", dtype.name, values.shape)
    mask = None if objective.reads_mask else _joined(build, prediction.mask, values.mask)
    weights, counts = weight, mask is not None and reduction in ("sum_over_batch_size", "mean")
    if mask is not None:
        if len(mask.shape) > rank:
            raise UnsupportedError(
                f"output {name!r} has a mask of shape {mask.shape}, its loss one value for each of {values.shape}"
            )
        m = build.node(f"{name}/mask", "Cast", [mask], to=dtype.name)
        if counts:
            count = build.input(f"size of the mask of {name}", dtype.name, ())
            valid = build.node(f"{name}/valid", "ReduceSum", [m])
            one = build.weight("one", np.ones((), dtype))
            m = m * (count / build.node(f"{name}/valid", "Max", [valid, one]))
        if len(mask.shape) < rank:
            m = build.node(f"{name}/mask", "Unsqueeze", [m, build.ints("axes", *range(len(mask.shape), rank))])
        weights = weight * m
    loss = build.node(f"{name}/loss", "ReduceSum", [values * weights])
    if reduction == "mean_with_sample_weight":
        loss = loss / build.node(f"{name}/weights", "ReduceSum", [weights])
    mean = reduction in ("sum_over_batch_size", "mean")
    mask_rank = 0 if mask is None else len(mask.shape)

    even: dict[tuple[int, ...], list[np.ndarray]] = {}  # of shapes seen last, where no weights are given

    def arrays(target: np.ndarray, given: np.ndarray | None) -> list[np.ndarray]:
        if given is not None:
            return weighted(target.shape[:rank], given)
        shape = target.shape[:rank]
        if shape not in even:
            if len(even) >= KEPT_SHAPES:
                even.clear()
            even[shape] = weighted(shape, None)
        return even[shape]

    def weighted(shape: tuple[int, ...], given: np.ndarray | None) -> list[np.ndarray]:
        size = np.prod(shape)
        each = dtype.type(1 / size if mean and size else 1)
        if given is None:
            filled = np.full(shape, each, dtype)
        else:
            given = given.reshape(given.shape + (1,) * (rank - given.ndim))
            filled = np.broadcast_to(given.astype(dtype) * each, shape)
        return [filled, np.array(np.prod(shape[:mask_rank]), dtype)] if counts else [filled]

    return loss, arrays


def _joined(build: Build, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None or a.name == b.name:
        return b if a is None else a
    return build.node("mask", "And", [a, b])


def concatenated(build: Build, name: str, layout: Layout, parts: Mapping[str, Tensor | None]) -> Tensor:
    """Add a flat vector of values in the order of a layout, zeros where there is none and between them."""
    flat = build.ints(f"{name}.shape", -1)
    pieces, at = [], 0
    for part, place in layout.slices.items():
        if place.start > at:
            pieces.append(build.weight(f"{name}.gap", np.zeros(place.start - at, layout.dtype)))
        tensor = parts[part]
        if tensor is None:
            pieces.append(build.weight(f"{name}.zeros", np.zeros(place.stop - place.start, layout.dtype)))
        else:
            pieces.append(build.node(f"{name}/{part}", "Reshape", [tensor, flat]))
        at = place.stop
    if layout.size > at:
        pieces.append(build.weight(f"{name}.gap", np.zeros(layout.size - at, layout.dtype)))
    return build.node(name, "Concat", pieces, axis=0)


def _plan(build: TrainingBuild, wanted: Sequence[Tensor], parameters: Layout, statistics: Layout, threads: int) -> Plan:
    """Return the plan of these values; the inputs that stand for weights are views of two flat inputs, the last ones."""
    weights = dict(build.weights)
    views: list[Node] = []
    flats = []
    for name, layout in ((PARAMETERS, parameters), (STATISTICS, statistics)):
        flats.append(TensorSpec(name, layout.dtype.name, (layout.size,)))
        views += _views(name, layout, weights)
    kept = [spec for spec in build.inputs if spec.name not in parameters.shapes and spec.name not in statistics.shapes]
    specs = tuple(TensorSpec(t.name, t.value.dtype.name, t.value.shape) for t in wanted)
    nodes = by_level(build.live(wanted)) if threads > 1 else build.live(wanted)
    used = {name for node in (*views, *nodes) for name in node.inputs} | {spec.name for spec in specs}
    weights = {name: array for name, array in weights.items() if name in used}
    graph = Graph((*views, *nodes), (*kept, *flats), specs)
    graph.check(weights)
    return Plan(graph, weights, threads=threads)


def by_level(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes ordered by how many others they wait for in a row: those of a bidirectional layer's two directions, forwards and back,
    then stand side by side, and a team does one direction each."""
    levels: dict[str, int] = {}  # of values
    for node in nodes:
        level = 1 + max((levels.get(name, 0) for name in node.inputs), default=0)
        levels |= dict.fromkeys(filter(None, node.outputs), level)
    return sorted(nodes, key=lambda node: levels[next(filter(None, node.outputs))])


def _views(name: str, layout: Layout, weights: dict[str, np.ndarray]) -> list[Node]:
    """Return the nodes that cut a flat input into the values of a layout; their constants join `weights`."""
    sizes, outputs, nodes, at = [], [], [], 0
    for part, place in layout.slices.items():
        sizes += [place.start - at] * (place.start > at) + [place.stop - place.start]
        outputs += [""] * (place.start > at) + [f"{name}/{part}"]
        shape = f"{name}.shape of {part}"
        weights[shape] = np.array(layout.shapes[part], np.int64)
        nodes.append(Node(f"{name}/{part}", "Reshape", (f"{name}/{part}", shape), (part,), {"allowzero": True}))
        at = place.stop
    if not sizes:
        return []
    if layout.size > at:
        sizes, outputs = [*sizes, layout.size - at], [*outputs, f"{name}/rest"]
    weights[f"{name}.sizes"] = np.array(sizes, np.int64)
    cut = Node(name, "Split", (name, f"{name}.sizes"), tuple(outputs), {"axis": 0})
    return [cut, *nodes]


def check_finite(loss: float, where: str, find: Callable[[], str]) -> None:
    """Raise TrainingError, which says where the first bad value is, unless a loss is a number."""
    if not np.isfinite(loss):
        raise TrainingError(f"{where}: the loss is {loss}; {find()}", loss)

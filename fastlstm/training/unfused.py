"""TrainingBuild: a graph under construction for training, in which parameters are inputs and nodes are taken apart.

Each part has a simple adjoint: an activation inside Dense or a convolution becomes a node; a recurrent node becomes the projection of its input,
a Dense, and its steps (ops/steps.py), whose adjoint needs the gates that they leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlstm.constraints import Constraint
from fastlstm.layers.build import Build, Tensor
from fastlstm.layers.build import Shape as SymbolicShape
from fastlstm.ops.op import find

RECURRENT = ("LSTM", "GRU", "RNN")
WITH_ACTIVATION = ("Dense", "Conv1D", "Conv2D", "Conv3D")


@dataclass(frozen=True)
class Draw:
    """An input that is drawn anew for each batch: 0 with probability `rate`, else 1 / (1 - rate), or normal with `stddev` where that is set."""

    name: str
    shape: SymbolicShape
    rate: float
    stddev: float | None = None
    seed: int | None = None  # of the layer, which then draws the same in every network
    place: int = 0  # which of the draws of that layer it is


class TrainingBuild(Build):
    """Collects what a step of training computes.

    `parameters` hold the trainable weights and `statistics` those that training does not move but may replace, both by the name of the
    input that stands for them, `constraints` what parameters are held to; `penalties` are scalars that add to the loss; `updates` are the new values of statistics. With
    `checkpoint_every` a recurrence keeps the states of every so many steps alone (0: of as many as make the least memory).
    """

    training = True
    penalised = True

    def __init__(self, checkpoint_every: int | None = None) -> None:
        super().__init__()
        self.checkpoint_every = checkpoint_every
        self.parameters: dict[str, np.ndarray] = {}
        self.statistics: dict[str, np.ndarray] = {}
        self.penalties: list[Tensor] = []
        self.updates: dict[str, Tensor] = {}
        self.constraints: dict[str, Constraint] = {}
        self.draws: list[Draw] = []
        self._drawn_by: dict[int, int] = {}  # how many draws each layer has made

    def another(self) -> "TrainingBuild":
        return type(self)(self.checkpoint_every)

    def parameter(self, name: str, array: np.ndarray, trainable: bool = True) -> Tensor:
        tensor = self.input(name, array.dtype.name, array.shape)
        (self.parameters if trainable else self.statistics)[tensor.name] = array
        return tensor

    def penalise(self, amount: Tensor) -> None:
        """Add a scalar to the loss."""
        self.penalties.append(amount)

    def replace(self, statistic: Tensor, new: Tensor) -> None:
        """Let a weight that is not trained have another value after the step."""
        self.updates[statistic.name] = new

    def constrain(self, parameter: Tensor, constraint: Constraint) -> None:
        """Hold a parameter to a constraint after each step."""
        self.constraints[parameter.name] = constraint

    def drop(self, name: str, shape: SymbolicShape, rate: float, dtype: str = "float32", owner: Any = None) -> Tensor:
        """Return the mask of a dropout: 0 or 1 / (1 - rate), drawn anew for each batch; from `owner.seed` where that is set."""
        return self._drawn(name, shape, rate, None, dtype, owner)

    def noise(
        self, name: str, shape: SymbolicShape, stddev: float, dtype: str = "float32", owner: Any = None
    ) -> Tensor:
        """Return normal numbers around 0, drawn anew for each batch; from `owner.seed` where that is set."""
        return self._drawn(name, shape, 0.0, stddev, dtype, owner)

    def _drawn(
        self, name: str, shape: SymbolicShape, rate: float, stddev: float | None, dtype: str, owner: Any
    ) -> Tensor:
        tensor, place = self.input(name, dtype, shape), self._drawn_by.get(id(owner), 0)
        self._drawn_by[id(owner)] = place + 1
        self.draws.append(Draw(tensor.name, shape, rate, stddev, getattr(owner, "seed", None), place))
        return tensor

    def node(
        self,
        name: str,
        op: str,
        inputs: Sequence[Tensor | None],
        outputs: int | Sequence[bool] = 1,
        subgraphs: Any = None,
        **attributes: Any,
    ) -> Any:
        if op in RECURRENT:
            return self._recurrent(name, op, list(inputs), outputs, attributes)
        activation = attributes.get("activation", "Identity")
        if op in WITH_ACTIVATION and activation != "Identity":
            plain = {key: value for key, value in attributes.items() if key not in ("activation", "alpha", "beta")}
            y = super().node(name, op, inputs, 1, **plain)
            y = self.activation(f"{name}/{activation}", activation, y, attributes)
            return y if isinstance(outputs, int) else (y,)
        return super().node(name, op, inputs, outputs, subgraphs, **attributes)

    def activation(self, name: str, op: str, x: Tensor, attributes: dict[str, Any]) -> Tensor:
        """Add an activation as a node of its own."""
        known = find(op).attributes
        return super().node(name, op, [x], 1, **{key: attributes[key] for key in known if key in attributes})

    def _recurrent(self, name: str, op: str, inputs: list, outputs: int | Sequence[bool], attributes: dict) -> Any:
        """Add the projection of x and the steps; b of an LSTM or RNN, and b of a GRU, go into the projection.

        Two inputs may follow those of the op, what each gate multiplies h by, (G, B, H), and x, (G, ...) with one step,
        or (1, ...) where all gates share it.
        """
        slots = len(find(op).inputs)
        inputs += [None] * (slots + 2 - len(inputs))
        x, W, U, b, *rest = inputs[:slots]
        dropped_of_h, dropped_of_x = inputs[slots:]
        if op == "GRU" and attributes.get("reset") == "before" and rest and rest[0] is not None:
            # the recurrent bias of the candidate is added outside the reset there: it is one with b
            bn, rest[0] = rest[0], None
            others = self.weight(f"{name}.zeros", np.zeros(2 * bn.shape[0], bn.value.dtype))
            whole = super().node(f"{name}/bias", "Concat", [others, bn], axis=0)
            b = whole if b is None else super().node(f"{name}/bias", "Add", [b, whole])
        asked = [True] * outputs if isinstance(outputs, int) else list(outputs)
        own = len(find(op).outputs)
        if self.checkpoint_every is not None:
            steps = find(f"{op}Checkpointed")
            given = [x, W, b, U, *rest, dropped_of_h, dropped_of_x]
            attributes = attributes | {"every": self.checkpoint_every}
        else:
            steps = find(f"{op}Steps")
            given = [self._projection(name, x, W, b, dropped_of_x), U, *rest, dropped_of_h]
        # what the adjoint reads comes after the outputs of the recurrence itself
        wanted = [*asked, *[False] * (own - len(asked)), *[True] * (len(steps.outputs) - own)]
        tensors = super().node(name, steps.name, given, wanted, **attributes)
        return tensors[0] if isinstance(outputs, int) and outputs == 1 else tensors[: len(asked)]

    def _projection(self, name: str, x: Tensor, W: Tensor, b: Tensor | None, dropped: Tensor | None) -> Tensor:
        """Add x W + b, each gate's part of it over what the gate does not drop of x."""
        if dropped is None:
            return super().node(f"{name}/projection", "Dense", [x, W, b])
        gates = int(dropped.shape[0])  # type: ignore[arg-type]
        masks = self._parts(f"{name}/dropout", dropped, 0, gates)
        weights = self._parts(f"{name}/kernel", W, 1, gates)
        biases = [None] * gates if b is None else self._parts(f"{name}/bias", b, 0, gates)
        zs = []
        for k, (mask, own, bias) in enumerate(zip(masks, weights, biases, strict=True)):
            mask = super().node(f"{name}/dropout/{k}", "Squeeze", [mask, self.ints(f"{name}.axis", 0)])
            kept = super().node(f"{name}/dropout/{k}", "Mul", [x, mask])
            zs.append(super().node(f"{name}/projection/{k}", "Dense", [kept, own, bias]))
        return zs[0] if gates == 1 else super().node(f"{name}/projection", "Concat", zs, axis=-1)

    def _parts(self, name: str, x: Tensor, axis: int, count: int) -> list[Tensor]:
        """Return equal parts of a value along an axis."""
        if count == 1:
            return [x]
        sizes = self.ints(f"{name}.sizes", *[int(x.shape[axis]) // count] * count)  # type: ignore[arg-type]
        return list(super().node(name, "Split", [x, sizes], count, axis=axis))

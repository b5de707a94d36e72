"""TimeDistributed: a layer applied to every step."""

from typing import Any, Literal

from fastlstm.errors import InputError, ShapeError, UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.core import Activation, Dense, Embedding, Identity, Masking, PReLU, ReLU, Softmax
from fastlstm.layers.layer import Layer
from fastlstm.layers.normalisation import BatchNormalization, LayerNormalization
from fastlstm.layers.pooling import GlobalAveragePooling1D
from fastlstm.layers.recurrent import RNN, Bidirectional, Recurrent
from fastlstm.layers.regularisation import Dropout, Noise
from fastlstm.layers.shaping import Flatten, Reshape

POINTWISE = Dense | Activation | ReLU | PReLU | Identity | Embedding | Masking | Dropout | Noise
READS_MASKS = Recurrent | RNN | Bidirectional | GlobalAveragePooling1D | Softmax


class TimeDistributed(Layer):
    """A layer, or a model, applied to every step. Those that act on the last axis alone apply as they are; others on (B * T, ...).

    A mask with more axes than (B, T) goes on to the layer. `mask_rule` says what mask the output has: "input", that of the input
    (Keras 3), or "inner", that which the layer gives each step, and where it gives none whether any of a step is valid (Keras 2).
    """

    supports_masking = True
    mask_rule: Literal["input", "inner"] = "input"

    def __init__(self, layer: Layer, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.layer = layer
        self.rename(self.name)

    def rename(self, name: str) -> None:
        super().rename(name)
        if self.layer.auto_named:
            self.layer.rename(name)

    @property
    def parts(self) -> tuple[Layer, ...]:
        return (self.layer,)

    @property
    def roles(self) -> tuple[str, ...]:
        return self.layer.roles

    @property
    def differs_in_training(self) -> bool:
        return self.layer.differs_in_training

    def make_weights(self, x: Any, dtype: str) -> None:
        if len(x) < 3:
            raise self.fault(ShapeError, f"takes inputs (batch, steps, ...), got shape {tuple(x)}")
        self._acts_on_last_axis(len(x) - 1)
        self.layer.make_weights((x[0], *x[2:]), self.layer.dtype or dtype)

    def _acts_on_last_axis(self, rank: int) -> bool:
        """Tell whether the layer, whose own inputs have `rank` axes, acts on the last alone: it then counts from the end."""
        if isinstance(self.layer, LayerNormalization) and [axis % rank for axis in self.layer.axis] == [rank - 1]:
            self.layer.axis = [-1]
            return True
        if isinstance(self.layer, BatchNormalization) and self.layer.axis % rank == rank - 1:
            self.layer.axis = -1
            return True
        return isinstance(self.layer, POINTWISE) and getattr(self.layer, "noise_shape", None) is None

    def call(self, x: Tensor) -> Tensor:
        if len(x.shape) < 3 and not isinstance(self.layer, Embedding):
            raise self.fault(ShapeError, f"takes inputs (batch, steps, ...), got shape {x.shape}")
        y = self._applied(x)
        if self.mask_rule == "input":
            return y.with_mask(x.mask)
        return y if y.mask is not None else y.with_mask(self._any_valid(x.mask))

    def _applied(self, x: Tensor) -> Tensor:
        """Return the outputs of the layer, with the mask that it gives them."""
        build, name, bare = x.build, self.name, x.with_mask(None)
        if self._acts_on_last_axis(len(x.shape) - 1):
            return self.layer(bare)
        if isinstance(self.layer, Flatten) and len(x.shape) > 2:
            return build.node(name, "Reshape", [x, build.ints(f"{name}.shape", 0, 0, -1)])
        if isinstance(self.layer, Reshape):
            return build.node(name, "Reshape", [x, build.ints(f"{name}.shape", 0, 0, *self.layer.target_shape)])
        steps = build.node(f"{name}/steps", "MergeAxes", [bare])
        if x.mask is not None and len(x.mask.shape) > 2:
            steps = steps.with_mask(build.node(f"{name}/mask", "MergeAxes", [x.mask]))
        elif x.mask is not None and isinstance(self.layer, READS_MASKS):
            inner = type(self.layer).__name__
            raise self.fault(
                UnsupportedError, f"a {inner} that would be given a mask of one value a step is not supported"
            )
        y = self.layer(steps)
        if not isinstance(y, Tensor):
            raise self.fault(InputError, f"wraps {self.layer.name!r}, which gives several outputs; expected one")
        whole = build.node(name, "SplitAxis", [y, x])
        return whole if y.mask is None else whole.with_mask(build.node(f"{name}/mask", "SplitAxis", [y.mask, x]))

    def _any_valid(self, mask: Tensor | None) -> Tensor | None:
        """Return a mask (B, T) of the steps of which anything is valid."""
        while mask is not None and len(mask.shape) > 2:
            mask = mask.build.node(f"{self.name}/valid", "AnyNotEqual", [mask], value=0.0)
        return mask

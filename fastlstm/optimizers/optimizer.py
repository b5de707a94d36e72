"""Optimizer: what all of them share. They work on flat arrays, all weights at once: a step costs few calls of NumPy.

g = clip(gradient)         clipvalue: element by element; clipnorm: each weight by its norm; global_clipnorm: all by the norm of all
w = w (1 - decay lr)       where weight_decay is given
w = w - update(g)          the rule of the optimizer

With gradient_accumulation_steps n, g is the mean gradient of n batches, after which a step is made. With use_ema the mean of weights
a = m a + (1 - m) w, m the ema_momentum, is kept beside them; it takes their place every ema_overwrite_frequency steps, and when `fit` ends.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fastlstm.errors import InputError, ShapeError, UnsupportedError, one_of
from fastlstm.optimizers.schedules import InverseTimeDecay, LearningRateSchedule

ACCUMULATED, AVERAGE = "accumulated gradient", "average of weights"
CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


class Layout(Protocol):
    """Where the weights of each name lie in a flat array."""

    @property
    def slices(self) -> Mapping[str, slice]: ...

    def new(self) -> np.ndarray:
        """Return a flat array of zeros."""
        ...


class Optimizer:
    """The base of all optimizers.

    `learning_rate` is a number, a schedule of the step, or a function without arguments. It can be set while training goes on, unless it
    is a schedule. `iterations` counts the steps that were made, `steps` the
    batches, which are as many unless gradients are accumulated.
    """

    slots: tuple[str, ...] = ()  # the flat arrays that it keeps

    def __init__(
        self,
        learning_rate: "float | LearningRateSchedule | Callable[[], float]",
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        gradient_accumulation_steps: int | None = None,
        loss_scale_factor: float | None = None,
        name: str | None = None,
        lr: Any = None,
        decay: float = 0.0,
        **unknown: Any,
    ):
        if unknown:
            raise InputError(f"unknown argument {next(iter(unknown))!r} of {type(self).__name__}")
        learning_rate = learning_rate if lr is None else lr
        if decay:
            if not isinstance(learning_rate, int | float):
                raise InputError(
                    f"decay={decay!r} of {type(self).__name__}: the learning rate follows a schedule already"
                )
            learning_rate = InverseTimeDecay(learning_rate, 1, decay)
        if loss_scale_factor is not None:
            raise UnsupportedError(
                f"loss_scale_factor={loss_scale_factor!r} of {type(self).__name__} is not supported: nothing is trained in float16"
            )
        if not isinstance(ema_momentum, int | float) or not 0 <= ema_momentum <= 1:
            raise InputError(f"ema_momentum={ema_momentum!r} of {type(self).__name__}: expected a number from 0 to 1")
        for key, value, least in (
            ("ema_overwrite_frequency", ema_overwrite_frequency, 1),
            ("gradient_accumulation_steps", gradient_accumulation_steps, 2),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InputError(f"{key}={value!r} of {type(self).__name__}: expected a whole number of at least {least}, or None")  # fmt: skip
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        given = [key for key in CLIPS if clips[key] is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: an optimizer takes one of them")
        for key, value in (*clips.items(), ("weight_decay", weight_decay)):
            if value is not None and (not isinstance(value, int | float) or not value >= 0):
                raise InputError(f"{key}={value!r} of {type(self).__name__}: expected a number of at least 0")
        self.name = name or type(self).__name__.lower()
        self.clipnorm, self.clipvalue, self.global_clipnorm = clipnorm, clipvalue, global_clipnorm
        self.weight_decay = weight_decay
        self.use_ema, self.ema_momentum, self.ema_overwrite_frequency = (
            bool(use_ema),
            ema_momentum,
            ema_overwrite_frequency,
        )
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.steps = 0
        self.state: dict[str, np.ndarray] = {}
        self._rate: Any = 0.0
        self._set_rate(learning_rate)
        self._layout: Layout | None = None
        self._scratch: list[np.ndarray] = []
        self._undecayed: tuple[str, ...] = ()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        if isinstance(self._rate, LearningRateSchedule):
            return float(self._rate(self.iterations))
        rate: Any = self._rate() if callable(self._rate) else self._rate
        return float(rate)

    @learning_rate.setter
    def learning_rate(self, rate: "float | LearningRateSchedule | Callable[[], float]") -> None:
        if isinstance(self._rate, LearningRateSchedule) and not callable(rate):
            raise InputError(
                f"the learning rate of {self.name!r} follows {type(self._rate).__name__}: it cannot be set to {rate!r}"
            )
        self._set_rate(rate)

    def _set_rate(self, rate: Any) -> None:
        if not callable(rate):
            try:
                rate = float(rate)
            except (TypeError, ValueError):
                rate = float("nan")
            if not rate >= 0:
                raise InputError(f"learning_rate={rate!r}: expected a number of at least 0, a schedule or a function")
        self._rate = rate

    def exclude_from_weight_decay(self, var_names: Sequence[str]) -> None:
        """Leave weights alone whose name contains one of these (regular expressions), such as ["bias"]."""
        self._undecayed = tuple(var_names)

    @property
    def iterations(self) -> int:
        """How many steps were made."""
        return self.steps // (self.gradient_accumulation_steps or 1)

    @iterations.setter
    def iterations(self, count: int) -> None:
        self.steps = count * (self.gradient_accumulation_steps or 1)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of all arrays that are kept between steps."""
        accumulated = (ACCUMULATED,) if self.gradient_accumulation_steps else ()
        return (*self.slots, *accumulated, *((AVERAGE,) if self.use_ema else ()))

    # ---- a step --------------------------------------------------------------------------------------
    def build(self, layout: Layout) -> None:
        """Make the arrays for weights of this layout, unless they are there."""
        if self._layout is layout:
            return
        zeros = layout.new()
        self._scratch = [zeros, np.empty_like(zeros)]
        for slot in self.kept:
            first = layout.new() if slot in (ACCUMULATED, AVERAGE) else self.start(slot, layout)
            if slot not in self.state:
                self.state[slot] = first
            elif self.state[slot].shape != first.shape:
                raise ShapeError(
                    f"optimizer {self.name!r} was made for other weights: it keeps {self.state[slot].size} numbers, the network has {zeros.size}"
                )
        self._layout = layout

    def start(self, slot: str, layout: Layout) -> np.ndarray:
        """Return the array of a slot before the first step."""
        return layout.new()

    def apply(self, weights: np.ndarray, gradient: np.ndarray) -> None:
        """Take the gradient of a batch, which is overwritten: move flat weights against it, or add it to those that come."""
        if self.gradient_accumulation_steps:
            total = self.state[ACCUMULATED]
            total += gradient
            if (self.steps + 1) % self.gradient_accumulation_steps == 0:
                np.divide(total, self.gradient_accumulation_steps, out=gradient)
                total[...] = 0
                self._move(weights, gradient)
        else:
            self._move(weights, gradient)
        if self.use_ema:
            self._average(weights)
        self.steps += 1

    def _move(self, weights: np.ndarray, gradient: np.ndarray) -> None:
        assert self._layout is not None
        self._clip(gradient, self._layout)
        rate = self.learning_rate
        if self.weight_decay:
            self._decay(weights, rate, self._layout)
        self.update(weights, gradient, rate)

    def _average(self, weights: np.ndarray) -> None:
        """Move the mean of weights towards them; at first it is the weights."""
        average, momentum = self.state[AVERAGE], self.ema_momentum if self.iterations else 0.0
        average *= momentum
        average += np.multiply(weights, 1 - momentum, out=self._scratch[0])
        if self.ema_overwrite_frequency and (self.iterations + 1) % self.ema_overwrite_frequency == 0:
            np.copyto(weights, average)

    def finish(self, weights: np.ndarray) -> None:
        """Let the mean of weights, where it is kept, take their place: what `fit` ends with."""
        if self.use_ema and AVERAGE in self.state:
            np.copyto(weights, self.state[AVERAGE])

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        """Move w in place; `self.temporary` gives arrays to work in."""
        raise NotImplementedError

    @property
    def temporary(self) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays of the size of the weights, of no lasting contents."""
        return self._scratch[0], self._scratch[1]

    def _clip(self, g: np.ndarray, layout: Layout) -> None:
        if self.clipvalue:
            np.clip(g, -self.clipvalue, self.clipvalue, out=g)
        elif self.clipnorm:
            squares = np.square(g, out=self._scratch[0])
            for place in layout.slices.values():
                _limit(g[place], squares[place], self.clipnorm)
        elif self.global_clipnorm:
            _limit(g, np.square(g, out=self._scratch[0]), self.global_clipnorm)

    def _decay(self, w: np.ndarray, rate: float, layout: Layout) -> None:
        factor = self.weight_decay * rate  # type: ignore[operator]
        if not self._undecayed:
            w -= np.multiply(w, factor, out=self._scratch[0])
            return
        for name, place in layout.slices.items():
            if not any(re.search(pattern, name) for pattern in self._undecayed):
                w[place] -= w[place] * factor

    # ---- checkpoints ---------------------------------------------------------------------------------
    def get_state(self) -> dict[str, np.ndarray]:
        """Return copies of all that a step depends on beside weights and gradient, by name."""
        numbers: dict[str, np.ndarray] = {"iterations": np.array(self.steps, np.int64)}
        if not callable(self._rate):
            numbers["learning_rate"] = np.array(self._rate, np.float64)
        return numbers | {slot: array.copy() for slot, array in self.state.items()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take what `get_state` gave. Raise InputError where it is of another optimizer."""
        expected = {"iterations", *self.kept}
        missing = expected - set(state)
        unknown = set(state) - expected - {"learning_rate"}
        if unknown or (missing and set(state) - {"iterations", "learning_rate"}):
            raise InputError(
                f"the state holds {one_of(state)}, optimizer {type(self).__name__} keeps {one_of(expected)}"
            )
        self.steps = int(state["iterations"])
        if "learning_rate" in state and not callable(self._rate):
            self._rate = float(state["learning_rate"])
        for slot in self.kept:
            if slot not in state:
                continue
            if slot in self.state and self.state[slot].shape == state[slot].shape:
                np.copyto(self.state[slot], state[slot])
            else:
                self.state[slot] = np.array(state[slot])
                self._layout = None


def _limit(g: np.ndarray, squares: np.ndarray, most: float) -> None:
    """Scale g to a norm of at most `most`."""
    norm = float(np.sqrt(np.sum(squares)))
    if norm > most or norm != norm:
        g *= most / norm

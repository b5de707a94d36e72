"""Schedules: the learning rate as a function of the step, with Keras's equations and names; s is the step, n `decay_steps`."""

from collections.abc import Sequence
from math import ceil, cos, floor, log, pi

from fastlstm.errors import InputError


class LearningRateSchedule:
    """The base of schedules: write `__call__(step)`, which returns a number."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError


class _Decay(LearningRateSchedule):
    def __init__(self, initial_learning_rate: float, decay_steps: float):
        if not decay_steps > 0:
            raise InputError(f"decay_steps={decay_steps!r} of {type(self).__name__}: expected a number above 0")
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps


class ExponentialDecay(_Decay):
    """initial * rate^(s / n), s / n rounded down if `staircase`"""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "",
    ):
        super().__init__(initial_learning_rate, decay_steps)
        self.decay_rate, self.staircase = decay_rate, staircase

    def __call__(self, step: int) -> float:
        p = step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate ** (floor(p) if self.staircase else p)


class InverseTimeDecay(_Decay):
    """initial / (1 + rate s / n), s / n rounded down if `staircase`"""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "",
    ):
        super().__init__(initial_learning_rate, decay_steps)
        self.decay_rate, self.staircase = decay_rate, staircase

    def __call__(self, step: int) -> float:
        p = step / self.decay_steps
        return self.initial_learning_rate / (1 + self.decay_rate * (floor(p) if self.staircase else p))


class PolynomialDecay(_Decay):
    """(initial - end)(1 - s / n)^power + end; past n the end, or with `cycle` n grows to the next multiple"""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "",
    ):
        super().__init__(initial_learning_rate, decay_steps)
        self.end_learning_rate, self.power, self.cycle = end_learning_rate, power, cycle

    def __call__(self, step: int) -> float:
        steps = self.decay_steps * max(1, ceil(step / self.decay_steps)) if self.cycle else self.decay_steps
        left = 1 - min(step, steps) / steps
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate


class CosineDecay(_Decay):
    """initial ((1 - alpha)(1 + cos(pi s / n)) / 2 + alpha), after a linear rise to `warmup_target` in `warmup_steps` if given"""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str = "",
        warmup_target: float | None = None,
        warmup_steps: float = 0,
    ):
        super().__init__(initial_learning_rate, decay_steps)
        self.alpha, self.warmup_target, self.warmup_steps = alpha, warmup_target, warmup_steps

    def __call__(self, step: int) -> float:
        if self.warmup_target is None:
            return self._decayed(step, self.initial_learning_rate)
        if step < self.warmup_steps:
            return self.initial_learning_rate + (self.warmup_target - self.initial_learning_rate) * (
                step / self.warmup_steps
            )
        return self._decayed(step - self.warmup_steps, self.warmup_target)

    def _decayed(self, step: float, start: float) -> float:
        share = min(step, self.decay_steps) / self.decay_steps
        return start * ((1 - self.alpha) * 0.5 * (1 + cos(pi * share)) + self.alpha)


class CosineDecayRestarts(LearningRateSchedule):
    """CosineDecay that starts again, each time over `t_mul` as many steps from `m_mul` as high"""

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "",
    ):
        if not first_decay_steps > 0:
            raise InputError(f"first_decay_steps={first_decay_steps!r}: expected a number above 0")
        self.initial_learning_rate, self.first_decay_steps = initial_learning_rate, first_decay_steps
        self.t_mul, self.m_mul, self.alpha = t_mul, m_mul, alpha

    def __call__(self, step: int) -> float:
        done = step / self.first_decay_steps
        if self.t_mul == 1.0:
            restarts = floor(done)
            done -= restarts
        else:
            restarts = floor(log(1 - done * (1 - self.t_mul)) / log(self.t_mul))
            done = (done - (1 - self.t_mul**restarts) / (1 - self.t_mul)) / self.t_mul**restarts
        wave = 0.5 * self.m_mul**restarts * (1 + cos(pi * done))
        return self.initial_learning_rate * ((1 - self.alpha) * wave + self.alpha)


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[k] while s is at most boundaries[k], and the last value after all of them"""

    def __init__(self, boundaries: Sequence[float], values: Sequence[float], name: str = ""):
        if len(boundaries) != len(values) - 1:
            raise InputError(f"{len(values)} values need {len(values) - 1} boundaries, got {len(boundaries)}")
        self.boundaries, self.values = list(boundaries), list(values)

    def __call__(self, step: int) -> float:
        return self.values[sum(step > boundary for boundary in self.boundaries)]

"""The rules by which optimizers move weights w against a gradient g, lr the learning rate, t = 1, 2 ... the step.

Equations and defaults are Keras 3's; arrays are flat and hold all weights.
"""

from typing import Any

import numpy as np

from fastlstm.errors import InputError
from fastlstm.optimizers.optimizer import Layout, Optimizer


class SGD(Optimizer):
    """w -= lr g; with momentum: m = momentum m - lr g, w += m, or with Nesterov's: w += momentum m - lr g."""

    def __init__(
        self, learning_rate: Any = 0.01, momentum: float = 0.0, nesterov: bool = False, weight_decay: float | None = None, **options: Any
    ):  # fmt: skip
        super().__init__(learning_rate, weight_decay, **options)
        if not 0 <= momentum <= 1:
            raise InputError(f"momentum={momentum!r} of SGD: expected a number from 0 to 1")
        self.momentum, self.nesterov = momentum, nesterov
        self.slots = ("momentum",) if momentum else ()

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        g *= rate
        if not self.momentum:
            w -= g
            return
        m = self.state["momentum"]
        m *= self.momentum
        m -= g
        if not self.nesterov:
            w += m
            return
        moved = np.multiply(m, self.momentum, out=self.temporary[0])
        moved -= g
        w += moved


class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2, w -= lr g / sqrt(v + epsilon).

    `centered` takes the square of the mean gradient from v; with `momentum` the increments are carried on.
    """

    def __init__(
        self, learning_rate: Any = 0.001, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7, centered: bool = False,
        weight_decay: float | None = None, **options: Any,
    ):  # fmt: skip
        super().__init__(learning_rate, weight_decay, **options)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered
        self.slots = ("velocity", *(["momentum"] if momentum > 0 else []), *(["average_gradient"] if centered else []))

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        v, (a, b) = self.state["velocity"], self.temporary
        _average(v, np.square(g, out=a), self.rho)
        if self.centered:
            mean = self.state["average_gradient"]
            np.copyto(a, g)
            _average(mean, a, self.rho)
            np.subtract(v, np.square(mean, out=b), out=b)
            b += self.epsilon
        else:
            np.add(v, self.epsilon, out=b)
        np.sqrt(b, out=b)
        g *= rate
        g /= b
        if self.momentum > 0:
            m = self.state["momentum"]
            m *= self.momentum
            m += g
            g = m
        w -= g


class Adam(Optimizer):
    """m += (1 - b1)(g - m), v += (1 - b2)(g^2 - v), w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt v + epsilon).

    `amsgrad` takes the largest v so far.
    """

    def __init__(
        self, learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, amsgrad: bool = False,
        weight_decay: float | None = None, **options: Any,
    ):  # fmt: skip
        super().__init__(learning_rate, weight_decay, **options)
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = beta_1, beta_2, epsilon, amsgrad
        self.slots = ("momentum", "velocity", *(["velocity_hat"] if amsgrad else []))

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        t = self.iterations + 1
        m, v, (a, _) = self.state["momentum"], self.state["velocity"], self.temporary
        _approach(m, g, 1 - self.beta_1, a)
        _approach(v, np.square(g, out=g), 1 - self.beta_2, a)
        if self.amsgrad:
            v = np.maximum(self.state["velocity_hat"], v, out=self.state["velocity_hat"])
        np.sqrt(v, out=a)
        a += self.epsilon
        np.multiply(m, rate * (1 - self.beta_2**t) ** 0.5 / (1 - self.beta_1**t), out=g)
        g /= a
        w -= g


class AdamW(Adam):
    """Adam with a weight decay of 0.004."""

    def __init__(self, learning_rate: Any = 0.001, weight_decay: float | None = 0.004, **options: Any):
        super().__init__(learning_rate, weight_decay=weight_decay, **options)


class Nadam(Optimizer):
    """Adam with Nesterov's momentum; u_t = b1 (1 - 0.96^t / 2), and products of them in place of powers of b1."""

    slots = ("momentum", "velocity", "u_product")

    def __init__(
        self, learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        weight_decay: float | None = None, **options: Any,
    ):  # fmt: skip
        super().__init__(learning_rate, weight_decay, **options)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def start(self, slot: str, layout: Layout) -> np.ndarray:
        return np.ones(()) if slot == "u_product" else layout.new()

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        t = self.iterations + 1
        u, u_next = (self.beta_1 * (1 - 0.5 * 0.96**k) for k in (t, t + 1))
        product = self.state["u_product"]
        product *= u
        m, v, (a, b) = self.state["momentum"], self.state["velocity"], self.temporary
        _approach(m, g, 1 - self.beta_1, a)
        _approach(v, np.square(g, out=b), 1 - self.beta_2, a)
        np.multiply(m, u_next / (1 - float(product) * u_next), out=a)
        g *= (1 - u) / (1 - float(product))
        a += g
        a *= rate
        np.divide(v, 1 - self.beta_2**t, out=b)
        np.sqrt(b, out=b)
        b += self.epsilon
        a /= b
        w -= a


class Adamax(Optimizer):
    """m as in Adam, u = max(b2 u, |g|), w -= lr m / ((1 - b1^t)(u + epsilon))."""

    slots = ("momentum", "norm")

    def __init__(
        self, learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        weight_decay: float | None = None, **options: Any,
    ):  # fmt: skip
        super().__init__(learning_rate, weight_decay, **options)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        m, u, (a, b) = self.state["momentum"], self.state["norm"], self.temporary
        _approach(m, g, 1 - self.beta_1, a)
        u *= self.beta_2
        np.maximum(u, np.abs(g, out=g), out=u)
        np.multiply(m, rate / (1 - self.beta_1 ** (self.iterations + 1)), out=a)
        a /= np.add(u, self.epsilon, out=b)
        w -= a


class Adagrad(Optimizer):
    """v += g^2, w -= lr g / sqrt(v + epsilon); v starts at `initial_accumulator_value`."""

    slots = ("accumulator",)

    def __init__(
        self, learning_rate: Any = 0.001, initial_accumulator_value: float = 0.1, epsilon: float = 1e-7,
        weight_decay: float | None = None, **options: Any,
    ):  # fmt: skip
        super().__init__(learning_rate, weight_decay, **options)
        self.initial_accumulator_value, self.epsilon = initial_accumulator_value, epsilon

    def start(self, slot: str, layout: Layout) -> np.ndarray:
        return np.full_like(layout.new(), self.initial_accumulator_value)

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        v, (a, _) = self.state["accumulator"], self.temporary
        v += np.square(g, out=a)
        np.add(v, self.epsilon, out=a)
        g *= rate
        g /= np.sqrt(a, out=a)
        w -= g


class Adadelta(Optimizer):
    """v = rho v + (1 - rho) g^2, d = g sqrt(s + epsilon) / sqrt(v + epsilon), s = rho s + (1 - rho) d^2, w -= lr d."""

    slots = ("accumulated_grad", "accumulated_delta_var")

    def __init__(
        self, learning_rate: Any = 0.001, rho: float = 0.95, epsilon: float = 1e-7, weight_decay: float | None = None, **options: Any
    ):  # fmt: skip
        super().__init__(learning_rate, weight_decay, **options)
        self.rho, self.epsilon = rho, epsilon

    def update(self, w: np.ndarray, g: np.ndarray, rate: float) -> None:
        v, s, (a, b) = self.state["accumulated_grad"], self.state["accumulated_delta_var"], self.temporary
        _average(v, np.square(g, out=a), self.rho)
        root = lambda x, out: np.sqrt(np.add(x, self.epsilon, out=out), out=out)
        g *= root(s, a)
        g /= root(v, b)
        _average(s, np.square(g, out=a), self.rho)
        g *= rate
        w -= g


def _average(mean: np.ndarray, x: np.ndarray, rho: float) -> None:
    """mean = rho mean + (1 - rho) x, x being overwritten."""
    mean *= rho
    x *= 1 - rho
    mean += x


def _approach(mean: np.ndarray, x: np.ndarray, share: float, work: np.ndarray) -> None:
    """mean += share (x - mean)"""
    np.subtract(x, mean, out=work)
    work *= share
    mean += work

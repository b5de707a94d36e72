"""The activation functions that recurrent nodes and elementwise nodes know, with the defaults of their coefficients."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Coefficients:
    """Defaults of alpha and beta, and which of them the function has."""

    alpha: float = 0.0
    beta: float = 0.0
    has_alpha: bool = False
    has_beta: bool = False


Activation = tuple[str, float, float]

ACTIVATIONS: dict[str, Coefficients] = {
    "Identity": Coefficients(),
    "Sigmoid": Coefficients(),
    "Tanh": Coefficients(),
    "Relu": Coefficients(),
    "Affine": Coefficients(1.0, 0.0, True, True),
    "LeakyRelu": Coefficients(0.01, has_alpha=True),
    "ThresholdedRelu": Coefficients(1.0, has_alpha=True),
    "ScaledTanh": Coefficients(1.0, 1.0, True, True),
    "HardSigmoid": Coefficients(0.2, 0.5, True, True),
    "Elu": Coefficients(1.0, has_alpha=True),
    "Softsign": Coefficients(),
    "Softplus": Coefficients(),
    "Exp": Coefficients(),
    "Gelu": Coefficients(),
    "GeluTanh": Coefficients(),
    "Selu": Coefficients(),
    "Silu": Coefficients(),
    "Relu6": Coefficients(),
    "Mish": Coefficients(),
    "HardSilu": Coefficients(),
    "Celu": Coefficients(1.0, has_alpha=True),
    "LogSigmoid": Coefficients(),
    "HardTanh": Coefficients(),
    "Squareplus": Coefficients(4.0, has_alpha=True),
}

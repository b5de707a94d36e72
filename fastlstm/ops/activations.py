"""The activation functions that recurrent nodes and elementwise nodes know, with the defaults of their coefficients."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Coefficients:
    """Defaults of alpha and beta, which of them the function has, and whether its derivative is computed from its output.

    The output serves where it says as much as the input does and takes less time.
    """

    alpha: float = 0.0
    beta: float = 0.0
    has_alpha: bool = False
    has_beta: bool = False
    from_output: bool = False


Activation = tuple[str, float, float]

ACTIVATIONS: dict[str, Coefficients] = {
    "Identity": Coefficients(from_output=True),
    "Sigmoid": Coefficients(from_output=True),
    "Tanh": Coefficients(from_output=True),
    "Relu": Coefficients(from_output=True),
    "Affine": Coefficients(1.0, 0.0, True, True),
    "LeakyRelu": Coefficients(0.01, has_alpha=True),
    "ThresholdedRelu": Coefficients(1.0, has_alpha=True),
    "ScaledTanh": Coefficients(1.0, 1.0, True, True),
    "HardSigmoid": Coefficients(0.2, 0.5, True, True),
    "Elu": Coefficients(1.0, has_alpha=True),
    "Softsign": Coefficients(),
    "Softplus": Coefficients(),
    "Exp": Coefficients(from_output=True),
    "Gelu": Coefficients(),
    "GeluTanh": Coefficients(),
    "Selu": Coefficients(from_output=True),
    "Silu": Coefficients(),
    "Relu6": Coefficients(from_output=True),
    "Mish": Coefficients(),
    "HardSilu": Coefficients(),
    "Celu": Coefficients(1.0, has_alpha=True),
    "LogSigmoid": Coefficients(),
    "HardTanh": Coefficients(),
    "Squareplus": Coefficients(4.0, has_alpha=True),
}

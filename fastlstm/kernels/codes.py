"""Functions by number, as steps of a program name them. Imports no Numba."""


def _numbered(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


ACTIVATIONS = _numbered(
    "Identity",
    "Sigmoid",
    "Tanh",
    "Relu",
    "Affine",
    "LeakyRelu",
    "ThresholdedRelu",
    "ScaledTanh",
    "HardSigmoid",
    "Elu",
    "Softsign",
    "Softplus",
    "Exp",
    "Gelu",
    "GeluTanh",
    "Selu",
    "Silu",
    "Relu6",
    "Mish",
    "HardSilu",
    "Celu",
    "LogSigmoid",
    "HardTanh",
    "Squareplus",
)
(
    IDENTITY,
    SIGMOID,
    TANH,
    RELU,
    AFFINE,
    LEAKY_RELU,
    THRESHOLDED_RELU,
    SCALED_TANH,
    HARD_SIGMOID,
    ELU,
    SOFTSIGN,
    SOFTPLUS,
    EXP,
    GELU,
    GELU_TANH,
    SELU,
    SILU,
    RELU6,
    MISH,
    HARD_SILU,
    CELU,
    LOG_SIGMOID,
    HARD_TANH,
    SQUAREPLUS,
) = range(len(ACTIVATIONS))

ARITHMETIC = _numbered("Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Abs", "Sqrt", "Scale", "Sign", "Log", "Erf")
ADD, SUB, MUL, DIV, MAX, MIN, NEG, ABS, SQRT, SCALE, SIGN, LOG, ERF = range(len(ARITHMETIC))

PREDICATES = _numbered("Equal", "NotEqual", "Less", "Greater", "And", "Or", "Not")
EQUAL, NOT_EQUAL, LESS, GREATER, AND, OR, NOT = range(len(PREDICATES))

REDUCTIONS = _numbered("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin")
SUM, MEAN, PROD, MAX_OF, MIN_OF = range(len(REDUCTIONS))

OPERATIONS = ARITHMETIC | PREDICATES | REDUCTIONS

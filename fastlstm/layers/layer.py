"""Layer: what all of Keras's layers share. Arguments are checked, weights are made, and a call becomes nodes, a record, or arrays."""

import re
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np

from fastlstm import constraints, initializers, regularizers
from fastlstm.errors import InputError, ShapeError, UnsupportedError, one_of
from fastlstm.layers.build import Build, Tensor
from fastlstm.layers.symbolic import Symbol, declared, leaves, record

WORDS = {"recurrent_kernel": "recurrent"}  # the word that arguments have for a role
FIRST = ("input_shape", "input_dim", "input_length", "batch_input_shape", "batch_size", "input_dtype")  # of Keras 2
IGNORED = ("autocast",)


class Layer:
    """A Keras layer: holds its configuration and weights. Called on tensors it adds its nodes, on symbols it is recorded, on arrays it runs.

    Arguments are Keras's; so are defaults and the order of `weights`. Every layer takes `name`, `trainable`, `dtype`,
    `activity_regularizer`, and for each weight `kernel_initializer`, `kernel_regularizer`, `kernel_constraint` and so on; as the first of a model also Keras
    2's `input_shape`, `input_dim`, `input_length`, `batch_input_shape`. Raise InputError for an argument that it does not know.
    """

    supports_masking = False
    settled = False  # whether a model has given it a name among its layers
    several = False  # whether it is called on a list of inputs
    initial: Mapping[str, str] = {}  # the roles of weights that it may have, and Keras's default initializers
    statistics: tuple[str, ...] = ()  # roles of weights that no gradient moves
    seeded = False  # whether it draws in training, from a `seed` of its own if it has one
    ignored: tuple[str, ...] = ()  # arguments of Keras that change no number

    def __init__(
        self,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
        activity_regularizer: Any = None,
        weights: Sequence[np.ndarray] | None = None,
        **options: Any,
    ):
        self.auto_named = name is None
        self.name = name or snake_case(type(self).__name__)
        self._trainable = bool(trainable)
        self.dtype = self._dtype(dtype)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.first = {key: options.pop(key) for key in FIRST if options.get(key) is not None}
        self.initializers: dict[str, Any] = {}
        self.regularizers: dict[str, Any] = {}
        self.constraints: dict[str, Any] = {}
        for role, default in self.initial.items():
            word = WORDS.get(role, role)
            self.initializers[role] = initializers.get(options.pop(f"{word}_initializer", default))
            self.regularizers[role] = regularizers.get(options.pop(f"{word}_regularizer", None))
            self.constraints[role] = constraints.get(options.pop(f"{word}_constraint", None))
        self.seed = _seed_of(self, options.pop("seed", None)) if self.seeded else None
        unknown = [key for key in options if key not in (*self.ignored, *IGNORED, *FIRST)]
        if unknown:
            raise InputError(
                f"layer {self.name!r} ({type(self).__name__}): unknown argument {unknown[0]!r}; it takes {one_of(self.arguments())}"
            )
        self._arrays: dict[str, np.ndarray] = {}
        self._given = None if weights is None else list(weights)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def arguments(self) -> set[str]:
        """Return the names of the arguments that the constructor takes."""
        found: set[str] = {"name", "trainable", "dtype", "activity_regularizer", "weights", *self.ignored}
        for kind in type(self).__mro__:
            if "__init__" in vars(kind):
                found |= set(signature(kind.__init__).parameters) - {"self", "options", "args", "kwargs"}
        found |= {"seed"} if self.seeded else set()
        ends = ("initializer", "regularizer", "constraint")
        return found | {f"{WORDS.get(role, role)}_{end}" for role in self.initial for end in ends}

    def rename(self, name: str) -> None:
        """Take another name."""
        self.name = name

    def fault(self, kind: type[Exception], what: str) -> Exception:
        """Return an error that names the layer and its class."""
        return kind(f"layer {self.name!r} ({type(self).__name__}): {what}")

    def _dtype(self, dtype: Any) -> str | None:
        name = getattr(dtype, "name", dtype) if dtype is not None else None
        name = np.dtype(name).name if isinstance(name, type) else name
        if name not in (None, "float32", "float64"):
            raise UnsupportedError(
                f"layer {self.name!r}: dtype={dtype!r} is not supported, only 'float32' and 'float64'"
            )
        return name

    # ---- weights ------------------------------------------------------------------------------------
    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the layer's weights, in Keras's order."""
        return ()

    @property
    def parts(self) -> tuple["Layer", ...]:
        """The layers that hold this one's weights, where it has none of its own."""
        return ()

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        """Return the shapes of weights by role for an input of a shape (a list of them for several inputs).

        Without it, sizes that the input decides are None.
        """
        return {}

    @property
    def built(self) -> bool:
        """Whether the weights exist."""
        return all(part.built for part in self.parts) if self.parts else all(r in self._arrays for r in self.roles)

    def build(self, input_shape: Any) -> None:
        """Create the weights that do not exist yet, for an input of a shape (batch first; a list of shapes for several inputs)."""
        if not self.built:
            self.make_weights(input_shape, self.dtype or "float32")

    def make_weights(self, x: Any, dtype: str) -> None:
        """Create the weights for an input of shape x. Raise ShapeError where it does not say the size of one."""
        if self._given is not None:
            self.set_weights(self._given)
            return
        shapes = self.weight_shapes(x)
        for role in self.roles:
            if not all(isinstance(d, int | np.integer) for d in shapes[role]):
                raise self.fault(
                    ShapeError, f"the input has shape {x}, which leaves the size of its {role} {shapes[role]} open"
                )
        self._arrays = {role: self.initial_value(role, tuple(map(int, shapes[role])), dtype) for role in self.roles}

    def initial_value(self, role: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return the initial value of a weight, an array of its own."""
        made = np.array(self.initializers[role](shape, dtype=dtype), dtype)
        if made.shape != shape:
            raise self.fault(ShapeError, f"its initializer of {role} made shape {made.shape}, expected {shape}")
        return made

    @property
    def weights(self) -> list[np.ndarray]:
        """The weights in Keras's order, as they are: training moves them in place."""
        if self.parts:
            return [array for part in self.parts for array in part.weights]
        return [self._arrays[role] for role in self.roles if role in self._arrays]

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of the weights, in Keras's order."""
        return [array.copy() for array in self.weights]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take copies of the layer's weights, in Keras's order. Raise ShapeError if there are more or fewer."""
        if len(weights) != len(self.roles):
            shapes = [tuple(np.shape(w)) for w in weights]
            raise ShapeError(
                f"layer {self.name!r} ({type(self).__name__}) takes {len(self.roles)} weights {list(self.roles)}, got {len(weights)}: {shapes}"
            )
        if self.parts:
            rest = list(weights)
            for part in self.parts:
                part.set_weights(rest[: len(part.roles)])
                rest = rest[len(part.roles) :]
            return
        wanted = self.weight_shapes() if not self._arrays else {role: a.shape for role, a in self._arrays.items()}
        for role, array in zip(self.roles, weights, strict=True):
            shape, fits = np.shape(array), wanted.get(role)
            if fits is not None and not (
                len(shape) == len(fits) and all(w in (None, d) for w, d in zip(fits, shape, strict=True))
            ):
                raise self.fault(ShapeError, f"{role} has shape {shape}, expected {fits}")
        for role, array in zip(self.roles, weights, strict=True):
            if role in self._arrays:
                np.copyto(self._arrays[role], array, casting="unsafe")
            else:
                self._arrays[role] = np.array(array)

    def adopt(self, role: str, array: np.ndarray) -> None:
        """Let a weight be this array, which holds the same numbers."""
        self._arrays[role] = array

    def held(self, role: str) -> np.ndarray:
        """Return the array that a weight is, or a state that is kept between batches."""
        return self._arrays[role]

    def weight(self, role: str) -> np.ndarray | None:
        """Return one weight by its role, None if the layer has none of that name."""
        return self._arrays[role] if role in self.roles else None

    def count_params(self) -> int:
        """Return the number of elements of all weights."""
        return sum(array.size for array in self.weights)

    # ---- what training moves ------------------------------------------------------------------------
    @property
    def trainable(self) -> bool:
        """Whether training moves the weights; setting it sets it for all layers within."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for part in self.parts:
            part.trainable = value

    def places(self) -> Iterator[tuple["Layer", str, bool]]:
        """Yield (layer that holds it, role, whether training moves it) of each weight, in order."""
        for part in self.parts:
            yield from part.places()
        if not self.parts:
            yield from ((self, role, self._trainable and role not in self.statistics) for role in self.roles)

    @property
    def trainable_weights(self) -> list[np.ndarray]:
        """The weights that training moves."""
        return [layer._arrays[role] for layer, role, moves in self.places() if moves and role in layer._arrays]

    @property
    def non_trainable_weights(self) -> list[np.ndarray]:
        """The weights that training does not move: frozen ones, and statistics."""
        return [layer._arrays[role] for layer, role, moves in self.places() if not moves and role in layer._arrays]

    def reset_states(self) -> None:
        """Let what keeps states between batches start from zeros."""
        for part in self.parts:
            part.reset_states()

    def add_weight(self, build: Build, name: str, role: str) -> Tensor | None:
        """Enter a weight into the graph as `<layer>.<name>`, once however often the layer is called; None for a role that it lacks."""
        if role not in self.roles:
            return None
        if (self, role) not in build.entered:
            moves = self._trainable and role not in self.statistics
            tensor = build.parameter(f"{self.name}.{name}", self._arrays[role], moves)
            build.entered[self, role] = tensor
            regularizer = self.regularizers.get(role)
            if build.penalised and moves and regularizer is not None:
                build.penalise(regularizer(tensor))
            if moves and self.constraints.get(role) is not None:
                build.constrain(tensor, self.constraints[role])
        return build.entered[self, role]

    # ---- calls --------------------------------------------------------------------------------------
    last_call: tuple[Any, Any] | None = None  # the symbols that it was called on last, and those that it returned

    @property
    def input(self) -> Any:
        """The symbols that the layer was last called on, to make a Model from. Raise InputError where it was called on none."""
        return self._of_last_call(0)

    @property
    def output(self) -> Any:
        """The symbols that the layer returned last: `Model(model.input, model.get_layer("lstm").output)`."""
        return self._of_last_call(1)

    def _of_last_call(self, k: int) -> Any:
        if self.last_call is None:
            raise self.fault(InputError, "was not called on symbols yet, so that it has no input and output")
        return self.last_call[k]

    def __call__(
        self, x: Any, *positional: Any, mask: Any = None, training: bool | None = None, **arguments: Any
    ) -> Any:
        """Call the layer on tensors of a graph, on symbols (`Input`), or on arrays, which runs it at once.

        The mask of an input travels on where Keras sends it on. `training=False` is what the layer does once trained, in training too.
        """
        names = list(signature(self.call).parameters)[1:]
        if len(positional) > len(names):
            raise self.fault(
                InputError, f"called with {1 + len(positional)} arguments by position, it takes {1 + len(names)}"
            )
        arguments |= dict(zip(names, positional, strict=False))
        arguments = {key: value for key, value in arguments.items() if value is not None}
        unknown = [key for key in arguments if key not in names]
        if unknown:
            raise self.fault(
                InputError, f"called with {unknown[0]!r}, which it does not take; it takes {one_of(names)}"
            )
        given = leaves([x, mask, *arguments.values()])
        if any(isinstance(leaf, Symbol) for leaf in given):
            return record(self, x, mask, training, arguments)
        if any(isinstance(leaf, Tensor) for leaf in given):
            return self.on_tensors(x, mask, training, arguments)
        from fastlstm.models.eager import run

        return run(self, x, mask, training, arguments)

    def on_tensors(
        self, x: Any, mask: Any = None, training: bool | None = None, arguments: Mapping[str, Any] = {}
    ) -> Any:
        """Add the layer's nodes and return the output, with its mask."""
        x = with_masks(x, mask)
        first = next(leaf for leaf in leaves(x) if isinstance(leaf, Tensor))
        if not self.built:
            dtype = first.value.dtype.name if first.value.dtype.kind == "f" else "float32"
            self.make_weights(self.shapes_of(x, arguments), self.dtype or dtype)
        build: Build = first.build
        mode = build.training
        if training and not mode and self.differs_in_training:
            raise self.fault(UnsupportedError, "called with training=True outside of training, which is not supported")
        build.training = mode and training is not False
        try:
            y = self.call(x, **arguments)
        finally:
            build.training = mode
        if isinstance(y, Tensor) and isinstance(x, Tensor) and self.supports_masking and y.mask is None:
            y = y.with_mask(x.mask)
        if build.penalised and self.activity_regularizer is not None:
            for tensor in leaves(y):
                self._penalise_activity(tensor)
        return y

    def shapes_of(self, x: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the shape that `weight_shapes` is given: of the input, or a list of them for several inputs."""
        return [t.shape for t in x] if isinstance(x, list | tuple) else x.shape

    @property
    def differs_in_training(self) -> bool:
        """Whether a call gives other numbers in training."""
        return False

    def _penalise_activity(self, y: Tensor) -> None:
        """Add the penalty on an output to the loss, divided by the rows of the batch."""
        assert self.activity_regularizer is not None
        build, name = y.build, f"{self.name}/activity"
        amount = self.activity_regularizer(y)
        shape = build.node(f"{name}.shape", "Shape", [y])
        rows = build.node(f"{name}.rows", "Gather", [shape, build.weight(f"{name}.first", np.array(0, np.int64))])
        rows = build.node(f"{name}.count", "Cast", [rows], to=amount.value.dtype.name)
        build.penalise(build.node(name, "Div", [amount, rows]))

    def call(self, x: Any, **arguments: Any) -> Any:
        """Add the layer's nodes for input x and return the output."""
        raise NotImplementedError

    def first_input(self) -> tuple[tuple[Any, ...], str] | None:
        """Return (shape with the batch, dtype) that Keras 2's arguments of a first layer declare, None if there are none."""
        return declared(self.first, self.input_kind, self.dtype)

    input_kind = "features"  # what a first layer's input_dim counts: features, or with "ids" a vocabulary


def with_masks(x: Any, mask: Any) -> Any:
    """Return inputs with the masks of a call: one, or a list of them for a list of inputs."""
    if mask is None:
        return x
    if isinstance(x, Tensor):
        return x.with_mask(mask[0] if isinstance(mask, list | tuple) else mask)
    masks = mask if isinstance(mask, list | tuple) else [mask] * len(x)
    return [t if m is None else t.with_mask(m) for t, m in zip(x, masks, strict=False)] + list(x[len(masks) :])


def snake_case(name: str) -> str:
    """Return the name of a class as Keras names its layers: LSTM lstm, TimeDistributed time_distributed."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def size_of(layer: Layer, argument: str, value: Any) -> int:
    """Return a size. Raise InputError unless it is a whole number of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise layer.fault(InputError, f"{argument}={value!r}: expected a whole number of at least 1")
    return int(value)


def _seed_of(layer: Layer, seed: Any) -> int | None:
    """Return the seed of a layer's draws. Raise InputError unless it is a whole number of at least 0."""
    if seed is not None and (not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**63):
        raise layer.fault(InputError, f"seed={seed!r}: expected a whole number from 0 to 2^63 - 1, or None")
    return None if seed is None else int(seed)


def rate_of(layer: Layer, rate: Any, argument: str = "dropout") -> float:
    """Return the rate of a dropout. Raise InputError unless it is from 0 on and below 1."""
    if not isinstance(rate, int | float | np.number) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise layer.fault(InputError, f"{argument}={rate!r}: expected a rate of at least 0 and below 1")
    return float(rate)

"""Trainable: compile, fit, evaluate and predict, with Keras's names and meanings, for whatever can be replayed into a graph."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastlstm import losses, optimizers
from fastlstm import metrics as known_metrics
from fastlstm.callbacks import BackupAndRestore, CallbackList, History, TerminateOnNaN
from fastlstm.errors import InputError, TrainingError, UnsupportedError, one_of
from fastlstm.graph import TensorSpec
from fastlstm.interrupts import Interrupts
from fastlstm.layers.symbolic import leaves
from fastlstm.losses import Loss
from fastlstm.randomness import generator, random_stream
from fastlstm.training import checkpoint
from fastlstm.training.batches import Batch, Reader, Samples, Stream, Target, is_batches, whole_number
from fastlstm.training.drawing import Source
from fastlstm.training.flat import Layout
from fastlstm.training.network import Network
from fastlstm.training.progress import ProgressBar
from fastlstm.training.step import Objective, Results, Step, check_finite
from fastlstm.training.unfused import TrainingBuild
from fastlstm.training.watch import Watch

SHUFFLING = 1  # what a stream of random numbers is for
SEED_BITS = 63
KNOWN_SHAPES = 256  # shapes of batches whose step is found at once


class Weights:
    """A network's weights in two flat arrays, those that training moves and those it does not, and what a replay says of its outputs."""

    changes = 0  # how often any network took weights into its own arrays

    def __init__(self, network: Network):
        build = TrainingBuild()
        inputs = [build.input(spec.name, spec.dtype, spec.shape or ()) for spec in network.input_specs]
        outputs = network.forward(build, inputs)
        self.output_shapes = [tensor.shape for tensor in outputs]
        self.output_dtypes = [tensor.value.dtype for tensor in outputs]
        self.parameters, self.statistics = Layout(build.parameters), Layout(build.statistics)
        self.moved = self.parameters.gather(build.parameters)
        self.kept = self.statistics.gather(build.statistics)
        self.gradient = self.parameters.new()
        self._network = network
        self._views = self.parameters.views(self.moved) | self.statistics.views(self.kept)
        self._constraints = [(self._views[name], constraint) for name, constraint in build.constraints.items()]
        self._adopt(self._views)

    def _adopt(self, views: Mapping[str, np.ndarray]) -> None:
        self._network.adopt(views)
        Weights.changes += 1
        self._seen = Weights.changes

    def claim(self) -> None:
        """Take the numbers of weights that another network, which shares them, has in its arrays since."""
        if self._seen == Weights.changes:
            return
        self._seen = Weights.changes
        others = {name: view for name, view in self._views.items() if self._network.held(name) is not view}
        for name, view in others.items():
            held = self._network.held(name)
            if held.shape == view.shape:  # states kept for batches of another size begin anew
                np.copyto(view, held)
        if others:
            self._adopt(others)

    def constrain(self) -> None:
        """Hold the weights to their constraints."""
        for view, constraint in self._constraints:
            np.copyto(view, constraint(view))


@dataclass
class _Compiled:
    """What `compile` was given."""

    loss: Any
    loss_weights: Any
    metrics: Any
    weighted_metrics: Any


class Trainable:
    """A mixin for networks (`training.network.Network`) with `output_names`.

    >>> model.compile("adam", loss="mse", metrics=["mae"])
    >>> history = model.fit(x, y, epochs=10, validation_split=0.2)
    """

    optimizer: optimizers.Optimizer
    output_names: Sequence[str]
    input_specs: tuple[TensorSpec, ...]
    history: History
    stop_training = False
    _compiled: _Compiled | None = None
    _weights_held: Weights | None = None
    _loss_list: list[tuple[Loss | None, float]] | None = None
    _steps: dict[tuple, Step]  # by what makes a graph
    _seen: dict[tuple, Step]  # by the shapes of a batch
    _readers: dict[bool, Reader]
    _resumed: checkpoint.Checkpoint | None = None
    _seed: int | None = None
    _threads = 1
    _checkpoint_every: int | None = None

    # ---- compile -------------------------------------------------------------------------------------
    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        threads: int | None = None,
        checkpoint_every: int | str | None = None,
    ) -> None:
        """Say how the network is trained: an optimizer, a loss (for several outputs a list, or a dict by name) and metrics.

        `threads` as for Session (default 1). `checkpoint_every`: for long sequences, keep of LSTM, GRU and SimpleRNN the states of every so many steps,
        or with "sqrt" of as many as take the least memory, and compute the steps between them again when gradients need them: a few parts in a
        hundred of the memory, at a third more time. Raise InputError for names that are not known. Compile again after a layer's `trainable` has changed.
        """
        threads = None if threads is None else whole_number("threads", threads)
        for one in leaves(loss):
            losses.get(one)
        for one in leaves([metrics, weighted_metrics]):
            known_metrics.get(one)
        self.optimizer = optimizers.get(optimizer)
        self._compiled = _Compiled(loss, loss_weights, metrics, weighted_metrics)
        self._threads = threads or 1
        self._checkpoint_every = _checked_segment(checkpoint_every)
        self.stop_training = False
        self.reset_training()
        if getattr(self, "built", True):
            self._objectives()  # raises for unknown names
            self._watch()

    def connect(self, *arguments: Any) -> None:
        """Take other layers: what was built for training is made anew."""
        self.reset_training()
        super().connect(*arguments)  # type: ignore[misc]

    def reset_training(self) -> None:
        """Forget what was built for training, as after a change of the network's layers."""
        self._weights_held = self._loss_list = self._held_watch = None
        self._steps, self._seen, self._readers = {}, {}, {}

    @property
    def compiled(self) -> bool:
        """Whether `compile` was called."""
        return self._compiled is not None

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` gives, in order; metrics are among them once data were seen."""
        self._need_compiled("metrics_names")
        return list((self._held_watch or self._watch()).results())

    def _need_compiled(self, call: str) -> _Compiled:
        if self._compiled is None:
            raise InputError(f"{call} needs a loss and an optimizer: call compile first")
        return self._compiled

    def _need_weights(self, x: Any) -> None:
        """Create the weights of a network that has not been told its input yet, from the data."""
        if getattr(self, "built", True) or x is None or is_batches(x):
            return
        x = next(iter(x.values())) if isinstance(x, Mapping) else x
        ragged = isinstance(x, list | tuple) and len({np.shape(one) for one in x}) > 1
        shape = (len(x), None, *np.shape(x[0])[1:]) if ragged else np.shape(x)
        self.build(shape)  # type: ignore[attr-defined]

    @property
    def _weights(self) -> Weights:
        if self._weights_held is None:
            self._steps, self._seen, self._readers = {}, {}, {}
            self._weights_held = Weights(self)  # type: ignore[arg-type]
        self._weights_held.claim()
        return self._weights_held

    def _objectives(self) -> list[tuple[Loss | None, float]]:
        """Return the loss and its weight for each output."""
        if self._loss_list is None:
            compiled, names = self._compiled, list(self.output_names)
            if compiled is None:
                return [(None, 1.0)] * len(names)
            given = _for_outputs(compiled.loss, names, "loss", shared=True)
            shares = _for_outputs(compiled.loss_weights, names, "loss_weights")
            self._loss_list = [
                (None if loss is None else losses.get(loss), 1.0 if share is None else _share(share))
                for loss, share in zip(given, shares, strict=True)
            ]
        return self._loss_list

    def _watch(self) -> Watch:
        compiled = self._compiled
        assert compiled is not None
        with_loss = [k for k, (loss, _) in enumerate(self._objectives()) if loss is not None]
        spelled = [self.output_names[k] for k in with_loss if isinstance(self._objectives()[k][0], losses.CTC)]
        return Watch(self.output_names, with_loss, compiled.metrics, compiled.weighted_metrics, spelled)

    def _fresh_watch(self) -> Watch:
        """Return the watch of training, at its start."""
        if self._held_watch is None:
            self._held_watch = self._watch()
        self._held_watch.reset()
        return self._held_watch

    def _targets(self) -> list[Target]:
        weights = self._weights
        return [
            Target(name, shape, dtype, loss)
            for name, shape, dtype, (loss, _) in zip(
                self.output_names, weights.output_shapes, weights.output_dtypes, self._objectives(), strict=True
            )
            if loss is not None
        ]

    def _reader(self, targets: bool = True) -> Reader:
        self._weights  # noqa: B018  where they are made anew, readers are too
        if targets not in self._readers:
            self._readers[targets] = Reader(
                self.input_specs, self._targets() if targets else [], list(self.output_names)
            )
        return self._readers[targets]

    # ---- one step ------------------------------------------------------------------------------------
    def _step(self, batch: Batch, training: bool, outputs: bool, with_loss: bool = True) -> Step:
        """Return the step for batches like this one, made when first needed."""
        masked = tuple([mask is not None for mask in batch.masks])
        seen = (
            training,
            outputs,
            with_loss,
            masked,
            tuple([(target.shape[1:], target.dtype) for target in batch.targets]),
        )
        if seen in self._seen:
            return self._seen[seen]
        weights = self._weights
        objectives: list[Objective | None] = [None] * len(weights.output_shapes)
        shapes: list[Any] = []
        if with_loss:
            given = iter(batch.targets)
            for k, (loss, share) in enumerate(self._objectives()):
                if loss is None:
                    continue
                target = next(given)
                shape = weights.output_shapes[k][:1] + _shape_of(loss, weights.output_shapes[k], target)
                spec = TensorSpec(f"target of {self.output_names[k]}", target.dtype.name, shape)
                objectives[k] = Objective(loss.call, spec, share, loss.reduction, loss.reads_mask)
                shapes.append(shape)
        key = training, outputs, with_loss, masked, tuple(shapes)
        if key not in self._steps:
            self._steps[key] = Step(
                self,  # type: ignore[arg-type]
                objectives,
                weights.parameters,
                weights.statistics,
                training=training,
                outputs=outputs,
                masked=masked,
                threads=self._threads,
                checkpoint_every=self._checkpoint_every,
            )
        if len(self._seen) > KNOWN_SHAPES:
            self._seen.clear()
        self._seen[seen] = self._steps[key]
        return self._steps[key]

    def _train(self, batch: Batch, seed: int, outputs: bool, where: Callable[[], str]) -> Results:
        """Make a step of the optimizer; raise TrainingError where the loss is not finite (unless `where` is None)."""
        weights, optimizer = self._weights, self.optimizer
        step = self._step(batch, True, outputs)
        optimizer.build(weights.parameters)
        random = lambda: Source(seed, optimizer.steps) if step.draws else None
        arrays = batch.inputs, batch.masks, batch.targets, batch.weights, weights.moved
        kept = weights.kept.copy() if step.updates else weights.kept
        results = step.run(*arrays, kept, weights.gradient, random())
        if not np.isfinite(results.loss):
            check_finite(results.loss, where(), lambda: step.first_bad_value(*arrays, weights.kept, random()))
        with self.uninterrupted:
            if step.updates:
                np.copyto(weights.kept, kept)
            optimizer.apply(weights.moved, weights.gradient)
            weights.constrain()
        return results

    def _test(self, batch: Batch, outputs: bool) -> Results:
        weights = self._weights
        step = self._step(batch, False, outputs)
        return step.run(batch.inputs, batch.masks, batch.targets, batch.weights, weights.moved, weights.kept)

    def _predict(self, batch: Batch) -> Results:
        weights = self._weights
        step = self._step(batch, False, True, with_loss=False)
        return step.run(batch.inputs, batch.masks, [], [], weights.moved, weights.kept)

    # ---- fit -----------------------------------------------------------------------------------------
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[Any] | Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        seed: int | None = None,
    ) -> History:
        """Train for some epochs and return the History of losses and metrics.

        `x` and `y`: arrays, lists, dicts, lists of sequences of different lengths, or in x batches (x, y) or (x, y, sample_weight) of a
        generator or iterable. `validation_split` takes the last part of the samples before they are shuffled. With the same `seed`, weights and
        data every run gives the same bits. Raise before any step for data that do not fit, and TrainingError where a loss is not finite.
        After Ctrl-C the network keeps what whole steps have taught it, and `history` the epochs that ended.
        """
        self._need_compiled("fit")
        epochs, first = whole_number("epochs", epochs, 0), whole_number("initial_epoch", initial_epoch, 0)
        validation_freq = _frequency(validation_freq)
        self._need_weights(x)
        data, validation = self._data(
            x, y, sample_weight, class_weight, batch_size, steps_per_epoch, validation_split, validation_data,
            validation_batch_size, validation_steps,
        )  # fmt: skip
        self.history = History()
        self._seed = _checked_seed(seed) if seed is not None else self._own_seed
        given = _as_list(callbacks)
        bar = [ProgressBar(_verbosity(verbose), epochs, data.steps)] if _verbosity(verbose) else []
        late = [callback for callback in given if isinstance(callback, BackupAndRestore)]
        called = CallbackList(
            # History comes after those that add to the logs, a backup after History, which is part of it
            [*bar, *(callback for callback in given if callback not in late), self.history, *late],
            self,
            {"verbose": _verbosity(verbose), "epochs": epochs, "steps": data.steps},
        )
        self.stop_training = False
        lenient = any(isinstance(callback, TerminateOnNaN) for callback in given)
        logs: dict[str, Any] = {}
        with self._interrupts:
            called.on_train_begin()
            try:
                self._first_epoch = self._go_on(first)
                for epoch in range(self._first_epoch, epochs):
                    called.on_epoch_begin(epoch)
                    logs = self._fit_epoch(epoch, data, shuffle, called, lenient)
                    if validation is not None and _due(epoch, validation_freq):
                        found = self._evaluate(validation, called)
                        logs |= {f"val_{name}": value for name, value in found.items()}
                    called.on_epoch_end(epoch, logs)
                    if self.stop_training:
                        break
                if self._first_epoch < epochs:
                    self.optimizer.finish(self._weights.moved)
            finally:
                called.on_train_end(logs)
        return self.history

    _first_epoch = 0

    @property
    def _epoch(self) -> int:
        """The epoch that comes after those that have ended."""
        if self._resumed is not None:
            return self._resumed.epoch
        ended = self.history.epoch if hasattr(self, "history") else []
        return ended[-1] + 1 if ended else self._first_epoch

    @cached_property
    def _interrupts(self) -> Interrupts:
        return Interrupts()

    @property
    def uninterrupted(self) -> AbstractContextManager:
        """What is done within it during `fit` or `train_on_batch` is done as a whole: Ctrl-C waits for its end."""
        return self._interrupts.held

    @property
    def _own_seed(self) -> int:
        """The seed of this network's shuffling and dropout where none is given."""
        if self._seed is None:
            self._seed = int(generator().integers(2**SEED_BITS))
        return self._seed

    def _go_on(self, initial_epoch: int) -> int:
        """Return the epoch to begin with; after `load_checkpoint` the one that it was made for."""
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return initial_epoch
        self._seed = resumed.seed
        epochs = resumed.history.pop("epoch", np.zeros(0))
        self.history.epoch = [int(epoch) for epoch in epochs]
        self.history.history = {name: [float(v) for v in values] for name, values in resumed.history.items()}
        return resumed.epoch

    def _data(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Any, batch_size: int | None, steps: int | None, split: float,
        validation_data: Any, validation_batch_size: int | None, validation_steps: int | None,
    ) -> "tuple[_Cycle, Samples | Stream | None]":  # fmt: skip
        """Return what is trained on and what is validated on, checked."""
        if not isinstance(split, int | float | np.number) or isinstance(split, bool) or not 0 <= split < 1:
            raise InputError(f"validation_split={split!r}: expected a number from 0 to below 1")
        steps, validation_steps, validation_batch_size = (
            None if value is None else whole_number(name, value)
            for name, value in (
                ("steps_per_epoch", steps), ("validation_steps", validation_steps), ("validation_batch_size", validation_batch_size),
            )
        )  # fmt: skip
        reader = self._reader()
        data = self._read(reader, x, y, sample_weight, class_weight, batch_size, steps)
        validation = None
        if validation_data is not None:
            size = validation_batch_size or batch_size
            if is_batches(validation_data):
                validation = Stream(validation_data, reader, validation_steps)
            elif isinstance(validation_data, tuple | list) and len(validation_data) in (2, 3):
                validation = reader.samples(*validation_data, batch_size=size)
            else:
                raise InputError("validation_data: expected (x, y), (x, y, sample_weight) or an iterable of batches")
        elif split:
            if not isinstance(data, Samples):
                raise InputError("validation_split is for arrays: pass validation_data beside an iterable of batches")
            data, validation = data.split(split)
            validation.batch_size = validation_batch_size or data.batch_size
        return _Cycle(data, steps), validation

    def _read(
        self, reader: Reader, x: Any, y: Any, sample_weight: Any, class_weight: Any, batch_size: int | None, steps: int | None
    ) -> Samples | Stream:  # fmt: skip
        if x is None:
            raise InputError("there are no data: pass x")
        if not is_batches(x):
            return reader.samples(x, y, sample_weight, class_weight, batch_size)
        if y is not None or sample_weight is not None or batch_size is not None:
            raise InputError("x is an iterable of batches (x, y): y, sample_weight and batch_size are part of it")
        return Stream(x, reader, steps, class_weight)

    def _fit_epoch(
        self, epoch: int, data: "_Cycle", shuffle: bool, called: CallbackList, lenient: bool
    ) -> dict[str, Any]:
        watch = self._fresh_watch()
        seed, outputs = self._own_seed, watch.any_metrics
        told = called.hears("on_train_batch_end")
        seen = -1
        for seen, batch in enumerate(data.batches(epoch, seed if shuffle else None)):
            watch.expect(batch, self._weights.output_shapes)
            called.on_train_batch_begin(seen)
            try:
                results = self._train(batch, seed, outputs, lambda at=seen: f"epoch {epoch + 1}, batch {at + 1}")
            except TrainingError as error:
                if not lenient:
                    raise
                called.on_train_batch_end(seen, {"loss": error.loss})
                return {"loss": error.loss}
            watch.update(batch, results)
            if told:
                called.on_train_batch_end(seen, watch.results())
            if self.stop_training:
                break
        if seen < 0:
            raise InputError(
                f"epoch {epoch + 1}: there are no batches; a generator that has ended does not start again"
            )
        return watch.results()

    _held_watch: Watch | None = None

    # ---- evaluate and predict ------------------------------------------------------------------------
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[Any] | Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Return the loss, and with metrics a list of it and them, or all by name with `return_dict`; x and y as for `fit`."""
        self._need_compiled("evaluate")
        steps = None if steps is None else whole_number("steps", steps)
        self._need_weights(x)
        data = self._read(self._reader(), x, y, sample_weight, None, batch_size, steps)
        called = self._called(callbacks, verbose, data.steps)
        return _listed(self._evaluate(data, called, steps), return_dict)

    def _evaluate(self, data: Samples | Stream, called: CallbackList, steps: int | None = None) -> dict[str, float]:
        watch = self._watch()
        called.on_test_begin()
        told = called.hears("on_test_batch_end")
        at = -1
        for at, batch in enumerate(_first(data.batches(), steps)):
            watch.expect(batch, self._weights.output_shapes)
            called.on_test_batch_begin(at)
            watch.update(batch, self._test(batch, watch.any_metrics))
            if told:
                called.on_test_batch_end(at, watch.results())
        if at < 0:
            raise InputError("there are no batches to evaluate; a generator that has ended does not start again")
        logs = watch.results()
        called.on_test_end(logs)
        return logs

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Sequence[Any] | Any = None,
    ) -> Any:
        """Return the output for every sample, a list of them where there are several outputs.

        A list of sequences of different lengths gives a list where the output has their steps.
        """
        steps = None if steps is None else whole_number("steps", steps)
        self._need_weights(x)
        data = self._read(self._reader(targets=False), x, None, None, None, batch_size, steps)
        called = self._called(callbacks, verbose, data.steps)
        parts: list[list[np.ndarray]] = []
        rows: list[list[int] | None] = []
        called.on_predict_begin()
        for at, batch in enumerate(_first(data.batches(), steps)):
            called.on_predict_batch_begin(at)
            outputs = self._predict(batch).outputs
            parts.append(outputs)
            rows.append(_lengths(batch))
            called.on_predict_batch_end(at, {"outputs": outputs})
        called.on_predict_end()
        if not parts:
            raise InputError("there are no batches to predict")
        joined = [_joined(k, parts, rows) for k in range(len(parts[0]))]
        return joined[0] if len(joined) == 1 else joined

    def _called(self, callbacks: Any, verbose: int | str, steps: int | None) -> CallbackList:
        loud = _verbosity(verbose)
        bar = [ProgressBar(loud, 1, steps)] if loud else []
        return CallbackList([*bar, *_as_list(callbacks)], self, {"verbose": loud, "epochs": 1, "steps": steps})

    # ---- one batch -----------------------------------------------------------------------------------
    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Make one step of the optimizer and return the loss and metrics of the batch, before the step."""
        self._need_compiled("train_on_batch")
        self._need_weights(x)
        batch = self._reader().samples(x, y, sample_weight, class_weight).take(slice(None))
        watch = self._fresh_watch()
        watch.expect(batch, self._weights.output_shapes)
        where = lambda: f"step {self.optimizer.iterations + 1}"
        with self._interrupts:
            results = self._train(batch, self._own_seed, watch.any_metrics, where)
        watch.update(batch, results)
        return _listed(watch.results(), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Return the loss and metrics of one batch."""
        self._need_compiled("test_on_batch")
        self._need_weights(x)
        batch = self._reader().samples(x, y, sample_weight).take(slice(None))
        watch = self._watch()
        watch.expect(batch, self._weights.output_shapes)
        watch.update(batch, self._test(batch, watch.any_metrics))
        return _listed(watch.results(), return_dict)

    def buffer_bytes(self, x: Any, y: Any = None, sample_weight: Any = None) -> int:
        """Return the bytes of memory that a step of training on this batch takes: inputs, weights, gradients and all between them. Nothing is run.

        >>> model.buffer_bytes(x[:32], y[:32])
        """
        self._need_compiled("buffer_bytes")
        self._need_weights(x)
        batch = self._reader().samples(x, y, sample_weight).take(slice(None))
        return self._step(batch, True, False).buffer_bytes(batch, self._weights.moved, self._weights.kept)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for one batch."""
        self._need_weights(x)
        batch = self._reader(targets=False).samples(x).take(slice(None))
        outputs = self._predict(batch).outputs
        return outputs[0] if len(outputs) == 1 else outputs

    # ---- weights and checkpoints ---------------------------------------------------------------------
    def snapshot(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of all weights, for `restore`."""
        return self._weights.moved.copy(), self._weights.kept.copy()

    def restore(self, snapshot: tuple[np.ndarray, np.ndarray]) -> None:
        """Go back to the weights of a snapshot."""
        np.copyto(self._weights.moved, snapshot[0])
        np.copyto(self._weights.kept, snapshot[1])

    def save_weights(self, path: str | os.PathLike) -> None:
        """Write the weights to a safetensors file, for `load_weights`."""
        weights = self._weights
        named = weights.parameters.views(weights.moved), weights.statistics.views(weights.kept)
        checkpoint.Checkpoint(*named).save(path)

    def load_weights(self, path: str | os.PathLike) -> None:
        """Take the weights of a file that `save_weights` or `save_checkpoint` wrote. Raise InputError where they are of another network."""
        self._take(checkpoint.load(path), path)

    def save_checkpoint(self, path: str | os.PathLike) -> None:
        """Write weights, the state of the optimizer and where training is to a safetensors file, for `load_checkpoint`."""
        self._need_compiled("save_checkpoint")
        weights = self._weights
        self.optimizer.build(weights.parameters)
        history = getattr(self, "history", None) or History()
        kept = {name: np.array(values, np.float64) for name, values in history.history.items()}
        checkpoint.Checkpoint(
            weights.parameters.views(weights.moved),
            weights.statistics.views(weights.kept),
            self.optimizer.get_state(),
            type(self.optimizer).__name__,
            self._epoch,
            self._own_seed,
            kept | {"epoch": np.array(history.epoch, np.float64)},
        ).save(path)

    def load_checkpoint(self, path: str | os.PathLike) -> None:
        """Take weights and optimizer of a checkpoint; the next `fit` goes on with the epoch that follows, bit for bit.

        Raise InputError where the checkpoint is of another network or optimizer.
        """
        self._need_compiled("load_checkpoint")
        found = checkpoint.load(path)
        if found.kind != type(self.optimizer).__name__:
            raise InputError(
                f"{os.fspath(path)}: made with optimizer {found.kind or 'none'}, the network has {type(self.optimizer).__name__}"
            )
        self._take(found, path)
        self.optimizer.set_state(found.optimizer)
        self._resumed, self._seed = found, found.seed

    def _take(self, found: checkpoint.Checkpoint, path: str | os.PathLike) -> None:
        weights = self._weights
        pairs = (
            (weights.parameters.views(weights.moved), found.parameters),
            (weights.statistics.views(weights.kept), found.statistics),
        )
        for own, given in pairs:
            if {name: view.shape for name, view in own.items()} != {name: array.shape for name, array in given.items()}:
                raise InputError(
                    f"{os.fspath(path)}: holds weights {one_of(given)}, the network has {one_of(own)}, or their shapes differ"
                )
        for own, given in pairs:
            for name, view in own.items():
                np.copyto(view, given[name])


@dataclass
class _Cycle:
    """Data that are gone through every epoch, or so many steps of them."""

    data: Samples | Stream
    steps_per_epoch: int | None
    _left: "Iterator[Batch] | None" = None

    @property
    def steps(self) -> int | None:
        return self.steps_per_epoch or self.data.steps

    def batches(self, epoch: int, seed: int | None) -> Iterable[Batch]:
        """Yield the batches of an epoch, shuffled where a seed is given."""
        if isinstance(self.data, Stream):
            return self.data.batches()
        order = None if seed is None else random_stream(seed, SHUFFLING, epoch).permutation(len(self.data))
        return _first(self.data.batches(order), self.steps_per_epoch)


def _first(batches: Iterable[Batch], steps: int | None) -> Iterator[Batch]:
    for at, batch in enumerate(batches):
        if steps is not None and at >= steps:
            return
        yield batch


def _shape_of(loss: Loss, output: tuple, target: np.ndarray) -> tuple:
    """Return the axes of a target after the first: the output's, symbols included, where they agree with the data."""
    own = loss.axes(output)[1:]
    return own if len(own) == target.ndim - 1 else target.shape[1:]


def _for_outputs(value: Any, names: Sequence[str], what: str, shared: bool = False) -> list[Any]:
    """Return a value for each output, given as one for all, a list, or a dict by name."""
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        if unknown:
            raise InputError(f"{what} names output {unknown[0]!r}; the network has {one_of(names)}")
        return [value.get(name) for name in names]
    if isinstance(value, list | tuple):
        if len(value) != len(names):
            raise InputError(f"{what} has {len(value)} entries, the network {len(names)} outputs: {one_of(names)}")
        return list(value)
    if value is None or shared or len(names) == 1:
        return [value] * len(names)
    raise InputError(f"{what}={value!r}: the network has {len(names)} outputs: pass a list or a dict")


def _share(share: Any) -> float:
    """Return the weight of a loss. Raise InputError unless it is a number."""
    if not isinstance(share, int | float | np.number) or isinstance(share, bool):
        raise InputError(f"loss_weights hold {share!r}, expected numbers")
    return float(share)


def _as_list(callbacks: Any) -> list[Any]:
    return [] if callbacks is None else list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]


def _verbosity(verbose: int | str) -> int:
    if verbose == "auto":
        return 1
    if verbose in (0, 1, 2):
        return int(verbose)
    raise InputError(f"verbose={verbose!r}: expected 'auto', 0, 1 or 2")


def _checked_segment(every: Any) -> int | None:
    """Return the steps of a segment as graphs have them: 0 for the root of all, None where nothing is computed again."""
    if every is None or every == "sqrt":
        return None if every is None else 0
    if not isinstance(every, int | np.integer) or isinstance(every, bool) or every < 1:
        raise InputError(f"checkpoint_every={every!r}: expected a number of steps, 'sqrt' or None")
    return int(every)


def _checked_seed(seed: Any) -> int:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**SEED_BITS:
        raise InputError(f"seed={seed!r}: expected a whole number from 0 to 2^{SEED_BITS} - 1")
    return int(seed)


def _frequency(frequency: Any) -> int | list[int]:
    """Return after how many epochs, or after which, counted from 1, a network is validated. Raise InputError."""
    if isinstance(frequency, list | tuple | set | range | np.ndarray):
        return [whole_number("validation_freq", epoch) for epoch in frequency]
    return whole_number("validation_freq", frequency)


def _due(epoch: int, frequency: int | Sequence[int]) -> bool:
    """Tell whether an epoch is validated."""
    return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency


def _listed(logs: dict[str, float], as_dict: bool) -> Any:
    values = list(logs.values())
    return logs if as_dict else values[0] if len(values) == 1 else values


def _lengths(batch: Batch) -> list[int] | None:
    """Return the steps of each row where lengths differ."""
    mask = next((mask for mask in batch.masks if mask is not None), None)
    return None if mask is None else [int(n) for n in mask.sum(axis=1)]


def _joined(k: int, parts: list[list[np.ndarray]], lengths: list[list[int] | None]) -> Any:
    """Return one output of all batches: an array, or rows cut to their steps where lengths differ and the output has them."""
    arrays = [outputs[k] for outputs in parts]
    if all(length is None for length in lengths):
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    stepped = all(
        a.ndim > 2 and length is not None and a.shape[1] == max(length)
        for a, length in zip(arrays, lengths, strict=True)
    )
    if not stepped:
        return np.concatenate(arrays)
    return [
        row[:n]
        for array, length in zip(arrays, lengths, strict=True)
        for row, n in zip(array, length or [], strict=True)
    ]


def value_and_grad(
    model: Network, loss: Any, threads: int | None = None, checkpoint_every: int | str | None = None
) -> Callable[..., tuple[float, dict[str, np.ndarray]]]:
    """Return a function of (x, y) that gives the loss of a batch and its gradient by name of weight, as the network is in training.

    `threads` and `checkpoint_every` as for `compile`.

    >>> gradient = fastlstm.value_and_grad(model, "mse")
    >>> loss, gradients = gradient(x, y)
    """
    if not hasattr(model, "forward"):
        raise UnsupportedError(f"value_and_grad takes a network that can be trained, got {type(model).__name__}")

    class Bare(Trainable):
        input_specs = model.input_specs
        output_names = tuple(getattr(model, "output_names", ()))
        forward = staticmethod(model.forward)
        adopt, held = staticmethod(model.adopt), staticmethod(model.held)

    bare = Bare()
    bare.compile(loss=loss, threads=threads, checkpoint_every=checkpoint_every)

    def value_and_gradient(
        x: Any, y: Any, sample_weight: Any = None, seed: int = 0
    ) -> tuple[float, dict[str, np.ndarray]]:
        if isinstance(model, Trainable) and model._weights is not bare._weights_held:
            # the weights that the network's own training moves, made anew since the last call
            bare.reset_training()
            bare._weights_held = model._weights
        batch = bare._reader().samples(x, y, sample_weight).take(slice(None))
        weights, step = bare._weights, bare._step(batch, True, False)
        random = Source(seed, 0) if step.draws else None
        results = step.run(
            batch.inputs, batch.masks, batch.targets, batch.weights, weights.moved, weights.kept.copy(), weights.gradient, random
        )  # fmt: skip
        return results.loss, {name: view.copy() for name, view in weights.parameters.views(weights.gradient).items()}

    return value_and_gradient

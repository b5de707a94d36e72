"""Watch: the mean loss and the metrics of an epoch, by the names under which logs and History have them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastlstm import metrics
from fastlstm.errors import InputError, one_of
from fastlstm.training.batches import Batch
from fastlstm.training.step import Results


class Tally:
    """A mean of losses of batches, each weighted by its samples: `metrics.Mean` without arrays, as every step adds to it."""

    def __init__(self, name: str):
        self.name = name
        self.reset_state()

    def reset_state(self) -> None:
        self.total = self.count = 0.0

    def add(self, loss: float, samples: int) -> None:
        self.total += loss * samples
        self.count += samples

    def result(self) -> float:
        return self.total / self.count if self.count else 0.0


class Watch:
    """Accumulates what steps leave.

    `names` are those of the outputs, `with_loss` the indices of those that have a loss. Metrics are Keras's argument: names, metrics or
    functions, a list or dict of them by output where there are several; `weighted` ones take sample weights too. Outputs that are `spelled`
    are compared with labels by CTC: only functions of one's own are metrics of them.
    """

    def __init__(
        self,
        names: Sequence[str],
        with_loss: Sequence[int],
        wanted: Any = None,
        weighted: Any = None,
        spelled: Sequence[str] = (),
    ):
        self._names, self._with_loss = list(names), list(with_loss)
        self._several = len(names) > 1
        self.loss = Tally("loss")
        self._losses = [Tally(f"{names[k]}_loss") for k in with_loss] if self._several else []
        self._wanted = [
            (self._by_output(wanted, "metrics"), False),
            (self._by_output(weighted, "weighted_metrics"), True),
        ]
        for output, chosen in zip(names, map(list.__add__, *(by_output for by_output, _ in self._wanted)), strict=True):
            for one in chosen if output in spelled else ():
                if isinstance(one, str | type | metrics.Metric):
                    raise InputError(
                        f"output {output!r}: metric {one!r} compares values of the same place, labels of CTC have none: decode them (fastlstm.data.ctc_decode)"
                    )
        self._metrics: dict[str, tuple[int, metrics.Metric, bool]] | None = None

    @property
    def any_metrics(self) -> bool:
        """Whether outputs are looked at."""
        return any(chosen for wanted, _ in self._wanted for chosen in wanted)

    def _by_output(self, wanted: Any, argument: str) -> list[list]:
        """Return the metrics of each output."""
        as_list = lambda one: [] if one is None else list(one) if isinstance(one, list | tuple) else [one]
        if isinstance(wanted, Mapping):
            unknown = [name for name in wanted if name not in self._names]
            if unknown:
                raise InputError(f"{argument} name output {unknown[0]!r}; the network has {one_of(self._names)}")
            return [as_list(wanted.get(name)) for name in self._names]
        if not self._several:
            return [[one for part in as_list(wanted) for one in as_list(part)]]
        if not wanted:
            return [[] for _ in self._names]
        if not isinstance(wanted, list | tuple) or len(wanted) != len(self._names):
            raise InputError(f"{argument}: the network has {len(self._names)} outputs: pass a list of {len(self._names)}, or a dict with {one_of(self._names)}")  # fmt: skip
        return [as_list(one) for one in wanted]

    def _made(self, batch: Batch, results: Results) -> dict[str, tuple[int, metrics.Metric, bool]]:
        """Return the metrics by name, now that the shapes of targets and outputs are known."""
        made: dict[str, tuple[int, metrics.Metric, bool]] = {}
        for wanted, weighted in self._wanted:
            for output, chosen in enumerate(wanted):
                for one in chosen:
                    target = batch.targets[self._with_loss.index(output)]
                    metric = metrics.get(one, target.shape, results.outputs[output].shape)
                    prefix = f"{self._names[output]}_" if self._several else ""
                    name, count = f"{prefix}{metric.name}", 0
                    while name in made:
                        count += 1
                        name = f"{prefix}weighted_{metric.name}" if weighted and count == 1 else f"{prefix}{metric.name}_{count}"  # fmt: skip
                    made[name] = output, metric, weighted
        return made

    def expect(self, batch: Batch, outputs: Sequence[Sequence[Any]]) -> None:
        """Raise InputError or ShapeError where metrics cannot be of targets and of outputs of these shapes, sizes or symbols, before a step."""
        if self._metrics is not None:
            return
        for wanted, _ in self._wanted:
            for k, chosen in enumerate(wanted):
                where = f"output {self._names[k]!r}"
                if chosen and k not in self._with_loss:
                    raise InputError(f"{where} has metrics and no loss, so no targets")
                for one in chosen:
                    shape = batch.targets[self._with_loss.index(k)].shape
                    metrics.get(one, shape, tuple(outputs[k])).check(shape, outputs[k], where)

    def update(self, batch: Batch, results: Results) -> None:
        """Take what a step leaves of a batch."""
        self.loss.add(results.loss, batch.size)
        for tally, loss in zip(self._losses, results.losses, strict=False):
            tally.add(loss, batch.size)
        if not self.any_metrics:
            return
        if self._metrics is None:
            self._metrics = self._made(batch, results)
            for _, metric, _ in self._metrics.values():
                metric.reset_state()
        for output, metric, weighted in self._metrics.values():
            place = self._with_loss.index(output)
            weight = batch.weights[place] if weighted else None
            metric.masked(batch.targets[place], results.outputs[output], weight, results.masks[output])

    def results(self) -> dict[str, float]:
        """Return the means so far, the loss first."""
        found = {tally.name: tally.result() for tally in (self.loss, *self._losses)}
        return found | {name: metric.result() for name, (_, metric, _) in (self._metrics or {}).items()}

    def reset(self) -> None:
        """Start an epoch."""
        for one in (self.loss, *self._losses, *(metric for _, metric, _ in (self._metrics or {}).values())):
            one.reset_state()

"""Callbacks: each hook in its place, Keras's decisions on the same losses, files, and training that goes on from a checkpoint."""

import csv
import sys

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import callbacks, layers
from fastlstm.errors import InputError, MissingExtraError, ModelFileError


class Recorder(callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []


def _hook(name):
    def hook(self, *arguments):
        self.calls.append((name, *(one for one in arguments if isinstance(one, int))))

    return hook


for _name in dir(callbacks.Callback):
    if _name.startswith("on_") and _name not in ("on_batch_begin", "on_batch_end"):
        setattr(Recorder, _name, _hook(_name))


def _data(rows=12):
    rng = np.random.default_rng(1)
    return rng.standard_normal((rows, 5)), rng.standard_normal((rows, 3))


def _compiled(**options):
    network = networks.dense(np.random.default_rng(0))
    network.compile(**({"optimizer": "adam", "loss": "mse"} | options))
    return network


def _driven(callback, values, name="val_loss", model=None):
    """Let a callback see a monitored value for each epoch until it stops training; return how many it saw."""

    class Optimizer:
        learning_rate = 0.1

    class Model:
        optimizer, stop_training, weights = Optimizer(), False, 0

        def get_weights(self):
            return [np.array(self.weights)]

        def set_weights(self, weights):
            self.weights = int(weights[0])

        snapshot, restore = get_weights, set_weights

    model = model or Model()
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        model.weights = epoch
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {name: value, "loss": value})
        if model.stop_training:
            break
    callback.on_train_end()
    return epoch + 1, model


def test_hooks_are_called_in_keras_s_order():
    x, y = _data()
    ours, theirs = Recorder(), Recorder()
    network = _compiled()
    network.fit(x, y, batch_size=5, epochs=2, validation_split=0.25, verbose=0, callbacks=[ours])
    network.evaluate(x, y, verbose=0, callbacks=[ours])
    network.predict(x, verbose=0, callbacks=[ours])
    k = networks.keras("float64")
    twin = networks.dense_of_keras(network, "float64")
    twin.compile("sgd", "mse", run_eagerly=True)

    class Bridge(k.callbacks.Callback):
        pass

    for name in dir(callbacks.Callback):
        if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end"):
            setattr(Bridge, name, lambda self, *a, _name=name, **o: getattr(theirs, _name)(*a))
    twin.fit(x, y, batch_size=5, epochs=2, validation_split=0.25, verbose=0, callbacks=[Bridge()])
    twin.evaluate(x, y, verbose=0, callbacks=[Bridge()])
    twin.predict(x, verbose=0, callbacks=[Bridge()])
    assert ours.calls == theirs.calls


EARLY = {
    "patience": {"patience": 2},
    "no patience": {},
    "min_delta": {"patience": 1, "min_delta": 0.2},
    "max": {"patience": 1, "mode": "max"},
    "restores": {"patience": 2, "restore_best_weights": True},
    "baseline": {"patience": 3, "baseline": 0.3, "restore_best_weights": True},
    "starts late": {"patience": 1, "start_from_epoch": 3, "restore_best_weights": True},
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", EARLY)
def test_early_stopping_stops_and_restores_where_keras_does(name, seed):
    values = np.random.default_rng(seed).random(12).round(2).tolist()
    k = networks.keras()
    found, model = _driven(callbacks.EarlyStopping(**EARLY[name]), values)
    options = {"mode": "min"} | EARLY[name]  # Keras asks the compiled network what to do in mode "auto"
    expected, twin = _driven(k.callbacks.EarlyStopping(**options), values)
    assert (found, model.weights) == (expected, twin.weights)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{"patience": 1}, {"patience": 2, "cooldown": 2, "factor": 0.5}, {"patience": 1, "min_lr": 0.005}])  # fmt: skip
def test_learning_rates_on_a_plateau_are_keras_s(options, seed):
    values = np.random.default_rng(seed).random(12).round(2).tolist()
    rates = []
    for callback in (
        callbacks.ReduceLROnPlateau(**options),
        networks.keras().callbacks.ReduceLROnPlateau(mode="min", **options),
    ):
        rates.append(_driven(callback, values)[1].optimizer.learning_rate)
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)


def test_accuracies_are_to_grow():
    assert callbacks.EarlyStopping("val_accuracy").grows
    assert callbacks.EarlyStopping("val_auc").grows
    assert not callbacks.EarlyStopping("val_loss").grows
    with pytest.warns(
        UserWarning, match="EarlyStopping watches 'val_acc', which is not there; there are val_loss, loss"
    ):
        _driven(callbacks.EarlyStopping("val_acc"), [1.0])


def test_early_stopping_in_fit_goes_back_to_the_best_weights():
    x, y = _data(40)
    network = _compiled(optimizer=fastlstm.optimizers.SGD(0.3))
    seen = []
    watch = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((logs["val_loss"], network.get_weights()))
    )
    stop = callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    network.fit(x, y, epochs=200, validation_split=0.5, verbose=0, seed=1, callbacks=[watch, stop])
    assert len(seen) < 200
    best = min(range(len(seen)), key=lambda k: seen[k][0])
    for ours, expected in zip(network.get_weights(), seen[best][1], strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_learning_rate_scheduler_sets_the_rate_and_logs_it():
    x, y = _data()
    network = _compiled()
    history = network.fit(x, y, epochs=3, verbose=0, callbacks=[callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)])  # fmt: skip
    assert history.history["learning_rate"] == pytest.approx([0.0005, 0.00025, 0.000125])
    network.fit(x, y, epochs=1, verbose=0, callbacks=[callbacks.LearningRateScheduler(lambda epoch: 0.25)])
    assert network.optimizer.learning_rate == 0.25
    with pytest.raises(InputError, match="gives 'fast' for epoch 0, expected a float"):
        network.fit(x, y, verbose=0, callbacks=[callbacks.LearningRateScheduler(lambda epoch: "fast")])


def test_csv_logger_writes_a_line_for_each_epoch(tmp_path):
    x, y = _data()
    network = _compiled(metrics=["mae"])
    path = tmp_path / "log.csv"
    history = network.fit(
        x, y, epochs=3, validation_split=0.25, verbose=0, callbacks=[callbacks.CSVLogger(path)]
    ).history
    network.fit(x, y, epochs=1, validation_split=0.25, verbose=0, callbacks=[callbacks.CSVLogger(path, append=True)])
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "0"]
    for name, values in history.items():
        assert [float(row[name]) for row in rows[:3]] == values


class TestModelCheckpoint:
    def test_names_hold_epochs_and_losses_and_the_model_loads(self, tmp_path):
        x, y = _data()
        network = _compiled()
        history = network.fit(
            x,
            y,
            epochs=2,
            verbose=0,
            callbacks=[callbacks.ModelCheckpoint(tmp_path / "m-{epoch:02d}-{loss:.3f}.safetensors")],
        )
        names = [f"m-{k + 1:02d}-{loss:.3f}.safetensors" for k, loss in enumerate(history.history["loss"])]
        assert sorted(path.name for path in tmp_path.iterdir()) == names
        model = fastlstm.load(tmp_path / names[1])
        np.testing.assert_allclose(
            fastlstm.Session(model).run(x.astype(model.graph.inputs[0].dtype)),
            network.predict(x, verbose=0),
            atol=1e-12,
        )

    def test_only_the_best_weights_are_kept(self, tmp_path):
        x, y = _data(40)
        network = _compiled(optimizer=fastlstm.optimizers.SGD(0.3))
        path = tmp_path / "best.safetensors"
        seen = []
        watch = callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append((logs["val_loss"], network.get_weights()))
        )
        keep = callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
        network.fit(x, y, epochs=15, validation_split=0.5, verbose=0, seed=1, callbacks=[keep, watch])
        best = min(seen, key=lambda pair: pair[0])
        other = _compiled()
        other.load_weights(path)
        for ours, expected in zip(other.get_weights(), best[1], strict=True):
            np.testing.assert_array_equal(ours, expected)

    def test_every_so_many_batches(self, tmp_path):
        x, y = _data()
        network = _compiled()
        network.fit(
            x,
            y,
            batch_size=2,
            epochs=2,
            verbose=0,
            callbacks=[callbacks.ModelCheckpoint(tmp_path / "{epoch}-{batch}", save_freq=4)],
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1-4", "2-2", "2-6"]


def _dropping(optimizer="adam"):
    fastlstm.set_random_seed(4)
    network = fastlstm.Sequential(
        [
            fastlstm.Input((5,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.4),
            layers.Dense(3),
        ]
    )
    network.compile(optimizer, "mse")
    return network


class TestGoingOn:
    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam", "rmsprop"])
    def test_training_goes_on_bit_for_bit(self, optimizer, tmp_path):
        x, y = _data(30)
        options = {"batch_size": 8, "validation_split": 0.2, "verbose": 0}
        whole = _dropping(optimizer)
        expected = whole.fit(x, y, epochs=5, seed=9, **options)
        first = _dropping(optimizer)
        first.fit(x, y, epochs=2, seed=9, **options)
        first.save_checkpoint(tmp_path / "c.safetensors")
        second = _dropping(optimizer)
        second.load_checkpoint(tmp_path / "c.safetensors")
        found = second.fit(x, y, epochs=5, **options)
        for ours, theirs in zip(second.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert found.history == expected.history
        assert found.epoch == expected.epoch == [0, 1, 2, 3, 4]

    def test_an_interrupted_fit_goes_on_by_itself(self, tmp_path):
        x, y = _data(30)
        path = tmp_path / "backup.safetensors"
        whole = _dropping()
        expected = whole.fit(x, y, epochs=4, seed=9, verbose=0)

        def interrupt(epoch, logs):
            if epoch == 2:
                raise KeyboardInterrupt

        first = _dropping()
        with pytest.raises(KeyboardInterrupt):
            first.fit(
                x, y, epochs=4, seed=9, verbose=0,
                callbacks=[callbacks.LambdaCallback(on_epoch_begin=interrupt), callbacks.BackupAndRestore(path)],
            )  # fmt: skip
        assert path.exists()
        second = _dropping()
        found = second.fit(x, y, epochs=4, seed=9, verbose=0, callbacks=[callbacks.BackupAndRestore(path)])
        for ours, theirs in zip(second.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert found.history == expected.history
        assert not path.exists()

    def test_the_same_training_writes_the_same_bytes(self, tmp_path):
        x, y = _data()
        for name in "ab":
            network = _dropping()
            network.fit(x, y, seed=1, verbose=0)
            network.save_checkpoint(tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_checkpoints_of_others_are_refused(self, tmp_path):
        network = _dropping()
        network.save_checkpoint(tmp_path / "c")
        with pytest.raises(InputError, match="made with optimizer Adam, the network has SGD"):
            _dropping("sgd").load_checkpoint(tmp_path / "c")
        with pytest.raises(InputError, match="holds weights 'batch"):
            _compiled().load_weights(tmp_path / "c")
        network.save(tmp_path / "m")
        with pytest.raises(ModelFileError, match="not a checkpoint of fastlstm's training"):
            network.load_checkpoint(tmp_path / "m")


def test_a_history_can_be_drawn(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    x, y = _data()
    history = _compiled(metrics=["mae"]).fit(x, y, epochs=3, validation_split=0.25, verbose=0)
    history.plot(tmp_path / "h.png")
    assert (tmp_path / "h.png").stat().st_size > 1000
    figure = history.plot(names=["loss"])
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["training", "validation"]
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fastlstm\[plot\]'"):
        history.plot()


def test_progress_is_a_line_for_each_epoch_where_there_is_no_terminal(capsys):
    x, y = _data()
    network = _compiled(metrics=["mae"])
    network.fit(x, y, epochs=2, batch_size=4, validation_split=0.25)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["Epoch 1/2", "3/3", "Epoch 2/2", "3/3"]
    for name in ("loss: ", "mae: ", "val_loss: ", "val_mae: ", "s/step"):
        assert name in lines[1]
    network.evaluate(x, y)
    assert capsys.readouterr().out.startswith("1/1 - 0s")
    network.predict(x, verbose=0)
    network.fit(x, y, verbose=0)
    assert capsys.readouterr().out == ""


def test_what_a_callback_does_not_know_is_refused():
    with pytest.raises(InputError, match="mode='down' of EarlyStopping"):
        callbacks.EarlyStopping(mode="down")
    with pytest.raises(InputError, match=r"factor=1\.5"):
        callbacks.ReduceLROnPlateau(factor=1.5)
    with pytest.raises(InputError, match="no hook 'on_epoch'"):
        callbacks.LambdaCallback(on_epoch=print)

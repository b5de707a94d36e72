"""fit, evaluate and predict: Keras's numbers, every kind of data, the same bits, and errors before any step."""

import itertools

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import layers, models
from fastlstm.callbacks import Callback, TerminateOnNaN
from fastlstm.errors import DTypeError, InputError, ShapeError, TrainingError


def _data(rng, rows=40, dtype="float64"):
    x = rng.standard_normal((rows, 5)).astype(dtype)
    return x, np.tanh(x @ rng.standard_normal((5, 3))).astype(dtype)


def _compiled(dtype="float64", seed=0, **options):
    network = networks.dense(np.random.default_rng(seed), dtype)
    network.compile(**({"optimizer": "adam", "loss": "mse"} | options))
    return network


def _recurrent(units=6, features=3, outputs=1, sequences=False, masked=False, dtype="float64"):
    fastlstm.set_random_seed(3)
    stack = [fastlstm.Input((None, features), dtype=dtype)]
    stack += [layers.Masking()] if masked else []
    stack += [layers.LSTM(units, return_sequences=sequences, dtype=dtype), layers.Dense(outputs, dtype=dtype)]
    network = fastlstm.Sequential(stack)
    network.compile("adam", "mse")
    return network


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


class TestKeras:
    def test_history_and_weights_of_fit(self):
        """Validation split, a last batch that is smaller, metrics, sample weights."""
        rng = np.random.default_rng(1)
        network = networks.dense(rng)
        twin = networks.dense_of_keras(network, "float64")
        k = networks.keras("float64")
        x, y = _data(rng, 43)
        weights = rng.random(43)
        options = {
            "epochs": 3,
            "batch_size": 8,
            "validation_split": 0.2,
            "shuffle": False,
            "sample_weight": weights,
            "verbose": 0,
        }
        network.compile(fastlstm.optimizers.SGD(0.125), "mse", metrics=["mae"], weighted_metrics=["mae", "mse"])
        twin.compile(k.optimizers.SGD(0.125), "mse", metrics=["mae"], weighted_metrics=["mae", "mse"], run_eagerly=True)
        ours, theirs = network.fit(x, y, **options), twin.fit(x, y, **options)
        assert set(ours.history) == set(theirs.history)
        for name, values in theirs.history.items():
            np.testing.assert_allclose(ours.history[name], values, rtol=1e-6, err_msg=name)
        assert ours.epoch == theirs.epoch
        assert networks.worst(network, twin) < 1e-8
        np.testing.assert_allclose(network.predict(x, verbose=0), twin.predict(x, verbose=0), atol=1e-8)
        found, expected = (one.evaluate(x, y, verbose=0, return_dict=True) for one in (network, twin))
        assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)

    def test_class_weights(self):
        rng = np.random.default_rng(2)
        network = networks.dense(rng, activation="softmax")
        twin = networks.dense_of_keras(network, "float64", activation="softmax")
        x, y = rng.standard_normal((20, 5)), rng.integers(0, 3, 20)
        options = {"class_weight": {0: 2.0, 2: 0.25}, "shuffle": False, "verbose": 0, "epochs": 2}
        for one, more in ((network, {}), (twin, {"run_eagerly": True})):
            one.compile("sgd", "sparse_categorical_crossentropy", **more)
            one.fit(x, y, **options)
        assert networks.worst(network, twin) < 1e-8

    def test_several_outputs_with_losses_weights_and_metrics(self):
        rng = np.random.default_rng(3)

        def network(layers, Input, Model):
            x = Input((5,), name="x")
            h = layers.Dense(4, activation="tanh", name="h")(x)
            return Model(x, [layers.Dense(2, name="a")(h), layers.Dense(3, activation="softmax", name="b")(h)])

        k = networks.keras("float64")
        ours = network(layers, lambda *a, **o: fastlstm.Input(*a, dtype="float64", **o), models.Model)
        theirs = network(k.layers, k.Input, k.Model)
        ours.set_weights([rng.standard_normal(w.shape) for w in ours.get_weights()])
        theirs.set_weights(ours.get_weights())
        x, y = rng.standard_normal((12, 5)), [rng.standard_normal((12, 2)), rng.integers(0, 3, 12)]
        options = {
            "loss": {"a": "mse", "b": "sparse_categorical_crossentropy"}, "loss_weights": {"a": 0.5, "b": 2.0},
            "metrics": {"a": ["mae"], "b": ["accuracy"]},
        }  # fmt: skip
        ours.compile("sgd", **options)
        theirs.compile("sgd", **options, run_eagerly=True)
        fit = {"epochs": 2, "batch_size": 5, "shuffle": False, "verbose": 0}
        found = ours.fit(x, {"a": y[0], "b": y[1]}, **fit).history
        expected = theirs.fit(x, y, **fit).history
        assert set(found) == set(expected) == {"loss", "a_loss", "b_loss", "a_mae", "b_accuracy"}
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
        assert networks.worst(ours, theirs) < 1e-8
        one = ours.evaluate(x, y, verbose=0, return_dict=True)
        assert one["loss"] == pytest.approx(0.5 * one["a_loss"] + 2 * one["b_loss"], rel=1e-12)
        assert [p.shape for p in ours.predict(x, verbose=0)] == [(12, 2), (12, 3)]

    @pytest.mark.parametrize("masked", [False, True])
    def test_an_lstm(self, masked):
        rng = np.random.default_rng(4)
        network = _recurrent(masked=masked)
        k = networks.keras("float64")
        twin = k.Sequential(
            [k.Input((None, 3)), *([k.layers.Masking()] if masked else []), k.layers.LSTM(6), k.layers.Dense(1)]
        )
        twin.set_weights(network.get_weights())
        twin.compile("adam", "mse")
        x, y = rng.standard_normal((12, 7, 3)), rng.standard_normal((12, 1))
        if masked:
            x[3, 4:], x[5, 1:] = 0, 0
        options = {"epochs": 3, "batch_size": 4, "shuffle": False, "verbose": 0}
        ours, theirs = network.fit(x, y, **options), twin.fit(x, y, **options)
        np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=1e-6)
        assert networks.worst(network, twin) < 1e-6  # Adam's constants are rounded to float32 in Keras


class TestKindsOfData:
    def test_lists_of_numbers_are_arrays(self):
        rng = np.random.default_rng(5)
        x, y = _data(rng, 10)
        one, other = _compiled(), _compiled()
        one.fit(x, y, shuffle=False, verbose=0)
        other.fit(x.tolist(), y.tolist(), shuffle=False, verbose=0)
        assert _same(one, other)

    def test_an_iterable_of_batches_is_gone_through_each_epoch(self):
        rng = np.random.default_rng(6)
        x, y = _data(rng, 12)
        one, other = _compiled(), _compiled()
        one.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        other.fit(_Batches(x, y), epochs=2, verbose=0)
        assert _same(one, other)

    def test_a_generator_goes_on_where_it_was(self):
        rng = np.random.default_rng(7)
        x, y = _data(rng, 12)
        one, other = _compiled(), _compiled()
        one.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        endless = ((x[k : k + 4], y[k : k + 4]) for k in itertools.cycle((0, 4, 8)))
        history = other.fit(endless, steps_per_epoch=3, epochs=2, verbose=0)
        assert _same(one, other)
        assert len(history.history["loss"]) == 2
        with pytest.raises(InputError, match="epoch 2: there are no batches; a generator that has ended"):
            other.fit(((x, y) for _ in range(1)), epochs=2, verbose=0)

    def test_memory_mapped_arrays_are_read_by_batches(self, tmp_path):
        rng = np.random.default_rng(8)
        x, y = _data(rng, 20, "float32")
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "y.npy", y)
        mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
        one, other = _compiled("float32"), _compiled("float32")
        one.fit(x, y, batch_size=6, seed=1, validation_split=0.25, verbose=0)
        other.fit(*mapped, batch_size=6, seed=1, validation_split=0.25, verbose=0)
        assert _same(one, other)
        reader = other._reader().samples(*mapped)
        assert np.may_share_memory(reader.inputs[0].rows, mapped[0])
        assert np.may_share_memory(reader.targets[0].rows, mapped[1])

    def test_sequences_of_different_lengths_are_those_padded_and_masked(self):
        rng = np.random.default_rng(9)
        lengths = [3, 7, 1, 5, 7, 2]
        rows = [rng.standard_normal((n, 3)) for n in lengths]
        padded = np.zeros((6, 7, 3))
        for whole, row in zip(padded, rows, strict=True):
            whole[: len(row)] = row
        y = rng.standard_normal((6, 1))
        one, other = _recurrent(), _recurrent(masked=True)
        one.fit(rows, y, epochs=2, batch_size=6, shuffle=False, verbose=0)
        other.fit(padded, y, epochs=2, batch_size=6, shuffle=False, verbose=0)
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one.predict(rows, verbose=0), other.predict(padded, verbose=0), rtol=1e-12)

    def test_sequences_give_outputs_and_take_targets_of_their_lengths(self):
        rng = np.random.default_rng(10)
        rows = [rng.standard_normal((n, 3)) for n in (3, 5, 1, 4)]
        targets = [rng.standard_normal((len(row), 2)) for row in rows]
        network = _recurrent(outputs=2, sequences=True)
        before = network.evaluate(rows, targets, verbose=0)
        each = [network.evaluate(row[None], target[None], verbose=0) for row, target in zip(rows, targets, strict=True)]
        assert before == pytest.approx(np.average(each, weights=[len(row) for row in rows]), rel=1e-12)
        network.fit(rows, targets, epochs=20, batch_size=2, seed=0, verbose=0)
        assert network.evaluate(rows, targets, verbose=0) < before
        outputs = network.predict(rows, batch_size=3, verbose=0)
        assert [o.shape for o in outputs] == [(3, 2), (5, 2), (1, 2), (4, 2)]
        np.testing.assert_array_equal(outputs[1], network.predict(rows[1][None], verbose=0)[0])

    def test_several_inputs_as_a_list_or_by_name(self):
        a, b = (fastlstm.Input((n,), name=name, dtype="float64") for n, name in ((2, "a"), (3, "b")))
        y = layers.Dense(1, dtype="float64")(layers.Concatenate()([a, b]))
        network = models.Model([a, b], y)
        network.compile("sgd", "mse")
        rng = np.random.default_rng(11)
        xs, t = [rng.standard_normal((6, n)) for n in (2, 3)], rng.standard_normal(6)
        first = network.test_on_batch(xs, t)
        assert network.test_on_batch({"b": xs[1], "a": xs[0]}, t) == first
        with pytest.raises(InputError, match="unknown input 'c'; the network has 'a', 'b'"):
            network.fit({"a": xs[0], "c": xs[1]}, t)
        with pytest.raises(ShapeError, match=r"input 'b' has shape \(5, 3\), expected \['batch', 3\]|5 samples"):
            network.fit([xs[0], xs[1][:5]], t)


class _Batches:
    """Batches of 4 that can be gone through again."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 4)

    def __iter__(self):
        return ((self.x[k : k + 4], self.y[k : k + 4]) for k in range(0, len(self.x), 4))


class TestSameBits:
    @pytest.mark.parametrize("threads", [2, 3])
    def test_at_any_thread_count(self, threads):
        rng = np.random.default_rng(12)
        x, y = rng.standard_normal((64, 12, 3)).astype("float32"), rng.standard_normal((64, 1)).astype("float32")
        trained = []
        for count in (1, threads):
            network = _recurrent(units=40, dtype="float32")
            network.compile("adam", "mse", threads=count)
            network.fit(x, y, epochs=4, batch_size=32, seed=5, verbose=0)
            trained.append(network)
        assert _same(*trained)

    def test_with_one_seed_and_not_with_another(self):
        rng = np.random.default_rng(13)
        x, y = _data(rng)
        trained = []
        for seed in (1, 1, 2):
            network = _compiled()
            network.fit(x, y, batch_size=8, epochs=2, seed=seed, verbose=0)
            trained.append(network)
        assert _same(trained[0], trained[1])
        assert not _same(trained[0], trained[2])

    def test_set_random_seed_decides_where_fit_has_no_seed(self):
        rng = np.random.default_rng(14)
        x, y = _data(rng)
        trained = []
        for seed in (1, 1, 2):
            fastlstm.set_random_seed(seed)
            network = _compiled()
            network.fit(x, y, batch_size=8, verbose=0)
            trained.append(network)
        assert _same(trained[0], trained[1])
        assert not _same(trained[0], trained[2])

    def test_dropout_follows_the_seed(self):
        rng = np.random.default_rng(15)
        x, y = _data(rng)
        trained = []
        for seed in (1, 1, 2):
            fastlstm.set_random_seed(0)
            network = fastlstm.Sequential(
                [
                    fastlstm.Input((5,), dtype="float64"),
                    layers.Dense(8, dtype="float64"),
                    layers.Dropout(0.5),
                    layers.Dense(3, dtype="float64"),
                ]
            )
            network.compile("sgd", "mse")
            network.fit(x, y, shuffle=False, seed=seed, verbose=0)
            trained.append(network)
        assert _same(trained[0], trained[1])
        assert not _same(trained[0], trained[2])


class TestLossesThatAreNotFinite:
    def test_an_input_that_holds_nan_is_named_with_epoch_and_batch(self):
        x, y = _data(np.random.default_rng(16))
        x[33, 2] = np.nan
        network = _compiled()
        with pytest.raises(TrainingError, match=r"epoch 1, batch 5: the loss is nan; input 'input.*' holds NaN"):
            network.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        assert all(np.isfinite(w).all() for w in network.get_weights())

    def test_the_first_bad_node_is_named(self):
        network = fastlstm.Sequential([fastlstm.Input((1,)), layers.Dense(1, activation="exponential", name="grows"), layers.Dense(1)])  # fmt: skip
        network.set_weights([np.full((1, 1), 50.0), np.zeros(1), np.ones((1, 1)), np.zeros(1)])
        network.compile("sgd", "mse")
        with pytest.raises(TrainingError, match=r"step 1: the loss is .*; the first such value is of node 'grows/Exp' \(Exp\): it holds an infinity"):  # fmt: skip
            network.train_on_batch([[10.0]], [[0.0]])

    def test_weights_that_an_update_spoilt_are_named(self):
        x, y = _data(np.random.default_rng(17))
        network = _compiled(optimizer=fastlstm.optimizers.SGD(1e200))
        with pytest.raises(TrainingError, match=r"epoch 1, batch [23]: the loss is"), np.errstate(all="ignore"):
            network.fit(x, y, batch_size=8, verbose=0)

    def test_terminate_on_nan_ends_instead(self):
        x, y = _data(np.random.default_rng(18))
        x[33, 2] = np.nan
        network = _compiled()
        network.fit(x, y, batch_size=8, shuffle=False, epochs=5, verbose=0, callbacks=TerminateOnNaN())
        assert network.stop_training


class TestInterrupted:
    def test_ctrl_c_leaves_weights_and_history(self):
        class Stop(Callback):
            ended = False

            def on_train_batch_end(self, batch, logs=None):
                if self.model.history.epoch == [0, 1] and batch == 1:
                    raise KeyboardInterrupt

            def on_train_end(self, logs=None):
                Stop.ended = True

        x, y = _data(np.random.default_rng(19))
        network = _compiled()
        with pytest.raises(KeyboardInterrupt):
            network.fit(x, y, epochs=9, batch_size=8, verbose=0, callbacks=[Stop()])
        assert network.history.epoch == [0, 1]
        assert len(network.history.history["loss"]) == 2
        assert Stop.ended
        assert np.isfinite(network.evaluate(x, y, verbose=0))
        network.fit(x, y, verbose=0)


class TestRefusals:
    """Each before any step."""

    @pytest.fixture
    def network(self):
        return _compiled()

    def test_fit_before_compile(self):
        network = networks.dense(np.random.default_rng(0))
        with pytest.raises(InputError, match="fit needs a loss and an optimizer: call compile first"):
            network.fit(np.zeros((2, 5)), np.zeros((2, 3)))

    def test_empty_data(self, network):
        with pytest.raises(InputError, match="has no samples"):
            network.fit(np.zeros((0, 5)), np.zeros((0, 3)))

    def test_mismatched_lengths(self, network):
        with pytest.raises(ShapeError, match="the target of output 'out' has 9 samples, x 10"):
            network.fit(np.zeros((10, 5)), np.zeros((9, 3)))

    def test_inputs_of_another_shape(self, network):
        with pytest.raises(ShapeError, match=r"has shape \(10, 4\), expected \['batch', 5\]"):
            network.fit(np.zeros((10, 4)), np.zeros((10, 3)))

    def test_inputs_that_are_no_numbers(self, network):
        with pytest.raises(DTypeError, match="expected float64"):
            network.fit(np.full((10, 5), "a"), np.zeros((10, 3)))

    def test_no_targets(self, network):
        with pytest.raises(InputError, match="there are no targets: pass y"):
            network.fit(np.zeros((10, 5)))

    def test_sample_weights_of_another_length(self, network):
        with pytest.raises(ShapeError, match=r"sample_weight of output 'out' has shape \(9,\), expected \(10,\)"):
            network.fit(np.zeros((10, 5)), np.zeros((10, 3)), sample_weight=np.ones(9))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size=0: expected a whole number of at least 1"),
            ({"epochs": -1}, "epochs=-1"),
            ({"validation_split": 1.0}, "validation_split=1.0"),
            ({"validation_split": 0.95}, "of 10 samples 0 are left to train on and 10 to validate"),
            ({"verbose": 7}, "verbose=7"),
            ({"seed": -3}, "seed=-3"),
            ({"validation_data": np.zeros(3)}, "validation_data: expected"),
            (
                {"class_weight": {0: 1.0}, "sample_weight": np.ones(10)},
                "class_weight and sample_weight: pass one of them",
            ),
        ],
    )
    def test_options_out_of_range(self, network, options, message):
        before = network.get_weights()
        with pytest.raises((InputError, ShapeError), match=message):
            network.fit(np.zeros((10, 5)), np.zeros((10, 3)), **options)
        for old, new in zip(before, network.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_value_and_grad_agrees_with_central_differences():
    rng = np.random.default_rng(20)
    network = networks.dense(rng)
    x, y = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    call = fastlstm.value_and_grad(network, "mse")
    loss, gradients = call(x, y)
    assert set(gradients) == {"hidden.W", "hidden.b", "out.W", "out.b"}
    weights = network.get_weights()
    for index, name in enumerate(gradients):
        place = tuple(int(rng.integers(n)) for n in weights[index].shape)
        values = []
        for side in (1e-6, -1e-6):
            moved = [w.copy() for w in weights]
            moved[index][place] += side
            network.set_weights(moved)
            values.append(call(x, y)[0])
        network.set_weights(weights)
        assert gradients[name][place] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-9)
    assert call(x, y)[0] == loss


def test_value_and_grad_sees_the_weights_as_they_are():
    rng = np.random.default_rng(24)
    network = networks.dense(rng)
    x, y = _data(rng, 8)
    call = fastlstm.value_and_grad(network, "mse")
    before = call(x, y)[0]
    network.compile("adam", "mse")
    network.fit(x, y, epochs=5, verbose=0)
    after = call(x, y)[0]
    assert after < before
    assert after == pytest.approx(network.evaluate(x, y, verbose=0), rel=1e-12)


def test_train_on_batch_is_a_step_of_fit():
    rng = np.random.default_rng(21)
    x, y = _data(rng, 12)
    one, other = _compiled(), _compiled()
    one.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    losses = [other.train_on_batch(x[k : k + 4], y[k : k + 4]) for k in (0, 4, 8)]
    assert _same(one, other)
    assert one.history.history["loss"][0] == pytest.approx(np.mean(losses), rel=1e-12)


def test_what_a_stopped_epoch_has_learnt_is_kept():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    rng = np.random.default_rng(22)
    x, y = _data(rng, 12)
    one, other = _compiled(), _compiled()
    one.fit(x, y, batch_size=4, shuffle=False, verbose=0, epochs=5, callbacks=[Stop()])
    other.fit(x[:8], y[:8], batch_size=4, shuffle=False, verbose=0)
    assert _same(one, other)


def test_a_frozen_layer_stays_as_it_is():
    rng = np.random.default_rng(23)
    network = networks.dense(rng)
    network.layers[0].trainable = False
    network.compile("adam", "mse")
    before = network.get_weights()
    network.fit(*_data(rng), verbose=0)
    after = network.get_weights()
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]

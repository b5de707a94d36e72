"""What does not fit together is refused before a step, or before a number stands for nothing."""

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import layers
from fastlstm.errors import DTypeError, InputError, ShapeError, UnsupportedError

rng = np.random.default_rng(0)


def _network() -> fastlstm.Sequential:
    network = fastlstm.Sequential([fastlstm.Input((None, 3)), layers.LSTM(5, return_sequences=True), layers.Dense(1)])
    network.compile("sgd", "mse")
    return network


def test_sequences_and_targets_of_other_lengths_are_refused():
    x = [rng.standard_normal((steps, 3)) for steps in (4, 2, 5)]
    y = [np.zeros((steps, 1)) for steps in (4, 3, 5)]
    with pytest.raises(ShapeError, match="target 1 has 3 steps, its sequence of input 'input_layer' 2"):
        _network().fit(x, y, verbose=0)


def test_no_batches_have_no_loss():
    with pytest.raises(InputError, match="no batches to evaluate"):
        _network().evaluate(iter([]), verbose=0)


def test_validation_batches_that_have_ended_have_no_loss():
    x, y = rng.standard_normal((2, 4, 3)), np.zeros((2, 4, 1))
    with pytest.raises(InputError, match="no batches to evaluate"):
        _network().fit(x, y, epochs=2, validation_data=iter([(x, y)]), verbose=0)


# ---- arguments -------------------------------------------------------------------------------------------------
def _dense(dtype="float64", outputs=1, activation=None, **compiled):
    network = networks.dense(np.random.default_rng(1), dtype, outputs, activation)
    network.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    return network


X, Y = rng.standard_normal((8, 5)), rng.standard_normal((8, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["unknown"]}, "unknown metric 'unknown'; known: 'AUC'"),
        ({"metrics": {"out": ["mae", 3]}}, "metric=3: expected a name"),
        ({"weighted_metrics": "acuracy"}, "unknown metric 'acuracy'"),
        ({"loss": ["mse2"]}, "unknown loss 'mse2'"),
    ],
)
def test_compile_refuses_names_that_it_does_not_know(options, message):
    with pytest.raises(InputError, match=message):
        _dense(**options)
    unbuilt = fastlstm.Sequential([layers.Dense(1)])
    with pytest.raises(InputError, match=message):
        unbuilt.compile(**{"loss": "mse", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_split": "0.2"}, "validation_split='0.2': expected a number from 0 to below 1"),
        ({"validation_split": True}, "validation_split=True"),
        ({"validation_split": np.nan}, "validation_split=nan"),
        ({"class_weight": [1.0, 2.0]}, "class_weight is list, expected a dict of weights by class"),
        ({"class_weight": {0: "heavy"}}, "class_weight of class 0 is 'heavy', expected a number"),
        ({"class_weight": {0: np.inf}}, "class_weight of class 0 is inf"),
        ({"callbacks": 5}, "callbacks hold 5, expected a Callback"),
        (
            {"callbacks": [fastlstm.callbacks.EarlyStopping]},
            "callbacks hold the class EarlyStopping, expected an object",
        ),
        ({"callbacks": ["early"]}, "callbacks hold 'early', expected a Callback"),
        ({"initial_epoch": -1}, "initial_epoch=-1: expected a whole number of at least 0"),
        ({"epochs": -1}, "epochs=-1: expected a whole number of at least 0"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0: expected a whole number of at least 1"),
        ({"validation_steps": 0, "validation_data": (X, Y)}, "validation_steps=0"),
        ({"validation_batch_size": 0, "validation_data": (X, Y)}, "validation_batch_size=0"),
        ({"validation_freq": 0, "validation_data": (X, Y)}, "validation_freq=0"),
        ({"validation_freq": [0, 2], "validation_data": (X, Y)}, "validation_freq=0"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
    ],
)
def test_arguments_of_fit_out_of_range(options, message):
    network = _dense()
    before = network.get_weights()
    with pytest.raises(InputError, match=message):
        network.fit(X, Y, verbose=0, **options)
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_of_numpy_count_as_numbers():
    history = _dense().fit(X, Y, epochs=np.int64(3), batch_size=np.int32(4), validation_split=np.float32(0.25), validation_freq=np.array([2]), initial_epoch=np.int8(1), verbose=0)  # fmt: skip
    assert history.epoch == [1, 2] and len(history.history["val_loss"]) == 1


def test_no_epochs_leave_an_empty_history():
    network = _dense()
    before = network.get_weights()
    history = network.fit(X, Y, epochs=0, verbose=0)
    assert history.epoch == [] and history.history == {}
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_classes_without_a_weight_count_as_1_and_others_may_be_named_as_in_keras():
    y = np.array([0, 1, 2, 2, 1, 0, 2, 2])
    network = _dense(outputs=3, activation="softmax", loss="sparse_categorical_crossentropy")
    weights = np.where(y == 2, 0.25, 1.0)
    weighted = network.test_on_batch(X, y, sample_weight=weights)
    assert network.train_on_batch(X, y, class_weight={2: 0.25, 7: 3.0}) == pytest.approx(weighted, rel=1e-12)


@pytest.mark.parametrize("samples", [8, 1])
@pytest.mark.parametrize("wrap", [lambda a: [a], lambda a: (a,)])
def test_a_list_of_the_one_input_and_the_one_output(wrap, samples):
    x, y, weights = X[:samples], Y[:samples], np.arange(1.0, samples + 1)
    bare, listed = _dense(), _dense()
    bare.fit(x, y, sample_weight=weights, epochs=2, verbose=0, seed=1)
    listed.fit(wrap(x), wrap(y), sample_weight=wrap(weights), epochs=2, verbose=0, seed=1, validation_data=(wrap(x), wrap(y)))  # fmt: skip
    assert networks.worst(bare, listed) == 0
    assert listed.evaluate(wrap(x), wrap(y), verbose=0) == bare.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(listed.predict(wrap(x), verbose=0), bare.predict(x, verbose=0))


def test_a_list_of_sequences_of_different_lengths_within_a_list():
    x = [rng.standard_normal((steps, 3)) for steps in (4, 2, 5)]
    y = [rng.standard_normal((steps, 1)) for steps in (4, 2, 5)]
    assert _network().train_on_batch([x], [y]) > 0


@pytest.mark.parametrize(("argument", "value"), [("multi_label", True), ("num_labels", 3), ("label_weights", [1.0])])
def test_what_auc_does_not_do_is_refused_by_name(argument, value):
    with pytest.raises(UnsupportedError, match=rf"AUC\({argument}="):
        fastlstm.metrics.AUC(**{argument: value})


# ---- what is drawn -----------------------------------------------------------------------------------------------
def test_a_dropout_of_a_made_shape_is_drawn():
    """After convolutions over free steps, and after Flatten, sizes are expressions of symbols."""
    network = fastlstm.Sequential(
        [
            fastlstm.Input((None, 3)),
            layers.Conv1D(4, 3),
            layers.Dropout(0.5),
            layers.MaxPooling1D(2),
            layers.GaussianNoise(0.1),
            layers.SpatialDropout1D(0.5),
            layers.Reshape((-1,)),
            layers.Dropout(0.5),
            layers.Reshape((-1, 4)),
            layers.GRU(2, dropout=0.5),
        ]
    )
    network.compile("sgd", "mse")
    for steps in (7, 9, 7):
        assert np.isfinite(network.train_on_batch(rng.standard_normal((5, steps, 3)), np.zeros((5, 2))))


def _drawing(seeds, fit_seed, shared=False):
    """Return what layers of some seeds draw in three steps, as the losses that they make."""
    dropped = layers.Dropout(0.5, seed=seeds[0])
    x = fastlstm.Input((40,))
    y = layers.GaussianNoise(1.0, seed=seeds[1])(dropped(x))
    network = fastlstm.models.Model(x, dropped(y) if shared else y)
    trained = layers.Dense(1, kernel_initializer="ones")
    network = fastlstm.models.Model(x, trained(network(x)))
    network.compile(fastlstm.optimizers.SGD(0.0), "mse")
    return network.fit(np.ones((6, 40)), np.zeros((6, 1)), batch_size=2, epochs=2, shuffle=False, verbose=0, seed=fit_seed).history["loss"]  # fmt: skip


def test_a_layer_with_a_seed_draws_the_same_in_every_run():
    assert _drawing((1, 2), 0) == _drawing((1, 2), 5)
    assert _drawing((1, 2), 0) != _drawing((1, 3), 0) != _drawing((2, 3), 0)
    assert _drawing((None, 2), 0) != _drawing((None, 2), 5)
    assert _drawing((1, 2), 0, shared=True) == _drawing((1, 2), 5, shared=True) != _drawing((1, 2), 5)
    losses = _drawing((1, 2), 0)
    assert losses[0] != losses[1], "each step draws anew"


def test_a_recurrent_layer_with_a_seed_draws_the_same_in_every_run():
    def trained(seed, fit_seed):
        fastlstm.set_random_seed(0)
        network = fastlstm.Sequential([fastlstm.Input((4, 3)), layers.LSTM(5, dropout=0.5, seed=seed)])
        network.compile("sgd", "mse")
        network.fit(np.ones((6, 4, 3)), np.zeros((6, 5)), verbose=0, seed=fit_seed, shuffle=False)
        return network

    assert networks.worst(trained(3, 1), trained(3, 2)) == 0
    assert networks.worst(trained(4, 1), trained(3, 1)) > 0
    assert networks.worst(trained(None, 1), trained(None, 2)) > 0


# ---- data that do not fit ------------------------------------------------------------------------------------------
def _softmax(metrics=None, **options):
    return _dense(outputs=3, activation="softmax", metrics=metrics, **{"loss": "categorical_crossentropy", **options})


ONE_HOT = np.eye(3)[[0, 1, 2, 2, 1, 0, 2, 2]]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("sparse_categorical_accuracy", r"output 'out': metric 'sparse_categorical_accuracy' takes class indices"),
        (fastlstm.metrics.Precision(class_id=7), "metric 'precision' has class_id=7, the output has 3 classes"),
        (fastlstm.metrics.SparseTopKCategoricalAccuracy(2), "takes class indices, outputs have shape"),
    ],
)
def test_metrics_that_cannot_be_of_the_targets_are_refused_before_a_step(metric, message):
    network = _softmax([metric])
    before = network.get_weights()
    for call in (network.train_on_batch, network.test_on_batch, lambda x, y: network.fit(x, y, verbose=0)):
        with pytest.raises((InputError, ShapeError), match=message):
            call(X, ONE_HOT)
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", ["accuracy", fastlstm.metrics.MeanSquaredError(), fastlstm.metrics.AUC])
def test_metrics_of_labels_without_places_are_refused(metric):
    network = fastlstm.Sequential([fastlstm.Input((4, 3)), layers.Dense(3)])
    with pytest.raises(InputError, match="labels of CTC have none: decode them"):
        network.compile("sgd", "ctc", metrics=[metric])


def test_every_metric_is_known_by_the_name_of_its_function():
    assert len(_softmax(["top_k_categorical_accuracy"]).evaluate(X, ONE_HOT, verbose=0)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sample_weight": [[1.0], [1.0, 2.0], *[[1.0]] * 6]}, "sample_weight of output 'out' is no array of numbers"),
        ({"sample_weight": "balanced"}, "sample_weight of output 'out' is no array of numbers"),
        ({"sample_weight": np.ones((8, 2))}, r"sample_weight of output 'out' has shape \(8, 2\), expected \(8,\)"),
        ({"validation_data": 7}, "validation_data: expected"),
        ({"validation_data": "val"}, "validation_data: expected"),
        ({"validation_data": (X,)}, "validation_data: expected"),
        ({"validation_data": (X[:, :3], Y)}, r"has shape \(8, 3\)"),
        ({"x": X.astype(object)}, "dtype object"),
        ({"x": X + 1j}, "dtype complex128"),
        ({"x": "data"}, "shape|dtype"),
        ({"x": {1, 2}}, "shape|dtype"),
        ({"y": None}, "there are no targets"),
        ({"y": Y.astype(object)}, "targets are object, expected numbers"),
        ({"y": np.array(["a"] * 8)}, "targets are <U1, expected numbers"),
    ],
)
def test_data_of_other_kinds_are_refused_before_a_step(data, message):
    network = _dense()
    before = network.get_weights()
    with pytest.raises((InputError, ShapeError, DTypeError), match=message):
        network.fit(**{"x": X, "y": Y, "verbose": 0, **data})
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_steps_have_the_steps_of_targets():
    network, x, y = _network(), np.zeros((2, 4, 3)), np.zeros((2, 4, 1))
    network.train_on_batch(x, y, np.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"has shape \(2, 5\), expected \(2,\) or \(2, 4\)"):
        network.train_on_batch(x, y, np.ones((2, 5)))


def test_padded_targets_of_sequences_are_cut_to_their_steps():
    x = [rng.standard_normal((steps, 3)) for steps in (4, 2, 5)]
    y = [rng.standard_normal((steps, 1)) for steps in (4, 2, 5)]
    padded = np.zeros((3, 5, 1))
    for row, one in zip(padded, y, strict=True):
        row[: len(one)] = one
    network = _network()
    listed = network.evaluate(x, y, batch_size=2, verbose=0)
    assert network.evaluate(x, padded, batch_size=2, verbose=0) == listed
    with pytest.raises(ShapeError, match="targets have 6 steps, the longest sequence of input 'input_layer' 5"):
        network.fit(x, np.zeros((3, 6, 1)), verbose=0)


def test_loss_weights_are_numbers():
    with pytest.raises(InputError, match="loss_weights hold 'x', expected numbers"):
        _dense(loss_weights=["x"])


def test_without_a_loss_there_is_nothing_to_train_on():
    with pytest.raises(InputError, match="there is nothing to train on: the network has no loss"):
        _dense(loss=None).fit(X, Y, verbose=0)


# ---- batches ---------------------------------------------------------------------------------------------------------
class _Numbered:
    """Keras's PyDataset: batches by number, without an end."""

    def __len__(self):
        return 2

    def __getitem__(self, k):
        return X[4 * k : 4 * k + 4], Y[4 * k : 4 * k + 4]


def test_batches_by_number_and_in_lists_are_those_of_arrays():
    arrays, numbered, listed = _dense(), _dense(), _dense()
    arrays.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    history = numbered.fit(_Numbered(), epochs=2, verbose=0, validation_data=_Numbered())
    listed.fit(([X[k : k + 4], Y[k : k + 4]] for _ in range(2) for k in (0, 4)), epochs=2, steps_per_epoch=2, verbose=0)
    assert networks.worst(arrays, numbered) == networks.worst(arrays, listed) == 0
    assert len(history.history["val_loss"]) == 2


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((X[:, :3], Y), r"has shape \(8, 3\)"),
        ((X, Y[:5]), "the target of output 'out' has 5 samples, x 8"),
        ((X, Y, np.ones(5)), r"sample_weight of output 'out' has shape \(5,\)"),
        ((X,), "there are no targets"),
        ((X, Y, Y, Y), "a batch has 4 parts"),
        (3.0, "shape"),
        ({"x": X}, "unknown input 'x'"),
    ],
)
def test_a_batch_that_does_not_fit_ends_before_its_step(second, message):
    network, alone = _dense(), _dense()
    alone.train_on_batch(X, Y)
    with pytest.raises((InputError, ShapeError, DTypeError), match=message):
        network.fit(iter([(X, Y), second]), verbose=0)
    assert networks.worst(network, alone) == 0


def test_what_callbacks_generators_and_metrics_of_ones_own_raise_comes_through():
    class Raises(fastlstm.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise ZeroDivisionError("mine")

    def batches():
        yield X, Y
        raise KeyError("mine")

    network = _dense()
    with pytest.raises(ZeroDivisionError, match="mine"):
        network.fit(X, Y, epochs=2, callbacks=[Raises()], verbose=0)
    with pytest.raises(KeyError, match="mine"):
        network.fit(batches(), verbose=0)
    assert network.history.epoch == []
    assert np.isfinite(network.evaluate(X, Y, verbose=0))

"""Data helpers: what Keras's do, windows of a series, and their refusals."""

import numpy as np
import pytest
from training import networks

import fastlstm
from fastlstm import data
from fastlstm.errors import InputError, ModelFileError, ShapeError

TEXTS = ["The cat sat on the mat.", "The dog, the cat & the bird!", "A bird sat...", "", "dog dog dog"]


def _keras_text():
    networks.keras()
    return pytest.importorskip("keras.src.legacy.preprocessing.text")


class TestPadSequences:
    @pytest.mark.parametrize("padding", ["pre", "post"])
    @pytest.mark.parametrize("truncating", ["pre", "post"])
    @pytest.mark.parametrize("maxlen", [None, 2, 5])
    @pytest.mark.parametrize("features", [(), (3,)])
    def test_as_keras(self, padding, truncating, maxlen, features):
        rng = np.random.default_rng(0)
        rows = [rng.integers(1, 9, (n, *features)).tolist() for n in (3, 1, 4, 2)]
        options = {"maxlen": maxlen, "padding": padding, "truncating": truncating, "value": 7, "dtype": "float32"}
        expected = networks.keras().utils.pad_sequences(rows, **options)
        found = data.pad_sequences(rows, **options)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)

    def test_an_empty_sequence_is_padding(self):
        np.testing.assert_array_equal(data.pad_sequences([[], [1, 2]]), [[0, 0], [1, 2]])

    def test_refusals(self):
        with pytest.raises(InputError, match="padding='left': expected 'pre' or 'post'"):
            data.pad_sequences([[1]], padding="left")
        with pytest.raises(InputError, match="takes a list of sequences"):
            data.pad_sequences([1, 2])
        with pytest.raises(ShapeError, match=r"sequence 1 has steps of shape \(3,\), the others \(2,\)"):
            data.pad_sequences([np.zeros((1, 2)), np.zeros((1, 3))])


class TestToCategorical:
    @pytest.mark.parametrize("x", [[0, 2, 1], [[0], [2]], [[0, 1], [2, 2]], 1])
    @pytest.mark.parametrize("classes", [None, 4])
    def test_as_keras(self, x, classes):
        expected = networks.keras().utils.to_categorical(x, classes)
        found = data.to_categorical(x, classes)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)

    def test_refusals(self):
        with pytest.raises(InputError, match="a class is -1, expected 0 to 2"):
            data.to_categorical([-1, 2])
        with pytest.raises(InputError, match="a class is 3, expected 0 to 1"):
            data.to_categorical([3], 2)
        with pytest.raises(InputError, match="whole numbers"):
            data.to_categorical([0.5])


class TestWindows:
    def test_each_window_is_followed_by_its_target(self):
        series = np.arange(10) ** 2
        x, y = data.timeseries_windows(series, steps=3)
        assert x.shape == (7, 3, 1)
        assert y.shape == (7, 1)
        for k in range(7):
            np.testing.assert_array_equal(x[k, :, 0], series[k : k + 3])
            assert y[k, 0] == series[k + 3]
        assert np.may_share_memory(x, series)

    def test_horizon_stride_and_columns(self):
        series = np.arange(24).reshape(12, 2)
        x, y = data.timeseries_windows(series, steps=4, horizon=3, stride=2)
        assert x.shape == (3, 4, 2)
        for k in range(3):
            np.testing.assert_array_equal(x[k], series[2 * k : 2 * k + 4])
            np.testing.assert_array_equal(y[k], series[2 * k + 4 : 2 * k + 7])
        _, column = data.timeseries_windows(series, steps=4, horizon=3, targets=1)
        np.testing.assert_array_equal(column[0], series[4:7, 1])
        _, one = data.timeseries_windows(series, steps=4)
        np.testing.assert_array_equal(one, series[4:])
        _, other = data.timeseries_windows(series, steps=4, targets=np.arange(12.0))
        np.testing.assert_array_equal(other[:, 0], np.arange(4.0, 12.0))

    def test_refusals(self):
        with pytest.raises(InputError, match="a window of 4 steps and 2 to predict need 6 steps, the series has 5"):
            data.timeseries_windows(np.zeros(5), 4, 2)
        with pytest.raises(InputError, match="steps=0"):
            data.timeseries_windows(np.zeros(5), 0)
        with pytest.raises(ShapeError, match="targets have 4 steps, the series 5"):
            data.timeseries_windows(np.zeros(5), 2, targets=np.zeros(4))


TOKENIZERS = {
    "words": {},
    "few words": {"num_words": 4},
    "unknown words": {"oov_token": "<?>"},
    "few words and unknown ones": {"num_words": 4, "oov_token": "<?>"},
    "characters": {"char_level": True, "oov_token": "<?>"},
    "case": {"lower": False},
    "own filters": {"filters": ".!", "split": " "},
}


class TestTokenizer:
    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_as_keras(self, name):
        theirs, ours = _keras_text().Tokenizer(**TOKENIZERS[name]), data.Tokenizer(**TOKENIZERS[name])
        for texts in (TEXTS, [["the", "End"], ["of", "the", "CAT"]]):
            ours.fit_on_texts(texts)
            theirs.fit_on_texts(texts)
            for attribute in ("word_index", "index_word", "word_counts", "word_docs", "index_docs", "document_count"):
                assert getattr(ours, attribute) == getattr(theirs, attribute)
        seen = [*TEXTS, "a completely new text of the cat"]
        sequences = ours.texts_to_sequences(seen)
        assert sequences == theirs.texts_to_sequences(seen)
        assert ours.sequences_to_texts([*sequences, [99, 1]]) == theirs.sequences_to_texts([*sequences, [99, 1]])
        for mode in ("binary", "count", "freq", "tfidf"):
            np.testing.assert_allclose(ours.texts_to_matrix(seen, mode), theirs.texts_to_matrix(seen, mode))

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_json_comes_back_and_is_keras_s(self, name):
        text = _keras_text()
        ours = data.Tokenizer(**TOKENIZERS[name])
        ours.fit_on_texts(TEXTS)
        again = data.Tokenizer.from_json(ours.to_json())
        assert vars(again) == vars(ours)
        theirs = text.tokenizer_from_json(ours.to_json())
        assert theirs.texts_to_sequences(TEXTS) == ours.texts_to_sequences(TEXTS)
        assert data.tokenizer_from_json(theirs.to_json()).texts_to_sequences(TEXTS) == ours.texts_to_sequences(TEXTS)

    def test_refusals(self):
        with pytest.raises(InputError, match="takes a list of texts, got one text"):
            data.Tokenizer().fit_on_texts("a text")
        with pytest.raises(InputError, match="has to see texts first"):
            data.Tokenizer().texts_to_matrix(["a"])
        with pytest.raises(InputError, match="mode='tf'"):
            data.Tokenizer(num_words=3).texts_to_matrix(["a"], "tf")
        with pytest.raises(ModelFileError, match="no JSON of a tokenizer"):
            data.Tokenizer.from_json("[1]")


class TestTimeseriesGenerator:
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize(("stride", "rate", "first", "last"), [(1, 1, 0, None), (2, 1, 3, 19), (3, 2, 1, None)])
    @pytest.mark.parametrize("features", [(), (2,)])
    def test_as_keras(self, reverse, stride, rate, first, last, features):
        networks.keras()
        legacy = pytest.importorskip("keras.src.legacy.preprocessing.sequence")
        x, y = np.random.default_rng(0).random((23, *features)), np.arange(23.0)
        options = {
            "length": 4, "sampling_rate": rate, "stride": stride, "start_index": first, "end_index": last, "reverse": reverse,
            "batch_size": 3,
        }  # fmt: skip
        expected = legacy.TimeseriesGenerator(x, y, **options)
        found = data.TimeseriesGenerator(x, y, **options)
        assert len(found) == len(expected)
        for k, batch in enumerate(found):
            for ours, theirs in zip(batch, expected[k], strict=True):
                np.testing.assert_array_equal(ours, theirs)

    def test_fit_takes_all_of_it_every_epoch(self):
        series = np.sin(np.arange(40, dtype=np.float32))[:, None]
        batches = data.TimeseriesGenerator(series, series, length=5, batch_size=8)
        model = fastlstm.Sequential([fastlstm.Input((5, 1)), fastlstm.layers.LSTM(4), fastlstm.layers.Dense(1)])
        model.compile("adam", "mse")
        history = model.fit(batches, epochs=2, verbose=0)
        assert model.optimizer.iterations == 2 * len(batches) == 10
        assert len(history.history["loss"]) == 2
        assert model.predict(batches, verbose=0).shape == (35, 1)

    def test_shuffled_windows_are_windows(self):
        fastlstm.set_random_seed(0)
        x, y = data.TimeseriesGenerator(np.arange(30), np.arange(30), length=4, batch_size=16, shuffle=True)[0]
        np.testing.assert_array_equal(x[:, -1] + 1, y)
        np.testing.assert_array_equal(x[:, 1:], x[:, :-1] + 1)
        assert len(set(y)) > 8

    def test_refusals(self):
        with pytest.raises(ShapeError, match="the data have 5 steps, the targets 4"):
            data.TimeseriesGenerator(np.arange(5), np.arange(4), length=2)
        with pytest.raises(InputError, match="no window of 5 steps and one to predict fits between steps 0 and 4"):
            data.TimeseriesGenerator(np.arange(5), np.arange(5), length=5)

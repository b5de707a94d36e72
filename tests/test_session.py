"""Session: what run takes, what it refuses and how, what it leaves alone; cost; limits; many shapes."""

import copy
import pickle
import tracemalloc
from collections.abc import Callable

import models
import naive
import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.graph import Node

I, H, N = 3, 7, 2
RNG = np.random.default_rng(0)
SEED = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order_of_tests():
    RNG.bit_generator.state = SEED


def weights(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) / 2).astype(dtype)


def network(
    sequences: bool = True, dtype: str = "float32", batch: object = "batch", steps: object = "time"
) -> fastlstm.Model:
    """Return an LSTM and a Dense layer over x (B, T, 3)."""
    build = layers.Build()
    x = build.input("x", dtype, (batch, steps, I))
    lstm, dense = layers.LSTM(H, return_sequences=sequences), layers.Dense(N)
    lstm.set_weights([weights(I, 4 * H, dtype=dtype), weights(H, 4 * H, dtype=dtype), weights(4 * H, dtype=dtype)])
    dense.set_weights([weights(H, N, dtype=dtype), weights(N, dtype=dtype)])
    return build.model([dense(lstm(x))])


def oracle(x: np.ndarray, sequences: bool = True) -> np.ndarray:
    """Return the same in float64, by the equations."""
    W, U, b = weights(I, 4 * H), weights(H, 4 * H), weights(4 * H)
    ys, h, _ = naive.lstm(np.asarray(x, "f8").swapaxes(0, 1), W, U, b)
    return naive.dense(ys.swapaxes(0, 1) if sequences else h, weights(H, N), weights(N))


def two_inputs() -> fastlstm.Model:
    """Return y = a + LSTM(x)."""
    ws = {"W": weights(I, 4 * H), "U": weights(H, 4 * H)}
    nodes = [
        Node("net", "LSTM", ("x", "W", "U"), ("s",), {"batch_first": True}),
        Node("sum", "Add", ("a", "s"), ("y",)),
    ]
    return models.model(nodes, [("a", "float32", ("B", "T", H)), ("x", "float32", ("B", "T", I))], ["y"], ws)


def ids(mask: bool = False) -> fastlstm.Model:
    """Return the rows of a table for int32 ids (B, T), through a GRU; a bool mask (B, T) where asked for."""
    ws = {"table": weights(11, I), "W": weights(I, 3 * H), "U": weights(H, 3 * H)}
    tail = ("", "", "", "m") if mask else ()
    nodes = [
        Node("look", "Embedding", ("x", "table"), ("e",)),
        Node("net", "GRU", ("e", "W", "U", *tail), ("y",), {"batch_first": True}),
    ]
    inputs = [("x", "int32", ("B", "T")), *([("m", "bool", ("B", "T"))] if mask else [])]
    return models.model(nodes, inputs, ["y"], ws)


@pytest.fixture(scope="module")
def session() -> fastlstm.Session:
    return fastlstm.Session(network())


def bits(a: np.ndarray, b: np.ndarray) -> bool:
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and models.same_bits(a, b)


# ---- what goes in comes out ---------------------------------------------------------------------------
@pytest.mark.parametrize("sequences", [True, False])
def test_one_array_gives_one_array_with_the_oracle_s_numbers(sequences):
    x = RNG.standard_normal((4, 5, I)).astype("f4")
    y = fastlstm.Session(network(sequences)).run(x)
    assert y.dtype == np.float32 and y.shape == ((4, 5, N) if sequences else (4, N))
    np.testing.assert_allclose(y, oracle(x, sequences), rtol=0, atol=2e-6)


def test_a_dict_gives_a_dict_by_name(session):
    x = RNG.standard_normal((4, 5, I)).astype("f4")
    results = session.run({"x": x})
    assert list(results) == ["dense"]
    assert bits(results["dense"], session.run(x))


def test_several_outputs_are_a_dict_in_the_order_of_the_model():
    net = models.network("lstm")
    x = models.inputs_for(net, RNG, 2, 4)
    results = fastlstm.Session(net).run(x)
    assert list(results) == [spec.name for spec in net.graph.outputs] == ["a.y", "a.h", "a.c"]
    assert bits(results["a.y"][:, -1], results["a.h"])


def test_several_inputs_go_by_name_in_any_order():
    session = fastlstm.Session(two_inputs())
    a, x = (RNG.standard_normal((2, 5, n)).astype("f4") for n in (H, I))
    y = session.run({"a": a, "x": x})["y"]
    for _ in range(2):  # the second time the checks are skipped
        assert bits(session.run({"x": x, "a": a})["y"], y)
    np.testing.assert_allclose(session.run({"a": 0 * a, "x": x})["y"], y - a, atol=1e-6)


def test_inputs_and_outputs_tell_name_dtype_and_shape(session):
    (x,), (y,) = session.inputs, session.outputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", ("batch", "time", I))
    assert (y.name, y.dtype, y.shape) == ("dense", "float32", ("batch", "time", N))
    assert "x: float32" in repr(session) and "dense: float32" in repr(session)


def test_a_float64_model_computes_in_float64():
    x = RNG.standard_normal((2, 5, I))
    session = fastlstm.Session(network(dtype="float64"))
    y = session.run(x)
    assert y.dtype == np.float64 and session.outputs[0].dtype == "float64"
    W, U, b = (weights(*s, dtype="float64") for s in ((I, 4 * H), (H, 4 * H), (4 * H,)))
    ys, _, _ = naive.lstm(x.swapaxes(0, 1), W, U, b)
    want = naive.dense(ys.swapaxes(0, 1), weights(H, N, dtype="float64"), weights(N, dtype="float64"))
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("sequences", [True, False])
def test_an_empty_batch_gives_an_empty_result(sequences):
    y = fastlstm.Session(network(sequences)).run(np.zeros((0, 5, I), "f4"))
    assert y.shape == ((0, 5, N) if sequences else (0, N))


def test_no_steps_give_no_outputs_and_the_initial_state():
    net = models.network("gru_after")
    results = fastlstm.Session(net).run(np.zeros((3, 0, 5), "f4"))
    assert results["a.y"].shape == (3, 0, 19)
    assert bits(results["a.h"], np.zeros((3, 19), "f4"))
    assert bits(fastlstm.Session(network(False)).run(np.zeros((3, 0, I), "f4")), np.tile(weights(N), (3, 1)))


# ---- whatever NumPy can hold --------------------------------------------------------------------------
WHOLE = np.random.default_rng(1).integers(0, 4, (4, 6, I))  # every dtype holds it


class Like:
    """An array that is no ndarray, as other libraries have them."""

    def __init__(self, array: np.ndarray):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


class Subclass(np.ndarray):
    pass


def strided(array: np.ndarray) -> np.ndarray:
    wide = np.full((8, 12, 2 * I), 99, array.dtype)
    wide[::2, ::-2, 1::2] = array
    return wide[::2, ::-2, 1::2]


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS: dict[str, Callable[[np.ndarray], object]] = {
    "Fortran": np.asfortranarray,
    "strided": strided,
    "backwards": lambda a: a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "transposed": lambda a: a.transpose(2, 0, 1).copy().transpose(1, 2, 0),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "read-only": read_only,
    "unaligned": unaligned,
    "subclass": lambda a: a.view(Subclass),
    "array-like": Like,
    "no ndarray": memoryview,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_bits_of_a_plain_array(session, layout):
    x = RNG.standard_normal(WHOLE.shape).astype("f4")
    given = LAYOUTS[layout](x)
    plain = np.array(given, "f4", order="C")
    want = session.run(plain)
    for _ in range(2):
        assert bits(session.run(given), want)
    assert bits(fastlstm.Session(network(), threads=2).run(given), want)
    assert bits(np.array(given, "f4", order="C"), plain)  # and is left as it was


@pytest.mark.parametrize(
    "dtype", ["f2", "f8", "g", ">f4", ">f8", ">f2", "?", "i1", "u1", "i2", ">i2", "u2", "i4", "u4", "i8", ">i8", "u8"]
)
def test_any_real_dtype_gives_the_bits_of_float32(session, dtype):
    whole = WHOLE > 1 if dtype == "?" else WHOLE
    want = session.run(whole.astype("f4"))
    for _ in range(2):
        assert bits(session.run(whole.astype(dtype)), want)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", ">i4", "i8", "u8", ">i8", "?"])
def test_any_integer_dtype_gives_the_ids_it_holds(dtype):
    session, whole = fastlstm.Session(ids()), WHOLE[:, :, 0] > 1 if dtype == "?" else WHOLE[:, :, 0]
    assert bits(session.run(whole.astype(dtype)), session.run(whole.astype("i4")))


def test_float64_beyond_float32_becomes_infinite_not_wrong(session):
    x = np.zeros((1, 2, I))
    with np.errstate(over="ignore"):
        assert bits(session.run(x + 1e300), session.run(x + np.inf))


# ---- what is refused ----------------------------------------------------------------------------------
SHAPES = [(5, I), (2, 5, I, 1), (), (I,), (0,), (2, 5, I + 1), (2, 5, 1), (2, I, 5), (2, 5, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_wrong_shape_is_a_shape_error_that_tells_got_and_wanted(session, shape):
    session.run(np.zeros((2, 5, I), "f4"))  # a call that is known to be good lets no other pass
    with pytest.raises(fastlstm.ShapeError, match=r"input 'x' has shape") as caught:
        session.run(np.zeros(shape, "f4"))
    assert str(shape) in str(caught.value) and ("'batch', 'time', 3" in str(caught.value))


ODD = {
    "None": None,
    "text": "abc",
    "bytes": b"abc",
    "a set": {1, 2},
    "an object": object(),
    "a generator": (k for k in range(3)),
    "objects": np.full((2, 5, I), None, object),
    "numbers as objects": np.zeros((2, 5, I), object),
    "integers too large for any dtype": np.full((2, 5, I), 2**70),
    "complex": np.zeros((2, 5, I), "c8"),
    "texts": np.full((2, 5, I), "1.0"),
    "byte texts": np.full((2, 5, I), b"1.0"),
    "dates": np.zeros((2, 5, I), "M8[s]"),
    "durations": np.zeros((2, 5, I), "m8[s]"),
    "records": np.zeros((2, 5, I), [("a", "f4")]),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_holds_no_numbers_is_a_dtype_error_that_names_the_input(session, odd):
    with pytest.raises(
        fastlstm.DTypeError, match=r"input 'x' has dtype .*, expected float32 \(or other floats or integers\)"
    ):
        session.run(ODD[odd])
    with pytest.raises(fastlstm.DTypeError, match="input 'x'"):
        session.run({"x": ODD[odd]})


def test_an_array_that_cannot_be_made_is_an_input_error(session):
    class Fails:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("needs detach()")

    class Lies:
        def __array__(self, dtype=None, copy=None):
            return 3

    for given in ([[1.0], [2.0, 3.0]], Fails(), Lies()):
        with pytest.raises(fastlstm.InputError, match="input 'x' is no array"):
            session.run({"x": given})


def test_an_object_with_a_strange_shape_is_refused_and_not_looked_up(session):
    class Strange:
        shape, dtype = [2, 5, I], np.dtype("f4")

    with pytest.raises(fastlstm.DTypeError, match="input 'x'"):
        session.run(Strange())


def test_floats_are_no_ids_and_integers_are_no_mask():
    with pytest.raises(fastlstm.DTypeError, match=r"input 'x' has dtype float32, expected int32 \(or other integers\)"):
        fastlstm.Session(ids()).run(np.zeros((2, 5), "f4"))
    with pytest.raises(fastlstm.DTypeError, match=r"input 'm' has dtype int64, expected bool"):
        fastlstm.Session(ids(mask=True)).run({"x": np.zeros((2, 5), "i4"), "m": np.ones((2, 5), "i8")})


def test_integers_that_int32_cannot_hold_are_refused_every_time():
    session = fastlstm.Session(ids())
    session.run(np.zeros((1, 2), "i8"))
    for value in (2**31, -(2**31) - 1, 2**32):
        with pytest.raises(fastlstm.InputError, match="input 'x' holds values outside int32"):
            session.run(np.array([[1, value]]))
    with pytest.raises(fastlstm.InputError, match="outside int32"):
        session.run(np.array([[1, 2**63]], "u8"))


def test_an_id_out_of_range_is_an_input_error_that_names_node_and_range():
    session = fastlstm.Session(ids())
    good = session.run(np.array([[1, 10]]))
    for bad in (11, -1):
        with pytest.raises(
            fastlstm.InputError, match=rf"node 'look': id {bad} is out of range for 11 entries \(0 to 10\)"
        ):
            session.run(np.array([[1, bad]]))
    assert bits(session.run(np.array([[1, 10]])), good)


def test_names_that_are_unknown_or_missing_are_told_with_those_that_exist():
    session = fastlstm.Session(two_inputs())
    a, x = np.zeros((2, 5, H), "f4"), np.zeros((2, 5, I), "f4")
    with pytest.raises(fastlstm.InputError, match="unknown input 'z'; the model has 'a', 'x'"):
        session.run({"a": a, "x": x, "z": x})
    with pytest.raises(fastlstm.InputError, match="unknown input 0"):
        session.run({0: a, "x": x})
    with pytest.raises(fastlstm.InputError, match="input 'x' is missing; the model has 'a', 'x'"):
        session.run({"a": a})
    for given in (a, [a], None, []):
        with pytest.raises(fastlstm.InputError, match="the model has 2 inputs: pass a dict with 'a', 'x'"):
            session.run(given)


def test_inputs_that_share_a_symbol_must_agree_even_after_good_calls():
    session = fastlstm.Session(two_inputs())
    array = lambda *shape: np.zeros(shape, "f4")
    for size in (2, 3):
        session.run({"a": array(size, 5, H), "x": array(size, 5, I)})
    with pytest.raises(fastlstm.ShapeError, match=r"input 'x' has shape \(3, 5, 3\).*'B' was 2 before"):
        session.run({"a": array(2, 5, H), "x": array(3, 5, I)})
    with pytest.raises(fastlstm.ShapeError, match="'T' was 5 before"):
        session.run({"a": array(2, 5, H), "x": array(2, 1, I)})


def test_what_is_fixed_in_the_model_is_fixed_in_a_call():
    session = fastlstm.Session(network(batch=2, steps=5))
    session.run(np.zeros((2, 5, I), "f4"))
    for shape in ((1, 5, I), (2, 4, I)):
        with pytest.raises(fastlstm.ShapeError, match=r"expected \[2, 5, 3\]"):
            session.run(np.zeros(shape, "f4"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model.keras",), "takes a Model, got str; fastlstm.load"),
        ((None,), "got NoneType"),
        ((network(), 0), "threads=0"),
        ((network(), -1), "threads=-1"),
        ((network(), 1.5), "threads=1.5"),
        ((network(), True), "threads=True"),
        ((network(), 1, "4G"), "max_scratch='4G'"),
        ((network(), 1, None), "max_scratch=None"),
        ((network(), 1, -1), "max_scratch=-1"),
    ],
)
def test_session_refuses_arguments_that_make_no_sense(arguments, words):
    with pytest.raises(fastlstm.InputError, match=words):
        fastlstm.Session(*arguments)


# ---- what is left alone -------------------------------------------------------------------------------
def test_results_are_fresh_and_share_nothing(session):
    x = RNG.standard_normal((2, 5, I)).astype("f4")
    kept = x.copy()
    first = session.run(x)
    copied = first.copy()
    second = session.run(-x)
    assert bits(x, kept) and bits(first, copied)
    assert not np.shares_memory(first, second) and not np.shares_memory(first, x)
    assert first.flags.writeable and first.flags.c_contiguous and first.flags.owndata
    first[...] = np.nan
    assert bits(session.run(x), copied)


def test_an_output_that_is_an_input_or_a_weight_is_a_copy_of_it():
    ws = {"k": weights(I, H), "one": weights(4)}
    nodes = [Node("same", "Identity", ("x",), ("y",)), Node("d", "Dense", ("x", "k"), ("z",))]
    session = fastlstm.Session(models.model(nodes, [("x", "float32", ("B", I))], ["y", "z", "one", "x"], ws))
    x = RNG.standard_normal((2, I)).astype("f4")
    for _ in range(2):
        results = session.run({"x": x})
        assert bits(results["y"], x) and bits(results["x"], x) and bits(results["one"], weights(4))
        for array in results.values():
            array[...] = np.nan
    assert bits(x, session.run({"x": x})["y"]) and bits(ws["one"], weights(4))


def test_a_session_pickles_and_copies_with_its_options():
    session = fastlstm.Session(network(), threads=2, max_scratch=1 << 20)
    x = RNG.standard_normal((5, 4, I)).astype("f4")
    want = session.run(x)
    for other in (pickle.loads(pickle.dumps(session)), copy.copy(session), copy.deepcopy(session)):
        assert bits(other.run(x), want) and other.threads == 2
        with pytest.raises(fastlstm.LimitError):
            other.run(np.zeros((500, 500, I), "f4"))


# ---- out ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
def test_out_receives_the_result_and_is_returned(threads):
    session = fastlstm.Session(network(), threads=threads)
    x = RNG.standard_normal((4, 5, I)).astype("f4")
    want = session.run(x)
    wide = np.full((5, 8, 2 * N), 9, "f4")
    for out in (np.empty((4, 5, N), "f4"), wide.swapaxes(0, 1)[::2, ::-1, ::2], np.asfortranarray(want * 0)):
        assert session.run(x, out=out) is out
        assert (out == want).all()
        out[...] = 0
        assert session.run({"x": x}, out={"dense": out})["dense"] is out
        assert (out == want).all()
    assert (wide[:, 1::2] == 9).all() and (wide[..., 1::2] == 9).all()  # what lies between is not touched


@pytest.mark.parametrize("threads", [1, 2])
def test_out_may_name_some_outputs_or_be_the_input(threads):
    session = fastlstm.Session(models.network("rnn"), threads=threads)
    x = models.inputs_for(session.model, RNG, 3, 4)
    want, h = session.run(x), np.empty((3, 19), "f4")
    results = session.run(x, out={"a.h": h})
    assert results["a.h"] is h and bits(h, want["a.h"]) and bits(results["a.y"], want["a.y"])
    same = fastlstm.Session(
        models.model([Node("n", "Neg", ("x",), ("y",))], [("x", "float32", ("B", 2))], ["y"], {}), threads=threads
    )
    x = RNG.standard_normal((3, 2)).astype("f4")
    want = -x
    assert bits(same.run(x, out=x), want)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_wrong_out_is_refused_and_not_written(threads):
    session = fastlstm.Session(network(), threads=threads)
    x, good = np.ones((4, 5, I), "f4"), np.zeros((4, 5, N), "f4")
    session.run(x, out=good.copy())
    shape, dtype = fastlstm.ShapeError, fastlstm.DTypeError
    frozen = read_only(good)
    cases = [
        (np.zeros((4, 5, N + 1), "f4"), shape, r"out\['dense'\] has shape \(4, 5, 3\), expected \(4, 5, 2\)"),
        (np.zeros((4, 5), "f4"), shape, "expected"),
        (np.zeros((1, 5, N), "f4"), shape, "expected"),
        (np.zeros((4, 5, N), "f8"), dtype, "an array of float64, expected an array of float32"),
        (np.zeros((4, 5, N), ">f4"), dtype, "expected an array of float32"),
        ([[0.0]], dtype, "is list"),
        ("y", dtype, "is str"),
        (frozen, fastlstm.InputError, "read-only"),
        ({"y": good}, fastlstm.InputError, "unknown output 'y' in out; the model has 'dense'"),
        ({"dense": None}, dtype, "is NoneType"),
    ]
    for out, error, words in cases:
        with pytest.raises(error, match=words):
            session.run(x, out=out)
    assert not good.any() and not frozen.any()
    with pytest.raises(fastlstm.InputError, match="3 outputs: pass out as a dict with"):
        fastlstm.Session(models.network("lstm")).run(np.zeros((1, 1, 5), "f4"), out=good)


# ---- lists of sequences -------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sequences", [True, False])
def test_each_sequence_of_a_list_is_computed_as_if_alone(sequences, threads):
    session = fastlstm.Session(network(sequences), threads=threads)
    rows = [RNG.standard_normal((T, I)) for T in (5, 1, 3, 5, 0, 3, 5, 17)]
    results = session.run(rows)
    assert isinstance(results, list) and len(results) == len(rows)
    for row, y in zip(rows, results, strict=True):
        assert bits(y, session.run(row[None])[0])
    assert all(bits(a, b) for a, b in zip(session.run(tuple(rows)), results, strict=True))
    assert not any(np.shares_memory(results[0], other) for other in results[1:])


def test_an_empty_list_gives_an_empty_list(session):
    assert session.run([]) == [] and session.run(()) == []


def test_a_list_through_a_model_of_several_outputs_gives_dicts():
    session = fastlstm.Session(models.network("stacked"))
    rows = [RNG.standard_normal((T, 5)).astype("f4") for T in (4, 2, 4)]
    for row, results in zip(rows, session.run(rows), strict=True):
        alone = session.run({"x": row[None]})
        assert set(results) == set(alone) and all(bits(results[k], alone[k][0]) for k in alone)


def test_a_list_suits_a_model_whose_batch_is_the_second_axis():
    ws = {"W": weights(I, 3 * H), "U": weights(H, 3 * H)}
    net = models.model(
        [Node("net", "GRU", ("x", "W", "U"), ("y", "h"))], [("x", "float32", ("T", "B", I))], ["y", "h"], ws
    )
    session, rows = fastlstm.Session(net), [RNG.standard_normal((T, I)).astype("f4") for T in (4, 2, 4)]
    for row, results in zip(rows, session.run(rows), strict=True):
        alone = session.run({"x": row[:, None]})
        assert bits(results["y"], alone["y"][:, 0]) and bits(results["h"], alone["h"][0])


def test_the_dtype_of_one_sequence_does_not_change_another():
    """NumPy joins int64 and uint64 as float64, which are no ids, and int64 and float32 with other roundings."""
    session = fastlstm.Session(ids())
    got = session.run([np.array([1, 2], "i8"), np.array([3, 4], "u8")])
    assert bits(got[1], session.run(np.array([[3, 4]], "i4"))[0])
    session, big = fastlstm.Session(network()), np.full((2, I), 2**60 + 2**36 + 1)
    rows = [big, np.ones((2, I), "f4")]
    assert all(bits(y, session.run(row[None])[0]) for y, row in zip(session.run(rows), rows, strict=True))


def test_rows_that_a_model_mixes_are_alone_in_a_list():
    ws = {"W": weights(I, H), "U": weights(H, H)}
    nodes = [
        Node("net", "RNN", ("x", "W", "U"), ("", "h"), {"batch_first": True}),
        Node("mix", "Softmax", ("h",), ("y",), {"axis": 0}),
    ]
    session = fastlstm.Session(models.model(nodes, [("x", "float32", ("B", "T", I))], ["y"], ws))
    rows = [RNG.standard_normal((3, I)).astype("f4") for _ in range(3)]
    for row, y in zip(rows, session.run(rows), strict=True):
        assert bits(y, session.run(row[None])[0])


def test_a_model_without_time_takes_rows_too():
    session = fastlstm.Session(
        models.model(
            [Node("d", "Dense", ("x", "k"), ("y",))], [("x", "float32", ("B", I))], ["y"], {"k": weights(I, N)}
        )
    )
    x = RNG.standard_normal((4, I)).astype("f4")
    want = session.run(x)
    assert all(bits(a, b) for a, b in zip(session.run(list(x)), want, strict=True))
    assert bits(fastlstm.Session(session.model, threads=3).run(x), want)


def test_a_list_is_refused_where_no_batch_axis_is_known():
    net = models.model([Node("n", "Neg", ("x",), ("y",))], [("x", "float32", (2, 3))], ["y"], {})
    with pytest.raises(fastlstm.InputError, match=r"input x: float32\[2, 3\] has no batch axis"):
        fastlstm.Session(net).run([np.zeros(3, "f4")])


def test_a_list_frees_the_steps_that_a_model_fixes_and_only_for_lists():
    session, free = fastlstm.Session(network(steps=5)), fastlstm.Session(network())
    x = RNG.standard_normal((1, 4, I)).astype("f4")
    assert bits(session.run([x[0]])[0], free.run(x)[0])
    with pytest.raises(fastlstm.ShapeError, match=r"expected \['batch', 5, 3\]"):
        session.run(x)


def test_a_wrong_sequence_of_a_list_is_told_by_its_place(session):
    good = np.zeros((4, I), "f4")
    for bad in (np.zeros(I, "f4"), np.zeros((1, 4, I), "f4"), np.float32(3), [1.0, 2.0]):
        with pytest.raises(fastlstm.ShapeError, match=r"sequence 2 has shape .*, expected 2 axes"):
            session.run([good, good, bad])
    with pytest.raises(fastlstm.ShapeError, match=r"expected \['batch', 'time', 3\]"):
        session.run([good, np.zeros((4, I + 1), "f4")])
    for bad in (None, "abc", np.zeros((4, I), "c8"), object()):
        with pytest.raises(fastlstm.DTypeError, match="input 'x'"):
            session.run([good, bad])
    with pytest.raises(fastlstm.InputError, match="out cannot be used with a list"):
        session.run([good], out=np.zeros((4, N), "f4"))


# ---- cost ---------------------------------------------------------------------------------------------
def test_the_cost_is_that_of_a_count_by_hand():
    """2 for a multiply-add, 10 for each element of a gate's activation and update; weights as stored; inputs and all results."""
    B, T = 5, 9
    cost = fastlstm.Session(network()).cost(batch=B, steps=T)
    lstm = T * B * (2 * 4 * H * (I + H) + 10 * 4 * H)
    dense = 2 * T * B * H * N
    assert cost.flops == lstm + dense
    assert cost.weight_bytes == 4 * (I * 4 * H + H * 4 * H + 4 * H + H * N + N)
    arrays = T * B * (I + N)  # the input and the result of the Dense layer are among what is written
    assert 4 * arrays <= cost.value_bytes <= 4 * (arrays + T * B * H + 4 * B * H)


@pytest.mark.parametrize("kind", [k for k in models.NETWORKS if k != "embedded"])
def test_the_cost_is_linear_in_rows_and_steps(kind):
    session = fastlstm.Session(models.network(kind))
    one, rows, steps = session.cost(3, 11), session.cost(6, 11), session.cost(3, 22)
    assert rows.flops == 2 * one.flops == steps.flops > 0
    assert rows.value_bytes == 2 * one.value_bytes
    assert one.value_bytes < steps.value_bytes <= 2 * one.value_bytes  # final states do not grow
    assert one.weight_bytes == rows.weight_bytes == steps.weight_bytes
    assert session.cost(0, 7).flops == 0


def test_the_cost_tells_weights_as_they_are_stored():
    wide, half, byte = (fastlstm.Session(network().narrowed(s)).cost(1, 1) for s in ("float32", "float16", "int8"))
    assert wide.weight_bytes > half.weight_bytes > byte.weight_bytes
    assert wide.flops == half.flops == byte.flops


def test_the_cost_of_a_huge_call_is_known_without_memory(session):
    session.cost(2, 2)
    tracemalloc.start()
    try:
        huge, small = session.cost(batch=10**6, steps=10**5), session.cost(1, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert huge.flops == 10**11 * small.flops and peak < 1 << 20
    with pytest.raises(fastlstm.LimitError):
        session.cost(2**40, 2**40)


def test_a_cost_that_cannot_be_known_says_why(session):
    for bad in (-1, 1.5, "3", None, True):
        with pytest.raises(fastlstm.InputError, match=r"batch=.*: expected a whole number"):
            session.cost(batch=bad)
        with pytest.raises(fastlstm.InputError, match=r"steps=.*: expected a whole number"):
            session.cost(steps=bad)
    net = models.model([Node("n", "Neg", ("x",), ("y",))], [("x", "float32", ("B", "S"))], ["y"], {})
    with pytest.raises(fastlstm.InputError, match=r"the cost is not known: input x: .* free axis"):
        fastlstm.Session(net).cost(2, 3)
    net = models.model([Node("n", "Neg", ("x",), ("y",))], [("x", "float32", None)], ["y"], {})
    with pytest.raises(fastlstm.InputError, match=r"the cost is not known: input x: .*\[\?\]"):
        fastlstm.Session(net).cost(2, 3)


# ---- limits and many shapes ---------------------------------------------------------------------------
def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_beyond_max_scratch_is_refused_before_it_is_allocated(threads):
    session = fastlstm.Session(network(), threads=threads, max_scratch=1 << 20)
    session.run(np.zeros((2, 5, I), "f4"))
    huge = np.broadcast_to(np.float32(0), (10**6, 10**5, I))  # takes no memory

    def refused() -> None:
        with pytest.raises(
            fastlstm.LimitError, match="more than 1 MiB of buffers; pass fewer rows or steps, or a larger max_scratch"
        ):
            session.run(huge)

    assert peak_of(refused) < 1 << 20
    with pytest.raises(fastlstm.LimitError):
        fastlstm.Session(network(), threads=threads).run(huge)  # the default is a limit too
    assert session.run(np.zeros((2, 5, I), "f4")).shape == (2, 5, N)


def test_a_hundred_shapes_stay_right():
    session, net = fastlstm.Session(network()), network()
    shapes = [(1 + k % 10, 1 + k // 10) for k in range(100)]
    x = RNG.standard_normal((10, 10, I)).astype("f4")
    whole = fastlstm.Session(net).run(x)
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(100), 2))
    for B, T in (shapes[k] for k in order):
        assert bits(session.run(x[:B, :T]), np.ascontiguousarray(whole[:B, :T]))


def test_memory_does_not_grow_with_the_number_of_shapes():
    session = fastlstm.Session(network())
    x = np.zeros((1, 600, I), "f4")
    for T in range(400, 440):
        session.run(x[:, :T])
    tracemalloc.start()
    try:
        for T in range(440, 480):
            session.run(x[:, :T])
        grown = []
        for start in (480, 540):
            before = tracemalloc.get_traced_memory()[0]
            for T in range(start, start + 60):
                session.run(x[:, :T])
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    one = 4 * 500 * (I + H + N)  # bytes that a frame takes at least
    # a table of the interpreter's own may move meanwhile, but not twice
    assert min(grown) < 20 * one, f"{grown} bytes more after 60 further shapes each"


def test_kinds_of_calls_are_remembered_within_bounds():
    session = fastlstm.Session(network(False))
    x = np.zeros((600, 1, I), "f4")
    for B in range(1, 600):
        assert session.run(x[:B]).shape == (B, N)
    assert len(session._passed) <= 256

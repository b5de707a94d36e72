"""Large arrays that kernels read and write where they are: the bits of a copy, nothing touched beside them, nothing shared.

A caller's array takes the place of a buffer of 64 KiB or more; every array here is larger.
"""

import os
import subprocess
import sys

import models
import numpy as np
import pytest
from test_stream import RandomGraph

import fastlstm
from fastlstm import plan, program
from fastlstm.graph import Node
from fastlstm.program import DIRECT_BYTES

RNG = np.random.default_rng(0)
N = 300


def table(rows: int = 400) -> np.ndarray:
    return RNG.standard_normal((rows, N)).astype("f4")


def session_of(nodes: list[Node], outputs: list[str], threads: int = 1, **constants: np.ndarray) -> fastlstm.Session:
    return fastlstm.Session(models.model(nodes, [("x", "float32", ("B", N))], outputs, constants), threads=threads)


def ports(session: fastlstm.Session, *shapes: tuple) -> list[bool]:
    """Tell of each input and output whether a caller's array takes its place."""
    frame = session._plan.bind(shapes)
    return [port.direct for port in (*frame.inputs.values(), *frame.outputs.values())]


# ---- where a caller's array may stand -----------------------------------------------------------------
def test_large_arrays_are_used_where_they_are():
    assert ports(session_of([Node("t", "Tanh", ("x",), ("y",))], ["y"]), (400, N)) == [True, True]
    assert ports(session_of([Node("t", "Tanh", ("x",), ("y",))], ["y"]), (4, N)) == [False, False]


def test_an_output_that_is_a_weight_is_a_copy_of_it():
    k = table()
    nodes = [
        Node("a", "Add", ("x", "k"), ("y",)), Node("b", "Identity", ("k",), ("same",)), Node("c", "Neg", ("k",), ("other",)),
        Node("d", "Dense", ("x", "w"), ("z",)),
    ]  # fmt: skip
    session = session_of(nodes, ["y", "same", "other", "k", "w"], k=k, w=table(N))
    w, out = session.model.weights["w"].copy(), np.zeros_like(k)
    for _ in range(3):
        results = session.run({"x": k}, out={"same": out})
        assert results["same"] is out
        for name, want in {"y": 2 * k, "same": k, "other": -k, "k": k, "w": w}.items():
            assert models.same_bits(results[name], want)
            results[name][...] = np.nan
    assert models.same_bits(session.model.weights["k"], k)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("start", "end"), [(1, 2**31), (0, -1), (2, -2), (0, 2**31), (39, 2**31)])
def test_an_output_that_is_a_part_of_what_a_kernel_writes_is_a_copy_of_that_part(start, end, threads):
    """Steps of a recurrence whose time comes first: a contiguous part of its buffer."""
    rng = np.random.default_rng(1)
    ws = {"W": rng.standard_normal((3, 64)), "U": rng.standard_normal((64, 64)) / 8}
    ws = {k: v.astype("f4") for k, v in ws.items()} | {"s": np.array([start]), "e": np.array([end]), "a": np.array([0])}
    nodes = [Node("l", "RNN", ("x", "W", "U"), ("seq",)), Node("c", "Slice", ("seq", "s", "e", "a"), ("y",))]
    net = lambda *outputs: models.model(nodes, [("x", "float32", ("T", "B", 3))], list(outputs), ws)
    x = rng.standard_normal((40, 270, 3)).astype("f4")
    want = fastlstm.Session(net("seq")).run(x)[start:end]
    assert want.nbytes >= DIRECT_BYTES
    for names in (("y",), ("y", "seq")):
        session, out = fastlstm.Session(net(*names), threads=threads), np.empty_like(want)
        for _ in range(2):
            assert models.same_bits(session.run({"x": x})["y"], want)
            assert session.run({"x": x}, out={"y": out})["y"] is out and models.same_bits(out, want)
            out[...] = 0


def test_outputs_that_show_an_input_or_each_other_share_nothing():
    at = {"flat": np.array([-1]), "one": np.array([1]), "end": np.array([2**31]), "two": np.array(2)}
    for source, node in (("x", []), ("h", [Node("n", "Neg", ("x",), ("h",))])):
        nodes = [
            *node, Node("i", "Identity", (source,), ("same",)), Node("r", "Reshape", (source, "flat"), ("line",)),
            Node("t", "Transpose", (source,), ("turned",), {"perm": (1, 0)}), Node("s", "Slice", (source, "one", "end"), ("rest",)),
            Node("g", "Gather", (source, "two"), ("row",), {"axis": 0}),
        ]  # fmt: skip
        names = ["same", "line", "turned", "rest", "row", source]
        session, x = session_of(nodes, names, **at), table()
        first, kept = session.run({"x": x}), x.copy()
        second = session.run({"x": -x})
        h = kept if source == "x" else -kept
        want = {"same": h, "line": h.ravel(), "turned": h.T, "rest": h[1:], "row": h[2], source: h}
        arrays = [x, *first.values(), *second.values()]
        assert models.same_bits(x, kept)
        assert all(models.same_bits(first[k], np.ascontiguousarray(v)) for k, v in want.items())
        assert not any(np.shares_memory(a, b) for k, a in enumerate(arrays) for b in arrays[:k])


@pytest.mark.parametrize("threads", [1, 2])
def test_out_may_overlap_the_input(threads):
    session, x = session_of([Node("t", "Tanh", ("x",), ("y",))], ["y"], threads), table()
    want = session.run(x)
    for shift in (0, 1, 100, -7):
        room = np.zeros((700, N), "f4")
        given, out = room[150:550], room[150 + shift : 550 + shift]
        given[...] = x
        assert session.run(given, out=out) is out and models.same_bits(out.copy(), want)


def test_one_array_may_be_two_inputs():
    nodes = [Node("s", "Sub", ("a", "b"), ("y",)), Node("m", "MatMul", ("a", "w"), ("z",))]
    inputs = [("a", "float32", ("B", N)), ("b", "float32", ("B", N))]
    session = fastlstm.Session(models.model(nodes, inputs, ["y", "z"], {"w": table(N)[:, :70].copy()}))
    x = table()
    want, got = session.run({"a": x, "b": x.copy()}), session.run({"a": x, "b": x})
    assert not got["y"].any() and models.same_bits(got["z"], want["z"])


LAYOUTS = {
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "Fortran": np.asfortranarray,
    "backwards": lambda x: x[::-1].copy()[::-1],
    "other bytes": lambda x: x.astype(">f4"),
    "float64": lambda x: x.astype("f8"),
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    **{
        f"{k} bytes off": lambda x, k=k: np.frombuffer(bytes(k) + x.tobytes(), x.dtype, offset=k).reshape(x.shape)
        for k in (1, 2, 3, 4, 12, 20, 60)
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_bits_of_a_plain_array(layout):
    session = fastlstm.Session(models.network("lstm", 1))
    x = models.inputs_for(session.model, np.random.default_rng(5), 30, 200)
    want = session.run({"x": x})
    for _ in range(2):
        got = session.run({"x": LAYOUTS[layout](x)})
        assert all(models.same_bits(got[k], want[k]) for k in want)
        session.run({"x": np.zeros_like(x)})


def test_an_out_of_any_layout_is_written_and_nothing_beside_it():
    session = fastlstm.Session(models.network("rnn", 1))
    x = models.inputs_for(session.model, np.random.default_rng(5), 30, 200)
    want = session.run({"x": x})["a.y"]
    raw = np.full(want.nbytes + 128, 0xA5, np.uint8)
    for k in (1, 4, 64):
        out = raw[k : k + want.nbytes].view("f4").reshape(want.shape)
        assert session.run({"x": x}, out={"a.y": out})["a.y"] is out and models.same_bits(out.copy(), want)
        assert (raw[:k] == 0xA5).all() and (raw[k + want.nbytes :] == 0xA5).all()
        raw[...] = 0xA5
    wide = np.zeros((30, 200, 40), "f4")
    assert models.same_bits(session.run({"x": x}, out={"a.y": wide[..., 3:22]})["a.y"].copy(), want)
    assert not wide[..., :3].any() and not wide[..., 22:].any()


def test_random_graphs_give_the_same_with_every_array_in_place_as_with_none(monkeypatch):
    """Any values as outputs, also parts and views of each other."""
    shape, direct = (6, 5, 3), 0
    for seed in range(400):
        rng, graph = np.random.default_rng(seed), RandomGraph(seed)
        last = list(graph.sizes)[-1]
        names = [name for name in graph.sizes if name == last or rng.random() < 0.5]
        net = models.model(graph.nodes, [("x", "float32", ("B", "T", 3))], names, dict(graph.model().weights))
        x, results = rng.standard_normal(shape).astype("f4"), []
        for least in (1 << 60, 0):
            for module in (plan, program):
                monkeypatch.setattr(module, "DIRECT_BYTES", least)
            session, kept = fastlstm.Session(net, threads=1 + seed % 2), x.copy()
            first = session.run({"x": x})
            rooms = {k: np.full(v.nbytes + 256, 0xA5, np.uint8) for k, v in first.items() if v.size}
            out = {k: rooms[k][128:-128].view(v.dtype).reshape(v.shape) for k, v in first.items() if v.size}
            second = session.run({"x": x}, out=out)
            third = session.run({"x": -x}), session.run({"x": x})
            what = seed, names, [(n.op, n.inputs) for n in graph.nodes]
            assert models.same_bits(x, kept), what
            assert all(second[k] is v and models.same_bits(v.copy(), first[k]) for k, v in out.items()), what
            assert all((room[:128] == 0xA5).all() and (room[-128:] == 0xA5).all() for room in rooms.values()), what
            assert all(models.same_bits(third[1][k], v) for k, v in first.items()), what
            arrays = [x, *first.values(), *third[0].values(), *third[1].values()]
            assert not any(np.shares_memory(a, b) for k, a in enumerate(arrays) for b in arrays[:k]), what
            results.append(first)
        direct += sum(ports(session, shape)[1:])
        assert all(models.same_bits(results[0][k], v) for k, v in results[1].items()), what
    assert direct > 300


# ---- nothing beside them ------------------------------------------------------------------------------
GUARDED = """
import ctypes, faulthandler, mmap
import numpy as np
import models, fastlstm
faulthandler.enable()

libc = ctypes.CDLL(None)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE, kept = mmap.PAGESIZE, []

def guarded(array, read_only=False):
    '''Return a copy that ends where a page without access begins, and the bytes between the page before it and itself.'''
    data = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, data + 2 * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    start, end = PAGE + data - array.nbytes, PAGE + data
    view = whole[start:end].view(array.dtype).reshape(array.shape)
    view[...], whole[PAGE:start] = array, 0xA5
    for at in (0, end):
        assert libc.mprotect(whole.ctypes.data + at, PAGE, 0) == 0
    if read_only:
        assert libc.mprotect(whole.ctypes.data + PAGE, data, 1) == 0
    kept.append(memory)
    return view, whole[PAGE:start]

rng = np.random.default_rng(0)
for name in models.NETWORKS:
    net = models.network(name, 1)
    sessions = [fastlstm.Session(net, threads=k) for k in (1, 2)]
    for B, T in ((13, 301), (1, 3701), (331, 11), (701, 1)):
        x = models.inputs_for(net, rng, B, T)
        want, given = sessions[0].run({"x": x}), guarded(x, True)[0]
        for session in sessions:
            out = {k: guarded(np.zeros_like(v)) for k, v in want.items()}
            got = session.run({"x": given}, out={k: v[0] for k, v in out.items()})
            assert all(got[k] is out[k][0] and models.same_bits(got[k], want[k]) for k in want), (name, B, T)
            assert all((before == 0xA5).all() for _, before in out.values()), (name, B, T)
            lengths = rng.integers(0, T + 1, B)
            longer = session.run({"x": given}, lengths=lengths)
            got = session.run({"x": given}, out={k: v[0] for k, v in out.items()}, lengths=lengths)
            assert all(models.same_bits(got[k], longer[k]) for k in want if longer[k].ndim == 2), (name, B, T)
            assert all((before == 0xA5).all() for _, before in out.values()), (name, B, T)
    kept.clear()
print("inside")
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs mprotect over 4 KiB pages")
def test_kernels_write_no_input_and_nothing_beside_an_array_of_the_caller():
    path = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [sys.executable, "-c", GUARDED], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert result.stdout == "inside\n", result.stderr[-3000:]

"""Kernels stay inside their buffers, and read nothing that was never written.

In a subprocess, every buffer of a plan gets pages of its own: it ends (rounded up to 64 bytes, the vector that its last
element lies in) where a page without access begins, so a read or write past it kills the process; the bytes before it are
canaries; its own bytes start as NaN. Results must have the bits of an ordinary run.
"""

import os
import subprocess
import sys

import models
import naive
import numpy as np
import pytest

import fastlstm
from fastlstm.graph import Node

SCRIPT = """
import ctypes, faulthandler, mmap, sys
from math import prod
import numpy as np
import models, fastlstm
from fastlstm import buffers, plan, program
from fastlstm.kernels import target
faulthandler.enable()

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE, canaries, kept = mmap.PAGESIZE, [], []

def guarded(shape, dtype):
    size = prod(shape) * dtype.itemsize
    room = -(-size // 64) * 64
    data = -(-room // PAGE) * PAGE
    memory = mmap.mmap(-1, data + 2 * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    end = PAGE + data
    start = end - room
    whole[PAGE:start], whole[start:end] = 0xA5, 0xFF
    for at in (0, end):
        assert libc.mprotect(whole.ctypes.data + at, PAGE, 0) == 0
    kept.append(memory)
    canaries.append(whole[PAGE:start])
    return whole[start : start + size].view(dtype).reshape(shape)

ordinary = plan.aligned
# no value takes memory that another left: each has pages of its own
buffers.Buffers.take = lambda self, size, node: None

def compare(net, feeds, threads=1):
    plan.aligned = ordinary
    want = fastlstm.Session(net).run(feeds)
    plan.aligned = guarded
    session = fastlstm.Session(net, threads=threads)
    for _ in range(2):
        got = session.run(feeds)
        assert all(models.same_bits(got[k], want[k]) for k in want), net.graph
    plan.aligned = ordinary
    assert all((c == 0xA5).all() for c in canaries), net.graph
    canaries.clear()

def recurrences(kind, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        sizes = {k: int(rng.choice([1, 1, 2, 3, 7, 15, 16, 17, 33, 65])) for k in "BIH"} | {"T": int(rng.choice([0, 1, 2, 5, 6]))}
        if seed % 10 == 0:
            sizes["B"] = 0
        if seed % 7 == 0:
            sizes["B"] = int(rng.choice([1, 2])) * target.BLOCK + int(rng.integers(2))
        if seed % 5 == 0:
            sizes["I"] = 2 * target.DEPTH + int(rng.integers(2))
        if seed % 20 == 3:
            sizes["I"], sizes["B"] = 50 * target.DEPTH + 50, 13  # so many pieces that their lengths, rounded up, are more than it has
        case = models.draw_recurrence(
            rng, kind, 5, dtype=str(rng.choice(["float32", "float64"])), activations=(), outputs=models.OUTPUTS[kind], **sizes,
            runtime_weights=bool(rng.random() < 0.3),
        )
        compare(case.model(), case.feeds())

def networks():
    rng = np.random.default_rng(0)
    for name in models.NETWORKS:
        net = models.network(name, 1)
        for B, T in ((1, 1), (7, 3), (13, 2), (2, 0), (0, 2)):
            compare(net, {"x": models.inputs_for(net, rng, B, T)})

def training():
    # the kernels that gradients and losses are made of, over odd sizes
    from fastlstm.layers.build import Build
    from fastlstm.training.gradient import gradients
    for seed in range(25):
        rng = np.random.default_rng(seed)
        dtype = str(rng.choice(["float32", "float64"]))
        B, T, C, F = (int(rng.choice([1, 2, 3, 7, 9, 17, 33])) for _ in range(4))
        build, feeds = Build(), {}
        def given(name, *shape):
            feeds[name] = rng.standard_normal(shape).astype(dtype)
            return build.input(name, dtype, shape)
        x, W, V, table, scale = given("x", B, T, C), given("W", C, F), given("V", 2, F, C), given("table", 5, C), given("scale", C)
        feeds["ids"] = rng.integers(0, 5, (B, T))
        ids = build.input("ids", "int64", (B, T))
        e = build.node("e", "Embedding", [ids, table])
        n = build.node("n", "LayerNormalization", [build.node("s", "Add", [x, e]), scale])
        y = build.node("t", "Tanh", [build.node("d", "Dense", [n, W])])
        y = build.node("c", "Conv1D", [y, V], pads=(1, 0))
        scores = build.node("q", "MatMul", [y, build.node("turn", "Transpose", [x], perm=(0, 2, 1))])
        mixed = build.node("m", "MatMul", [build.node("p", "Softmax", [scores]), y])
        mean, variance = build.node("mv", "Moments", [mixed], 2, axes=(0, 1))
        z = build.node("bn", "BatchNormalization", [mixed, None, None, mean, variance], axis=2)
        pooled = build.node("pool", "ReduceMax", [build.node("w", "Windows", [z], size=2, pads=(1, 0), fill="lowest")], axes=(2,))
        classes = build.weight("classes", rng.integers(0, C, (B, T)))
        losses = build.node("ce", "SoftmaxCrossEntropy", [pooled, classes])
        loss = build.node("loss", "ReduceMean", [losses])
        wrt = [x, W, V, table, scale]
        compare(build.model([loss, *gradients(build, loss, wrt)]), feeds)

def steps():
    # the steps of recurrences and their adjoints, every option and remainder, alone and with all work divided over a team
    from fastlstm.training.gradient import gradients
    from training.test_steps import Configuration
    plan.TEAM_WORK = program.SMALL_WORK = 0
    for number in range(0, 64, 2):
        configuration = Configuration(number)
        build, loss, wrt, feeds = configuration.build(("float32", "float64")[number % 3 == 0])
        net = build.model([loss, *gradients(build, loss, wrt)])
        for threads in (1, 2, 3):
            compare(net, feeds, threads)

def ctc():
    from fastlstm.layers.build import Build
    for seed in range(25):
        rng = np.random.default_rng(seed)
        dtype, wanted = str(rng.choice(["float32", "float64"])), bool(rng.random() < 0.7)
        B, T, N, most = (int(rng.choice([1, 2, 3, 8, 9, 17])) for _ in range(4))
        build = Build()
        x, labels, mask = build.input("x", dtype, (B, T, N)), build.input("labels", "int64", (B, most)), build.input("mask", "bool", (B, T))
        outputs = [y for y in build.node("ctc", "CTC", [x, labels, mask], [True, wanted]) if y is not None]
        feeds = {"x": rng.standard_normal((B, T, N)).astype(dtype), "labels": rng.integers(-1 if seed % 5 == 0 else 0, N, (B, most))}
        compare(build.model(outputs), feeds | {"mask": rng.random((B, T)) < 0.8})

def streams():
    rng = np.random.default_rng(0)
    for name in models.NETWORKS:
        net = models.network(name, 1)
        x = models.inputs_for(net, rng, 40, 2)
        plan.aligned = ordinary
        want = fastlstm.Session(net).run({"x": x})
        plan.aligned = guarded
        try:
            stream = fastlstm.Session(net).stream(batch=40)
        except fastlstm.StreamError:
            continue
        for rows in (rng.permutation(40)[:35], np.arange(7)):
            stream.reset()
            stream.step({"x": x[rows, :1]}, rows=rows)
            for key, y in stream.step({"x": x[rows, 1:]}, rows=rows).items():
                whole = want[key][rows]
                assert models.same_bits(y, whole[:, 1:] if whole.ndim == 3 else whole), (name, key)
        plan.aligned = ordinary
        assert all((c == 0xA5).all() for c in canaries), name
        canaries.clear()

{"ctc": ctc, "networks": networks, "streams": streams, "training": training, "steps": steps}.get(sys.argv[1], lambda: recurrences(sys.argv[1], range(60)))()
print("inside")
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs mprotect over 4 KiB pages")
@pytest.mark.parametrize("what", ["LSTM", "GRU", "RNN", "networks", "streams", "training", "steps", "ctc"])
def test_no_kernel_reads_or_writes_outside_its_buffers_or_reads_unwritten_memory(what):
    path = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert result.stdout == "inside\n", result.stderr[-3000:]


def test_a_weight_read_under_two_shapes_is_packed_for_each():
    """A view of a weight has its address and size: one packing for both reads past the smaller."""
    rng = np.random.default_rng(0)
    W, x = rng.standard_normal((4, 8)).astype("f4"), rng.standard_normal((3, 4)).astype("f4")
    nodes = [
        Node("turn", "Reshape", ("W", "shape"), ("V",)),
        Node("a", "Dense", ("x", "W"), ("y",)),
        Node("b", "Dense", ("y", "V"), ("z",)),
    ]
    net = models.model(nodes, [("x", "float32", ("B", 4))], ["y", "z"], {"W": W, "shape": np.array([8, 4])})
    got = fastlstm.Session(net).run({"x": x})
    np.testing.assert_allclose(got["z"], x @ W @ W.reshape(8, 4), rtol=1e-4, atol=1e-4)


def test_a_kernel_shared_by_convolutions_of_other_groups_is_packed_for_each():
    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((2, 3, 400)).astype("f4"), np.zeros(400)
    x, wide = rng.standard_normal((2, 7, 3)).astype("f4"), rng.standard_normal((2, 7, 6)).astype("f4")
    nodes = [
        Node("grouped", "Conv1D", ("wide", "W"), ("z",), {"groups": 2, "dilation": 2}),
        Node("whole", "Conv1D", ("x", "W"), ("y",), {"dilation": 2}),
    ]
    inputs = [("x", "float32", ("B", "T", 3)), ("wide", "float32", ("B", "T", 6))]
    got = fastlstm.Session(models.model(nodes, inputs, ["y", "z"], {"W": W})).run({"x": x, "wide": wide})
    np.testing.assert_allclose(got["y"], naive.conv1d(x, W, b, dilation=2), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["z"], naive.conv1d(wide, W, b, dilation=2, groups=2), rtol=1e-4, atol=1e-4)

"""Kernels stay inside their buffers, and read nothing that was never written.

In a subprocess, every buffer of a plan gets pages of its own: it ends (rounded up to 64 bytes, the vector that its last
element lies in) where a page without access begins, so a read or write past it kills the process; the bytes before it are
canaries; its own bytes start as NaN. Results must have the bits of an ordinary run.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, faulthandler, mmap, sys
from math import prod
import numpy as np
import models, fastlstm
from fastlstm import plan
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

def compare(net, feeds, stream_of=None):
    plan.aligned = ordinary
    want = fastlstm.Session(net).run(feeds)
    plan.aligned = guarded
    session = fastlstm.Session(net)
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

networks() if sys.argv[1] == "networks" else recurrences(sys.argv[1], range(60))
print("inside")
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs mprotect over 4 KiB pages")
@pytest.mark.parametrize("what", ["LSTM", "GRU", "RNN", "networks"])
def test_no_kernel_reads_or_writes_outside_its_buffers_or_reads_unwritten_memory(what):
    path = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert result.stdout == "inside\n", result.stderr[-3000:]

"""Values that are read no more give their memory to later ones: no result sees it, and a frame takes less."""

from contextlib import contextmanager

import models
import numpy as np
import pytest

import fastlstm
from fastlstm import layers
from fastlstm.buffers import SMALL, Buffers, Readers, first_byte
from fastlstm.graph import Graph, Node, TensorSpec
from fastlstm.layers.build import Build
from fastlstm.team import available_threads
from fastlstm.training.gradient import gradients
from fastlstm.training.unfused import TrainingBuild


def trained(kind: str = "mixed") -> tuple[fastlstm.Model, dict[str, np.ndarray]]:
    """Return the graph of a loss and its gradients, and its inputs."""
    rng = np.random.default_rng(3)
    stack = {
        "mixed": [
            layers.Embedding(20, 37, mask_zero=True),
            layers.Bidirectional(layers.LSTM(33, return_sequences=True)),
            layers.GRU(40, return_sequences=True, reset_after=False),
            layers.LayerNormalization(),
            layers.GRU(29, return_sequences=True, go_backwards=True),
            layers.SimpleRNN(32),
            layers.Dense(3),
        ],
        "attention": [
            layers.Embedding(20, 64),
            layers.Conv1D(48, 3, padding="causal", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling1D(2),
            layers.LSTM(48, return_sequences=True, recurrent_dropout=0.25),
            layers.TimeDistributed(layers.Dense(7, activation="softmax")),
        ],
    }[kind]
    network = fastlstm.Sequential([fastlstm.Input((24,), dtype="int32"), *stack])
    build = TrainingBuild()
    ids = build.input("ids", "int32", (9, 24))
    (y,) = network.forward(build, [ids])
    loss = build.node("loss", "ReduceSum", [y * y])
    feeds = {"ids": rng.integers(1, 20, (9, 24)).astype(np.int32)}
    feeds["ids"][2:4, 17:] = 0
    feeds |= build.parameters | build.statistics
    feeds |= {
        draw.name: (rng.random([9 if isinstance(d, str) else d for d in draw.shape]) < 0.7).astype("f4")
        for draw in build.draws
    }
    wrt = [fastlstm.layers.Tensor(build, name) for name in build.parameters]
    outputs = [loss, *(d for d in gradients(build, loss, wrt) if d is not None)]
    return build.model(outputs), feeds


def cases():
    for name in models.NETWORKS:
        net = models.network(name, 1)
        yield name, net, {"x": models.inputs_for(net, np.random.default_rng(0), 9, 31)}
    for kind in ("mixed", "attention"):
        yield kind, *trained(kind)


CASES = {name: (net, feeds) for name, net, feeds in cases()}


@contextmanager
def no_reuse(monkeypatch):
    """Let every value have memory of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(Buffers, "take", lambda self, size, node: None)
        yield


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_values_that_share_nothing(case, threads, monkeypatch):
    if threads > available_threads():
        pytest.skip("one thread")
    net, feeds = CASES[case]
    with no_reuse(monkeypatch):
        expected = fastlstm.Session(net, threads=1).run(feeds)
    memories: list[np.ndarray] = []
    usual = Buffers.add

    def add(self, memory, node):
        memories.append(memory)
        usual(self, memory, node)

    monkeypatch.setattr(Buffers, "add", add)
    session = fastlstm.Session(net, threads=threads)
    for _ in range(3):
        results = session.run(feeds)
        for name, want in expected.items():
            assert models.same_bits(results[name], want), name
        for memory in (
            memories
        ):  # what a run leaves in shared memory is nothing to the next: NaN, and numbers of rows far outside
            memory[...] = 0xFF
    assert memories or case in ("single", "embedded")


def test_a_stack_needs_little_more_than_two_layers(monkeypatch):
    """Inference: whatever the number of layers, outputs of two of them at a time."""
    depths = {}
    for depth in (2, 6):
        stack = [layers.LSTM(64, return_sequences=True) for _ in range(depth)]
        network = fastlstm.Sequential([fastlstm.Input((None, 64)), *stack, layers.GlobalMaxPooling1D()])
        plan = fastlstm.Session(network.to_model())._plan
        depths[depth] = plan.bind(((16, 50, 64),)).scratch_bytes
    values = 16 * 50 * 64 * 4
    assert depths[6] < depths[2] + 4 * 0.1 * values
    with no_reuse(monkeypatch):
        assert plan.bind(((16, 50, 64),)).scratch_bytes > depths[6] + 3.5 * values


def chain() -> Graph:
    """a -> b -> c -> d, and e apart."""
    names = "abcd"
    nodes = [Node(name, "Tanh", (before,), (name,)) for before, name in zip("xabc", names, strict=True)]
    nodes.insert(2, Node("e", "Tanh", ("x",), ("e",)))
    specs = tuple(TensorSpec(name, "float32", (1,)) for name in ("d", "e"))
    return Graph(tuple(nodes), (TensorSpec("x", "float32", (1,)),), specs)


class TestBuffers:
    def test_a_block_comes_back_after_its_last_reader(self):
        graph = chain()
        buffers = Buffers(Readers(graph), None)
        a, b, e, *_ = graph.nodes
        memory = np.zeros(2 * SMALL, np.uint8)
        buffers.add(memory, "a")
        buffers.hold("a", [memory[:64].view("f4")[::-1]])
        buffers.lowered(a)
        assert buffers.take(2 * SMALL, "b") is None  # b reads a
        buffers.lowered(b)
        assert buffers.take(SMALL, "e") is None  # too large a block
        assert buffers.take(2 * SMALL - 100, "e") is memory
        assert buffers.take(2 * SMALL, "e") is None  # it is lent
        buffers.lowered(e)
        assert buffers.take(2 * SMALL, "c") is memory

    def test_outputs_are_read_for_ever(self):
        graph = chain()
        buffers = Buffers(Readers(graph), None)
        memory = np.zeros(SMALL, np.uint8)
        buffers.add(memory, "e")
        buffers.hold("e", [memory])
        for node in graph.nodes:
            buffers.lowered(node)
        assert buffers.take(SMALL, "d") is None

    def test_on_several_threads_a_block_goes_only_to_nodes_that_wait_for_its_users(self):
        graph = chain()
        a, b, *_ = graph.nodes
        ancestors = {"a": set(), "b": {"a"}, "e": set(), "c": {"a", "b"}, "d": {"a", "b", "c"}}
        buffers = Buffers(Readers(graph), ancestors)
        memory = np.zeros(SMALL, np.uint8)
        buffers.add(memory, "a")
        buffers.hold("a", [memory])
        buffers.lowered(a)
        buffers.lowered(b)
        assert buffers.take(SMALL, "e") is None  # b, which reads a, may run meanwhile
        assert buffers.take(SMALL, "c") is memory

    def test_the_first_byte_of_reversed_arrays(self):
        array = np.zeros((3, 4))
        assert first_byte(array[::-1, ::-2]) == array.ctypes.data + 8
        assert first_byte(array[:0]) == array.ctypes.data


def test_a_value_that_waits_for_its_place_is_not_taken(monkeypatch):
    """Parts are written where Concat wants them: that place is held from the first part on, while other values come and go."""
    rng = np.random.default_rng(0)
    build = Build()
    x = build.input("x", "float32", (40, 64))
    first = build.node("first", "Tanh", [x])
    other = x
    for k in range(4):
        other = build.node(f"other{k}", "Exp", [build.node(f"neg{k}", "Neg", [other])])
    whole = build.node("whole", "Concat", [first, build.node("second", "Tanh", [other])], axis=0)
    y = build.node("y", "ReduceSum", [whole], axes=(0,))
    net, feeds = build.model([y]), {"x": rng.standard_normal((40, 64)).astype("f4")}
    got = fastlstm.Session(net).run(feeds)
    with no_reuse(monkeypatch):
        assert models.same_bits(got["y"], fastlstm.Session(net).run(feeds)["y"])

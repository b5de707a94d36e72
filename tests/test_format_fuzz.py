"""Mutated model files: whatever the bytes, a load gives a model or ModelFileError, and what loads runs or gives our error.

CI runs a seeded sample. FASTLSTM_FULL=1 runs the large one; FASTLSTM_FUZZ=n sets the number of examples of each test.
"""

import copy
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from model_files import CODES, DTYPES, File, small_file
from safetensors import safe_open

import fastlstm
from fastlstm.graph import Graph, Node, TensorSpec
from fastlstm.ops.op import Op, find, registered

FULL = os.environ.get("FASTLSTM_FULL") == "1"
EXAMPLES = int(os.environ.get("FASTLSTM_FUZZ", 20_000 if FULL else 200))
LIMIT = 10.0  # seconds of a load or a run that tests call a hang
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)

BASES = [small_file(example=False), small_file(), small_file(storage="float16"), small_file(storage="int8")]
STRANGE = [
    None, True, False, 0, 1, -1, 2, 3, 7, 28, 2**31, 2**48 - 1, 2**62, 2**63 - 1, -(2**63), 2**64, 0.0, -0.5, 1e-45, 1e308, "",
    "B", "T", "x", "9", "9*B", "²", "(sum:B,1)", "«time»", "n" * 300, "\x00", "\ud800", "float32", "int64", [], {}, [[]], [0], ["B", 2],
]  # fmt: skip


# ---- the JSON ---------------------------------------------------------------------------------------
def places(document: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON document."""
    keys = range(len(document)) if isinstance(document, list) else list(document) if isinstance(document, dict) else []
    return [place for key in keys for place in [(document, key), *places(document[key])]]


def mutate_json(draw: DrawFn, document: Any) -> None:
    """Change one place: another value, one taken from elsewhere, none, twice, or swapped with its neighbour."""
    everywhere = places(document)
    container, key = draw(st.sampled_from(everywhere))
    kind = draw(st.sampled_from(["strange", "elsewhere", "remove", "twice", "swap", "number"]))
    other, other_key = draw(st.sampled_from(everywhere))
    if kind == "strange":
        container[key] = copy.deepcopy(draw(st.sampled_from(STRANGE)))
    elif kind == "elsewhere":
        container[key] = copy.deepcopy(other[other_key])
    elif kind == "remove":
        del container[key]
    elif kind == "twice" and isinstance(container, list):
        container.insert(draw(st.integers(0, len(container))), copy.deepcopy(container[key]))
    elif kind == "twice":
        container[draw(st.sampled_from(["x", "version", "name", "axis", "W"]))] = copy.deepcopy(container[key])
    elif (
        kind == "swap"
        and type(container[key]) is type(other[other_key])
        and not isinstance(container[key], list | dict)
    ):
        container[key], other[other_key] = other[other_key], container[key]
    elif type(container[key]) is int:
        container[key] += draw(st.integers(-3, 3))


# ---- the graph --------------------------------------------------------------------------------------
def values_of(file: File) -> list[str]:
    """Return the names of the inputs, weights and node outputs of a graph that is still whole."""
    names = [spec[0] for spec in file.graph["inputs"]]
    names += [tensor[0].removeprefix("weight.") for tensor in file.tensors if tensor[0].startswith("weight.")]
    return names + [name for node in file.graph["nodes"] for name in node["outputs"] if name]


def draw_attribute(draw: DrawFn, op: Op, name: str) -> Any:
    attribute = op.attributes[name]
    kinds: dict[type, st.SearchStrategy] = {
        bool: st.booleans(),
        int: st.one_of(st.integers(-3, 4), st.sampled_from([2**31, 2**62, -(2**63)])),
        float: st.one_of(st.floats(-3, 3), st.sampled_from([1e308, -1e-308, 1e10])),
        str: st.sampled_from([*(attribute.choices or DTYPES.values()), "O", "V9", ">f4"]),
    }
    one = kinds[attribute.kind]
    return draw(st.lists(one, max_size=4) if attribute.many else one)


def add_node(draw: DrawFn, file: File) -> None:
    """Append a node of any op over any values, and let the graph give its output."""
    op = find(draw(st.sampled_from(registered())))
    value = st.sampled_from(values_of(file))
    count = draw(st.integers(1, 4)) if op.inputs[-1].variadic else len(op.inputs)
    inputs = [draw(value if not slot.optional else st.one_of(st.just(""), value)) for slot in op.inputs[:count]]
    inputs += [draw(value) for _ in range(count - len(inputs))]
    name = f"new{len(file.graph['nodes'])}"
    keys = [key for key, a in op.attributes.items() if a.required or draw(st.booleans())]
    outputs = [f"{name}:{k}" if draw(st.booleans()) or k == 0 else "" for k in range(len(op.outputs))]
    file.graph["nodes"].append(
        {
            "attributes": {key: draw_attribute(draw, op, key) for key in keys},
            "inputs": inputs,
            "name": name,
            "op": op.name,
            "outputs": outputs,
            "subgraphs": {},
        }
    )
    file.graph["outputs"] = [[f"{name}:0", "float32", None]]
    file.document["example"] = None
    file.tensors = [tensor for tensor in file.tensors if not tensor[0].startswith("example")]


def add_tensor(draw: DrawFn, file: File) -> None:
    """Replace or add a weight: any dtype, few axes, small numbers, so that it may serve as shape, axes or indices."""
    names = [tensor[0] for tensor in file.tensors]
    name = draw(st.sampled_from([*names, "weight.n0", "weight.n1", "scale.W", "scale.n0"]))
    dtype = draw(st.sampled_from([*CODES, "int64", "int64", "float32"]))
    shape = draw(
        st.one_of(st.lists(st.sampled_from([0, 1, 2, 3, 4, 7, 28]), max_size=3), st.just([7, 28]), st.just([3]))
    )
    low, high = draw(st.sampled_from([(0, 2), (-3, 8), (0, 1), (1, 3)]))
    file.put(name, np.random.default_rng(draw(st.integers(0, 9))).integers(low, high, shape).astype(dtype))


def set_inputs(draw: DrawFn, file: File) -> None:
    """Declare other inputs."""
    dim = st.sampled_from(["B", "T", 0, 1, 2, 5, 7, "9*B"])
    shape = draw(st.one_of(st.none(), st.lists(dim, max_size=4), st.just(["B", 5, 2])))
    spec = [draw(st.sampled_from(["x", "x2"])), draw(st.sampled_from(["float32", "float32", *CODES])), shape]
    file.graph["inputs"] = [s for s in file.graph["inputs"] if s[0] != spec[0]] + [spec]


@st.composite
def files(draw: DrawFn, graphs_only: bool = False) -> bytes:
    """Return a valid file with a few mutations of its document, tensors, header or bytes."""
    file = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 4))):
        with suppress(
            KeyError, TypeError, AttributeError, IndexError, ValueError
        ):  # the graph may not be whole any more
            draw(st.sampled_from([add_node, add_node, add_node, add_tensor, set_inputs]))(draw, file)
        if not graphs_only and draw(st.booleans()):
            mutate_json(draw, file.document)
    if not graphs_only and draw(st.integers(0, 3)) == 0:
        file.edit = lambda header: mutate_json(draw, header)
    data = file.bytes()
    return mutate_bytes(draw, data) if not graphs_only and draw(st.integers(0, 3)) == 0 else data


def mutate_bytes(draw: DrawFn, data: bytes) -> bytes:
    """Flip, overwrite, remove, insert or cut bytes, half of the time in the header's first bytes."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.one_of(st.integers(0, min(200, len(data))), st.integers(0, len(data))))
        some = draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"{", b"}", b'"', b",", b"0", b"\xff" * 8]))
        )
        kind = draw(st.sampled_from(["flip", "write", "remove", "insert", "cut"]))
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif kind == "write":
            data = data[:at] + some + data[at + len(some) :]
        elif kind == "remove":
            data = data[:at] + data[at + len(some) :]
        elif kind == "insert":
            data = data[:at] + some + data[at:]
        elif kind == "cut":
            data = data[:at]
    return data


# ---- the tests --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "mutated.safetensors"


def load(path: Path, data: bytes) -> fastlstm.Model | None:
    """Load the bytes; None where they are refused, as they must be: one line of our error, soon."""
    path.write_bytes(data)
    began, model, message = time.perf_counter(), None, f"{path}: "
    try:
        model = fastlstm.load(path)
    except fastlstm.ModelFileError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert time.perf_counter() - began < LIMIT
    return model


def small_inputs(model: fastlstm.Model) -> dict[str, np.ndarray] | None:
    """Return zeros of the declared shapes, None where they are large."""
    arrays = {}
    for spec in model.graph.inputs:
        shape = [2 if isinstance(d, str) else d for d in ((2, 5, 2) if spec.shape is None else spec.shape)]
        if any(d > 64 for d in shape) or np.prod(shape) > 4096:
            return None
        arrays[spec.name] = np.zeros(shape, spec.dtype)
    return arrays


def run(model: fastlstm.Model) -> None:
    """Run on zeros; any of our errors will do."""
    inputs = small_inputs(model)
    if inputs is None:
        return
    began, names = time.perf_counter(), {spec.name for spec in model.graph.outputs}
    with suppress(fastlstm.FastLSTMError):
        assert set(fastlstm.Session(model, max_scratch=1 << 24).run(inputs)) == names
    assert time.perf_counter() - began < 300  # the first of a kind compiles its kernels


@FUZZ
@given(files())
def test_a_mutated_file_loads_or_is_refused(path, data):
    load(path, data)


@FUZZ
@given(data=st.data())
def test_mutated_bytes_load_or_are_refused(path, data):
    load(path, mutate_bytes(data.draw, data.draw(st.sampled_from(BASES)).bytes()))


@FUZZ
@given(st.binary(max_size=400))
def test_random_bytes_are_refused(path, data):
    assert load(path, data) is None


@FUZZ
@given(files())
def test_what_loads_the_safetensors_library_reads_alike_and_saving_gives_its_tensors_back(path, data):
    model = load(path, data)
    if model is None:
        return
    with safe_open(path, framework="np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert list(metadata) == ["fastlstm"]
    again = File.of(model.to_bytes())
    assert json.loads(metadata["fastlstm"]) == again.document
    assert {name: array.tobytes() for name, array in tensors.items()} == {t[0]: t[3] for t in again.tensors}


@settings(FUZZ, max_examples=max(1, EXAMPLES // 2))
@given(files(graphs_only=True))
def test_a_mutated_graph_that_loads_runs_or_gives_our_error(path, data):
    model = load(path, data)
    if model is not None:
        run(model)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int8", "uint64", "bool"])
def test_every_op_over_every_dtype_runs_or_gives_our_error(dtype):
    for name in registered():
        op = find(name)
        count = 2 if op.inputs[-1].variadic else len(op.inputs)
        attributes: dict[str, Any] = {"axis": 0} if "axis" in op.attributes else {}
        attributes |= {"to": dtype} if name == "Cast" else {}
        for other in ("float32", "int64", "bool"):
            specs = [TensorSpec(f"x{k}", other if k else dtype, (2, 4)) for k in range(count)]
            node = Node("n", name, tuple(spec.name for spec in specs), ("y",), attributes)
            with suppress(fastlstm.FastLSTMError):
                run(fastlstm.Model(Graph((node,), tuple(specs), (TensorSpec("y", dtype, None),)), {}))

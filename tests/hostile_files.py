"""A catalogue of hostile model files: for each rule of docs/FORMAT.md, what breaks it and what the error must say."""

import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from model_files import File

MIB = 1 << 20
Break = Callable[[File], Any]


class Hostile(NamedTuple):
    """Breaks one rule of a valid file; the error must hold `message`."""

    rule: str
    name: str
    break_it: Break
    message: str


HOSTILE: list[Hostile] = []


def hostile(rule: str, message: str):
    """Decorate a function that breaks one rule of a file."""

    def add(function: Break) -> Break:
        HOSTILE.append(Hostile(rule, function.__name__.strip("_").replace("_", " "), function, message))
        return function

    return add


def each(rule: str, cases: dict[str, tuple[Break, str]]) -> None:
    HOSTILE.extend(Hostile(rule, name, *case) for name, case in cases.items())


def header(change: Callable[[dict], Any]) -> Break:
    """Return what changes the header once it is made."""

    def apply(file: File) -> None:
        file.edit = change

    return apply


def entry(name: str, **changes: Any) -> Break:
    return header(lambda h: h[name].update(changes))


def node(which: str, /, **changes: Any) -> Break:
    return lambda file: file.node(which).update(changes)


def attribute(name: str, key: str, value: Any) -> Break:
    return lambda file: file.node(name)["attributes"].update({key: value})


def spec(kind: str, value: Any) -> Break:
    return lambda file: file.graph.update({kind: [value]})


def weight(name: str, array: np.ndarray) -> Break:
    return lambda file: file.put(f"weight.{name}", array)


def text(change: Callable[[str], str]) -> Break:
    """Return what changes the document's JSON text."""

    def apply(file: File) -> None:
        file.text = change(json.dumps(file.document, sort_keys=True, separators=(",", ":")))

    return apply


def raw_header(change: Callable[[bytes], bytes]) -> Break:
    def apply(file: File) -> None:
        whole = file.bytes()
        file.header = change(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]].rstrip())

    return apply


def length(value: int) -> Break:
    def apply(file: File) -> None:
        file.length = value

    return apply


def without_example(change: Break) -> Break:
    def apply(file: File) -> None:
        file.document["example"] = None
        file.tensors = [tensor for tensor in file.tensors if not tensor[0].startswith("example")]
        change(file)

    return apply


def subgraph(depth: int) -> dict:
    body = {"inputs": [], "nodes": [], "outputs": []}
    for k in range(depth):
        inner = {
            "attributes": {},
            "inputs": [],
            "name": f"n{k}",
            "op": "If",
            "outputs": [],
            "subgraphs": {"then": body},
        }
        body = {"inputs": [], "nodes": [inner], "outputs": []}
    return body


# ---- the container ----------------------------------------------------------------------------------
each("C2", {
    "length of 2^64 - 1": (length(2**64 - 1), "header claims 18446744073709551615 bytes"),
    "length of 2^63": (length(2**63), "header claims"),
    "length one past the file": (lambda f: length(len(f.bytes()) - 7)(f), "header claims"),
    "length of 0": (length(0), "no JSON object"),
    "length one short": (lambda f: length(len(f.bytes()) - 8 - sum(len(t[3]) for t in f.tensors) - 9)(f), "JSON"),
})  # fmt: skip
each("C3", {
    "header of 5 MiB of spaces": (raw_header(lambda h: h + b" " * (5 * MIB)), "more than 4194304"),
    "metadata of 5 MiB": (lambda f: f.document["metadata"].update(a="x" * (5 * MIB)), "more than 4194304"),
})  # fmt: skip
each("C4", {
    "space before the header": (raw_header(lambda h: b" " + h), "not a fastlstm model file"),
    "byte order mark": (raw_header(lambda h: b"\xef\xbb\xbf" + h), "not a fastlstm model file"),
    "UTF-16": (raw_header(lambda h: h.decode().encode("utf-16")), "not a fastlstm model file"),
    "a list": (raw_header(lambda h: b"[" + h + b"]"), "not a fastlstm model file"),
    "bad UTF-8": (raw_header(lambda h: h.replace(b"weight.W", b"weight.\xff")), "UTF-8"),
    "overlong UTF-8": (raw_header(lambda h: h.replace(b"weight.W", b"weight.\xc0\xaf")), "UTF-8"),
    "cut JSON": (raw_header(lambda h: h[:-1]), "no valid JSON"),
    "two documents": (raw_header(lambda h: h + h), "no valid JSON"),
    "trailing zero": (raw_header(lambda h: h + b"\0"), "no valid JSON"),
    "comment": (raw_header(lambda h: h + b"// x"), "no valid JSON"),
})  # fmt: skip
each("C5", {
    "tensor twice": (raw_header(lambda h: h[:-1] + b',"weight.W":{}}'), "key 'weight.W' twice"),
    "metadata twice": (raw_header(lambda h: h[:-1] + b',"__metadata__":{}}'), "key '__metadata__' twice"),
    "entry key twice": (raw_header(lambda h: h.replace(b'"dtype":', b'"dtype":"F32","dtype":', 1)), "key 'dtype' twice"),
    "escaped key twice": (raw_header(lambda h: h[:-1] + b',"weight.\\u0057":{}}'), "key 'weight.W' twice"),
    "document key twice": (text(lambda t: t[:-1] + ',"version":1}'), "key 'version' twice"),
    "attribute twice": (text(lambda t: t.replace('"clip":2.5', '"clip":2.5,"clip":9.5')), "key 'clip' twice"),
})  # fmt: skip
each("C6", {
    "header 65 deep": (header(lambda h: h.update(x=json.loads("[" * 65 + "]" * 65))), "deeper than 64"),
    "header a million deep": (raw_header(lambda h: b'{"x":' + b"[" * 140_000), "deeper than 64"),
    "document a hundred thousand deep": (text(lambda t: '{"version":1,"graph":' + "[" * 100_000), "deeper than 64"),
    "subgraphs 40 deep": (lambda f: f.graph.update(nodes=subgraph(40)["nodes"]), "deeper than 64"),
    "200,000 commas": (header(lambda h: h.update(x=[0] * 200_000)), "more than 150000"),
    "200,000 objects": (header(lambda h: h.update(x=[{}] * 100_000)), "more than 150000"),
    "hidden by escapes": (text(lambda t: '{"version":1,"graph":[' + "[]," * 80_000), "more than 150000"),
})  # fmt: skip
each("C7", {
    "NaN": (text(lambda t: t.replace("2.5", "NaN")), "holds NaN"),
    "Infinity": (text(lambda t: t.replace("2.5", "Infinity")), "holds Infinity"),
    "-Infinity": (text(lambda t: t.replace("2.5", "-Infinity")), "holds -Infinity"),
    "1e400": (text(lambda t: t.replace("2.5", "1e400")), "more than a float64"),
    "an integer of 5,000 digits": (text(lambda t: t.replace("2.5", "9" * 5000)), "no integer of 64 bits"),
    "an integer of 21 digits": (text(lambda t: t.replace("2.5", "9" * 21)), "no integer of 64 bits"),
    "-0": (text(lambda t: t.replace("2.5", "-0")), "no integer"),
    "NaN in the header": (raw_header(lambda h: h.replace(b'"shape":[7,28]', b'"shape":[NaN,28]')), "holds NaN"),
    "hexadecimal": (text(lambda t: t.replace("2.5", "0x10")), "no valid JSON"),
    "leading zero": (text(lambda t: t.replace("2.5", "02")), "no valid JSON"),
})  # fmt: skip
each("C8", {
    **{f"dtype {code!r}": (entry("weight.W", dtype=code), "has dtype")
       for code in ("BF16", "F8_E4M3", "C64", "f32", "float32", "", None, 3, ["F32"], {"F32": 1})},
    "extra key": (entry("weight.W", x=1), "has not the keys"),
    "no dtype": (header(lambda h: h["weight.W"].pop("dtype")), "has not the keys"),
    "no shape": (header(lambda h: h["weight.W"].pop("shape")), "has not the keys"),
    "no place": (header(lambda h: h["weight.W"].pop("data_offsets")), "has not the keys"),
    **{f"entry {value!r}": (header(lambda h, v=value: h.update({"weight.W": v})), "has not the keys")
       for value in (None, 1, "x", [], {}, True)},
})  # fmt: skip
each("C9", {
    **{f"shape {shape!r}": (entry("weight.W", shape=shape), "shape")
       for shape in (None, 56, "2,28", {}, [2, 29], [2], [], [-2, -28], [2.0, 28], [True, 56], ["2", 28], [[2], 28], [None])},
    "product of 2^64": (entry("weight.W", shape=[2**32, 2**32]), "takes 73786976294838206464 bytes"),
    "product of 2^64 + 56": (entry("weight.W", shape=[2**62, 4, 56]), "takes"),
    "size of 2^63": (entry("weight.W", shape=[2**63]), "shape"),
    "17 axes": (entry("weight.W", shape=[1] * 15 + [2, 28]), "up to 16 sizes"),
    "10,000 axes": (entry("weight.W", shape=[1] * 10_000), "up to 16 sizes"),
    **{f"place {place!r}": (entry("weight.W", data_offsets=place), "data_offsets")
       for place in (None, 5, "0,9", {}, [0], [0, 1, 2], [8, 0], [-8, 216], [0.0, 224], ["0", "224"], [False, 224], [2**63, 2**64])},
})  # fmt: skip
each("C10", {
    "0 x 2^40": (lambda f: f.tensors.append(["weight.w", "F32", [0, 2**40], b""]), "is empty but has shape"),
    "2^62 x 0 x 2^62": (lambda f: f.tensors.append(["weight.w", "F64", [2**62, 0, 2**62], b""]), "is empty but has shape"),
})  # fmt: skip


@hostile("C11", "leave a gap")
def _gap(file: File) -> None:
    name = file.tensors[-1][0]
    file.tail = b"\0" * 8
    file.edit = lambda h: h[name].update(data_offsets=[v + 8 for v in h[name]["data_offsets"]])


@hostile("C11", "leave a gap")
def _gap_at_the_start(file: File) -> None:
    file.tail = b"\0" * 8
    file.edit = lambda h: [
        e.update(data_offsets=[v + 8 for v in e["data_offsets"]]) for n, e in h.items() if n[0] != "_"
    ]


@hostile("C11", "overlap")
def _two_tensors_share_their_bytes(file: File) -> None:
    file.edit = lambda h: h.update({"weight.twin": dict(h["weight.U"])})


@hostile("C11", "overlap")
def _overlap_by_one_element(file: File) -> None:
    name = file.tensors[-1][0]
    file.edit = lambda h: h[name].update(data_offsets=[v - 4 for v in h[name]["data_offsets"]])


@hostile("C11", "is something appended")
def _one_byte_appended(file: File) -> None:
    file.tail = b"\0"


@hostile("C11", "is something appended")
def _a_zip_or_pickle_appended(file: File) -> None:
    file.tail = b"PK\x03\x04" + b"\x80\x04cos\nsystem\n(S'true'\ntR." * 100


@hostile("C11", "is it truncated?")
def _claim_of_a_petabyte(file: File) -> None:
    file.edit = lambda h: h.update(_beyond(h))


def _beyond(h: dict) -> dict:
    end = max(e["data_offsets"][1] for name, e in h.items() if name != "__metadata__")
    return {"weight.w": {"dtype": "U8", "shape": [2**50], "data_offsets": [end, end + 2**50]}}


@hostile("C12", "is of booleans but holds 2")
def _boolean_of_2(file: File) -> None:
    file.put("weight.w", np.zeros(3, bool))
    file.tensor("weight.w")[3] = b"\0\2\1"


# ---- the document -----------------------------------------------------------------------------------
def metadata(value: Any) -> Break:
    def apply(file: File) -> None:
        file.metadata = value

    return apply


each("D1", {
    "no key of ours": (metadata({"format": "pt"}), "not of fastlstm"),
    "null": (header(lambda h: h.update(__metadata__=None)), "not of fastlstm"),
    "none": (header(lambda h: h.pop("__metadata__")), "not of fastlstm"),
    "a list": (metadata(["fastlstm"]), "not of fastlstm"),
    "our key holds an object": (metadata({"fastlstm": {"version": 1}}), "not of fastlstm"),
    "a second key": (header(lambda h: h["__metadata__"].update(format="pt")), "keys besides 'fastlstm': ['format']"),
})  # fmt: skip
each("D2", {
    **{f"version {v!r}": (lambda f, v=v: f.document.update(version=v), f"version {v!r} of the format")
       for v in (0, 2, -1, "1", 1.0, True, None, [1])},
    "version 2 with other keys": (lambda f: f.document.update(version=2, layers=[]), "is there a newer one?"),
    "no version": (lambda f: f.document.pop("version"), "has no version"),
    "the document is a list": (text(lambda t: "[]"), "has no version"),
})  # fmt: skip
each("D3", {
    "an extra key": (lambda f: f.document.update(lambda_layer="x"), "has not the keys"),
    "no graph": (lambda f: f.document.pop("graph"), "has not the keys"),
    "an extra key of the graph": (lambda f: f.graph.update(functions=[]), "a graph has not the keys"),
    "an extra key of a node": (node("lstm", doc="x"), "a node has not the keys"),
    "a node without attributes": (lambda f: f.node("lstm").pop("attributes"), "a node has not the keys"),
    "a graph that is a list": (lambda f: f.document.update(graph=[]), "a graph has not the keys"),
    "a node that is a text": (lambda f: f.graph.update(nodes=["lstm"]), "a node has not the keys"),
    "nodes that are an object": (lambda f: f.graph.update(nodes={}), "expected a list"),
    "inputs that are null": (lambda f: f.graph.update(inputs=None), "expected a list"),
    "attributes that are a list": (node("lstm", attributes=[]), "expected an object"),
    "subgraphs that are null": (node("lstm", subgraphs=None), "expected an object"),
    "an attribute of a subgraph's node": (node("lstm", subgraphs={"body": {"inputs": []}}), "a graph has not the keys"),
})  # fmt: skip
each("D4", {
    "spaces": (text(lambda t: t.replace(":", ": ", 1)), "not canonical"),
    "keys out of order": (text(lambda t: '{"version":1,' + t[1:].replace(',"version":1', "")), "not canonical"),
    "a long float": (text(lambda t: t.replace("2.5", "2.50")), "not canonical"),
    "an exponent": (text(lambda t: t.replace("2.5", "25e-1")), "not canonical"),
    "an escape without need": (text(lambda t: t.replace("lstm", "\\u006cstm", 1)), "not canonical"),
    "not ASCII": (text(lambda t: t.replace("\\u00fc", "ü")), "not ASCII"),
    "a line break at the end": (text(lambda t: t + "\n"), "not canonical"),
})  # fmt: skip
each("D5", {
    f"metadata {value!r}": (lambda f, v=value: f.document.update(metadata=v), "expected an object of texts")
    for value in (None, [], "x", {"a": 1}, {"a": None}, {"a": ["b"]}, {"a": {"b": "c"}})
})  # fmt: skip
each("D6", {
    "half a pair in a node's name": (node("lstm", name="\ud800"), "a node's name"),
    "half a pair in metadata": (lambda f: f.document["metadata"].update({"\udc00": "x"}), "expected an object of texts"),
    "half a pair in a tensor's name": (raw_header(lambda h: h.replace(b"weight.W", b"weight.\\ud800")), "UTF-8"),
    "half a pair in an attribute": (attribute("dense", "activation", "\udfff"), "expected text"),
})  # fmt: skip

# ---- the graph --------------------------------------------------------------------------------------
each("G1", {
    "a node without name": (node("lstm", name=""), "a node's name is ''"),
    "a node named 3": (node("lstm", name=3), "a node's name is 3"),
    "two nodes of one name": (node("lstm", name="dense"), "two nodes are named 'dense'"),
    "an input without name": (spec("inputs", ["", "float32", None]), "an input's name is ''"),
    "an output named null": (spec("outputs", [None, "float32", None]), "an output's name is None"),
    "an op that is null": (node("lstm", op=None), "op is None"),
})  # fmt: skip
each("G2", {
    f"dtype {dtype!r}": (spec("inputs", ["x", dtype, ["B", 5, 2]]), "has dtype")
    for dtype in ("F32", "float", "complex64", "object", "O", "<f4", "bfloat16", "", None, 4, ["float32"], {}, True)
})  # fmt: skip
each("G3", {
    **{f"shape {shape!r}": (spec("inputs", ["x", "float32", shape]), "has shape")
       for shape in (3, "B", {}, [None], [-1, 5, 2], [2.0], [True], [""], [[1]], ["x" * 257], [1] * 17, [2**48], [2**63], ["\ud800"])},
    **{f"spec {value!r}": (spec("inputs", value), "expected [name, dtype, shape]")
       for value in (None, 1, "xyz", [], ["x"], ["x", "float32"], ["x", "float32", None, 1], {})},
})  # fmt: skip
each("G4", {
    **{f"value {value!r}"[:40]: (attribute("lstm", "clip", value), "attribute 'clip' is")
       for value in (None, {}, {"a": 1}, [[1.0]], [None], 2**63, -(2**63) - 1)},
    **{f"elements {value!r}": (attribute("lstm", "activations", value), "its elements are not of one kind")
       for value in ([1, "a"], [True, 1], [0.5, False], ["Tanh", 0.5])},
    "inputs that are a text": (node("lstm", inputs="xWUb"), "expected a list of names"),
    "inputs that are numbers": (node("lstm", inputs=[0, 1, 2]), "expected a list of names"),
    "outputs that are null": (node("lstm", outputs=None), "expected a list of names"),
})  # fmt: skip


@hostile("G5", "uses value 'y' before it is computed: a cycle")
def _cycle(file: File) -> None:
    file.node("lstm")["inputs"][0] = "y"


@hostile("G5", "node 'dense' uses value 'd' before it is computed")
def _node_feeds_itself(file: File) -> None:
    file.node("dense")["inputs"][0] = "d"


@hostile("G5", "before it is computed")
def _nodes_out_of_order(file: File) -> None:
    file.graph["nodes"].reverse()


each("G5", {
    "a name of a million characters": (node("dense", inputs=["h", "n" * 1_000_000]), "nnn ... "),
    "an unknown value": (node("dense", inputs=["h", "nothing"]), "'nothing', which is no input"),
    "a missing weight": (lambda f: f.drop("weight.U"), "'U', which is no input, weight or node output"),
    "two nodes make one value": (node("dense", outputs=["h"]), "'h' is defined twice"),
    "a node makes a weight": (node("dense", outputs=["V"]), "'V' is defined twice"),
    "a node makes its input": (node("dense", outputs=["x"]), "'x' is defined twice"),
    "one node makes a value twice": (node("lstm", outputs=["h", "h"]), "'h' is defined twice"),
    "an input is a weight": (weight("x", np.zeros(3)), "'x' is defined twice"),
    "two inputs of one name": (lambda f: f.graph["inputs"].append(["x", "float32", None]), "'x' is defined twice"),
    "a weight without name": (weight("", np.zeros(3)), "has no name"),
    "no outputs": (without_example(lambda f: f.graph.update(outputs=[])), "has no outputs"),
    "an output that nothing makes": (without_example(spec("outputs", ["z", "float32", None])), "'z' is computed by no node"),
    "a node without outputs": (node("dense", outputs=[]), ""),
})  # fmt: skip
each("G6", {
    **{f"op {op!r}": (node("dense", op=op), f"unknown op {op!r}")
       for op in ("", "dense", "Lambda", "PyOp", "os.system", "builtins.eval", "__import__", "__class__", "../Dense", "Dense\n")},
    "an unknown attribute": (attribute("dense", "function", "os.system"), "has no attribute 'function'"),
    "an attribute of another op": (attribute("softmax", "clip", 1.0), "has no attribute 'clip'"),
    "a text for a number": (attribute("lstm", "clip", "2.5"), "expected float"),
    "a boolean for a number": (attribute("lstm", "clip", True), "expected float"),
    "a number for a boolean": (attribute("lstm", "batch_first", 1), "expected bool"),
    "a float for an integer": (attribute("softmax", "axis", 1.0), "expected int"),
    "a list for a number": (attribute("lstm", "clip", [1.0]), "expected float"),
    "a number for a list": (attribute("lstm", "alphas", 1.0), "attribute 'alphas'"),
    "no such choice": (attribute("dense", "activation", "eval"), "expected one of"),
    "activations that are too many": (attribute("lstm", "activations", ["Tanh"] * 4), "attribute 'activations'"),
    "an absent input": (node("dense", inputs=["h", ""]), "lacks its input W"),
    "too few inputs": (node("dense", inputs=["h"]), "lacks its input W"),
    "too many inputs": (node("softmax", inputs=["r", "r"]), "takes 1 inputs, got 2"),
    "too many outputs": (node("softmax", outputs=["y", "z"]), "has 1 outputs, got 2"),
    "only absent outputs": (node("softmax", outputs=[""]), ""),
    "a required attribute is absent": (node("dense", op="Concat", attributes={}), "lacks its attribute 'axis'"),
    "a subgraph": (node("softmax", subgraphs={"body": subgraph(0)}), ""),
})  # fmt: skip
each("G7", {
    "U of a GRU": (weight("U", np.ones((7, 21), np.float32)), "weight U has shape (7, 21), expected (H, 4H)"),
    "W of another size": (weight("W", np.ones((3, 28), np.float32)), "input X has shape"),
    "b one short": (weight("b", np.ones(27, np.float32)), "bias b has shape (27,)"),
    "a matrix without axes": (weight("V", np.float32(1)), "weight W has shape ()"),
    "a matrix of three axes": (weight("V", np.ones((7, 4, 1), np.float32)), "weight W has shape (7, 4, 1)"),
    "H of 0 against H of 7": (weight("U", np.ones((0, 0), np.float32)), "node 'lstm'"),
    "an input without axes": (without_example(spec("inputs", ["x", "float32", []])), "input X has shape ()"),
    "an input of another size": (without_example(spec("inputs", ["x", "float32", ["B", 5, 3]])), "input X has shape"),
    "a reshape to -5": (weight("shape", np.array([0, -5, 2])), "node 'pairs'"),
    "a reshape to 2^62": (weight("shape", np.array([2**62, 2**62, 2**62])), "node 'pairs'"),
    "an axis out of range": (attribute("softmax", "axis", 3), "node 'softmax'"),
    "an axis of -2^63": (attribute("softmax", "axis", -(2**63)), "node 'softmax'"),
    "a reshape by texts": (weight("shape", np.array([0.5, np.inf, 2])), "node 'pairs'"),
})  # fmt: skip


def append(file: File, op: str, inputs: list[str], **attributes: Any) -> str:
    """Append a node to the graph; return the name of its output."""
    name = f"n{len(file.graph['nodes'])}"
    file.graph["nodes"].append(
        {"attributes": attributes, "inputs": inputs, "name": name, "op": op, "outputs": [name], "subgraphs": {}}
    )
    return name


@hostile("G7", "too many symbols")
def _sizes_that_double_at_every_node(file: File) -> None:
    value = "y"
    for _ in range(60):
        value = append(file, "Concat", [value, value], axis=0)


@hostile("G7", "too many symbols")
def _sizes_that_grow_by_a_thousand_inputs(file: File) -> None:
    value = "y"
    for _ in range(20):
        value = append(file, "Concat", [value] * 1000, axis=0)


@hostile("G7", "more elements than can be addressed")
def _sizes_that_square_at_every_node(file: File) -> None:
    file.put("weight.many", np.array([2**31, 2**31, 2]))
    append(file, "ConstantOfShape", ["many"])


@hostile("G7", "17 axes, more than 16")
def _axes_without_end(file: File) -> None:
    file.put("weight.axes", np.arange(14))
    append(file, "Unsqueeze", ["y", "axes"])


@hostile("G7", "has dtype object")
def _a_constant_of_objects(file: File) -> None:
    file.put("weight.three", np.array([3]))
    append(file, "ConstantOfShape", ["three"], dtype="O")


@hostile("G7", "has dtype")
def _a_constant_of_records(file: File) -> None:
    file.put("weight.three", np.array([3]))
    append(file, "ConstantOfShape", ["three"], dtype="V1000000000")


# ---- the tensors ------------------------------------------------------------------------------------
each("T1", {
    f"tensor {name!r}": (lambda f, n=name: f.put(n, np.zeros(3)), "has no place in a model file")
    for name in ("", "w", "weights.W", "Weight.W", "optimizer.step", "example.W", "example.input", "scale")
})  # fmt: skip
each("T2", {
    "the only weight is a scale": (lambda f: f.tensors.remove(f.tensor("weight.V")), "'V', which is no input"),
    "a weight of another name": (lambda f: f.tensor("weight.V").__setitem__(0, "weight.v"), "'V', which is no input"),
})  # fmt: skip


def scale(array: np.ndarray, values: np.ndarray | None = None) -> Break:
    def apply(file: File) -> None:
        if values is not None:
            file.put("weight.V", values)
        file.put("scale.V", array)

    return apply


EIGHT = np.ones((7, 4), np.int8)
each("T3", {
    "of a float weight": (scale(np.ones(4, np.float32)), "does not fit"),
    "too short": (scale(np.ones(3, np.float32), EIGHT), "does not fit"),
    "of rows": (scale(np.ones(7, np.float32), EIGHT), "does not fit"),
    "of two axes": (scale(np.ones((1, 4), np.float32), EIGHT), "does not fit"),
    "without axes": (scale(np.ones((), np.float32), EIGHT), "does not fit"),
    "in float64": (scale(np.ones(4), EIGHT), "does not fit"),
    "in float16": (scale(np.ones(4, np.float16), EIGHT), "does not fit"),
    "of uint8": (scale(np.ones(4, np.float32), EIGHT.astype(np.uint8)), "does not fit"),
    "of a weight without axes": (scale(np.ones((), np.float32), np.int8(1)), "does not fit"),
    "without weight": (lambda f: f.put("scale.nothing", np.ones(4, np.float32)), "scale 'nothing' has no weight"),
})  # fmt: skip
each("T4", {
    **{f"NaN in {dtype}": (weight("V", np.array([[1, np.nan, 1, 1]] * 7, dtype)), "weight 'V' holds NaN")
       for dtype in ("float16", "float32", "float64")},
    "negative NaN": (weight("V", np.full((7, 4), 0xFFC00001, np.uint32).view(np.float32)), "weight 'V' holds NaN"),
    "signalling NaN": (weight("V", np.full((7, 4), 0x7F800001, np.uint32).view(np.float32)), "weight 'V' holds NaN"),
    "a weight that nothing uses": (weight("w", np.float32(np.nan)), "weight 'w' holds NaN"),
    "a scale of NaN": (scale(np.float32([1, np.nan, 1, 1]), EIGHT), "scale 'V' is not finite"),
    "a scale of infinity": (scale(np.float32([1, np.inf, 1, 1]), EIGHT), "scale 'V' is not finite"),
})  # fmt: skip
each("T5", {
    **{f"example {value!r}": (lambda f, v=value: f.document.update(example=v), "the example is")
       for value in ([], {}, "keras", 1, True, {"engine": 3}, {"engine": None}, {"engine": "k", "x": 1}, {"engine": "\ud800"})},
    "tensors but no example": (lambda f: f.document.update(example=None), "example tensors without an example"),
    "no input": (lambda f: f.drop("example.input.x"), "the example has inputs []"),
    "no output": (lambda f: f.drop("example.output.y"), "the example has outputs []"),
    "an unknown input": (lambda f: f.put("example.input.z", np.zeros(3)), "the example has inputs ['x', 'z']"),
    "an unknown output": (lambda f: f.put("example.output.z", np.zeros(3)), "the example has outputs ['y', 'z']"),
    "another rank": (lambda f: f.put("example.input.x", np.zeros((5, 2), np.float32)), "the example's 'x' is float32"),
    "another size": (lambda f: f.put("example.input.x", np.zeros((3, 5, 3), np.float32)), "declared is"),
    "another kind": (spec("outputs", ["y", "int64", ["B", 2, 2]]), "the example's 'y' is float32"),
})  # fmt: skip

"""Compiling ahead: what a model needs, or everything, is ready and kept."""

import json
import logging
import os

import models
import numpy as np
import pytest

import fastlstm
from fastlstm.cli import main
from fastlstm.graph import Node
from fastlstm.kernels import cache, library
from fastlstm.kernels.library import Variant

FEW = [Variant("dismiss"), Variant("seen_forward"), Variant("rows_forward", "int64", "int64")]


@pytest.fixture
def afresh(tmp_path, monkeypatch):
    """A process that has loaded nothing, with an empty cache; entries and two small kernels are all there is."""
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_loaded", {})
    monkeypatch.setattr(library, "variants", lambda every_dtype=False: iter(FEW if every_dtype else FEW[:2]))


def test_everything_is_compiled_once(afresh):
    first = fastlstm.warmup()
    assert [one.name for one in first] == ["dismiss", "seen_forward"]
    assert all(one.seconds > 0 and one.bytes > 0 and not one.why_not_kept for one in first)
    library._loaded.clear()
    assert [one.seconds for one in fastlstm.warmup()] == [0, 0]
    assert [one.seconds > 0 for one in fastlstm.warmup(every_dtype=True)] == [False, False, True]


def test_a_model_warmed_up_runs_and_streams_without_the_compiler(monkeypatch):
    net = models.network("lstm_general")
    names = [one.name for one in fastlstm.warmup(net)]
    assert {"walk", "lead", "serve", "dismiss", "lstm_forward for float32"} <= set(names)

    def compiler(variant):
        raise AssertionError(f"{variant} is compiled")

    monkeypatch.setattr(library, "_compile", compiler)
    x = models.inputs_for(net, np.random.default_rng(0), 4, 6)
    session = fastlstm.Session(net, threads=2)
    session.run(x)
    session.stream(batch=4).step(x[:, 0])


def test_a_model_that_cannot_stream_is_warmed_up_too():
    assert fastlstm.warmup(models.network("bidirectional"))


def test_what_is_no_model_is_refused():
    with pytest.raises(fastlstm.InputError, match="warmup takes models, got str"):
        fastlstm.warmup("model.safetensors")


def test_the_command_lists_kernels_and_the_folder(afresh, capsys, caplog):
    with caplog.at_level(logging.WARNING, "fastlstm"):
        assert main(["warmup"]) == 0
    out, err = capsys.readouterr()
    *kernels, last = out.splitlines()
    assert [line.split()[0] for line in kernels] == ["dismiss", "seen_forward"]
    assert str(cache.folder()) in last and "2 kernels" in last
    assert err == "warming up ...\n"
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "fastlstm: compiling dismiss",
        "fastlstm: compiling seen_forward",
    ]
    library._loaded.clear()
    assert main(["warmup", "--all"]) == 0
    assert [line.split()[-3] for line in capsys.readouterr().out.splitlines()[:2]] == ["kept", "kept"]


def test_the_command_as_json(afresh, capsys, tmp_path):
    node = Node("softmax", "Softmax", ("x",), ("y",), {"axis": -1})
    models.model([node], [("x", "float32", ("B", 3))], ["y"], {}).save(tmp_path / "m.safetensors")
    assert main(["warmup", str(tmp_path / "m.safetensors"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["folder"] == str(cache.folder())
    assert facts["bytes"] == sum(one["bytes"] for one in facts["kernels"])
    assert facts["seconds"] > 0
    names = {one["name"] for one in facts["kernels"]}
    assert {"dismiss", "softmax_forward for float32"} <= names


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_command_fails_where_nothing_is_kept(afresh, capsys):
    folder = cache.folder()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert main(["warmup"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(
        f"fastlstm warmup: dismiss is not kept: {folder} can be written by others: chmod go-w"
    )


def test_the_command_refuses_what_is_no_model(tmp_path, capsys):
    (tmp_path / "empty").touch()
    assert main(["warmup", str(tmp_path / "empty")]) == 1
    assert "the file is empty" in capsys.readouterr().err

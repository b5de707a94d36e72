"""Machine code that is kept: found again, refused where it may not be what was written, shared by any number of processes."""

import errno
import logging
import os
import shutil
import stat
import sys
import threading
import time
from pathlib import Path

import command
import models
import numpy as np
import pytest

import fastlstm
from fastlstm.graph import Node
from fastlstm.kernels import cache, library
from fastlstm.kernels.library import Variant

TINY = Variant("rows_forward", "int64", "int64")  # quick to compile
OTHER = Variant("seen_forward")
HERE = Path(__file__).resolve()
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of this stamp in an empty cache."""
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path / "cache"))
    return cache.folder()


def compiles(variant: Variant = TINY) -> bool:
    """Load a variant as a new process would; tell whether it was compiled."""
    return library._load(variant).seconds > 0


def python(code: str, *arguments: object, **environment: str) -> str:
    """Run code in a process of its own; return what it printed, stdout then stderr."""
    words = [sys.executable, "-c", "import sys, os\n" + code, *map(str, arguments)]
    path = os.pathsep.join((str(HERE.parent), str(HERE.parents[1])))
    given = command.environment(**environment)
    given["PYTHONPATH"] = os.pathsep.join((path, given["PYTHONPATH"]))
    done = command.run(words, HERE.parent, env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- kept and found ---------------------------------------------------------------------------------
def test_what_was_compiled_once_is_loaded_from_then_on(folder):
    assert compiles()
    first = cache.read(TINY.file)
    assert not compiles()
    assert cache.read(TINY.file) == first
    assert compiles(OTHER)


@posix
def test_folder_and_files_are_the_users_alone(folder):
    compiles()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == [f".{TINY.file}.lock", TINY.file]


def test_the_folder_is_the_one_asked_for_else_that_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder().parent == tmp_path / "mine" / "fastlstm"
    monkeypatch.delenv("FASTLSTM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder().parent == tmp_path / "xdg" / "fastlstm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.folder().parent == tmp_path / ".cache" / "fastlstm"


def test_it_says_that_it_compiles_on_stderr_and_a_logging_level_silences_it(tmp_path):
    load = "from fastlstm.kernels import library\nlibrary.load(library.Variant('dismiss'))"
    said = python(load, FASTLSTM_CACHE_DIR=str(tmp_path))
    (line,) = said.splitlines()
    assert line.startswith(f"fastlstm: compiling dismiss (once, kept in {tmp_path}")
    assert python(load, FASTLSTM_CACHE_DIR=str(tmp_path)) == ""
    silent = "import logging\nlogging.getLogger('fastlstm').setLevel(logging.ERROR)\n" + load
    assert python(silent, FASTLSTM_CACHE_DIR=str(tmp_path / "again")) == ""


def test_every_kernel_and_entry_is_listed_with_its_module():
    from importlib import import_module

    from fastlstm.kernels import jit

    found = {}
    for path in HERE.parents[2].joinpath("fastlstm", "kernels").glob("[a-z]*.py"):
        for one in vars(import_module(f"fastlstm.kernels.{path.stem}")).values():
            if isinstance(one, jit.Kernel | jit.Entry):
                found[one.name] = path.stem
    assert found == {name: module for name, (module, _) in library.KERNELS.items()} | dict.fromkeys(
        library.ENTRIES, "walk"
    )


# ---- damage -----------------------------------------------------------------------------------------
def test_no_shortened_file_and_no_file_with_a_changed_byte_is_used(folder):
    compiles()
    path, whole = folder / TINY.file, (folder / TINY.file).read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert cache.read(TINY.file) is None, size
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert cache.read(TINY.file) is None, at
    path.write_bytes(whole + b"\0")
    assert cache.read(TINY.file) is None
    path.write_bytes(whole)
    assert not compiles()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95cos\nsystem\n(S'exit 1'\ntR.")


def _other_kernel(path: Path) -> None:
    compiles(OTHER)
    shutil.copy(path.with_name(OTHER.file), path)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _writable_by_others(path: Path) -> None:
    path.chmod(0o666)


@posix
@pytest.mark.parametrize(
    "damage", [_empty, _noise, _pickle, _other_kernel, _link, _pipe, _writable_by_others, os.remove]
)
def test_what_is_damaged_or_not_a_file_of_ours_is_compiled_again_and_replaced(damage, folder):
    compiles()
    damage(folder / TINY.file)
    assert compiles()
    assert not compiles()


@posix
def test_a_folder_in_the_place_of_a_file_costs_the_cache_alone(folder, caplog):
    (folder / TINY.file).mkdir(parents=True)
    folder.chmod(0o700)
    assert "Is a directory" in library._load(TINY).why_not_kept
    assert compiles()
    assert [path.name for path in folder.iterdir() if path.name.count(".") > 1 and "lock" not in path.name] == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_compiled_again(folder):
    compiles()
    (folder / TINY.file).chmod(0)
    assert compiles()


def test_a_file_kept_for_another_stamp_is_not_used(folder, monkeypatch):
    compiles()
    monkeypatch.setattr(cache, "STAMP", "0" * 16)
    shutil.copytree(folder, cache.folder())
    assert cache.read(TINY.file) is None


# ---- folders that cannot be used ----------------------------------------------------------------------
def refused(caplog) -> str:
    """Load a variant that cannot be kept; return why."""
    with caplog.at_level(logging.WARNING, "fastlstm"):
        caplog.clear()
        one = library._load(TINY)
    assert one.seconds > 0 and one.why_not_kept
    assert one.why_not_kept in caplog.messages[-1]
    return one.why_not_kept


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_neither_read_nor_written(mode, folder, caplog):
    compiles()
    folder.chmod(mode)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert f"{folder} can be written by others: chmod go-w {folder}" in refused(caplog)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@posix
def test_a_folder_of_another_user_is_neither_read_nor_written(folder, caplog, monkeypatch):
    compiles()
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "belongs to another user" in refused(caplog)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs a folder of root")
def test_what_root_has_compiled_ahead_is_used_by_others(folder, monkeypatch):
    compiles()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not compiles()


@posix
def test_a_link_in_the_place_of_the_folder_is_not_followed(folder, caplog, tmp_path):
    compiles()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert str(folder) in refused(caplog)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_costs_the_cache_alone(code, folder, caplog, monkeypatch):
    opened = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), path)
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert os.strerror(code) in refused(caplog)
    assert list(folder.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_leaves_no_part_of_a_file(folder, caplog, monkeypatch):
    def full(*paths, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device" in refused(caplog)
    assert [path.name for path in folder.iterdir()] == [f".{TINY.file}.lock"]


@posix
def test_a_file_too_large_for_the_system_costs_the_cache_alone(tmp_path):
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\nfrom fastlstm.kernels import library\nlibrary.load(library.Variant('dismiss'))"
    assert "File too large" in python(code, FASTLSTM_CACHE_DIR=str(tmp_path))


def test_without_a_home_folder_kernels_compile_in_each_process(folder, caplog, monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("FASTLSTM_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert "there is no home folder: FASTLSTM_CACHE_DIR names one" in refused(caplog)


def test_a_file_in_the_place_of_the_folder_costs_the_cache_alone(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path / "file"))
    assert str(tmp_path / "file") in refused(caplog)


# ---- stamps -----------------------------------------------------------------------------------------
STAMP = "from fastlstm.kernels import cache\nprint(cache.STAMP)"


def test_the_stamp_changes_with_any_source_and_with_the_cpu_and_with_nothing_else(tmp_path):
    package = tmp_path / "fastlstm"
    shutil.copytree(Path(fastlstm.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "models"))
    other = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"}
    stamp = lambda **more: python("sys.path.insert(0, sys.argv[1])\n" + STAMP, tmp_path, **more)
    stamps = [stamp(), stamp(FASTLSTM_SIMD_BYTES="16"), stamp(**other), stamp(NUMBA_OPT="2")]
    for name in ("simd", "lstm", "cache"):
        source = package / "kernels" / f"{name}.py"
        source.write_text(source.read_text() + "# changed\n")
        stamps.append(stamp())
    assert len(set(stamps)) == len(stamps)
    os.utime(source)
    assert stamp() == stamps[-1] == stamp(NUMBA_NUM_THREADS="1")


def test_sources_changed_since_the_process_began_are_not_kept(folder, caplog, monkeypatch):
    monkeypatch.setattr(cache, "digest", lambda: "changed meanwhile")
    assert "the sources or the settings of Numba have changed" in library._load(TINY).why_not_kept
    assert compiles()


def test_code_for_another_cpu_than_that_of_the_stamp_is_not_kept(folder, monkeypatch):
    """Numba also takes the CPU from a file of settings in the working folder."""
    from numba.core import codegen

    monkeypatch.setattr(codegen.CPUCodegen, "_get_host_cpu_name", lambda self: "z80", raising=False)
    monkeypatch.setattr(codegen.JITCPUCodegen, "_get_host_cpu_name", lambda self: "z80", raising=False)
    assert "the settings of Numba" in library._load(TINY).why_not_kept


def _aged(path: Path, days: float) -> None:
    path.mkdir(parents=True)
    (path / "lstm").write_bytes(b"code")
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_stamps_of_the_past_are_removed_but_for_the_last_few_and_what_was_used_lately(folder):
    old = [f"{n:016x}" for n in range(12)]
    for n, name in enumerate(old):
        _aged(folder.parent / name, 6 if n == 11 else 10 + n)
    _aged(folder.parent / "not a stamp", 1000)
    compiles()
    kept = {path.name for path in folder.parent.iterdir()}
    # the one used 6 days ago, the 7 used last before it
    assert kept == {folder.name, "not a stamp", old[11], *old[:7]}


@posix
def test_nothing_is_removed_from_a_folder_that_others_can_write(folder):
    for n in range(12):
        _aged(folder.parent / f"{n:016x}", 100)
    folder.parent.chmod(0o777)
    compiles()
    assert len(list(folder.parent.iterdir())) == 13


def test_a_folder_in_use_is_marked_as_used(folder):
    compiles()
    os.utime(folder, (0, 0))
    assert not compiles()
    assert time.time() - folder.stat().st_mtime < 100


# ---- processes --------------------------------------------------------------------------------------
class Layer:
    """A Dense layer, of which recurrences have parts, too; less to compile than two of those."""

    x, W = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((3, 5), (5, 7)))

    def model(self) -> fastlstm.Model:
        return models.model(
            [Node("dense", "Dense", ("x", "W"), ("y",))], [("x", "float32", ("B", 5))], ["y"], {"W": self.W}
        )

    def feeds(self) -> dict[str, np.ndarray]:
        return {"x": self.x}

    def expected(self, dtype: str) -> dict[str, np.ndarray]:
        return {"y": self.x.astype(dtype) @ self.W.astype(dtype)}


CASES = {"dense": Layer(), "rnn": models.Recurrence("RNN", 5, 3, 2, 7, 4)}


def _save(target: str, *names: str) -> None:
    results = {
        f"{n}.{k}": y for n in names for k, y in fastlstm.Session(CASES[n].model()).run(CASES[n].feeds()).items()
    }
    np.savez(target, **results)


def _results(folder: Path, target: Path, *names: str) -> tuple[dict[str, np.ndarray], str]:
    said = python("import test_cache\ntest_cache._save(*sys.argv[1:])", target, *names, FASTLSTM_CACHE_DIR=str(folder))
    with np.load(target) as archive:
        return dict(archive), said


def _compiled(said: str) -> list[str]:
    return [line.split("compiling ")[1].split(" (")[0] for line in said.splitlines() if "compiling" in line]


def test_kernels_kept_by_different_processes_do_not_call_each_others_parts(tmp_path):
    """Parts of kernels have one name in each."""
    apart: dict[str, np.ndarray] = {}
    for name in CASES:
        apart |= _results(tmp_path / "cache", tmp_path / "apart.npz", name)[0]
    together, said = _results(tmp_path / "cache", tmp_path / "together.npz", *CASES)
    assert _compiled(said) == []
    for name, case in CASES.items():
        for output, wanted in case.expected("float64").items():
            assert np.allclose(apart[f"{name}.{output}"], wanted, atol=1e-5), f"{name} alone"
            assert models.same_bits(together[f"{name}.{output}"], apart[f"{name}.{output}"])


def _at_once(count: int, act) -> list:
    """Run act(number) in so many threads, each of which waits for a process of its own."""
    results: list = [None] * count
    threads = [
        threading.Thread(target=lambda n=n: results.__setitem__(n, act(n)), name=f"waits {n}") for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_many_processes_at_once_give_the_same_bits_and_compile_each_kernel_once(tmp_path):
    found = _at_once(6, lambda n: _results(tmp_path / "cache", tmp_path / f"{n}.npz", "dense"))
    assert None not in found
    first = found[0][0]
    for results, _ in found:
        assert all(models.same_bits(results[name], first[name]) for name in first)
    compiled = [name for _, said in found for name in _compiled(said)]
    assert "dense_forward for float32" in compiled
    assert len(compiled) == len(set(compiled)), "others waited for the one that compiles"
    (folder,) = (tmp_path / "cache" / "fastlstm").iterdir()
    names = [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]
    assert all(not name.startswith(".") for name in names), "no parts of files are left"


def test_processes_that_do_not_wait_for_each_other_write_at_once(tmp_path):
    code = "from fastlstm.kernels import cache, library\ncache.turn = __import__('contextlib').nullcontext\nprint(library.load(library.Variant('dismiss')).size)"
    said = _at_once(4, lambda n: python(code, FASTLSTM_CACHE_DIR=str(tmp_path)))
    assert None not in said
    assert len({text.splitlines()[0] for text in said}) == 1
    (folder,) = (tmp_path / "fastlstm").iterdir()
    assert [path.name for path in folder.iterdir()] == ["dismiss"]
    assert "compiling" not in python(code, FASTLSTM_CACHE_DIR=str(tmp_path))


@posix
def test_a_lock_that_nobody_gives_back_is_waited_for_no_longer_than_the_limit(folder, monkeypatch):
    import fcntl

    folder.mkdir(mode=0o700, parents=True)
    monkeypatch.setattr(cache, "WAIT", 0.1)
    with open(folder / f".{TINY.file}.lock", "w") as held:
        (folder / f".{TINY.file}.lock").chmod(0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        assert compiles()
    assert not compiles()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_while_a_kernel_is_compiled_leaves_both_processes_able_to_compile(tmp_path):
    code = """
import threading, time
from fastlstm.kernels import library
import numba
thread = threading.Thread(target=lambda: library.load(library.Variant("combine_forward", "float32", "float32")))
thread.start()
time.sleep(0.1)
child = os.fork()
one = library.load(library.Variant("dismiss" if child else "seen_forward"))
if child:
    thread.join()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(library.loaded()))
sys.stdout.flush()
os._exit(0 if one.address else 1)
"""
    assert python(code, FASTLSTM_CACHE_DIR=str(tmp_path)).startswith("0 2")


def test_numbas_switch_for_other_peoples_functions_does_not_stop_kernels(tmp_path):
    code = "from fastlstm.kernels import library\nfor name in ('dismiss', 'seen_forward'): assert library.load(library.Variant(name)).address"
    python(code, FASTLSTM_CACHE_DIR=str(tmp_path), NUMBA_DISABLE_JIT="1")


def test_a_wrong_number_of_arguments_of_an_entry_is_an_error_and_not_a_crash():
    walk = library.entry("walk")
    for arguments in ((), (1, 2), (1, 2, 3, 4), (1, 2, "three"), (1, 2, 2**70)):
        with pytest.raises((TypeError, OverflowError)):
            walk(*arguments)


# ---- the time of a start --------------------------------------------------------------------------------
def test_a_first_result_takes_less_than_25_seconds_cold_and_1_second_warm(tmp_path, demo_models):
    """Seconds of a core, since others may use the machine: import, load, session and run of a saved LSTM."""
    pytest.importorskip("pyfive")
    fastlstm.convert(demo_models / "sunspots.keras").save(tmp_path / "m.safetensors")
    code = "import fastlstm, numpy\nfastlstm.Session(fastlstm.load(sys.argv[1])).run(numpy.zeros((1, 12, 1)))\nprint(sum(os.times()[:2]))"
    start = lambda: float(
        python(code, tmp_path / "m.safetensors", FASTLSTM_CACHE_DIR=str(tmp_path / "cache")).split()[0]
    )
    assert start() < 25
    assert min(start() for _ in range(3)) < 1

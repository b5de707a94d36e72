"""One source for every width: AVX-512, AVX2, and the 128 bits of ARM and old x86, chosen by the CPU found.

Each target has a process of its own with an empty cache. It runs the oracle and the promise of bits (AVX2 where it is not this machine's own
width, or at full size), and notes the assembly of every kernel that it compiled. What is asserted of the assembly:

- AVX2: no zmm register at all (naming a CPU alone still lets Numba emit AVX-512), and the products are 256 bits wide.
- 128 bits on an x86 CPU: every fused multiply-add and division is on xmm or scalar. They stand only where kernels ask for them. Wider
  registers may appear elsewhere: LLVM copies memory with them, and vectorises loops over single elements by itself.
- ARM: nothing is run, but kernels (at full size all of them) become machine code, with fused multiply-adds of 128 bits, and call nothing that is not there.
"""

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import command
import pytest

from fastlstm.kernels import target
from fastlstm.kernels.library import ENTRIES, KERNELS, Variant
from fastlstm.kernels.machine_code import PYTHON_SYMBOLS

pytestmark = pytest.mark.skipif(not target.X86, reason="the targets are those of an x86 CPU")
HERE = Path(__file__).resolve().parent
# at full size float64 too, which only checks float32, GRU beside LSTM and RNN, and every kernel for ARM
FULL = os.environ.get("FASTLSTM_FULL") == "1"
CONTRACTIONS = ("dense_forward", "gru_after_forward", "gru_before_forward", "lstm_forward", "rnn_forward")
ON_ARM = ("dense_forward", "lstm_forward", "lstm_steps_adjoint", "softmax_forward")
WHAT_TESTS_RUN = {
    *("walk", "activate_forward", "softmax_forward"),
    *(name for name in CONTRACTIONS if FULL or not name.startswith("gru")),
}
SAMPLE = ("walk", "dense_forward", "lstm_forward")
WIDE_PRODUCT = r"\bv(?:fn?m(?:add|sub)[0-9]*|div)p[sd]\s[^\n]*%{register}"

RUN = """
import json, sys
import pytest
from fastlstm.kernels import library, target
seen = {}
usual = library.Variant.build
def build(self):
    found = usual(self)
    seen[f"{self.name} {self.kind}"] = found.assembly
    return found
library.Variant.build = build
code = pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]])
with open(sys.argv[1], "w") as file:
    json.dump({"code": int(code), "bytes": target.BYTES, "assembly": seen}, file)
"""
TESTS = [
    *("kernels/test_recurrent_oracle.py", "kernels/test_layer_oracle.py", "kernels/test_activations.py"),
    "kernels/test_cells.py",
    *("test_promise_bits.py", "-k"),
    "((test_recurrent_oracle and every_batch_size) or test_layer_oracle or test_activations or test_cells"
    " or (test_promise_bits and alone and (lstm or gru or rnn)))" + ("" if FULL else " and not float64 and not gru"),
]
COMPILE = """
import json, sys
from fastlstm.kernels import library, target
seen = {f"{one.name} {one.kind}": one.build().assembly for one in library.variants() if one.name in sys.argv[2:]}
with open(sys.argv[1], "w") as file:
    json.dump({"code": 0, "bytes": target.BYTES, "assembly": seen}, file)
"""
EMIT = """
import json, platform, re, sys
platform.machine = lambda: "aarch64"
import llvmlite.binding as llvm
from fastlstm.kernels import library, target
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
triple = "aarch64-unknown-linux-gnu"
try:
    target_of = llvm.Target.from_triple(triple)
except RuntimeError:
    json.dump(None, open(sys.argv[1], "w"))
    sys.exit()
machine = target_of.create_target_machine(cpu="neoverse-n1", opt=3, reloc="pic", codemodel="default")
seen = {}
for variant in library.variants():
    if sys.argv[2:] and variant.name not in sys.argv[2:]:
        continue
    build = variant.build()
    module = llvm.parse_assembly(re.sub(r'target (triple|datalayout) = ".*"', "", build.ir))
    module.triple, module.data_layout = triple, str(machine.target_data)
    missing = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
    seen[f"{variant.name} {variant.kind}"] = [machine.emit_assembly(module), sorted(missing)]
json.dump({"bytes": target.BYTES, "arm": target.ARM, "seen": seen}, open(sys.argv[1], "w"))
"""
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"}
PLAIN = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}  # what LLVM vectorises by itself is 128 bits wide too
# where vectors have 256 bits anyway, the whole suite is what runs kernels of that width
SAMPLED = target.BYTES == 32 and not FULL
PROCESSES = {
    "avx2": (COMPILE, AVX2, SAMPLE) if SAMPLED else (RUN, AVX2, TESTS),
    "128 bits": (RUN, {"FASTLSTM_SIMD_BYTES": "16"}, TESTS),
    "arm": (EMIT, PLAIN | {"FASTLSTM_SIMD_BYTES": "16"}, [] if FULL else [*ENTRIES, *ON_ARM]),
}
# What kernels may call: the C library, and what entries are given (machine_code.PYTHON_SYMBOLS).
C_LIBRARY = {"memcpy", "memmove", "memset", "sched_yield", "syscall", "usleep"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """What the processes found; they run at once."""
    folders = {name: tmp_path_factory.mktemp("target") for name in PROCESSES}

    def run(name: str):
        code, variables, arguments = PROCESSES[name]
        folder = folders[name]
        words = [sys.executable, "-c", code, str(folder / "found.json"), *arguments]
        env = command.environment(FASTLSTM_CACHE_DIR=str(folder / "cache"), **variables)
        done = command.run(words, HERE.parent, env=env, timeout=900)
        assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return json.loads((folder / "found.json").read_text()), done.stdout

    with ThreadPoolExecutor() as pool:
        return dict(zip(PROCESSES, pool.map(run, PROCESSES), strict=True))


def wide_products(assembly: str, register: str) -> list[str]:
    return re.findall(WIDE_PRODUCT.format(register=register), assembly)


@pytest.mark.parametrize(("name", "width"), [("avx2", 32), ("128 bits", 16)])
def test_kernels_follow_the_oracle_and_keep_the_promise_of_bits_on(results, name, width):
    found, said = results[name]
    assert found["code"] == 0, said[-5000:]
    assert found["bytes"] == width
    compiled = set(SAMPLE) if name == "avx2" and SAMPLED else WHAT_TESTS_RUN
    assert {key.split()[0] for key in found["assembly"]} >= compiled


def test_avx2_code_has_no_register_of_512_bits_and_multiplies_256(results):
    for name, assembly in results["avx2"][0]["assembly"].items():
        assert "zmm" not in assembly, name
        assert not re.search(r"%k[0-7]|[xy]mm(1[6-9]|2\d|3[01])", assembly), f"{name}: registers of AVX-512"
        if name.split()[0] in CONTRACTIONS:
            assert wide_products(assembly, "ymm"), name


def test_code_of_128_bits_multiplies_and_divides_no_wider(results):
    for name, assembly in results["128 bits"][0]["assembly"].items():
        assert wide_products(assembly, "[yz]mm") == [], name
        if name.split()[0] in CONTRACTIONS:
            assert wide_products(assembly, "xmm"), name


@pytest.mark.skipif(target.BYTES != 64, reason="this CPU, or the width asked for, is not AVX-512")
def test_avx512_code_multiplies_512_bits():
    assert wide_products(Variant("dense_forward", "float32", "float32").build().assembly, "zmm")


def test_kernels_compile_for_arm(results):
    found = results["arm"][0]
    if found is None:
        pytest.skip("this LLVM has no ARM")
    assert found["arm"] and found["bytes"] == 16
    assert {key.split()[0] for key in found["seen"]} == {*(KERNELS if FULL else ON_ARM), *ENTRIES}
    for name, (assembly, _) in found["seen"].items():
        if name.split()[0] in CONTRACTIONS:
            assert re.search(r"fmla\tv\d+\.4s", assembly), name
    walk = found["seen"]["walk "][0]
    assert re.search(r"msr\s+FPCR", walk), "denormals are flushed"


def test_kernels_call_nothing_that_a_process_without_numba_lacks(results):
    found = results["arm"][0]
    if found is None:
        pytest.skip("this LLVM has no ARM")
    for name, (_, called) in found["seen"].items():
        entry = name.split()[0] in ENTRIES
        assert set(called) <= C_LIBRARY | (set(PYTHON_SYMBOLS) if entry else set()), name

"""The CPU that kernels are compiled for, its SIMD width, and the register tile that fits it. Imports no Numba.

`BYTES` of one vector register, and the `ROWS` and `PANELS` of the tile are parameters of every kernel, never constants in one.
The environment variable FASTLSTM_SIMD_BYTES (16, 32 or 64) forces a width, and FASTLSTM_DOT=0 the portable product of int8 weights,
for tests; NUMBA_CPU_NAME and NUMBA_CPU_FEATURES choose another CPU, as they do for Numba.
"""

import os
import platform

import llvmlite.binding as llvm

SLOW_AVX = ("corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona")  # Numba uses no AVX on these


def _cpu() -> tuple[str, str]:
    """Return the name and the features of the CPU as Numba takes them."""
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if name is None:
        name = llvm.get_host_cpu_name()
    if features is None:
        found = {} if name.lower() == "generic" else llvm.get_host_cpu_features()
        without_avx = os.environ.get("NUMBA_ENABLE_AVX", "0" if name in SLOW_AVX else "1") == "0"
        features = ",".join(
            f"{'+' if has and not (without_avx and one.startswith('avx')) else '-'}{one}"
            for one, has in sorted(found.items())
        )
    return name, features


def _vector_bytes() -> int:
    forced = os.environ.get("FASTLSTM_SIMD_BYTES")
    if forced in ("16", "32", "64"):
        return int(forced)
    features = FEATURES.split(",")
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


def _has_dot() -> bool:
    """Tell whether one instruction multiplies 4 bytes by 4 in each lane and adds the products: vpdpbusd."""
    if os.environ.get("FASTLSTM_DOT") == "0" or not X86:
        return False
    features = FEATURES.split(",")
    vex, evex = "+avxvnni" in features, "+avx512vnni" in features
    return evex if BYTES == 64 else vex or (evex and "+avx512vl" in features)


def _multiplies_bytes() -> bool:
    """Tell whether an instruction multiplies bytes of codes by bytes of weights and adds pairs in 16 bits: vpmaddubsw."""
    if os.environ.get("FASTLSTM_DOT") == "0" or not X86:
        return False
    return {16: "+ssse3", 32: "+avx2", 64: "+avx512bw"}[BYTES] in FEATURES.split(",")


MACHINE = platform.machine().lower()
X86 = MACHINE in ("x86_64", "amd64", "i386", "i686")
ARM = MACHINE in ("aarch64", "arm64")
CPU, FEATURES = _cpu()
BYTES = _vector_bytes()
DOT, BYTE_PAIRS = _has_dot(), _multiplies_bytes()
# whether registers of float16 are widened by an instruction, and not by a call for each element
HALF = ARM or not {"+f16c", "+avx512f"}.isdisjoint(FEATURES.split(","))
# 4 gates x ROWS accumulators, 4 weights and one broadcast live in registers: 32 of them with AVX-512 and NEON, 16 else.
ROWS = 6 if BYTES == 64 or ARM else 3
WIDTH = 4  # vectors across a panel: four gates, or four blocks of units
PANELS = 2  # at most, for one row
BLOCK = 8 * ROWS if BYTES == 64 else 24 * ROWS  # rows whose sums lie side by side before they are finished
DEPTH = (
    1024 if BYTES == 64 else 128
)  # inputs of a piece of a panel, which all rows meet before the next: it stays in the nearest cache meanwhile


def lanes(itemsize: int) -> int:
    """Return how many elements of `itemsize` bytes one vector holds."""
    return BYTES // itemsize

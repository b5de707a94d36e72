"""The SIMD width that kernels are compiled for, and the register tile that fits it.

`BYTES` of one vector register and `ROWS` of the tile are parameters of every kernel, never constants in one.
The environment variable FASTLSTM_SIMD_BYTES (16, 32 or 64) forces a width, for tests.
"""

import os
import platform

import llvmlite.binding as llvm
from numba.core import config


def _features() -> dict[str, bool]:
    if config.CPU_FEATURES:
        return {name[1:]: name[0] == "+" for name in config.CPU_FEATURES.split(",") if name}
    return dict(llvm.get_host_cpu_features())


def _vector_bytes() -> int:
    forced = os.environ.get("FASTLSTM_SIMD_BYTES")
    if forced in ("16", "32", "64"):
        return int(forced)
    features = _features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


MACHINE = platform.machine().lower()
X86 = MACHINE in ("x86_64", "amd64", "i386", "i686")
ARM = MACHINE in ("aarch64", "arm64")
BYTES = _vector_bytes()
# 4 gates x ROWS accumulators, 4 weights and one broadcast live in registers: 32 of them with AVX-512 and NEON, 16 else.
ROWS = 6 if BYTES == 64 or ARM else 3


def lanes(itemsize: int) -> int:
    """Return how many elements of `itemsize` bytes one vector holds."""
    return BYTES // itemsize

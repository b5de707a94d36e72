"""Flush denormals to zero inside kernels, and put the caller's mode back.

Denormals make recurrent kernels 18 to 27 times slower. The mode belongs to a thread, so every entry point sets it for
itself and restores it before it returns; kernels raise nothing, so it is restored on every path.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastlstm.kernels import target

# The mode of kernels: to nearest, no traps, denormals flushed, so that bits do not depend on the caller's mode.
# x86: FTZ (bit 15), DAZ (bit 6) and all masks (bits 7 to 12) of MXCSR; ARM: FZ of FPCR.
_KERNEL_MODE = 0x9FC0 if target.X86 else 1 << 24


def _mxcsr(builder, name: str, slot) -> None:
    pointer = builder.bitcast(slot, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}"), [pointer])


def _read(builder):
    if target.X86:
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        _mxcsr(builder, "stmxcsr", slot)
        return builder.zext(builder.load(slot), ir.IntType(64))
    if target.ARM:
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.get.fpcr"), [])
    return ir.Constant(ir.IntType(64), 0)


def _write(builder, mode) -> None:
    if target.X86:
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        builder.store(builder.trunc(mode, ir.IntType(32)), slot)
        _mxcsr(builder, "ldmxcsr", slot)
    elif target.ARM:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.set.fpcr"), [mode])


@intrinsic
def flush_denormals(typingctx):
    """Switch this thread to the mode of kernels and return the mode it had."""

    def codegen(context, builder, sig, args):
        mode = _read(builder)
        _write(builder, ir.Constant(ir.IntType(64), _KERNEL_MODE))
        return mode

    return types.int64(), codegen


@intrinsic
def read_mode(typingctx):
    """Return this thread's floating-point mode register."""
    return types.int64(), lambda context, builder, sig, args: _read(builder)


@intrinsic
def restore_mode(typingctx, mode):
    """Put back the mode that `flush_denormals` returned."""

    def codegen(context, builder, sig, args):
        _write(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen

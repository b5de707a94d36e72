"""What a worker of a team knows, and how workers wait for each other.

A worker's words: its number, how many work together, the address of the barrier they share, which part of a workspace is its own,
and the address of the words by which it does a step alone; the part FROM to TO of rows that are divided by the speed of the workers' cores, and
how it went: the time SPENT on how many rows TAKEN through a step. SOLO (kernels/layout.py) is a team of one.
The barrier's words: how many have arrived, and how often it has opened. Waiting spins for a bounded time, then yields.
"""

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastlstm.kernels import target
from fastlstm.kernels.jit import inline
from fastlstm.kernels.layout import BARRIER, FROM, SHARES, SPENT, TAKEN, TO, WORKERS
from fastlstm.kernels.simd import words

SPINS = 20_000  # pauses before a waiting worker gives its core away


@intrinsic
def atomic_add(typingctx, words, index, value):
    """Add to a word and return what it held before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "seq_cst")

    return types.int64(words, types.intp, types.int64), codegen


@intrinsic
def atomic_load(typingctx, words, index):
    """Return a word that other threads write."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "acquire", 8)

    return types.int64(words, types.intp), codegen


@intrinsic
def atomic_store(typingctx, words, index, value):
    """Write a word that other threads read; what was written before is seen by who sees it."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[2], builder.gep(args[0], [args[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this thread spins."""

    def codegen(context, builder, sig, args):
        nothing = ir.FunctionType(ir.VoidType(), [])
        if target.X86:
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse2.pause"), [])
        elif target.ARM:
            hint = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            name = "llvm.aarch64.hint"
            builder.call(cgutils.get_or_insert_function(builder.module, hint, name), [ir.Constant(ir.IntType(32), 1)])
        return context.get_dummy_value()

    return types.void(), codegen


def _call(builder, name: str, *args):
    """Call a function of the C library with 64-bit integers."""
    word = ir.IntType(64)
    kind = ir.FunctionType(word, [word] * len(args))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, name),
        [arg if isinstance(arg, ir.Value) else ir.Constant(word, arg) for arg in args],
    )


@intrinsic
def give_way(typingctx):
    """Let another thread have this core."""

    def codegen(context, builder, sig, args):
        if sys.platform == "win32":
            _call(builder, "Sleep", 0)
        else:
            _call(builder, "sched_yield")
        return context.get_dummy_value()

    return types.void(), codegen


# the futex call of Linux, by machine: a thread sleeps on a word until another wakes it
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(target.MACHINE) if sys.platform == "linux" else None
_WAIT_PRIVATE, _WAKE_PRIVATE, _ALL = 128, 129, 2**31 - 1
_NAP = 200  # microseconds between looks, where there is no such call


@intrinsic
def sleep_while(typingctx, words, index, value):
    """Sleep while a word holds `value`; may return early."""

    def codegen(context, builder, sig, args):
        if _FUTEX:
            # the call compares 32 bits: the low half, which comes first in memory
            address = builder.ptrtoint(builder.gep(args[0], [args[1]]), ir.IntType(64))
            _call(builder, "syscall", _FUTEX, address, _WAIT_PRIVATE, args[2], 0, 0, 0)
        elif sys.platform == "win32":
            _call(builder, "Sleep", 1)
        else:
            _call(builder, "usleep", _NAP)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


@intrinsic
def wake(typingctx, words, index):
    """Wake whoever sleeps on a word."""

    def codegen(context, builder, sig, args):
        if _FUTEX:
            address = builder.ptrtoint(builder.gep(args[0], [args[1]]), ir.IntType(64))
            _call(builder, "syscall", _FUTEX, address, _WAKE_PRIVATE, _ALL, 0, 0, 0)
        return context.get_dummy_value()

    return types.void(words, types.intp), codegen


@inline
def share(count, worker, workers):
    """Return the part [first, last) of `count` things that a worker does."""
    return count * worker // workers, count * (worker + 1) // workers


@inline
def row_share(team, count):
    """Return the part [first, last) of `count` rows that a worker does: more where its core is faster."""
    half = SHARES // 2
    return (count * team[FROM] + half) // SHARES, (count * team[TO] + half) // SHARES


@intrinsic
def ticks(typingctx):
    """Return a clock that runs evenly on all cores; 0 where there is none that a program may read."""

    def codegen(context, builder, sig, args):
        word = ir.IntType(64)
        if target.X86:
            clock = cgutils.get_or_insert_function(builder.module, ir.FunctionType(word, []), "llvm.readcyclecounter")
            return builder.call(clock, [])
        if target.ARM:
            kind = ir.FunctionType(word, [ir.MetaDataType()])
            read = cgutils.get_or_insert_function(builder.module, kind, "llvm.read_volatile_register.i64")
            name = ir.MetaDataString(builder.module, "cntvct_el0")
            return builder.call(read, [builder.module.add_metadata([name])])
        return ir.Constant(word, 0)

    return types.int64(), codegen


@inline
def note_speed(team, start, taken):
    """Count `taken` rows through a step since `start`."""
    if team[WORKERS] > 1:
        team[SPENT] += ticks() - start
        team[TAKEN] += taken


@inline
def wait_for_all(team):
    """Return when every worker of the team has come here."""
    team = words(team)
    workers = team[WORKERS]
    if workers == 1:
        return
    barrier = words(team[BARRIER])
    opened = atomic_load(barrier, 1)
    if atomic_add(barrier, 0, 1) == workers - 1:
        atomic_store(barrier, 0, 0)
        atomic_store(barrier, 1, opened + 1)
        return
    spins = 0
    while atomic_load(barrier, 1) == opened:
        pause()
        spins += 1
        if spins > SPINS:
            give_way()

# pyright: reportCallIssue=false
# An intrinsic is called without its first parameter, the typing context.
"""Loops that do nothing but multiply-add, or nothing but read, at the width and with the loads of the kernels.

`tile` is a tuple of accumulators that LLVM keeps in registers, as a kernel's tile is.
"""

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastlstm.kernels import simd
from fastlstm.kernels.simd import vector_of

# no cache on disk: it is stamped with the kernels' sources, not with this one
jit = numba.njit(nogil=True, error_model="numpy")


@intrinsic
def _floats(typingctx, address):
    """Return a pointer to float32 elements."""
    kind = types.CPointer(types.float32)

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.intp), codegen


def _at(builder, vector, pointer, offset, plus: int):
    place = builder.add(offset, ir.Constant(offset.type, plus))
    return simd.emit_load(builder, vector, builder.gep(pointer, [place]))


@intrinsic(prefer_literal=True)
def _start(typingctx, array, count):
    """Return `count` accumulators of zeros."""
    vector = vector_of(array)
    if vector is None or not isinstance(count, types.IntegerLiteral):
        return None
    tile = types.UniTuple(vector, count.literal_value)

    def codegen(context, builder, sig, args):
        return context.make_tuple(builder, tile, [simd.constant(vector, 0.0)] * len(tile))

    return tile(array, count), codegen


@intrinsic
def _finish(typingctx, tile, array):
    """Write the sum of the accumulators, so that they are needed."""

    def codegen(context, builder, sig, args):
        values = [builder.extract_value(args[0], n) for n in range(len(tile))]
        total = values[0]
        for value in values[1:]:
            total = builder.fadd(total, value)
        simd.emit_store(builder, tile.dtype, total, args[1])
        return context.get_dummy_value()

    return types.void(tile, array), codegen


@intrinsic
def _multiply(typingctx, tile, array):
    """Add array[:L] * array[L:2L] to every accumulator: operands stay in registers."""
    vector = tile.dtype

    def codegen(context, builder, sig, args):
        zero = ir.Constant(ir.IntType(64), 0)
        a, b = (_at(builder, vector, args[1], zero, k * vector.lanes) for k in (0, 1))
        values = [builder.extract_value(args[0], n) for n in range(len(tile))]
        return context.make_tuple(builder, sig.args[0], [simd.call(builder, "fma", a, b, v) for v in values])

    return tile(tile, array), codegen


@intrinsic
def _tile_step(typingctx, tile, array, offset, k):
    """One step of a tile of rows x 4: four loads of weights and a broadcast a row, the fewer of them held, as the kernels' tile does."""
    vector = tile.dtype

    def codegen(context, builder, sig, args):
        values = [builder.extract_value(args[0], n) for n in range(len(tile))]
        rows = range(len(tile) // 4)
        weight = lambda g: _at(builder, vector, args[1], args[2], g * vector.lanes)

        def element(m):
            place = builder.add(args[3], ir.Constant(args[3].type, m * 64))
            return simd.emit_splat(builder, vector, builder.load(builder.gep(args[1], [place])))

        def add(m, g, x, w):
            values[4 * m + g] = simd.call(builder, "fma", x, w, values[4 * m + g])

        if len(rows) < 4:
            held = [element(m) for m in rows]
            for g in range(4):
                w = weight(g)
                for m in rows:
                    add(m, g, held[m], w)
        else:
            held = [weight(g) for g in range(4)]
            for m in rows:
                x = element(m)
                for g in range(4):
                    add(m, g, x, held[g])
        return context.make_tuple(builder, sig.args[0], values)

    return tile(tile, array, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def _read(typingctx, tile, array, offset, stride, streams, ahead):
    """Read one vector for each accumulator, from `streams` places `stride` elements apart; prefetch `ahead` bytes further on."""
    if not isinstance(streams, types.IntegerLiteral) or not isinstance(ahead, types.IntegerLiteral):
        return None
    vector, count, distance = tile.dtype, streams.literal_value, ahead.literal_value

    def codegen(context, builder, sig, args):
        scale = simd.constant(vector, 0.5)
        values = []
        for n in range(len(tile)):
            place = builder.add(args[2], builder.mul(args[3], ir.Constant(args[3].type, n % count)))
            plus = n // count * vector.lanes
            loaded = _at(builder, vector, args[1], place, plus)
            values.append(simd.call(builder, "fma", loaded, scale, builder.extract_value(args[0], n)))
            if distance:
                far = builder.add(place, ir.Constant(place.type, plus + distance // (vector.dtype.bitwidth // 8)))
                _prefetch(builder, builder.gep(args[1], [far]))
        return context.make_tuple(builder, sig.args[0], values)

    return tile(tile, array, types.intp, types.intp, streams, ahead), codegen


def _prefetch(builder, address) -> None:
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, *(ir.Constant(number, value) for value in (0, 3, 1))])


def make_multiply(accumulators: int):
    """Return a loop of multiply-adds with operands in registers: one of L lanes for each accumulator and repeat."""

    @jit
    def multiply_loop(address, repeats):
        array = _floats(address)
        tile = _start(array, accumulators)
        for _ in range(repeats):
            tile = _multiply(tile, array)
        _finish(tile, array)

    return multiply_loop


def make_tile(rows: int):
    """Return the kernels' tile of rows x 4 over 32 steps that stay in the first-level cache; 32 * rows * 4 multiply-adds a repeat."""
    count = 4 * rows

    @jit
    def tile_loop(address, L, repeats):
        array = _floats(address)
        tile = _start(array, count)
        for _ in range(repeats):
            for k in range(32):
                tile = _tile_step(tile, array, 512 + k * 4 * L, k)
        _finish(tile, array)

    return tile_loop


def make_read(accumulators: int, streams: int, ahead: int, turning: bool = False):
    """Return a loop that reads `size` elements `repeats` times, in `streams` equal parts side by side.

    A turning one reads backwards every other time, so that it meets first what it read last.
    """

    @jit
    def read_loop(address, L, size, repeats):
        array = _floats(address)
        tile = _start(array, accumulators)
        part, step = size // streams, accumulators // streams * L
        for repeat in range(repeats):
            back = turning and repeat % 2 == 1
            for k in range(0, part, step):
                tile = _read(tile, array, part - step - k if back else k, part, streams, ahead)
        _finish(tile, array)

    return read_loop

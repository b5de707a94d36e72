"""Tiles: tuples of rows x width vectors that LLVM keeps in registers."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastlstm.kernels import simd
from fastlstm.kernels.simd import vector_of


@intrinsic(prefer_literal=True)
def tile_load(typingctx, array, offset, stride, rows, width):
    """Return rows x width vectors: row m holds array[offset + m * stride : + width * lanes]."""
    vector = vector_of(array)
    if vector is None or not isinstance(rows, types.IntegerLiteral) or not isinstance(width, types.IntegerLiteral):
        return None
    count, across = rows.literal_value, width.literal_value
    tile = types.UniTuple(vector, count * across)

    def codegen(context, builder, sig, args):
        values = []
        for m in range(count):
            row = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, m)))
            for g in range(across):
                at = builder.add(row, ir.Constant(row.type, g * vector.lanes))
                values.append(simd.emit_load(builder, vector, simd.address(builder, args[0], at)))
        return context.make_tuple(builder, tile, values)

    return tile(array, types.intp, types.intp, rows, width), codegen


@intrinsic(prefer_literal=True)
def tile_fma(typingctx, tile, x, x_offset, x_stride, weights, offset, size, panels, width, columns):
    """Add x[x_offset + m * x_stride] * weights[offset + p * size : + len(columns) * lanes] to every row m and panel p.

    `columns` (a constant tuple) says which of a panel's `width` vectors each vector of its weights goes to.
    """
    if not isinstance(width, types.IntegerLiteral) or not isinstance(columns, types.BaseTuple):
        return None
    count, across = panels.literal_value, width.literal_value
    places = [kind.literal_value for kind in columns.types]
    vector = tile.dtype

    def codegen(context, builder, sig, args):
        values = [builder.extract_value(args[0], n) for n in range(len(tile))]
        rows = range(len(tile) // (count * across))
        columns = [(p, g) for p in range(count) for g in range(len(places))]

        def element(m):
            row = builder.add(args[2], builder.mul(args[3], ir.Constant(args[3].type, m)))
            return simd.emit_splat(builder, vector, builder.load(builder.gep(args[1], [row])))

        def weight(p, g):
            panel = builder.add(args[5], builder.mul(args[6], ir.Constant(args[6].type, p)))
            at = simd.address(builder, args[4], builder.add(panel, ir.Constant(panel.type, g * vector.lanes)))
            return simd.emit_widened(builder, vector, weights, at)

        def add(m, p, g, x, w):
            n = (m * count + p) * across + places[g]
            values[n] = simd.call(builder, "fma", x, w, values[n])

        # the fewer of them wait in registers beside the tile, the others pass through one: so 16 registers hold 3 rows x 4
        if len(rows) <= len(columns):
            held = [element(m) for m in rows]
            for p, g in columns:
                w = weight(p, g)
                for m in rows:
                    add(m, p, g, held[m], w)
        else:
            held = [weight(p, g) for p, g in columns]
            for m in rows:
                x = element(m)
                for (p, g), w in zip(columns, held, strict=True):
                    add(m, p, g, x, w)
        return context.make_tuple(builder, sig.args[0], values)

    return tile(tile, x, types.intp, types.intp, weights, types.intp, types.intp, panels, width, columns), codegen


@intrinsic(prefer_literal=True)
def tile_store(typingctx, tile, array, offset, stride, width):
    """Write the tile: row m to array[offset + m * stride : + width * lanes]."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    across = width.literal_value

    def codegen(context, builder, sig, args):
        vector = sig.args[0].dtype
        for m in range(len(tile) // across):
            row = builder.add(args[2], builder.mul(args[3], ir.Constant(args[3].type, m)))
            for g in range(across):
                at = builder.add(row, ir.Constant(row.type, g * vector.lanes))
                value = builder.extract_value(args[0], across * m + g)
                simd.emit_store(builder, vector, value, simd.address(builder, args[1], at))
        return context.get_dummy_value()

    return types.void(tile, array, types.intp, types.intp, width), codegen


@intrinsic(prefer_literal=True)
def tile_keep(typingctx, tile, before, width, places):
    """Return the tile with the lanes of some of four equal parts of each row, at these `places`, as they were `before`.

    A product with zeros in those lanes would leave NaN there where its other factor is infinite.
    """
    if not isinstance(width, types.IntegerLiteral) or not isinstance(places, types.BaseTuple):
        return None
    vector, across, parts = tile.dtype, width.literal_value, [kind.literal_value for kind in places.types]

    def codegen(context, builder, sig, args):
        if not parts:
            return args[0]
        values = []
        for n in range(len(tile)):
            lanes = range(n % across * vector.lanes, (n % across + 1) * vector.lanes)
            kept = [4 * lane // (across * vector.lanes) in parts for lane in lanes]
            mask = ir.Constant(ir.VectorType(ir.IntType(1), vector.lanes), kept)
            after, old = (builder.extract_value(arg, n) for arg in args[:2])
            values.append(builder.select(mask, old, after))
        return context.make_tuple(builder, tile, values)

    return tile(tile, before, width, places), codegen


@intrinsic(prefer_literal=True)
def tile_zero(typingctx, array, count):
    """Return `count` vectors of zeros, of the kind that `array` is read in."""
    vector = vector_of(array)
    if vector is None or not isinstance(count, types.IntegerLiteral):
        return None
    tile = types.UniTuple(vector, count.literal_value)
    zeros = [simd.constant(vector, 0.0)] * len(tile)
    return tile(array, count), lambda context, builder, sig, args: context.make_tuple(builder, tile, zeros)


@intrinsic(prefer_literal=True)
def tile_scale(typingctx, tile, init, i0, stride, weights, offset, size, panels, width):
    """Return init[i0 + m * stride : ...] + tile * C for every row m; C are the float32 at byte weights[offset + p * size] of panel p."""
    count, across, vector = panels.literal_value, width.literal_value, tile.dtype

    def codegen(context, builder, sig, args):
        pointer = simd.llvm_type(vector).as_pointer()
        scales = []
        for p in range(count):
            panel = builder.add(args[5], builder.mul(args[6], ir.Constant(args[6].type, p)))
            for g in range(across):
                at = builder.add(panel, ir.Constant(panel.type, g * vector.lanes * vector.dtype.bitwidth // 8))
                scales.append(builder.load(builder.bitcast(simd.address(builder, args[4], at), pointer), align=4))
        values = []
        for n in range(len(tile)):
            m, place = divmod(n, len(scales))
            at = builder.add(args[2], builder.mul(args[3], ir.Constant(args[3].type, m)))
            at = builder.add(at, ir.Constant(at.type, place * vector.lanes))
            start = simd.emit_load(builder, vector, simd.address(builder, args[1], at))
            value = builder.extract_value(args[0], n)
            values.append(simd.call(builder, "fma", value, scales[place], start))
        return context.make_tuple(builder, sig.args[0], values)

    sizes = (types.intp,) * 2
    return tile(tile, init, *sizes, weights, *sizes, panels, width), codegen

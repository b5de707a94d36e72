"""Products of quantised rows and int8 weights: tiles of 32-bit sums that LLVM keeps in registers.

A quantised row is a float32 scale, a float32 offset, the number of its parts, then one code of CODE bytes for each k, 0 to 255. Weights stand in groups of GROUP
neighbouring k for each column, so that one instruction multiplies a group of every column with the row's group, which is 4 bytes.
The sums are exact integers: CPUs with and without the instruction give the same.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from fastlstm.kernels import simd, target
from fastlstm.kernels.layout import CODE, GROUP
from fastlstm.kernels.simd import Vector, vector_of

INT8, INT16, INT32 = (ir.IntType(bits) for bits in (8, 16, 32))


class Sums(types.Type):
    """One register of 32-bit integers: as many lanes as float32 has."""

    def __init__(self):
        self.lanes = target.lanes(4)
        super().__init__(f"Sums(int32 x {self.lanes})")


sums = Sums()


def _vector(element: ir.Type, groups: int = 1) -> ir.VectorType:
    return ir.VectorType(element, groups * sums.lanes)


@register_model(Sums)
class _SumsModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _vector(INT32))


def _at(builder, pointer, offset, kind):
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


def _plus(builder, value, count: int):
    return builder.add(value, ir.Constant(value.type, count)) if count else value


def _splat(builder, kind: ir.VectorType, scalar):
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_same(kind, INT32), [0] * kind.count))


def _same(kind: ir.VectorType, element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, kind.count)


def _dot(builder, total, codes, weights):
    """total + the products of each column's group, summed. codes: the group of a row in every lane; weights: GROUP bytes a lane."""
    if target.DOT:
        name = f"llvm.x86.avx512.vpdpbusd.{8 * target.BYTES}"
        kind = ir.FunctionType(total.type, [total.type] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [total, codes, weights])
    # LLVM knows this for the multiply-and-add-pairs instruction of the CPU
    pairs = _vector(INT32, 2)
    products = builder.mul(builder.sext(builder.bitcast(codes, _vector(INT16, 2)), pairs), builder.sext(weights, pairs))
    halves = []
    for part in range(2):
        places = ir.Constant(_vector(INT32), list(range(part, 2 * sums.lanes, 2)))
        halves.append(builder.shuffle_vector(products, ir.Constant(pairs, ir.Undefined), places))
    return builder.add(total, builder.add(*halves))


@intrinsic(prefer_literal=True)
def no_sums(typingctx, count):
    """Return `count` registers of zeros."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    tile = types.UniTuple(sums, count.literal_value)
    zeros = ir.Constant(_vector(INT32), [0] * sums.lanes)
    return tile(count), lambda context, builder, sig, args: context.make_tuple(builder, tile, [zeros] * len(tile))


@intrinsic(prefer_literal=True)
def sums_add(typingctx, tile, codes, at, stride, weights, offset, size, panels, columns):
    """Add a group's products: row m at codes[at + m * stride], panel p at weights[offset + p * size], bytes, to every sum."""
    if not isinstance(panels, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None
    width = panels.literal_value * columns.literal_value

    def codegen(context, builder, sig, args):
        values = [builder.extract_value(args[0], n) for n in range(len(tile))]
        loaded = []
        weight = _vector(INT32) if target.DOT else _vector(INT8, 2)
        for p in range(panels.literal_value):
            panel = builder.add(args[5], builder.mul(args[6], ir.Constant(args[6].type, p)))
            for g in range(columns.literal_value):
                place = _at(builder, args[4], _plus(builder, panel, g * sums.lanes * GROUP), weight)
                loaded.append(builder.load(place, align=4))
        for m in range(len(tile) // width):
            row = builder.add(args[2], builder.mul(args[3], ir.Constant(args[3].type, m)))
            group = builder.load(_at(builder, args[1], row, INT32), align=4)
            group = _splat(builder, _vector(INT32), group)
            for n, weights_n in enumerate(loaded):
                values[m * width + n] = _dot(builder, values[m * width + n], group, weights_n)
        return context.make_tuple(builder, sig.args[0], values)

    sizes = (types.intp,) * 2
    return tile(tile, codes, *sizes, weights, *sizes, panels, columns), codegen


@intrinsic(prefer_literal=True)
def sums_store(
    typingctx,
    tile,
    init,
    i0,
    i_stride,
    rows,
    at,
    stride,
    weights,
    offset,
    size,
    z,
    z0,
    z_stride,
    panels,
    width,
    columns,
):
    """z[m, p, column] = init + offset of row m * D of the column + sum * scale of row m * scale C of the column; others: z = init.

    `rows` at `at` are quantised rows, `weights` at `offset` panels that begin with C and D; `columns` as in `tile_fma`.
    """
    vector = vector_of(z)
    if vector is None or not isinstance(width, types.IntegerLiteral) or not isinstance(columns, types.BaseTuple):
        return None
    across, count = width.literal_value, panels.literal_value
    places = [kind.literal_value for kind in columns.types]
    each = count * len(places)

    def codegen(context, builder, sig, args):
        values = [builder.extract_value(args[0], n) for n in range(len(tile))]
        _, init, i0, i_stride, rows, at, stride, weights, offset, size, z, z0, z_stride = args[:13]
        row_of = lambda start, step, m: builder.add(start, builder.mul(step, ir.Constant(step.type, m)))
        real = lambda pointer, place: builder.load(
            _at(builder, pointer, place, simd._float_type(vector.dtype)), align=4
        )
        whole = lambda place: builder.load(_at(builder, weights, place, simd.llvm_type(vector)), align=4)
        factors = []
        for p in range(count):
            panel = row_of(offset, size, p)
            for g in range(len(places)):
                factors.append(
                    [whole(_plus(builder, panel, (part * len(places) + g) * 4 * vector.lanes)) for part in range(2)]
                )
        for m in range(len(tile) // each):
            row = row_of(at, stride, m)
            scale, shift = (
                simd.emit_splat(builder, vector, real(rows, _plus(builder, row, place))) for place in (0, 4)
            )
            for p in range(count):
                for place in range(across):
                    n = (p * across + place) * vector.lanes
                    start = simd.address(builder, init, _plus(builder, row_of(i0, i_stride, m), n))
                    value = simd.emit_load(builder, vector, start)
                    if place in places:
                        k = p * len(places) + places.index(place)
                        C, D = factors[k]
                        total = builder.sitofp(values[m * each + k], simd.llvm_type(vector))
                        value = simd.call(builder, "fma", shift, D, value)
                        value = simd.call(builder, "fma", total, builder.fmul(scale, C), value)
                    to = simd.address(builder, z, _plus(builder, row_of(z0, z_stride, m), n))
                    simd.emit_store(builder, vector, value, to)
        return context.get_dummy_value()

    return types.void(tile, init, *(types.intp,) * 2, rows, *(types.intp,) * 2, weights, *(types.intp,) * 2, z, *(types.intp,) * 2,
                      panels, width, columns), codegen  # fmt: skip


# ---- making quantised rows --------------------------------------------------------------------------
@intrinsic(prefer_literal=True)
def store_codes(typingctx, rows, offset, values, place):
    """Write byte `place` of each of a vector's lanes as a code."""
    if not isinstance(place, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        kind = _vector(INT8 if CODE == 1 else INT16)
        codes = builder.bitcast(args[2], _vector(INT32))
        if place.literal_value:
            codes = builder.lshr(codes, ir.Constant(codes.type, [8 * place.literal_value] * sums.lanes))
        if CODE > 1:
            codes = builder.and_(codes, ir.Constant(codes.type, [255] * sums.lanes))
        codes = builder.trunc(codes, kind)
        builder.store(codes, _at(builder, args[0], args[1], kind), align=CODE)
        return context.get_dummy_value()

    return types.void(rows, types.intp, values, place), codegen


@intrinsic
def store_real(typingctx, rows, offset, value):
    """Write a float32 among bytes."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _at(builder, args[0], args[1], ir.FloatType()), align=4)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.float32), codegen


@intrinsic
def store_count(typingctx, rows, offset, value):
    """Write a 32-bit integer among bytes."""

    def codegen(context, builder, sig, args):
        builder.store(builder.trunc(args[2], INT32), _at(builder, args[0], args[1], INT32), align=4)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp), codegen


@intrinsic
def load_count(typingctx, rows, offset):
    """Return a 32-bit integer among bytes."""

    def codegen(context, builder, sig, args):
        value = builder.load(_at(builder, args[0], args[1], INT32), align=4)
        return builder.zext(value, context.get_value_type(types.intp))

    return types.intp(rows, types.intp), codegen


@intrinsic
def largest_lane(typingctx, x):
    """Return the largest lane of a vector without NaN."""
    if not isinstance(x, Vector):
        return None

    def codegen(context, builder, sig, args):
        kind = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind.element, [kind]), f"llvm.vector.reduce.fmax.v{kind.count}f32"
        )
        return builder.call(function, args, fastmath=("nnan", "nsz"))

    return x.dtype(x), codegen


@intrinsic
def has_nan(typingctx, x):
    """Tell whether a lane of a vector is NaN."""
    if not isinstance(x, Vector):
        return None

    def codegen(context, builder, sig, args):
        lanes = builder.fcmp_unordered("uno", args[0], args[0])
        bits = builder.bitcast(lanes, ir.IntType(x.lanes))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(x), codegen


@intrinsic
def shifted(typingctx, pointer, offset):
    """Return the pointer `offset` elements on."""
    return pointer(pointer, types.intp), lambda context, builder, sig, args: builder.gep(args[0], [args[1]])

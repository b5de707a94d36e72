"""Products of quantised rows and int8 weights: tiles of 32-bit sums that LLVM keeps in registers.

A quantised row is a header (its float32 scale, its float32 offset, the number of its parts, and 128 times the sum of its codes) and the codes in
groups of neighbouring k, each group 4 bytes, so that one instruction multiplies it by the group's weights of every column.

- Groups of four bytes: weights (columns, L, 4) for each group, multiplied by `vpdpbusd`, or by `vpmaddubsw`, whose sums of pairs fit
  16 bits where codes have 7.
- Groups of two codes of 16 bits: the weights of two columns a and b stand together, (L, 2) numbers of 16 bits 256 b + a + 128, in
  memory the byte of a with its top bit turned, then that of b. A sum over them, less 256 times the sum over their upper halves and 128
  times that of the codes, is the sum over a: half the loads, and one shift where each column would be widened. A last odd column is.

Sums are exact integers (of a, modulo 2^32): CPUs with and without an instruction give the same.
"""

from functools import partial

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from fastlstm.kernels import simd, target
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


def _x86(builder, name: str, kind: ir.VectorType, a, b):
    """Call an x86 instruction of two registers, whose name depends on their width."""
    function = ir.FunctionType(kind, [a.type, b.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.{name}"), [a, b])


def _dot_bytes(builder, total, codes, weights):
    """total + the products of each lane's 4 codes and 4 weights, summed; without vpdpbusd codes have 7 bits."""
    if target.DOT:
        name = f"llvm.x86.avx512.vpdpbusd.{8 * target.BYTES}"
        kind = ir.FunctionType(total.type, [total.type] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [total, codes, weights])
    codes, weights = (builder.bitcast(one, _vector(INT8, 4)) for one in (codes, weights))
    names = {16: ("ssse3.pmadd.ub.sw.128", "sse2.pmadd.wd"), 32: ("avx2.pmadd.ub.sw", "avx2.pmadd.wd"),
             64: ("avx512.pmaddubs.w.512", "avx512.pmaddw.d.512")}[target.BYTES]  # fmt: skip
    pairs = _x86(builder, names[0], _vector(INT16, 2), codes, weights)
    ones = ir.Constant(pairs.type, [1] * pairs.type.count)
    return builder.add(total, _x86(builder, names[1], total.type, pairs, ones))


def _dot_pairs(builder, total, codes, numbers):
    """total + the products of each lane's 2 codes and 2 numbers of 16 bits, summed."""
    # LLVM knows this for the multiply-and-add-pairs instruction of the CPU
    pairs = _vector(INT32, 2)
    codes = builder.bitcast(codes, numbers.type)
    products = builder.mul(builder.sext(codes, pairs), builder.sext(numbers, pairs))
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


def _products(builder, pointer, panel, group: int, columns: int):
    """Return the functions (sum, codes) -> sum of the weights of a group at pointer[panel], one for each column."""
    load = lambda place, kind: builder.load(_at(builder, pointer, _plus(builder, panel, place), kind), align=4)
    step = sums.lanes * group
    if group == 4:
        weights = [load(g * step, _vector(INT32)) for g in range(columns)]
        return [partial(_dot_bytes, builder, weights=one) for one in weights]
    found = []
    for g in range(0, columns - 1, 2):
        both = load(g * step, _vector(INT16, 2))
        second = builder.ashr(both, ir.Constant(both.type, [8] * both.type.count))
        found += [partial(_dot_pairs, builder, numbers=numbers) for numbers in (both, second)]
    if columns % 2:
        last = builder.sext(load((columns - 1) * step, _vector(INT8, 2)), _vector(INT16, 2))
        found.append(partial(_dot_pairs, builder, numbers=last))
    return found


@intrinsic(prefer_literal=True)
def sums_add(typingctx, tile, codes, at, stride, weights, offset, size, panels, columns, group):
    """Add a group's products: row m at codes[at + m * stride], panel p at weights[offset + p * size], bytes, to every sum."""
    if not all(isinstance(one, types.IntegerLiteral) for one in (panels, columns, group)):
        return None
    width = panels.literal_value * columns.literal_value

    def codegen(context, builder, sig, args):
        values = [builder.extract_value(args[0], n) for n in range(len(tile))]
        products = []
        for p in range(panels.literal_value):
            panel = builder.add(args[5], builder.mul(args[6], ir.Constant(args[6].type, p)))
            products += _products(builder, args[4], panel, group.literal_value, columns.literal_value)
        for m in range(len(tile) // width):
            row = builder.add(args[2], builder.mul(args[3], ir.Constant(args[3].type, m)))
            codes_m = builder.load(_at(builder, args[1], row, INT32), align=4)
            codes_m = _splat(builder, _vector(INT32), codes_m)
            for n, product in enumerate(products, m * width):
                values[n] = product(values[n], codes_m)
        return context.make_tuple(builder, sig.args[0], values)

    sizes = (types.intp,) * 2
    return tile(tile, codes, *sizes, weights, *sizes, panels, columns, group), codegen


def _separated(builder, values, columns: int, bias):
    """Return a row's sums over columns of which two share a number: the first holds `bias` and 256 of the second besides its own."""
    values = list(values)
    for n in range(len(values)):
        g = n % columns
        if g % 2 == 0 and g + 1 < columns:
            second = builder.shl(values[n + 1], ir.Constant(values[n].type, [8] * sums.lanes))
            values[n] = builder.sub(builder.sub(values[n], bias), second)
    return values


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
    first,
    last,
    group,
):
    """z[m, p, column] = init + offset of row m * D of the column + sum * scale of row m * scale C of the column.

    `rows` at `at` are quantised rows, `weights` at `offset` panels that begin with C and D; `columns` as in `tile_fma`. The sums are those of the
    columns [first, last). Vectors of z that are no column are init: those are written with the first sums.
    """
    vector = vector_of(z)
    if vector is None or not isinstance(width, types.IntegerLiteral) or not isinstance(columns, types.BaseTuple):
        return None
    across, count, start = width.literal_value, panels.literal_value, first.literal_value
    places = [kind.literal_value for kind in columns.types]
    here = last.literal_value - start
    each = count * here
    others = [place for place in range(across) if place not in places and start == 0]

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
            for g in range(start, start + here):
                factors.append(
                    [whole(_plus(builder, panel, (part * len(places) + g) * 4 * vector.lanes)) for part in range(2)]
                )
        for m in range(len(tile) // each):
            row = row_of(at, stride, m)
            scale, shift = (
                simd.emit_splat(builder, vector, real(rows, _plus(builder, row, place))) for place in (0, 4)
            )
            sums_m = values[m * each : m * each + each]
            if group.literal_value == 2:
                bias = builder.load(_at(builder, rows, _plus(builder, row, 12), INT32), align=4)
                sums_m = _separated(builder, sums_m, here, _splat(builder, _vector(INT32), bias))

            def address(pointer, start, step, p, place, m=m):
                at = _plus(builder, row_of(start, step, m), (p * across + place) * vector.lanes)
                return simd.address(builder, pointer, at)

            for p in range(count):
                for place in others:
                    value = simd.emit_load(builder, vector, address(init, i0, i_stride, p, place))
                    simd.emit_store(builder, vector, value, address(z, z0, z_stride, p, place))
                for k, place in enumerate(places[start : start + here], p * here):
                    C, D = factors[k]
                    value = simd.emit_load(builder, vector, address(init, i0, i_stride, p, place))
                    total = builder.sitofp(sums_m[k], simd.llvm_type(vector))
                    value = simd.call(builder, "fma", shift, D, value)
                    value = simd.call(builder, "fma", total, builder.fmul(scale, C), value)
                    simd.emit_store(builder, vector, value, address(z, z0, z_stride, p, place))
        return context.get_dummy_value()

    return types.void(tile, init, *(types.intp,) * 2, rows, *(types.intp,) * 2, weights, *(types.intp,) * 2, z, *(types.intp,) * 2,
                      panels, width, columns, first, last, group), codegen  # fmt: skip


# ---- making quantised rows --------------------------------------------------------------------------
@intrinsic(prefer_literal=True)
def codes_of(typingctx, values, place):
    """Return byte `place` of each of a vector's lanes: codes, as 32-bit integers."""
    if not isinstance(place, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        codes = builder.bitcast(args[0], _vector(INT32))
        if place.literal_value:
            codes = builder.lshr(codes, ir.Constant(codes.type, [8 * place.literal_value] * sums.lanes))
        return builder.and_(codes, ir.Constant(codes.type, [255] * sums.lanes))

    return sums(values, place), codegen


@intrinsic(prefer_literal=True)
def store_codes(typingctx, rows, offset, codes, group):
    """Write codes as they stand in groups of so many."""
    if not isinstance(group, types.IntegerLiteral):
        return None
    size = 4 // group.literal_value

    def codegen(context, builder, sig, args):
        kind = _vector(ir.IntType(8 * size))
        builder.store(builder.trunc(args[2], kind), _at(builder, args[0], args[1], kind), align=size)
        return context.get_dummy_value()

    return types.void(rows, types.intp, sums, group), codegen


@intrinsic
def added(typingctx, a, b):
    """Return a + b, lane by lane."""
    return sums(sums, sums), lambda context, builder, sig, args: builder.add(*args)


@intrinsic
def lanes_together(typingctx, a):
    """Return the sum of all lanes."""

    def codegen(context, builder, sig, args):
        name = f"llvm.vector.reduce.add.v{sums.lanes}i32"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(INT32, [args[0].type]), name)
        return builder.sext(builder.call(function, args), context.get_value_type(types.intp))

    return types.intp(sums), codegen


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

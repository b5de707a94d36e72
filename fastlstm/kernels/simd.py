"""A SIMD register as a Numba type, with the arithmetic that kernels are written in.

`Vector(dtype, lanes)` holds one register of float32 or float64. Operators + - * / and unary minus work on vectors
and on a vector with a float constant; `fma`, `exp`, `clamp`, `load`, `store` and the rest are functions. No reassociation, no
fast-math: a lane's result depends on that lane's inputs alone, and NaN goes in and comes out.

Memory is raw: `pointers` makes typed pointers of the addresses that a kernel is called with. Arrays as arguments would
cost an atomic reference count for each call between kernels.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from fastlstm.kernels import target
from fastlstm.kernels.jit import inline


class Vector(types.Type):
    """One register: `lanes` elements of `dtype`."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        self.lanes = target.lanes(dtype.bitwidth // 8)
        super().__init__(f"Vector({dtype} x {self.lanes})")


def _float_type(dtype: types.Float) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def int_type(dtype: types.Float) -> ir.Type:
    return ir.IntType(dtype.bitwidth)


def llvm_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_float_type(vector.dtype), vector.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, llvm_type(fe_type))


class Half(types.Type):
    """A float16 in memory: storage of weights, widened when it is read. Numba's own float16 has no model on a CPU."""

    bitwidth = 16

    def __init__(self):
        super().__init__("Half")


half = Half()


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.HalfType())


def vector_of(pointer: types.Type) -> Vector | None:
    if isinstance(pointer, types.CPointer) and pointer.dtype in (types.float32, types.float64):
        return Vector(pointer.dtype)
    return None


# ---- helpers over the LLVM builder ------------------------------------------------------------------
def constant(vector: Vector, value: float) -> ir.Constant:
    return ir.Constant(llvm_type(vector), [value] * vector.lanes)


def emit_splat(builder, vector: Vector, scalar):
    llvm = llvm_type(vector)
    first = builder.insert_element(ir.Constant(llvm, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(first, ir.Constant(llvm, ir.Undefined), zeros)


def call(builder, name: str, *args):
    kind = args[0].type
    suffix = f"v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [a.type for a in args]), f"llvm.{name}.{suffix}"
    )
    return builder.call(function, args)


def address(builder, pointer, offset):
    return builder.gep(pointer, [offset])


def emit_load(builder, vector: Vector, address):
    return builder.load(builder.bitcast(address, llvm_type(vector).as_pointer()), align=vector.dtype.bitwidth // 8)


def emit_store(builder, vector: Vector, value, address):
    builder.store(value, builder.bitcast(address, llvm_type(vector).as_pointer()), align=vector.dtype.bitwidth // 8)


def emit_widened(builder, vector: Vector, pointer: types.CPointer, address):
    """Load a vector of what `pointer` points to (the vector's dtype, float16 or int8) and widen it."""
    if pointer.dtype == vector.dtype:
        return emit_load(builder, vector, address)
    if pointer.dtype == types.int8:
        narrow = ir.VectorType(ir.IntType(8), vector.lanes)
        whole = builder.load(builder.bitcast(address, narrow.as_pointer()), align=1)
        return builder.sitofp(whole, llvm_type(vector))
    narrow = ir.VectorType(ir.HalfType(), vector.lanes)
    half = builder.load(builder.bitcast(address, narrow.as_pointer()), align=2)
    return builder.fpext(half, llvm_type(vector))


def _to_dtype(builder, vector: Vector, scalar):
    wanted = _float_type(vector.dtype)
    if scalar.type == wanted:
        return scalar
    if isinstance(scalar.type, ir.FloatType):
        return builder.fpext(scalar, wanted)
    return builder.fptrunc(scalar, wanted)


# ---- operators --------------------------------------------------------------------------------------
def _operand(builder, kind, vector: Vector, value):
    return value if isinstance(kind, Vector) else emit_splat(builder, vector, _to_dtype(builder, vector, value))


def _define_operator(function, instruction: str) -> None:
    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) != 2 or kws:
                return None
            a, b = args
            if isinstance(a, Vector) and (a == b or isinstance(b, types.Float)):
                return signature(a, a, b)
            if isinstance(b, Vector) and isinstance(a, types.Float):
                return signature(b, a, b)
            return None

    def lower(context, builder, sig, args):
        vector = sig.return_type
        a, b = (_operand(builder, kind, vector, value) for kind, value in zip(sig.args, args, strict=True))
        return getattr(builder, instruction)(a, b)

    for kinds in ((Vector, Vector), (Vector, types.Float), (types.Float, Vector)):
        lower_builtin(function, *kinds)(lower)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_function, _instruction)


@infer_global(operator.neg)
class _NegTyping(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if len(args) == 1 and isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _neg(context, builder, sig, args):
    return builder.fneg(args[0])


# ---- memory -----------------------------------------------------------------------------------------
def _pointers(dtype: types.Type, addresses: types.UniTuple):
    kind = types.UniTuple(types.CPointer(dtype), len(addresses))

    def codegen(context, builder, sig, args):
        target_type = context.get_value_type(types.CPointer(dtype))
        values = [builder.inttoptr(v, target_type) for v in cgutils.unpack_tuple(builder, args[-1])]
        return context.make_tuple(builder, kind, values)

    return kind, codegen


@intrinsic
def pointers(typingctx, like, addresses):
    """Return a tuple of pointers to elements of the type `like` at these addresses."""
    if not isinstance(like, types.NumberClass) or not isinstance(addresses, types.UniTuple):
        return None
    dtype = half if like.instance_type == types.float16 else like.instance_type
    kind, codegen = _pointers(dtype, addresses)
    return kind(like, addresses), codegen


@intrinsic
def byte_pointer(typingctx, address):
    """Return a pointer to bytes."""
    kind = types.CPointer(types.uint8)

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.intp), codegen


@intrinsic
def words(typingctx, address):
    """Return a pointer to the 64-bit integers at this address."""
    kind = types.CPointer(types.int64)

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.intp), codegen


@intrinsic(prefer_literal=True)
def arguments(typingctx, address, start, integers, floats):
    """Return the arguments of a step from word `start` on: a tuple of so many integers, then a tuple of so many float64."""
    if not all(isinstance(one, types.IntegerLiteral) for one in (start, integers, floats)):
        return None
    kinds = types.UniTuple(types.int64, integers.literal_value), types.UniTuple(types.float64, floats.literal_value)

    def codegen(context, builder, sig, args):
        word = ir.IntType(64)
        table = builder.inttoptr(args[0], word.as_pointer())
        words = range(start.literal_value, start.literal_value + sum(map(len, kinds)))
        loaded = [builder.load(builder.gep(table, [ir.Constant(word, k)])) for k in words]
        whole, real = loaded[: len(kinds[0])], loaded[len(kinds[0]) :]
        real = [builder.bitcast(value, ir.DoubleType()) for value in real]
        parts = [context.make_tuple(builder, kind, part) for kind, part in zip(kinds, (whole, real), strict=True)]
        return context.make_tuple(builder, sig.return_type, parts)

    return types.Tuple(kinds)(types.intp, start, integers, floats), codegen


@intrinsic
def lanes(typingctx, array):
    """Return the number of lanes of the vectors that `array` is read in: a constant."""
    vector = vector_of(array)
    if vector is None:
        return None
    return types.intp(array), lambda context, builder, sig, args: context.get_constant(types.intp, vector.lanes)


def emit_fetch(context, builder, args, writing: int, near: int):
    pointer = builder.bitcast(address(builder, *args), ir.IntType(8).as_pointer())
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    data = 1
    builder.call(function, [pointer, *(ir.Constant(number, value) for value in (writing, near, data))])
    return context.get_dummy_value()


@intrinsic
def fetch_ahead(typingctx, array, offset):
    """Ask for the cache line at array[offset], to the second-level cache."""
    codegen = lambda context, builder, sig, args: emit_fetch(context, builder, args, 0, 2)
    return types.void(array, types.intp), codegen


@intrinsic
def fetch_to_write(typingctx, array, offset):
    """Ask for the cache line at array[offset], to be written."""
    codegen = lambda context, builder, sig, args: emit_fetch(context, builder, args, 1, 3)
    return types.void(array, types.intp), codegen


@intrinsic
def line_of(typingctx, array):
    """Return how many elements of `array` a cache line holds: a constant."""
    count = 64 * 8 // array.dtype.bitwidth
    return types.intp(array), lambda context, builder, sig, args: context.get_constant(types.intp, count)


@intrinsic
def load(typingctx, array, offset):
    """Return the vector that starts at array[offset]."""
    vector = vector_of(array)
    if vector is None:
        return None

    def codegen(context, builder, sig, args):
        return emit_load(builder, vector, address(builder, *args))

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx, array, offset, value):
    """Write a vector to array[offset : offset + lanes]."""

    def codegen(context, builder, sig, args):
        emit_store(builder, sig.args[2], args[2], address(builder, *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


def _lane_mask(builder, vector: Vector, count):
    kind = ir.VectorType(ir.IntType(32), vector.lanes)
    first = builder.insert_element(
        ir.Constant(kind, ir.Undefined), builder.trunc(count, ir.IntType(32)), ir.Constant(ir.IntType(32), 0)
    )
    counts = builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(kind, [0] * vector.lanes))
    return builder.icmp_signed("<", ir.Constant(kind, list(range(vector.lanes))), counts)


def _masked(builder, vector: Vector, name: str, result, args):
    suffix = f"v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), f"llvm.masked.{name}.{suffix}"
    )
    return builder.call(function, args)


@intrinsic
def load_part(typingctx, array, offset, count, fill):
    """Return the vector of the first `count` elements at array[offset]; the other lanes hold `fill`."""
    vector = vector_of(array)
    if vector is None:
        return None

    def codegen(context, builder, sig, args):
        pointer = builder.bitcast(address(builder, *args[:2]), llvm_type(vector).as_pointer())
        align = ir.Constant(ir.IntType(32), vector.dtype.bitwidth // 8)
        other = emit_splat(builder, vector, _to_dtype(builder, vector, args[3]))
        mask = _lane_mask(builder, vector, args[2])
        return _masked(builder, vector, "load", llvm_type(vector), [pointer, align, mask, other])

    return vector(array, types.intp, types.intp, types.float64), codegen


@intrinsic
def store_part(typingctx, array, offset, value, count):
    """Write the first `count` lanes of a vector to array[offset : offset + count]."""

    def codegen(context, builder, sig, args):
        vector = sig.args[2]
        pointer = builder.bitcast(address(builder, *args[:2]), llvm_type(vector).as_pointer())
        align = ir.Constant(ir.IntType(32), vector.dtype.bitwidth // 8)
        mask = _lane_mask(builder, vector, args[3])
        _masked(builder, vector, "store", ir.VoidType(), [args[2], pointer, align, mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), codegen


@inline
def write_units(y, at, value, count):
    """Write one vector, of which `count` lanes exist."""
    if count >= lanes(y):
        store(y, at, value)
    else:
        store_part(y, at, value, count)


# ---- lane by lane functions -------------------------------------------------------------------------
@intrinsic
def splat(typingctx, like, scalar):
    """Return a vector of the kind of `like` with `scalar` in every lane."""
    if not isinstance(like, Vector):
        return None

    def codegen(context, builder, sig, args):
        return emit_splat(builder, like, _to_dtype(builder, like, args[1]))

    return like(like, types.float64), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """Return a * b + c with one rounding."""
    return a(a, a, a), lambda context, builder, sig, args: call(builder, "fma", *args)


@intrinsic
def is_single(typingctx, x):
    """Return whether a vector holds float32: a constant."""
    if not isinstance(x, Vector):
        return None
    return types.boolean(x), lambda context, builder, sig, args: context.get_constant(
        types.boolean, x.dtype == types.float32
    )


@intrinsic
def absolute(typingctx, a):
    """Return |a|."""
    return a(a), lambda context, builder, sig, args: call(builder, "fabs", *args)


@intrinsic
def square_root(typingctx, a):
    """Return the correctly rounded square root."""
    return a(a), lambda context, builder, sig, args: call(builder, "sqrt", *args)


def _select(builder, comparison, a, b, then, otherwise):
    return builder.select(builder.fcmp_ordered(comparison, a, b), then, otherwise)


@intrinsic
def where_less(typingctx, a, b, then, otherwise):
    """Return `then` in lanes where a < b, else `otherwise`; NaN compares false."""
    return a(a, a, a, a), lambda context, builder, sig, args: _select(builder, "<", *args)


@intrinsic
def where_nan(typingctx, x, then, otherwise):
    """Return `then` in lanes where x is NaN, else `otherwise`."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_unordered("uno", args[0], args[0]), args[1], args[2])

    return x(x, x, x), codegen


@intrinsic
def one_nan(typingctx, x):
    """Return x with every NaN the same one: which of two NaNs a sum or product keeps is up to the compiler, place by place."""

    def codegen(context, builder, sig, args):
        nan = constant(sig.args[0], float("nan"))
        return builder.select(builder.fcmp_unordered("uno", args[0], args[0]), nan, args[0])

    return x(x), codegen


def clamp_low(builder, vector, x, low):
    return _select(builder, "<", x, low, low, x)


def clamp_high(builder, vector, x, high):
    return _select(builder, ">", x, high, high, x)


@intrinsic
def clamp(typingctx, x, low, high):
    """Return x bounded to [low, high]; a NaN stays NaN (minnum and maxnum would swallow it)."""
    if not isinstance(x, Vector):
        return None

    def codegen(context, builder, sig, args):
        low, high = (emit_splat(builder, x, _to_dtype(builder, x, a)) for a in args[1:])
        return clamp_high(builder, x, clamp_low(builder, x, args[0], low), high)

    return x(x, types.float64, types.float64), codegen


@intrinsic
def larger(typingctx, a, b):
    """Return the larger lane; a NaN in `b` stays."""
    return a(a, a), lambda context, builder, sig, args: _select(builder, ">", args[0], args[1], args[0], args[1])


@intrinsic
def lane(typingctx, x, index):
    """Return one lane as a scalar."""
    if not isinstance(x, Vector):
        return None

    def codegen(context, builder, sig, args):
        return builder.extract_element(args[0], builder.trunc(args[1], ir.IntType(32)))

    return x.dtype(x, types.intp), codegen

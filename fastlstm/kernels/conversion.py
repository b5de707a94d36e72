"""Values of one dtype as another: what Cast does, and how ids become integers."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastlstm.kernels.jit import kernel, routine
from fastlstm.kernels.simd import arguments, pointers
from fastlstm.kernels.strided import NUMBERS, make_map


def _from_float(builder, value, to):
    """A float as a signed integer, cut off; the lowest integer where it is NaN or beyond the range, as x86 has it."""
    bound = 2.0 ** (to.width - 1)
    inside = builder.and_(
        builder.fcmp_ordered(">=", value, ir.Constant(value.type, -bound)),
        builder.fcmp_ordered("<", value, ir.Constant(value.type, bound)),
    )
    cut = builder.fptosi(builder.select(inside, value, ir.Constant(value.type, 0.0)), to)
    return builder.select(inside, cut, ir.Constant(to, -(1 << (to.width - 1))))


@intrinsic
def converted(typingctx, target, value):
    """Return a number as the type `target`: rounded to nearest, wrapped around, or a float cut off to a signed integer."""
    if not isinstance(target, types.NumberClass) or not isinstance(value, types.Integer | types.Float):
        return None
    kind = target.instance_type

    def codegen(context, builder, sig, args):
        to, source = context.get_value_type(kind), args[1]
        if isinstance(value, types.Float):
            if isinstance(kind, types.Integer):
                return _from_float(builder, source, to)
            widens = kind.bitwidth > value.bitwidth
            return source if source.type == to else builder.fpext(source, to) if widens else builder.fptrunc(source, to)
        if isinstance(kind, types.Float):
            return builder.sitofp(source, to) if value.signed else builder.uitofp(source, to)
        if kind.bitwidth <= value.bitwidth:
            return source if source.type == to else builder.trunc(source, to)
        return builder.sext(source, to) if value.signed else builder.zext(source, to)

    return kind(target, value), codegen


@routine
def convert_row(target, y, y0, y_step, a, a0, a_step, b, b0, b_step, c, c0, c_step, n):
    for k in range(n):
        y[y0 + k * y_step] = converted(target, a[a0 + k * a_step])


convert = make_map(convert_row)


@kernel
def convert_forward(kind, narrow, team, args):
    """From `kind` to `narrow`. Arguments: y, a, b, c (unused), the numbers of `strided`."""
    (y, a, _, _), _ = arguments(args, 0, 4, 0)
    (y,), (a,) = pointers(narrow, (y,)), pointers(kind, (a,))
    convert(narrow, y, a, a, a, arguments(args, 4, NUMBERS, 0)[0], team)

"""The walker: one call into compiled code that runs the steps of a program.

A program is a table of 64-bit words. Word 0 counts its steps; each step has STEP words from word STEP on:
the address of a kernel, the address of its arguments, and who runs it (kernels/team.py).
"""

from numba import types
from numba.extending import intrinsic

from fastlstm.kernels.floating_point_mode import flush_denormals, restore_mode
from fastlstm.kernels.jit import entry
from fastlstm.kernels.simd import words

STEP = 4


@intrinsic
def call_kernel(typingctx, kernel, team, args):
    """Call the kernel at this address."""
    nothing = types.NumberClass(types.float32)  # what kernels are compiled for is no run-time argument
    kinds = (nothing, nothing, types.intp, types.intp)

    def codegen(context, builder, sig, args):
        function = context.call_conv.get_function_type(types.none, kinds)
        absent = context.get_constant_null(nothing)
        address = builder.inttoptr(args[0], function.as_pointer())
        context.call_conv.call_function(builder, address, types.none, kinds, [absent, absent, *args[1:]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@entry
def walk(program, team):
    """Run the program at this address as the worker whose words are at `team`."""
    mode = flush_denormals()
    table = words(program)
    for step in range(1, table[0] + 1):
        call_kernel(table[step * STEP], team, table[step * STEP + 1])
    restore_mode(mode)

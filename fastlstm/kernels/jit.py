"""How kernels are compiled. Imports Numba, so it is imported only where a kernel has to be compiled.

`kernel` makes a step of a program: one signature for all, so that compiled code calls them through their addresses.
`entry` makes what Python calls with integers; `inline` and `routine` make the parts of both. Numba types and lowers them; nothing
is loaded into its engine: the parts are linked into each kernel, which is optimised once, as a whole, and becomes an object file
(kernels/machine_code.py loads it, kernels/cache.py keeps it).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import codegen, compiler, config
from numba.core.compiler_lock import global_compiler_lock

from fastlstm.kernels import target
from fastlstm.kernels.cache import Code


class _Unloaded:
    """Numba's code generator for libraries that are not loaded: there is no place to put a Python environment in."""

    def __init__(self, whole: Any):
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def set_env(self, name: str, environment: Any) -> None:
        pass


class _Library(codegen.CPUCodeLibrary):
    """The LLVM module of a kernel or of a part."""

    whole = False

    @property
    def codegen(self) -> Any:
        return _Unloaded(self._codegen)

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    def _optimize_final_module(self) -> None:
        # what is linked into others is optimised there
        if self.whole:
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        self._verify_declare_only_symbols()
        self._finalized = True


class _Whole(_Library):
    """The LLVM module of what is called from outside: optimised."""

    whole = True


# Numba's passes over what no kernel has: closures, `with`, calls of `literally`, arrays.
UNNEEDED = {
    *("AnnotateTypes", "DumpParforDiagnostics", "FindLiterallyCalls", "InlineClosureLikes", "InlineInlinables", "InlineOverloads"),
    *("LiteralPropagationSubPipelinePass", "LiteralUnroll", "MakeFunctionToJitFunction", "NoPythonSupportedFeatureValidation"),
    *("NopythonRewrites", "RewriteDynamicRaises", "WithLifting"),
}  # fmt: skip


class _PartCompiler(compiler.Compiler):
    library = _Library

    def __init__(self, typing: Any, context: Any, library: Any, *rest: Any):
        super().__init__(typing, context, library or self.library(context.codegen(), "fastlstm"), *rest)

    def define_pipelines(self) -> list:
        """Return Numba's passes but for those that take a tenth of the time and would change nothing."""
        pipelines = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [one for one in pipeline.passes if one[0].__name__ not in UNNEEDED]
        return pipelines


class _WholeCompiler(_PartCompiler):
    library = _Whole


@contextmanager
def _enabled() -> Iterator[None]:
    """Let `njit` compile where NUMBA_DISABLE_JIT, meant for the user's own functions, is set."""
    disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
    try:
        yield
    finally:
        config.DISABLE_JIT = disabled


def _compiled(function: Callable, pipeline: type = _PartCompiler, forceinline: bool = False) -> Any:
    # told always: else a part that is compiled on behalf of an inline one would be inline, too
    with _enabled():
        return njit(
            error_model="numpy",
            no_cpython_wrapper=True,
            no_cfunc_wrapper=True,
            pipeline_class=pipeline,
            forceinline=forceinline,
        )(function)


def inline(function: Callable) -> Any:
    """Compile a part of kernels into each place that uses it."""
    return _compiled(function, forceinline=True)


def routine(function: Callable) -> Any:
    """Compile a part of kernels that is called; it lives in the machine code of the kernels that use it."""
    compiled = _compiled(function)
    usual = compiled.get_call_template

    def get_call_template(args: tuple, kws: dict) -> Any:
        # Numba would compile it again for each constant that it is called with
        return usual(tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()})

    compiled.get_call_template = get_call_template
    return compiled


class Build:
    """A compiled kernel, as LLVM has it."""

    def __init__(self, library: _Library, symbol: str):
        self._library, self.symbol = library, symbol
        # far addresses: an engine may lay code and constants more than 2 GiB apart, where near ones would end the process
        self._machine = library._codegen._tm
        with global_compiler_lock:
            library._ensure_finalized()

    @property
    def code(self) -> Code:
        return Code(self.symbol, self._machine.emit_object(self._library._final_module))

    @property
    def assembly(self) -> str:
        return self._machine.emit_assembly(self._library._final_module)

    @property
    def ir(self) -> str:
        return str(self._library._final_module)

    @property
    def is_for_this_cpu(self) -> bool:
        """Whether Numba compiled for the CPU that the cache's stamp tells of; a file of settings may say otherwise."""
        whole = self._library._codegen
        return (whole._get_host_cpu_name(), whole._get_host_cpu_features()) == (target.CPU, target.FEATURES)


class Kernel:
    """A step of a program: function(kind, narrow, team, args), compiled for the dtypes it is asked for.

    `kind` is the dtype of values and `narrow` that of the weights; `team` is the address of a worker's words
    (kernels/team.py), `args` that of the step's arguments (`simd.arguments`).
    """

    def __init__(self, function: Callable):
        self.name = function.__name__
        self._compiled = _compiled(function, _WholeCompiler)

    def build(self, kind: str, narrow: str) -> Build:
        numbers = (types.NumberClass(getattr(types, name)) for name in (kind, narrow))
        with _enabled():
            return _build(self._compiled, (*numbers, types.intp, types.intp))


class Entry:
    """What Python calls: function(integers), without the GIL; the address of its code is that of a METH_FASTCALL function."""

    def __init__(self, function: Callable):
        self.name = function.__name__
        self._compiled = _compiled(function)
        self._count = len(inspect.signature(function).parameters)

    def build(self) -> Build:
        with _enabled():
            inner = _signature(self._compiled, (types.intp,) * self._count)
        return _with_python_face(self.name, inner)


def kernel(function: Callable) -> Kernel:
    """Decorator: a step of a program."""
    return Kernel(function)


def entry(function: Callable) -> Entry:
    """Decorator: what Python calls, with addresses and other integers."""
    return Entry(function)


def _signature(function: Any, kinds: tuple) -> Any:
    function.compile(kinds)
    return function.overloads[kinds]


def _build(function: Any, kinds: tuple) -> Build:
    found = _signature(function, kinds)
    return Build(found.library, found.fndesc.mangled_name)


def _with_python_face(name: str, inner: Any) -> Build:
    """Return the function of Python's convention METH_FASTCALL that calls a compiled one with the GIL released."""
    context, symbol = inner.target_context, f"fastlstm_{name}"
    library = _Whole(inner.library._codegen, symbol)
    module = library.create_ir_module(symbol)
    word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()

    def python(name: str, result: ir.Type, *kinds: ir.Type) -> ir.Function:
        return ir.Function(module, ir.FunctionType(result, kinds), name)

    kind = ir.FunctionType(pointer, [pointer, pointer.as_pointer(), word])
    face = ir.Function(module, kind, symbol)
    _, given, count = face.args
    builder = ir.IRBuilder(face.append_basic_block())
    none = ir.Constant(pointer, None)
    wanted = len(inner.signature.args)
    with builder.if_then(builder.icmp_signed("!=", count, ir.Constant(word, wanted)), likely=False):
        builder.call(python("PyErr_BadArgument", ir.IntType(32)), [])
        builder.ret(none)
    read = python("PyLong_AsLongLong", word, pointer)
    numbers = [builder.call(read, [builder.load(builder.gep(given, [ir.Constant(word, k)]))]) for k in range(wanted)]
    with builder.if_then(
        builder.icmp_unsigned("!=", builder.call(python("PyErr_Occurred", pointer), []), none), likely=False
    ):
        builder.ret(none)
    thread = builder.call(python("PyEval_SaveThread", pointer), [])
    function = context.declare_function(module, inner.fndesc)
    signature = inner.signature
    _, result = context.call_conv.call_function(builder, function, signature.return_type, signature.args, numbers)
    builder.call(python("PyEval_RestoreThread", ir.VoidType(), pointer), [thread])
    value = result if signature.return_type == types.int64 else ir.Constant(word, 0)
    builder.ret(builder.call(python("PyLong_FromLongLong", pointer, word), [value]))
    with global_compiler_lock:
        library.add_ir_module(module)
        library.add_linking_library(inner.library)
    return Build(library, symbol)

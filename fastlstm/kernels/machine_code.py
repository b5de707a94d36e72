"""Machine code in memory: an object file becomes an address, and an address a Python function. Through llvmlite, without Numba.

What is loaded stays to the end of the process: a thread may be inside it until then. Every object file has an engine of its own, so
that parts of kernels with one name in two of them are not taken for each other.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm

# Of Python's own functions, those that `python_function` needs the caller to have compiled in.
PYTHON_SYMBOLS = (
    "PyErr_BadArgument",
    "PyErr_Occurred",
    "PyEval_RestoreThread",
    "PyEval_SaveThread",
    "PyLong_AsLongLong",
    "PyLong_FromLongLong",
)
_METH_FASTCALL = 0x80


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_kept: list[Any] = []


def load(code: bytes, symbol: str) -> int:
    """Return the address of a symbol of an object file, loaded for good."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in PYTHON_SYMBOLS:
        llvm.add_symbol(name, ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    engine.detach()
    return address


def python_function(name: str, address: int) -> Callable[..., int]:
    """Return the Python function whose code, of the calling convention METH_FASTCALL, is at an address."""
    definition = _MethodDef(name.encode(), address, _METH_FASTCALL, None)
    _kept.append(definition)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.POINTER(_MethodDef), ctypes.c_void_p, ctypes.c_void_p)
    return make(ctypes.byref(definition), None, None)

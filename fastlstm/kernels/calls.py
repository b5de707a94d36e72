"""What Python calls of compiled code, loaded when first used: `calls.walk(program, first, team)`. Arguments are integers."""

from typing import TYPE_CHECKING, Any

from fastlstm.kernels import library

if TYPE_CHECKING:
    # described in kernels/walk.py
    def walk(program: int, first: int, team: int) -> int: ...
    def lead(program: int, first: int, control: int, team: int) -> int: ...
    def serve(control: int, team: int) -> int: ...
    def dismiss(control: int) -> int: ...


def __getattr__(name: str) -> Any:
    if name not in library.ENTRIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = library.entry(name)
    return globals()[name]

"""Arithmetic on dims: sizes, symbols such as "B", and products of both such as "64*T".

An expression that is no product becomes a fresh symbol, so a dim that equals a symbol is known to be that axis whole.
"""

from collections.abc import Iterable
from math import prod

from fastlstm.graph import Dim

Shape = tuple[Dim, ...]


def _factors(dim: Dim) -> tuple[int, list[str]]:
    if isinstance(dim, int):
        return dim, []
    parts = dim.split("*") if "(" not in dim else [dim]
    return prod(int(p) for p in parts if p.isdigit()), [p for p in parts if not p.isdigit()]


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of dims."""
    size, symbols = 1, []
    for dim in dims:
        factor, names = _factors(dim)
        size, symbols = size * factor, symbols + names
    if not symbols or size == 0:
        return size
    return "*".join([*([] if size == 1 else [str(size)]), *sorted(symbols)])


def quotient(total: Dim, part: Dim) -> Dim | None:
    """Return total / part, or None where it is no whole dim."""
    (a, names), (b, divisors) = _factors(total), _factors(part)
    left = list(names)
    for name in divisors:
        if name not in left:
            return None
        left.remove(name)
    if b == 0 or a % b:
        return None
    return product([a // b, *left])


def apply(text: str, *dims: Dim, value: int | None = None) -> Dim:
    """Return `value` where it is known, else the opaque symbol "(text of dims)"."""
    return value if value is not None else f"({text}:{','.join(map(str, dims))})"


def add(*dims: Dim) -> Dim:
    """Return the sum of dims."""
    numbers = [d for d in dims if isinstance(d, int)]
    if len(numbers) == len(dims):
        return sum(numbers)
    rest = [d for d in dims if not isinstance(d, int)]
    return rest[0] if len(rest) == 1 and sum(numbers) == 0 else apply("sum", *dims)


def agree(a: Dim, b: Dim) -> bool:
    """Tell whether two dims can be the same size: only two different numbers cannot."""
    return not (isinstance(a, int) and isinstance(b, int) and a != b)


def known(shape: Shape | None) -> bool:
    """Tell whether every size is a number."""
    return shape is not None and all(isinstance(d, int) for d in shape)

"""Products of rows and packed weights, and how they read both: in place, or as copies of another kind."""

from collections.abc import Callable
from typing import NamedTuple

from fastlstm.kernels.jit import inline
from fastlstm.kernels.target import DEPTH
from fastlstm.kernels.tile import (
    Row,
    dense_rows,
    dense_tail_rows,
    make_row,
    make_row_with_tail,
    make_rows,
    make_tail_rows,
)


class Reading(NamedTuple):
    """How a product reads its rows and weights."""

    panel_size: Callable  # (inputs, lanes of its columns) -> elements of a panel of weights
    row_size: Callable  # (elements, parts) -> bytes of the copy of a row that the product reads
    take: Callable  # where the product reads rows of x: the pointer, start and stride of x or of copies
    take_state: Callable  # likewise rows of h
    take_ahead: Callable  # likewise for some steps: the pointer, and the strides of time and rows
    depth: int  # inputs of a piece of a panel, which all rows meet before the next


@inline
def panel_elements(K, columns):
    return K * columns


@inline
def no_copy(K, parts):
    return 0


@inline
def take_in_place(x, at, stride, first, count, K, parts, copies, to):
    return x, at, stride


@inline
def take_state_in_place(h, at, stride, first, count, H, copies, to):
    return h, at, stride


@inline
def take_ahead_in_place(x, x_t, x_b, t, turn, steps, part, B, K, parts, copies, to):
    return x, x_t, x_b


IN_PLACE = Reading(panel_elements, no_copy, take_in_place, take_state_in_place, take_ahead_in_place, DEPTH)


class Product(NamedTuple):
    """x W + h U of panels that hold so many vectors of W (`gates`) and of U (`recurrent_gates`), on tiles as kernels/tile.py makes them."""

    rows: Callable  # of any number of rows
    tail_rows: Callable  # of a last panel of another width
    row: Row  # of one row
    gates: int
    recurrent_gates: int
    reading: Reading = IN_PLACE


def _dense(
    columns: tuple[tuple[int, ...], tuple[int, ...]], leaves: tuple[tuple[int, ...], tuple[int, ...]], rows, tail_rows
) -> Product:
    row = make_row(*columns, make_row_with_tail(*columns, *leaves))
    return Product(rows, tail_rows, row, *map(len, columns))


def make_product(
    x_columns: tuple[int, ...],
    h_columns: tuple[int, ...],
    x_leaves: tuple[int, ...] = (),
    h_leaves: tuple[int, ...] = (),
) -> Product:
    """Return the product of rows of floats; `columns` as in `tile.make_rows`, `leaves` as in `tile.make_tail_rows`."""
    columns, leaves = (x_columns, h_columns), (x_leaves, h_leaves)
    return _dense(columns, leaves, make_rows(*columns), make_tail_rows(*leaves))


dense = _dense(((0, 1, 2, 3), (0, 1, 2, 3)), ((), ()), dense_rows, dense_tail_rows)

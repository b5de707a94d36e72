"""Recurrent dropout: each gate meets h without the units that its mask drops, the same ones at every step.

    z_k = (h * m_k) U_k        dh = sum_k m_k * (dz_k U_k')        k: the gates

dims as in steps.py; masks m (G, B, H), 0 or 1 / (1 - rate); U_k and U_k' as panels of four vectors of columns, gate after gate. A gate has
rows of its own, so products go gate by gate, and their sums wait in `room`.
"""

from fastlstm.kernels.jit import inline, routine
from fastlstm.kernels.simd import arguments, lanes, load, pointers, store
from fastlstm.kernels.steps import add_product_at, load_units, zero_rows


@inline
def drop_of(kind, args, start):
    """Return, of nine arguments, whether units are dropped, the masks, U or U', the elements of a gate of it, its tail, room for h without what is dropped (B, S), room
    for sums, the columns of a gate in it, and what sums start from: one row of the room."""
    (dropped, masks, U, size, tail, kept, room, width, first), _ = arguments(args, start, 9, 0)
    masks, U, kept, room, first = pointers(kind, (masks, U, kept, room, first))
    return dropped, masks, U, size, tail, kept, room, width, first


@routine
def keep_units(hs, at, masks, gate, kept, part, B, H, S):
    """kept = h * m_k for the rows of one worker."""
    for row in range(part[0], part[1]):
        for unit in range(0, H, lanes(hs)):
            mask = load_units(masks, (gate * B + row) * H + unit, H - unit)
            store(kept, row * S + unit, load(hs, at + row * S + unit) * mask)


@routine
def add_kept(hs, at, drop, gate, y, y_stride, part, B, H, S):
    """y += (h * m_k) U_k for the rows of one worker; y = (array, start)."""
    _, masks, U, size, tail, kept, _, _, _ = drop
    keep_units(hs, at, masks, gate, kept, part, B, H, S)
    add_product_at(kept, H - H, S, H, (U, gate * size), H * 4 * lanes(hs), y, y_stride, part, H, tail, H - H)


@routine
def add_back(dz, at, dz_stride, drop, gate, dh, h_b, part, B, H):
    """dh += m_k * (dz_k U_k') for the rows of one worker."""
    _, masks, U, size, tail, _, room, _, _ = drop
    zero_rows(room, h_b, part)
    add_product_at(dz, at, dz_stride, H, (U, gate * size), H * 4 * lanes(dh), (room, H - H), h_b, part, H, tail, H - H)
    for row in range(part[0], part[1]):
        for unit in range(0, H, lanes(dh)):
            mask, k = load_units(masks, (gate * B + row) * H + unit, H - unit), row * h_b + unit
            store(dh, k, load(dh, k) + load(room, k) * mask)


def make_dropped_walk(places: tuple[int, ...], cells):
    """Return the loop over steps of a network that drops units, for the `cells` of `steps.make_walk`; `places`, of four, say where a gate's sums go."""

    @routine
    def walk(tape, about, part, hs, drop, T, B, H, S, reverse):
        L = lanes(hs)
        room, width, first = drop[6], drop[7], drop[8]
        for s in range(T):
            t = T - 1 - s if reverse else s
            for row in range(part[0], part[1]):
                for k in range(0, 4 * width, L):
                    store(room, row * 4 * width + k, load(first, k))
            for gate in range(len(places)):
                add_kept(hs, s * B * S, drop, gate, (room, places[gate] * width), 4 * width, part, B, H, S)
            for unit in range(0, H, L):
                at = part[0] * 4 * width + unit
                cells(tape, about, s, t, room, at, 4 * width, width, part[0], part[1] - part[0], unit, B, H, S)

    return walk

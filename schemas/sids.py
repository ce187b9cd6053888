"""Packing of semantic IDs: `c1 << 40 | c2 << 20 | c3`, a non-negative 64-bit integer.

The prefix of depth d of two SIDs is equal exactly when they agree after a right shift by `shift_for(d)`, so prefixes
compare the same way in Spark, numpy, torch and SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Packed = TypeVar("Packed", int, "NDArray[np.int64]")
"""One packed SID, or an array of them."""
LEVELS = 3
BITS = 20
MAX_CODE = (1 << BITS) - 1


def shift_for(depth: int) -> int:
    """Bits to shift a packed SID right so that only its first `depth` codes remain (depth 1..3 -> 40, 20, 0)."""
    if not 1 <= depth <= LEVELS:
        raise ValueError(f"A prefix depth is 1 to {LEVELS}, not {depth}.")
    return BITS * (LEVELS - depth)


def pack(codes: Sequence[int]) -> int:
    """Three codes -> one packed SID. Raises ValueError unless there are three, each in 0..2^20-1."""
    if len(codes) != LEVELS or not all(0 <= int(code) <= MAX_CODE for code in codes):
        raise ValueError(f"A SID is {LEVELS} codes of 0..{MAX_CODE}, not {list(codes)}.")
    c1, c2, c3 = (int(code) for code in codes)
    return c1 << 2 * BITS | c2 << BITS | c3


def unpack(sid: int) -> tuple[int, int, int]:
    """One packed SID -> its three codes. Raises ValueError for a negative number or one over 60 bits."""
    if not 0 <= sid < 1 << BITS * LEVELS:
        raise ValueError(f"{sid} is not a packed SID.")
    return sid >> 2 * BITS, sid >> BITS & MAX_CODE, sid & MAX_CODE


def without_group(sid: Packed, third: int) -> Packed:
    """A packed SID, or each of an array, without the group of a split cluster: what a generator emits.

    `third` is the number of codes at level 3; the third index of a split cluster's SID is group * third + code. Where
    nothing is split this is the SID itself.
    """
    emitted: Packed = sid - (sid & MAX_CODE) + (sid & MAX_CODE) % third
    return emitted

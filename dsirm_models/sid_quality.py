"""How good a set of semantic IDs is, exactly and without a model: use of codes, bucket sizes, agreement of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.sids import BITS, LEVELS

Ints = NDArray[np.int32] | NDArray[np.int64]


class LevelQuality(NamedTuple):
    """One level: how its codes are used, and how many items share a prefix down to it."""

    used: int
    """Codes with at least one item."""
    utilisation: float
    """Used codes over all codes of the level, 0..1."""
    entropy: float
    """Of the items' distribution over codes, in nats."""
    perplexity: float
    """exp(entropy): as many codes as a uniform distribution of the same entropy has."""
    gini: float
    """Of items per code over all codes of the level, unused ones too: 0 even, towards 1 all in one."""
    prefixes: int
    """Distinct prefixes of this depth; a bucket is the items of one of them."""
    bucket_p50: float
    """Median bucket size over distinct prefixes."""
    bucket_p99: float
    bucket_max: int


class SidQuality(NamedTuple):
    """All levels, and the whole SID."""

    items: int
    distinct: int
    """Distinct full SIDs."""
    collision_rate: float
    """Share of items whose full SID another item has too, 0..1."""
    levels: tuple[LevelQuality, ...]


def quality(codes: Ints, codebook_sizes: Sequence[int]) -> SidQuality:
    """Measure codes (N, L) against the sizes of their codebooks. Zero items give zeros.

    Raises:
        ValueError: another number of levels, or a code outside its codebook.

    """
    _check(codes, codebook_sizes)
    levels = []
    for level, size in enumerate(codebook_sizes):
        uses = np.bincount(codes[:, level], minlength=size)
        sizes = _bucket_sizes(codes[:, : level + 1], codebook_sizes[: level + 1])
        some = len(sizes) > 0
        entropy = _entropy(uses)
        levels.append(
            LevelQuality(
                used=int(np.count_nonzero(uses)),
                utilisation=int(np.count_nonzero(uses)) / size,
                entropy=entropy,
                perplexity=float(np.exp(entropy)) if some else 0.0,
                gini=_gini(uses),
                prefixes=len(sizes),
                bucket_p50=float(np.quantile(sizes, 0.5)) if some else 0.0,
                bucket_p99=float(np.quantile(sizes, 0.99)) if some else 0.0,
                bucket_max=int(sizes.max()) if some else 0,
            )
        )
    shared = int(sizes[sizes > 1].sum())
    return SidQuality(
        items=len(codes),
        distinct=len(sizes),
        collision_rate=shared / len(codes) if len(codes) else 0.0,
        levels=tuple(levels),
    )


class Measure(NamedTuple):
    """One figure of a set of SIDs."""

    measure: str
    level: int | None
    """1..3, None for the whole SID."""
    value: float


def measures(codes: Ints, codebook_sizes: Sequence[int]) -> list[Measure]:
    """`quality` as rows, for tables and reports."""
    found = quality(codes, codebook_sizes)
    names = ("utilisation", "perplexity", "gini", "bucket_p50", "bucket_p99", "bucket_max")
    rows = [
        Measure(name, level, float(getattr(part, name)))
        for name in names
        for level, part in enumerate(found.levels, start=1)
    ]
    return [*rows, Measure("collision_rate", None, found.collision_rate)]


def pair_agreement(left: Ints, right: Ints, weight: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """Share of N pairs whose codes (N, L) share a prefix of depth 1..L, as (L,); weighted by `weight` (N,) if given.

    Raises:
        ValueError: different shapes, or no pairs.

    """
    if left.shape != right.shape or left.ndim != 2 or len(left) == 0:
        raise ValueError(f"Agreement needs two equal, non-empty (N, L) arrays, not {left.shape} and {right.shape}.")
    agree = np.logical_and.accumulate(left == right, axis=1)
    share: NDArray[np.float64] = np.average(agree.astype(np.float64), axis=0, weights=weight)
    return share


def pack_rows(codes: Ints) -> NDArray[np.int64]:
    """Codes (N, 3) -> packed SIDs (N,), as `schemas.sids.pack` does one by one."""
    packed = codes[:, 0].astype(np.int64)
    for level in range(1, LEVELS):
        packed <<= BITS
        packed |= codes[:, level]
    return packed


def _check(codes: Ints, codebook_sizes: Sequence[int]) -> None:
    if codes.ndim != 2 or codes.shape[1] != LEVELS or len(codebook_sizes) != LEVELS:
        raise ValueError(f"SIDs have {LEVELS} levels, not codes {codes.shape} with {len(codebook_sizes)} sizes.")
    for level, size in enumerate(codebook_sizes):
        column = codes[:, level]
        if len(column) and (column.min() < 0 or column.max() >= size):
            raise ValueError(f"Level {level + 1} holds codes {column.min()}..{column.max()} of only {size}.")


def _bucket_sizes(codes: Ints, sizes: Sequence[int]) -> NDArray[np.int64]:
    """Rows per distinct prefix of codes (N, depth), in any order."""
    space = math.prod(sizes)
    # Prefixes as mixed-radix numbers: narrow ones sort twice as fast as packed SIDs, and few enough are just counted.
    keys: NDArray[Any] = codes[:, 0].astype(np.int32 if space < 2**31 else np.int64)
    for level in range(1, len(sizes)):
        keys *= sizes[level]
        keys += codes[:, level]
    if space <= max(len(keys), 2**16):
        counts = np.bincount(keys)
        return counts[counts > 0]
    keys.sort()
    starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.diff(np.concatenate(([0], starts, [len(keys)]))) if len(keys) else starts


def _entropy(uses: NDArray[np.int64]) -> float:
    share = uses[uses > 0] / max(uses.sum(), 1)
    return float(-(share * np.log(share)).sum()) + 0.0  # + 0.0: an empty sum is -0.0


def _gini(uses: NDArray[np.int64]) -> float:
    total, size = int(uses.sum()), len(uses)
    if total == 0:
        return 0.0
    rank = np.arange(1, size + 1)
    return float((2 * rank - size - 1) @ np.sort(uses)) / (size * total)

"""Who asks, as arrays: what a user clicked before, and how a personal generator reads it (CQ-SID stage 3).

The paper names what is read, a user's attributes and "recent clicked SIDs of related categories", and no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsirm_models.generator_data import unpack_sids
from dsirm_models.text_features import category_centroids

RELATED = 3
"""Categories nearest to the query whose clicks are read. The paper names no number, nor the next one."""
RECENT = 10
"""SIDs of a history, at most."""
POWERS = 5
DAY_BITS = 20
CHUNK = 8192
"""Requests worked on together: bounds memory, changes no result."""


class Clicks(NamedTuple):
    """N clicks of some groups; a group is what one user clicked in one category."""

    group: NDArray[np.int64]
    """(N,) from 0."""
    day: NDArray[np.int64]
    """(N,) from 0."""
    clicked: NDArray[np.int64]
    """(N,) what was clicked, by any number from 0; those of one group and day latest first."""


def latest_before(clicks: Clicks, groups: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """The latest clicks of R requests, of days before each request's own.

    Args:
        clicks: in any order of groups and days.
        groups: (R, K) whose clicks are read, the first group's first; -1: none.
        day: (R,).

    Returns:
        (R, K * RECENT): `RECENT` places a group, latest first, -1 where it has fewer.
    """
    out = np.full((len(day), groups.shape[1] * RECENT), -1, dtype=np.int64)
    if not len(clicks.clicked):
        return out
    # Ascending keys: a group's clicks together, the latest day first.
    top = (1 << DAY_BITS) - 1
    key = clicks.group << DAY_BITS | (top - clicks.day)
    order = np.argsort(key, kind="stable")
    key, group, clicked = key[order], clicks.group[order], clicks.clicked[order]
    for begin in range(0, len(day), CHUNK):
        wanted = groups[begin : begin + CHUNK]
        # The first click of a day before the request's.
        own = wanted << DAY_BITS | (top - day[begin : begin + CHUNK, None])
        place = np.searchsorted(key, own, side="right")[:, :, None] + np.arange(RECENT)
        last = np.searchsorted(group, wanted, side="right")
        inside = (place < last[:, :, None]) & (wanted[:, :, None] >= 0)
        found = np.where(inside, clicked[np.minimum(place, len(clicked) - 1)], -1)
        out[begin : begin + CHUNK] = found.reshape(len(wanted), -1)
    return out


def first_distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first distinct values >= 0 of each row, in order, -1 behind them: (R, N) -> (R, RECENT)."""
    out = np.full((len(values), RECENT), -1, dtype=np.int64)
    for begin in range(0, len(values), CHUNK):
        part = values[begin : begin + CHUNK]
        order = np.argsort(part, axis=1, kind="stable")
        ascending = np.take_along_axis(part, order, axis=1)
        again = np.zeros(part.shape, dtype=np.bool_)
        np.put_along_axis(again, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], axis=1)
        kept = np.where(again, -1, part)
        front = np.argsort(kept < 0, axis=1, kind="stable")[:, :RECENT]
        out[begin : begin + CHUNK, : front.shape[1]] = np.take_along_axis(kept, front, axis=1)
    return out


def related_categories(
    query_vectors: NDArray[np.float32], item_vectors: NDArray[np.float32], category: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(U, RELATED + 1) the categories nearest to each query in the frozen space, nearest first, ties to the lowest, and
    behind them the number after the last, of items without a category, which nobody can call unrelated. -1: no more.

    Args:
        query_vectors: (U, D).
        item_vectors: (I, D).
        category: (I,) from 0, -1 for an item without one.
    """
    none = int(category.max(initial=-1)) + 1
    out = np.full((len(query_vectors), RELATED + 1), -1, dtype=np.int64)
    out[:, -1] = none
    if none:
        values, centroids = category_centroids(item_vectors, category)
        for begin in range(0, len(query_vectors), CHUNK):
            cosine = query_vectors[begin : begin + CHUNK] @ centroids.T
            nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :RELATED]
            out[begin : begin + CHUNK, : nearest.shape[1]] = values[nearest]
    return out


class Latent(NamedTuple):
    """Where SIDs lie in the codebooks' space."""

    sids: NDArray[np.int64]
    """(S,) ascending, distinct, as generators emit them."""
    vectors: NDArray[np.float32]
    """(S, dim) the code vectors of each SID summed, of length sqrt(dim)."""


def latent_of(codebooks: Sequence[NDArray[np.float32]], recent: NDArray[np.int64]) -> Latent:
    """The distinct SIDs of histories (any shape, -1: none) by their code vectors; `codebooks` (K_l, dim) a level."""
    sids = np.unique(recent[recent >= 0])
    codes = unpack_sids(sids)
    vectors = [book[codes[:, level]] for level, book in enumerate(codebooks)]
    # As one array, so that the sum is over the same axis whatever the number of levels.
    summed = np.stack(vectors, axis=1).sum(axis=1)
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return Latent(sids, (summed / np.maximum(length, 1e-12) * summed.shape[1] ** 0.5).astype(np.float32))


def user_vectors(
    attributes: NDArray[np.integer], counts: Sequence[int], recent: NDArray[np.int64], latent: Latent
) -> NDArray[np.float32]:
    """Who asks, as the embedded generator reads it: zeros where nothing is known.

    Args:
        attributes: (B, A) place of each attribute's value among those known, -1: unknown.
        counts: A, values known of each attribute.
        recent: (B, RECENT) SIDs, all of them in `latent`; -1: none.
        latent: of the codebook.

    Returns:
        (B, sum(counts) + dim): each attribute one-hot, and the mean of the recent SIDs' latent vectors.
    """
    parts = [attributes[:, column, None] == np.arange(count) for column, count in enumerate(counts)]
    known = recent >= 0
    vectors = np.zeros((*recent.shape, latent.vectors.shape[1]), dtype=np.float32)
    vectors[known] = latent.vectors[np.searchsorted(latent.sids, recent[known])]
    mean = vectors.sum(axis=1) / np.maximum(known.sum(axis=1), 1)[:, None]
    return np.hstack([*parts, mean]).astype(np.float32)


def asked_vectors(
    query_vectors: NDArray[np.float32],
    query_row: NDArray[np.integer],
    attributes: NDArray[np.integer],
    counts: Sequence[int],
    recent: NDArray[np.int64],
    latent: Latent,
) -> NDArray[np.float32]:
    """B requests as the embedded generator reads them: (B, D + C), the query's vector and `user_vectors`.

    Args:
        query_vectors: (U, D).
        query_row: (B,) of `query_vectors`.
        attributes: as `user_vectors` takes it, and what follows.
        counts: A.
        recent: (B, RECENT).
        latent: of the codebook.
    """
    width = query_vectors.shape[1]
    out = np.empty((len(query_row), width + sum(counts) + latent.vectors.shape[1]), dtype=np.float32)
    for begin in range(0, len(out), CHUNK):
        rows = slice(begin, begin + CHUNK)
        out[rows, :width] = query_vectors[query_row[rows]]
        out[rows, width:] = user_vectors(attributes[rows], counts, recent[rows], latent)
    return out

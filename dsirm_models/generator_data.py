"""Training examples of a generator: weighted (query, SID) pairs, checked, put into one canonical order, drawn by step.

The papers train query -> SID of an item clicked or bought (DSIRM, query side; CQ-SID stage 2 samples 3 SIDs a query).
Here every query has a list of weighted SIDs, and a step draws queries, then SIDs of each in proportion to weight.
Everything drawn is a function of (seed, step) and of the pairs as a set: the order of rows changes nothing, and a
run resumed at step s draws what an uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsirm_models.sid_index import SidIndex
from schemas.sids import BITS, LEVELS, MAX_CODE, shift_for


class Asked(NamedTuple):
    """A query with who asks, as a causal LM reads it; a query alone is a plain text."""

    query: str
    about: str
    """What is known of the user, in a few words; empty: nothing."""
    recent: tuple[int, ...]
    """Packed SIDs, as generators emit them, of what the user clicked before, latest first."""


class EmbeddedData(NamedTuple):
    """Pairs for the embedded backend: N pairs over Q queries."""

    query_embeddings: NDArray[np.float32]
    """(Q, D) vectors of the frozen encoder, or (Q, D + C) with who asks beside them."""
    query_index: NDArray[np.int64]
    """(N,) row of the pair's query in `query_embeddings`."""
    sids: NDArray[np.int64]
    """(N,) packed SID of the pair's item."""
    weight: NDArray[np.floating]
    """(N,) positive."""
    train: NDArray[np.bool_]
    """(N,) False: held out, used to choose among epochs only. Hold out whole queries: new queries are what counts."""


class TextData(NamedTuple):
    """Pairs for the causal-LM backend: N pairs over Q texts."""

    texts: Sequence[str | Asked]
    """Q texts: normalised queries, or whatever else is to be answered with a SID (CQ-SID stage 1: titles; stage 3:
    queries with who asks)."""
    query_index: NDArray[np.int64]
    """(N,) position of the pair's text in `texts`."""
    sids: NDArray[np.int64]
    """(N,) packed SID of the pair's item."""
    weight: NDArray[np.floating]
    """(N,) positive."""
    train: NDArray[np.bool_]
    """(N,) False: held out."""


class Targets(NamedTuple):
    """The SIDs of U queries, ascending by query and SID, one row per distinct (query, SID): P rows."""

    queries: NDArray[np.int64]
    """(U,) the queries that have targets, ascending."""
    starts: NDArray[np.int64]
    """(U + 1,) the targets of queries[u] are rows starts[u]..starts[u + 1] - 1."""
    codes: NDArray[np.int64]
    """(P, L)"""
    share: NDArray[np.float64]
    """(P,) weight within the query, summing to 1 for each query."""
    running: NDArray[np.float64]
    """(P,) running sum of `share` over all rows."""
    total: NDArray[np.float64]
    """(U,) summed weight of each query."""


class Prepared(NamedTuple):
    """Checked pairs, ready to draw from."""

    train: Targets
    held_out: Targets
    """Possibly without any query."""
    fingerprint: str
    """Hex sha256 over both sets of pairs: a checkpoint continues the same data only."""


def prepare(
    *,
    queries: int,
    query_index: NDArray[np.int64],
    sids: NDArray[np.int64],
    weight: NDArray[np.floating],
    train: NDArray[np.bool_],
    codebook_sizes: tuple[int, ...],
) -> Prepared:
    """Check N pairs over `queries` queries and split them into training and held-out targets.

    Raises:
        ValueError: everything wrong with the pairs, at once.
    """
    count = len(query_index)
    problems = [
        f"{name} has shape {array.shape}, not ({count},)"
        for name, array in (("sids", sids), ("weight", weight), ("train", train))
        if array.shape != (count,)
    ]
    if train.dtype != np.bool_:
        problems.append(f"train is {train.dtype}, not bool")
    if not problems and count:
        if query_index.min() < 0 or query_index.max() >= queries:
            problems.append(f"query_index reaches outside 0..{queries - 1}")
        if sids.min() < 0 or sids.max() >> BITS * LEVELS:
            problems.append("sids holds a number that is not a packed SID")
        else:
            largest = unpack_sids(sids).max(axis=0)
            if len(codebook_sizes) != LEVELS or (largest >= np.array(codebook_sizes)).any():
                problems.append(f"sids reach codes {tuple(largest.tolist())}, over codebooks of {codebook_sizes}")
        if not (np.isfinite(weight).all() and (weight > 0).all()):
            problems.append("weight must be finite and positive")
    if not problems and not train.any():
        problems.append("no pair is marked for training")
    if problems:
        raise ValueError("Cannot train a generator on these pairs: " + "; ".join(problems) + ".")
    parts = [_targets(query_index[rows], sids[rows], weight[rows]) for rows in (train, ~train)]
    digest = hashlib.sha256()
    for part in parts:
        for array in part:
            digest.update(str(array.shape).encode() + array.tobytes())
    return Prepared(parts[0], parts[1], digest.hexdigest())


def draw_queries(targets: Targets, *, step: int, batch: int, power: float, seed: int) -> NDArray[np.int64]:
    """The queries of one step: positions (B,) in `targets.queries`.

    power 0 goes through a fresh permutation each epoch, every query alike. Above 0, queries are drawn with replacement
    in proportion to total weight ** power, so 1 means in proportion to traffic.
    """
    count = len(targets.queries)
    if power > 0:
        chance = np.cumsum(targets.total**power)
        draws = np.random.default_rng([seed, 1, step]).random(batch) * chance[-1]
        drawn: NDArray[np.int64] = np.minimum(np.searchsorted(chance, draws, side="right"), count - 1)
        return drawn
    place = np.arange(step * batch, (step + 1) * batch)
    rows = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(place // count):
        order = np.random.default_rng([seed, 2, int(epoch)]).permutation(count)
        inside = place // count == epoch
        rows[inside] = order[place[inside] % count]
    return rows


def draw_targets(
    targets: Targets, rows: NDArray[np.int64], *, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """For queries at positions rows (B,), `count` SIDs each, in proportion to weight: codes (B, count, L).

    Stratified: one draw from each `count`-th of the query's weight, so a strong SID is not missed by bad luck.
    """
    begin, end = targets.starts[rows], targets.starts[rows + 1]
    # `share` sums to 1 per query, so the running sum of query u covers u..u+1 up to rounding; clip to its own rows.
    low = targets.running[begin] - targets.share[begin]
    wanted = low[:, None] + (np.arange(count) + rng.random((len(rows), count))) / count
    position = np.searchsorted(targets.running, wanted, side="right")
    return targets.codes[np.clip(position, begin[:, None], end[:, None] - 1)]


def _targets(query: NDArray[np.int64], sids: NDArray[np.int64], weight: NDArray[np.floating]) -> Targets:
    """Canonical order, repeats of a (query, SID) added up."""
    # Weight is a sort key too: repeats are then added in one order whatever the order of rows, and floats add up alike.
    order = np.lexsort((weight, sids, query))
    query, sids, exact = query[order], sids[order], weight[order].astype(np.float64)
    first = np.ones(len(query), dtype=np.bool_)
    first[1:] = (query[1:] != query[:-1]) | (sids[1:] != sids[:-1])
    begin = np.flatnonzero(first)
    summed = np.add.reduceat(exact, begin) if len(begin) else exact
    query, sids = query[begin], sids[begin]
    queries, starts = np.unique(query, return_index=True)
    total = np.add.reduceat(summed, starts) if len(starts) else summed
    ends = np.append(starts, len(query)).astype(np.int64)
    share = summed / np.repeat(total, np.diff(ends))
    return Targets(queries, ends, unpack_sids(sids), share, np.cumsum(share), total)


def unpack_sids(sids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Packed SIDs of any shape (...) -> codes (..., L)."""
    return np.stack([sids >> shift_for(depth) & MAX_CODE for depth in range(1, LEVELS + 1)], axis=-1)


def check_index(index: SidIndex, sids: NDArray[np.int64], codebook_sizes: tuple[int, ...]) -> None:
    """Refuse to train over the valid children of an index that lacks a pair's SID: its likelihood would be zero.

    Raises:
        ValueError: a SID of the pairs (N,) is missing from the index, or the index needs larger codebooks.
    """
    index.check_codebook_sizes(codebook_sizes)
    missing = int((~index.contains(torch.from_numpy(sids).to(index.device))).sum())
    if missing:
        raise ValueError(f"{missing} of {len(sids)} pairs have a SID that the index does not hold: it is not theirs.")

"""How good a ranking of judged pairs is, exactly, and how sure one can be of a difference.

Arrays of N pairs: `scores (N,)`, `relevant (N,)` bool, `grades (N,)` 0..3, `query (N,)` int64 group numbers 0..Q-1.
Ties count half everywhere (midranks), so no metric depends on the order of the rows. A metric that is not defined (one
class only) is NaN, never 0 or 0.5.

A difference between two rankers varies with the judged queries and with the seeds of training. `Resamples` holds draws
of both with replacement; the same draws serve every ranker, which makes the comparison paired.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.uint16]

# Floats in one temporary of the weighted AUC: 8 MB, near a cache's size, at least one draw.
_CHUNK = 1 << 20


def query_folds(query_ids: ArrayLike, *, folds: int, seed: int) -> Ints:
    """A fold 0..folds-1 for each row (N,), whole queries together, as many queries a fold as can be.

    Depends on the set of ids and the seed alone, not on row order or repetition.

    Raises:
        ValueError: fewer than two folds, or fewer queries than folds.

    """
    ids, row = np.unique(np.asarray(query_ids), return_inverse=True)
    if folds < 2 or len(ids) < folds:
        raise ValueError(f"{len(ids)} queries cannot be put into {folds} folds of at least one, two folds or more.")
    fold_of_query = np.empty(len(ids), dtype=np.int64)
    fold_of_query[np.random.default_rng(seed).permutation(len(ids))] = np.arange(len(ids)) % folds
    return fold_of_query[row]


def auc(scores: ArrayLike, relevant: ArrayLike) -> float:
    """Share of (relevant, other) pairs that the scores put in order, ties half; NaN without both classes."""
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    return float(auc_by_group(values, flags, np.zeros(len(values), dtype=np.int64), groups=1)[0])


def auc_by_group(scores: Floats, relevant: Flags, query: Ints, *, groups: int) -> Floats:
    """AUC within each query, (Q,); NaN where a query lacks one class."""
    order = np.lexsort((scores, query))
    sorted_query, flags = query[order], relevant[order]
    ranks = _midranks(scores[order], sorted_query)
    positives = np.bincount(sorted_query, weights=flags, minlength=groups)
    sizes = np.bincount(sorted_query, minlength=groups)
    first = np.cumsum(sizes) - sizes
    rank_sum = np.bincount(sorted_query, weights=np.where(flags, ranks - first[sorted_query], 0.0), minlength=groups)
    comparisons = positives * (sizes - positives)
    # Mann and Whitney: ranks start at one within the query.
    wins = rank_sum - positives * (positives + 1) / 2
    return ratio(wins, comparisons)


def _midranks(scores: Floats, group: Ints) -> Floats:
    """Ranks 1..N of rows sorted by (group, score), ties within a group sharing their mean rank."""
    start, end = _tie_runs(scores, group)
    return (start + end + 1) / 2


def _tie_runs(scores: Floats, group: Ints) -> tuple[Ints, Ints]:
    """For each row of sorted rows: the first row of its run of equal (group, score), and one past the last."""
    if not len(scores):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    new = np.r_[True, (scores[1:] != scores[:-1]) | (group[1:] != group[:-1])]
    run = np.cumsum(new) - 1
    starts = np.flatnonzero(new)
    return starts[run], np.r_[starts[1:], len(scores)][run]


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Element by element, NaN where the denominator is 0."""
    above, below = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def best_f1_threshold(scores: ArrayLike, relevant: ArrayLike) -> float:
    """The score t for which `score >= t` has the best F1; the highest such t. +inf where nothing is relevant."""
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if not flags.any():
        return float("inf")
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(flags[order])
    f1 = 2 * hits / (np.arange(1, len(values) + 1) + flags.sum())
    # Equal scores are accepted together: only the last of a run is a possible cut.
    last = np.r_[values[order][1:] != values[order][:-1], True]
    return float(values[order][np.argmax(np.where(last, f1, -1.0))])


def ndcg_by_group(scores: Floats, grades: Ints, query: Ints, *, groups: int, k: int = 10) -> Floats:
    """nDCG@k of each query, (Q,), gain 2^grade - 1, discount 1 / log2(rank + 1); NaN where no grade is above 0.

    Tied rows share the mean discount of their ranks: the expected value over random orders of the ties, so neither luck
    nor row order decides (McSherry and Najork 2008).
    """
    gains = np.exp2(grades.astype(np.float64)) - 1
    dcg = _dcg(scores, gains, query, groups, k)
    ideal = _dcg(gains, gains, query, groups, k)
    return ratio(dcg, ideal)


def _dcg(scores: Floats, gains: Floats, query: Ints, groups: int, k: int) -> Floats:
    order = np.lexsort((-scores, query))
    sorted_query = query[order]
    sizes = np.bincount(sorted_query, minlength=groups)
    first = (np.cumsum(sizes) - sizes)[sorted_query]
    discounts = np.zeros(int(sizes.max(initial=0)) + 1)
    top = min(k, len(discounts) - 1)
    discounts[1 : top + 1] = 1 / np.log2(np.arange(top) + 2)
    # summed[r] = discounts of the first r ranks
    summed = np.cumsum(discounts)
    start, end = _tie_runs(scores[order], sorted_query)
    share = (summed[end - first] - summed[start - first]) / (end - start)
    return np.bincount(sorted_query, weights=gains[order] * share, minlength=groups).astype(np.float64)


class Resamples(NamedTuple):
    """Draws with replacement, as counts: how often each query and each seed was drawn."""

    queries: Counts
    """(B, Q): each row sums to Q. Small numbers: 10,000 draws of 10,000 queries take 200 MB."""
    seeds: Counts
    """(B, S): each row sums to S."""


def draw_resamples(*, queries: int, seeds: int, draws: int, seed: int) -> Resamples:
    """B draws of all queries and all seeds with replacement, jointly. Both counts of a draw are used together."""
    if queries < 1 or seeds < 1 or draws < 1:
        raise ValueError(f"At least one query, seed and draw are needed, not {queries}, {seeds}, {draws}.")
    generator = np.random.default_rng(seed)
    query_counts = generator.multinomial(queries, np.full(queries, 1 / queries), size=draws)
    seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    return Resamples(query_counts.astype(np.uint16), seed_counts.astype(np.uint16))


def resampled_auc(scores: Floats, relevant: Flags, query: Ints, query_counts: Counts) -> Floats:
    """Pooled AUC of each draw, (B,), every row counted as often as its query was drawn; NaN where a class is not drawn.

    Ordered pairs of rows are counted once per pair of queries, so that a draw c costs a quadratic form `c W c` over the
    queries that occur, whatever the number of rows. Equal to `auc` of the repeated rows.
    """
    present, local = np.unique(query, return_inverse=True)
    wins = _wins_by_query(scores, relevant, local, len(present))
    positives = np.bincount(local, weights=relevant, minlength=len(present))
    negatives = np.bincount(local, weights=~relevant, minlength=len(present))
    out = np.empty(len(query_counts))
    step = max(1, _CHUNK // max(len(present), 1))
    for at in range(0, len(out), step):
        drawn = query_counts[at : at + step][:, present].astype(np.float64)
        won = np.einsum("bq,bq->b", drawn @ wins, drawn)
        out[at : at + step] = ratio(won, (drawn @ positives) * (drawn @ negatives))
    return out


def _wins_by_query(scores: Floats, relevant: Flags, query: Ints, queries: int) -> Floats:
    """(Q, Q): how many negatives of query j score below the positives of query i, ties half."""
    wins, below = np.zeros((queries, queries)), np.zeros(queries)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    edges = np.r_[0, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(order)] if len(order) else np.zeros(1, int)
    for first, end in pairwise(edges.tolist()):
        rows = order[first:end]
        tied = np.bincount(query[rows[~relevant[rows]]], minlength=queries)
        for at in query[rows[relevant[rows]]]:
            wins[at] += below + tied / 2
        below += tied
    return wins


def resampled_ratio(above: ArrayLike, below: ArrayLike, query_counts: Counts) -> Floats:
    """A ratio of two sums over queries, `above (Q,)` and `below (Q,)`, under each draw: (B,), NaN where
    below sums to 0.

    A mean over some queries is such a ratio, with 1 below for these queries and 0 for the others.
    """
    both = np.stack([np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)], axis=1)
    out = np.empty(len(query_counts))
    step = max(1, _CHUNK // len(both))
    for at in range(0, len(out), step):
        sums = query_counts[at : at + step].astype(np.float64) @ both
        out[at : at + step] = ratio(sums[:, 0], sums[:, 1])
    return out


class Interval(NamedTuple):
    """A difference with a percentile bootstrap interval."""

    difference: float
    low: float
    high: float


def paired_interval(observed: ArrayLike, resampled: Floats, seed_counts: Counts, *, level: float = 0.95) -> Interval:
    """Difference of two rankers over seeds, with the interval over queries and seeds together.

    Args:
        observed: (S,) difference of the metric at each seed, on the queries as they are.
        resampled: (S, B) the same difference under each draw of queries.
        seed_counts: (B, S) how often a draw took each seed (`Resamples.seeds`).
        level: the share of draws inside the interval.

    Draws for which a seed's difference is not defined are left out; all of them undefined gives NaN bounds.

    """
    # A seed that was not drawn must not count even where its difference is NaN.
    weighted = np.where(seed_counts.T > 0, seed_counts.T * resampled, 0.0).sum(axis=0) / seed_counts.sum(axis=1)
    weighted = weighted[np.isfinite(weighted)]
    difference = float(np.mean(np.asarray(observed, dtype=np.float64)))
    if not len(weighted):
        return Interval(difference, float("nan"), float("nan"))
    low, high = np.quantile(weighted, [(1 - level) / 2, (1 + level) / 2])
    return Interval(difference, float(low), float(high))


class CalibrationRow(NamedTuple):
    """Pairs whose P(grade >= `grade`) fell into one tenth: what was predicted and what was so."""

    grade: int
    bin: int
    predicted: float
    observed: float
    pairs: int


def calibration(at_least: Floats, grades: Ints, *, bins: int = 10) -> list[CalibrationRow]:
    """Reliability of ordinal predictions: P(grade >= 1, 2, 3) (N, 3) against grades (N,), in bins of equal width."""
    rows = []
    for grade in range(1, at_least.shape[1] + 1):
        found = at_least[:, grade - 1]
        place = np.minimum((found * bins).astype(np.int64), bins - 1)
        for number in np.unique(place):
            inside = place == number
            rows.append(
                CalibrationRow(
                    grade,
                    int(number),
                    float(found[inside].mean()),
                    float((grades[inside] >= grade).mean()),
                    int(inside.sum()),
                )
            )
    return rows

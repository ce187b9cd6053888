"""What a set of features is worth to the ranker: the comparison behind DSIRM's main table (papers, section 1).

Every variant goes through the same ranker, folds and seeds, and differs from the variant `none` in its features alone.
A seed decides the folds, the ranker's start, and - where the caller has them - the features themselves, so that the
seed of a quantizer is part of the uncertainty. Gaps that the paper reports as under 0.1 point are expected to lie
inside these intervals on small data; say so rather than picking a seed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsirm_models.ranker import RankerConfig, train_ranker
from dsirm_models.ranking_metrics import (
    Floats,
    Ints,
    Resamples,
    auc,
    auc_by_group,
    best_f1_threshold,
    draw_resamples,
    ndcg_by_group,
    paired_interval,
    query_folds,
    ratio,
    resampled_auc,
    resampled_ratio,
)

NONE = "none"
"""The variant without SID features, which all others are compared with."""
METRICS = ("auc", "auc_query", "precision", "recall", "ndcg10")
ALL = "all"

_log = logging.getLogger(__name__)


class VariantFeatures(NamedTuple):
    """The ranker's inputs for N pairs under one variant. A leading axis S gives each seed features of its own."""

    dense: NDArray[np.floating]
    """(N, F) or (S, N, F): the base features, then the variant's soft scores."""
    ss_depth: NDArray[np.integer] | None = None
    """(N,) or (S, N): match depth 0..3, -1 without a SID; None for a variant without the feature."""


class ScoreRow(NamedTuple):
    """Metrics of one variant, seed and slice; NaN where a metric is not defined (one class only)."""

    variant: str
    seed: int
    slice: str
    """`all`, or `name=label`."""
    auc: float
    """Pooled AUC of each test fold, averaged over the folds that have both classes."""
    auc_query: float
    """AUC within a query, averaged over the queries with both classes."""
    precision: float
    """Over all test pairs, accepted at the threshold of best F1 on the training folds."""
    recall: float
    ndcg10: float
    """Averaged over the queries with a grade above 0."""
    pairs: int
    queries: int


class Comparison(NamedTuple):
    """Variant minus the one it is compared with, averaged over seeds, with a 95 % paired bootstrap interval."""

    variant: str
    against: str
    slice: str
    metric: str
    difference: float
    low: float
    high: float
    seeds: int
    queries: int


class StudyResult(NamedTuple):
    """Everything a report needs; `rows` and `comparisons` are flat and go into a table as they are."""

    rows: tuple[ScoreRow, ...]
    comparisons: tuple[Comparison, ...]
    scores: Mapping[str, Floats]
    """Per variant (S, N): the expected grade of each pair, predicted while its query was in the test fold."""


class _Predictions(NamedTuple):
    scores: Floats
    """(S, N)"""
    accepted: NDArray[np.bool_]
    """(S, N): at or above the threshold of the row's training folds."""


class _Pairs(NamedTuple):
    query: Ints
    """(N,) 0..Q-1"""
    grades: Ints
    relevant: NDArray[np.bool_]
    folds: Ints
    """(S, N)"""


def cross_validate(
    *,
    variants: Mapping[str, VariantFeatures],
    query_ids: ArrayLike,
    grades: ArrayLike,
    seeds: Sequence[int],
    config: RankerConfig,
    folds: int = 5,
    slices: Mapping[str, Sequence[str] | NDArray[np.str_]] | None = None,
    against: str = NONE,
    relevant_from: int = 2,
    draws: int = 10_000,
    bootstrap_seed: int = 0,
) -> StudyResult:
    """Train each variant on all folds but one, predict that one, for every seed; then compare with `against`.

    Args:
        variants: features by name; `against` must be among them.
        query_ids: (N,) the query of each pair; a query never spans two folds.
        grades: (N,) one final grade 0..3 a pair.
        seeds: S seeds. Seed s uses folds and ranker start of its own, the same for every variant.
        config: the ranker's settings, the same for every variant.
        folds: parts of about the same number of queries.
        slices: by name the label of each pair, (N,): `{"length": ["1 word", ...]}`. Metrics are of the pairs of one
            label; training always sees all pairs.
        against: the variant that the others are compared with.
        relevant_from: the lowest grade that counts as relevant.
        draws: of the bootstrap, queries and seeds together.
        bootstrap_seed: decides the draws.

    Raises:
        ValueError: with all problems: no seeds or repeated ones, shapes that do not fit, grades out of range, a missing
            `against`; or what `train_ranker` and `query_folds` refuse.

    """
    labels = {name: np.asarray(values) for name, values in (slices or {}).items()}
    grade = np.asarray(grades, dtype=np.int64)
    _check(variants, np.asarray(query_ids), grade, seeds, labels, against)
    _, query = np.unique(np.asarray(query_ids), return_inverse=True)
    pairs = _Pairs(
        query=query.astype(np.int64),
        grades=grade,
        relevant=grade >= relevant_from,
        folds=np.stack([query_folds(query, folds=folds, seed=seed) for seed in seeds]),
    )
    predictions = {}
    for name, features in variants.items():
        predictions[name] = _predict(features, pairs, seeds, config, folds)
        _log.info("Variant %s: %d rankers fitted", name, len(seeds) * folds)

    masks = {ALL: np.ones(len(grade), dtype=bool)}
    for name, label_of in labels.items():
        masks |= {f"{name}={label}": label_of == label for label in np.unique(label_of)}
    resamples = draw_resamples(queries=int(query.max()) + 1, seeds=len(seeds), draws=draws, seed=bootstrap_seed)
    rows: list[ScoreRow] = []
    comparisons: list[Comparison] = []
    for slice_name, mask in masks.items():
        part = _Pairs(query[mask], grade[mask], pairs.relevant[mask], pairs.folds[:, mask])
        present = len(np.unique(part.query))
        measured = {
            name: _measure(_Predictions(p.scores[:, mask], p.accepted[:, mask]), part, folds, resamples)
            for name, p in predictions.items()
        }
        for name, result in measured.items():
            for at, seed in enumerate(seeds):
                area, area_query, precision, recall, ndcg = (float(result[metric].observed[at]) for metric in METRICS)
                rows.append(
                    ScoreRow(
                        variant=name,
                        seed=seed,
                        slice=slice_name,
                        auc=area,
                        auc_query=area_query,
                        precision=precision,
                        recall=recall,
                        ndcg10=ndcg,
                        pairs=len(part.query),
                        queries=present,
                    )
                )
        for name in variants:
            if name != against:
                comparisons += _compare(name, against, slice_name, measured, resamples, present)
    return StudyResult(tuple(rows), tuple(comparisons), {name: p.scores for name, p in predictions.items()})


def null_control(features: VariantFeatures, *, base_columns: int, query_ids: ArrayLike, seed: int) -> VariantFeatures:
    """A variant of the same width whose SID columns are noise, constant within a query: what width alone is worth.

    The first `base_columns` dense columns stay; each further column is replaced by one standard normal number a query,
    the match depth by one drawn for each query from the depths that occur. Such features say nothing of an item, so
    whatever they seem to gain is noise of the study.

    Raises:
        ValueError: fewer dense columns than `base_columns`.

    """
    if features.dense.shape[-1] < base_columns:
        raise ValueError(f"{base_columns} base columns, but only {features.dense.shape[-1]} dense columns in all.")
    _, query = np.unique(np.asarray(query_ids), return_inverse=True)
    queries = int(query.max()) + 1
    generator = np.random.default_rng(seed)
    leading, extra = features.dense.shape[:-2], features.dense.shape[-1] - base_columns
    noise = generator.standard_normal((*leading, queries, extra))[..., query, :]
    dense = np.concatenate([features.dense[..., :base_columns], noise.astype(features.dense.dtype)], axis=-1)
    if features.ss_depth is None:
        return VariantFeatures(dense)
    depth = generator.choice(features.ss_depth.ravel(), size=(*features.ss_depth.shape[:-1], queries))[..., query]
    return VariantFeatures(dense, depth)


def _predict(
    features: VariantFeatures, pairs: _Pairs, seeds: Sequence[int], config: RankerConfig, folds: int
) -> _Predictions:
    scores = np.empty(pairs.folds.shape)
    accepted = np.empty(pairs.folds.shape, dtype=bool)
    for at, seed in enumerate(seeds):
        dense = features.dense[at] if features.dense.ndim == 3 else features.dense
        depth = features.ss_depth
        if depth is not None and depth.ndim == 2:
            depth = depth[at]
        for fold in range(folds):
            test = pairs.folds[at] == fold
            train = ~test
            ranker = train_ranker(
                features=dense[train],
                ss_depth=None if depth is None else depth[train],
                grades=pairs.grades[train],
                config=config,
                seed=seed,
            )
            predicted = ranker.predict(features=dense, ss_depth=depth).scores
            scores[at, test] = predicted[test]
            accepted[at, test] = predicted[test] >= best_f1_threshold(predicted[train], pairs.relevant[train])
    return _Predictions(scores, accepted)


class _Measured(NamedTuple):
    observed: Floats
    """(S,)"""
    resampled: Floats
    """(S, B): under each draw of queries."""


def _measure(predictions: _Predictions, pairs: _Pairs, folds: int, resamples: Resamples) -> dict[str, _Measured]:
    """Every metric at each seed, as observed and under each draw of queries."""
    groups = resamples.queries.shape[1]
    per_seed: dict[str, list[tuple[float, Floats]]] = {metric: [] for metric in METRICS}
    for scores, accepted, fold in zip(predictions.scores, predictions.accepted, pairs.folds, strict=True):
        parts = [fold == number for number in range(folds)]
        observed = np.array([auc(scores[part], pairs.relevant[part]) for part in parts])
        drawn = np.stack(
            [resampled_auc(scores[part], pairs.relevant[part], pairs.query[part], resamples.queries) for part in parts]
        )
        per_seed["auc"].append((float(_mean(observed)), _mean(drawn)))

        within = auc_by_group(scores, pairs.relevant, pairs.query, groups=groups)
        ranked = ndcg_by_group(scores, pairs.grades, pairs.query, groups=groups)
        hits = np.bincount(pairs.query, weights=accepted & pairs.relevant, minlength=groups)
        # The others are ratios of sums over queries, so a draw is a product with its counts.
        for metric, above, below in (
            ("auc_query", np.nan_to_num(within), np.isfinite(within)),
            ("ndcg10", np.nan_to_num(ranked), np.isfinite(ranked)),
            ("precision", hits, np.bincount(pairs.query, weights=accepted, minlength=groups)),
            ("recall", hits, np.bincount(pairs.query, weights=pairs.relevant, minlength=groups)),
        ):
            value = float(ratio(np.sum(above), np.sum(below)))
            per_seed[metric].append((value, resampled_ratio(above, below, resamples.queries)))
    return {
        metric: _Measured(np.array([value for value, _ in both]), np.stack([draw for _, draw in both]))
        for metric, both in per_seed.items()
    }


def _mean(values: Floats) -> Floats:
    """Mean over the first axis of what is defined, NaN where nothing is."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def _compare(
    variant: str,
    against: str,
    slice_name: str,
    measured: Mapping[str, Mapping[str, _Measured]],
    resamples: Resamples,
    queries: int,
) -> list[Comparison]:
    rows = []
    for metric in METRICS:
        first, second = measured[variant][metric], measured[against][metric]
        interval = paired_interval(
            first.observed - second.observed, first.resampled - second.resampled, resamples.seeds
        )
        rows.append(
            Comparison(variant, against, slice_name, metric, *interval, seeds=len(first.observed), queries=queries)
        )
    return rows


def _check(
    variants: Mapping[str, VariantFeatures],
    query_ids: NDArray[np.generic],
    grades: Ints,
    seeds: Sequence[int],
    labels: Mapping[str, NDArray[np.generic]],
    against: str,
) -> None:
    pairs = len(grades)
    problems = []
    if not seeds or len(set(seeds)) != len(seeds):
        problems.append(f"seeds must be given and differ, not {list(seeds)}")
    if against not in variants:
        problems.append(f"no variant {against!r} to compare with among {sorted(variants)}")
    if not pairs or grades.shape != (pairs,) or query_ids.shape != (pairs,):
        problems.append(
            f"grades {grades.shape} and query_ids {query_ids.shape} must be rows of equal length, not empty"
        )
    elif grades.min() < 0 or grades.max() > 3:
        problems.append(f"grades are 0..3, not {grades.min()}..{grades.max()}")
    for name, features in variants.items():
        rows = {(pairs,), (len(seeds), pairs)}
        if features.dense.shape[:-1] not in rows:
            problems.append(f"{name}: dense is {features.dense.shape} for {pairs} pairs and {len(seeds)} seeds")
        if features.ss_depth is not None and features.ss_depth.shape not in rows:
            problems.append(f"{name}: ss_depth is {features.ss_depth.shape} for {pairs} pairs and {len(seeds)} seeds")
    problems += [f"slice {name}: {len(v)} labels for {pairs} pairs" for name, v in labels.items() if len(v) != pairs]
    if problems:
        raise ValueError("The study cannot run: " + "; ".join(problems) + ".")

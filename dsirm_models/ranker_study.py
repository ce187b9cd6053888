"""What a set of features is worth to a ranker: the comparison behind DSIRM's main table (papers, section 1).

Every variant goes through the same ranker, folds and seeds, and differs from the variant `none` in its features alone.
A seed decides the folds, the ranker's start, the features themselves where the caller has them (so that the seed of a
quantizer is part of the uncertainty), and in a simulated marketplace the whole world. Gaps that the paper reports as
under 0.1 point are expected to lie inside these intervals on small data; say so rather than picking a seed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsirm_models.rankers import Ranker, VariantFeatures
from dsirm_models.ranking_metrics import (
    Counts,
    Floats,
    Ints,
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
INNER_FOLDS = 3

_log = logging.getLogger(__name__)


class World(NamedTuple):
    """The judged pairs of one seed, N of them, and what each variant says of them."""

    seed: int
    variants: Mapping[str, VariantFeatures]
    query_ids: ArrayLike
    """(N,) the query of each pair; a query never spans two folds."""
    grades: NDArray[np.integer]
    """(N,) one final grade 0..3 a pair."""
    slices: Mapping[str, Sequence[str] | NDArray[np.str_]] = {}
    """By name the label of each pair, (N,): `{"length": ["1 word", ...]}`."""


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
    at_least: Mapping[str, tuple[Floats, ...]]
    """Per variant and seed (N, 3): P(grade >= 1, 2, 3), predicted while the pair's query was in the test fold."""


class _Part(NamedTuple):
    """The pairs of one seed, or of one slice of it."""

    query: Ints
    """(N,) 0..Q-1"""
    grades: Ints
    relevant: NDArray[np.bool_]
    fold: Ints

    def take(self, mask: NDArray[np.bool_]) -> _Part:
        return _Part(self.query[mask], self.grades[mask], self.relevant[mask], self.fold[mask])


class _Predictions(NamedTuple):
    at_least: Floats
    """(N, 3)"""
    accepted: NDArray[np.bool_]
    """(N,): at or above the threshold of the row's training folds."""


class _Measured(NamedTuple):
    observed: float
    resampled: Floats
    """(B,): under each draw of queries."""


def cross_validate(
    *,
    worlds: Sequence[World],
    ranker: Ranker,
    folds: int = 5,
    tune_on: Sequence[str] = (),
    pairs: Iterable[tuple[str, str]] | None = None,
    relevant_from: int = 2,
    draws: int = 10_000,
    bootstrap_seed: int = 0,
) -> StudyResult:
    """Train each variant on all folds but one, predict that one, for every seed; then compare.

    Args:
        worlds: one a seed. Worlds that hold the same queries share the draws of queries; else each has its own.
        ranker: how to fit, with its settings. Where there are several, inner folds of the training queries choose the
            one of least log loss over the variants of `tune_on`; all variants of a fold then use that one.
        folds: parts of about the same number of queries.
        tune_on: variants that the settings are chosen on; needed where the ranker has several settings.
        pairs: (variant, against) to compare; default: each variant against `none`.
        relevant_from: the lowest grade that counts as relevant.
        draws: of the bootstrap, queries and seeds together.
        bootstrap_seed: decides the draws.

    Raises:
        ValueError: with all problems: no seeds or repeated ones, shapes that do not fit, grades out of range, variants
            that are not there; or what a ranker and `query_folds` refuse.

    """
    names = list(worlds[0].variants) if worlds else []
    wanted = [(name, NONE) for name in names if name != NONE] if pairs is None else list(pairs)
    _check(worlds, names, wanted, ranker, tune_on)
    parts, predictions = [], []
    for world in worlds:
        distinct, query = np.unique(np.asarray(world.query_ids), return_inverse=True)
        grade = np.asarray(world.grades, dtype=np.int64)
        fold = query_folds(query, folds=folds, seed=world.seed)
        parts.append((distinct, _Part(query.astype(np.int64), grade, grade >= relevant_from, fold)))
        predictions.append(_predict(world, parts[-1][1], ranker, folds, tune_on))
        _log.info("Seed %d: %d variants, %d folds", world.seed, len(names), folds)
    shared = all(np.array_equal(distinct, parts[0][0]) for distinct, _ in parts)
    seed_draws = draw_resamples(queries=1, seeds=len(worlds), draws=draws, seed=bootstrap_seed).seeds
    counts = [
        draw_resamples(queries=len(distinct), seeds=1, draws=draws, seed=bootstrap_seed + (0 if shared else 1 + at))
        for at, (distinct, _) in enumerate(parts)
    ]
    rows: list[ScoreRow] = []
    comparisons: list[Comparison] = []
    for slice_name in _slice_names(worlds):
        measured: list[dict[str, dict[str, _Measured]]] = []
        queries = 0
        for at, world in enumerate(worlds):
            mask = _mask(world, slice_name)
            part = parts[at][1].take(mask)
            present = len(np.unique(part.query))
            queries += present
            of_seed = {
                name: _measure(p.at_least[mask].sum(axis=1), p.accepted[mask], part, folds, counts[at].queries)
                for name, p in predictions[at].items()
            }
            measured.append(of_seed)
            for name, values in of_seed.items():
                area, area_query, precision, recall, ndcg = (values[metric].observed for metric in METRICS)
                rows.append(
                    ScoreRow(
                        name,
                        world.seed,
                        slice_name,
                        area,
                        area_query,
                        precision,
                        recall,
                        ndcg,
                        len(part.query),
                        present,
                    )
                )
        found = queries // len(worlds) if shared else queries
        for variant, against in wanted:
            comparisons += _compare(variant, against, slice_name, measured, seed_draws, found)
    at_least = {name: tuple(of_seed[name].at_least for of_seed in predictions) for name in names}
    return StudyResult(tuple(rows), tuple(comparisons), at_least)


def _predict(world: World, part: _Part, ranker: Ranker, folds: int, tune_on: Sequence[str]) -> dict[str, _Predictions]:
    out = {
        name: _Predictions(np.empty((len(part.query), 3)), np.empty(len(part.query), dtype=bool))
        for name in world.variants
    }
    for fold in range(folds):
        test = part.fold == fold
        train = ~test
        setting = _choose(world, part, ranker, train, tune_on)
        for name, features in world.variants.items():
            at_least = ranker.fit(features.take(train), part.grades[train], setting, world.seed, features)
            score = at_least.sum(axis=1)
            threshold = best_f1_threshold(score[train], part.relevant[train])
            out[name].at_least[test] = at_least[test]
            out[name].accepted[test] = score[test] >= threshold
    return out


def _choose(world: World, part: _Part, ranker: Ranker, train: NDArray[np.bool_], tune_on: Sequence[str]) -> Any:
    """The setting of least log loss on inner folds of the training queries; the first of equals."""
    if len(ranker.settings) == 1:
        return ranker.settings[0]
    rows = np.flatnonzero(train)
    inner = query_folds(part.query[rows], folds=INNER_FOLDS, seed=world.seed)
    losses = np.zeros(len(ranker.settings))
    for at, setting in enumerate(ranker.settings):
        for name in tune_on:
            features = world.variants[name]
            for fold in range(INNER_FOLDS):
                fit, held = rows[inner != fold], rows[inner == fold]
                found = ranker.fit(features.take(fit), part.grades[fit], setting, world.seed, features.take(held))
                grade_at_least = part.grades[held][:, None] >= np.arange(1, 4)
                likely = np.clip(np.where(grade_at_least, found, 1 - found), 1e-6, 1)
                losses[at] -= np.log(likely).sum()
    return ranker.settings[int(losses.argmin())]


def _measure(
    scores: Floats, accepted: NDArray[np.bool_], part: _Part, folds: int, counts: Counts
) -> dict[str, _Measured]:
    """Every metric of one seed, as observed and under each draw of queries."""
    groups = counts.shape[1]
    of_fold = [part.fold == number for number in range(folds)]
    observed = np.array([auc(scores[rows], part.relevant[rows]) for rows in of_fold])
    drawn = np.stack([resampled_auc(scores[rows], part.relevant[rows], part.query[rows], counts) for rows in of_fold])
    out = {"auc": _Measured(float(_mean(observed)), _mean(drawn))}
    within = auc_by_group(scores, part.relevant, part.query, groups=groups)
    ranked = ndcg_by_group(scores, part.grades, part.query, groups=groups)
    hits = np.bincount(part.query, weights=accepted & part.relevant, minlength=groups)
    # The others are ratios of sums over queries, so a draw is a product with its counts.
    for metric, above, below in (
        ("auc_query", np.nan_to_num(within), np.isfinite(within)),
        ("ndcg10", np.nan_to_num(ranked), np.isfinite(ranked)),
        ("precision", hits, np.bincount(part.query, weights=accepted, minlength=groups)),
        ("recall", hits, np.bincount(part.query, weights=part.relevant, minlength=groups)),
    ):
        out[metric] = _Measured(float(ratio(np.sum(above), np.sum(below))), resampled_ratio(above, below, counts))
    return out


def _mean(values: Floats) -> Floats:
    """Mean over the first axis of what is defined, NaN where nothing is."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def _compare(
    variant: str,
    against: str,
    slice_name: str,
    measured: Sequence[Mapping[str, Mapping[str, _Measured]]],
    seed_draws: Counts,
    queries: int,
) -> list[Comparison]:
    rows = []
    for metric in METRICS:
        both = [(of_seed[variant][metric], of_seed[against][metric]) for of_seed in measured]
        interval = paired_interval(
            [first.observed - second.observed for first, second in both],
            np.stack([first.resampled - second.resampled for first, second in both]),
            seed_draws,
        )
        rows.append(Comparison(variant, against, slice_name, metric, *interval, seeds=len(both), queries=queries))
    return rows


def _slice_names(worlds: Sequence[World]) -> list[str]:
    found = {f"{name}={label}" for world in worlds for name, labels in world.slices.items() for label in set(labels)}
    return [ALL, *sorted(found)]


def _mask(world: World, slice_name: str) -> NDArray[np.bool_]:
    if slice_name == ALL:
        return np.ones(len(world.grades), dtype=bool)
    name, _, label = slice_name.partition("=")
    mask: NDArray[np.bool_] = np.asarray(world.slices[name]) == label
    return mask


def _check(
    worlds: Sequence[World],
    names: Sequence[str],
    wanted: Sequence[tuple[str, str]],
    ranker: Ranker,
    tune_on: Sequence[str],
) -> None:
    problems = []
    seeds = [world.seed for world in worlds]
    if not seeds or len(set(seeds)) != len(seeds):
        problems.append(f"seeds must be given and differ, not {seeds}")
    if not ranker.settings or (len(ranker.settings) > 1 and not tune_on):
        problems.append("a ranker needs a setting, and with several of them variants to choose on")
    asked = {name for pair in wanted for name in pair} | set(tune_on)
    problems += [f"no variant {name!r} among {sorted(names)}" for name in sorted(asked - set(names))]
    for world in worlds:
        count = len(world.grades)
        if set(world.variants) != set(names):
            problems.append(f"seed {world.seed} has other variants than the first")
        if not count or np.asarray(world.query_ids).shape != (count,):
            problems.append(f"seed {world.seed}: query_ids and grades must be rows of equal length, not empty")
        elif min(world.grades) < 0 or max(world.grades) > 3:
            problems.append(f"grades are 0..3, not {min(world.grades)}..{max(world.grades)}")
        for name, features in world.variants.items():
            shapes = [features.dense.shape[:1], *([] if features.ss_depth is None else [features.ss_depth.shape])]
            if any(shape != (count,) for shape in shapes):
                problems.append(f"{name}: features of shape {shapes} for {count} pairs")
        problems += [
            f"slice {name}: {len(v)} labels for {count} pairs" for name, v in world.slices.items() if len(v) != count
        ]
    if problems:
        raise ValueError("The study cannot run: " + "; ".join(problems) + ".")

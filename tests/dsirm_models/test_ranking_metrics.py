"""Ranking metrics: exact values by hand and against scikit-learn, ties, folds, and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from dsirm_models.ranking_metrics import (
    auc,
    auc_by_group,
    best_f1_threshold,
    draw_resamples,
    ndcg_by_group,
    paired_interval,
    query_folds,
    resampled_auc,
    resampled_ratio,
)

# Few distinct scores, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


def test_auc_by_hand():
    # Relevant at 3 and 1, others at 2, 1 and 0: 3 beats all three; 1 loses to 2, ties with 1, beats 0.
    assert auc([3, 1, 2, 1, 0], [True, True, False, False, False]) == pytest.approx((3 + 0 + 0.5 + 1) / 6)
    assert auc([5, 5, 5], [True, False, False]) == 0.5
    assert math.isnan(auc([1, 2], [True, True]))


@given(PAIRS)
def test_auc_agrees_with_sklearn_and_survives_monotone_maps(pairs):
    scores, relevant = np.array([s for s, _ in pairs], dtype=float), np.array([r for _, r in pairs])
    value = auc(scores, relevant)
    if relevant.all() or not relevant.any():
        assert math.isnan(value)
        return
    assert value == pytest.approx(roc_auc_score(relevant, scores))
    assert auc(np.exp(scores) * 7 - 2, relevant) == value
    assert auc(-scores, relevant) == pytest.approx(1 - value)
    assert auc(scores[::-1], relevant[::-1]) == value


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 2), st.booleans()), min_size=1, max_size=50))
def test_auc_within_queries_is_the_auc_of_each_query(rows):
    query, scores, relevant = (np.array(column) for column in zip(*rows, strict=True))
    grouped = auc_by_group(scores.astype(float), relevant, query, groups=6)
    alone = [auc(scores[query == q], relevant[query == q]) for q in range(6)]
    assert np.allclose(grouped, alone, equal_nan=True)


def test_best_f1_threshold_accepts_whole_runs_of_ties_and_the_highest_of_equals():
    assert best_f1_threshold([0.9, 0.8, 0.2], [True, True, False]) == 0.8
    # Cutting between the two 0.8 would be perfect, but equal scores cannot be told apart.
    assert best_f1_threshold([0.9, 0.8, 0.8], [True, True, False]) == 0.8
    # F1 is 2/3 at 0.9 and again at 0.2.
    assert best_f1_threshold([0.9, 0.5, 0.4, 0.2], [True, False, False, True]) == 0.9
    assert best_f1_threshold([0.9], [False]) == math.inf


def test_ndcg_by_hand_and_expected_over_ties():
    query = np.zeros(3, dtype=np.int64)
    grades = np.array([0, 3, 1])
    ideal = 7 + 1 / math.log2(3)
    assert ndcg_by_group(np.array([3.0, 2.0, 1.0]), grades, query, groups=1)[0] == pytest.approx(
        (7 / math.log2(3) + 1 / 2) / ideal
    )
    mean_discount = (1 + 1 / math.log2(3) + 1 / 2) / 3
    assert ndcg_by_group(np.ones(3), grades, query, groups=1)[0] == pytest.approx(8 * mean_discount / ideal)
    # k = 1: only the first place counts.
    assert ndcg_by_group(np.array([1.0, 3.0, 2.0]), grades, query, groups=1, k=1)[0] == 1.0
    assert ndcg_by_group(np.array([3.0, 2.0, 1.0]), grades, query, groups=1, k=1)[0] == 0.0
    # A query without any grade above 0 has no ideal order.
    assert np.isnan(ndcg_by_group(np.ones(2), np.zeros(2, dtype=np.int64), np.array([0, 0]), groups=2)).all()


@settings(max_examples=40)
@given(st.lists(st.text("abc", max_size=2), min_size=1, max_size=30), st.integers(2, 5), st.integers(0, 10))
def test_folds_never_share_a_query_and_ignore_row_order(ids, folds, seed):
    if len(set(ids)) < folds:
        with pytest.raises(ValueError, match="folds"):
            query_folds(np.array(ids, dtype=object), folds=folds, seed=seed)
        return
    rows = np.array(ids, dtype=object)
    fold = query_folds(rows, folds=folds, seed=seed)
    of_query = {}
    for query, number in zip(ids, fold, strict=True):
        assert of_query.setdefault(query, number) == number
    sizes = np.bincount(list(of_query.values()), minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(query_folds(rows[::-1], folds=folds, seed=seed)[::-1], fold)


def test_other_seeds_give_other_folds():
    ids = np.arange(50)
    assert not np.array_equal(query_folds(ids, folds=5, seed=0), query_folds(ids, folds=5, seed=1))


def _sample(rows=300, queries=20, seed=0):
    generator = np.random.default_rng(seed)
    query = generator.integers(0, queries, rows)
    scores = np.round(generator.normal(size=rows), 1)
    return scores, scores + generator.normal(size=rows) > 0.3, query


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_resampled_auc_is_the_auc_of_the_repeated_rows(seed):
    scores, relevant, query = _sample(seed=seed)
    resamples = draw_resamples(queries=20, seeds=1, draws=4, seed=seed)
    drawn = resampled_auc(scores, relevant, query, resamples.queries)
    for counts, value in zip(resamples.queries, drawn, strict=True):
        times = counts[query]
        assert value == pytest.approx(auc(np.repeat(scores, times), np.repeat(relevant, times)))


def test_draws_in_which_a_class_is_missing_are_nan():
    counts = np.array([[2, 0], [0, 2], [1, 1]], dtype=np.uint16)
    drawn = resampled_auc(np.array([1.0, 0.0]), np.array([True, False]), np.array([0, 1]), counts)
    assert np.array_equal(drawn, [np.nan, np.nan, 1.0], equal_nan=True)
    ratio = resampled_ratio(np.array([1.0, 0.0]), np.array([1.0, 0.0]), counts)
    assert np.array_equal(ratio, [1.0, np.nan, 1.0], equal_nan=True)


def test_resamples_draw_everything_with_replacement():
    resamples = draw_resamples(queries=30, seeds=5, draws=200, seed=3)
    assert (resamples.queries.sum(axis=1) == 30).all() and (resamples.seeds.sum(axis=1) == 5).all()
    assert resamples.queries.max() > 1 and (resamples.queries == 0).any()


def test_the_interval_counts_seeds_as_well_as_queries():
    generator = np.random.default_rng(0)
    counts = draw_resamples(queries=10, seeds=5, draws=4000, seed=0).seeds
    still = paired_interval([0.1] * 5, np.full((5, 4000), 0.1), counts)
    assert still.difference == pytest.approx(0.1) and still.low == pytest.approx(0.1) == pytest.approx(still.high)
    queries_only = paired_interval([0.1] * 5, np.tile(generator.normal(0.1, 0.02, 4000), (5, 1)), counts)
    spread = np.linspace(-0.1, 0.1, 5)[:, None]
    both = paired_interval(0.1 + spread[:, 0], queries_only.difference + spread + np.zeros((5, 4000)), counts)
    assert both.high - both.low > queries_only.high - queries_only.low > 0
    assert both.low < 0.1 < both.high


def test_undefined_draws_are_left_out():
    counts = np.array([[1], [1], [1]], dtype=np.uint16)
    interval = paired_interval([0.5], np.array([[0.4, np.nan, 0.6]]), counts, level=0.5)
    assert interval == (0.5, pytest.approx(0.45), pytest.approx(0.55))
    assert math.isnan(paired_interval([0.5], np.full((1, 3), np.nan), counts).low)

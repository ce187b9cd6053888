"""Cross-validated comparison of feature sets: a real signal shows, an identical variant and a null control do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsirm_models.ranker import RankerConfig
from dsirm_models.ranker_study import METRICS, NONE, VariantFeatures, cross_validate, null_control

CONFIG = RankerConfig(hidden=(16, 8), learning_rate=1e-2, steps=60, batch_size=256)
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    query = np.repeat(np.arange(40), 15)
    base = generator.normal(size=(600, 2)).astype(np.float32)
    depth = generator.integers(0, 4, 600)
    latent = base[:, 0] + depth - 1.5 + 0.5 * generator.normal(size=600)
    return query, base, depth, np.digitize(latent, [-0.5, 0.3, 1.2])


@pytest.fixture(scope="module")
def study(data):
    query, base, depth, grades = data
    variants = {
        NONE: VariantFeatures(base),
        "same": VariantFeatures(base.copy()),
        "sid": VariantFeatures(base, depth),
        "per_seed": VariantFeatures(np.stack([base, base]), np.stack([depth, depth])),
        "null": null_control(VariantFeatures(base, depth), base_columns=2, query_ids=query, seed=0),
    }
    return cross_validate(
        variants=variants,
        query_ids=[f"q{q}" for q in query],
        grades=grades,
        seeds=SEEDS,
        config=CONFIG,
        slices={"half": np.where(query < 20, "low", "high")},
        draws=500,
    )


def _difference(study, variant, metric="auc", part="all"):
    (row,) = [c for c in study.comparisons if (c.variant, c.metric, c.slice) == (variant, metric, part)]
    return row


def test_identical_variants_differ_by_exactly_nothing(study):
    for metric in METRICS:
        row = _difference(study, "same", metric)
        assert (row.difference, row.low, row.high) == (0.0, 0.0, 0.0)


def test_features_that_are_the_same_for_every_seed_may_be_given_either_way(study):
    assert np.array_equal(study.scores["sid"], study.scores["per_seed"])


def test_a_planted_sid_signal_is_found_and_a_null_control_gains_nothing(study):
    for metric in ("auc", "auc_query", "ndcg10"):
        sid = _difference(study, "sid", metric)
        assert sid.low > 0 and sid.low < sid.difference < sid.high
    null = _difference(study, "null")
    assert null.difference < 0.01 and null.low < 0.005


def test_rows_cover_every_variant_seed_and_slice(study):
    assert {(r.variant, r.seed, r.slice) for r in study.rows} == {
        (v, s, p) for v in study.scores for s in SEEDS for p in ("all", "half=low", "half=high")
    }
    assert len(study.comparisons) == 4 * 3 * len(METRICS)
    for row in study.rows:
        assert all(0 <= getattr(row, metric) <= 1 for metric in METRICS)
        assert (row.pairs, row.queries) == ((600, 40) if row.slice == "all" else (300, 20))
        assert isinstance(row.auc, float) and isinstance(row.seed, int)


def test_the_difference_is_that_of_the_rows(study):
    mean = {v: np.mean([r.ndcg10 for r in study.rows if (r.variant, r.slice) == (v, "all")]) for v in study.scores}
    assert _difference(study, "sid", "ndcg10").difference == pytest.approx(mean["sid"] - mean[NONE])


def test_the_same_call_gives_the_same_result(data):
    query, base, depth, grades = data
    call = {
        "variants": {NONE: VariantFeatures(base), "sid": VariantFeatures(base, depth)},
        **{"query_ids": query, "grades": grades, "seeds": (0,), "config": CONFIG, "folds": 2, "draws": 50},
    }
    assert cross_validate(**call).comparisons == cross_validate(**call).comparisons


def test_a_slice_of_one_class_has_no_auc_and_says_so(data):
    query, base, _, grades = data
    result = cross_validate(
        variants={NONE: VariantFeatures(base), "same": VariantFeatures(base)},
        query_ids=query,
        grades=grades,
        seeds=(0,),
        config=CONFIG,
        folds=2,
        slices={"grade": grades.astype(str)},
        draws=20,
    )
    row = next(r for r in result.rows if r.slice == "grade=3")
    assert math.isnan(row.auc) and math.isnan(row.auc_query) and row.precision == 1.0


def test_a_null_control_is_constant_within_a_query_and_of_the_same_width(data):
    query, base, depth, _ = data
    variant = VariantFeatures(np.column_stack([base, depth * 0.25]).astype(np.float32), np.stack([depth, depth]))
    control = null_control(variant, base_columns=2, query_ids=query, seed=0)
    assert control.dense.shape == variant.dense.shape and control.dense.dtype == np.float32
    assert control.ss_depth is not None and control.ss_depth.shape == (2, 600)
    assert np.array_equal(control.dense[:, :2], base)
    for column in (control.dense[:, 2], *control.ss_depth):
        assert all(len(np.unique(column[query == q])) == 1 for q in range(40))
    assert len(np.unique(control.dense[:, 2])) == 40
    assert not np.array_equal(*control.ss_depth)


def test_a_study_that_cannot_run_names_every_problem(data):
    query, base, depth, grades = data
    with pytest.raises(ValueError, match=r"seeds must.*no variant 'none'.*odd: dense is.*slice band: 3 labels"):
        cross_validate(
            variants={"odd": VariantFeatures(base[:-1], depth)},
            query_ids=query,
            grades=grades,
            seeds=(),
            config=CONFIG,
            slices={"band": ["a", "b", "c"]},
        )

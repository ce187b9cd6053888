"""Cross-validated comparison of feature sets: a real signal shows, an identical variant and a null control do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsirm_models.ranker import RankerConfig
from dsirm_models.ranker_study import METRICS, NONE, World, cross_validate
from dsirm_models.rankers import VariantFeatures, default_rankers, mlp, null_control

MLP = mlp([RankerConfig(hidden=(16, 8), learning_rate=1e-2, steps=60, batch_size=256)])
SEEDS = (0, 1)


def planted(seed=0, rows=600):
    generator = np.random.default_rng(seed)
    query = np.repeat(np.arange(rows // 15), 15)
    base = generator.normal(size=(rows, 2)).astype(np.float32)
    depth = generator.integers(0, 4, rows)
    latent = base[:, 0] + depth - 1.5 + 0.5 * generator.normal(size=rows)
    return query, base, depth, np.digitize(latent, [-0.5, 0.3, 1.2])


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def study(data):
    query, base, depth, grades = data
    variants = {
        NONE: VariantFeatures(base),
        "same": VariantFeatures(base.copy()),
        "sid": VariantFeatures(base, depth),
        "null": null_control(VariantFeatures(base, depth), base_columns=2, query_ids=query, seed=0),
    }
    slices = {"half": np.where(query < 20, "low", "high")}
    worlds = [World(seed, variants, [f"q{q}" for q in query], grades, slices) for seed in SEEDS]
    return cross_validate(worlds=worlds, ranker=MLP, draws=500)


def _difference(study, variant, metric="auc", part="all"):
    (row,) = [c for c in study.comparisons if (c.variant, c.metric, c.slice) == (variant, metric, part)]
    return row


def test_identical_variants_differ_by_exactly_nothing(study):
    for metric in METRICS:
        row = _difference(study, "same", metric)
        assert (row.difference, row.low, row.high) == (0.0, 0.0, 0.0)


def test_a_planted_sid_signal_is_found_and_a_null_control_gains_nothing(study):
    for metric in ("auc", "auc_query", "ndcg10"):
        sid = _difference(study, "sid", metric)
        assert sid.low > 0 and sid.low < sid.difference < sid.high
    null = _difference(study, "null")
    assert null.difference < 0.01 and null.low < 0.005


@pytest.mark.parametrize("name", ["mlp", "lr", "gbdt"])
def test_every_ranker_finds_the_planted_signal_and_predicts_ordered_probabilities(data, name):
    query, base, depth, grades = data
    variants = {NONE: VariantFeatures(base), "sid": VariantFeatures(base, depth)}
    ranker = default_rankers()[name]._replace(settings=default_rankers()[name].settings[:1])
    found = cross_validate(worlds=[World(0, variants, query, grades)], ranker=ranker, folds=2, draws=50)
    assert _difference(found, "sid").low > 0
    (at_least,) = found.at_least["sid"]
    assert (np.diff(at_least, axis=1) <= 1e-12).all() and (at_least >= 0).all() and (at_least <= 1).all()


def test_inner_folds_choose_the_setting_that_predicts_best(data):
    query, base, depth, grades = data
    useless, good = RankerConfig(steps=1), RankerConfig(hidden=(16, 8), learning_rate=1e-2, steps=60, batch_size=256)
    world = World(0, {NONE: VariantFeatures(base), "sid": VariantFeatures(base, depth)}, query, grades)
    chosen = cross_validate(worlds=[world], ranker=mlp([useless, good]), tune_on=("sid",), folds=2, draws=10)
    only = cross_validate(worlds=[world], ranker=mlp([good]), folds=2, draws=10)
    assert np.array_equal(chosen.at_least["sid"][0], only.at_least["sid"][0])


def test_worlds_of_other_queries_may_differ_in_size(data):
    worlds = []
    for seed, rows in ((0, 600), (1, 450)):
        query, base, depth, grades = planted(seed, rows)
        variants = {NONE: VariantFeatures(base), "sid": VariantFeatures(base, depth)}
        worlds.append(World(seed, variants, [f"{seed}-{q}" for q in query], grades))
    found = cross_validate(worlds=worlds, ranker=MLP, folds=2, draws=200)
    row = _difference(found, "sid")
    assert row.low > 0 and (row.seeds, row.queries) == (2, 70)


def test_rows_cover_every_variant_seed_and_slice(study):
    assert {(r.variant, r.seed, r.slice) for r in study.rows} == {
        (v, s, p) for v in study.at_least for s in SEEDS for p in ("all", "half=low", "half=high")
    }
    assert len(study.comparisons) == 3 * 3 * len(METRICS)
    for row in study.rows:
        assert all(0 <= getattr(row, metric) <= 1 for metric in METRICS)
        assert (row.pairs, row.queries) == ((600, 40) if row.slice == "all" else (300, 20))


def test_the_difference_is_that_of_the_rows(study):
    mean = {v: np.mean([r.ndcg10 for r in study.rows if (r.variant, r.slice) == (v, "all")]) for v in study.at_least}
    assert _difference(study, "sid", "ndcg10").difference == pytest.approx(mean["sid"] - mean[NONE])


def test_the_same_call_gives_the_same_result(data):
    query, base, depth, grades = data
    world = World(0, {NONE: VariantFeatures(base), "sid": VariantFeatures(base, depth)}, query, grades)
    call = {"worlds": [world], "ranker": MLP, "folds": 2, "draws": 50}
    assert cross_validate(**call).comparisons == cross_validate(**call).comparisons


def test_a_slice_of_one_class_has_no_auc_and_says_so(data):
    query, base, _, grades = data
    variants = {NONE: VariantFeatures(base), "same": VariantFeatures(base)}
    world = World(0, variants, query, grades, {"grade": grades.astype(str)})
    result = cross_validate(worlds=[world], ranker=MLP, folds=2, draws=20)
    row = next(r for r in result.rows if r.slice == "grade=3")
    assert math.isnan(row.auc) and math.isnan(row.auc_query) and row.precision == 1.0


def test_a_null_control_is_constant_within_a_query_and_of_the_same_width(data):
    query, base, depth, _ = data
    variant = VariantFeatures(np.column_stack([base, depth * 0.25]).astype(np.float32), depth)
    control = null_control(variant, base_columns=2, query_ids=query, seed=0)
    assert control.dense.shape == variant.dense.shape and control.dense.dtype == np.float32
    assert control.ss_depth is not None and control.ss_depth.shape == (600,)
    assert np.array_equal(control.dense[:, :2], base)
    for column in (control.dense[:, 2], control.ss_depth):
        assert all(len(np.unique(column[query == q])) == 1 for q in range(40))
    assert len(np.unique(control.dense[:, 2])) == 40


def test_a_study_that_cannot_run_names_every_problem(data):
    query, base, depth, grades = data
    world = World(3, {"odd": VariantFeatures(base[:-1], depth)}, query, grades, {"band": ["a", "b", "c"]})
    with pytest.raises(
        ValueError, match=r"seeds must.*no variant 'x'.*odd: features of shape.*slice band: 3 labels for 600"
    ):
        cross_validate(worlds=[world, world], ranker=MLP, pairs=[("odd", "x")])

"""The ordinal ranker: learns what is there, ignores noise, keeps its probabilities in order, survives saving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsirm_models.artifacts import ArtifactError
from dsirm_models.ranker import NO_SID, OrdinalRanker, RankerConfig, TrainedRanker, train_ranker
from dsirm_models.ranking_metrics import auc

QUICK = RankerConfig(hidden=(16, 8), steps=120, batch_size=512)


def _planted(rows=1200, seed=0):
    """Grades that follow the first of three columns and the match depth."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, 3))
    depth = generator.integers(-1, 4, rows)
    latent = features[:, 0] + 0.8 * np.maximum(depth, 0) + 0.3 * generator.normal(size=rows)
    return features, depth, np.digitize(latent, [0.3, 1.0, 2.0])


def test_learns_a_planted_signal():
    features, depth, grades = _planted()
    fit = slice(0, 900)
    with_ss = train_ranker(features=features[fit], ss_depth=depth[fit], grades=grades[fit], config=QUICK, seed=0)
    without = train_ranker(features=features[fit], grades=grades[fit], config=QUICK, seed=0)
    relevant = grades[900:] >= 2
    full = auc(with_ss.predict(features=features[900:], ss_depth=depth[900:]).scores, relevant)
    partial = auc(without.predict(features=features[900:]).scores, relevant)
    assert full > 0.93
    assert full > partial + 0.05


def test_finds_nothing_in_noise():
    generator = np.random.default_rng(1)
    features, grades = generator.normal(size=(2000, 3)), generator.integers(0, 4, 2000)
    ranker = train_ranker(features=features[:1500], grades=grades[:1500], config=QUICK, seed=0)
    assert abs(auc(ranker.predict(features=features[1500:]).scores, grades[1500:] >= 2) - 0.5) < 0.08


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3), st.integers(0, 2**16))
def test_probabilities_sum_to_one_and_thresholds_are_ordered_whatever_the_parameters(values, seed):
    torch.manual_seed(seed)
    model = OrdinalRanker(dense_width=2, has_ss=True, config=QUICK)
    with torch.no_grad():
        model.first_threshold.fill_(values[0])
        model.steps_up.copy_(torch.tensor(values[1:]))
    ranker = TrainedRanker(model=model, config=QUICK)
    features = np.random.default_rng(seed).normal(size=(20, 2)) * 10
    scores, probabilities = ranker.predict(features=features, ss_depth=np.arange(20) % 5 - 1)
    assert (np.diff(ranker.thresholds) >= 0).all()
    assert (probabilities >= 0).all() and np.allclose(probabilities.sum(axis=1), 1)
    assert np.allclose(scores, probabilities @ np.arange(4))


def test_the_same_seed_gives_the_same_ranker_and_leaves_the_random_state_alone():
    features, depth, grades = _planted(300)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (
        train_ranker(features=features, ss_depth=depth, grades=grades, config=QUICK, seed=seed)
        .predict(features=features, ss_depth=depth)
        .scores
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_units_of_a_feature_do_not_matter_and_constant_columns_carry_nothing():
    features, _, grades = _planted(300)
    scaled = features * [1000, 0.01, 1] + [5, -3, 0]
    plain = train_ranker(features=features, grades=grades, config=QUICK, seed=0).predict(features=features).scores
    moved = train_ranker(features=scaled, grades=grades, config=QUICK, seed=0).predict(features=scaled).scores
    # Rounding of the units alone; training amplifies it.
    assert np.abs(plain - moved).max() < 0.05

    constant = np.column_stack([features, np.full(300, 0.1)])
    ranker = train_ranker(features=constant, grades=grades, config=QUICK, seed=0)
    shifted = constant + np.array([0, 0, 0, 99])
    assert np.array_equal(ranker.predict(features=constant).scores, ranker.predict(features=shifted).scores)


def test_no_sid_is_not_depth_zero():
    generator = np.random.default_rng(0)
    depth = generator.integers(-1, 1, 600)
    grades = np.where(depth == NO_SID, 3, 0)
    config = replace(QUICK, steps=300)
    ranker = train_ranker(features=np.zeros((600, 1)), ss_depth=depth, grades=grades, config=config, seed=0)
    unknown, differs = ranker.predict(features=np.zeros((2, 1)), ss_depth=np.array([NO_SID, 0])).scores
    assert unknown - differs > 1.5


def test_comes_back_from_disk_unchanged(tmp_path):
    features, depth, grades = _planted(300)
    ranker = train_ranker(features=features, ss_depth=depth, grades=grades, config=QUICK, seed=0)
    ranker.save(tmp_path / "ranker")
    loaded = TrainedRanker.load(tmp_path / "ranker")
    assert loaded.config == QUICK
    for mine, theirs in zip(
        ranker.predict(features=features, ss_depth=depth),
        loaded.predict(features=features, ss_depth=depth),
        strict=True,
    ):
        assert np.array_equal(mine, theirs)
    (tmp_path / "ranker" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="half-written"):
        TrainedRanker.load(tmp_path / "ranker")


def test_impossible_settings_are_all_named():
    with pytest.raises(ValueError, match=r"hidden needs.*dropout must.*learning_rate must.*steps must"):
        RankerConfig(hidden=(0, 4), dropout=1.0, learning_rate=0.0, steps=0)


def test_inputs_that_cannot_be_meant_are_refused():
    features, depth, grades = _planted(50)

    def fit(**changed):
        return train_ranker(
            **{"features": features, "ss_depth": depth, "grades": grades, **changed}, config=QUICK, seed=0
        )

    with pytest.raises(ValueError, match=r"columns \[1\] hold values that are not finite"):
        fit(features=np.where([False, True, False], np.nan, features))
    with pytest.raises(ValueError, match=r"ss_depth is -1\.\.3, not"):
        fit(ss_depth=depth + 1)
    with pytest.raises(ValueError, match="whole number"):
        fit(ss_depth=depth / 4)
    with pytest.raises(ValueError, match=r"Grades are 0\.\.3"):
        fit(grades=grades + 1)
    with pytest.raises(ValueError, match="One grade a row"):
        fit(grades=grades[:-1])
    with pytest.raises(ValueError, match="3 dense columns with match depths, but is asked about 3 without"):
        fit().predict(features=features)

"""A chain of the study, whole: every method gives SIDs, scores and measures, twice the same, and sees no grade."""

from __future__ import annotations

import numpy as np
import pytest

from dsirm_models.quantizer_model import QuantizerConfig
from dsirm_models.ranker_study import NONE
from dsirm_models.study_chain import BEAMS, METHODS, ChainResult, ChainSettings, run_chain
from dsirm_models.study_data import TEST, TRAIN, VALID, StudyData, smaller_log
from dsirm_models.study_features import NULL, VARIANTS, soft_ss, study_world
from dsirm_models.train_embedded_generator import EmbeddedConfig

SETTINGS = ChainSettings(
    QuantizerConfig(
        dim=8, hidden=16, codebook_sizes=(8, 8, 8), batch_size=32, max_steps=30, eval_every=15, pair_weights="sample"
    ),
    reserved=1,
    generator=EmbeddedConfig(hidden=16, epochs=2),
    dynamic_steps=2,
)
QUERIES, ITEMS = 40, 120


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    category = np.arange(ITEMS) % 5
    centre = rng.normal(size=(5, 12))
    items = _unit(centre[category] + 0.4 * rng.normal(size=(ITEMS, 12)))
    wanted = np.arange(QUERIES) % 5
    queries = _unit(centre[wanted] + 0.4 * rng.normal(size=(QUERIES, 12)))
    pairs = [(q, i) for q in range(QUERIES) for i in range(ITEMS) if category[i] == wanted[q] and (q + i) % 3 == 0]
    query, item = np.array(pairs, dtype=np.int32).T
    split = np.where(query % 10 == 9, TEST, np.where(query % 10 == 8, VALID, TRAIN)).astype(np.int8)
    judged = np.repeat(np.arange(9, QUERIES, 10), 20).astype(np.int32)
    shown = rng.integers(ITEMS, size=len(judged)).astype(np.int32)
    same = category[shown] == wanted[judged]
    return StudyData(
        name="small",
        seed=None,
        query_embeddings=queries,
        item_embeddings=items,
        query_texts=[f"query {q}" for q in range(QUERIES)],
        item_texts=[f"item {i}" for i in range(ITEMS)],
        item_category=category.astype(np.int32),
        item_attributes=(np.arange(ITEMS) % 3).astype(np.int32)[:, None],
        attribute_names=["brand"],
        pair_query=query,
        pair_item=item,
        pair_weight=np.ones(len(query), dtype=np.float32),
        pair_clicks=np.full(len(query), 4),
        pair_split=split,
        judged_query=judged,
        judged_item=shown,
        grades=np.where(same, 2, 0),
        dense=rng.normal(size=(len(judged), 2)).astype(np.float32),
        dense_names=["text_cosine", "bm25"],
        slices={"half": ["a"] * len(judged)},
        provenance={"tables": "none"},
    )


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def chains(data, tmp_path_factory):
    return {
        name: run_chain(data.unjudged(), method, SETTINGS, seed=1, scratch=tmp_path_factory.mktemp(name))
        for name, method in METHODS.items()
        if not method.dynamic
    }


def test_every_method_gives_codes_scores_and_measures(data, chains):
    for chain in chains.values():
        assert chain.codes.shape == (ITEMS, 3) and (chain.codes >= 0).all() and (chain.codes < 8).all()
        assert chain.depth.shape == (len(BEAMS), len(data.judged_query))
        assert set(np.unique(chain.depth)) <= {0, 1, 2, 3}
        # More beams never match less, and a prefix is at least as likely as what begins with it.
        assert (np.diff(chain.depth, axis=0) >= 0).mean() > 0.9
        assert (np.diff(chain.mass, axis=2) <= 1e-6).all()
        named = {(row.measure, row.level) for row in chain.quality}
        assert {
            ("utilisation", 1),
            ("purity_category", 1),
            ("purity_brand", 3),
            ("hit_k5", 2),
            ("random_share", 1),
        } <= named
        assert all(row.value >= 0 for row in chain.quality)


def test_the_category_level_is_pure_and_clicked_pairs_meet_more_often_than_random_ones(chains):
    found = {(row.measure, row.level): row.value for row in chains["dsirm"].quality}
    assert found["purity_category", 1] == 1.0
    assert found["clicked_share", 1] > found["random_share", 1]


def test_a_beam_that_holds_the_items_own_sid_has_its_probability(chains):
    chain = chains["dsirm"]
    full = chain.depth[-1] == 3
    assert full.any()
    assert np.allclose(chain.mass[-1][full, 2], np.exp(chain.own_logps[full].sum(axis=1)), rtol=1e-3)


def test_the_same_seed_gives_the_same_chain_and_it_survives_the_disk(data, chains, tmp_path):
    again = run_chain(data.unjudged(), METHODS["dsirm"], SETTINGS, seed=1, scratch=tmp_path / "scratch")
    again.save(tmp_path / "chain")
    for read in (again, ChainResult.load(tmp_path / "chain")):
        for name in ("depth", "mass", "own_logps", "codes"):
            assert np.array_equal(getattr(read, name), getattr(chains["dsirm"], name))
        assert read.quality == chains["dsirm"].quality


def test_a_dynamic_chain_needs_its_encoder(data, tmp_path):
    with pytest.raises(ValueError, match="needs the encoder"):
        run_chain(data, METHODS["dsirm-dynamic"], SETTINGS, seed=1, scratch=tmp_path)


def test_variants_take_what_they_are_named_for(data, chains):
    world = study_world(data, chains, base="cosine+bm25", seed=1)
    assert set(world.variants) == {NONE, NULL} | {n for n, v in VARIANTS.items() if not METHODS[v.method].dynamic}
    assert world.variants[NONE].dense.shape[1] == 2
    assert world.variants["dsirm"].dense.shape[1] == world.variants[NULL].dense.shape[1] == 3
    assert world.variants["dsirm-hard"].ss_depth is not None
    assert np.array_equal(world.variants["dsirm-k20"].ss_depth, chains["dsirm"].depth[2])


def test_soft_ss_is_the_maps_expectation():
    assert soft_ss(np.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])).tolist() == [1.0, 0.375, 0.0]


def test_data_survives_the_disk_and_its_fingerprint_follows_the_content(data, tmp_path):
    data.save(tmp_path / "data")
    read = StudyData.load(tmp_path / "data")
    assert read.fingerprint() == data.fingerprint()
    assert read.query_texts == data.query_texts
    turned = data._replace(grades=3 - data.grades)
    assert turned.fingerprint() != data.fingerprint()
    assert turned.unjudged().fingerprint() == data.unjudged().fingerprint()


def test_a_smaller_log_thins_clicks_and_keeps_queries_items_and_judgments(data):
    half = smaller_log(data, 0.25, seed=0)
    assert half.name == "small@25%"
    assert 0.15 < half.pair_clicks.sum() / data.pair_clicks.sum() < 0.35
    assert (half.pair_weight > 0).all() and (half.pair_weight <= 1).all()
    assert np.array_equal(half.grades, data.grades) and len(half.query_texts) == QUERIES
    assert np.array_equal(smaller_log(data, 0.25, seed=0).pair_item, half.pair_item)

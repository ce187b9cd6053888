"""Chains of the recall study: every variant and arm, the same twice, arms from one start, new items kept out."""

import numpy as np
import pytest

from dsirm_models import recall_chain
from dsirm_models.artifacts import sha256_of
from dsirm_models.eg_grpo_data import AlignConfig
from dsirm_models.quantizer_model import QuantizerConfig
from dsirm_models.recall_chain import ARMS, VARIANTS, ItemSids, RecallSettings, align, learn_queries, learn_users
from dsirm_models.recall_data import RecallData
from dsirm_models.recall_found import ChannelFound, deep_rows, found_by_channel
from dsirm_models.train_embedded_generator import EmbeddedConfig
from tests.dsirm_models.recall_world import KINDS, recall_world

SMALL = {"hidden": 16, "epochs": 2, "queries_per_step": 16, "learning_rate": 1e-2}
SETTINGS = RecallSettings(
    quantizer=QuantizerConfig(
        dim=8,
        hidden=16,
        codebook_sizes=(8, 4, 4),
        contrast_on="encoder",
        reserve_level1=False,
        pair_weights="sample",
        batch_size=32,
        max_steps=20,
        eval_every=10,
    ),
    split_over=3,
    split_groups=4,
    items=EmbeddedConfig(**SMALL),
    queries=EmbeddedConfig(**SMALL),
    users=EmbeddedConfig(**{**SMALL, "epochs": 20}),
    align=AlignConfig(steps=3, requests_per_step=8, learning_rate=1e-3),
    valid_share=0.1,
    beams=3,
    deep_requests=20,
    deep_beams=10,
)


def quietly(stage):
    """Nobody waits for a stage here."""


@pytest.fixture(scope="module")
def world():
    return recall_world()


@pytest.fixture(scope="module")
def chain(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    how = {"seed": 1, "done": quietly}
    found = learn_queries(world, "cq-sid", SETTINGS, out=root / "base", scratch=root / "s", **how)
    personal = learn_users(world, SETTINGS, base=root / "base", out=root / "users", scratch=root / "t", **how)
    return root, found, personal


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_what_is_kept_is_what_was_found(chain, tmp_path):
    _, found, personal = chain
    found.save(tmp_path / "found")
    again = ChannelFound.load(tmp_path / "found")
    assert same(again.wide, found.wide) and same(again.deep, found.deep) and again.facts == found.facts
    personal.nameless.save(tmp_path / "nameless")
    assert ChannelFound.load(tmp_path / "nameless").deep is None


def test_data_survive_being_kept(world, tmp_path):
    world.save(tmp_path / "data")
    assert RecallData.load(tmp_path / "data").fingerprint() == world.fingerprint()
    assert world._replace(item_new=~world.item_new).fingerprint() != world.fingerprint()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_every_item_a_sid_and_every_request_a_list(variant, world, chain, tmp_path):
    _, base, _ = chain
    found = learn_queries(world, variant, SETTINGS, seed=1, out=tmp_path / "out", scratch=tmp_path / "s", done=quietly)
    items = ItemSids.load(tmp_path / "out" / "sids")
    assert items.sizes == (8, 4, 4) and len(items.sids) == len(world.item_hash) and (items.sids >= 0).all()
    assert found.wide.items.shape == (60, 3) and found.deep.items.shape == (20, 10)
    assert (found.wide.items[:, 0] > 0).all()
    if variant == "cq-sid":
        assert same(found.wide, base.wide), "the same inputs gave another result"
    # A level-1 code is a category where the variant maps them, and only there.
    of_category = [set((items.sids >> 40)[world.item_category == kind].tolist()) for kind in range(KINDS)]
    mapped = of_category == [{kind} for kind in range(KINDS)]
    assert mapped == (variant in ("cq-sid", "no-contrast", "more-contrast"))


def test_new_items_change_nothing_that_is_learned(world, chain, tmp_path):
    root, _, _ = chain
    moved = world.item_embeddings.copy()
    moved[world.item_new] = np.roll(moved[world.item_new], 7, axis=0)
    other = world._replace(item_embeddings=moved)
    learn_queries(other, "cq-sid", SETTINGS, seed=1, out=tmp_path / "out", scratch=tmp_path / "s", done=quietly)
    kept = [ItemSids.load(at / "sids").sids[~world.item_new] for at in (root / "base", tmp_path / "out")]
    assert np.array_equal(*kept)
    assert len({sha256_of(at / "generator/model.safetensors") for at in (root / "base", tmp_path / "out")}) == 1


def test_arms_start_from_one_model_and_learn_different_things(world, chain, tmp_path):
    root, _, personal = chain
    start = root / "users" / "generator"
    before = sha256_of(start / "model.safetensors")
    starts, learned, train = [], [before], recall_chain.train_eg_grpo

    def watched(table, **how):
        experts = how["config"].experts
        starts.append((sha256_of(how["start"] / "model.safetensors"), experts))
        aligned = train(table, **how)
        aligned.generator.save(tmp_path / f"{experts}-experts")
        learned.append(sha256_of(tmp_path / f"{experts}-experts" / "model.safetensors"))
        return aligned

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_chain, "train_eg_grpo", watched)
        found = {
            arm: align(
                world,
                arm,
                SETTINGS,
                seed=1,
                base=root / "base",
                start=start,
                scratch=tmp_path / arm,
                done=quietly,
            )
            for arm in ARMS
        }
    assert starts == [(before, 0), (before, 2)] and sha256_of(start / "model.safetensors") == before
    assert len(set(learned)) == 3, "an arm learned nothing, or both the same"
    for one in found.values():
        assert one.deep is None and one.wide.items.shape == personal.personalised.wide.items.shape


def test_a_personal_list_is_of_its_own_user(world, chain):
    _, _, personal = chain
    query = world.later.query
    same_query = [np.flatnonzero(query == row) for row in np.unique(query)]
    alone, told = personal.nameless.wide.items, personal.personalised.wide.items
    assert all((alone[rows] == alone[rows[0]]).all() for rows in same_query)
    assert any((told[rows] != told[rows[0]]).any() for rows in same_query)


def test_channels_are_asked_once_a_query_and_answer_with_items_in_stock(world):
    deep = world.later.take(deep_rows(world.later, 20))
    for name in ("bm25", "dense"):
        found = found_by_channel(name, world, deep, items=1000)
        assert found.items.shape == (20, 1) and found.items.max() <= world.item_stocked.sum()
        assert not found.beam[~world.item_stocked[deep.entry_item]].any() and found.beam.any()


def test_popularity_recalls_what_the_whole_window_clicked(world):
    deep = world.later.take(deep_rows(world.later, 20))
    clicks = np.where(world.item_stocked, world.item_clicks, -1)
    found = found_by_channel("popularity", world, deep, items=10)
    first = np.argsort(-clicks, kind="stable")[:10]
    assert np.array_equal(found.beam > 0, np.isin(deep.entry_item, first)) and found.beam.any()


def test_some_requests_are_taken_with_their_entries(world):
    rows = np.array([3, 10, 59])
    some = world.later.take(rows)
    assert np.array_equal(some.query, world.later.query[rows])
    for at, row in enumerate(rows):
        mine, theirs = some.entry_request == at, world.later.entry_request == row
        assert np.array_equal(some.entry_item[mine], world.later.entry_item[theirs])
        assert np.array_equal(some.clicked[mine], world.later.clicked[theirs])

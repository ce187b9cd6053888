from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsirm_models.artifacts import ArtifactError
from dsirm_models.clusters import NONE, Groups, count_groups, with_groups
from dsirm_models.quantizer_model import TrainedQuantizer
from schemas.sids import MAX_CODE, pack, unpack, without_group
from tests.dsirm_models.quantizer_world import tiny_config, untrained

THIRD = 16
BIG, SMALL, HUGE = pack((1, 2, 3)), pack((1, 2, 4)), pack((7, 15, 15))


def hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, count)


def test_a_sid_of_more_than_fifty_items_gets_a_group_for_each_fifty_and_a_hundred_at_most():
    sizes = {BIG: 51, SMALL: 50, HUGE: 5001, pack((0, 0, 0)): 100, pack((0, 0, 1)): 101}
    counted = count_groups(np.repeat([*sizes], [*sizes.values()]), over=50, most=100)
    assert dict(zip(*map(np.ndarray.tolist, counted.groups), strict=True)) == {
        pack((0, 0, 0)): 2,
        pack((0, 0, 1)): 3,
        BIG: 2,
        HUGE: 100,
    }
    assert counted.report == {"split": 4, "groups": 107, "largest": 5001, "full": 1}


def test_nothing_is_split_where_it_is_switched_off_or_nobody_is_there():
    sids = np.full(1000, BIG)
    assert count_groups(sids, over=0, most=100).groups.sids.tolist() == []
    assert np.array_equal(with_groups(sids, hashes(1000), NONE, third=THIRD), sids)
    nobody = count_groups(np.empty(0, dtype=np.int64), over=50, most=100)
    assert nobody.report == {"split": 0, "groups": 0, "largest": 0, "full": 0}
    with pytest.raises(ValueError, match=r"most in 1\.\.1024"):
        count_groups(sids, over=50, most=0)


def test_groups_are_near_even_and_keep_the_prefix():
    groups = Groups(np.array([BIG, HUGE]), np.array([4, 100], dtype=np.int32))
    sids = np.repeat([BIG, SMALL, HUGE], 2000)
    split = with_groups(sids, hashes(6000), groups, third=THIRD)
    assert np.array_equal(split >> 20, sids >> 20), "levels 1 and 2 stay"
    assert np.array_equal(split[2000:4000], sids[2000:4000]), "a SID that is not split stays whole"
    group = (split[:2000] & MAX_CODE) // THIRD
    assert set(group) == {0, 1, 2, 3}
    assert np.bincount(group).min() > 400
    assert [without_group(int(sid), THIRD) for sid in split[::500]] == sids[::500].tolist()
    assert all(code < size for code, size in zip(unpack(int(split.max())), (8, 16, 100 * THIRD), strict=True))


@given(
    st.lists(st.tuples(st.sampled_from([BIG, SMALL, HUGE]), st.integers(-(2**63), 2**63 - 1)), min_size=1), st.data()
)
def test_no_item_moves_whoever_else_is_there(rows, data):
    """An item's group depends on its id and the frozen counts alone: others may come, go or change places."""
    groups = Groups(np.array([BIG, HUGE]), np.array([3, 100], dtype=np.int32))
    sids, ids = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    whole = with_groups(sids, ids, groups, third=THIRD)
    order = np.array(data.draw(st.permutations(range(len(rows)))))[: data.draw(st.integers(1, len(rows)))]
    assert np.array_equal(with_groups(sids[order], ids[order], groups, third=THIRD), whole[order])


def test_groups_are_frozen_with_the_codebook(tmp_path):
    model = untrained(tiny_config())
    groups = Groups(np.array([BIG, HUGE]), np.array([2, 100], dtype=np.int32))
    model.with_groups(groups).save(tmp_path / "split")
    loaded = TrainedQuantizer.load(tmp_path / "split")
    assert all(np.array_equal(a, b) for a, b in zip(loaded.groups, groups, strict=True))
    assert np.array_equal(loaded.copy().groups.sids, groups.sids)
    model.save(tmp_path / "plain")
    assert TrainedQuantizer.load(tmp_path / "plain").groups == NONE
    model.with_groups(Groups(np.array([pack((8, 0, 0))]), np.array([2], dtype=np.int32))).save(tmp_path / "other")
    with pytest.raises(ArtifactError, match="do not fit codebooks"):
        TrainedQuantizer.load(tmp_path / "other")

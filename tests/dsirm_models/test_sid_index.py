from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsirm_models.sid_index import SidIndex
from schemas.sids import pack

SIDS = np.array([pack(c) for c in [(2, 0, 5), (0, 1, 1), (0, 1, 3), (0, 4, 0), (2, 0, 5)]], dtype=np.int64)


def test_distinct_prefixes_per_level_are_counted() -> None:
    index = SidIndex(SIDS)
    assert len(index) == 4
    assert [index.size(depth) for depth in range(4)] == [1, 2, 3, 4]
    assert index.largest_codes == (2, 4, 5)


def test_child_mask_names_the_valid_next_codes_of_each_prefix() -> None:
    index = SidIndex(SIDS)
    assert index.child_mask(torch.tensor([0]), 0, 4).tolist() == [[True, False, True, False]]
    nodes = index.find(torch.tensor([[0, 2, 7]]), 1)
    assert nodes.tolist() == [[0, 1, -1]]
    mask = index.child_mask(nodes, 1, 5)
    assert [row.nonzero().flatten().tolist() for row in mask[0]] == [[1, 4], [0], []]
    last = index.child_mask(index.find(torch.tensor([0 << 20 | 1]), 2), 2, 6)
    assert last.nonzero()[:, 1].tolist() == [1, 3]


def test_order_and_repeats_of_rows_change_nothing() -> None:
    again = SidIndex(np.concatenate([SIDS[::-1], SIDS]))
    assert again.fingerprint() == SidIndex(SIDS).fingerprint()
    assert again.fingerprint() != SidIndex(SIDS[:2]).fingerprint()


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_children_agree_with_a_set_of_prefixes(sids: list[tuple[int, int, int]]) -> None:
    index = SidIndex(np.array([pack(sid) for sid in sids], dtype=np.int64))
    for depth in range(3):
        prefixes = sorted({sid[:depth] for sid in sids})
        mask = index.child_mask(torch.arange(len(prefixes)), depth, 5)
        for row, prefix in zip(mask, prefixes, strict=True):
            valid = {sid[depth] for sid in sids if sid[:depth] == prefix}
            assert set(row.nonzero().flatten().tolist()) == valid
            for code in range(5):
                node = index.child_node(torch.tensor(prefixes.index(prefix)), torch.tensor(code), depth)
                assert (int(node) >= 0) == (code in valid)
    every = torch.tensor([pack((a, b, c)) for a in range(5) for b in range(5) for c in range(5)])
    exists = [sid in set(sids) for sid in np.ndindex(5, 5, 5)]
    assert index.contains(every).tolist() == exists


def test_a_million_sids_take_few_bytes_each() -> None:
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 2048, 10**6) << 40 | rng.integers(0, 1024, 10**6) << 20 | rng.integers(0, 1024, 10**6)
    index = SidIndex(sids)
    assert index.nbytes / len(index) <= 24


@pytest.mark.parametrize("bad", [np.empty(0, np.int64), np.array([-1]), np.array([1 << 60]), np.array([1.5])])
def test_what_is_not_a_list_of_sids_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError):
        SidIndex(bad)


def test_codes_beyond_a_generators_codebooks_are_refused() -> None:
    index = SidIndex(SIDS)
    index.check_codebook_sizes((3, 5, 6))
    with pytest.raises(ValueError, match="another codebook"):
        index.check_codebook_sizes((3, 4, 6))

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from dsirm_models.sid_quality import pack_rows, pair_agreement, quality
from schemas.sids import pack

SIZES = (4, 8, 8)


def test_numbers_by_hand():
    codes = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3], [1, 7, 7]], dtype=np.int32)
    got = quality(codes, SIZES)
    assert (got.items, got.distinct, got.collision_rate) == (4, 3, 0.5)
    first = got.levels[0]
    assert (first.used, first.utilisation, first.prefixes) == (2, 0.5, 2)
    assert math.isclose(first.entropy, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert math.isclose(first.perplexity, math.exp(first.entropy))
    assert math.isclose(first.gini, 0.625)  # uses 0, 0, 1, 3
    assert (first.bucket_p50, first.bucket_max) == (2.0, 3)
    assert (got.levels[2].prefixes, got.levels[2].bucket_max, got.levels[2].bucket_p50) == (3, 2, 1.0)


def test_agrees_with_counting_one_by_one():
    codes = np.random.default_rng(0).integers(0, 4, size=(500, 3)).astype(np.int32)
    got = quality(codes, SIZES)
    sids = Counter(map(tuple, codes.tolist()))
    assert got.distinct == len(sids)
    assert got.collision_rate == sum(n for n in sids.values() if n > 1) / 500
    for depth in (1, 2, 3):
        buckets = Counter(tuple(row[:depth]) for row in codes.tolist())
        level = got.levels[depth - 1]
        assert level.prefixes == len(buckets) and level.bucket_max == max(buckets.values())
        assert level.bucket_p99 == np.quantile(list(buckets.values()), 0.99)
    assert pack_rows(codes).tolist() == [pack(row) for row in codes.tolist()]


def test_extremes():
    even = np.stack([np.arange(4), np.zeros(4, dtype=int), np.zeros(4, dtype=int)], axis=1)
    assert quality(even, SIZES).levels[0].gini == 0.0
    assert quality(even, SIZES).levels[1].gini == 1 - 1 / 8
    assert quality(even, SIZES).levels[1].perplexity == 1.0
    none = quality(even[:0], SIZES)
    assert none.items == none.distinct == 0 and none.collision_rate == 0.0 and none.levels[0].perplexity == 0.0


def test_pair_agreement_is_of_prefixes_and_may_be_weighted():
    left = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    right = np.array([[1, 2, 3], [1, 2, 4], [1, 9, 3], [9, 2, 3]])
    assert pair_agreement(left, right).tolist() == [0.75, 0.5, 0.25]
    assert pair_agreement(left, right, np.array([0.0, 0.0, 1.0, 1.0])).tolist() == [0.5, 0.0, 0.0]
    with pytest.raises(ValueError, match="non-empty"):
        pair_agreement(left[:0], right[:0])


def test_codes_outside_their_codebook_are_refused():
    with pytest.raises(ValueError, match=r"Level 2 holds codes 0\.\.8 of only 8"):
        quality(np.array([[0, 8, 0], [0, 0, 0]]), SIZES)
    with pytest.raises(ValueError, match="3 levels"):
        quality(np.zeros((3, 2), dtype=int), SIZES)

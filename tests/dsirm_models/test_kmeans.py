from __future__ import annotations

import numpy as np
import pytest
import torch

from dsirm_models.kmeans import hierarchical_kmeans, kmeans, residual_kmeans, start_codebooks
from dsirm_models.quantizer import ANY, UNKNOWN, ResidualQuantizer


def points(count: int, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def test_same_seed_same_centroids_bit_for_bit():
    x = points(500)
    assert np.array_equal(kmeans(x, 20, seed=1), kmeans(x, 20, seed=1))
    assert not np.array_equal(kmeans(x, 20, seed=1), kmeans(x, 20, seed=2))


def test_fewer_points_than_codes_repeats_them():
    x = points(3)
    assert np.array_equal(kmeans(x, 7, seed=0), np.concatenate([x, x, x[:1]]))
    with pytest.raises(ValueError, match="at least one"):
        kmeans(x[:0], 2, seed=0)
    with pytest.raises(ValueError, match="finite"):
        kmeans(np.full((4, 2), np.nan, dtype=np.float32), 2, seed=0)


def test_start_means_of_members_reserved_clusters_and_unreachable_codes():
    quantizer = ResidualQuantizer(dim=4, codebook_sizes=(6, 8, 8), mapped=4)
    x = torch.from_numpy(points(200))
    level1 = torch.arange(200) % 3  # category 3 never occurs
    level1[150:180] = UNKNOWN
    level1[180:] = ANY
    start_codebooks(quantizer, x, level1, seed=0)
    first = quantizer.codebooks[0]
    for category in range(3):
        torch.testing.assert_close(first[category], x[level1 == category].mean(dim=0))
    torch.testing.assert_close(first[3], x.mean(dim=0))
    assert quantizer.reachable.tolist() == [True, True, True, False, True, True]
    # The reserved codes cluster the unknown rows alone, so these are as near to them as two means allow.
    torch.testing.assert_close(first[4:].mean(dim=0), x[150:180].mean(dim=0), atol=0.5, rtol=0)
    out = quantizer.eval()(x, level1)
    assert out.residual_norm.mean() < x.norm(dim=1).mean() * 0.75


def test_residual_kmeans_gets_nearer_level_by_level():
    x = points(600)
    left = x
    norms = [np.linalg.norm(x)]
    for book in residual_kmeans(x, (8, 8, 8), seed=0):
        gaps = ((left[:, None] - book[None]) ** 2).sum(axis=2)
        left = left - book[gaps.argmin(axis=1)]
        norms.append(np.linalg.norm(left))
    assert norms[0] > norms[1] > norms[2] > norms[3]


def test_hierarchical_kmeans_splits_clusters_and_equal_points_share_codes():
    x = points(300)
    x[1] = x[0]
    tree = hierarchical_kmeans(x, (4, 4, 16), seed=0)
    assert tree.codes.max(axis=0).tolist() <= [3, 3, 15]
    assert np.array_equal(tree.codes[0], tree.codes[1])
    assert len(np.unique(tree.codes[:, :2], axis=0)) == 16
    assert np.array_equal(tree.codes, hierarchical_kmeans(x, (4, 4, 16), seed=0).codes)
    assert hierarchical_kmeans(x[:0], (4, 4, 4), seed=0).codes.shape == (0, 3)


def test_the_tree_gives_its_own_points_and_their_neighbours_the_codes_they_have():
    x = points(300)
    tree = hierarchical_kmeans(x, (4, 4, 16), seed=0)
    assert np.array_equal(tree.assign(x), tree.codes)
    assert np.array_equal(tree.assign(x + 1e-6), tree.codes)

"""The channels that a shop has anyway."""

import numpy as np

from dsirm_models.recall_channels import bm25_lists, dense_lists, popular_lists, random_lists
from dsirm_models.text_features import Bm25

ROWS = np.array([0, 2, 3, 5], dtype=np.int64)
TEXTS = ["red running shoes", "red running shoes", "red hat", "running shoes", "blue shoes", "lamp"]


def test_random_lists_differ_hold_no_item_twice_and_follow_the_seed():
    rows = np.arange(0, 100, 2)
    drawn = random_lists(rows, requests=20, items=30, seed=1)
    assert drawn.shape == (20, 30)
    assert all(len(set(row)) == 30 and set(row) <= set(rows.tolist()) for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) == 20
    assert (drawn == random_lists(rows, requests=20, items=30, seed=1)).all()
    assert random_lists(ROWS, requests=2, items=30, seed=1).shape == (2, 4)


def test_popular_lists_are_the_most_clicked_in_stock_ties_to_the_lowest():
    clicks = np.array([1, 99, 7, 1, 50, 7])
    assert popular_lists(ROWS, clicks, requests=2, items=3).tolist() == [[2, 5, 0]] * 2


def test_bm25_lists_hold_only_what_shares_a_word_best_first():
    found = bm25_lists(ROWS, TEXTS, ["red running shoes", "lamps", "spoon"], items=4)
    assert found[0].tolist()[0] == 0
    assert set(found[0].tolist()) == {0, 2, 3, -1}
    assert found[1].tolist() == [5, -1, -1, -1]
    assert found[2].tolist() == [-1] * 4


def test_the_best_by_bm25_are_those_of_its_pairwise_scores():
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(30)]
    items = [" ".join(rng.choice(words, 6)) for _ in range(80)]
    queries = [" ".join(rng.choice(words, 3)) for _ in range(300)]
    index = Bm25(catalogue=items)
    best = index.best(queries, items=10)
    for row in (0, 255, 256, 299):
        every = np.arange(80)
        scores = index.scores(queries, query_row=np.full(80, row), item_row=every)
        expected = [i for i in np.lexsort((every, -scores)) if scores[i] > 0][:10]
        assert best[row][best[row] >= 0].tolist() == expected


def test_dense_lists_are_the_nearest_by_cosine():
    rng = np.random.default_rng(1)
    items, queries = (rng.normal(size=(count, 8)).astype(np.float32) for count in (60, 5))
    items, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (items, queries))
    rows = np.arange(1, 60, 2)
    found = dense_lists(rows, items, queries, items=7)
    for query, listed in zip(queries, found, strict=True):
        assert listed.tolist() == rows[np.argsort(-(items[rows] @ query), kind="stable")][:7].tolist()
    assert dense_lists(ROWS, items, queries, items=7).shape == (5, 4)

"""Features without SIDs: values by hand, unknown categories, missing images."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsirm_models.text_features import (
    Bm25,
    category_match,
    dense_features,
    multimodal_cosine,
    pair_cosine,
    tokenize,
)

CATALOGUE = ["red usb cable", "red red toner", "HP laptop 16 GB", ""]


def _rows(*values):
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ('15,6" LCD Monitors, 16 GB', ["15.6inch", "lcd", "monitor", "16gb"]),
        ("16GB usb GPS glass", ["16gb", "usb", "gps", "glass"]),
        ("C2G Cat-6 cables 1920x1200", ["c2g", "cat", "6", "cable", "1920x1200"]),
        ("ноутбуки 1.5 m", ["ноутбуки", "1.5m"]),
        (" -- ", []),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens


def test_bm25_by_hand():
    scores = Bm25(catalogue=CATALOGUE).scores(
        ["red", "red red"], query_row=_rows(0, 0, 0, 1), item_row=_rows(0, 1, 2, 1)
    )
    # "red" is in 2 of 4 texts; lengths 3, 3, 3, 0 have mean 2.25.
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    saturation = 1.2 * (1 - 0.75 + 0.75 * 3 / 2.25)
    once, twice = (idf * tf * 2.2 / (tf + saturation) for tf in (1, 2))
    assert scores == pytest.approx([once, twice, 0.0, 2 * twice], rel=1e-6)


def test_overlap_is_the_share_of_query_tokens_found_weighted_by_idf():
    bm25 = Bm25(catalogue=CATALOGUE)
    queries = ["red cables", "red red", "red unheardof", "unheardof", ""]
    overlap = bm25.overlap(queries, query_row=_rows(0, 0, 1, 2, 3, 4), item_row=_rows(0, 1, 0, 0, 0, 0))
    red, cable, unknown = (math.log(1 + (4 - df + 0.5) / (df + 0.5)) for df in (2, 1, 0))
    assert overlap == pytest.approx([1, red / (red + cable), 1, red / (red + unknown), 0, 0], rel=1e-6)


def test_row_order_and_chunks_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    query_row, item_row = generator.integers(0, 2, 50), generator.integers(0, 4, 50)
    bm25 = Bm25(catalogue=CATALOGUE)
    whole = bm25.scores(["red cable", "laptop"], query_row=query_row, item_row=item_row)
    monkeypatch.setattr("dsirm_models.text_features._CHUNK", 7)
    chunked = bm25.scores(["red cable", "laptop"], query_row=query_row[::-1], item_row=item_row[::-1])
    assert np.array_equal(whole, chunked[::-1])


def test_an_empty_catalogue_or_impossible_b_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        Bm25(catalogue=[])
    with pytest.raises(ValueError, match="0 <= b <= 1"):
        Bm25(catalogue=["a b"], b=1.5)


def _unit(*rows):
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_category_match_by_hand():
    items = _unit([1, 0], [1, 0], [0, 1], [0.6, 0.8])
    # Category numbers need not be dense; the last item has none.
    match = category_match(
        _unit([1, 0], [0.6, 0.8]),
        items,
        _rows(7, 7, 2, -1),
        query_row=_rows(0, 0, 1, 1, 0),
        item_row=_rows(0, 2, 2, 0, 3),
    )
    # Cosines to (category 2, category 7): query 0 (0, 1), query 1 (.8, .6).
    assert match.gap == pytest.approx([0, -1, 0, -0.2, 0.5 - 1], abs=1e-6)
    assert match.nearest.tolist() == [1, 0, 1, 0, 0]
    assert match.known.tolist() == [1, 1, 1, 1, 0]


def test_the_lowest_category_wins_a_tie_and_no_category_at_all_is_refused():
    items, rows = _unit([1, 0], [0, 1]), {"query_row": _rows(0, 0), "item_row": _rows(0, 1)}
    assert category_match(_unit([1, 1]), items, _rows(0, 1), **rows).nearest.tolist() == [1, 0]
    with pytest.raises(ValueError, match="No item has a category"):
        category_match(_unit([1, 1]), items, _rows(-1, -1), **rows)


def test_an_item_without_image_has_a_flag_and_no_nan():
    images = np.array([[2, 0], [np.nan, np.nan], [0, 0]], dtype=np.float32)
    both = multimodal_cosine(_unit([1, 0]), images, query_row=_rows(0, 0, 0), item_row=_rows(0, 1, 2))
    assert both.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_all_features_in_one_matrix_with_names():
    queries, items = _unit([1, 0], [0, 1]), _unit([1, 0], [1, 1], [0, 1], [1, 2])
    rows = {"query_row": _rows(0, 1), "item_row": _rows(1, 3)}
    inputs = {"queries": ["red", "laptop"], "query_vectors": queries, "bm25": Bm25(catalogue=CATALOGUE)}
    values, names = dense_features(
        **inputs,
        **rows,
        item_vectors=items,
        item_category=_rows(0, 0, 1, -1),
        item_statistics=np.arange(8, dtype=np.float32).reshape(4, 2),
        statistic_names=("log_clicks", "price"),
        image_query_vectors=queries,
        image_vectors=np.full((4, 2), np.nan, dtype=np.float32),
    )
    assert names == (
        *("text_cosine", "bm25", "overlap", "category_gap", "category_nearest", "category_known"),
        *("image_cosine", "has_image", "log_clicks", "price"),
    )
    assert values.shape == (2, 10) and values.dtype == np.float32 and np.isfinite(values).all()
    assert np.array_equal(values[:, 0], pair_cosine(queries, items, **rows))
    assert values[:, -2:].tolist() == [[2, 3], [6, 7]]
    with pytest.raises(ValueError, match="2 item statistics, but 0 names"):
        dense_features(**inputs, **rows, item_vectors=items, item_statistics=np.ones((4, 2), dtype=np.float32))

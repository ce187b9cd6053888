"""Point in time: a request reads clicks of earlier days, latest first, from the categories it names; and as vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsirm_models.histories import (
    RECENT,
    RELATED,
    Clicks,
    first_distinct,
    latent_of,
    latest_before,
    related_categories,
    user_vectors,
)
from schemas.sids import BITS

click = st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 20))
request = st.tuples(st.lists(st.integers(-1, 4), min_size=2, max_size=2, unique=True), st.integers(0, 7))


@given(st.lists(click, max_size=60), st.lists(request, min_size=1, max_size=8))
def test_it_is_what_reading_the_clicks_one_by_one_finds(clicks, requests):
    group, day, sid = (np.array([row[column] for row in clicks], dtype=np.int64) for column in range(3))
    groups, days = np.array([row[0] for row in requests]), np.array([row[1] for row in requests])
    found = first_distinct(latest_before(Clicks(group, day, sid), groups, days))
    for row, (wanted, at) in zip(found.tolist(), requests, strict=True):
        seen = []
        for one in wanted:
            mine = [c for c in clicks if c[0] == one >= 0 and c[1] < at]
            mine.sort(key=lambda c: -c[1])  # stable: clicks of a day stay in their order
            seen += [c[2] for c in mine[:RECENT]]
        distinct = list(dict.fromkeys(seen))[:RECENT]
        assert row == distinct + [-1] * (RECENT - len(distinct))


def test_each_group_has_its_own_places():
    clicks = Clicks(*(np.array(column) for column in ([0, 0, 1], [3, 1, 2], [30, 10, 21])))
    found = latest_before(clicks, np.array([[1, 0]]), np.array([3]))
    assert found.shape == (1, 2 * RECENT)
    assert found[0, [0, 1, RECENT, RECENT + 1]].tolist() == [21, -1, 10, -1]


def test_rows_narrower_than_a_history_are_filled_up():
    assert first_distinct(np.array([[4, 4, -1, 2]]))[0].tolist() == [4, 2] + [-1] * (RECENT - 2)


def test_a_user_is_read_as_one_hots_and_the_mean_of_latent_vectors():
    books = [np.eye(4, dtype=np.float32)[:3], np.zeros((2, 4), dtype=np.float32), np.eye(4, dtype=np.float32)]
    one, two = 1 << 2 * BITS | 1 << BITS | 3, 2 << 2 * BITS
    recent = np.full((2, RECENT), -1)
    recent[0, :2] = two, one
    latent = latent_of(books, recent)
    assert latent.sids.tolist() == [one, two]
    assert np.allclose(np.linalg.norm(latent.vectors, axis=1), 2.0)
    found = user_vectors(np.array([[1, -1], [-1, -1]]), (2, 3), recent, latent)
    assert found[0].tolist() == pytest.approx([0, 1, 0, 0, 0, *latent.vectors.mean(axis=0)])
    assert not found[1].any(), "nobody known is zeros"


def test_the_nearest_categories_come_first_and_those_without_one_last():
    items = np.eye(5, dtype=np.float32)
    queries = np.array([[0.1, 0.9, 0.5, 0.0, 0.0]], dtype=np.float32)
    found = related_categories(queries, items, np.array([0, 1, 2, 3, -1]))
    assert found.tolist() == [[1, 2, 0, 4]] and found.shape[1] == RELATED + 1
    assert related_categories(queries, items, np.full(5, -1)).tolist() == [[-1, -1, -1, 0]]

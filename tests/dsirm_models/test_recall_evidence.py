"""Evidence beside the recall study: whether a history tells of the next click, and how many lists an arm changed."""

import numpy as np

from dsirm_models.recall_data import Requests
from dsirm_models.recall_evidence import history_tells, moved
from dsirm_models.recall_metrics import Found


def requests(latest, clicks):
    """Requests with the items of their histories; clicks are (request, item, times)."""
    request, item, times = (np.array(column, dtype=np.int32) for column in zip(*clicks, strict=True))
    count = len(latest)
    nothing = np.zeros(len(item), dtype=np.int32)
    return Requests(
        np.zeros(count, dtype=np.int32),
        np.zeros((count, 0), dtype=np.int8),
        np.array(latest, dtype=np.int32),
        request,
        item,
        nothing + 1,
        times,
        nothing,
    )


def test_a_taste_shows_in_the_own_history_and_a_category_in_everybodys():
    # Items 0 and 1 are one colour of the category, 2 and 3 the other; two users each stay with theirs.
    colour, category = np.array([5, 5, 6, 6]), np.zeros(4, dtype=np.int64)
    asked = requests([[0, -1], [1, -1], [2, -1], [3, -1]], [(0, 1, 1), (1, 0, 1), (2, 3, 1), (3, 2, 1)])
    told = history_tells(asked, colour, category, seed=1)
    assert (told.own, told.clicks) == (1.0, 4) and told.other < 1
    assert history_tells(asked, category, category, seed=1)[:2] == (1.0, 1.0)


def test_clicks_without_a_history_or_a_like_say_nothing_and_times_count():
    value, category = np.arange(4), np.array([0, 0, 1, 2])
    # Item 2 is alone in its category, request 2 has no history, and what was not clicked is no click.
    asked = requests([[0, 1], [3, -1], [-1, -1], [0, -1]], [(0, 0, 3), (1, 1, 1), (2, 0, 9), (3, 2, 9), (3, 3, 0)])
    told = history_tells(asked, value, category, seed=1)
    assert told == (3 / 4, 1 / 4, 4)  # Request 1's item is in request 0's history, request 0's not in that of 1.
    nothing = history_tells(requests([[-1, -1]], [(0, 0, 1)]), value, category, seed=1)
    assert np.isnan(nothing.own) and nothing.clicks == 0


def test_moved_counts_requests():
    start = Found(np.zeros(1), np.zeros(1), np.array([[1, 2], [3, 4], [5, 6], [7, 8]]))
    arm = start._replace(items=np.array([[1, 2], [3, 9], [9, 9], [7, 8]]))
    assert moved(arm, start) == (1 / 4, 2 / 4)
    assert moved(start, start) == (0.0, 0.0)

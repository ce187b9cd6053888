"""What results of the recall study follow from: how much a history tells of the next click, how far a model moved."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsirm_models.recall_data import Requests
from dsirm_models.recall_metrics import Found


class HistoryTells(NamedTuple):
    """Share of clicks on something that is in a history already."""

    own: float
    """In that of the user who clicked."""
    other: float
    """In that of a user who clicked something else of the same group: what the group alone explains."""
    clicks: int
    """Times, of requests with a history."""


def history_tells(requests: Requests, value: NDArray[np.int64], group: NDArray[np.int64], *, seed: int) -> HistoryTells:
    """Whether who asks says more of what is clicked than the group of the clicked item does. NaN where nothing is.

    Args:
        requests: with their histories (`latest`), which may name any item.
        value: (I,) what of an item is looked for in a history: its SID, or a prefix of it.
        group: (I,) its category.
        seed: of the lot that gives every click another request of the group.
    """
    known = np.any(requests.latest >= 0, axis=1)
    entry = np.flatnonzero((requests.clicked > 0) & known[requests.entry_request])
    request, item = requests.entry_request[entry], requests.entry_item[entry]
    order = np.lexsort((np.random.default_rng(seed).random(len(entry)), group[item]))
    # Every click beside the one before it in its group, the first beside the last.
    kind, before = group[item[order]], np.roll(order, 1)
    starts = np.flatnonzero(np.diff(kind, prepend=kind[:1] - 1))
    before[starts] = order[np.append(starts[1:], len(order))[: len(starts)] - 1]
    paired = request[order] != request[before]
    order, before = order[paired], before[paired]
    held = np.where(requests.latest >= 0, value[requests.latest], -1)
    wanted, times = value[item[order]][:, None], requests.clicked[entry][order]
    if not times.sum():
        return HistoryTells(np.nan, np.nan, 0)
    own, other = (
        float(np.average((held[request[rows]] == wanted).any(axis=1), weights=times)) for rows in (order, before)
    )
    return HistoryTells(own, other, int(times.sum()))


def moved(ours: Found, theirs: Found) -> tuple[float, float]:
    """Share of requests whose first beam, and of those whose beams at all, hold other numbers of items: a lower bound
    of those whose SIDs differ, since only the numbers are kept.
    """
    other = ours.items != theirs.items
    return float(other[:, 0].mean()), float(other.any(axis=1).mean())

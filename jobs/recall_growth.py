"""Daily growth: what items that the generator never saw cost recall, and whether to train again.

New items attach to the SIDs that there are, and the generator stays as it is; it was trained when the first release
that it served was made, and an item is new that this release did not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.arrays import Items, find
from jobs.files import without_nan
from jobs.home import Home
from jobs.plan import Plan
from jobs.recall_targets import Trained

if TYPE_CHECKING:
    from dsirm_models.ranking_metrics import Resamples
    from dsirm_models.recall_metrics import Found, Targets

BEAMS, ITEMS = 10, 1000
"""The cuts that are told; the first decides."""


def new_and_old(
    targets: Targets, items: Items, trained: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(T,) each: is the target's item one that came after the training, or one of it? Neither: of no release."""
    there = targets.item >= 0
    old: NDArray[np.bool_] = there & (find(trained, items.hashes[targets.item]) >= 0)
    return there & ~old, old


def growth(
    home: Home, plan: Plan, first: Trained, items: Items, targets: Targets, found: Found, draws: Resamples
) -> dict[str, Any]:
    """When the generator was trained, how much came since, how it is found beside what was there, and what to do.

    Args:
        home: its setting `recall.retrain_at`.
        plan: of the release that is evaluated.
        first: when the generator was trained.
        items: of the release.
        targets: clicks.
        found: where recall has them.
        draws: of requests.
    """
    from dsirm_models import recall_metrics as metrics

    limit = home.settings.recall.retrain_at
    told: dict[str, Any] = {
        "generator": plan.generator_version,
        "first_release": first.release,
        "trained_on": str(first.date),
        "days": (plan.date - first.date).days,
        "items": len(items.hashes),
        "new_items": None,
        "new_items_share": None,
        "new_clicks_share": None,
        "rates": [],
        "retrain_at": limit,
        "retrain": False,
    }
    if first.items is None:
        if first.release == plan.release:
            told |= {"new_items": 0, "new_items_share": 0.0, "new_clicks_share": 0.0}
        return told
    new, old = new_and_old(targets, items, first.items)
    count = int((find(first.items, items.hashes) < 0).sum())
    told |= {"new_items": count, "new_items_share": count / len(items.hashes)}
    for cut in (metrics.Cut(BEAMS), metrics.Cut(items=ITEMS)):
        cost = metrics.growth(targets, found, cut, draws.queries, new=new, old=old)
        told["new_clicks_share"] = cost.new_share
        row: dict[str, Any] = {"metric": f"clk@{cut.name}"}
        for name, measured in (("new", cost.new), ("old", cost.old)):
            rate, low, high = metrics.interval(measured)
            row |= {name: rate, f"{name}_low": low, f"{name}_high": high}
        row |= metrics.difference([(cost.new, cost.old)], draws.seeds)._asdict()
        row |= {"lost": cost.lost, "lost_share": cost.lost_share}
        told["rates"].append(without_nan(row))
    decisive = told["rates"][0]
    lost, high = decisive["lost_share"], decisive["high"]
    # A handful of clicks on new items is no reason: the gap must be there for all but one draw in forty.
    told["retrain"] = lost is not None and lost >= limit and high is not None and high < 0
    return without_nan(told)

"""A small made-up marketplace through the whole chain, in a home of its own.

Writes every table. Prints what came out and where to look. Running it again changes nothing.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from pathlib import Path
from typing import Any

from jobs import nightly, simulate, views
from jobs.explain import explain
from jobs.home import Home
from jobs.settings import PROFILES

JOB = "demo"
ITEMS, USERS, QUERIES, DAYS, SEED = 3_000, 500, 2_000, 14, 1
LAST_DAY = dt.date(2026, 1, 31)


def run(root: Path) -> dict[str, Any]:
    """Simulate, run a night, and pick an example.

    The home keeps the demo's settings as its own, so that every later command on it needs no profile.
    """
    begin = time.monotonic()
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "dsirm.toml").exists():
        shutil.copyfile(PROFILES / "demo.toml", root / "dsirm.toml")
    home = Home(root)
    simulate.catalogue(home, items=ITEMS, users=USERS, seed=SEED)
    simulate.clicks(home, days=DAYS, queries=QUERIES, seed=SEED, last_day=LAST_DAY)
    nightly.run(home)
    query, item = _busiest_pair(home)
    return {
        "summary": views.summary(home),
        "coverage": views.coverage(home),
        "ranker": views.ranker_metrics(home),
        "example": explain(home, query, item),
        "seconds": round(time.monotonic() - begin),
    }


def _busiest_pair(home: Home) -> tuple[str, str]:
    """The most clicked pair of the window: a query's text and an item's id."""
    pairs = home.store.read_arrow("pairs", columns=["query_id", "item_hash", "clicks"])
    top = pairs.sort_by([("clicks", "descending"), ("query_id", "ascending"), ("item_hash", "ascending")]).slice(0, 1)
    query_id, item_hash = top["query_id"][0].as_py(), top["item_hash"][0].as_py()
    queries = home.store.read_arrow("queries", columns=["query_id", "query"]).to_pylist()
    items = home.store.read_arrow("catalog", columns=["item_hash", "item_id"]).to_pylist()
    return (
        next(row["query"] for row in queries if row["query_id"] == query_id),
        next(row["item_id"] for row in items if row["item_hash"] == item_hash),
    )

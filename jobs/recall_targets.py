"""What people wanted after a release was made: the requests and targets that its recall is evaluated on.

Reads click_log (aggregated into pair_days and query_days where it was not yet), queries, and the releases before. The
days after the as-of date where the log has any; else the queries of the test split, in the window itself.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs import aggregate_day, planned, releases
from jobs.arrays import find
from jobs.errors import DataError
from jobs.home import Home
from jobs.partitions import Partition
from jobs.plan import Plan

MOST_QUERIES = 10_000
KINDS = {"clk": "clicks", "exp": "impressions", "buy": "purchases"}
"""Name in a metric -> column of pair_days."""


class Wanted(NamedTuple):
    """Q queries with what was shown, clicked and bought for them."""

    source: str
    days: list[str]
    query_ids: NDArray[np.int64]
    """(Q,) ascending."""
    queries: list[str]
    bands: NDArray[np.str_]
    """(Q,) head, torso, tail by the traffic that the release knew, `unseen` for a query that it did not."""
    pairs: pa.Table
    """request (row of query_ids), item_hash and the counts of `KINDS`, of all days together."""
    of: int
    """Queries there were; of more than `MOST_QUERIES` those of the lowest hashes are taken, which is a fair draw."""


def wanted(home: Home, plan: Plan) -> Wanted:
    """The requests and targets. Raises DataError where the log tells of none."""
    known = planned.read_arrow(home, plan, "queries", ["query_id", "query", "band", "split"]).sort_by("query_id")
    later = sorted(
        day
        for part in home.store.partitions("click_log")
        if (day := dt.date.fromisoformat(part["event_date"])) > plan.date
    )
    if later:
        aggregate_day.run(home, later)
        source, days = "days after the as-of date", later
        texts = _read(home, "query_days", days, ["query_id", "query"])
    else:
        source, days = "test split", [dt.date.fromisoformat(day) for day in plan.days]
        texts = known.filter(pc.equal(known["split"], "test"))
    every, first = np.unique(texts["query_id"].to_numpy(), return_index=True)
    counted = _read(home, "pair_days", days, ["query_id", "item_hash", *KINDS.values()])
    acted = pc.greater(pc.add(counted["clicks"], counted["purchases"]), 0)
    asked = np.unique(counted.filter(acted)["query_id"].to_numpy())
    chosen = np.flatnonzero(np.isin(every, asked))
    if not len(chosen):
        raise DataError(
            f"No query of the {source} of {plan.as_of_date} was clicked, so there is nothing to evaluate recall on: "
            "import later days of the log, or raise corpus.test_share."
        )
    ids = every[chosen][:MOST_QUERIES]
    request = find(ids, counted["query_id"].to_numpy())
    pairs = counted.append_column("request", pa.array(request)).filter(pa.array(request >= 0))
    sums = pairs.group_by(["request", "item_hash"]).aggregate([(name, "sum") for name in KINDS.values()])
    sums = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    place = find(known["query_id"].to_numpy(), ids)
    bands = known["band"].to_numpy(zero_copy_only=False).astype(str)
    return Wanted(
        source,
        [str(day) for day in days],
        ids,
        texts["query"].take(pa.array(first[chosen][:MOST_QUERIES])).to_pylist(),
        np.where(place < 0, "unseen", bands[place]) if len(bands) else np.full(len(ids), "unseen"),
        sums.sort_by([("request", "ascending"), ("item_hash", "ascending")]),
        len(chosen),
    )


def _read(home: Home, name: str, days: list[dt.date], columns: list[str]) -> pa.Table:
    parts: list[Partition] = [{"event_date": day} for day in days]
    return home.store.read_arrow(name, *parts, columns=columns)


class Trained(NamedTuple):
    """When a generator was trained: the first release that it served."""

    release: str
    date: dt.date
    """Its as-of date."""
    items: NDArray[np.int64] | None
    """Ascending hashes of the items that it could learn of. None where that is the plan's own release, or was removed:
    nothing then tells new items from old."""


def trained(home: Home, plan: Plan) -> Trained:
    """Of the plan's generator; one that served no release yet was made for the plan's own."""
    rows: list[dict[str, Any]] = releases.history(home.store)
    served = [row for row in rows if row["generator_version"] == plan.generator_version]
    if not served or served[0]["release"] == plan.release:
        return Trained(plan.release, plan.date, None)
    first = served[0]
    read = home.store.read_arrow("item_sids", {"release": first["release"]}, columns=["item_hash"])
    items = np.sort(read["item_hash"].to_numpy()) if read.num_rows else None
    return Trained(first["release"], first["as_of_date"], items)

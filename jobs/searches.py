"""The searches of known users in the window: what the personal stages of a generator's training learn from, and the
requests that are asked most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs import planned
from jobs.aggregate_day import planned_days
from jobs.arrays import find
from jobs.errors import DataError
from jobs.generators import query_inputs, release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan
from jobs.requests import RequestInputs, UserFields, named, request_inputs
from schemas.text import text_hash

MOST = 300_000
"""Requests that are learned from at most, drawn by lot: more than the paper's steps visit."""
NAMELESS = 0.1
"""Share of requests whose user is left out, so that queries alone (`query_sids`) stay as good as they were."""


class Searches(NamedTuple):
    """Q requests and E entries, an item that a request showed or led to; no query of the test split is among them."""

    inputs: RequestInputs
    """Q requests."""
    request: NDArray[np.int64]
    """(E,) the entry's request."""
    sids: NDArray[np.int64]
    """(E,) of the entry's item."""
    acted: NDArray[np.bool_]
    """(E,) clicked or bought; else only shown."""
    train: NDArray[np.bool_]
    """(E,) False: of a query that chooses among checkpoints."""
    existing: NDArray[np.int64]
    """Every SID of the release, ascending."""


def load_searches(home: Home, plan: Plan, fields: UserFields, *, shown: bool) -> Searches:
    """Requests of the plan's window that led to a click or purchase, and whose query is in its corpus: those that few
    users ask are not, where the rule on rare queries withholds them.

    Args:
        home: reads user_searches and queries, and what `request_inputs` reads.
        plan: the release's.
        fields: what the generator knows of users.
        shown: with the items that a request showed and that led to nothing.

    Raises:
        DataError: user_searches was not computed for this plan, or holds nothing to learn from.
    """
    queries = planned.read_arrow(home, plan, "queries", ["query_id", "query", "split"])
    inputs = query_inputs(home, plan, queries)
    hashes, known, existing = release_sids(home.store, plan.release, plan.codebook_version)
    learned = queries.filter(pc.not_equal(queries["split"], "test"))["query_id"]
    rows = _drawn(home, plan, learned, hashes[known >= 0], shown)
    if not len(rows):
        raise DataError(
            f"No search of a known user in the window of {plan.as_of_date} can be learned from. Does the log name "
            'users? Without them set generator.stages = ["items", "queries"].'
        )
    names, user = named(rows["user"])
    own = sid_of(hashes, known, rows["item_hash"].to_numpy())
    query = find(inputs.ids, rows["query_id"].to_numpy())
    day = rows["event_date"].cast(pa.int32()).to_numpy().astype(np.int64)
    # Requests in an order of their own, whatever the order of rows: by day, user and query.
    (day, user, query), request = np.unique(np.stack([day, user, query]), axis=1, return_inverse=True)
    lots = np.random.default_rng(home.settings.generator.seed).random(len(user))
    user = np.where(lots < NAMELESS, len(names), user)
    asked = pa.table(
        {
            "query_id": inputs.ids[query],
            "user": pa.array([*names, ""], pa.string()).take(pa.array(user)),
            "event_date": pa.array(day.astype(np.int32)).cast(pa.date32()),
        }
    )
    held_out = queries.filter(pc.equal(queries["split"], "valid"))["query_id"].to_numpy()
    acted = rows["clicks"].to_numpy() + rows["purchases"].to_numpy() > 0
    train = ~np.isin(inputs.ids[query], held_out)[request]
    if not train.any():
        raise DataError(f"Every search of a known user in the window of {plan.as_of_date} is of a held-out query.")
    return Searches(request_inputs(home, plan, inputs, asked, fields), request, own, acted, train, existing)


def most_searched(home: Home, plan: Plan, queries: pa.ChunkedArray, most: int) -> pa.Table:
    """query_id, user: what was searched most in the plan's window, the most searched first, `most` rows at most.

    The log is kept by item, so a day's searches of a request are counted as often as the item that it showed most was
    shown, once at least. Ties: the latest day, then the lowest query hash, then the lowest pseudonym.

    Args:
        home: reads user_searches.
        plan: the release's.
        queries: ids of the queries that count.
        most: rows, at most.

    Raises:
        DataError: user_searches was not computed for this plan.
    """
    key = ["query_id", "user"]
    found = None
    for day in _days(home, plan, queries, ["event_date", *key, "impressions"]):
        one = day.group_by([*key, "event_date"]).aggregate([("impressions", "max")])
        searches = pc.max_element_wise(one["impressions_max"], 1)
        one = one.select([*key, "event_date"]).append_column("searches", searches)
        # Day after day, so that requests are held once however many days there are.
        several = one if found is None else pa.concat_tables([found, one], promote_options="default")
        summed = several.group_by(key).aggregate([("event_date", "max"), ("searches", "sum")])
        found = summed.rename_columns([name.removesuffix("_max").removesuffix("_sum") for name in summed.column_names])
    assert found is not None, "a plan has a day"
    order = [("searches", "descending"), ("event_date", "descending"), *[(name, "ascending") for name in key]]
    return found.sort_by(order).select(key).slice(0, most)


def _drawn(home: Home, plan: Plan, queries: pa.ChunkedArray, items: NDArray[np.int64], shown: bool) -> pa.Table:
    """Rows of known users and of some items, of the `MOST` requests that led to something with the lowest lots.

    A request's lot is a hash of the seed, its day, user and query, so days are read one after the other, and only one
    of them is ever held beside the requests that are in so far.
    """
    columns = ["event_date", "user", "query_id", "item_hash", "clicks", "purchases"]
    kept = None
    for day in _days(home, plan, queries, columns):
        wanted = pc.and_(pc.not_equal(pc.fill_null(day["user"], ""), ""), pc.is_in(day["item_hash"], pa.array(items)))
        day = day.filter(wanted)
        lots = _lots(day, home.settings.generator.seed)
        acted = day["clicks"].to_numpy() + day["purchases"].to_numpy() > 0
        day = day.append_column("lot", pa.array(lots)).filter(pa.array(np.isin(lots, lots[acted]) if shown else acted))
        kept = day if kept is None else pa.concat_tables([kept, day])
        lots = np.unique(kept["lot"].to_numpy())
        if len(lots) > MOST:
            kept = kept.filter(pc.less(kept["lot"], pa.scalar(lots[MOST], pa.uint64())))
    assert kept is not None, "a plan has a day"
    return kept.drop_columns(["lot"])


def _lots(rows: pa.Table, seed: int) -> NDArray[np.uint64]:
    """A lot (N,) for the request that each row belongs to."""
    names, place = named(rows["user"])
    user = np.array([text_hash(f"{seed} {name}") for name in names], dtype=np.int64)[place]
    day = rows["event_date"].cast(pa.int32()).to_numpy().astype(np.uint64)
    return _mixed(_mixed(user.view(np.uint64) ^ day) ^ rows["query_id"].to_numpy().view(np.uint64))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers that look drawn by lot, one for each value (the last step of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _days(home: Home, plan: Plan, queries: pa.ChunkedArray, columns: list[str]) -> Iterator[pa.Table]:
    """Rows of the window's user_searches of some queries, a day at a time, so that only those are ever held."""
    days, counted = planned_days(home, plan)
    for day, (part, memo) in zip(days, counted.items(), strict=True):
        read = home.store.read_arrow("user_searches", day, columns=columns, memo={part: memo})
        yield read.filter(pc.is_in(read["query_id"], value_set=queries))

"""A large made-up click log, written straight into a home's `click_log` as Delta: minutes for 300 million events.

The marketplace simulator makes a log whose clicks mean something; this one only has the sizes and the dirt of a real
one: Zipf-like queries, one of them with 1 % of all traffic, robots, events delivered twice, untidy and non-ASCII query
texts, actions that name their search and not their query.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path

import deltalake
import duckdb
import numpy as np
import pyarrow as pa
from deltalake import CommitProperties
from deltalake.transaction import AddAction

from jobs.conform import create
from jobs.home import Home
from jobs.partitions import label
from schemas.tables import TABLES
from schemas.text import text_hash

FIRST = dt.date(2026, 1, 1)
DAYS = 30
EVENTS_PER_SEARCH = 3  # two results shown, one of them clicked
PAIRS_PER_SEARCH = 0.86  # measured; the cap of the hot query and repeated clicks take the rest

_SEARCHES = """
SELECT *,
  -- One query has 1 % of all traffic; the others fall off like a power law with a long tail.
  CASE WHEN u0 < 0.01 THEN 0 ELSE 1 + CAST(floor({queries} * pow(u1, 2.2)) AS BIGINT) END AS q,
  -- Three searches a visit; one search in 200 is a robot's, which makes 300 of them.
  CASE WHEN k % 200 = 0 THEN 'bot-' || (k // 60000) ELSE 'v' || (k // 3) END AS session_id
FROM (
  SELECT k, hash(k, {seed}) % 1000003 / 1000003.0 AS u0, hash(k, {seed} + 1) % 1000000007 / 1000000007.0 AS u1,
    hash(k, {seed} + 2) % 1000003 / 1000003.0 AS u2
  FROM range({first}, {last}) AS r(k)
)
"""
_EVENTS = """
COPY (
  WITH searches AS ({searches}),
  pages AS (
    SELECT *, printf('s%012x', k * 7919) AS search_id,
      CASE WHEN q % 50 = 7 THEN 'Señal ' || q || ' müller'
           WHEN k % 10 = 3 THEN '  Brand' || (q % 977) || '  Thing ' || q
           ELSE 'brand' || (q % 977) || ' thing ' || q END AS query,
      -- Items of a query: a long list, its head far more often.
      hash(q, CAST(floor(2000 * u2 * u2) AS BIGINT), {seed}) % {items} AS item1,
      hash(q, CAST(floor(2000 * u2) AS BIGINT), {seed} + 7) % {items} AS item2
    FROM searches
  ),
  events AS (
    SELECT k, 0 AS n, search_id, session_id, query, item1 AS item, 1 + k % 20 AS position, 'impression' AS action
    FROM pages
    UNION ALL
    SELECT k, 1, search_id, session_id, query, item2, 2 + k % 20, 'impression' FROM pages
    UNION ALL
    SELECT k, 2, search_id, session_id, CASE WHEN k % 3 = 0 THEN NULL ELSE query END, item1, NULL,
      CASE WHEN k % 40 = 5 THEN 'purchase' ELSE 'click' END
    FROM pages
  )
  SELECT printf('e%013x', (k * 4 + n) * 104729) AS event_id,
    TIMESTAMPTZ '{day} 00:00:00+00' + to_microseconds((k - {first}) * {step} + n * 1000 + 3000 * copy) AS event_time,
    search_id, session_id, 'u' || (k // 7 % 5000000) AS "user", query, 'i' || item AS item_id,
    CAST(position AS INTEGER) AS position, action
  -- One event in a hundred is delivered twice.
  FROM events, LATERAL (SELECT unnest(CASE WHEN (k * 4 + n) % 101 = 11 THEN [0, 1] ELSE [0] END) AS copy)
) TO '{path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 500000)
"""


def make_log(home: Home, *, pairs: int, seed: int = 1, days: int = DAYS) -> int:
    """Write a log that gives about `pairs` distinct clicked pairs, and a catalogue. Returns its events."""
    searches = int(pairs / PAIRS_PER_SEARCH)
    events, actions, marks = 0, [], {}
    for number in range(days):
        first, last = searches * number // days, searches * (number + 1) // days
        rows, action = write_day(
            home, number, first=first, last=last, queries=searches // 4, items=items(pairs), seed=seed
        )
        events += rows
        actions.append(action)
        marks[label({"event_date": FIRST + dt.timedelta(days=number)})] = f"made {rows}"
    commit(home, actions, marks)
    _catalogue(home, items(pairs))
    return events


def items(pairs: int) -> int:
    """Items of the catalogue."""
    return max(1000, pairs // 40)


def write_day(
    home: Home, number: int, *, first: int, last: int, queries: int, items: int, seed: int, name: str = "part-0"
) -> tuple[int, AddAction]:
    """Write one day's searches first..last-1 as one file of the table. Returns its rows and its entry for the log."""
    day = FIRST + dt.timedelta(days=number)
    path = Path(home.store.path("click_log")) / f"event_date={day}" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    step = 86_000_000_000 // max(1, last - first)
    asked = {"queries": queries, "items": items, "seed": seed, "first": first, "last": last, "day": day, "step": step}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_EVENTS.format(searches=_SEARCHES.format(**asked), path=path, **asked))
        (rows,) = connection.execute(f"SELECT count(*) FROM '{path}'").fetchall()[0]
    inside = f"event_date={day}/{path.name}"
    stats = json.dumps({"numRecords": rows})
    return rows, AddAction(inside, path.stat().st_size, {"event_date": str(day)}, int(time.time() * 1000), True, stats)


def commit(home: Home, actions: list[AddAction], marks: dict[str, str]) -> None:
    """Make written files part of the table, with the fingerprints that an import would give its days."""
    table = TABLES["click_log"]
    metadata = {"job": "benchmark", "partitions": [*marks], "fingerprints": marks, "counts": {}, "memo": {}}
    create(home.store.path("click_log"), table, None)
    deltalake.DeltaTable(home.store.path("click_log")).create_write_transaction(
        actions,
        mode="append",
        schema=deltalake.Schema.from_arrow(table.arrow_schema()),
        partition_by=list(table.partition),
        commit_properties=CommitProperties(custom_metadata={"userMetadata": json.dumps(metadata)}),
    )


def _catalogue(home: Home, count: int) -> None:
    ids = [f"i{number}" for number in range(count)]
    hashes = np.array([text_hash(text) for text in ids], dtype=np.int64)
    nothing = pa.nulls(count)
    rows = pa.table(
        {
            "item_id": ids,
            "item_hash": hashes,
            "title": ids,
            "brand": nothing,
            "category": nothing,
            "category_path": pa.array([[]] * count, pa.list_(pa.string())),
            "attributes": pa.array([[]] * count, pa.map_(pa.string(), pa.string())),
            "price": nothing,
            "in_stock": np.ones(count, dtype=bool),
            "image_embedding": nothing,
            "text": ids,
            "text_hash": hashes,
            "updated_at": nothing,
        }
    )
    home.store.target("catalog").replace(rows, job="benchmark", fingerprints={"": f"made {count}"})

"""The corpus tables by DuckDB SQL over the same raw files: what `benchmarks.corpus` measures our Spark jobs against.

Same rules as `pipelines.clicks` and `pipelines.corpus`, ids hashed in the first step as there. Queries are normalised
by NFC here and NFKC there, and the two engines hash differently: the tables are compared by counts and sums.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

_HASHED = """
CREATE TABLE events AS
WITH named AS (
  SELECT event_date, hash(event_id) AS event, event_time, item_id, position, action, query, event_id,
    coalesce(hash(search_id), hash('event:' || event_id)) AS search, hash(session_id) AS session,
    search_id IS NULL AS alone, session_id IS NOT NULL AS visited,
    trim(regexp_replace(lower(nfc_normalize(query)), '\\s+', ' ', 'g')) AS text
  FROM log
)
SELECT event_date, event, event_time, search, CASE WHEN visited THEN session END AS session, hash(item_id) AS item,
  position, action, CASE WHEN text IS NOT NULL THEN hash(text) END AS query,
  CASE WHEN length(text) > 256 THEN 'query longer than 256 characters'
       WHEN NOT regexp_matches(text, '[\\p{L}\\p{N}]') THEN 'query without a letter or digit'
       WHEN alone AND text IS NULL THEN 'action without search and query' END AS reason
FROM named;
CREATE TABLE texts AS
SELECT DISTINCT event_date, hash(text) AS query, text FROM (
  SELECT event_date, trim(regexp_replace(lower(nfc_normalize(query)), '\\s+', ' ', 'g')) AS text FROM log
) WHERE text IS NOT NULL;
CREATE TABLE again AS SELECT event_date, event FROM events GROUP BY ALL HAVING count(*) > 1;
CREATE TABLE once AS
SELECT * EXCLUDE (reason) FROM events ANTI JOIN again USING (event_date, event) WHERE reason IS NULL
UNION ALL
SELECT DISTINCT ON (event_date, event) * EXCLUDE (reason) FROM events SEMI JOIN again USING (event_date, event)
WHERE reason IS NULL ORDER BY event_date, event, event_time, search, session, query, item, position, action;
CREATE TABLE robots AS
SELECT event_date, session FROM once WHERE session IS NOT NULL GROUP BY ALL
HAVING count(*) > 2000 OR count(DISTINCT search) > 150;
CREATE TABLE kept AS SELECT * FROM once ANTI JOIN robots USING (event_date, session);
"""
_REFUSED = """
CREATE TABLE marked AS
SELECT event_date, event FROM again
UNION SELECT event_date, event FROM events WHERE reason IS NOT NULL
UNION SELECT event_date, event FROM once SEMI JOIN robots USING (event_date, session);
COPY (
  WITH rows AS (
    SELECT l.*, hash(event_id) AS event FROM log AS l
    SEMI JOIN marked AS m ON l.event_date = m.event_date AND hash(l.event_id) = m.event
  ), copies AS (
    SELECT *, row_number() OVER (PARTITION BY event_date, event ORDER BY event_time) AS copy FROM rows
  )
  SELECT c.*, CASE WHEN copy > 1 THEN 'duplicate of an event' WHEN r.session IS NOT NULL THEN 'robot-like session'
    ELSE 'other' END AS why
  FROM copies AS c LEFT JOIN robots AS r ON c.event_date = r.event_date AND hash(c.session_id) = r.session
  WHERE copy > 1 OR r.session IS NOT NULL
) TO '{out}/quarantine.parquet' (FORMAT parquet, COMPRESSION zstd);
"""
_DAYS = """
CREATE TABLE views AS
WITH asked AS (SELECT event_date, search, min(query) AS query FROM kept WHERE query IS NOT NULL GROUP BY ALL),
found AS (
  SELECT event_date, search, query, item, position, action FROM kept WHERE query IS NOT NULL
  UNION ALL
  SELECT k.event_date, k.search, a.query, k.item, k.position, k.action
  FROM kept AS k JOIN asked AS a USING (event_date, search) WHERE k.query IS NULL
)
SELECT event_date, query, item, min(least(position, 100)) FILTER (action = 'impression') AS position,
  max((action = 'impression')::INT) AS impressions, max((action = 'click')::INT) AS clicks,
  max((action = 'cart')::INT) AS carts, max((action = 'purchase')::INT) AS purchases,
  count(*) FILTER (action <> 'impression') AS actions
FROM found GROUP BY event_date, search, query, item;
CREATE TABLE counts AS
SELECT event_date, query, item, position, sum(impressions) AS impressions, sum(clicks) AS clicks, sum(carts) AS carts,
  sum(purchases) AS purchases, sum(CASE WHEN impressions = 0 THEN actions ELSE 0 END) AS orphan_actions
FROM views GROUP BY ALL;
CREATE TABLE curve AS
SELECT event_date, position, (sum(clicks) * 1000000) // sum(impressions) AS rate FROM counts
WHERE position IS NOT NULL GROUP BY ALL;
CREATE TABLE pair_days AS
SELECT event_date, query, item, sum(impressions) AS impressions, sum(clicks) AS clicks, sum(carts) AS carts,
  sum(purchases) AS purchases, sum(coalesce(rate * impressions, 0)) AS expected_clicks,
  sum(orphan_actions) AS orphan_actions
FROM counts LEFT JOIN curve USING (event_date, position) GROUP BY ALL;
COPY pair_days TO '{out}/pair_days.parquet' (FORMAT parquet, COMPRESSION zstd);
CREATE TABLE query_days AS
SELECT t.event_date, t.query, t.text, s.searches FROM texts AS t JOIN (
  SELECT event_date, query, count(DISTINCT search) AS searches FROM kept WHERE query IS NOT NULL GROUP BY ALL
) AS s USING (event_date, query);
COPY query_days TO '{out}/query_days.parquet' (FORMAT parquet, COMPRESSION zstd);
"""
_CORPUS = """
CREATE TABLE summed AS
SELECT query, item, sum(impressions) AS impressions, sum(clicks) AS clicks, sum(carts) AS carts,
  sum(purchases) AS purchases, sum(expected_clicks) AS expected_clicks, sum(orphan_actions) AS orphan_actions
FROM pair_days GROUP BY ALL HAVING sum(clicks) + sum(carts) + sum(purchases) > 0;
CREATE TABLE here AS SELECT * FROM summed SEMI JOIN (SELECT hash(item_id) AS item FROM '{catalog}') USING (item);
CREATE TABLE crowded AS SELECT query FROM here GROUP BY ALL HAVING count(*) > 1000;
COPY (
  WITH capped AS (
    SELECT * FROM here ANTI JOIN crowded USING (query)
    UNION ALL
    SELECT * EXCLUDE (place) FROM (
      SELECT *, row_number() OVER (PARTITION BY query ORDER BY purchases DESC, clicks DESC, carts DESC, item) AS place
      FROM here SEMI JOIN crowded USING (query)
    ) WHERE place <= 1000
  )
  SELECT *, (clicks + purchases * 3.0 + 1.0) / (expected_clicks / 1000000 + 1.0) AS weight,
    CASE WHEN hash(query, 'split') % 1000000 < 25000 THEN 'test'
         WHEN hash(query, 'split') % 1000000 < 50000 THEN 'valid' ELSE 'train' END AS split
  FROM capped
) TO '{out}/pairs.parquet' (FORMAT parquet, COMPRESSION zstd);
CREATE TABLE traffic AS
SELECT query, min(text) AS text, sum(searches) AS traffic FROM query_days GROUP BY query;
COPY (
  WITH levels AS (SELECT traffic, sum(traffic) AS searches FROM traffic GROUP BY traffic),
  above AS (
    SELECT traffic, (sum(searches) OVER (ORDER BY traffic DESC) - searches) / sum(searches) OVER () AS above FROM levels
  )
  SELECT t.*, CASE WHEN above < 0.5 THEN 'head' WHEN above >= 0.8 THEN 'tail' ELSE 'torso' END AS band
  FROM traffic AS t JOIN above USING (traffic)
) TO '{out}/queries.parquet' (FORMAT parquet, COMPRESSION zstd);
"""


def build(log: str, catalog: str, out: Path, memory: str) -> None:
    """Write quarantine, pair_days, query_days, pairs and queries as Parquet files under `out`.

    `log` and `catalog` are globs of the raw files; the database spills next to its results.
    """
    out.mkdir(parents=True)
    with duckdb.connect(str(out / "work.duckdb")) as connection:
        connection.execute(
            f"SET memory_limit = '{memory}'; SET temp_directory = '{out}/spill'; SET TimeZone = 'UTC';"
            "SET preserve_insertion_order = false;"
        )
        connection.execute(f"CREATE VIEW log AS SELECT * FROM read_parquet('{log}', hive_partitioning = true)")
        for step in (_HASHED, _REFUSED, _DAYS, _CORPUS):
            connection.execute(step.format(out=out, catalog=catalog) if "{out}" in step else step)

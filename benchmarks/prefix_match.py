"""Prefix match of pairs with five beams a query: the Spark expressions of `pipelines.prefix_match` against DuckDB."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from benchmarks.figures import Figure, Usage, apart, save

PAIRS = {"small": (5_000_000,), "full": (5_000_000, 80_000_000)}
PROMISED = 80_000_000
"""At which the limit holds: of a smaller size most is what Spark takes to start and to plan."""
BEAMS = 5
SS = (0.0, 0.25, 0.5, 1.0)
TABLES = ("pairs", "query_sids", "item_sids")

_MACROS = """
CREATE MACRO id(kind, k) AS (hash(kind, k) >> 1)::BIGINT;
CREATE MACRO draw(k, salt) AS hash(k, salt) % 1000003 / 1000003.0;
CREATE MACRO sid(c1, c2, c3) AS (c1::BIGINT << 40) | (c2::BIGINT << 20) | c3::BIGINT;
"""
# Uneven traffic, one query with 1 % of all pairs, two queries in a hundred without a SID; prefixes meet often.
_MAKE = {
    "pairs": """
SELECT id('q', CASE WHEN k % 100 = 0 THEN 0 ELSE floor({queries} * pow(draw(k, 1), 1.5))::BIGINT END) AS query_id,
  id('i', (hash(k, 2) % {items})::BIGINT) AS item_hash
FROM range({pairs}) AS r(k)
""",
    "item_sids": """
SELECT id('i', k) AS item_hash, sid(hash(k, 3) % 20, hash(k, 4) % 10, hash(k, 5) % 5) AS sid
FROM range({items}) AS r(k)
""",
    "query_sids": """
SELECT id('q', q) AS query_id, rank::INTEGER AS rank,
  sid(hash(q, rank // 3) % 20, hash(q, rank // 2, 4) % 10, hash(q, rank, 5) % 5) AS sid,
  [-0.1 * rank, -0.7, -1.5]::FLOAT[] AS logps
FROM range({queries}) AS r(q), range(1, 6) AS b(rank) WHERE q % 50 <> 7
""",
}
# The beams of a query side by side, so that the match itself is arithmetic on columns.
_PEER = """
WITH beams AS (
  SELECT query_id, {wide} FROM '{folder}/query_sids.parquet' GROUP BY query_id
), joined AS (
  SELECT p.*, i.sid, b.* EXCLUDE (query_id), b.query_id IS NOT NULL AS has_query_sid, i.sid IS NOT NULL AS has_item_sid
  FROM '{folder}/pairs.parquet' AS p
  LEFT JOIN '{folder}/item_sids.parquet' AS i USING (item_hash)
  LEFT JOIN beams AS b USING (query_id)
), ranked AS (SELECT *, {ranks} FROM joined)
SELECT query_id, item_hash, CASE WHEN r3 > 0 THEN 3 WHEN r2 > 0 THEN 2 WHEN r1 > 0 THEN 1 ELSE 0 END AS depth,
  coalesce(r3, r2, r1) AS beam_rank, {masses}, has_query_sid, has_item_sid,
  CASE WHEN r3 > 0 THEN 1.0 WHEN r2 > 0 THEN 0.5 WHEN r1 > 0 THEN 0.25 ELSE 0.0 END AS ss
FROM ranked
"""


def main(size: str) -> None:
    """Every size in turn; what is measured is saved figure by figure."""
    figures: list[Figure] = []
    sizes: list[dict[str, Any]] = []
    for pairs in PAIRS[size]:
        figure, used = _match(pairs)
        figures.append(figure)
        sizes.append({"pairs": pairs, **used._asdict()})
        save("prefix_match", size, figures, {"sizes": sizes})


def _match(pairs: int) -> tuple[Figure, Usage]:
    """Make the tables, match twice, compare."""
    counts = {"pairs": pairs, "queries": pairs // 20, "items": pairs // 40}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for table in TABLES:
            _copy(folder, _MAKE[table].format(**counts), f"{table}.parquet")
        ours = apart(_ours, folder, folders=[folder])
        peer = apart(_peer, folder)
        _check_same(folder, pairs)
    note = f"{counts['queries']:,} queries of {BEAMS} beams, {counts['items']:,} items; one query has 1 % of the pairs."
    figure = Figure(
        name=f"prefix match of {pairs:,} pairs", ours=ours.seconds, peer=peer.seconds, peer_name="DuckDB", unit="s",
        limit=5.0 if pairs == PROMISED else None, memory_gb=ours.memory_gb, peer_memory_gb=peer.memory_gb,
        disk_gb=ours.disk_gb, note=note,
    )  # fmt: skip
    return figure, ours


def _copy(folder: Path, query: str, file: str) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = '{folder}/spill'; SET preserve_insertion_order = false;")
        connection.execute(_MACROS)
        connection.execute(f"COPY ({query}) TO '{folder}/{file}' (FORMAT parquet, COMPRESSION zstd)")


def _ours(folder: Path) -> None:
    from jobs.session import start_session
    from pipelines.prefix_match import match_prefixes

    spark = start_session({}, app="dsirm-bench")
    pairs, query_sids, item_sids = (spark.read.parquet(f"{folder}/{name}.parquet") for name in TABLES)
    match_prefixes(pairs, query_sids, item_sids, ss=SS, beams=BEAMS).write.parquet(f"{folder}/ours")
    spark.stop()


def _peer(folder: Path) -> None:
    beams = range(1, BEAMS + 1)
    logps = {level: " + ".join(f"logps[{at}]::DOUBLE" for at in range(1, level + 1)) for level in (1, 2, 3)}
    columns = [f"max(sid) FILTER (rank = {b}) AS s{b}" for b in beams]
    columns += [f"max(exp({sum_})) FILTER (rank = {b}) AS p{b}_{level}" for b in beams for level, sum_ in logps.items()]
    wide = ", ".join(columns)

    def first(level: int, values: list[str]) -> str:
        shift = 20 * (3 - level)
        cases = " ".join(
            f"WHEN s{b} >> {shift} = sid >> {shift} THEN {value}" for b, value in zip(beams, values, strict=True)
        )
        return f"CASE {cases} END"

    ranks = ", ".join(f"{first(level, [str(b) for b in beams])} AS r{level}" for level in (1, 2, 3))
    masses = ", ".join(
        f"coalesce({first(level, [f'p{b}_{level}' for b in beams])}, 0.0) AS mass_{level}" for level in (1, 2, 3)
    )
    _copy(folder, _PEER.format(folder=folder, wide=wide, ranks=ranks, masses=masses), "peer.parquet")


def _check_same(folder: Path, pairs: int) -> None:
    """Both hold the same rows: counts by every discrete column, and sums of the hashes of rows and of the masses."""
    summary = """
SELECT depth, beam_rank, ss, has_query_sid, has_item_sid, count(*) AS n, sum(hash(query_id, item_hash, depth)) AS rows,
  round(sum(mass_1), 3) AS m1, round(sum(mass_2), 3) AS m2, round(sum(mass_3), 3) AS m3
FROM '{}' GROUP BY ALL ORDER BY ALL
"""
    ours, peer = (duckdb.sql(summary.format(f"{folder}/{name}")).df() for name in ("ours/*.parquet", "peer.parquet"))
    if int(ours["n"].sum()) != pairs or not np.allclose(
        ours.astype(float).fillna(-1), peer.astype(float).fillna(-1), rtol=1e-9
    ):
        raise RuntimeError(f"The two disagree:\n{ours}\n{peer}")


if __name__ == "__main__":
    main(sys.argv[1])

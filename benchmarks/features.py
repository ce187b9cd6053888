"""The job `match-prefixes` over a corpus that a home holds: SIDs of its items and queries are made up first."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from benchmarks.figures import Figure, Usage, apart, save
from jobs.home import Home
from jobs.partitions import label
from jobs.plan import Plan, make_plan
from schemas.query_sids import SHARDS

SIZES = (20, 10, 5)
"""Codes of each level: few, so that prefixes of every depth meet."""
JUDGED = 100_000
LABELS = {"source": "simulation"}


def main(size: str, root: Path, day: dt.date, rebuild: Usage) -> None:
    """The features of the whole corpus of a day, with some judged pairs beside, against the rebuild of that corpus.

    `benchmarks.corpus` calls this with the home that it made: no other has such a corpus.
    """
    apart(_make, root, day)
    used = apart(_match, root, day, folders=[root, root.parent / "spark"])
    home = Home(root)
    beams, found = home.settings.generator.beams, _counted(home, day)
    if found["features"] != found["pairs"] + found["judged alone"]:
        raise RuntimeError(f"Each pair of the corpus or of the judgments should have come once: {found}.")
    figure = Figure(
        name=f"match-prefixes of {found['pairs']:,} pairs", ours=used.seconds, unit="s", limit=None,
        peer=rebuild.seconds, peer_name="full rebuild of 30 days", memory_gb=used.memory_gb,
        peer_memory_gb=rebuild.memory_gb, disk_gb=used.disk_gb,
        note=f"The whole job: {found['queries']:,} queries of {beams} beams, {found['judged alone']:,} judged alone.",
    )  # fmt: skip
    save("features", size, [figure], found)


def _make(root: Path, day: dt.date) -> None:
    """Judgments, then what the release that they are part of would hold before its features."""
    home = spilling_beside(root)
    store, spark, items = home.store, home.spark, home.store.count("catalog")
    queries = store.read(spark, "queries", {"as_of_date": day}).select("query_id", "query")
    catalog = store.read(spark, "catalog").select("item_id", "item_hash")
    pairs = store.read(spark, "pairs", {"as_of_date": day}).select("query_id", "item_hash")
    some = pairs.orderBy("query_id", "item_hash").limit(JUDGED)
    known = some.join(queries, "query_id").join(catalog, "item_hash")
    other = queries.orderBy("query_id").limit(JUDGED)
    other = other.withColumn("item_id", F.concat(F.lit("i"), F.pmod(F.xxhash64("query_id"), F.lit(items))))
    judged = known.select("query", "query_id", "item_id").union(other.select("query", "query_id", "item_id")).distinct()
    store.target("relevance_labels", LABELS).replace(
        judged.withColumns(
            {
                "rater": F.lit("final"), "source": F.lit(LABELS["source"]), "grade": F.lit(1),
                "fold": F.lit(None).cast("string"),
            }
        ),
        job="benchmark", fingerprints={label(LABELS): "made"},
    )  # fmt: skip
    plan = make_plan(home, day)
    book = [(level, code) for level, size in enumerate(SIZES, start=1) for code in range(size)]
    _put(home, plan, "codebooks", _codebook(plan, book), codebook_version=plan.codebook_version)
    of_release: dict[str, Any] = {
        "release": F.lit(plan.release),
        **{name: F.lit(time) for name, time in plan.times.items()},
    }
    sids = _with_sid(catalog, [F.xxhash64("item_hash", F.lit(level)) for level in range(3)]).withColumns(
        {
            "residual_norm": F.lit(0.5).cast("float"), "level1_by": F.lit("nearest"),
            "codebook_version": F.lit(plan.codebook_version), **of_release,
        }
    )  # fmt: skip
    _put(home, plan, "item_sids", sids, release=plan.release)
    ranks = F.explode(F.sequence(F.lit(1), F.lit(home.settings.generator.beams)))
    beams = queries.select("query_id", ranks.alias("rank"))
    # Neighbours in rank share prefixes, as beams do.
    beams = _with_sid(beams, [F.xxhash64("query_id", F.expr(f"rank div {shared}")) for shared in (3, 2, 1)])
    beams = beams.withColumns(
        {
            "logps": F.expr("array(-0.1f * (rank div 3), -0.7f, -1.5f)").cast("array<float>"),
            "shard": F.pmod("query_id", F.lit(SHARDS)).cast("int"), "complete": F.lit(True),
            "generator_version": F.lit(plan.generator_version), **of_release,
        }
    )  # fmt: skip
    _put(home, plan, "query_sids", beams, release=plan.release)
    scores = store.read(spark, "relevance_labels").select("query_id", "item_id")
    scores = scores.withColumns({"own_logps": F.expr("array(-1.0f, -1.0f, -1.0f)"), "release": F.lit(plan.release)})
    _put(home, plan, "label_scores", scores, release=plan.release)
    spark.stop()


def _put(home: Home, plan: Plan, name: str, rows: DataFrame | pa.Table, **part: str) -> None:
    home.store.target(name, part).replace(rows, job="benchmark", memo=plan.release)


def _with_sid(rows: DataFrame, hashes: list[Column]) -> DataFrame:
    codes = [F.pmod(found, F.lit(size)) for found, size in zip(hashes, SIZES, strict=True)]
    sid = F.shiftleft(codes[0], 40).bitwiseOR(F.shiftleft(codes[1], 20)).bitwiseOR(codes[2])
    return rows.withColumns({"codes": F.array(*[code.cast("int") for code in codes]), "sid": sid})


def _codebook(plan: Plan, book: list[tuple[int, int]]) -> pa.Table:
    return pa.table(
        {
            "codebook_version": [plan.codebook_version] * len(book),
            "level": [level for level, _ in book],
            "code": [code for _, code in book],
            "vector": [[0.0]] * len(book),
            "usage": [1] * len(book),
            "category": pa.nulls(len(book), pa.string()),
        }
    )


def _match(root: Path, day: dt.date) -> None:
    from jobs import match_prefixes

    home = spilling_beside(root)
    match_prefixes.run(home, make_plan(home, day))
    home.spark.stop()


def spilling_beside(root: Path) -> Home:
    """A home whose Spark session spills and shuffles into a folder beside it, where that counts as disk too."""
    os.environ["SPARK_LOCAL_DIRS"] = str(root.parent / "spark")
    return Home(root)


def live_files(path: str) -> str:
    """The live files of a table as DuckDB reads them."""
    uris = ", ".join(f"'{uri}'" for uri in deltalake.DeltaTable(path).file_uris())
    return f"read_parquet([{uris}], hive_partitioning = true)"


def _counted(home: Home, day: dt.date) -> dict[str, int]:
    def rows(name: str, where: str = "true") -> str:
        return f"(SELECT * FROM {live_files(home.store.path(name))} WHERE {where})"

    of_day = f"as_of_date = DATE '{day}'"
    corpus, judged = rows("pairs", of_day), rows("relevance_labels")
    items = f"(SELECT query_id, item_hash FROM {judged} JOIN {rows('catalog')} USING (item_id))"
    counts = {
        "pairs": f"SELECT count(*) FROM {corpus}",
        "queries": f"SELECT count(*) FROM {rows('queries', of_day)}",
        "features": f"SELECT count(*) FROM {rows('prefix_match_features')}",
        "judged alone": f"SELECT count(*) FROM {items} AS a ANTI JOIN {corpus} AS b USING (query_id, item_hash)",
    }
    return {name: int(duckdb.sql(query).fetchall()[0][0]) for name, query in counts.items()}

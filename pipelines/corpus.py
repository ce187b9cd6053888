"""Daily counts summed over the lookback window -> the training corpus (`build_corpus`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.clicks import SCALE

COUNTS = ("impressions", "clicks", "carts", "purchases", "expected_clicks", "orphan_actions")
BUCKETS = 1_000_000


class Corpus(NamedTuple):
    """The corpus of one as-of date."""

    pairs: DataFrame
    queries: DataFrame
    trimmed: DataFrame
    """query_id, item_hash: pairs with an action that the cap of their query cut."""
    clashes: DataFrame
    """query_id, a, b: two texts that share a hash; empty in practice, to be checked before anything is written."""
    counts: DataFrame
    """One row: pairs with an action that were read, and those whose item is not in the catalogue."""


def split_of(query_id: Column, *, valid_share: float, test_share: float) -> Column:
    """train, valid or test by a hash of the query alone, so that a query never changes sides."""
    bucket = F.pmod(F.xxhash64(query_id, F.lit("split")), F.lit(BUCKETS))
    return (
        F.when(bucket < int(test_share * BUCKETS), "test")
        .when(bucket < int((test_share + valid_share) * BUCKETS), "valid")
        .otherwise("train")
    )


def band_of_traffic(queries: DataFrame, *, head_share: float, tail_share: float) -> DataFrame:
    """Traffic -> band, a small frame: the busiest queries that make up `head_share` of all searches are the head, the
    least busy that make up `tail_share` the tail. Queries of equal traffic share a band.
    """
    levels = queries.groupBy("traffic").agg(F.sum("traffic").alias("searches"))
    # One row per distinct traffic figure: small, so a window without partitions is no hazard.
    busier = Window.orderBy(F.col("traffic").desc()).rowsBetween(Window.unboundedPreceding, -1)
    whole = Window.partitionBy()
    above = F.coalesce(F.sum("searches").over(busier), F.lit(0)) / F.sum("searches").over(whole)
    band = F.when(above < head_share, "head").when(above >= 1 - tail_share, "tail").otherwise("torso")
    return levels.select("traffic", band.alias("band"))


def build_corpus(
    pair_days: DataFrame,
    query_days: DataFrame,
    catalog: DataFrame,
    *,
    as_of_date: Column,
    max_items_per_query: int,
    purchase_weight: float,
    prior_clicks: float,
    valid_share: float,
    test_share: float,
    head_share: float,
    tail_share: float,
    stage: Callable[[DataFrame], DataFrame] = lambda frame: frame,
) -> Corpus:
    """Sum the window, weigh pairs by clicks over expected clicks, cap queries, split and band.

    Pairs without any action, and items no longer in the catalogue, stay out: they are exposure, not interest.
    `stage` is called on the two sums of the window and on what the cap needs of them, so that a job can keep them.
    """
    split = split_of(F.col("query_id"), valid_share=valid_share, test_share=test_share)
    # A pair seldom comes on many days that one task reads: summed before the shuffle, the window would only be hashed
    # twice. By query alone, so that the cap needs no shuffle of its own.
    together = pair_days.repartition("query_id")
    summed = together.groupBy("query_id", "item_hash").agg(*[F.sum(name).alias(name) for name in COUNTS])
    acted = summed.where(F.col("clicks") + F.col("carts") + F.col("purchases") > 0)
    known = catalog.select("item_hash").distinct().withColumn("_known", F.lit(True))
    marked = stage(acted.join(F.broadcast(known), "item_hash", "left"))
    counts = marked.agg(F.count("*").alias("read"), (F.count("*") - F.count("_known")).alias("not_in_catalogue"))
    kept, trimmed = _cap(marked.where("_known").drop("_known"), max_items_per_query, stage)
    # Ratios come last: one division of two integers per pair.
    earned = F.col("clicks") + F.col("purchases") * purchase_weight + prior_clicks
    weight = earned / (F.col("expected_clicks") / F.lit(SCALE) + prior_clicks)
    pairs = kept.withColumn("weight", weight).withColumn("split", split).withColumn("as_of_date", as_of_date)
    # By text as well: a text as a key is hashed, as a least or greatest value it would be sorted.
    asked = query_days.repartition("query_id").groupBy("query_id", "query")
    traffic = stage(asked.agg(F.sum("searches").alias("traffic")))
    bands = band_of_traffic(traffic, head_share=head_share, tail_share=tail_share)
    queries = (
        traffic.join(F.broadcast(bands), "traffic").withColumn("split", split).withColumn("as_of_date", as_of_date)
    )
    shared = traffic.groupBy("query_id").count().where(F.col("count") > 1).select("query_id")
    clashes = colliding_hashes(traffic.join(F.broadcast(shared), "query_id"), "query_id", "query")
    return Corpus(pairs, queries, trimmed, clashes, counts)


def _cap(pairs: DataFrame, limit: int, stage: Callable[[DataFrame], DataFrame]) -> tuple[DataFrame, DataFrame]:
    """At most `limit` items a query. Only the few queries above the limit are sorted, never the window."""
    many = pairs.groupBy("query_id").count().where(F.col("count") > limit)
    over = stage(many.select("query_id", F.lit(True).alias("_over")))
    marked = pairs.join(F.broadcast(over), "query_id", "left")
    strongest = Window.partitionBy("query_id").orderBy(
        F.col("purchases").desc(), F.col("clicks").desc(), F.col("carts").desc(), "item_hash"
    )
    ranked = marked.where(F.col("_over")).withColumn("_rank", F.row_number().over(strongest))
    kept = marked.where(F.col("_over").isNull()).drop("_over")
    capped = ranked.where(F.col("_rank") <= limit).drop("_over", "_rank")
    return kept.unionByName(capped), ranked.where(F.col("_rank") > limit).select("query_id", "item_hash")


def colliding_hashes(rows: DataFrame, key: str, text: str) -> DataFrame:
    """Hashes that stand for more than one text: empty in practice, checked before anything joins on them."""
    ends = rows.groupBy(key).agg(F.min(text).alias("a"), F.max(text).alias("b"))
    return ends.where(F.col("a") != F.col("b"))


def enough_users(query_users: DataFrame, least: int) -> DataFrame:
    """Days of `query_users` -> query_id of the queries that surely had `least` users over them."""
    users = F.bit_count(F.bit_or("user_bits"))
    return query_users.groupBy("query_id").agg(users.alias("users")).where(F.col("users") >= least).select("query_id")


def only(rows: DataFrame, queries: DataFrame) -> DataFrame:
    """Rows whose query is one of `queries`."""
    return rows.join(queries, "query_id", "left_semi")


def withheld(query_days: DataFrame, queries: DataFrame) -> DataFrame:
    """One row: how many queries are not among `queries`, the searches of these, and how many are."""
    named = query_days.groupBy("query_id").agg(F.sum("searches").alias("searches"))
    marked = named.join(queries.withColumn("_kept", F.lit(True)), "query_id", "left")
    out = F.col("_kept").isNull()
    return marked.agg(
        F.count_if(out).alias("withheld"),
        F.coalesce(F.sum(F.when(out, F.col("searches"))), F.lit(0)).alias("traffic_withheld"),
        F.count_if(~out).alias("published"),
    )

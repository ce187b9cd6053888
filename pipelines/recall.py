"""Beams of semantic IDs x the items behind them -> the items recalled for each request (`generate_recall`).

CQ-SID uses SIDs as clusters of items: a generator names clusters, a table says what is in them. Items of the likelier
cluster come first, within one those of the higher efficiency, a smoothed click rate. A request is a query, or a user
and a query.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from pipelines.prefix_match import without_group

SCALE = 1_000_000  # efficiency is kept in millionths: a float summed over rows depends on their order
PRIOR = 20
"""Impressions at the mean click rate that every item gets beside its own: what few were shown says little."""
REQUEST = ["query_id", "user"]


def with_efficiency(items: DataFrame, pair_days: DataFrame) -> DataFrame:
    """Items with their `efficiency`, from the daily counts of the window over all queries.

    `efficiency = (clicks + PRIOR * mean) / (impressions + PRIOR)` in millionths, rounded down; mean is the click rate
    of all items, and what an item never shown gets. One clicked more often than shown (its impressions were on another
    day) counts as shown for each click.
    """
    sums = pair_days.groupBy("item_hash").agg(F.sum("clicks").alias("clicks"), F.sum("impressions").alias("shown"))
    counted = sums.select("item_hash", "clicks", F.greatest("shown", "clicks").alias("shown"))
    whole = counted.agg(F.sum("clicks").alias("clicks"), F.sum("shown").alias("shown"))
    mean = whole.select(F.expr(f"coalesce(clicks * {SCALE} div nullif(shown, 0), 0)").alias("_mean"))
    rate = f"(coalesce(clicks, 0) * {SCALE} + {PRIOR} * _mean) div (coalesce(shown, 0) + {PRIOR})"
    rated = items.join(counted, "item_hash", "left").crossJoin(F.broadcast(mean))
    return rated.select(*[f"`{name}`" for name in items.columns], F.expr(rate).alias("efficiency"))


def items_behind_sids(item_sids: DataFrame, pair_days: DataFrame) -> DataFrame:
    """sid, items, efficiency, size: the items of each SID, the most efficient first, ties by the lowest item hash."""
    rated = with_efficiency(item_sids.select("sid", "item_hash", "item_id"), pair_days)
    item = F.struct((-F.col("efficiency")).alias("order"), "item_hash", "item_id", "efficiency")
    grouped = rated.groupBy("sid").agg(F.sort_array(F.collect_list(item)).alias("ordered"))
    return grouped.select(
        "sid",
        F.col("ordered.item_id").alias("items"),
        F.col("ordered.efficiency").alias("efficiency"),
        F.size("ordered").alias("size"),
    )


def clusters(sid_items: DataFrame, catalog: DataFrame, *, third: int, most: int) -> DataFrame:
    """sid, items, size: what can be recalled through each SID as a generator emits it.

    The groups of a split cluster come together (decision 12). Items out of stock, or not in the catalogue, are left
    out; a SID without any other has size 0. `size` counts all in stock, `items` holds the first `most` of them.

    Args:
        sid_items: sid, items, efficiency.
        catalog: item_hash, in_stock.
        third: codes at level 3.
        most: items of a list.
    """
    item = F.explode(F.arrays_zip("items", "efficiency")).alias("item")
    each = sid_items.select(without_group(F.col("sid"), third).alias("sid"), item).select(
        "sid",
        F.col("item.items").alias("item_id"),
        F.xxhash64("item.items").alias("item_hash"),
        F.col("item.efficiency").alias("efficiency"),
    )
    stocked = catalog.where("in_stock").select("item_hash", F.lit(True).alias("_stocked"))
    # NULLs are not collected.
    kept = F.when(F.col("_stocked"), F.struct((-F.col("efficiency")).alias("order"), "item_hash", "item_id"))
    grouped = each.join(stocked, "item_hash", "left").groupBy("sid").agg(F.sort_array(F.collect_list(kept)).alias("o"))
    return grouped.select("sid", F.slice("o.item_id", 1, most).alias("items"), F.size("o").alias("size"))


def recall(beams: DataFrame, clusters: DataFrame, *, most: int) -> DataFrame:
    """The lists: query_id, user, rank, item_id, sid, beam_rank, score; `rank` from 1 without a gap, at most `most`.

    A request's beams are taken by their rank, which is by probability; `score` is that probability. A SID that
    `clusters` does not hold recalls nothing. An item has one SID, so with distinct SIDs a request no item comes twice,
    and how many items the beams before hold says at which rank those of a beam begin: only the beams are shuffled and
    sorted, never the items.

    Args:
        beams: query_id, user, rank, sid, probability; distinct SIDs a request.
        clusters: of the function of that name, made with the same `most`.
        most: items of a list.
    """
    sized = beams.join(clusters.where("size > 0").select("sid", "size"), "sid")
    better = Window.partitionBy(*REQUEST).orderBy("rank").rowsBetween(Window.unboundedPreceding, -1)
    before = F.coalesce(F.sum("size").over(better), F.lit(0)).cast("int")
    placed = sized.withColumn("_before", before).where(F.col("_before") < most)
    room = F.lit(most) - F.col("_before")
    each = placed.join(clusters.select("sid", "items"), "sid").select(
        *REQUEST,
        "sid",
        F.col("rank").alias("beam_rank"),
        F.col("probability").alias("score"),
        "_before",
        F.posexplode(F.slice("items", F.lit(1), room)).alias("_place", "item_id"),
    )
    return each.withColumn("rank", F.col("_before") + F.col("_place") + 1).drop("_before", "_place")


def count_recalled(beams: DataFrame, clusters: DataFrame, *, most: int) -> DataFrame:
    """One row: `requests`, `empty` (those whose beams hold nothing in stock), `recalled` (items of all lists) and
    `unknown` (beams whose SID no item of the release has: there must be none).
    """
    held = beams.join(clusters.select("sid", "size"), "sid", "left")
    requests = held.groupBy(*REQUEST).agg(
        F.least(F.coalesce(F.sum("size"), F.lit(0)), F.lit(most)).alias("items"),
        F.count_if(F.col("size").isNull()).alias("unknown"),
    )
    return requests.agg(
        F.count("*").alias("requests"),
        F.count_if(F.col("items") == 0).alias("empty"),
        F.coalesce(F.sum("items"), F.lit(0)).alias("recalled"),
        F.coalesce(F.sum("unknown"), F.lit(0)).alias("unknown"),
    )

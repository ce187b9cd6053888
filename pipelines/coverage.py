"""How well SIDs cover items, queries and traffic, how evenly codes are used, what moved (`measure_coverage`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from schemas.sids import shift_for

WITHHELD = ("queries_withheld", "traffic_withheld")


def _covered(rows: DataFrame, key: str, what: str, weight: Column, having: DataFrame, by: Column) -> DataFrame:
    """slice, what, what_covered: the sum of `weight` over all rows and over those whose key is in `having`."""
    marked = rows.join(having.select(key).distinct().withColumn("_has", F.lit(True)), key, "left")
    return marked.groupBy(by.alias("slice")).agg(
        F.sum(weight).cast("bigint").alias(what),
        F.sum(F.when(F.col("_has"), weight).otherwise(F.lit(0))).cast("bigint").alias(f"{what}_covered"),
    )


def code_usage(item_sids: DataFrame, codebook_sizes: Sequence[int], prior: DataFrame) -> DataFrame:
    """One row a level (slice `level=1`..): utilisation, entropy (bits), gini, bucket sizes, churn against `prior`.

    Utilisation and entropy are of the codes of the level by themselves, whatever group of a split SID an item is in;
    gini and buckets of its prefixes; churn is the share of the items of both releases whose prefix moved.
    """
    whole = Window.partitionBy()
    levels = []
    for level, size in enumerate(codebook_sizes, start=1):
        share = F.col("n") / F.sum("n").over(whole)
        codes = item_sids.groupBy((F.col("codes")[level - 1] % size).alias("code")).agg(F.count("*").alias("n"))
        even = codes.select((-share * F.log2(share)).alias("bits")).agg(
            (F.count("*") / size).alias("utilisation"), _ordered_sum(F.col("bits")).alias("entropy")
        )
        prefixes = item_sids.groupBy(F.shiftright("sid", shift_for(level)).alias("prefix")).agg(F.count("*").alias("n"))
        moved = (
            item_sids.select("item_id", F.shiftright("sid", shift_for(level)).alias("now"))
            .join(prior.select("item_id", F.shiftright("sid", shift_for(level)).alias("then")), "item_id")
            .agg(F.avg((F.col("now") != F.col("then")).cast("double")).alias("churn"))
        )
        levels.append(even.crossJoin(_buckets(prefixes)).crossJoin(moved).withColumn("slice", F.lit(f"level={level}")))
    return reduce(DataFrame.unionByName, levels)


def _ordered_sum(values: Column) -> Column:
    """Sum of floats by rising value: the same bits for any order of rows. NULL over no rows."""
    ordered = F.array_sort(F.collect_list(values))
    return F.when(F.size(ordered) > 0, F.aggregate(ordered, F.lit(0.0), lambda total, value: total + value))


def _buckets(sizes: DataFrame) -> DataFrame:
    """Rows of n -> gini, bucket_p50, bucket_p99, bucket_max over them."""
    place = F.row_number().over(Window.orderBy("n"))
    ranked = sizes.select("n", (place * F.col("n")).alias("weighted"))
    count, total = F.count("*"), F.sum("n")
    return ranked.agg(
        (2 * F.sum("weighted") / (count * total) - (count + 1) / count).alias("gini"),
        F.percentile("n", 0.5).alias("bucket_p50"),
        F.percentile("n", 0.99).alias("bucket_p99"),
        F.max("n").alias("bucket_max"),
    )


def measure_coverage(
    catalog: DataFrame,
    queries: DataFrame,
    item_sids: DataFrame,
    query_sids: DataFrame,
    prior: DataFrame,
    *,
    codebook_sizes: Sequence[int],
    withheld: tuple[int | None, int | None] = (None, None),
) -> DataFrame:
    """Rows of `sid_coverage` but for its release: slices all, level=, category= and band=.

    `withheld`: queries of too few users and their traffic, which `queries` does not hold; told, not counted.
    """
    everything = F.lit("all")
    category = F.concat(F.lit("category="), F.coalesce("category", F.lit("(unknown)")))
    band = F.concat(F.lit("band="), F.col("band"))
    one, traffic = F.lit(1), F.col("traffic")

    def by_query(by: Column) -> DataFrame:
        counts = _covered(queries, "query_id", "queries", one, query_sids, by)
        return counts.join(_covered(queries, "query_id", "traffic", traffic, query_sids, by), "slice")

    overall = (
        _covered(catalog, "item_id", "items", one, item_sids, everything)
        .join(by_query(everything), "slice", "full")
        .crossJoin(_buckets(item_sids.groupBy("sid").agg(F.count("*").alias("n"))))
        .withColumns(dict(zip(WITHHELD, (F.lit(count).cast("bigint") for count in withheld), strict=True)))
    )
    parts = [
        overall,
        code_usage(item_sids, codebook_sizes, prior),
        _covered(catalog, "item_id", "items", one, item_sids, category),
        by_query(band),
    ]
    return reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), parts)

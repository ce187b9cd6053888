"""Who searched what, a day at a time (`user_searches`), and what each user clicked before (`user_profiles`)."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.clicks import USER
from pipelines.columns import hashed


def pseudonyms(log: DataFrame) -> DataFrame:
    """user_hash, user: the pseudonyms of a log, each once, so that only hashes are shuffled with the events."""
    named = log.where(F.col("user").isNotNull())
    return named.groupBy(hashed("user").alias(USER)).agg(F.min("user").alias("user"))


def user_searches(events: DataFrame, users: DataFrame) -> DataFrame:
    """Events that count, with their queries and users (`clicks.with_queries`), and `pseudonyms` -> `user_searches`."""

    def times(action: str) -> Column:
        return F.count_if(F.col("action") == action)

    acted = F.col("action").isin("click", "purchase")
    counted = (
        events.where(F.col(USER).isNotNull())
        .groupBy("event_date", USER, "query_id", "item_hash")
        .agg(
            times("impression").alias("impressions"),
            times("click").alias("clicks"),
            times("purchase").alias("purchases"),
            F.max(F.when(acted, F.col("event_time"))).alias("last_action"),
        )
    )
    told = counted.where(F.col("impressions") + F.col("clicks") + F.col("purchases") > 0)
    return told.join(users, USER).drop(USER)


def user_profiles(searches: DataFrame, catalog: DataFrame, *, as_of_date: Column) -> DataFrame:
    """Days of `user_searches` and the catalogue -> `user_profiles`. Items no longer in the catalogue are left out.

    Of two clicks at one moment the lower item id comes first.
    """
    clicked = searches.where(F.col("last_action").isNotNull())
    daily = clicked.groupBy("user", "event_date", "item_hash").agg(F.max("last_action").alias("time"))
    items = catalog.select("item_hash", "item_id", F.coalesce("category", F.lit("")).alias("category"))
    click = F.struct(
        (-F.unix_micros("time")).alias("order"),
        "item_id",
        F.datediff("event_date", F.lit("1970-01-01").cast("date")).alias("day"),
    )
    grouped = daily.join(items, "item_hash").groupBy("user", "category").agg(F.collect_list(click).alias("clicks"))
    latest = grouped.withColumn("clicks", F.sort_array("clicks"))
    return latest.select(
        as_of_date.alias("as_of_date"),
        "user",
        "category",
        F.col("clicks.item_id").alias("items"),
        F.col("clicks.day").alias("days"),
    )

"""Days of the click log -> each day's counts per query-item pair (`aggregate_day`).

Every grouping holds `event_date`, so a day comes out the same alone or among others.

Wide strings become 64-bit hashes before the first shuffle; a query's text leaves once, through `query_days`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.columns import hashed, refused, with_normalised_query

SCALE = 1_000_000  # expected clicks are summed as integers, in millionths: float sums depend on the order of rows
LAST_POSITION = 100  # deeper positions share one click rate

# Letters and digits of any script: `has_words` of schemas.text, as Java's regular expression.
KEY = ["event_date", "event_hash"]
HAS_WORDS = r"[\p{L}\p{N}]"


class Events(NamedTuple):
    """The events of a day that count, and those refused."""

    kept: DataFrame
    """event_date, event_hash, search, session, query_id, item_hash, position, action: one row an event."""
    texts: DataFrame
    """event_date, query_id, query: the text of every query of a day, once."""
    refused: DataFrame
    """event_date, source, reason, row."""


class Views(NamedTuple):
    """What each result page showed and what came of it: one row per search and item."""

    rows: DataFrame
    """event_date, search, query_id, item_hash, position (NULL without an impression), impressions, clicks, carts,
    purchases: 0 or 1 each; orphan_actions counts the actions of a row never shown, events all of its events."""


def clean_events(
    log: DataFrame,
    *,
    max_query_chars: int,
    robot_events: int,
    robot_searches: int,
    stage: Callable[[DataFrame], DataFrame] = lambda frame: frame,
) -> Events:
    """Normalise, hash, remove duplicates by event id, refuse robot-like sessions and queries that mean nothing.

    Every row of `log` ends in `kept` or in `refused`. Of several deliveries of an event the least one is kept. Only
    fixed-width columns are shuffled: the refused few find their whole row again by the hash of their event id.
    `stage` is called on what several of the results are computed from, so that a job can keep it.
    """
    named = with_normalised_query(log.withColumn("_query", F.col("query")), "_query")
    judged = named.select(
        *[F.col(f"`{name}`") for name in log.columns],
        F.col("_query"),
        hashed("event_id").alias("event_hash"),
        F.when(F.length("_query") > max_query_chars, f"query longer than {max_query_chars} characters")
        .when(~F.col("_query").rlike(HAS_WORDS), "query without a letter or digit")
        .when(F.col("search_id").isNull() & F.col("_query").isNull(), "action without search and query")
        .alias("_reason"),
    )
    sound = judged.where(F.col("_reason").isNull())
    narrow = sound.select(*KEY, _event().alias("event"))
    first = narrow.groupBy("event_date", "event_hash").agg(F.min("event").alias("event"), F.count("*").alias("_copies"))
    events = stage(first.select("event_date", "event_hash", "_copies", "event.*").drop("event_time"))
    robots = stage(_robots(events, robot_events, robot_searches))
    kept = events.join(F.broadcast(robots), ["event_date", "session"], "left_anti")
    robotic = events.join(F.broadcast(robots), ["event_date", "session"], "left_semi").select(*KEY)
    copied = events.where(F.col("_copies") > 1).select(*KEY)
    out = _refused_rows(judged, copied, robotic, log.columns)
    texts = sound.where(F.col("_query").isNotNull()).select(
        "event_date", hashed("_query").alias("query_id"), F.col("_query").alias("query")
    )
    return Events(kept.drop("_copies"), texts.distinct(), out)


def _event() -> Column:
    """What is counted of a row, in the order that decides between deliveries."""
    return F.struct(
        "event_time",
        # An action outside any search stands for itself.
        F.coalesce(hashed("search_id"), hashed(F.concat(F.lit("event:"), "event_id"))).alias("search"),
        hashed("session_id").alias("session"),
        hashed("_query").alias("query_id"),
        hashed("item_id").alias("item_hash"),
        "position",
        "action",
    )


def _refused_rows(judged: DataFrame, copied: DataFrame, robotic: DataFrame, columns: list[str]) -> DataFrame:
    def out(rows: DataFrame, reason: str | Column) -> DataFrame:
        return refused(rows, "click_log", reason, columns, keep=["event_date"])

    unsound = out(judged.where(F.col("_reason").isNotNull()), F.col("_reason"))
    sound = judged.where(F.col("_reason").isNull())
    # The delivery that counts comes first, so that what is kept here is each of the others, whole.
    deliveries = Window.partitionBy(*KEY).orderBy(_event(), *[F.col(f"`{name}`") for name in columns])
    ranked = sound.join(copied, KEY, "left_semi").withColumn("_copy", F.row_number().over(deliveries))
    copies = out(ranked.where(F.col("_copy") > 1), "duplicate of an event")
    once = sound.join(copied, KEY, "left_anti").unionByName(ranked.where(F.col("_copy") == 1).drop("_copy"))
    by_robots = once.join(robotic, KEY, "left_semi")
    return unsound.unionByName(copies).unionByName(out(by_robots, "robot-like session"))


def _robots(events: DataFrame, max_events: int, max_searches: int) -> DataFrame:
    counted = (
        events.where(F.col("session").isNotNull())
        .groupBy("event_date", "session")
        .agg(F.count("*").alias("events"), F.countDistinct("search").alias("searches"))
    )
    return counted.where((F.col("events") > max_events) | (F.col("searches") > max_searches)).select(
        "event_date", "session"
    )


def join_views(events: DataFrame) -> tuple[Views, DataFrame]:
    """Actions joined to the impressions of their search: one row per search and item.

    Returns the views and the events refused because no row of their search says what was searched for (columns of
    `events`). An action without an impression on its day counts and is flagged as orphan.
    """
    page = Window.partitionBy("event_date", "search")
    known = events.withColumn("query_id", F.coalesce("query_id", F.min("query_id").over(page)))
    lost = known.where(F.col("query_id").isNull())
    shown = F.col("action") == "impression"

    def once(action: str) -> Column:
        return F.max((F.col("action") == action).cast("bigint"))

    rows = (
        known.where(F.col("query_id").isNotNull())
        .groupBy("event_date", "search", "query_id", "item_hash")
        .agg(
            F.min(F.when(shown, F.least("position", F.lit(LAST_POSITION)))).alias("position"),
            once("impression").alias("impressions"),
            once("click").alias("clicks"),
            once("cart").alias("carts"),
            once("purchase").alias("purchases"),
            F.count_if(~shown).alias("actions"),
            F.count("*").alias("events"),
        )
        .withColumn("orphan_actions", F.when(F.col("impressions") == 0, F.col("actions")).otherwise(F.lit(0)))
        .drop("actions")
    )
    return Views(rows), lost


def position_curve(views: Views) -> DataFrame:
    """Click rate of each position on each day, in millionths: event_date, position, rate. A hundred rows a day.

    Clicks over expected clicks (COEC) divides a pair's clicks by what its positions alone would have earned.
    """
    shown = views.rows.where(F.col("position").isNotNull())
    counts = shown.groupBy("event_date", "position").agg(
        F.sum("clicks").alias("clicks"), F.sum("impressions").alias("impressions")
    )
    return counts.select("event_date", "position", F.expr(f"(clicks * {SCALE}) div impressions").alias("rate"))


def pair_counts(views: Views, curve: DataFrame) -> DataFrame:
    """Views -> `pair_days`. Integers only, so any order of rows gives the same sums."""
    rated = views.rows.join(F.broadcast(curve), ["event_date", "position"], "left")
    return rated.groupBy("event_date", "query_id", "item_hash").agg(
        *[F.sum(name).cast("bigint").alias(name) for name in ("impressions", "clicks", "carts", "purchases")],
        F.sum(F.coalesce("rate", F.lit(0))).cast("bigint").alias("expected_clicks"),
        F.sum("orphan_actions").cast("bigint").alias("orphan_actions"),
    )


def query_counts(views: Views, texts: DataFrame) -> DataFrame:
    """Views and the texts of their queries -> `query_days`: each query's text once, and its searches."""
    searches = views.rows.groupBy("event_date", "query_id").agg(F.countDistinct("search").alias("searches"))
    return texts.join(searches, ["event_date", "query_id"]).select("event_date", "query_id", "query", "searches")


def refused_events(events: DataFrame) -> DataFrame:
    """Events whose search names no query anywhere -> event_date, source, reason, row."""
    return refused(events, "click_log", "action of a search that names no query", keep=["event_date"])

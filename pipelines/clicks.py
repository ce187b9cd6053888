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
USER_BITS = 64
LAST_POSITION = 100  # deeper positions share one click rate

KEY = ["event_date", "event_hash"]
PAGE = ["event_date", "search"]
SESSION = ["event_date", "session"]
PLAIN = ["event_time", "position", "action"]
# What is counted of an event, in the order that decides between its deliveries.
ORDER = ["event_time", "search", "session", "query_id", "item_hash", "position", "action"]
USER = "user_hash"
# Letters and digits of any script: `has_words` of schemas.text, as Java's regular expression.
HAS_WORDS = r"[\p{L}\p{N}]"


class Events(NamedTuple):
    """The events of some days that count, and those refused."""

    kept: DataFrame
    """event_date, event_hash, event_time, search, session, query_id, item_hash, position, action, and user_hash
    where users are counted: one row an event."""
    texts: DataFrame
    """event_date, query_id, query: the text of every query of a day, once."""
    refused: DataFrame
    """event_date, source, reason, row."""


def clean_events(
    log: DataFrame,
    *,
    max_query_chars: int,
    robot_events: int,
    robot_searches: int,
    count_users: bool = False,
    stage: Callable[[DataFrame], DataFrame] = lambda frame: frame,
) -> Events:
    """Normalise, hash, remove duplicates by event id, refuse robot-like sessions and queries that mean nothing.

    Every row of `log` ends in `kept` or in `refused`. Of several deliveries of an event the least one is kept. Only
    fixed-width columns are shuffled: the refused few find their whole row again by the hash of their event id.
    `count_users` carries the user's hash along, which costs eight bytes an event.
    `stage` is called on what several of the results are computed from, so that a job can keep it; what it returns may
    know its size, and a small one is then broadcast.
    """
    order = [*ORDER, USER] if count_users else ORDER
    hashes = [column.alias(name) for name, column in _hashes().items() if name != USER or count_users]
    alone = F.col("search_id").isNull().alias("_alone")
    narrow = log.select("event_date", *hashes, *PLAIN, F.col("query").alias("_query"), alone)
    named = with_normalised_query(narrow, "_query").withColumn("query_id", hashed("_query"))
    events = stage(named.select(*KEY, *order, _unsound(max_query_chars, F.col("_alone")).isNull().alias("_sound")))
    again = stage(events.groupBy(*KEY).count().where(F.col("count") > 1).select(*KEY))
    sound = events.where("_sound").drop("_sound")
    # Found by one number, which is faster than two; that a hash came again on another day changes nothing here.
    copied = again.select("event_hash")
    several = sound.join(copied, "event_hash", "left_semi").groupBy(*KEY).agg(F.min(F.struct(*order)).alias("event"))
    once = sound.join(copied, "event_hash", "left_anti").unionByName(stage(several.select(*KEY, "event.*")))
    robots = stage(_robots(once, robot_events, robot_searches, stage))
    robotic = once.join(robots, SESSION, "left_semi").select(*KEY, F.lit(True).alias("_robot"))
    suspects = again.unionByName(events.where(~F.col("_sound")).select(*KEY)).withColumn("_robot", F.lit(False))
    marked = stage(suspects.unionByName(robotic).groupBy(*KEY).agg(F.max("_robot").alias("_robot")))
    texts = with_normalised_query(log.select("event_date", "query").where(F.col("query").isNotNull()))
    whole = stage(log.withColumn("event_hash", hashed("event_id")).join(marked, KEY))
    return Events(
        kept=once.join(robots, SESSION, "left_anti"),
        texts=texts.select("event_date", hashed("query").alias("query_id"), "query").distinct(),
        refused=_refused_rows(whole, log.columns, max_query_chars),
    )


def _hashes() -> dict[str, Column]:
    """The fixed-width columns of an event in place of its ids."""
    return {
        "event_hash": hashed("event_id"),
        # An action outside any search stands for itself.
        "search": F.coalesce(hashed("search_id"), hashed(F.concat(F.lit("event:"), "event_id"))),
        "session": hashed("session_id"),
        "item_hash": hashed("item_id"),
        USER: hashed("user"),
    }


def _unsound(max_query_chars: int, no_search: Column) -> Column:
    """Why a row with the normal form of its query in `_query` does not count; NULL where it does."""
    query = F.col("_query")
    # Nearly every query begins with one: the pattern is for the others.
    begins = F.substring(query, 1, 1).between("a", "z") | F.substring(query, 1, 1).between("0", "9")
    return (
        F.when(F.length(query) > max_query_chars, f"query longer than {max_query_chars} characters")
        .when(~begins & ~query.rlike(HAS_WORDS), "query without a letter or digit")
        .when(no_search & query.isNull(), "action without search and query")
    )


def _refused_rows(rows: DataFrame, columns: list[str], max_query_chars: int) -> DataFrame:
    """All deliveries of the marked events, whole rows of the log, but for the one that counts."""
    normal = with_normalised_query(rows.withColumn("_query", F.col("query")), "_query")
    named = normal.withColumns({**_hashes(), "query_id": hashed("_query")})
    judged = named.withColumn("_reason", _unsound(max_query_chars, F.col("search_id").isNull()))
    # The delivery that counts comes first, so that what is kept here is each of the others, whole.
    deliveries = Window.partitionBy(*KEY).orderBy(*ORDER, USER, *[F.col(f"`{name}`") for name in columns])
    ranked = judged.where(F.col("_reason").isNull()).withColumn("_copy", F.row_number().over(deliveries))
    counted = F.when(F.col("_robot"), "robot-like session")
    others = ranked.withColumn("_reason", F.when(F.col("_copy") > 1, "duplicate of an event").otherwise(counted))
    out = judged.unionByName(others.drop("_copy")).where(F.col("_reason").isNotNull())
    return refused(out, "click_log", F.col("_reason"), columns, keep=["event_date"])


def _robots(
    events: DataFrame, max_events: int, max_searches: int, stage: Callable[[DataFrame], DataFrame]
) -> DataFrame:
    sessions = events.where(F.col("session").isNotNull()).groupBy(*SESSION).agg(F.count("*").alias("events"))
    # A session has no more searches than events: they are counted of the few that have so many.
    busy = stage(sessions.where(F.col("events") > min(max_events, max_searches)))
    searches = events.join(busy, SESSION).select(*SESSION, "events", "search").distinct()
    counted = searches.groupBy(*SESSION, "events").agg(F.count("*").alias("searches"))
    return counted.where((F.col("events") > max_events) | (F.col("searches") > max_searches)).select(*SESSION)


def with_queries(
    events: DataFrame, stage: Callable[[DataFrame], DataFrame] = lambda frame: frame
) -> tuple[DataFrame, DataFrame]:
    """Actions that name no query take that of their search. Returns what is counted of the events that have one, with
    `own_query` where they named it themselves, and whole those that have not because no row of their search says what
    was searched for.

    A search's events come to lie together, so that what is made of a search needs no further shuffle.
    """
    # Every event is shuffled, sorted and kept here, as narrow as may be: the few without a query are looked up again.
    narrow = events.drop("event_hash", "session", *([] if USER in events.columns else ["event_time"]))
    of_search = F.min("query_id").over(Window.partitionBy(*PAGE))
    own = F.col("query_id").isNotNull()
    asked = stage(narrow.withColumns({"query_id": F.coalesce("query_id", of_search), "own_query": own}))
    silent = stage(asked.where(F.col("query_id").isNull()).select(*PAGE).distinct())
    nameless = events.where(F.col("query_id").isNull()).join(silent, PAGE, "left_semi")
    return asked.where(F.col("query_id").isNotNull()), nameless


def join_views(events: DataFrame) -> DataFrame:
    """Actions joined to the impressions of their search: one row per search and item, of events `with_queries`.

    Returns the views: event_date, search, query_id, item_hash, position (NULL without an impression), impressions,
    clicks, carts, purchases: 0 or 1 each; orphan_actions counts the actions of a row never shown, events all of its
    events. An action without an impression on its day counts and is flagged as orphan.
    """
    shown = F.col("action") == "impression"

    def once(action: str) -> Column:
        return F.max((F.col("action") == action).cast("bigint"))

    views = events.groupBy(*PAGE, "query_id", "item_hash").agg(
        F.min(F.when(shown, F.least("position", F.lit(LAST_POSITION)))).alias("position"),
        once("impression").alias("impressions"),
        once("click").alias("clicks"),
        once("cart").alias("carts"),
        once("purchase").alias("purchases"),
        F.count_if(~shown).alias("actions"),
        F.count("*").alias("events"),
    )
    orphans = F.when(F.col("impressions") == 0, F.col("actions")).otherwise(F.lit(0))
    return views.withColumn("orphan_actions", orphans).drop("actions")


def position_counts(views: DataFrame) -> DataFrame:
    """Views -> how often each pair was shown at each position, and what came of it: event_date, query_id, item_hash,
    position (NULL where it was not shown), impressions, clicks, carts, purchases, orphan_actions, events.
    """
    return views.groupBy("event_date", "query_id", "item_hash", "position").agg(
        *[
            F.sum(name).alias(name)
            for name in ("impressions", "clicks", "carts", "purchases", "orphan_actions", "events")
        ]
    )


def position_curve(counts: DataFrame) -> DataFrame:
    """Click rate of each position on each day, in millionths: event_date, position, rate. A hundred rows a day.

    Clicks over expected clicks (COEC) divides a pair's clicks by what its positions alone would have earned.
    """
    shown = counts.where(F.col("position").isNotNull())
    sums = shown.groupBy("event_date", "position").agg(
        F.sum("clicks").alias("clicks"), F.sum("impressions").alias("impressions")
    )
    return sums.select("event_date", "position", F.expr(f"(clicks * {SCALE}) div impressions").alias("rate"))


def pair_counts(counts: DataFrame, curve: DataFrame) -> DataFrame:
    """Counts by position -> `pair_days`. Integers only, so any order of rows gives the same sums."""
    rated = counts.join(F.broadcast(curve), ["event_date", "position"], "left")
    expected = F.coalesce(F.col("rate") * F.col("impressions"), F.lit(0))
    return rated.groupBy("event_date", "query_id", "item_hash").agg(
        *[F.sum(name).alias(name) for name in ("impressions", "clicks", "carts", "purchases")],
        F.sum(expected).alias("expected_clicks"),
        F.sum("orphan_actions").alias("orphan_actions"),
    )


def query_counts(events: DataFrame, texts: DataFrame) -> DataFrame:
    """Events `with_queries` and the texts of these -> `query_days`: each query's text once, and its searches."""
    once = events.select("event_date", "query_id", "search").distinct()
    searches = once.groupBy("event_date", "query_id").agg(F.count("*").alias("searches"))
    return texts.join(searches, ["event_date", "query_id"]).select("event_date", "query_id", "query", "searches")


def query_users(events: DataFrame) -> DataFrame:
    """Events that count, with the queries that they name and their users -> `query_users`.

    Days are joined by OR, and at least as many users searched as bits are set (linear counting, Whang et al. 1990, read
    as a bound). What a user's bit of one query is says nothing of their bit of another.
    """
    bit = F.expr(f"shiftleft(1L, cast(pmod(xxhash64({USER}, query_id), {USER_BITS}) AS INT))")
    bits = F.bit_or(F.when(F.col(USER).isNotNull(), bit).otherwise(F.lit(0).cast("bigint")))
    return events.groupBy("event_date", "query_id").agg(bits.alias("user_bits"))


def refused_events(events: DataFrame) -> DataFrame:
    """Events whose search names no query anywhere -> event_date, source, reason, row."""
    # Without the user's hash: by that, nobody could find the row who is asked to forget them.
    bare = events.drop("own_query", USER)
    return refused(bare, "click_log", "action of a search that names no query", keep=["event_date"])

"""Aggregate days of the click log into counts per query-item pair.

Reads click_log (the given days). Writes pair_days, query_days and quarantine, one partition a day; events read =
events counted + events quarantined, checked before anything is written. Days whose log did not change are left alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.errors import DataError
from jobs.home import Home
from jobs.partitions import Partition, label
from pipelines import clicks
from schemas.fingerprint import digest

JOB = "aggregate-day"


def changed_days(home: Home, days: Sequence[dt.date]) -> dict[dt.date, str]:
    """Days whose log (or whose settings) changed since they were aggregated -> their new memo."""
    settings = home.settings.corpus.model_dump(include={"zone", "robot_events", "robot_searches", "max_query_chars"})
    marks, memos = home.store.fingerprints("click_log"), home.store.memos("pair_days")
    names = {day: label({"event_date": day}) for day in days}
    # What a day's counts depend on: its log and the settings that judge events.
    fresh = {day: digest({"settings": settings, "log": marks.get(name)}) for day, name in names.items()}
    return {day: memo for day, memo in fresh.items() if memos.get(names[day]) != memo}


def run(home: Home, days: Sequence[dt.date]) -> None:
    """Aggregate every day of `days` that changed."""
    memos = changed_days(home, days)
    if not memos:
        return
    store, spark, limits = home.store, home.spark, home.settings.corpus
    parts: list[Partition] = [{"event_date": day} for day in memos]
    quarantined: list[Partition] = [{"run_date": day, "job": JOB} for day in memos]
    pair_days, query_days = store.target("pair_days", *parts), store.target("query_days", *parts)
    quarantine = store.target("quarantine", *quarantined)
    log = store.read(spark, "click_log", *parts)
    staged: list[DataFrame] = []

    def stage(frame: DataFrame) -> DataFrame:
        staged.append(frame.persist(StorageLevel.DISK_ONLY))
        # Counted at once: what is kept then knows its size, and joins with the small ones move no large one.
        staged[-1].count()
        return staged[-1]

    events = clicks.clean_events(
        log,
        stage=stage,
        max_query_chars=limits.max_query_chars,
        robot_events=limits.robot_events,
        robot_searches=limits.robot_searches,
    )
    views, nameless = clicks.join_views(events.kept)
    shown = stage(clicks.position_counts(views))
    refused = stage(events.refused.unionByName(clicks.refused_events(nameless)))
    (counted,) = shown.agg(F.coalesce(F.sum("events"), F.lit(0))).collect()[0]
    read, out = log.count(), refused.count()
    if read != counted + out:
        raise DataError(
            f"{read} events read, but {counted} counted and {out} quarantined: {read - counted - out} lost."
        )
    counts = {"read": read, "accepted": counted, "quarantined": out}
    by_day = dict(zip(map(label, parts), memos.values(), strict=True))
    quarantine.replace(
        refused.withColumns({"run_date": F.col("event_date"), "job": F.lit(JOB)}).drop("event_date"),
        job=JOB,
        memo=dict(zip(map(label, quarantined), memos.values(), strict=True)),
        counts=counts,
    )
    query_days.replace(clicks.query_counts(events.kept, events.texts), job=JOB, memo=by_day, counts=counts)
    pair_days.replace(clicks.pair_counts(shown, clicks.position_curve(shown)), job=JOB, memo=by_day, counts=counts)
    for frame in staged:
        frame.unpersist()

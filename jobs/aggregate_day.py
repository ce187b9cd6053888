"""Aggregate days of the click log into counts per query-item pair.

Reads click_log (the given days). Writes pair_days, query_days and quarantine, one partition a day, query_users where
`privacy.min_query_users` needs it, and user_searches where the generator learns who asks (`generator.stages`). Events
read = events counted + events quarantined, checked before anything is written. Days whose log did not change are left
alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.errors import DataError
from jobs.home import Home
from jobs.partitions import Partition, label
from jobs.plan import Plan
from jobs.staging import staging
from jobs.storage import Target
from pipelines import clicks
from pipelines.user_profiles import pseudonyms, user_searches
from schemas.fingerprint import digest

JOB = "aggregate-day"
DAILY = ("pair_days", "query_days", "query_users", "user_searches", "quarantine")
LOG_BYTES_A_CORE = 512 * 2**20
"""Of the log's files that are aggregated at once; what is kept and shuffled meanwhile takes up to 15 times that."""


def memos_of(home: Home, days: Sequence[str], marks: Mapping[str, str]) -> dict[str, str]:
    """Partition of each day (YYYY-MM-DD) -> what its counts depend on: the fingerprint of its log, by partition, and
    the settings that judge events.
    """
    settings = home.settings.corpus.model_dump(include={"zone", "robot_events", "robot_searches", "max_query_chars"})
    if home.settings.privacy.min_query_users > 1:
        settings["users"] = "counted"
    if home.settings.personal:
        settings["searches"] = "by user"
    names = [label({"event_date": day}) for day in days]
    return {name: digest({"settings": settings, "log": marks.get(name)}) for name in names}


def planned_days(home: Home, plan: Plan) -> tuple[list[Partition], dict[str, str]]:
    """The days of a plan, and what the daily tables must have been computed from to be those that it planned on."""
    days: list[Partition] = [{"event_date": dt.date.fromisoformat(day)} for day in plan.days]
    marks = {name.removeprefix("click_log/"): mark for name, mark in plan.inputs.items()}
    return days, memos_of(home, plan.days, marks)


def read_window(home: Home, plan: Plan, name: str) -> DataFrame:
    """The window's days of a daily table. Raises DataError where a day was not computed from what the plan says."""
    days, counted = planned_days(home, plan)
    return home.store.read(home.spark, name, *days, memo=counted)


def changed_days(home: Home, days: Sequence[dt.date], version: int | None = None) -> dict[dt.date, str]:
    """Days whose log (or whose settings) changed since they were aggregated -> their new memo."""
    fresh = memos_of(home, [str(day) for day in days], home.store.fingerprints("click_log", version))
    memos = home.store.memos("pair_days")
    return {day: memo for day, (name, memo) in zip(days, fresh.items(), strict=True) if memos.get(name) != memo}


def run(home: Home, days: Sequence[dt.date], version: int | None = None) -> None:
    """Aggregate every day of `days` that changed, as the log was in a version of it; None: as it is now.

    Days are independent of each other, so a long list is gone through some days at a time: disk is bounded, and a run
    that is killed goes on after the last of them.
    """
    if version is None:
        version = home.store.version("click_log")
    memos = changed_days(home, days, version)
    if not memos:
        return
    # A day that another run writes before its turn comes here is that run's.
    since = {name: home.store.begun(name) for name in DAILY}
    for some in _passes(home, memos, version):
        _aggregate(home, some, version, since)


def _passes(home: Home, memos: Mapping[dt.date, str], version: int | None) -> Iterator[dict[dt.date, str]]:
    """The changed days in groups of at most `LOG_BYTES_A_CORE` for each core, a longer day alone; at least one."""
    sizes = home.store.sizes("click_log", version)
    most = LOG_BYTES_A_CORE * home.spark.sparkContext.defaultParallelism
    some: dict[dt.date, str] = {}
    held = 0
    for day in sorted(memos):
        size = sizes[label({"event_date": day})]
        if some and held + size > most:
            yield some
            some, held = {}, 0
        some[day] = memos[day]
        held += size
    yield some


def _aggregate(home: Home, memos: Mapping[dt.date, str], version: int | None, since: Mapping[str, int]) -> None:
    by_user = home.settings.privacy.min_query_users > 1
    store, spark, limits = home.store, home.spark, home.settings.corpus
    parts: list[Partition] = [{"event_date": day} for day in memos]
    quarantined: list[Partition] = [{"run_date": day, "job": JOB} for day in memos]

    def target(name: str, *partitions: Partition) -> Target:
        return store.target(name, *partitions, since=since[name])

    pair_days, query_days = target("pair_days", *parts), target("query_days", *parts)
    query_users = target("query_users", *parts) if by_user else None
    searches = target("user_searches", *parts) if home.settings.personal else None
    quarantine = target("quarantine", *quarantined)
    log = store.read(spark, "click_log", *parts, version=version)
    with staging() as stage:
        events = clicks.clean_events(
            log,
            stage=stage,
            max_query_chars=limits.max_query_chars,
            robot_events=limits.robot_events,
            robot_searches=limits.robot_searches,
            count_users=by_user or searches is not None,
        )
        named, nameless = clicks.with_queries(events.kept, stage)
        shown = stage(clicks.position_counts(clicks.join_views(named)))
        refused = stage(events.refused.unionByName(clicks.refused_events(nameless)))
        (counted,) = shown.agg(F.coalesce(F.sum("events"), F.lit(0))).collect()[0]
        read, out = log.count(), refused.count()
        if read != counted + out:
            raise DataError(
                f"{read} events read, but {counted} counted and {out} quarantined: {read - counted - out} lost."
            )
        counts = {"read": read, "accepted": counted, "quarantined": out}
        by_day = dict(zip(map(label, parts), memos.values(), strict=True))
        few = spark.sparkContext.defaultParallelism
        quarantine.replace(
            # Each task writes a file a day: of the few that are refused they would be tiny.
            refused.coalesce(few).withColumns({"run_date": F.col("event_date"), "job": F.lit(JOB)}).drop("event_date"),
            job=JOB,
            memo=dict(zip(map(label, quarantined), memos.values(), strict=True)),
            counts=counts,
        )
        query_days.replace(clicks.query_counts(named, events.texts), job=JOB, memo=by_day, counts=counts)
        if query_users:
            query_users.replace(clicks.query_users(named.where("own_query")), job=JOB, memo=by_day, counts=counts)
        if searches:
            searches.replace(user_searches(named, pseudonyms(log)), job=JOB, memo=by_day, counts=counts)
        # Last: its memo says that the day is done.
        pair_days.replace(clicks.pair_counts(shown, clicks.position_curve(shown)), job=JOB, memo=by_day, counts=counts)

"""Gather what each user clicked or bought in the lookback window: the history that a personal generator reads.

Reads user_searches (the window's days) and catalog. Writes user_profiles, partition as_of_date. Every click keeps its
day, so that a query of the past is read with what was known before it. Does nothing where the generator does not learn
who asks (`generator.stages`).
"""

from __future__ import annotations

from pyspark.sql import functions as F

from jobs import planned
from jobs.aggregate_day import planned_days, read_window
from jobs.home import Home
from jobs.plan import Plan
from pipelines.user_profiles import user_profiles

JOB = "profile-users"


def run(home: Home, plan: Plan) -> None:
    """Gather the profiles of the plan's date, unless they were made from the same inputs."""
    target = home.store.target("user_profiles", {"as_of_date": plan.date})
    if not home.settings.personal or target.is_done(plan.corpus_memo):
        return
    searches = read_window(home, plan, "user_searches")
    catalog = planned.read(home, plan, "catalog")
    days, _ = planned_days(home, plan)
    counts = {"searches": home.store.count("user_searches", *days)}
    profiles = user_profiles(searches, catalog, as_of_date=F.lit(plan.date))
    target.replace(profiles, job=JOB, memo=plan.corpus_memo, counts=counts)

"""The whole chain for one day, in one process on local Spark: the same jobs that Airflow runs as tasks.

Reads everything imported; writes and publishes one release. Running it again with nothing new changes nothing.
"""

from __future__ import annotations

import datetime as dt
import importlib
import logging
import time
from typing import Any

from jobs import releases
from jobs.home import Home
from jobs.lineage_events import job_run
from jobs.plan import Plan, finish, make_plan

JOB = "nightly"
log = logging.getLogger(__name__)

# In order; every one takes (home, plan) and skips what is done.
CHAIN = (
    "build_corpus",
    "profile_users",
    "embed_items",
    "embed_queries",
    "train_quantizer",
    "assign_item_sids",
    "pretrain_generator",
    "finetune_generator",
    "personalise_generator",
    "align_generator",
    "generate_query_sids",
    "generate_request_sids",
    "generate_recall",
    "score_pairs",
    "match_prefixes",
    "train_ranker",
    "evaluate",
    "measure_coverage",
    "audit",
    "publish_release",
)


def run(home: Home, date: dt.date | None = None, *, refit: bool = False) -> Plan:
    """Plan, compute, audit and publish the release of a day."""
    with job_run(home, JOB):
        return _run(home, date, refit=refit)


def _run(home: Home, date: dt.date | None, *, refit: bool) -> Plan:
    plan = make_plan(home, date, refit=refit)
    serving = releases.current(home.store)
    if serving and serving["release"] == plan.release:
        log.info("Nothing changed: %s is current already", plan.release)
        if refit:
            # Killed after it was published: it ended all the same.
            finish(home)
        return plan
    log.info("Release %s: %s", plan.release, "training models" if plan.fit else f"models of {plan.parent}")
    begin = time.monotonic()
    aggregate = importlib.import_module("jobs.aggregate_day")
    days = [dt.date.fromisoformat(day) for day in plan.days]
    _timed(home, aggregate, days, plan.versions.get("click_log"))
    for name in CHAIN:
        _timed(home, importlib.import_module(f"jobs.{name}"), plan)
    log.info("Release %s took %.0f s", plan.release, time.monotonic() - begin)
    return plan


def _timed(home: Home, job: Any, *arguments: object) -> None:
    begin = time.monotonic()
    with job_run(home, job.JOB):
        job.run(home, *arguments)
    log.info("%s done in %.1f s", job.JOB, time.monotonic() - begin)

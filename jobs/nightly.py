"""The whole chain for one day, in one process on local Spark: the same jobs that Airflow runs as tasks.

Reads everything imported; writes and publishes one release. Running it again with nothing new changes nothing.
"""

from __future__ import annotations

import datetime as dt
import importlib
import logging
import time
from collections.abc import Callable
from functools import partial

from jobs import releases
from jobs.home import Home
from jobs.plan import Plan, finish, make_plan

JOB = "nightly"
log = logging.getLogger(__name__)

# In order; every one takes (home, plan) and skips what is done.
CHAIN = (
    "build_corpus",
    "embed_items",
    "embed_queries",
    "train_quantizer",
    "assign_item_sids",
    "finetune_generator",
    "generate_query_sids",
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
    plan = make_plan(home, date, refit=refit)
    serving = releases.current(home.store)
    if serving and serving["release"] == plan.release:
        log.info("Nothing changed: %s is current already", plan.release)
        return plan
    log.info("Release %s: %s", plan.release, "training models" if plan.fit else f"models of {plan.parent}")
    begin = time.monotonic()
    aggregate = importlib.import_module("jobs.aggregate_day")
    days = [dt.date.fromisoformat(day) for day in plan.days]
    home.store.reads.clear()
    _timed("aggregate_day", partial(aggregate.run, home, days))
    for name in CHAIN:
        job = importlib.import_module(f"jobs.{name}")
        home.store.reads.clear()
        _timed(name, partial(job.run, home, plan))
    finish(home)
    log.info("Release %s took %.0f s", plan.release, time.monotonic() - begin)
    return plan


def _timed(name: str, work: Callable[[], object]) -> None:
    begin = time.monotonic()
    work()
    log.info("%s done in %.1f s", name.replace("_", "-"), time.monotonic() - begin)

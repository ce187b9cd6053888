"""Recall items for every query, and for users and queries: those behind the SIDs that the generator expects, the
likeliest SID first.

Reads query_sids, request_sids (where `recall.requests` asks for them) and sid_items of the release, and catalog (what
is in stock). Writes recall_lists, partition release: at most `recall.items` a request, no item twice. Requests whose
SIDs hold nothing in stock get no list and are counted as empty. Does nothing where the settings ask for no recall
(`recall.beams = 0`).
"""

from __future__ import annotations

from functools import reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import planned
from jobs.errors import DataError
from jobs.generators import codebook_sizes
from jobs.home import Home
from jobs.plan import Plan
from pipelines.prefix_match import prefix_probability
from pipelines.recall import clusters, count_recalled, recall
from schemas.sids import LEVELS

JOB = "generate-recall"
EVERYBODY = ""
"""The user of a list that fits everybody."""


def run(home: Home, plan: Plan) -> None:
    """Recall, unless this release's lists are there or nobody asked for them.

    Raises:
        DataError: a request's SID is not one of the release's items: the generator learned another codebook.
    """
    settings = home.settings.recall
    if not settings.beams:
        return
    target = home.store.target("recall_lists", {"release": plan.release})
    if target.is_done(plan.release):
        return
    most = settings.items
    sources = ["query_sids"]
    if "request_sids" in home.settings.recall_tables:
        sources.append("request_sids")
    beams = reduce(DataFrame.unionByName, [_beams(home, plan, name) for name in sources])
    beams = beams.where(F.col("rank") <= settings.beams)
    held = clusters(
        planned.read(home, plan, "sid_items"),
        planned.read(home, plan, "catalog"),
        third=codebook_sizes(home.store, plan.codebook_version)[-1],
        most=most,
    ).persist(StorageLevel.DISK_ONLY)
    (found,) = count_recalled(beams, held, most=most).collect()
    if found["unknown"]:
        raise DataError(
            f"{found['unknown']} SIDs of {' and '.join(sources)} are behind no item of {plan.release}: its generator "
            "learned another codebook. They only make sense together: run `dsirm nightly --refit`."
        )
    lists = recall(beams, held, most=most).withColumns(
        {"release": F.lit(plan.release), **{name: F.lit(time) for name, time in plan.times.items()}}
    )
    counts = {name: found[name] for name in ("requests", "empty", "recalled")}
    target.replace(lists, job=JOB, memo=plan.release, counts=counts)
    held.unpersist()


def _beams(home: Home, plan: Plan, name: str) -> DataFrame:
    """query_id, user, rank, sid, probability of every request of a table; without a user, they are everybody's."""
    rows = planned.read(home, plan, name)
    return rows.select(
        "query_id",
        (F.col("user") if "user" in rows.columns else F.lit(EVERYBODY)).alias("user"),
        "rank",
        "sid",
        # Rounding may lift the probability of the only SID there is above one.
        F.least(prefix_probability(F.col("logps"), LEVELS), F.lit(1.0)).alias("probability"),
    )

"""Measure how well semantic IDs cover items, queries and traffic, how evenly codes are used, and what moved.

Reads catalog, queries (the plan's date; its commit says what was withheld), item_sids and query_sids of the release,
item_sids of the parent. Writes sid_coverage, partition release.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from jobs import planned
from jobs.generators import codebook_sizes
from jobs.home import Home
from jobs.plan import Plan
from pipelines.coverage import measure_coverage

JOB = "measure-coverage"


def run(home: Home, plan: Plan) -> None:
    """Measure, unless this release was measured."""
    store, spark, part = home.store, home.spark, {"release": plan.release}
    target = store.target("sid_coverage", part)
    if target.is_done(plan.release):
        return
    built = store.last_commit("queries", {"as_of_date": plan.date})
    withheld = built.metadata.get("counts", {}) if built else {}
    item_sids = planned.read(home, plan, "item_sids")
    prior = store.read(spark, "item_sids", {"release": plan.parent}) if plan.parent else item_sids.limit(0)
    coverage = measure_coverage(
        planned.read(home, plan, "catalog"),
        planned.read(home, plan, "queries"),
        item_sids,
        planned.read(home, plan, "query_sids"),
        prior,
        codebook_sizes=codebook_sizes(store, plan.codebook_version),
        withheld=(withheld.get("withheld"), withheld.get("traffic_withheld")),
    )
    counts = {"items": store.count("item_sids", part), "beams": store.count("query_sids", part)}
    target.replace(coverage.withColumn("release", F.lit(plan.release)), job=JOB, memo=plan.release, counts=counts)

"""Measure how well semantic IDs cover items, queries and traffic, how evenly codes are used, and what moved.

Reads catalog, queries (the plan's date), item_sids and query_sids of the release, item_sids of the parent. Writes
sid_coverage, partition release.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from jobs.generators import codebook_sizes
from jobs.home import Home
from jobs.plan import Plan
from pipelines.coverage import measure_coverage

JOB = "measure-coverage"


def run(home: Home, plan: Plan) -> None:
    """Measure, unless this release was measured."""
    store, part, spark = home.store, {"release": plan.release}, home.spark
    target = store.target("sid_coverage", part)
    if target.is_done(plan.release):
        return
    item_sids = store.read(spark, "item_sids", part)
    prior = store.read(spark, "item_sids", {"release": plan.parent}) if plan.parent else item_sids.limit(0)
    coverage = measure_coverage(
        store.read(spark, "catalog"),
        store.read(spark, "queries", {"as_of_date": plan.date}),
        item_sids,
        store.read(spark, "query_sids", part),
        prior,
        codebook_sizes=codebook_sizes(store, plan.codebook_version),
    )
    target.replace(coverage.withColumn("release", F.lit(plan.release)), job=JOB, memo=plan.release)

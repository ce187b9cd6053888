"""Match prefixes of query and item SIDs into features for the offline ranker.

Reads pairs (the plan's date), the judged pairs of relevance_labels (never grades), item_sids, query_sids and
label_scores. Writes prefix_match_features, partition release.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from jobs import planned
from jobs.generators import codebook_sizes
from jobs.home import Home
from jobs.plan import Plan
from pipelines.prefix_match import match_prefixes, soft_ss, to_match, without_group

JOB = "match-prefixes"


def run(home: Home, plan: Plan) -> None:
    """Match, unless this release's features are there."""
    store, part, ss = home.store, {"release": plan.release}, home.settings.matching.ss
    target = store.target("prefix_match_features", part)
    if target.is_done(plan.release):
        return
    pairs = to_match(
        planned.read(home, plan, "pairs"),
        planned.read(home, plan, "relevance_labels").select("query_id", "item_id"),
        planned.read(home, plan, "catalog"),
        store.read(home.spark, "label_scores", part),
    )
    query_sids, item_sids = planned.read(home, plan, "query_sids"), planned.read(home, plan, "item_sids")
    items = item_sids.withColumn("sid", without_group(F.col("sid"), codebook_sizes(store, plan.codebook_version)[-1]))
    beams = home.settings.generator.beams
    features = match_prefixes(pairs, query_sids, items, ss=ss, beams=beams).withColumns(
        {
            "release": F.lit(plan.release),
            "soft_ss": soft_ss(F.col("own_logps"), ss),
            **{name: F.lit(time) for name, time in plan.times.items()},
        }
    )
    counts = {"pairs": store.count("pairs", {"as_of_date": plan.date}), "scored": store.count("label_scores", part)}
    target.replace(features, job=JOB, memo=plan.release, counts=counts)

"""Match prefixes of query and item SIDs into features for the offline ranker.

Reads pairs (the plan's date), the judged pairs of relevance_labels (never grades), item_sids, query_sids and
label_scores. Writes prefix_match_features, partition release.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from jobs.home import Home
from jobs.plan import Plan
from pipelines.prefix_match import match_prefixes, soft_ss, to_match

JOB = "match-prefixes"


def run(home: Home, plan: Plan) -> None:
    """Match, unless this release's features are there."""
    store, part, ss = home.store, {"release": plan.release}, home.settings.matching.ss
    target = store.target("prefix_match_features", part)
    if target.is_done(plan.release):
        return
    pairs = to_match(
        store.read(home.spark, "pairs", {"as_of_date": plan.date}),
        store.read(home.spark, "relevance_labels").select("query_id", "item_id"),
        store.read(home.spark, "catalog"),
        store.read(home.spark, "label_scores", part),
    )
    query_sids, item_sids = store.read(home.spark, "query_sids", part), store.read(home.spark, "item_sids", part)
    features = match_prefixes(pairs, query_sids, item_sids, ss=ss).withColumns(
        {
            "release": F.lit(plan.release),
            "soft_ss": soft_ss(F.col("own_logps"), ss),
            **{name: F.lit(time) for name, time in plan.times.items()},
        }
    )
    target.replace(features, job=JOB, memo=plan.release)

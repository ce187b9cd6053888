"""Sum the daily counts over the lookback window into the training corpus.

Reads pair_days, query_days (the window's days) and catalog. Writes pairs and queries, partition as_of_date. Pairs cut
by the cap per query are counted as trimmed.
"""

from __future__ import annotations

import datetime as dt

from pyspark.sql import functions as F

from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from pipelines import corpus

JOB = "build-corpus"


def run(home: Home, plan: Plan) -> None:
    """Build the corpus of the plan's date, unless it was built from the same inputs."""
    store, settings = home.store, home.settings.corpus
    part = {"as_of_date": plan.date}
    pairs, queries = store.target("pairs", part), store.target("queries", part)
    if pairs.is_done(plan.corpus_memo) and queries.is_done(plan.corpus_memo):
        return
    days = [{"event_date": dt.date.fromisoformat(day)} for day in plan.days]
    query_days = store.read(home.spark, "query_days", *days)
    if (clash := corpus.colliding_hashes(query_days, "query_id", "query").first()) is not None:
        raise DataError(f"Two queries share a 64-bit hash: {clash['a']!r} and {clash['b']!r}. Remove one from the log.")
    built = corpus.build_corpus(
        store.read(home.spark, "pair_days", *days),
        query_days,
        store.read(home.spark, "catalog"),
        as_of_date=F.lit(plan.date),
        max_items_per_query=settings.max_items_per_query,
        purchase_weight=settings.purchase_weight,
        prior_clicks=settings.prior_clicks,
        valid_share=settings.valid_share,
        test_share=settings.test_share,
        head_share=settings.head_share,
        tail_share=settings.tail_share,
    )
    queries.replace(built.queries, job=JOB, memo=plan.corpus_memo)
    pairs.replace(built.pairs, job=JOB, memo=plan.corpus_memo, counts={"trimmed": built.trimmed.count()})

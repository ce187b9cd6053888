"""Sum the daily counts over the lookback window into the training corpus.

Reads pair_days, query_days (the window's days) and catalog. Writes pairs and queries, partition as_of_date. Pairs cut
by the cap per query are counted as trimmed, those of items that the catalogue does not have as not_in_catalogue. Where
`privacy.min_query_users` asks for it, reads query_users too, and leaves out queries of fewer users, counted as
withheld: nothing downstream learns from them or names them.
"""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import planned
from jobs.aggregate_day import read_window
from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from jobs.staging import staging
from pipelines import corpus

JOB = "build-corpus"
log = logging.getLogger(__name__)


def run(home: Home, plan: Plan) -> None:
    """Build the corpus of the plan's date, unless it was built from the same inputs."""
    store, settings = home.store, home.settings.corpus
    part = {"as_of_date": plan.date}
    pairs, queries = store.target("pairs", part), store.target("queries", part)
    if pairs.is_done(plan.corpus_memo) and queries.is_done(plan.corpus_memo):
        return
    query_days, pair_days = read_window(home, plan, "query_days"), read_window(home, plan, "pair_days")
    counts: dict[str, int] = {}
    with staging() as stage:
        least = home.settings.privacy.min_query_users
        if least > 1:
            users = read_window(home, plan, "query_users")
            allowed = stage(corpus.enough_users(users, least))
            counts = _withheld(query_days, allowed, least)
            query_days, pair_days = corpus.only(query_days, allowed), corpus.only(pair_days, allowed)
        built = corpus.build_corpus(
            pair_days,
            query_days,
            planned.read(home, plan, "catalog"),
            as_of_date=F.lit(plan.date),
            max_items_per_query=settings.max_items_per_query,
            purchase_weight=settings.purchase_weight,
            prior_clicks=settings.prior_clicks,
            valid_share=settings.valid_share,
            test_share=settings.test_share,
            head_share=settings.head_share,
            tail_share=settings.tail_share,
            stage=stage,
        )
        if (clash := built.clashes.first()) is not None:
            raise DataError(
                f"Two queries share a 64-bit hash: {clash['a']!r} and {clash['b']!r}. Remove one from the log."
            )
        queries.replace(built.queries, job=JOB, memo=plan.corpus_memo, counts=counts)
        pairs.replace(built.pairs, job=JOB, memo=plan.corpus_memo, counts=_pair_counts(built))


def _pair_counts(built: corpus.Corpus) -> dict[str, int]:
    """Pairs with an action: read, kept, and why the others were not."""
    ((read, unknown),) = built.counts.collect()
    trimmed = built.trimmed.count()
    if unknown:
        log.warning("%d of %d pairs are of items that the catalogue does not have", unknown, read)
    told = {"not_in_catalogue": unknown, "trimmed": trimmed}
    return {"read": read, "accepted": read - unknown - trimmed, **told}


def _withheld(query_days: DataFrame, allowed: DataFrame, least: int) -> dict[str, int]:
    """How much the rule on rare queries withholds.

    Raises:
        DataError: all of it.

    """
    (found,) = corpus.withheld(query_days, allowed).collect()
    if not found["published"]:
        raise DataError(
            f"None of {found['withheld']} queries surely has {least} users in the window (privacy.min_query_users). "
            "Does the log name users? Lower the setting, or import more of the log."
        )
    return {"withheld": found["withheld"], "traffic_withheld": found["traffic_withheld"]}

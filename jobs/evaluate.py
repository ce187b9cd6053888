"""What SIDs are worth to an offline ranker: AUC, precision and recall on judged queries it was not trained on.

Reads the grades of relevance_labels (people's where there are any), prefix_match_features, catalog, embeddings and
pairs. Writes ranker_metrics, partition release. Folds by query; every interval resamples queries and seeds together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jobs.files import without_nan
from jobs.home import Home
from jobs.judged import Judged, load_judged
from jobs.plan import Plan
from schemas.tables import TABLES

JOB = "evaluate"
log = logging.getLogger(__name__)


def run(home: Home, plan: Plan) -> None:
    """Evaluate, unless this release was evaluated or there is nothing to judge by."""
    target = home.store.target("ranker_metrics", {"release": plan.release})
    if target.is_done(plan.release):
        return
    judged = load_judged(home, plan)
    if judged is None:
        log.info("No judgments: the ranker is not evaluated")
        return
    from dsirm_models.ranker_study import World, cross_validate
    from dsirm_models.rankers import mlp, null_control

    settings = home.settings.ranker
    variants = variant_features(judged)
    variants["null"] = null_control(
        variants["dsirm"], base_columns=judged.dense.shape[1], query_ids=judged.query_ids, seed=settings.seeds
    )
    slices = {"words": words_of(judged.queries)}
    study = cross_validate(
        worlds=[World(seed, variants, judged.query_ids, judged.grades, slices) for seed in range(settings.seeds)],
        ranker=mlp([ranker_config(home)]),
        folds=settings.folds,
        draws=settings.draws,
    )
    base = f"{judged.source}: {'+'.join(judged.dense_names)}"
    target.replace(_table(plan, study, base), job=JOB, memo=plan.release, counts={"pairs": len(judged.grades)})


def words_of(queries: Sequence[str]) -> list[str]:
    """Slice label of each query: its number of words, 4+ from four."""
    counts = [min(len(query.split()), 4) for query in queries]
    return [f"{count}{'+' if count == 4 else ''}" for count in counts]


def variant_features(judged: Judged) -> dict[str, Any]:
    """Feature sets by name: without SIDs, with the hard match score alone (the paper's), with hard and soft scores."""
    import numpy as np

    from dsirm_models.rankers import VariantFeatures

    return {
        "none": VariantFeatures(judged.dense),
        "dsirm-hard": VariantFeatures(judged.dense, judged.depth),
        "dsirm": VariantFeatures(np.concatenate([judged.dense, judged.soft[:, :1]], axis=1), judged.depth),
    }


def ranker_config(home: Home) -> Any:
    """The ranker's settings."""
    from dsirm_models.ranker import RankerConfig

    settings = home.settings.ranker
    return RankerConfig(hidden=(settings.hidden, settings.hidden // 2), steps=settings.steps)


def _table(plan: Plan, study: Any, base: str) -> pa.Table:
    contract = TABLES["ranker_metrics"].arrow_schema()
    metrics = ("auc", "auc_query", "precision", "recall", "ndcg10")
    rows = [{**row._asdict(), "release": plan.release, "base": base} for row in study.rows]
    differences = {(c.variant, c.slice): c for c in study.comparisons if c.metric == "auc"}
    by_slice: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_slice.setdefault((row["variant"], row["slice"]), []).append(row)
    for key, seeds in by_slice.items():
        compared = differences.get(key)
        means = {metric: math.fsum(row[metric] for row in seeds) / len(seeds) for metric in metrics}
        interval = {name: getattr(compared, name) if compared else None for name in ("difference", "low", "high")}
        rows.append({**seeds[0], **means, **interval, "seed": -1})
    told = [without_nan(row) for row in rows]
    return pa.Table.from_pylist([{name: row.get(name) for name in contract.names} for row in told], schema=contract)

"""Give every catalogue item its semantic ID.

Reads catalog, item_embeddings and the quantizer artifact (broadcast). Writes item_sids and sid_items, partition
release. An item whose text and category did not change has the same SID as in the release before, bit for bit.
"""

from __future__ import annotations

import numpy as np
from pyspark.sql import functions as F

from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from pipelines.assign import assign_items, items_behind_sids

JOB = "assign-item-sids"
CHOSEN_BY = np.array(["category", "nearest", "reserved"])


def run(home: Home, plan: Plan) -> None:
    """Assign, unless this release's SIDs are there."""
    store, part = home.store, {"release": plan.release}
    sids, behind = store.target("item_sids", part), store.target("sid_items", part)
    if sids.is_done(plan.release) and behind.is_done(plan.release):
        return
    from dsirm_models.assign import assign_codes
    from dsirm_models.quantizer_model import TrainedQuantizer

    model = TrainedQuantizer.load(home.artifact("quantizer", plan.codebook_version))
    if model.meta["encoder_version"] != plan.encoder_version:
        raise DataError(
            f"{plan.codebook_version} learned from {model.meta['encoder_version']}, not {plan.encoder_version}."
        )
    categories = {name: code for code, name in enumerate(model.meta["categories"])}
    shared = home.spark.sparkContext.broadcast(model)

    def assign(vectors: np.ndarray, level1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        import torch

        torch.set_num_threads(1)  # one worker a core
        found = assign_codes(shared.value, vectors, level1)
        return found.codes, found.sid, found.residual_norm, CHOSEN_BY[found.level1_by]

    catalog = store.read(home.spark, "catalog")
    vectors = store.read(home.spark, "item_embeddings", {"encoder_version": plan.encoder_version})
    assigned = assign_items(catalog, vectors, categories, assign, width=model.in_dim).withColumns(
        {
            "release": F.lit(plan.release),
            "codebook_version": F.lit(plan.codebook_version),
            **{name: F.lit(time) for name, time in plan.times.items()},
        }
    )
    sids.replace(assigned, job=JOB, memo=plan.release)
    written = store.read(home.spark, "item_sids", part)
    pairs = store.read(home.spark, "pairs", {"as_of_date": plan.date})
    behind.replace(
        items_behind_sids(written, pairs).withColumn("release", F.lit(plan.release)), job=JOB, memo=plan.release
    )

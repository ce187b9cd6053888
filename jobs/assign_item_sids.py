"""Give every catalogue item its semantic ID.

Reads catalog, item_embeddings, the quantizer artifact (broadcast), and pair_days of the window, by whose click rates
the items of a SID are ordered. Writes item_sids and sid_items, partition release. An item whose text and category did
not change has the same SID as in the release before, bit for bit. Where the codebook splits a SID, the third index is
group * K3 + code.
"""

from __future__ import annotations

import logging

import numpy as np
from pyspark.sql import functions as F

from jobs import planned
from jobs.aggregate_day import read_window
from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from pipelines.assign import assign_items
from pipelines.corpus import only
from pipelines.recall import items_behind_sids
from schemas.sids import MAX_CODE

JOB = "assign-item-sids"
log = logging.getLogger(__name__)
CHOSEN_BY = np.array(["category", "nearest", "reserved"])


def run(home: Home, plan: Plan) -> None:
    """Assign, unless this release's SIDs are there."""
    store, part = home.store, {"release": plan.release}
    sids, behind = store.target("item_sids", part), store.target("sid_items", part)
    if sids.is_done(plan.release) and behind.is_done(plan.release):
        return
    from dsirm_models.assign import assign_codes
    from dsirm_models.clusters import with_groups
    from dsirm_models.quantizer_model import TrainedQuantizer

    model = TrainedQuantizer.load(home.artifact("quantizer", plan.codebook_version))
    if model.meta["encoder_version"] != plan.encoder_version:
        raise DataError(
            f"{plan.codebook_version} learned from {model.meta['encoder_version']}, not {plan.encoder_version}."
        )
    categories = {name: code for code, name in enumerate(model.meta["categories"])}
    shared = home.spark.sparkContext.broadcast(model)

    def assign(
        vectors: np.ndarray, level1: np.ndarray, hashes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        import torch

        torch.set_num_threads(1)  # one worker a core
        found = assign_codes(shared.value, vectors, level1)
        sids = with_groups(found.sid, hashes, shared.value.groups, third=shared.value.config.codebook_sizes[-1])
        codes = found.codes.copy()
        codes[:, -1] = sids & MAX_CODE
        return codes, sids, found.residual_norm, CHOSEN_BY[found.level1_by]

    catalog = planned.read(home, plan, "catalog")
    vectors = store.read(home.spark, "item_embeddings", {"encoder_version": plan.encoder_version})
    read = catalog.count()
    held = catalog.join(vectors.select("text_hash"), "text_hash", "left_semi").count()
    if held < read:
        log.warning("%d of %d items have no vector and get no SID: was embed-items run?", read - held, read)
    counts = {"read": read, "accepted": held, "without_vector": read - held}
    assigned = assign_items(catalog, vectors, categories, assign, width=model.in_dim).withColumns(
        {
            "release": F.lit(plan.release),
            "codebook_version": F.lit(plan.codebook_version),
            **{name: F.lit(time) for name, time in plan.times.items()},
        }
    )
    sids.replace(assigned, job=JOB, memo=plan.release, counts=counts)
    written = store.read(home.spark, "item_sids", part)
    pair_days = read_window(home, plan, "pair_days")
    if home.settings.privacy.min_query_users > 1:
        pair_days = only(pair_days, planned.read(home, plan, "queries"))
    in_clusters = items_behind_sids(written, pair_days).withColumn("release", F.lit(plan.release))
    behind.replace(in_clusters, job=JOB, memo=plan.release, counts={"items": held})

"""Score judged pairs: the generator's log-probability of the item's own SID, teacher-forced.

Reads the texts of relevance_labels (never grades), query_embeddings, item_sids and the generator artifact. Writes
label_scores, partition release. Needs no Spark.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from jobs import planned
from jobs.arrays import find
from jobs.generators import load_checked, query_inputs, release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan
from schemas.sids import LEVELS
from schemas.text import text_hash

JOB = "score-pairs"


def run(home: Home, plan: Plan) -> None:
    """Score, unless this release's scores are there."""
    store = home.store
    target = store.target("label_scores", {"release": plan.release})
    judged = planned.read_arrow(home, plan, "relevance_labels", ["query_id", "query", "item_id"])
    if not judged.num_rows or target.is_done(plan.release):
        return
    from dsirm_models.beam import score_sids
    from dsirm_models.sid_index import SidIndex

    queries = query_inputs(home, plan, judged)
    generator = load_checked(home, plan, queries)
    hashes, sids, existing = release_sids(store, plan.release, plan.codebook_version)
    pairs = (
        judged.group_by(["query_id", "item_id"])
        .aggregate([])
        .sort_by([("query_id", "ascending"), ("item_id", "ascending")])
    )
    items = np.array([text_hash(item) for item in pairs["item_id"].to_pylist()], dtype=np.int64)
    own = sid_of(hashes, sids, items)
    has_sid = np.flatnonzero(own >= 0)
    rows = find(queries.ids, pairs["query_id"].to_numpy()[has_sid])
    inputs = queries.take(rows, generator.backend)
    logps = score_sids(generator, SidIndex(existing), inputs, own[has_sid])
    kept = pairs.take(pa.array(has_sid))
    offsets = np.arange(0, logps.size + 1, LEVELS, dtype=np.int32)
    scored = kept.append_column(
        "own_logps", pa.ListArray.from_arrays(offsets, pa.array(logps.reshape(-1), pa.float32()))
    )
    scored = scored.append_column("release", pa.repeat(pa.scalar(plan.release), scored.num_rows))
    counts = {"judged": pairs.num_rows, "scored": scored.num_rows}
    target.replace(scored, job=JOB, memo=plan.release, counts=counts)

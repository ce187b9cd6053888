"""Predict semantic IDs for queries: constrained beam search over the SIDs that exist in the release.

Reads queries (the plan's date), the texts of relevance_labels (never grades), query_embeddings, item_sids, the
generator artifact and the parent release's query_sids. Writes query_sids, partition release and shard. Rows whose SIDs
still exist are copied from the parent where the generator is the same; only the others are generated. Needs no Spark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from jobs import planned
from jobs.generators import beam_rows, load_checked, of_release, query_inputs, release_sids
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress
from schemas.query_sids import SHARDS

if TYPE_CHECKING:
    from dsirm_models.beam import Beams

JOB = "generate-query-sids"
CHUNK = 4096


def run(home: Home, plan: Plan) -> None:
    """Generate, unless this release's query SIDs are there."""
    store, beams = home.store, home.settings.beams
    target = store.target("query_sids", {"release": plan.release})
    if target.is_done(plan.release):
        return
    from dsirm_models.beam import beam_search
    from dsirm_models.sid_index import SidIndex

    texts = ["query_id", "query"]
    searched = planned.read_arrow(home, plan, "queries", texts)
    judged = planned.read_arrow(home, plan, "relevance_labels", texts)
    queries = query_inputs(home, plan, pa.concat_tables([searched, judged]))
    generator = load_checked(home, plan, queries)
    _, _, existing = release_sids(store, plan.release, plan.codebook_version)
    copied = _still_valid(home, plan, queries.ids, existing)
    missing = np.flatnonzero(~np.isin(queries.ids, copied["query_id"].to_numpy()))
    index = SidIndex(existing).to(generator.device)
    parts = [copied]
    with progress("Predicting query SIDs") as advance:
        for begin in range(0, len(missing), CHUNK):
            rows = missing[begin : begin + CHUNK]
            found = beam_search(generator, index, queries.take(rows, generator.backend), beams)
            parts.append(_rows(queries.ids[rows], found))
            advance(begin + len(rows), len(missing))
    whole = of_release(plan, pa.concat_tables([part.cast(copied.schema) for part in parts]))
    counts = {"queries": len(queries.ids), "copied": len(queries.ids) - len(missing), "generated": len(missing)}
    target.replace(
        whole.sort_by([("query_id", "ascending"), ("rank", "ascending")]), job=JOB, memo=plan.release, counts=counts
    )


def _rows(ids: np.ndarray, found: Beams) -> pa.Table:
    row, beams = beam_rows(found)
    return pa.table({"shard": (ids[row] % SHARDS).astype(np.int32), "query_id": ids[row], **beams})


def _still_valid(home: Home, plan: Plan, ids: np.ndarray, existing: np.ndarray) -> pa.Table:
    """Rows of the parent release for queries of `ids` whose every SID still exists, made by the same generator."""
    columns = ["shard", "query_id", "rank", "codes", "sid", "logps", "complete", "generator_version"]
    # Without a parent: no release has an empty name, so no rows.
    rows = home.store.read_arrow("query_sids", {"release": plan.parent or ""}, columns=columns)
    query = rows["query_id"].to_numpy()
    usable = (rows["generator_version"].to_numpy(zero_copy_only=False) == plan.generator_version) & np.isin(
        rows["sid"].to_numpy(), existing
    )
    usable &= rows["complete"].to_numpy(zero_copy_only=False).astype(bool)
    wanted = np.isin(query, ids) & ~np.isin(query, query[~usable])
    kept = rows.filter(pa.array(wanted)).drop_columns(["generator_version"])
    deep = home.settings.beams
    ranks = kept["rank"].to_numpy()
    full = np.unique(kept["query_id"].to_numpy()[ranks == deep])
    return kept.filter(pa.array(np.isin(kept["query_id"].to_numpy(), full) & (ranks <= deep)))

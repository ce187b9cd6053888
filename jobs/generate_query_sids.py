"""Predict semantic IDs for queries: constrained beam search over the SIDs that exist in the release.

Reads queries (the plan's date), the texts of relevance_labels (never grades), query_embeddings, item_sids, the
generator artifact and the parent release's query_sids. Writes query_sids, partition release and shard. Rows whose SIDs
still exist are copied from the parent where the generator is the same; only the others are generated. Needs no Spark.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from jobs.generators import load_checked, query_inputs, release_sids
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress
from schemas.query_sids import SHARDS
from schemas.sids import LEVELS

JOB = "generate-query-sids"
CHUNK = 4096


def run(home: Home, plan: Plan) -> None:
    """Generate, unless this release's query SIDs are there."""
    store, beams = home.store, home.settings.generator.beams
    target = store.target("query_sids", {"release": plan.release})
    if target.is_done(plan.release):
        return
    from dsirm_models.beam import beam_search
    from dsirm_models.sid_index import SidIndex

    texts = ["query_id", "query"]
    searched = store.read_arrow("queries", {"as_of_date": plan.date}, columns=texts)
    judged = store.read_arrow("relevance_labels", columns=texts)
    queries = query_inputs(home, plan, pa.concat_tables([searched, judged]))
    _, _, existing = release_sids(store, plan.release)
    generator = load_checked(home, plan, queries)
    copied = _still_valid(home, plan, queries.ids, existing)
    missing = np.flatnonzero(~np.isin(queries.ids, copied["query_id"].to_numpy()))
    index = SidIndex(existing).to(generator.device)
    parts = [copied]
    with progress("Predicting query SIDs") as advance:
        for begin in range(0, len(missing), CHUNK):
            rows = missing[begin : begin + CHUNK]
            found = beam_search(generator, index, queries.take(rows, generator.backend), beams)
            parts.append(_rows(queries.ids[rows], found.sids, found.codes, found.logps, found.complete))
            advance(begin + len(rows), len(missing))
    whole = pa.concat_tables([part.cast(copied.schema) for part in parts])
    constants = {
        "release": pa.scalar(plan.release),
        "generator_version": pa.scalar(plan.generator_version),
        **{name: pa.scalar(time, pa.timestamp("us", tz="UTC")) for name, time in plan.times.items()},
    }
    for name, value in constants.items():
        whole = whole.append_column(name, pa.repeat(value, whole.num_rows))
    counts = {"queries": len(queries.ids), "copied": len(queries.ids) - len(missing), "generated": len(missing)}
    target.replace(
        whole.sort_by([("query_id", "ascending"), ("rank", "ascending")]), job=JOB, memo=plan.release, counts=counts
    )


def _rows(ids: np.ndarray, sids: np.ndarray, codes: np.ndarray, logps: np.ndarray, complete: np.ndarray) -> pa.Table:
    """Beams (B, K) -> rows of query_sids, absent beams left out."""
    query, beam = np.nonzero(sids >= 0)
    offsets = np.arange(0, (len(query) + 1) * LEVELS, LEVELS, dtype=np.int32)
    return pa.table(
        {
            "shard": (ids[query] % SHARDS).astype(np.int32),
            "query_id": ids[query],
            "rank": (beam + 1).astype(np.int32),
            "codes": pa.ListArray.from_arrays(offsets, pa.array(codes[query, beam].reshape(-1), pa.int32())),
            "sid": sids[query, beam],
            "logps": pa.ListArray.from_arrays(offsets, pa.array(logps[query, beam].reshape(-1), pa.float32())),
            "complete": complete[query],
        }
    )


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
    deep = home.settings.generator.beams
    ranks = kept["rank"].to_numpy()
    full = np.unique(kept["query_id"].to_numpy()[ranks == deep])
    return kept.filter(pa.array(np.isin(kept["query_id"].to_numpy(), full) & (ranks <= deep)))

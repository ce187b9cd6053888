"""Predict semantic IDs for queries: constrained beam search over the SIDs that exist in the release.

Reads queries (the plan's date), the texts of relevance_labels (never grades), query_embeddings, item_sids, the
generator artifact and the parent release's item_sids and query_sids. Writes query_sids, partition release and shard.
Where the generator is the parent's and the same SIDs exist, queries that the parent has are copied: they would come out
the same. A SID that came or went changes what any query may be given. Needs no Spark.

Queries are generated shard by shard, and each shard is kept in the home until all are there and the table is written in
one commit: a run that was killed goes on with the shards that are missing, and several workers that share the home may
each take some (--shard), before a run without --shard writes the table.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import planned
from jobs.files import draft_of
from jobs.generators import beam_rows, load_checked, of_release, query_inputs, release_sids
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress
from schemas.query_sids import SHARDS

if TYPE_CHECKING:
    from dsirm_models.beam import Beams

log = logging.getLogger(__name__)
JOB = "generate-query-sids"
CHUNK = 4096


def run(home: Home, plan: Plan, *, shards: Sequence[int] = ()) -> None:
    """Generate, unless this release's query SIDs are there.

    Args:
        home: the home.
        plan: of the release.
        shards: only these, 0 to 15, kept for the run that writes the table; none: all, and the table is written.
    """
    store, beams = home.store, home.settings.beams
    target = store.target("query_sids", {"release": plan.release})
    folder = home.scratch("query-sids", plan.release)
    if target.is_done(plan.release):
        shutil.rmtree(folder, ignore_errors=True)  # a run may have been killed between the commit and this
        return
    from dsirm_models.beam import beam_search
    from dsirm_models.sid_index import SidIndex
    from dsirm_models.study_data import fingerprint_of

    texts = ["query_id", "query"]
    searched = planned.read_arrow(home, plan, "queries", texts)
    judged = planned.read_arrow(home, plan, "relevance_labels", texts)
    queries = query_inputs(home, plan, pa.concat_tables([searched, judged]))
    generator = load_checked(home, plan, queries)
    _, _, existing = release_sids(store, plan.release, plan.codebook_version)
    copied = _from_parent(home, plan, queries.ids, existing)
    missing = np.flatnonzero(~np.isin(queries.ids, copied["query_id"].to_numpy()))
    index = SidIndex(existing).to(generator.device)
    inputs = {"generator": plan.generator_version, "sids": existing, "beams": beams, "queries": queries.ids[missing]}
    mark = fingerprint_of(inputs.items())
    shard_of = queries.ids[missing] % SHARDS
    parts, done = [copied], 0
    wanted = sorted(set(shards)) or range(SHARDS)
    with progress("Predicting query SIDs") as advance:
        for shard in wanted:
            kept, rows = folder / f"{shard:02}-{mark}.parquet", missing[shard_of == shard]
            if not kept.is_file():
                made = [copied.slice(0, 0)]
                for begin in range(0, len(rows), CHUNK):
                    part = rows[begin : begin + CHUNK]
                    found = beam_search(generator, index, queries.take(part, generator.backend), beams)
                    made.append(_rows(queries.ids[part], found).cast(copied.schema))
                _keep(kept, pa.concat_tables(made))
            parts.append(pq.read_table(kept, schema=copied.schema))
            done += len(rows)
            advance(done, len(missing))
    if shards:
        log.info("Kept %d of %d shards in %s; without --shard all are joined.", len(wanted), SHARDS, folder)
        return
    whole = of_release(plan, pa.concat_tables(parts))
    counts = {"queries": len(queries.ids), "copied": len(queries.ids) - len(missing), "generated": len(missing)}
    target.replace(
        whole.sort_by([("query_id", "ascending"), ("rank", "ascending")]), job=JOB, memo=plan.release, counts=counts
    )
    shutil.rmtree(folder, ignore_errors=True)


def _keep(path: Path, rows: pa.Table) -> None:
    """Whole or not at all: of two workers at one shard the last wins, with the same rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    pq.write_table(rows, draft)
    draft.replace(path)


def _rows(ids: np.ndarray, found: Beams) -> pa.Table:
    row, beams = beam_rows(found)
    return pa.table({"shard": (ids[row] % SHARDS).astype(np.int32), "query_id": ids[row], **beams})


def _from_parent(home: Home, plan: Plan, ids: np.ndarray, existing: np.ndarray) -> pa.Table:
    """Rows of the parent release for queries of `ids`; none where it had another generator or other SIDs."""
    columns = ["shard", "query_id", "rank", "codes", "sid", "logps", "complete", "generator_version"]
    # Without a parent: no release has an empty name, so no rows.
    parent = plan.parent or ""
    rows = home.store.read_arrow("query_sids", {"release": parent}, columns=columns)
    same = set(rows["generator_version"].unique().to_pylist()) == {plan.generator_version}
    # The same generator learned the same codebook, so the parent's SIDs are read as the plan's are.
    if not (same and np.array_equal(release_sids(home.store, parent, plan.codebook_version)[2], existing)):
        rows = rows.slice(0, 0)
    rows = rows.drop_columns(["generator_version"])
    # A query that was predicted with fewer beams than are asked for now is predicted anew.
    deep = home.settings.beams
    query, ranks = rows["query_id"].to_numpy(), rows["rank"].to_numpy()
    full = query[(ranks == deep) & rows["complete"].to_numpy(zero_copy_only=False).astype(bool)]
    return rows.filter(pa.array(np.isin(query, ids) & np.isin(query, full) & (ranks <= deep)))

"""Predict semantic IDs for users and queries: the requests searched most, each with what is known of who asks.

Reads user_searches (the window's days), queries, users and user_profiles (the plan's date), catalog, embeddings,
codebooks, item_sids and the generator artifact. Writes request_sids, partition release, at most `recall.requests`
requests; one of which nothing is known gets everybody's list, so it has no row. Does nothing where the settings ask for
no such lists, and writes no row where the generator reads queries alone. Needs no Spark.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import planned
from jobs.generators import beam_rows, load_checked, of_release, query_inputs, release_sids
from jobs.home import Home
from jobs.plan import Plan
from jobs.progress import progress
from jobs.requests import asked_of, request_inputs, user_fields
from jobs.searches import most_searched
from schemas.tables import TABLES

JOB = "generate-request-sids"
TABLE = "request_sids"
CHUNK = 4096


def run(home: Home, plan: Plan) -> None:
    """Predict, unless this release's are there or nobody asked for them.

    Raises:
        DataError: the generator learned another codebook, or searches or profiles were not computed for this plan.
    """
    settings = home.settings.recall
    if TABLE not in home.settings.recall_tables:
        return
    target = home.store.target(TABLE, {"release": plan.release})
    if target.is_done(plan.release):
        return
    from dsirm_models.beam import beam_search
    from dsirm_models.sid_index import SidIndex

    queries = planned.read_arrow(home, plan, "queries", ["query_id", "query"])
    asked = most_searched(home, plan, queries["query_id"], settings.requests)
    inputs = query_inputs(home, plan, queries.filter(pc.is_in(queries["query_id"], value_set=asked["query_id"])))
    generator = load_checked(home, plan, inputs)
    requests = request_inputs(home, plan, inputs, asked_of(plan, asked), user_fields(generator))
    known = np.flatnonzero(requests.known)
    _, _, existing = release_sids(home.store, plan.release, plan.codebook_version)
    index = SidIndex(existing).to(generator.device)
    schema = TABLES[TABLE].arrow_schema()
    parts = [schema.empty_table()]
    with progress("Predicting SIDs of requests") as advance:
        for begin in range(0, len(known), CHUNK):
            rows = known[begin : begin + CHUNK]
            found = beam_search(generator, index, requests.take(rows, generator.backend), settings.beams)
            row, beams = beam_rows(found)
            own = asked.take(pa.array(rows[row]))
            whole = of_release(plan, pa.table({"query_id": own["query_id"], "user": own["user"], **beams}))
            parts.append(whole.select(schema.names).cast(schema))
            advance(begin + len(rows), len(known))
    counts = {"asked": asked.num_rows, "unknown": asked.num_rows - len(known), "requests": len(known)}
    order = [(name, "ascending") for name in ("query_id", "user", "rank")]
    target.replace(pa.concat_tables(parts).sort_by(order), job=JOB, memo=plan.release, counts=counts)
